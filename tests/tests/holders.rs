//! The holder that is named is who has the socket then, however it came to it.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;

use scenarios::wait::{Deadline, Process, Signal};
use scenarios::{Actor, Finding, Folder, Recording, Report, Run, loopback};

/// A process that nobody else ends.
struct Left(Process);

impl Left {
    fn of(pid: u64) -> Self {
        Self(Process::of(u32::try_from(pid).expect("a process id")))
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        self.0.signal(Signal::KILL);
        let _ended = self.0.ended(Deadline::patient());
    }
}

/// A bind to a port that is held. What it met is looked up then, so it returns when that is over.
fn try_to_bind(recording: &Recording, address: Ipv4Addr, port: u16) {
    let mut newcomer = Actor::new();
    assert_eq!(newcomer.err(&format!("bind tcp {address}:{port}")), "EADDRINUSE");
    recording.fence();
}

fn pids(finding: &Finding) -> Vec<u64> {
    let mut pids = finding.pids();
    pids.sort_unstable();
    pids
}

fn refused(report: &Report, address: Ipv4Addr, port: u16) -> Finding {
    refused_by(report, address, port, "listener")
}

fn refused_by(report: &Report, address: Ipv4Addr, port: u16, cause: &str) -> Finding {
    let mut found = report.on(address, u64::from(port));
    found.retain(|finding| finding.kind() == "refused");
    assert_eq!(found.len(), 1, "{found:#?}");
    let finding = found.remove(0);
    assert_eq!(finding.cause(), Some(cause), "{finding:#?}");
    finding
}

#[test]
fn forked_children_hold_what_they_did_not_close() {
    let recording = Recording::start();
    let address = loopback();
    let (mut master, mut stranger) = (Actor::new(), Actor::new());
    for port in [8000, 8001] {
        master.bind(&format!("tcp {address}:{port} reuseport listen"));
    }
    let children: Vec<u64> = (0..2).map(|_| master.ok("fork").number("pid")).collect();
    // The first lets go of one of the two; of the other, the parent does.
    master.ok("tell 1 close 1");
    master.ok("close 2");
    for port in [8000, 8001] {
        stranger.bind(&format!("tcp {address}:{port} reuseport listen"));
    }
    recording.fence();
    let report = recording.stop().report();
    let (master, stranger) = (u64::from(master.pid()), u64::from(stranger.pid()));
    let sorted = |mut pids: Vec<u64>| {
        pids.sort_unstable();
        pids
    };
    for (port, holders) in [(8000, [master, children[1]]), (8001, [children[0], children[1]])] {
        let finding = report.only(address, port);
        assert_eq!(finding.kind(), "co-bind");
        assert_eq!(pids(&finding), sorted([&holders[..], &[stranger]].concat()), "{finding:#?}");
        for holder in finding.holders() {
            let inherited = children.contains(&holder.number("pid"));
            assert_eq!(holder.0["inherited_from"].is_null(), !inherited, "{:#}", holder.0);
        }
    }
}

#[test]
fn a_leaked_descriptor_is_named_as_such() {
    let recording = Recording::start();
    let address = loopback();
    let mut server = Actor::new();
    server.bind(&format!("tcp {address}:8000 listen"));
    let folder = Folder::new();
    let fifo = folder.file("fifo");
    let _made = Run::new("mkfifo").args([&fifo]).outcome().expect(0);
    let cat = server.ok(&format!("leak 1 cat {}", fifo.display())).number("pid");
    let _left = Left::of(cat);
    // It is the other program when it has opened its file.
    let _open = File::options().write(true).open(&fifo).expect("a reader");
    let server_pid = u64::from(server.pid());
    server.exit();
    try_to_bind(&recording, address, 8000);
    let finished = recording.stop();
    let finding = refused_by(&finished.report(), address, 8000, "orphan");
    assert_eq!(finding.pids(), [cat]);
    let holder = finding.holders().remove(0);
    let fifo = fifo.to_str().expect("a path");
    assert_eq!((holder.text("comm"), holder.texts("cmdline")), ("cat", vec!["cat", fifo]));
    assert!(holder.text("inherited_from").starts_with(&format!("{server_pid}@")), "{:#}", holder.0);
    let parents: Vec<u64> = holder.0["parents"]
        .as_array()
        .expect("parents")
        .iter()
        .filter_map(|parent| parent["pid"].as_u64())
        .collect();
    assert_eq!(parents.first(), Some(&server_pid), "it ended, and is remembered as the parent");
}

#[test]
fn a_socket_in_a_message_is_nobodys_until_it_is_received() {
    let recording = Recording::start();
    let address = loopback();
    let name = format!("bindwatch-test-flight-{}", std::process::id());
    let (mut binder, mut taker) = (Actor::new(), Actor::new());
    taker.ok(&format!("inbox {name}"));
    for port in [8000, 8001] {
        let id = binder.bind(&format!("tcp {address}:{port} listen")).id;
        binder.ok(&format!("post {id} {name}"));
        binder.ok(&format!("close {id}"));
    }
    taker.ok("unpost");
    try_to_bind(&recording, address, 8000);
    try_to_bind(&recording, address, 8001);
    let report = recording.stop().report();
    assert_eq!(refused(&report, address, 8000).pids(), [u64::from(taker.pid())]);
    let flying = refused(&report, address, 8001);
    assert!(flying.holders().is_empty(), "{flying:#?}");
    assert_eq!(flying.0["last_owner"]["pid"], u64::from(binder.pid()), "{flying:#?}");
    assert!(!report.doubts(&flying), "{flying:#?}");
}

