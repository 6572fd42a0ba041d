//! Binds through io_uring (6.11): no system call event tells how they end, the ring's own completion does.
//!
//! A request that is carried out in the submitting thread is joined by that thread. Requests that a worker carries
//! out (IOSQE_ASYNC, SQPOLL) end in another thread; their failure is told as a bind whose end was not seen.

use aya_ebpf::EbpfContext;
use aya_ebpf::macros::tracepoint;
use aya_ebpf::programs::TracePointContext;
use bindwatch_probe::abi::config::ABSENT;
use bindwatch_probe::abi::record::hook;

use super::syscall::end_of_bind;
use crate::kernel::{Addr, offset};
use crate::maps::{URING_BINDS, URING_IN_USE};
use crate::task;

/// IORING_OP_BIND (include/uapi/linux/io_uring.h)
const IORING_OP_BIND: u8 = 56;

/// A key that no request has: marks the thread that is submitting.
const SUBMITTER: u64 = 1 << 63;

/// Whether this thread is carrying out an io_uring bind.
#[inline(always)]
pub fn is_submitting(tid: u32) -> bool {
    // Where the tracepoint does not exist the verifier removes this; where nobody binds so, nothing is looked up.
    offset!(uring_submit_req) != ABSENT
        && URING_IN_USE.get(0).is_some_and(|used| *used != 0)
        && URING_BINDS.get_ptr(SUBMITTER | u64::from(tid)).is_some()
}

/// A request is submitted. Only binds are remembered.
///
/// The layout of the record differs between kernels and is read from tracefs.
#[tracepoint(category = "io_uring", name = "io_uring_submit_req")]
pub fn io_uring_submit_req(ctx: TracePointContext) -> u32 {
    let record = Addr::of_pointer(ctx.as_ptr());
    if record.read::<u8>(offset!(uring_submit_opcode)) == IORING_OP_BIND {
        if let Some(used) = URING_IN_USE.get_ptr_mut(0) {
            // SAFETY: the slot of an array map is valid for the program's life; it only ever becomes 1.
            unsafe { *used = 1 };
        }
        let request: u64 = record.read(offset!(uring_submit_req));
        let tid = task::tid();
        // An entry that cannot be made is a failure told as an end that was not seen.
        let _ = URING_BINDS.insert(request, tid, 0);
        let _ = URING_BINDS.insert(SUBMITTER | u64::from(tid), 0, 0);
    }
    0
}

/// A request is complete, with its result.
#[tracepoint(category = "io_uring", name = "io_uring_complete")]
pub fn io_uring_complete(ctx: TracePointContext) -> u32 {
    let record = Addr::of_pointer(ctx.as_ptr());
    let request: u64 = record.read(offset!(uring_complete_req));
    let Some(submitter) = URING_BINDS.get_ptr(request) else { return 0 };
    // SAFETY: the entry was found; at worst it is another request's thread by now, which is compared below.
    let submitter = unsafe { *submitter };
    let _ = URING_BINDS.remove(request);
    let _ = URING_BINDS.remove(SUBMITTER | u64::from(submitter));
    if submitter == task::tid() {
        let result: i32 = record.read(offset!(uring_complete_res));
        end_of_bind(if result < 0 { result.unsigned_abs() } else { 0 }, hook::IO_URING_COMPLETE);
    }
    0
}
