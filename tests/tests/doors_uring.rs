//! Binds and listens through io_uring, which no system call event sees.

#![expect(clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::net::Ipv4Addr;

use scenarios::{Actor, Log, Recording, loopback};
use serde_json::Value;

/// In the thread that submits, in a worker, in the ring's own thread, and as a chain that goes on by itself.
const HOWS: [&str; 4] = ["inline", "async", "sqpoll", "linked"];

#[test]
fn servers_that_bind_through_io_uring_are_named_as_others_are() {
    let recording = Recording::start();
    for how in HOWS {
        let address = loopback();
        let (mut one, mut other) = (Actor::new(), Actor::new());
        one.bind(&format!("tcp {address}:8000 reuseport listen"));
        other.ok(&format!("uring {how} tcp {address}:8000 reuseport listen"));
        let bind = recording.wait_for(address, "bind", 2).remove(1);
        assert_eq!(
            (bind["door"].as_str(), bind["comm"].as_str()),
            (Some("io-uring"), Some("actor")),
            "{how}"
        );
        let listen = recording.wait_for(address, "listen", 2).remove(1);
        assert_eq!(listen["process"], bind["process"], "{how}");
        let report = recording.so_far().report();
        let finding = report.only(address, 8000);
        assert_eq!((finding.kind(), finding.text("receives")), ("co-bind", "split"), "{how}");
        assert_eq!(finding.pids(), [u64::from(one.pid()), u64::from(other.pid())], "{how}");
        for holder in finding.holders() {
            assert_eq!((holder.text("comm"), holder.text("state")), ("actor", "listen"), "{how}: {holder:?}");
            assert_eq!(holder.texts("options"), ["SO_REUSEPORT"], "{how}");
        }
    }
    drop(recording.stop());
}

#[test]
fn an_option_set_late_through_io_uring_counts() {
    let recording = Recording::start();
    for how in HOWS.into_iter().filter(|how| *how != "linked") {
        let address = loopback();
        let (mut one, mut other) = (Actor::new(), Actor::new());
        let socket = one.bind(&format!("tcp {address}:8000"));
        assert_eq!(other.err(&format!("bind tcp {address}:8000 reuseport")), "EADDRINUSE", "{how}");
        one.ok(&format!("uring-opt {how} {} reuseport 1", socket.id));
        other.bind(&format!("tcp {address}:8000 reuseport listen"));
        recording.fence();
        let found = recording.so_far().report().at(address);
        let kinds: Vec<&str> = found.iter().map(scenarios::Finding::kind).collect();
        assert_eq!(kinds, ["co-bind", "refused"], "{how}");
        for holder in found[0].holders() {
            assert_eq!(holder.texts("options"), ["SO_REUSEPORT"], "{how}: {holder:?}");
        }
        assert_eq!(found[1].text("cause"), "exclusive", "{how}");
    }
    drop(recording.stop());
}

#[test]
fn a_bind_that_is_refused_through_io_uring_is_explained() {
    let recording = Recording::start();
    let (mut holder, mut addresses) = (Actor::new(), Vec::new());
    for how in HOWS {
        let address = loopback();
        holder.bind(&format!("tcp {address}:8000 listen"));
        let mut victim = Actor::new();
        let said = victim.err(&format!("uring {how} tcp {address}:8000 listen"));
        assert_eq!(said, "EADDRINUSE", "{how}");
        // Its next bind is a system call, and tells nothing of the one before.
        assert_eq!(victim.err(&format!("bind tcp {address}:8000")), "EADDRINUSE");
        addresses.push((how, address, u64::from(victim.pid())));
    }
    recording.fence();
    let finished = recording.stop();
    let report = finished.report();
    for (how, address, victim) in addresses {
        let failed = lines_of(&finished.log, "bind-failed", address);
        let seen: Vec<_> =
            failed.iter().map(|line| (line["door"].as_str(), line["errno"].as_str())).collect();
        let expected = [(Some("io-uring"), Some("EADDRINUSE")), (Some("syscall"), Some("EADDRINUSE"))];
        assert_eq!(seen, expected, "{how}");
        assert!(failed.iter().all(|line| line["comm"] == "actor"), "{how}: {failed:?}");
        assert!(lines_of(&finished.log, "bind-unresolved", address).is_empty(), "{how}");
        let finding = report.only(address, 8000);
        assert_eq!(
            (finding.kind(), finding.cause(), finding.number("count")),
            ("refused", Some("listener"), 2)
        );
        assert_eq!(finding.pids(), [u64::from(holder.pid())], "{how}");
        assert_eq!(finding.victim().number("pid"), victim, "{how}");
        assert_eq!(finding.victim().text("comm"), "actor", "{how}");
    }
}

#[test]
fn a_listen_that_is_refused_through_io_uring_is_explained() {
    let recording = Recording::start();
    let (mut holder, mut refused) = (Actor::new(), Vec::new());
    for how in HOWS {
        let address = loopback();
        // Both bind by SO_REUSEADDR; only one of them can listen.
        let mut victim = Actor::new();
        let socket = victim.bind(&format!("tcp {address}:8000 reuseaddr"));
        holder.bind(&format!("tcp {address}:8000 reuseaddr listen"));
        assert_eq!(victim.err(&format!("uring-listen {how} {}", socket.id)), "EADDRINUSE", "{how}");
        refused.push((how, address, u64::from(victim.pid())));
    }
    recording.fence();
    let report = recording.stop().report();
    for (how, address, victim) in refused {
        let finding = report.only(address, 8000);
        assert_eq!((finding.kind(), finding.cause()), ("refused", Some("listener")), "{how}");
        assert_eq!(finding.pids(), [u64::from(holder.pid())], "{how}");
        assert_eq!(finding.victim().number("pid"), victim, "{how}");
        assert_eq!(finding.victim().text("comm"), "actor", "{how}");
    }
}

/// The lines of a type about a socket at this address.
fn lines_of(log: &Log, kind: &str, address: Ipv4Addr) -> Vec<Value> {
    let mut lines = log.lines(&format!("\"address\":\"{address}\""));
    lines.retain(|line| line["type"] == kind);
    lines
}
