//! The one way that text from processes takes to a person: nothing in it can move a cursor, hide, or reorder what is
//! around it.
//!
//! Characters that are seen as themselves stay. Control characters become `\n`, `\t`, `\r` or `\x1b`; characters that
//! are invisible or change the direction of text become `\u{202e}`. The result is one line.

use std::borrow::Cow;
use std::io;

use serde_json::ser::Formatter;

/// Characters outside ASCII that do something other than be seen: format characters (category Cf), line and paragraph
/// separators, invisible fillers, variation selectors, noncharacters. Sorted, first and last of each range.
const UNSEEN: [(char, char); 34] = [
    ('\u{80}', '\u{9f}'),
    ('\u{ad}', '\u{ad}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{600}', '\u{605}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{6dd}', '\u{6dd}'),
    ('\u{70f}', '\u{70f}'),
    ('\u{890}', '\u{891}'),
    ('\u{8e2}', '\u{8e2}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{2800}', '\u{2800}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{fdd0}', '\u{fdef}'),
    ('\u{fe00}', '\u{fe0f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{fffb}'),
    ('\u{fffe}', '\u{ffff}'),
    ('\u{110bd}', '\u{110bd}'),
    ('\u{110cd}', '\u{110cd}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d159}', '\u{1d159}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{1fffe}', '\u{1ffff}'),
    ('\u{2fffe}', '\u{2ffff}'),
    ('\u{e0000}', '\u{e0fff}'),
    ('\u{efffe}', '\u{effff}'),
    ('\u{ffffe}', '\u{10ffff}'),
];

/// Whether `c` is seen as itself, takes its own place and no other.
#[must_use]
pub fn is_seen(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    let at = UNSEEN.partition_point(|(_, last)| *last < c);
    UNSEEN.get(at).is_none_or(|(first, _)| c < *first)
}

/// What CI systems look for anywhere in a line, to take what follows for a command: `##[` (GitHub's runner, Azure),
/// `##vso[` (Azure), `##teamcity[`.
const COMMAND_MARK: &str = "##";

/// `text` as one line of characters that are seen as themselves, with no command to a CI system in it.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_seen) && !text.contains(COMMAND_MARK) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    let mut before = ' ';
    for c in text.chars() {
        let last = std::mem::replace(&mut before, c);
        match c {
            '#' if last == '#' => out.push_str("\\x23"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_seen(c) => out.push(c),
            c if u32::from(c) < 0x100 => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
        }
    }
    Cow::Owned(out)
}

/// [`line()`], at most `max` characters and what was left out: `node… (+120 bytes)`.
#[must_use]
pub fn cut(text: &str, max: usize) -> Cow<'_, str> {
    let escaped = line(text);
    let Some((end, _)) = escaped.char_indices().nth(max) else { return escaped };
    let (kept, rest) = escaped.split_at(end);
    Cow::Owned(format!("{kept}… (+{} bytes)", rest.len()))
}

