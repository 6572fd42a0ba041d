//! Two servers on one port by accident, and everything that looks like it and is meant.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use jiff::{SignedDuration, Timestamp};
use scenarios::{Actor, Recording, Run, bindwatch, loopback};

/// How far the times of a report may be from the test's clock: they are rounded to milliseconds and anchored once.
const SLACK: SignedDuration = SignedDuration::from_millis(20);

#[test]
fn two_servers_of_one_runner_are_one_finding_a_port() {
    let recording = Recording::start();
    let address = loopback();
    let (mut one, mut other) = (Actor::new(), Actor::new());
    for port in 8000..8003 {
        one.ok(&format!("threads 4 tcp {address}:{port} reuseport listen"));
    }
    let before = Timestamp::now();
    for port in 8000..8003 {
        other.ok(&format!("threads 4 tcp {address}:{port} reuseport listen"));
    }
    let bound = Timestamp::now();
    let (one_pid, other_pid) = (u64::from(one.pid()), u64::from(other.pid()));
    recording.fence();
    // The newcomer goes: had the older one gone within a second, it would be a reload.
    let closing = Timestamp::now();
    other.exit();
    let closed = Timestamp::now();
    recording.fence();
    let report = recording.stop().report();

    assert_eq!(report.at(address).len(), 3, "{report}");
    for port in 8000..8003 {
        let finding = report.only(address, port);
        assert_eq!((finding.kind(), finding.severity()), ("co-bind", "error"));
        assert_eq!(
            finding.pids(),
            [one_pid, other_pid],
            "in the order in which they came, threads counted once"
        );
        assert_eq!(finding.text("receives"), "split");
        assert_eq!(finding.0["live"], false);
        assert!(finding.time("first_seen") >= before - SLACK && finding.time("first_seen") <= bound + SLACK);
        assert!(finding.time("last_seen") >= closing - SLACK && finding.time("last_seen") <= closed + SLACK);
        let overlap =
            SignedDuration::from_millis(finding.number("overlap_ms").try_into().unwrap_or(i64::MAX));
        assert!(overlap >= bound.duration_until(closing) - SLACK, "{overlap:?}");
        assert!(overlap <= before.duration_until(closed) + SLACK, "{overlap:?}");
        for holder in finding.holders() {
            assert_eq!(holder.texts("options"), ["SO_REUSEPORT"]);
            assert_eq!(holder.text("comm"), "actor");
            assert_eq!(holder.number("port"), port);
        }
        assert!(!finding.0["evidence"].as_array().expect("evidence").is_empty());
    }
}

#[test]
fn a_co_bind_that_goes_on_is_live() {
    let recording = Recording::start();
    let address = loopback();
    let (mut one, mut other) = (Actor::new(), Actor::new());
    for actor in [&mut one, &mut other] {
        actor.bind(&format!("udp {address}:8000 reuseport"));
    }
    recording.fence();
    let finding = recording.stop().report().only(address, 8000);
    assert_eq!((finding.kind(), finding.text("protocol")), ("co-bind", "udp"));
    assert_eq!(finding.0["live"], true);
    assert!(finding.holders().iter().all(|holder| holder.0["released_at"].is_null()), "{finding:?}");
}

#[test]
fn servers_older_than_the_recording_are_found() {
    let address = loopback();
    let (mut one, mut other) = (Actor::new(), Actor::new());
    for actor in [&mut one, &mut other] {
        actor.bind(&format!("tcp {address}:8000 reuseport listen"));
    }
    let recording = Recording::start();
    recording.fence();
    let finding = recording.stop().report().only(address, 8000);
    assert_eq!(finding.kind(), "co-bind");
    let mut pids = finding.pids();
    pids.sort_unstable();
    let mut expected = [u64::from(one.pid()), u64::from(other.pid())];
    expected.sort_unstable();
    assert_eq!(pids, expected);
    assert!(
        finding.holders().iter().all(|holder| holder.0["bound_at"].is_null()),
        "before the recording: not known"
    );
}

