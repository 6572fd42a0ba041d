//! Processes: fork, exec, exit, the signals that ask them to end, and the cgroups they live in.
//!
//! With these in the same ring, in order, user space knows the parents and the arguments of a process that lived two
//! milliseconds and was gone before anybody looked.

use aya_ebpf::helpers::generated::{bpf_probe_read_kernel_str, bpf_probe_read_user};
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use bindwatch_probe::abi::record::{Cgroup, Exec, Exit, Fork, Signal, hook, kind};
use bindwatch_probe::abi::{ARGS_MAX, ARGS_MEDIUM, ARGS_SMALL, PATH_MAX, counter};

use super::attempt;
use super::cgroup::is_left_open;
use crate::emit::{Urgency, emit, head};
use crate::kernel::{Addr, offset};
use crate::maps::ATTEMPTS;
use crate::task;

/// A task forks.
///
/// Proves: parent and child, before the child runs. Threads are left out. Kernel: `kernel_clone`, kernel/fork.c; args
/// `(struct task_struct *parent, struct task_struct *child)`.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn sched_process_fork(ctx: RawTracePointContext) -> i32 {
    let child = Addr(ctx.arg(1));
    let child_tgid = task::tgid_of(child);
    if child_tgid != child.read::<u32>(offset!(task_pid)) {
        return 0;
    }
    // Not always the caller: CLONE_PARENT makes a sibling.
    let parent = child.follow(offset!(task_real_parent));
    emit::<Fork>(counter::PROCESS, Urgency::Routine, |record| {
        let fork = Fork {
            head: head(kind::FORK, hook::SCHED_PROCESS_FORK),
            parent_start: task::start_of(parent),
            child_start: task::start_of(child),
            parent_tgid: task::tgid_of(parent),
            child_tgid,
            session: task::session_id(task::session_of(child)),
            pad: [0; 4],
        };
        // SAFETY: the pointer is to a reserved record of this size.
        unsafe { record.write(fork) };
    });
    0
}

/// An exec record with room for `N` bytes of arguments.
#[repr(C)]
struct ExecWith<const N: usize> {
    exec: Exec,
    args: [u8; N],
}

/// A task executes a program.
///
/// Proves: path, interpreter and arguments as the kernel has just laid them out in the new address space. Misses: what
/// the path resolves to (`/proc/PID/exe` tells while the process lives). Kernel: `exec_binprm`, fs/exec.c; args
/// `(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn sched_process_exec(ctx: RawTracePointContext) -> i32 {
    let bprm = Addr(ctx.arg(2));
    let mm = task::current().follow(offset!(task_mm));
    let start: u64 = mm.read(offset!(mm_arg_start));
    let end: u64 = mm.read(offset!(mm_arg_end));
    let total = end.saturating_sub(start);
    if total <= ARGS_SMALL as u64 {
        exec::<ARGS_SMALL>(bprm, start, total);
    } else if total <= ARGS_MEDIUM as u64 {
        exec::<ARGS_MEDIUM>(bprm, start, total);
    } else {
        exec::<ARGS_MAX>(bprm, start, total);
    }
    0
}

#[inline(always)]
fn exec<const N: usize>(bprm: Addr, args: u64, total: u64) {
    emit::<ExecWith<N>>(counter::PROCESS, Urgency::Routine, |record| {
        let task = task::current();
        let parent = task.follow(offset!(task_real_parent));
        let filename = bprm.follow(offset!(bprm_filename)).0;
        let interp = bprm.follow(offset!(bprm_interp)).0;
        // SAFETY: the pointer is to a reserved record of this size; every field is written, the strings by helpers
        // that are told how long they are.
        unsafe {
            let exec = &raw mut (*record).exec;
            (&raw mut (*exec).head).write(head(kind::EXEC, hook::SCHED_PROCESS_EXEC));
            (&raw mut (*exec).task).write(task::facts());
            (*exec).parent_start = task::start_of(parent);
            (*exec).parent_tgid = task::tgid_of(parent);
            (*exec).session = task::session_id(task::session_of(task));
            (*exec).args_total = total as u32;
            string(&raw mut (*exec).filename, filename);
            string(&raw mut (*exec).interp, interp);
            let wanted = if total > N as u64 { N as u64 } else { total };
            // The pages were written by this exec a moment ago; one that is not there any more leaves the arguments out.
            let read = bpf_probe_read_user((&raw mut (*record).args).cast(), wanted as u32, args as *const _);
            (*exec).args_len = if read == 0 { wanted as u32 } else { 0 };
        }
    });
}

