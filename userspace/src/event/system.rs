//! Facts about the recording itself: hooks, loss, bounds, jobs, notes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{BootTime, ProcessKey};

/// What saw an event: a program of the probe by its name, or a look-up by user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    /// `cgroup/bind4`
    Bind4,
    /// `cgroup/bind6`
    Bind6,
    /// `cgroup/post_bind4`
    PostBind4,
    /// `cgroup/post_bind6`
    PostBind6,
    /// `cgroup/setsockopt`
    Setsockopt,
    /// `cgroup/sock_release`
    SockRelease,
    /// `tracepoint/syscalls/sys_exit_bind`
    SysExitBind,
    /// `tracepoint/syscalls/sys_exit_listen`
    SysExitListen,
    /// `tracepoint/syscalls/sys_exit_connect`
    SysExitConnect,
    /// `tracepoint/io_uring/io_uring_complete`
    IoUringComplete,
    /// `raw_tp/inet_sock_set_state`
    InetSockSetState,
    /// `raw_tp/tcp_destroy_sock`
    TcpDestroySock,
    /// `sockops`, the program `sock_ops`
    SockOps,
    /// `raw_tp/sched_process_fork`
    SchedProcessFork,
    /// `raw_tp/sched_process_exec`
    SchedProcessExec,
    /// `raw_tp/sched_process_exit`
    SchedProcessExit,
    /// `raw_tp/signal_generate`
    SignalGenerate,
    /// `raw_tp/cgroup_mkdir`
    CgroupMkdir,
    /// `raw_tp/cgroup_rmdir`
    CgroupRmdir,
    /// The return of the kernel's function `inet_bind`; this and the next nine by fexit or kretprobe
    InetBind,
    /// `inet6_bind`
    Inet6Bind,
    /// `mptcp_bind`
    MptcpBind,
    /// `inet_csk_listen_start`
    InetCskListenStart,
    /// `tcp_v4_connect`
    TcpV4Connect,
    /// `tcp_v6_connect`
    TcpV6Connect,
    /// `inet_autobind`
    InetAutobind,
    /// `__ip4_datagram_connect`
    Ip4DatagramConnect,
    /// `__ip6_datagram_connect`
    Ip6DatagramConnect,
    /// `udp_disconnect`
    UdpDisconnect,
    /// `lsm/socket_setsockopt`
    SocketSetsockopt,
    /// `cgroup/post_bind4` of an enforced cgroup
    GuardBind4,
    /// `cgroup/post_bind6` of an enforced cgroup
    GuardBind6,
    /// `cgroup/bind4` of an enforced cgroup
    CheckBind4,
    /// `cgroup/bind6` of an enforced cgroup
    CheckBind6,
    /// `cgroup/setsockopt` of an enforced cgroup
    GuardOption,
    /// `iter/task`, and `iter/task_file` before 5.17
    TaskFile,
    /// A dump of the socket tables over netlink (sock_diag(7)).
    SockDiag,
    /// A look-up in `/proc`.
    Proc,
    /// bindwatch itself.
    Bindwatch,
}

/// An inventory of the kernel's tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Beginning or end.
    pub phase: InventoryPhase,
    /// At the end: network namespaces that could not be looked into.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unseen: Vec<String>,
}

/// Where in an inventory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InventoryPhase {
    /// What follows are `socket` events, up to the end.
    Begin,
    /// What was held before and was not listed since the beginning is closed.
    End,
}

/// Events that the probe could not hand over, or the reader could not read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// How many, by kind (`bind`, `close`, `option`, `process`, `attempt`, `guard`, `missed`, `undecodable`); zero kinds are left out.
    pub counts: BTreeMap<String, u64>,
}

/// A bound was reached: what was not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Name of the bound.
    pub bound: String,
    /// Its value.
    pub value: u64,
    /// Its unit, plural.
    pub unit: String,
}

impl Limit {
    /// The bound that a log reaches with its size (`--max-size`): no event after this one is in it.
    pub const LOG_SIZE: &str = "log-size";
}

/// Older events that are not in the log any more. What was held, lived or was cited by a finding when they were taken
/// out still is. Stands where the last of them was, with its number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Omitted {
    /// How many, the one in whose place this stands included.
    pub events: u64,
    /// Binds among them that succeeded.
    pub binds: u64,
    /// Binds among them that failed.
    pub binds_failed: u64,
    /// When the first of them happened.
    pub since: BootTime,
    /// When the last of them happened.
    pub until: BootTime,
}

/// The command of a `run`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Start or end.
    pub phase: JobPhase,
    /// Name for people.
    pub name: String,
    /// Its cgroup's path in the cgroup2 hierarchy.
    pub cgroup: String,
    /// Its first process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessKey>,
    /// At the end: its status as a shell would give it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<i32>,
    /// At the end: processes of the job that are still alive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<ProcessKey>,
}

/// Where in a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobPhase {
    /// It starts.
    Start,
    /// Its first process ended.
    End,
}

/// Conflicting binds of the processes in some cgroups are refused from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforcement {
    /// How.
    pub mode: EnforcementMode,
    /// Paths of the cgroups, from the root of the hierarchy.
    pub cgroups: Vec<String>,
}

/// How enforcement decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EnforcementMode {
    /// When the port is known, exactly: EADDRINUSE.
    Deny,
    /// What would be refused so, and what the kernel refuses, waits until its endpoint is free.
    Wait,
    /// Nothing is refused, only told.
    DryRun,
    /// Before the port is known, which two that race can both pass: EPERM. For kernels that cannot do better.
    Check,
}

impl EnforcementMode {
    /// Whether something is refused.
    #[must_use]
    pub const fn denies(self) -> bool {
        !matches!(self, Self::DryRun)
    }
}

/// A cgroup of the cgroup2 hierarchy was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupRemoved {
    /// Its id: the inode number of its directory.
    pub id: u64,
    /// Its path, from the root of the hierarchy.
    pub path: String,
}

/// A note from a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// What they wrote.
    pub text: String,
    /// Who.
    pub process: ProcessKey,
}
