//! The guard: the only programs that may deny, and those that keep what it decides with. None of them is attached unless
//! enforcement was asked for.
//!
//! Denying in post_bind gives the port back and leaves the socket usable from about 5.17 on; older kernels have no
//! `bpf_set_retval`, and refuse these programs. Kernel: `__inet_bind` and `__inet6_bind`, after `get_port`.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{
    bpf_get_netns_cookie, bpf_get_retval, bpf_get_socket_cookie, bpf_set_retval,
};
use aya_ebpf::macros::{cgroup_sock, cgroup_sockopt, raw_tracepoint};
use aya_ebpf::programs::{RawTracePointContext, SockContext, SockoptContext};
use bindwatch_probe::abi::config::ABSENT;
use bindwatch_probe::abi::counter;
use bindwatch_probe::abi::record::{Denied, Task, door, hook, kind, option};

use super::cgroup::joins_group;
use super::{attempt, uring};
use crate::emit::{Urgency, count, emit, head};
use crate::guard::{
    Bound, KIN, Verdict, claim, claimed_here, forked, group_of, how, joined, name_of, options_of, release,
};
use crate::kernel::{Addr, offset};
use crate::maps::call;
use crate::sock::{AF_INET, AF_INET6, IPPROTO_MPTCP, Sk};
use crate::task;

/// Not 0: nothing is denied, only told. Set by the loader.
#[unsafe(no_mangle)]
static DRY_RUN: u32 = 0;

pub(super) const ALLOW: i32 = 1;
pub(super) const DENY: i32 = 0;
const EADDRINUSE: i32 = 98;
/// The options that let a port be shared.
pub(super) const SHARING: u64 = (option::REUSEADDR | option::REUSEPORT) as u64;
const SOL_SOCKET: i32 = 1;
const SO_REUSEADDR: i32 = 2;
const SO_REUSEPORT: i32 = 15;

/// Attached to the enforced cgroups: takes the endpoint for the caller, or refuses.
#[cgroup_sock(post_bind4)]
pub fn guard_bind4(ctx: SockContext) -> i32 {
    decide(&ctx, AF_INET, hook::GUARD_BIND4)
}

/// As `guard_bind4`.
#[cgroup_sock(post_bind6)]
pub fn guard_bind6(ctx: SockContext) -> i32 {
    decide(&ctx, AF_INET6, hook::GUARD_BIND6)
}

/// Attached to the root: what others bind is taken for them. Allows whatever it is.
#[cgroup_sock(post_bind4)]
pub fn census_bind4(ctx: SockContext) -> i32 {
    note(&ctx, AF_INET)
}

/// As `census_bind4`.
#[cgroup_sock(post_bind6)]
pub fn census_bind6(ctx: SockContext) -> i32 {
    note(&ctx, AF_INET6)
}

/// The socket of a post_bind program, as far as the context tells without asking.
#[inline(always)]
fn bound(ctx: &SockContext, family: u16, device: u32, options: u64) -> Bound {
    // SAFETY: fields of bpf_sock that a post_bind program of this family may read.
    let (address, port, protocol) = unsafe {
        let sock = ctx.sock;
        let address = if family == AF_INET {
            [u64::from((*sock).src_ip4), 0]
        } else {
            let part = |nth: usize| u64::from(core::ptr::read_volatile(&raw const (*sock).src_ip6[nth]));
            [part(0) | part(1) << 32, part(2) | part(3) << 32]
        };
        (address, (*sock).src_port as u16, (*sock).protocol as u16)
    };
    Bound::new(family, address, port, protocol, device, options)
}

#[inline(always)]
fn decide(ctx: &SockContext, family: u16, hook: u32) -> i32 {
    // Another program has refused already: its word stands.
    if was_denied() {
        return ALLOW;
    }
    let sk = Sk(Addr::of_pointer(ctx.sock));
    let options = options_of(sk, family);
    if options & SHARING == 0 {
        return ALLOW;
    }
    // SAFETY: ctx is the program's context.
    let (cookie, netns) =
        unsafe { (bpf_get_socket_cookie(ctx.as_ptr()), bpf_get_netns_cookie(ctx.as_ptr())) };
    // SAFETY: the entry lives as long as the process, which is running.
    let Some(owner) = (unsafe { KIN.get(task::tgid()) }) else {
        count(counter::GUARD);
        return ALLOW;
    };
    let deny = denies();
    let contested = claim::<{ how::CLAIM }>(
        &bound(ctx, family, sk.device(), options),
        cookie,
        netns,
        owner,
        group_of(task::current().0),
        deny,
    );
    let Verdict::Contested { cookie: holder_cookie, holder } = contested else { return ALLOW };
    tell_guarded(sk.0.0, u64::from(hook), cookie, holder_cookie, holder);
    if !deny {
        return ALLOW;
    }
    // SAFETY: takes a number (5.18).
    unsafe { bpf_set_retval(-EADDRINUSE) };
    DENY
}

