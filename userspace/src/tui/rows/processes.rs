//! Who has what: cgroups, in each the processes that hold sockets, children below their parents.

use std::collections::{BTreeMap, BTreeSet};

use super::{By, Column, Entry, Index, Key, Query, Row, Scene, fixed, growing, number, process_fields, sort};
use crate::event::{Cookie, ProcessKey};
use crate::ledger::finding::HolderState;
use crate::sink::{escape, words};
use crate::tui::filter::Field;
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
/// How deep the tree is drawn.
const DEPTH_MAX: u8 = 8;

pub(super) fn index(world: &World, query: &Query) -> Index {
    let view = world.view();
    let mut held: BTreeMap<ProcessKey, Vec<Cookie>> = BTreeMap::new();
    for socket in view.sockets() {
        if !query.connected && socket.state() == HolderState::Connected {
            continue;
        }
        for process in socket.processes() {
            held.entry(*process).or_default().push(socket.cookie());
        }
    }
    let all = held.len();
    held.retain(|process, cookies| {
        query.filter.passes(|each| {
            process_fields(world, *process, each);
            for socket in cookies.iter().filter_map(|cookie| view.socket(*cookie)) {
                each(Field::Endpoint(socket.address(), socket.port()));
                each(Field::Kind(&socket.protocol().to_string()));
                each(Field::Netns(socket.netns().0));
            }
        })
    });
    let mut index = Index { hidden: all - held.len(), ..Index::default() };
    if let Some(by) = query.sort {
        for (process, cookies) in &held {
            push(&mut index, *process, cookies, 0);
        }
        let mut entries = std::mem::take(&mut index.entries);
        sort(&mut entries, by, |entry| value(world, entry, by.0));
        index.entries = entries;
        return index;
    }
    let mut groups: BTreeMap<&str, BTreeSet<ProcessKey>> = BTreeMap::new();
    for process in held.keys() {
        let cgroup = view.process(*process).map_or("", |facts| facts.cgroup.as_str());
        groups.entry(cgroup).or_default().insert(*process);
    }
    for (cgroup, members) in groups {
        let sockets: usize = members.iter().filter_map(|process| held.get(process)).map(Vec::len).sum();
        let mut entry = Entry::new(Key::Cgroup(cgroup.into()));
        entry.sockets = u32::try_from(sockets).unwrap_or(u32::MAX);
        index.entries.push(entry);
        tree(world, &held, &members, &mut index);
    }
    index
}

/// The nearest ancestor that is in the same group, and how many there are.
fn place(world: &World, process: ProcessKey, members: &BTreeSet<ProcessKey>) -> Vec<ProcessKey> {
    let mut line = vec![process];
    let mut next = world.view().process(process).and_then(|facts| facts.parent);
    let mut steps = 0;
    while let Some(parent) = next {
        if members.contains(&parent) {
            line.push(parent);
        }
        steps += 1;
        next = world.view().process(parent).and_then(|facts| facts.parent).filter(|_| steps < 64);
    }
    line.reverse();
    line
}

fn tree(
    world: &World,
    held: &BTreeMap<ProcessKey, Vec<Cookie>>,
    members: &BTreeSet<ProcessKey>,
    index: &mut Index,
) {
    let mut lines: Vec<Vec<ProcessKey>> =
        members.iter().map(|process| place(world, *process, members)).collect();
    lines.sort();
    for line in lines {
        let Some(process) = line.last() else { continue };
        let depth = u8::try_from(line.len()).unwrap_or(DEPTH_MAX).min(DEPTH_MAX);
        push(index, *process, held.get(process).map_or(&[], Vec::as_slice), depth);
    }
}

fn push(index: &mut Index, process: ProcessKey, cookies: &[Cookie], depth: u8) {
    let first = u32::try_from(index.cookies.len()).unwrap_or(u32::MAX);
    index.cookies.extend(cookies);
    let sockets = u32::try_from(cookies.len()).unwrap_or(u32::MAX);
    index.entries.push(Entry { key: Key::Process(process), first, sockets, depth });
}

fn value(world: &World, entry: &Entry, column: usize) -> By {
    let Key::Process(process) = entry.key else { return By::Number(0) };
    let facts = world.view().process(process);
    match column {
        1 => By::Number(process.tgid.into()),
        2 => By::Number(facts.map_or(0, |facts| facts.uid.0).into()),
        3 => By::Number(entry.sockets.into()),
        4 => By::Number(process.start),
        5 => By::Number(entry.first.into()),
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
    let sockets = cookies.filter_map(|cookie| world.view().socket(*cookie)).take(NAMED);
    let mut holds: Vec<String> = sockets
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
