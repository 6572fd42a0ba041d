//! `--events conflicts`: what is found is the same; what conflicts with nothing leaves no line.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::net::Ipv4Addr;

use scenarios::{Actor, Cgroup, Folder, Log, Recording, Run, loopback};
use serde_json::Value;

fn start() -> Recording {
    Recording::with(["--events", "conflicts"])
}

/// Returns when everything that happened before is in the log: a conflict after it is.
fn fence(recording: &Recording) {
    let address = loopback();
    let (mut one, mut other) = (Actor::new(), Actor::new());
    for actor in [&mut one, &mut other] {
        actor.bind(&format!("udp {address}:9 reuseport"));
    }
    // Who is on the port first is told as a socket, and so is the other where all tables are looked at just then.
    let told = |line: &Value| matches!(line["type"].as_str(), Some("bind" | "socket"));
    recording.wait_for_lines(&format!("\"address\":\"{address}\""), 2, told);
}

/// Types of the lines about sockets at an address, in order.
fn lines(log: &Log, address: Ipv4Addr) -> Vec<String> {
    let of_sockets = |line: &Value| line["socket"]["address"] == address.to_string();
    let found = log.lines(&format!("\"address\":\"{address}\""));
    found
        .iter()
        .filter(|line| of_sockets(line))
        .map(|line| line["type"].as_str().expect("a type").to_owned())
        .collect()
}

#[test]
fn servers_that_share_a_port_are_found_and_the_first_is_looked_up() {
    for protocol in ["tcp", "udp"] {
        // The first one goes, which is no reload here.
        let recording = Recording::with(["--events", "conflicts", "--handover", "1ms"]);
        let address = loopback();
        let what =
            format!("{protocol} {address}:8000 reuseport{}", if protocol == "tcp" { " listen" } else { "" });
        let (mut one, mut other) = (Actor::new(), Actor::new());
        let first = one.bind(&what);
        fence(&recording);
        assert_eq!(lines(recording.log(), address), [""; 0], "it was alone");
        other.bind(&what);
        fence(&recording);
        // Its end is told, though its bind was not.
        one.ok(&format!("close {}", first.id));
        let (one_pid, other_pid) = (u64::from(one.pid()), u64::from(other.pid()));
        fence(&recording);
        let finished = recording.stop();
        let finding = finished.report().only(address, 8000);
        assert_eq!((finding.kind(), finding.0["live"].as_bool()), ("co-bind", Some(false)), "{finding:#?}");
        assert_eq!(finding.pids(), [one_pid, other_pid]);
        let holders = finding.holders();
        assert_eq!(holders[0].text("comm"), "actor");
        assert!(
            holders[0].0["released_at"].is_string() && holders[1].0["released_at"].is_null(),
            "{holders:#?}"
        );
        let told = lines(&finished.log, address);
        assert_eq!(told[..2], ["socket", "bind"], "{told:?}");
    }
}

#[test]
fn many_on_one_port_are_all_found_and_the_next_pair_too() {
    let recording = start();
    let address = loopback();
    let mut actors: Vec<Actor> = (0..5).map(|_| Actor::new()).collect();
    let what = format!("tcp {address}:8000 reuseport listen");
    for actor in &mut actors {
        actor.bind(&what);
    }
    fence(&recording);
    // All but two go, then these, and others come.
    actors.drain(2..).for_each(Actor::exit);
    fence(&recording);
    actors.drain(..).for_each(Actor::exit);
    let (mut one, mut other) = (Actor::new(), Actor::new());
    one.bind(&what);
    fence(&recording);
    other.bind(&what);
    fence(&recording);
    let report = recording.stop().report();
    let found = report.on(address, 8000);
    let holders: Vec<usize> = found.iter().map(|finding| finding.holders().len()).collect();
    assert_eq!(holders, [5, 2], "{report}");
    assert_eq!(found[0].0["live"], false);
    assert_eq!(found[1].0["live"], true);
    assert_eq!(found[1].pids(), [u64::from(one.pid()), u64::from(other.pid())]);
}

#[test]
fn a_wildcard_beside_a_specific_address_is_a_shadow() {
    let recording = start();
    let address = loopback();
    let (mut wide, mut narrow) = (Actor::new(), Actor::new());
    let port = wide.bind("tcp [::]:0 reuseport listen").port;
    narrow.bind(&format!("tcp {address}:{port} reuseport listen"));
    fence(&recording);
    let report = recording.stop().report();
    let finding = report.only(address, port);
    assert_eq!(finding.kind(), "shadow");
    let mut pids = finding.pids();
    pids.sort_unstable();
    let mut expected = [u64::from(wide.pid()), u64::from(narrow.pid())];
    expected.sort_unstable();
    assert_eq!(pids, expected);
}

