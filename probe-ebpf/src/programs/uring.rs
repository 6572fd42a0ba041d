//! Binds and listens through io_uring (6.11): no system call event tells how they end, the ring's own completion does.
//!
//! A request is carried out by the thread that submitted it, or by a thread of io_uring (IOSQE_ASYNC, SQPOLL), and may
//! complete in a third one; what the three have in common is the request, and through it the socket. The cgroup programs
//! see the socket only, so an attempt is kept by its cookie until the request completes.

use aya_ebpf::EbpfContext;
use aya_ebpf::macros::tracepoint;
use aya_ebpf::programs::TracePointContext;
use bindwatch_probe::abi::config::ABSENT;
use bindwatch_probe::abi::record::{door, hook};

use super::{attempt, ends};
use crate::kernel::{Addr, offset};
use crate::maps::{Attempt, Request, URING_ATTEMPTS, URING_IN_USE, URING_REQUESTS, URING_SUBMITTERS, call};
use crate::sock::Sk;
use crate::task;

/// IORING_OP_BIND (include/uapi/linux/io_uring.h)
const IORING_OP_BIND: u8 = 56;
/// IORING_OP_LISTEN
const IORING_OP_LISTEN: u8 = 57;
/// IOSQE_ASYNC, which is also the flag of the request: a worker carries it out.
const IOSQE_ASYNC: u8 = 1 << 4;

/// Whether what this thread is doing is done for an io_uring request.
///
/// A bind(2) or listen(2) of a thread that waits for a linked request of its own looks the same; the end of the system
/// call puts that right ([`was_a_syscall`]).
#[inline(always)]
pub fn is_carrying_out(tid: u32) -> bool {
    // Where the tracepoint does not exist the verifier removes this; where nobody binds so, nothing is looked up.
    offset!(uring_submit_req) != ABSENT
        && is_in_use()
        && (task::is_io_worker() | URING_SUBMITTERS.get_ptr(tid).is_some())
}

#[inline(always)]
pub fn is_in_use() -> bool {
    URING_IN_USE.get(0).is_some_and(|used| *used != 0)
}

/// The attempt of a bind for another request on the same socket, when one begins: of a batch with two binds of one socket, whose
/// completion is which cannot be told.
#[inline(always)]
pub fn unresolved(entry: &Attempt) -> Option<&'static Attempt> {
    // SAFETY: the entry was found; at worst it is being replaced by another request on the same socket.
    let known = unsafe { &*URING_ATTEMPTS.get_ptr(entry.cookie)? };
    (known.call == call::BIND).then_some(known)
}

/// A bind or listen for a request begins, behind so many on the same socket that nobody will tell the ends of.
#[inline(always)]
pub fn begun(entry: &Attempt, earlier: u16) {
    // An entry that cannot be made is a failure whose errno is not known: the least recently used goes first.
    let _ = URING_ATTEMPTS.insert(entry.cookie, entry, 0);
    if earlier != 0
        && let Some(kept) = URING_ATTEMPTS.get_ptr_mut(entry.cookie)
    {
        // SAFETY: as in `unresolved`.
        unsafe { (*kept).earlier = earlier };
    }
}

/// A bind for a request got its port.
#[inline(always)]
pub fn bound(cookie: u64) {
    if let Some(entry) = URING_ATTEMPTS.get_ptr_mut(cookie) {
        // SAFETY: the entry was found; at worst it is being replaced by another request on the same socket.
        unsafe { (*entry).call = call::BOUND };
    }
}

/// A bind for a request was refused by the guard, which tells so.
#[inline(always)]
pub fn denied(cookie: u64) {
    if let Some(entry) = URING_ATTEMPTS.get_ptr_mut(cookie) {
        // SAFETY: as in `bound`.
        unsafe { (*entry).call = call::DENIED };
    }
}

/// A call that was taken for a request's turned out to be a system call.
#[inline(always)]
pub fn was_a_syscall(entry: &mut Attempt) {
    entry.door = door::SYSCALL;
    let _ = URING_ATTEMPTS.remove(entry.cookie);
    let _ = URING_SUBMITTERS.remove(task::tid());
}

