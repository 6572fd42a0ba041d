//! The ports that the kernel chooses from: their range, and who uses them up when a call found none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Enricher, Fact, Lookups, PortRow, limit};
use crate::event::{
    Body, BootTime, Cookie, Family, Hook, Inum, NetnsCookie, Options, PortRange, PortUse, PortUser,
    ProcessKey, Protocol, Rest, Seq, SocketFacts, TcpState, Uid,
};
use crate::ledger::conflict;
use crate::wire::Call;

/// How long the sockets are not counted again for the same want, ns: a client that finds no port tries again at once.
pub const SURVEY_AGAIN_NS: u64 = 2_000_000_000;
/// Sockets gone through in a second, sockets: one count looks at every one of the protocol in the network namespace.
/// `port-surveys` says when more was wanted.
pub const SURVEYED_PER_SECOND: u32 = 65_536;
/// What a count costs at least, sockets.
pub const SURVEYED_MIN: u32 = 4096;
/// Processes that one count names; the rest are summed up.
pub const USERS_MAX: usize = 10;
/// Wants and network namespaces remembered of each, then all are forgotten: one is counted, or told, again.
const REMEMBERED_MAX: usize = 4096;

/// What a call wanted a port for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Aim {
    /// To connect there, TCP: a port is taken when it is bound, or has a connection to the same place.
    Connect(SocketAddr),
    /// To bind to this address.
    Bind(IpAddr),
}

/// Who wants what where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Want {
    netns: Inum,
    protocol: Protocol,
    aim: Aim,
}

impl Want {
    /// Of a failed connect, whose socket holds the destination.
    pub(super) fn of_connect(call: &Call) -> Self {
        let SocketFacts { netns, protocol, address, port, .. } = call.socket;
        let aim = match (protocol, address) {
            (Protocol::Tcp, _) => Aim::Connect(SocketAddr::new(address.to_canonical(), port)),
            // UDP binds itself first, to the wildcard.
            (_, IpAddr::V4(_)) => Aim::Bind(Ipv4Addr::UNSPECIFIED.into()),
            (_, IpAddr::V6(_)) => Aim::Bind(Ipv6Addr::UNSPECIFIED.into()),
        };
        Self { netns, protocol, aim }
    }

    /// Of a bind or listen that let the kernel choose.
    pub(super) const fn of_bind(call: &Call) -> Self {
        Self { netns: call.socket.netns, protocol: call.socket.protocol, aim: Aim::Bind(call.socket.address) }
    }

    /// Whether a socket keeps its port from the call.
    fn is_kept_by(&self, row: &PortRow) -> bool {
        match &self.aim {
            Aim::Connect(to) => {
                // A port that anybody has bound is passed over, whatever the address (`__inet_hash_connect`).
                matches!(row.state, TcpState::Listen | TcpState::Close)
                    || row
                        .peer
                        .is_some_and(|peer| peer.port() == to.port() && peer.ip().to_canonical() == to.ip())
            }
            Aim::Bind(address) => {
                let wanted = SocketFacts {
                    cookie: Cookie(0),
                    netns: self.netns,
                    netns_cookie: NetnsCookie(0),
                    family: if address.is_ipv4() { Family::Inet } else { Family::Inet6 },
                    protocol: self.protocol,
                    address: *address,
                    port: row.socket.port,
                    options: Options::default(),
                    uid: Uid(0),
                };
                conflict(&wanted, &row.socket)
            }
        }
    }
}

/// What was asked and told of port ranges.
#[derive(Default)]
pub(super) struct Ports {
    ranges: BTreeMap<Inum, PortRange>,
    surveyed: BTreeMap<Want, BootTime>,
    second: u64,
    spent: u32,
    told: bool,
}

impl Ports {
    /// Whether the sockets are to be counted for this want now.
    fn allows(&mut self, want: &Want, at: BootTime, facts: &mut Vec<Fact>) -> bool {
        let recent = |before: &BootTime| at.since(*before) < SURVEY_AGAIN_NS;
        if self.surveyed.get(want).is_some_and(recent) {
            return false;
        }
        let second = at.0 / super::SECOND_NS;
        if second > self.second {
            (self.second, self.spent, self.told) = (second, 0, false);
        }
        if self.spent >= SURVEYED_PER_SECOND {
            if !self.told {
                self.told = true;
                facts.push(limit("port-surveys", SURVEYED_PER_SECOND.into(), "sockets a second", at));
            }
            return false;
        }
        if self.surveyed.len() >= REMEMBERED_MAX {
            self.surveyed.clear();
        }
        self.surveyed.insert(want.clone(), at);
        true
    }
}

