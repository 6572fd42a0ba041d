//! Why a bind or listen was refused, given who holds the port.

use std::collections::BTreeSet;

use crate::event::{BootTime, Cookie, Options, ProcessKey, Protocol, Seq, SocketFacts, Uid};

use super::Ledger;
use super::finding::{Cause, Kind};
use super::place::PortKey;
use super::socket::Socket;

/// How a holder came to the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// It had it before the recording.
    Before,
    /// By an event.
    At(Seq),
    /// During the recording, by a way that no hook sees: an automatic bind.
    Unseen,
}

/// A process that keeps the caller out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keeper {
    pub(super) process: ProcessKey,
    pub(super) came: Came,
    /// Its socket was shut down already.
    pub(super) stopped: bool,
    pub(super) cookie: Cookie,
    pub(super) options: Options,
    pub(super) uid: Uid,
}

impl Keeper {
    pub(super) fn of(socket: &Socket) -> impl Iterator<Item = Self> + '_ {
        socket.holders().iter().map(|process| Self {
            process: *process,
            came: match socket.since {
                Some(_) => Came::At(socket.known),
                // Its bind was lost, or not told.
                None if socket.unseen => Came::Unseen,
                None => Came::Before,
            },
            stopped: socket.stopped,
            cookie: socket.cookie,
            options: socket.options,
            uid: socket.uid,
        })
    }
}

/// A cause, and what proves it beyond the sockets themselves.
pub(super) struct Reason {
    pub(super) cause: Cause,
    pub(super) evidence: Vec<Seq>,
}

impl Ledger {
    /// The cause: the first that fits, else `base`, the state of the sockets.
    pub(super) fn reason(
        &self,
        caller: ProcessKey,
        wanted: &SocketFacts,
        keepers: &[Keeper],
        base: Cause,
        at: BootTime,
    ) -> Reason {
        if let Some(evidence) = self.restart(caller, keepers) {
            return Reason { cause: Cause::Restart, evidence };
        }
        if let Some(evidence) = self.lost_race(caller, PortKey::of(wanted), keepers, at) {
            return Reason { cause: Cause::LostRace, evidence };
        }
        if let Some(evidence) = self.left_over(keepers) {
            return Reason { cause: Cause::Orphan, evidence };
        }
        let options = wanted.options;
        let shared_port = |keeper: &Keeper| options.reuse_port && keeper.options.reuse_port;
        let udp = wanted.protocol != Protocol::Tcp;
        let cause = if keepers.iter().any(|keeper| shared_port(keeper) && keeper.uid != wanted.uid) {
            Cause::OtherUser
        } else if keepers.iter().any(|keeper| {
            (options.reuse_port && !keeper.options.reuse_port)
                || (udp && options.reuse_addr && !keeper.options.reuse_addr)
        }) {
            Cause::Exclusive
        } else {
            base
        };
        Reason { cause, evidence: Vec::new() }
    }

    /// A keeper that should be gone: it was left over by a job, or has the socket of a process that ended, of which it
    /// is a worker or to whose program it does not belong. A successor of the same program took the socket over.
    fn left_over(&self, keepers: &[Keeper]) -> Option<Vec<Seq>> {
        keepers.iter().find_map(|keeper| {
            let socket = self.holdings.get(keeper.cookie)?;
            let orphaned = socket.findings.iter().filter_map(|id| self.records.get(*id)).find(|record| {
                record.kind == Kind::Orphan
                    && record.live
                    && record.parties.iter().any(|party| party.process == keeper.process)
            });
            if let Some(record) = orphaned {
                return Some(record.evidence.as_slice().first().copied().into_iter().collect());
            }
            let binder = socket.binder.filter(|binder| *binder != keeper.process)?;
            let ended = self.kin.ended_at(binder)?;
            let worker = self.kin.lineage(binder) == self.kin.lineage(keeper.process);
            let stranger = !self.kin.same_program(binder, keeper.process);
            (worker || stranger).then(|| vec![ended])
        })
    }

    /// A keeper that runs the caller's program and is on its way out.
    pub(super) fn restart(&self, caller: ProcessKey, keepers: &[Keeper]) -> Option<Vec<Seq>> {
        keepers.iter().find_map(|keeper| {
            let leaving = self.kin.leaving_since(keeper.process);
            let previous = keeper.process != caller
                && (leaving.is_some() || keeper.stopped)
                && self.kin.same_program(keeper.process, caller);
            previous.then(|| leaving.into_iter().collect())
        })
    }

    /// The caller, or an ancestor, had the port and gave it up before an unrelated keeper took it.
    fn lost_race(
        &self,
        caller: ProcessKey,
        port: PortKey,
        keepers: &[Keeper],
        at: BootTime,
    ) -> Option<Vec<Seq>> {
        let others: Vec<&Keeper> =
            keepers.iter().filter(|keeper| !self.kin.related(keeper.process, caller)).collect();
        if others.is_empty() {
            return None;
        }
        let releases = self.releases.of(port, at);
        if releases.is_empty() {
            return None;
        }
        let ours: BTreeSet<ProcessKey> = std::iter::once(caller).chain(self.kin.ancestors(caller)).collect();
        let lost = releases.iter().find(|release| {
            ours.contains(&release.process)
                && others.iter().any(|keeper| match keeper.came {
                    Came::At(bound) => release.released < bound,
                    Came::Unseen => true,
                    Came::Before => false,
                })
        })?;
        Some(vec![lost.bound, lost.released])
    }
}
