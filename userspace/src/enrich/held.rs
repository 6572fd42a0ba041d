//! Who has a socket when it matters: a bind beside it, or one that it keeps out.
//!
//! A fork, a message with descriptors, pidfd_getfd(2), close(2) of one descriptor of several: none of these has an event. So
//! whoever has a socket is looked up, and told before the event that makes it matter.
//!
//! Where many binds are refused, looking costs more than they do. So one look serves every record that was made before it and
//! is read with it: however far the reader is behind, it looks at a port once and is up to date.

use std::collections::{BTreeMap, BTreeSet};

use super::{Enricher, Fact, Lookups, PortRow, SECOND_NS, limit};
use crate::event::{
    Body, BootTime, Cookie, Holders, Hook, Inum, ProcessKey, Protocol, SocketFacts, TcpState,
};

/// Looks at every descriptor of the machine for binds beside others' sockets, a second. Holders of more are those that
/// were known; `holder-lookups` says so.
pub const LISTINGS_PER_SECOND: u32 = 20;
/// Sockets on the port of a bind whose holders are looked up, sockets. On more crowded ports they are those that were known;
/// `holder-sockets` says so, once.
pub const BESIDE_MAX: usize = 64;

/// Every open socket and who has it, at an instant.
pub type Open = BTreeMap<Cookie, Vec<ProcessKey>>;

type Port = (Inum, Protocol, u16);

/// The last look at every descriptor, and how many there were this second.
#[derive(Default)]
pub(super) struct Listing {
    last: Option<(BootTime, Open)>,
    /// The last look at each port that a call was refused.
    ports: BTreeMap<Port, (BootTime, Vec<PortRow>)>,
    second: u64,
    taken: u32,
    /// A port was too crowded.
    crowded: bool,
}

impl<L: Lookups> Enricher<L> {
    /// A process binds: tells who has the sockets that are on that port already, where they may be strangers'.
    pub(super) fn meet(
        &mut self,
        socket: &SocketFacts,
        process: ProcessKey,
        at: BootTime,
        facts: &mut Vec<Fact>,
    ) {
        let beside: Vec<Cookie> = self.sockets.beside(socket).take(BESIDE_MAX + 1).collect();
        if beside.is_empty() {
            return;
        }
        let lineage = self.processes.lineage(process);
        let is_strange = |cookie: &Cookie| {
            self.sockets.holders_of(*cookie).any(|holder| self.processes.lineage(holder) != lineage)
        };
        if !beside.iter().any(is_strange) {
            return;
        }
        if beside.len() > BESIDE_MAX {
            if !std::mem::replace(&mut self.listing.crowded, true) {
                facts.push(limit("holder-sockets", BESIDE_MAX as u64, "sockets on a port", at));
            }
            return;
        }
        if self.listing.last.as_ref().is_none_or(|(taken, _)| *taken < at) && !self.list(at, facts) {
            return;
        }
        let Some((_, open)) = &self.listing.last else { return };
        let found: Vec<(Cookie, Vec<ProcessKey>)> =
            beside.iter().filter_map(|cookie| Some((*cookie, open.get(cookie)?.clone()))).collect();
        for (cookie, holders) in found {
            self.holders_are(cookie, holders, at, facts);
        }
    }

    /// The rows of a port that a call was refused: tells who has what is there.
    pub(super) fn met(&mut self, rows: &[PortRow], at: BootTime, facts: &mut Vec<Fact>) {
        for row in rows {
            let at_rest = row.socket.protocol != Protocol::Tcp
                || matches!(row.state, TcpState::Listen | TcpState::Close);
            if at_rest {
                self.holders_are(row.socket.cookie, row.holders.clone(), at, facts);
            }
        }
    }

    /// What the kernel's tables had on a port when a call at `at` had been refused, or later; None when it may not be asked, or
    /// does not answer.
    pub(super) fn rows_on(
        &mut self,
        port: Port,
        at: BootTime,
        facts: &mut Vec<Fact>,
    ) -> Option<Vec<PortRow>> {
        if let Some((taken, rows)) = self.listing.ports.get(&port)
            && *taken >= at
        {
            return Some(rows.clone());
        }
        if !self.budget.allows(at, facts) {
            return None;
        }
        let (taken, rows) = self.lookups.on_port(port, at)?;
        self.listing.ports.insert(port, (taken, rows.clone()));
        Some(rows)
    }

    /// Forgets what was looked at: it was good for the records before it.
    pub fn forget_listing(&mut self) {
        self.listing.last = None;
        self.listing.ports.clear();
        self.lookups.forget_looks();
    }

    /// Looks at every descriptor. Whether that could be done.
    fn list(&mut self, at: BootTime, facts: &mut Vec<Fact>) -> bool {
        let second = at.0 / SECOND_NS;
        if second > self.listing.second {
            (self.listing.second, self.listing.taken) = (second, 0);
        }
        if self.listing.taken >= LISTINGS_PER_SECOND {
            if self.listing.taken == LISTINGS_PER_SECOND {
                self.listing.taken += 1;
                facts.push(limit("holder-lookups", LISTINGS_PER_SECOND.into(), "look-ups a second", at));
            }
            return false;
        }
        self.listing.taken += 1;
        self.listing.last = self.lookups.open_sockets();
        self.listing.last.is_some()
    }

    /// A look-up found these holders of a socket. Told where it differs from what was known.
    fn holders_are(
        &mut self,
        cookie: Cookie,
        mut processes: Vec<ProcessKey>,
        at: BootTime,
        facts: &mut Vec<Fact>,
    ) {
        let found_one = !processes.is_empty();
        processes.retain(|process| !self.processes.has_ended(*process));
        let known: BTreeSet<ProcessKey> = self.sockets.holders_of(cookie).collect();
        let is_known = known.len() == processes.len() && processes.iter().all(|one| known.contains(one));
        // One that is exiting still has it.
        let is_exiting = found_one && processes.is_empty();
        if is_known || is_exiting || !self.sockets.knows(cookie) {
            return;
        }
        for process in &processes {
            self.processes.publish(*process, None, &mut self.cgroups, at, facts);
        }
        self.sockets.holders(cookie, &processes);
        facts.push(Fact { at, hook: Hook::TaskFile, body: Body::Holders(Holders { cookie, processes }) });
    }
}
