//! `exhausted` (no free port was left) and `orphan` (a socket outlived its job).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::Ledger;
use super::finding::{FindingId, HolderState, Kind};
use super::record::{Failure, Member};
use crate::event::{
    BootTime, ConnectFailed, Cookie, Family, Inum, Job, ProcessKey, Protocol, Seq, SocketFacts,
};

/// Holders that an `exhausted` names: those with the most sockets.
const SPENDERS_MAX: usize = 10;

/// What makes two failures one incident.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Spent {
    netns: Inum,
    protocol: Protocol,
    destination: Option<SocketAddr>,
    program: (String, String),
}

impl Ledger {
    /// A connection found no local port.
    pub(super) fn no_port_to_connect(&mut self, failed: &ConnectFailed, at: BootTime, seq: Seq) {
        let family = if failed.destination.is_ipv4() { Family::Inet } else { Family::Inet6 };
        let any: IpAddr = match family {
            Family::Inet => [0, 0, 0, 0].into(),
            Family::Inet6 => [0_u16; 8].into(),
        };
        let socket = SocketFacts {
            cookie: failed.cookie,
            netns: failed.netns,
            netns_cookie: crate::event::NetnsCookie(0),
            family,
            protocol: failed.protocol,
            address: any,
            port: 0,
            options: crate::event::Options::default(),
            uid: crate::event::Uid(0),
        };
        let destination = SocketAddr::new(failed.destination, failed.destination_port);
        let member = Member { seq, ..Member::new(&socket, Some(failed.process), HolderState::Closed) };
        self.exhausted(
            &socket,
            Some(destination),
            Failure { member, errno: failed.errno, call: "connect" },
            at,
            seq,
        );
    }

    /// No port was left for a call that let the kernel choose.
    pub(super) fn exhausted(
        &mut self,
        on: &SocketFacts,
        destination: Option<SocketAddr>,
        failure: Failure,
        at: BootTime,
        seq: Seq,
    ) {
        let program = failure.member.process.map(|process| self.kin.program(process)).unwrap_or_default();
        let key = Spent { netns: on.netns, protocol: on.protocol, destination, program };
        let id = match self.spent.get(&key) {
            Some(id) => *id,
            None => {
                let Some(id) = self.open(Kind::Exhausted, on, at) else { return };
                self.spent.insert(key, id);
                let spenders = self.spenders(on);
                let Some(record) = self.findings.get_mut(id.0 as usize - 1) else { return };
                record.count = 0;
                record.destination = destination;
                record.join(spenders, &mut self.kin);
                id
            }
        };
        self.kin.refer(failure.member.process);
        if let Some(record) = self.record_mut(id) {
            record.count += 1;
            record.last_seen = at;
            record.victim = Some(failure);
            record.prove(seq);
        }
        self.touch(id);
    }

    /// Who has the most sockets in a namespace and protocol: one entry a process.
    fn spenders(&self, on: &SocketFacts) -> Vec<Member> {
        let mut counts: BTreeMap<ProcessKey, Vec<Cookie>> = BTreeMap::new();
        for socket in self.sockets.iter() {
            if (socket.facts.netns, socket.facts.protocol) == (on.netns, on.protocol) {
                for holding in &socket.holders {
                    counts.entry(holding.process).or_default().push(socket.facts.cookie);
                }
            }
        }
        let mut ranked: Vec<(ProcessKey, Vec<Cookie>)> = counts.into_iter().collect();
        ranked.sort_by_key(|(process, cookies)| (std::cmp::Reverse(cookies.len()), *process));
        let chosen = ranked.into_iter().take(SPENDERS_MAX);
        let members =
            chosen.flat_map(|(process, cookies)| cookies.into_iter().map(move |cookie| (process, cookie)));
        members
            .filter_map(|(process, cookie)| {
                let socket = self.sockets.get(cookie)?;
                let holding = socket.holders.iter().find(|holding| holding.process == process)?;
                Some(Member::of(socket, *holding))
            })
            .collect()
    }

    /// A job ended: what its processes still hold outlives it.
    pub(super) fn job_ended(&mut self, job: &Job, at: BootTime, seq: Seq) {
        let below = format!("{}/", job.cgroup.trim_end_matches('/'));
        let is_jobs = |process: ProcessKey| {
            job.left.contains(&process)
                || self.kin.get(process).is_some_and(|kin| {
                    !job.cgroup.is_empty()
                        && job.cgroup != "/"
                        && (kin.facts.cgroup == job.cgroup || kin.facts.cgroup.starts_with(&below))
                })
        };
        let orphans: Vec<Cookie> = self
            .sockets
            .iter()
            .filter(|socket| socket.facts.port != 0 && !socket.holders.is_empty())
            .filter(|socket| socket.holders.iter().all(|holding| is_jobs(holding.process)))
            .map(|socket| socket.facts.cookie)
            .collect();
        let mut of_endpoint: BTreeMap<(Inum, Protocol, IpAddr, u16, Vec<ProcessKey>), FindingId> =
            BTreeMap::new();
        for cookie in orphans {
            let Some(socket) = self.sockets.get(cookie).cloned() else { continue };
            let mut holders: Vec<ProcessKey> = socket.holders.iter().map(|holding| holding.process).collect();
            holders.sort_unstable();
            let facts = &socket.facts;
            let key = (facts.netns, facts.protocol, facts.address, facts.port, holders);
            let id = match of_endpoint.get(&key) {
                Some(id) => *id,
                None => {
                    let Some(id) = self.open(Kind::Orphan, facts, at) else { return };
                    of_endpoint.insert(key, id);
                    id
                }
            };
            let members: Vec<Member> =
                socket.holders.iter().map(|holding| Member::of(&socket, *holding)).collect();
            let Some(record) = self.findings.get_mut(id.0 as usize - 1) else { continue };
            record.live = true;
            record.live_sockets.push(cookie);
            record.prove(seq);
            record.join(members, &mut self.kin);
            self.involved.entry(cookie).or_default().push(id);
            self.touch(id);
        }
    }

    /// A socket of an orphan finding was closed.
    pub(super) fn orphan_left(&mut self, id: FindingId, at: BootTime, seq: Seq) {
        if let Some(record) = self.record_mut(id) {
            record.prove(seq);
            record.last_seen = at;
            record.live = !record.live_sockets.is_empty();
        }
    }
}
