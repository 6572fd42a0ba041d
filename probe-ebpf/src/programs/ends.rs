//! How calls end, whatever tells it: the exits of system calls (`syscall`), completions of io_uring (`uring`), or the
//! functions of the kernel that carry calls out (`fexit`, `kprobe`), which every door leads to.

use bindwatch_probe::abi::counter;
use bindwatch_probe::abi::record::{Small, Sock, Task, kind, option};

use super::attempt;
use super::cgroup::caller;
use crate::crowd;
use crate::emit::{Urgency, emit, head};
use crate::kernel::bytes_16;
use crate::maps::{Attempt, ENDS_INSIDE, call};
use crate::sock::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE, Sk};
use crate::task;

/// EAGAIN: UDP's automatic bind found no port.
const EAGAIN: u32 = 11;
/// EADDRINUSE
const EADDRINUSE: u32 = 98;
/// EADDRNOTAVAIL
const EADDRNOTAVAIL: u32 = 99;
/// The options that let a port be shared.
const SHARING: u16 = option::REUSEADDR | option::REUSEPORT;

/// Whether the functions that carry calls out tell how they end. Then nothing else has to.
#[inline(always)]
pub fn are_told_inside() -> bool {
    ENDS_INSIDE.get(0).is_some_and(|told| *told != 0)
}

/// The attempt of this thread.
#[inline(always)]
fn own() -> Option<&'static mut Attempt> {
    // SAFETY: the entry is this thread's own and lives as long as the thread.
    attempt::of(task::tid()).map(|entry| unsafe { &mut *entry })
}

/// What a function gave back, as an errno: 0 where it did not fail.
#[inline(always)]
fn errno(result: i32) -> u32 {
    if result < 0 { result.unsigned_abs() } else { 0 }
}

/// The function that carries a bind out returned.
#[inline(always)]
pub fn of_bind(result: i32, hook: u32) {
    let Some(entry) = own() else { return };
    bind_returned(entry, errno(result), hook);
}

/// A bind of this thread returned.
#[inline(always)]
pub fn bind_returned(entry: &mut Attempt, errno: u32, hook: u32) {
    let got_its_port = entry.call == call::BOUND;
    if crowd::attempts_are_light() && entry.call == call::LIGHT {
        entry.call = call::NONE;
        if errno != 0
            && let Some(sk) = attempt::socket(entry)
        {
            attempt::complete(entry, sk);
            entry.call = call::NONE;
            bind_ended(entry, false, errno, hook);
        }
    } else if got_its_port || entry.call == call::BIND {
        entry.call = call::NONE;
        bind_ended(entry, got_its_port, errno, hook);
    }
}

/// The function that carries a listen out returned.
#[inline(always)]
pub fn of_listen(result: i32, hook: u32) {
    let Some(entry) = own() else { return };
    if entry.call == call::LISTEN {
        entry.call = call::NONE;
        listen_ended(entry, errno(result), hook);
    }
}

/// The function that carries a connect out returned. That of IPv6 calls that of IPv4 for a mapped address, and has not
/// told the socket its own address then: `only` says whose socket it must be, 0 anybody's.
#[inline(always)]
pub fn of_connect(result: i32, only: u16, hook: u32) {
    let Some(entry) = own() else { return };
    if entry.call == call::CONNECT && (only == 0 || entry.family == only) {
        entry.call = call::NONE;
        connect_ended(entry, errno(result), hook);
    }
}

/// A UDP socket that was not bound got a port, or found none: it connects, or sends its first datagram.
#[inline(always)]
pub fn of_autobind(sk: Sk, result: i32, hook: u32) {
    let family = sk.family();
    if !is_datagram(sk, family) {
        return;
    }
    if let Some(entry) = own()
        && entry.call == call::CONNECT
        && entry.sk == sk.0.0
    {
        // Where it succeeds the connect goes on, and what it came to is told at its end.
        if result != 0 {
            entry.call = call::NONE;
            connect_ended(entry, EAGAIN, hook);
        }
        return;
    }
    if result != 0 {
        report(sk, family, kind::CONNECT_FAILED, hook, EAGAIN);
    } else if sk.options(family) & SHARING != 0 {
        // As with connects: only what can be shared is told.
        report(sk, family, kind::CHANGED, hook, 0);
    }
}

/// The connection of a UDP socket was ended, and with it a port that was not asked for.
#[inline(always)]
pub fn of_disconnect(sk: Sk, hook: u32) {
    let family = sk.family();
    if is_datagram(sk, family) && sk.raw_cookie() != 0 {
        report(sk, family, kind::CHANGED, hook, 0);
    }
}