/// Tells a bind that the guard refuses, or would, by what is known of the attempt, and marks it as told. A function of its own, for
/// the stack of its callers. Without an attempt it cannot be told, and is counted.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tell_guarded(sk: u64, hook: u64, cookie: u64, holder_cookie: u64, holder: u64) -> u64 {
    let entry = attempt::of(task::tid());
    let Some(entry) = entry else {
        count(counter::BIND);
        return 0;
    };
    // SAFETY: the entry is this thread's own.
    let entry = unsafe { &mut *entry };
    let deny = denies();
    if deny {
        entry.call = call::DENIED;
        if entry.door == door::IO_URING {
            uring::denied(cookie);
        }
    }
    let port = Sk(Addr(sk)).port();
    emit::<Denied>(counter::BIND, Urgency::Now, |record| {
        // Field by field, from map to record: the stack holds what decided.
        // SAFETY: the pointer is to a reserved record of this size; every field is written.
        unsafe {
            let to = &raw mut (*record).sock;
            (&raw mut (*to).head).write(head(kind::DENIED, hook as u32));
            let words = (&raw mut (*to).task).cast::<u64>();
            let from = (&raw const entry.task).cast::<u64>();
            let mut i = 0;
            while i < size_of::<Task>() / 8 {
                words.add(i).write(from.add(i).read());
                i += 1;
            }
            let address = (&raw mut (*to).address).cast::<u64>();
            let wanted = (&raw const entry.address).cast::<u64>();
            address.write_unaligned(wanted.read_unaligned());
            address.add(1).write_unaligned(wanted.add(1).read_unaligned());
            (*to).cookie = cookie;
            (*to).netns_cookie = entry.netns_cookie;
            (*to).netns = entry.netns;
            (*to).uid = entry.uid;
            (*to).device = entry.device;
            (*to).errno = if deny { EADDRINUSE as u32 } else { 0 };
            (*to).port = port;
            (*to).requested_port = entry.port;
            (*to).options = entry.options;
            (*to).family = entry.family;
            (*to).protocol = entry.protocol;
            (*to).state = entry.state;
            (*to).door = entry.door;
            (&raw mut (*to).pad).cast::<u32>().write_unaligned(0);
            (*record).holder_cookie = holder_cookie;
            (*record).holder = holder;
        }
    });
    0
}

/// What is told of a bind that is refused, and the socket does not say.
pub(super) struct Denial {
    pub(super) hook: u32,
    pub(super) cookie: u64,
    /// Cookie of the network namespace.
    pub(super) netns: u64,
    pub(super) port: u16,
    pub(super) requested_port: u16,
    pub(super) family: u16,
    /// One of [`door`].
    pub(super) door: u8,
    /// 0 where it is only told.
    pub(super) errno: u32,
    pub(super) holder_cookie: u64,
    pub(super) holder: u64,
}

/// Tells a refused bind. `address` as a record has it, in two words.
#[inline(always)]
pub(super) fn tell(sk: Sk, denial: &Denial, address: [u64; 2]) {
    emit::<Denied>(counter::BIND, Urgency::Now, |record| {
        // Field by field: the whole would not fit on the stack beside what decided.
        // SAFETY: the pointer is to a reserved record of this size; every field is written.
        unsafe {
            let to = &raw mut (*record).sock;
            (&raw mut (*to).head).write(head(kind::DENIED, denial.hook));
            (&raw mut (*to).task).write(task::facts());
            (*to).cookie = denial.cookie;
            (*to).netns_cookie = denial.netns;
            // As bytes it would be a call of memmove, for which the stack has no room.
            let words = (&raw mut (*to).address).cast::<u64>();
            words.write_unaligned(address[0]);
            words.add(1).write_unaligned(address[1]);
            (*to).netns = sk.netns();
            (*to).uid = sk.uid();
            (*to).device = sk.device();
            (*to).errno = denial.errno;
            (*to).port = denial.port;
            (*to).requested_port = denial.requested_port;
            (*to).options = sk.options(denial.family);
            (*to).family = denial.family;
            (*to).protocol = sk.protocol();
            (*to).state = sk.state();
            (*to).door = denial.door;
            (&raw mut (*to).pad).cast::<u32>().write_unaligned(0);
            (*record).holder_cookie = denial.holder_cookie;
            (*record).holder = denial.holder;
        }
    });
}

/// Whether what conflicts is refused, and not only told.
#[inline(always)]
fn denies() -> bool {
    // SAFETY: initialised, never written; volatile because the loader overrides it.
    unsafe { core::ptr::read_volatile(&raw const DRY_RUN) == 0 }
}

/// Whether a program before this one has denied the bind. Not known before 5.18.
#[inline(always)]
fn was_denied() -> bool {
    // SAFETY: takes no arguments; not reached, and not verified, where the kernel has no such helper.
    offset!(get_retval) != ABSENT && unsafe { bpf_get_retval() } != 0
}

