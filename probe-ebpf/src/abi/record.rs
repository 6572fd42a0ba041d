//! The records of the ring, each a fixed layout behind one [`Head`].

use super::PATH_MAX;
#[cfg(doc)]
use super::{ARGS_MAX, ARGS_MEDIUM, ARGS_SMALL};

/// Kinds of record: the values of [`Head::kind`].
pub mod kind {
    /// [`super::Sock`]: a bind succeeded; the port is the one the kernel gave.
    pub const BIND: u32 = 1;
    /// [`super::Sock`]: a bind failed; address and port are the requested ones.
    pub const BIND_FAILED: u32 = 2;
    /// [`super::Sock`]: a bind was entered and its end was never seen, or cannot be seen: where only system calls tell how
    /// one ended, this comes when a bind by [`super::door::COMPAT`] begins, and nothing else but a BIND where it succeeds.
    pub const BIND_UNRESOLVED: u32 = 3;
    /// [`super::Sock`]: a TCP socket began to listen.
    pub const LISTEN: u32 = 4;
    /// [`super::Sock`]: `listen()` failed.
    pub const LISTEN_FAILED: u32 = 5;
    /// [`super::Sock`]: `connect()` failed for want of a local port; address and port are the destination. Both are zero where
    /// it was a datagram that wanted a port, whose destination is not known then.
    pub const CONNECT_FAILED: u32 = 6;
    /// [`super::Small`]: a TCP socket stopped listening (`shutdown`, or a close in progress).
    pub const UNLISTEN: u32 = 7;
    /// [`super::Small`]: the last reference to a socket went away.
    pub const CLOSE: u32 = 8;
    /// [`super::Small`]: the kernel destroyed a TCP socket; only TIME_WAIT may remain of it.
    pub const DESTROY: u32 = 9;
    /// [`super::SetOption`]: an option that decides about sharing was set on a socket that has a cookie.
    pub const OPTION: u32 = 10;
    /// [`super::Fork`]: a new process (not a thread).
    pub const FORK: u32 = 11;
    /// [`super::Exec`]: a process executed a program.
    pub const EXEC: u32 = 12;
    /// [`super::Exit`]: the last thread of a process is exiting; its descriptors are still open.
    pub const EXIT: u32 = 13;
    /// [`super::Signal`]: a signal that asks a process to end was sent.
    pub const SIGNAL: u32 = 14;
    /// [`super::Cgroup`]: a cgroup was made: its id and path.
    pub const CGROUP: u32 = 15;
    /// [`super::Sock`]: where a socket is now that has changed without a bind; port 0: nowhere any more.
    pub const CHANGED: u32 = 16;
    /// [`super::Cgroup`]: a cgroup was removed.
    pub const CGROUP_REMOVED: u32 = 17;
    /// [`super::Denied`]: the guard refused a bind.
    pub const DENIED: u32 = 32;
}

/// The doors a call can come through: the values of [`Sock::door`].
pub mod door {
    /// An ordinary system call.
    pub const SYSCALL: u8 = 0;
    /// io_uring.
    pub const IO_URING: u8 = 1;
    /// A system call of the 32-bit ABI (`int 0x80`), for whose end the kernel has no event.
    pub const COMPAT: u8 = 2;
}