#[test]
fn a_wildcard_beside_a_specific_address_is_a_shadow() {
    let recording = Recording::start();
    let address = loopback();
    let (mut wide, mut narrow) = (Actor::new(), Actor::new());
    // Which port is free on every address is the kernel's to say.
    let port = wide.bind("tcp 0.0.0.0:0 reuseport listen").port;
    narrow.bind(&format!("tcp {address}:{port} reuseport listen"));
    recording.fence();
    let report = recording.stop().report();
    let finding = report.only(address, port);
    assert_eq!((finding.kind(), finding.severity()), ("shadow", "warning"));
    assert_eq!(finding.pids(), [u64::from(wide.pid()), u64::from(narrow.pid())]);
    let receiver = finding.text("receives");
    assert_eq!(receiver, finding.holders()[1].text("lineage"), "the specific address gets the traffic");
}

#[test]
fn sharing_that_is_meant_is_no_finding() {
    let recording = Recording::start();
    let address = loopback();

    // Forked workers with a socket each, and threads.
    let mut prefork = Actor::new();
    prefork.bind(&format!("tcp {address}:8000 reuseport listen"));
    prefork.ok("fork");
    prefork.ok(&format!("tell 1 bind tcp {address}:8000 reuseport listen"));
    prefork.ok(&format!("threads 4 tcp {address}:8000 reuseport listen"));

    // A worker that was started by exec: the holder is its ancestor.
    let mut supervisor = Actor::new();
    supervisor.bind(&format!("tcp {address}:8001 reuseport listen"));
    supervisor.ok("spawn");
    supervisor.ok(&format!("tell 1 bind tcp {address}:8001 reuseport listen"));

    // One socket in many hands: through exec, by message, and after the one who bound it is gone.
    let name = format!("bindwatch-test-handed-{}", std::process::id());
    let (mut binder, mut taker) = (Actor::new(), Actor::new());
    binder.bind(&format!("tcp {address}:8002 listen"));
    binder.ok("spawn 1");
    taker.ok(&format!("inbox {name}"));
    binder.ok(&format!("post 1 {name}"));
    taker.ok("unpost");
    drop(binder);

    // An image that replaces itself.
    let mut replaced = Actor::new();
    replaced.bind(&format!("tcp {address}:8003 reuseport listen"));
    replaced.ok("exec 1");
    replaced.bind(&format!("tcp {address}:8003 reuseport listen"));

    // Different addresses on one port, and different protocols.
    let (mut one, mut other) = (Actor::new(), Actor::new());
    one.bind(&format!("tcp {address}:8004 listen"));
    other.bind(&format!("udp {address}:8004"));
    other.bind(&format!("tcp {}:8004 listen", loopback()));

    recording.fence();
    let report = recording.stop().report();
    let found = report.at(address);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_same_port_in_another_network_namespace_is_another_endpoint() {
    let recording = Recording::start();
    let address = loopback();
    let (mut here, mut there) = (Actor::new(), Actor::new());
    there.ok("unshare-net");
    here.bind(&format!("tcp {address}:8000 reuseport listen"));
    there.bind(&format!("tcp {address}:8000 reuseport listen"));
    recording.wait_for(address, "listen", 2);
    recording.fence();
    let found = recording.stop().report().at(address);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn members_of_a_multicast_group_share_on_purpose() {
    let recording = Recording::start();
    let (mut one, mut other) = (Actor::new(), Actor::new());
    let group = "239.255.77.1";
    let port = one.bind(&format!("udp {group}:0 reuseaddr")).port;
    other.bind(&format!("udp {group}:{port} reuseaddr"));
    for actor in [&mut one, &mut other] {
        actor.ok(&format!("join 1 {group}"));
    }
    recording.fence();
    let group: std::net::Ipv4Addr = group.parse().expect("an address");
    let found = recording.stop().report().on(group, port);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn related_by_user_makes_two_servers_of_one_user_related() {
    let recording = Recording::start();
    let address = loopback();
    let (mut one, mut other) = (Actor::new(), Actor::new());
    for actor in [&mut one, &mut other] {
        actor.bind(&format!("tcp {address}:8000 reuseport listen"));
    }
    recording.fence();
    let finished = recording.stop();
    let log = &finished.log;
    assert_eq!(log.report_with(&["--related-by", "user"]).at(address).len(), 0);
    assert_eq!(log.report_with(&["--related-by", "process"]).at(address).len(), 1);
    let fail_on = ["report", "--fail-on", "co-bind", "--format", "json"];
    drop(Run::new(bindwatch()).args(fail_on).args([log.path()]).outcome().expect(1));
}
