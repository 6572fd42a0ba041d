//! The whole story of the chosen row: a line of time with everybody who held the endpoint, who they are, and what
//! proves it.

use ratatui::layout::Rect;

use super::cell;
use super::history::{Spot, Tenure, tenures};
use super::model::Model;
use super::rows::{self, Index, Key, Scene};
use super::theme::Role;
use super::view::Canvas;
use crate::cli::duration_text;
use crate::clock::Anchors;
use crate::event::{BootTime, Cookie, Event, ProcessKey, Seq};
use crate::ledger::finding::{Finding, FindingId, Holder, HolderState};
use crate::log::encode;
use crate::sink::json::option_names;
use crate::sink::{escape, told, words};

/// Holders that are told in full.
const HOLDERS_SHOWN: usize = 32;
/// Lines of a time line.
const TENURES_SHOWN: usize = 24;
/// Findings of one endpoint that are told.
const FINDINGS_SHOWN: usize = 8;
/// Characters of the arguments of one process.
const ARGUMENTS_CHARS: usize = 2_000;
/// Lines that one text may take.
const LINES_OF_ONE: usize = 12;
/// Events that are told in words.
const EVIDENCE_SHOWN: usize = 16;

/// A line of the story: pieces of text, and by how much the lines it is broken into are indented.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    pieces: Vec<(String, Role)>,
    indent: usize,
}

impl Line {
    fn new(text: impl Into<String>, role: Role) -> Self {
        Self { pieces: vec![(text.into(), role)], indent: 0 }
    }

    fn labelled(label: &str, text: impl Into<String>) -> Self {
        Self { pieces: vec![(format!("  {label:<9} "), Role::Dim), (text.into(), Role::Plain)], indent: 12 }
    }

    /// As plain text.
    #[must_use]
    pub(super) fn text(&self) -> String {
        self.pieces.iter().map(|(text, _)| text.as_str()).collect()
    }
}

/// Draws the story of the chosen row.
pub(super) fn draw(canvas: &mut Canvas<'_>, scene: Scene<'_>, model: &Model, index: &Index, area: Rect) {
    if area.height == 0 {
        return;
    }
    let rule = canvas.theme.glyphs.line.repeat(area.width.into());
    canvas.put(area.x, area.y, area.width, &rule, Role::Dim);
    let lines = broken(scene, &chosen(scene, model, index, area.width), area.width);
    let height = usize::from(area.height - 1);
    let top = model.detail_top.min(lines.len().saturating_sub(height));
    for (line, y) in lines.iter().skip(top).zip(area.y + 1..area.bottom()) {
        canvas.pieces(Rect { y, height: 1, ..area }, &line.pieces);
    }
    if lines.len() > height {
        let place = format!(" {}-{}/{} PgDn ", top + 1, (top + height).min(lines.len()), lines.len());
        let width = u16::try_from(place.len()).unwrap_or(0).min(area.width);
        canvas.put(area.right() - width, area.y, width, &place, Role::Dim);
    }
}

/// The story of the chosen row, in lines of any width; its time line is made for `width`.
#[must_use]
pub(super) fn chosen(scene: Scene<'_>, model: &Model, index: &Index, width: u16) -> Vec<Line> {
    let Some(entry) = index.entries.get(model.pane().at) else {
        return vec![Line::new("This row is gone.", Role::Dim)];
    };
    match &entry.key {
        Key::Finding(id) => match scene.world.finding(*id) {
            Some(finding) => of_finding(scene, finding, width),
            None => vec![Line::new("It turned out to be meant.", Role::Dim)],
        },
        Key::Endpoint(spot) => of_spot(scene, spot, width),
        Key::Process(process) => of_process(scene, *process),
        Key::Event(seq) => of_event(scene, *seq),
        Key::PortUser(netns, protocol, at) => match rows::processes(scene.world, index, entry).first() {
            Some(process) => of_process(scene, *process),
            None => vec![Line::new(
                format!(
                    "User {} of the {protocol} ports of network namespace {} has ended.",
                    at + 1,
                    netns.0
                ),
                Role::Dim,
            )],
        },
        Key::Cgroup(path) => {
            let name = if path.is_empty() { "unknown".into() } else { escape::line(path) };
            vec![Line::new(format!("cgroup {name}"), Role::Strong)]
        }
        Key::Ports(netns, protocol) => {
            vec![Line::new(format!("{protocol} ports of network namespace {}", netns.0), Role::Strong)]
        }
    }
}

