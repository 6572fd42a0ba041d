//! What a call that was handed over asks for, read from its caller's memory.

use std::io::IoSliceMut;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use crate::event::WaitingCall;
use crate::probe::seccomp::{Abi, Notification, SOCKETCALL_BIND, SOCKETCALL_LISTEN, Which};

/// Length of `struct sockaddr_in`.
const V4_LENGTH: usize = 16;
/// Length of `struct sockaddr_in6` without a scope, which the kernel takes as well (RFC 2133).
const V6_LENGTH_MIN: usize = 24;
/// Length of `struct sockaddr_in6`.
const V6_LENGTH: usize = 28;
/// `struct sockaddr_storage`: the kernel takes nothing longer.
const LENGTH_MAX: usize = 128;
/// AF_INET and AF_INET6
const FAMILIES: (u16, u16) = (2, 10);

/// A call that may have to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// `bind()` of this address, whose port is not 0.
    Bind(SocketAddr),
    /// `listen()` with this backlog.
    Listen(i32),
}

impl Wanted {
    pub(super) const fn which(self) -> WaitingCall {
        match self {
            Self::Bind(_) => WaitingCall::Bind,
            Self::Listen(_) => WaitingCall::Listen,
        }
    }
}

/// A call and the descriptor that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) fd: i32,
    pub(super) wanted: Wanted,
}

/// Why a call is the kernel's alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// It could not wait for an endpoint, or its memory is not there.
    Other,
    /// Its caller's memory may not be read (ptrace(2), `PTRACE_MODE_ATTACH_REALCREDS`).
    Hidden,
}

/// Reads a call.
///
/// Whose memory was read is certain only if the notification is valid afterwards.
///
/// # Errors
/// When the kernel alone has to see to it, and why.
pub(super) fn read(call: &Notification) -> Result<Asked, Unread> {
    let [first, second, third, ..] = call.arguments;
    match (call.which, call.abi) {
        (Which::Bind, _) => bind(call.tid, int(first), second, third),
        (Which::Listen, _) => Ok(Asked { fd: int(first), wanted: Wanted::Listen(int(second)) }),
        (Which::Socketcall, Abi::Compat) => {
            let mut bytes = [0; 12];
            read_memory(call.tid, second, &mut bytes)?;
            let argument = |at| word(&bytes, at).ok_or(Unread::Other);
            let [a, b, c] = [argument(0)?, argument(4)?, argument(8)?];
            match u32::try_from(first) {
                Ok(SOCKETCALL_BIND) => bind(call.tid, a.cast_signed(), b.into(), c.into()),
                Ok(SOCKETCALL_LISTEN) => {
                    Ok(Asked { fd: a.cast_signed(), wanted: Wanted::Listen(b.cast_signed()) })
                }
                _ => Err(Unread::Other),
            }
        }
        _ => Err(Unread::Other),
    }
}

fn bind(tid: u32, fd: i32, address: u64, length: u64) -> Result<Asked, Unread> {
    let length = usize::try_from(int(length)).ok().filter(|length| (V4_LENGTH..=LENGTH_MAX).contains(length));
    let mut bytes = [0; V6_LENGTH];
    let bytes = length.and_then(|length| bytes.get_mut(..length.min(V6_LENGTH))).ok_or(Unread::Other)?;
    read_memory(tid, address, bytes)?;
    let address = parse(bytes).ok_or(Unread::Other)?;
    Ok(Asked { fd, wanted: Wanted::Bind(address) })
}

/// The address, where it is one of IP with a port.
fn parse(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(array(bytes, 0)?);
    let port = u16::from_be_bytes(array(bytes, 2)?);
    let address = if family == FAMILIES.0 {
        SocketAddrV4::new(array::<4>(bytes, 4)?.into(), port).into()
    } else if family == FAMILIES.1 && bytes.len() >= V6_LENGTH_MIN {
        let scope = word(bytes, V6_LENGTH_MIN).unwrap_or(0);
        SocketAddrV6::new(Ipv6Addr::from(array::<16>(bytes, 8)?), port, 0, scope).into()
    } else {
        return None;
    };
    (port != 0).then_some(address)
}

fn read_memory(tid: u32, at: u64, bytes: &mut [u8]) -> Result<(), Unread> {
    let length = bytes.len();
    let (Ok(base), Ok(tid)) = (usize::try_from(at), i32::try_from(tid)) else { return Err(Unread::Other) };
    let from = [RemoteIoVec { base, len: length }];
    match process_vm_readv(Pid::from_raw(tid), &mut [IoSliceMut::new(bytes)], &from) {
        Ok(read) if read == length => Ok(()),
        Err(Errno::EPERM) => Err(Unread::Hidden),
        _ => Err(Unread::Other),
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_ne_bytes)
}

/// The kernel looks at the lower half of an argument that is an int.
const fn int(argument: u64) -> i32 {
    (argument & 0xffff_ffff) as u32 as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v6(port: u16, length: usize) -> Vec<u8> {
        let mut bytes = 10_u16.to_ne_bytes().to_vec();
        bytes.extend(port.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(Ipv6Addr::LOCALHOST.octets());
        bytes.extend(7_u32.to_ne_bytes());
        bytes.truncate(length);
        bytes
    }

    #[test]
    fn addresses() {
        let v4 = |family: u16, port: u16| {
            let mut bytes = family.to_ne_bytes().to_vec();
            bytes.extend(port.to_be_bytes());
            bytes.extend([127, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0]);
            bytes
        };
        assert_eq!(parse(&v4(2, 80)), "127.0.0.9:80".parse().ok());
        assert_eq!(parse(&v4(2, 0)), None, "any port will do: there is nothing to wait for");
        assert_eq!(parse(&v4(1, 80)), None, "a unix socket");
        assert_eq!(parse(&v4(10, 80)), None, "too short for IPv6");
        let scoped = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 80, 0, 7);
        assert_eq!(parse(&v6(80, 28)), Some(scoped.into()));
        assert_eq!(parse(&v6(80, 24)), "[::1]:80".parse().ok());
        assert_eq!(parse(&v6(80, 23)), None);
        for length in 0..28 {
            let _ = parse(&v6(80, length));
        }
    }
}
