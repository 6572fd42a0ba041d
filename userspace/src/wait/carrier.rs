//! Carrying calls out for others, and putting down to them what the probe then tells of bindwatch.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::net::sockopt::{socket_reuseaddr, socket_reuseport};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use super::call::Wanted;
use crate::clock;
use crate::event::{BootTime, Cookie, ProcessKey, Tid};
use crate::probe::Standings;
use crate::wire::{Record, Stamped, Task};

/// Calls whose records may be in the ring still, calls. Each takes microseconds, and the ring is read every few
/// milliseconds.
const CALLS_MAX: usize = 65_536;
/// Successes remembered that a signal kept from their caller, calls.
const UNTOLD_MAX: usize = 256;
/// How much earlier or later than it was made a record may be stamped, ns: the kernel reads another clock, of the same
/// time.
const SLACK_NS: u64 = 20_000;

/// Carries calls out.
pub struct Carrier {
    /// bindwatch.
    tgid: u32,
    inner: Mutex<Inner>,
}

struct Inner {
    /// One after the other.
    calls: VecDeque<Call>,
    /// What told of the last failure on a socket.
    failures: BTreeMap<Cookie, Stamped>,
    untold: BTreeMap<Cookie, (u32, Wanted)>,
    /// Sockets of calls that wait.
    waiting: BTreeSet<Cookie>,
    standings: Option<Standings>,
}

#[derive(Clone, Copy)]
struct Call {
    begin: BootTime,
    end: BootTime,
    cookie: Cookie,
    caller: ProcessKey,
    tid: u32,
    failed: bool,
}

/// A call to carry out.
pub(super) struct Order<'a> {
    pub(super) caller: ProcessKey,
    pub(super) tid: u32,
    pub(super) cookie: Cookie,
    pub(super) socket: BorrowedFd<'a>,
    pub(super) wanted: Wanted,
    /// The caller may bind ports below 1024.
    pub(super) low: bool,
}