/// Breaks lines to a width.
fn broken(scene: Scene<'_>, lines: &[Line], width: u16) -> Vec<Line> {
    let mut out = Vec::new();
    let (glyphs, width) = (scene.glyphs, usize::from(width));
    for line in lines {
        let cleaned: Vec<(String, Role)> = line
            .pieces
            .iter()
            .map(|(text, role)| (cell::clean(text, glyphs.ascii).into_owned(), *role))
            .collect();
        let whole: usize = cleaned.iter().map(|(text, _)| cell::width(text)).sum();
        let Some(((last, role), before)) = cleaned.split_last() else { continue };
        if whole <= width {
            out.push(Line { pieces: cleaned, indent: 0 });
            continue;
        }
        // Only the last piece of a line is long.
        let taken: usize = before.iter().map(|(text, _)| cell::width(text)).sum();
        let indent = line.indent.min(width / 2);
        let (first, later) = (width.saturating_sub(taken).max(2), width - indent);
        let parts = cell::wrap(last, first, later, LINES_OF_ONE, glyphs.cut);
        for (number, part) in parts.into_iter().enumerate() {
            let mut pieces =
                if number == 0 { before.to_vec() } else { vec![(" ".repeat(indent), Role::Plain)] };
            pieces.push((part, *role));
            out.push(Line { pieces, indent: 0 });
        }
    }
    out
}

fn of_finding(scene: Scene<'_>, finding: &Finding, width: u16) -> Vec<Line> {
    let mut lines = about(scene, finding);
    let spot = Spot {
        netns: finding.netns,
        protocol: finding.protocol,
        port: finding.port,
        address: finding.address,
    };
    let mut story = story(scene, &spot);
    for holder in &finding.holders {
        if story.iter().all(|tenure| tenure.process != Some(holder.process)) {
            story.push(of_holder(holder));
        }
    }
    lines.extend(timeline(scene, &mut story, &named(finding), width));
    lines.extend(victim(scene, finding));
    for held in finding.holders.iter().take(HOLDERS_SHOWN) {
        lines.extend(holder(scene, "holder", held));
    }
    if finding.holders.len() > HOLDERS_SHOWN {
        let more = finding.holders.len() - HOLDERS_SHOWN;
        lines.push(Line::new(format!("and {more} more holders; w writes all"), Role::Dim));
    }
    if let Some(owner) = &finding.last_owner {
        lines.extend(holder(scene, "last owner", owner));
    }
    for user in &finding.users {
        lines.push(Line::labelled("user", words::port_user(user)));
    }
    lines.extend(evidence(scene, finding));
    lines
}

/// What happened and what to do.
fn about(scene: Scene<'_>, finding: &Finding) -> Vec<Line> {
    let severity = finding.kind.severity();
    let head = format!("{} {}: ", words::severity(severity), finding.kind.name());
    let summary = words::summary(finding, scene.clock());
    let mut lines =
        vec![Line { pieces: vec![(head, Role::from(severity)), (summary, Role::Plain)], indent: 2 }];
    lines.push(Line::labelled("hint", words::hint(finding)));
    lines.extend(words::would_deny(finding).map(|deny| Line::labelled("deny", deny)));
    if let Some(cause) = finding.cause {
        lines.push(Line::labelled(
            "cause",
            format!("{}: {}", words::cause(cause), words::cause_meaning(cause)),
        ));
    }
    lines
}

/// Whose call failed.
fn victim(scene: Scene<'_>, finding: &Finding) -> Vec<Line> {
    let mut lines = Vec::new();
    if let Some(victim) = &finding.victim {
        lines.extend(holder(scene, "victim", &victim.holder));
        let at = scene.clock().rfc3339(finding.last_seen);
        let times = if finding.count > 1 {
            format!("{} times, last at {at}", finding.count)
        } else {
            format!("at {at}")
        };
        lines.push(Line::labelled("call", format!("{}() failed with {} {times}", victim.call, victim.errno)));
    }
    lines
}

