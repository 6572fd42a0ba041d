//! What is over and still explains a failure: ports that were released a moment ago, and closed TCP sockets whose
//! connections keep the port.

use std::collections::{BTreeMap, BTreeSet};

use crate::event::{BootTime, Cookie, Family, Options, ProcessKey, Protocol, Seq, TcpState, Uid};

use super::place::{Place, PortKey};
use super::socket::Socket;

/// How long a release explains that somebody else has the port, ns.
pub(super) const RELEASE_NS: u64 = 60_000_000_000;
/// Ports whose release is remembered, each once for each process, releases.
pub(super) const RELEASES_MAX: usize = 65_536;
/// Closed sockets with connections remembered, sockets.
pub(super) const LINGERING_MAX: usize = 16_384;

/// A process gave a port up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Release {
    pub(super) process: ProcessKey,
    cookie: Cookie,
    pub(super) bound: Seq,
    pub(super) released: Seq,
    at: BootTime,
}

/// The latest release of each port by each process, while it is recent.
#[derive(Default)]
pub(super) struct Releases {
    by_port: BTreeMap<(PortKey, ProcessKey), Release>,
    in_order: BTreeSet<(Seq, PortKey, ProcessKey)>,
}

impl Releases {
    /// Remembers a release. True when one had to be forgotten that was still recent.
    pub(super) fn add(&mut self, socket: &Socket, seq: Seq, at: BootTime) -> bool {
        let Some(process) = socket.binder.or(socket.holders().first().copied()) else { return false };
        let key = (socket.port, process);
        let release = Release { process, cookie: socket.cookie, bound: socket.known, released: seq, at };
        if let Some(before) = self.by_port.insert(key, release) {
            self.in_order.remove(&(before.released, socket.port, process));
        }
        self.in_order.insert((seq, socket.port, process));
        let full = self.by_port.len() > RELEASES_MAX;
        let Some((_, port, process)) = self.in_order.first().copied() else { return false };
        let age = self.by_port.get(&(port, process)).map_or(0, |oldest| at.since(oldest.at));
        if full || age > RELEASE_NS {
            self.in_order.pop_first();
            self.by_port.remove(&(port, process));
        }
        full && age <= RELEASE_NS
    }

    /// Releases of a port in the last minute.
    pub(super) fn of(&self, port: PortKey, now: BootTime) -> impl Iterator<Item = &Release> {
        let lowest = ProcessKey { tgid: 0, start: 0 };
        let highest = ProcessKey { tgid: u32::MAX, start: u64::MAX };
        let of_port = self.by_port.range((port, lowest)..=(port, highest)).map(|(_, release)| release);
        of_port.filter(move |release| now.since(release.at) <= RELEASE_NS)
    }

    /// Who had a socket that was closed in the last minute: a TIME_WAIT entry keeps the cookie.
    pub(super) fn owner_of(&self, port: PortKey, cookie: Cookie, now: BootTime) -> Option<ProcessKey> {
        self.of(port, now).find(|release| release.cookie == cookie).map(|release| release.process)
    }

    pub(super) fn processes(&self) -> impl Iterator<Item = ProcessKey> + '_ {
        self.by_port.values().map(|release| release.process)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let ordered = self.in_order.len();
        if ordered == self.by_port.len() && ordered <= RELEASES_MAX {
            return Ok(());
        }
        Err(format!("{} releases, {ordered} in order", self.by_port.len()))
    }
}

/// A TCP socket that nobody has open, whose connection is not at its end.
#[derive(Clone, Debug)]
pub(super) struct Lingering {
    pub(super) port: PortKey,
    pub(super) place: Place,
    pub(super) family: Family,
    pub(super) options: Options,
    pub(super) uid: Uid,
    pub(super) owner: Option<ProcessKey>,
    /// The event that closed it, or listed it.
    pub(super) seq: Seq,
    pub(super) round: u32,
}

/// Those sockets, until the kernel destroys them.
#[derive(Default)]
pub(super) struct Linger {
    sockets: BTreeMap<Cookie, Lingering>,
    by_port: BTreeSet<(PortKey, Cookie)>,
}

impl Linger {
    /// Takes in a socket that was closed, if its connection outlives it. True when another had to be forgotten.
    pub(super) fn closed(&mut self, socket: &Socket, state: TcpState, seq: Seq) -> bool {
        let ends_at_once = matches!(state, TcpState::Close | TcpState::Listen | TcpState::SynSent);
        if socket.port.protocol != Protocol::Tcp || ends_at_once || socket.port.port == 0 {
            return false;
        }
        let owner = socket.binder.or(socket.holders().first().copied());
        self.add(socket, owner, seq, socket.round)
    }

    pub(super) fn add(&mut self, socket: &Socket, owner: Option<ProcessKey>, seq: Seq, round: u32) -> bool {
        let owner = owner.or(self.sockets.get(&socket.cookie).and_then(|known| known.owner));
        let lingering = Lingering {
            port: socket.port,
            place: socket.place,
            family: socket.family,
            options: socket.options,
            uid: socket.uid,
            owner,
            seq,
            round,
        };
        self.gone(socket.cookie);
        let full = self.sockets.len() >= LINGERING_MAX;
        if full && let Some(oldest) = self.sockets.keys().next().copied() {
            self.gone(oldest);
        }
        self.by_port.insert((socket.port, socket.cookie));
        self.sockets.insert(socket.cookie, lingering);
        full
    }

    pub(super) fn gone(&mut self, cookie: Cookie) {
        if let Some(lingering) = self.sockets.remove(&cookie) {
            self.by_port.remove(&(lingering.port, cookie));
        }
    }

    pub(super) fn on_port(&self, port: PortKey) -> impl Iterator<Item = (Cookie, &Lingering)> {
        let on_port = self.by_port.range((port, Cookie(0))..=(port, Cookie(u64::MAX)));
        on_port.filter_map(|(_, cookie)| self.sockets.get(cookie).map(|lingering| (*cookie, lingering)))
    }

    /// After a complete inventory: forgets what was closed before it began and is not in it.
    pub(super) fn settle(&mut self, began: Seq, round: u32) {
        let over: Vec<Cookie> = self
            .sockets
            .iter()
            .filter(|(_, lingering)| lingering.seq < began && lingering.round != round)
            .map(|(cookie, _)| *cookie)
            .collect();
        for cookie in over {
            self.gone(cookie);
        }
    }

    pub(super) fn owners(&self) -> impl Iterator<Item = ProcessKey> + '_ {
        self.sockets.values().filter_map(|lingering| lingering.owner)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.sockets.len() == self.by_port.len() {
            return Ok(());
        }
        Err(format!("{} lingering sockets, {} indexed", self.sockets.len(), self.by_port.len()))
    }
}
