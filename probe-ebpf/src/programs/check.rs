//! Denying where the kernel cannot deny a bind that has its port: before about 5.17 that port stays taken until the
//! socket is closed. So it is looked at before: with EPERM, the only errno that there is, and of two that race both can
//! come through. Attached to the enforced cgroups in the place of `guard`'s, by which a bind is claimed all the same.
//!
//! A port that the kernel chooses is never one that another holds, and needs no look.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use bindwatch_probe::abi::counter;
use bindwatch_probe::abi::record::{door, hook};

use super::guard::{ALLOW, DENY, Denial, SHARING, tell};
use crate::emit::count;
use crate::guard::{Bound, KIN, Verdict, claim, group_of, how, options_of};
use crate::kernel::{Addr, bytes_16};
use crate::sock::{AF_INET, AF_INET6, Sk};
use crate::task;

/// What a program at bind4 or bind6 that denies makes of it.
const EPERM: u32 = 1;

/// Attached to the enforced cgroups: refuses a bind that would share an endpoint.
#[cgroup_sock_addr(bind4)]
pub fn check_bind4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the fields of bpf_sock_addr that a bind4 program may read.
    let (ip, port, sk) = unsafe {
        let addr = &*ctx.sock_addr;
        (addr.user_ip4, addr.user_port, addr.__bindgen_anon_1.sk)
    };
    check(&ctx, Sk(Addr::of_pointer(sk)), AF_INET, [u64::from(ip), 0], port, hook::CHECK_BIND4)
}

/// As `check_bind4`.
#[cgroup_sock_addr(bind6)]
pub fn check_bind6(ctx: SockAddrContext) -> i32 {
    // SAFETY: the fields of bpf_sock_addr that a bind6 program may read; word by word, as the verifier wants it.
    let (address, port, sk) = unsafe {
        let addr = ctx.sock_addr;
        let part = |nth: usize| u64::from(core::ptr::read_volatile(&raw const (*addr).user_ip6[nth]));
        let address = [part(0) | part(1) << 32, part(2) | part(3) << 32];
        (address, (*addr).user_port, (*addr).__bindgen_anon_1.sk)
    };
    check(&ctx, Sk(Addr::of_pointer(sk)), AF_INET6, address, port, hook::CHECK_BIND6)
}

#[inline(always)]
fn check(ctx: &SockAddrContext, sk: Sk, family: u16, address: [u64; 2], port: u32, hook: u32) -> i32 {
    let port = u16::from_be(port as u16);
    let options = options_of(sk, family);
    if port == 0 || options & SHARING == 0 {
        return ALLOW;
    }
    // SAFETY: the entry lives as long as the process, which is running.
    let Some(owner) = (unsafe { KIN.get(task::tgid()) }) else {
        count(counter::GUARD);
        return ALLOW;
    };
    // SAFETY: ctx is the program's context.
    let (cookie, netns) =
        unsafe { (bpf_get_socket_cookie(ctx.as_ptr()), bpf_get_netns_cookie(ctx.as_ptr())) };
    let wanted = Bound::new(family, address, port, sk.protocol(), sk.device(), options);
    let Verdict::Contested { cookie: holder_cookie, holder } =
        claim::<{ how::LOOK }>(&wanted, cookie, netns, owner, group_of(task::current().0), true)
    else {
        return ALLOW;
    };
    let denial = Denial {
        hook,
        cookie,
        netns,
        port,
        requested_port: port,
        family,
        door: door::SYSCALL,
        errno: EPERM,
        holder_cookie,
        holder,
    };
    tell(sk, &denial, bytes_16(address[0], address[1]));
    DENY
}
