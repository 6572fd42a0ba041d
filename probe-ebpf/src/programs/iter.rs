//! The listing of every open socket descriptor of every process, in all network namespaces at once (5.8).
//!
//! Proves: who has which socket open now, bound but not listening TCP sockets included, with its options. Misses:
//! descriptors in flight, files registered with io_uring only. Kernel: kernel/bpf/task_iter.c.

use aya_ebpf::bindings::seq_file;
use aya_ebpf::helpers::generated::bpf_seq_write;
use bindwatch_probe::abi::record::FileRow;

use crate::guard::{Bound, KIN, claim, group_of, how, is_off_device, options_of, release};
use crate::kernel::{Addr, offset};
use crate::sock::{AF_INET, AF_INET6, Sk};
use crate::task;

/// `struct bpf_iter_meta`, as far as it is used (include/linux/bpf.h).
#[repr(C)]
struct Meta {
    seq: *mut seq_file,
}

/// `struct bpf_iter__task_file` (kernel/bpf/task_iter.c): the context's own layout, which the verifier checks.
#[repr(C)]
struct TaskFile {
    meta: *const Meta,
    task: *const u8,
    fd: u32,
    file: *const u8,
}

/// S_IFMT and S_IFSOCK (inode(7)).
const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;

/// A descriptor of a socket that has endpoints.
struct Open {
    task: Addr,
    tgid: u32,
    inode: Addr,
    sk: Sk,
    family: u16,
}

/// What the listing is at, when that is one. Each process once: by its first thread.
///
/// # Safety
/// Of a context of an `iter/task_file` program.
#[inline(always)]
unsafe fn open_socket(ctx: *const TaskFile) -> Option<Open> {
    // SAFETY: the context is valid; task and file may be null, which is the end of the listing.
    let (task, file) = unsafe { ((*ctx).task, (*ctx).file) };
    if task.is_null() || file.is_null() {
        return None;
    }
    let (task, file) = (Addr(task as u64), Addr(file as u64));
    let tgid = task::tgid_of(task);
    if tgid != task.read::<u32>(offset!(task_pid)) {
        return None;
    }
    let inode = file.follow(offset!(file_inode));
    if inode.read::<u16>(offset!(inode_mode)) & S_IFMT != S_IFSOCK {
        return None;
    }
    // Of MPTCP the subflow: it has the port and the cookie that events name.
    let sk = Sk(file.follow(offset!(file_private_data)).follow(offset!(socket_sk))).of_port();
    let family = sk.family();
    (family == AF_INET || family == AF_INET6).then_some(Open { task, tgid, inode, sk, family })
}

/// Claims the endpoints of the sockets that are older than the guard, for the first process that is found to have them.
///
/// # Safety
/// As `task_file`.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
unsafe extern "C" fn census_files(ctx: *const TaskFile) -> i32 {
    // SAFETY: as the caller promises.
    unsafe { claim_older::<{ how::CLAIM }>(ctx) }
}

/// As `census_files`, for kernels whose iterators cannot take a lock.
///
/// # Safety
/// As `task_file`.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
unsafe extern "C" fn census_files_plain(ctx: *const TaskFile) -> i32 {
    // SAFETY: as the caller promises.
    unsafe { claim_older::<{ how::UNLOCKED }>(ctx) }
}

/// # Safety
/// As `task_file`.
#[inline(always)]
unsafe fn claim_older<const HOW: u8>(ctx: *const TaskFile) -> i32 {
    // SAFETY: as the caller promises.
    let Some(Open { task, tgid, sk, family, .. }) = (unsafe { open_socket(ctx) }) else { return 0 };
    // SAFETY: entries go with the end of their process, and their memory after a grace period.
    if let Some(owner) = unsafe { KIN.get(tgid) }
        && sk.remote_port() == 0
        // Who is being bound is claimed by that, if it is granted.
        && sk.is_bound()
    {
        let bound = Bound::of(sk, family, options_of(sk, family));
        // Its device has changed since, or was going to be and was not.
        if HOW == how::CLAIM && is_off_device(sk.raw_cookie(), u64::from(bound.device)) != 0 {
            release(sk.raw_cookie());
        }
        claim::<HOW>(
            &bound,
            sk.raw_cookie(),
            sk.netns_cookie(),
            owner,
            group_of(task.follow(offset!(task_group_leader)).0),
            false,
        );
    }
    0
}

/// One descriptor.
///
/// # Safety
/// Called by the kernel with the context of an `iter/task_file` program.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
unsafe extern "C" fn task_file(ctx: *const TaskFile) -> i32 {
    // First, and once: for each read of it that the verifier meets, on whatever path, it looks a name up among all of the kernel's
    // types (`btf_nested_type_is_trusted`), which takes as long as half of this program.
    // SAFETY: the context is valid.
    let seq = unsafe { (&raw const (*(*ctx).meta).seq).read_volatile() };
    // SAFETY: as the caller promises.
    let Some(Open { task, tgid, inode, sk, family }) = (unsafe { open_socket(ctx) }) else { return 0 };
    // SAFETY: the context is valid.
    let fd = unsafe { (*ctx).fd };
    let row = FileRow {
        start: task::start_of(task),
        cookie: sk.raw_cookie(),
        netns_cookie: sk.netns_cookie(),
        inode: inode.read(offset!(inode_ino)),
        tgid,
        fd,
        netns: sk.netns(),
        uid: sk.uid(),
        device: sk.device(),
        address: sk.address(family),
        port: sk.port(),
        options: sk.options(family),
        family,
        protocol: sk.protocol(),
        state: sk.state(),
        pad: [0; 3],
    };
    // SAFETY: seq is the iterator's own; a full buffer makes the kernel call again with a larger one.
    unsafe { bpf_seq_write(seq, core::ptr::from_ref(&row).cast(), size_of::<FileRow>() as u32) };
    0
}
