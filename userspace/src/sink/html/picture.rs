//! A timeline as inline SVG, with the same in a table for those who do not see it.

use std::io::{self, Write};

use super::escaped;
use crate::cli::duration_text;
use crate::clock::Anchors;
use crate::sink::Remark;
use crate::sink::timeline::{Bar, Mark, Timeline};
use crate::sink::{escape, story, words};

/// Size of the drawing, user units.
const WIDTH: u64 = 1000;
/// Where the time begins, user units from the left.
const LEFT: u64 = 300;
/// Where it ends.
const RIGHT: u64 = 985;
/// Height of a row.
const ROW: u64 = 28;
/// Where the rows begin.
const TOP: u64 = 26;
/// The narrowest bar that can be seen.
const NARROWEST: u64 = 3;
/// Longest name, characters: what fits to the left of [`LEFT`].
const LABEL_CHARS: usize = 36;
/// Times on the axis.
const TICKS: u64 = 4;
/// Notes drawn.
const NOTES_SHOWN: usize = 12;
/// Longest note, characters.
const NOTE_CHARS: usize = 80;

/// Writes the picture, its legend and its table.
pub(super) fn write(
    timeline: &Timeline<'_>,
    clock: Anchors,
    remarks: &[Remark],
    out: &mut impl Write,
) -> io::Result<()> {
    let rows = (timeline.bars.len() + timeline.marks.len()) as u64;
    let height = TOP + rows * ROW + 24;
    let span = timeline.span;
    let (from, to) = (words::time(clock, span.from, span), words::time(clock, span.to, span));
    writeln!(
        out,
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"group\" aria-label=\"Who held the port from {from} to {to}\">"
    )?;
    for tick in 0..=TICKS {
        let at = crate::event::BootTime(span.from.0.saturating_add(span.length() / TICKS * tick));
        let x = LEFT + (RIGHT - LEFT) * tick / TICKS;
        let anchor = if tick == TICKS { "end" } else { "middle" };
        writeln!(
            out,
            "<line class=\"grid\" x1=\"{x}\" y1=\"{TOP}\" x2=\"{x}\" y2=\"{}\"/><text class=\"axis\" x=\"{x}\" y=\"{}\" text-anchor=\"{anchor}\">{}</text>",
            height - 22,
            height - 6,
            words::time(clock, at, span),
        )?;
    }
    let within = |remark: &&Remark| remark.at >= span.from && remark.at <= span.to;
    for remark in remarks.iter().filter(within).take(NOTES_SHOWN) {
        let x = LEFT + timeline.column(remark.at, RIGHT - LEFT);
        let text = escaped(&escape::cut(&remark.text, NOTE_CHARS));
        writeln!(
            out,
            "<g tabindex=\"0\" role=\"img\" aria-label=\"note: {text}\"><title>{} {text}</title><line class=\"said\" x1=\"{x}\" y1=\"6\" x2=\"{x}\" y2=\"{}\"/></g>",
            words::time(clock, remark.at, span),
            height - 22,
        )?;
    }
    // The names that the story has.
    let failed_calls = timeline.marks.iter().map(|mark| &mark.victim.holder);
    let all: Vec<_> = timeline.bars.iter().map(|bar| bar.holder).chain(failed_calls).collect();
    let mut rows = (0..).map(|row: u64| TOP + row * ROW).zip(story::names(&all));
    for (bar, (y, name)) in timeline.bars.iter().zip(&mut rows) {
        held(timeline, bar, (y, &name), clock, out)?;
    }
    for (mark, (y, name)) in timeline.marks.iter().zip(&mut rows) {
        failed(timeline, mark, (y, &name), clock, out)?;
    }
    writeln!(out, "</svg>")?;
    legend(timeline, out)?;
    table(timeline, clock, out)
}

fn legend(timeline: &Timeline<'_>, out: &mut impl Write) -> io::Result<()> {
    write!(out, "<p class=\"legend\"><span><span class=\"key held\"></span>held</span>")?;
    if !timeline.overlaps.is_empty() {
        write!(out, "<span><span class=\"key shared\"></span>shared by unrelated processes</span>")?;
    }
    if !timeline.marks.is_empty() {
        write!(out, "<span>× failed</span>")?;
    }
    if timeline.left_out > 0 {
        write!(out, "<span>{} more are not drawn</span>", timeline.left_out)?;
    }
    writeln!(out, "</p>")
}

/// `from 12:37:40 to 12:39:36 (1 min 56 s)`.
fn times(bar: &Bar<'_>, timeline: &Timeline<'_>, clock: Anchors) -> String {
    let at = |time| words::time(clock, time, timeline.span);
    let from = bar.holder.bound_at.map_or_else(|| words::unseen_start(bar.holder).to_owned(), at);
    let to = bar.holder.released_at.map_or_else(|| "the end".to_owned(), at);
    let lasted = bar.holder.bound_at.zip(bar.holder.released_at);
    let lasted =
        lasted.map_or_else(String::new, |(from, to)| format!(" ({})", duration_text(to.since(from))));
    format!("from {from} to {to}{lasted}")
}

