//! The ports that the kernel chooses from, and who uses them, TIME_WAIT included.

use super::{By, Column, Entry, Index, Key, Query, Row, Scene, fixed, growing, number, sort};
use crate::event::{Inum, Protocol};
use crate::ledger::finding::PortUser;
use crate::sink::escape;
use crate::tui::filter::Field;
use crate::tui::theme::Role;
use crate::tui::world::{PortsSeen, World};

pub(super) const COLUMNS: [Column; 7] = [
    growing("WHO", 16, 3, 60, 0),
    fixed("PROTO", 5, 2),
    number("OPEN", 6, 1),
    number("TIME_WAIT", 9, 1),
    number("SHARE", 6, 2),
    fixed("RANGE", 12, 3),
    fixed("COUNTED", 12, 4),
];

pub(super) fn index(world: &World, query: &Query) -> Index {
    let mut index = Index::default();
    for ((netns, protocol), seen) in world.ports() {
        let mut users: Vec<Entry> = Vec::new();
        for (at, user) in seen.users.iter().enumerate() {
            let passes = query.filter.passes(|each| {
                each(Field::Netns(netns.0));
                each(Field::Kind(&protocol.to_string()));
                each(Field::Pid(user.process.tgid));
                each(Field::Program(&user.comm));
                each(Field::Program(&user.exe));
            });
            if passes {
                users.push(Entry { depth: 1, ..Entry::new(Key::PortUser(*netns, *protocol, at)) });
            } else {
                index.hidden += 1;
            }
        }
        if let Some(by) = query.sort {
            sort(&mut users, by, |entry| {
                let Key::PortUser(_, _, at) = entry.key else { return By::Number(0) };
                let Some(user) = seen.users.get(at) else { return By::Number(0) };
                match by.0 {
                    2 => By::Number(user.sockets.into()),
                    4 => By::Number(u64::from(user.sockets) + u64::from(user.time_wait)),
                    3 => By::Number(user.time_wait.into()),
                    _ => By::text(&user.comm),
                }
            });
        }
        if query.filter.is_empty() || !users.is_empty() {
            index.entries.push(Entry::new(Key::Ports(*netns, *protocol)));
            index.entries.append(&mut users);
        }
    }
    index
}

fn seen(world: &World, netns: Inum, protocol: Protocol) -> Option<&PortsSeen> {
    world.ports().find(|(key, _)| **key == (netns, protocol)).map(|(_, seen)| seen)
}

/// A user of ports by its place.
pub(super) fn user(world: &World, netns: Inum, protocol: Protocol, at: usize) -> Option<&PortUser> {
    seen(world, netns, protocol)?.users.get(at)
}

/// `12.5%`
fn share(part: u32, whole: u32) -> String {
    if whole == 0 {
        return String::new();
    }
    let tenths = u64::from(part) * 1000 / u64::from(whole);
    format!("{}.{}%", tenths / 10, tenths % 10)
}

pub(super) fn row(scene: Scene<'_>, entry: &Entry) -> Option<Row> {
    let world = scene.world;
    match &entry.key {
        Key::Ports(netns, protocol) => {
            let seen = seen(world, *netns, *protocol)?;
            let size = seen.range.as_ref().map_or(0, crate::event::PortRange::size);
            let sum = |of: fn(&PortUser) -> u32| {
                seen.users.iter().fold(0_u32, |sum, user| sum.saturating_add(of(user)))
            };
            let open = sum(|user| user.sockets).saturating_add(seen.others.sockets);
            let left = sum(|user| user.time_wait).saturating_add(seen.others.time_wait);
            let range = seen.range.as_ref().map(|range| format!("{}-{}", range.low, range.high));
            Some(Row {
                cells: vec![
                    format!("network namespace {}", netns.0),
                    protocol.to_string(),
                    open.to_string(),
                    left.to_string(),
                    share(seen.used, size),
                    range.unwrap_or_default(),
                    scene.time(seen.at),
                ],
                role: match u64::from(seen.used) * 10 {
                    tenfold if size > 0 && tenfold >= u64::from(size) * 9 => Role::Error,
                    tenfold if size > 0 && tenfold >= u64::from(size) * 5 => Role::Warning,
                    _ => Role::Strong,
                },
            })
        }
        Key::PortUser(netns, protocol, at) => {
            let user = user(world, *netns, *protocol, *at)?;
            let size =
                seen(world, *netns, *protocol)?.range.as_ref().map_or(0, crate::event::PortRange::size);
            let ended = if user.ended { ", ended" } else { "" };
            let name = if user.comm.is_empty() { "?".into() } else { escape::cut(&user.comm, 64) };
            Some(Row {
                cells: vec![
                    format!("  {name} ({}{ended})", user.process.tgid),
                    String::new(),
                    user.sockets.to_string(),
                    user.time_wait.to_string(),
                    share(user.sockets.saturating_add(user.time_wait), size),
                    String::new(),
                    String::new(),
                ],
                role: if user.ended { Role::Dim } else { Role::Plain },
            })
        }
        _ => None,
    }
}
