//! Findings as the ledger keeps them, and how they become snapshots.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::event::{Accepted, BootTime, Cookie, ProcessKey, Rest, Seq, TcpState};

use super::evidence::Evidence;
use super::finding::{
    Cause, Finding, FindingId, Holder, HolderState, Kind, PortRange, PortUser, Receives, Victim, Wait,
};
use super::holdings::Holdings;
use super::kin::Kin;
use super::party::{Party, STAKES_MAX};
use super::place::PortKey;
use super::socket::Socket;

/// Findings kept, findings.
pub(super) const FINDINGS_MAX: usize = 10_000;
/// Processes listed in one finding, processes.
pub(super) const PARTIES_MAX: usize = 1_024;

/// The place of an event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) seq: Seq,
    pub(super) at: BootTime,
}

/// A finding that can still change.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) id: FindingId,
    pub(super) kind: Kind,
    pub(super) port: PortKey,
    pub(super) address: IpAddr,
    pub(super) first_seen: BootTime,
    /// Of a live one this is not kept up: it is so until now.
    pub(super) last_seen: BootTime,
    pub(super) live: bool,
    pub(super) cause: Option<Cause>,
    /// State of the connection that the cause rests on.
    pub(super) tcp_state: Option<TcpState>,
    /// How much the best table row said that the cause rests on; see `refused`.
    pub(super) rank: u8,
    pub(super) destination: Option<SocketAddr>,
    pub(super) parties: Vec<Party>,
    index: BTreeMap<ProcessKey, usize>,
    pub(super) victim: Option<Victim>,
    pub(super) last_owner: Option<Holder>,
    pub(super) removed_cgroup: Option<String>,
    pub(super) range: Option<PortRange>,
    pub(super) users: Vec<PortUser>,
    pub(super) others: Rest,
    pub(super) wait: Option<Wait>,
    pub(super) count: u64,
    /// Of `denied`: nothing was refused.
    pub(super) dry_run: bool,
    pub(super) uncertain: bool,
    pub(super) receives: Option<Receives>,
    pub(super) evidence: Evidence,
    /// It was reported at some time: that it no longer is has to be reported as well.
    pub(super) shown: bool,
    /// It is an orphan because nobody closed it in time: a close that was told late may say otherwise.
    pub(super) presumed: bool,
    /// A bound was reached while it was filled.
    pub(super) cut: bool,
    /// Sharing of one of its sockets turned out to be meant: it may have to be taken back.
    pub(super) meant: bool,
}

impl Record {
    /// Adds a process, or the socket to the process, or notes that the process has it again. True when that is new.
    pub(super) fn join(&mut self, party: Party) -> bool {
        let Some(known) = self.index.get(&party.process).and_then(|at| self.parties.get_mut(*at)) else {
            if self.parties.len() >= PARTIES_MAX {
                self.cut = true;
                return false;
            }
            self.index.insert(party.process, self.parties.len());
            self.parties.push(party);
            return true;
        };
        let Some(joined) = party.stakes.first() else { return false };
        match known.stakes.iter_mut().find(|stake| stake.cookie == joined.cookie) {
            Some(stake) if stake.is_open() => return false,
            Some(stake) => stake.clone_from(joined),
            None => {
                let full = known.stakes.len() >= STAKES_MAX;
                self.cut |= full;
                if full && !known.drop_closed() {
                    return false;
                }
                known.stakes.push(joined.clone());
            }
        }
        if known.released_at.take().is_some() {
            (known.state, known.options) = (party.state, party.options);
        }
        true
    }

    pub(super) fn clear_parties(&mut self) {
        self.parties.clear();
        self.index.clear();
    }

    /// Takes a socket out, and the processes that have no other.
    pub(super) fn remove_socket(&mut self, cookie: Cookie) {
        for party in &mut self.parties {
            party.stakes.retain(|stake| stake.cookie != cookie);
        }
        self.parties.retain(|party| !party.stakes.is_empty());
        self.index = self.parties.iter().enumerate().map(|(at, party)| (party.process, at)).collect();
    }

    /// Takes a socket out whose sharing turned out to be meant.
    pub(super) fn withdraw(&mut self, cookie: Cookie) {
        self.remove_socket(cookie);
        for party in self.parties.iter_mut().filter(|party| party.released_at.is_none()) {
            party.released_at = party.last_closed();
            if party.released_at.is_some() {
                party.state = HolderState::Closed;
            }
        }
        self.meant = true;
    }

    /// Makes the parties those of these live sockets: newcomers join, the others stay as past ones. True when anything
    /// that shows has changed.
    pub(super) fn sync(&mut self, members: &[&Socket], kin: &Kin, now: Moment) -> bool {
        let mut changed = false;
        for stake in self.parties.iter_mut().flat_map(|party| &mut party.stakes) {
            stake.kept = false;
        }
        for socket in members {
            for process in socket.holders() {
                changed |= self.sync_one(*process, socket, kin);
            }
        }
        for party in &mut self.parties {
            for stake in &mut party.stakes {
                changed |= stake.active != stake.kept;
                stake.active = stake.kept;
            }
            let active = party.is_active();
            if active {
                party.stopped_at = None;
            } else if party.stopped_at.is_none() {
                party.stopped_at = Some(now.at);
            }
        }
        changed
    }

