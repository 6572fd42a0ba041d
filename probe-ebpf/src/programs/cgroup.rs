//! The cgroup programs, attached to the root of the cgroup2 hierarchy: every socket of every network namespace.
//!
//! Floor: 5.8 (the ring buffer); links at cgroups exist since 5.7. They run in the context of the caller, also for
//! io_uring and 32-bit system calls.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_retval, bpf_get_socket_cookie};
use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr, cgroup_sockopt};
use aya_ebpf::programs::{SockAddrContext, SockContext, SockoptContext};
use bindwatch_probe::abi::config::ABSENT;
use bindwatch_probe::abi::counter;
use bindwatch_probe::abi::record::{SetOption, Small, Sock, Task, door, hook, kind};

use super::{attempt, ends, uring};
use crate::crowd;
use crate::emit::{Urgency, emit, head};
use crate::kernel::{Addr, bytes_16, offset};
use crate::maps::{Attempt, call};
use crate::sock::{AF_INET, AF_INET6, IPPROTO_MPTCP, Sk, TCP_LISTEN, v4};
use crate::task;

/// Watching never denies.
const ALLOW: i32 = 1;

/// A bind of an IPv4 socket begins. Runs before the kernel checks anything, so it sees what will be refused.
///
/// Proves: the requested address and port, the options as they are. Misses: the outcome, and v4-mapped addresses
/// (those come through bind6). Kernel: `__inet_bind`/`inet_bind_sk` in net/ipv4/af_inet.c, before `__inet_bind`'s checks.
#[cgroup_sock_addr(bind4)]
pub fn bind4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the fields of bpf_sock_addr that a bind4 program may read.
    let (ip, port, sk) = unsafe {
        let addr = &*ctx.sock_addr;
        (addr.user_ip4, addr.user_port, addr.__bindgen_anon_1.sk)
    };
    let Some(entry) = begin(&ctx, sk, AF_INET, hook::BIND4) else { return ALLOW };
    // SAFETY: the entry is this thread's own.
    unsafe {
        (*entry).address = v4(ip);
        (*entry).port = u16::from_be(port as u16);
        begun(&*entry, hook::BIND4);
    }
    ALLOW
}

/// A bind of an IPv6 socket begins, v4-mapped addresses and dual-stack wildcards included. As `bind4`.
///
/// Kernel: `inet6_bind_sk` in net/ipv6/af_inet6.c.
#[cgroup_sock_addr(bind6)]
pub fn bind6(ctx: SockAddrContext) -> i32 {
    // SAFETY: the fields of bpf_sock_addr that a bind6 program may read; word by word, as the verifier wants it.
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
    let Some(entry) = begin(&ctx, sk, AF_INET6, hook::BIND6) else { return ALLOW };
    // SAFETY: the entry is this thread's own, and sixteen bytes long.
    unsafe {
        let words = (&raw mut (*entry).address).cast::<u32>();
        words.write_unaligned(a);
        words.add(1).write_unaligned(b);
        words.add(2).write_unaligned(c);
        words.add(3).write_unaligned(d);
        (*entry).port = u16::from_be(port as u16);
        begun(&*entry, hook::BIND6);
    }
    ALLOW
}

