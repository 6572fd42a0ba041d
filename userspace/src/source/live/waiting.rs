//! Calls that wait, in the loop of the recording: what they are told of, tried for, and made into events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::{Live, LiveError};
use crate::clock;
use crate::enrich::{Fact, Lookups as _};
use crate::event::{
    Body, BootTime, Cookie, Door, Errno, Event, Hook, Limit, ProcessKey, SocketFacts, TcpState, Tid, Uid,
    WaitOutcome, Waited, WaitingCall,
};
use crate::ledger::conflict;
use crate::probe::seccomp::Listener;
use crate::source::releases::{is_at_rest, untold_end};
use crate::source::sockets::Row;
use crate::wait::{Carrier, Ended, Held, News, Outstanding, Reception, Tried, WAITING_MAX, Waits};
use crate::wire::{Call, Record, Stamped, Task};

/// A TIME_WAIT entry whose time is over is looked for this often: its timer is late, by up to two seconds on some kernels.
const LATE: Duration = Duration::from_millis(20);
/// Looks into the ring for the records of a call that was just made; each takes all that is there, or thousands.
const LOOKS_MAX: usize = 16;

impl Live {
    /// Lets binds and listens that arrive at `listener` wait for their endpoint, this long at most.
    ///
    /// # Errors
    /// When no thread can be had to take them in.
    pub fn hold(
        &mut self,
        listener: Listener,
        outstanding: Outstanding,
        longest: Duration,
    ) -> Result<(), LiveError> {
        let standings = match &self.guard {
            Some(_) => Some(self.enricher.lookups().probe().kin_again()?),
            None => None,
        };
        self.carrier = Some(Arc::new(Carrier::new(standings)));
        let Some(carrier) = &self.carrier else { return Ok(()) };
        let reception = Arc::new(Reception::new(listener, outstanding, Arc::clone(carrier)));
        self.waits = Some(Waits::new(Arc::clone(&reception), longest));
        reception.open().map_err(LiveError::Waits)
    }

    /// Leaves every call to the kernel from now on.
    pub fn let_pass(&mut self, events: &mut Vec<Event>) {
        self.serve_waits(events);
        let Some(waits) = &mut self.waits else { return };
        let ended = waits.let_pass();
        for ended in ended {
            self.waited(&ended, events);
        }
        self.waits = None;
    }

    /// Takes in what waits, and tries what is due.
    pub(super) fn serve_waits(&mut self, events: &mut Vec<Event>) {
        let Some(waits) = &self.waits else { return };
        let news = waits.take_news();
        if !news.is_empty() {
            // What the probe told of their failure.
            self.take_everything(events);
        }
        for news in news {
            match news {
                News::Waits(held) => {
                    if let Some(held) = self.waits.as_mut().and_then(|waits| waits.resume(held)) {
                        self.begin_wait(*held, events);
                    }
                }
                News::Done(cookie, tid, at) => {
                    let ended = self.waits.as_mut().and_then(|waits| waits.succeeded(cookie, tid, at));
                    if let Some(ended) = ended {
                        self.waited(&ended, events);
                    }
                }
                News::Full => {
                    self.limit("waiting-binds", WAITING_MAX as u64, "binds that wait at once", events);
                }
                News::Restricted => {
                    let what = "process of the job that restricts itself: no bind waits from then on";
                    self.limit("wait-landlock", 1, what, events);
                }
                News::Hidden => {
                    let what = "process of the job that bindwatch may not trace: its binds do not wait";
                    self.limit("wait-trace", 1, what, events);
                }
            }
        }
        self.try_waits();
        while !self.tried.is_empty() {
            for tried in std::mem::take(&mut self.tried) {
                match tried {
                    Tried::Waits => {}
                    Tried::Look(number) => self.look_at_way(number),
                    Tried::Over(ended) => {
                        self.take_everything(events);
                        self.waited(&ended, events);
                    }
                }
            }
            self.try_waits();
        }
    }

