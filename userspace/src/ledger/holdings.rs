//! Every live socket, indexed by endpoint and by holder.

use std::collections::{BTreeSet, hash_map};
use std::ops::{Bound, RangeBounds};

use crate::event::{BootTime, Cookie, ProcessKey, Seq};

use super::few::Few;
use super::place::{Place, PortKey};
use super::socket::{Shared, Socket};

/// By numbers that the kernel gave: hashed the same in every run, and cheaply. Never iterated where order shows.
pub(super) type Table<K, V> = rustc_hash::FxHashMap<K, V>;

/// A socket's place on its port. Sockets of one process at one place are neighbours, so that kin is stepped over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot {
    pub(super) place: Place,
    pub(super) sole: Option<ProcessKey>,
    pub(super) cookie: Cookie,
}

impl Slot {
    fn of(socket: &Socket) -> Self {
        Self { place: socket.place, sole: socket.sole(), cookie: socket.cookie }
    }

    /// Before every socket at the place.
    pub(super) const fn first(place: Place) -> Self {
        Self { place, sole: None, cookie: Cookie(0) }
    }

    /// Behind every socket at the place.
    const fn last(place: Place) -> Self {
        Self { place, sole: LAST_PROCESS, cookie: Cookie(u64::MAX) }
    }
}

/// Behind every other process.
const LAST_PROCESS: Option<ProcessKey> = Some(ProcessKey { tgid: u32::MAX, start: u64::MAX });

/// The live sockets.
#[derive(Default)]
pub(super) struct Holdings {
    /// Each in a place of its own: most live for a moment, and are handed on rather than copied.
    sockets: Table<Cookie, Box<Socket>>,
    /// Those whose port is known, by [`PortKey::packed`].
    ports: Table<u64, Few<Slot>>,
    held: Table<ProcessKey, Few<Cookie>>,
    /// Sockets that others have from their binder, which has let go of them.
    left: BTreeSet<(ProcessKey, Cookie)>,
}

