//! The lines around the rows: what is watched and how it goes, the views, where a replay is, what can be done.
//!
//! Nothing here moves by itself: times are points in time, and rates are drawn anew only while they change.

use ratatui::layout::Rect;

use super::cell;
use super::model::{Model, Playing};
use super::rows::{Index, Tab, time};
use super::theme::{Glyphs, Role};
use super::view::{Canvas, Layout};
use super::world::World;
use crate::event::BootTime;
use crate::ledger::finding::Severity;
use crate::sink::words::{self, plural};

/// From this height on there is a line about where this is from.
const TALL: u16 = 16;
/// From this width on views are named in full.
const WIDE: u16 = 60;
/// From this width on the kernel is named.
const ROOMY: u16 = 100;
/// Points of the sparkline, where there is room, and the fewest that are worth it.
const SPARKS: usize = 30;
const SPARKS_MIN: usize = 5;
/// Seconds of each.
const SPARK_S: u64 = 2;

type Pieces = Vec<(String, Role)>;

/// Lines of the header.
pub(super) fn lines(world: &World, area: Rect) -> u16 {
    if area.height < 5 {
        return 0;
    }
    if area.height < TALL { 1 } else { 2 + u16::from(!world.notices().is_empty()) }
}

pub(super) fn draw(canvas: &mut Canvas<'_>, model: &Model, world: &World, layout: &Layout) {
    let area = layout.header;
    let line = |y: u16| Rect { y: area.y + y, height: 1, ..area };
    match area.height {
        0 => {}
        1 => {
            canvas.pieces(line(0), &numbers(model, world, canvas.theme.glyphs, area.width));
        }
        lines => {
            canvas.pieces(line(0), &origin(model, world, canvas.theme.glyphs, area.width));
            canvas.pieces(line(1), &numbers(model, world, canvas.theme.glyphs, area.width));
            if lines > 2 {
                let notices = world.notices();
                let more = notices.len().saturating_sub(1);
                let more = if more > 0 { format!(" (and {more} more: w writes all)") } else { String::new() };
                let text = format!("{}{more}", notices.first().map_or("", String::as_str));
                canvas.pieces(line(2), &[("warning: ".to_owned(), Role::Error), (text, Role::Plain)]);
            }
        }
    }
}

fn origin(model: &Model, world: &World, glyphs: &Glyphs, width: u16) -> Pieces {
    let origin = world.origin();
    let dot = format!(" {} ", glyphs.dot);
    let start = origin.clock.rfc3339(origin.start);
    let (date, clock) = start.split_once('T').unwrap_or(("", &start));
    let since = format!("since {date} {}Z", clock.get(..8).unwrap_or(clock));
    let mut pieces = vec![("bindwatch".to_owned(), Role::Strong), (dot.clone(), Role::Dim)];
    if let Some(playing) = &model.replay {
        pieces.push((format!("replay of {}", playing.name), Role::Note));
        pieces.push((dot.clone(), Role::Dim));
    }
    let host = &origin.host;
    let kernel = if width >= ROOMY { format!(" (Linux {})", host.kernel) } else { String::new() };
    pieces.push((format!("{}{kernel}", host.hostname), Role::Plain));
    pieces.push((dot.clone(), Role::Dim));
    pieces.push((since, Role::Plain));
    pieces.push((dot, Role::Dim));
    let hooks = origin.hooks + origin.refused.len();
    if origin.refused.is_empty() {
        pieces.push((plural(origin.hooks as u64, "hook"), Role::Plain));
    } else {
        pieces.push((format!("{} of {hooks} hooks", origin.hooks), Role::Warning));
    }
    pieces
}

/// Findings by severity, sockets, rates, loss.
fn numbers(model: &Model, world: &World, glyphs: &Glyphs, width: u16) -> Pieces {
    let gap = || ("  ".to_owned(), Role::Plain);
    let mut pieces = Vec::new();
    if let Some(waiting) = model.frozen {
        pieces.push((
            format!("{} FROZEN, {} wait", glyphs.pause, plural(waiting as u64, "event")),
            Role::Question,
        ));
        pieces.push(gap());
    }
    for severity in [Severity::Error, Severity::Warning, Severity::Note] {
        let (all, live) = world.count(severity);
        let role = if all == 0 { Role::Dim } else { Role::from(severity) };
        let live = if live > 0 && width >= WIDE { format!(" ({live} live)") } else { String::new() };
        pieces.push((format!("{}{live}", plural(all as u64, words::severity(severity))), role));
        pieces.push(gap());
    }
    let stats = world.ledger().stats();
    if stats.lost > 0 {
        pieces.push((format!("{} LOST", stats.lost), Role::Error));
        pieces.push(gap());
    }
    pieces.push((plural(stats.sockets, "socket"), Role::Plain));
    let (binds, failed) = world.rates().rate(world.now());
    pieces.push(gap());
    pieces.push((format!("{binds:.1} binds/s"), Role::Plain));
    if failed > 0.0 {
        pieces.push((format!("  {failed:.1} failed/s"), Role::Warning));
    }
    if stats.lost == 0 {
        pieces.push(("  0 lost".to_owned(), Role::Dim));
    }
    pieces.push(gap());
    let used: usize = pieces.iter().map(|(text, _)| cell::width(text)).sum();
    let room = usize::from(width).saturating_sub(used).min(SPARKS);
    if room >= SPARKS_MIN {
        let points = world.rates().points(world.now(), room, SPARK_S);
        pieces.push((spark(&points, glyphs), Role::Note));
    }
    pieces
}

