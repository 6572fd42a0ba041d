//! Options that are set on sockets that have their port: what the guard decides with follows them, and a device that would make
//! two strangers share an endpoint is denied.

use aya_ebpf::helpers::generated::bpf_set_retval;
use aya_ebpf::macros::cgroup_sockopt;
use aya_ebpf::programs::SockoptContext;
use bindwatch_probe::abi::record::{hook, option};

use super::cgroup::{SO_BINDTODEVICE, SO_BINDTOIFINDEX, SOL_SOCKET, is_of_interest, set, was_denied};
use super::guard::{ALLOW, DENY, Denial, EADDRINUSE, SHARING, denies, tell};
use crate::bound::{Bound, options_of};
use crate::device::Name;
use crate::guard::{claim_device, claim_moved, contested, joined};
use crate::kernel::{Addr, offset};
use crate::sock::{IPPROTO_MPTCP, Sk};

const SO_REUSEADDR: i32 = 2;
const SO_REUSEPORT: i32 = 15;

/// The socket that has the port of the one that an option is set on: itself, or the subflow of MPTCP. None where there is no port,
/// as with most whose options are set.
///
/// # Safety
/// Of the context of a program that is running.
#[inline(always)]
unsafe fn with_port(ctx: &SockoptContext) -> Option<Sk> {
    // SAFETY: fields of bpf_sockopt that a setsockopt program may read.
    let sk = unsafe {
        let sk = (*ctx.sockopt).__bindgen_anon_1.sk;
        if (*sk).src_port == 0 && (*sk).protocol != u32::from(IPPROTO_MPTCP) {
            return None;
        }
        Addr::of_pointer(sk)
    };
    match port_of(sk.0) {
        0 => None,
        at => Some(Sk(Addr(at))),
    }
}

/// The socket that has the port, where it has a cookie as well; 0 where not. A function of its own, for the stack of its callers, as
/// those below are.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn port_of(sk: u64) -> u64 {
    let sk = Sk(Addr(sk)).of_port();
    if sk.raw_cookie() != 0 && sk.port() != 0 { sk.0.0 } else { 0 }
}

/// The first four bytes of what is set; 0 where there are fewer.
///
/// # Safety
/// As of [`with_port`].
#[inline(always)]
unsafe fn value(ctx: &SockoptContext) -> i32 {
    // SAFETY: fields of bpf_sockopt that a setsockopt program may read; the bounds are compared before the value is read, as the
    // verifier wants it.
    unsafe {
        let value = (*ctx.sockopt).__bindgen_anon_2.optval as *const i32;
        let end = (*ctx.sockopt).__bindgen_anon_3.optval_end as *const i32;
        if value.wrapping_add(1) <= end { *value } else { 0 }
    }
}

/// No device: the call is going to fail, or nobody knows what it asks for.
const UNKNOWN: u64 = u64::MAX;

/// The device that a socket gets, or [`UNKNOWN`].
///
/// # Safety
/// As of [`with_port`].
#[inline(always)]
unsafe fn device(ctx: &SockoptContext, sk: Sk) -> u64 {
    // SAFETY: as in `value`.
    let (name, length, at) = unsafe {
        let at = (*ctx.sockopt).__bindgen_anon_2.optval as *const i32;
        ((*ctx.sockopt).optname, (*ctx.sockopt).optlen, Addr::of_pointer(at))
    };
    if name == SO_BINDTOIFINDEX {
        // SAFETY: as the caller promises.
        let value = unsafe { value(ctx) };
        return if length >= 4 && value >= 0 { value as u64 } else { UNKNOWN };
    }
    named(sk.0.0, at.0, if length < 0 { 0 } else { length as u64 })
}

/// The device of the name of `length` bytes at `at`, in the network namespace of a socket; 0 for no name, or [`UNKNOWN`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn named(sk: u64, at: u64, length: u64) -> u64 {
    let name = Name::of(Addr(at), length as u32);
    if name.is_empty() {
        return 0;
    }
    name.index(Addr(sk).follow(offset!(skc_net))).map_or(UNKNOWN, u64::from)
}

/// Whether a device that a socket gets can bring it together with others than before: it shares, and leaves one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn leaves_device(sk: u64) -> u64 {
    let sk = Sk(Addr(sk));
    let options = options_of(sk, sk.family());
    u64::from(options & SHARING != 0 && sk.device() != 0 && sk.remote_port() == 0)
}

