//! `refused`: who held the port when a bind or listen failed with EADDRINUSE, and why.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::net::IpAddr;

use super::Ledger;
use super::finding::{Cause, FindingId, HolderState, Kind};
use super::hold::Socket;
use super::plane::Reach;
use super::record::{Failure, Member, state_of};
use crate::event::{BootTime, Errno, Inum, ProcessKey, Protocol, Seq, SocketFacts, TableRow, TcpState};

/// Releases that are remembered, to tell a lost race; beyond it the oldest go.
pub const RELEASES_MAX: usize = 16_384;
/// Releases that are remembered of one port.
const RELEASES_OF_PORT: usize = 8;
/// How long after a release a failed bind may still be called a lost race, ns.
const RACE_NS: u64 = 60_000_000_000;
/// Failed binds that wait for what the kernel's tables say.
const WAITING_MAX: usize = 4096;

/// What makes two failures one incident: where, by which call, which program under which parent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Victims {
    netns: Inum,
    protocol: Protocol,
    address: IpAddr,
    port: u16,
    call: &'static str,
    program: (String, String),
    parent: Option<ProcessKey>,
}

/// A process that had a port and let it go.
#[derive(Clone, Copy, Debug)]
struct Release {
    process: ProcessKey,
    at: BootTime,
    seq: Seq,
}

/// What is remembered for causes.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    by_victim: BTreeMap<Victims, FindingId>,
    /// Failed binds without a known holder, by their events.
    waiting: BTreeMap<Seq, FindingId>,
    releases: BTreeMap<(Inum, Protocol, u16), VecDeque<Release>>,
    in_order: VecDeque<(Inum, Protocol, u16)>,
}

/// A failed call.
pub(super) struct Call<'a> {
    pub(super) process: ProcessKey,
    pub(super) socket: &'a SocketFacts,
    pub(super) errno: Errno,
    pub(super) name: &'static str,
}

impl Ledger {
    /// A socket is closed: its port was released by whoever had it.
    pub(super) fn released(&mut self, socket: &Socket, at: BootTime, seq: Seq) {
        let Some(process) = socket.binder else { return };
        let port = (socket.facts.netns, socket.facts.protocol, socket.facts.port);
        let of_port = self.refusals.releases.entry(port).or_default();
        of_port.push_back(Release { process, at, seq });
        if of_port.len() > RELEASES_OF_PORT {
            of_port.pop_front();
            return;
        }
        self.refusals.in_order.push_back(port);
        if self.refusals.in_order.len() > RELEASES_MAX
            && let Some(oldest) = self.refusals.in_order.pop_front()
            && let Some(releases) = self.refusals.releases.get_mut(&oldest)
        {
            releases.pop_front();
            if releases.is_empty() {
                self.refusals.releases.remove(&oldest);
            }
        }
    }

