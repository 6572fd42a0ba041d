//! What waits: which calls, for which endpoint, until when, and when to try again.
//!
//! Trying is one system call, and made when a record tells that a socket on the endpoint ended (then a few more times in
//! quick succession: the record comes while it is being closed), when TIME_WAIT is known to end, and when the time is over.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use super::call::Wanted;
use super::carrier::{Order, give_up_low_ports};
use super::outstanding::Place;
use super::reception::{Held, News, Reception};
use crate::event::{BootTime, Cookie, ProcessKey, SocketFacts, WaitOutcome, WaitingCall};
use crate::probe::seccomp::Answer;
use crate::wire::Record;

/// How long after the first try of a series the second is made, ns; each takes twice as long as the one before, up to
/// [`PATIENCE_MAX_NS`].
const PATIENCE_NS: u64 = 250_000;
/// The longest time between two tries of a series, ns: so much later than the end of a close a bind may come. A try is one
/// system call.
const PATIENCE_MAX_NS: u64 = 4_000_000;
/// How long a series lasts, ns: the record of an end comes microseconds before the end, where nothing comes between.
const SERIES_NS: u64 = 64_000_000;
/// How long a caller that a signal interrupted may take to call again, as the kernel makes it do after a handler that was
/// set with SA_RESTART, ns.
const AGAIN_NS: u64 = 100_000_000;
/// Sockets that are remembered to end, of one endpoint, sockets.
const ENDED_MAX: usize = 256;
/// Interrupted waits whose beginning is remembered, waits.
const INTERRUPTED_MAX: usize = 1024;

/// Every call that waits.
pub(crate) struct Waits {
    reception: Arc<Reception>,
    longest: u64,
    waiting: BTreeMap<u64, Wait>,
    made: u64,
    /// When those began that were interrupted: calling again does not begin the time again.
    interrupted: BTreeMap<(Cookie, u32), BootTime>,
}

/// A call that waits.
struct Wait {
    id: u64,
    place: Option<Place>,
    caller: ProcessKey,
    tid: u32,
    cookie: Cookie,
    /// None once its caller is known to be interrupted.
    socket: Option<OwnedFd>,
    wanted: Wanted,
    low: bool,
    since: BootTime,
    /// What it wants.
    facts: SocketFacts,
    /// Sockets that were in the way when that was looked at.
    way: BTreeSet<Cookie>,
    /// Of those that were on the endpoint, which were told to end since.
    ended: BTreeSet<Cookie>,
    due: Option<BootTime>,
    /// When the first try of a series was due.
    hurried: BootTime,
    /// How long after the next try of it the one after that is made, ns.
    patience: u64,
    interrupted: Option<BootTime>,
}

/// A wait that is over.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) caller: ProcessKey,
    pub(crate) tid: u32,
    pub(crate) cookie: Cookie,
    pub(crate) call: WaitingCall,
    /// What it wanted.
    pub(crate) facts: SocketFacts,
    pub(crate) waited: u64,
    pub(crate) outcome: WaitOutcome,
}

/// What a try came to.
#[derive(Debug)]
pub(crate) enum Tried {
    /// It waits on.
    Waits,
    /// It waits on, and what is in the way must be looked at: something may leave that no record tells of.
    Look(u64),
    /// It is over.
    Over(Ended),
}

impl Waits {
    pub(crate) fn new(reception: Arc<Reception>, longest: Duration) -> Self {
        give_up_low_ports();
        let longest = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        Self { reception, longest, waiting: BTreeMap::new(), made: 0, interrupted: BTreeMap::new() }
    }

    pub(crate) fn reception(&self) -> Arc<Reception> {
        Arc::clone(&self.reception)
    }

    pub(crate) fn take_news(&self) -> Vec<News> {
        self.reception.take_news()
    }

    /// A call that was interrupted and made again: it waits on. Gives back any other.
    pub(crate) fn resume(&mut self, held: Box<Held>) -> Option<Box<Held>> {
        let again =
            |wait: &&mut Wait| (wait.cookie, wait.tid, wait.wanted) == (held.cookie, held.tid, held.wanted);
        let Some(wait) = self.waiting.values_mut().find(again) else { return Some(held) };
        if let Some(before) = wait.place.replace(held.place) {
            self.reception.outstanding.answered(before);
        }
        wait.id = held.id;
        wait.socket = Some(held.socket);
        wait.interrupted = None;
        wait.due = Some(held.at);
        None
    }

