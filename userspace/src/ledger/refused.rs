//! Binds and listens that failed with EADDRINUSE: who was there, and why.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::event::{Cookie, Errno, Process, ProcessKey, Protocol, Seq, SocketFacts, TableRow, TcpState};

use super::Ledger;
use super::cause::{Came, Keeper};
use super::exhausted::shown_range;
use super::finding::{Cause, FindingId, Holder, HolderState, Kind, Victim};
use super::party::Party;
use super::place::{Place, PortKey};
use super::program;
use super::record::Moment;
use super::socket::{Socket, State, blocks, devices_meet};

/// Failed calls that wait for rows of the kernel's tables, calls.
const PENDING_MAX: usize = 1_024;
/// Incidents on one endpoint that a failure is compared with, the latest, incidents.
const INCIDENTS_MAX: usize = 1_024;

/// A call that failed.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) process: ProcessKey,
    pub(super) comm: &'a str,
    pub(super) facts: &'a SocketFacts,
    pub(super) errno: Errno,
    pub(super) name: &'static str,
}

impl Call<'_> {
    pub(super) fn victim(&self, ledger: &Ledger) -> Victim {
        let state = if self.name == "listen" { HolderState::Bound } else { HolderState::Closed };
        let party = Party::named(&ledger.kin, self.process, self.comm, self.facts, state);
        Victim { holder: party.holder(), errno: self.errno, call: self.name }
    }
}

/// Who failed, to know them again.
#[derive(Clone, Debug)]
pub(super) struct Sufferer {
    process: ProcessKey,
    lineage: ProcessKey,
    facts: Option<Arc<Process>>,
}

impl Sufferer {
    pub(super) fn of(ledger: &Ledger, process: ProcessKey) -> Self {
        Self { process, lineage: ledger.kin.lineage(process), facts: ledger.kin.facts(process).cloned() }
    }

    pub(super) fn runs_program_of(&self, other: &Self) -> bool {
        self.process == other.process || program::same(self.facts.as_deref(), other.facts.as_deref())
    }

    /// The same process or lineage, or the same program started again by the same parent.
    fn is_again(&self, other: &Self) -> bool {
        let parent = |of: &Self| of.facts.as_ref().and_then(|facts| facts.parent);
        self.lineage == other.lineage
            || (parent(self).is_some() && parent(self) == parent(other) && self.runs_program_of(other))
    }
}

#[derive(Clone, Debug)]
struct Incident {
    id: FindingId,
    first: Sufferer,
    last: Sufferer,
    holders: BTreeSet<ProcessKey>,
}

/// A failed call that no known holder explains yet.
#[derive(Clone, Debug)]
struct Pending {
    id: FindingId,
    process: ProcessKey,
    facts: SocketFacts,
}

/// What is remembered to put failures together.
#[derive(Default)]
pub(super) struct Refusals {
    incidents: BTreeMap<(PortKey, IpAddr), Vec<Incident>>,
    pending: BTreeMap<Seq, Pending>,
    /// Sockets that only a row told of, and the finding that blames them.
    blamed: BTreeMap<Cookie, FindingId>,
}

impl Ledger {
    /// A bind or listen failed with EADDRINUSE on a port that was asked for.
    pub(super) fn refuse(&mut self, call: Call<'_>, now: Moment) {
        self.blame(call, Kind::Refused, now);
    }

