//! Records out of the ring.

use super::super::reading::{DRAIN_MAX, Reading};
use super::{Live, LiveError, shares};
use crate::clock;
use crate::event::{BootTime, Event, Hook};
use crate::wire::{self, Record};

/// How often a processor is given up to whoever writes a record, before what is behind it is left for later.
const WRITTEN_SOON: u32 = 1_000;

impl Live {
    /// Takes records from `until` and before, and the first that is newer: how many, and whether there was one.
    pub(super) fn take_records(
        &mut self,
        until: BootTime,
        events: &mut Vec<Event>,
    ) -> Result<Reading, LiveError> {
        let (mut taken, mut is_newer, mut unclaimed) = (0, false, false);
        while taken < DRAIN_MAX && !is_newer {
            let ahead = self.ahead.pop_front().map(Ok);
            let Some(decoded) = ahead.or_else(|| self.ring.get_mut().next(wire::decode)) else { break };
            taken += 1;
            match decoded {
                Ok(mut record) => {
                    is_newer = record.at > until;
                    if record.after_loss {
                        // What comes from here on is judged by what is known, which is not all.
                        self.count_losses(false, events);
                    }
                    if record.record.is_of_port() {
                        self.follow_shared_ports()?;
                    }
                    if let Some(carrier) = self.carrier.clone()
                        && !carrier.attribute(&mut record, |process, tid| self.task_of(process, tid))
                    {
                        continue;
                    }
                    // At once, whatever must be looked up for the records before and after it.
                    if self.waits.as_mut().is_some_and(|waits| waits.hear(&record.record, record.at)) {
                        self.try_waits();
                    }
                    let executed = match &record.record {
                        Record::Exec(exec) => Some(exec.task.process),
                        _ => None,
                    };
                    // No hook that could claim it saw it get its port.
                    let late = match &record.record {
                        Record::Changed(call, _) => shares(call),
                        // Told at its end: it had no port when it began.
                        Record::Listen(call) => shares(call) && record.hook != Hook::InetSockSetState,
                        _ => false,
                    };
                    if self.guard.is_some()
                        && matches!(&record.record, Record::Option(option) if option.must_be_looked_up())
                    {
                        self.moved.asked(record.at);
                    }
                    self.enricher.record(record, self.seq, &mut self.facts);
                    if let Some(process) = executed {
                        self.judge(process);
                    }
                    unclaimed |= late && self.guard.is_some();
                    self.stamp(events);
                }
                Err(error) => self.undecodable(error),
            }
        }
        if unclaimed {
            self.guard_older();
        }
        let is_behind = taken < DRAIN_MAX && !is_newer && self.ring.get_ref().has_more();
        Ok(Reading { taken, is_newer, is_behind })
    }

    /// Reads every record that was made until now.
    pub(super) fn read_ahead(&mut self) {
        let now = clock::boot_now();
        let mut patience = WRITTEN_SOON;
        loop {
            match self.ring.get_mut().next(wire::decode) {
                Some(Ok(record)) => {
                    let is_newer = record.at > now;
                    self.ahead.push_back(record);
                    if is_newer {
                        break;
                    }
                }
                Some(Err(error)) => self.undecodable(error),
                None if patience > 0 && self.ring.get_ref().has_more() => {
                    patience -= 1;
                    std::thread::yield_now();
                }
                None => break,
            }
        }
    }

    fn undecodable(&mut self, error: impl std::fmt::Display) {
        log::warn!("the probe sent {error}");
        self.losses.undecodable();
    }
}
