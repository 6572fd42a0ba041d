//! Binds and listens that waited for their endpoint (`run --on-conflict wait`): who waited for whom, how long, and how it
//! ended.

use std::collections::BTreeMap;

use crate::event::{Cookie, Errno, WaitOutcome, Waited, Waiting, WaitingCall};

use super::Ledger;
use super::finding::{FindingId, Kind, Wait};
use super::record::Moment;
use super::refused::Call;

/// Waits whose end is still to come, and whose failure is, waits each.
const WAITS_MAX: usize = 1_024;

/// The findings of calls that wait, by the caller's socket.
#[derive(Default)]
pub(super) struct Waits {
    open: BTreeMap<Cookie, Of>,
    /// The wait is over and the call is about to fail, or was left to the kernel.
    over: BTreeMap<Cookie, Of>,
}

impl Waits {
    /// What was left to the kernel has succeeded.
    pub(super) fn succeeded(&mut self, cookie: Cookie) {
        self.over.remove(&cookie);
    }
}

/// The finding of a wait.
#[derive(Clone, Copy)]
struct Of {
    id: FindingId,
    /// What it told of the wait before.
    before: Option<Wait>,
}

impl Ledger {
    /// A call is held: for whom is what a refusal would say now.
    pub(super) fn waiting(&mut self, waiting: &Waiting, now: Moment) {
        let cookie = waiting.socket.cookie;
        // A second wait of one socket without an end of the first: that was lost.
        self.waits.open.remove(&cookie);
        self.waits.over.remove(&cookie);
        let call = Call {
            process: waiting.process,
            comm: &waiting.comm,
            facts: &waiting.socket,
            errno: Errno::EADDRINUSE,
            name: match waiting.call {
                WaitingCall::Bind => "bind",
                WaitingCall::Listen => "listen",
            },
        };
        let id = match (waiting.holder_cookie, waiting.holder) {
            (Some(cookie), Some(holder)) => self.deny(call, cookie, holder, now),
            _ => self.blame(call, Kind::Denied, now),
        };
        let Some(id) = id else { return };
        let Some(record) = self.records.touch(id) else { return };
        let before = record.wait.replace(Wait { ns: 0, outcome: None });
        remember(&mut self.waits.open, cookie, Of { id, before });
    }

    /// It no longer is.
    pub(super) fn waited(&mut self, waited: &Waited, now: Moment) {
        let Some(of) = self.waits.open.remove(&waited.cookie) else { return };
        let Some(record) = self.records.touch(of.id) else { return };
        record.wait = Some(Wait { ns: waited.waited_ns, outcome: Some(waited.outcome) });
        record.last_seen = now.at;
        record.evidence.add(now.seq);
        if matches!(waited.outcome, WaitOutcome::TimedOut | WaitOutcome::Released) {
            remember(&mut self.waits.over, waited.cookie, of);
        }
    }

    /// The failure in which a wait has ended is the finding of the wait, unless that has others to tell of: then the wait
    /// is taken out of it, and given back.
    pub(super) fn failed_after_wait(
        &mut self,
        cookie: Cookie,
        kind: Kind,
    ) -> (Option<FindingId>, Option<Wait>) {
        let Some(Of { id, before }) = self.waits.over.remove(&cookie) else { return (None, None) };
        let Some(record) = self.records.touch(id) else { return (None, None) };
        if record.kind == kind || record.count == 1 {
            record.kind = kind;
            return (Some(id), None);
        }
        record.count -= 1;
        (None, std::mem::replace(&mut record.wait, before))
    }
}

/// Cookies grow: the oldest goes.
fn remember(waits: &mut BTreeMap<Cookie, Of>, cookie: Cookie, of: Of) {
    waits.insert(cookie, of);
    if waits.len() > WAITS_MAX {
        waits.pop_first();
    }
}
