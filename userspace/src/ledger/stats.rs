//! Numbers about the events applied, and the bounds that were reached.

use std::collections::BTreeMap;

use crate::event::{Body, BootTime, Event, Omitted};

use super::record::{PARTIES_MAX, Record};

/// What the ledger counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Events applied.
    pub events: u64,
    /// Events lost before they could be, of all kinds.
    pub lost: u64,
    /// The same by kind.
    pub lost_by_kind: BTreeMap<String, u64>,
    /// Sockets held now.
    pub sockets: u64,
    /// Binds that succeeded.
    pub binds: u64,
    /// Binds that failed, with whatever errno.
    pub binds_failed: u64,
    /// Time of the first event.
    pub start: BootTime,
    /// Latest time of an event.
    pub end: BootTime,
    /// What is not in the log any more, to keep it below its size.
    pub omitted: Option<Omitted>,
    /// Bounds that were reached, by name, and how often something had to be left out.
    pub limits: BTreeMap<String, u64>,
}

impl Stats {
    pub(super) fn count(&mut self, event: &Event) {
        if self.events == 0 {
            self.start = event.at;
        }
        self.events = self.events.saturating_add(1);
        self.end = self.end.max(event.at);
        match &event.body {
            Body::Bind(_) => self.binds = self.binds.saturating_add(1),
            Body::BindFailed(_) => self.binds_failed = self.binds_failed.saturating_add(1),
            Body::Lost(lost) => {
                for (kind, count) in &lost.counts {
                    self.lost = self.lost.saturating_add(*count);
                    let sum = self.lost_by_kind.entry(kind.clone()).or_default();
                    *sum = sum.saturating_add(*count);
                }
            }
            Body::Limit(limit) => self.reached(&limit.bound, 1),
            Body::Omitted(omitted) => {
                // It stands in the place of one of them.
                self.events = self.events.saturating_add(omitted.events.saturating_sub(1));
                self.binds = self.binds.saturating_add(omitted.binds);
                self.binds_failed = self.binds_failed.saturating_add(omitted.binds_failed);
                self.omitted = Some(omitted.clone());
            }
            _ => {}
        }
    }

    /// Counts that a bound was reached.
    pub(super) fn reached(&mut self, bound: &str, times: u64) {
        if let Some(count) = self.limits.get_mut(bound) {
            *count = count.saturating_add(times);
            return;
        }
        self.limits.insert(bound.to_owned(), times);
    }

    /// The same for the lists of a finding.
    pub(super) fn note_cut(&mut self, record: &mut Record) {
        if std::mem::take(&mut record.cut) {
            self.reached(
                if record.parties.len() >= PARTIES_MAX { "finding-holders" } else { "holder-sockets" },
                1,
            );
        }
    }
}
