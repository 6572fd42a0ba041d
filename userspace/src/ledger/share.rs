//! Unrelated processes on one endpoint (`co-bind`, `handover`) or on overlapping ones (`shadow`).

use std::collections::BTreeSet;

use super::Ledger;
use super::finding::{FindingId, HolderState, Kind, Receives};
use super::hold::Socket;
use super::plane::{self, Reach};
use super::record::Member;
use crate::event::{BootTime, Cookie, Inum, ProcessKey, Protocol, Seq};

/// What tells one incident from another: the endpoint, or the two endpoints, the narrower reach first.
pub(super) type Incident = (Inum, Protocol, u16, Reach, Reach);

/// Why a socket leaves an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    /// It was closed.
    Closed,
    /// It stopped listening.
    Stopped,
}

impl Ledger {
    /// Looks whom a socket shares with now. To be called when it came to be or changed.
    pub(super) fn meet(&mut self, cookie: Cookie, at: BootTime, seq: Seq) {
        let Some(socket) = self.sockets.get(cookie) else { return };
        let rivals: Vec<(Cookie, Kind, Incident)> = self
            .sockets
            .conflicting(&socket.facts)
            .into_iter()
            .filter_map(|other| {
                let kind = kind_of(socket, other)?;
                (!self.are_related(socket, other))
                    .then(|| (other.facts.cookie, kind, incident(socket, other)))
            })
            .collect();
        for (rival, kind, incident) in rivals {
            let id = match self.incidents.get(&incident) {
                Some(id) => *id,
                None => {
                    let Some(id) = self.begin(kind, incident, cookie, rival, at) else { continue };
                    id
                }
            };
            for member in [rival, cookie] {
                self.join(id, member);
            }
            self.prove(id, seq);
            self.settle_receiver(id);
            self.touch(id);
        }
    }

    /// Opens a finding for an incident.
    fn begin(
        &mut self,
        kind: Kind,
        incident: Incident,
        a: Cookie,
        b: Cookie,
        at: BootTime,
    ) -> Option<FindingId> {
        let (a, b) = (self.sockets.get(a)?, self.sockets.get(b)?);
        // Of overlapping endpoints the finding names the one that takes the traffic away.
        let on = if plane::rank(&a.facts) >= plane::rank(&b.facts) { &a.facts } else { &b.facts };
        let (unknown, on) = (a.parties().next().is_none() || b.parties().next().is_none(), on.clone());
        let id = self.open(kind, &on, at)?;
        let record = self.record_mut(id)?;
        record.live = true;
        record.uncertain |= unknown;
        self.incidents.insert(incident, id);
        Some(id)
    }

    fn join(&mut self, id: FindingId, cookie: Cookie) {
        let Some(socket) = self.sockets.get(cookie) else { return };
        let listens = socket.listens;
        let members: Vec<Member> = if socket.holders.is_empty() {
            vec![Member::nobodys(socket)]
        } else {
            socket.holders.iter().map(|holding| Member::of(socket, *holding)).collect()
        };
        let Some(record) = self.findings.get_mut(id.0 as usize - 1) else { return };
        record.join(members, &mut self.kin);
        if !record.live_sockets.contains(&cookie) {
            record.live_sockets.push(cookie);
        }
        if let Some(seq) = listens {
            record.prove(seq);
        }
        let involved = self.involved.entry(cookie).or_default();
        if !involved.contains(&id) {
            involved.push(id);
        }
    }

    /// A socket is closed or no longer listens: the incidents it is in may be over. To be called while the socket is
    /// still in the table.
    pub(super) fn leave(&mut self, cookie: Cookie, why: Leaving, backlog: u32, at: BootTime, seq: Seq) {
        let ids = match why {
            Leaving::Closed => self.involved.remove(&cookie).unwrap_or_default(),
            Leaving::Stopped => self.involved.get(&cookie).cloned().unwrap_or_default(),
        };
        for id in ids {
            let Some(record) = self.findings.get_mut(id.0 as usize - 1) else { continue };
            let was_live = record.live_sockets.contains(&cookie);
            record.live_sockets.retain(|other| *other != cookie);
            for member in record.members.iter_mut().filter(|member| member.cookie == cookie) {
                member.state = if why == Leaving::Closed { HolderState::Closed } else { HolderState::Bound };
                if why == Leaving::Closed && member.released_at.is_none() {
                    member.released_at = Some(at);
                }
            }
            if matches!(record.kind, Kind::Orphan) {
                self.orphan_left(id, at, seq);
            } else if was_live && record.kind == Kind::Handover && why == Leaving::Closed {
                // It took over and was gone as soon as the other: that was no reload, both ended together.
                if at.since(record.last_seen) <= self.settings.handover_ns {
                    record.kind = Kind::CoBind;
                    record.prove(seq);
                }
            } else if was_live && record.live {
                record.left_waiting += u64::from(backlog);
                record.prove(seq);
                self.thinned(id, cookie, at);
            }
            self.touch(id);
        }
    }

