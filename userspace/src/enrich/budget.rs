//! How often the kernel's tables may be asked because binds were refused.

use super::{Fact, LOOKUPS_PER_SECOND, SECOND_NS, limit};
use crate::event::BootTime;

/// How often the tables were asked.
#[derive(Default)]
pub(super) struct Budget {
    second: u64,
    spent: u32,
    told: bool,
}

impl Budget {
    /// Whether one more look-up is allowed now.
    pub(super) fn allows(&mut self, at: BootTime, facts: &mut Vec<Fact>) -> bool {
        let second = at.0 / SECOND_NS;
        // Records of different CPUs come a little out of order: a second does not begin again.
        if second > self.second {
            (self.second, self.spent, self.told) = (second, 0, false);
        }
        if self.spent >= LOOKUPS_PER_SECOND {
            if !self.told {
                self.told = true;
                facts.push(limit("table-lookups", LOOKUPS_PER_SECOND.into(), "look-ups a second", at));
            }
            return false;
        }
        self.spent += 1;
        true
    }
}