    /// A call cannot have its endpoint, and what is in its way says why.
    pub(super) fn blame(&mut self, call: Call<'_>, kind: Kind, now: Moment) -> Option<FindingId> {
        self.releases.link();
        let (waited, wait) = self.failed_after_wait(call.facts.cookie, kind);
        let port = PortKey::of(call.facts);
        let blockers = self.blockers(call.facts);
        let held = || blockers.iter().filter(|socket| !socket.nobodys);
        let keepers: Vec<Keeper> = held().flat_map(|socket| Keeper::of(socket)).collect();
        let holders: BTreeSet<ProcessKey> = keepers.iter().map(|keeper| keeper.process).collect();
        let parties: Vec<Party> = held()
            .flat_map(|socket| {
                socket.holders().iter().map(|process| Party::holding(&self.kin, *process, socket))
            })
            .collect();
        // Their holders ended: they may still be closing, or somebody inherited them that only the tables know.
        let unheld = blockers.iter().all(|socket| socket.unheld);
        let base = state_cause(blockers.iter().map(|socket| socket.state));
        let proof: Vec<Seq> = blockers.iter().flat_map(|socket| [socket.known, socket.listened]).collect();

        let victim = Sufferer::of(self, call.process);
        let endpoint = (port, call.facts.address);
        let incidents = self.refusals.incidents.get(&endpoint).map_or(&[][..], Vec::as_slice);
        let again = incidents.iter().rev().find(|known| {
            self.records.get(known.id).is_some_and(|record| record.kind == kind)
                && (known.last.is_again(&victim) || known.first.is_again(&victim))
                && known.holders == holders
        });
        let again = waited.or_else(|| again.map(|incident| incident.id));
        if again.is_none() && self.records.is_full() {
            self.stats.reached("findings", 1);
            return None;
        }
        let reason = match (again, base) {
            // What refused it before still does; only the holder's leaving is news.
            (Some(_), _) => self.restart(call.process, &keepers).map(|evidence| (Cause::Restart, evidence)),
            (None, Some(base)) => {
                let reason = self.reason(call.process, call.facts, &keepers, base, now.at);
                Some((reason.cause, reason.evidence))
            }
            (None, None) => None,
        };
        let shown = call.victim(self);
        let lingering = if blockers.is_empty() { self.lingering_owner(call.facts) } else { None };

        let record = match again {
            Some(id) => self.records.touch(id),
            None => self.records.open(kind, port, call.facts.address, now),
        };
        let Some(record) = record else {
            self.stats.reached("findings", 1);
            return None;
        };
        let id = record.id;
        record.wait = wait.or(record.wait);
        if again.is_some() {
            record.count += u64::from(waited.is_none());
            record.last_seen = now.at;
        }
        record.victim = Some(shown);
        record.uncertain |= call.errno == Errno::UNKNOWN;
        if base.is_some() && (unheld || holders.is_empty()) {
            // Only a row that somebody holds knows better.
            record.rank = record.rank.max(HELD);
        }
        for party in parties {
            record.join(party);
        }
        if let Some((cause, evidence)) = reason {
            record.cause = Some(cause);
            evidence.into_iter().for_each(|seq| record.evidence.add(seq));
        }
        if let Some((owner, seq)) = lingering
            && record.rank <= NOBODYS
        {
            record.cause = Some(Cause::HalfClosed);
            record.rank = NOBODYS;
            record.last_owner = owner.or(record.last_owner.take());
            record.evidence.add(seq);
        }
        proof.into_iter().chain([now.seq]).for_each(|seq| record.evidence.add(seq));
        self.stats.note_cut(record);
        self.records.link(id, &mut self.holdings);

        if holders.is_empty() || unheld {
            let pending = Pending { id, process: call.process, facts: call.facts.clone() };
            self.refusals.pending.insert(now.seq, pending);
            if self.refusals.pending.len() > PENDING_MAX {
                self.refusals.pending.pop_first();
            }
        }
        let incidents = self.refusals.incidents.entry(endpoint).or_default();
        if let Some(incident) = incidents.iter_mut().find(|incident| again == Some(incident.id)) {
            incident.last = victim;
            return Some(id);
        }
        if incidents.len() >= INCIDENTS_MAX {
            incidents.remove(0);
            self.stats.reached("incidents", 1);
        }
        incidents.push(Incident { id, first: victim.clone(), last: victim, holders });
        Some(id)
    }

