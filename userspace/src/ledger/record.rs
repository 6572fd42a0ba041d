//! Findings as the ledger keeps them: references and events, no texts. [`Finding`] is made of one when it is asked for.

use std::net::{IpAddr, SocketAddr};

use super::finding::{Cause, EVIDENCE_MAX, Finding, FindingId, Holder, HolderState, Kind, Receives, Victim};
use super::hold::{Holding, Socket};
use super::kin::Kinship;
use crate::event::{
    BootTime, Cookie, Errno, Inum, Options, ProcessKey, Protocol, Seq, SocketFacts, TcpState, Uid,
};

/// Holders that one finding keeps, entries (a process may need several); beyond it newcomers are counted only.
pub const MEMBERS_MAX: usize = 2048;

/// One socket in the hands of one process.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Member {
    pub(super) cookie: Cookie,
    /// None when nobody is known to have it.
    pub(super) process: Option<ProcessKey>,
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) options: Options,
    pub(super) uid: Uid,
    pub(super) state: HolderState,
    pub(super) bound_at: Option<BootTime>,
    pub(super) released_at: Option<BootTime>,
    pub(super) from: Option<ProcessKey>,
    pub(super) seq: Seq,
}

impl Member {
    /// A process that has `socket`.
    pub(super) fn of(socket: &Socket, holding: Holding) -> Self {
        let state = if socket.is_listening() { HolderState::Listen } else { HolderState::Bound };
        Self { seq: holding.seq, ..Self::new(&socket.facts, Some(holding.process), state) }
            .since(socket.bound_at, holding.from)
    }

    /// A socket that nobody is known to have.
    pub(super) fn nobodys(socket: &Socket) -> Self {
        let state = if socket.is_listening() { HolderState::Listen } else { HolderState::Bound };
        Self { seq: socket.seq, process: socket.binder, ..Self::new(&socket.facts, None, state) }
            .since(socket.bound_at, None)
    }

    pub(super) const fn new(facts: &SocketFacts, process: Option<ProcessKey>, state: HolderState) -> Self {
        Self {
            cookie: facts.cookie,
            process,
            address: facts.address,
            port: facts.port,
            options: facts.options,
            uid: facts.uid,
            state,
            bound_at: None,
            released_at: None,
            from: None,
            seq: Seq(0),
        }
    }

    const fn since(mut self, bound_at: Option<BootTime>, from: Option<ProcessKey>) -> Self {
        self.bound_at = bound_at;
        self.from = from;
        self
    }
}

/// A call that failed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Failure {
    pub(super) member: Member,
    pub(super) errno: Errno,
    pub(super) call: &'static str,
}

/// A finding.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    pub(super) id: FindingId,
    pub(super) kind: Kind,
    pub(super) protocol: Protocol,
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) netns: Inum,
    pub(super) first_seen: BootTime,
    pub(super) last_seen: BootTime,
    pub(super) live: bool,
    pub(super) cause: Option<Cause>,
    pub(super) destination: Option<SocketAddr>,
    pub(super) members: Vec<Member>,
    /// Sockets that make it last.
    pub(super) live_sockets: Vec<Cookie>,
    pub(super) victim: Option<Failure>,
    pub(super) last_owner: Option<Member>,
    pub(super) count: u64,
    pub(super) uncertain: bool,
    pub(super) receives: Option<Receives>,
    /// Connections that waited in the queues of sockets that left it.
    pub(super) left_waiting: u64,
    evidence: Vec<Seq>,
}

impl Record {
    pub(super) const fn new(id: FindingId, kind: Kind, on: &SocketFacts, at: BootTime) -> Self {
        Self {
            id,
            kind,
            protocol: on.protocol,
            address: on.address,
            port: on.port,
            netns: on.netns,
            first_seen: at,
            last_seen: at,
            live: false,
            cause: None,
            destination: None,
            members: Vec::new(),
            live_sockets: Vec::new(),
            victim: None,
            last_owner: None,
            count: 1,
            uncertain: false,
            receives: None,
            left_waiting: 0,
            evidence: Vec::new(),
        }
    }

    /// Adds an event that proves it. Of more than [`EVIDENCE_MAX`] the first and the last half are kept.
    pub(super) fn prove(&mut self, seq: Seq) {
        if seq.0 == 0 {
            return;
        }
        if let Err(place) = self.evidence.binary_search(&seq) {
            self.evidence.insert(place, seq);
            if self.evidence.len() > EVIDENCE_MAX {
                self.evidence.remove(EVIDENCE_MAX / 2);
            }
        }
    }

