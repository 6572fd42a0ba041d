//! `--events conflicts`: the probe tells of sockets only that are not alone on their port. Who else is there is looked up,
//! and those of them that conflict are told before it.
//!
//! As long as a port has two sockets, all of its sockets are known here: those that come are told by the probe, and those
//! that were there are found by the look-up that the first of these makes. Events are made of those that conflict.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::{Enricher, Fact, Lookups, SECOND_NS, limit};
use crate::event::{
    Body, BootTime, Cookie, Found, Hook, Inum, OptionSet, ProcessKey, Protocol, Setting, Signal, SocketFacts,
};
use crate::ledger::conflict;
use crate::wire::{Record, Stamped};

/// Ports that are looked at, a second. More are looked at later; `port-lookups` says so.
pub const CROWDS_PER_SECOND: u32 = 50;
/// Signals remembered of processes that nothing has named yet, signals.
const SIGNALS_MAX: usize = 4096;

/// A socket on a port that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The socket and who has it.
    pub found: Found,
    /// The probe tells of it by itself, and has done so or is about to.
    pub is_told: bool,
    /// It is a member of a multicast group.
    pub is_member: bool,
}

type Port = (Inum, Protocol, u16);

/// What is remembered where only conflicts are told.
#[derive(Default)]
pub(super) struct Crowd {
    second: u64,
    taken: u32,
    /// The sockets that are on ports with others, told or not.
    sockets: HashMap<Cookie, SocketFacts>,
    on_port: BTreeSet<(Port, Cookie)>,
    /// Ports that are looked at later.
    put_off: BTreeMap<Port, BootTime>,
    /// Signals to processes that are not named yet: they may turn out to hold a port.
    signals: VecDeque<(BootTime, Signal)>,
}

const fn port_of(socket: &SocketFacts) -> Port {
    (socket.netns, socket.protocol, socket.port)
}

impl Crowd {
    fn add(&mut self, socket: &SocketFacts) {
        self.forget(socket.cookie);
        self.on_port.insert((port_of(socket), socket.cookie));
        self.sockets.insert(socket.cookie, socket.clone());
    }

    fn forget(&mut self, cookie: Cookie) {
        if let Some(socket) = self.sockets.remove(&cookie) {
            self.on_port.remove(&(port_of(&socket), cookie));
        }
    }

    /// The others on a socket's port.
    fn beside(&self, socket: &SocketFacts) -> impl Iterator<Item = &SocketFacts> + use<'_> {
        let (port, own) = (port_of(socket), socket.cookie);
        let there = self.on_port.range((port, Cookie(0))..=(port, Cookie(u64::MAX)));
        there.filter(move |(_, cookie)| *cookie != own).filter_map(|(_, cookie)| self.sockets.get(cookie))
    }

    /// When a port is looked at that was put off.
    pub(super) fn next_due(&self) -> Option<BootTime> {
        self.put_off.values().min().copied()
    }

    /// Whether a port may be looked at now. If not, it will be.
    fn allows(&mut self, port: Port, at: BootTime, facts: &mut Vec<Fact>) -> bool {
        let second = at.0 / SECOND_NS;
        if second > self.second {
            (self.second, self.taken) = (second, 0);
        }
        if self.taken >= CROWDS_PER_SECOND {
            if self.taken == CROWDS_PER_SECOND {
                self.taken += 1;
                facts.push(limit("port-lookups", CROWDS_PER_SECOND.into(), "look-ups a second", at));
            }
            self.put_off.entry(port).or_insert(BootTime((second + 1) * SECOND_NS));
            return false;
        }
        self.taken += 1;
        true
    }
}

impl<L: Lookups> Enricher<L> {
    /// From now on the probe tells only of conflicts.
    pub fn expect_conflicts_only(&mut self) {
        self.crowd = Some(Crowd::default());
    }