/// Which program made a record: the values of [`Head::hook`]. The names are those of the programs.
pub mod hook {
    /// `cgroup/bind4`
    pub const BIND4: u32 = 1;
    /// `cgroup/bind6`
    pub const BIND6: u32 = 2;
    /// `cgroup/post_bind4`
    pub const POST_BIND4: u32 = 3;
    /// `cgroup/post_bind6`
    pub const POST_BIND6: u32 = 4;
    /// `cgroup/setsockopt`
    pub const SETSOCKOPT: u32 = 5;
    /// `cgroup/sock_release`
    pub const SOCK_RELEASE: u32 = 6;
    /// `tracepoint/syscalls/sys_exit_bind`
    pub const SYS_EXIT_BIND: u32 = 7;
    /// `tracepoint/syscalls/sys_exit_listen`
    pub const SYS_EXIT_LISTEN: u32 = 8;
    /// `tracepoint/syscalls/sys_exit_connect`
    pub const SYS_EXIT_CONNECT: u32 = 9;
    /// `tracepoint/io_uring/io_uring_complete`
    pub const IO_URING_COMPLETE: u32 = 10;
    /// `raw_tp/inet_sock_set_state`
    pub const INET_SOCK_SET_STATE: u32 = 11;
    /// `raw_tp/tcp_destroy_sock`
    pub const TCP_DESTROY_SOCK: u32 = 12;
    /// `raw_tp/sched_process_fork`
    pub const SCHED_PROCESS_FORK: u32 = 13;
    /// `raw_tp/sched_process_exec`
    pub const SCHED_PROCESS_EXEC: u32 = 14;
    /// `raw_tp/sched_process_exit`
    pub const SCHED_PROCESS_EXIT: u32 = 15;
    /// `raw_tp/signal_generate`
    pub const SIGNAL_GENERATE: u32 = 16;
    /// `raw_tp/cgroup_mkdir`
    pub const CGROUP_MKDIR: u32 = 17;
    /// `raw_tp/cgroup_rmdir`
    pub const CGROUP_RMDIR: u32 = 18;
    /// The return of the kernel's function `inet_bind`; this and the next nine by fexit or kretprobe.
    pub const INET_BIND: u32 = 19;
    /// `inet6_bind`
    pub const INET6_BIND: u32 = 20;
    /// `mptcp_bind`
    pub const MPTCP_BIND: u32 = 21;
    /// `inet_csk_listen_start`
    pub const INET_CSK_LISTEN_START: u32 = 22;
    /// `tcp_v4_connect`
    pub const TCP_V4_CONNECT: u32 = 23;
    /// `tcp_v6_connect`
    pub const TCP_V6_CONNECT: u32 = 24;
    /// `inet_autobind`
    pub const INET_AUTOBIND: u32 = 25;
    /// `__ip4_datagram_connect`
    pub const IP4_DATAGRAM_CONNECT: u32 = 26;
    /// `__ip6_datagram_connect`
    pub const IP6_DATAGRAM_CONNECT: u32 = 27;
    /// `udp_disconnect`
    pub const UDP_DISCONNECT: u32 = 28;
    /// `lsm/socket_setsockopt`
    pub const SOCKET_SETSOCKOPT: u32 = 29;
    /// `cgroup/post_bind4` of an enforced cgroup
    pub const GUARD_BIND4: u32 = 32;
    /// `cgroup/post_bind6` of an enforced cgroup
    pub const GUARD_BIND6: u32 = 33;
    /// `cgroup/bind4` of an enforced cgroup
    pub const CHECK_BIND4: u32 = 34;
    /// `cgroup/bind6` of an enforced cgroup
    pub const CHECK_BIND6: u32 = 35;
    /// `cgroup/setsockopt` of an enforced cgroup
    pub const GUARD_OPTION: u32 = 36;

    /// Added to the program's number: records were lost before this one, and after the one that had it before.
    pub const AFTER_LOSS: u32 = 1 << 31;
}

/// Bits of [`Sock::options`].
pub mod option {
    /// `SO_REUSEADDR`
    pub const REUSEADDR: u16 = 1;
    /// `SO_REUSEPORT`
    pub const REUSEPORT: u16 = 1 << 1;
    /// `IPV6_V6ONLY`
    pub const V6ONLY: u16 = 1 << 2;
}

/// What every record begins with. 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// One of [`kind`].
    pub kind: u32,
    /// One of [`hook`], with [`hook::AFTER_LOSS`] where it applies.
    pub hook: u32,
    /// `CLOCK_BOOTTIME`, ns (`bpf_ktime_get_boot_ns`, 5.8).
    pub at: u64,
}

/// Who was running. 48 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Task {
    /// Start of the thread group's leader, ns since boot (`start_boottime`). With `tgid`, the identity of a process.
    pub start: u64,
    /// Id of the caller's cgroup in the cgroup2 hierarchy (the inode number of its directory).
    pub cgroup: u64,
    /// Thread group id: what user space calls the process id.
    pub tgid: u32,
    /// Thread id.
    pub tid: u32,
    /// Real user id, initial user namespace.
    pub uid: u32,
    /// Explicit padding, zero.
    pub pad: u32,
    /// Name of the thread, NUL-padded.
    pub comm: [u8; 16],
}

