//! Unrelated processes at places that meet: `co-bind`, `handover` and `shadow`, from their beginning to their end.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use crate::event::{BootTime, Cookie};

use super::Ledger;
use super::finding::{FindingId, Kind};
use super::holdings::{Holdings, Slot};
use super::kin::Kin;
use super::place::{Place, PortKey};
use super::receives;
use super::record::{Moment, Record};
use super::socket::Socket;

/// What one finding is about: two places of a port that meet, or one place twice. The narrower is first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ground {
    pub(super) port: PortKey,
    pub(super) narrow: Place,
    pub(super) broad: Place,
}

impl Ground {
    fn of(port: PortKey, a: Place, b: Place) -> Self {
        let (narrow, broad) = if (b.breadth(), b) < (a.breadth(), a) { (b, a) } else { (a, b) };
        Self { port, narrow, broad }
    }

    /// From the first to the last that a port can have.
    const fn all_on(port: PortKey) -> RangeInclusive<Self> {
        let first = Place::V4(Ipv4Addr::UNSPECIFIED);
        Self { port, narrow: first, broad: first }..=Self { port, narrow: Place::Dual, broad: Place::Dual }
    }

    pub(super) fn is_one_endpoint(self) -> bool {
        self.narrow == self.broad
    }
}

/// A live overlap.
#[derive(Clone, Copy, Debug)]
pub(super) struct Overlap {
    pub(super) id: FindingId,
    /// Two sockets that prove it; as long as they do, nothing has to be searched.
    pub(super) witness: (Cookie, Cookie),
}

/// The live overlaps, one for each ground.
pub(super) type Overlaps = BTreeMap<Ground, Overlap>;

/// Sockets of one process that are passed one by one before the rest of them is jumped over, sockets.
const STRIDE: usize = 16;

/// Whether two live sockets share between unrelated processes.
pub(super) fn clash(kin: &Kin, a: &Socket, b: &Socket) -> bool {
    a.cookie != b.cookie && a.shares_with(b) && !kin.any_related(a.parties(), &b.parties())
}

/// Both sides of a ground: the sockets there that share with one of the other side, in the order in which they came.
fn members(holdings: &Holdings, ground: Ground) -> (Vec<&Socket>, Vec<&Socket>) {
    let narrow: Vec<&Socket> = holdings.at(ground.port, ground.narrow).collect();
    if ground.is_one_endpoint() {
        return (sharers(&narrow, &narrow), Vec::new());
    }
    let broad: Vec<&Socket> = holdings.at(ground.port, ground.broad).collect();
    (sharers(&narrow, &broad), sharers(&broad, &narrow))
}

