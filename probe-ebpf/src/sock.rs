//! Facts about a socket, read from the kernel's `struct sock`.
//!
//! The options are read where they take effect, on the socket, not from the calls that set them: a 32-bit
//! setsockopt, an option set through io_uring or one that failed all look right here.

use bindwatch_probe::abi::config::BitField;
use bindwatch_probe::abi::record::option;

use crate::kernel::{Addr, Front, bits_of, bytes_16, offset};

/// AF_INET
pub const AF_INET: u16 = 2;
/// AF_INET6
pub const AF_INET6: u16 = 10;
/// TCP_CLOSE
pub const TCP_CLOSE: u8 = 7;
/// TCP_LISTEN
pub const TCP_LISTEN: u8 = 10;
/// IPPROTO_TCP
pub const IPPROTO_TCP: u16 = 6;

/// IPPROTO_MPTCP
pub const IPPROTO_MPTCP: u16 = 262;

/// IPPROTO_UDP
pub const IPPROTO_UDP: u16 = 17;
/// IPPROTO_UDPLITE
pub const IPPROTO_UDPLITE: u16 = 136;

/// Words of a socket's front: up to its cookie.
pub const FRONT_WORDS: usize = 13;

/// A `struct sock`.
#[derive(Clone, Copy)]
pub struct Sk(pub Addr);

impl Sk {
    /// The cookie as it stands in the socket: 0 until somebody asked for it. `sock_create` asks.
    #[inline(always)]
    pub fn raw_cookie(self) -> u64 {
        self.0.read(offset!(skc_cookie))
    }

    /// What all sockets begin with (`struct sock_common`), read at once.
    #[inline(always)]
    pub fn front(self) -> Front<FRONT_WORDS> {
        self.0.read_front()
    }

    /// Inode number of the socket's network namespace.
    #[inline(always)]
    pub fn netns(self) -> u32 {
        self.0.follow(offset!(skc_net)).read(offset!(net_inum))
    }

    /// Cookie of the socket's network namespace (5.12; `bpf_get_netns_cookie` is not available to tracing programs).
    #[inline(always)]
    pub fn netns_cookie(self) -> u64 {
        self.0.follow(offset!(skc_net)).read(offset!(net_cookie))
    }

    /// Local port, host order.
    #[inline(always)]
    pub fn port(self) -> u16 {
        self.0.read(offset!(skc_num))
    }

    /// Whether it has its port for good: a bind that is being decided about has a port, and not yet this. Kernel: `__inet_bind`,
    /// `inet_csk_listen_start`, `inet_autobind`.
    #[inline(always)]
    pub fn is_bound(self) -> bool {
        let port: u16 = self.0.read(offset!(inet_sport));
        port != 0 && port == self.port().to_be()
    }

    /// Remote port: not 0 once connected.
    #[inline(always)]
    pub fn remote_port(self) -> u16 {
        self.0.read(offset!(skc_dport))
    }

    /// Address family.
    #[inline(always)]
    pub fn family(self) -> u16 {
        self.0.read(offset!(skc_family))
    }

    /// IP protocol. 16 bits since 5.6; the floor is 5.8.
    #[inline(always)]
    pub fn protocol(self) -> u16 {
        self.0.read(offset!(sk_protocol))
    }

    /// TCP state.
    #[inline(always)]
    pub fn state(self) -> u8 {
        self.0.read(offset!(skc_state))
    }

    /// Bound device, 0 none.
    #[inline(always)]
    pub fn device(self) -> u32 {
        self.0.read(offset!(skc_bound_dev_if))
    }

    /// Owner.
    #[inline(always)]
    pub fn uid(self) -> u32 {
        self.0.read(offset!(sk_uid))
    }

    /// Connections waiting in the accept queue.
    #[inline(always)]
    pub fn backlog(self) -> u32 {
        self.0.read(offset!(sk_ack_backlog))
    }

    /// What has been shut down: 3 means that the socket is being closed.
    #[inline(always)]
    pub fn shutdown(self) -> u8 {
        self.0.read(offset!(sk_shutdown))
    }

    /// It is the subflow of an MPTCP socket. TCP sockets only.
    #[inline(always)]
    pub fn is_mptcp_subflow(self) -> bool {
        self.0.bits(offset!(tcp_is_mptcp)) != 0
    }

    /// The socket that holds the port: of an MPTCP socket its subflow, of others themselves.
    #[inline(always)]
    pub fn of_port(self) -> Self {
        if self.protocol() != IPPROTO_MPTCP {
            return self;
        }
        Self(self.0.follow(offset!(mptcp_first)))
    }

    /// Local address; IPv4 in the first four bytes.
    #[inline(always)]
    pub fn address(self, family: u16) -> [u8; 16] {
        if family == AF_INET6 {
            return self.0.read_16(offset!(skc_v6_rcv_saddr));
        }
        v4(self.0.read(offset!(skc_rcv_saddr)))
    }

    /// Whether the local address is a wildcard.
    #[inline(always)]
    pub fn is_wild(self, family: u16) -> bool {
        if family == AF_INET6 {
            let at = offset!(skc_v6_rcv_saddr);
            return self.0.read::<u64>(at) == 0 && self.0.read::<u64>(at + 8) == 0;
        }
        self.0.read::<u32>(offset!(skc_rcv_saddr)) == 0
    }

    /// Options that decide about sharing.
    #[inline(always)]
    pub fn options(self, family: u16) -> u16 {
        let mut options = 0;
        if self.0.bits(offset!(skc_reuse)) != 0 {
            options |= option::REUSEADDR;
        }
        if self.0.bits(offset!(skc_reuseport)) != 0 {
            options |= option::REUSEPORT;
        }
        if family == AF_INET6 && self.0.bits(offset!(skc_ipv6only)) != 0 {
            options |= option::V6ONLY;
        }
        options
    }

    /// As [`Sk::options`], in less time and with more of the stack.
    #[inline(always)]
    pub fn options_at_once(self, family: u16) -> u16 {
        let (reuse, reuseport, v6only) = (offset!(skc_reuse), offset!(skc_reuseport), offset!(skc_ipv6only));
        // All three lie in one byte, on every kernel so far.
        let byte: u8 = self.0.read(reuse.byte);
        let bits = |field: BitField| {
            if field.byte == reuse.byte { bits_of(byte, field) } else { self.0.bits(field) }
        };
        let mut options = 0;
        if bits(reuse) != 0 {
            options |= option::REUSEADDR;
        }
        if bits(reuseport) != 0 {
            options |= option::REUSEPORT;
        }
        if family == AF_INET6 && bits(v6only) != 0 {
            options |= option::V6ONLY;
        }
        options
    }
}

/// An IPv4 address in network byte order, as the first four bytes of a record's address.
#[inline(always)]
pub fn v4(ip: u32) -> [u8; 16] {
    bytes_16(u64::from(ip), 0)
}