fn of_spot(scene: Scene<'_>, spot: &Spot, width: u16) -> Vec<Line> {
    let world = scene.world;
    let endpoint = words::endpoint(spot.address, spot.port);
    let head = format!("{} {endpoint}, network namespace {}", spot.protocol, spot.netns.0);
    let mut lines = vec![Line::new(head, Role::Strong)];
    let sockets: Vec<_> = world
        .view()
        .on_port(spot.netns, spot.protocol, spot.port)
        .filter(|socket| Spot::of(*socket) == *spot)
        .collect();
    let mut found: Vec<FindingId> = sockets.iter().flat_map(|socket| socket.findings().to_vec()).collect();
    let here = |finding: &Finding| {
        (finding.netns, finding.protocol, finding.port, finding.address)
            == (spot.netns, spot.protocol, spot.port, spot.address)
    };
    found.extend(world.findings().filter(|finding| here(finding)).map(|finding| finding.id));
    found.sort_unstable();
    found.dedup();
    let found: Vec<&Finding> = found.iter().filter_map(|id| world.finding(*id)).map(AsRef::as_ref).collect();
    for finding in found.iter().rev().take(FINDINGS_SHOWN) {
        lines.extend(about(scene, finding));
    }
    let mut story = story(scene, spot);
    let counts: Vec<(ProcessKey, u64)> = found.iter().flat_map(|finding| named(finding)).collect();
    lines.extend(timeline(scene, &mut story, &counts, width));
    let mut told = 0;
    for socket in &sockets {
        for held in socket.holders() {
            told += 1;
            if told <= HOLDERS_SHOWN {
                let mut held = held;
                held.cmdline = world.arguments(&held.cmdline);
                held.accepted = held.accepted.or_else(|| world.history().accepted(socket.cookie()));
                lines.extend(holder(scene, "holder", &held));
            }
        }
    }
    if told > HOLDERS_SHOWN {
        lines.push(Line::new(format!("and {} more holders", told - HOLDERS_SHOWN), Role::Dim));
    }
    for finding in found.iter().rev().take(FINDINGS_SHOWN) {
        lines.extend(victim(scene, finding));
    }
    for finding in found.iter().rev().take(1) {
        lines.extend(evidence(scene, finding));
    }
    lines
}

/// Connections by process, where a finding counted them.
fn named(finding: &Finding) -> Vec<(ProcessKey, u64)> {
    finding.holders.iter().filter_map(|holder| Some((holder.process, holder.accepted?))).collect()
}

fn of_holder(holder: &Holder) -> Tenure {
    Tenure {
        process: Some(holder.process),
        comm: holder.comm.as_str().into(),
        cookie: holder.socket_cookie,
        from: holder.bound_at,
        until: holder.released_at,
        accepted: holder.accepted,
        ended_by: Seq(0),
    }
}

/// Everybody who held the endpoint, oldest first.
fn story(scene: Scene<'_>, spot: &Spot) -> Vec<Tenure> {
    let view = scene.world.view();
    let past = scene.world.history().past(spot).cloned();
    let live = view.on_port(spot.netns, spot.protocol, spot.port).filter(|socket| Spot::of(*socket) == *spot);
    let live = live.take(TENURES_SHOWN * 4).flat_map(|socket| {
        let accepted = scene.world.history().accepted(socket.cookie());
        tenures(socket, view).map(move |tenure| Tenure { accepted, ..tenure })
    });
    past.chain(live).collect()
}