/// Remembers what is asked for, but for address and port. An attempt of this thread that never ended is told first: it
/// came through a 32-bit system call, or what tells of ends missed it.
#[inline(always)]
fn begin(ctx: &SockAddrContext, socket: *const bpf_sock, family: u16, hook: u32) -> Option<*mut Attempt> {
    let tid = task::tid();
    let pointer = attempt::entry(tid)?;
    // SAFETY: the entry is this thread's own: no other thread writes it, and it lives as long as the thread.
    let entry = unsafe { &mut *pointer };
    if is_left_open(entry) {
        attempt::report(entry, entry.task, kind::BIND_UNRESOLVED, hook, 0, Urgency::Routine);
    }
    let sk = Sk(Addr::of_pointer(socket));
    entry.sk = sk.0.0;
    if crowd::attempts_are_light() && !uring::is_carrying_out(tid) && !task::is_compat() {
        entry.call = call::LIGHT;
        entry.door = door::SYSCALL;
        entry.family = family;
        // SAFETY: ctx is the program's context.
        entry.cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
        return Some(pointer);
    }
    (entry.door, entry.task) = caller(tid);
    entry.call = call::BIND;
    // SAFETY: ctx is the program's context; both helpers exist for this program type on every kernel from 5.8.
    unsafe {
        entry.cookie = bpf_get_socket_cookie(ctx.as_ptr());
        entry.netns_cookie = bpf_get_netns_cookie(ctx.as_ptr());
    }
    entry.netns = sk.netns();
    entry.uid = sk.uid();
    entry.options = sk.options_at_once(family);
    entry.family = family;
    // SAFETY: fields of a socket that the verifier turns into plain loads.
    unsafe {
        entry.device = (*socket).bound_dev_if;
        entry.protocol = (*socket).protocol as u16;
        entry.state = (*socket).state as u8;
    }
    Some(pointer)
}

/// Whether a bind of this thread has not ended, and nothing else tells of it.
#[inline(always)]
pub fn is_left_open(entry: &Attempt) -> bool {
    entry.call == call::BIND && (entry.door == door::SYSCALL || ends::are_told_inside())
}

/// By which door a call of this thread came, and who made it.
#[inline(always)]
pub fn caller(tid: u32) -> (u8, Task) {
    let mut caller = task::facts();
    let door = if uring::is_carrying_out(tid) {
        caller.comm = task::name_of_process();
        door::IO_URING
    } else if task::is_compat() {
        door::COMPAT
    } else {
        door::SYSCALL
    };
    (door, caller)
}

/// The attempt is whole. Where no end of it will be told, it is told itself: user space waits for the port it gets, or does not
/// get. So it is not taken for refused.
#[inline(always)]
fn begun(entry: &Attempt, hook: u32) {
    let door = attempt::door_of(entry);
    if door == door::SYSCALL || ends::are_told_inside() {
        return;
    }
    let is_uring = door == door::IO_URING;
    let mut earlier = 0;
    if let Some(told) = if is_uring { uring::unresolved(entry) } else { Some(entry) } {
        earlier = told.earlier.wrapping_add(1);
        attempt::report(told, told.task, kind::BIND_UNRESOLVED, hook, 0, Urgency::Routine);
    }
    if is_uring {
        uring::begun(entry, earlier);
    }
}

/// An IPv4 socket got its port.
///
/// Proves: the bind took the port it names (a program after this one may still deny: then `sys_exit_bind` takes it
/// back). Misses: binds that leave the port for later (IP_BIND_ADDRESS_NO_PORT), automatic binds of listen(),
/// connect() and sendto(). Kernel: `__inet_bind`, after `get_port`.
#[cgroup_sock(post_bind4)]
pub fn post_bind4(ctx: SockContext) -> i32 {
    if !was_denied() {
        bound(&ctx, AF_INET, hook::POST_BIND4);
    }
    ALLOW
}

/// An IPv6 socket got its port. As `post_bind4`; kernel: `__inet6_bind`.
#[cgroup_sock(post_bind6)]
pub fn post_bind6(ctx: SockContext) -> i32 {
    if !was_denied() {
        bound(&ctx, AF_INET6, hook::POST_BIND6);
    }
    ALLOW
}

/// Whether a program before this one has denied the call. Not known before 5.18.
#[inline(always)]
pub(super) fn was_denied() -> bool {
    // SAFETY: takes no arguments; not reached, and not verified, where the kernel has no such helper.
    offset!(get_retval) != ABSENT && unsafe { bpf_get_retval() } != 0
}