    /// A socket left a live incident: it is over when those who stay are related.
    fn thinned(&mut self, id: FindingId, left: Cookie, at: BootTime) {
        let Some(record) = self.record(id) else { return };
        if self.are_strangers(&record.live_sockets) {
            self.settle_receiver(id);
            return;
        }
        let kind = if self.is_handover(id, left, at) { Kind::Handover } else { record.kind };
        self.incidents.retain(|_, live| *live != id);
        if let Some(record) = self.record_mut(id) {
            record.kind = kind;
            record.live = false;
            record.last_seen = at;
        }
    }

    /// A newcomer of the same program and user took over, and the older one stopped in time with nothing waiting.
    fn is_handover(&self, id: FindingId, left: Cookie, at: BootTime) -> bool {
        let (Some(record), Some(older)) = (self.record(id), self.sockets.get(left)) else { return false };
        let newest =
            record.live_sockets.iter().filter_map(|cookie| self.sockets.get(*cookie)).max_by_key(|s| s.seq);
        let Some(newer) = newest.filter(|newer| newer.seq > older.seq) else { return false };
        let (Some(bound_at), Some(a), Some(b)) = (newer.bound_at, older.binder, newer.binder) else {
            return false;
        };
        let (Some(a), Some(b)) = (self.kin.get(a), self.kin.get(b)) else { return false };
        record.kind == Kind::CoBind
            && record.left_waiting == 0
            && at.since(bound_at) <= self.settings.handover_ns
            && !a.facts.exe.is_empty()
            && a.facts.exe == b.facts.exe
            && a.facts.uid == b.facts.uid
    }

    /// Whether any two of these sockets are held by unrelated processes.
    fn are_strangers(&self, cookies: &[Cookie]) -> bool {
        let sockets: Vec<&Socket> = cookies.iter().filter_map(|cookie| self.sockets.get(*cookie)).collect();
        // Sockets of one process are alike: a pool of threads is looked at once.
        let mut seen: BTreeSet<Vec<ProcessKey>> = BTreeSet::new();
        let distinct: Vec<&Socket> = sockets
            .into_iter()
            .filter(|socket| {
                let mut parties: Vec<ProcessKey> = socket.parties().collect();
                parties.sort_unstable();
                seen.insert(parties)
            })
            .collect();
        distinct.iter().enumerate().any(|(n, a)| {
            distinct.iter().skip(n + 1).any(|b| kind_of(a, b).is_some() && !self.are_related(a, b))
        })
    }

    /// Whether the holders of two sockets are related. Sockets that nobody is known to hold are not.
    fn are_related(&self, a: &Socket, b: &Socket) -> bool {
        let rule = self.settings.related_by;
        a.parties().any(|one| b.parties().any(|other| self.kin.related(one, other, rule)))
    }

    /// Works out who gets the traffic of a live incident.
    pub(super) fn settle_receiver(&mut self, id: FindingId) {
        let Some(record) = self.record(id).filter(|record| record.live) else { return };
        let sockets: Vec<&Socket> = record
            .live_sockets
            .iter()
            .filter_map(|cookie| self.sockets.get(*cookie))
            .filter(|socket| socket.facts.protocol != Protocol::Tcp || socket.is_listening())
            .collect();
        let receives = self.receiver(&sockets);
        if let Some(record) = self.record_mut(id) {
            record.receives = receives;
        }
    }

    fn receiver(&self, sockets: &[&Socket]) -> Option<Receives> {
        let highest = sockets.iter().map(|socket| plane::rank(&socket.facts)).max()?;
        let first: Vec<&Socket> =
            sockets.iter().filter(|socket| plane::rank(&socket.facts) == highest).copied().collect();
        let lineage = |socket: &Socket| socket.parties().next().map(|process| self.kin.lineage(process));
        let lineages: BTreeSet<Option<ProcessKey>> = first.iter().map(|socket| lineage(socket)).collect();
        if lineages.len() == 1 {
            return lineages.into_iter().next().flatten().map(Receives::One);
        }
        let one_endpoint = first.iter().all(|socket| {
            first.first().is_some_and(|other| Reach::of(&socket.facts) == Reach::of(&other.facts))
        });
        let is_tcp = first.iter().any(|socket| socket.facts.protocol == Protocol::Tcp);
        let all_reuse_port = first.iter().all(|socket| socket.facts.options.reuse_port);
        let one = match (one_endpoint, is_tcp, all_reuse_port) {
            (true, true, _) | (true, false, true) => return Some(Receives::Split),
            // UDP with SO_REUSEADDR: the last binder gets all.
            (_, false, false) => first.iter().max_by_key(|socket| socket.seq),
            // The dual-stack wildcard beside the IPv6 one: the first to listen, or of UDP to bind.
            (false, true, _) => first.iter().min_by_key(|socket| socket.listens),
            (false, false, true) => first.iter().min_by_key(|socket| socket.seq),
        };
        one.and_then(|socket| lineage(socket)).map(Receives::One)
    }

