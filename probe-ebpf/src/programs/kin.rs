//! Who is kin of whom, and of which pool: kept from the instant of each fork, exec and exit for what the guard decides.
//! Attached where enforcement was asked for.

use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;

use crate::guard::{KIN, forked, name_of};
use crate::kernel::{Addr, offset};
use crate::{standing, task};

/// Lineage and ancestors, as they are at fork.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn kin_fork(ctx: RawTracePointContext) -> i32 {
    let child = Addr(ctx.arg(1));
    let tgid = task::tgid_of(child);
    if tgid == child.read::<u32>(offset!(task_pid)) {
        let (name, parent) = (name_of(child), child.follow(offset!(task_real_parent)));
        forked(tgid, name, task::tgid_of(parent));
        standing::forked(name, name_of(parent));
    }
    0
}

/// Who executes a program begins a lineage, and stands as the program does.
///
/// Proves: pool and allow rules before the program's first instruction. Kernel: `exec_binprm`, fs/exec.c, when arguments,
/// environment and name are those of the new program.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn kin_exec(_ctx: RawTracePointContext) -> i32 {
    standing::executed(task::tgid());
    0
}

/// Who ended is nobody's parent any more; its children have kept its name.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn kin_exit(ctx: RawTracePointContext) -> i32 {
    let task = Addr(ctx.arg(0));
    if task.follow(offset!(task_signal)).read::<u32>(offset!(signal_live)) == 0 {
        let _ = KIN.remove(task::tgid_of(task));
        standing::ended(name_of(task));
    }
    0
}

/// A cgroup is made: a rule may name it, or a template unit be behind it.
///
/// Kernel: `cgroup_mkdir`, kernel/cgroup/cgroup.c; args `(struct cgroup *cgrp, const char *path)`, before anybody can be in it.
/// Those of cgroup v1 hierarchies are left out.
#[raw_tracepoint(tracepoint = "cgroup_mkdir")]
pub fn kin_cgroup(ctx: RawTracePointContext) -> i32 {
    let cgroup = Addr(ctx.arg(0));
    if is_unified(cgroup) {
        standing::made(cgroup.follow(offset!(cgroup_kn)).read(offset!(kernfs_id)), ctx.arg(1));
    }
    0
}

/// A cgroup is removed.
#[raw_tracepoint(tracepoint = "cgroup_rmdir")]
pub fn kin_cgroup_gone(ctx: RawTracePointContext) -> i32 {
    let cgroup = Addr(ctx.arg(0));
    if is_unified(cgroup) {
        standing::removed(cgroup.follow(offset!(cgroup_kn)).read(offset!(kernfs_id)));
    }
    0
}

/// Whether it is of the cgroup2 hierarchy, which has the number 0 (cgroups(7)).
#[inline(always)]
fn is_unified(cgroup: Addr) -> bool {
    cgroup.follow(offset!(cgroup_root)).read::<u32>(offset!(root_hierarchy)) == 0
}
