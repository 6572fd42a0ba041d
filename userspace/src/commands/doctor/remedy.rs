//! How to get what this kernel or this user has not, by what was refused and how.
//!
//! The kernel's answers are few, and most have several causes: what is said is what each can come from. Rests on
//! `kernel/bpf/{syscall,trampoline,cgroup}.c`, `include/linux/bpf_types.h`, `kernel/trace/Kconfig` and `arch/*/Kconfig` of 5.10 to 6.12.

use nix::libc;

use crate::probe::hooks::Attach;
use crate::probe::seccomp::Refusal;
use crate::probe::{Backend, ProbeError};

/// Of everything that needs the probe, where it could not be loaded.
pub(super) const UNTRIED: &str = "first what is missing among the checks";

/// Not for user space (`include/linux/errno.h`), and given to it all the same: what the kernel was built without.
const ENOTSUPP: i32 = 524;

/// A module of the kernel's security, or its maker, forbids it to who may do all else.
const FORBIDDEN: &str = "a security module (SELinux, AppArmor, BPF LSM) or this kernel's maker forbids it: the audit log names \
     the rule, where there is one";
/// What all of it takes.
pub(super) const KERNEL: &str =
    "Linux 5.9 or newer, with CONFIG_BPF_SYSCALL=y, CONFIG_CGROUP_BPF=y and CONFIG_BPF_EVENTS=y";
const PROGRAMS: &str = "a kernel with CONFIG_BPF_EVENTS=y";
const TRACEFS: &str = "as root: mount -t tracefs none /sys/kernel/tracing";

/// How to get a backend that was refused.
pub(super) fn of_backend(backend: Backend, reason: &str) -> String {
    match backend {
        Backend::Fexit => fexit(reason),
        Backend::Kprobe => kprobe(reason),
        Backend::Tracepoint => of_hook(Attach::Tracepoint("syscalls"), reason),
    }
}

fn fexit(reason: &str) -> String {
    if let Some(text) = of_functions(reason) {
        return text;
    }
    match errno(reason) {
        Some(libc::EPERM | libc::EACCES) => FORBIDDEN.to_owned(),
        Some(ENOTSUPP) => format!("{TRAMPOLINES}; arm64 has them from 6.4 on"),
        Some(libc::EBUSY) => format!(
            "sysctl kernel.ftrace_enabled=1, where that is 0; else {TRAMPOLINES}, and no live patch of the function"
        ),
        Some(libc::EINVAL) => format!("{PROGRAMS}; {TRAMPOLINES}"),
        _ => TRAMPOLINES.to_owned(),
    }
}

/// What BPF trampolines take.
const TRAMPOLINES: &str =
    "a kernel with CONFIG_BPF_JIT=y, CONFIG_FUNCTION_TRACER=y and CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS=y";

fn kprobe(reason: &str) -> String {
    const PROBES: &str = "a kernel with CONFIG_KPROBES=y, CONFIG_KPROBE_EVENTS=y and CONFIG_BPF_EVENTS=y";
    if let Some(text) = of_functions(reason) {
        return text;
    }
    match errno(reason) {
        Some(libc::EPERM | libc::EACCES) => FORBIDDEN.to_owned(),
        // What is built as a module and not loaded, or was inlined.
        Some(libc::ENOENT | libc::EADDRNOTAVAIL) => {
            "a kernel that has the function: with CONFIG_IPV6=y, and not as a module".to_owned()
        }
        _ => PROBES.to_owned(),
    }
}

/// What the kernel's types told before anything was tried.
fn of_functions(reason: &str) -> Option<String> {
    if let Some((_, name)) = reason.split_once("has no function ") {
        let six = name.contains('6');
        return Some(
            match six {
                true => "a kernel with CONFIG_IPV6=y, and not as a module",
                false => "a kernel whose compiler left the function whole (CONFIG_LTO_NONE=y)",
            }
            .to_owned(),
        );
    }
    let is_unknown =
        reason.contains("which bindwatch does not know") || reason.contains("is not in the object");
    is_unknown.then(|| "a newer bindwatch; please report this kernel".to_owned())
}

/// How to get a hook that was refused.
pub(super) fn of_hook(attach: Attach, reason: &str) -> String {
    let errno = errno(reason);
    match attach {
        Attach::Cgroup(_) if errno == Some(libc::EPERM) => format!(
            "end the tool that keeps this hook of the root cgroup to itself (`bpftool cgroup tree` shows it: no flag multi); else \
             {FORBIDDEN}"
        ),
        Attach::Cgroup(_) => "a kernel with CONFIG_CGROUP_BPF=y, Linux 5.9 or newer".to_owned(),
        _ if matches!(errno, Some(libc::EPERM)) => FORBIDDEN.to_owned(),
        Attach::Lsm if reason.contains("processor") => "nothing: x86 alone tells them".to_owned(),
        Attach::Lsm => {
            "boot with lsm= and what /sys/kernel/security/lsm has, and bpf behind it, on a kernel with CONFIG_BPF_LSM=y"
                .to_owned()
        }
        Attach::RawTracepoint => format!("{PROGRAMS}, Linux 5.9 or newer"),
        Attach::Tracepoint(_) if reason.contains("tracefs") || reason.contains("mount namespace") => {
            of_tracefs(reason).to_owned()
        }
        Attach::Tracepoint(_) if matches!(errno, Some(libc::EACCES)) => {
            "run it as root: tracefs is root's (or: mount -o remount,gid=GROUP,mode=750 /sys/kernel/tracing)"
                .to_owned()
        }
        Attach::Tracepoint("syscalls") => {
            "a kernel with CONFIG_FTRACE_SYSCALLS=y and CONFIG_BPF_EVENTS=y".to_owned()
        }
        Attach::Tracepoint(_) => "a kernel with CONFIG_IO_URING=y and CONFIG_BPF_EVENTS=y".to_owned(),
    }
}

