//! Text for cells of the screen: what a terminal shows in exactly the room that was planned for it.
//!
//! [`escape::line`] makes text harmless; a grid needs more. Terminals disagree about the width of characters that
//! combine with their neighbours, and some reorder a line that has letters written from right to left. Both are shown
//! by their number here, so that no name can push its row about.

use std::borrow::Cow;

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::sink::escape;

/// Letters written from right to left, first and last of each range. Sorted.
const RIGHT_TO_LEFT: [(char, char); 5] = [
    ('\u{590}', '\u{8ff}'),
    ('\u{fb1d}', '\u{fdff}'),
    ('\u{fe70}', '\u{fefe}'),
    ('\u{10800}', '\u{10fff}'),
    ('\u{1e800}', '\u{1efff}'),
];
/// Emoji that change the one before them (skin tones), and letters that pair up to a flag.
const JOINING: [(char, char); 2] = [('\u{1f1e6}', '\u{1f1ff}'), ('\u{1f3fb}', '\u{1f3ff}')];

/// Whether `c` takes the width that is planned for it, whatever is beside it.
fn is_steady(c: char) -> bool {
    let within = |ranges: &[(char, char)]| ranges.iter().any(|(first, last)| (*first..=*last).contains(&c));
    c.is_ascii() || (c.width().is_some_and(|width| width > 0) && !within(&RIGHT_TO_LEFT) && !within(&JOINING))
}

/// `text` as one line for cells; with `ascii`, of ASCII characters only.
#[must_use]
pub(super) fn clean(text: &str, ascii: bool) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii() && !c.is_ascii_control();
    if text.chars().all(plain) {
        return Cow::Borrowed(text);
    }
    let line = escape::line(text);
    let shown = |c: char| if ascii { c.is_ascii() } else { is_steady(c) };
    if line.chars().all(shown) {
        return line;
    }
    let mut out = String::with_capacity(line.len() + 16);
    for c in line.chars() {
        match c {
            c if shown(c) => out.push(c),
            '…' => out.push_str("..."),
            '·' | '—' | '–' => out.push('-'),
            c => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
        }
    }
    Cow::Owned(out)
}

/// Columns that clean text takes.
#[must_use]
pub(super) fn width(text: &str) -> usize {
    text.width()
}

/// Clean `text` in at most `max` columns, with `mark` where it was cut.
#[must_use]
pub(super) fn fit<'a>(text: &'a str, max: usize, mark: &str) -> Cow<'a, str> {
    // A column is at least a byte.
    if text.len() <= max || width(text) <= max {
        return Cow::Borrowed(text);
    }
    let room = max.saturating_sub(width(mark));
    let kept = prefix(text, room);
    Cow::Owned(if room == 0 { prefix(mark, max).to_owned() } else { format!("{kept}{mark}") })
}

/// As much of clean `text` as `columns` hold.
fn prefix(text: &str, columns: usize) -> &str {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += c.width().unwrap_or(0);
        if used > columns {
            return text.get(..at).unwrap_or_default();
        }
    }
    text
}

/// Clean `text` in lines of at most `first` columns, the later ones `later`, broken at blanks where there are some. At
/// most `max_lines`; the last ends in `mark` when there was more.
#[must_use]
pub(super) fn wrap(text: &str, first: usize, later: usize, max_lines: usize, mark: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let room = if lines.is_empty() { first } else { later }.max(2);
        let part = prefix(rest, room);
        if part.len() == rest.len() {
            lines.push(part.to_owned());
            break;
        }
        if lines.len() + 1 >= max_lines {
            lines.push(fit(rest, room, mark).into_owned());
            break;
        }
        // A blank in the second half keeps words whole without leaving lines empty.
        let blank = part.rfind(' ').filter(|at| *at * 2 > part.len());
        let end = if rest.get(part.len()..).is_some_and(|more| more.starts_with(' ')) {
            part.len()
        } else {
            blank.map_or(part.len(), |at| at + 1)
        };
        let (line, more) = rest.split_at_checked(end).unwrap_or((rest, ""));
        lines.push(line.trim_end().to_owned());
        rest = more.trim_start_matches(' ');
    }
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_would_push_a_row_about_is_shown_by_number() {
        for (text, shown) in [
            ("node", "node"),
            ("世界", "世界"),
            ("e\u{301}", "e\\u{301}"),
            ("\u{5d0}\u{5d1}", "\\u{5d0}\\u{5d1}"),
            ("\u{1f44b}\u{1f3fd}", "\u{1f44b}\\u{1f3fd}"),
            ("\u{1b}[31m\n\u{202e}", "\\x1b[31m\\n\\u{202e}"),
            ("\u{fffd}", "\u{fffd}"),
        ] {
            assert_eq!(clean(text, false), shown);
        }
        assert_eq!(clean("世 é…", true), "\\u{4e16} \\u{e9}...");
    }

    #[test]
    fn text_is_cut_to_its_columns() {
        assert_eq!(fit("abcdef", 6, "…"), "abcdef");
        assert_eq!(fit("abcdef", 5, "…"), "abcd…");
        assert_eq!(fit("世界", 3, "…"), "世…");
        assert_eq!(fit("世界", 2, "…"), "…");
        assert_eq!(fit("abc", 0, "…"), "");
    }

    #[test]
    fn lines_break_at_blanks() {
        assert_eq!(wrap("one two three", 8, 8, 9, "…"), ["one two", "three"]);
        assert_eq!(wrap("one two three", 8, 4, 9, "…"), ["one two", "thre", "e"]);
        assert_eq!(wrap("onetwothree four", 6, 6, 9, "…"), ["onetwo", "three", "four"]);
        assert_eq!(wrap("a b c d e f", 3, 3, 2, "…"), ["a b", "c …"]);
    }

    proptest! {
        #[test]
        fn clean_text_takes_the_room_it_says(text in any::<String>(), max in 0..40_usize, ascii in any::<bool>()) {
            let text = clean(&text, ascii).into_owned();
            prop_assert!(text.chars().all(escape::is_seen));
            prop_assert!(text.chars().all(|c| c.width().is_some_and(|width| width > 0)));
            prop_assert!(!ascii || text.is_ascii());
            prop_assert_eq!(clean(&text, ascii), text.as_str());
            prop_assert!(width(&fit(&text, max, "…")) <= max);
            let sum: usize = text.chars().map(|c| c.width().unwrap_or(0)).sum();
            prop_assert_eq!(width(&text), sum);
            for line in wrap(&text, max, max, 50, "…") {
                prop_assert!(width(&line) <= max.max(2));
            }
        }
    }
}
