//! Binds that fail, and who held the port at that moment.

#![expect(clippy::indexing_slicing, reason = "tests fail by panicking")]

use scenarios::wait::{Deadline, TERM};
use scenarios::{Actor, Recording, Run, loopback};

#[test]
fn a_third_server_learns_who_has_the_port() {
    let recording = Recording::start();
    let address = loopback();
    let (mut one, mut other, mut third) = (Actor::new(), Actor::new(), Actor::new());
    one.bind(&format!("tcp {address}:8000 listen"));
    other.bind(&format!("tcp {address}:8001 listen"));
    assert_eq!(third.err(&format!("bind tcp {address}:8000 listen")), "EADDRINUSE");
    recording.fence();
    let report = recording.stop().report();
    let finding = report.only(address, 8000);
    assert_eq!(
        (finding.kind(), finding.severity(), finding.cause()),
        ("refused", "warning", Some("listener"))
    );
    assert_eq!(finding.pids(), [u64::from(one.pid())]);
    assert_eq!(finding.holders()[0].text("state"), "listen");
    let victim = finding.victim();
    assert_eq!(victim.number("pid"), u64::from(third.pid()));
    assert_eq!(victim.text("errno"), "EADDRINUSE");
    assert_eq!(report.at(address).len(), 1);
    assert!(report.stat("binds_failed") >= 1);
}

#[test]
fn the_cause_is_told() {
    let recording = Recording::start();
    let address = loopback();
    let (mut holder, mut victim) = (Actor::new(), Actor::new());

    holder.bind(&format!("tcp {address}:8000"));
    victim.err(&format!("bind tcp {address}:8000"));

    holder.bind(&format!("tcp {address}:8001 listen"));
    victim.err(&format!("bind tcp {address}:8001 reuseport"));

    holder.bind(&format!("tcp {address}:8002 reuseport listen"));
    let mut stranger = Actor::new();
    stranger.ok("setuid 65534");
    stranger.err(&format!("bind tcp {address}:8002 reuseport"));

    recording.fence();
    let report = recording.stop().report();
    assert_eq!(report.only(address, 8000).cause(), Some("bound"));
    assert_eq!(report.only(address, 8001).cause(), Some("exclusive"));
    assert_eq!(report.only(address, 8002).cause(), Some("other-user"));
    for port in 8000..8003 {
        assert_eq!(report.only(address, port).pids(), [u64::from(holder.pid())], "port {port}");
    }
}

#[test]
fn a_connection_that_was_closed_here_leaves_time_wait() {
    let recording = Recording::start();
    let address = loopback();
    let (mut server, mut client) = (Actor::new(), Actor::new());
    let listener = server.bind(&format!("tcp {address}:8000 listen"));
    client.ok(&format!("connect tcp {address}:8000"));
    let connection = server.ok(&format!("accept {}", listener.id)).number("id");
    // Whoever closes first keeps the pair of addresses for a minute.
    server.ok(&format!("close {connection}"));
    server.ok(&format!("close {}", listener.id));
    client.ok("close 1");
    let mut next = Actor::new();
    assert_eq!(next.err(&format!("bind tcp {address}:8000 listen")), "EADDRINUSE");
    recording.fence();
    let finding = recording.stop().report().only(address, 8000);
    assert_eq!((finding.kind(), finding.cause()), ("refused", Some("time-wait")));
    assert_eq!(finding.holders().len(), 0, "nobody holds a TIME_WAIT");
}

#[test]
fn the_last_owner_of_a_connections_port_is_known() {
    let recording = Recording::start();
    let address = loopback();
    let (mut server, mut client) = (Actor::new(), Actor::new());
    let listener = server.bind(&format!("tcp {address}:8000 listen"));
    let port = client.ok(&format!("connect tcp {address}:8000")).number("port");
    let connection = server.ok(&format!("accept {}", listener.id)).number("id");
    client.ok("close 1");
    server.ok(&format!("close {connection}"));
    // What a connection is bound to is an address of the machine, chosen with the port.
    let victim = Actor::new().err(&format!("bind tcp 127.0.0.1:{port}"));
    assert_eq!(victim, "EADDRINUSE");
    recording.fence();
    let finding = recording.stop().report().only(std::net::Ipv4Addr::LOCALHOST, port);
    assert_eq!((finding.kind(), finding.cause()), ("refused", Some("time-wait")));
    assert_eq!(finding.holders().len(), 0);
    assert_eq!(finding.0["last_owner"]["pid"], u64::from(client.pid()));
}

#[test]
fn a_victim_that_retries_is_one_finding_with_a_count() {
    let recording = Recording::start();
    let address = loopback();
    let (mut holder, mut victim) = (Actor::new(), Actor::new());
    holder.bind(&format!("tcp {address}:8000 listen"));
    for _ in 0..5 {
        victim.err(&format!("bind tcp {address}:8000"));
    }
    recording.fence();
    let finding = recording.stop().report().only(address, 8000);
    assert_eq!(finding.number("count"), 5);
}

#[test]
fn a_restart_that_comes_too_early_is_told_as_such() {
    let recording = Recording::start();
    let address = loopback();
    let bind = format!("bind tcp {address}:8000 listen");
    let commands = ["slow-term 60000", bind.as_str()];
    let old = Actor::with(&commands);
    old.process.signal(TERM);

    // The new instance fails and is gone within milliseconds.
    let new = Run::new(Actor::program()).args(commands).outcome().expect(0);
    assert!(new.stdout.contains("err EADDRINUSE"), "{new}");

    recording.fence();
    let finding = recording.stop().report().only(address, 8000);
    assert_eq!((finding.kind(), finding.cause()), ("refused", Some("restart")));
    assert_eq!(finding.pids(), [u64::from(old.pid())]);
    let victim = finding.victim();
    assert_eq!(victim.texts("cmdline")[1..], commands, "known though it lived for milliseconds only");
    assert!(victim.text("exe").ends_with("/actor"));
    assert!(
        !old.process.ended(Deadline::after(std::time::Duration::ZERO)),
        "the old one was still on its way out"
    );
}

#[test]
fn listen_that_fails_is_refused_too() {
    let recording = Recording::start();
    let address = loopback();
    let (mut one, mut other) = (Actor::new(), Actor::new());
    // With SO_REUSEADDR both may bind; the first to listen wins.
    one.bind(&format!("tcp {address}:8000 reuseaddr"));
    other.bind(&format!("tcp {address}:8000 reuseaddr"));
    one.ok("listen 1");
    assert_eq!(other.err("listen 1"), "EADDRINUSE");
    recording.fence();
    let report = recording.stop().report();
    let found = report.on(address, 8000);
    let refused: Vec<_> = found.iter().filter(|finding| finding.kind() == "refused").collect();
    assert_eq!(refused.len(), 1, "{found:#?}");
    assert_eq!(refused[0].victim().number("pid"), u64::from(other.pid()));
    assert!(refused[0].pids().contains(&u64::from(one.pid())));
}