#[test]
fn what_is_refused_is_explained_by_who_has_it() {
    let recording = start();
    let address = loopback();
    let (mut holder, mut victim) = (Actor::new(), Actor::new());
    holder.bind(&format!("tcp {address}:8000 listen"));
    holder.bind(&format!("udp {address}:8001"));
    assert_eq!(victim.err(&format!("bind tcp {address}:8000")), "EADDRINUSE");
    assert_eq!(victim.err(&format!("bind udp {address}:8001")), "EADDRINUSE");
    // By listen(): both have the port, and one listens on it.
    let mut both = [Actor::new(), Actor::new()];
    let [first, second] = &mut both;
    let id = first.bind(&format!("tcp {address}:8002 reuseaddr")).id;
    let other = second.bind(&format!("tcp {address}:8002 reuseaddr")).id;
    first.ok(&format!("listen {id}"));
    assert_eq!(second.err(&format!("listen {other}")), "EADDRINUSE");
    fence(&recording);
    let report = recording.stop().report();
    for (port, cause) in [(8000, "listener"), (8001, "bound"), (8002, "listener")] {
        let finding = report.only(address, port);
        assert_eq!((finding.kind(), finding.cause()), ("refused", Some(cause)), "{finding:#?}");
        let (one, other) = if port == 8002 { (&both[0], &both[1]) } else { (&holder, &victim) };
        assert_eq!(finding.pids(), [u64::from(one.pid())]);
        assert_eq!(finding.victim().number("pid"), u64::from(other.pid()));
        assert_eq!(finding.victim().text("comm"), "actor");
        assert_eq!(finding.victim().text("address"), address.to_string());
    }
}

#[test]
fn ordinary_binds_leave_no_line() {
    // Ports of this test alone: whom a bind that is over by now had met cannot be looked up.
    let recording = start();
    let address = loopback();
    let mut actor = Actor::new();
    for protocol in ["tcp", "udp"] {
        actor.ok(&format!("binds 200 {protocol} {address}:21000"));
        actor.bind(&format!("{protocol} {address}:21300 reuseport reuseaddr"));
        actor.bind(&format!("{protocol} {address}:0"));
    }
    actor.bind(&format!("tcp {address}:21302 listen"));
    // Another address of the same port is no conflict, whoever has it.
    let elsewhere = loopback();
    Actor::new().bind(&format!("tcp {elsewhere}:21302 listen"));
    fence(&recording);
    let finished = recording.stop();
    assert_eq!(lines(&finished.log, address), [""; 0]);
    assert_eq!(finished.log.lines("\"events\":\"conflicts\"").len(), 1, "the header says so");
    assert_eq!(finished.report().at(address).len(), 0);
}

#[test]
fn a_bind_that_meets_only_connections_leaves_no_line() {
    // A port of this test alone, as above.
    let recording = start();
    let address = loopback();
    let (mut server, mut client) = (Actor::new(), Actor::new());
    let id = server.bind(&format!("tcp {address}:21400 reuseaddr listen")).id;
    client.ok(&format!("connect tcp {address}:21400"));
    server.ok(&format!("accept {id}"));
    server.ok(&format!("close {id}"));
    // The kernel has the connection in the port's list.
    let mut next = Actor::new();
    next.bind(&format!("tcp {address}:21400 reuseaddr listen"));
    fence(&recording);
    let finished = recording.stop();
    assert_eq!(lines(&finished.log, address), [""; 0]);
    assert_eq!(finished.report().at(address).len(), 0);
}

#[test]
fn sharing_that_is_meant_raises_nothing() {
    let recording = start();
    let address = loopback();
    let mut actor = Actor::new();
    actor.ok(&format!("threads 4 tcp {address}:8000 reuseport listen"));
    let child = actor.ok("fork").number("child");
    actor.ok(&format!("tell {child} bind tcp {address}:8000 reuseport listen"));
    fence(&recording);
    assert_eq!(recording.stop().report().at(address).len(), 0);
}

/// Also the first of all that share a port: what they did before that nothing has told. One member is enough.
#[test]
fn members_of_a_group_share_on_purpose() {
    let recording = start();
    let (mut one, mut other) = (Actor::new(), Actor::new());
    let mut port = 0;
    for (actor, joins) in [(&mut one, false), (&mut other, true)] {
        actor.ok("socket udp 4");
        actor.ok("opt 1 reuseaddr 1");
        if joins {
            actor.ok("join 1 239.255.77.3");
        }
        actor.ok(&format!("rebind 1 0.0.0.0:{port}"));
        port = actor.ok("port 1").number("port");
    }
    fence(&recording);
    let finished = recording.stop();
    let found = finished.report().on(Ipv4Addr::UNSPECIFIED, port);
    assert!(found.is_empty(), "{found:#?}");
    // Nor was it told, and taken back.
    let told = finished.log.lines("\"type\":\"finding\"");
    assert!(told.iter().all(|line| line["port"] != port), "{told:#?}");
}

