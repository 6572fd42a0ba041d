//! Binds by system calls of the 32-bit ABI: no event tells how they end. Functions of the kernel do (`backend.rs`).
#![cfg(target_arch = "x86_64")]
#![expect(clippy::indexing_slicing, reason = "tests fail by panicking")]

use scenarios::{Actor, Recording, loopback};

const HOWS: [&str; 2] = ["bind", "socketcall"];

#[test]
fn a_32_bit_server_shares_like_any_other() {
    let recording = Recording::start();
    let mut pairs = Vec::new();
    for how in HOWS {
        let address = loopback();
        let (mut one, mut other) = (Actor::new(), Actor::new());
        one.bind(&format!("tcp {address}:8000 reuseport listen"));
        other.ok(&format!("compat {how} {address}:8000 reuseport listen"));
        let bind = recording.wait_for(address, "bind", 2).remove(1);
        assert_eq!(bind["door"], "compat", "{how}");
        recording.wait_for(address, "listen", 2);
        pairs.push((how, address, one, other));
    }
    let report = recording.stop().report();
    for (how, address, one, other) in pairs {
        let finding = report.only(address, 8000);
        assert_eq!((finding.kind(), finding.text("receives")), ("co-bind", "split"), "{how}");
        assert_eq!(finding.pids(), [u64::from(one.pid()), u64::from(other.pid())], "{how}");
        // Read from the socket: no hook sees a 32-bit setsockopt.
        assert_eq!(finding.holders()[1].texts("options"), ["SO_REUSEPORT"], "{how}");
    }
}

#[test]
fn a_32_bit_bind_that_is_refused_is_told_without_its_errno() {
    let recording = Recording::with(["--backend", "tracepoint"]);
    let (mut holder, mut refused) = (Actor::new(), Vec::new());
    for how in HOWS {
        let address = loopback();
        holder.bind(&format!("tcp {address}:8000 listen"));
        let mut victim = Actor::new();
        assert_eq!(victim.err(&format!("compat {how} {address}:8000 listen")), "EADDRINUSE");
        recording.wait_for(address, "bind-unresolved", 1);
        refused.push((how, address, victim));
    }
    recording.fence();
    let report = recording.stop().report();
    for (how, address, victim) in refused {
        let finding = report.only(address, 8000);
        assert_eq!((finding.kind(), finding.cause()), ("refused", Some("listener")), "{how}");
        assert_eq!(finding.0["uncertain"], true, "{how}: it failed, but perhaps not because of the holder");
        assert_eq!(finding.pids(), [u64::from(holder.pid())], "{how}");
        let shown = finding.victim();
        assert_eq!((shown.number("pid"), shown.text("errno")), (u64::from(victim.pid()), "unknown"), "{how}");
    }
}

#[test]
fn a_32_bit_bind_that_fails_alone_is_no_finding() {
    let recording = Recording::with(["--backend", "tracepoint"]);
    let address = loopback();
    let mut actor = Actor::new();
    actor.ok("setuid 65534");
    assert_eq!(actor.err(&format!("compat bind {address}:80")), "EACCES");
    recording.wait_for(address, "bind-unresolved", 1);
    assert!(recording.stop().report().at(address).is_empty());
}
