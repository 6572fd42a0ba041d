//! Who has what: cgroups, in each the processes that hold sockets, children below their parents.

use std::collections::BTreeMap;

use super::{By, Column, Entry, Index, Key, Query, Row, Scene, fixed, growing, number, process_fields, sort};
use crate::event::ProcessKey;
use crate::ledger::SocketView;
use crate::ledger::finding::HolderState;
use crate::sink::{escape, words};
use crate::tui::filter::Field;
use crate::tui::history::Spot;
use crate::tui::theme::Role;
use crate::tui::world::World;

pub(super) const COLUMNS: [Column; 6] = [
    growing("PROCESS", 16, 3, 60, 0),
    number("PID", 8, 1),
    number("USER", 6, 4),
    number("SOCKETS", 7, 2),
    fixed("STARTED", 12, 5),
    growing("HOLDS", 12, 5, u16::MAX, 3),
];

/// Endpoints of a row that are named.
const NAMED: usize = 12;
/// Sockets of a row that are put into order for that; a process may have a hundred thousand.
const LOOKED_AT: usize = 64;
/// Ancestors that are looked at for a process's place.
const LINE_MAX: u32 = 64;
/// How deep the tree is drawn.
const DEPTH_MAX: u8 = 8;

pub(super) fn index(world: &World, query: &Query) -> Index {
    let view = world.view();
    let mut index = Index::default();
    let mut members: Vec<Member> = Vec::new();
    for (process, socket) in view.held() {
        if !query.connected && socket.state() == HolderState::Connected {
            continue;
        }
        let at = u32::try_from(index.cookies.len()).unwrap_or(u32::MAX);
        match members.last_mut() {
            Some(last) if last.process == process => last.sockets += 1,
            _ => members.push(Member { process, first: at, sockets: 1 }),
        }
        index.cookies.push(socket.cookie());
    }
    let all = members.len();
    if !query.filter.is_empty() {
        members.retain(|member| passes(world, query, &index, *member));
    }
    index.hidden = all - members.len();
    if let Some(by) = query.sort {
        let mut entries: Vec<Entry> = members.iter().map(|member| member.entry(0)).collect();
        sort(&mut entries, by, |entry| value(world, &index, entry, by.0));
        index.entries = entries;
        return index;
    }
    let mut groups: BTreeMap<&str, Vec<Member>> = BTreeMap::new();
    for member in members {
        let cgroup = view.process(member.process).map_or("", |facts| facts.cgroup.as_str());
        groups.entry(cgroup).or_default().push(member);
    }
    for (cgroup, members) in groups {
        let mut entry = Entry::new(Key::Cgroup(cgroup.into()));
        entry.sockets = members.iter().fold(0, |sum, member| member.sockets.saturating_add(sum));
        index.entries.push(entry);
        tree(world, &members, &mut index);
    }
    index
}

/// A process that has sockets: where they are in the index, and how many.
#[derive(Clone, Copy)]
struct Member {
    process: ProcessKey,
    first: u32,
    sockets: u32,
}

impl Member {
    const fn entry(self, depth: u8) -> Entry {
        Entry { key: Key::Process(self.process), first: self.first, sockets: self.sockets, depth }
    }
}

fn passes(world: &World, query: &Query, index: &Index, member: Member) -> bool {
    query.filter.passes(|each| {
        process_fields(world, member.process, each);
        let cookies = index.sockets_of(&member.entry(0));
        for socket in cookies.iter().filter_map(|cookie| world.view().socket(*cookie)) {
            each(Field::Endpoint(socket.address(), socket.port()));
            each(Field::Kind(&socket.protocol().to_string()));
            each(Field::Netns(socket.netns().0));
        }
    })
}

/// The line of a process: its ancestors that are in the same group, the first one first, and itself.
fn line(world: &World, process: ProcessKey, members: &[Member]) -> Vec<ProcessKey> {
    let mut line = vec![process];
    let mut next = world.view().process(process).and_then(|facts| facts.parent);
    let mut steps = 0;
    while let Some(parent) = next {
        // Members are in the order of their keys.
        if members.binary_search_by_key(&parent, |member| member.process).is_ok() {
            line.push(parent);
        }
        steps += 1;
        next = world.view().process(parent).and_then(|facts| facts.parent).filter(|_| steps < LINE_MAX);
    }
    line.reverse();
    line
}

fn tree(world: &World, members: &[Member], index: &mut Index) {
    let lines = members.iter().map(|member| (line(world, member.process, members), *member));
    let mut lines: Vec<(Vec<ProcessKey>, Member)> = lines.collect();
    lines.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (line, member) in lines {
        let depth = u8::try_from(line.len()).unwrap_or(DEPTH_MAX).min(DEPTH_MAX);
        index.entries.push(member.entry(depth));
    }
}

fn value(world: &World, index: &Index, entry: &Entry, column: usize) -> By {
    let Key::Process(process) = entry.key else { return By::Number(0) };
    let facts = world.view().process(process);
    match column {
        1 => By::Number(process.tgid.into()),
        2 => By::Number(facts.map_or(0, |facts| facts.uid.0).into()),
        3 => By::Number(entry.sockets.into()),
        4 => By::Number(process.start),
        5 => {
            let sockets = index.sockets_of(entry).iter().filter_map(|cookie| world.view().socket(*cookie));
            By::Number(sockets.map(|socket| socket.port()).min().unwrap_or_default().into())
        }
        _ => By::text(facts.map_or("", |facts| facts.comm.as_str())),
    }
}

pub(super) fn row(scene: Scene<'_>, index: &Index, entry: &Entry) -> Option<Row> {
    let world = scene.world;
    if let Key::Cgroup(path) = &entry.key {
        let name =
            if path.is_empty() { "cgroup unknown".into() } else { escape::cut(path, super::TEXT_CHARS) };
        let blank = String::new;
        let sockets = entry.sockets.to_string();
        return Some(Row {
            cells: vec![name.into_owned(), blank(), blank(), sockets, blank(), blank()],
            role: Role::Strong,
        });
    }
    let Key::Process(process) = entry.key else { return None };
    let facts = world.view().process(process);
    let indent = match entry.depth {
        0 => String::new(),
        1 => "  ".to_owned(),
        depth => format!("{}{}", "  ".repeat(usize::from(depth) - 1), scene.glyphs.branch),
    };
    let name = facts.map_or_else(|| "?".to_owned(), |facts| super::program(world, facts));
    let cookies = index.sockets_of(entry).iter();
    let mut sockets: Vec<SocketView<'_>> =
        cookies.take(LOOKED_AT).filter_map(|cookie| world.view().socket(*cookie)).collect();
    sockets.sort_by_key(|socket| Spot::of(*socket));
    let mut holds: Vec<String> = sockets
        .iter()
        .take(NAMED)
        .map(|socket| format!("{} {}", socket.protocol(), words::endpoint(socket.address(), socket.port())))
        .collect();
    holds.dedup();
    let ended = world.view().has_ended(process);
    Some(Row {
        cells: vec![
            format!("{indent}{name}"),
            process.tgid.to_string(),
            facts.map_or_else(String::new, |facts| facts.uid.0.to_string()),
            entry.sockets.to_string(),
            scene.time(process.started()),
            holds.join(", "),
        ],
        role: if ended { Role::Dim } else { Role::Plain },
    })
}
