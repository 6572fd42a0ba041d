//! Where a socket sits on a port: address planes, and which places meet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::event::{Family, Inum, Protocol, SocketFacts};

use super::socket::devices_meet;

/// A port of a network namespace: sockets on different ports never conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PortKey {
    pub(super) netns: Inum,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
}

impl PortKey {
    pub(super) const fn of(facts: &SocketFacts) -> Self {
        Self { netns: facts.netns, protocol: facts.protocol, port: facts.port }
    }

    /// As one number, in the same order.
    pub(super) const fn packed(self) -> u64 {
        ((self.netns.0 as u64) << 24) | ((self.protocol as u64) << 16) | self.port as u64
    }
}

/// A local address as the port's address planes see it.
///
/// The IPv4 plane holds `V4` and `Dual`, the IPv6 plane `V6` and `Dual`. v4-mapped addresses are IPv4 ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Place {
    V4(Ipv4Addr),
    /// `::` here is the IPv6 wildcard that keeps to IPv6 (IPV6_V6ONLY).
    V6(Ipv6Addr),
    /// `::` of both families.
    Dual,
}

impl Place {
    pub(super) fn of(facts: &SocketFacts) -> Self {
        match (facts.family, facts.address) {
            (_, IpAddr::V4(address)) => Self::V4(address),
            (Family::Inet6, IpAddr::V6(address)) if address.is_unspecified() && !facts.options.v6_only => {
                Self::Dual
            }
            (_, IpAddr::V6(address)) => address.to_ipv4_mapped().map_or(Self::V6(address), Self::V4),
        }
    }

    /// The address, v4-mapped ones as IPv4.
    pub(super) const fn address(self) -> IpAddr {
        match self {
            Self::V4(address) => IpAddr::V4(address),
            Self::V6(address) => IpAddr::V6(address),
            Self::Dual => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }

    pub(super) const fn is_wildcard(self) -> bool {
        match self {
            Self::V4(address) => address.is_unspecified(),
            Self::V6(address) => address.is_unspecified(),
            Self::Dual => true,
        }
    }

    /// Whether sockets at these places want the same traffic: one plane, and there equal or one a wildcard.
    pub(super) fn meets(self, other: Self) -> bool {
        match (self, other) {
            (Self::Dual, _) | (_, Self::Dual) => true,
            (Self::V4(a), Self::V4(b)) => a == b || a.is_unspecified() || b.is_unspecified(),
            (Self::V6(a), Self::V6(b)) => a == b || a.is_unspecified() || b.is_unspecified(),
            (Self::V4(_), Self::V6(_)) | (Self::V6(_), Self::V4(_)) => false,
        }
    }

    /// How much of the port's traffic the place wants; the kernel prefers the smaller.
    pub(super) const fn breadth(self) -> u8 {
        match self {
            _ if !self.is_wildcard() => 0,
            Self::V4(_) | Self::V6(_) => 1,
            Self::Dual => 2,
        }
    }
}

/// Whether two sockets on one port of one namespace and protocol conflict: their addresses meet in a plane and so do
/// their devices. Options are not looked at.
#[must_use]
pub fn conflict(a: &SocketFacts, b: &SocketFacts) -> bool {
    devices_meet(a.options.device, b.options.device) && Place::of(a).meets(Place::of(b))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

    use super::*;
    use crate::event::{Cookie, NetnsCookie, Options, Uid};

    /// The rows and columns of the kernel's table: v4spec, v4any, v6spec, v6dual, v6only, mapped.
    const ADDRESSES: [(Family, &str, bool); 6] = [
        (Family::Inet, "127.0.0.1", false),
        (Family::Inet, "0.0.0.0", false),
        (Family::Inet6, "::1", false),
        (Family::Inet6, "::", false),
        (Family::Inet6, "::", true),
        (Family::Inet6, "::ffff:127.0.0.1", false),
    ];

    fn place((family, address, v6_only): (Family, &str, bool)) -> Place {
        Place::of(&SocketFacts {
            cookie: Cookie(1),
            netns: Inum(1),
            netns_cookie: NetnsCookie(1),
            family,
            protocol: Protocol::Tcp,
            address: address.parse().unwrap(),
            port: 80,
            options: Options { v6_only, ..Options::default() },
            uid: Uid(0),
        })
    }

    #[test]
    fn places_meet_as_the_kernel_lets_them_collide() {
        // X collides; measured on 5.10, 6.1, 6.12, 6.18 and 7.2.
        let table = ["XX-X-X", "XX-X-X", "--XXX-", "XXXXXX", "--XXX-", "XX-X-X"];
        for (row, cells) in table.iter().enumerate() {
            for (column, cell) in cells.chars().enumerate() {
                let (a, b) = (place(ADDRESSES[row]), place(ADDRESSES[column]));
                assert_eq!(a.meets(b), cell == 'X', "{:?} and {:?}", ADDRESSES[row], ADDRESSES[column]);
            }
        }
    }

    #[test]
    fn different_specific_addresses_do_not_meet() {
        assert!(!place((Family::Inet, "127.0.0.1", false)).meets(place((Family::Inet, "127.0.0.2", false))));
        assert!(!place((Family::Inet6, "::1", false)).meets(place((Family::Inet6, "::2", false))));
        assert!(place((Family::Inet6, "::ffff:0.0.0.0", false)).meets(place((
            Family::Inet,
            "127.0.0.2",
            false
        ))));
    }
}
