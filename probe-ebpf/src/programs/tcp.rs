//! TCP's own events: listening, and the end of a socket.
//!
//! Raw tracepoints (4.17): their arguments are those of the kernel's `trace_*` calls.

use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use bindwatch_probe::abi::counter;
use bindwatch_probe::abi::record::{Small, Sock, door, hook, kind};

use super::cgroup::caller;
use super::{attempt, ends, uring};
use crate::crowd;
use crate::emit::{Urgency, emit, head};
use crate::kernel::{Addr, offset};
use crate::maps::call;
use crate::sock::{IPPROTO_TCP, Sk, TCP_CLOSE, TCP_LISTEN};
use crate::task;

/// `SHUTDOWN_MASK`: tcp_close has begun.
const SHUTDOWN_MASK: u8 = 3;

/// A TCP socket changes state. Only the beginning and the end of listening are told.
///
/// Proves: who calls listen(), by any door, and on which socket. Misses: the port of a listen() without a bind (it is
/// chosen after this), and whether the call will fail (`sys_exit_listen`). The end of listening is left out where the
/// socket is being closed: `sock_release` has told that. Kernel: `inet_sk_state_store`, net/ipv4/af_inet.c; args
/// `(const struct sock *sk, int oldstate, int newstate)`.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn inet_sock_set_state(ctx: RawTracePointContext) -> i32 {
    let (old, new): (u64, u64) = (ctx.arg(1), ctx.arg(2));
    let (old, new) = (old as u32 as u8, new as u32 as u8);
    if new == TCP_LISTEN {
        listening(Sk(Addr(ctx.arg(0))));
    } else if old == TCP_LISTEN && new == TCP_CLOSE {
        stopped(Sk(Addr(ctx.arg(0))));
    }
    0
}

#[inline(always)]
fn listening(sk: Sk) {
    if sk.protocol() != IPPROTO_TCP {
        // MPTCP's own socket: its subflow listens too and holds the port.
        return;
    }
    let tid = task::tid();
    let Some(pointer) = attempt::entry(tid) else { return };
    let family = sk.family();
    // SAFETY: the entry is this thread's own.
    let entry = unsafe { &mut *pointer };
    entry.call = call::LISTEN;
    entry.cookie = sk.raw_cookie();
    entry.sk = sk.0.0;
    entry.netns_cookie = sk.netns_cookie();
    entry.address = sk.address(family);
    entry.netns = sk.netns();
    entry.uid = sk.uid();
    entry.device = sk.device();
    entry.port = sk.port();
    entry.options = sk.options(family);
    entry.family = family;
    entry.protocol = IPPROTO_TCP;
    entry.state = TCP_LISTEN;
    (entry.door, entry.task) = caller(tid);
    if attempt::door_of(entry) == door::IO_URING && !ends::are_told_inside() {
        uring::begun(entry, 0);
    }
    if crowd::only_conflicts() && !crowd::watches(entry.cookie) {
        return;
    }
    emit::<Sock>(counter::CLOSE, Urgency::Routine, |record| {
        let sock = Sock {
            head: head(kind::LISTEN, hook::INET_SOCK_SET_STATE),
            task: entry.task,
            cookie: entry.cookie,
            netns_cookie: entry.netns_cookie,
            address: entry.address,
            netns: entry.netns,
            uid: entry.uid,
            device: entry.device,
            errno: 0,
            port: entry.port,
            requested_port: entry.port,
            options: entry.options,
            family,
            protocol: IPPROTO_TCP,
            state: TCP_LISTEN,
            door: attempt::door_of(entry),
            pad: [0; 4],
        };
        // SAFETY: the pointer is to a reserved record of this size.
        unsafe { record.write(sock) };
    });
}

#[inline(always)]
fn stopped(sk: Sk) {
    if sk.shutdown() == SHUTDOWN_MASK || crowd::only_conflicts() && !crowd::watches(sk.raw_cookie()) {
        return;
    }
    small(sk, kind::UNLISTEN, hook::INET_SOCK_SET_STATE);
}

/// The kernel destroys a TCP socket.
///
/// Proves: the end of a socket that lingered after its close, and of an MPTCP subflow, which has no release of its
/// own. Others were told by `sock_release` and are left out. Misses: TIME_WAIT, which is another object. Kernel:
/// `tcp_v4_destroy_sock`, net/ipv4/tcp_ipv4.c; args `(struct sock *sk)`.
#[raw_tracepoint(tracepoint = "tcp_destroy_sock")]
pub fn tcp_destroy_sock(ctx: RawTracePointContext) -> i32 {
    if crowd::only_conflicts() && !crowd::watches_any() {
        return 0;
    }
    let sk = Sk(Addr(ctx.arg(0)));
    let front = sk.front();
    let cookie: u64 = front.get(offset!(skc_cookie));
    if cookie == 0 || crowd::only_conflicts() && !crowd::unwatch(cookie) {
        return 0;
    }
    if sk.is_mptcp_subflow() {
        small(sk, kind::CLOSE, hook::TCP_DESTROY_SOCK);
    } else if front.get::<u16>(offset!(skc_dport)) != 0 {
        small(sk, kind::DESTROY, hook::TCP_DESTROY_SOCK);
    }
    0
}

#[inline(always)]
fn small(sk: Sk, kind: u32, hook: u32) {
    let cookie = sk.raw_cookie();
    if cookie == 0 {
        return;
    }
    emit::<Small>(counter::CLOSE, Urgency::Routine, |record| {
        let small = Small {
            head: head(kind, hook),
            cookie,
            tgid: task::tgid(),
            netns: sk.netns(),
            backlog: sk.backlog(),
            port: sk.port(),
            protocol: IPPROTO_TCP,
            state: sk.state(),
            pad: [0; 7],
        };
        // SAFETY: the pointer is to a reserved record of this size.
        unsafe { record.write(small) };
    });
}