    /// Whether a record is to become an event. What has to be told before it is told.
    pub(super) fn is_of_interest(&mut self, stamped: &Stamped, facts: &mut Vec<Fact>) -> bool {
        let Some(crowd) = &mut self.crowd else { return true };
        let at = stamped.at;
        let socket = match &stamped.record {
            Record::Close(small) | Record::Destroy(small) => {
                crowd.forget(small.cookie);
                return true;
            }
            Record::Bind(call) | Record::Listen(call) | Record::Changed(call, _) => {
                if call.socket.port == 0 {
                    crowd.forget(call.socket.cookie);
                    return true;
                }
                if self.sockets.knows(call.socket.cookie) {
                    crowd.add(&call.socket);
                    return true;
                }
                self.later.bound(call.task.tid);
                call.socket.clone()
            }
            Record::Option(option) if !self.sockets.knows(option.cookie) => {
                // What it is now, with whoever is on its port, is looked at once the call has been made.
                if super::setting(option) != Some(Setting::Multicast) {
                    self.later.look(option.cookie, at);
                    return false;
                }
                return true;
            }
            Record::Signal { target, sender, signal } if !self.processes.is_published(*target) => {
                let signal = Signal { process: *target, sender: *sender, signal: *signal };
                crowd.signals.push_back((at, signal));
                if crowd.signals.len() > SIGNALS_MAX {
                    crowd.signals.pop_front();
                }
                return false;
            }
            _ => return true,
        };
        self.conflicts(&socket, at, facts)
    }

    /// Whether a socket that was not told conflicts with others. Those are told, unless they are known.
    fn conflicts(&mut self, socket: &SocketFacts, at: BootTime, facts: &mut Vec<Fact>) -> bool {
        let Some(crowd) = &mut self.crowd else { return true };
        crowd.add(socket);
        let mut others = crowd.beside(socket).peekable();
        let is_new = others.peek().is_none();
        let met: Vec<Cookie> =
            others.filter(|other| conflict(other, socket)).map(|other| other.cookie).collect();
        if !is_new && met.iter().all(|cookie| self.sockets.knows(*cookie)) {
            return !met.is_empty();
        }
        if !crowd.allows(port_of(socket), at, facts) {
            return true;
        }
        // Without a look at them nobody knows.
        let Some(there) = self.lookups.crowd(socket.netns, socket.protocol, socket.port) else { return true };
        let is_other = |neighbour: &Neighbour| neighbour.found.socket.cookie != socket.cookie;
        if met.is_empty() && !there.iter().any(is_other) {
            if let Some(crowd) = &mut self.crowd {
                crowd.forget(socket.cookie);
            }
            self.lookups.ignore(socket.cookie);
            return false;
        }
        if there.iter().any(|neighbour| !is_other(neighbour) && neighbour.is_member) {
            // By a call that nothing told. It is told with the bind.
            self.later.joined(socket.cookie, Hook::TaskFile);
        }
        let mut hit = !met.is_empty();
        for neighbour in there.into_iter().filter(is_other) {
            let meets = conflict(&neighbour.found.socket, socket);
            hit |= meets;
            self.neighbour(neighbour, meets, at, facts);
        }
        hit
    }

    /// A socket that was found on a port: is remembered, and told where it conflicts.
    fn neighbour(&mut self, neighbour: Neighbour, meets: bool, at: BootTime, facts: &mut Vec<Fact>) {
        let Neighbour { found, is_told, is_member } = neighbour;
        let Some(crowd) = &mut self.crowd else { return };
        let cookie = found.socket.cookie;
        if is_told && !crowd.sockets.contains_key(&cookie) {
            // Its own record is still to come.
            return;
        }
        crowd.add(&found.socket);
        if !meets || self.sockets.knows(cookie) {
            return;
        }
        let holders = found.holders.clone();
        self.found(found, at, Hook::TaskFile, facts);
        for holder in holders {
            self.tell_signals(holder, facts);
        }
        if is_member || self.later.had_joined(cookie).is_some() {
            let body = Body::Option(OptionSet { cookie, setting: Setting::Multicast });
            facts.push(Fact { at, hook: Hook::TaskFile, body });
        }
    }