fn held(
    timeline: &Timeline<'_>,
    bar: &Bar<'_>,
    (y, name): (u64, &str),
    clock: Anchors,
    out: &mut impl Write,
) -> io::Result<()> {
    let who = words::process(bar.holder);
    let what = format!(
        "{who} held {} {}",
        words::endpoint(bar.holder.address, bar.holder.port),
        times(bar, timeline, clock)
    );
    row(name, &what, y, out)?;
    let rect = |span: crate::sink::timeline::Span| {
        let x = timeline.column(span.from, RIGHT - LEFT);
        let width = timeline.column(span.to, RIGHT - LEFT).saturating_sub(x).max(NARROWEST);
        (LEFT + x.min(RIGHT - LEFT - NARROWEST), width)
    };
    let (x, width) = rect(bar.span);
    write!(
        out,
        "<rect class=\"held\" x=\"{x}\" y=\"{}\" width=\"{width}\" height=\"{}\" rx=\"2\"/>",
        y + 5,
        ROW - 10
    )?;
    for part in bar.shared(&timeline.overlaps) {
        let (x, width) = rect(part);
        write!(
            out,
            "<rect class=\"shared\" x=\"{x}\" y=\"{}\" width=\"{width}\" height=\"{}\"/>",
            y + 5,
            ROW - 10
        )?;
    }
    let middle = y + ROW / 2 + 5;
    if bar.open_start {
        write!(out, "<text x=\"{}\" y=\"{middle}\">◂</text>", LEFT - 12)?;
    }
    if bar.open_end {
        write!(out, "<text x=\"{}\" y=\"{middle}\">▸</text>", RIGHT + 3)?;
    }
    writeln!(out, "</g>")
}

fn failed(
    timeline: &Timeline<'_>,
    mark: &Mark<'_>,
    (y, name): (u64, &str),
    clock: Anchors,
    out: &mut impl Write,
) -> io::Result<()> {
    row(name, &sentence(mark, timeline, clock), y, out)?;
    let place = |at| LEFT + timeline.column(at, RIGHT - LEFT);
    let (first, last, middle) = (place(mark.span.from), place(mark.span.to), y + ROW / 2);
    if last > first {
        write!(
            out,
            "<line class=\"between\" x1=\"{first}\" y1=\"{middle}\" x2=\"{last}\" y2=\"{middle}\"/>"
        )?;
    }
    let mut places = vec![first];
    if last > first {
        places.push(last);
    }
    for x in places {
        let (left, right, top, bottom) = (x.saturating_sub(5), x + 5, middle - 5, middle + 5);
        write!(
            out,
            "<path class=\"failed\" d=\"M{left} {top}L{right} {bottom}M{left} {bottom}L{right} {top}\"/>"
        )?;
    }
    writeln!(out, "</g>")
}

fn sentence(mark: &Mark<'_>, timeline: &Timeline<'_>, clock: Anchors) -> String {
    let at = |time| words::time(clock, time, timeline.span);
    let what = words::endpoint(mark.victim.holder.address, mark.victim.holder.port);
    let who = words::process(&mark.victim.holder);
    let (call, errno) = (mark.victim.call, mark.victim.errno);
    match mark.count {
        1 => format!("{who}: {call}() of {what} failed with {errno} at {}", at(mark.span.from)),
        count => format!(
            "{who}: {call}() of {what} failed with {errno} {count} times from {} to {}",
            at(mark.span.from),
            at(mark.span.to)
        ),
    }
}

/// Begins a row: what is told of it, and its name. To be ended with `</g>`.
fn row(who: &str, what: &str, y: u64, out: &mut impl Write) -> io::Result<()> {
    let mut label: String = who.chars().take(LABEL_CHARS).collect();
    if label.len() < who.len() {
        label.pop();
        // The whole of it is what the row tells when it is asked.
        label.push('…');
    }
    write!(
        out,
        "<g tabindex=\"0\" role=\"img\" aria-label=\"{0}\"><title>{0}</title><rect class=\"row\" x=\"0\" y=\"{y}\" width=\"{WIDTH}\" height=\"{ROW}\"/><text x=\"{1}\" y=\"{2}\" text-anchor=\"end\">{3}</text>",
        escaped(what),
        LEFT - 16,
        y + ROW / 2 + 5,
        escaped(&escape::line(&label)),
    )
}

fn table(timeline: &Timeline<'_>, clock: Anchors, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "<details><summary>The same as a table</summary><div class=\"scroll\"><table><thead><tr><th scope=\"col\">process</th><th scope=\"col\">what</th><th scope=\"col\">when</th></tr></thead><tbody>"
    )?;
    for bar in &timeline.bars {
        writeln!(
            out,
            "<tr><td>{}</td><td>held {}</td><td>{}</td></tr>",
            escaped(&words::process(bar.holder)),
            words::endpoint(bar.holder.address, bar.holder.port),
            times(bar, timeline, clock),
        )?;
    }
    for mark in &timeline.marks {
        writeln!(
            out,
            "<tr><td>{}</td><td>{}() failed with {}{}</td><td>{}</td></tr>",
            escaped(&words::process(&mark.victim.holder)),
            mark.victim.call,
            mark.victim.errno,
            if mark.count > 1 { format!(", {} times", mark.count) } else { String::new() },
            words::time(clock, mark.span.from, timeline.span),
        )?;
    }
    writeln!(out, "</tbody></table></div></details>")
}