/// One line for each holder, drawn over the time from the first to the last of them, and one that marks overlaps.
fn timeline(scene: Scene<'_>, story: &mut [Tenure], accepted: &[(ProcessKey, u64)], width: u16) -> Vec<Line> {
    if story.is_empty() {
        return vec![Line::labelled("holders", "nobody is known to have held it")];
    }
    story.sort_by_key(|tenure| (tenure.from, tenure.until.unwrap_or(BootTime(u64::MAX)), tenure.cookie));
    let origin = scene.world.origin();
    let now = scene.world.now();
    let skipped = story.len().saturating_sub(TENURES_SHOWN);
    let shown = story.get(skipped..).unwrap_or_default();
    let begin = shown.iter().map(|tenure| tenure.from.unwrap_or(origin.start)).min().unwrap_or(origin.start);
    let open = shown.iter().any(|tenure| tenure.until.is_none());
    let last = shown.iter().filter_map(|tenure| tenure.until).max().unwrap_or(now);
    let end = if open { now.max(last) } else { last };
    let names = usize::from(width / 4).clamp(8, 28);
    let bar = usize::from(width).saturating_sub(names + 3 + if width >= 70 { 30 } else { 0 }).clamp(6, 120);
    let mut lines = vec![Line::new(
        format!(
            "timeline {} to {}{}{}",
            scene.time(begin),
            scene.time(end),
            if open { ", still held" } else { "" },
            if skipped > 0 { format!(", {skipped} older ones not shown") } else { String::new() },
        ),
        Role::Dim,
    )];
    let mut depth = vec![0_u32; bar];
    for tenure in shown {
        let (from, until) = cells(tenure, begin, end, bar, origin.start);
        let mut drawn = String::new();
        for (at, depth) in depth.iter_mut().enumerate() {
            let held = (from..=until).contains(&at);
            drawn.push_str(if held { scene.glyphs.bar } else { scene.glyphs.empty });
            *depth += u32::from(held);
        }
        let pid = tenure.process.map_or_else(String::new, |process| format!(" ({})", process.tgid));
        let name = if tenure.comm.is_empty() { "?".into() } else { escape::cut(&tenure.comm, 32) };
        let name = cell::clean(&format!("{name}{pid}"), scene.glyphs.ascii).into_owned();
        let name = cell::fit(&name, names, scene.glyphs.cut).into_owned();
        let padding = " ".repeat(names.saturating_sub(cell::width(&name)));
        let counted = tenure.accepted.or_else(|| {
            accepted.iter().find(|(process, _)| Some(*process) == tenure.process).map(|(_, n)| *n)
        });
        lines.push(Line {
            pieces: vec![
                (format!("{name}{padding} "), Role::Plain),
                (drawn, if tenure.until.is_none() { Role::Note } else { Role::Plain }),
                (
                    if width >= 70 { format!(" {}", when(scene, tenure, counted)) } else { String::new() },
                    Role::Dim,
                ),
            ],
            indent: 0,
        });
    }
    if depth.iter().any(|depth| *depth > 1) && overlaps(shown) {
        let marks: String =
            depth.iter().map(|depth| if *depth > 1 { scene.glyphs.overlap } else { " " }).collect();
        let label = format!("{:names$} ", "overlap");
        lines.push(Line { pieces: vec![(label, Role::Dim), (marks, Role::Error)], indent: 0 });
    }
    lines
}

/// Whether two of them held at one time: cells of a line are too coarse to tell.
fn overlaps(story: &[Tenure]) -> bool {
    let mut latest: Option<BootTime> = None;
    for tenure in story {
        if latest.is_some_and(|latest| tenure.from.unwrap_or(BootTime(0)) < latest) {
            return true;
        }
        latest = latest.max(Some(tenure.until.unwrap_or(BootTime(u64::MAX))));
    }
    false
}

fn cells(tenure: &Tenure, begin: BootTime, end: BootTime, bar: usize, start: BootTime) -> (usize, usize) {
    let width = u16::try_from(bar).unwrap_or(u16::MAX);
    let place = |at: BootTime| usize::from(super::header::span(at, begin, end, width));
    (place(tenure.from.unwrap_or(start)), place(tenure.until.unwrap_or(end)))
}

