//! What is over and still explains a failure: ports that were released a moment ago, and closed TCP sockets whose
//! connections keep the port.

use std::collections::{BTreeMap, BTreeSet, VecDeque, hash_map};

use crate::event::{BootTime, Cookie, Family, Options, ProcessKey, Protocol, Seq, TcpState, Uid};

use super::holdings::Table;
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

/// A release in the queue.
#[derive(Clone, Copy, Debug)]
struct Queued {
    port: u64,
    release: Release,
    /// Number of the release of this port before.
    before: u64,
    /// The process released the port again since, with no other in between: that one counts.
    repeated: bool,
}

/// The latest release of each port by each process, while it is recent.
///
/// Nearly all of them are never asked for: they are queued as they come, each port's linked from the latest back.
#[derive(Default)]
pub(super) struct Releases {
    queue: VecDeque<Queued>,
    /// Number of the queue's first release; the first ever has 1.
    first: u64,
    repeated: usize,
    /// Number of each port's latest release, by [`PortKey::packed`].
    latest: Table<u64, u64>,
}

impl Releases {
    /// Remembers a release. True when one had to be forgotten that was still recent.
    pub(super) fn add(&mut self, socket: &Socket, seq: Seq, at: BootTime) -> bool {
        let Some(process) = socket.binder.or(socket.holders().first().copied()) else { return false };
        let port = socket.port.packed();
        let release = Release { process, cookie: socket.cookie, bound: socket.known, released: seq, at };
        self.first = self.first.max(1);
        let number = self.first + self.queue.len() as u64;
        let before = self.latest.insert(port, number).unwrap_or(0);
        if let Some(known) = self.queued(before)
            && known.release.process == process
        {
            known.repeated = true;
            self.repeated += 1;
        }
        self.queue.push_back(Queued { port, release, before, repeated: false });
        let mut forgot = false;
        while let Some(oldest) = self.queue.front() {
            let aged = at.since(oldest.release.at) > RELEASE_NS;
            let full = self.queue.len() - self.repeated > RELEASES_MAX || self.queue.len() > 2 * RELEASES_MAX;
            if !aged && !full && !oldest.repeated {
                break;
            }
            forgot |= !aged && !oldest.repeated;
            self.repeated -= usize::from(oldest.repeated);
            if let hash_map::Entry::Occupied(latest) = self.latest.entry(oldest.port)
                && *latest.get() == self.first
            {
                latest.remove();
            }
            self.queue.pop_front();
            self.first += 1;
        }
        forgot
    }

    /// The release of this number, when it is in the queue still.
    fn queued(&mut self, number: u64) -> Option<&mut Queued> {
        let at = number.checked_sub(self.first)?;
        self.queue.get_mut(usize::try_from(at).ok()?)
    }

    /// The latest release of a port by each process in the last minute, by process.
    pub(super) fn of(&self, port: PortKey, now: BootTime) -> Vec<Release> {
        let mut found: BTreeMap<ProcessKey, Release> = BTreeMap::new();
        let mut next = self.latest.get(&port.packed()).copied().unwrap_or(0);
        while let Some(queued) = next
            .checked_sub(self.first)
            .and_then(|at| usize::try_from(at).ok())
            .and_then(|at| self.queue.get(at))
        {
            next = queued.before;
            let release = queued.release;
            found.entry(release.process).or_insert(release);
        }
        found.retain(|_, release| now.since(release.at) <= RELEASE_NS);
        found.into_values().collect()
    }

    /// Who had a socket that was closed in the last minute: a TIME_WAIT entry keeps the cookie.
    pub(super) fn owner_of(&self, port: PortKey, cookie: Cookie, now: BootTime) -> Option<ProcessKey> {
        self.of(port, now).iter().find(|release| release.cookie == cookie).map(|release| release.process)
    }

    pub(super) fn processes(&self) -> impl Iterator<Item = ProcessKey> + '_ {
        self.queue.iter().map(|queued| queued.release.process)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let repeated = self.queue.iter().filter(|queued| queued.repeated).count();
        let ports: BTreeSet<u64> = self.queue.iter().map(|queued| queued.port).collect();
        let (length, known) = (self.queue.len(), self.latest.len());
        if repeated != self.repeated || ports.len() != known || length > 2 * RELEASES_MAX {
            return Err(format!(
                "{length} releases of {} ports, {known} known, {repeated} repeated",
                ports.len()
            ));
        }
        Ok(())
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
        if !self.sockets.is_empty()
            && let Some(lingering) = self.sockets.remove(&cookie)
        {
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
