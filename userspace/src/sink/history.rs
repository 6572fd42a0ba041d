//! The story of one address or endpoint: every event that touched it, in order, with its number.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufWriter, Write};

use serde::Serialize;

use super::told::{Told, place, told, with};
use super::words::{self, plural};
use super::{Report, json, text};
use crate::cli::Target;
use crate::clock::Anchors;
use crate::event::{
    Body, BootTime, Cookie, Event, Family, NetnsCookie, Options, ProcessKey, Seq, SocketFacts, Uid,
};
use crate::ledger::View;
use crate::ledger::finding::{Finding, Holder};

/// Lines of a story; what comes after them is counted.
const LINES_MAX: usize = 10_000;
/// Sockets of one story that are followed.
const SOCKETS_MAX: usize = 65_536;

/// What is told of an event.
#[derive(Clone, Debug, Serialize)]
struct Entry {
    seq: Seq,
    #[serde(skip)]
    when: BootTime,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<ProcessKey>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cookie: Option<Cookie>,
    text: String,
}

/// The story of what was asked for.
#[derive(Clone, Debug)]
pub struct History {
    target: Target,
    at: Option<BootTime>,
    /// Who held it at that time, once it was reached.
    held: Option<Vec<Holder>>,
    /// Sockets that were there and are not closed, with their endpoints.
    sockets: BTreeMap<Cookie, SocketFacts>,
    /// Sockets of calls that wait for it.
    waiting: BTreeSet<Cookie>,
    entries: Vec<Entry>,
    left_out: u64,
}

/// A story as JSON has it.
#[derive(Serialize)]
pub(super) struct Shape<'a> {
    target: String,
    at: Option<String>,
    holders: Option<Vec<json::Holder<'a>>>,
    events: Vec<Timed<'a>>,
    left_out: u64,
}

#[derive(Serialize)]
struct Timed<'a> {
    at: String,
    #[serde(flatten)]
    entry: &'a Entry,
}

/// The endpoint of a finding as a socket that is bound to it.
#[must_use]
pub fn endpoint_of(finding: &Finding) -> SocketFacts {
    SocketFacts {
        cookie: Cookie(0),
        netns: finding.netns,
        netns_cookie: NetnsCookie(0),
        family: if finding.address.is_ipv4() { Family::Inet } else { Family::Inet6 },
        protocol: finding.protocol,
        address: finding.address,
        port: finding.port,
        options: Options::default(),
        uid: Uid(0),
    }
}

impl History {
    /// Nothing yet; `at` is when to look who holds it.
    #[must_use]
    pub fn new(target: Target, at: Option<BootTime>) -> Self {
        let (held, sockets, entries) = (None, BTreeMap::new(), Vec::new());
        Self { target, at, held, sockets, waiting: BTreeSet::new(), entries, left_out: 0 }
    }

    /// How many of these events are before the time that was asked for, or all when it is over.
    #[must_use]
    pub fn before(&self, events: &[Event]) -> usize {
        match self.at.filter(|_| self.held.is_none()) {
            Some(at) => events.iter().position(|event| event.at > at).unwrap_or(events.len()),
            None => events.len(),
        }
    }

    /// The time that was asked for is reached: the state is looked at, once.
    pub fn reach(&mut self, view: &View<'_>) {
        if self.at.is_none() || self.held.is_some() {
            return;
        }
        let here = view.sockets().filter(|socket| self.sockets.contains_key(&socket.cookie()));
        self.held =
            Some(here.filter(|socket| !socket.is_unheld()).flat_map(|socket| socket.holders()).collect());
    }

    /// Masks the arguments of everybody who is in it.
    pub(super) fn mask(&mut self) {
        for holder in self.held.iter_mut().flatten() {
            crate::secrets::mask_arguments(&mut holder.cmdline);
        }
    }

    /// Which of these events belong to the story.
    pub fn choose(&mut self, events: &[Event]) -> Vec<Event> {
        events.iter().filter(|event| self.belongs(&event.body)).cloned().collect()
    }