/// `12:00:01.000 7.0 s, 3 accepted`
fn when(scene: Scene<'_>, tenure: &Tenure, accepted: Option<u64>) -> String {
    let from = scene.since(tenure.from);
    let long = match (tenure.from, tenure.until) {
        (Some(from), Some(until)) => duration_text(until.since(from)),
        (None, Some(until)) => format!("to {}", scene.time(until)),
        (_, None) => "held".to_owned(),
    };
    let accepted = accepted.map_or_else(String::new, |count| format!(", {count} acc."));
    format!("{from} {long}{accepted}")
}

/// Who a process is, and what it does there.
fn holder(scene: Scene<'_>, label: &str, held: &Holder) -> Vec<Line> {
    let clock: Anchors = scene.clock();
    let mut lines = vec![Line {
        pieces: vec![(format!("{label} "), Role::Dim), (words::process(held), Role::Strong)],
        indent: 2,
    }];
    let mut doing = match held.state {
        HolderState::Bound => "bound to",
        HolderState::Listen => "listens on",
        HolderState::Connected => "connected from",
        HolderState::TimeWait => "in TIME_WAIT on",
        HolderState::Closed => "held",
    }
    .to_owned();
    doing.push_str(&format!(" {}", words::endpoint(held.address, held.port)));
    if let Some(peer) = held.peer {
        doing.push_str(&format!(" to {peer}"));
    }
    match held.bound_at {
        Some(at) => doing.push_str(&format!(" from {}", clock.rfc3339(at))),
        None => doing.push_str(&format!(" from {}", words::unseen_start(held))),
    }
    if let Some(at) = held.released_at {
        doing.push_str(&format!(" until {}", clock.rfc3339(at)));
    }
    if label == "victim" {
        doing = format!("wanted {}", words::endpoint(held.address, held.port));
    }
    lines.push(Line::labelled(
        "socket",
        format!("{doing}, cookie {}", cookies(&held.sockets, held.socket_cookie)),
    ));
    let options = option_names(held.options);
    if !options.is_empty() {
        lines.push(Line::labelled("options", options.join(", ")));
    }
    if let Some(accepted) = held.accepted {
        lines.push(Line::labelled("accepted", words::plural(accepted, "connection")));
    }
    if !held.cmdline.is_empty() {
        let cut = if held.cmdline_cut { " ..." } else { "" };
        let arguments = escape::arguments(&held.cmdline);
        lines.push(Line::labelled("$", format!("{}{cut}", escape::cut(&arguments, ARGUMENTS_CHARS))));
    }
    if !held.exe.is_empty() {
        lines.push(Line::labelled("exe", escape::cut(&held.exe, ARGUMENTS_CHARS)));
    }
    let user = format!("{}, started {}", held.uid.0, clock.rfc3339(held.process.started()));
    lines.push(Line::labelled("user", user));
    if !held.cgroup.is_empty() {
        lines.push(Line::labelled("cgroup", escape::cut(&held.cgroup, ARGUMENTS_CHARS)));
    }
    if let Some(container) = &held.container {
        lines.push(Line::labelled("container", escape::cut(container, ARGUMENTS_CHARS)));
    }
    if !held.parents.is_empty() {
        let parents: Vec<String> = held
            .parents
            .iter()
            .take(12)
            .map(|parent| format!("{} ({})", words::name(&parent.comm), parent.pid))
            .collect();
        lines.push(Line::labelled("parents", parents.join(" < ")));
    }
    if let Some(giver) = held.inherited_from {
        lines.push(Line::labelled("got from", format!("PID {}", giver.tgid)));
    }
    lines
}

fn cookies(sockets: &[Cookie], first: Cookie) -> String {
    if sockets.len() > 1 {
        format!("{} and {} more", first.0, sockets.len() - 1)
    } else {
        first.0.to_string()
    }
}

