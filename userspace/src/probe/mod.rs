//! The kernel side as user space sees it: loads the checked-in object, attaches what this kernel takes, and owns it.
//!
//! Every program is attached by a link or a perf event that belongs to this process: when the process ends, however
//! it ends, the kernel removes them.

pub mod backend;
pub mod btf;
mod guard;
pub mod hooks;
mod load;
mod lsm;
mod maps;
mod membership;
mod missed;
mod offsets;
mod pins;
mod preload;
mod refusal;
mod ring;
pub mod seccomp;
mod standing;
pub mod surroundings;
mod syscall;
mod task_files;
pub mod tracefs;
mod trial;
mod vmlinux;

pub use backend::Backend;
pub use guard::{ALLOW_RULES_MAX, Enforced, Kinship, enforced, process_of};
pub use load::{
    Attached, Guarding, Needless, Options, Probe, Refused, map_large_blocks, missing_capabilities,
    release_memory,
};
pub use maps::{Accepted, Counters, Idle, Owners, Watched};
pub use membership::{Group, is_member};
pub use pins::{PinError, partly_pinned, pinned, unpin};
pub use ring::{Ring, watched};
pub use standing::Standings;
pub use task_files::FileRow;
pub use trial::{Denial, Hindrance};
pub use vmlinux::VMLINUX;

/// Why the probe could not be used. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Not enough privileges.
    #[error(
        "bindwatch needs root to load its probe (or CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN): run it with sudo"
    )]
    NotPermitted,
    /// A user namespace.
    #[error(
        "this is a user namespace (a rootless container), whose root has no power over the kernel: run bindwatch outside of \
         it, as the machine's root; `list`, `check` and `report` work here"
    )]
    UserNamespace,
    /// Kernel lockdown at its strictest.
    #[error(
        "the kernel is locked down (confidentiality): no program may read its memory, so nothing can be recorded; boot with \
         lockdown=integrity, or without. `list`, `check` and `report` work"
    )]
    LockedDown,
    /// A file system of the kernel is not there, as in an empty root.
    #[error("{at} is not mounted: mount -t {kind} {kind} {at}")]
    NotMounted {
        /// Its type.
        kind: &'static str,
        /// Where it belongs.
        at: &'static str,
    },
    /// A PID namespace.
    #[error(
        "this is a PID namespace of its own, in which processes have other numbers than the kernel tells: start the \
         container with the machine's (docker run --pid=host)"
    )]
    PidNamespace,
    /// A part of the hierarchy.
    #[error(
        "the cgroup2 hierarchy at {path} is a part of the machine's, so that only this container's binds would be seen: \
         start the container with the machine's (docker run --cgroupns=host -v /sys/fs/cgroup:/sys/fs/cgroup)"
    )]
    PartOfHierarchy {
        /// Its mount point.
        path: String,
    },
    /// No cgroup2.
    #[error(
        "no cgroup2 hierarchy is mounted: mount one (mount -t cgroup2 none /sys/fs/cgroup/unified) or boot with \
         systemd.unified_cgroup_hierarchy=1"
    )]
    NoCgroup2,
    /// The cgroup2 root cannot be opened.
    #[error("the cgroup2 hierarchy at {path} cannot be opened: {source}")]
    Cgroup2 {
        /// Its mount point.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// No BTF.
    #[error(
        "this kernel does not describe its types ({VMLINUX}: {source}): bindwatch needs Linux 5.9 or newer with \
         CONFIG_DEBUG_INFO_BTF"
    )]
    NoBtf {
        /// Why.
        source: std::io::Error,
    },
    /// Unreadable BTF.
    #[error("{VMLINUX} cannot be read: {source}; please report this kernel")]
    BadBtf {
        /// Why.
        source: btf::BtfError,
    },
    /// A field is missing.
    #[error("this kernel has no {field}: bindwatch needs Linux 5.9 or newer")]
    NoField {
        /// Which.
        field: &'static str,
    },
    /// The object was refused.
    #[error("the kernel refused the probe's maps: {reason}; bindwatch needs Linux 5.9 or newer")]
    Object {
        /// Why.
        reason: String,
    },
    /// A program that recording cannot do without was refused.
    #[error(
        "the kernel refused the program {hook}: {reason}; bindwatch needs Linux 5.9 or newer, and `bindwatch doctor` \
         shows what this kernel can do"
    )]
    Core {
        /// Which.
        hook: &'static str,
        /// Why.
        reason: String,
    },
    /// The backend that was asked for cannot be used.
    #[error(
        "--backend {backend} cannot be used on this kernel: {reason}; `bindwatch doctor` shows which can"
    )]
    Backend {
        /// Which.
        backend: &'static str,
        /// Why.
        reason: String,
    },
    /// A program of the guard was refused.
    #[error(
        "this kernel cannot deny binds: it refused {hook}: {reason}; enforcement needs Linux 6.1 or newer, reporting does not"
    )]
    Guard {
        /// Which.
        hook: &'static str,
        /// Why.
        reason: String,
    },
    /// Enforcement cannot be kept.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The iterator was refused.
    #[error("the kernel refused the iterator {iterator}: {reason}")]
    Iterator {
        /// Which.
        iterator: &'static str,
        /// Why.
        reason: String,
    },
}