#[test]
fn a_file_that_only_io_uring_has_is_nobodys() {
    let recording = Recording::start();
    let address = loopback();
    let mut server = Actor::new();
    server.bind(&format!("tcp {address}:8000 listen"));
    server.ok("uring-keep 1");
    try_to_bind(&recording, address, 8000);
    let finding = refused(&recording.stop().report(), address, 8000);
    assert!(finding.holders().is_empty(), "{finding:#?}");
    assert_eq!(finding.0["last_owner"]["pid"], u64::from(server.pid()), "{finding:#?}");
}

#[test]
fn a_descriptor_that_was_fetched_makes_a_holder() {
    let recording = Recording::start();
    let address = loopback();
    let (mut server, mut thief) = (Actor::new(), Actor::new());
    server.bind(&format!("tcp {address}:8000 listen"));
    let fd = server.ok("fd 1").number("fd");
    thief.ok(&format!("fetch {} {fd}", server.pid()));
    server.ok("close 1");
    try_to_bind(&recording, address, 8000);
    let finding = refused(&recording.stop().report(), address, 8000);
    assert_eq!(finding.pids(), [u64::from(thief.pid())]);
}

#[test]
fn activation_upgrade_and_a_parent_that_ends() {
    let recording = Recording::start();
    let address = loopback();

    // Socket activation: the one that bound keeps the socket, and a service has it too.
    let mut activator = Actor::new();
    activator.bind(&format!("tcp {address}:8000 listen"));
    let service = activator.ok("spawn 1").number("pid");
    try_to_bind(&recording, address, 8000);

    // Binary upgrade: the new image is a child with the socket, and the old one goes.
    let mut old = Actor::new();
    old.bind(&format!("tcp {address}:8001 listen"));
    let new = old.ok("spawn 1").number("pid");
    let _new = Left::of(new);
    old.ok("tell 1 stay");
    let old_pid = u64::from(old.pid());
    old.exit();
    try_to_bind(&recording, address, 8001);

    // An image in place of another keeps what it names.
    let mut same = Actor::new();
    same.bind(&format!("tcp {address}:8002 listen"));
    same.ok("exec 1");
    try_to_bind(&recording, address, 8002);

    let report = recording.stop().report();
    let mut both = vec![u64::from(activator.pid()), service];
    both.sort_unstable();
    assert_eq!(pids(&refused(&report, address, 8000)), both);
    let upgraded = refused(&report, address, 8001);
    assert_eq!(upgraded.pids(), [new]);
    let holder = upgraded.holders().remove(0);
    assert_eq!(holder.0["parents"][0]["pid"], old_pid, "as it was at fork: {:#}", holder.0);
    assert_eq!(refused(&report, address, 8002).pids(), [u64::from(same.pid())]);
}

#[test]
fn a_holder_may_be_in_another_namespace_than_its_socket() {
    let recording = Recording::start();
    let address = loopback();
    let mut server = Actor::new();
    server.bind(&format!("tcp {address}:8000 listen"));
    server.ok("unshare-net");
    let own = std::fs::metadata("/proc/self/ns/net").expect("a namespace").ino();
    try_to_bind(&recording, address, 8000);
    let finding = refused(&recording.stop().report(), address, 8000);
    assert_eq!(finding.pids(), [u64::from(server.pid())]);
    assert_eq!(finding.number("netns"), own, "the socket's");
}

/// Listings of all descriptors, beside some hundred thousand closes.
const LOOKS: u32 = 120;

/// The kernel holds each file for as long as a listing of files is at it: whoever closes it then has not closed it yet. From 5.17 on
/// processes are listed, and nothing is held.
#[test]
fn a_look_at_descriptors_keeps_no_port_taken() {
    let address = loopback();
    let mut closing = Actor::new();
    std::thread::scope(|scope| {
        let looks =
            scope.spawn(|| (0..LOOKS).for_each(|_| drop(Run::bindwatch(["list"]).outcome().expect(0))));
        let mut refused = 0;
        while !looks.is_finished() {
            refused += closing.ok(&format!("again 1000 udp {address}:8000")).number("refused");
        }
        assert_eq!(refused, 0);
    });
}

/// Ports with a process that got the socket a moment ago.
const LATE: u16 = 40;

/// Many refused calls are answered with one look at all descriptors, but none with a look from before it.
#[test]
fn no_look_serves_a_call_that_came_after_it() {
    let recording = Recording::start();
    let (address, crowd) = (loopback(), loopback());
    let mut server = Actor::new();
    server.bind(&format!("tcp {crowd}:8000 listen"));
    let mut activator = Actor::new();
    let is_done = std::sync::atomic::AtomicBool::new(false);
    let services: Vec<u64> = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                assert_eq!(Actor::new().err(&format!("bind tcp {crowd}:8000")), "EADDRINUSE");
            }
        });
        let got = (0..LATE)
            .map(|nth| {
                let id = activator.bind(&format!("tcp {address}:{} listen", 8000 + nth)).id;
                let service = activator.ok(&format!("spawn {id}")).number("pid");
                assert_eq!(Actor::new().err(&format!("bind tcp {address}:{}", 8000 + nth)), "EADDRINUSE");
                service
            })
            .collect();
        is_done.store(true, std::sync::atomic::Ordering::Relaxed);
        got
    });
    recording.fence();
    let report = recording.stop().report();
    for (port, service) in (8000..).zip(services) {
        // Those that came later have it too.
        let found = refused(&report, address, port).pids();
        assert!(found.contains(&service), "{port}: {found:?} without {service}");
    }
}
