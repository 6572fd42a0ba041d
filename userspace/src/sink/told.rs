//! An event in words.

use super::words::{self, plural};
use super::{escape, json};
use crate::cli::duration_text;
use crate::event::{
    Body, Cookie, Event, Options, ProcessKey, Setting, SocketFacts, WaitOutcome, WaitingCall,
};
use crate::ledger::View;

/// Longest note of a user in a line, characters.
const NOTE_CHARS: usize = 400;
/// Processes named in one line.
const NAMED_MAX: usize = 5;

/// An event in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Who did it, or whom it is about.
    pub process: Option<ProcessKey>,
    /// The socket.
    pub cookie: Option<Cookie>,
    /// What happened, as one line.
    pub text: String,
}

/// What an event says, for `explain` and for the screen. `place_of` says where a socket is that the event only names.
/// None of what says nothing about a socket.
#[must_use]
pub fn told(event: &Event, view: &View<'_>, place_of: impl Fn(Cookie) -> Option<String>) -> Option<Told> {
    let name = |process: ProcessKey, comm: &str| {
        let comm = view.process(process).map_or(comm, |facts| facts.comm.as_str());
        format!("{} (PID {})", words::name(comm), process.tgid)
    };
    let all = |processes: &[ProcessKey]| match processes {
        [] => "no process".to_owned(),
        some => {
            let named: Vec<String> = some.iter().take(NAMED_MAX).map(|one| name(*one, "")).collect();
            let more = some.len().saturating_sub(NAMED_MAX);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("{}{more}", named.join(", "))
        }
    };
    let on = |cookie: Cookie| {
        place_of(cookie)
            .map_or_else(|| format!("socket {}", cookie.0), |place| format!("socket {} on {place}", cookie.0))
    };
    // Somebody did or tried something with a socket of its own.
    let of = |process: ProcessKey, comm: &str, socket: &SocketFacts, text: &dyn Fn(&str, &str) -> String| {
        (Some(process), Some(socket.cookie), text(&name(process, comm), &place(socket)))
    };
    let (process, cookie, text) = match &event.body {
        Body::Bind(bind) => of(bind.process, &bind.comm, &bind.socket, &|who, place| {
            let chosen = if bind.requested_port == 0 { ", the kernel chose the port" } else { "" };
            format!("{who} bound {place}{}{chosen}", with(bind.socket.options))
        }),
        Body::Socket(found) => {
            let text = format!(
                "{} was there already{}, in the hands of {}",
                place(&found.socket),
                with(found.socket.options),
                all(&found.holders)
            );
            (found.holders.first().copied(), Some(found.socket.cookie), text)
        }
        Body::Changed(changed) => {
            let who = changed.process.map_or_else(String::new, |one| format!(" of {}", name(one, "")));
            let text = format!(
                "socket {}{who} is on {} now{}",
                changed.socket.cookie.0,
                place(&changed.socket),
                with(changed.socket.options)
            );
            (changed.process, Some(changed.socket.cookie), text)
        }
        Body::Listen(listen) => {
            of(listen.process, "", &listen.socket, &|who, place| format!("{who} listens on {place}"))
        }
        Body::BindFailed(failed) => of(failed.process, &failed.comm, &failed.socket, &|who, place| {
            format!("{who} could not bind {place}: {}", failed.errno)
        }),
        Body::ListenFailed(failed) => of(failed.process, &failed.comm, &failed.socket, &|who, place| {
            format!("{who} could not listen on {place}: {}", failed.errno)
        }),
        Body::Unresolved(tried) => of(tried.process, &tried.comm, &tried.socket, &|who, place| {
            format!("{who} tried to bind {place}, and how that ended is not known")
        }),
        Body::Denied(denied) => of(denied.process, &denied.comm, &denied.socket, &|who, place| {
            format!("{who} was denied {place}, which {} holds", name(denied.holder, ""))
        }),
        Body::Waiting(waiting) => of(waiting.process, &waiting.comm, &waiting.socket, &|who, place| {
            let call = match waiting.call {
                WaitingCall::Bind => "bind",
                WaitingCall::Listen => "listen on",
            };
            format!("{who} began to wait until it can {call} {place}")
        }),
        Body::Waited(waited) => {
            let how = match waited.outcome {
                WaitOutcome::Done => "and has what it wanted",
                WaitOutcome::TimedOut => "and fails: the time is over",
                WaitOutcome::Interrupted => "and was interrupted",
                WaitOutcome::Released => "and was left to the kernel",
            };
            let how_long = duration_text(waited.waited_ns);
            let text = format!("{} waited {how_long} {how}", name(waited.process, ""));
            (Some(waited.process), Some(waited.cookie), text)
        }
        Body::Table(row) => {
            let peer = row.peer.map_or_else(String::new, |peer| format!(" with {peer}"));
            let owner =
                row.last_owner.map_or_else(String::new, |owner| format!(", last of {}", name(owner, "")));
            let state = serde_json::to_value(row.state).ok();
            let state = state.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default();
            let text = format!(
                "the kernel had {} there for event {}, in state {state}{peer}, in the hands of {}{owner}",
                place(&row.socket),
                row.asked_by.0,
                all(&row.holders)
            );
            (row.holders.first().copied(), Some(row.socket.cookie), text)
        }
        Body::Option(option) => {
            let what = match option.setting {
                Setting::ReuseAddr(set) => format!("SO_REUSEADDR was {} on", switched(set)),
                Setting::ReusePort(set) => format!("SO_REUSEPORT was {} on", switched(set)),
                Setting::Device(device) => format!("device {} was set on", device.0),
                Setting::Multicast => "a multicast group was joined by".to_owned(),
            };
            (None, Some(option.cookie), format!("{what} {}", on(option.cookie)))
        }
        Body::Unlisten(unlisten) => (
            None,
            Some(unlisten.cookie),
            format!(
                "{} stopped listening, with {} in its queue",
                on(unlisten.cookie),
                plural(unlisten.backlog.into(), "connection")
            ),
        ),
        Body::Accepted(accepted) => (
            None,
            Some(accepted.cookie),
            format!("{} got {} in all", on(accepted.cookie), plural(accepted.connections, "connection")),
        ),
        Body::Close(close) => (None, Some(close.cookie), format!("{} was closed", on(close.cookie))),
        Body::Gone(gone) => (None, Some(gone.cookie), format!("{} is gone", on(gone.cookie))),
        Body::Holders(holders) => (
            holders.processes.first().copied(),
            Some(holders.cookie),
            format!("{} is in the hands of {}", on(holders.cookie), all(&holders.processes)),
        ),
        Body::Note(note) => (
            Some(note.process),
            None,
            format!("note of {}: {}", name(note.process, ""), escape::cut(&note.text, NOTE_CHARS)),
        ),
        Body::Job(job) => {
            let phase = if matches!(job.phase, crate::event::JobPhase::Start) { "started" } else { "ended" };
            (job.process, None, format!("the job {} {phase}", escape::cut(&job.name, NOTE_CHARS)))
        }
        Body::Lost(lost) => {
            let count = lost.counts.values().fold(0_u64, |sum, count| sum.saturating_add(*count));
            (
                None,
                None,
                format!("{} lost: what happened meanwhile may be missing", words::were(count, "event")),
            )
        }
        Body::Omitted(omitted) => (
            None,
            None,
            format!(
                "{} not in the log any more: what had ended by then and is in no finding",
                words::are(omitted.events, "event")
            ),
        ),
        _ => return None,
    };
    Some(Told { process, cookie, text })
}

const fn switched(set: bool) -> &'static str {
    if set { "set" } else { "taken back" }
}

pub(super) fn place(socket: &SocketFacts) -> String {
    format!("{} {}", socket.protocol, words::endpoint(socket.address, socket.port))
}

pub(super) fn with(options: Options) -> String {
    let names = json::option_names(options);
    if names.is_empty() { String::new() } else { format!(" with {}", names.join(" and ")) }
}