/// Copies a kernel string; leaves it empty when it cannot be read.
#[inline(always)]
unsafe fn string(to: *mut [u8; PATH_MAX], from: u64) {
    // SAFETY: the caller gives room for PATH_MAX bytes; the helper stops there.
    unsafe {
        let copied = bpf_probe_read_kernel_str(to.cast(), PATH_MAX as u32, from as *const _);
        if copied < 0 {
            (*to)[0] = 0;
        }
    }
}

/// A task exits. Told when it is the last thread of its group; its descriptors are closed after this.
///
/// Kernel: `do_exit`, kernel/exit.c; args `(struct task_struct *p)`.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn sched_process_exit(ctx: RawTracePointContext) -> i32 {
    let task = Addr(ctx.arg(0));
    let tid = task::tid();
    if let Some(entry) = attempt::of(tid) {
        // SAFETY: the entry is this thread's own, and this is the thread's end.
        let entry = unsafe { &*entry };
        if is_left_open(entry) {
            attempt::report(
                entry,
                entry.task,
                kind::BIND_UNRESOLVED,
                hook::SCHED_PROCESS_EXIT,
                0,
                Urgency::Routine,
            );
        }
        let _ = ATTEMPTS.remove(tid);
    }
    if task.follow(offset!(task_signal)).read::<u32>(offset!(signal_live)) != 0 {
        return 0;
    }
    emit::<Exit>(counter::PROCESS, Urgency::Routine, |record| {
        let exit = Exit {
            head: head(kind::EXIT, hook::SCHED_PROCESS_EXIT),
            start: task::start_of(task),
            tgid: task::tgid_of(task),
            pad: [0; 4],
        };
        // SAFETY: the pointer is to a reserved record of this size.
        unsafe { record.write(exit) };
    });
    0
}

/// A signal is sent. Told for those that ask a process to end: SIGHUP, SIGINT, SIGQUIT, SIGKILL, SIGTERM.
///
/// Kernel: `__send_signal_locked`, kernel/signal.c; args `(int sig, struct kernel_siginfo *info, struct task_struct *task, …)`.
#[raw_tracepoint(tracepoint = "signal_generate")]
pub fn signal_generate(ctx: RawTracePointContext) -> i32 {
    let signal: u64 = ctx.arg(0);
    let signal = signal as u32;
    if !matches!(signal, 1 | 2 | 3 | 9 | 15) {
        return 0;
    }
    let target = Addr(ctx.arg(2));
    emit::<Signal>(counter::PROCESS, Urgency::Routine, |record| {
        let signal = Signal {
            head: head(kind::SIGNAL, hook::SIGNAL_GENERATE),
            target_start: task::start_of(target),
            sender_start: task::start_of(task::current()),
            target_tgid: task::tgid_of(target),
            sender_tgid: task::tgid(),
            signal,
            pad: [0; 4],
        };
        // SAFETY: the pointer is to a reserved record of this size.
        unsafe { record.write(signal) };
    });
    0
}

/// A cgroup is made: its id and path, which are gone when a job's cgroup lived for a moment only.
///
/// Kernel: `cgroup_mkdir`, kernel/cgroup/cgroup.c; args `(struct cgroup *cgrp, const char *path)`. Fires for cgroup v1
/// hierarchies too, whose ids are other numbers; user space asks the directory.
#[raw_tracepoint(tracepoint = "cgroup_mkdir")]
pub fn cgroup_mkdir(ctx: RawTracePointContext) -> i32 {
    tell_cgroup(&ctx, kind::CGROUP, hook::CGROUP_MKDIR)
}

/// A cgroup is removed: no process is in it any more, but sockets that were bound in it may live on.
///
/// Kernel: `cgroup_rmdir`, kernel/cgroup/cgroup.c, after the removal succeeded; args and cgroup v1 as with [`cgroup_mkdir`].
#[raw_tracepoint(tracepoint = "cgroup_rmdir")]
pub fn cgroup_rmdir(ctx: RawTracePointContext) -> i32 {
    tell_cgroup(&ctx, kind::CGROUP_REMOVED, hook::CGROUP_RMDIR)
}

#[inline(always)]
fn tell_cgroup(ctx: &RawTracePointContext, kind: u32, hook: u32) -> i32 {
    let cgroup = Addr(ctx.arg(0));
    let path: u64 = ctx.arg(1);
    emit::<Cgroup>(counter::PROCESS, Urgency::Routine, |record| {
        let id = cgroup.follow(offset!(cgroup_kn)).read(offset!(kernfs_id));
        // SAFETY: the pointer is to a reserved record of this size; every field is written.
        unsafe {
            (&raw mut (*record).head).write(head(kind, hook));
            (*record).id = id;
            string(&raw mut (*record).path, path);
        }
    });
    0
}
