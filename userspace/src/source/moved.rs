//! When the guard is told again of sockets that get another device.

use crate::enrich::{AGAIN_NS, LOOK_NS};
use crate::event::BootTime;

/// Calls that ask for a device, told before they are carried out. Whoever calls can be off its processor in between, for as long as
/// others are let run: so the guard is told again, as often and as late as the socket itself is looked at.
#[derive(Default)]
pub(super) struct Moved {
    due: Option<BootTime>,
    taken: usize,
}

impl Moved {
    /// A call that was made at `at` asks for one.
    pub(super) fn asked(&mut self, at: BootTime) {
        *self = Self { due: Some(BootTime(at.0 + LOOK_NS)), taken: 0 };
    }

    /// When the guard is told next.
    pub(super) const fn next_due(&self) -> Option<BootTime> {
        self.due
    }

    /// Whether it is told now.
    pub(super) fn take(&mut self, now: BootTime) -> bool {
        let is_due = self.due.is_some_and(|due| due <= now);
        if is_due {
            self.due = AGAIN_NS.get(self.taken).map(|again| BootTime(now.0 + again));
            self.taken += 1;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_was_held_up_is_not_missed() {
        let mut moved = Moved::default();
        assert!(!moved.take(BootTime(u64::MAX)), "nobody asked");
        moved.asked(BootTime(1_000_000_000));
        let mut told = Vec::new();
        while let Some(due) = moved.next_due() {
            assert!(!moved.take(BootTime(due.0 - 1)));
            assert!(moved.take(due));
            told.push((due.0 - 1_000_000_000) / 1_000_000);
        }
        assert_eq!(told, [2, 202, 2202]);
        // The last that asks is the one whose call may not be carried out yet.
        moved.asked(BootTime(5_000_000_000));
        moved.asked(BootTime(5_001_000_000));
        assert!(!moved.take(BootTime(5_002_000_000)));
        assert!(moved.take(BootTime(5_003_000_000)));
    }
}