    /// A bind or listen failed with EADDRINUSE.
    pub(super) fn refused(&mut self, call: &Call<'_>, at: BootTime, seq: Seq) {
        let blocking = self.blocking(call);
        let cause = self.cause(call, &blocking, at);
        let mut members: Vec<Member> = Vec::new();
        let mut proof = vec![seq];
        for socket in &blocking {
            proof.extend([Some(socket.seq), socket.listens].into_iter().flatten());
            members.extend(socket.holders.iter().map(|holding| Member::of(socket, *holding)));
        }
        let lingering = if blocking.is_empty() { self.lingering_on(call.socket).cloned() } else { None };
        let (cause, last_owner) = match (cause, &lingering) {
            (Some((cause, more)), _) => {
                proof.extend(more);
                (Some(cause), None)
            }
            (None, Some(member)) => {
                proof.push(member.seq);
                (Some(Cause::Orphan), Some(member.clone()))
            }
            (None, None) => (None, None),
        };
        let cookies: Vec<_> = blocking.iter().map(|socket| socket.facts.cookie).collect();
        let victims = self.victims(call);
        let failure = Failure {
            member: Member { seq, ..Member::new(call.socket, Some(call.process), HolderState::Closed) },
            errno: call.errno,
            call: call.name,
        };
        let known =
            self.refusals.by_victim.get(&victims).copied().filter(|id| self.has_holders(*id, &members));
        let id = match known {
            Some(id) => id,
            None => {
                let Some(id) = self.open(Kind::Refused, call.socket, at) else { return };
                self.refusals.by_victim.insert(victims, id);
                if let Some(record) = self.record_mut(id) {
                    record.count = 0;
                }
                for cookie in cookies {
                    self.involved.entry(cookie).or_default().push(id);
                }
                id
            }
        };
        self.kin.refer(Some(call.process));
        let Some(record) = self.findings.get_mut(id.0 as usize - 1) else { return };
        record.count += 1;
        record.last_seen = at;
        record.victim = Some(failure);
        record.cause = cause.or(record.cause);
        record.last_owner = last_owner.or_else(|| record.last_owner.take());
        record.join(members, &mut self.kin);
        proof.into_iter().for_each(|seq| record.prove(seq));
        let is_open = record.members.is_empty();
        if is_open {
            self.refusals.waiting.insert(seq, id);
            // Answers come right behind the failure: what is this old has had its own.
            if self.refusals.waiting.len() > WAITING_MAX {
                self.refusals.waiting.pop_first();
            }
        }
        self.touch(id);
    }

    /// Who is told by one finding when the same happens to them.
    fn victims(&self, call: &Call<'_>) -> Victims {
        Victims {
            netns: call.socket.netns,
            protocol: call.socket.protocol,
            address: call.socket.address,
            port: call.socket.port,
            call: call.name,
            program: self.kin.program(call.process),
            parent: self.kin.get(call.process).and_then(|kin| kin.facts.parent),
        }
    }

    fn has_holders(&self, id: FindingId, members: &[Member]) -> bool {
        let processes = |members: &[Member]| {
            let mut keys: Vec<_> = members.iter().filter_map(|member| member.process).collect();
            keys.sort_unstable();
            keys.dedup();
            keys
        };
        // What the tables told of the first failure also holds for the next, until events know better.
        self.record(id)
            .is_some_and(|record| members.is_empty() || processes(&record.members) == processes(members))
    }

    /// The open sockets that the kernel refuses the call for.
    ///
    /// A pair is allowed when both set SO_REUSEPORT and have one owner, or both set SO_REUSEADDR and, for TCP, the
    /// other does not listen. The kernel also goes by options that were there when the port was first bound; where
    /// none of the conflicting sockets explains the refusal, all of them are named.
    fn blocking(&self, call: &Call<'_>) -> Vec<&Socket> {
        let new = call.socket;
        let conflicting = self.sockets.conflicting(new);
        let blocks = |old: &&Socket| {
            let (a, b) = (&new.options, &old.facts.options);
            if a.reuse_port && b.reuse_port && new.uid == old.facts.uid {
                return false;
            }
            if call.name == "listen" {
                return old.is_listening();
            }
            !(a.reuse_addr && b.reuse_addr) || (new.protocol == Protocol::Tcp && old.is_listening())
        };
        let blocking: Vec<&Socket> = conflicting.iter().copied().filter(blocks).collect();
        if blocking.is_empty() { conflicting } else { blocking }
    }

    /// Why, when somebody holds it; and the events that show it.
    fn cause(&self, call: &Call<'_>, blocking: &[&Socket], at: BootTime) -> Option<(Cause, Vec<Seq>)> {
        let first = blocking.first()?;
        let restart = blocking.iter().find_map(|socket| self.is_on_its_way_out(call.process, socket, at));
        if let Some(proof) = restart {
            return Some((Cause::Restart, proof));
        }
        if let Some(seq) = blocking.iter().find_map(|socket| self.lost_to(call, socket, at)) {
            return Some((Cause::LostRace, vec![seq]));
        }
        let (a, b) = (&call.socket.options, &first.facts.options);
        let cause = if a.reuse_port && b.reuse_port && call.socket.uid != first.facts.uid {
            Cause::OtherUser
        } else if a.reuse_port && !b.reuse_port {
            Cause::Exclusive
        } else if first.is_listening() {
            Cause::Listener
        } else {
            Cause::Bound
        };
        Some((cause, Vec::new()))
    }