    fn belongs(&mut self, body: &Body) -> bool {
        match body {
            Body::Bind(bind) => self.follow(&bind.socket),
            Body::Socket(found) => self.follow(&found.socket),
            Body::Changed(changed) => self.follow(&changed.socket),
            Body::Listen(listen) => self.follow(&listen.socket),
            Body::BindFailed(failed) => self.target.takes(&failed.socket),
            Body::Unresolved(unresolved) => self.target.takes(&unresolved.socket),
            Body::ListenFailed(failed) => self.target.takes(&failed.socket),
            Body::Denied(denied) => self.target.takes(&denied.socket),
            Body::Waiting(waiting) => {
                let takes = self.target.takes(&waiting.socket);
                if takes && self.waiting.len() < SOCKETS_MAX {
                    self.waiting.insert(waiting.socket.cookie);
                }
                takes
            }
            Body::Waited(waited) => self.waiting.remove(&waited.cookie),
            Body::Table(row) => self.target.takes(&row.socket),
            Body::Option(option) => self.sockets.contains_key(&option.cookie),
            Body::Unlisten(unlisten) => self.sockets.contains_key(&unlisten.cookie),
            Body::Accepted(accepted) => self.sockets.contains_key(&accepted.cookie),
            Body::Close(close) => self.sockets.contains_key(&close.cookie),
            Body::Gone(gone) => self.sockets.contains_key(&gone.cookie),
            Body::Holders(holders) => self.sockets.contains_key(&holders.cookie),
            Body::Note(_) | Body::Job(_) | Body::Lost(_) | Body::Omitted(_) => true,
            _ => false,
        }
    }

    /// Follows a socket from here on if it is on the endpoint. One that leaves it (disconnects) belongs once more.
    fn follow(&mut self, socket: &SocketFacts) -> bool {
        let known = self.sockets.contains_key(&socket.cookie);
        if !self.target.takes(socket) {
            self.sockets.remove(&socket.cookie);
            return known;
        }
        if known || self.sockets.len() < SOCKETS_MAX {
            self.sockets.insert(socket.cookie, socket.clone());
        }
        true
    }

    /// Tells the chosen events; `view` is the state behind them.
    pub fn take(&mut self, events: Vec<Event>, view: &View<'_>) {
        for event in events {
            if self.entries.len() >= LINES_MAX {
                self.left_out += 1;
            } else if let Some(entry) = self.tell(&event, view) {
                self.entries.push(entry);
            }
            if let Body::Gone(gone) = &event.body {
                self.sockets.remove(&gone.cookie);
            }
        }
    }

    fn tell(&self, event: &Event, view: &View<'_>) -> Option<Entry> {
        let Told { process, cookie, text } =
            told(event, view, |cookie| self.sockets.get(&cookie).map(place))?;
        Some(Entry { seq: event.seq, when: event.at, event: event.body.type_name(), process, cookie, text })
    }

    pub(super) fn shape(&self, clock: Anchors) -> Shape<'_> {
        Shape {
            target: self.target.to_string(),
            at: self.at.map(|at| clock.rfc3339(at)),
            holders: self
                .held
                .as_ref()
                .map(|held| held.iter().map(|held| json::holder(held, clock)).collect()),
            events: self.entries.iter().map(|entry| Timed { at: clock.rfc3339(entry.when), entry }).collect(),
            left_out: self.left_out,
        }
    }
}

/// Writes the story, and the findings behind it.
pub(super) fn write(report: &Report, style: text::Style, out: &mut dyn Write) -> io::Result<()> {
    let Some(history) = &report.history else { return Ok(()) };
    {
        let mut out = BufWriter::new(&mut *out);
        for notice in &report.notices {
            writeln!(out, "{}: {notice}", style.severity(crate::ledger::finding::Severity::Warning))?;
        }
        let clock = report.clock;
        if let (Some(at), Some(held)) = (history.at, &history.held) {
            writeln!(out, "{} at {}:", history.target, clock.rfc3339(at))?;
            for holder in held {
                let since = holder.bound_at.map_or_else(
                    || format!("since {}", words::unseen_start(holder)),
                    |since| format!("since {}", clock.rfc3339(since)),
                );
                let place = words::endpoint(holder.address, holder.port);
                writeln!(out, "  {} held {place} {since}{}", words::process(holder), with(holder.options))?;
            }
            if held.is_empty() {
                writeln!(out, "  nobody held it")?;
            }
            writeln!(out)?;
        }
        writeln!(
            out,
            "{} from {} to {}:",
            history.target,
            clock.rfc3339(report.window.start),
            clock.rfc3339(report.window.end)
        )?;
        let day = |at| clock.rfc3339(at).get(..10).map(str::to_owned);
        let one_day = day(report.window.start) == day(report.window.end);
        if history.entries.is_empty() {
            writeln!(out, "  nothing happened there")?;
        }
        for entry in &history.entries {
            let at = clock.rfc3339(entry.when);
            let time = if one_day { at.get(11..23).unwrap_or_default() } else { &at };
            writeln!(out, "  {time}  {:>6}  {}", entry.seq.0, entry.text)?;
        }
        if history.left_out > 0 {
            writeln!(out, "  and {} more", plural(history.left_out, "event"))?;
        }
        if report.findings.is_empty() {
            writeln!(out, "\nNo findings there")?;
            return out.flush();
        }
        writeln!(out)?;
        out.flush()?;
    }
    text::findings(report, style, out)
}