    /// Looks at a port and tells what conflicts there.
    fn look_around(&mut self, (netns, protocol, port): Port, at: BootTime, facts: &mut Vec<Fact>) {
        let Some(there) = self.lookups.crowd(netns, protocol, port) else { return };
        let sockets: Vec<SocketFacts> =
            there.iter().map(|neighbour| neighbour.found.socket.clone()).collect();
        for neighbour in there {
            let own = &neighbour.found.socket;
            let meets = sockets.iter().any(|other| other.cookie != own.cookie && conflict(other, own));
            self.neighbour(neighbour, meets, at, facts);
        }
    }

    /// Leaves those sockets of an inventory that conflict with others, or are known already. Gives the cookies of all that
    /// share their port.
    pub fn leave_conflicts(&mut self, found: &mut Vec<Found>) -> BTreeSet<Cookie> {
        let mut by_port: BTreeMap<Port, Vec<SocketFacts>> = BTreeMap::new();
        for found in found.iter() {
            by_port.entry(port_of(&found.socket)).or_default().push(found.socket.clone());
        }
        let mut crowd = self.crowd.take().unwrap_or_default();
        (crowd.sockets, crowd.on_port) = (HashMap::new(), BTreeSet::new());
        found.retain(|found| {
            let own = &found.socket;
            let there = by_port.get(&port_of(own)).map_or(&[][..], Vec::as_slice);
            let is_known = self.sockets.knows(own.cookie);
            if there.len() > 1 || is_known {
                crowd.add(own);
            }
            is_known || there.iter().any(|other| other.cookie != own.cookie && conflict(other, own))
        });
        let all = crowd.sockets.keys().copied().collect();
        self.crowd = Some(crowd);
        all
    }

    /// Forgets a socket that was gone before its end could be noticed.
    pub fn forget(&mut self, cookie: Cookie) {
        if let Some(crowd) = &mut self.crowd {
            crowd.forget(cookie);
        }
    }

    /// A process was named: tells the signals that it was sent before.
    pub(super) fn tell_signals(&mut self, process: ProcessKey, facts: &mut Vec<Fact>) {
        let Some(crowd) = &mut self.crowd else { return };
        let sent: Vec<(BootTime, Signal)> =
            crowd.signals.iter().filter(|(_, signal)| signal.process == process).cloned().collect();
        if sent.is_empty() || !self.processes.is_published(process) {
            return;
        }
        crowd.signals.retain(|(_, signal)| signal.process != process);
        for (at, signal) in sent {
            if let Some(sender) = signal.sender {
                self.processes.publish(sender, None, &mut self.cgroups, at, facts);
            }
            facts.push(Fact { at, hook: Hook::SignalGenerate, body: Body::Signal(signal) });
        }
    }

    /// Looks at the ports that were put off, and at those of sockets whose options were set.
    pub(super) fn crowds_due(&mut self, changed: &BTreeSet<Cookie>, now: BootTime, facts: &mut Vec<Fact>) {
        let Some(crowd) = &mut self.crowd else { return };
        let mut ports: BTreeSet<Port> =
            crowd.put_off.iter().filter(|(_, due)| **due <= now).map(|(port, _)| *port).collect();
        crowd.put_off.retain(|_, due| *due > now);
        let strangers: BTreeSet<Cookie> =
            changed.iter().filter(|cookie| !self.sockets.knows(**cookie)).copied().collect();
        if !strangers.is_empty() {
            let now = self.lookups.now(&strangers);
            let with_port = now.iter().map(|(socket, _)| socket).filter(|socket| socket.port != 0);
            ports.extend(with_port.map(|socket| (socket.netns, socket.protocol, socket.port)));
        }
        for port in ports {
            if self.crowd.as_mut().is_some_and(|crowd| crowd.allows(port, now, facts)) {
                self.look_around(port, now, facts);
            }
        }
    }
}
