//! What only a socket itself can tell: whether it is a member of a multicast group.

use std::io;
use std::mem::size_of;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, OwnedFd};

use nix::libc;
use rustix::process::{ForeignRawFd, Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::event::{Cookie, ProcessKey};
use crate::proc::Proc;

/// A multicast group on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// Index of the interface.
    pub interface: u32,
    /// Its address.
    pub address: IpAddr,
}

/// `struct group_filter` without sources (linux/in.h, RFC 3678).
#[repr(C)]
struct Filter {
    interface: u32,
    pad: u32,
    group: libc::sockaddr_storage,
    mode: u32,
    sources: u32,
}

/// GROUP_FILTER_SIZE(0), bytes.
const FILTER_LENGTH: libc::socklen_t = 144;
const _: () = assert!(size_of::<Filter>() == FILTER_LENGTH as usize, "the layout is the kernel's");
/// MCAST_MSFILTER (linux/in.h)
const MCAST_MSFILTER: libc::c_int = 48;

/// Whether a socket of a process is a member of one of these groups. It is asked by a duplicate of the process's descriptor,
/// which is closed at once; nothing of the socket changes.
///
/// # Errors
/// Without the right to trace the process (`pidfd_getfd(2)`, Linux 5.6), and when the descriptor is another by now.
pub fn is_member(process: ProcessKey, fd: u32, cookie: Cookie, groups: &[Group]) -> io::Result<bool> {
    let gone = || io::Error::from(io::ErrorKind::NotFound);
    let pid = i32::try_from(process.tgid).ok().and_then(Pid::from_raw).ok_or_else(gone)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    if Proc::open()?.key(process.tgid) != Some(process) {
        return Err(gone());
    }
    let fd = ForeignRawFd::try_from(fd).map_err(|_| gone())?;
    let socket: OwnedFd = pidfd_getfd(&pidfd, fd, PidfdGetfdFlags::empty())?;
    if rustix::net::sockopt::socket_cookie(&socket)? != cookie.0 {
        return Err(gone());
    }
    Ok(groups.iter().any(|group| has_joined(socket.as_fd(), *group)))
}

/// Asks the socket for the sources that it takes from a group: EADDRNOTAVAIL says that it has not joined.
#[expect(unsafe_code, reason = "there is no safe wrapper")]
fn has_joined(socket: BorrowedFd<'_>, group: Group) -> bool {
    let mut filter = Filter {
        interface: group.interface,
        pad: 0,
        // SAFETY: plain numbers, for which all zeros are a value.
        group: unsafe { std::mem::zeroed() },
        mode: 0,
        sources: 0,
    };
    let address = (&raw mut filter.group).cast::<u8>();
    let level = match group.address {
        IpAddr::V4(ip) => {
            let family = libc::sockaddr_in {
                sin_family: 2,
                sin_port: 0,
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage is larger than any address, and aligned for all of them.
            unsafe { address.cast::<libc::sockaddr_in>().write(family) };
            libc::IPPROTO_IP
        }
        IpAddr::V6(ip) => {
            let family = libc::sockaddr_in6 {
                sin6_family: 10,
                sin6_port: 0,
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: ip.octets() },
                sin6_scope_id: 0,
            };
            // SAFETY: as above.
            unsafe { address.cast::<libc::sockaddr_in6>().write(family) };
            libc::IPPROTO_IPV6
        }
    };
    let mut length = FILTER_LENGTH;
    // SAFETY: the kernel reads and writes at most `length` bytes, which is the size of the filter.
    let answer = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, MCAST_MSFILTER, (&raw mut filter).cast(), &raw mut length)
    };
    answer == 0
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use std::net::{Ipv4Addr, UdpSocket};

    use super::*;

    #[test]
    fn a_socket_tells_of_its_own_groups() {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let (mine, other) = (Ipv4Addr::new(239, 255, 77, 3), Ipv4Addr::new(239, 255, 77, 4));
        let of = |address: Ipv4Addr| Group { interface: 1, address: address.into() };
        let process = Proc::open().unwrap().key(std::process::id()).unwrap();
        let fd = u32::try_from(socket.as_raw_fd()).unwrap();
        let cookie = Cookie(rustix::net::sockopt::socket_cookie(&socket).unwrap());
        assert!(!is_member(process, fd, cookie, &[of(mine), of(other)]).unwrap());
        socket.join_multicast_v4(&mine, &Ipv4Addr::LOCALHOST).unwrap();
        assert!(is_member(process, fd, cookie, &[of(other), of(mine)]).unwrap());
        assert!(!is_member(process, fd, cookie, &[of(other)]).unwrap());
        assert!(!is_member(process, fd, cookie, &[]).unwrap());
        // Another socket by now, another process by now.
        is_member(process, fd, Cookie(u64::MAX), &[of(mine)]).unwrap_err();
        let recycled = ProcessKey { start: 1, ..process };
        is_member(recycled, fd, cookie, &[of(mine)]).unwrap_err();
    }

    #[test]
    fn the_same_in_ipv6() {
        let socket = UdpSocket::bind("[::]:0").unwrap();
        let mine: std::net::Ipv6Addr = "ff02::7703".parse().unwrap();
        let of = |interface| Group { interface, address: mine.into() };
        let process = Proc::open().unwrap().key(std::process::id()).unwrap();
        let fd = u32::try_from(socket.as_raw_fd()).unwrap();
        let cookie = Cookie(rustix::net::sockopt::socket_cookie(&socket).unwrap());
        socket.join_multicast_v6(&mine, 1).unwrap();
        assert!(is_member(process, fd, cookie, &[of(1)]).unwrap());
        assert!(!is_member(process, fd, cookie, &[of(2)]).unwrap());
    }
}
