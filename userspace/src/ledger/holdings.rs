//! Every live socket, indexed by endpoint and by holder.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Bound;

use crate::event::{BootTime, Cookie, ProcessKey, Seq};

use super::place::{Place, PortKey};
use super::socket::{Shared, Socket};

/// Hash of kernel-given numbers: the same in every run, and cheap. Never iterated where order shows.
pub(super) type Table<K, V> = HashMap<K, V, BuildHasherDefault<Mix>>;

/// See [`Table`].
#[derive(Default)]
pub(super) struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(29) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

/// A socket's place in the index. Sockets of one process at one place are neighbours, so that kin is stepped over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot {
    pub(super) port: PortKey,
    pub(super) place: Place,
    pub(super) sole: Option<ProcessKey>,
    pub(super) cookie: Cookie,
}

impl Slot {
    fn of(socket: &Socket) -> Self {
        Self { port: socket.port, place: socket.place, sole: socket.sole(), cookie: socket.cookie }
    }

    pub(super) const fn first(port: PortKey, place: Place) -> Self {
        Self { port, place, sole: None, cookie: Cookie(0) }
    }
}

/// Above every place of a port; no socket sits on `Dual` behind this process and cookie.
const LAST_PROCESS: Option<ProcessKey> = Some(ProcessKey { tgid: u32::MAX, start: u64::MAX });
const LOWEST_PLACE: Place = Place::V4(std::net::Ipv4Addr::UNSPECIFIED);

/// The live sockets.
#[derive(Default)]
pub(super) struct Holdings {
    sockets: Table<Cookie, Socket>,
    /// Those whose port is known.
    slots: BTreeSet<Slot>,
    held: BTreeSet<(ProcessKey, Cookie)>,
    /// Sockets that others have from their binder, which has let go of them.
    left: BTreeSet<(ProcessKey, Cookie)>,
}

