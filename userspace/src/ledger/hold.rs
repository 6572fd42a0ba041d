//! Sockets that hold a port, and who has them open.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::plane::{self, Reach};
use crate::event::{BootTime, Cookie, Inum, ProcessKey, Protocol, Seq, SocketFacts};

/// Where sockets are looked for: namespace, protocol, port, address (v4-mapped ones as IPv4).
type Place = (Inum, Protocol, u16, IpAddr);

/// A process that has a socket open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Which.
    pub process: ProcessKey,
    /// From whom it got it, when it did not bind it itself.
    pub from: Option<ProcessKey>,
    /// By which event it is known.
    pub seq: Seq,
}

/// A socket that is open.
#[derive(Clone, Debug, PartialEq)]
pub struct Socket {
    /// Its address and options, as they are.
    pub facts: SocketFacts,
    /// When it was bound; None before the recording.
    pub bound_at: Option<BootTime>,
    /// The event by which it is known. Sockets of one inventory are in the order of their events, which says nothing.
    pub seq: Seq,
    /// The event by which it listens.
    pub listens: Option<Seq>,
    /// It listened and was shut down: when.
    pub stopped: Option<BootTime>,
    /// It joined a multicast group.
    pub multicast: bool,
    /// Who bound it, or of several from an inventory the eldest.
    pub binder: Option<ProcessKey>,
    /// Who has it open now, as far as is known.
    pub holders: Vec<Holding>,
}

impl Socket {
    /// Everybody by whom it can be related to another: who bound it and who has it.
    pub(super) fn parties(&self) -> impl Iterator<Item = ProcessKey> + '_ {
        let others = self.holders.iter().map(|holding| holding.process);
        self.binder.into_iter().chain(others.filter(|process| Some(*process) != self.binder))
    }

    /// It listens now.
    #[must_use]
    pub const fn is_listening(&self) -> bool {
        self.listens.is_some() && self.stopped.is_none()
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    by_cookie: BTreeMap<Cookie, Socket>,
    by_place: BTreeMap<Place, Vec<Cookie>>,
    held_by: BTreeSet<(ProcessKey, Cookie)>,
}

impl Sockets {
    pub(super) fn get(&self, cookie: Cookie) -> Option<&Socket> {
        self.by_cookie.get(&cookie)
    }

    pub(super) fn len(&self) -> usize {
        self.by_cookie.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Socket> {
        self.by_cookie.values()
    }

    pub(super) fn cookies(&self) -> BTreeSet<Cookie> {
        self.by_cookie.keys().copied().collect()
    }

    /// Adds a socket, in place of one with the same cookie.
    pub(super) fn insert(&mut self, socket: Socket) {
        let cookie = socket.facts.cookie;
        self.remove(cookie);
        if socket.facts.port != 0 {
            self.by_place.entry(place(&socket.facts)).or_default().push(cookie);
        }
        for holding in &socket.holders {
            self.held_by.insert((holding.process, cookie));
        }
        self.by_cookie.insert(cookie, socket);
    }

    pub(super) fn remove(&mut self, cookie: Cookie) -> Option<Socket> {
        let socket = self.by_cookie.remove(&cookie)?;
        let place = place(&socket.facts);
        if let Some(cookies) = self.by_place.get_mut(&place) {
            cookies.retain(|other| *other != cookie);
            if cookies.is_empty() {
                self.by_place.remove(&place);
            }
        }
        for holding in &socket.holders {
            self.held_by.remove(&(holding.process, cookie));
        }
        Some(socket)
    }

    /// Changes a socket in what does not decide where it is found or who holds it.
    pub(super) fn change(&mut self, cookie: Cookie, change: impl FnOnce(&mut Socket)) -> bool {
        self.by_cookie.get_mut(&cookie).map(change).is_some()
    }

    /// Sets who has a socket open.
    pub(super) fn set_holders(&mut self, cookie: Cookie, holders: Vec<Holding>) {
        let Some(socket) = self.by_cookie.get_mut(&cookie) else { return };
        for holding in &socket.holders {
            self.held_by.remove(&(holding.process, cookie));
        }
        for holding in &holders {
            self.held_by.insert((holding.process, cookie));
        }
        socket.holders = holders;
    }

    /// A process no longer has anything open. The sockets it had.
    pub(super) fn process_ended(&mut self, process: ProcessKey) -> Vec<Cookie> {
        let held = self.held_by(process);
        for cookie in &held {
            self.held_by.remove(&(process, *cookie));
            if let Some(socket) = self.by_cookie.get_mut(cookie) {
                socket.holders.retain(|holding| holding.process != process);
            }
        }
        held
    }

    /// What a process has open.
    pub(super) fn held_by(&self, process: ProcessKey) -> Vec<Cookie> {
        let range = (process, Cookie(0))..=(process, Cookie(u64::MAX));
        self.held_by.range(range).map(|(_, cookie)| *cookie).collect()
    }

    /// The sockets that conflict with an address, in the order in which they came.
    pub(super) fn conflicting<'a>(&'a self, with: &SocketFacts) -> Vec<&'a Socket> {
        if with.port == 0 {
            return Vec::new();
        }
        let at = |address: IpAddr| {
            let place = (with.netns, with.protocol, with.port, address);
            self.by_place.get(&place).into_iter().flatten()
        };
        let candidates: Vec<&Cookie> = match Reach::neighbours(with.address) {
            Some(addresses) => addresses.into_iter().flat_map(at).collect(),
            None => {
                let (low, high) = (IpAddr::V4([0; 4].into()), IpAddr::V6([0xffff; 8].into()));
                let place = |address| (with.netns, with.protocol, with.port, address);
                self.by_place.range(place(low)..=place(high)).flat_map(|(_, cookies)| cookies).collect()
            }
        };
        let mut sockets: Vec<&Socket> = candidates
            .into_iter()
            .filter(|cookie| **cookie != with.cookie)
            .filter_map(|cookie| self.by_cookie.get(cookie))
            .filter(|socket| plane::conflict(&socket.facts, with))
            .collect();
        sockets.sort_unstable_by_key(|socket| socket.seq);
        sockets
    }

    /// Whether the indexes agree.
    pub(super) fn check(&self) -> Result<(), String> {
        for (cookie, socket) in &self.by_cookie {
            let indexed = self.by_place.get(&place(&socket.facts)).is_some_and(|at| at.contains(cookie));
            if indexed != (socket.facts.port != 0) {
                return Err(format!("socket {} is not indexed by its place", cookie.0));
            }
            if let Some(holding) =
                socket.holders.iter().find(|holding| !self.held_by.contains(&(holding.process, *cookie)))
            {
                return Err(format!("socket {} is not indexed by its holder {}", cookie.0, holding.process));
            }
        }
        let placed: usize = self.by_place.values().map(Vec::len).sum();
        let bound = self.by_cookie.values().filter(|socket| socket.facts.port != 0).count();
        let held: usize = self.by_cookie.values().map(|socket| socket.holders.len()).sum();
        if placed != bound || held != self.held_by.len() {
            return Err(format!(
                "{placed} places of {bound} sockets, {} holdings of {held}",
                self.held_by.len()
            ));
        }
        Ok(())
    }
}

fn place(facts: &SocketFacts) -> Place {
    (facts.netns, facts.protocol, facts.port, Reach::canonical(facts.address))
}
