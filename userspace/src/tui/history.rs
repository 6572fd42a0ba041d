//! Who held which endpoint before: what the ledger forgets because nothing holds it any more. A fold of events.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::net::IpAddr;

use crate::event::{Body, BootTime, Cookie, Event, Inum, ProcessKey, Protocol, Seq};
use crate::ledger::{SocketView, View};
use crate::sink::words;

/// Past holders remembered of all endpoints together; the oldest are forgotten.
pub const TENURES_MAX: usize = 65_536;
/// Past holders remembered of one endpoint.
pub const TENURES_OF_ONE: usize = 256;
/// Counts of connections that wait for the close of their listener.
const ACCEPTED_MAX: usize = 65_536;
/// Closed sockets whose place is remembered: as many as there are events on the screen that could name them.
const CLOSED_MAX: usize = 10_000;
/// Holders of one socket that are remembered.
const HOLDERS_MAX: usize = 16;

/// An endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spot {
    /// Its network namespace.
    pub netns: Inum,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its port.
    pub port: u16,
    /// Its address.
    pub address: IpAddr,
}

impl Spot {
    /// Where a socket is bound.
    #[must_use]
    pub const fn of(socket: SocketView<'_>) -> Self {
        Self {
            netns: socket.netns(),
            protocol: socket.protocol(),
            port: socket.port(),
            address: socket.address(),
        }
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol, words::endpoint(self.address, self.port))
    }
}

/// A process's time on an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenure {
    /// Who; None when nobody is known.
    pub process: Option<ProcessKey>,
    /// Its name.
    pub comm: Box<str>,
    /// With which socket.
    pub cookie: Cookie,
    /// From when; None before the recording.
    pub from: Option<BootTime>,
    /// Until when; None while it holds.
    pub until: Option<BootTime>,
    /// Connections that came to it; None when not counted, or not yet.
    pub accepted: Option<u64>,
    /// The event of its end; 0 while it holds.
    pub ended_by: Seq,
}

/// The past.
#[derive(Default)]
pub struct History {
    spots: BTreeMap<Spot, VecDeque<Tenure>>,
    /// Whose turn it is to be forgotten.
    order: VecDeque<Spot>,
    accepted: HashMap<Cookie, u64>,
    /// Where the last closed sockets were, and in which order they were closed.
    closed: HashMap<Cookie, Spot>,
    closed_order: VecDeque<Cookie>,
}

impl History {
    /// Looks at an event that the ledger is about to take: what `view` still holds may be over with it.
    pub fn before(&mut self, event: &Event, view: View<'_>) {
        match &event.body {
            Body::Accepted(accepted) => {
                if self.accepted.len() >= ACCEPTED_MAX {
                    self.accepted.clear();
                }
                self.accepted.insert(accepted.cookie, accepted.connections);
            }
            Body::Close(close) => self.over(close.cookie, event, view),
            Body::Gone(gone) => self.over(gone.cookie, event, view),
            Body::Changed(changed) => {
                let now = &changed.socket;
                let moved = view.socket(now.cookie).is_some_and(|before| {
                    before.port() != 0 && (before.port(), before.address()) != (now.port, now.address)
                });
                if moved {
                    self.over(now.cookie, event, view);
                }
            }
            _ => {}
        }
    }

    fn over(&mut self, cookie: Cookie, event: &Event, view: View<'_>) {
        let Some(socket) = view.socket(cookie).filter(|socket| socket.port() != 0) else { return };
        let spot = Spot::of(socket);
        self.remember(cookie, spot);
        let known = self.spots.get(&spot).is_some_and(|tenures| {
            tenures.iter().rev().take(HOLDERS_MAX).any(|tenure| tenure.cookie == cookie)
        });
        if known {
            return;
        }
        let accepted = self.accepted.remove(&cookie);
        for mut tenure in tenures(socket, view) {
            tenure.until = Some(event.at);
            tenure.accepted = accepted;
            tenure.ended_by = event.seq;
            self.push(spot, tenure);
        }
    }

    fn remember(&mut self, cookie: Cookie, spot: Spot) {
        if self.closed.insert(cookie, spot).is_none() {
            self.closed_order.push_back(cookie);
        }
        if self.closed_order.len() > CLOSED_MAX
            && let Some(oldest) = self.closed_order.pop_front()
        {
            self.closed.remove(&oldest);
        }
    }

    /// Where a socket was that is closed.
    #[must_use]
    pub fn closed(&self, cookie: Cookie) -> Option<Spot> {
        self.closed.get(&cookie).copied()
    }

    fn push(&mut self, spot: Spot, tenure: Tenure) {
        let past = self.spots.entry(spot).or_default();
        if past.len() >= TENURES_OF_ONE {
            past.pop_front();
        } else {
            self.order.push_back(spot);
        }
        past.push_back(tenure);
        if self.order.len() > TENURES_MAX
            && let Some(oldest) = self.order.pop_front()
            && let Some(past) = self.spots.get_mut(&oldest)
        {
            past.pop_front();
            if past.is_empty() {
                self.spots.remove(&oldest);
            }
        }
    }

    /// Connections that came to a listener that is still there, as far as they were counted.
    #[must_use]
    pub fn accepted(&self, cookie: Cookie) -> Option<u64> {
        self.accepted.get(&cookie).copied()
    }

    /// Who held an endpoint, oldest first.
    pub fn past(&self, spot: &Spot) -> impl Iterator<Item = &Tenure> {
        self.spots.get(spot).into_iter().flatten()
    }
}

/// Who has a socket now.
pub fn tenures<'a>(socket: SocketView<'a>, view: View<'a>) -> impl Iterator<Item = Tenure> + use<'a> {
    let named = move |process: Option<ProcessKey>| Tenure {
        process,
        comm: process
            .and_then(|process| view.process(process))
            .map(|facts| facts.comm.as_str())
            .unwrap_or_default()
            .into(),
        cookie: socket.cookie(),
        from: socket.bound_at(),
        until: None,
        accepted: None,
        ended_by: Seq(0),
    };
    let nobody = socket.processes().is_empty().then(|| named(None));
    socket.processes().iter().take(HOLDERS_MAX).map(move |process| named(Some(*process))).chain(nobody)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::super::tests::{Stage, WILD};

    #[test]
    fn holders_are_remembered_when_they_let_go() {
        let mut stage = Stage::new();
        stage.binds(1, 4711, "127.0.0.1:80", 10);
        stage.accepted(1, 3);
        stage.closes(1, 20);
        stage.binds(2, 4712, "127.0.0.1:80", 30);
        let spot = stage.spot("127.0.0.1:80");
        let past: Vec<_> = stage.world.history().past(&spot).collect();
        assert_eq!(past.len(), 1);
        let tenure = past.first().unwrap();
        assert_eq!((tenure.from.unwrap().0, tenure.until.unwrap().0), (10_000_000, 20_000_000));
        assert_eq!(stage.world.place_of(super::Cookie(1)).as_deref(), Some("tcp 127.0.0.1:80"));
        assert_eq!((tenure.process.unwrap().tgid, tenure.accepted, &*tenure.comm), (4711, Some(3), "p4711"));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut stage = Stage::new();
        for cookie in 1..=super::TENURES_OF_ONE as u64 + 5 {
            stage.binds(cookie, 1, WILD, cookie);
            stage.closes(cookie, cookie);
        }
        let spot = stage.spot(WILD);
        let past: Vec<_> = stage.world.history().past(&spot).map(|tenure| tenure.cookie.0).collect();
        assert_eq!((past.len(), past.first()), (super::TENURES_OF_ONE, Some(&6)));
    }
}
