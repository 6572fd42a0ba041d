//! What a thread is in the middle of, so that a failure can be told with everything that was asked for.
//!
//! The entry of a thread is made at its first bind and lives as long as the thread: a later bind only overwrites it.

use bindwatch_probe::abi::counter;
use bindwatch_probe::abi::record::{Sock, Task};

use crate::crowd;
use crate::emit::{Urgency, count, emit, head};
use crate::kernel::Addr;
use crate::maps::{ATTEMPTS, Attempt, call};
use crate::sock::Sk;
use crate::task;

const EMPTY: Attempt = Attempt {
    task: Task::NONE,
    cookie: 0,
    sk: 0,
    aside: 0,
    netns_cookie: 0,
    address: [0; 16],
    call: call::NONE,
    netns: 0,
    uid: 0,
    device: 0,
    port: 0,
    options: 0,
    family: 0,
    protocol: 0,
    state: 0,
    door: 0,
    earlier: 0,
    local_port: 0,
    was_wild: 0,
    pad: [0; 1],
};

/// The attempt of a thread, if it has one.
#[inline(always)]
pub fn of(tid: u32) -> Option<*mut Attempt> {
    ATTEMPTS.get_ptr_mut(tid)
}

/// The attempt of a thread, made when missing; None when there are too many, which is counted.
#[inline(always)]
pub fn entry(tid: u32) -> Option<*mut Attempt> {
    if let Some(attempt) = of(tid) {
        return Some(attempt);
    }
    if ATTEMPTS.insert(tid, EMPTY, 0).is_err() {
        count(counter::ATTEMPT);
        return None;
    }
    of(tid)
}

/// By which door an attempt came, read from memory: a value that the verifier knows makes it follow the rest of the program
/// once for each.
#[inline(always)]
pub fn door_of(attempt: &Attempt) -> u8 {
    // SAFETY: a reference is valid.
    unsafe { (&raw const attempt.door).read_volatile() }
}

/// The socket of an attempt as it is now, where it is still the same.
#[inline(always)]
pub fn socket(attempt: &Attempt) -> Option<Sk> {
    let sk = Sk(Addr(attempt.sk));
    (attempt.sk != 0 && sk.raw_cookie() == attempt.cookie).then_some(sk)
}

/// What was not remembered when a bind began ([`call::LIGHT`]), from its thread and its socket.
#[inline(always)]
pub fn complete(attempt: &mut Attempt, sk: Sk) {
    attempt.call = call::BIND;
    attempt.task = task::facts();
    attempt.netns_cookie = sk.netns_cookie();
    attempt.netns = sk.netns();
    attempt.uid = sk.uid();
    attempt.device = sk.device();
    attempt.options = sk.options(attempt.family);
    attempt.protocol = sk.protocol();
    attempt.state = sk.state();
}

/// Emits what the socket of an attempt is now.
#[inline(always)]
pub fn report_now(attempt: &Attempt, sk: Sk, task: Task, kind: u32, hook: u32) {
    let family = attempt.family;
    if !crowd::is_told(sk, attempt.cookie, attempt.protocol) {
        return;
    }
    emit::<Sock>(counter::BIND, Urgency::Routine, |record| {
        let port = sk.port();
        let sock = Sock {
            head: head(kind, hook),
            task,
            cookie: attempt.cookie,
            netns_cookie: attempt.netns_cookie,
            address: sk.address(family),
            netns: attempt.netns,
            uid: attempt.uid,
            device: sk.device(),
            errno: 0,
            port,
            requested_port: 0,
            options: sk.options(family),
            family,
            protocol: attempt.protocol,
            state: sk.state(),
            door: attempt.door,
            pad: [0; 4],
        };
        // SAFETY: the pointer is to a reserved record of this size.
        unsafe { record.write(sock) };
    });
}

/// Emits the attempt as a record of `kind`, by `task`.
#[inline(always)]
pub fn report(attempt: &Attempt, task: Task, kind: u32, hook: u32, errno: u32, urgency: Urgency) {
    emit::<Sock>(counter::BIND, urgency, |record| {
        let sock = Sock {
            head: head(kind, hook),
            task,
            cookie: attempt.cookie,
            netns_cookie: attempt.netns_cookie,
            address: attempt.address,
            netns: attempt.netns,
            uid: attempt.uid,
            device: attempt.device,
            errno,
            port: attempt.port,
            requested_port: attempt.port,
            options: attempt.options,
            family: attempt.family,
            protocol: attempt.protocol,
            state: attempt.state,
            door: attempt.door,
            pad: [0; 4],
        };
        // SAFETY: the pointer is to a reserved record of this size.
        unsafe { record.write(sock) };
    });
}