/// How to come by tracefs.
pub(super) fn of_tracefs(reason: &str) -> &'static str {
    // The type is not known.
    if reason.contains("ENODEV") { "a kernel with CONFIG_FTRACE=y (tracefs)" } else { TRACEFS }
}

/// How to get the probe loaded.
pub(super) fn of_probe(error: &ProbeError) -> String {
    match error {
        ProbeError::NotPermitted => "first what is missing above".to_owned(),
        ProbeError::UserNamespace => "run it outside of the container, as the machine's root".to_owned(),
        ProbeError::LockedDown => "boot with lockdown=integrity, or without".to_owned(),
        ProbeError::NotMounted { kind, at } => format!("mount -t {kind} {kind} {at}"),
        ProbeError::PidNamespace => "docker run --pid=host".to_owned(),
        ProbeError::PartOfHierarchy { .. } => {
            "docker run --cgroupns=host -v /sys/fs/cgroup:/sys/fs/cgroup".to_owned()
        }
        ProbeError::NoCgroup2 => {
            "mount -t cgroup2 none /sys/fs/cgroup/unified, or boot with systemd.unified_cgroup_hierarchy=1"
                .to_owned()
        }
        ProbeError::Cgroup2 { path, .. } => format!("run it as who may read {path}"),
        ProbeError::NoBtf { .. } => "Linux 5.9 or newer, with CONFIG_DEBUG_INFO_BTF=y".to_owned(),
        ProbeError::BadBtf { .. } => "a newer bindwatch; please report this kernel".to_owned(),
        ProbeError::Object { .. } | ProbeError::NoField { .. } | ProbeError::Core { .. } => KERNEL.to_owned(),
        ProbeError::Backend { .. } => "--backend auto".to_owned(),
        ProbeError::Guard { .. } | ProbeError::Pin(_) | ProbeError::Iterator { .. } => {
            "a newer kernel: 6.1 has all of it".to_owned()
        }
    }
}

/// How to make waiting work.
pub(super) const fn of_waiting(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Busy => "start bindwatch outside of what waits already",
        Refusal::Unsupported | Refusal::NotCarriedOut => "Linux 5.5 or newer, with CONFIG_SECCOMP_FILTER=y",
        Refusal::Other(_) => {
            "a container's seccomp profile that allows seccomp(2): docker run --security-opt seccomp=unconfined"
        }
    }
}

/// The number in `(os error 1)`.
fn errno(reason: &str) -> Option<i32> {
    let (_, rest) = reason.rsplit_once("(os error ")?;
    rest.split(')').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_own_remedy() {
        let fexit = |reason| of_backend(Backend::Fexit, reason);
        for (reason, says) in [
            (
                "programs cannot be attached to kernel functions: Operation not permitted (os error 1)",
                "audit log",
            ),
            (
                "programs cannot be attached to kernel functions: Unknown error 524 (os error 524)",
                "DIRECT_CALLS",
            ),
            ("fexit/inet_bind: Device or resource busy (os error 16)", "sysctl kernel.ftrace_enabled=1"),
            ("programs cannot be attached to kernel functions: Invalid argument (os error 22)", "BPF_EVENTS"),
            ("this kernel has no function inet6_bind of its own", "CONFIG_IPV6=y"),
            ("this kernel has no function inet_autobind of its own", "LTO"),
            ("inet_bind has 4 arguments in this kernel, which bindwatch does not know", "report this kernel"),
        ] {
            assert!(fexit(reason).contains(says), "{reason}: {}", fexit(reason));
        }
        let kprobe = of_backend(Backend::Kprobe, "this kernel has no kprobes (CONFIG_KPROBE_EVENTS)");
        assert!(kprobe.contains("CONFIG_KPROBES=y"), "{kprobe}");
        let gone =
            of_backend(Backend::Kprobe, "kretprobe/inet6_bind: No such file or directory (os error 2)");
        assert!(gone.contains("CONFIG_IPV6=y"), "{gone}");

        let (calls, rings) = (Attach::Tracepoint("syscalls"), Attach::Tracepoint("io_uring"));
        for (attach, reason, says) in [
            (Attach::Cgroup(0), "Operation not permitted (os error 1)", "bpftool cgroup tree"),
            (Attach::Cgroup(0), "Invalid argument (os error 22)", "CONFIG_CGROUP_BPF=y"),
            (Attach::RawTracepoint, "Invalid argument (os error 22)", "CONFIG_BPF_EVENTS=y"),
            (calls, "No such file or directory (os error 2)", "CONFIG_FTRACE_SYSCALLS=y"),
            (calls, "Permission denied (os error 13)", "as root"),
            (calls, "a private mount namespace was refused: EPERM: Operation not permitted", TRACEFS),
            (
                calls,
                "tracefs is not mounted and mounting it was refused: ENODEV: No such device",
                "CONFIG_FTRACE=y",
            ),
            (rings, "No such file or directory (os error 2)", "CONFIG_IO_URING=y"),
            (Attach::Lsm, "bpf is not among the security modules of this kernel (lsm=)", "boot with lsm="),
        ] {
            assert!(of_hook(attach, reason).contains(says), "{reason}: {}", of_hook(attach, reason));
        }
        assert_eq!(of_backend(Backend::Tracepoint, "x (os error 2)"), of_hook(calls, "x (os error 2)"));
    }
}
