//! Whether bindwatch is where it can see the machine: a container hides parts of it.
//!
//! The probe sees what happens on the whole machine and tells process ids of the first PID namespace. Where `/proc` has
//! other numbers, or the root of the cgroups is a container's, what is recorded would be wrong or a part, so it is refused.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::ProbeError;
use crate::cgroup2;

/// Inode number of the first PID namespace: `PROC_PID_INIT_INO` of `include/linux/proc_ns.h`, the same since 3.8.
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// What of these a process that is to watch the machine must not be in.
///
/// # Errors
/// In a user or PID namespace of its own, or where a part of the cgroup2 hierarchy is mounted alone.
pub fn check() -> Result<(), ProbeError> {
    if in_user_namespace() {
        return Err(ProbeError::UserNamespace);
    }
    if !is_first_pid_namespace(Path::new("/proc/self/ns/pid")) {
        return Err(ProbeError::PidNamespace);
    }
    let Some(root) = cgroup2::mount_point() else { return Ok(()) };
    if std::fs::metadata(&root).is_ok_and(|root| root.ino() != cgroup2::ROOT_INODE) {
        return Err(ProbeError::PartOfHierarchy { path: root.display().to_string() });
    }
    Ok(())
}

/// Whether the kernel's own file systems are where everything looks for them: in an empty root nobody has mounted them.
///
/// # Errors
/// Where one is not.
pub(super) fn mounted() -> Result<(), ProbeError> {
    let all = [("/proc", "/proc/self", "proc"), ("/sys", "/sys/kernel", "sysfs")];
    let missing = all.into_iter().find(|(_, inside, _)| !Path::new(inside).exists());
    missing.map_or(Ok(()), |(at, _, kind)| Err(ProbeError::NotMounted { kind, at }))
}

/// Whether it is lockdown that a program was refused for, where nothing else shows it (`/sys/kernel/security` is not mounted): the
/// helpers that read the kernel's memory are not known then, and every kernel that bindwatch works on has them otherwise
/// (`bpf_base_func_proto` and `bpf_tracing_func_proto`, 5.5 and later).
pub(super) fn is_by_lockdown(reason: &str) -> bool {
    [" bpf_probe_read#", " bpf_probe_read_kernel#"].iter().any(|helper| reason.contains(helper))
}

/// The error by its cause, where that is lockdown.
pub(super) fn plainly(error: ProbeError) -> ProbeError {
    match error {
        ProbeError::Core { reason, .. }
        | ProbeError::Backend { reason, .. }
        | ProbeError::Guard { reason, .. }
            if is_by_lockdown(&reason) =>
        {
            ProbeError::LockedDown
        }
        other => other,
    }
}

/// The kernel's security modules that are in use, with commas between; None where securityfs is not mounted.
pub(super) fn security_modules() -> Option<String> {
    let modules = std::fs::read_to_string("/sys/kernel/security/lsm").ok()?;
    Some(modules.trim().to_owned())
}

/// The mode of kernel lockdown (kernel_lockdown(7)), where it can be seen: `none`, `integrity` or `confidentiality`.
#[must_use]
pub fn lockdown() -> Option<String> {
    lockdown_of(&std::fs::read_to_string("/sys/kernel/security/lockdown").ok()?)
}

/// The mode in brackets of `none [integrity] confidentiality`.
fn lockdown_of(modes: &str) -> Option<String> {
    modes.split_whitespace().find_map(|mode| mode.strip_prefix('[')?.strip_suffix(']')).map(str::to_owned)
}

/// Whether the users of this process are others than the machine's: `root` has no power over the kernel there.
#[must_use]
pub fn in_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !is_whole(&map))
}

/// Whether a map of users is that of the first user namespace: every user, as itself (user_namespaces(7)).
fn is_whole(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Unknown counts as the first: without `/proc` other errors come first.
fn is_first_pid_namespace(link: &Path) -> bool {
    std::fs::metadata(link).map_or(true, |namespace| namespace.ino() == FIRST_PID_NAMESPACE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lockdown_is_known_by_the_helpers_that_it_takes_away() {
        let refused = |reason: &str| {
            let error = ProbeError::Core { hook: "sched_process_exit", reason: reason.to_owned() };
            plainly(error).to_string()
        };
        // Seen on 6.1 under lockdown=confidentiality, without /sys/kernel/security.
        let lockdown = "Invalid argument (os error 22): unknown func bpf_probe_read#4";
        assert_eq!(refused(lockdown), ProbeError::LockedDown.to_string());
        let newer = "program of this type cannot use helper bpf_probe_read_kernel#113";
        assert_eq!(refused(newer), ProbeError::LockedDown.to_string());
        assert!(refused("unknown func bpf_get_current_pid_tgid#14").contains("sched_process_exit"));
    }

    #[test]
    fn the_mode_of_lockdown_is_that_in_brackets() {
        assert_eq!(lockdown_of("none integrity [confidentiality]\n").as_deref(), Some("confidentiality"));
        assert_eq!(lockdown_of("none integrity\n"), None);
    }

    #[test]
    fn the_first_user_namespace_has_every_user_as_itself() {
        assert!(is_whole("         0          0 4294967295\n"));
        for map in ["0 1000 1\n", "0 100000 65536\n", "0 0 1\n", "", "0 0 4294967295\n1 1 1\n"] {
            assert!(!is_whole(map), "{map}");
        }
    }

    #[test]
    fn another_namespace_is_not_the_first_pid_namespace() {
        assert!(!is_first_pid_namespace(Path::new("/proc/self/ns/uts")));
        assert!(is_first_pid_namespace(Path::new("/proc/self/ns/none")));
    }
}
