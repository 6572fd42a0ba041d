//! When two local addresses meet: the address planes and who gets the traffic.
//!
//! Two sockets on one port conflict when they share a plane and are equal there or one is a wildcard. The IPv4 plane
//! holds AF_INET, v4-mapped addresses and the dual-stack wildcard; the IPv6 plane holds the other AF_INET6 addresses.
//! Kernel: `inet_rcv_saddr_equal` in net/ipv4/inet_connection_sock.c; `compute_score` in net/ipv4/inet_hashtables.c and udp.c.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::event::{Family, Options, SocketFacts};

/// How much of a plane an address takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Scope<A> {
    None,
    Any,
    At(A),
}

impl<A: Eq> Scope<A> {
    fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, _) | (_, Self::None) => false,
            (Self::Any, _) | (_, Self::Any) => true,
            (Self::At(a), Self::At(b)) => a == b,
        }
    }
}

/// What a local address takes in, in both planes. Equal reaches are one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reach {
    v4: Scope<Ipv4Addr>,
    v6: Scope<Ipv6Addr>,
}

impl Reach {
    /// Of a socket's local address.
    pub(super) fn of(socket: &SocketFacts) -> Self {
        Self::of_address(socket.family, socket.address, socket.options)
    }

    fn of_address(family: Family, address: IpAddr, options: Options) -> Self {
        let v4 = |ip: Ipv4Addr| if ip.is_unspecified() { Scope::Any } else { Scope::At(ip) };
        match address {
            IpAddr::V4(ip) => Self { v4: v4(ip), v6: Scope::None },
            IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
                Some(mapped) => Self { v4: v4(mapped), v6: Scope::None },
                None if !ip.is_unspecified() => Self { v4: Scope::None, v6: Scope::At(ip) },
                None if options.v6_only || family == Family::Inet => Self { v4: Scope::None, v6: Scope::Any },
                None => Self { v4: Scope::Any, v6: Scope::Any },
            },
        }
    }

    /// Whether traffic to one could be meant for the other.
    pub(super) fn meets(&self, other: &Self) -> bool {
        self.v4.meets(&other.v4) || self.v6.meets(&other.v6)
    }

    /// The address under which a socket is indexed: v4-mapped addresses are IPv4 addresses.
    pub(super) fn canonical(address: IpAddr) -> IpAddr {
        address.to_canonical()
    }

    /// The addresses under which sockets may be indexed that meet this one; None when it may meet any.
    pub(super) fn neighbours(address: IpAddr) -> Option<[IpAddr; 3]> {
        let canonical = Self::canonical(address);
        let wildcards = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let [any4, any6] = wildcards;
        (!canonical.is_unspecified()).then_some([canonical, any4, any6])
    }
}

/// How the kernel ranks a socket for traffic that several could get: a specific address before a wildcard, then
/// AF_INET before IPv4 over AF_INET6. The higher rank gets all.
pub(super) fn rank(socket: &SocketFacts) -> u8 {
    let specific = !socket.address.to_canonical().is_unspecified();
    let is_plain_v4 = socket.family == Family::Inet;
    let is_mapped = matches!(socket.address, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
    match (specific, is_plain_v4, is_mapped) {
        (true, true, _) => 5,
        (true, false, true) => 4,
        // A specific IPv6 address has no rival of the other family.
        (true, false, false) => 5,
        (false, true, _) => 3,
        (false, false, true) => 2,
        (false, false, false) => 1,
    }
}

/// Whether two sockets on one port of one namespace and protocol conflict: their addresses meet and so do their
/// devices.
#[must_use]
pub fn conflict(a: &SocketFacts, b: &SocketFacts) -> bool {
    let (da, db) = (a.options.device.0, b.options.device.0);
    (da == db || da == 0 || db == 0) && Reach::of(a).meets(&Reach::of(b))
}