/// Attached to the root: SO_REUSEADDR or SO_REUSEPORT is set on a socket that is bound, it joins a multicast group, or gets another
/// device. Runs before the call does: what fails is put right by the next look at all sockets.
#[cgroup_sockopt(setsockopt)]
pub fn census_option(ctx: SockoptContext) -> i32 {
    if is_of_interest(&ctx) {
        note_option(&ctx);
    }
    ALLOW
}

/// In the place of a recording's `setsockopt` while claims are kept.
#[cgroup_sockopt(setsockopt)]
pub fn keep_setsockopt(ctx: SockoptContext) -> i32 {
    if is_of_interest(&ctx) {
        set(&ctx);
        note_option(&ctx);
    }
    ALLOW
}

/// Moves the claim of a socket to what an option makes of it.
#[inline(always)]
fn note_option(ctx: &SockoptContext) {
    // SAFETY: fields of bpf_sockopt that a setsockopt program may read.
    let (level, name) = unsafe { ((*ctx.sockopt).level, (*ctx.sockopt).optname) };
    let adds = match (level, name) {
        (SOL_SOCKET, SO_REUSEADDR) => option::REUSEADDR,
        (SOL_SOCKET, SO_REUSEPORT) => option::REUSEPORT,
        // A device, or a group that is joined.
        _ => 0,
    };
    // SAFETY: the program is running.
    let Some(sk) = (unsafe { with_port(ctx) }) else { return };
    let device = if adds != 0 {
        // SAFETY: as above.
        if unsafe { value(ctx) } == 0 {
            return;
        }
        u64::from(sk.device())
    } else if level == SOL_SOCKET {
        // SAFETY: as above.
        unsafe { device(ctx, sk) }
    } else {
        joined(sk.raw_cookie());
        return;
    };
    if device == UNKNOWN {
        return;
    }
    let family = sk.family();
    let options = options_of(sk, family) | u64::from(adds);
    let bound = Bound { device: device as u32, ..Bound::of(sk, family, options) };
    if bound.can_share() {
        claim_moved(bound.address[0], bound.address[1], bound.rest(), sk.raw_cookie(), sk.netns_cookie());
    }
}

/// Attached to the enforced cgroups: a socket that shares leaves its device for another, or for all of them, and meets a stranger
/// there. That is denied with the errno that its bind would have had.
///
/// Who was on no device meets nobody on one that was not on its port before, and is let through.
#[cgroup_sockopt(setsockopt)]
pub fn guard_option(ctx: SockoptContext) -> i32 {
    // SAFETY: fields of bpf_sockopt that a setsockopt program may read.
    let (level, name) = unsafe { ((*ctx.sockopt).level, (*ctx.sockopt).optname) };
    if level != SOL_SOCKET || !matches!(name, SO_BINDTODEVICE | SO_BINDTOIFINDEX) || was_denied() {
        return ALLOW;
    }
    // SAFETY: the program is running.
    let Some(sk) = (unsafe { with_port(&ctx) }) else { return ALLOW };
    if leaves_device(sk.0.0) == 0 {
        return ALLOW;
    }
    // SAFETY: as above.
    let device = unsafe { device(&ctx, sk) };
    if device == UNKNOWN {
        return ALLOW;
    }
    let family = sk.family();
    let bound = Bound { device: device as u32, ..Bound::of(sk, family, options_of(sk, family)) };
    if !bound.can_share() {
        return ALLOW;
    }
    let (rest, netns) = (bound.rest(), sk.netns_cookie());
    let cookie = sk.raw_cookie();
    let claim = || claim_device(bound.address[0], bound.address[1], rest, cookie, netns);
    let Some((holder_cookie, holder)) = contested(claim, rest, netns) else { return ALLOW };
    tell_option(sk.0.0, holder_cookie, holder, device);
    if !denies() {
        return ALLOW;
    }
    // SAFETY: takes a number (5.18).
    unsafe { bpf_set_retval(-EADDRINUSE) };
    DENY
}

/// Tells a device that is denied, or would be. A function of its own, for the stack of its caller.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tell_option(sk: u64, holder_cookie: u64, holder: u64, device: u64) -> u64 {
    let sk = Sk(Addr(sk));
    let denial = Denial {
        hook: hook::GUARD_OPTION,
        wanted: None,
        family: sk.family(),
        device: device as u32,
        errno: if denies() { EADDRINUSE as u32 } else { 0 },
        holder_cookie,
        holder,
    };
    tell(sk, &denial);
    0
}