#[inline(always)]
fn note(ctx: &SockContext, family: u16) -> i32 {
    let sk = Sk(Addr::of_pointer(ctx.sock));
    let options = options_of(sk, family);
    if options & SHARING == 0 {
        return ALLOW;
    }
    // SAFETY: ctx is the program's context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // Who denies in a cgroup runs before what is at the root; another tool's program may have run after the one that granted.
    if was_denied() {
        release(cookie);
        return ALLOW;
    }
    let bound = bound(ctx, family, 0, options);
    if claimed_here(cookie, bound.address[0], bound.address[1], u64::from(bound.port)) != 0 {
        // By the guard, a moment ago.
        return ALLOW;
    }
    // SAFETY: the entry lives as long as the process, which is running.
    let Some(owner) = (unsafe { KIN.get(task::tgid()) }) else {
        count(counter::GUARD);
        return ALLOW;
    };
    // SAFETY: ctx is the program's context.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let bound = Bound { device: sk.device(), ..bound };
    claim::<{ how::FIRST }>(&bound, cookie, netns, owner, group_of(task::current().0), false);
    ALLOW
}

/// A socket's last reference is gone, and with it its claim.
#[cgroup_sock(sock_release)]
pub fn census_release(ctx: SockContext) -> i32 {
    // SAFETY: a field of bpf_sock that may be read everywhere; ctx is the program's context.
    let cookie = unsafe {
        if (*ctx.sock).protocol == u32::from(IPPROTO_MPTCP) {
            // The subflow's: it has the port.
            Sk(Addr::of_pointer(ctx.sock)).of_port().raw_cookie()
        } else {
            bpf_get_socket_cookie(ctx.as_ptr())
        }
    };
    if cookie != 0 {
        release(cookie);
    }
    ALLOW
}

/// SO_REUSEADDR or SO_REUSEPORT is set on a socket that is bound, or it joins a multicast group. Runs before the call
/// does, and claims too much when that fails, until the socket is closed.
#[cgroup_sockopt(setsockopt)]
pub fn census_option(ctx: SockoptContext) -> i32 {
    // SAFETY: fields of bpf_sockopt that a setsockopt program may read.
    let (level, name) = unsafe { ((*ctx.sockopt).level, (*ctx.sockopt).optname) };
    let option = match (level, name) {
        (SOL_SOCKET, SO_REUSEADDR) => option::REUSEADDR,
        (SOL_SOCKET, SO_REUSEPORT) => option::REUSEPORT,
        _ if joins_group(level, name) => 0,
        _ => return ALLOW,
    };
    // SAFETY: as above; the bounds are compared before the read, as the verifier wants it.
    let (sk, value) = unsafe {
        let sk = (*ctx.sockopt).__bindgen_anon_1.sk;
        if (*sk).src_port == 0 && (*sk).protocol != u32::from(IPPROTO_MPTCP) {
            // Not bound, as most are when their options are set.
            return ALLOW;
        }
        let value = (*ctx.sockopt).__bindgen_anon_2.optval as *const i32;
        let end = (*ctx.sockopt).__bindgen_anon_3.optval_end as *const i32;
        let value = if value.wrapping_add(1) <= end { *value } else { 0 };
        (sk, value)
    };
    let sk = Sk(Addr::of_pointer(sk)).of_port();
    let cookie = sk.raw_cookie();
    if cookie == 0 || sk.port() == 0 {
        return ALLOW;
    }
    if option == 0 {
        joined(cookie);
        return ALLOW;
    }
    if value == 0 {
        return ALLOW;
    }
    // SAFETY: the entry lives as long as the process, which is running.
    if let Some(owner) = unsafe { KIN.get(task::tgid_of(task::current())) } {
        let family = sk.family();
        let options = options_of(sk, family) | u64::from(option);
        let bound = Bound::of(sk, family, options);
        claim::<{ how::CLAIM }>(&bound, cookie, sk.netns_cookie(), owner, group_of(task::current().0), false);
    }
    ALLOW
}

/// Lineage and ancestors, as they are at fork.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn kin_fork(ctx: RawTracePointContext) -> i32 {
    let child = Addr(ctx.arg(1));
    let tgid = task::tgid_of(child);
    if tgid == child.read::<u32>(offset!(task_pid)) {
        forked(tgid, name_of(child), task::tgid_of(child.follow(offset!(task_real_parent))));
    }
    0
}

/// Who executes a program begins a lineage.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn kin_exec(_ctx: RawTracePointContext) -> i32 {
    if let Some(kin) = KIN.get_ptr_mut(task::tgid()) {
        // SAFETY: a process executes in one thread, and only its own thread writes its entry.
        unsafe {
            (*kin).lineage = (*kin).name;
            (*kin).pool = 0;
            (*kin).rules = 0;
        }
    }
    0
}

/// Who ended is nobody's parent any more; its children have kept its name.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn kin_exit(ctx: RawTracePointContext) -> i32 {
    let task = Addr(ctx.arg(0));
    if task.follow(offset!(task_signal)).read::<u32>(offset!(signal_live)) == 0 {
        let _ = KIN.remove(task::tgid_of(task));
    }
    0
}