fn evidence(scene: Scene<'_>, finding: &Finding) -> Vec<Line> {
    let numbers: Vec<String> =
        finding.evidence.iter().take(EVIDENCE_SHOWN).map(|seq| seq.0.to_string()).collect();
    let more = finding.evidence.len().saturating_sub(EVIDENCE_SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let mut lines = vec![Line::labelled("evidence", format!("events {}{more}", numbers.join(", ")))];
    for seq in finding.evidence.iter().take(EVIDENCE_SHOWN) {
        if let Some(event) = scene.world.event(*seq) {
            lines.push(Line::new(format!("    {}", told(scene, event)), Role::Dim));
        }
    }
    lines
}

/// An event on one line, in the words of `explain`.
fn told(scene: Scene<'_>, event: &Event) -> String {
    let world = scene.world;
    let said = told::told(event, &world.view(), |cookie| world.place_of(cookie));
    let said = said.map_or_else(|| event.body.type_name().to_owned(), |told| told.text);
    format!("{}  {}  {said}", scene.time(event.at), event.seq.0)
}

fn of_process(scene: Scene<'_>, process: ProcessKey) -> Vec<Line> {
    let world = scene.world;
    let Some(facts) = world.view().process(process) else {
        return vec![Line::new(format!("PID {}: nothing is known of it any more", process.tgid), Role::Dim)];
    };
    let name = format!("{} (PID {})", words::name(&facts.comm), process.tgid);
    let mut lines = vec![Line::new(name, Role::Strong)];
    let arguments = escape::arguments(&world.arguments(&facts.cmdline));
    if !arguments.is_empty() {
        lines.push(Line::labelled("$", escape::cut(&arguments, ARGUMENTS_CHARS)));
    }
    if !facts.exe.is_empty() {
        lines.push(Line::labelled("exe", escape::cut(&facts.exe, ARGUMENTS_CHARS)));
    }
    lines.push(Line::labelled("user", facts.uid.0.to_string()));
    lines.push(Line::labelled("started", scene.clock().rfc3339(process.started())));
    if !facts.cgroup.is_empty() {
        lines.push(Line::labelled("cgroup", escape::cut(&facts.cgroup, ARGUMENTS_CHARS)));
    }
    if let Some(container) = &facts.container {
        lines.push(Line::labelled("container", escape::cut(container, ARGUMENTS_CHARS)));
    }
    let mut parents = Vec::new();
    let mut next = facts.parent;
    while let Some(parent) = next.filter(|_| parents.len() < 12) {
        let above = world.view().process(parent);
        let name = above.map_or("?", |facts| facts.comm.as_str());
        parents.push(format!("{} ({})", words::name(name), parent.tgid));
        next = above.and_then(|facts| facts.parent);
    }
    if !parents.is_empty() {
        lines.push(Line::labelled("parents", parents.join(" < ")));
    }
    for socket in world.view().held_by(process).take(HOLDERS_SHOWN) {
        let options = option_names(socket.options());
        let options = if options.is_empty() { String::new() } else { format!(", {}", options.join(", ")) };
        let endpoint = words::endpoint(socket.address(), socket.port());
        let since = scene.since(socket.bound_at());
        let accepted = world.history().accepted(socket.cookie());
        let accepted = accepted.map_or_else(String::new, |n| format!(", {}", words::plural(n, "connection")));
        lines.push(Line::labelled(
            "holds",
            format!("{} {endpoint} since {since}{options}{accepted}", socket.protocol()),
        ));
    }
    lines
}

fn of_event(scene: Scene<'_>, seq: Seq) -> Vec<Line> {
    let Some(event) = scene.world.event(seq) else {
        return vec![Line::new(
            format!("Event {} is no longer remembered; a log has all.", seq.0),
            Role::Dim,
        )];
    };
    let mut lines = vec![
        Line::new(format!("event {}: {}", seq.0, event.body.type_name()), Role::Strong),
        Line::labelled("time", scene.clock().rfc3339(event.at)),
    ];
    let said = told::told(event, &scene.world.view(), |cookie| scene.world.place_of(cookie));
    lines.extend(said.map(|told| Line::labelled("what", told.text)));
    let mut event = event.clone();
    if let crate::event::Body::Process(facts) = &mut event.body {
        facts.cmdline = scene.world.arguments(&facts.cmdline);
    }
    let mut text = Vec::new();
    if encode(&event, &mut text).is_ok() {
        let text = String::from_utf8_lossy(&text);
        lines.push(Line::labelled("as logged", escape::cut(text.trim_end(), ARGUMENTS_CHARS)));
    }
    lines
}