impl Carrier {
    /// `standings`: whom the guard takes for whom, where it is attached.
    #[must_use]
    pub fn new(standings: Option<Standings>) -> Self {
        Self {
            tgid: std::process::id(),
            inner: Mutex::new(Inner {
                calls: VecDeque::new(),
                failures: BTreeMap::new(),
                untold: BTreeMap::new(),
                waiting: BTreeSet::new(),
                standings,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries a call out, with no more rights than the caller has.
    ///
    /// # Errors
    /// As bind(2) and listen(2).
    pub(super) fn carry_out(&self, order: &Order<'_>) -> Result<(), Errno> {
        let shares = || {
            let tcp = matches!(protocol(order.socket), Some(6 | 262));
            socket_reuseport(order.socket).unwrap_or(true)
                || (!tcp && socket_reuseaddr(order.socket).unwrap_or(true))
        };
        let is_guarded = matches!(order.wanted, Wanted::Bind(_)) && shares();
        let mut inner = self.lock();
        if is_guarded && let Some(standings) = &mut inner.standings {
            standings.stand_for(self.tgid, order.caller);
        }
        inner.failures.remove(&order.cookie);
        let raised = order.low && raise_low_ports(true);
        let begin = clock::boot_now();
        let done = match order.wanted {
            Wanted::Bind(SocketAddr::V4(address)) => rustix::net::bind(order.socket, &address),
            Wanted::Bind(SocketAddr::V6(address)) => rustix::net::bind(order.socket, &address),
            Wanted::Listen(backlog) => rustix::net::listen(order.socket, backlog),
        };
        let end = clock::boot_now();
        if raised {
            raise_low_ports(false);
        }
        let Order { caller, tid, cookie, .. } = *order;
        inner.calls.push_back(Call { begin, end, cookie, caller, tid, failed: done.is_err() });
        if inner.calls.len() > CALLS_MAX {
            inner.calls.pop_front();
        }
        done
    }

    /// Notes a success whose caller was interrupted before it was told: should it call again, it has it already.
    pub(super) fn was_not_told(&self, cookie: Cookie, tid: u32, wanted: Wanted) {
        let mut inner = self.lock();
        inner.untold.insert(cookie, (tid, wanted));
        if inner.untold.len() > UNTOLD_MAX {
            inner.untold.pop_first();
        }
    }

    /// Whether this very call has succeeded already, and its caller was not told.
    pub(super) fn has_succeeded(&self, cookie: Cookie, tid: u32, wanted: Wanted) -> bool {
        let mut inner = self.lock();
        !inner.untold.is_empty() && inner.untold.remove(&cookie) == Some((tid, wanted))
    }

    /// A call on this socket begins to wait.
    pub(super) fn waits(&self, cookie: Cookie) {
        self.lock().waiting.insert(cookie);
    }

    /// It no longer does.
    pub(super) fn waits_no_more(&self, cookie: Cookie) {
        self.lock().waiting.remove(&cookie);
    }

    /// Whether a call on this socket waits, for all that is known.
    pub(super) fn has_waited(&self, cookie: Cookie) -> bool {
        self.lock().waiting.contains(&cookie)
    }

    /// What told of the last failure on a socket.
    pub(crate) fn take_failure(&self, cookie: Cookie) -> Option<Stamped> {
        self.lock().failures.remove(&cookie)
    }

    /// Puts a record that tells of bindwatch down to who called. False: it is of a call that is not over, and tells
    /// nothing. `task` describes a caller.
    pub fn attribute(&self, stamped: &mut Stamped, task: impl FnOnce(ProcessKey, Tid) -> Task) -> bool {
        let (about, is_own) = match &stamped.record {
            Record::Bind(call)
            | Record::BindFailed(call)
            | Record::Denied { call, .. }
            | Record::Unresolved(call)
            | Record::Listen(call)
            | Record::ListenFailed(call)
            | Record::Changed(call, _) => (call.socket.cookie, call.task.process.tgid == self.tgid),
            // Where listen() fails the socket has listened for a moment.
            Record::Unlisten(small) => (small.cookie, small.tgid == self.tgid),
            _ => return true,
        };
        if !is_own {
            return true;
        }
        if matches!(stamped.record, Record::Unresolved(_)) {
            // Of a bind whose errno no hook saw; how it ended is known here.
            return false;
        }
        let mut inner = self.lock();
        let Some(call) = inner.at(about, stamped.at) else { return true };
        if !call.failed {
            drop(inner);
            if let Record::Bind(done)
            | Record::Listen(done)
            | Record::Changed(done, _)
            | Record::Denied { call: done, .. } = &mut stamped.record
            {
                done.task = task(call.caller, Tid(call.tid));
            }
            return true;
        }
        if matches!(stamped.record, Record::BindFailed(_) | Record::ListenFailed(_) | Record::Denied { .. }) {
            inner.failures.insert(call.cookie, stamped.clone());
            if inner.failures.len() > super::WAITING_MAX {
                inner.failures.pop_first();
            }
        }
        false
    }

    /// Forgets the calls that had ended by then: every record of them was read.
    pub fn forget(&self, until: BootTime) {
        let mut inner = self.lock();
        while inner.calls.front().is_some_and(|call| BootTime(call.end.0 + SLACK_NS) < until) {
            inner.calls.pop_front();
        }
    }
}

impl Inner {
    /// The call during which something happened to a socket, or the nearest to it. Of MPTCP the kernel tells another
    /// socket than the one that was called for; then its time alone says which it was.
    fn at(&self, cookie: Cookie, at: BootTime) -> Option<Call> {
        let away = |call: &Call| call.begin.0.saturating_sub(at.0).max(at.0.saturating_sub(call.end.0));
        // They are in order, so the nearest are together.
        let after = self.calls.partition_point(|call| call.end.0 + SLACK_NS < at.0);
        let near = self.calls.iter().skip(after).take_while(|call| away(call) <= SLACK_NS);
        near.min_by_key(|call| (call.cookie != cookie, away(call))).copied()
    }
}

/// IP protocol of a socket of the internet families.
pub(super) fn protocol(socket: BorrowedFd<'_>) -> Option<u32> {
    let protocol = rustix::net::sockopt::socket_protocol(socket).ok().flatten()?;
    Some(protocol.as_raw().get())
}

/// Gives the right to bind ports below 1024 up, for this thread, so that nothing is bound for others that they could
/// not bind: it is taken back for those who have it. What the thread executes is not affected.
pub(super) fn give_up_low_ports() {
    raise_low_ports(false);
}

/// Whether that was done.
fn raise_low_ports(up: bool) -> bool {
    let Ok(mut sets) = capabilities(None) else { return false };
    if up && !sets.permitted.contains(CapabilitySet::NET_BIND_SERVICE) {
        return false;
    }
    sets.effective.set(CapabilitySet::NET_BIND_SERVICE, up);
    set_capabilities(None, sets).is_ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use std::net::{TcpListener, UdpSocket};
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::event::{Door, Family, Hook, Inum, NetnsCookie, Options, Protocol, SocketFacts, Uid};
    use crate::wire;

    fn key(tgid: u32) -> ProcessKey {
        ProcessKey { tgid, start: 1 }
    }

    fn told(process: ProcessKey, cookie: Cookie, at: BootTime, record: fn(wire::Call) -> Record) -> Stamped {
        let task = Task { process, tid: Tid(process.tgid), comm: "bindwatch".into(), uid: Uid(0), cgroup: 0 };
        let socket = SocketFacts {
            cookie,
            netns: Inum(1),
            netns_cookie: NetnsCookie::default(),
            family: Family::Inet,
            protocol: Protocol::Udp,
            address: [127, 0, 0, 1].into(),
            port: 1,
            options: Options::default(),
            uid: Uid(0),
        };
        let call = wire::Call {
            task,
            socket,
            requested_port: 1,
            errno: crate::event::Errno::EADDRINUSE,
            door: Door::Syscall,
        };
        Stamped { at, hook: Hook::PostBind4, after_loss: false, record: record(call) }
    }

    #[test]
    fn what_is_carried_out_is_the_callers() {
        let carrier = Carrier::new(None);
        let own = key(std::process::id());
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let other =
            rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)
                .unwrap();
        let cookie = Cookie(rustix::net::sockopt::socket_cookie(&other).unwrap());
        let order = |address| Order {
            caller: key(4711),
            tid: 4712,
            cookie,
            socket: other.as_fd(),
            wanted: Wanted::Bind(address),
            low: false,
        };
        let describe = |process, tid| Task { process, tid, comm: "it".into(), uid: Uid(7), cgroup: 0 };

        assert_eq!(carrier.carry_out(&order(taken.local_addr().unwrap())), Err(Errno::ADDRINUSE));
        // Within the call, however long the machine let this thread wait before and after it.
        let before = carrier.lock().calls.back().unwrap().begin;
        let mut failed = told(own, cookie, before, Record::BindFailed);
        assert!(!carrier.attribute(&mut failed, describe), "what failed is not over");
        assert!(matches!(carrier.take_failure(cookie).unwrap().record, Record::BindFailed(_)));
        assert!(carrier.take_failure(cookie).is_none());

        drop(taken);
        let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        std::thread::park_timeout(std::time::Duration::from_millis(1));
        carrier.carry_out(&order(free)).unwrap();
        let at = carrier.lock().calls.back().unwrap().end;
        let mut bound = told(own, cookie, at, Record::Bind);
        assert!(carrier.attribute(&mut bound, describe));
        let Record::Bind(call) = &bound.record else { unreachable!() };
        assert_eq!((call.task.process, call.task.tid, call.task.uid), (key(4711), Tid(4712), Uid(7)));
        // The earlier call is told apart by its time, other processes by theirs.
        assert!(!carrier.attribute(&mut told(own, cookie, before, Record::Bind), describe));
        let mut others = told(key(1), cookie, at, Record::Bind);
        assert!(carrier.attribute(&mut others, |_, _| unreachable!("it is not bindwatch's")));
        carrier.forget(BootTime(u64::MAX));
        assert!(carrier.lock().calls.is_empty());
    }

    #[test]
    fn a_success_that_was_not_told_is_told_once_to_who_asks_again() {
        let carrier = Carrier::new(None);
        let (cookie, wanted) = (Cookie(7), Wanted::Listen(1));
        carrier.was_not_told(cookie, 11, wanted);
        assert!(!carrier.has_succeeded(Cookie(8), 11, wanted));
        assert!(carrier.has_succeeded(cookie, 11, wanted));
        assert!(!carrier.has_succeeded(cookie, 11, wanted), "once");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(protocol(listener.as_fd()), Some(6));
    }
}
