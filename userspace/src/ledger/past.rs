//! What is over and still explains a failure: ports that were released a moment ago, and closed TCP sockets whose
//! connections keep the port.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::event::{BootTime, Cookie, Family, Options, ProcessKey, Protocol, Seq, TcpState, Uid};

use super::holdings::Table;
use super::place::{Place, PortKey};
use super::socket::Socket;

/// How long a release explains that somebody else has the port, ns.
pub(super) const RELEASE_NS: u64 = 60_000_000_000;
/// Ports whose release is remembered, each once for each process, releases.
pub(super) const RELEASES_MAX: usize = 65_536;
/// Ports of which a release was remembered that are kept, forgotten ones included, ports: twice what the queue can have.
const LATEST_MAX: usize = 4 * RELEASES_MAX;
/// From how many on those that no longer count are taken out of the queue, when they are half of it, releases.
const TIDY_MIN: usize = if cfg!(test) { 8 } else { 8_192 };
/// Closed sockets with connections remembered, sockets.
pub(crate) const LINGERING_MAX: usize = 16_384;

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

/// The latest release of a port: its number, and who released it, so that the queue is not looked into.
#[derive(Clone, Copy, Debug)]
struct Latest {
    number: u64,
    process: ProcessKey,
}

/// The latest release of each port by each process, while it is recent.
///
/// Nearly all of them are never asked for: they are queued as they come, and when somebody asks, or there are many, each
/// port's are linked from the latest back.
#[derive(Default)]
pub(super) struct Releases {
    queue: VecDeque<Queued>,
    /// Number of the queue's first release; the first ever has 1.
    first: u64,
    /// Number of the first release that is not linked yet.
    unlinked: u64,
    repeated: usize,
    /// Each port's latest release, by [`PortKey::packed`]; with a number before `first` it is forgotten.
    latest: Table<u64, Latest>,
}

impl Releases {
    /// Remembers a release. True when one had to be forgotten that was still recent.
    pub(super) fn add(&mut self, socket: &Socket, seq: Seq, at: BootTime) -> bool {
        let Some(process) = socket.binder.or(socket.holders().first().copied()) else { return false };
        let port = socket.port.packed();
        let release = Release { process, cookie: socket.cookie, bound: socket.known, released: seq, at };
        self.first = self.first.max(1);
        self.queue.push_back(Queued { port, release, before: 0, repeated: false });
        let unlinked = self.queue.len() - self.linked();
        if self.queue.len() > RELEASES_MAX || unlinked >= TIDY_MIN {
            self.link();
            self.tidy();
        }
        let mut forgot = false;
        while let Some(oldest) = self.queue.front() {
            let aged = at.since(oldest.release.at) > RELEASE_NS;
            let full = self.queue.len() - self.repeated > RELEASES_MAX || self.queue.len() > 2 * RELEASES_MAX;
            if !aged && !full && !oldest.repeated {
                break;
            }
            forgot |= !aged && !oldest.repeated;
            self.repeated -= usize::from(oldest.repeated);
            self.queue.pop_front();
            self.first += 1;
        }
        forgot
    }

    /// Links what came since this was called last: to be called before [`Releases::of`], which has to look through it
    /// otherwise.
    pub(super) fn link(&mut self) {
        let end = self.first + self.queue.len() as u64;
        for number in self.unlinked.max(self.first)..end {
            let Some(at) = self.place(number) else { continue };
            let Some((port, process)) =
                self.queue.get(at).map(|queued| (queued.port, queued.release.process))
            else {
                continue;
            };
            let Some(before) = self.latest.insert(port, Latest { number, process }) else { continue };
            if before.process == process
                && let Some(known) = self.place(before.number).and_then(|at| self.queue.get_mut(at))
            {
                known.repeated = true;
                self.repeated += 1;
            }
            if let Some(queued) = self.queue.get_mut(at) {
                queued.before = before.number;
            }
        }
        self.unlinked = end;
        if self.latest.len() > LATEST_MAX {
            // At most half of them are in the queue, so this is rare.
            self.latest.retain(|_, latest| latest.number >= self.first);
        }
    }

    /// Takes out what no longer counts, where that is most of the queue: a server that binds one port again and again leaves one
    /// release and not as many as there is room for.
    fn tidy(&mut self) {
        if self.queue.len() < TIDY_MIN || self.repeated < self.queue.len() / 2 {
            return;
        }
        // A number is a place: all of them begin anew, behind those that there were, which are forgotten by that.
        self.first += self.queue.len() as u64;
        self.queue.retain(|queued| !queued.repeated);
        self.repeated = 0;
        self.unlinked = self.first;
        self.link();
    }

