//! Whether this kernel can deny a bind that has its port: tried, not told by its version.
//!
//! Before about 5.17 the port of a bind that is denied in post_bind stays taken until the socket is closed, and the socket is
//! of no use any more; and before 5.18 no errno can be chosen. The trial denies one bind of one socket of its own, by a program
//! that knows that socket's cookie and lets everything else pass, and is gone at once.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::sockopt::socket_cookie;
use rustix::net::{AddressFamily, SocketAddrAny, SocketType, bind, getsockname, socket};

use super::load::open_root;
use super::{Guarding, ProbeError, syscall};
use crate::cgroup2;

/// Trials until one is believed that speaks against the kernel: somebody else may want the port in between.
const TRIALS: u32 = 3;
/// What a denied bind fails with. No bind fails with it otherwise, and nobody takes it for a conflict.
const MARK: Errno = Errno::CANCELED;
/// `BPF_FUNC_get_socket_cookie`, `BPF_FUNC_set_retval`.
const GET_SOCKET_COOKIE: i32 = 46;
const SET_RETVAL: i32 = 187;

/// How binds can be denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// When they have their port: EADDRINUSE, and of any number that race one wins.
    Exact,
    /// Before they have it: EPERM, and of two that race both can win.
    Early {
        /// What is in the way of better.
        reason: String,
        /// Whose it is.
        by: Hindrance,
    },
}

/// What is in the way of denying exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hindrance {
    /// The kernel cannot.
    Kernel,
    /// Whether it can is not known: a program of somebody else's denies the binds that it is tried with.
    Program,
}

impl Denial {
    /// Tries it.
    ///
    /// # Errors
    /// Without privileges, or without a cgroup2 hierarchy.
    pub fn of_this_kernel() -> Result<Self, ProbeError> {
        let mount = cgroup2::mount_point().ok_or(ProbeError::NoCgroup2)?;
        // Whoever cannot see its own cgroup is below what it sees.
        let own = cgroup2::own_directory(&mount).and_then(|directory| File::open(directory).ok());
        let cgroup = own.map_or_else(|| open_root(&mount), Ok)?;
        let (mut reason, mut by) = (String::new(), Hindrance::Kernel);
        for _ in 0..TRIALS {
            match trial(&cgroup) {
                Ok(()) => return Ok(Self::Exact),
                Err(Failure::Privileges) => return Err(ProbeError::NotPermitted),
                Err(failure) => (reason, by) = (failure.to_string(), failure.by()),
            }
        }
        Ok(Self::Early { reason, by })
    }
}

impl Denial {
    /// What is to be loaded for it.
    #[must_use]
    pub const fn guarding(&self) -> Guarding {
        match self {
            Self::Exact => Guarding::Deny,
            Self::Early { .. } => Guarding::Check,
        }
    }
}

/// What speaks against it.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("not permitted")]
    Privileges,
    #[error("it refused a program that gives a denied bind its errno, bpf_set_retval of Linux 5.18: {0}")]
    Program(io::Error),
    #[error("the program that tries it cannot be attached: {0}")]
    Attach(io::Error),
    #[error("a socket to try it with cannot be had: {0}")]
    Socket(Errno),
    #[error(
        "another program denies binds in bindwatch's own cgroup, as SocketBindDeny= of a systemd unit does: {0}"
    )]
    Another(Errno),
    #[error("a bind that was to be denied ended with: {0}")]
    NotDenied(String),
    #[error("the socket kept the port of a denied bind")]
    Kept,
    #[error("the port of a denied bind was not free: {0}")]
    Leaked(Errno),
    #[error("the socket of a denied bind could not be bound again: {0}")]
    Useless(Errno),
}

impl Failure {
    const fn by(&self) -> Hindrance {
        if let Self::Another(_) = self { Hindrance::Program } else { Hindrance::Kernel }
    }

    /// Of a bind. The kernel itself gives neither errno for a port that it has chosen before; a cgroup's program, and a
    /// security module, do.
    fn of_bind(errno: Errno, otherwise: impl FnOnce(Errno) -> Self) -> Self {
        if matches!(errno, Errno::PERM | Errno::ACCESS) { Self::Another(errno) } else { otherwise(errno) }
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Socket(errno)
    }
}

fn trial(cgroup: &File) -> Result<(), Failure> {
    let port = free_port()?;
    let (denied, other) = (stream()?, stream()?);
    let program =
        syscall::load(syscall::CGROUP_SOCK, syscall::INET4_POST_BIND, &denier(socket_cookie(&denied)?));
    let program = program.map_err(|error| match error.raw_os_error() {
        Some(nix::libc::EPERM) => Failure::Privileges,
        _ => Failure::Program(error),
    })?;
    let link = syscall::link(&program, cgroup, syscall::INET4_POST_BIND).map_err(Failure::Attach)?;
    match bind(&denied, &anywhere(port)) {
        Err(errno) if errno == MARK => {}
        Err(errno) => {
            return Err(Failure::of_bind(errno, |errno| Failure::NotDenied(errno.to_string())));
        }
        Ok(()) => return Err(Failure::NotDenied("success".to_owned())),
    }
    if port_of(&denied)? != 0 {
        return Err(Failure::Kept);
    }
    bind(&other, &anywhere(port)).map_err(|errno| Failure::of_bind(errno, Failure::Leaked))?;
    drop((other, link));
    bind(&denied, &anywhere(port)).map_err(|errno| Failure::of_bind(errno, Failure::Useless))
}

/// The instructions of a program that denies the binds of one socket.
fn denier(cookie: u64) -> [u64; 10] {
    [
        immediate(0x85, GET_SOCKET_COOKIE),
        // r1 = the cookie, in two halves.
        0x118 | cookie << 32,
        cookie & !0xffff_ffff,
        // When r0 is that: past the next two, which allow.
        0x1d | 0x10 << 8 | 2 << 16,
        immediate(0xb7, 1),
        0x95,
        immediate(0x1b7, -MARK.raw_os_error()),
        immediate(0x85, SET_RETVAL),
        immediate(0xb7, 0),
        0x95,
    ]
}

/// An instruction with an immediate operand, which is its upper half.
fn immediate(code: u64, value: i32) -> u64 {
    code | u64::from(value.cast_unsigned()) << 32
}

fn stream() -> Result<OwnedFd, Errno> {
    socket(AddressFamily::INET, SocketType::STREAM, None)
}

/// Any address: loopback may be down. Nothing listens, so nobody sees it.
const fn anywhere(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)
}

fn free_port() -> Result<u16, Failure> {
    let socket = stream()?;
    bind(&socket, &anywhere(0)).map_err(|errno| Failure::of_bind(errno, Failure::Socket))?;
    Ok(port_of(&socket)?)
}

fn port_of(socket: &OwnedFd) -> Result<u16, Errno> {
    let address: SocketAddrAny = getsockname(socket)?;
    SocketAddrV4::try_from(address).map(|address| address.port())
}
