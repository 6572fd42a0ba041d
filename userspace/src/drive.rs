//! The one loop that events go through, live and from a log: log, then ledger, then whoever wants to know.

use std::collections::BTreeSet;

use crate::clock::Anchors;
use crate::event::{BootTime, Event};
use crate::ledger::finding::FindingId;
use crate::ledger::{Ledger, Settings};
use crate::log::{End, Progress, WriteError, Writer};
use crate::sink::json;
use crate::sink::notices::Unseen;

/// Writes events to a log and judges them.
pub struct Recorder {
    writer: Option<Writer>,
    /// Why the log is not whole.
    failure: Option<WriteError>,
    /// The log reached its size.
    is_full: bool,
    ledger: Ledger,
    clock: Anchors,
    changed: Vec<FindingId>,
    /// Findings whose line in the log is older than they are.
    stale: BTreeSet<FindingId>,
    /// Findings that have a line in the log.
    written: BTreeSet<FindingId>,
    last: BootTime,
    unseen: Unseen,
    dirty: bool,
}

impl Recorder {
    /// Into `writer`, or into nothing.
    #[must_use]
    pub fn new(writer: Option<Writer>, settings: Settings, clock: Anchors) -> Self {
        Self {
            writer,
            failure: None,
            is_full: false,
            ledger: Ledger::new(settings),
            clock,
            changed: Vec::new(),
            stale: BTreeSet::new(),
            written: BTreeSet::new(),
            last: BootTime(0),
            unseen: Unseen::default(),
            dirty: false,
        }
    }

    /// Takes all `events`, in order.
    pub fn take(&mut self, events: &mut Vec<Event>) {
        for event in events.drain(..) {
            self.last = self.last.max(event.at);
            self.unseen.event(&event);
            match self.writer.as_mut().map(|writer| writer.event(&event)) {
                None | Some(Ok(Progress::Written | Progress::Dropped)) => {}
                Some(Ok(Progress::LimitReached)) => self.is_full = true,
                Some(Err(error)) => {
                    self.failure.get_or_insert(error);
                }
            }
            self.changed.clear();
            self.ledger.apply(&event, &mut self.changed);
            self.stale.extend(&self.changed);
            self.dirty = true;
        }
        let new: Vec<FindingId> = self.stale.difference(&self.written).copied().collect();
        if !new.is_empty() {
            // A new finding is readable at once; its later changes can wait for the end.
            new.into_iter().for_each(|id| self.write_finding(id));
            self.flush();
        }
    }

    /// Makes the log readable up to here.
    pub fn flush(&mut self) {
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        if let Some(writer) = &mut self.writer
            && let Err(error) = writer.flush()
        {
            self.failure.get_or_insert(error);
        }
    }

    /// The first thing that went wrong with the log, once.
    pub const fn take_failure(&mut self) -> Option<WriteError> {
        self.failure.take()
    }

    /// Whether the log has reached its size since this was last asked: events are no longer logged.
    pub const fn take_full(&mut self) -> bool {
        std::mem::replace(&mut self.is_full, false)
    }

    /// What is held and found.
    #[must_use]
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// When the last event happened.
    #[must_use]
    pub const fn last(&self) -> BootTime {
        self.last
    }

    /// What no inventory could look into.
    #[must_use]
    pub const fn unseen(&self) -> &Unseen {
        &self.unseen
    }

    /// Ends the log in order and hands over the ledger.
    ///
    /// # Errors
    /// When the last lines cannot be written.
    pub fn end(mut self, reason: &str, at: BootTime) -> (Ledger, Option<WriteError>) {
        for id in std::mem::take(&mut self.stale) {
            self.write_finding(id);
        }
        let stats = self.ledger.stats();
        let end = End {
            at,
            reason: reason.to_owned(),
            events: stats.events,
            dropped: 0,
            lost: stats.lost,
            findings: self.ledger.findings().count() as u64,
        };
        if let Some(writer) = self.writer.take()
            && let Err(error) = writer.end(&end)
        {
            self.failure.get_or_insert(error);
        }
        (self.ledger, self.failure)
    }

    fn write_finding(&mut self, id: FindingId) {
        self.stale.remove(&id);
        self.written.insert(id);
        let (Some(writer), Some(finding)) = (&mut self.writer, self.ledger.finding(id)) else { return };
        if let Err(error) = writer.finding(&json::finding(&finding, self.clock)) {
            self.failure.get_or_insert(error);
        }
    }
}