fn sharers<'a>(side: &[&'a Socket], others: &[&'a Socket]) -> Vec<&'a Socket> {
    let shares = |a: &Socket| others.iter().any(|b| a.cookie != b.cookie && a.shares_with(b));
    let mut found: Vec<&Socket> = side.iter().copied().filter(|a| shares(a)).collect();
    found.sort_unstable_by_key(|socket| (socket.known, socket.cookie));
    found
}

impl Ledger {
    /// Judges a place of a port again: `subject` is a live socket there that is new or changed; without one, a socket
    /// left. Everything that could begin then begins with the subject.
    pub(super) fn review(&mut self, port: PortKey, place: Place, subject: Option<Cookie>, now: Moment) {
        if port.port == 0 {
            return;
        }
        if !self.overlaps.is_empty() {
            let here = |ground: &Ground| ground.narrow == place || ground.broad == place;
            let live: Vec<Ground> =
                self.overlaps.range(Ground::all_on(port)).map(|(ground, _)| *ground).filter(here).collect();
            for ground in live {
                if self.is_beyond(ground, subject) {
                    self.stats.reached("holder-sockets", 1);
                    continue;
                }
                self.reassess(ground, now);
            }
        }
        let Some(subject) = subject.and_then(|cookie| self.holdings.get(cookie)) else { return };
        if !subject.takes_part() || self.holdings.is_alone(subject) {
            return;
        }
        let mut found = Vec::new();
        for other in self.holdings.places_meeting(port, place) {
            let ground = Ground::of(port, place, other);
            if !self.overlaps.contains_key(&ground)
                && let Some(stranger) = self.stranger(subject, other)
            {
                found.push((ground, (stranger, subject.cookie)));
            }
        }
        for (ground, witness) in found {
            self.begin(ground, witness, now);
        }
    }

    /// Whether a socket changes nothing about a live overlap: it has no place in the finding, whose lists are full, and
    /// does not prove it.
    fn is_beyond(&self, ground: Ground, subject: Option<Cookie>) -> bool {
        let socket = subject.and_then(|cookie| self.holdings.get(cookie));
        let (Some(socket), Some(overlap)) = (socket, self.overlaps.get(&ground)) else { return false };
        self.cannot_matter(overlap, socket)
    }

    fn cannot_matter(&self, overlap: &Overlap, socket: &Socket) -> bool {
        let (a, b) = overlap.witness;
        socket.cookie != a
            && socket.cookie != b
            && self.records.get(overlap.id).is_some_and(|record| record.is_beyond(socket))
    }

    /// Whether every live overlap at a socket's place does without it, now that it left.
    pub(super) fn none_misses(&self, socket: &Socket) -> bool {
        let here = |ground: &Ground| ground.narrow == socket.place || ground.broad == socket.place;
        let mut live = self.overlaps.range(Ground::all_on(socket.port)).filter(|(ground, _)| here(ground));
        live.all(|(_, overlap)| self.cannot_matter(overlap, socket))
    }

    /// A socket at the place that clashes with the subject.
    fn stranger(&self, subject: &Socket, place: Place) -> Option<Cookie> {
        let mut kin = None;
        let mut from = Slot::first(place);
        let mut passed = 0;
        'seek: loop {
            for slot in self.holdings.slots_after(subject.port, from) {
                from = *slot;
                if slot.sole.is_some() && slot.sole == kin {
                    passed += 1;
                    if passed > STRIDE {
                        // All further sockets of this process are kin as well.
                        from.cookie = Cookie(u64::MAX);
                        passed = 0;
                        continue 'seek;
                    }
                    continue;
                }
                passed = 0;
                if let Some(process) = slot.sole
                    && self.kin.any_related(subject.parties(), &std::iter::once(process))
                {
                    kin = slot.sole;
                } else if let Some(other) = self.holdings.get(slot.cookie)
                    && clash(&self.kin, subject, other)
                {
                    return Some(other.cookie);
                }
            }
            return None;
        }
    }

    fn begin(&mut self, ground: Ground, witness: (Cookie, Cookie), now: Moment) {
        let kind = if ground.is_one_endpoint() { Kind::CoBind } else { Kind::Shadow };
        let doubtful = self.could_be_meant(witness);
        let Some(record) = self.records.open(kind, ground.port, ground.narrow.address(), now) else {
            self.stats.reached("findings", 1);
            return;
        };
        record.live = true;
        record.uncertain |= doubtful;
        let id = record.id;
        self.overlaps.insert(ground, Overlap { id, witness });
        self.fill(ground, id, now);
    }

    /// Whether what is not known of two sockets' processes could make their sharing meant.
    fn could_be_meant(&self, witness: (Cookie, Cookie)) -> bool {
        let (Some(a), Some(b)) = (self.holdings.get(witness.0), self.holdings.get(witness.1)) else {
            return false;
        };
        let nameless = |socket: &Socket| socket.parties().any(|one| self.kin.is_nameless(one));
        nameless(a)
            || nameless(b)
            || a.parties().any(|one| b.parties().any(|other| self.kin.could_be_related(one, other)))
    }

    /// Brings the finding of a live overlap up to date.
    fn fill(&mut self, ground: Ground, id: FindingId, now: Moment) {
        let (narrow, broad) = members(&self.holdings, ground);
        let mut all: Vec<&Socket> = narrow.iter().chain(&broad).copied().collect();
        all.sort_unstable_by_key(|socket| (socket.known, socket.cookie));
        let received = if ground.is_one_endpoint() {
            receives::by_sharers(&self.kin, &narrow)
        } else {
            receives::by_narrower(&self.kin, &narrow, &broad)
        };
        let Some(record) = self.records.peek(id) else { return };
        let mut changed = std::mem::take(&mut record.meant);
        changed |= record.sync(&all, &self.kin, now);
        self.stats.note_cut(record);
        changed |= std::mem::replace(&mut record.receives, received) != received;
        if changed {
            for socket in all {
                record.add_socket_evidence(socket);
            }
            record.evidence.add(now.seq);
            self.records.touch(id);
            self.records.link(id, &mut self.holdings);
            self.would_deny(id);
        }
    }

    fn reassess(&mut self, ground: Ground, now: Moment) {
        let Some(overlap) = self.overlaps.get(&ground).copied() else { return };
        match self.witness(ground, overlap.witness) {
            Some(witness) => {
                self.overlaps.insert(ground, Overlap { witness, ..overlap });
                self.fill(ground, overlap.id, now);
            }
            None => self.finish(ground, overlap.id, now),
        }
    }

    /// Two sockets that prove an overlap, the known ones if they still do.
    fn witness(&self, ground: Ground, known: (Cookie, Cookie)) -> Option<(Cookie, Cookie)> {
        let sits = |cookie, place: Place| {
            self.holdings.get(cookie).filter(|socket| socket.port == ground.port && socket.place == place)
        };
        for (a, b) in [known, (known.1, known.0)] {
            if let (Some(a), Some(b)) = (sits(a, ground.narrow), sits(b, ground.broad))
                && clash(&self.kin, a, b)
            {
                return Some(known);
            }
        }
        let (narrow, broad) = members(&self.holdings, ground);
        let others = if ground.is_one_endpoint() { &narrow } else { &broad };
        let pair =
            |a: &&Socket| others.iter().rev().find(|b| clash(&self.kin, a, b)).map(|b| (a.cookie, b.cookie));
        let mut lineages =
            narrow.iter().chain(others).map(|socket| socket.sole().map(|process| self.kin.lineage(process)));
        // The usual end: one lineage is left, and comparing each with each would be for nothing.
        let one = lineages.next().flatten();
        if self.settings.related_by != super::RelatedBy::Process
            && one.is_some()
            && lineages.all(|lineage| lineage == one)
        {
            return None;
        }
        // A process that ends closes its sockets from the oldest on: the youngest prove it longest.
        narrow.iter().rev().find_map(pair)
    }

    fn finish(&mut self, ground: Ground, id: FindingId, now: Moment) {
        self.overlaps.remove(&ground);
        // With the clash gone, holders that are left stay holders, sharing or not.
        let broad = (!ground.is_one_endpoint()).then(|| self.holdings.at(ground.port, ground.broad));
        let left: Vec<&Socket> = self
            .holdings
            .at(ground.port, ground.narrow)
            .chain(broad.into_iter().flatten())
            .filter(|socket| socket.takes_part() && socket.findings.binary_search(&id).is_ok())
            .collect();
        let Some(record) = self.records.peek(id) else { return };
        if record.meant && !has_strangers(&self.kin, record) {
            self.records.retract(id);
            return;
        }
        record.sync(&left, &self.kin, now);
        record.live = false;
        record.last_seen = now.at;
        record.evidence.add(now.seq);
        if record.kind == Kind::CoBind && is_handover(record, self.settings.handover_ns) {
            record.kind = Kind::Handover;
        }
        self.records.touch(id);
    }
}

fn has_strangers(kin: &Kin, record: &Record) -> bool {
    let parties = record.parties.iter().enumerate();
    let mut rest =
        parties.flat_map(|(at, a)| record.parties.iter().skip(at + 1).map(move |b| (a.process, b.process)));
    rest.any(|(a, b)| !kin.related(a, b))
}

/// Whether the older holders stopped in time, and losslessly, for newcomers of their own program and user.
fn is_handover(record: &Record, within_ns: u64) -> bool {
    let (stayed, left): (Vec<_>, Vec<_>) = record.parties.iter().partition(|party| party.is_active());
    let Some(newcomer) = stayed.first() else { return false };
    let Some(took_over) = stayed.iter().map(|party| party.bound_at).min().flatten() else { return false };
    let identity = newcomer.reload_identity();
    let stopped_in_time =
        |stopped: Option<BootTime>| stopped.is_some_and(|at| at.since(took_over) <= within_ns);
    identity.is_some()
        && !left.is_empty()
        && stayed.iter().all(|party| party.reload_identity() == identity)
        && left.iter().all(|party| {
            party.reload_identity() == identity
                && party.bound_at.is_none_or(|bound| bound < took_over)
                && party.backlog == 0
                && stopped_in_time(party.stopped_at)
        })
}
