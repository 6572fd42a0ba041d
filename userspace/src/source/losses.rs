//! What was lost since it was last looked, by kind.

use std::collections::BTreeMap;

use bindwatch_probe::abi::counter;

use crate::event::BootTime;

/// Least time between two looks at how many events the kernel left out while records come, ns: each program is asked, 2 µs a time.
const MISSED_EVERY_NS: u64 = 50_000_000;

/// Numbers that only grow, and what was told of them.
#[derive(Default)]
pub(super) struct Losses {
    counters: [u64; counter::SLOTS as usize],
    missed: u64,
    undecodable: u64,
    /// When it is next asked what the kernel left out.
    next: BootTime,
}

impl Losses {
    /// A record of an unknown kind or length.
    pub(super) const fn undecodable(&mut self) {
        self.undecodable += 1;
    }

    /// Whether it is time to ask how many events the kernel left out; then it is next in a while.
    pub(super) fn asks_for_missed(&mut self, now: BootTime) -> bool {
        let is_due = now >= self.next;
        if is_due {
            self.next = BootTime(now.0 + MISSED_EVERY_NS);
        }
        is_due
    }

    /// What is new, by kind: of the probe's own counts, and of events that the kernel left out where that was asked.
    pub(super) fn since(
        &mut self,
        counters: [u64; counter::SLOTS as usize],
        missed: Option<u64>,
    ) -> BTreeMap<String, u64> {
        let mut counts: BTreeMap<String, u64> = counter::NAMES
            .iter()
            .zip(counters.iter().zip(&self.counters))
            .filter(|(_, (now, before))| now > before)
            .map(|(name, (now, before))| ((*name).to_owned(), now - before))
            .collect();
        self.counters = counters;
        if let Some(missed) = missed.filter(|missed| *missed > self.missed) {
            counts.insert("missed".to_owned(), missed - self.missed);
            self.missed = missed;
        }
        if self.undecodable > 0 {
            counts.insert("undecodable".to_owned(), std::mem::take(&mut self.undecodable));
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(losses: &mut Losses, bind: u64, missed: Option<u64>) -> Vec<(String, u64)> {
        let counters = std::array::from_fn(|slot| if slot == counter::BIND as usize { bind } else { 0 });
        losses.since(counters, missed).into_iter().collect()
    }

    #[test]
    fn each_loss_is_told_once() {
        let mut losses = Losses::default();
        assert_eq!(counted(&mut losses, 0, Some(0)), []);
        assert_eq!(counted(&mut losses, 2, Some(3)), [("bind".to_owned(), 2), ("missed".to_owned(), 3)]);
        assert_eq!(counted(&mut losses, 2, None), []);
        losses.undecodable();
        assert_eq!(
            counted(&mut losses, 2, Some(7)),
            [("missed".to_owned(), 4), ("undecodable".to_owned(), 1)]
        );
        assert_eq!(counted(&mut losses, 3, Some(7)), [("bind".to_owned(), 1)]);
    }

    #[test]
    fn the_kernel_is_asked_now_and_then() {
        let mut losses = Losses::default();
        let begin = BootTime(1_000_000_000);
        assert!(losses.asks_for_missed(begin));
        assert!(!losses.asks_for_missed(BootTime(begin.0 + MISSED_EVERY_NS - 1)));
        assert!(losses.asks_for_missed(BootTime(begin.0 + MISSED_EVERY_NS)));
    }
}
