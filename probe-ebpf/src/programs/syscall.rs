//! How calls ended: the errno of bind, listen and connect, from the exits of the system calls.
//!
//! Attached where the kernel's functions cannot be (`fexit`, `kprobe`). Floor 5.8. Miss: io_uring (see `uring`) and 32-bit system calls, which have no events. Cost: any attached system
//! call event slows every system call of the machine by some nanoseconds; `--errno off` does without.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::{bpf_probe_read_user, generated};
use aya_ebpf::macros::tracepoint;
use aya_ebpf::programs::TracePointContext;
use aya_log_ebpf::debug;
use bindwatch_probe::abi::config::ABSENT;
use bindwatch_probe::abi::record::{door, hook, kind};

use super::{attempt, ends, uring};
use crate::kernel::{Addr, offset};
use crate::maps::{Attempt, call};
use crate::sock::{AF_INET, AF_INET6, IPPROTO_UDP, IPPROTO_UDPLITE, Sk};
use crate::task;

/// AF_UNSPEC
const AF_UNSPEC: u16 = 0;
/// S_IFMT and S_IFSOCK (inode(7)).
const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;

/// `unsigned long args[]` of `struct trace_event_raw_sys_enter`, in 8-byte words.
const ARGS_WORD: usize = 2;
/// `long ret` of `struct trace_event_raw_sys_exit` (include/trace/events/syscalls.h), in 8-byte words.
const RET_WORD: usize = 2;

/// The call's result: 0, or the errno.
#[inline(always)]
fn errno(ctx: &TracePointContext) -> u32 {
    // SAFETY: the record of a system call's exit is 24 bytes long: a head of 8, the number, and the result.
    let ret = unsafe { *ctx.as_ptr().cast::<i64>().add(RET_WORD) };
    if ret < 0 { ret.unsigned_abs() as u32 } else { 0 }
}

/// The attempt that ends here, if this thread is in `call`.
#[inline(always)]
fn ending(wanted: u32) -> Option<&'static mut Attempt> {
    let pointer = attempt::of(task::tid())?;
    // SAFETY: the entry is this thread's own and lives as long as the thread.
    let entry = unsafe { &mut *pointer };
    if entry.call != wanted {
        return None;
    }
    if entry.door == door::IO_URING {
        uring::was_a_syscall(entry);
    }
    Some(entry)
}

/// bind(2) ended. A failure without an attempt is one the socket layer never saw (a bad descriptor, another family).
#[tracepoint(category = "syscalls", name = "sys_exit_bind")]
pub fn sys_exit_bind(ctx: TracePointContext) -> u32 {
    let errno = errno(&ctx);
    if errno != 0 {
        debug!(&ctx, "bind() of thread {} ended with errno {}", task::tid(), errno);
    }
    end_of_bind(errno, hook::SYS_EXIT_BIND);
    0
}

/// The end of this thread's bind(2).
#[inline(always)]
fn end_of_bind(errno: u32, hook: u32) {
    let Some(pointer) = attempt::of(task::tid()) else { return };
    // SAFETY: the entry is this thread's own and lives as long as the thread.
    let entry = unsafe { &mut *pointer };
    if matches!(entry.call, call::BIND | call::BOUND) && entry.door == door::IO_URING {
        uring::was_a_syscall(entry);
    }
    ends::bind_returned(entry, errno, hook);
}

/// listen(2) ended. Only failures after the socket had begun to listen are told: EADDRINUSE is one of those.
#[tracepoint(category = "syscalls", name = "sys_exit_listen")]
pub fn sys_exit_listen(ctx: TracePointContext) -> u32 {
    if let Some(entry) = ending(call::LISTEN) {
        entry.call = call::NONE;
        let errno = errno(&ctx);
        if errno != 0 {
            debug!(&ctx, "listen() of thread {} ended with errno {}", task::tid(), errno);
        }
        ends::listen_ended(entry, errno, hook::SYS_EXIT_LISTEN);
    }
    0
}