    /// Tries what is due. What comes of it is told when there is time.
    pub(super) fn try_waits(&mut self) {
        while let Some(tried) = self.waits.as_mut().and_then(|waits| waits.try_one(clock::boot_now())) {
            if !matches!(tried, Tried::Waits) {
                self.tried.push(tried);
            }
        }
    }

    /// Every record until now was read: what they could tell of bindwatch they have told.
    pub(super) fn forget_carried(&self, until: BootTime) {
        if let Some(carrier) = &self.carrier {
            carrier.forget(until);
        }
    }

    fn begin_wait(&mut self, held: Held, events: &mut Vec<Event>) {
        let told = self.carrier.as_ref().and_then(|carrier| carrier.take_failure(held.cookie()));
        let (call, blocked_by) = match told.map(|told| told.record) {
            Some(Record::BindFailed(call) | Record::ListenFailed(call)) => (Some(call.socket), None),
            Some(Record::Denied { call, holder_cookie, holder }) => {
                (Some(call.socket), Some((holder_cookie, holder)))
            }
            _ => (None, None),
        };
        // Without a hook that sees the failure the socket itself is asked.
        let Some(mut socket) = call.or_else(|| self.facts_of(held.cookie())) else {
            if let Some(waits) = &mut self.waits {
                waits.refuse(held);
            }
            return;
        };
        if let Some(address) = held.address() {
            (socket.address, socket.port) = (address.ip(), address.port());
        }
        let (at, which) = (held.at(), held.which());
        let mut task = self.task_of(held.process(), held.tid());
        if !held.comm().is_empty() {
            held.comm().clone_into(&mut task.comm);
        }
        let Some(waits) = &mut self.waits else { return };
        let number = waits.begin(held, socket.clone());
        let call = call_of(task, socket);
        self.enricher.waiting(call, which, blocked_by, at, self.seq, &mut self.facts);
        self.stamp(events);
        self.look_at_way(number);
    }

    /// Looks at what is in the way: its sockets get the cookies by which their end is told, and what ends untold has a
    /// time.
    fn look_at_way(&mut self, number: u64) {
        let now = clock::boot_now();
        let Some(wanted) = self.waits.as_ref().and_then(|waits| waits.wanted(number)) else { return };
        let mut way = BTreeMap::new();
        let mut until: Option<BootTime> = None;
        let rows = self.enricher.lookups().rows(wanted.netns, wanted.protocol, wanted.port);
        let is_in_it = |row: &&Row| row.socket.cookie != wanted.cookie && conflict(&wanted, &row.socket);
        for row in rows.iter().filter(is_in_it) {
            way.insert(row.socket.cookie, is_at_rest(row));
            if let Some(wait) = leaves_untold(row) {
                let at = BootTime(now.0 + u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX));
                until = Some(until.map_or(at, |until| until.min(at)));
            }
        }
        if let Some(waits) = &mut self.waits {
            waits.in_the_way(number, &way, until, now);
        }
    }

    fn waited(&mut self, ended: &Ended, events: &mut Vec<Event>) {
        let at = clock::boot_now();
        let failure = self.carrier.as_ref().and_then(|carrier| carrier.take_failure(ended.cookie));
        let body = Waited {
            process: ended.caller,
            // Of MPTCP the one that the wait was told with.
            cookie: ended.facts.cookie,
            waited_ns: ended.waited,
            outcome: ended.outcome,
        };
        self.facts.push(Fact { at, hook: Hook::Bindwatch, body: Body::Waited(body) });
        self.stamp(events);
        if ended.outcome != WaitOutcome::TimedOut {
            return;
        }
        // The last try is the call that fails: its record is the caller's.
        let task = self.task_of(ended.caller, Tid(ended.tid));
        let known = failure.map(|failure| failure.record);
        let record = match known {
            Some(Record::Denied { call, holder_cookie, holder }) => {
                Record::Denied { call: Call { task, ..call }, holder_cookie, holder }
            }
            Some(Record::BindFailed(call)) => Record::BindFailed(Call { task, ..call }),
            Some(Record::ListenFailed(call)) => Record::ListenFailed(Call { task, ..call }),
            _ if ended.call == WaitingCall::Listen => {
                Record::ListenFailed(call_of(task, ended.facts.clone()))
            }
            _ => Record::BindFailed(call_of(task, ended.facts.clone())),
        };
        self.enricher.record(
            Stamped { at, hook: Hook::Bindwatch, after_loss: false, record },
            self.seq,
            &mut self.facts,
        );
        self.stamp(events);
    }

    /// Takes what is in the ring by now.
    fn take_everything(&mut self, events: &mut Vec<Event>) {
        let now = clock::boot_now();
        for _ in 0..LOOKS_MAX {
            match self.take_records(now, events) {
                Ok(reading) if reading.is_whole() => break,
                Ok(_) => std::thread::yield_now(),
                Err(error) => return log::warn!("{error}"),
            }
        }
    }

    fn limit(&mut self, bound: &str, value: u64, unit: &str, events: &mut Vec<Event>) {
        let body = Limit { bound: bound.to_owned(), value, unit: unit.to_owned() };
        self.insert(Body::Limit(body), &[], events);
    }

    /// What a socket is, that a process has open.
    fn facts_of(&mut self, cookie: Cookie) -> Option<SocketFacts> {
        let found = self.enricher.lookups().now(&BTreeSet::from([cookie]));
        found.into_iter().next().map(|(facts, _)| facts)
    }

    /// Who called, as the probe describes a caller. What is gone is described as it was last known.
    pub(super) fn task_of(&self, process: ProcessKey, tid: Tid) -> Task {
        let status = std::fs::read_to_string(format!("/proc/{}/task/{}/status", process.tgid, tid.0));
        let status = status.unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let comm = field("Name:\t").map(|name| name.replace("\\n", "\n").replace("\\\\", "\\"));
        let uid = field("Uid:").and_then(|ids| ids.split_whitespace().next()?.parse().ok());
        let (known_as, user) = self.enricher.name_and_user(process);
        // The cgroup stays what it is known to be: 0 is none.
        Task { process, tid, comm: comm.unwrap_or(known_as), uid: uid.map_or(user, Uid), cgroup: 0 }
    }
}