    /// A call begins to wait, and is to be tried at once: what was in its way may have ended already.
    pub(crate) fn begin(&mut self, held: Held, facts: SocketFacts) -> u64 {
        let Held { id, place, process, tid, cookie, socket, wanted, low, at, .. } = held;
        let before = self.interrupted.remove(&(cookie, tid));
        let since = before.filter(|since| at.since(*since) < self.longest).unwrap_or(at);
        let wait = Wait {
            id,
            place: Some(place),
            caller: process,
            tid,
            cookie,
            socket: Some(socket),
            wanted,
            low,
            since,
            facts,
            way: BTreeSet::new(),
            ended: BTreeSet::new(),
            due: Some(at),
            hurried: at,
            patience: PATIENCE_NS,
            interrupted: None,
        };
        self.made += 1;
        self.waiting.insert(self.made, wait);
        self.made
    }

    /// A call that was interrupted was made again, and has succeeded.
    pub(crate) fn succeeded(&mut self, cookie: Cookie, tid: u32, at: BootTime) -> Option<Ended> {
        let is_it = |(_, wait): &(&u64, &Wait)| (wait.cookie, wait.tid) == (cookie, tid);
        let number = *self.waiting.iter().find(is_it)?.0;
        self.end(number, at, WaitOutcome::Done)
    }

    /// Leaves a call to the kernel that never began to wait.
    pub(crate) fn refuse(&mut self, held: Held) {
        let Held { id, place, socket, cookie, .. } = held;
        drop(socket);
        self.reception.carrier.waits_no_more(cookie);
        let _ = self.reception.listener.answer(id, Answer::Continue);
        self.reception.outstanding.answered(place);
    }

    /// What one wants.
    pub(crate) fn wanted(&self, number: u64) -> Option<SocketFacts> {
        self.waiting.get(&number).map(|wait| wait.facts.clone())
    }

    /// What is in the way of one, with whether the end of its last descriptor is its own, and when something of it leaves
    /// without a record.
    pub(crate) fn in_the_way(
        &mut self,
        number: u64,
        way: &BTreeMap<Cookie, bool>,
        until: Option<BootTime>,
        now: BootTime,
    ) {
        if let Some(wait) = self.waiting.get_mut(&number) {
            // The record of an end comes before the end, and on a busy machine long before.
            wait.ended.retain(|cookie| way.get(cookie) == Some(&true));
            let ending = (!wait.ended.is_empty()).then_some(BootTime(now.0 + SERIES_NS));
            wait.way = way.keys().copied().collect();
            wait.due = [wait.due, until, ending].into_iter().flatten().min();
        }
    }

