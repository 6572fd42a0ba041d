//! Listeners that stopped, or never began: a `listen()` that fails has the kernel's socket listen for a moment first, and
//! only the call's end, which comes right after, tells the two apart.

use super::Fact;
use crate::event::{BootTime, Cookie};
use crate::wire::Record;

/// How long the end of a socket's listening is held back for the end of a `listen()`, ns.
pub(super) const HELD_NS: u64 = 1_000_000;

/// What is held back.
#[derive(Default)]
pub(super) struct Stopping(Vec<(Cookie, Fact)>);

impl Stopping {
    pub(super) fn hold(&mut self, cookie: Cookie, fact: Fact) {
        self.0.push((cookie, fact));
    }

    /// Gives what the next record shows to be so, or what is old enough, and drops what it shows to have been a failed
    /// call.
    pub(super) fn next(&mut self, record: &Record, at: BootTime, facts: &mut Vec<Fact>) {
        if self.0.is_empty() {
            return;
        }
        if let Record::ListenFailed(call) = record {
            self.0.retain(|(cookie, _)| *cookie != call.socket.cookie);
        }
        let about = match record {
            Record::Bind(call) | Record::Listen(call) => Some(call.socket.cookie),
            Record::Close(small) | Record::Destroy(small) => Some(small.cookie),
            Record::Option(option) => Some(option.cookie),
            _ => None,
        };
        self.release(|cookie, held| about == Some(cookie) || at.since(held) >= HELD_NS, facts);
    }

    /// Gives what nothing contradicted in time.
    pub(super) fn due(&mut self, now: BootTime, facts: &mut Vec<Fact>) {
        self.release(|_, held| now.since(held) >= HELD_NS, facts);
    }

    /// When [`Stopping::due`] has work.
    pub(super) fn next_due(&self) -> Option<BootTime> {
        self.0.iter().map(|(_, fact)| BootTime(fact.at.0 + HELD_NS)).min()
    }

    fn release(&mut self, is_so: impl Fn(Cookie, BootTime) -> bool, facts: &mut Vec<Fact>) {
        facts.extend(self.0.extract_if(.., |(cookie, fact)| is_so(*cookie, fact.at)).map(|(_, fact)| fact));
    }
}
