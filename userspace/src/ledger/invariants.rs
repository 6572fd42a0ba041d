//! What must hold after every event. Slow, plain, and written apart from the code it checks.

use std::collections::BTreeSet;

use super::Ledger;
use super::finding::{EVIDENCE_MAX, FindingId, Kind};
use super::overlap::clash;
use super::record::Record;
use super::socket::Socket;

impl Ledger {
    /// Checks the ledger's invariants, for tests.
    ///
    /// # Errors
    /// A sentence about the first one that does not hold.
    pub fn check_invariants(&self) -> Result<(), String> {
        self.holdings.check()?;
        self.kin.check()?;
        self.lingering.check()?;
        self.releases.check()?;
        self.check_overlaps()?;
        let live: BTreeSet<FindingId> = self.overlaps.values().map(|overlap| overlap.id).collect();
        for record in self.records.iter() {
            self.check_record(record, &live).map_err(|why| format!("finding {}: {why}", record.id.0))?;
        }
        Ok(())
    }

    /// Every clash has its overlap, and every overlap a clash.
    fn check_overlaps(&self) -> Result<(), String> {
        for (ground, overlap) in &self.overlaps {
            let (a, b) = overlap.witness;
            let pair = self.holdings.get(a).zip(self.holdings.get(b));
            if !pair.is_some_and(|(a, b)| clash(&self.kin, a, b)) {
                return Err(format!("{ground:?} rests on sockets {} and {}, which do not clash", a.0, b.0));
            }
        }
        if self.records.is_full() {
            return Ok(());
        }
        let sockets: Vec<&Socket> = self.holdings.in_order().collect();
        for (at, a) in sockets.iter().enumerate() {
            for b in sockets.iter().skip(at + 1).take_while(|b| b.port == a.port) {
                let found = self.overlaps.keys().any(|ground| {
                    ground.port == a.port
                        && [(a.place, b.place), (b.place, a.place)].contains(&(ground.narrow, ground.broad))
                });
                if a.place.meets(b.place) && clash(&self.kin, a, b) && !found {
                    return Err(format!("sockets {} and {} clash without a finding", a.cookie.0, b.cookie.0));
                }
            }
        }
        Ok(())
    }

    fn check_record(&self, record: &Record, live: &BTreeSet<FindingId>) -> Result<(), String> {
        let overlap = matches!(record.kind, Kind::CoBind | Kind::Shadow | Kind::Handover);
        if overlap && record.live != live.contains(&record.id) {
            return Err(format!("live is {}, its overlap says otherwise", record.live));
        }
        if matches!(record.kind, Kind::Refused | Kind::Exhausted | Kind::Denied | Kind::Handover)
            && record.live
        {
            return Err(format!("a {} is live", record.kind.name()));
        }
        let evidence = record.evidence.as_slice();
        if evidence.is_empty() || evidence.len() > EVIDENCE_MAX || !evidence.is_sorted_by(|a, b| a < b) {
            return Err(format!("evidence is {evidence:?}"));
        }
        if overlap && record.parties.len() < 2 {
            return Err(format!("{} holders overlap", record.parties.len()));
        }
        let mut processes = BTreeSet::new();
        for party in &record.parties {
            if !processes.insert(party.process) {
                return Err(format!("process {} is listed twice", party.process));
            }
            if party.stakes.is_empty() {
                return Err(format!("process {} has no socket", party.process));
            }
            let open = party.stakes.iter().filter(|stake| stake.is_open());
            if open.clone().any(|stake| stake.active) && !record.live && overlap && live.contains(&record.id)
            {
                return Err("an ended finding is active".to_owned());
            }
            if matches!(record.kind, Kind::Refused | Kind::Exhausted | Kind::Denied) {
                continue;
            }
            if party.released_at.is_some() != (open.clone().count() == 0) {
                return Err(format!("process {}: released is {:?}", party.process, party.released_at));
            }
            for stake in open {
                let socket = self.holdings.get(stake.cookie);
                let held = socket.is_some_and(|socket| {
                    socket.findings.binary_search(&record.id).is_ok()
                        && socket.holders().contains(&party.process)
                });
                if !held {
                    return Err(format!("process {} does not hold socket {}", party.process, stake.cookie.0));
                }
            }
        }
        Ok(())
    }
}
