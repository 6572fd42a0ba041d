//! Facts about the caller and about other tasks.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_uid_gid, generated};
use bindwatch_probe::abi::config::ABSENT;
use bindwatch_probe::abi::record::Task;

use crate::kernel::{Addr, bytes_16, offset};

/// The running task.
#[inline(always)]
pub fn current() -> Addr {
    // SAFETY: takes no arguments; the result is used as a number. Works in every program type of every kernel run.
    Addr(unsafe { generated::bpf_get_current_task() })
}

/// Thread id of the running task.
#[inline(always)]
pub fn tid() -> u32 {
    bpf_get_current_pid_tgid() as u32
}

/// Thread group id of the running task.
#[inline(always)]
pub fn tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// A field of the running task: by a plain load where programs may have the task itself.
#[inline(always)]
fn own<T: Copy + Default>(field: u32) -> T {
    if offset!(task_itself) == ABSENT || field == ABSENT {
        return current().read(field);
    }
    // SAFETY: the verifier knows where the fields of a task lie, and what their sizes are. Not reached, and not verified,
    // where the kernel has no such helper.
    unsafe { generated::bpf_get_current_task_btf().cast::<u8>().add(field as usize).cast::<T>().read() }
}

/// When the running thread group started, ns since boot: when its first thread did, which most often is the one that runs.
///
/// That of another thread is read through a helper: where a program follows a pointer by itself, the verifier looks up by name among
/// all of the kernel's types whether it may be trusted, and that took a third of what loading the programs did.
#[inline(always)]
fn start(ids: u64) -> u64 {
    if offset!(task_itself) == ABSENT || (ids >> 32) as u32 != ids as u32 {
        return start_of(current());
    }
    own(offset!(task_start_boottime))
}

/// When the task's thread group started, ns since boot: with its id, the identity of a process.
#[inline(always)]
pub fn start_of(task: Addr) -> u64 {
    task.follow(offset!(task_group_leader)).read(offset!(task_start_boottime))
}

/// Thread group id of a task.
#[inline(always)]
pub fn tgid_of(task: Addr) -> u32 {
    task.read(offset!(task_tgid))
}

/// Session of a task, to be read with [`session_id`]; its address is 0 where the kernel does not tell.
///
/// Every task has one: of those that descend from PID 1 or the kernel's own threads without a setsid(2) between it is
/// `init_struct_pid`, whose number is 0, and `/proc/PID/stat` shows the same 0.
#[inline(always)]
pub fn session_of(task: Addr) -> Addr {
    task.follow(offset!(task_signal)).follow(offset!(signal_session))
}

/// Its number, 0 as well where the kernel does not tell.
#[inline(always)]
pub fn session_id(session: Addr) -> u32 {
    if session.0 == 0 { 0 } else { session.read(offset!(pid_nr)) }
}

/// `PF_IO_WORKER` (include/linux/sched.h, 5.12): a thread of io_uring, which works for the process it belongs to.
const PF_IO_WORKER: u32 = 0x10;

/// `TS_COMPAT` (arch/x86/include/asm/thread_info.h): the system call that is running is a 32-bit one.
const TS_COMPAT: u32 = 0x2;

/// Whether the running task is in a 32-bit system call. Known on x86 only.
#[inline(always)]
pub fn is_compat() -> bool {
    offset!(task_status) != ABSENT && own::<u32>(offset!(task_status)) & TS_COMPAT != 0
}

/// The open file of this number of the running task; its address is 0 where there is none.
#[inline(always)]
pub fn file(fd: u32) -> Addr {
    let table = current().follow(offset!(task_files)).follow(offset!(files_fdt));
    if fd >= table.read::<u32>(offset!(fdtable_max)) {
        return Addr(0);
    }
    let files = table.follow(offset!(fdtable_fd));
    Addr(files.0 + 8 * u64::from(fd)).follow(0)
}

/// Whether the running task is one of io_uring's own threads (`iou-wrk-N`, `iou-sqp-N`).
#[inline(always)]
pub fn is_io_worker() -> bool {
    current().read::<u32>(offset!(task_flags)) & PF_IO_WORKER != 0
}

/// The name of the running process's first thread: io_uring's threads have names of their own.
#[inline(always)]
pub fn name_of_process() -> [u8; 16] {
    current().follow(offset!(task_group_leader)).read_16(offset!(task_comm))
}

/// Who is running, for programs of options: before 6.1 these may not ask for ids and the name, and read them.
#[inline(always)]
pub fn facts_by_reading() -> Task {
    let task = current();
    Task {
        start: start_of(task),
        // SAFETY: takes no arguments.
        cgroup: unsafe { generated::bpf_get_current_cgroup_id() },
        tgid: tgid_of(task),
        tid: task.read(offset!(task_pid)),
        uid: bpf_get_current_uid_gid() as u32,
        pad: 0,
        comm: task.read_16(offset!(task_comm)),
    }
}

/// Who is running.
#[inline(always)]
pub fn facts() -> Task {
    let ids = bpf_get_current_pid_tgid();
    Task {
        start: start(ids),
        // SAFETY: takes no arguments.
        cgroup: unsafe { generated::bpf_get_current_cgroup_id() },
        tgid: (ids >> 32) as u32,
        tid: ids as u32,
        uid: bpf_get_current_uid_gid() as u32,
        pad: 0,
        comm: comm(),
    }
}

/// Name of the running thread. The helper fills all of it, and never fails for sixteen bytes.
#[inline(always)]
fn comm() -> [u8; 16] {
    let mut words = MaybeUninit::<[u64; 2]>::uninit();
    // SAFETY: room for the sixteen bytes that the helper is told of, and fills.
    let words = unsafe {
        generated::bpf_get_current_comm(words.as_mut_ptr().cast(), size_of::<[u64; 2]>() as u32);
        words.assume_init()
    };
    bytes_16(words[0], words[1])
}