fn spark(points: &[u32], glyphs: &Glyphs) -> String {
    let highest = points.iter().copied().max().unwrap_or(0).max(8);
    let level = |point: u32| {
        let level = u64::from(point) * (glyphs.spark.len() as u64 - 1);
        usize::try_from(level.div_ceil(highest.into())).unwrap_or(0)
    };
    points.iter().filter_map(|point| glyphs.spark.get(level(*point)).copied()).collect()
}

/// What views are called where there is room, or not.
fn tab_name(tab: Tab, wide: bool) -> &'static str {
    match (wide, tab) {
        (true, tab) => tab.name(),
        (false, Tab::Findings) => "Find",
        (false, Tab::Endpoints) => "Endp",
        (false, Tab::Processes) => "Proc",
        (false, Tab::Events) => "Evnt",
        (false, Tab::Ports) => "Port",
    }
}

/// Where the names of the views are.
pub(super) fn tab_spans(area: Rect) -> Vec<(Tab, u16, u16)> {
    let wide = area.width >= WIDE;
    let mut x = area.x;
    let place = |tab: Tab| {
        let width = u16::try_from(tab_name(tab, wide).len()).unwrap_or(0) + 4;
        let from = x;
        x = x.saturating_add(width);
        (tab, from, width.min(area.right().saturating_sub(from)))
    };
    Tab::ALL.into_iter().map(place).collect()
}

pub(super) fn tabs(canvas: &mut Canvas<'_>, model: &Model, world: &World, layout: &Layout) {
    let area = layout.tabs;
    if area.height == 0 {
        return;
    }
    let mut end = area.x;
    for (tab, x, width) in tab_spans(area) {
        let role = if tab == model.tab { Role::Tab } else { Role::Plain };
        let text = format!(" {} {} ", tab.place() + 1, tab_name(tab, area.width >= WIDE));
        end = canvas.put(x, area.y, width, &text, role);
    }
    let at = format!("{}Z", time(world.origin().clock, world.now()).get(..8).unwrap_or_default());
    let room = area.right().saturating_sub(end + 1);
    if model.replay.is_none() && model.frozen.is_some() && usize::from(room) >= at.len() {
        let at_x = area.right() - u16::try_from(at.len()).unwrap_or(0);
        canvas.put(at_x, area.y, room, &at, Role::Dim);
    }
}

/// Where a replay is: state, speed, time, and a line with the findings on it.
pub(super) fn bar(canvas: &mut Canvas<'_>, model: &Model, world: &World, layout: &Layout) {
    let (Some(playing), true) = (&model.replay, layout.bar.height > 0) else { return };
    let area = layout.bar;
    let glyphs = canvas.theme.glyphs;
    let clock = world.origin().clock;
    let state = match playing {
        Playing { seeks: true, .. } => "..",
        Playing { runs: true, .. } => glyphs.play,
        Playing { runs: false, .. } => glyphs.pause,
    };
    let left = format!("{state} {}x {} ", speed(playing.speed), time(clock, playing.at));
    let x = canvas.put(area.x, area.y, area.width, &left, Role::Strong);
    let Some(end) = playing.end else {
        canvas.put(x, area.y, area.right().saturating_sub(x), "(reading the log)", Role::Dim);
        return;
    };
    let until = format!(" {}", time(clock, end).get(..8).unwrap_or_default());
    let until_width = u16::try_from(cell::width(&until)).unwrap_or(0);
    let width = area.right().saturating_sub(x).saturating_sub(until_width);
    if width < 8 {
        return;
    }
    let place = |at: BootTime| span(at, playing.start, end, width);
    let line = glyphs.line.repeat(width.into());
    canvas.put(x, area.y, width, &line, Role::Dim);
    for mark in &playing.marks {
        canvas.put(x + place(*mark), area.y, 1, "!", Role::Error);
    }
    canvas.put(x + place(playing.at), area.y, 1, glyphs.here, Role::Strong);
    canvas.put(x + width, area.y, until_width, &until, Role::Dim);
}

