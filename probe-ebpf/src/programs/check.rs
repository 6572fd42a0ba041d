//! Denying where the kernel cannot deny a bind that has its port: before about 5.17 that port stays taken until the
//! socket is closed. So it is looked at before: with EPERM, the only errno that there is, and of two that race both can
//! come through. Attached to the enforced cgroups in the place of `guard`'s, by which a bind is claimed all the same.
//!
//! A port that the kernel chooses is never one that another holds, and needs no look.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use bindwatch_probe::abi::record::hook;

use super::guard::{ALLOW, DENY, Denial, SHARING, Wanted, tell};
use crate::bound::{Bound, options_of};
use crate::guard::{contested, look};
use crate::kernel::Addr;
use crate::sock::{AF_INET, AF_INET6, Sk};

/// What a program at bind4 or bind6 that denies makes of it.
const EPERM: u32 = 1;

/// Attached to the enforced cgroups: refuses a bind that would share an endpoint.
#[cgroup_sock_addr(bind4)]
pub fn check_bind4(ctx: SockAddrContext) -> i32 {
    check(&ctx, AF_INET, hook::CHECK_BIND4)
}

/// As `check_bind4`.
#[cgroup_sock_addr(bind6)]
pub fn check_bind6(ctx: SockAddrContext) -> i32 {
    check(&ctx, AF_INET6, hook::CHECK_BIND6)
}

/// The address that is asked for.
#[inline(always)]
fn address_of(ctx: &SockAddrContext, family: u16) -> [u64; 2] {
    // SAFETY: the fields of bpf_sock_addr that a program at bind of this family may read; word by word, as the verifier wants it.
    unsafe {
        let addr = ctx.sock_addr;
        if family == AF_INET {
            return [u64::from(core::ptr::read_volatile(&raw const (*addr).user_ip4)), 0];
        }
        let part = |nth: usize| u64::from(core::ptr::read_volatile(&raw const (*addr).user_ip6[nth]));
        [part(0) | part(1) << 32, part(2) | part(3) << 32]
    }
}

#[inline(always)]
fn check(ctx: &SockAddrContext, family: u16, hook: u32) -> i32 {
    // SAFETY: fields of bpf_sock_addr that a program at bind may read.
    let (port, sk) = unsafe { ((*ctx.sock_addr).user_port, (*ctx.sock_addr).__bindgen_anon_1.sk) };
    let (port, sk) = (u16::from_be(port as u16), Sk(Addr::of_pointer(sk)));
    let options = options_of(sk, family);
    if port == 0 || options & SHARING == 0 {
        return ALLOW;
    }
    // SAFETY: ctx is the program's context.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let wanted = Bound::new(family, address_of(ctx, family), port, sk.protocol(), sk.device(), options);
    if !wanted.can_share() {
        return ALLOW;
    }
    let rest = wanted.rest();
    let look = || look(wanted.address[0], wanted.address[1], rest, netns);
    let Some((holder_cookie, holder)) = contested(look, rest, netns) else { return ALLOW };
    // SAFETY: as above. It stays with the socket.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // What the decision does not need is asked for after it: the stack has no room for both on 5.10.
    let wanted = Wanted { netns, port, address: address_of(ctx, family) };
    let denial = Denial {
        hook,
        wanted: Some(wanted),
        family,
        device: sk.device(),
        errno: EPERM,
        holder_cookie,
        holder,
    };
    tell(sk, &denial);
    DENY
}