    /// The holders of a socket changed, its options or its state: tells the findings it is in.
    pub(super) fn retell(&mut self, cookie: Cookie, at: BootTime, seq: Seq) {
        let Some(socket) = self.sockets.get(cookie) else { return };
        let members: Vec<Member> =
            socket.holders.iter().map(|holding| Member::of(socket, *holding)).collect();
        let (options, listening) = (socket.facts.options, socket.is_listening());
        for id in self.involved.get(&cookie).cloned().unwrap_or_default() {
            let Some(record) = self.findings.get_mut(id.0 as usize - 1) else { continue };
            let holders: BTreeSet<_> = members.iter().filter_map(|member| member.process).collect();
            for member in record.members.iter_mut().filter(|member| member.cookie == cookie) {
                member.options = options;
                if member.state != HolderState::Closed {
                    member.state = if listening { HolderState::Listen } else { HolderState::Bound };
                }
                let gone = member.process.is_some_and(|process| !holders.contains(&process));
                if gone && !holders.is_empty() && member.released_at.is_none() {
                    member.released_at = Some(at);
                }
            }
            record.prove(seq);
            if record.live_sockets.contains(&cookie) {
                record.join(members.iter().cloned(), &mut self.kin);
            }
            self.settle_receiver(id);
            self.touch(id);
        }
    }

    /// Live incidents hold strangers, and only open sockets; every live finding of these kinds is indexed.
    pub(super) fn check_incidents(&self) -> Result<(), String> {
        for (incident, id) in &self.incidents {
            let record = self.record(*id).ok_or_else(|| format!("incident of no finding {}", id.0))?;
            if !record.live || !self.are_strangers(&record.live_sockets) {
                return Err(format!("finding {} on {incident:?} lasts without strangers", id.0));
            }
            if let Some(cookie) =
                record.live_sockets.iter().find(|cookie| self.sockets.get(**cookie).is_none())
            {
                return Err(format!("finding {} lasts on the closed socket {}", id.0, cookie.0));
            }
        }
        let indexed: BTreeSet<FindingId> = self.incidents.values().copied().collect();
        let shares = |kind| matches!(kind, Kind::CoBind | Kind::Shadow);
        match self
            .findings
            .iter()
            .find(|record| record.live && shares(record.kind) && !indexed.contains(&record.id))
        {
            Some(record) => Err(format!("finding {} is live and not indexed", record.id.0)),
            None => Ok(()),
        }
    }
}

/// What two conflicting open sockets are to each other, were their holders strangers.
///
/// UDP sockets that are both bound both get datagrams or take them from one another. TCP sockets matter once they
/// share (SO_REUSEPORT) or both listen: two that merely are bound with SO_REUSEADDR share nothing, the second
/// `listen()` fails. Multicast members on one port are meant.
fn kind_of(a: &Socket, b: &Socket) -> Option<Kind> {
    if a.multicast || b.multicast || a.stopped.is_some() || b.stopped.is_some() {
        return None;
    }
    if !plane::conflict(&a.facts, &b.facts) {
        return None;
    }
    let both_reuse_port = a.facts.options.reuse_port && b.facts.options.reuse_port;
    let both_listen = a.is_listening() && b.is_listening();
    if a.facts.protocol == Protocol::Tcp && !both_reuse_port && !both_listen {
        return None;
    }
    let same = Reach::of(&a.facts) == Reach::of(&b.facts);
    Some(if same { Kind::CoBind } else { Kind::Shadow })
}

fn incident(a: &Socket, b: &Socket) -> Incident {
    let (mut low, mut high) = (Reach::of(&a.facts), Reach::of(&b.facts));
    if low > high {
        std::mem::swap(&mut low, &mut high);
    }
    (a.facts.netns, a.facts.protocol, a.facts.port, low, high)
}
