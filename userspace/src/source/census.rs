//! Who uses the ports that the kernel chooses from, counted over everything in its tables: for the screen while it looks,
//! and for the log now and then.

use std::collections::{BTreeMap, BTreeSet};

use super::sockets::{InventorySocket, Tables};
use crate::event::{Cookie, Inum, PortRange, PortUser, ProcessKey, Protocol, Rest, TcpState};

/// What was counted of one protocol in one network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Where.
    pub netns: Inum,
    /// Of what.
    pub protocol: Protocol,
    /// The ports that the kernel chooses from there, where that can be read.
    pub range: Option<PortRange>,
    /// Ports of it that a socket has.
    pub used: u32,
    /// Whose they are, most first.
    pub users: Vec<PortUser>,
    /// Of others.
    pub rest: Rest,
}

/// Counts sockets on the ports of their namespace's range. `users` of each are named, the others summed up. The own
/// namespace is counted where nothing is used as well.
pub fn count(
    tables: &mut Tables,
    sockets: &[InventorySocket],
    users: usize,
    opener: impl Fn(Cookie) -> Option<ProcessKey>,
) -> Vec<Counted> {
    let mut ranges: BTreeMap<Inum, Option<PortRange>> = BTreeMap::new();
    let mut shares: BTreeMap<(Inum, Protocol), Shares> = BTreeMap::new();
    for socket in sockets {
        let (netns, protocol) = (socket.socket.netns, socket.socket.protocol);
        let range = ranges.entry(netns).or_insert_with(|| tables.port_range(netns).ok());
        if range.as_ref().is_some_and(|range| range.gives(socket.socket.port)) {
            shares.entry((netns, protocol)).or_default().add(socket, &opener);
        }
    }
    let own = tables.own_netns();
    ranges.entry(own).or_insert_with(|| tables.port_range(own).ok());
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        shares.entry((own, protocol)).or_default();
    }
    let counted = shares.into_iter().map(|((netns, protocol), shares)| {
        let range = ranges.get(&netns).cloned().flatten();
        shares.counted(netns, protocol, range, users)
    });
    counted.collect()
}

#[derive(Default)]
struct Shares {
    ports: BTreeSet<u16>,
    users: BTreeMap<ProcessKey, PortUser>,
    rest: Rest,
}

impl Shares {
    fn add(&mut self, socket: &InventorySocket, opener: &impl Fn(Cookie) -> Option<ProcessKey>) {
        let facts = &socket.socket;
        self.ports.insert(facts.port);
        let left = socket.holders.is_empty()
            && !matches!(socket.state, TcpState::Listen | TcpState::Close | TcpState::Established);
        let owner = socket.holders.first().copied().or_else(|| opener(facts.cookie));
        let (open, time_wait) = match owner {
            Some(process) => {
                let (cookie, address, port) = (facts.cookie, facts.address, facts.port);
                let state = (facts.protocol == Protocol::Tcp).then_some(socket.state);
                let new = PortUser {
                    process,
                    ended: false,
                    sockets: 0,
                    time_wait: 0,
                    cookie,
                    address,
                    port,
                    state,
                };
                let share = self.users.entry(process).or_insert(new);
                if port < share.port {
                    (share.cookie, share.address, share.port, share.state) = (cookie, address, port, state);
                }
                (&mut share.sockets, &mut share.time_wait)
            }
            None => (&mut self.rest.sockets, &mut self.rest.time_wait),
        };
        *(if left { time_wait } else { open }) += 1;
    }

    fn counted(self, netns: Inum, protocol: Protocol, range: Option<PortRange>, most: usize) -> Counted {
        let mut users: Vec<PortUser> = self.users.into_values().collect();
        users.sort_by_key(|user| (std::cmp::Reverse(user.total()), user.process));
        let mut rest = self.rest;
        for user in users.iter().skip(most) {
            rest.sockets = rest.sockets.saturating_add(user.sockets);
            rest.time_wait = rest.time_wait.saturating_add(user.time_wait);
        }
        users.truncate(most);
        let used = u32::try_from(self.ports.len()).unwrap_or(u32::MAX);
        Counted { netns, protocol, range, used, users, rest }
    }
}
