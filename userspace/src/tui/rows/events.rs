//! What happens, as it comes; the newest at the end.

use super::{By, Column, Entry, Index, Key, Query, Row, Scene, fixed, growing, number, process_fields, sort};
use crate::event::{Body, Cookie, Event, InventoryPhase, JobPhase, ProcessKey, SocketFacts};
use crate::sink::{escape, words};
use crate::tui::filter::Field;
use crate::tui::theme::Role;
use crate::tui::world::World;

pub(super) const COLUMNS: [Column; 5] = [
    fixed("TIME", 12, 0),
    number("SEQ", 8, 4),
    fixed("EVENT", 15, 1),
    growing("WHO", 14, 1, 32, 3),
    growing("WHAT", 10, 3, u16::MAX, 2),
];

/// Who an event is about.
pub(super) fn who(body: &Body) -> Option<ProcessKey> {
    match body {
        Body::Process(facts) => Some(facts.process),
        Body::Exit(exit) => Some(exit.process),
        Body::Signal(signal) => Some(signal.process),
        Body::Bind(bind) => Some(bind.process),
        Body::BindFailed(failed) => Some(failed.process),
        Body::Denied(denied) => Some(denied.process),
        Body::Waiting(waiting) => Some(waiting.process),
        Body::Waited(waited) => Some(waited.process),
        Body::Unresolved(unresolved) => Some(unresolved.process),
        Body::Listen(listen) => Some(listen.process),
        Body::ListenFailed(failed) => Some(failed.process),
        Body::Changed(changed) => changed.process,
        Body::ConnectFailed(failed) => Some(failed.process),
        Body::Job(job) => job.process,
        Body::Note(note) => Some(note.process),
        Body::Socket(found) => found.holders.first().copied(),
        Body::Holders(holders) => holders.processes.first().copied(),
        Body::Table(row) => row.holders.first().copied(),
        Body::Inventory(_)
        | Body::Unlisten(_)
        | Body::Option(_)
        | Body::Accepted(_)
        | Body::Close(_)
        | Body::Gone(_)
        | Body::PortRange(_)
        | Body::PortUse(_)
        | Body::Lost(_)
        | Body::Limit(_)
        | Body::Omitted(_)
        | Body::Enforcement(_)
        | Body::CgroupRemoved(_) => None,
    }
}

/// The socket an event is about.
pub(super) const fn socket(body: &Body) -> Option<&SocketFacts> {
    match body {
        Body::Bind(bind) => Some(&bind.socket),
        Body::BindFailed(failed) => Some(&failed.socket),
        Body::Denied(denied) => Some(&denied.socket),
        Body::Waiting(waiting) => Some(&waiting.socket),
        Body::Unresolved(unresolved) => Some(&unresolved.socket),
        Body::Listen(listen) => Some(&listen.socket),
        Body::ListenFailed(failed) => Some(&failed.socket),
        Body::Changed(changed) => Some(&changed.socket),
        Body::Socket(found) => Some(&found.socket),
        Body::Table(row) => Some(&row.socket),
        _ => None,
    }
}

/// Their names, where the event has its own.
fn comm(body: &Body) -> Option<&str> {
    match body {
        Body::Process(facts) => Some(&facts.comm),
        Body::Bind(bind) => Some(&bind.comm),
        Body::BindFailed(failed) => Some(&failed.comm),
        Body::Denied(denied) => Some(&denied.comm),
        Body::Waiting(waiting) => Some(&waiting.comm),
        Body::ListenFailed(failed) => Some(&failed.comm),
        Body::ConnectFailed(failed) => Some(&failed.comm),
        _ => None,
    }
}

pub(super) fn index(world: &World, query: &Query) -> Index {
    let mut index = Index::default();
    for event in world.events() {
        let passes = query.filter.passes(|each| {
            each(Field::Kind(event.body.type_name()));
            if let Some(socket) = socket(&event.body) {
                each(Field::Endpoint(socket.address, socket.port));
                each(Field::Netns(socket.netns.0));
                each(Field::Kind(&socket.protocol.to_string()));
            }
            comm(&event.body).into_iter().for_each(|name| each(Field::Program(name)));
            if let Body::Process(facts) = &event.body {
                facts.cmdline.iter().for_each(|argument| each(Field::Program(argument)));
                each(Field::Cgroup(&facts.cgroup));
            }
            if let Some(process) = who(&event.body) {
                process_fields(world, process, each);
            }
        });
        if passes {
            index.entries.push(Entry::new(Key::Event(event.seq)));
        } else {
            index.hidden += 1;
        }
    }
    if let Some(by) = query.sort {
        sort(&mut index.entries, by, |entry| {
            let Key::Event(seq) = entry.key else { return By::Number(0) };
            let Some(event) = world.event(seq) else { return By::Number(0) };
            match by.0 {
                0 => By::Number(event.at.0),
                2 => By::text(event.body.type_name()),
                3 => By::text(&who(&event.body).map(|who| super::short(world, who)).unwrap_or_default()),
                4 => By::Number(socket(&event.body).map_or(0, |socket| socket.port.into())),
                _ => By::Number(event.seq.0),
            }
        });
    }
    index
}

