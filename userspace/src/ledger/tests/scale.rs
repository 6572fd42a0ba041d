//! Many processes, many ports, and the bounds.

use std::fmt::Write as _;

use super::super::finding::Kind;
use super::super::{Ledger, Settings};
use super::story::{Story, check};
use crate::event::{
    Bind, Body, BootTime, Close, Cookie, Door, Event, Exit, Family, Hook, Inum, Known, NetnsCookie, Options,
    Process, ProcessKey, Protocol, Seq, SocketFacts, TcpState, Tid, Uid,
};

#[test]
fn five_hundred_processes_on_fifty_ports_are_fifty_findings() {
    let mut story = String::from("proc R\n");
    for n in 0..500 {
        writeln!(story, "proc P{n} parent=R").unwrap();
    }
    for n in 0..500 {
        writeln!(story, "bind P{n} s{n} udp 127.0.0.1:{} rp", 1000 + n % 50).unwrap();
    }
    let mut told = Feed::default();
    let mut parser = Story::new(Settings::default());
    for line in story.lines() {
        told.body(parser.parse(line));
    }
    told.ledger.check_invariants().unwrap();
    let findings: Vec<_> = told.ledger.findings().collect();
    assert_eq!(findings.len(), 50);
    for finding in findings {
        assert_eq!((finding.kind, finding.live, finding.holders.len()), (Kind::CoBind, true, 10));
    }
}

/// A ledger that is fed without checks.
struct Feed {
    ledger: Ledger,
    seq: u64,
    changed: Vec<super::super::FindingId>,
}

impl Default for Feed {
    fn default() -> Self {
        Self { ledger: Ledger::new(Settings::default()), seq: 0, changed: Vec::new() }
    }
}

impl Feed {
    fn body(&mut self, body: Body) {
        self.seq += 1;
        let event = Event { seq: Seq(self.seq), at: BootTime(self.seq * 1_000), hook: Hook::Bindwatch, body };
        self.changed.clear();
        self.ledger.apply(&event, &mut self.changed);
    }

    fn process(&mut self, tgid: u32, parent: Option<ProcessKey>) -> ProcessKey {
        let process = ProcessKey { tgid, start: u64::from(tgid) };
        self.body(Body::Process(Process {
            parent,
            comm: "p".to_owned(),
            ..Process::new(process, Known::Exec)
        }));
        process
    }

    fn bind(&mut self, process: ProcessKey, cookie: u64, port: u16) {
        let socket = SocketFacts {
            cookie: Cookie(cookie),
            netns: Inum(1),
            netns_cookie: NetnsCookie(1),
            family: Family::Inet,
            protocol: Protocol::Udp,
            address: [127, 0, 0, 1].into(),
            port,
            options: Options { reuse_port: true, ..Options::default() },
            uid: Uid(0),
        };
        let comm = String::new();
        self.body(Body::Bind(Bind {
            process,
            tid: Tid(1),
            comm,
            socket,
            requested_port: port,
            door: Door::Syscall,
        }));
    }

    fn close(&mut self, cookie: u64) {
        self.body(Body::Close(Close { cookie: Cookie(cookie), state: TcpState::Close, backlog: 0 }));
    }
}

#[test]
fn ended_processes_are_forgotten_but_not_those_that_matter() {
    let mut feed = Feed::default();
    let root = feed.process(1, None);
    let middle = feed.process(2, Some(root));
    let child = feed.process(3, Some(middle));
    let holder = feed.process(4, None);
    feed.bind(holder, 1, 80);
    feed.body(Body::Exit(Exit { process: middle }));
    feed.body(Body::Exit(Exit { process: holder }));
    for tgid in 10..60_000 {
        let process = feed.process(tgid, Some(root));
        feed.body(Body::Exit(Exit { process }));
    }
    feed.ledger.check_invariants().unwrap();
    let view = feed.ledger.view();
    assert!(view.processes() < 20_000, "{} are remembered", view.processes());
    // An ancestor of a live process, and the holder of a live socket.
    for process in [root, middle, child, holder] {
        assert!(view.process(process).is_some(), "{process} is forgotten");
    }
    assert!(view.related(root, child));
    assert!(view.process(ProcessKey { tgid: 10, start: 10 }).is_none());
    assert!(feed.ledger.stats().limits.is_empty(), "{:?}", feed.ledger.stats().limits);
}

#[test]
fn too_many_findings_are_counted() {
    let mut feed = Feed::default();
    let (a, b) = (feed.process(1, None), feed.process(2, None));
    for n in 0..10_100_u16 {
        feed.bind(a, u64::from(n) * 2 + 1, n + 1);
        feed.bind(b, u64::from(n) * 2 + 2, n + 1);
    }
    assert_eq!(feed.ledger.findings().count(), 10_000);
    assert_eq!(feed.ledger.stats().limits.get("findings"), Some(&100));
}

#[test]
fn long_lists_are_cut_and_the_incident_still_ends() {
    let mut feed = Feed::default();
    let (a, b) = (feed.process(1, None), feed.process(2, None));
    feed.bind(a, 1_000_000, 80);
    for cookie in 1..=300 {
        feed.bind(b, cookie, 80);
    }
    feed.ledger.check_invariants().unwrap();
    assert!(feed.ledger.stats().limits.contains_key("holder-sockets"));
    assert!(feed.ledger.findings().all(|finding| finding.live && finding.evidence.len() == 64));
    feed.close(1_000_000);
    feed.ledger.check_invariants().unwrap();
    assert!(feed.ledger.findings().all(|finding| !finding.live));
}

#[test]
fn many_sockets_of_one_process_on_one_port_stay_cheap() {
    let mut feed = Feed::default();
    let a = feed.process(1, None);
    // Quadratic would take minutes.
    for cookie in 1..=50_000 {
        feed.bind(a, cookie, 80);
    }
    for cookie in 1..=50_000 {
        feed.close(cookie);
    }
    assert_eq!(feed.ledger.findings().count(), 0);
}

#[test]
fn the_same_events_make_the_same_findings() {
    let mut story = String::from("proc R\n");
    for n in 0..40 {
        writeln!(story, "proc P{n} parent=R exe=/bin/x").unwrap();
        writeln!(story, "bind P{n} s{n} udp 127.0.0.1:{} rp", 80 + n % 3).unwrap();
        writeln!(story, "bind P{n} t{n} udp 0.0.0.0:{} rp", 80 + n % 3).unwrap();
        writeln!(story, "refuse P{n} u{n} udp 127.0.0.1:81").unwrap();
        writeln!(story, "no-port P{n} udp 10.0.0.1:{}", 1 + n % 2).unwrap();
    }
    story += "job end /ci left=P1,P2,P3";
    let run = || {
        let mut told = Story::new(Settings::default());
        told.tell(&story);
        told.ledger.findings().collect::<Vec<_>>()
    };
    let (first, second) = (run(), run());
    assert!(first.len() > 10);
    assert_eq!(first, second);
}

#[test]
fn hostile_ancestry_ends() {
    // Parents in a circle cannot be, and do no harm.
    check(
        "proc A
         proc B parent=A
         proc A parent=B
         proc C
         bind A a udp 127.0.0.1:80 rp
         bind C c udp 127.0.0.1:80 rp",
        "co-bind udp 127.0.0.1:80 live A[a bound] C[c bound] -> split 0ms",
    );
}
