//! Ports that ran out: who found none, and who has them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::event::{
    ConnectFailed, Cookie, Errno, Family, Inum, NetnsCookie, Options, PortRange, PortUse, PortUser,
    ProcessKey, Protocol, Seq, SocketFacts, Uid,
};

use super::Ledger;
use super::finding::{self, FindingId, HolderState, Kind};
use super::party::Party;
use super::place::PortKey;
use super::record::Moment;
use super::refused::{Call, Sufferer};
use super::socket::{Socket, State};

/// Processes named as users of the range, processes.
const USERS_MAX: usize = 10;
/// Programs told apart that fail alike, the latest, programs.
const INCIDENTS_MAX: usize = 256;
/// Failed calls that wait for a count of the ports, calls.
const PENDING_MAX: usize = 256;

/// What ran out: a port for a bind (no destination), or for connections to one destination.
type Want = (Inum, Protocol, Option<SocketAddr>);

/// What is remembered to put failures together.
#[derive(Default)]
pub(super) struct Shortages {
    known: BTreeMap<Want, Vec<(FindingId, Sufferer)>>,
    /// Findings whose ports may still be counted, by the failed call.
    counted: BTreeMap<Seq, FindingId>,
    /// Failures that are a shortage only if the count says so.
    doubtful: BTreeMap<Seq, (ConnectFailed, Moment)>,
}

/// A range as findings show it.
pub(super) fn shown_range(range: &PortRange) -> finding::PortRange {
    finding::PortRange { low: range.low, high: range.high, ports: range.size(), used: None }
}

impl Ledger {
    pub(super) fn connect_failed(&mut self, failed: &ConnectFailed, now: Moment) {
        let wanted = if failed.protocol == Protocol::Tcp { Errno::EADDRNOTAVAIL } else { Errno::EAGAIN };
        // A socket that was bound has its port: its pair of addresses is in use.
        let bound = self.holdings.get(failed.cookie).is_some_and(|socket| socket.port.port != 0);
        if failed.errno != wanted || bound {
            return;
        }
        // Of IPv6 the same error says that there is no address to connect from: without the tables it proves nothing.
        let plain_v6 =
            matches!(failed.destination, IpAddr::V6(address) if address.to_ipv4_mapped().is_none());
        if plain_v6 && failed.protocol == Protocol::Tcp && !self.is_short(failed) {
            self.shortages.doubtful.insert(now.seq, (failed.clone(), now));
            if self.shortages.doubtful.len() > PENDING_MAX {
                self.shortages.doubtful.pop_first();
            }
            return;
        }
        self.connect_exhausted(failed, now);
    }

    /// Whether this very thing ran out before, for the same program.
    fn is_short(&self, failed: &ConnectFailed) -> bool {
        let victim = Sufferer::of(self, failed.process);
        let known = self.shortages.known.get(&want_of(failed));
        known.is_some_and(|known| known.iter().any(|(_, known)| known.runs_program_of(&victim)))
    }

