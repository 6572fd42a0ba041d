//! How calls ended: the errno of bind, listen and connect, from the exits of the system calls.
//!
//! Floor 5.8. Miss: io_uring (see `uring`) and 32-bit system calls, which have no events. Cost: any attached system
//! call event slows every system call of the machine by some nanoseconds; `--errno off` does without.

use aya_ebpf::EbpfContext;
use aya_ebpf::macros::tracepoint;
use aya_ebpf::programs::TracePointContext;
use aya_log_ebpf::debug;
use bindwatch_probe::abi::counter;
use bindwatch_probe::abi::record::{Small, hook, kind};

use super::attempt;
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
    (entry.call == wanted).then_some(entry)
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

/// The end of a bind, by whatever door.
#[inline(always)]
pub fn end_of_bind(errno: u32, hook: u32) {
    if let Some(entry) = ending(call::BIND) {
        entry.call = call::NONE;
        if errno != 0 {
            let urgency = if errno == EADDRINUSE { Urgency::Now } else { Urgency::Routine };
            attempt::report(entry, kind::BIND_FAILED, hook, errno, urgency);
        }
        // Without an error and without a port: IP_BIND_ADDRESS_NO_PORT. Nothing is held yet.
    } else if errno != 0
        && let Some(entry) = ending(call::BOUND)
    {
        // It got its port, and a program of another tool then denied it: the kernel took the port back.
        entry.call = call::NONE;
        let cookie = entry.cookie;
        emit::<Small>(counter::CLOSE, Urgency::Routine, |record| {
            let small = Small {
                head: head(kind::CLOSE, hook),
                cookie,
                tgid: task::tgid(),
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
        attempt::report(entry, kind::BIND_FAILED, hook, errno, Urgency::Now);
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
            attempt::report(entry, kind::LISTEN_FAILED, hook::SYS_EXIT_LISTEN, errno, Urgency::Now);
        }
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
            attempt::report(entry, kind::CONNECT_FAILED, hook::SYS_EXIT_CONNECT, errno, Urgency::Now);
        }
    }
    0
}