/// Arguments as a shell would take them, escaped.
#[must_use]
pub fn arguments<S: AsRef<str>>(arguments: &[S]) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_=./:,@+%^".contains(c) || c == '\u{fffd}';
    let quoted = arguments.iter().map(|argument| {
        let argument = line(argument.as_ref());
        if !argument.is_empty() && argument.chars().all(plain) {
            argument.into_owned()
        } else {
            format!("'{}'", argument.replace('\'', "'\\''"))
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// Makes what `F` writes as JSON as harmless to a terminal as [`line()`] makes text: what is not seen becomes `\uXXXX`,
/// which means the same to a parser.
#[derive(Clone, Debug, Default)]
pub struct SafeJson<F>(pub F);

impl<F: Formatter> Formatter for SafeJson<F> {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, out: &mut W, text: &str) -> io::Result<()> {
        // Control characters of ASCII never come here but for DEL; the usual text is seen at a glance.
        if text.bytes().all(|byte| byte < 0x7f) && !text.contains(COMMAND_MARK) {
            return out.write_all(text.as_bytes());
        }
        let mut rest = text;
        let mut before = ' ';
        let mut to_hide = |(_, c): &(usize, char)| {
            let mark = *c == '#' && before == '#';
            before = *c;
            mark || !is_seen(*c)
        };
        while let Some((at, c)) = rest.char_indices().find(&mut to_hide) {
            let (seen, unseen) = rest.split_at(at);
            out.write_all(seen.as_bytes())?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}")?;
            }
            rest = unseen.get(c.len_utf8()..).unwrap_or_default();
        }
        out.write_all(rest.as_bytes())
    }

    fn begin_array<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_array(out)
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_array(out)
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(out, first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_array_value(out)
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_object(out)
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_object(out)
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(out, first)
    }

    fn end_object_key<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_object_key(out)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_object_value(out)
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_object_value(out)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]
    use proptest::prelude::*;
    use serde::Serialize as _;
    use serde_json::ser::{CompactFormatter, PrettyFormatter};

    use super::*;

    fn json<F: Formatter>(text: &str, formatter: F) -> String {
        let mut out = Vec::new();
        let value = serde_json::json!({ text: [text] });
        value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, SafeJson(formatter))).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_not_seen_is_shown() {
        let cases = [
            ("node", "node"),
            ("héllo 世界 🦀 \u{fffd}", "héllo 世界 🦀 \u{fffd}"),
            ("\u{1b}[2J\u{7}", "\\x1b[2J\\x07"),
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("\u{9b}31m\u{7f}", "\\x9b31m\\x7f"),
            ("x\u{202e}gpj.exe", "x\\u{202e}gpj.exe"),
            ("a\u{200b}b\u{feff}\u{2028}", "a\\u{200b}b\\u{feff}\\u{2028}"),
            ("\u{e0041}\u{ad}", "\\u{e0041}\\xad"),
            ("# ##[error]x ##vso[", "# #\\x23[error]x #\\x23vso["),
        ];
        for (text, shown) in cases {
            assert_eq!(line(text), shown);
        }
    }

    #[test]
    fn ranges_are_sorted() {
        assert!(UNSEEN.is_sorted_by(|(first, last), (next, _)| first <= last && last < next));
    }

    #[test]
    fn long_text_is_cut_and_says_how_much_is_missing() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdef", 4), "abcd… (+2 bytes)");
        assert_eq!(cut("\u{1b}\u{1b}", 4), "\\x1b… (+4 bytes)");
        assert_eq!(cut("世界", 1), "世… (+3 bytes)");
    }

    #[test]
    fn arguments_are_quoted_where_a_shell_would_need_it() {
        assert_eq!(
            arguments(&["node", "--port=80", "a b", "", "it's", "\u{1b}c"]),
            "node --port=80 'a b' '' 'it'\\''s' '\\x1bc'"
        );
    }

    #[test]
    fn json_keeps_its_meaning() {
        let text = "\u{9b}x\u{202e}\u{e0041}\u{7f}é\u{1b}\n";
        let compact = json(text, CompactFormatter);
        assert_eq!(
            compact.matches("\\u009bx\\u202e\\udb40\\udc41\\u007fé\\u001b\\n").count(),
            2,
            "{compact}"
        );
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&compact).unwrap(),
            serde_json::json!({ text: [text] })
        );
    }

    proptest! {
        #[test]
        fn nothing_unseen_passes(text in any::<String>(), max in 0..50_usize) {
            prop_assert!(line(&text).chars().all(is_seen));
            prop_assert!(cut(&text, max).chars().all(is_seen));
            prop_assert!(arguments(&[&text, &text]).chars().all(is_seen));
            prop_assert!(json(&text, CompactFormatter).chars().all(is_seen));
            let pretty = json(&text, PrettyFormatter::new());
            prop_assert!(pretty.chars().all(|c| c == '\n' || is_seen(c)));
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&pretty).unwrap(), serde_json::json!({ &text: [&text] }));
        }

        #[test]
        fn escaping_twice_changes_nothing(text in any::<String>()) {
            let once = line(&text).into_owned();
            prop_assert_eq!(line(&once), once.as_str());
        }
    }
}