/// A device that is set late brings together what had only the port in common, and one that is gone at once is not held for ever.
#[test]
fn what_becomes_of_the_first_that_share_a_port_is_told() {
    let recording = start();
    let address = loopback();
    let (mut one, mut other, mut third) = (Actor::new(), Actor::new(), Actor::new());
    one.ok("unshare-net");
    one.ok("link bw0");
    for actor in [&mut other, &mut third] {
        actor.ok(&format!("enter-net {}", one.pid()));
    }
    one.bind(&format!("udp {address}:8000 reuseport dev=lo"));
    let apart = other.bind(&format!("udp {address}:8000 reuseport dev=bw0"));
    other.ok(&format!("device {} lo", apart.id));
    one.bind(&format!("udp {address}:8001 reuseport"));
    third.bind(&format!("udp {address}:8001 reuseport"));
    third.exit();
    recording.wait_for_lines("\"type\":\"finding\"", 1, |line| {
        line["address"] == address.to_string() && line["port"] == 8000
    });
    fence(&recording);
    let report = recording.stop().report();
    let live = |port| {
        let finding = report.only(address, port);
        (finding.kind().to_owned(), finding.0["live"].as_bool())
    };
    assert_eq!(live(8000), ("co-bind".to_owned(), Some(true)));
    assert_eq!(live(8001), ("co-bind".to_owned(), Some(false)));
}

#[test]
fn servers_older_than_the_recording_are_found() {
    let address = loopback();
    let (mut one, mut other) = (Actor::new(), Actor::new());
    for actor in [&mut one, &mut other] {
        actor.bind(&format!("tcp {address}:8000 reuseport listen"));
    }
    one.bind(&format!("tcp {address}:8001 reuseport listen"));
    let recording = start();
    assert_eq!(recording.wait_for(address, "socket", 2).len(), 2);
    other.exit();
    fence(&recording);
    let finished = recording.stop();
    let finding = finished.report().only(address, 8000);
    assert_eq!((finding.kind(), finding.0["live"].as_bool()), ("co-bind", Some(false)));
    assert_eq!(finished.log.lines("\"port\":8001").len(), 0, "what is alone is not told");
}

#[test]
fn a_restart_that_comes_too_early_is_told_as_such() {
    let recording = start();
    let address = loopback();
    let what = format!("tcp {address}:8000 listen");
    let (mut old, mut new) = (Actor::new(), Actor::new());
    old.ok("slow-term 60000");
    old.bind(&what);
    scenarios::wait::Process::of(old.pid()).signal(scenarios::wait::TERM);
    assert_eq!(new.err(&format!("bind {what}")), "EADDRINUSE");
    fence(&recording);
    let finding = recording.stop().report().only(address, 8000);
    assert_eq!((finding.kind(), finding.cause()), ("refused", Some("restart")), "{finding:#?}");
}

#[test]
fn what_a_job_leaves_behind_is_found_at_its_end() {
    let folder = Folder::new();
    let (log, fifo) = (folder.file("log.jsonl"), folder.file("fifo"));
    let address = loopback();
    let script = format!(
        "mkfifo {fifo}; '{}' stay 'bind tcp {address}:8000 listen' pid < /dev/null > {fifo} & \
         exec 4< {fifo}; read -r a <&4; read -r b <&4; read -r pid <&4; echo \"$pid\"",
        Actor::program().display(),
        fifo = fifo.display(),
    );
    let outcome = Run::bindwatch(["run", "--quiet", "--events", "conflicts", "--output"])
        .args([&log])
        .args(["--", "sh", "-c", &script])
        .outcome()
        .expect(0);
    let pid: u32 = outcome.stdout.trim().rsplit('=').next().and_then(|pid| pid.parse().ok()).expect("a PID");
    let orphan = scenarios::wait::Process::of(pid);
    let finding = Log::at(&log).report().only(address, 8000);
    orphan.signal(scenarios::wait::TERM);
    assert!(orphan.ended(scenarios::wait::Deadline::patient()));
    assert_eq!((finding.kind(), finding.pids()), ("orphan", vec![u64::from(pid)]), "{finding:#?}");
}

#[test]
fn what_is_enforced_is_denied_and_told() {
    let cgroup = Cgroup::new();
    let recording = Recording::enforcing(&cgroup, ["--events", "conflicts"]);
    let address = loopback();
    let what = format!("tcp {address}:8000 reuseport listen");
    let (mut one, mut other) = (Actor::new(), Actor::new());
    cgroup.enrol(other.pid());
    one.bind(&what);
    assert_eq!(other.err(&format!("bind {what}")), "EADDRINUSE");
    fence(&recording);
    let finding = recording.stop().report().only(address, 8000);
    assert_eq!(finding.kind(), "denied");
    assert_eq!(finding.victim().number("pid"), u64::from(other.pid()));
}

#[test]
fn waiting_needs_to_know_of_every_socket() {
    let outcome = Run::bindwatch(["run", "--events", "conflicts", "--on-conflict", "wait=1s", "--", "true"])
        .outcome()
        .expect(2);
    assert!(outcome.stderr.contains("--events all"), "{outcome}");
}