impl Task {
    /// Nobody.
    pub const NONE: Self = Self { start: 0, cgroup: 0, tgid: 0, tid: 0, uid: 0, pad: 0, comm: [0; 16] };
}

/// A socket and what was done with it. 128 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Sock {
    /// Common head.
    pub head: Head,
    /// The caller.
    pub task: Task,
    /// Socket cookie (`SO_COOKIE`), unique since boot.
    pub cookie: u64,
    /// Cookie of the socket's network namespace, unique since boot; 0 where the hook cannot know it.
    pub netns_cookie: u64,
    /// Local address as bound (or requested, or the destination: see the kind). IPv4 in the first four bytes.
    pub address: [u8; 16],
    /// Inode number of the socket's network namespace.
    pub netns: u32,
    /// The socket's owner (`sk_uid`): what the kernel compares for SO_REUSEPORT.
    pub uid: u32,
    /// Interface index the socket is bound to (`SO_BINDTODEVICE`), 0 none.
    pub device: u32,
    /// 0, or the errno the call ended with (positive).
    pub errno: u32,
    /// Local port, host order (the destination's for CONNECT_FAILED).
    pub port: u16,
    /// The port that was asked for; 0 asks the kernel to choose.
    pub requested_port: u16,
    /// Bits of [`option`], as they are on the socket.
    pub options: u16,
    /// Address family: 2 (AF_INET) or 10 (AF_INET6).
    pub family: u16,
    /// IP protocol: 6, 17, 136; 262 is MPTCP's own socket.
    pub protocol: u16,
    /// TCP state as the kernel numbers it (`tcp_states.h`).
    pub state: u8,
    /// One of [`door`].
    pub door: u8,
    /// Explicit padding, zero.
    pub pad: [u8; 4],
}

/// A bind that the guard refused. 144 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Denied {
    /// The bind, as one that failed; the port is the one it had got.
    pub sock: Sock,
    /// Cookie of the socket it would have shared the port with.
    pub holder_cookie: u64,
    /// Who bound that one: start in clock ticks, and thread group id ([`super::policy::name`]).
    pub holder: u64,
}

/// A record about a socket that is known by its cookie. 48 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Small {
    /// Common head.
    pub head: Head,
    /// Socket cookie.
    pub cookie: u64,
    /// Thread group that caused it, 0 in softirq.
    pub tgid: u32,
    /// Inode number of the socket's network namespace.
    pub netns: u32,
    /// Connections waiting in the accept queue (`sk_ack_backlog`) when it happened.
    pub backlog: u32,
    /// Local port, host order.
    pub port: u16,
    /// IP protocol.
    pub protocol: u16,
    /// TCP state before.
    pub state: u8,
    /// Explicit padding, zero.
    pub pad: [u8; 7],
}

/// An option that was set. 40 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SetOption {
    /// Common head.
    pub head: Head,
    /// Socket cookie.
    pub cookie: u64,
    /// Thread group that set it.
    pub tgid: u32,
    /// Level as in setsockopt(2).
    pub level: i32,
    /// Name as in setsockopt(2).
    pub name: i32,
    /// First four bytes of the value, 0 where it is shorter.
    pub value: i32,
}

/// A process came to be. 48 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Fork {
    /// Common head.
    pub head: Head,
    /// Start time of the parent (its leader), ns since boot.
    pub parent_start: u64,
    /// Start time of the child.
    pub child_start: u64,
    /// Parent's thread group id.
    pub parent_tgid: u32,
    /// Child's thread group id.
    pub child_tgid: u32,
    /// Session id.
    pub session: u32,
    /// Explicit padding, zero.
    pub pad: [u8; 4],
}

