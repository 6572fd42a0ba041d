//! How calls ended: the errno of bind, listen and connect, from the exits of the system calls.
//!
//! Floor 5.8. Miss: io_uring (see `uring`) and 32-bit system calls, which have no events. Cost: any attached system
//! call event slows every system call of the machine by some nanoseconds; `--errno off` does without.

use aya_ebpf::EbpfContext;
use aya_ebpf::macros::tracepoint;
use aya_ebpf::programs::TracePointContext;
use aya_log_ebpf::debug;
use bindwatch_probe::abi::counter;
use bindwatch_probe::abi::record::{Small, door, hook, kind};

use super::{attempt, uring};
use crate::emit::{Urgency, emit, head};
use crate::maps::{Attempt, call};
use crate::task;

/// EAGAIN: UDP's automatic bind found no port.
const EAGAIN: u32 = 11;
/// EADDRINUSE
const EADDRINUSE: u32 = 98;
/// EADDRNOTAVAIL
const EADDRNOTAVAIL: u32 = 99;

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
    if let Some(entry) = ending(call::BIND) {
        entry.call = call::NONE;
        bind_ended(entry, false, errno, hook);
    } else if let Some(entry) = ending(call::BOUND) {
        entry.call = call::NONE;
        bind_ended(entry, true, errno, hook);
    }
}

/// A bind ended, by whatever door.
#[inline(always)]
pub fn bind_ended(entry: &Attempt, got_its_port: bool, errno: u32, hook: u32) {
    if errno == 0 {
        // Without an error and without a port: IP_BIND_ADDRESS_NO_PORT. Nothing is held yet.
        return;
    }
    if got_its_port {
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
    }
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
        listen_ended(entry, errno, hook::SYS_EXIT_LISTEN);
    }
    0
}

/// connect(2) ended. Only the want of a local port is told.
#[tracepoint(category = "syscalls", name = "sys_exit_connect")]
pub fn sys_exit_connect(ctx: TracePointContext) -> u32 {
    if let Some(entry) = ending(call::CONNECT) {
        entry.call = call::NONE;
        let errno = errno(&ctx);
        if errno == EADDRNOTAVAIL || errno == EAGAIN {
            let task = task::facts();
            attempt::report(entry, task, kind::CONNECT_FAILED, hook::SYS_EXIT_CONNECT, errno, Urgency::Now);
        }
    }
    0
}