    /// Adds holders that are not there yet.
    pub(super) fn join(&mut self, members: impl IntoIterator<Item = Member>, kin: &mut Kinship) {
        for member in members {
            self.prove(member.seq);
            let has_room = self.members.len() < MEMBERS_MAX;
            let known = self.members.iter_mut().find(|known| {
                known.cookie == member.cookie
                    && known.process == member.process
                    && known.released_at.is_none()
            });
            match known {
                Some(known) => (known.state, known.options) = (member.state, member.options),
                None if has_room => {
                    kin.refer(member.process);
                    self.members.push(member);
                }
                None => {}
            }
        }
    }

    /// The finding as it stands at `now`.
    pub(super) fn finding(&self, kin: &Kinship, now: BootTime) -> Finding {
        let last_seen = if self.live { now } else { self.last_seen };
        let overlaps = matches!(self.kind, Kind::CoBind | Kind::Handover | Kind::Shadow);
        Finding {
            id: self.id,
            kind: self.kind,
            protocol: self.protocol,
            address: self.address,
            port: self.port,
            netns: self.netns,
            first_seen: self.first_seen,
            last_seen,
            overlap: overlaps.then(|| last_seen.since(self.first_seen)),
            live: self.live,
            cause: self.cause,
            destination: self.destination,
            holders: holders(&self.members, kin),
            victim: self.victim.as_ref().map(|failure| Victim {
                holder: holder(&failure.member, kin),
                errno: failure.errno,
                call: failure.call,
            }),
            last_owner: self.last_owner.as_ref().map(|member| holder(member, kin)),
            count: self.count,
            uncertain: self.uncertain,
            receives: self.receives,
            evidence: self.evidence.clone(),
        }
    }
}

/// Members as holders: one a process, in the order in which they came.
fn holders(members: &[Member], kin: &Kinship) -> Vec<Holder> {
    let mut holders: Vec<Holder> = Vec::new();
    for member in members.iter().filter(|member| member.process.is_some()) {
        let known = holders.iter_mut().find(|holder| Some(holder.process) == member.process);
        let Some(known) = known else {
            holders.push(holder(member, kin));
            continue;
        };
        if !known.sockets.contains(&member.cookie) {
            known.sockets.push(member.cookie);
        }
        known.bound_at = match (known.bound_at, member.bound_at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            _ => None,
        };
        known.released_at = match (known.released_at, member.released_at) {
            (Some(a), Some(b)) => Some(a.max(b)),
            _ => None,
        };
        if known.state == HolderState::Closed {
            known.state = member.state;
        }
    }
    holders
}

/// One member as a holder.
pub(super) fn holder(member: &Member, kin: &Kinship) -> Holder {
    let process = member.process.unwrap_or(ProcessKey { tgid: 0, start: 0 });
    let known = kin.get(process).map(|kin| &kin.facts);
    Holder {
        process,
        comm: known.map(|facts| facts.comm.clone()).unwrap_or_default(),
        exe: known.map(|facts| facts.exe.clone()).unwrap_or_default(),
        cmdline: known.map(|facts| facts.cmdline.clone()).unwrap_or_default(),
        cmdline_cut: known.is_some_and(|facts| facts.cmdline_cut),
        uid: known.map_or(member.uid, |facts| facts.uid),
        cgroup: known.map(|facts| facts.cgroup.clone()).unwrap_or_default(),
        container: known.and_then(|facts| facts.container.clone()),
        lineage: kin.lineage(process),
        parents: kin.parents(process),
        socket_cookie: member.cookie,
        sockets: vec![member.cookie],
        address: member.address,
        port: member.port,
        options: member.options,
        state: member.state,
        bound_at: member.bound_at,
        released_at: member.released_at,
        accepted: None,
        inherited_from: member.from,
    }
}

/// What a socket in a TCP state does.
pub(super) const fn state_of(state: TcpState) -> HolderState {
    match state {
        TcpState::Listen => HolderState::Listen,
        TcpState::Close => HolderState::Bound,
        TcpState::TimeWait => HolderState::TimeWait,
        _ => HolderState::Connected,
    }
}
