//! Outgoing connections: who opened them, and where they wanted to go when no local port was left.
//!
//! Floor 5.8. connect(AF_UNSPEC) does not come here.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use bindwatch_probe::abi::record::door;

use super::attempt;
use crate::kernel::Addr;
use crate::maps::{Attempt, CONNECT_OWNERS, Owner, call};
use crate::sock::{AF_INET, AF_INET6, IPPROTO_TCP, Sk, v4};
use crate::task;

const ALLOW: i32 = 1;

/// connect() to an IPv4 address begins. Proves: caller, socket, destination. Kernel: `BPF_CGROUP_RUN_PROG_INET4_CONNECT`.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the fields of bpf_sock_addr that a connect4 program may read.
    let (ip, port, sk) = unsafe {
        let addr = &*ctx.sock_addr;
        (addr.user_ip4, addr.user_port, addr.__bindgen_anon_1.sk)
    };
    let Some(entry) = begin(&ctx, Addr::of_pointer(sk), AF_INET) else { return ALLOW };
    // SAFETY: the entry is this thread's own.
    unsafe {
        (*entry).address = v4(ip);
        (*entry).port = u16::from_be(port as u16);
    }
    ALLOW
}

/// connect() to an IPv6 address begins. As `connect4`.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    // SAFETY: the fields of bpf_sock_addr that a connect6 program may read; word by word, as the verifier wants it.
    let (a, b, c, d, port, sk) = unsafe {
        let addr = ctx.sock_addr;
        (
            (*addr).user_ip6[0],
            (*addr).user_ip6[1],
            (*addr).user_ip6[2],
            (*addr).user_ip6[3],
            (*addr).user_port,
            (*addr).__bindgen_anon_1.sk,
        )
    };
    let Some(entry) = begin(&ctx, Addr::of_pointer(sk), AF_INET6) else { return ALLOW };
    // SAFETY: the entry is this thread's own, and sixteen bytes long.
    unsafe {
        let words = (&raw mut (*entry).address).cast::<u32>();
        words.write_unaligned(a);
        words.add(1).write_unaligned(b);
        words.add(2).write_unaligned(c);
        words.add(3).write_unaligned(d);
        (*entry).port = u16::from_be(port as u16);
    }
    ALLOW
}

#[inline(always)]
fn begin(ctx: &SockAddrContext, sk: Addr, family: u16) -> Option<*mut Attempt> {
    let sk = Sk(sk);
    // SAFETY: ctx is the program's context; the helper exists for this program type from 5.8.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let protocol = sk.protocol();
    if protocol == IPPROTO_TCP {
        let owner = Owner { start: task::start_of(task::current()), tgid: task::tgid(), pad: 0 };
        // An entry that cannot be made is one TIME_WAIT without a name.
        let _ = CONNECT_OWNERS.insert(cookie, owner, 0);
    }
    let pointer = attempt::entry(task::tid())?;
    // SAFETY: the entry is this thread's own.
    let entry = unsafe { &mut *pointer };
    entry.call = call::CONNECT;
    entry.cookie = cookie;
    entry.sk = sk.0.0;
    entry.local_port = sk.port();
    // Only a socket that has a port can lose its wildcard.
    entry.was_wild = u8::from(entry.local_port != 0 && sk.is_wild(family));
    // SAFETY: as for the cookie.
    entry.netns_cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    entry.netns = sk.netns();
    entry.uid = sk.uid();
    entry.device = sk.device();
    entry.options = sk.options(family);
    entry.family = family;
    entry.protocol = protocol;
    entry.state = sk.state();
    entry.door = door::SYSCALL;
    Some(pointer)
}
