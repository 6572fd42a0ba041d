//! Ports that ran out: who found none, and who has them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::event::{
    ConnectFailed, Cookie, Errno, Family, Inum, NetnsCookie, Options, ProcessKey, Protocol, SocketFacts, Uid,
};

use super::Ledger;
use super::finding::{FindingId, Kind};
use super::party::Party;
use super::place::PortKey;
use super::record::Moment;
use super::refused::{Call, Sufferer};
use super::socket::Socket;

/// Processes named as users of the range, processes.
const USERS_MAX: usize = 10;
/// Programs told apart that fail alike, the latest, programs.
const INCIDENTS_MAX: usize = 16;

/// What ran out: a port for a bind (no destination), or for connections to one destination.
type Want = (Inum, Protocol, Option<SocketAddr>);

/// What is remembered to put failures together.
#[derive(Default)]
pub(super) struct Shortages(BTreeMap<Want, Vec<(FindingId, Sufferer)>>);

impl Ledger {
    pub(super) fn connect_failed(&mut self, failed: &ConnectFailed, now: Moment) {
        let udp = failed.protocol != Protocol::Tcp;
        if failed.errno != Errno::EADDRNOTAVAIL && !(udp && failed.errno == Errno::EAGAIN) {
            return;
        }
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
            name: "connect",
        };
        self.exhaust(call, Some(SocketAddr::new(failed.destination, failed.destination_port)), now);
    }

    /// No port was left for the call.
    pub(super) fn exhaust(&mut self, call: Call<'_>, destination: Option<SocketAddr>, now: Moment) {
        let port = PortKey::of(call.facts);
        let want = (port.netns, port.protocol, destination);
        let victim = Sufferer::of(self, call.process);
        let known = self.shortages.0.get(&want).map_or(&[][..], Vec::as_slice);
        let again = known.iter().rev().find(|(_, known)| known.runs_program_of(&victim)).map(|(id, _)| *id);
        let count = again.and_then(|id| self.records.get(id)).map_or(1, |record| record.count + 1);
        // Counting the sockets of a namespace is dear, and a storm of failures usual.
        let users = if count.is_power_of_two() { Some(self.users(port)) } else { None };
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
        if again.is_none() {
            let known = self.shortages.0.entry(want).or_default();
            if known.len() >= INCIDENTS_MAX {
                known.remove(0);
            }
            known.push((id, victim));
        }
    }

    /// The processes with the most sockets in the port's namespace and protocol, one party for each socket.
    fn users(&self, port: PortKey) -> Vec<Party> {
        let mut counts: BTreeMap<ProcessKey, usize> = BTreeMap::new();
        let all = || self.holdings.between(PortKey { port: 0, ..port }, PortKey { port: u16::MAX, ..port });
        for holder in all().flat_map(Socket::holders) {
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
            sockets.retain(|socket| {
                socket.port.netns == port.netns
                    && socket.port.protocol == port.protocol
                    && socket.port.port != 0
            });
            sockets.sort_unstable_by_key(|socket| (socket.known, socket.cookie));
            sockets.truncate(super::party::STAKES_MAX);
            parties.extend(sockets.into_iter().map(|socket| Party::holding(&self.kin, process, socket)));
        }
        parties
    }
}
