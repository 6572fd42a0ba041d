//! Who gets the connections: each listener's cookie lies in its socket's storage, and the kernel copies that to every
//! connection that comes of it. Counted in the kernel; a connection makes no record.
//!
//! Floor 5.8. Watching changes nothing: no reply is given. Misses: listeners older than the recording.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_sk_storage_get};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;

use crate::maps::{ACCEPTED, LISTENER_OF};

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
    let op = ctx.op();
    if op != TCP_LISTEN && op != PASSIVE_ESTABLISHED {
        return DONE;
    }
    // SAFETY: a field of bpf_sock_ops that every sockops program may read; null is compared, as the verifier wants it.
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if sk.is_null() {
        return DONE;
    }
    let create = if op == TCP_LISTEN { CREATE } else { 0 };
    // SAFETY: the map is a socket storage, the socket not null; the result is null or this socket's own eight bytes.
    let slot = unsafe { bpf_sk_storage_get(LISTENER_OF.as_ptr(), sk.cast(), core::ptr::null_mut(), create) };
    let slot = slot.cast::<u64>();
    if slot.is_null() {
        return DONE;
    }
    if op == TCP_LISTEN {
        // SAFETY: ctx is the program's context; the slot was found.
        unsafe { *slot = bpf_get_socket_cookie(ctx.as_ptr()) };
        // SAFETY: as above.
        let cookie = unsafe { *slot };
        // One that cannot be made is a listener whose connections are not counted: not known.
        let _ = ACCEPTED.insert(cookie, 0, NOEXIST);
        return DONE;
    }
    // SAFETY: as above.
    let listener = unsafe { *slot };
    if let Some(count) = ACCEPTED.get_ptr_mut(listener) {
        // SAFETY: the slot is this CPU's own, and these programs do not interrupt each other: connections are
        // established with softirqs off.
        unsafe { *count += 1 };
    }
    DONE
}