    /// Where in the queue the release of this number is, when it is not forgotten.
    fn place(&self, number: u64) -> Option<usize> {
        usize::try_from(number.checked_sub(self.first)?).ok()
    }

    /// How many of the queue's releases are linked, from the first.
    fn linked(&self) -> usize {
        self.place(self.unlinked).unwrap_or(0).min(self.queue.len())
    }

    /// The latest release of a port by each process in the last minute, by process.
    pub(super) fn of(&self, port: PortKey, now: BootTime) -> Vec<Release> {
        let mut found: BTreeMap<ProcessKey, Release> = BTreeMap::new();
        let recent = self.queue.range(self.linked()..).rev();
        for queued in recent.filter(|queued| queued.port == port.packed()) {
            found.entry(queued.release.process).or_insert(queued.release);
        }
        let mut next = self.latest.get(&port.packed()).map_or(0, |latest| latest.number);
        while let Some(queued) = self.place(next).and_then(|at| self.queue.get(at)) {
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
        let linked = self.queue.range(..self.linked());
        let ports: BTreeSet<u64> = linked.map(|queued| queued.port).collect();
        let known = self.latest.values().filter(|latest| latest.number >= self.first).count();
        let length = self.queue.len();
        let too_many = length > 2 * RELEASES_MAX || self.latest.len() > LATEST_MAX;
        if repeated != self.repeated || ports.len() != known || too_many {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::{Ifindex, Inum, NetnsCookie, SocketFacts};
    use crate::ledger::socket::State;

    fn socket(cookie: u64, port: u16, tgid: u32) -> Box<Socket> {
        let facts = SocketFacts {
            cookie: Cookie(cookie),
            netns: Inum(1),
            netns_cookie: NetnsCookie(1),
            family: Family::Inet,
            protocol: Protocol::Tcp,
            address: std::net::IpAddr::from([127, 0, 0, 1]),
            port,
            options: Options { device: Ifindex(0), ..Options::default() },
            uid: Uid(0),
        };
        let binder = ProcessKey { tgid, start: 1 };
        Socket::new(&facts, State::Bound, Some(binder), Some(BootTime(1)), Seq(cookie))
    }

    /// And what another process released before them is not forgotten for it.
    #[test]
    fn a_port_that_is_bound_again_and_again_is_remembered_once() {
        let mut releases = Releases::default();
        releases.add(&socket(1, 80, 2), Seq(1), BootTime(1));
        for number in 2..1_000 {
            releases.add(&socket(number, 80, 1), Seq(number), BootTime(number));
            assert!(releases.queue.len() <= 2 * TIDY_MIN, "{}", releases.queue.len());
        }
        let port = PortKey { netns: Inum(1), protocol: Protocol::Tcp, port: 80 };
        let found: Vec<_> = releases.of(port, BootTime(1_000)).iter().map(|one| one.released).collect();
        assert_eq!(found, [Seq(999), Seq(1)]);
    }

    proptest! {
        /// Whenever they are linked, they are the same.
        #[test]
        fn releases_are_found_linked_or_not(
            steps in proptest::collection::vec((1..5_u16, 1..4_u32, 0..30_u64, any::<bool>()), 1..60),
        ) {
            let (mut never, mut always, mut some) =
                (Releases::default(), Releases::default(), Releases::default());
            let mut now = BootTime(0);
            for (number, (port, tgid, seconds, links)) in steps.into_iter().enumerate() {
                now = BootTime(now.0 + seconds * 1_000_000_000);
                let socket = socket(number as u64 + 1, port, tgid);
                for releases in [&mut never, &mut always, &mut some] {
                    prop_assert!(!releases.add(&socket, Seq(number as u64 + 100), now));
                }
                always.link();
                if links {
                    some.link();
                }
                for port in 1..5 {
                    let port = PortKey { netns: Inum(1), protocol: Protocol::Tcp, port };
                    let found = |releases: &Releases| -> Vec<_> {
                        let found = releases.of(port, now).into_iter();
                        found.map(|one| (one.process, one.cookie, one.released)).collect()
                    };
                    let linked = found(&always);
                    prop_assert_eq!(&found(&never), &linked);
                    prop_assert_eq!(&found(&some), &linked);
                }
                for releases in [&never, &always, &some] {
                    prop_assert_eq!(releases.check(), Ok(()));
                }
            }
        }
    }
}
