//! Enforcement at the other doors to a port: io_uring, 32-bit system calls, listeners that are handed on, ports without a
//! bind, options that are set late.

#![expect(clippy::indexing_slicing, reason = "tests fail by panicking")]

use scenarios::{Actor, Cgroup, Recording, loopback};

/// Two strangers in a cgroup in which binds are denied.
struct Enforced {
    recording: Recording,
    _cgroup: Cgroup,
    one: Actor,
    other: Actor,
}

impl Enforced {
    fn new() -> Self {
        let cgroup = Cgroup::new();
        let recording = Recording::enforcing::<&str>(&cgroup, []);
        let (one, other) = (Actor::new(), Actor::new());
        cgroup.enrol(one.pid());
        cgroup.enrol(other.pid());
        Self { recording, _cgroup: cgroup, one, other }
    }
}

#[test]
fn a_bind_through_io_uring_is_denied() {
    denied_by(&["uring inline tcp", "uring async tcp", "uring sqpoll tcp", "uring linked tcp"], 26_201);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_bind_of_32_bits_is_denied() {
    denied_by(&["compat bind", "compat socketcall"], 26_221);
}

/// Each of these ways to bind is denied, on ports from `first` on.
fn denied_by(hows: &[&str], first: u64) {
    let Enforced { recording, _cgroup, mut one, mut other } = Enforced::new();
    let mut places = Vec::new();
    // Of their own each: so many parties of one port are kept apart and no more, whatever their addresses.
    for (how, port) in hows.iter().zip((first..).step_by(2)) {
        let (address, next) = (loopback(), port + 1);
        one.bind(&format!("tcp {address}:{port} reuseport listen"));
        let denied = other.err(&format!("{how} {address}:{port} reuseport listen"));
        assert_eq!(denied, "EADDRINUSE", "{how}");
        // The port of what was denied is taken by nobody, and the caller gets another.
        other.ok(&format!("{how} {address}:{next} reuseport listen"));
        assert_eq!(one.err(&format!("{how} {address}:{next} reuseport")), "EADDRINUSE", "{how}");
        places.push((how, address, port));
    }
    recording.fence();
    let report = recording.stop().report();
    for (how, address, port) in places {
        let kinds: Vec<_> = report.at(address).iter().map(|finding| finding.kind().to_owned()).collect();
        assert_eq!(kinds, ["denied", "denied"], "{how}: {report}");
        let finding = &report.on(address, port)[0];
        assert_eq!(finding.pids(), [u64::from(one.pid())], "{how}");
        assert_eq!(finding.victim().number("pid"), u64::from(other.pid()), "{how}");
    }
}

/// A socket that is handed on is no bind: whoever gets it may use it. It is its binder's, to everybody else.
#[test]
fn a_listener_that_is_handed_on_is_not_denied_and_stays_its_binders() {
    let Enforced { recording, _cgroup, mut one, mut other } = Enforced::new();
    let address = loopback();
    let mut outside = Actor::new();
    let listener = outside.bind(&format!("tcp {address}:8000 reuseport listen"));
    let inbox = format!("bindwatch-test-handed-{}", std::process::id());
    one.ok(&format!("inbox {inbox}"));
    outside.ok(&format!("post {} {inbox}", listener.id));
    let taken = one.ok("unpost").number("id");
    let binder = u64::from(outside.pid());
    outside.exit();
    // It serves, inside the cgroup.
    let mut client = Actor::new();
    client.ok(&format!("connect tcp {address}:8000"));
    one.ok(&format!("accept {taken}"));
    assert_eq!(other.err(&format!("bind tcp {address}:8000 reuseport")), "EADDRINUSE");
    // Whoever has it and binds once more beside it is a stranger to its binder, too.
    assert_eq!(one.err(&format!("bind tcp {address}:8000 reuseport")), "EADDRINUSE");
    // Its end is that of the last who has it.
    one.ok(&format!("close {taken}"));
    other.bind(&format!("tcp {address}:8000 reuseport"));
    recording.fence();
    let report = recording.stop().report();
    let findings: Vec<_> =
        report.on(address, 8000).into_iter().filter(|finding| finding.kind() == "denied").collect();
    assert!(!findings.is_empty(), "{report}");
    for finding in findings {
        let pids = finding.pids();
        assert!(pids == [u64::from(one.pid())] || pids.contains(&binder), "{report}");
    }
}

#[test]
fn a_port_that_came_without_a_bind_is_guarded_once_it_is_known() {
    let Enforced { recording, _cgroup, mut one, mut other } = Enforced::new();
    one.ok("socket tcp 4");
    one.ok("opt 1 reuseport 1");
    one.ok("listen 1");
    let port = one.ok("port 1").number("port");
    recording.wait_for_lines("\"type\":\"listen\"", 1, |line| {
        let socket = &line["socket"];
        socket["port"].as_u64() == Some(port) && socket["address"] == "0.0.0.0"
    });
    let address = loopback();
    assert_eq!(other.err(&format!("bind tcp {address}:{port} reuseport")), "EADDRINUSE");
    assert_eq!(other.err(&format!("bind tcp 0.0.0.0:{port} reuseport")), "EADDRINUSE");
    drop(recording.stop());
}

#[test]
fn options_set_late_do_not_open_a_port() {
    let Enforced { recording, _cgroup, mut one, mut other } = Enforced::new();
    for protocol in ["tcp", "udp", "mptcp"] {
        let address = loopback();
        // Sharing that is asked for after the bind, before and after listen().
        let late = one.bind(&format!("{protocol} {address}:8000"));
        one.ok(&format!("opt {} reuseport 1", late.id));
        assert_eq!(
            other.err(&format!("bind {protocol} {address}:8000 reuseport")),
            "EADDRINUSE",
            "{protocol}"
        );
        if protocol != "udp" {
            one.ok(&format!("listen {}", late.id));
            assert_eq!(
                other.err(&format!("bind {protocol} {address}:8000 reuseport")),
                "EADDRINUSE",
                "{protocol}"
            );
        }
        // The kernel remembers of a TCP port that it was shared, after the holder has cleared the option.
        one.ok(&format!("opt {} reuseport 0", late.id));
        assert_eq!(
            other.err(&format!("bind {protocol} {address}:8000 reuseport")),
            "EADDRINUSE",
            "{protocol}"
        );
        // Who looks at who holds it would keep it open for a moment longer.
        recording.fence();
        one.ok(&format!("close {}", late.id));
        other.bind(&format!("{protocol} {address}:8000 reuseport"));
    }
    let v6 = one.bind("udp [::1]:8520 reuseaddr");
    assert_eq!(other.err("bind udp [::]:8520 reuseaddr"), "EADDRINUSE");
    one.ok(&format!("close {}", v6.id));
    other.bind("udp [::1]:8520 reuseaddr");
    drop(recording.stop());
}

/// A device decides who shares as an address does. What leaves one for another, or for all of them, is judged as a bind is: by
/// name, by number and by none.
#[test]
fn a_device_set_late_is_no_way_to_a_strangers_endpoint() {
    let Enforced { recording, _cgroup, mut one, mut other } = Enforced::new();
    one.ok("unshare-net");
    let number = one.ok("link bw0").number("number");
    one.ok("link bw1");
    let netns = one.netns();
    other.ok(&format!("enter-net {}", one.pid()));
    for (protocol, port) in [("udp", 8000), ("tcp", 8000), ("mptcp", 8010)] {
        let address = loopback();
        let at = |port: u64| format!("{protocol} {address}:{port}");
        // A recording reads the device from the socket, a moment after the call.
        let told = |port: u64, device: u64| {
            recording.wait_for_lines("\"type\":\"changed\"", 1, |line| {
                let socket = &line["socket"];
                socket["address"] == address.to_string()
                    && socket["port"] == port
                    && socket["options"]["device"] == device
            });
        };
        let first = one.bind(&format!("{} reuseport dev=bw0", at(port)));
        let second = other.bind(&format!("{} reuseport dev=bw1", at(port)));
        for how in [
            format!("device {} bw0", second.id),
            format!("opt {} ifindex {number}", second.id),
            format!("device {} -", second.id),
            format!("opt {} ifindex 0", second.id),
        ] {
            assert_eq!(other.err(&how), "EADDRINUSE", "{protocol}: {how}");
        }
        // It is where it was, and goes where nobody is.
        assert_eq!(one.err(&format!("bind {} reuseport dev=bw1", at(port))), "EADDRINUSE", "{protocol}");
        other.ok(&format!("device {} lo", second.id));
        told(port, 1);
        let third = one.bind(&format!("{} reuseport dev=bw1", at(port)));
        assert_eq!(other.err(&format!("device {} bw1", second.id)), "EADDRINUSE", "{protocol}");
        assert_eq!(one.err(&format!("device {} lo", third.id)), "EADDRINUSE", "{protocol}");
        // What a call that failed had asked for is nobody's.
        assert_eq!(other.err(&format!("device {} nowhere", second.id)), "ENODEV", "{protocol}");
        assert_eq!(one.err(&format!("bind {} reuseport dev=lo", at(port))), "EADDRINUSE", "{protocol}");
        one.ok(&format!("close {}", first.id));
        other.ok(&format!("device {} bw0", second.id));
        // Who was on all of them comes to be on one: the others are free.
        let wide = one.bind(&format!("{} reuseport", at(port + 1)));
        assert_eq!(
            other.err(&format!("bind {} reuseport dev=bw1", at(port + 1))),
            "EADDRINUSE",
            "{protocol}"
        );
        one.ok(&format!("device {} bw0", wide.id));
        told(port + 1, number);
        other.bind(&format!("{} reuseport dev=bw1", at(port + 1)));
        assert_eq!(one.err(&format!("device {} -", wide.id)), "EADDRINUSE", "{protocol}");
    }
    recording.fence();
    let report = recording.stop().report();
    let findings = report.in_netns(netns);
    assert!(!findings.is_empty());
    for finding in findings {
        assert_eq!(finding.kind(), "denied", "{finding:#?}");
    }
}
