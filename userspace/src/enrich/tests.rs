//! An enricher with answers of the test's own, and processes that are nowhere in `/proc`.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod crowd;
mod inventory;
mod later;
mod ports;
mod processes;
mod refused;
mod sockets;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::*;
use crate::cli::Cmdline;
use crate::event::{Door, Family, NetnsCookie, Options, PortUse, Process, Rest, Tid, Uid};
use crate::wire::{Exec, Fork, Small, Task};

/// Above every PID that the kernel gives (`PID_MAX_LIMIT`, 4 194 304): never in `/proc`.
const NOWHERE: u32 = 5_000_000;

/// A process that does not exist.
pub(super) fn process(number: u32) -> ProcessKey {
    ProcessKey { tgid: NOWHERE + number, start: 700 }
}

/// Answers that the test gives, and what was asked.
#[derive(Default)]
struct Fake {
    rows: Vec<PortRow>,
    holders: BTreeMap<Cookie, Vec<ProcessKey>>,
    openers: BTreeMap<Cookie, ProcessKey>,
    accepted: BTreeMap<Cookie, u64>,
    now: Vec<(SocketFacts, TcpState)>,
    asked_ports: Vec<(Inum, Protocol, u16)>,
    asked_holders: Vec<BTreeSet<Cookie>>,
    /// Who holds what cannot be had.
    is_blind: bool,
    asked_tables: Vec<(Inum, Protocol)>,
    range: Option<(u16, u16)>,
    crowd: Option<Vec<Neighbour>>,
    asked_crowds: u32,
    ignored: Vec<Cookie>,
    /// When it is said to have looked, and how often it did at every descriptor.
    listed_at: u64,
    listings: u32,
}

impl Lookups for Fake {
    fn on_port(&mut self, port: (Inum, Protocol, u16), _since: BootTime) -> Option<(BootTime, Vec<PortRow>)> {
        self.asked_ports.push(port);
        (!self.is_blind).then(|| (BootTime(self.listed_at), self.rows.clone()))
    }

    fn holders(&mut self, cookies: &BTreeSet<Cookie>) -> Option<Open> {
        self.asked_holders.push(cookies.clone());
        let mut holders = self.holders.clone();
        holders.retain(|cookie, _| cookies.contains(cookie));
        (!self.is_blind).then_some(holders)
    }

    fn now(&mut self, cookies: &BTreeSet<Cookie>) -> Vec<(SocketFacts, TcpState)> {
        self.now.iter().filter(|(socket, _)| cookies.contains(&socket.cookie)).cloned().collect()
    }

    fn accepted(&mut self, listener: Cookie, _closed: bool) -> Option<u64> {
        self.accepted.get(&listener).copied()
    }

    fn open_sockets(&mut self) -> Option<(BootTime, Open)> {
        self.listings += 1;
        Some((BootTime(self.listed_at), self.holders.clone()))
    }

    fn crowd(&mut self, _netns: Inum, _protocol: Protocol, _port: u16) -> Option<Vec<Neighbour>> {
        self.asked_crowds += 1;
        self.crowd.clone()
    }

    fn ignore(&mut self, cookie: Cookie) {
        self.ignored.push(cookie);
    }

    fn opener(&mut self, cookie: Cookie) -> Option<ProcessKey> {
        self.openers.get(&cookie).copied()
    }

    fn table(&mut self, netns: Inum, protocol: Protocol, _since: BootTime) -> Option<Vec<PortRow>> {
        self.asked_tables.push((netns, protocol));
        Some(self.rows.clone())
    }

    fn range(&mut self, netns: Inum) -> Option<PortRange> {
        self.range.map(|(low, high)| PortRange { netns, low, high, reserved: Vec::new() })
    }
}

struct Bench {
    enricher: Enricher<Fake>,
    cgroups: tempfile::TempDir,
    now: u64,
    next: Seq,
}

impl Bench {
    fn new() -> Self {
        Self::with(Processes::new(Cmdline::Full, |_| {}))
    }

    fn with(processes: Processes) -> Self {
        let cgroups = tempfile::tempdir().unwrap();
        let enricher = Enricher::new(processes, cgroup2::Paths::new(cgroups.path()), Fake::default());
        Self { enricher, cgroups, now: 10_000_000_000, next: Seq(1) }
    }

