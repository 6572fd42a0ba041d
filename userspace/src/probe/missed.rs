//! Events that the kernel did not run a program for.
//!
//! A program at a function or a tracepoint is not run while it is in the middle of a run on the same processor: where it can be
//! preempted, another process may come by; an interrupt may anyway (`__bpf_prog_enter_recur` in kernel/bpf/trampoline.c, `__bpf_trace_run`
//! and `trace_call_bpf` in kernel/trace/bpf_trace.c; of kprobes and tracepoints of perf any two programs are in each other's way). The kernel
//! counts that of `fexit` from 5.12 on, of raw tracepoints since it does it (6.1), of the others from 6.7. Programs at cgroups have no
//! such rule.

use aya::programs::Program;

use super::{Probe, syscall};

impl Probe {
    /// How many events were missed since the programs were loaded. 0 where the kernel does not count them (before 5.12).
    #[must_use]
    pub fn missed(&self) -> u64 {
        let programs = self.ebpf.programs().map(|(_, program)| program);
        let traced = programs.filter(|program| {
            matches!(
                program,
                Program::FExit(_)
                    | Program::KProbe(_)
                    | Program::Lsm(_)
                    | Program::RawTracePoint(_)
                    | Program::TracePoint(_)
            )
        });
        let fds = traced.filter_map(|program| program.fd().ok());
        fds.map(|fd| syscall::recursion_misses(fd).unwrap_or(0)).sum()
    }
}
