//! Binds by system calls of the 32-bit ABI: no event of a system call tells how they end. Functions of the kernel do.
#![cfg(target_arch = "x86_64")]
#![expect(clippy::indexing_slicing, clippy::expect_used, reason = "tests fail by panicking")]

use std::net::Ipv4Addr;

use scenarios::{Actor, Cgroup, Finding, Recording, loopback};
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
        // Read from the socket at its bind.
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
        let uncertain = if certain { report.doubts(&finding) } else { finding.0["uncertain"] == true };
        assert_eq!(uncertain, !certain, "{how}");
        assert_eq!(finding.pids(), [u64::from(holder.pid())], "{how}");
        let shown = finding.victim();
        let errno = if certain { "EADDRINUSE" } else { "unknown" };
        assert_eq!((shown.number("pid"), shown.text("errno")), (u64::from(victim.pid()), errno), "{how}");
    }
}

/// Whether a recording sees options that 32-bit programs set late: where BPF is among the kernel's security modules, and only there.
fn sees_late_options(recording: &Recording) -> bool {
    let header = recording.log().lines("\"type\":\"header\"").remove(0);
    let hooks = header["hooks"].as_array().expect("hooks");
    let is_attached = hooks.iter().any(|hook| hook == "socket_setsockopt");
    let modules = std::fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    assert_eq!(is_attached, modules.trim().split(',').any(|module| module == "bpf"), "{modules}");
    is_attached
}

#[test]
fn an_option_that_is_set_late_by_32_bits_is_seen_by_a_security_module() {
    let recording = Recording::start();
    let is_seen = sees_late_options(&recording);
    let address = loopback();
    let (mut one, mut other) = (Actor::new(), Actor::new());
    let late = one.bind(&format!("udp {address}:8000"));
    one.ok(&format!("compat-opt {} reuseport 1", late.id));
    let is_of_it = |line: &Value| line["socket"]["cookie"] == late.cookie;
    if is_seen {
        recording.wait_for_lines("\"type\":\"changed\"", 1, |line| {
            is_of_it(line) && line["socket"]["options"]["reuse_port"] == true
        });
    }
    other.bind(&format!("udp {address}:8000 reuseport"));
    recording.fence();
    let changed = recording.log().lines("\"type\":\"changed\"");
    assert_eq!(changed.iter().any(is_of_it), is_seen, "{changed:#?}");
    let report = recording.stop().report();
    if is_seen {
        let finding = report.only(address, 8000);
        assert_eq!(finding.kind(), "co-bind");
        assert_eq!(finding.pids(), [u64::from(one.pid()), u64::from(other.pid())]);
        assert_eq!(finding.holders()[0].texts("options"), ["SO_REUSEPORT"]);
    } else {
        // Not before all sockets are looked at again (docs/kernels.md).
        assert!(report.at(address).is_empty(), "{report}");
    }
}

#[test]
fn where_it_is_seen_it_opens_no_enforced_endpoint() {
    let (cgroup, mut one, mut other) = (Cgroup::new(), Actor::new(), Actor::new());
    let recording = Recording::enforcing::<&str>(&cgroup, []);
    let is_seen = sees_late_options(&recording);
    cgroup.enrol(one.pid());
    cgroup.enrol(other.pid());
    let address = loopback();
    let late = one.bind(&format!("udp {address}:8000"));
    one.ok(&format!("compat-opt {} reuseport 1", late.id));
    let bind = format!("bind udp {address}:8000 reuseport");
    if is_seen {
        recording.wait_for_lines("\"type\":\"changed\"", 1, |line| line["socket"]["cookie"] == late.cookie);
        assert_eq!(other.err(&bind), "EADDRINUSE");
    } else {
        other.ok(&bind);
    }
    recording.fence();
    let report = recording.stop().report();
    let found = report.at(address);
    let kinds: Vec<_> = found.iter().map(Finding::kind).collect();
    assert_eq!(kinds, if is_seen { ["denied"].as_slice() } else { &[] }, "{report}");
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