/// Tells what got its port. Nothing where another tool's program denied it, in a cgroup below: the end of the call tells with
/// which errno. Gives the attempt, null where it is not known or not whole.
#[inline(always)]
pub(super) fn bound(ctx: &SockContext, family: u16, hook: u32) -> *mut Attempt {
    let sk = Sk(Addr::of_pointer(ctx.sock));
    // SAFETY: fields that a post_bind program may read.
    let (port, protocol, state) =
        unsafe { ((*ctx.sock).src_port as u16, (*ctx.sock).protocol as u16, (*ctx.sock).state as u8) };
    let told = !crowd::only_conflicts() || {
        // SAFETY: ctx is the program's context.
        let cookie = || unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
        crowd::is_told_at(sk, port, cookie, protocol)
    };
    if !told && crowd::attempts_are_light() && !uring::is_in_use() && !task::is_compat() {
        return core::ptr::null_mut();
    }
    let mut entry = match attempt::of(task::tid()) {
        // SAFETY: the entry is this thread's own. The guard was here first, refused it and told so.
        Some(entry) if unsafe { (*entry).call } == call::DENIED => return core::ptr::null_mut(),
        // SAFETY: the entry is this thread's own.
        Some(entry) if crowd::attempts_are_light() && unsafe { (*entry).call } == call::LIGHT => {
            // SAFETY: as above.
            let entry = unsafe { &mut *entry };
            attempt::complete(entry, sk);
            Some(entry)
        }
        // SAFETY: the entry is this thread's own.
        Some(entry) if unsafe { (*entry).call } == call::BIND => Some(unsafe { &mut *entry }),
        // A program of another tool binds while it handles a connect (bpf_bind): nothing was attempted.
        _ => None,
    };
    let attempt = entry.as_deref_mut().map_or(core::ptr::null_mut(), core::ptr::from_mut);
    if !told {
        let Some(entry) = entry.as_deref_mut() else { return attempt };
        if entry.door != door::COMPAT {
            entry.call = call::BOUND;
            if entry.door == door::IO_URING {
                uring::bound(entry.cookie);
            }
            return attempt;
        }
    }
    // They are few, and whoever is beside this one is looked up.
    let urgency = if crowd::only_conflicts() { Urgency::Now } else { Urgency::Routine };
    // Here and not below: what fills the record is compiled once for both families, which may not read each other's fields.
    let address = bound_address(ctx, family);
    emit::<Sock>(counter::BIND, urgency, |record| {
        let mut sock = Sock {
            head: head(kind::BIND, hook),
            task: Task::NONE,
            cookie: 0,
            netns_cookie: 0,
            address,
            netns: 0,
            uid: 0,
            device: 0,
            errno: 0,
            port,
            requested_port: port,
            options: sk.options_at_once(family),
            family,
            protocol,
            state,
            door: door::SYSCALL,
            pad: [0; 4],
        };
        if let Some(entry) = entry {
            // What the bind itself does not change was read a moment ago, when it began.
            entry.call = call::BOUND;
            if entry.door == door::IO_URING {
                uring::bound(entry.cookie);
            }
            sock.task = entry.task;
            sock.cookie = entry.cookie;
            sock.netns_cookie = entry.netns_cookie;
            sock.netns = entry.netns;
            sock.uid = entry.uid;
            sock.device = entry.device;
            sock.requested_port = entry.port;
            sock.door = entry.door;
        } else {
            sock.task = task::facts();
            // SAFETY: ctx is the program's context; both helpers exist for this program type from 5.8.
            unsafe {
                sock.cookie = bpf_get_socket_cookie(ctx.as_ptr());
                sock.netns_cookie = bpf_get_netns_cookie(ctx.as_ptr());
            }
            sock.netns = sk.netns();
            sock.uid = sk.uid();
            sock.device = sk.device();
        }
        // SAFETY: the pointer is to a reserved record of this size.
        unsafe { record.write(sock) };
    });
    attempt
}

