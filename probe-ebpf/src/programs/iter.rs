//! The listing of every open socket descriptor of every process, in all network namespaces at once (5.8).
//!
//! Proves: who has which socket open now, bound but not listening TCP sockets included, with its options. Misses:
//! descriptors in flight, files registered with io_uring only. Kernel: kernel/bpf/task_iter.c.
//!
//! There are two of it. `task_file` is called for each file, which the kernel holds meanwhile: one that is closed then stays open
//! until the read of the listing returns. `tasks` is called for each process and reads its table of descriptors by itself (5.17).

use aya_ebpf::bindings::seq_file;
use aya_ebpf::helpers::generated::{bpf_loop, bpf_seq_write};
use bindwatch_probe::abi::PIECE_MAX;
use bindwatch_probe::abi::record::FileRow;

use crate::bound::{Bound, options_of};
use crate::guard::{self, how, is_off_device, release};
use crate::kernel::{Addr, offset};
use crate::maps::{PIECE, UNFINISHED};
use crate::sock::{AF_INET, AF_INET6, Sk};
use crate::task;

/// `struct bpf_iter_meta`, as far as it is used (include/linux/bpf.h).
#[repr(C)]
struct Meta {
    seq: *mut seq_file,
}

/// `struct bpf_iter__task` (kernel/bpf/task_iter.c), likewise.
#[repr(C)]
struct OneTask {
    meta: *const Meta,
    task: *const u8,
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

/// A file that is a socket which has endpoints.
struct Open {
    inode: Addr,
    socket: Addr,
    sk: Sk,
    family: u16,
}

/// The socket of a file.
#[inline(always)]
fn socket_of(file: Addr) -> Option<Open> {
    let inode = file.follow(offset!(file_inode));
    if inode.read::<u16>(offset!(inode_mode)) & S_IFMT != S_IFSOCK {
        return None;
    }
    let socket = file.follow(offset!(file_private_data));
    // Of MPTCP the subflow: it has the port and the cookie that events name.
    let sk = Sk(socket.follow(offset!(socket_sk))).of_port();
    let family = sk.family();
    (family == AF_INET || family == AF_INET6).then_some(Open { inode, socket, sk, family })
}

/// What is told of it.
#[inline(always)]
fn row(open: &Open, tgid: u32, start: u64, fd: u32) -> FileRow {
    let Open { inode, sk, family, .. } = *open;
    FileRow {
        start,
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
    }
}

/// Writes it. A full buffer makes the kernel call again with an empty one, for the same file or process: whatever it has written of
/// that is dropped. 1 where it is full.
///
/// # Safety
/// `seq` is the iterator's own.
#[inline(always)]
unsafe fn write(seq: *mut seq_file, row: &FileRow) -> i64 {
    // SAFETY: as the caller promises; the row lives.
    let result = unsafe { bpf_seq_write(seq, core::ptr::from_ref(row).cast(), size_of::<FileRow>() as u32) };
    i64::from(result != 0)
}

/// What the listing of files is at, when that is one. Each process once: by its first thread.
///
/// # Safety
/// Of a context of an `iter/task_file` program.
#[inline(always)]
unsafe fn open_socket(ctx: *const TaskFile) -> Option<(Addr, u32, Open)> {
    // SAFETY: the context is valid; task and file may be null, which is the end of the listing.
    let (task, file) = unsafe { ((*ctx).task, (*ctx).file) };
    if task.is_null() || file.is_null() {
        return None;
    }
    let task = Addr(task as u64);
    let tgid = task::tgid_of(task);
    if tgid != task.read::<u32>(offset!(task_pid)) {
        return None;
    }
    Some((task, tgid, socket_of(Addr(file as u64))?))
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
    let Some((task, _, Open { sk, family, .. })) = (unsafe { open_socket(ctx) }) else { return 0 };
    // Who is being bound is claimed by that, if it is granted.
    if sk.remote_port() != 0 || !sk.is_bound() {
        return 0;
    }
    let bound = Bound::of(sk, family, options_of(sk, family));
    // Its device has changed since, or was going to be and was not.
    if HOW == how::CLAIM && is_off_device(sk.raw_cookie(), u64::from(bound.device)) != 0 {
        release(sk.raw_cookie());
    }
    if bound.can_share() {
        let claim = if HOW == how::CLAIM { guard::claim_older } else { guard::claim_older_plain };
        let leader = task.follow(offset!(task_group_leader)).0;
        claim(bound.address[0], bound.address[1], bound.rest(), sk.0.0, leader);
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
    let Some((task, tgid, open)) = (unsafe { open_socket(ctx) }) else { return 0 };
    // SAFETY: the context is valid, and seq the iterator's own.
    unsafe { write(seq, &row(&open, tgid, task::start_of(task), (*ctx).fd)) };
    0
}

/// A walk through the descriptors of a process.
struct Walk {
    seq: *mut seq_file,
    task: Addr,
    files: Addr,
    /// Its table: the addresses of files, by number.
    table: Addr,
    start: u64,
    tgid: u32,
    /// The first descriptor of this piece.
    from: u32,
}

/// One process, or the next piece of it.
///
/// Nothing of it is held: what is read may go meanwhile, and its memory become another's of its kind (`struct file` is
/// `SLAB_TYPESAFE_BY_RCU` from 6.7, and small tables lie in a `struct files_struct`, which is freed at once). [`descriptor`] looks again
/// after it has read.
///
/// # Safety
/// Called by the kernel with the context of an `iter/task` program.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
unsafe extern "C" fn tasks(ctx: *const OneTask) -> i32 {
    // SAFETY: the context is valid; as in `task_file`.
    let (seq, task) = unsafe { ((&raw const (*(*ctx).meta).seq).read_volatile(), (*ctx).task) };
    if task.is_null() {
        return 0;
    }
    let task = Addr(task as u64);
    let tgid = task::tgid_of(task);
    if tgid != task.read::<u32>(offset!(task_pid)) {
        return 0;
    }
    // SAFETY: copied at once.
    let from = match unsafe { (UNFINISHED.get(0), UNFINISHED.get(tgid)) } {
        (None, _) => 0,
        (Some(_), Some(from)) => *from,
        (Some(_), None) => return 0,
    };
    let files = task.follow(offset!(task_files));
    let table = files.follow(offset!(files_fdt));
    let start = task::start_of(task);
    let last = if table.0 == 0 { 0 } else { table.read::<u32>(offset!(fdtable_max)) };
    let table = table.follow(offset!(fdtable_fd));
    let mut walk = Walk { seq, task, files, table, start, tgid, from };
    let Some(rows) = PIECE.get_ptr_mut(0) else { return 0 };
    // SAFETY: the slot of an array map; one listing at a time is read.
    unsafe { *rows = 0 };
    // SAFETY: the callback is a program of its own, and what it is given lives until the end of the loop.
    unsafe {
        bpf_loop(last.saturating_sub(from), descriptor as *mut core::ffi::c_void, (&raw mut walk).cast(), 0)
    };
    0
}

/// One descriptor of it: 1 ends the walk.
///
/// # Safety
/// Called by `bpf_loop` with what [`tasks`] gives.
#[inline(never)]
unsafe extern "C" fn descriptor(nth: u64, walk: *const Walk) -> i64 {
    // SAFETY: as the caller promises.
    let walk = unsafe { &*walk };
    let fd = u64::from(walk.from) + nth;
    let slot = Addr(walk.table.0 + 8 * fd);
    let file = slot.follow(0);
    if file.0 == 0 {
        return 0;
    }
    let Some(open) = socket_of(file) else { return 0 };
    let mut row = row(&open, walk.tgid, walk.start, fd as u32);
    let same_socket = file.follow(offset!(file_private_data)).0 == open.socket.0;
    if !same_socket || slot.follow(0).0 != file.0 || walk.task.follow(offset!(task_files)).0 != walk.files.0 {
        // Closed meanwhile, and perhaps somebody else's already.
        return 0;
    }
    // SAFETY: the iterator's own.
    if unsafe { write(walk.seq, &row) } != 0 {
        return 1;
    }
    let Some(rows) = PIECE.get_ptr_mut(0) else { return 1 };
    // SAFETY: as above.
    let rows = unsafe {
        *rows += 1;
        *rows
    };
    if rows < PIECE_MAX {
        return 0;
    }
    row.family = 0;
    row.fd += 1;
    // SAFETY: as above.
    unsafe { write(walk.seq, &row) };
    1
}