/// A program was executed. In the ring its arguments follow it, each ending in NUL: `args_len` bytes that count, in a
/// field of [`ARGS_SMALL`], [`ARGS_MEDIUM`] or [`ARGS_MAX`] bytes, the smallest that holds them.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Exec {
    /// Common head.
    pub head: Head,
    /// The process, after the exec.
    pub task: Task,
    /// Start time of the parent (its leader), ns since boot.
    pub parent_start: u64,
    /// Parent's thread group id.
    pub parent_tgid: u32,
    /// Session id.
    pub session: u32,
    /// Length of the whole argument list in the process, bytes.
    pub args_total: u32,
    /// How much of it is here.
    pub args_len: u32,
    /// Path that was executed, as the caller gave it, NUL-terminated unless cut.
    pub filename: [u8; PATH_MAX],
    /// Path of the interpreter for a script, else equal to `filename`.
    pub interp: [u8; PATH_MAX],
}

/// A process is exiting. 32 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    /// Common head.
    pub head: Head,
    /// Start time of the process.
    pub start: u64,
    /// Thread group id.
    pub tgid: u32,
    /// Explicit padding, zero.
    pub pad: [u8; 4],
}

/// A signal was sent. 48 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Signal {
    /// Common head.
    pub head: Head,
    /// Start time of the target process.
    pub target_start: u64,
    /// Start time of the sender.
    pub sender_start: u64,
    /// Target's thread group id.
    pub target_tgid: u32,
    /// Sender's thread group id, 0 for the kernel.
    pub sender_tgid: u32,
    /// Signal number.
    pub signal: u32,
    /// Explicit padding, zero.
    pub pad: [u8; 4],
}

/// A cgroup was made. 280 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Cgroup {
    /// Common head.
    pub head: Head,
    /// Its id.
    pub id: u64,
    /// Its path in the hierarchy, NUL-terminated unless cut.
    pub path: [u8; PATH_MAX],
}

/// A row of a listing: one socket descriptor of one process. 80 bytes.
///
/// Without an address family it is none, and says of the process that there may be more, from descriptor `fd` on.
///
/// Written to the iterator's file, not to the ring.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FileRow {
    /// Start time of the process, ns since boot.
    pub start: u64,
    /// Raw socket cookie, 0 when nobody asked for it yet.
    pub cookie: u64,
    /// Cookie of the socket's network namespace.
    pub netns_cookie: u64,
    /// Inode number of the socket.
    pub inode: u64,
    /// Thread group id.
    pub tgid: u32,
    /// Descriptor number.
    pub fd: u32,
    /// Inode number of the socket's network namespace.
    pub netns: u32,
    /// The socket's owner.
    pub uid: u32,
    /// Interface index it is bound to, 0 none.
    pub device: u32,
    /// Local address; IPv4 in the first four bytes.
    pub address: [u8; 16],
    /// Local port, host order.
    pub port: u16,
    /// Bits of [`option`].
    pub options: u16,
    /// Address family.
    pub family: u16,
    /// IP protocol.
    pub protocol: u16,
    /// TCP state.
    pub state: u8,
    /// Explicit padding, zero.
    pub pad: [u8; 3],
}

const _: () = {
    // One more says that there are others.
    assert!((super::PIECE_MAX as usize + 1) * size_of::<FileRow>() <= 8 * 4096);
    assert!(size_of::<Head>() == 16);
    assert!(size_of::<Task>() == 48);
    assert!(size_of::<Sock>() == 128);
    assert!(size_of::<Small>() == 48);
    assert!(size_of::<SetOption>() == 40);
    assert!(size_of::<Fork>() == 48);
    assert!(size_of::<Exit>() == 32);
    assert!(size_of::<Signal>() == 48);
    assert!(size_of::<Cgroup>() == 24 + PATH_MAX);
    assert!(size_of::<FileRow>() == 80);
    assert!(size_of::<Exec>() == 16 + 48 + 24 + 2 * PATH_MAX);
    // No implicit padding: the explicit one of each struct reaches its end.
    assert!(core::mem::offset_of!(Sock, pad) + 4 == size_of::<Sock>());
    assert!(core::mem::offset_of!(Small, pad) + 7 == size_of::<Small>());
    assert!(core::mem::offset_of!(Fork, pad) + 4 == size_of::<Fork>());
    assert!(core::mem::offset_of!(Exit, pad) + 4 == size_of::<Exit>());
    assert!(core::mem::offset_of!(Signal, pad) + 4 == size_of::<Signal>());
    assert!(core::mem::offset_of!(FileRow, pad) + 3 == size_of::<FileRow>());
};
