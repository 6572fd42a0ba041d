//! Who gets the connections: each listener's cookie lies in its socket's storage, and the kernel copies that to every
//! connection that comes of it. Counted in the kernel; a connection makes no record.
//!
//! Floor 5.8. Watching changes nothing: no reply is given. Misses: listeners older than the recording.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_sk_storage_get};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;

use super::guard::SHARING;
use crate::bound::{Bound, options_of};
use crate::guard::claim_listening;
use crate::kernel::Addr;
use crate::maps::{ACCEPTED, LISTENER_OF};
use crate::sock::Sk;

/// `BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB` (include/uapi/linux/bpf.h)
const PASSIVE_ESTABLISHED: u32 = 5;
/// `BPF_SOCK_OPS_TCP_LISTEN_CB` (4.19)
const TCP_LISTEN: u32 = 11;
/// `BPF_SK_STORAGE_GET_F_CREATE`
const CREATE: u64 = 1;
/// `BPF_NOEXIST`: a socket that listens again goes on counting.
const NOEXIST: u64 = 1;
/// What a sockops program gives back where it has nothing to say.
const DONE: u32 = 1;

/// A TCP socket begins to listen, or a connection to it is established. Kernel: `tcp_call_bpf`, `tcp_init_transfer`.
#[sock_ops]
pub fn sock_ops(ctx: SockOpsContext) -> u32 {
    told(&ctx);
    DONE
}

/// Attached to the root: a TCP socket that nobody bound has its port from listen() on, and what it can share is claimed for its
/// process.
#[sock_ops]
pub fn census_listen(ctx: SockOpsContext) -> u32 {
    listens(&ctx);
    DONE
}

/// In the place of a recording's `sock_ops` while claims are kept.
#[sock_ops]
pub fn keep_sock_ops(ctx: SockOpsContext) -> u32 {
    listens(&ctx);
    told(&ctx);
    DONE
}

/// The socket of an operation.
#[inline(always)]
fn socket(ctx: &SockOpsContext) -> Option<*mut bpf_sock> {
    // SAFETY: a field of bpf_sock_ops that every sockops program may read; null is compared, as the verifier wants it.
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if sk.is_null() { None } else { Some(sk) }
}

#[inline(always)]
fn listens(ctx: &SockOpsContext) {
    if ctx.op() != TCP_LISTEN {
        return;
    }
    if let Some(sk) = socket(ctx) {
        // SAFETY: ctx is the program's context.
        let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
        claim_listener(Addr::of_pointer(sk).0, cookie);
    }
}

/// Claims what a listener can share, unless its bind has. The caller is the process that listens: the kernel calls from within
/// listen(). A function of its own, for the stack of its callers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn claim_listener(sk: u64, cookie: u64) -> u64 {
    let sk = Sk(Addr(sk));
    let family = sk.family();
    let options = options_of(sk, family);
    if options & SHARING == 0 {
        return 0;
    }
    let bound = Bound::of(sk, family, options);
    if bound.can_share() {
        claim_listening(bound.address[0], bound.address[1], bound.rest(), cookie, sk.netns_cookie());
    }
    0
}

#[inline(always)]
fn told(ctx: &SockOpsContext) {
    let op = ctx.op();
    if op != TCP_LISTEN && op != PASSIVE_ESTABLISHED {
        return;
    }
    let Some(sk) = socket(ctx) else { return };
    let create = if op == TCP_LISTEN { CREATE } else { 0 };
    // SAFETY: the map is a socket storage, the socket not null; the result is null or this socket's own eight bytes.
    let slot = unsafe { bpf_sk_storage_get(LISTENER_OF.as_ptr(), sk.cast(), core::ptr::null_mut(), create) };
    let slot = slot.cast::<u64>();
    if slot.is_null() {
        return;
    }
    if op == TCP_LISTEN {
        // SAFETY: ctx is the program's context; the slot was found.
        unsafe { *slot = bpf_get_socket_cookie(ctx.as_ptr()) };
        // SAFETY: as above.
        let cookie = unsafe { *slot };
        // One that cannot be made is a listener whose connections are not counted: not known.
        let _ = ACCEPTED.insert(cookie, 0, NOEXIST);
        return;
    }
    // SAFETY: as above.
    let listener = unsafe { *slot };
    if let Some(count) = ACCEPTED.get_ptr_mut(listener) {
        // SAFETY: the slot is this CPU's own, and these programs do not interrupt each other: connections are
        // established with softirqs off.
        unsafe { *count += 1 };
    }
}
