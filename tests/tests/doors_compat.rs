//! Binds by system calls of the 32-bit ABI: no event of a system call tells how they end. Functions of the kernel do.
#![cfg(target_arch = "x86_64")]
#![expect(clippy::indexing_slicing, clippy::expect_used, reason = "tests fail by panicking")]

use std::net::Ipv4Addr;

use scenarios::{Actor, Recording, loopback};
use serde_json::Value;

const HOWS: [&str; 2] = ["bind", "socketcall"];

#[test]
fn a_32_bit_server_shares_like_any_other() {
    let recording = Recording::start();
    let mut pairs = Vec::new();
    for how in HOWS {
        let address = loopback();
        let (mut one, mut other) = (Actor::new(), Actor::new());
        one.bind(&format!("tcp {address}:8000 reuseport listen"));
        other.ok(&format!("compat {how} tcp {address}:8000 reuseport listen"));
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

/// What tells here how calls end: `tracepoint` has no event for those of the 32-bit ABI.
fn sees_the_errno(recording: &Recording) -> bool {
    let header = recording.log().lines("\"type\":\"header\"").remove(0);
    let backend = header["backend"].as_str().expect("a backend").to_owned();
    assert!(["fexit", "kprobe", "tracepoint"].contains(&backend.as_str()), "{backend}");
    backend != "tracepoint"
}

/// How a 32-bit bind that failed is logged, once what follows it is in the log.
fn told(recording: &Recording, address: Ipv4Addr) -> Vec<(String, Option<String>)> {
    recording.fence();
    let lines = recording.log().lines(&format!("\"address\":\"{address}\""));
    let failed = lines.iter().filter(|line| line["door"] == "compat");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    failed.filter_map(|line| Some((text(&line["type"])?, text(&line["errno"])))).collect()
}

#[test]
fn a_32_bit_bind_that_is_refused_is_told_with_its_errno_where_the_backend_sees_it() {
    let recording = Recording::start();
    let certain = sees_the_errno(&recording);
    let (mut holder, mut refused) = (Actor::new(), Vec::new());
    for how in HOWS {
        let address = loopback();
        holder.bind(&format!("tcp {address}:8000 listen"));
        let mut victim = Actor::new();
        assert_eq!(victim.err(&format!("compat {how} tcp {address}:8000 listen")), "EADDRINUSE");
        if !certain {
            recording.wait_for(address, "bind-unresolved", 1);
        }
        let line = if certain { ("bind-failed", Some("EADDRINUSE")) } else { ("bind-unresolved", None) };
        let line = (line.0.to_owned(), line.1.map(str::to_owned));
        assert_eq!(told(&recording, address), [line], "{how}");
        refused.push((how, address, victim));
    }
    let report = recording.stop().report();
    for (how, address, victim) in refused {
        let finding = report.only(address, 8000);
        assert_eq!((finding.kind(), finding.cause()), ("refused", Some("listener")), "{how}");
        // Without its errno: it failed, but perhaps not because of the holder.
        assert_eq!(finding.0["uncertain"], !certain, "{how}");
        assert_eq!(finding.pids(), [u64::from(holder.pid())], "{how}");
        let shown = finding.victim();
        let errno = if certain { "EADDRINUSE" } else { "unknown" };
        assert_eq!((shown.number("pid"), shown.text("errno")), (u64::from(victim.pid()), errno), "{how}");
    }
}

#[test]
fn a_32_bit_bind_that_fails_alone_is_no_finding() {
    let recording = Recording::start();
    let address = loopback();
    let mut actor = Actor::new();
    actor.ok("setuid 65534");
    assert_eq!(actor.err(&format!("compat bind tcp {address}:80")), "EACCES");
    if sees_the_errno(&recording) {
        assert_eq!(told(&recording, address), [("bind-failed".to_owned(), Some("EACCES".to_owned()))],);
    } else {
        recording.wait_for(address, "bind-unresolved", 1);
    }
    assert!(recording.stop().report().at(address).is_empty());
}
