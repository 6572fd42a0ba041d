//! A timeline as lines of characters, for terminals, logs and Markdown.

use super::timeline::{Bar, Span, Timeline};
use super::{Remark, escape, words};
use crate::cli::duration_text;
use crate::clock::Anchors;
use crate::event::BootTime;

/// Columns of the line that stands for the time.
const WIDTH: usize = 48;
/// Notes of users in a chart.
const REMARKS_MAX: usize = 8;
/// Longest name behind a line, characters.
const LABEL_CHARS: usize = 60;

/// The lines of a chart: what a column is first, then one for each holder and each call that failed, names behind.
/// Text from processes in it is escaped.
#[must_use]
pub fn lines(timeline: &Timeline<'_>, remarks: &[Remark], anchors: Anchors) -> Vec<String> {
    let mut rows: Vec<(String, String)> = Vec::new();
    let several = timeline.bars.windows(2).any(|pair| match pair {
        [a, b] => a.holder.address != b.holder.address,
        _ => false,
    });
    for bar in &timeline.bars {
        let mut label = words::process(bar.holder);
        if several {
            label = format!("{label} on {}", bar.holder.address);
        }
        if let Some((from, to)) = bar.holder.bound_at.zip(bar.holder.released_at) {
            label = format!("{label}, {}", duration_text(to.since(from)));
        }
        rows.push((label, held(timeline, bar)));
    }
    for mark in &timeline.marks {
        rows.push((words::process(&mark.victim.holder), failed(timeline, mark.span)));
    }
    let span = timeline.span;
    let said = remarks.iter().filter(|remark| remark.at >= span.from && remark.at <= span.to);
    for remark in said.take(REMARKS_MAX) {
        let at = Span { from: remark.at, to: remark.at };
        rows.push((format!("note: {}", escape::line(&remark.text)), failed(timeline, at).replace('×', "¦")));
    }
    let mut lines = vec![format!(
        "{} to {}: ━ held{}{}",
        words::time(anchors, span.from, span),
        words::time(anchors, span.to, span),
        if timeline.overlaps.is_empty() { "" } else { ", █ shared" },
        if timeline.marks.is_empty() { "" } else { ", × failed" },
    )];
    // Names come last: no line begins with what a process said.
    lines
        .extend(rows.into_iter().map(|(label, line)| format!("{line} {}", escape::cut(&label, LABEL_CHARS))));
    if timeline.left_out > 0 {
        lines.push(format!("and {} more", timeline.left_out));
    }
    lines
}

/// The first and last column of a time.
fn columns(timeline: &Timeline<'_>, span: Span) -> (usize, usize) {
    let place = |at: BootTime| {
        usize::try_from(timeline.column(at, WIDTH as u64)).unwrap_or(WIDTH).min(WIDTH.saturating_sub(1))
    };
    (place(span.from), place(span.to))
}

fn held(timeline: &Timeline<'_>, bar: &Bar<'_>) -> String {
    let mut line = vec!['·'; WIDTH];
    let mut fill = |(first, last): (usize, usize), with: char| {
        for place in line.iter_mut().take(last + 1).skip(first) {
            *place = with;
        }
    };
    fill(columns(timeline, bar.span), '━');
    for part in bar.shared(&timeline.overlaps) {
        fill(columns(timeline, part), '█');
    }
    let line: String = line.into_iter().collect();
    let (before, after) = (if bar.open_start { '◂' } else { ' ' }, if bar.open_end { '▸' } else { ' ' });
    format!("{before}{line}{after}")
}

fn failed(timeline: &Timeline<'_>, span: Span) -> String {
    let mut line = vec!['·'; WIDTH];
    let (first, last) = columns(timeline, span);
    for (at, place) in line.iter_mut().enumerate() {
        // In between it may have been tried as well: only the first and the last time are known.
        if at > first && at < last {
            *place = '-';
        } else if at == first || at == last {
            *place = '×';
        }
    }
    let line: String = line.into_iter().collect();
    format!(" {line} ")
}