    /// The holder runs the caller's program and was asked to end, has begun to, or listens no longer.
    fn is_on_its_way_out(&self, caller: ProcessKey, socket: &Socket, at: BootTime) -> Option<Vec<Seq>> {
        let other =
            socket.parties().find(|holder| *holder != caller && self.kin.same_program(caller, *holder))?;
        let kin = self.kin.get(other)?;
        if let Some((_, seq)) = kin.asked_to_end.filter(|(asked, _)| *asked <= at) {
            return Some(vec![seq]);
        }
        (kin.ended.is_some() || socket.stopped.is_some()).then(Vec::new)
    }

    /// The caller, or an ancestor of it, had the port and let it go before this holder took it.
    fn lost_to(&self, call: &Call<'_>, socket: &Socket, at: BootTime) -> Option<Seq> {
        let port = (call.socket.netns, call.socket.protocol, call.socket.port);
        let taken = socket.bound_at?;
        let holder = socket.binder?;
        let is_callers = |process: ProcessKey| {
            process == call.process
                || self.kin.lineage(process) == self.kin.lineage(call.process)
                || self.kin.is_ancestor(process, call.process)
        };
        self.refusals
            .releases
            .get(&port)?
            .iter()
            .rev()
            .find(|release| {
                release.at <= taken
                    && at.since(release.at) <= RACE_NS
                    && is_callers(release.process)
                    && release.process != holder
            })
            .map(|release| release.seq)
    }

    fn lingering_on(&self, with: &SocketFacts) -> Option<&Member> {
        let port = (with.netns, with.protocol, with.port);
        self.lingering.values().filter(|(place, _)| *place == port).map(|(_, member)| member).next_back()
    }

    /// What the kernel's tables have on the port of a failed call whose holder no event knows.
    pub(super) fn table_row(&mut self, row: &TableRow, at: BootTime, seq: Seq) {
        let Some(id) = self.refusals.waiting.get(&row.asked_by).copied() else { return };
        let wanted = self.record(id).and_then(|record| record.victim.as_ref()).map(|failure| {
            Reach::of(&SocketFacts {
                address: failure.member.address,
                options: failure.member.options,
                ..row.socket.clone()
            })
        });
        if wanted.is_none_or(|wanted| !wanted.meets(&Reach::of(&row.socket))) {
            return;
        }
        let cause = match row.state {
            TcpState::Listen => Cause::Listener,
            TcpState::Close => Cause::Bound,
            TcpState::TimeWait => Cause::TimeWait,
            TcpState::Established | TcpState::SynSent | TcpState::SynRecv if !row.holders.is_empty() => {
                Cause::Bound
            }
            _ if row.holders.is_empty() => Cause::Orphan,
            _ => Cause::HalfClosed,
        };
        let member = |process| Member {
            seq,
            bound_at: None,
            ..Member::new(&row.socket, process, state_of(row.state))
        };
        let members: Vec<Member> = row.holders.iter().map(|holder| member(Some(*holder))).collect();
        let last_owner = row.last_owner.map(|owner| Member { released_at: Some(at), ..member(Some(owner)) });
        self.kin.refer(row.last_owner);
        let Some(record) = self.findings.get_mut(id.0 as usize - 1) else { return };
        // Somebody who has it explains more than what nobody has.
        let weight = |cause: Option<Cause>| match cause {
            None => 0,
            Some(Cause::TimeWait) => 1,
            Some(Cause::Orphan) => 2,
            Some(Cause::HalfClosed) => 3,
            Some(_) => 4,
        };
        if weight(Some(cause)) > weight(record.cause) {
            record.cause = Some(cause);
            if last_owner.is_some() {
                record.last_owner = last_owner;
            }
        } else if record.last_owner.is_none() {
            record.last_owner = last_owner;
        }
        record.prove(seq);
        record.join(members, &mut self.kin);
        self.touch(id);
    }
}