#[inline(always)]
fn is_datagram(sk: Sk, family: u16) -> bool {
    let protocol = sk.protocol();
    (protocol == IPPROTO_UDP || protocol == IPPROTO_UDPLITE) && (family == AF_INET || family == AF_INET6)
}

/// Emits a socket that no attempt is known of.
#[inline(always)]
fn report(sk: Sk, family: u16, kind: u32, hook: u32, errno: u32) {
    if errno == 0 && !crowd::is_told(sk, sk.raw_cookie(), sk.protocol()) {
        return;
    }
    let urgency = if errno == 0 { Urgency::Routine } else { Urgency::Now };
    emit::<Sock>(counter::BIND, urgency, |record| {
        let (door, task): (u8, Task) = caller(task::tid());
        let port = sk.port();
        // Of a failure this is the destination, which is not known.
        let address = if errno == 0 { sk.address(family) } else { bytes_16(0, 0) };
        let sock = Sock {
            head: head(kind, hook),
            task,
            cookie: sk.raw_cookie(),
            netns_cookie: sk.netns_cookie(),
            address,
            netns: sk.netns(),
            uid: sk.uid(),
            device: sk.device(),
            errno,
            port,
            requested_port: 0,
            options: sk.options(family),
            family,
            protocol: sk.protocol(),
            state: sk.state(),
            door,
            pad: [0; 4],
        };
        // SAFETY: the pointer is to a reserved record of this size.
        unsafe { record.write(sock) };
    });
}

/// A bind ended, by whatever door.
#[inline(always)]
pub fn bind_ended(entry: &Attempt, got_its_port: bool, errno: u32, hook: u32) {
    if errno == 0 {
        // Without an error and without a port: IP_BIND_ADDRESS_NO_PORT. Nothing is held yet.
        return;
    }
    if got_its_port && (!crowd::only_conflicts() || crowd::unwatch(entry.cookie)) {
        // A program of another tool then denied it: the kernel took the port back.
        emit::<Small>(counter::CLOSE, Urgency::Routine, |record| {
            let small = Small {
                head: head(kind::CLOSE, hook),
                cookie: entry.cookie,
                tgid: entry.task.tgid,
                netns: entry.netns,
                backlog: 0,
                port: entry.port,
                protocol: entry.protocol,
                state: entry.state,
                pad: [0; 7],
            };
            // SAFETY: the pointer is to a reserved record of this size.
            unsafe { record.write(small) };
        });
    }
    let urgency = if got_its_port || errno == EADDRINUSE { Urgency::Now } else { Urgency::Routine };
    attempt::report(entry, entry.task, kind::BIND_FAILED, hook, errno, urgency);
}

/// A listen ended, by whatever door.
#[inline(always)]
pub fn listen_ended(entry: &Attempt, errno: u32, hook: u32) {
    if errno != 0 {
        attempt::report(entry, entry.task, kind::LISTEN_FAILED, hook, errno, Urgency::Now);
    } else if entry.port == 0
        && let Some(sk) = attempt::socket(entry)
    {
        // It had no port when it began to listen.
        attempt::report_now(entry, sk, entry.task, kind::LISTEN, hook);
    }
}

/// A connect ended, by whatever door. Told are the want of a local port, and what it made of the socket's own address.
#[inline(always)]
pub fn connect_ended(entry: &mut Attempt, errno: u32, hook: u32) {
    if has_moved(entry, errno, hook)
        && let Some(sk) = attempt::socket(entry)
    {
        attempt::report_now(entry, sk, task::facts(), kind::CHANGED, hook);
    }
}

/// Whether a connect took the address of its route for a socket that was bound to none; or a UDP socket that shares got a port.
/// Tells the want of a local port.
///
/// Ports of outgoing connections that do not share are not told: they are as many as connections, and keep others out
/// only, which the tables are asked about when it happens.
#[inline(always)]
pub fn has_moved(entry: &mut Attempt, errno: u32, hook: u32) -> bool {
    if errno == EADDRNOTAVAIL || errno == EAGAIN {
        let (door, task) = caller(task::tid());
        entry.door = door;
        attempt::report(entry, task, kind::CONNECT_FAILED, hook, errno, Urgency::Now);
        return false;
    }
    let moved = entry.was_wild != 0;
    let shares = entry.local_port == 0 && entry.protocol != IPPROTO_TCP && entry.options & SHARING != 0;
    (moved || shares) && attempt::socket(entry).is_some_and(|sk| sk.port() != 0 && !sk.is_wild(entry.family))
}
