//! The naive model: every socket in a list, every pair of them compared.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::super::finding::Kind;
use crate::event::{Cookie, Inum, ProcessKey, Protocol, SocketFacts};

#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) facts: SocketFacts,
    /// Reuse bits that were ever on.
    pub(super) ever: (bool, bool),
    /// Its device was changed.
    pub(super) moved: bool,
    /// It was looked for, and nobody has it.
    pub(super) nobodys: bool,
    pub(super) listens: bool,
    pub(super) stopped: bool,
    pub(super) multicast: bool,
    pub(super) binder: ProcessKey,
    pub(super) holders: Vec<ProcessKey>,
}

/// Everything as plain lists.
#[derive(Default)]
pub(super) struct Model {
    /// Parent and lineage.
    pub(super) processes: BTreeMap<ProcessKey, (Option<ProcessKey>, ProcessKey)>,
    pub(super) order: Vec<ProcessKey>,
    pub(super) sockets: BTreeMap<Cookie, Held>,
}

/// The planes an address is in, and what of each it takes: None all of it.
fn planes(facts: &SocketFacts) -> (Option<Option<IpAddr>>, Option<Option<IpAddr>>) {
    let canonical = facts.address.to_canonical();
    let part = (!canonical.is_unspecified()).then_some(canonical);
    if canonical.is_ipv4() {
        return (Some(part), None);
    }
    let dual = part.is_none() && !facts.options.v6_only;
    (dual.then_some(None), Some(part))
}

fn conflict(a: &SocketFacts, b: &SocketFacts) -> bool {
    let meet = |a: Option<Option<IpAddr>>, b: Option<Option<IpAddr>>| match (a, b) {
        (Some(Some(a)), Some(Some(b))) => a == b,
        (Some(_), Some(_)) => true,
        _ => false,
    };
    let (a4, a6) = planes(a);
    let (b4, b6) = planes(b);
    let devices = (a.options.device.0, b.options.device.0);
    (a.netns, a.protocol, a.port) == (b.netns, b.protocol, b.port)
        && (meet(a4, b4) || meet(a6, b6))
        && (devices.0 == 0 || devices.1 == 0 || devices.0 == devices.1)
}

impl Model {
    pub(super) fn lineage(&self, process: ProcessKey) -> ProcessKey {
        self.processes.get(&process).map_or(process, |known| known.1)
    }

    fn descends(&self, mut process: ProcessKey, from: ProcessKey) -> bool {
        while let Some((Some(parent), _)) = self.processes.get(&process) {
            if *parent == from {
                return true;
            }
            process = *parent;
        }
        false
    }

    fn related(&self, a: ProcessKey, b: ProcessKey) -> bool {
        a == b || self.lineage(a) == self.lineage(b) || self.descends(a, b) || self.descends(b, a)
    }

    fn strangers(&self, a: &Held, b: &Held) -> bool {
        let of = |held: &Held| held.holders.iter().copied().chain([held.binder]).collect::<Vec<_>>();
        of(a).iter().all(|one| of(b).iter().all(|other| !self.related(*one, *other)))
    }

    fn share(a: &Held, b: &Held) -> bool {
        let udp = a.facts.protocol != Protocol::Tcp;
        let options = (a.ever.0 && b.ever.0) || (udp && a.ever.1 && b.ever.1);
        let both = |what: fn(&Held) -> bool| what(a) && what(b);
        let options = options || ((a.moved || b.moved) && (udp || both(|held| held.listens)));
        conflict(&a.facts, &b.facts) && options && both(|held| !held.stopped) && both(|held| !held.multicast)
    }

    /// What the live overlaps must be: kind, where, and who shares there.
    pub(super) fn overlaps(&self) -> Vec<(String, BTreeSet<ProcessKey>)> {
        type Key = (Kind, Inum, Protocol, u16, (bool, IpAddr), (bool, IpAddr));
        let mut found: BTreeMap<Key, (bool, BTreeSet<ProcessKey>)> = BTreeMap::new();
        let end = |facts: &SocketFacts| {
            let (v4, _) = planes(facts);
            let address = facts.address.to_canonical();
            (address.is_ipv6() && v4.is_some(), address)
        };
        for (one, a) in &self.sockets {
            for (other, b) in &self.sockets {
                if one >= other || !Self::share(a, b) {
                    continue;
                }
                let (x, y) = (end(&a.facts), end(&b.facts));
                let kind = if x == y { Kind::CoBind } else { Kind::Shadow };
                let facts = &a.facts;
                let key = (kind, facts.netns, facts.protocol, facts.port, x.min(y), x.max(y));
                let entry = found.entry(key).or_default();
                entry.0 |= self.strangers(a, b);
                entry.1.extend(a.holders.iter().chain(&b.holders));
            }
        }
        let mut lines = Vec::new();
        for ((kind, netns, protocol, port, x, y), (strangers, who)) in found {
            if strangers {
                // The narrower: specific, then a wildcard of one family, then the dual one.
                let breadth = |(dual, address): (bool, IpAddr)| (address.is_unspecified(), dual);
                let (_, address) = if breadth(x) <= breadth(y) { x } else { y };
                lines.push((format!("{kind:?} {netns:?} {protocol} {address} {port}"), who));
            }
        }
        lines.sort();
        lines
    }

    pub(super) fn leave(&mut self, cookie: Cookie) {
        self.sockets.remove(&cookie);
    }

    /// Who keeps a newcomer out.
    pub(super) fn keepers(&self, wanted: &SocketFacts) -> BTreeSet<ProcessKey> {
        let blocks = |held: &&Held| {
            let (new, old) = (wanted.options, held.facts.options);
            let port = new.reuse_port && old.reuse_port && wanted.uid == held.facts.uid;
            let address = new.reuse_addr && old.reuse_addr && !held.listens;
            conflict(wanted, &held.facts) && !port && !address
        };
        self.sockets
            .values()
            .filter(blocks)
            .filter(|held| !held.nobodys)
            .flat_map(|held| held.holders.iter().copied())
            .collect()
    }
}
