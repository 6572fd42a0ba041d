//! Who listened where: an accepted connection that has ended is known by its port alone, and belonged to whoever accepts
//! there.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;

use crate::event::{BootTime, Cookie, Inum, ProcessKey, Protocol, SocketFacts};

/// How long a listener is remembered after its close, ns: as long as TIME_WAIT lasts (`TCP_TIMEWAIT_LEN`).
const REMEMBERED_NS: u64 = 60_000_000_000;
/// Closed listeners remembered, listeners; the oldest go first, and their connections then have no owner.
const CLOSED_MAX: usize = 16_384;

type Port = (Inum, u16);

/// A socket that listens, or did.
#[derive(Clone, Copy)]
struct Listener {
    address: IpAddr,
    /// The one process that had it, and how many children it had made by then; None when several had it.
    process: Option<(ProcessKey, u64)>,
}

/// Listening TCP sockets, and those that were a minute ago.
#[derive(Default)]
pub(super) struct Listeners {
    /// By port, and there by cookie.
    all: BTreeMap<(Port, Cookie), Listener>,
    open: HashMap<Cookie, Port>,
    closed: VecDeque<(BootTime, Cookie, Port)>,
}

impl Listeners {
    /// A socket listens. `process` is the one that has it, with the children it has made so far.
    pub(super) fn listens(&mut self, socket: &SocketFacts, process: Option<(ProcessKey, u64)>) {
        if socket.port == 0 || socket.protocol != Protocol::Tcp || self.open.contains_key(&socket.cookie) {
            return;
        }
        let port = (socket.netns, socket.port);
        let listener = Listener { address: socket.address.to_canonical(), process };
        self.all.insert((port, socket.cookie), listener);
        self.open.insert(socket.cookie, port);
    }

    /// Those that are not open any more were closed: at the latest now.
    pub(super) fn keep_only(&mut self, is_open: impl Fn(Cookie) -> bool, at: BootTime) {
        let mut gone: Vec<Cookie> = self.open.keys().copied().filter(|cookie| !is_open(*cookie)).collect();
        gone.sort_unstable();
        gone.into_iter().for_each(|cookie| self.closed(cookie, at));
    }

    /// A socket was closed.
    pub(super) fn closed(&mut self, cookie: Cookie, at: BootTime) {
        let Some(port) = self.open.remove(&cookie) else { return };
        self.closed.push_back((at, cookie, port));
        while let Some((closed, cookie, port)) = self.closed.front().copied()
            && (self.closed.len() > CLOSED_MAX || at.since(closed) > REMEMBERED_NS)
        {
            self.closed.pop_front();
            self.all.remove(&(port, cookie));
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// The one process that can have accepted a connection with this local address: it alone listened for it, and made
    /// no child since that could have taken the socket over. `children` tells how many a process has made.
    pub(super) fn owner_of(
        &self,
        socket: &SocketFacts,
        children: impl Fn(ProcessKey) -> Option<u64>,
    ) -> Option<ProcessKey> {
        let address = socket.address.to_canonical();
        let port = (socket.netns, socket.port);
        let mut here = self
            .all
            .range((port, Cookie(0))..=(port, Cookie(u64::MAX)))
            .map(|(_, listener)| listener)
            .filter(|listener| listener.address.is_unspecified() || listener.address == address)
            .map(|listener| listener.process);
        let (process, made) = here.next()??;
        let only = here.all(|other| other.is_some_and(|(other, _)| other == process));
        (only && children(process) == Some(made)).then_some(process)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{process, socket};
    use super::*;

    fn listening(cookie: u64, address: &str) -> SocketFacts {
        SocketFacts { address: address.parse().unwrap_or(IpAddr::from([0; 4])), ..socket(cookie) }
    }

    fn owner(listeners: &Listeners, children: u64) -> Option<ProcessKey> {
        listeners.owner_of(&listening(99, "127.0.0.1"), |_| Some(children))
    }

    #[test]
    fn only_what_is_exact_is_told() {
        let mut listeners = Listeners::default();
        listeners.listens(&listening(1, "127.0.0.9"), Some((process(2), 3)));
        assert_eq!(owner(&listeners, 3), None, "another address");
        listeners.listens(&listening(2, "0.0.0.0"), Some((process(1), 3)));
        listeners.listens(&listening(2, "0.0.0.0"), Some((process(7), 3)));
        assert_eq!(owner(&listeners, 3), Some(process(1)));
        assert_eq!(owner(&listeners, 4), None, "a child may have it");
        assert_eq!(listeners.owner_of(&listening(99, "127.0.0.1"), |_| None), None, "a process forgotten");
        listeners.listens(&listening(3, "::ffff:127.0.0.1"), Some((process(1), 3)));
        assert_eq!(owner(&listeners, 3), Some(process(1)), "two sockets of one process");
        listeners.listens(&listening(4, "::"), Some((process(2), 0)));
        assert_eq!(owner(&listeners, 3), None, "two processes");
        let mut several = Listeners::default();
        several.listens(&listening(1, "127.0.0.1"), None);
        assert_eq!(owner(&several, 0), None, "one socket of several processes");
    }

    #[test]
    fn what_was_closed_is_known_for_a_minute() {
        let mut listeners = Listeners::default();
        listeners.listens(&listening(1, "127.0.0.1"), Some((process(1), 0)));
        listeners.listens(&listening(2, "127.0.0.1"), Some((process(2), 0)));
        listeners.closed(Cookie(1), BootTime(5));
        assert_eq!(owner(&listeners, 0), None);
        listeners.closed(Cookie(2), BootTime(5 + REMEMBERED_NS + 1));
        assert_eq!(owner(&listeners, 0), Some(process(2)));
        assert_eq!((listeners.open.len(), listeners.closed.len()), (0, 1));
    }
}
