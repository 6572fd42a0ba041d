//! The guard: the only programs that may deny, and those that keep what it decides with. None of them is attached unless
//! enforcement was asked for.
//!
//! Denying in post_bind gives the port back and leaves the socket usable from about 5.17 on; older kernels have no
//! `bpf_set_retval`, and refuse these programs. Kernel: `__inet_bind` and `__inet6_bind`, after `get_port`.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval};
use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;
use bindwatch_probe::abi::counter;
use bindwatch_probe::abi::record::{Denied, Task, door, hook, kind, option};

use super::cgroup::was_denied;
use super::{attempt, cgroup, uring};
use crate::bound::{Bound, options_of, words};
use crate::crowd;
use crate::emit::{Urgency, count, emit, head, reserve, submit};
pub(super) use crate::guard::denies;
use crate::guard::{claim_bound, claim_noted, claimed_here, contested, release};
use crate::kernel::Addr;
use crate::maps::{Attempt, call};
use crate::sock::{AF_INET, AF_INET6, IPPROTO_MPTCP, Sk};
use crate::task;

pub(super) const ALLOW: i32 = 1;
pub(super) const DENY: i32 = 0;
pub(super) const EADDRINUSE: i32 = 98;
/// The options that let a port be shared.
pub(super) const SHARING: u64 = (option::REUSEADDR | option::REUSEPORT) as u64;

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
    note(&ctx, AF_INET, was_denied(), None)
}

/// As `census_bind4`.
#[cgroup_sock(post_bind6)]
pub fn census_bind6(ctx: SockContext) -> i32 {
    note(&ctx, AF_INET6, was_denied(), None)
}

/// In the place of a recording's `post_bind4` while claims are kept: at each bind of the machine one program costs less than two.
#[cgroup_sock(post_bind4)]
pub fn keep_post_bind4(ctx: SockContext) -> i32 {
    tell_and_note::<AF_INET>(ctx.sock, hook::POST_BIND4)
}

/// As `keep_post_bind4`.
#[cgroup_sock(post_bind6)]
pub fn keep_post_bind6(ctx: SockContext) -> i32 {
    tell_and_note::<AF_INET6>(ctx.sock, hook::POST_BIND6)
}

#[inline(always)]
fn tell_and_note<const FAMILY: u16>(sock: *mut bpf_sock, hook: u32) -> i32 {
    let denied = was_denied();
    let attempt = if denied { core::ptr::null_mut() } else { tell_apart::<FAMILY>(sock, hook) };
    note_apart::<FAMILY>(sock, denied, attempt)
}

/// As [`note`], with a stack of its own: that of telling does not fit below it.
#[inline(never)]
fn note_apart<const FAMILY: u16>(sock: *mut bpf_sock, denied: bool, attempt: *mut Attempt) -> i32 {
    // SAFETY: the entry is this thread's own.
    note(&SockContext { sock }, FAMILY, denied, unsafe { attempt.as_ref() })
}