    /// Live sockets that keep these facts out, in the order in which they came.
    pub(super) fn blockers(&self, wanted: &SocketFacts) -> Vec<&Socket> {
        let port = PortKey::of(wanted);
        let newcomer = (wanted.options, wanted.uid);
        let places = self.holdings.places_meeting(port, Place::of(wanted));
        let mut found: Vec<&Socket> = places
            .into_iter()
            .flat_map(|place| self.holdings.at(port, place))
            .filter(|socket| {
                socket.cookie != wanted.cookie
                    && blocks(port.protocol, newcomer, (socket.options, socket.uid), socket.state)
            })
            .collect();
        found.sort_unstable_by_key(|socket| (socket.known, socket.cookie));
        found
    }

    /// Whose closed socket keeps the port by a connection that is not at its end.
    fn lingering_owner(&self, wanted: &SocketFacts) -> Option<(Option<Holder>, Seq)> {
        let place = Place::of(wanted);
        let newcomer = (wanted.options, wanted.uid);
        let (cookie, lingering) = self.lingering.on_port(PortKey::of(wanted)).find(|(_, lingering)| {
            let holder = (lingering.options, lingering.uid);
            lingering.place.meets(place) && blocks(Protocol::Tcp, newcomer, holder, State::Connected)
        })?;
        let owner = lingering.owner.map(|owner| {
            let facts = SocketFacts {
                cookie,
                address: lingering.place.address(),
                family: lingering.family,
                options: lingering.options,
                uid: lingering.uid,
                ..wanted.clone()
            };
            Party::named(&self.kin, owner, "", &facts, HolderState::Closed).holder()
        });
        Some((owner, lingering.seq))
    }

    /// A row of the kernel's tables that was looked up for a failed call.
    pub(super) fn table_row(&mut self, row: &TableRow, now: Moment) {
        self.releases.link();
        let Some(pending) = self.refusals.pending.get(&row.asked_by) else { return };
        let (wanted, socket) = (&pending.facts, &row.socket);
        let newcomer = (wanted.options, wanted.uid);
        let state = State::of(socket.protocol, row.state);
        let in_the_way = socket.cookie != wanted.cookie
            && PortKey::of(socket) == PortKey::of(wanted)
            && Place::of(socket).meets(Place::of(wanted))
            && devices_meet(socket.options.device, wanted.options.device)
            && (row.state == TcpState::TimeWait
                || blocks(socket.protocol, newcomer, (socket.options, socket.uid), state));
        let base = row_cause(row);
        let (id, rank) = (pending.id, rank(row, base));
        let best = self.records.get(id).map_or(0, |record| record.rank);
        if !in_the_way || rank < best {
            return;
        }
        let known = self.holdings.get(socket.cookie).filter(|known| known.port == PortKey::of(socket));
        let came = match known {
            Some(known) if known.since.is_some() => Came::At(known.known),
            Some(_) => Came::Before,
            None => Came::Unseen,
        };
        let (options, uid) = (socket.options, socket.uid);
        let cookie = socket.cookie;
        let keeper =
            |process: &ProcessKey| Keeper { process: *process, came, stopped: false, cookie, options, uid };
        let keepers: Vec<Keeper> = row.holders.iter().map(keeper).collect();
        let reason = self.reason(pending.process, wanted, &keepers, base, now.at);
        let (shown, past) = match row.state {
            TcpState::TimeWait => (HolderState::TimeWait, HolderState::TimeWait),
            _ => (state.shown(), HolderState::Closed),
        };
        let party = |process: &ProcessKey| {
            let mut party = match known {
                Some(known) => Party::holding(&self.kin, *process, known),
                None => Party::named(&self.kin, *process, "", socket, shown),
            };
            party.connection = row.peer.map(|peer| (peer, row.outgoing));
            party
        };
        let parties: Vec<Party> = row.holders.iter().map(party).collect();
        let binder = known.filter(|known| known.nobodys).and_then(|known| known.binder);
        let owner = row
            .last_owner
            .or(binder)
            .or_else(|| self.releases.owner_of(PortKey::of(socket), socket.cookie, now.at));
        let owner = owner.filter(|_| row.holders.is_empty());
        let owner = owner.map(|owner| Party::named(&self.kin, owner, "", socket, past).holder());

        // The kernel gave a port to a connection that somebody else wanted as a fixed one.
        let range = self.ranges.get(&socket.netns).filter(|range| row.outgoing && range.gives(socket.port));
        let range = range.map(shown_range);

        let Some(record) = self.records.touch(id) else { return };
        if rank >= record.rank {
            record.tcp_state = (state == State::Connected).then_some(row.state);
            record.range = range;
        }
        // The same row, now that it is known who had it, says more.
        let nobody = record.parties.is_empty() && record.rank == rank && !row.holders.is_empty();
        if rank > record.rank || nobody {
            record.clear_parties();
            record.last_owner = None;
            record.rank = rank;
            record.cause = Some(reason.cause);
        }
        record.cause.get_or_insert(reason.cause);
        for party in parties {
            record.join(party);
        }
        if record.last_owner.is_none() && record.parties.is_empty() {
            record.last_owner = owner;
        }
        reason.evidence.into_iter().chain([now.seq]).for_each(|seq| record.evidence.add(seq));
        self.stats.note_cut(record);
        self.records.link(id, &mut self.holdings);
        if came == Came::Unseen && matches!(row.state, TcpState::Listen | TcpState::Close) {
            self.refusals.blamed.insert(cookie, id);
            if self.refusals.blamed.len() > PENDING_MAX {
                self.refusals.blamed.pop_first();
            }
        }
    }