/// A call that failed because its endpoint is in use.
fn call_of(task: Task, socket: SocketFacts) -> Call {
    Call { task, requested_port: socket.port, socket, errno: Errno::EADDRINUSE, door: Door::Syscall }
}

/// When what is on a port leaves it without a record; None when a record tells.
fn leaves_untold(row: &Row) -> Option<Duration> {
    match (row.state, row.expires_ms) {
        // Its end is known. It may be cut short by a reset, or by a new connection from there; then it is later than it
        // could be, and not looked for until then.
        (TcpState::TimeWait | TcpState::FinWait2, Some(left)) => {
            Some(Duration::from_millis(left.into()).max(LATE))
        }
        _ => untold_end(row),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Family, Inum, NetnsCookie, Options, Protocol};

    #[test]
    fn a_timer_is_aimed_at_the_end_of_time_wait() {
        let socket = SocketFacts {
            cookie: Cookie(1),
            netns: Inum(1),
            netns_cookie: NetnsCookie::default(),
            family: Family::Inet,
            protocol: Protocol::Tcp,
            address: [127, 0, 0, 1].into(),
            port: 80,
            options: Options::default(),
            uid: Uid(0),
        };
        let row = |state, inode, expires_ms| Row {
            socket: socket.clone(),
            state,
            peer: None,
            inode,
            queued: 0,
            expires_ms,
        };
        let minute = Some(Duration::from_secs(60));
        assert_eq!(leaves_untold(&row(TcpState::TimeWait, 0, Some(60_000))), minute);
        assert_eq!(leaves_untold(&row(TcpState::FinWait2, 0, Some(60_000))), minute);
        assert_eq!(leaves_untold(&row(TcpState::TimeWait, 0, Some(0))), Some(LATE), "its timer is late");
        assert_eq!(leaves_untold(&row(TcpState::Listen, 7, None)), None, "its end is told");
    }
}
