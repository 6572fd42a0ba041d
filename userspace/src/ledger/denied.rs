//! Binds that enforcement refused.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::event::{Cookie, Denied, Enforcement, Hook, ProcessKey};

use super::Ledger;
use super::finding::{FindingId, HolderState, Kind};
use super::party::Party;
use super::place::PortKey;
use super::record::Moment;
use super::refused::Call;
use super::settings::is_at_or_below;

/// Denials that later ones are put together with, the latest, endpoints.
const DENIALS_MAX: usize = 1_024;
/// Commands whose binds are judged, cgroups; `run` has one.
const JOBS_MAX: usize = 64;

/// The finding of each endpoint and the socket that it was kept for.
#[derive(Default)]
pub(super) struct Denials {
    /// Cgroups of commands whose binds are reported and not refused.
    judged: BTreeSet<String>,
    known: BTreeMap<(PortKey, IpAddr, Cookie), FindingId>,
}

impl Ledger {
    /// From now on binds are refused, or those that would be are told.
    pub(super) fn enforced(&mut self, enforcement: &Enforcement) {
        if enforcement.mode.denies() {
            // What comes to share in spite of it was let through.
            self.denials.judged.clear();
        }
    }

    /// A command runs in this cgroup.
    pub(super) fn watch_command(&mut self, cgroup: &str) {
        if self.denials.judged.len() < JOBS_MAX && !cgroup.trim_matches('/').is_empty() {
            self.denials.judged.insert(cgroup.to_owned());
        }
        // It may have bound before it was told of.
        let overlaps = self.records.iter().filter(|record| record.overlaps());
        for id in overlaps.map(|record| record.id).collect::<Vec<_>>() {
            self.would_deny(id);
        }
    }

    /// Counts the binds of commands in a finding that enforcement would have refused: an unrelated process had the
    /// endpoint before them.
    pub(super) fn would_deny(&mut self, id: FindingId) {
        if self.denials.judged.is_empty() {
            return;
        }
        let Some(record) = self.records.peek(id) else { return };
        for nth in 0..record.parties.len() {
            let (before, rest) = record.parties.split_at_mut(nth);
            let Some(party) = rest.first_mut().filter(|party| party.would_be_denied.is_none()) else {
                continue;
            };
            let cgroup = party.facts.as_ref().map_or("", |facts| facts.cgroup.as_str());
            let of_a_command =
                party.bound_itself() && self.denials.judged.iter().any(|top| is_at_or_below(cgroup, top));
            let contested = of_a_command
                && before.iter().any(|earlier| {
                    !self.kin.any_related(std::iter::once(party.process), &std::iter::once(earlier.process))
                });
            party.would_be_denied = Some(contested);
        }
    }

    /// One holder kept one endpoint: one finding, whoever wanted it and however often.
    pub(super) fn denied(&mut self, denied: &Denied, hook: Hook, now: Moment) {
        if denied.had_port(hook) {
            self.unsee(&denied.socket, u64::MAX, now);
        }
        let call = Call {
            process: denied.process,
            comm: &denied.comm,
            facts: &denied.socket,
            errno: denied.errno,
            name: "bind",
        };
        let id = self.deny(call, denied.holder_cookie, denied.holder, now);
        if let Some(record) = id.and_then(|id| self.records.peek(id)) {
            record.dry_run = denied.dry_run;
        }
    }

    /// A call that a holder keeps from its endpoint.
    pub(super) fn deny(
        &mut self,
        call: Call<'_>,
        holder_cookie: Cookie,
        holder: ProcessKey,
        now: Moment,
    ) -> Option<FindingId> {
        let port = PortKey::of(call.facts);
        let endpoint = (port, call.facts.address, holder_cookie);
        let (waited, wait) = self.failed_after_wait(call.facts.cookie, Kind::Denied);
        let victim = call.victim(self);
        let holders: Vec<Party> = match self.holdings.get(holder_cookie) {
            Some(socket) if !socket.holders().is_empty() => {
                socket.holders().iter().map(|process| Party::holding(&self.kin, *process, socket)).collect()
            }
            _ => {
                let mut facts = call.facts.clone();
                facts.cookie = holder_cookie;
                vec![Party::named(&self.kin, holder, "", &facts, HolderState::Bound)]
            }
        };
        // A wait that ended in a refusal tells of that.
        let is_denial =
            |id: &FindingId| self.records.get(*id).is_some_and(|record| record.kind == Kind::Denied);
        let again = waited.or_else(|| self.denials.known.get(&endpoint).copied().filter(is_denial));
        let record = match again {
            Some(id) => self.records.touch(id),
            None => self.records.open(Kind::Denied, port, call.facts.address, now),
        };
        let Some(record) = record else {
            self.stats.reached("findings", 1);
            return None;
        };
        record.wait = wait.or(record.wait);
        if again.is_some() {
            record.count += u64::from(waited.is_none());
            record.last_seen = now.at;
        }
        record.victim = Some(victim);
        for party in holders {
            record.join(party);
        }
        record.evidence.add(now.seq);
        let id = record.id;
        self.stats.note_cut(record);
        self.records.link(id, &mut self.holdings);
        if again.is_none() {
            self.denials.known.insert(endpoint, id);
            if self.denials.known.len() > DENIALS_MAX {
                // Ids grow: the oldest goes.
                let oldest =
                    self.denials.known.iter().min_by_key(|(_, id)| **id).map(|(endpoint, _)| *endpoint);
                oldest.map(|oldest| self.denials.known.remove(&oldest));
                self.stats.reached("denials", 1);
            }
        }
        Some(id)
    }
}