impl Holdings {
    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }

    pub(super) fn get(&self, cookie: Cookie) -> Option<&Socket> {
        self.sockets.get(&cookie).map(AsRef::as_ref)
    }

    /// For changes that touch neither endpoint nor holders.
    pub(super) fn get_mut(&mut self, cookie: Cookie) -> Option<&mut Socket> {
        self.sockets.get_mut(&cookie).map(AsMut::as_mut)
    }

    /// Takes a socket in. True when no other is on its port.
    pub(super) fn insert(&mut self, socket: Box<Socket>) -> bool {
        let mut alone = true;
        if socket.port.port != 0 {
            let slot = Slot::of(&socket);
            match self.ports.entry(socket.port.packed()) {
                hash_map::Entry::Occupied(mut slots) => {
                    slots.get_mut().insert(slot);
                    alone = slots.get().len() == 1;
                }
                hash_map::Entry::Vacant(none) => drop(none.insert(Few::One(slot))),
            }
        }
        let cookie = socket.cookie;
        for holder in socket.holders() {
            self.held.entry(*holder).and_modify(|held| held.insert(cookie)).or_insert(Few::One(cookie));
        }
        self.left.extend(socket.left_by().map(|binder| (binder, cookie)));
        self.sockets.insert(cookie, socket);
        alone
    }

    pub(super) fn remove(&mut self, cookie: Cookie) -> Option<Box<Socket>> {
        let socket = self.sockets.remove(&cookie)?;
        if socket.port.port != 0
            && let hash_map::Entry::Occupied(mut slots) = self.ports.entry(socket.port.packed())
            && slots.get_mut().remove(&Slot::of(&socket))
        {
            slots.remove();
        }
        for holder in socket.holders() {
            if let hash_map::Entry::Occupied(mut held) = self.held.entry(*holder)
                && held.get_mut().remove(&cookie)
            {
                held.remove();
            }
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
        self.sockets.values().map(AsRef::as_ref)
    }

    /// Sockets with a known port, by namespace, protocol, port, place.
    pub(super) fn in_order(&self) -> impl Iterator<Item = &Socket> {
        let mut ports: Vec<(&u64, &Few<Slot>)> = self.ports.iter().collect();
        ports.sort_unstable_by_key(|(port, _)| **port);
        ports.into_iter().flat_map(|(_, slots)| slots.iter()).filter_map(|slot| self.get(slot.cookie))
    }

    /// Who holds which socket, in the order of processes, and of each of cookies.
    pub(super) fn held(&self) -> impl Iterator<Item = (ProcessKey, Cookie)> + '_ {
        let mut processes: Vec<(&ProcessKey, &Few<Cookie>)> = self.held.iter().collect();
        processes.sort_unstable_by_key(|(process, _)| **process);
        processes.into_iter().flat_map(|(process, held)| held.iter().map(|cookie| (*process, *cookie)))
    }

    /// Cookies a process holds, in order.
    pub(super) fn held_by(&self, process: ProcessKey) -> impl Iterator<Item = Cookie> + '_ {
        self.held.get(&process).into_iter().flat_map(Few::iter).copied()
    }

    /// Cookies of sockets that a process bound and has no more, while others do.
    pub(super) fn left_by(&self, process: ProcessKey) -> impl Iterator<Item = Cookie> + '_ {
        self.left.range((process, Cookie(0))..=(process, Cookie(u64::MAX))).map(|(_, cookie)| *cookie)
    }

    /// Sockets of a port, place by place.
    pub(super) fn on_port(&self, port: PortKey) -> impl Iterator<Item = &Socket> {
        self.slots(port, ..).filter_map(|slot| self.get(slot.cookie))
    }

    /// Sockets at one place of a port.
    pub(super) fn at(&self, port: PortKey, place: Place) -> impl Iterator<Item = &Socket> {
        let slots = self.slots(port, Slot::first(place)..=Slot::last(place));
        slots.filter_map(|slot| self.get(slot.cookie))
    }

    /// The slots behind this one at the same place.
    pub(super) fn slots_after(&self, port: PortKey, slot: Slot) -> impl Iterator<Item = &Slot> {
        self.slots(port, (Bound::Excluded(slot), Bound::Included(Slot::last(slot.place))))
    }

    fn slots(&self, port: PortKey, range: impl RangeBounds<Slot>) -> impl Iterator<Item = &Slot> {
        self.ports.get(&port.packed()).map(|slots| slots.range(range)).into_iter().flatten()
    }

    /// The occupied places of a port that meet this one, in order.
    pub(super) fn places_meeting(&self, port: PortKey, place: Place) -> Vec<Place> {
        let mut found = Vec::new();
        if place.is_wildcard() {
            let mut next = self.slots(port, ..).next();
            while let Some(slot) = next {
                if slot.place.meets(place) {
                    found.push(slot.place);
                }
                next = self.slots(port, (Bound::Excluded(Slot::last(slot.place)), Bound::Unbounded)).next();
            }
            return found;
        }
        let wildcard = match place {
            Place::V6(_) => Place::V6(std::net::Ipv6Addr::UNSPECIFIED),
            Place::V4(_) | Place::Dual => Place::V4(std::net::Ipv4Addr::UNSPECIFIED),
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
        self.slots(socket.port, ..).all(|other| other.cookie == socket.cookie)
    }

    /// What must hold between sockets and indices.
    pub(super) fn check(&self) -> Result<(), String> {
        let with_port = self.sockets.values().filter(|socket| socket.port.port != 0).count();
        let slots: usize = self.ports.values().map(Few::len).sum();
        if with_port != slots {
            return Err(format!("{slots} slots for {with_port} sockets with a port"));
        }
        let holders: usize = self.sockets.values().map(|socket| socket.holders().len()).sum();
        let held: usize = self.held.values().map(Few::len).sum();
        if holders != held {
            return Err(format!("{held} held entries for {holders} holders"));
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
            let has = |slots: &Few<Slot>| slots.contains(&Slot::of(socket));
            if socket.port.port != 0 && !self.ports.get(&socket.port.packed()).is_some_and(has) {
                return Err(format!("socket {} has no slot", cookie.0));
            }
            let held = |holder| self.held.get(holder).is_some_and(|held| held.contains(cookie));
            if !socket.holders().iter().all(held) {
                return Err(format!("socket {} is not among its holder's", cookie.0));
            }
            if socket.shared.as_ref().is_some_and(|shared| shared.processes.is_empty()) {
                return Err(format!("socket {} has an empty holder set", cookie.0));
            }
        }
        Ok(())
    }
}