/// The address that a socket was bound to.
#[inline(always)]
fn bound_address(ctx: &SockContext, family: u16) -> [u8; 16] {
    // SAFETY: the fields that post_bind programs of this family may read; word by word, as the verifier wants it.
    unsafe {
        if family == AF_INET {
            return v4((*ctx.sock).src_ip4);
        }
        let (a, b) = ((*ctx.sock).src_ip6[0], (*ctx.sock).src_ip6[1]);
        let (c, d) = ((*ctx.sock).src_ip6[2], (*ctx.sock).src_ip6[3]);
        bytes_16(u64::from(a) | u64::from(b) << 32, u64::from(c) | u64::from(d) << 32)
    }
}

/// A socket was made: asks for its cookie, so that it has one wherever it is met later (setsockopt programs and
/// tracepoints can only read it, not ask for it).
#[cgroup_sock(sock_create)]
pub fn sock_create(ctx: SockContext) -> i32 {
    // SAFETY: ctx is the program's context; the helper exists for this program type from 5.8.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    crate::kernel::keep_abi();
    ALLOW
}

/// The last reference to a socket is gone.
///
/// Proves: no process and no descriptor in flight has it. Misses: when the port is free (a connection may linger;
/// `tcp_destroy_sock` tells). Fires for each accepted connection too, which has no cookie unless somebody asked for
/// it: those are left out. Floor: 5.9, and with it the probe's. Kernel: `inet_release`, before `sk_prot->close`.
#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    if !crowd::only_conflicts() || crowd::watches_any() {
        released(&ctx);
    }
    ALLOW
}

/// Tells a socket that is gone.
#[inline(always)]
pub(super) fn released(ctx: &SockContext) {
    let sk = Sk(Addr::of_pointer(ctx.sock));
    let front = sk.front();
    let cookie: u64 = front.get(offset!(skc_cookie));
    let port: u16 = front.get(offset!(skc_num));
    if cookie == 0 || port == 0 {
        return;
    }
    // SAFETY: fields that these programs may read.
    let (protocol, state) = unsafe { ((*ctx.sock).protocol as u16, (*ctx.sock).state as u8) };
    if crowd::only_conflicts() {
        // A connection may linger: its destruction is told too.
        let is_over = if front.get::<u16>(offset!(skc_dport)) == 0 {
            crowd::unwatch(cookie)
        } else {
            crowd::watches(cookie)
        };
        if !is_over {
            return;
        }
    }
    emit::<Small>(counter::CLOSE, Urgency::Routine, |record| {
        let small = Small {
            head: head(kind::CLOSE, hook::SOCK_RELEASE),
            cookie,
            tgid: task::tgid(),
            netns: Addr(front.get(offset!(skc_net))).read(offset!(net_inum)),
            // Only listeners have any.
            backlog: if state == TCP_LISTEN { sk.backlog() } else { 0 },
            port,
            protocol,
            state,
            pad: [0; 7],
        };
        // SAFETY: the pointer is to a reserved record of this size.
        unsafe { record.write(small) };
    });
}

/// An option is being set.
///
/// Proves: that a bound socket is asked to change an option that decides about sharing, by whatever door but a
/// 32-bit system call. SO_REUSEADDR and SO_REUSEPORT cannot fail on these sockets but for a value that is too short,
/// or a program of another tool that denies it. Whether a device is bound, and which, user space reads from the socket.
/// Kernel: `__cgroup_bpf_run_filter_setsockopt`.
#[cgroup_sockopt(setsockopt)]
pub fn setsockopt(ctx: SockoptContext) -> i32 {
    if is_of_interest(&ctx) {
        set(&ctx);
    }
    ALLOW
}

