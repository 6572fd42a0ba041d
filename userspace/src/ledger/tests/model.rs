//! Random histories, legal and not, against the naive model, compared after every event.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;

use super::super::Settings;
use super::super::finding::{HolderState, Kind};
use super::naive::{Held, Model};
use super::story::Story;
use crate::event::{
    Bind, BindFailed, Body, Close, ConnectFailed, Cookie, Door, Errno, Exit, Family, Found, Gone, Holders,
    Ifindex, Inum, Inventory, InventoryPhase, Job, JobPhase, Known, Listen, Lost, NetnsCookie, OptionSet,
    Options, Process, ProcessKey, Protocol, Seq, Setting, Signal, SocketFacts, TableRow, TcpState, Tid, Uid,
    Unlisten,
};

/// What can happen. Numbers are indices, taken modulo what there is.
#[derive(Clone, Debug)]
enum Step {
    /// A process appears: forked from another, started by another, or from nowhere.
    Appear {
        of: u8,
        how: u8,
    },
    Exec {
        process: u8,
    },
    Exit {
        process: u8,
    },
    Bind {
        process: u8,
        cookie: u8,
        place: Place,
    },
    Refuse {
        process: u8,
        place: Place,
    },
    Listen {
        cookie: u8,
    },
    Unlisten {
        cookie: u8,
    },
    Close {
        cookie: u8,
    },
    Gone {
        cookie: u8,
    },
    Set {
        cookie: u8,
        which: u8,
    },
    Holders {
        cookie: u8,
        who: u8,
    },
    Inventory {
        listed: u32,
        complete: bool,
    },
    Lose,
    /// A job ends, whose are these.
    JobEnd {
        left: u8,
    },
    /// A row of the tables for the last refusal.
    Row {
        place: Place,
        state: u8,
        holder: u8,
    },
    NoPort {
        process: u8,
    },
    Signal {
        process: u8,
    },
}

#[derive(Clone, Copy, Debug)]
struct Place {
    address: u8,
    udp: bool,
    port: u8,
    netns: u8,
    options: u8,
    device: u8,
    owner: u8,
}

const ADDRESSES: [(&str, bool); 8] = [
    ("127.0.0.1", false),
    ("127.0.0.2", false),
    ("0.0.0.0", false),
    ("::1", false),
    ("::", false),
    ("::", true),
    ("::ffff:127.0.0.1", false),
    ("::ffff:0.0.0.0", false),
];

impl Place {
    fn facts(self, cookie: Cookie) -> SocketFacts {
        let (address, v6_only) = ADDRESSES[usize::from(self.address) % ADDRESSES.len()];
        let address: IpAddr = address.parse().unwrap();
        SocketFacts {
            cookie,
            netns: Inum(1 + u32::from(self.netns == 0)),
            netns_cookie: NetnsCookie(1),
            family: if address.is_ipv4() { Family::Inet } else { Family::Inet6 },
            protocol: if self.udp { Protocol::Udp } else { Protocol::Tcp },
            address,
            port: 80 + u16::from(self.port % 2),
            options: Options {
                reuse_port: self.options & 3 != 0,
                reuse_addr: self.options & 4 != 0,
                v6_only,
                device: Ifindex(if self.device > 2 { 0 } else { u32::from(self.device) }),
            },
            uid: Uid(u32::from(self.owner == 0)),
        }
    }
}

fn places() -> impl Strategy<Value = Place> {
    (0..8_u8, any::<bool>(), 0..6_u8, 0..8_u8, 0..8_u8, 0..8_u8, 0..5_u8).prop_map(
        |(address, udp, port, netns, options, device, owner)| Place {
            address,
            udp,
            port: u8::from(port == 0),
            netns,
            options,
            device,
            owner,
        },
    )
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (any::<u8>(), 0..3_u8).prop_map(|(of, how)| Step::Appear { of, how }),
        1 => any::<u8>().prop_map(|process| Step::Exec { process }),
        1 => any::<u8>().prop_map(|process| Step::Exit { process }),
        8 => (any::<u8>(), 0..16_u8, places()).prop_map(|(process, cookie, place)| Step::Bind { process, cookie, place }),
        3 => (any::<u8>(), places()).prop_map(|(process, place)| Step::Refuse { process, place }),
        4 => (0..16_u8).prop_map(|cookie| Step::Listen { cookie }),
        1 => (0..16_u8).prop_map(|cookie| Step::Unlisten { cookie }),
        4 => (0..16_u8).prop_map(|cookie| Step::Close { cookie }),
        1 => (0..16_u8).prop_map(|cookie| Step::Gone { cookie }),
        3 => (0..16_u8, 0..8_u8).prop_map(|(cookie, which)| Step::Set { cookie, which }),
        2 => (0..16_u8, any::<u8>()).prop_map(|(cookie, who)| Step::Holders { cookie, who }),
        1 => (any::<u32>(), any::<bool>()).prop_map(|(listed, complete)| Step::Inventory { listed, complete }),
        1 => Just(Step::Lose),
        1 => any::<u8>().prop_map(|left| Step::JobEnd { left }),
        1 => (places(), 0..4_u8, any::<u8>()).prop_map(|(place, state, holder)| Step::Row { place, state, holder }),
        1 => any::<u8>().prop_map(|process| Step::NoPort { process }),
        1 => any::<u8>().prop_map(|process| Step::Signal { process }),
    ]
}