/// As [`cgroup::bound`], likewise.
#[inline(never)]
fn tell_apart<const FAMILY: u16>(sock: *mut bpf_sock, hook: u32) -> *mut Attempt {
    cgroup::bound(&SockContext { sock }, FAMILY, hook)
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
    let bound = bound(ctx, family, sk.device(), options);
    if !bound.can_share() {
        return ALLOW;
    }
    let rest = bound.rest();
    let claim = || claim_bound(bound.address[0], bound.address[1], rest, cookie, netns);
    let Some((holder_cookie, holder)) = contested(claim, rest, netns) else { return ALLOW };
    tell_guarded(sk.0.0, u64::from(hook), cookie, holder_cookie, holder);
    if !denies() {
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

/// What a socket does not have, but wants.
pub(super) struct Wanted {
    /// Cookie of the network namespace, which sockets do not tell before 5.12.
    pub(super) netns: u64,
    pub(super) port: u16,
    /// As a record has it, in two words.
    pub(super) address: [u64; 2],
}

/// What is told of a call that is refused without an attempt, and the socket does not say.
pub(super) struct Denial {
    pub(super) hook: u32,
    /// None where it has its port, and only its device would change.
    pub(super) wanted: Option<Wanted>,
    pub(super) family: u16,
    /// The device that is wanted, or had.
    pub(super) device: u32,
    /// 0 where it is only told.
    pub(super) errno: u32,
    pub(super) holder_cookie: u64,
    pub(super) holder: u64,
}

/// Tells a refused call, of a socket whose cookie was asked for.
#[inline(always)]
pub(super) fn tell(sk: Sk, denial: &Denial) {
    let Some(mut entry) = reserve::<Denied>(counter::BIND, Urgency::Now) else { return };
    let record = entry.as_mut_ptr();
    // Field by field, and each is read when its turn comes: the whole would not fit on the stack beside what decided.
    // SAFETY: the pointer is to a reserved record of this size; every field is written.
    unsafe {
        let to = &raw mut (*record).sock;
        (&raw mut (*to).head).write(head(kind::DENIED, denial.hook));
        (*record).holder_cookie = denial.holder_cookie;
        (*record).holder = denial.holder;
        (*to).device = denial.device;
        (*to).errno = denial.errno;
        (*to).family = denial.family;
        (*to).door = door::SYSCALL;
        (&raw mut (*to).pad).cast::<u32>().write_unaligned(0);
        let by_option = denial.hook == hook::GUARD_OPTION;
        (&raw mut (*to).task).write(if by_option { task::facts_by_reading() } else { task::facts() });
        (*to).cookie = sk.raw_cookie();
        let (netns, port, address) = match denial.wanted {
            Some(Wanted { netns, port, address }) => (netns, port, address),
            None => (sk.netns_cookie(), sk.port(), words(sk.address(denial.family))),
        };
        (*to).netns_cookie = netns;
        (*to).port = port;
        (*to).requested_port = port;
        // As bytes it would be a call of memmove, for which the stack has no room.
        let words = (&raw mut (*to).address).cast::<u64>();
        words.write_unaligned(address[0]);
        words.add(1).write_unaligned(address[1]);
        (*to).netns = sk.netns();
        (*to).uid = sk.uid();
        (*to).options = sk.options(denial.family);
        (*to).protocol = sk.protocol();
        (*to).state = sk.state();
    }
    submit(entry, Urgency::Now);
}

/// Claims for the caller what it has bound. What does not change meanwhile is taken from the attempt, where it is known.
#[inline(always)]
fn note(ctx: &SockContext, family: u16, denied: bool, attempt: Option<&Attempt>) -> i32 {
    let sk = Sk(Addr::of_pointer(ctx.sock));
    let options = attempt.map_or_else(|| options_of(sk, family), |attempt| u64::from(attempt.options));
    if options & SHARING == 0 {
        return ALLOW;
    }
    // SAFETY: ctx is the program's context.
    let asked = || unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let cookie = attempt.map_or_else(asked, |attempt| attempt.cookie);
    // Who denies in a cgroup runs before what is at the root; another tool's program may have run after the one that granted.
    if denied {
        release(cookie);
        return ALLOW;
    }
    let bound = bound(ctx, family, 0, options);
    if claimed_here(cookie, bound.address[0], bound.address[1], u64::from(bound.port)) != 0 {
        // By the guard, a moment ago.
        return ALLOW;
    }
    if !bound.can_share() {
        // SO_REUSEADDR of TCP, as most servers have it.
        return ALLOW;
    }
    // SAFETY: ctx is the program's context.
    let asked = || unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let netns = attempt.map_or_else(asked, |attempt| attempt.netns_cookie);
    let bound = Bound { device: attempt.map_or_else(|| sk.device(), |attempt| attempt.device), ..bound };
    claim_noted(bound.address[0], bound.address[1], bound.rest(), cookie, netns);
    ALLOW
}

/// A socket's last reference is gone, and with it its claim.
#[cgroup_sock(sock_release)]
pub fn census_release(ctx: SockContext) -> i32 {
    give_up(&ctx);
    ALLOW
}

/// In the place of a recording's `sock_release` while claims are kept.
#[cgroup_sock(sock_release)]
pub fn keep_sock_release(ctx: SockContext) -> i32 {
    if !crowd::only_conflicts() || crowd::watches_any() {
        cgroup::released(&ctx);
    }
    give_up(&ctx);
    ALLOW
}

#[inline(always)]
fn give_up(ctx: &SockContext) {
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
}
