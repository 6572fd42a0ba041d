//! What is known a moment later only: how a bind ended that nothing tells the end of, and what a socket has become after
//! a call that the probe saw begin.

use std::collections::{BTreeMap, BTreeSet};

use super::{Enricher, Fact, Lookups};
use crate::event::{Accepted, Body, BootTime, Changed, Cookie, Hook, SocketFacts, TcpState, Tid, Unresolved};
use crate::wire::{Call, Stamped};

/// How long a bind without an end may take, ns: its thread does nothing else meanwhile.
const END_NS: u64 = 20_000_000;
/// How long after a call began its socket is looked at, ns.
pub(crate) const LOOK_NS: u64 = 2_000_000;
/// When it is looked at again, ns after the look before: the caller can have been off its processor until then, in the middle of the
/// call.
pub(crate) const AGAIN_NS: [u64; 2] = [200_000_000, 2_000_000_000];
/// Least time between two such looks, ns: each goes through every descriptor of the machine.
const LOOK_EVERY_NS: u64 = 50_000_000;

/// Threads whose bind was denied before it was made, until it ends.
const DENIED_MAX: usize = 4096;
/// Sockets remembered that joined a multicast group and have no port yet; the end of those is not told.
const JOINED_MAX: usize = 4096;
/// Listeners remembered with what was told of them.
const ACCEPTED_MAX: usize = 65_536;
/// Listeners whose connections are counted at one look, while they are still there.
pub const ACCEPTED_TOLD_MAX: usize = 256;

/// A bind of a 32-bit system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Begun {
    pub(super) call: Call,
    pub(super) at: BootTime,
    pub(super) hook: Hook,
}

/// A socket that is looked at.
struct Look {
    /// None: the last look was the last one.
    due: Option<BootTime>,
    /// Looks that were due so far.
    taken: usize,
    /// What it was at the last one that was told.
    was: Option<(SocketFacts, TcpState)>,
}

/// What is waited for.
#[derive(Default)]
pub(super) struct Later {
    begun: BTreeMap<Tid, Begun>,
    look: BTreeMap<Cookie, Look>,
    looked: BootTime,
    /// Threads whose bind a program of the guard has denied before the kernel made it, and the socket.
    denied: BTreeMap<Tid, Cookie>,
    /// Sockets that joined a multicast group before their bind.
    joined: BTreeMap<Cookie, Hook>,
    /// Connections that were told of listeners that are still there.
    accepted: BTreeMap<Cookie, u64>,
}

impl Later {
    /// A bind begins whose failure nothing tells. Gives the one before it of that thread, which has failed.
    pub(super) fn begin(&mut self, call: Call, at: BootTime, hook: Hook) -> Option<Begun> {
        self.begun.insert(call.task.tid, Begun { call, at, hook })
    }

    /// A thread got its port.
    pub(super) fn bound(&mut self, tid: Tid) {
        self.begun.remove(&tid);
        self.denied.remove(&tid);
    }

    /// A thread's bind was denied before the kernel makes it: that it fails is still to come, and told already.
    pub(super) fn denied(&mut self, tid: Tid, cookie: Cookie) {
        if self.denied.len() >= DENIED_MAX {
            // Whose end is not told: each of those that have one is told twice.
            self.denied.clear();
        }
        self.denied.insert(tid, cookie);
    }

    /// Whether the end of this thread's bind is that of one which was denied. Once.
    pub(super) fn was_denied(&mut self, tid: Tid, cookie: Cookie) -> bool {
        self.denied.remove(&tid) == Some(cookie)
    }

    /// Binds that have not got their port by now.
    pub(super) fn take_failed(&mut self, now: BootTime) -> Vec<Begun> {
        let over = |begun: &Begun| now.since(begun.at) >= END_NS;
        let failed = self.begun.values().filter(|begun| over(begun)).cloned().collect();
        self.begun.retain(|_, begun| !over(begun));
        failed
    }

    /// A socket whose bind is not told yet joined a multicast group; what tells.
    pub(super) fn joined(&mut self, cookie: Cookie, by: Hook) {
        self.joined.insert(cookie, by);
        if self.joined.len() > JOINED_MAX {
            // Cookies count up: the oldest socket.
            self.joined.pop_first();
        }
    }

    /// Whether it had, now that it is bound, and by what that was told. Once.
    pub(super) fn had_joined(&mut self, cookie: Cookie) -> Option<Hook> {
        self.joined.remove(&cookie)
    }

    /// A socket is to be looked at.
    pub(super) fn look(&mut self, cookie: Cookie, at: BootTime) {
        let due = (at.0 + LOOK_NS).max(self.looked.0 + LOOK_EVERY_NS);
        self.look.insert(cookie, Look { due: Some(BootTime(due)), taken: 0, was: None });
    }

    /// It is known after all.
    pub(super) fn seen(&mut self, cookie: Cookie) {
        self.look.remove(&cookie);
    }