impl Holdings {
    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }

    pub(super) fn get(&self, cookie: Cookie) -> Option<&Socket> {
        self.sockets.get(&cookie)
    }

    /// For changes that touch neither endpoint nor holders.
    pub(super) fn get_mut(&mut self, cookie: Cookie) -> Option<&mut Socket> {
        self.sockets.get_mut(&cookie)
    }

    pub(super) fn insert(&mut self, socket: Socket) {
        if socket.port.port != 0 {
            self.slots.insert(Slot::of(&socket));
        }
        for holder in socket.holders() {
            self.held.insert((*holder, socket.cookie));
        }
        self.left.extend(socket.left_by().map(|binder| (binder, socket.cookie)));
        self.sockets.insert(socket.cookie, socket);
    }

    pub(super) fn remove(&mut self, cookie: Cookie) -> Option<Socket> {
        let socket = self.sockets.remove(&cookie)?;
        if socket.port.port != 0 {
            self.slots.remove(&Slot::of(&socket));
        }
        for holder in socket.holders() {
            self.held.remove(&(*holder, cookie));
        }
        if let Some(binder) = socket.left_by() {
            self.left.remove(&(binder, cookie));
        }
        Some(socket)
    }

    /// Replaces the holders; an empty set leaves the last ones named and the socket unheld.
    pub(super) fn set_holders(&mut self, cookie: Cookie, processes: &[ProcessKey], seq: Seq, at: BootTime) {
        let Some(mut socket) = self.remove(cookie) else { return };
        socket.unheld = processes.is_empty();
        socket.nobodys = socket.unheld;
        if !socket.unheld {
            let only_binder = matches!(processes, [one] if socket.binder == Some(*one));
            let mut processes = processes.to_vec();
            let mut seen = BTreeSet::new();
            processes.retain(|process| seen.insert(*process));
            socket.shared = (!only_binder).then(|| Box::new(Shared { processes, seq, at }));
        }
        self.insert(socket);
    }

    /// Every socket, in no particular order.
    pub(super) fn any_order(&self) -> impl Iterator<Item = &Socket> {
        self.sockets.values()
    }

    /// Sockets with a known port, by namespace, protocol, port, place.
    pub(super) fn in_order(&self) -> impl Iterator<Item = &Socket> {
        self.slots.iter().filter_map(|slot| self.sockets.get(&slot.cookie))
    }

    /// Cookies a process holds.
    pub(super) fn held_by(&self, process: ProcessKey) -> impl Iterator<Item = Cookie> + '_ {
        self.held.range((process, Cookie(0))..=(process, Cookie(u64::MAX))).map(|(_, cookie)| *cookie)
    }

    /// Cookies of sockets that a process bound and has no more, while others do.
    pub(super) fn left_by(&self, process: ProcessKey) -> impl Iterator<Item = Cookie> + '_ {
        self.left.range((process, Cookie(0))..=(process, Cookie(u64::MAX))).map(|(_, cookie)| *cookie)
    }

    /// Sockets of a port, place by place.
    pub(super) fn on_port(&self, port: PortKey) -> impl Iterator<Item = &Socket> {
        let last = Slot { port, place: Place::Dual, sole: LAST_PROCESS, cookie: Cookie(u64::MAX) };
        self.slots
            .range(Slot::first(port, LOWEST_PLACE)..=last)
            .filter_map(|slot| self.sockets.get(&slot.cookie))
    }

    /// Sockets in a namespace and protocol.
    pub(super) fn between(&self, first: PortKey, last: PortKey) -> impl Iterator<Item = &Socket> {
        let last = Slot { port: last, place: Place::Dual, sole: LAST_PROCESS, cookie: Cookie(u64::MAX) };
        self.slots
            .range(Slot::first(first, LOWEST_PLACE)..=last)
            .filter_map(|slot| self.sockets.get(&slot.cookie))
    }

    /// Sockets at one place of a port.
    pub(super) fn at(&self, port: PortKey, place: Place) -> impl Iterator<Item = &Socket> {
        let last = Slot { port, place, sole: LAST_PROCESS, cookie: Cookie(u64::MAX) };
        self.slots.range(Slot::first(port, place)..=last).filter_map(|slot| self.sockets.get(&slot.cookie))
    }

    /// The slots behind this one at the same place.
    pub(super) fn slots_after(&self, slot: Slot) -> impl Iterator<Item = &Slot> {
        let last = Slot { sole: LAST_PROCESS, cookie: Cookie(u64::MAX), ..slot };
        self.slots.range((Bound::Excluded(slot), Bound::Included(last)))
    }

    /// The occupied places of a port that meet this one, in order.
    pub(super) fn places_meeting(&self, port: PortKey, place: Place) -> Vec<Place> {
        let mut found = Vec::new();
        if place.is_wildcard() {
            let mut next = self.slots.range(Slot::first(port, LOWEST_PLACE)..).next();
            while let Some(slot) = next.filter(|slot| slot.port == port) {
                if slot.place.meets(place) {
                    found.push(slot.place);
                }
                let last = Slot { sole: LAST_PROCESS, cookie: Cookie(u64::MAX), ..*slot };
                next = self.slots.range((Bound::Excluded(last), Bound::Unbounded)).next();
            }
            return found;
        }
        let wildcard = match place {
            Place::V6(_) => Place::V6(std::net::Ipv6Addr::UNSPECIFIED),
            Place::V4(_) | Place::Dual => LOWEST_PLACE,
        };
        found.extend(
            [wildcard, place, Place::Dual]
                .into_iter()
                .filter(|candidate| self.at(port, *candidate).next().is_some()),
        );
        found
    }

    /// Whether this socket is the only one on its port.
    pub(super) fn is_alone(&self, socket: &Socket) -> bool {
        self.on_port(socket.port).all(|other| other.cookie == socket.cookie)
    }

    /// What must hold between sockets and indices.
    pub(super) fn check(&self) -> Result<(), String> {
        let with_port = self.sockets.values().filter(|socket| socket.port.port != 0).count();
        if with_port != self.slots.len() {
            return Err(format!("{} slots for {with_port} sockets with a port", self.slots.len()));
        }
        let holders: usize = self.sockets.values().map(|socket| socket.holders().len()).sum();
        if holders != self.held.len() {
            return Err(format!("{} held entries for {holders} holders", self.held.len()));
        }
        let left = self.sockets.values().filter(|socket| socket.left_by().is_some()).count();
        if left != self.left.len() {
            return Err(format!(
                "{} left entries for {left} sockets that their binder let go of",
                self.left.len()
            ));
        }
        for (cookie, socket) in &self.sockets {
            if *cookie != socket.cookie {
                return Err(format!("socket {} kept under {}", socket.cookie.0, cookie.0));
            }
            if socket.port.port != 0 && !self.slots.contains(&Slot::of(socket)) {
                return Err(format!("socket {} has no slot", cookie.0));
            }
            if socket.holders().iter().any(|holder| !self.held.contains(&(*holder, *cookie))) {
                return Err(format!("socket {} is not among its holder's", cookie.0));
            }
            if socket.shared.as_ref().is_some_and(|shared| shared.processes.is_empty()) {
                return Err(format!("socket {} has an empty holder set", cookie.0));
            }
        }
        Ok(())
    }
}