    /// A socket was bound. One that a row had told of before came to the port between the failure and the look: it is
    /// not why the call failed, and what was there then is gone.
    pub(super) fn acquit(&mut self, cookie: Cookie, now: Moment) {
        if self.refusals.blamed.is_empty() {
            return;
        }
        let Some(id) = self.refusals.blamed.remove(&cookie) else { return };
        let Some(record) = self.records.touch(id) else { return };
        record.remove_socket(cookie);
        record.evidence.add(now.seq);
        if record.parties.is_empty() {
            record.cause = None;
            record.rank = 0;
        }
    }
}

/// What the states of live sockets say; None without any.
fn state_cause(states: impl Iterator<Item = State>) -> Option<Cause> {
    states.fold(None, |found, state| match (found, state) {
        (_, State::Listen) | (Some(Cause::Listener), _) => Some(Cause::Listener),
        (_, State::Bound | State::Connected) => Some(Cause::Bound),
    })
}

/// What a row of the tables says.
fn row_cause(row: &TableRow) -> Cause {
    match row.state {
        _ if row.socket.protocol != Protocol::Tcp => Cause::Bound,
        TcpState::Listen => Cause::Listener,
        TcpState::TimeWait => Cause::TimeWait,
        TcpState::CloseWait
        | TcpState::FinWait1
        | TcpState::FinWait2
        | TcpState::Closing
        | TcpState::LastAck => Cause::HalfClosed,
        TcpState::Close | TcpState::Established | TcpState::SynSent | TcpState::SynRecv => Cause::Bound,
    }
}

/// Rank of a connection that a process has open.
const HELD: u8 = 3;
/// Rank of a connection that no process has open, and that is not in TIME_WAIT.
const NOBODYS: u8 = 2;

/// Which of several rows is the reason: the firmest hold.
fn rank(row: &TableRow, base: Cause) -> u8 {
    match base {
        Cause::Listener => 5,
        Cause::Bound => 4,
        Cause::HalfClosed if row.holders.is_empty() && row.state != TcpState::CloseWait => NOBODYS,
        Cause::HalfClosed => HELD,
        Cause::TimeWait => 1,
        Cause::Orphan | Cause::Restart | Cause::LostRace | Cause::Exclusive | Cause::OtherUser => 0,
    }
}
