//! Every program of the object: how it attaches, and what is not seen without it.

use super::syscall;

/// How a program attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// To the root of the cgroup2 hierarchy, by a link of this type (`enum bpf_attach_type`).
    Cgroup(u32),
    /// To a raw tracepoint of its own name.
    RawTracepoint,
    /// To a hook of the kernel's security modules of its own name.
    Lsm,
    /// To a trace event of this category and its own name (needs tracefs).
    Tracepoint(&'static str),
}

/// Whether recording makes sense without a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It does not.
    Core,
    /// It does; the text says what is missing then.
    Extra(&'static str),
    /// As `Extra`, and left out with `--errno off`.
    Errno(&'static str),
}

/// A program of the probe.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// Its name in the object, which is also the name of what it hooks.
    pub name: &'static str,
    /// How.
    pub attach: Attach,
    /// How much it matters.
    pub need: Need,
    /// What it tells.
    pub tells: &'static str,
}

const NO_ERRNO: &str = "refused binds are not explained";
const NO_URING: &str = "binds through io_uring fail unseen";

/// The programs in the order in which they attach: those that end something before those that begin it, so that
/// nothing is seen to begin whose end is then missed.
pub const HOOKS: [Hook; 25] = [
    hook("sched_process_exit", Attach::RawTracepoint, Need::Core, "processes that end"),
    hook("sched_process_fork", Attach::RawTracepoint, Need::Core, "lineage"),
    hook("sched_process_exec", Attach::RawTracepoint, Need::Core, "programs and their arguments"),
    hook(
        "signal_generate",
        Attach::RawTracepoint,
        Need::Extra("a restart is not told from a listener"),
        "requests to end",
    ),
    hook(
        "cgroup_mkdir",
        Attach::RawTracepoint,
        Need::Extra("cgroups that live for a moment have no name"),
        "cgroups made",
    ),
    hook(
        "cgroup_rmdir",
        Attach::RawTracepoint,
        Need::Extra("sockets that outlive their cgroup are not noticed"),
        "cgroups removed",
    ),
    hook(
        "sock_create",
        Attach::Cgroup(syscall::INET_SOCK_CREATE),
        Need::Extra("options set late are missed"),
        "socket cookies",
    ),
    hook("sock_release", Attach::Cgroup(syscall::INET_SOCK_RELEASE), Need::Core, "sockets closed"),
    hook(
        "tcp_destroy_sock",
        Attach::RawTracepoint,
        Need::Extra("ports of MPTCP sockets seem held for ever"),
        "TCP sockets destroyed",
    ),
    hook(
        "inet_sock_set_state",
        Attach::RawTracepoint,
        Need::Extra("listening is not told from bound"),
        "listen()",
    ),
    hook(
        "sock_ops",
        Attach::Cgroup(syscall::SOCK_OPS),
        Need::Extra("it is not known which listener got how many connections"),
        "connections per listener",
    ),
    hook(
        "setsockopt",
        Attach::Cgroup(syscall::SETSOCKOPT),
        Need::Extra("options set after the bind are missed"),
        "late options",
    ),
    hook(
        "socket_setsockopt",
        Attach::Lsm,
        Need::Extra("options that a 32-bit program sets after its bind are missed"),
        "late options of 32-bit programs",
    ),
    hook(
        "connect4",
        Attach::Cgroup(syscall::INET4_CONNECT),
        Need::Extra("TIME_WAIT has no owner, exhaustion no destination"),
        "openers of connections",
    ),
    hook(
        "connect6",
        Attach::Cgroup(syscall::INET6_CONNECT),
        Need::Extra("TIME_WAIT has no owner, exhaustion no destination"),
        "openers of connections",
    ),
    hook(
        "io_uring_complete",
        Attach::Tracepoint("io_uring"),
        Need::Errno(NO_URING),
        "ends of io_uring binds",
    ),
    hook("io_uring_submit_req", Attach::Tracepoint("io_uring"), Need::Errno(NO_URING), "io_uring binds"),
    hook("sys_exit_bind", Attach::Tracepoint("syscalls"), Need::Errno(NO_ERRNO), "why a bind failed"),
    hook("sys_exit_listen", Attach::Tracepoint("syscalls"), Need::Errno(NO_ERRNO), "why a listen failed"),
    hook(
        "sys_exit_connect",
        Attach::Tracepoint("syscalls"),
        Need::Errno("exhausted ports are not noticed"),
        "connects without a port",
    ),
    hook(
        "sys_enter_connect",
        Attach::Tracepoint("syscalls"),
        Need::Errno("ports that a UDP socket gives up by disconnecting seem held"),
        "UDP sockets that give up a port",
    ),
    hook("post_bind4", Attach::Cgroup(syscall::INET4_POST_BIND), Need::Core, "IPv4 binds"),
    hook("post_bind6", Attach::Cgroup(syscall::INET6_POST_BIND), Need::Core, "IPv6 binds"),
    hook("bind4", Attach::Cgroup(syscall::INET4_BIND), Need::Core, "requested IPv4 addresses"),
    hook("bind6", Attach::Cgroup(syscall::INET6_BIND), Need::Core, "requested IPv6 addresses"),
];

const fn hook(name: &'static str, attach: Attach, need: Need, tells: &'static str) -> Hook {
    Hook { name, attach, need, tells }
}

/// Programs that have something to do only where two sockets share a port: with `--events conflicts` they are attached when the
/// first do. Not even an empty program is free, and the kernel copies the value of every option for one at `setsockopt`.
/// Who binds or connects is given its cookie then; one from `sock_create` is for those that are met before.
pub(super) const OF_SHARED_PORTS: [&str; 5] =
    ["sock_create", "sock_release", "tcp_destroy_sock", "setsockopt", "socket_setsockopt"];