    /// Whether any call waits.
    pub(crate) fn are_there(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// A record: it may tell that somebody's endpoint is free. Then [`Waits::try_one`] has something to do.
    pub(crate) fn hear(&mut self, record: &Record, at: BootTime) -> bool {
        if self.waiting.is_empty() {
            return false;
        }
        let (cookie, on, ends) = match record {
            Record::Close(small) | Record::Destroy(small) => {
                (small.cookie, Some((small.netns, small.port)), true)
            }
            Record::Unlisten(small) => (small.cookie, Some((small.netns, small.port)), false),
            Record::Option(option) => (option.cookie, None, false),
            Record::Changed(call, _) => (call.socket.cookie, None, false),
            _ => return false,
        };
        let mut is_news = false;
        for wait in self.waiting.values_mut() {
            if on == Some((wait.facts.netns, wait.facts.port)) || wait.way.contains(&cookie) {
                wait.hurry(at);
                is_news = true;
                if ends && wait.ended.len() < ENDED_MAX {
                    wait.ended.insert(cookie);
                }
            }
        }
        is_news
    }

    /// Records were lost: any of them may have told something.
    pub(crate) fn missed_some(&mut self, now: BootTime) {
        self.waiting.values_mut().for_each(|wait| wait.hurry(now));
    }

    /// When [`Waits::try_one`] has something to do.
    pub(crate) fn next_due(&self) -> Option<BootTime> {
        self.waiting.values().map(|wait| wait.next(self.longest)).min()
    }

    /// Tries the first that is due; None when none is.
    pub(crate) fn try_one(&mut self, now: BootTime) -> Option<Tried> {
        self.notice_interrupted(now);
        let longest = self.longest;
        let number = *self.waiting.iter().find(|(_, wait)| wait.next(longest) <= now)?.0;
        let wait = self.waiting.get_mut(&number)?;
        if let Some(noticed) = wait.interrupted {
            let key = (wait.cookie, wait.tid);
            self.interrupted.insert(key, wait.since);
            if self.interrupted.len() > INTERRUPTED_MAX {
                self.interrupted.pop_first();
            }
            return self.end(number, noticed, WaitOutcome::Interrupted).map(Tried::Over);
        }
        let is_over = now.since(wait.since) >= longest;
        let Some(socket) = &wait.socket else { return None };
        let order = Order {
            caller: wait.caller,
            tid: wait.tid,
            cookie: wait.cookie,
            socket: socket.as_fd(),
            wanted: wait.wanted,
            low: wait.low,
        };
        let done = self.reception.carrier.carry_out(&order);
        let (id, cookie, tid, wanted) = (wait.id, wait.cookie, wait.tid, wait.wanted);
        let answer = match done {
            Ok(()) => Answer::Done,
            Err(Errno::ADDRINUSE) if !is_over => {
                if now.since(wait.hurried) >= SERIES_NS {
                    wait.due = None;
                    return Some(Tried::Look(number));
                }
                wait.due = Some(BootTime(now.0 + wait.patience));
                wait.patience = (wait.patience * 2).min(PATIENCE_MAX_NS);
                return Some(Tried::Waits);
            }
            Err(Errno::ADDRINUSE) => Answer::Failed(Errno::ADDRINUSE),
            Err(_) => Answer::Continue,
        };
        // Whoever closes it from now on closes the last descriptor.
        wait.socket = None;
        let told = self.reception.listener.answer(id, answer).unwrap_or(true);
        let outcome = match answer {
            Answer::Done if !told => {
                self.reception.carrier.was_not_told(cookie, tid, wanted);
                WaitOutcome::Interrupted
            }
            Answer::Done => WaitOutcome::Done,
            Answer::Failed(_) => WaitOutcome::TimedOut,
            Answer::Continue => WaitOutcome::Released,
        };
        self.end(number, crate::clock::boot_now(), outcome).map(Tried::Over)
    }

    /// Leaves everything to the kernel, what waits and what is still to come.
    pub(crate) fn let_pass(&mut self) -> Vec<Ended> {
        self.reception.let_pass();
        let mut over = Vec::new();
        for news in self.reception.take_news() {
            match news {
                News::Waits(held) => drop(self.resume(held).map(|held| self.refuse(*held))),
                News::Done(cookie, tid, at) => over.extend(self.succeeded(cookie, tid, at)),
                News::Full | News::Restricted | News::Hidden => {}
            }
        }
        let now = crate::clock::boot_now();
        let numbers: Vec<u64> = self.waiting.keys().copied().collect();
        let release = |number: u64| {
            let wait = self.waiting.get_mut(&number)?;
            wait.socket = None;
            // Who is not to be told was interrupted.
            let told = self.reception.listener.answer(wait.id, Answer::Continue).unwrap_or(true);
            match wait.interrupted {
                None if told => self.end(number, now, WaitOutcome::Released),
                noticed => self.end(number, noticed.unwrap_or(now), WaitOutcome::Interrupted),
            }
        };
        over.extend(numbers.into_iter().filter_map(release));
        over
    }

    fn end(&mut self, number: u64, at: BootTime, outcome: WaitOutcome) -> Option<Ended> {
        let wait = self.waiting.remove(&number)?;
        self.reception.carrier.waits_no_more(wait.cookie);
        if let Some(place) = wait.place {
            self.reception.outstanding.answered(place);
        }
        let call = wait.wanted.which();
        let (caller, tid, cookie, facts) = (wait.caller, wait.tid, wait.cookie, wait.facts);
        Some(Ended { caller, tid, cookie, call, facts, waited: at.since(wait.since), outcome })
    }

    /// Nothing tells that a signal ended a wait; it is asked whenever something is looked at.
    fn notice_interrupted(&mut self, now: BootTime) {
        for wait in self.waiting.values_mut().filter(|wait| wait.interrupted.is_none()) {
            if !self.reception.listener.is_valid(wait.id) {
                // A socket whose process has ended must not live on here.
                wait.socket = None;
                wait.interrupted = Some(now);
            }
        }
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        drop(self.let_pass());
    }
}

impl Wait {
    fn hurry(&mut self, at: BootTime) {
        self.patience = PATIENCE_NS;
        self.hurried = at;
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    fn next(&self, longest: u64) -> BootTime {
        if let Some(noticed) = self.interrupted {
            return BootTime(noticed.0 + AGAIN_NS);
        }
        let over = BootTime(self.since.0.saturating_add(longest));
        self.due.map_or(over, |due| due.min(over))
    }
}