    /// Whether the lists are full that a socket of a process would come into.
    fn has_no_room(&self, process: ProcessKey, cookie: Cookie) -> bool {
        match self.index.get(&process).and_then(|at| self.parties.get(*at)) {
            Some(party) => {
                party.stakes.len() >= STAKES_MAX
                    && party.droppable().is_none()
                    && party.stakes.iter().all(|stake| stake.cookie != cookie)
            }
            None => self.parties.len() >= PARTIES_MAX,
        }
    }

    /// Whether nothing of a socket shows, because its holders' lists are full of others.
    pub(super) fn is_beyond(&self, socket: &Socket) -> bool {
        !socket.holders().is_empty()
            && socket.findings.binary_search(&self.id).is_err()
            && socket.holders().iter().all(|holder| self.has_no_room(*holder, socket.cookie))
    }

    fn sync_one(&mut self, process: ProcessKey, socket: &Socket, kin: &Kin) -> bool {
        let known = self.index.get(&process).and_then(|at| self.parties.get_mut(*at));
        let open = |party: &mut Party| {
            party.stake(socket.cookie).filter(|stake| stake.is_open()).map(|stake| stake.kept = true)
        };
        let Some(party) = known.and_then(|party| open(party).map(|()| party)) else {
            if self.has_no_room(process, socket.cookie) {
                self.cut = true;
                return false;
            }
            return self.join(Party::holding(kin, process, socket));
        };
        let state = socket.state.shown();
        if party.shown_socket() != Some(socket.cookie)
            || (party.state, party.options) == (state, socket.options)
        {
            return false;
        }
        (party.state, party.options) = (state, socket.options);
        true
    }

    /// Takes over the state and options of a socket where they show. True when they differ.
    pub(super) fn refresh(&mut self, socket: &Socket) -> bool {
        let mut changed = false;
        for party in &mut self.parties {
            let now = (socket.state.shown(), socket.options);
            let shows = party.shown_socket() == Some(socket.cookie) && party.released_at.is_none();
            if shows && (party.state, party.options) != now {
                (party.state, party.options) = now;
                changed = true;
            }
        }
        changed
    }

    /// Notes who still has a socket open that the finding names; nobody when it was closed. True when that shows.
    pub(super) fn follow(&mut self, socket: &Socket, holders: &[ProcessKey], at: BootTime) -> bool {
        let mut changed = false;
        // What a refusal says is the state at the failure.
        let frozen = matches!(self.kind, Kind::Refused | Kind::Exhausted | Kind::Denied);
        for party in &mut self.parties {
            if holders.contains(&party.process) {
                continue;
            }
            let Some(stake) = party.stake(socket.cookie).filter(|stake| stake.is_open()) else { continue };
            stake.closed_at = Some(at);
            stake.active = false;
            // Of a live finding every change is evidence; of a past one only what a holder's entry shows.
            changed |= self.live;
            if !party.is_active() && party.stopped_at.is_none() {
                party.stopped_at = Some(at);
            }
            let is_first = party.stakes.first().is_some_and(|first| first.cookie == socket.cookie);
            if !frozen && is_first && party.options != socket.options {
                party.options = socket.options;
                changed = true;
            }
            party.released_at = party.last_closed();
            if party.released_at.is_some() {
                if !frozen {
                    party.state = HolderState::Closed;
                }
                changed = true;
            }
        }
        changed
    }

    /// Notes how many connections a socket got. True when that is news.
    pub(super) fn add_accepted(&mut self, accepted: &Accepted, seq: Seq) -> bool {
        let mut changed = false;
        for stake in self.parties.iter_mut().filter_map(|party| party.stake(accepted.cookie)) {
            if stake.accepted == Some(accepted.connections) {
                continue;
            }
            changed = true;
            stake.accepted = Some(accepted.connections);
            // A listener is counted again and again: the latest count says it all.
            self.evidence.remove(std::mem::replace(&mut stake.counted, seq));
        }
        changed
    }

    /// Adds connections lost in a queue to those who had the socket.
    pub(super) fn add_backlog(&mut self, cookie: Cookie, backlog: u32) {
        for party in &mut self.parties {
            if party.stake(cookie).is_some_and(|stake| stake.is_open()) {
                party.backlog += u64::from(backlog);
            }
        }
    }

    pub(super) fn add_socket_evidence(&mut self, socket: &Socket) {
        self.evidence.add(socket.known);
        self.evidence.add(socket.listened);
        if let Some(shared) = &socket.shared {
            self.evidence.add(shared.seq);
        }
    }

    pub(super) const fn overlaps(&self) -> bool {
        matches!(self.kind, Kind::CoBind | Kind::Handover | Kind::Shadow)
    }

