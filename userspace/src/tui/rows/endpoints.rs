//! Every endpoint that is bound, with who has it. Those that several share stand out.

use super::{By, Column, Entry, Index, Key, Query, Row, Scene, fixed, growing, number, process_fields, sort};
use crate::event::{BootTime, ProcessKey};
use crate::ledger::SocketView;
use crate::ledger::finding::{HolderState, Kind};
use crate::sink::words;
use crate::tui::filter::Field;
use crate::tui::history::Spot;
use crate::tui::theme::Role;
use crate::tui::world::World;

pub(super) const COLUMNS: [Column; 9] = [
    fixed("", 1, 0),
    fixed("PROTO", 5, 1),
    growing("ADDRESS:PORT", 21, 2, 47, 0),
    fixed("STATE", 9, 3),
    number("PROCS", 5, 2),
    number("SOCKS", 5, 5),
    fixed("SINCE", 12, 4),
    growing("PROGRAM", 10, 6, u16::MAX, 1),
    fixed("NETNS", 10, 8),
];

/// Processes of a row that are named.
const NAMED: usize = 12;

fn state(state: HolderState) -> &'static str {
    match state {
        HolderState::Bound => "bound",
        HolderState::Listen => "listen",
        HolderState::Connected => "connected",
        HolderState::TimeWait => "time-wait",
        HolderState::Closed => "closed",
    }
}

pub(super) fn index(world: &World, query: &Query) -> Index {
    let mut index = Index::default();
    let mut here: Vec<SocketView<'_>> = Vec::new();
    for socket in world.view().sockets() {
        if !query.connected && socket.state() == HolderState::Connected {
            continue;
        }
        if here.first().is_some_and(|first| Spot::of(*first) != Spot::of(socket)) {
            close(world, query, &mut index, &here);
            here.clear();
        }
        here.push(socket);
    }
    close(world, query, &mut index, &here);
    if let Some(by) = query.sort {
        let mut entries = std::mem::take(&mut index.entries);
        sort(&mut entries, by, |entry| value(world, &index, entry, by.0));
        index.entries = entries;
    }
    index
}

/// Takes the sockets of one endpoint.
fn close(world: &World, query: &Query, index: &mut Index, sockets: &[SocketView<'_>]) {
    let Some(spot) = sockets.first().map(|first| Spot::of(*first)) else { return };
    let passes = query.filter.passes(|each| {
        each(Field::Endpoint(spot.address, spot.port));
        each(Field::Netns(spot.netns.0));
        each(Field::Kind(&spot.protocol.to_string()));
        let marked = mark(world, sockets).0;
        if marked != " " {
            each(Field::Kind("shared"));
        }
        for socket in sockets {
            each(Field::Kind(state(socket.state())));
            for id in socket.findings() {
                world.finding(*id).into_iter().for_each(|found| each(Field::Kind(found.kind.name())));
            }
            for process in socket.processes() {
                process_fields(world, *process, each);
            }
        }
    });
    if !passes {
        index.hidden += 1;
        return;
    }
    let first = u32::try_from(index.cookies.len()).unwrap_or(u32::MAX);
    index.cookies.extend(sockets.iter().map(SocketView::cookie));
    let sockets = u32::try_from(sockets.len()).unwrap_or(u32::MAX);
    index.entries.push(Entry { first, sockets, ..Entry::new(Key::Endpoint(spot)) });
}

fn value(world: &World, index: &Index, entry: &Entry, column: usize) -> By {
    let Key::Endpoint(spot) = &entry.key else { return By::Number(0) };
    let sockets: Vec<SocketView<'_>> = sockets(world, index, entry).collect();
    let first = sockets.first();
    match column {
        0 => By::Number(match mark(world, &sockets) {
            (_, Role::Error) => 0,
            (_, Role::Warning) => 1,
            ("=", _) => 2,
            _ => 3,
        }),
        1 => By::text(&spot.protocol.to_string()),
        2 => By::Number(spot.port.into()),
        3 => By::text(first.map_or("", |socket| state(socket.state()))),
        4 => By::Number(holders(&sockets).len() as u64),
        5 => By::Number(sockets.len() as u64),
        6 => By::time(since(&sockets)),
        7 => {
            let facts = holders(&sockets).first().and_then(|process| world.view().process(*process));
            By::text(facts.map_or("", |facts| facts.comm.as_str()))
        }
        _ => By::Number(spot.netns.0.into()),
    }
}

/// The sockets of a row that are still there.
pub(super) fn sockets<'a>(
    world: &'a World,
    index: &'a Index,
    entry: &Entry,
) -> impl Iterator<Item = SocketView<'a>> {
    index.sockets_of(entry).iter().filter_map(|cookie| world.view().socket(*cookie))
}

/// Who has them, each once.
fn holders(sockets: &[SocketView<'_>]) -> Vec<ProcessKey> {
    let mut all: Vec<ProcessKey> =
        sockets.iter().flat_map(|socket| socket.processes().iter().copied()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn since(sockets: &[SocketView<'_>]) -> Option<BootTime> {
    sockets.iter().map(SocketView::bound_at).min().flatten()
}

/// `!` is in a live finding, `=` is shared otherwise.
fn mark(world: &World, sockets: &[SocketView<'_>]) -> (&'static str, Role) {
    let live = |socket: &SocketView<'_>, kind: Kind| {
        let found = socket.findings().iter().filter_map(|id| world.finding(*id));
        found.into_iter().any(|finding| finding.live && finding.kind == kind)
    };
    let any = |kind: Kind| sockets.iter().any(|socket| live(socket, kind));
    if any(Kind::CoBind) {
        return ("!", Role::Error);
    }
    if any(Kind::Shadow) || any(Kind::Orphan) {
        return ("*", Role::Warning);
    }
    let shared = sockets.len() > 1 || sockets.iter().any(|socket| socket.processes().len() > 1);
    if shared { ("=", Role::Plain) } else { (" ", Role::Plain) }
}

pub(super) fn row(scene: Scene<'_>, index: &Index, entry: &Entry) -> Option<Row> {
    let Key::Endpoint(spot) = &entry.key else { return None };
    let world = scene.world;
    let sockets: Vec<SocketView<'_>> = sockets(world, index, entry).collect();
    let (mark, role) = mark(world, &sockets);
    let holders = holders(&sockets);
    let program = match holders.as_slice() {
        [] => "no process".to_owned(),
        [one] => match world.view().process(*one) {
            Some(facts) => format!("{} {}", one.tgid, super::program(world, facts)),
            None => super::short(world, *one),
        },
        several => {
            let named: Vec<String> =
                several.iter().take(NAMED).map(|process| super::short(world, *process)).collect();
            named.join(", ")
        }
    };
    let unheld = sockets.iter().all(SocketView::is_unheld) && !sockets.is_empty() && !holders.is_empty();
    let program = if unheld { format!("(ended) {program}") } else { program };
    let first = sockets.first().map(SocketView::state);
    let mixed = sockets.iter().any(|socket| Some(socket.state()) != first);
    Some(Row {
        cells: vec![
            mark.to_owned(),
            spot.protocol.to_string(),
            words::endpoint(spot.address, spot.port),
            if mixed { "mixed" } else { first.map_or("closed", state) }.to_owned(),
            holders.len().to_string(),
            sockets.len().to_string(),
            scene.since(since(&sockets)),
            program,
            spot.netns.0.to_string(),
        ],
        role,
    })
}