/// `1`, `4`, `0.25`
fn speed(speed: f64) -> String {
    format!("{speed}")
}

/// Where `at` is on a line of `width` cells from `start` to `end`.
pub(super) fn span(at: BootTime, start: BootTime, end: BootTime, width: u16) -> u16 {
    let whole = u128::from(end.since(start)).max(1);
    let place =
        u128::from(at.since(start).min(end.since(start))) * u128::from(width.saturating_sub(1)) / whole;
    u16::try_from(place).unwrap_or(0)
}

/// The last line.
pub(super) fn foot(canvas: &mut Canvas<'_>, model: &Model, world: &World, index: &Index, layout: &Layout) {
    let area = layout.foot;
    if area.height == 0 {
        return;
    }
    if let Some(question) = &model.question {
        let target = question.targets.get(question.chosen).copied();
        let name =
            target.and_then(|target| world.view().process(target)).map(|facts| words::name(&facts.comm));
        let pid = target.map_or(0, |target| target.tgid);
        let which = match question.targets.len() {
            0 | 1 => String::new(),
            all => format!(" ({} of {all}, Tab: next)", question.chosen + 1),
        };
        let text = format!(
            "Send SIGTERM to {} (PID {pid})?{which} y: yes, any other key: no",
            name.unwrap_or_default()
        );
        canvas.put(area.x, area.y, area.width, &text, Role::Question);
        return;
    }
    if model.edits {
        let text = format!("/{}", model.filter);
        // The end of what is typed stays in sight.
        let room = usize::from(area.width.saturating_sub(1));
        let clean = cell::clean(&text, canvas.theme.glyphs.ascii);
        let skipped = clean
            .char_indices()
            .map(|(at, _)| at)
            .find(|at| cell::width(clean.get(*at..).unwrap_or_default()) <= room);
        let shown = clean.get(skipped.unwrap_or(0)..).unwrap_or_default();
        let end = canvas.put(area.x, area.y, area.width, shown, Role::Strong);
        canvas.put(end, area.y, 1, " ", Role::Chosen);
        return;
    }
    if let Some(message) = &model.message {
        canvas.put(area.x, area.y, area.width, message, Role::Strong);
        return;
    }
    let place = place(model, index);
    let place_width = u16::try_from(cell::width(&place)).unwrap_or(0).min(area.width);
    canvas.put(area.right() - place_width, area.y, place_width, &place, Role::Dim);
    let mut rest = area.width.saturating_sub(place_width + 1);
    let mut x = area.x;
    for (key, does) in hints(model) {
        let needed = u16::try_from(cell::width(&key) + cell::width(&does) + 3).unwrap_or(u16::MAX);
        if needed > rest {
            break;
        }
        rest -= needed;
        x = canvas.put(x, area.y, needed, &key, Role::Key);
        x = canvas.put(x, area.y, needed, &format!(" {does}  "), Role::Dim);
    }
}

/// `12/345`, and what the filter is.
fn place(model: &Model, index: &Index) -> String {
    let filter = match model.filter.as_str() {
        "" => String::new(),
        filter => format!("/{filter} "),
    };
    let at = if index.entries.is_empty() { 0 } else { model.pane().at + 1 };
    let hidden =
        if index.hidden > 0 { format!(" of {}", index.entries.len() + index.hidden) } else { String::new() };
    format!("{filter}{at}/{}{hidden}", index.entries.len())
}

fn hints(model: &Model) -> Vec<(String, String)> {
    let mut hints: Vec<(&str, &str)> = vec![("q", "quit"), ("?", "keys"), ("/", "filter")];
    hints.push(if model.detail { ("Esc", "close") } else { ("Enter", "story") });
    match &model.replay {
        Some(playing) => {
            hints.push(("Space", if playing.runs { "pause" } else { "play" }));
            hints.extend([("n", "next finding"), ("p", "previous"), ("←→", "seek")]);
        }
        None => {
            hints.push(("Space", if model.frozen.is_some() { "follow" } else { "freeze" }));
            hints.extend([("s", "sort"), ("y", "copy"), ("w", "write"), ("k", "kill")]);
        }
    }
    hints.into_iter().map(|(key, does)| (key.to_owned(), does.to_owned())).collect()
}