/// An event in a few words.
pub(super) fn what(world: &World, event: &Event) -> String {
    let place = |socket: &SocketFacts| {
        format!("{} {}", socket.protocol, words::endpoint(socket.address, socket.port))
    };
    let of_cookie = |cookie: Cookie| world.place_of(cookie).unwrap_or_else(|| format!("socket {}", cookie.0));
    match &event.body {
        Body::Process(facts) => {
            let arguments =
                world.arguments(facts.cmdline.get(..facts.cmdline.len().min(16)).unwrap_or_default());
            escape::cut(&escape::arguments(&arguments), super::TEXT_CHARS).into_owned()
        }
        Body::Exit(_) => "ended".to_owned(),
        Body::Signal(signal) => format!("signal {}", signal.signal),
        Body::Socket(found) => format!("{}, found", place(&found.socket)),
        Body::Inventory(inventory) => match inventory.phase {
            InventoryPhase::Begin => "what exists already".to_owned(),
            InventoryPhase::End => "that was all".to_owned(),
        },
        Body::Bind(bind) if bind.requested_port == 0 => format!("{}, chosen", place(&bind.socket)),
        Body::Bind(bind) => place(&bind.socket),
        Body::BindFailed(failed) => format!("{}: {}", place(&failed.socket), failed.errno),
        Body::Denied(denied) => format!("{}: denied", place(&denied.socket)),
        Body::Waiting(waiting) => format!("{}: waits", place(&waiting.socket)),
        Body::Waited(waited) => {
            format!("{}: {}", of_cookie(waited.cookie), crate::cli::duration_text(waited.waited_ns))
        }
        Body::Unresolved(unresolved) => format!("{}: its end was not seen", place(&unresolved.socket)),
        Body::Listen(listen) => place(&listen.socket),
        Body::Unlisten(unlisten) => of_cookie(unlisten.cookie),
        Body::ListenFailed(failed) => format!("{}: {}", place(&failed.socket), failed.errno),
        Body::Option(option) => of_cookie(option.cookie),
        Body::Changed(changed) => place(&changed.socket),
        Body::Accepted(accepted) => {
            format!("{}: {}", of_cookie(accepted.cookie), words::plural(accepted.connections, "connection"))
        }
        Body::Close(close) => of_cookie(close.cookie),
        Body::Gone(gone) => of_cookie(gone.cookie),
        Body::ConnectFailed(failed) if failed.is_datagram() => {
            format!("a {} datagram: {}", failed.protocol, failed.errno)
        }
        Body::ConnectFailed(failed) => {
            let to = words::endpoint(failed.destination, failed.destination_port);
            format!("{} to {to}: {}", failed.protocol, failed.errno)
        }
        Body::Holders(holders) => {
            format!(
                "{}: {}",
                of_cookie(holders.cookie),
                words::plural(holders.processes.len() as u64, "holder")
            )
        }
        Body::Table(row) => format!("{}, in the kernel's table", place(&row.socket)),
        Body::PortRange(range) => format!("{} to {}", range.low, range.high),
        Body::PortUse(seen) => {
            format!("{} of {} in use", seen.used, words::plural(seen.ports.into(), "port"))
        }
        Body::Lost(lost) => words::plural(lost.counts.values().sum(), "event"),
        Body::Limit(limit) => format!("{}: {} {}", limit.bound, limit.value, limit.unit),
        Body::Omitted(omitted) => words::plural(omitted.events, "event"),
        Body::Job(job) => {
            let phase = if job.phase == JobPhase::Start { "starts" } else { "ended" };
            format!("{} {phase}", escape::cut(&job.name, super::TEXT_CHARS))
        }
        Body::Enforcement(enforcement) => {
            escape::cut(&enforcement.cgroups.join(", "), super::TEXT_CHARS).into_owned()
        }
        Body::CgroupRemoved(removed) => escape::cut(&removed.path, super::TEXT_CHARS).into_owned(),
        Body::Note(note) => escape::cut(&note.text, super::TEXT_CHARS).into_owned(),
    }
}

pub(super) fn row(scene: Scene<'_>, entry: &Entry) -> Option<Row> {
    let Key::Event(seq) = entry.key else { return None };
    let event = scene.world.event(seq)?;
    let process = who(&event.body);
    let who = match (comm(&event.body).filter(|name| !name.is_empty()), process) {
        (Some(name), Some(process)) => format!("{} ({})", escape::cut(name, 64), process.tgid),
        (None, Some(process)) => super::short(scene.world, process),
        _ => String::new(),
    };
    let role = match &event.body {
        Body::BindFailed(_) | Body::ListenFailed(_) | Body::ConnectFailed(_) => Role::Warning,
        Body::Lost(_) | Body::Limit(_) => Role::Error,
        Body::Denied(_) | Body::Waiting(_) | Body::Note(_) | Body::Job(_) => Role::Note,
        Body::Process(_) | Body::Inventory(_) | Body::Socket(_) | Body::Omitted(_) => Role::Dim,
        _ => Role::Plain,
    };
    Some(Row {
        cells: vec![
            scene.time(event.at),
            event.seq.0.to_string(),
            event.body.type_name().to_owned(),
            who,
            what(scene.world, event),
        ],
        role,
    })
}
