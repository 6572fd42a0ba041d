//! Facts about the ports that the kernel chooses from.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Cookie, Inum, ProcessKey, Protocol, Seq, TcpState};

/// The ports that the kernel gives to a socket that asked for none (`net.ipv4.ip_local_port_range`, ip(7)), as read in
/// the network namespace. Told when it is first needed, and when it is not what was told before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRange {
    /// The network namespace.
    pub netns: Inum,
    /// The lowest port.
    pub low: u16,
    /// The highest one.
    pub high: u16,
    /// Parts of it that are never given (`net.ipv4.ip_local_reserved_ports`), first and last port of each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reserved: Vec<(u16, u16)>,
}

impl PortRange {
    /// Whether the kernel may give this port.
    #[must_use]
    pub fn gives(&self, port: u16) -> bool {
        let reserved = self.reserved.iter().any(|(first, last)| (*first..=*last).contains(&port));
        (self.low..=self.high).contains(&port) && !reserved
    }

    /// How many ports it may give.
    #[must_use]
    pub fn size(&self) -> u32 {
        let all = (u32::from(self.high) + 1).saturating_sub(self.low.into());
        let mut reserved: Vec<(u16, u16)> = self
            .reserved
            .iter()
            .map(|(first, last)| ((*first).max(self.low), (*last).min(self.high)))
            .filter(|(first, last)| first <= last)
            .collect();
        reserved.sort_unstable();
        let (mut taken, mut next) = (0, 0_u32);
        for (first, last) in reserved {
            let (first, end) = (u32::from(first).max(next), u32::from(last) + 1);
            taken += end.saturating_sub(first);
            next = next.max(end);
        }
        all - taken
    }
}

/// Who used the ports of the range, counted in the kernel's tables at once: when a call found none, and now and then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortUse {
    /// The failed call's event; 0 when nobody asked.
    pub asked_by: Seq,
    /// The network namespace.
    pub netns: Inum,
    /// The protocol.
    pub protocol: Protocol,
    /// Ports of the range that the kernel may give.
    pub ports: u32,
    /// Those that this call could not have: with a socket in the way, each once. Where nobody asked, those that have
    /// any socket.
    pub used: u32,
    /// Who has them, or had them when they were open: the processes with the most sockets there, most first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<PortUser>,
    /// Processes beyond those, and sockets that cannot be attributed to a process.
    #[serde(default, skip_serializing_if = "Rest::is_empty")]
    pub rest: Rest,
}

/// A process that uses ports of the range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortUser {
    /// Which.
    pub process: ProcessKey,
    /// It had ended when its sockets were counted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
    /// Sockets that it has open.
    #[serde(default)]
    pub sockets: u32,
    /// What is left of its connections: TIME_WAIT, and closing ones that no process has open.
    #[serde(default)]
    pub time_wait: u32,
    /// One of them, on the lowest port.
    pub cookie: Cookie,
    /// Its local address.
    pub address: IpAddr,
    /// That port.
    pub port: u16,
    /// The state of that socket, where it is TCP's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<TcpState>,
}

impl PortUser {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u32 {
        self.sockets.saturating_add(self.time_wait)
    }
}

/// Sockets that no named process accounts for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rest {
    /// Open ones.
    #[serde(default)]
    pub sockets: u32,
    /// What is left of connections.
    #[serde(default)]
    pub time_wait: u32,
}

impl Rest {
    /// There are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.sockets == 0 && self.time_wait == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ports_are_not_given() {
        let range = PortRange {
            netns: Inum(1),
            low: 40_000,
            high: 40_009,
            reserved: vec![(39_990, 40_001), (40_005, 40_005)],
        };
        assert_eq!(range.size(), 7);
        let given: Vec<u16> = (39_989..40_012).filter(|port| range.gives(*port)).collect();
        assert_eq!(given, [40_002, 40_003, 40_004, 40_006, 40_007, 40_008, 40_009]);
        assert_eq!(PortRange { low: 9, high: 8, ..range }.size(), 0);
    }
}