    fn connect_exhausted(&mut self, failed: &ConnectFailed, now: Moment) {
        let (family, address) = match failed.destination {
            IpAddr::V4(_) => (Family::Inet, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            IpAddr::V6(_) => (Family::Inet6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        };
        let facts = SocketFacts {
            cookie: failed.cookie,
            netns: failed.netns,
            netns_cookie: NetnsCookie::default(),
            family,
            protocol: failed.protocol,
            address,
            port: 0,
            options: Options::default(),
            uid: self.kin.facts(failed.process).map_or(Uid::default(), |facts| facts.uid),
        };
        let call = Call {
            process: failed.process,
            comm: &failed.comm,
            facts: &facts,
            errno: failed.errno,
            name: if failed.is_datagram() { "send" } else { "connect" },
        };
        let (_, _, destination) = want_of(failed);
        self.exhaust(call, destination, now);
    }

    /// No port was left for the call.
    pub(super) fn exhaust(&mut self, call: Call<'_>, destination: Option<SocketAddr>, now: Moment) {
        let port = PortKey::of(call.facts);
        let want = (port.netns, port.protocol, destination);
        let victim = Sufferer::of(self, call.process);
        let known = self.shortages.known.get(&want).map_or(&[][..], Vec::as_slice);
        let again = known.iter().rev().find(|(_, known)| known.runs_program_of(&victim)).map(|(id, _)| *id);
        if again.is_none() && self.records.is_full() {
            self.stats.reached("findings", 1);
            return;
        }
        let before = again.and_then(|id| self.records.get(id));
        let count = before.map_or(1, |record| record.count + 1);
        // Counting the sockets of a namespace is dear, and a storm of failures usual. What the tables said is better.
        let counted = before.is_some_and(|record| record.range.is_some());
        let users = if count.is_power_of_two() && !counted { Some(self.users(port)) } else { None };
        let shown = call.victim(self);
        let record = match again {
            Some(id) => self.records.touch(id),
            None => self.records.open(Kind::Exhausted, port, call.facts.address, now),
        };
        let Some(record) = record else {
            self.stats.reached("findings", 1);
            return;
        };
        let id = record.id;
        record.count = count;
        record.last_seen = now.at;
        record.destination = destination;
        record.victim = Some(shown);
        record.evidence.add(now.seq);
        if let Some(users) = users {
            record.clear_parties();
            for party in users {
                record.join(party);
            }
        }
        self.stats.note_cut(record);
        self.records.link(id, &mut self.holdings);
        self.shortages.counted.insert(now.seq, id);
        if self.shortages.counted.len() > PENDING_MAX {
            self.shortages.counted.pop_first();
        }
        if again.is_none() {
            let known = self.shortages.known.entry(want).or_default();
            if known.len() >= INCIDENTS_MAX {
                known.remove(0);
            }
            known.push((id, victim));
        }
    }

    /// The ports of a range were counted for a call that found none.
    pub(super) fn ports_counted(&mut self, ports: &PortUse, now: Moment) {
        if let Some((failed, then)) = self.shortages.doubtful.remove(&ports.asked_by)
            && ports.used.saturating_mul(2) > ports.ports
        {
            self.connect_exhausted(&failed, then);
        }
        let Some(id) = self.shortages.counted.remove(&ports.asked_by) else { return };
        let port = PortKey { netns: ports.netns, protocol: ports.protocol, port: 0 };
        let holding: Vec<Party> =
            ports.users.iter().filter(|user| user.sockets > 0).map(|user| self.user(port, user)).collect();
        // Nobody has open what lingers: whoever left most of it behind.
        let left = ports.users.iter().filter(|user| user.time_wait > 0);
        let owner = left.max_by_key(|user| (user.time_wait, std::cmp::Reverse(user.process)));
        let owner = owner.map(|user| {
            let mut party = self.user(port, user);
            party.state = HolderState::TimeWait;
            party.holder()
        });
        let users = ports.users.iter().map(|user| {
            let facts = self.kin.facts(user.process);
            finding::PortUser {
                process: user.process,
                comm: facts.map_or_else(String::new, |facts| facts.comm.clone()),
                exe: facts.map_or_else(String::new, |facts| facts.exe.clone()),
                ended: user.ended,
                sockets: user.sockets,
                time_wait: user.time_wait,
            }
        });
        let users = users.collect();
        let range = self.ranges.get(&ports.netns).map(shown_range);
        let Some(record) = self.records.touch(id) else { return };
        record.clear_parties();
        for party in holding {
            record.join(party);
        }
        record.last_owner = owner;
        record.users = users;
        record.others = ports.rest;
        record.range =
            range.map(|range| finding::PortRange { ports: ports.ports, used: Some(ports.used), ..range });
        record.evidence.add(now.seq);
        self.stats.note_cut(record);
        self.records.link(id, &mut self.holdings);
    }

    fn user(&self, port: PortKey, user: &PortUser) -> Party {
        if let Some(socket) = self.holdings.get(user.cookie).filter(|socket| socket.port.netns == port.netns)
        {
            return Party::holding(&self.kin, user.process, socket);
        }
        let facts = SocketFacts {
            cookie: user.cookie,
            netns: port.netns,
            netns_cookie: NetnsCookie::default(),
            family: if user.address.is_ipv4() { Family::Inet } else { Family::Inet6 },
            protocol: port.protocol,
            address: user.address,
            port: user.port,
            options: Options::default(),
            uid: Uid::default(),
        };
        let state = user.state.map_or(State::Bound, |state| State::of(port.protocol, state)).shown();
        Party::named(&self.kin, user.process, "", &facts, state)
    }

    /// The processes with the most sockets in the port's namespace and protocol, one party for each socket: as far as
    /// their binds tell.
    fn users(&self, port: PortKey) -> Vec<Party> {
        let mut counts: BTreeMap<ProcessKey, usize> = BTreeMap::new();
        let is_here = |socket: &&Socket| {
            (socket.port.netns, socket.port.protocol) == (port.netns, port.protocol) && socket.port.port != 0
        };
        for holder in self.holdings.any_order().filter(is_here).flat_map(Socket::holders) {
            *counts.entry(*holder).or_default() += 1;
        }
        let mut most: Vec<(usize, ProcessKey)> =
            counts.into_iter().map(|(process, count)| (count, process)).collect();
        most.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        most.truncate(USERS_MAX);
        let mut parties = Vec::new();
        for (_, process) in most {
            let mut sockets: Vec<&Socket> = self
                .holdings
                .held_by(process)
                .filter_map(|cookie: Cookie| self.holdings.get(cookie))
                .collect();
            sockets.retain(is_here);
            sockets.sort_unstable_by_key(|socket| (socket.known, socket.cookie));
            sockets.truncate(super::party::STAKES_MAX);
            parties.extend(sockets.into_iter().map(|socket| Party::holding(&self.kin, process, socket)));
        }
        parties
    }
}

fn want_of(failed: &ConnectFailed) -> Want {
    // A UDP socket that finds no port finds none for whatever destination, but says so of its own.
    let destination = SocketAddr::new(failed.destination, failed.destination_port);
    (failed.netns, failed.protocol, (!failed.is_datagram()).then_some(destination))
}