    /// What a record becomes. Every record is 1 µs later than the one before.
    fn feed(&mut self, record: Record) -> Vec<Body> {
        self.feed_from(Hook::PostBind4, record)
    }

    /// As [`Bench::feed`], of another hook.
    fn feed_from(&mut self, hook: Hook, record: Record) -> Vec<Body> {
        self.now += 1_000;
        let mut facts = Vec::new();
        let stamped = Stamped { at: BootTime(self.now), hook, after_loss: false, record };
        self.enricher.record(stamped, self.next, &mut facts);
        self.bodies(facts)
    }

    /// Lets time pass, and does what is due then.
    fn wait(&mut self, ns: u64) -> Vec<Body> {
        self.wait_beside(ns, &[])
    }

    /// As [`Bench::wait`], with records that are made before what is looked at has been.
    fn wait_beside(&mut self, ns: u64, meanwhile: &[Record]) -> Vec<Body> {
        self.now += ns;
        let (now, mut facts) = (BootTime(self.now), Vec::new());
        let seen = self.enricher.due(now, &mut facts);
        let stamped = |record: &Record| Stamped {
            at: now,
            hook: Hook::Setsockopt,
            after_loss: false,
            record: record.clone(),
        };
        let meanwhile: Vec<Stamped> = meanwhile.iter().map(stamped).collect();
        self.enricher.looked(seen, now, &meanwhile, &mut facts);
        self.bodies(facts)
    }

    fn name(&mut self, process: ProcessKey) -> Vec<Body> {
        let mut facts = Vec::new();
        self.enricher.name(process, BootTime(self.now), &mut facts);
        self.bodies(facts)
    }

    fn bodies(&mut self, facts: Vec<Fact>) -> Vec<Body> {
        self.next.0 += facts.len() as u64;
        facts.into_iter().map(|fact| fact.body).collect()
    }

    fn fork(&mut self, parent: u32, child: u32) {
        let fork = Fork { parent: process(parent), child: process(child), session: 9 };
        assert_eq!(self.feed(Record::Fork(fork)), []);
    }

    fn exec(&mut self, number: u32, path: &str, args: &[&str]) -> Vec<Body> {
        self.feed(exec(number, path, args))
    }

    fn bind(&mut self, number: u32, cookie: u64) -> Vec<Body> {
        self.feed(Record::Bind(call(number, cookie)))
    }
}

fn exec(number: u32, path: &str, args: &[&str]) -> Record {
    Record::Exec(Box::new(Exec {
        task: task(number),
        parent: process(0),
        session: 9,
        filename: path.to_owned(),
        interp: path.to_owned(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        args_cut: false,
    }))
}

fn task(number: u32) -> Task {
    Task {
        process: process(number),
        tid: Tid(NOWHERE + number),
        comm: format!("comm-{number}"),
        uid: Uid(1000),
        cgroup: 0,
    }
}

pub(super) fn socket(cookie: u64) -> SocketFacts {
    SocketFacts {
        cookie: Cookie(cookie),
        netns: Inum(4),
        netns_cookie: NetnsCookie(1),
        family: Family::Inet,
        protocol: Protocol::Tcp,
        address: Ipv4Addr::LOCALHOST.into(),
        port: 8080,
        options: Options::default(),
        uid: Uid(1000),
    }
}

fn call(number: u32, cookie: u64) -> Call {
    Call {
        task: task(number),
        socket: socket(cookie),
        requested_port: 8080,
        errno: Errno(0),
        door: Door::Syscall,
    }
}

fn small(cookie: u64, state: TcpState) -> Small {
    Small { cookie: Cookie(cookie), state, backlog: 0, tgid: 0, netns: Inum(1), port: 8000 }
}

/// The processes among some facts.
fn told(bodies: &[Body]) -> Vec<&Process> {
    bodies
        .iter()
        .filter_map(|body| match body {
            Body::Process(process) => Some(process),
            _ => None,
        })
        .collect()
}

fn keys(bodies: &[Body]) -> Vec<ProcessKey> {
    told(bodies).into_iter().map(|process| process.process).collect()
}

/// The types of some facts, in order.
fn types(bodies: &[Body]) -> Vec<&'static str> {
    bodies.iter().map(Body::type_name).collect()
}
