//! sock_diag(7) over netlink: asking the kernel for its socket tables, and reading its answers.
//!
//! Only `inet_diag_req_v2` and `inet_diag_msg` (`include/uapi/linux/inet_diag.h`) are spoken; answers are read field by
//! field, and one that does not decode is an error that is counted, not a row. Anybody may ask. The kernel answers for
//! the network namespace in which the netlink socket was opened.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

use super::Row;
use crate::event::{
    Cookie, Family, Ifindex, Inum, NetnsCookie, Options, Protocol, SocketFacts, TcpState, Uid,
};
use crate::wire;

/// Bytes of one receive. The kernel fills answers up to 32 KiB when it is offered as much.
const RECEIVE: usize = 64 << 10;
/// `SOCK_DIAG_BY_FAMILY`
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `NLMSG_ERROR`
const NLMSG_ERROR: u16 = 2;
/// `NLMSG_DONE`
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`
const DUMP_REQUEST: u16 = 0x1 | 0x300;
/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of `struct inet_diag_req_v2`.
const REQUEST: usize = 56;
/// `INET_DIAG_REQ_PROTOCOL`: a protocol that does not fit into the request's one byte.
const REQ_PROTOCOL: u16 = 3;
/// `INET_DIAG_SKV6ONLY`, of listening and unconnected IPv6 sockets.
const SKV6ONLY: u16 = 11;
/// `IPPROTO_MPTCP`
const IPPROTO_MPTCP: u32 = 262;
/// `IPPROTO_RAW`, which stands for "see the attribute" in the request's byte.
const IPPROTO_RAW: u8 = 255;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `idiag_timer` of a TIME_WAIT entry: `idiag_expires` is what is left of it.
const TIMER_TIME_WAIT: u8 = 3;

/// A set of TCP states, as the bits of `idiag_states`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct States(u32);

impl States {
    /// TCP that listens.
    pub const LISTEN: Self = Self(1 << 10);
    /// UDP without a peer; TCP that is bound and does not listen (`TCPF_BOUND_INACTIVE`, 6.8; older kernels have no
    /// list of those).
    pub const BOUND: Self = Self(1 << 7 | 1 << 13);
    /// Ended connections whose addresses are kept.
    pub const TIME_WAIT: Self = Self(1 << 6);
    /// Every connection that is not in TIME_WAIT.
    pub const CONNECTED: Self = Self(0x1b3e);
    /// Everything.
    pub const ALL: Self = Self(u32::MAX);

    /// Both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Table {
    /// The sockets of a protocol. An MPTCP socket shows as the TCP socket below it.
    Of(Protocol),
    /// MPTCP sockets that listen, as the process has them.
    Mptcp,
}

/// A dump that failed.
#[derive(Debug, thiserror::Error)]
pub enum DiagError {
    /// The kernel has no such table, or its module cannot be loaded.
    #[error("this kernel cannot list {0} sockets: {1} is missing, or its module")]
    Absent(&'static str, &'static str),
    /// A system call failed.
    #[error("cannot {0} (netlink, sock_diag): {1}")]
    Io(&'static str, #[source] io::Error),
    /// The kernel said something that is no answer.
    #[error("the kernel's answer about {0} sockets cannot be read: {1} bad messages")]
    Garbled(&'static str, usize),
}

/// A netlink socket for sock_diag, and the network namespace it answers for.
pub(super) struct Diag {
    socket: OwnedFd,
    netns: Inum,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Diag {
    /// Opens one in the caller's network namespace, whose inode number the caller knows.
    pub(super) fn open(netns: Inum) -> Result<Self, DiagError> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            Some(netlink::SOCK_DIAG),
        )
        .map_err(|errno| DiagError::Io("open a socket", errno.into()))?;
        Ok(Self { socket, netns, buffer: Vec::new(), sequence: 0 })
    }

    /// Calls `each` with every socket of a table that is in one of the `states` and, when a port is given, has it.
    ///
    /// The kernel walks its tables while they change: a socket that comes or goes meanwhile may or may not be seen.
    pub(super) fn dump(
        &mut self,
        table: Table,
        family: Family,
        states: States,
        port: Option<u16>,
        mut each: impl FnMut(Row),
    ) -> Result<(), DiagError> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = request(self.sequence, table, family, states, port);
        rustix::net::send(self.socket.as_fd(), &request, SendFlags::empty())
            .map_err(|errno| DiagError::Io("ask for the socket tables", errno.into()))?;
        let mut garbled = 0;
        loop {
            self.buffer.clear();
            self.buffer.reserve(RECEIVE);
            let space = spare_capacity(&mut self.buffer);
            match rustix::net::recv(self.socket.as_fd(), space, RecvFlags::empty()) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other.map_err(|errno| DiagError::Io("read the socket tables", errno.into()))?,
            };
            if self.buffer.is_empty() {
                return Err(DiagError::Garbled(table.name(), garbled + 1));
            }
            let mut rest = self.buffer.as_slice();
            while let Some((message, after)) = split_message(rest) {
                rest = after;
                if message.sequence != self.sequence {
                    continue;
                }
                match message.kind {
                    SOCK_DIAG_BY_FAMILY => match row(message.body, table.protocol(), self.netns) {
                        Some(row) => each(row),
                        None => garbled += 1,
                    },
                    NLMSG_DONE | NLMSG_ERROR => {
                        let status = message.body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                        return match status {
                            0 if garbled > 0 => Err(DiagError::Garbled(table.name(), garbled)),
                            0 => Ok(()),
                            status => Err(table.refused(status)),
                        };
                    }
                    _ => {}
                }
            }
        }
    }
}

impl Table {
    const fn protocol(self) -> Protocol {
        match self {
            Self::Of(protocol) => protocol,
            Self::Mptcp => Protocol::Tcp,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Of(Protocol::Tcp) => "TCP",
            Self::Of(Protocol::Udp) => "UDP",
            Self::Of(Protocol::Udplite) => "UDP-Lite",
            Self::Mptcp => "MPTCP",
        }
    }

    fn refused(self, status: i32) -> DiagError {
        let module = match self {
            Self::Of(Protocol::Tcp) => "CONFIG_INET_TCP_DIAG",
            Self::Of(Protocol::Udp) => "CONFIG_INET_UDP_DIAG",
            Self::Of(Protocol::Udplite) => "CONFIG_INET_UDP_DIAG or UDP-Lite",
            Self::Mptcp => "CONFIG_INET_MPTCP_DIAG",
        };
        let error = io::Error::from_raw_os_error(status.saturating_neg());
        match error.kind() {
            io::ErrorKind::NotFound => DiagError::Absent(self.name(), module),
            _ => DiagError::Io("list the socket tables", error),
        }
    }
}

fn request(sequence: u32, table: Table, family: Family, states: States, port: Option<u16>) -> Vec<u8> {
    let attribute = matches!(table, Table::Mptcp);
    let length = HEADER + REQUEST + if attribute { 8 } else { 0 };
    let mut bytes = Vec::with_capacity(length);
    // struct nlmsghdr
    bytes.extend(u32::try_from(length).unwrap_or(0).to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(DUMP_REQUEST.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    // struct inet_diag_req_v2; no extensions are asked for
    bytes.push(match family {
        Family::Inet => AF_INET,
        Family::Inet6 => AF_INET6,
    });
    bytes.push(match table {
        Table::Of(Protocol::Tcp) => 6,
        Table::Of(Protocol::Udp) => 17,
        Table::Of(Protocol::Udplite) => 136,
        Table::Mptcp => IPPROTO_RAW,
    });
    bytes.extend([0; 2]);
    bytes.extend(states.0.to_ne_bytes());
    // struct inet_diag_sockid: the source port is a filter, the rest of it is not looked at in a dump
    bytes.extend(port.unwrap_or(0).to_be_bytes());
    bytes.resize(HEADER + REQUEST, 0);
    if attribute {
        bytes.extend(8_u16.to_ne_bytes());
        bytes.extend(REQ_PROTOCOL.to_ne_bytes());
        bytes.extend(IPPROTO_MPTCP.to_ne_bytes());
    }
    bytes
}

struct Message<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

/// The first netlink message and what follows it; None at the end, or where a length makes no sense.
fn split_message(bytes: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let mut header = bytes;
    let length = usize::try_from(u32::from_ne_bytes(take(&mut header)?)).ok()?;
    let kind = u16::from_ne_bytes(take(&mut header)?);
    let _flags: [u8; 2] = take(&mut header)?;
    let sequence = u32::from_ne_bytes(take(&mut header)?);
    let body = bytes.get(HEADER..length)?;
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((Message { kind, sequence, body }, after))
}

/// Reads `struct inet_diag_msg` and its attributes.
fn row(body: &[u8], protocol: Protocol, netns: Inum) -> Option<Row> {
    let rest = &mut { body };
    let [family, state, timer, _retransmits] = take(rest)?;
    let port = u16::from_be_bytes(take(rest)?);
    let peer_port = u16::from_be_bytes(take(rest)?);
    let source: [u8; 16] = take(rest)?;
    let destination: [u8; 16] = take(rest)?;
    let device = Ifindex(u32::from_ne_bytes(take(rest)?));
    let cookie_low = u64::from(u32::from_ne_bytes(take(rest)?));
    let cookie_high = u64::from(u32::from_ne_bytes(take(rest)?));
    let expires = u32::from_ne_bytes(take(rest)?);
    let queued = u32::from_ne_bytes(take(rest)?);
    let _write_queue: [u8; 4] = take(rest)?;
    let uid = Uid(u32::from_ne_bytes(take(rest)?));
    let inode = u32::from_ne_bytes(take(rest)?);
    let (family, address, peer) = match family {
        AF_INET => (Family::Inet, v4(source), v4(destination)),
        AF_INET6 => (Family::Inet6, Ipv6Addr::from(source).into(), Ipv6Addr::from(destination).into()),
        _ => return None,
    };
    let state = wire::tcp_state(state).ok()?;
    let options = Options { v6_only: v6_only(rest), device, ..Options::default() };
    Some(Row {
        socket: SocketFacts {
            cookie: Cookie(cookie_high << 32 | cookie_low),
            netns,
            netns_cookie: NetnsCookie::default(),
            family,
            protocol,
            address,
            port,
            options,
            uid,
        },
        state,
        peer: (peer_port != 0).then_some(SocketAddr::new(peer, peer_port)),
        inode,
        queued,
        expires_ms: (timer == TIMER_TIME_WAIT && state == TcpState::TimeWait).then_some(expires),
    })
}

fn v6_only(mut attributes: &[u8]) -> bool {
    loop {
        let mut header = attributes;
        let (Some(length), Some(kind)) = (take(&mut header), take(&mut header)) else { return false };
        let length = usize::from(u16::from_ne_bytes(length));
        if u16::from_ne_bytes(kind) == SKV6ONLY {
            return header.first().is_some_and(|value| *value != 0);
        }
        match attributes.get(length.next_multiple_of(4).max(4)..) {
            Some(after) => attributes = after,
            None => return false,
        }
    }
}

fn v4([a, b, c, d, ..]: [u8; 16]) -> IpAddr {
    Ipv4Addr::new(a, b, c, d).into()
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = bytes.split_first_chunk()?;
    *bytes = tail;
    Some(*head)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

    use super::*;

    /// A message as the kernel writes it: `[::]:8080`, listening, IPV6_V6ONLY behind another attribute.
    fn message() -> Vec<u8> {
        let mut body = vec![AF_INET6, 10, 0, 0];
        body.extend(8080_u16.to_be_bytes());
        body.extend([0; 2 + 16 + 16]);
        body.extend(3_u32.to_ne_bytes());
        body.extend(0x2222_2222_u32.to_ne_bytes());
        body.extend(0x1111_1111_u32.to_ne_bytes());
        for word in [0_u32, 7, 128, 1001, 4711] {
            body.extend(word.to_ne_bytes());
        }
        // INET_DIAG_SHUTDOWN, one byte and its padding; then what is looked for.
        body.extend([5, 0, 8, 0, 1, 0, 0, 0]);
        body.extend([5, 0, 11, 0, 1, 0, 0, 0]);
        body
    }

    #[test]
    fn a_row_is_read_field_by_field() {
        let row = row(&message(), Protocol::Tcp, Inum(9)).unwrap();
        assert_eq!((row.socket.address, row.socket.port), (Ipv6Addr::UNSPECIFIED.into(), 8080));
        assert_eq!(row.socket.cookie, Cookie(0x1111_1111_2222_2222));
        assert_eq!((row.socket.options.v6_only, row.socket.options.device), (true, Ifindex(3)));
        assert_eq!(
            (row.socket.uid, row.inode, row.queued, row.state),
            (Uid(1001), 4711, 7, TcpState::Listen)
        );
        assert_eq!((row.peer, row.expires_ms, row.socket.netns), (None, None, Inum(9)));
    }

    #[test]
    fn no_length_and_no_discriminant_is_taken_for_granted() {
        let whole = message();
        let fixed = whole.len() - 16;
        for cut in 0..=whole.len() {
            assert_eq!(row(&whole[..cut], Protocol::Tcp, Inum(9)).is_some(), cut >= fixed, "cut at {cut}");
        }
        for (at, values) in [(0, [0, 1, 255]), (1, [0, 14, 255])] {
            for value in values {
                let mut odd = whole.clone();
                odd[at] = value;
                assert_eq!(row(&odd, Protocol::Tcp, Inum(9)), None, "byte {at} is {value}");
            }
        }
        // An attribute that claims no length, or more than there is, ends the search.
        for length in [0, 1, 3, 200] {
            let mut odd = whole.clone();
            odd[fixed] = length;
            assert!(row(&odd, Protocol::Tcp, Inum(9)).is_some());
        }
    }

    #[test]
    fn messages_are_split_by_their_lengths_as_far_as_these_make_sense() {
        let ask = request(7, Table::Of(Protocol::Udp), Family::Inet, States::ALL, Some(53));
        let mut two = ask.clone();
        two.extend(request(8, Table::Mptcp, Family::Inet6, States::LISTEN, None));
        let (first, rest) = split_message(&two).unwrap();
        assert_eq!((first.kind, first.sequence, first.body.len()), (SOCK_DIAG_BY_FAMILY, 7, REQUEST));
        let (second, rest) = split_message(rest).unwrap();
        assert_eq!((second.sequence, second.body.len(), rest), (8, REQUEST + 8, &[][..]));
        for cut in 0..ask.len() {
            assert!(split_message(&ask[..cut]).is_none(), "cut at {cut}");
        }
        for length in [0_u32, 15, 73, u32::MAX] {
            let mut odd = ask.clone();
            odd[..4].copy_from_slice(&length.to_ne_bytes());
            assert!(split_message(&odd).is_none(), "length {length}");
        }
    }
}