/// A process's share while it is counted.
#[derive(Clone, Copy)]
struct Share {
    sockets: u32,
    time_wait: u32,
    first: (u16, Cookie, IpAddr, TcpState),
}

impl<L: Lookups> Enricher<L> {
    /// Tells the range of a network namespace, unless it is as it was told, and gives it.
    pub(super) fn range(&mut self, netns: Inum, at: BootTime, facts: &mut Vec<Fact>) -> Option<PortRange> {
        let range = self.lookups.range(netns)?;
        self.tell_range(range.clone(), at, facts);
        Some(range)
    }

    fn tell_range(&mut self, range: PortRange, at: BootTime, facts: &mut Vec<Fact>) {
        let netns = range.netns;
        if self.ports.ranges.get(&netns) != Some(&range) {
            if self.ports.ranges.len() >= REMEMBERED_MAX {
                self.ports.ranges.clear();
            }
            self.ports.ranges.insert(netns, range.clone());
            facts.push(Fact { at, hook: Hook::Proc, body: Body::PortRange(range) });
        }
    }

    /// Tells who uses the ports of a range, whom nobody asked for.
    pub fn ports_in_use(&mut self, counted: PortUse, range: PortRange, at: BootTime, facts: &mut Vec<Fact>) {
        self.tell_range(range, at, facts);
        for user in &counted.users {
            self.processes.publish(user.process, None, &mut self.cgroups, at, facts);
        }
        facts.push(Fact { at, hook: Hook::SockDiag, body: Body::PortUse(counted) });
    }

    /// A call found no port: counts who has those of the range.
    pub(super) fn survey(&mut self, want: &Want, asked_by: Seq, at: BootTime, facts: &mut Vec<Fact>) {
        if !self.ports.allows(want, at, facts) {
            return;
        }
        let Some(range) = self.range(want.netns, at, facts) else { return };
        let Some(rows) = self.lookups.table(want.netns, want.protocol, at) else { return };
        let looked_at = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        self.ports.spent = self.ports.spent.saturating_add(looked_at.max(SURVEYED_MIN));
        let mut used = BTreeSet::new();
        let mut shares: BTreeMap<ProcessKey, Share> = BTreeMap::new();
        let mut rest = Rest::default();
        let kept = |row: &&PortRow| range.gives(row.socket.port) && want.is_kept_by(row);
        for row in rows.iter().filter(kept) {
            used.insert(row.socket.port);
            let is_left = row.holders.is_empty()
                && !matches!(row.state, TcpState::Listen | TcpState::Close | TcpState::Established);
            let opener = self.lookups.opener(row.socket.cookie);
            let opener = opener.filter(|opener| row.holders.is_empty() || row.holders.contains(opener));
            let first = (row.socket.port, row.socket.cookie, row.socket.address, row.state);
            let (sockets, time_wait) = (u32::from(!is_left), u32::from(is_left));
            let Some(owner) = opener.or(row.holders.first().copied()) else {
                rest.sockets += sockets;
                rest.time_wait += time_wait;
                continue;
            };
            let share = shares.entry(owner).or_insert(Share { sockets: 0, time_wait: 0, first });
            share.sockets += sockets;
            share.time_wait += time_wait;
            share.first = share.first.min(first);
        }
        let mut users: Vec<PortUser> = shares
            .into_iter()
            .map(|(process, Share { sockets, time_wait, first: (port, cookie, address, state) })| PortUser {
                process,
                ended: self.processes.has_ended(process),
                sockets,
                time_wait,
                cookie,
                address,
                port,
                state: (want.protocol == Protocol::Tcp).then_some(state),
            })
            .collect();
        users.sort_by_key(|user| (std::cmp::Reverse(user.total()), user.process));
        for user in users.iter().skip(USERS_MAX) {
            rest.sockets += user.sockets;
            rest.time_wait += user.time_wait;
        }
        users.truncate(USERS_MAX);
        for user in &users {
            self.processes.publish(user.process, None, &mut self.cgroups, at, facts);
        }
        let body = PortUse {
            asked_by,
            netns: want.netns,
            protocol: want.protocol,
            ports: range.size(),
            used: used.len().try_into().unwrap_or(u32::MAX),
            users,
            rest,
        };
        facts.push(Fact { at, hook: Hook::SockDiag, body: Body::PortUse(body) });
    }
}