    /// As it stands at the time `now`.
    pub(super) fn snapshot(&self, now: BootTime) -> Finding {
        let last_seen = if self.live { now.max(self.first_seen) } else { self.last_seen };
        Finding {
            id: self.id,
            kind: self.kind,
            protocol: self.port.protocol,
            address: self.address,
            port: self.port.port,
            netns: self.port.netns,
            first_seen: self.first_seen,
            last_seen,
            overlap: self.overlaps().then(|| last_seen.since(self.first_seen)),
            live: self.live,
            cause: self.cause,
            tcp_state: self.tcp_state,
            destination: self.destination,
            holders: self.parties.iter().map(Party::holder).collect(),
            victim: self.victim.clone(),
            last_owner: self.last_owner.clone(),
            removed_cgroup: self.removed_cgroup.clone(),
            range: self.range,
            users: self.users.clone(),
            others: self.others,
            wait: self.wait,
            count: self.count,
            dry_run: self.dry_run,
            would_deny: self.parties.iter().filter(|party| party.would_be_denied == Some(true)).count()
                as u64,
            uncertain: self.uncertain,
            receives: self.receives,
            evidence: self.evidence.as_slice().to_vec(),
        }
    }
}

/// All findings.
#[derive(Default)]
pub(super) struct Records {
    /// Each in a place of its own: a node of the map has room for eleven, and half of it is empty.
    map: BTreeMap<FindingId, Box<Record>>,
    made: u32,
    /// Findings that the event at hand made or changed, in no order, perhaps repeated.
    pub(super) touched: Vec<FindingId>,
    /// From a loss until the next complete inventory: whatever changes is uncertain.
    pub(super) lossy: bool,
}

impl Records {
    pub(super) fn is_full(&self) -> bool {
        self.map.len() >= FINDINGS_MAX
    }

    /// Makes a finding, live or not; the caller fills in the rest. None when there are too many.
    pub(super) fn open(
        &mut self,
        kind: Kind,
        port: PortKey,
        address: IpAddr,
        now: Moment,
    ) -> Option<&mut Record> {
        if self.is_full() {
            return None;
        }
        self.made += 1;
        let id = FindingId(self.made);
        self.touched.push(id);
        let record = Box::new(Record {
            id,
            kind,
            port,
            address,
            first_seen: now.at,
            last_seen: now.at,
            live: false,
            cause: None,
            tcp_state: None,
            rank: 0,
            destination: None,
            parties: Vec::new(),
            index: BTreeMap::new(),
            victim: None,
            last_owner: None,
            removed_cgroup: None,
            range: None,
            users: Vec::new(),
            others: Rest::default(),
            wait: None,
            count: 1,
            dry_run: false,
            uncertain: self.lossy,
            receives: None,
            evidence: Evidence::default(),
            shown: false,
            presumed: false,
            cut: false,
            meant: false,
        });
        Some(self.map.entry(id).or_insert(record))
    }

    pub(super) fn get(&self, id: FindingId) -> Option<&Record> {
        self.map.get(&id).map(AsRef::as_ref)
    }

    /// For a change that shows.
    pub(super) fn touch(&mut self, id: FindingId) -> Option<&mut Record> {
        let record = self.map.get_mut(&id)?.as_mut();
        record.uncertain |= self.lossy;
        self.touched.push(id);
        Some(record)
    }

    /// For changes that may not show: follow with [`Records::touch`] when they do.
    pub(super) fn peek(&mut self, id: FindingId) -> Option<&mut Record> {
        self.map.get_mut(&id).map(AsMut::as_mut)
    }

    /// Takes back what turned out to be meant.
    pub(super) fn retract(&mut self, id: FindingId) {
        if let Some(record) = self.map.remove(&id)
            && record.shown
        {
            self.touched.push(id);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Record> {
        self.map.values().map(AsRef::as_ref)
    }

    /// After a loss, nothing that is still going on is certain.
    pub(super) fn doubt_live(&mut self) {
        self.lossy = true;
        for record in self.map.values_mut().filter(|record| record.live && !record.uncertain) {
            record.uncertain = true;
            self.touched.push(record.id);
        }
    }

    /// Lets every finding that names a socket know who still holds it.
    pub(super) fn follow(&mut self, socket: &Socket, holders: &[ProcessKey], now: Moment) {
        for id in &socket.findings {
            let Some(record) = self.map.get_mut(id) else { continue };
            if !record.follow(socket, holders, now.at) {
                continue;
            }
            record.uncertain |= self.lossy;
            if record.live {
                record.evidence.add(now.seq);
            }
            self.touched.push(*id);
        }
    }

    /// Remembers in the sockets that a finding names them, so that it learns of their end.
    pub(super) fn link(&self, id: FindingId, holdings: &mut Holdings) {
        let Some(record) = self.map.get(&id) else { return };
        // Past stakes may have been bound elsewhere since.
        for stake in record.parties.iter().flat_map(|party| &party.stakes).filter(|stake| stake.is_open()) {
            if let Some(socket) = holdings.get_mut(stake.cookie)
                && let Err(at) = socket.findings.binary_search(&id)
            {
                socket.findings.insert(at, id);
            }
        }
    }
}