/// A request is submitted. Only binds and listens are remembered.
///
/// The layout of the record differs between kernels and is read from tracefs.
#[tracepoint(category = "io_uring", name = "io_uring_submit_req")]
pub fn io_uring_submit_req(ctx: TracePointContext) -> u32 {
    let record = Addr::of_pointer(ctx.as_ptr());
    let call = match record.read::<u8>(offset!(uring_submit_opcode)) {
        IORING_OP_BIND => call::BIND,
        IORING_OP_LISTEN => call::LISTEN,
        _ => return 0,
    };
    if let Some(used) = URING_IN_USE.get_ptr_mut(0) {
        // SAFETY: the slot of an array map is valid for the program's life; it only ever becomes 1.
        unsafe { *used = 1 };
    }
    let worker = record.read::<u8>(offset!(uring_submit_flags)) & IOSQE_ASYNC != 0 || task::is_io_worker();
    let tid = if worker { 0 } else { task::tid() };
    // An entry that cannot be made is an end that is not seen.
    let _ = URING_REQUESTS.insert(record.read::<u64>(offset!(uring_submit_req)), Request { call, tid }, 0);
    if tid == 0 {
        return 0;
    }
    match URING_SUBMITTERS.get_ptr_mut(tid) {
        // SAFETY: the entry was found, and only its own thread counts it up; a count that is lost to the completion in
        // another thread makes a system call of the request, whose end is then not seen.
        Some(count) => unsafe { *count += 1 },
        None => {
            let _ = URING_SUBMITTERS.insert(tid, 1, 0);
        }
    }
    0
}

/// A request is complete, with its result. Its file is still there: it is put after this.
///
/// Misses: requests without a completion (IOSQE_CQE_SKIP_SUCCESS) where they succeed, which needs no telling.
#[tracepoint(category = "io_uring", name = "io_uring_complete")]
pub fn io_uring_complete(ctx: TracePointContext) -> u32 {
    if !is_in_use() {
        return 0;
    }
    let record = Addr::of_pointer(ctx.as_ptr());
    let address: u64 = record.read(offset!(uring_complete_req));
    let Some(request) = URING_REQUESTS.get_ptr(address) else { return 0 };
    // SAFETY: the entry was found; at worst it is another request's by now, whose socket has another attempt.
    let Request { call, tid } = unsafe { *request };
    let _ = URING_REQUESTS.remove(address);
    if tid != 0
        && let Some(count) = URING_SUBMITTERS.get_ptr_mut(tid)
    {
        // SAFETY: the entry was found.
        let left = unsafe {
            *count = (*count).saturating_sub(1);
            *count
        };
        if left == 0 {
            let _ = URING_SUBMITTERS.remove(tid);
        }
    }
    let result: i32 = record.read(offset!(uring_complete_res));
    let errno = if result < 0 { result.unsigned_abs() } else { 0 };
    let file = Addr(address).follow(offset!(uring_file));
    let sk = Sk(file.follow(offset!(file_private_data)).follow(offset!(socket_sk))).of_port();
    ended(sk.raw_cookie(), call, errno);
    0
}

#[inline(always)]
fn ended(cookie: u64, call: u32, errno: u32) {
    let Some(pointer) = URING_ATTEMPTS.get_ptr_mut(cookie) else { return };
    // SAFETY: the entry was found; at worst it is being replaced by another request on the same socket.
    let entry = unsafe { &mut *pointer };
    if entry.earlier != 0 {
        entry.earlier -= 1;
        return;
    }
    match (entry.call, call) {
        (call::LISTEN, call::LISTEN) => ends::listen_ended(entry, errno, hook::IO_URING_COMPLETE),
        (call::BIND | call::BOUND, call::BIND) => {
            let got_its_port = entry.call == call::BOUND;
            ends::bind_ended(entry, got_its_port, errno, hook::IO_URING_COMPLETE);
        }
        (call::DENIED, call::BIND) => {}
        _ => return,
    }
    let _ = URING_ATTEMPTS.remove(cookie);
    if let Some(own) = attempt::of(task::tid()) {
        // SAFETY: the entry is this thread's own.
        let own = unsafe { &mut *own };
        if own.cookie == cookie && own.door == door::IO_URING {
            own.call = call::NONE;
        }
    }
}