/// A story and its model, told together.
struct Run {
    story: Story,
    model: Model,
    /// The last failed bind.
    refused: Seq,
}

impl Run {
    fn process(&self, index: u8) -> ProcessKey {
        // Now and then one that nobody has heard of.
        let stranger = ProcessKey { tgid: 9_000 + u32::from(index), start: 1 };
        if index == 255 {
            return stranger;
        }
        let order = &self.model.order;
        order.get(usize::from(index) % order.len().max(1)).copied().unwrap_or(stranger)
    }

    fn apply(&mut self, body: Body) {
        let line = format!("{body:?}");
        self.story.tick();
        self.story.apply(body, &line);
        self.compare();
    }

    fn learn(&mut self, key: ProcessKey, parent: Option<ProcessKey>, lineage: ProcessKey) {
        if self.model.processes.insert(key, (parent, lineage)).is_none() {
            self.model.order.push(key);
        }
        self.apply(Body::Process(Process {
            parent,
            lineage,
            comm: format!("p{}", key.tgid),
            ..Process::new(key, Known::Exec)
        }));
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Appear { of, how } => {
                let number = self.model.order.len() as u32;
                if number >= 12 {
                    return;
                }
                let key = ProcessKey { tgid: 100 + number, start: 10 + u64::from(number) };
                let of = self.model.order.get(usize::from(of) % self.model.order.len().max(1)).copied();
                match (how, of) {
                    (0, Some(of)) => self.learn(key, Some(of), self.model.lineage(of)),
                    (1, Some(of)) => self.learn(key, Some(of), key),
                    _ => self.learn(key, None, key),
                }
            }
            Step::Exec { process } => {
                let key = self.process(process);
                if let Some((parent, _)) = self.model.processes.get(&key).copied() {
                    self.learn(key, parent, key);
                }
            }
            Step::Exit { process } => {
                let process = self.process(process);
                // What is in nobody's hands keeps the names of those who had it last.
                let others = |held: &&mut Held| held.holders.len() > 1 && !held.nobodys;
                for held in self.model.sockets.values_mut().filter(others) {
                    held.holders.retain(|holder| *holder != process);
                }
                self.apply(Body::Exit(Exit { process }));
            }
            Step::Bind { process, cookie, place } => {
                let (process, facts) = (self.process(process), place.facts(Cookie(1 + u64::from(cookie))));
                self.model.sockets.insert(
                    facts.cookie,
                    Held {
                        facts: facts.clone(),
                        ever: (facts.options.reuse_port, facts.options.reuse_addr),
                        moved: false,
                        nobodys: false,
                        listens: false,
                        stopped: false,
                        multicast: false,
                        binder: process,
                        holders: vec![process],
                    },
                );
                let requested_port = facts.port;
                let comm = String::new();
                self.apply(Body::Bind(Bind {
                    process,
                    tid: Tid(1),
                    comm,
                    socket: facts,
                    requested_port,
                    door: Door::Syscall,
                }));
            }
            Step::Refuse { process, place } => self.refuse(self.process(process), place.facts(Cookie(500))),
            Step::Listen { cookie } => {
                let cookie = Cookie(1 + u64::from(cookie));
                let Some(held) = self.model.sockets.get_mut(&cookie) else { return };
                if held.facts.protocol == Protocol::Tcp {
                    (held.listens, held.stopped) = (true, false);
                    let (process, socket) = (held.binder, held.facts.clone());
                    self.apply(Body::Listen(Listen { process, socket }));
                }
            }
            Step::Unlisten { cookie } => {
                let cookie = Cookie(1 + u64::from(cookie));
                if let Some(held) = self.model.sockets.get_mut(&cookie) {
                    (held.listens, held.stopped) = (false, true);
                }
                self.apply(Body::Unlisten(Unlisten { cookie, backlog: 0 }));
            }
            Step::Close { cookie } => {
                let cookie = Cookie(1 + u64::from(cookie));
                self.model.leave(cookie);
                // Most leave nothing behind, some a connection.
                let state = if cookie.0.is_multiple_of(3) { TcpState::Established } else { TcpState::Close };
                self.apply(Body::Close(Close { cookie, state, backlog: 0 }));
            }
            Step::Gone { cookie } => {
                let cookie = Cookie(1 + u64::from(cookie));
                self.model.leave(cookie);
                self.apply(Body::Gone(Gone { cookie }));
            }
            Step::Set { cookie, which } => self.set(Cookie(1 + u64::from(cookie)), which),
            Step::Holders { cookie, who } => {
                let cookie = Cookie(1 + u64::from(cookie));
                let count = usize::from(who % 4);
                let processes: Vec<ProcessKey> =
                    (0..count).map(|n| self.process(who.wrapping_mul(3).wrapping_add(n as u8))).collect();
                if let Some(held) = self.model.sockets.get_mut(&cookie) {
                    held.nobodys = processes.is_empty();
                    if !held.nobodys {
                        held.holders.clone_from(&processes);
                        held.holders.sort_unstable();
                        held.holders.dedup();
                    }
                }
                self.apply(Body::Holders(Holders { cookie, processes }));
            }
            Step::Inventory { listed, complete } => self.inventory(listed, complete),
            Step::JobEnd { left } => {
                let left = (0..left % 4).map(|n| self.process(left.wrapping_add(n))).collect();
                let (name, cgroup) = (String::new(), String::new());
                let phase = JobPhase::End;
                self.apply(Body::Job(Job { phase, name, cgroup, process: None, status: None, left }));
            }
            Step::Row { place, state, holder } => {
                let state = [TcpState::TimeWait, TcpState::FinWait2, TcpState::Listen, TcpState::Close]
                    [usize::from(state)];
                let holders = if holder % 2 == 0 { vec![self.process(holder)] } else { Vec::new() };
                self.apply(Body::Table(TableRow {
                    asked_by: self.refused,
                    socket: place.facts(Cookie(700)),
                    state,
                    peer: None,
                    holders,
                    last_owner: None,
                    outgoing: holder % 4 == 0,
                }));
            }
            Step::NoPort { process } => self.apply(Body::ConnectFailed(ConnectFailed {
                process: self.process(process),
                comm: String::new(),
                cookie: Cookie(800),
                netns: Inum(1),
                protocol: Protocol::Udp,
                destination: [10, 0, 0, 1].into(),
                destination_port: 53,
                errno: Errno::EAGAIN,
            })),
            Step::Signal { process } => {
                self.apply(Body::Signal(Signal { process: self.process(process), sender: None, signal: 15 }));
            }
            Step::Lose => {
                self.apply(Body::Lost(Lost { counts: BTreeMap::from([("bind".to_owned(), 1)]) }));
            }
        }
    }

    fn set(&mut self, cookie: Cookie, which: u8) {
        let setting = match which {
            0 => Setting::ReusePort(true),
            1 => Setting::ReusePort(false),
            2 => Setting::ReuseAddr(true),
            3 => Setting::ReuseAddr(false),
            4 => Setting::Multicast,
            _ => Setting::Device(Ifindex(u32::from(which - 5))),
        };
        if let Some(held) = self.model.sockets.get_mut(&cookie) {
            let options = &mut held.facts.options;
            match setting {
                Setting::ReusePort(on) => options.reuse_port = on,
                Setting::ReuseAddr(on) => options.reuse_addr = on,
                Setting::Device(device) => {
                    held.moved |= options.device != device;
                    options.device = device;
                }
                Setting::Multicast => held.multicast = true,
            }
            held.ever =
                (held.ever.0 || held.facts.options.reuse_port, held.ever.1 || held.facts.options.reuse_addr);
        }
        self.apply(Body::Option(OptionSet { cookie, setting }));
    }

    fn inventory(&mut self, listed: u32, complete: bool) {
        self.apply(Body::Inventory(Inventory { phase: InventoryPhase::Begin, unseen: Vec::new() }));
        let held: Vec<Held> = self.model.sockets.values().cloned().collect();
        let mut looked_into = BTreeSet::new();
        let mut missed = Vec::new();
        for (n, held) in held.into_iter().enumerate() {
            if listed & (1 << (n % 32)) == 0 {
                missed.push(held);
                continue;
            }
            looked_into.insert(held.facts.netns);
            if let Some(listed) = self.model.sockets.get_mut(&held.facts.cookie) {
                listed.nobodys = false;
            }
            let state = if held.listens { TcpState::Listen } else { TcpState::Close };
            self.apply(Body::Socket(Found { socket: held.facts, state, holders: held.holders }));
        }
        for held in missed {
            if complete || looked_into.contains(&held.facts.netns) {
                self.model.leave(held.facts.cookie);
            }
        }
        let unseen = if complete { Vec::new() } else { vec!["somewhere".to_owned()] };
        self.apply(Body::Inventory(Inventory { phase: InventoryPhase::End, unseen }));
    }

    fn refuse(&mut self, process: ProcessKey, facts: SocketFacts) {
        let keepers = self.model.keepers(&facts);
        let (address, port, netns, protocol) = (facts.address, facts.port, facts.netns, facts.protocol);
        self.apply(Body::BindFailed(BindFailed {
            process,
            tid: Tid(1),
            comm: String::new(),
            socket: facts,
            errno: Errno::EADDRINUSE,
            door: Door::Syscall,
        }));
        self.refused = Seq(self.story.seq);
        let told = self.story.ledger.findings().any(|finding| {
            let holders: BTreeSet<ProcessKey> = finding.holders.iter().map(|holder| holder.process).collect();
            finding.kind == Kind::Refused
                && finding.victim.is_some_and(|victim| victim.holder.process == process)
                && (finding.address, finding.port) == (address, port)
                && (finding.netns, finding.protocol) == (netns, protocol)
                // Where no event tells of a holder, a row of the tables may.
                && (keepers.is_empty() || holders == keepers)
        });
        assert!(told, "no refusal of {process} names {keepers:?}");
    }

    fn compare(&self) {
        let mut expected: Vec<String> = Vec::new();
        for held in self.model.sockets.values() {
            let mut holders = held.holders.clone();
            holders.sort_unstable();
            let state = if held.listens { HolderState::Listen } else { HolderState::Bound };
            let facts = &held.facts;
            expected.push(format!(
                "{:?} {:?} {:?} {state:?} {holders:?}",
                facts.cookie, facts.address, facts.options
            ));
        }
        let mut found: Vec<String> = Vec::new();
        for socket in self.story.ledger.view().sockets() {
            let mut holders = socket.processes().to_vec();
            holders.sort_unstable();
            let (address, state) = (socket.address(), socket.state());
            found.push(format!(
                "{:?} {address:?} {:?} {state:?} {holders:?}",
                socket.cookie(),
                socket.options()
            ));
        }
        expected.sort();
        found.sort();
        assert_eq!(found, expected, "holdings");

        let overlaps = self.model.overlaps();
        let mut live: Vec<(String, BTreeSet<ProcessKey>)> = Vec::new();
        for finding in
            self.story.ledger.findings().filter(|finding| finding.live && finding.overlap.is_some())
        {
            let (kind, netns, protocol) = (finding.kind, finding.netns, finding.protocol);
            let line = format!("{kind:?} {netns:?} {protocol} {} {}", finding.address, finding.port);
            let held = finding.holders.iter().filter(|holder| holder.released_at.is_none());
            live.push((line, held.map(|holder| holder.process).collect()));
        }
        live.sort();
        let lines = |of: &[(String, BTreeSet<ProcessKey>)]| {
            of.iter().map(|(line, _)| line.clone()).collect::<Vec<_>>()
        };
        assert_eq!(lines(&live), lines(&overlaps), "live overlaps");
        // Two shadows can have one line; then nobody can say which is which.
        for (line, who) in &overlaps {
            assert!(
                live.iter().any(|(other, held)| other == line && who.is_subset(held)),
                "{line}: {who:?} are not all among {live:?}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_ledger_agrees_with_a_naive_model(steps in prop::collection::vec(steps(), 1..120)) {
        let mut run = Run { story: Story::new(Settings::default()), model: Model::default(), refused: Seq(0) };
        for step in &steps {
            run.step(step);
        }
    }
}