    /// Sockets to be looked at now, all at once: also those that are not due yet.
    pub(super) fn take_look(&mut self, now: BootTime) -> BTreeSet<Cookie> {
        let is_due = |look: &Look| look.due.is_some_and(|due| due <= now);
        if !self.look.values().any(is_due) {
            return BTreeSet::new();
        }
        self.looked = now;
        self.look.retain(|_, look| look.due.is_some());
        for look in self.look.values_mut().filter(|look| is_due(look)) {
            look.due = AGAIN_NS.get(look.taken).map(|again| BootTime(now.0 + again));
            look.taken += 1;
        }
        self.look.keys().copied().collect()
    }

    /// Whether a socket is not what it was at the last look that was told.
    fn is_news(&mut self, socket: &SocketFacts, state: TcpState) -> bool {
        let Some(look) = self.look.get_mut(&socket.cookie) else { return true };
        let now = Some((socket.clone(), state));
        let is_news = look.was != now;
        look.was = now;
        is_news
    }

    /// When there is something to do.
    pub(super) fn next_due(&self) -> Option<BootTime> {
        let ends = self.begun.values().map(|begun| BootTime(begun.at.0 + END_NS));
        ends.chain(self.look.values().filter_map(|look| look.due)).min()
    }
}

impl<L: Lookups> Enricher<L> {
    /// How many connections every listener has had that is still there.
    pub fn accepted_so_far(&mut self, at: BootTime, facts: &mut Vec<Fact>) {
        for cookie in self.sockets.listeners() {
            self.accepted(cookie, false, at, facts);
        }
    }

    /// How many connections these listeners have had, where it is not what was told before.
    pub fn accepted_by(&mut self, listeners: &BTreeSet<Cookie>, at: BootTime, facts: &mut Vec<Fact>) {
        for cookie in
            listeners.iter().take(ACCEPTED_TOLD_MAX).filter(|cookie| self.sockets.listens_now(**cookie))
        {
            let Some(connections) = self.lookups.accepted(*cookie, false) else { continue };
            if self.later.accepted.len() >= ACCEPTED_MAX {
                // Some were lost on the way; each is told once more.
                self.later.accepted.clear();
            }
            if self.later.accepted.insert(*cookie, connections) != Some(connections) {
                let body = Body::Accepted(Accepted { cookie: *cookie, connections });
                facts.push(Fact { at, hook: Hook::SockOps, body });
            }
        }
    }

    pub(super) fn accepted(&mut self, cookie: Cookie, closed: bool, at: BootTime, facts: &mut Vec<Fact>) {
        if closed && !self.sockets.listened(cookie) {
            return;
        }
        self.later.accepted.remove(&cookie);
        if let Some(connections) = self.lookups.accepted(cookie, closed) {
            let body = Body::Accepted(Accepted { cookie, connections });
            facts.push(Fact { at, hook: Hook::SockOps, body });
        }
    }

    /// Tells what sockets have become, as [`Enricher::due`] gave it, before the records that were made until then and are not yet
    /// told: `meanwhile`. A socket of which one of these is will be looked at again: that record may be of what was seen.
    pub fn looked(
        &mut self,
        seen: Vec<(SocketFacts, TcpState)>,
        now: BootTime,
        meanwhile: &[Stamped],
        facts: &mut Vec<Fact>,
    ) {
        let touched: BTreeSet<Cookie> =
            meanwhile.iter().filter_map(|stamped| stamped.record.cookie()).collect();
        for (socket, state) in seen {
            if touched.contains(&socket.cookie) {
                self.later.look(socket.cookie, now);
                continue;
            }
            if self.later.is_news(&socket, state) {
                let body = Body::Changed(Changed { process: None, socket, state });
                facts.push(Fact { at: now, hook: Hook::TaskFile, body });
            }
        }
    }

    /// Nobody can tell how this bind ended, or it is known to have failed without its errno.
    pub(super) fn unresolved(&mut self, begun: Begun, facts: &mut Vec<Fact>) {
        let Begun { call, at, hook } = begun;
        let process = call.task.process;
        self.processes.publish(process, Some(&call.task), &mut self.cgroups, at, facts);
        let body = Unresolved { process, socket: call.socket, comm: call.task.comm, door: call.door };
        facts.push(Fact { at, hook, body: Body::Unresolved(body) });
    }

    pub(super) fn changed(
        &mut self,
        call: Call,
        state: TcpState,
        at: BootTime,
        hook: Hook,
        facts: &mut Vec<Fact>,
    ) {
        let process = call.task.process;
        let (cookie, port) = (call.socket.cookie, call.socket.port);
        if port == 0 {
            if !self.sockets.closed(cookie, TcpState::Close) {
                return;
            }
        } else if !self.sockets.knows(cookie) {
            self.sockets.held(&call.socket, process);
        }
        if state == TcpState::Listen {
            self.remember_listener(&call.socket);
        }
        self.processes.publish(process, Some(&call.task), &mut self.cgroups, at, facts);
        let body = Changed { process: Some(process), socket: call.socket, state };
        facts.push(Fact { at, hook, body: Body::Changed(body) });
    }
}