/// connect(2) to no address begins: it ends the connection of a UDP socket, and lets go of a port that was not asked for.
///
/// Attached only where the end of the call does not know its arguments any more ([`sys_exit_connect`]).
/// Misses: io_uring and 32-bit system calls. Kernel: `__sys_connect`, net/socket.c.
#[tracepoint(category = "syscalls", name = "sys_enter_connect")]
pub fn sys_enter_connect(ctx: TracePointContext) -> u32 {
    // SAFETY: the record of a system call's entry is a head of 8 bytes, the number, and the arguments, 8 bytes each.
    let (fd, address) = unsafe {
        let words = ctx.as_ptr().cast::<u64>();
        (*words.add(ARGS_WORD), *words.add(ARGS_WORD + 1))
    };
    let Some(sk) = disconnecting(fd, address) else { return 0 };
    if sk.port() == 0 {
        return 0;
    }
    let Some(entry) = disconnect(sk) else { return 0 };
    entry.call = call::DISCONNECT;
    0
}

/// The UDP socket whose connection is ended by a connect(2) with these arguments.
#[inline(always)]
fn disconnecting(fd: u64, address: u64) -> Option<Sk> {
    // SAFETY: the helper checks the address.
    let family = unsafe { bpf_probe_read_user(address as *const u16) };
    if family != Ok(AF_UNSPEC) {
        return None;
    }
    let file = task::file(fd as u32);
    let inode = file.follow(offset!(file_inode));
    if file.0 == 0 || inode.read::<u16>(offset!(inode_mode)) & S_IFMT != S_IFSOCK {
        return None;
    }
    let sk = Sk(file.follow(offset!(file_private_data)).follow(offset!(socket_sk)));
    let (family, protocol) = (sk.family(), sk.protocol());
    let is_udp = protocol == IPPROTO_UDP || protocol == IPPROTO_UDPLITE;
    (is_udp && (family == AF_INET || family == AF_INET6)).then_some(sk)
}

/// Remembers the socket of a disconnect.
#[inline(always)]
fn disconnect(sk: Sk) -> Option<&'static mut Attempt> {
    let pointer = attempt::entry(task::tid())?;
    // SAFETY: the entry is this thread's own.
    let entry = unsafe { &mut *pointer };
    entry.cookie = sk.raw_cookie();
    entry.sk = sk.0.0;
    entry.netns_cookie = sk.netns_cookie();
    entry.netns = sk.netns();
    entry.uid = sk.uid();
    entry.family = sk.family();
    entry.protocol = sk.protocol();
    entry.door = door::SYSCALL;
    Some(entry)
}

/// connect(2) ended. Told are the want of a local port, and what it made of the socket's own address.
#[tracepoint(category = "syscalls", name = "sys_exit_connect")]
pub fn sys_exit_connect(ctx: TracePointContext) -> u32 {
    // One place that tells, for whatever led there: each would be verified by itself.
    if let Some(entry) = changed_by_connect(&ctx)
        && let Some(sk) = attempt::socket(entry)
    {
        attempt::report_now(entry, sk, task::facts(), kind::CHANGED, hook::SYS_EXIT_CONNECT);
    }
    0
}

/// The attempt whose socket has another address since, or no port any more.
#[inline(always)]
fn changed_by_connect(ctx: &TracePointContext) -> Option<&'static mut Attempt> {
    let errno = errno(ctx);
    if let Some(pointer) = attempt::of(task::tid()) {
        // SAFETY: the entry is this thread's own and lives as long as the thread.
        let entry = unsafe { &mut *pointer };
        let call = entry.call;
        if call == call::CONNECT || call == call::DISCONNECT {
            entry.call = call::NONE;
            let is_told = call == call::DISCONNECT || ends::has_moved(entry, errno, hook::SYS_EXIT_CONNECT);
            return is_told.then_some(entry);
        }
    }
    if offset!(task_pt_regs) == ABSENT || errno != 0 {
        return None;
    }
    // Nothing saw it begin: it is no connect to an address. `sys_enter_connect` is not attached then, which would
    // slow every system call of the machine once more.
    // SAFETY: the task is the running one. Not reached, and not verified, where the kernel has no such helpers.
    let registers =
        Addr(unsafe { generated::bpf_task_pt_regs(generated::bpf_get_current_task_btf()) } as u64);
    let (fd, address) = (registers.read(offset!(regs_argument)), registers.read(offset!(regs_second)));
    let entry = disconnect(disconnecting(fd, address)?)?;
    entry.call = call::NONE;
    Some(entry)
}