/// Whether an option is set that decides about sharing, on a socket that has its port, and nobody has denied it.
#[inline(always)]
pub(super) fn is_of_interest(ctx: &SockoptContext) -> bool {
    // SAFETY: fields of bpf_sockopt that a setsockopt program may read, and those of a socket that the verifier turns into plain
    // loads.
    let (level, name) = unsafe { ((*ctx.sockopt).level, (*ctx.sockopt).optname) };
    if !decides(level, name) {
        return false;
    }
    // Options of SOL_SOCKET are read at the bind. MPTCP's own socket is asked for its subflow's port below.
    // SAFETY: as above.
    if level == SOL_SOCKET && unsafe { has_no_port((*ctx.sockopt).__bindgen_anon_1.sk) } {
        return false;
    }
    // What a program before this one has denied is not set.
    !was_denied()
}

/// Tells an option that is set.
#[inline(always)]
pub(super) fn set(ctx: &SockoptContext) {
    // SAFETY: fields of bpf_sockopt that a setsockopt program may read.
    let (level, name) = unsafe { ((*ctx.sockopt).level, (*ctx.sockopt).optname) };
    // SAFETY: as above; the bounds are compared before the read, as the verifier wants it.
    let (sk, value) = unsafe {
        let value = (*ctx.sockopt).__bindgen_anon_2.optval as *const i32;
        let end = (*ctx.sockopt).__bindgen_anon_3.optval_end as *const i32;
        if value.wrapping_add(1) <= end {
            ((*ctx.sockopt).__bindgen_anon_1.sk, *value)
        } else if level == SOL_SOCKET && name != SO_BINDTODEVICE {
            // Too short a value: EINVAL.
            return;
        } else {
            ((*ctx.sockopt).__bindgen_anon_1.sk, 0)
        }
    };
    // MPTCP sets its subflow's too.
    let sk = Sk(Addr::of_pointer(sk)).of_port();
    let cookie = sk.raw_cookie();
    // A multicast group that was joined before the bind shows nowhere.
    if cookie == 0 || (level == SOL_SOCKET && sk.port() == 0) {
        return;
    }
    emit::<SetOption>(counter::OPTION, Urgency::Routine, |record| {
        let option = SetOption {
            head: head(kind::OPTION, hook::SETSOCKOPT),
            cookie,
            // Sockopt programs have no helper for it before 6.1.
            tgid: task::tgid_of(task::current()),
            level,
            name,
            value,
        };
        // SAFETY: the pointer is to a reserved record of this size.
        unsafe { record.write(option) };
    });
}

/// Whether a socket has none, by itself.
///
/// # Safety
/// The pointer is one that a program's context has.
#[inline(always)]
unsafe fn has_no_port(socket: *const bpf_sock) -> bool {
    // SAFETY: as the caller promises.
    unsafe { (*socket).src_port == 0 && (*socket).protocol != u32::from(IPPROTO_MPTCP) }
}

/// SOL_SOCKET
pub(super) const SOL_SOCKET: i32 = 1;
/// SO_BINDTODEVICE
pub(super) const SO_BINDTODEVICE: i32 = 25;
/// SO_BINDTOIFINDEX
pub(super) const SO_BINDTOIFINDEX: i32 = 62;

/// The options that decide about sharing a port (socket(7), ip(7), ipv6(7)).
#[inline(always)]
pub(super) fn decides(level: i32, name: i32) -> bool {
    // SOL_SOCKET: SO_REUSEADDR, SO_REUSEPORT, SO_BINDTODEVICE, SO_BINDTOIFINDEX
    (level == 1 && matches!(name, 2 | 15 | 25 | 62)) || joins_group(level, name)
}

/// The options that make a socket a member of a multicast group.
#[inline(always)]
pub fn joins_group(level: i32, name: i32) -> bool {
    match level {
        // IPPROTO_IP: IP_ADD_MEMBERSHIP, IP_ADD_SOURCE_MEMBERSHIP, MCAST_JOIN_GROUP, MCAST_JOIN_SOURCE_GROUP
        0 => matches!(name, 35 | 39 | 42 | 46),
        // IPPROTO_IPV6: IPV6_JOIN_GROUP, MCAST_JOIN_GROUP, MCAST_JOIN_SOURCE_GROUP
        41 => matches!(name, 20 | 42 | 46),
        _ => false,
    }
}
