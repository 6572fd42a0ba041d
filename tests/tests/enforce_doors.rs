//! Enforcement at the other doors to a port: io_uring, 32-bit system calls, listeners that are handed on, ports without a
//! bind, options that are set late.

#![expect(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests fail by panicking")]

use scenarios::{Actor, Cgroup, Finding, Recording, loopback};

/// Two strangers in a cgroup in which binds are denied, in a network where nobody else has a port.
struct Enforced {
    recording: Recording,
    _cgroup: Cgroup,
    one: Actor,
    other: Actor,
}

impl Enforced {
    fn new() -> Self {
        let mut one = Actor::new();
        one.ok("unshare-net");
        let other = Actor::beside(&one);
        Self::of(one, other)
    }

    /// The same, in the network of everybody.
    fn outside() -> Self {
        Self::of(Actor::new(), Actor::new())
    }

    fn of(one: Actor, other: Actor) -> Self {
        let cgroup = Cgroup::new();
        let recording = Recording::enforcing::<&str>(&cgroup, []);
        cgroup.enrol(one.pid());
        cgroup.enrol(other.pid());
        Self { recording, _cgroup: cgroup, one, other }
    }
}

#[test]
fn a_bind_through_io_uring_is_denied() {
    denied_by(&["uring inline", "uring async", "uring sqpoll", "uring linked"]);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_bind_of_32_bits_is_denied() {
    denied_by(&["compat bind", "compat socketcall"]);
}

/// By each of these ways a bind is denied, whatever it binds.
fn denied_by(hows: &[&str]) {
    let Enforced { recording, _cgroup, mut one, mut other } = Enforced::new();
    let netns = one.netns();
    let mut ports = (8000_u64..).step_by(2);
    let mut all = Vec::new();
    for how in hows {
        for protocol in ["tcp", "udp", "mptcp"] {
            let listen = if protocol == "udp" { "" } else { "listen" };
            if *how == "uring linked" && protocol == "udp" {
                continue;
            }
            for address in ["127.0.0.1", "[::1]", "[::]"] {
                let port = ports.next().expect("another port");
                let bind = |port: u64| format!("{protocol} {address}:{port} reuseport {listen}");
                let what = format!("{how} {}", bind(port));
                one.bind(&bind(port));
                assert_eq!(other.err(&what), "EADDRINUSE", "{what}");
                // The port of what was denied is taken by nobody, and the caller gets another.
                other.ok(&format!("{how} {}", bind(port + 1)));
                assert_eq!(one.err(&format!("{how} {}", bind(port + 1))), "EADDRINUSE", "{what}");
                all.push((what, port));
            }
        }
    }
    recording.fence();
    let report = recording.stop().report();
    let findings = report.in_netns(netns);
    assert_eq!(findings.len(), 2 * all.len(), "{report}");
    for (what, port) in all {
        let (one, other) = (u64::from(one.pid()), u64::from(other.pid()));
        for (port, holder, victim) in [(port, one, other), (port + 1, other, one)] {
            let found: Vec<_> = findings.iter().filter(|finding| finding.number("port") == port).collect();
            let [finding] = found.as_slice() else { panic!("{what}: {report}") };
            assert_eq!((finding.kind(), finding.pids()), ("denied", vec![holder]), "{what}");
            assert_eq!(finding.victim().number("pid"), victim, "{what}");
        }
    }
}

/// A socket that is handed on is no bind: whoever gets it may use it. It is its binder's, to everybody else.
#[test]
fn a_listener_that_is_handed_on_is_not_denied_and_stays_its_binders() {
    let Enforced { recording, _cgroup, mut one, mut other } = Enforced::new();
    let inbox = format!("bindwatch-test-handed-{}", std::process::id());
    one.ok(&format!("inbox {inbox}"));
    let mut binders = Vec::new();
    for (protocol, port) in [("tcp", 8000_u64), ("udp", 8010), ("mptcp", 8020)] {
        for (address, port) in [("127.0.0.1", port), ("[::1]", port + 1)] {
            let mut outside = Actor::beside(&one);
            let listen = if protocol == "udp" { "" } else { "listen" };
            let bind = format!("bind {protocol} {address}:{port} reuseport");
            let listener = outside.ok(&format!("{bind} {listen}")).number("id");
            outside.ok(&format!("post {listener} {inbox}"));
            let taken = one.ok("unpost").number("id");
            binders.push((port, u64::from(outside.pid())));
            outside.exit();
            // It serves, inside the cgroup.
            let mut client = Actor::beside(&one);
            if protocol == "udp" {
                client.ok(&format!("knock udp {address}:{port} 1"));
                one.ok(&format!("receive {taken}"));
            } else {
                // The client keeps no TIME_WAIT, so that the port is free after its end.
                client.ok(&format!("knock {protocol} {address}:{port} 1"));
                let accepted = one.ok(&format!("accept {taken}")).number("id");
                client.ok("hang-up");
                one.ok(&format!("close {accepted}"));
            }
            assert_eq!(other.err(&bind), "EADDRINUSE");
            // Whoever has it and binds once more beside it is a stranger to its binder, too.
            assert_eq!(one.err(&bind), "EADDRINUSE");
            // Its end is that of the last who has it.
            one.ok(&format!("close {taken}"));
            other.ok(&bind);
        }
    }
    recording.fence();
    let report = recording.stop().report();
    let findings = report.in_netns(one.netns());
    for (port, binder) in binders {
        let denied = |finding: &&Finding| finding.kind() == "denied" && finding.number("port") == port;
        let denied: Vec<_> = findings.iter().filter(denied).collect();
        assert!(!denied.is_empty(), "{port}: {report}");
        for finding in denied {
            let pids = finding.pids();
            assert!(pids == [u64::from(one.pid())] || pids.contains(&binder), "{port}: {report}");
        }
    }
}

/// At once, and not when user space has heard of it: again and again, as it would be a matter of microseconds.
#[test]
fn a_port_that_came_without_a_bind_is_guarded() {
    let Enforced { recording, _cgroup, mut one, mut other } = Enforced::outside();
    let address = loopback();
    for protocol in ["tcp", "mptcp"] {
        for _ in 0..50 {
            let id = one.ok(&format!("socket {protocol} 4")).number("id");
            one.ok(&format!("opt {id} reuseport 1"));
            one.ok(&format!("listen {id}"));
            let port = one.ok(&format!("port {id}")).number("port");
            for place in [&*format!("{address}"), "0.0.0.0"] {
                let bind = format!("bind {protocol} {place}:{port} reuseport");
                assert_eq!(other.err(&bind), "EADDRINUSE", "{protocol}");
            }
            one.ok(&format!("close {id}"));
        }
    }
    drop(recording.stop());
}

/// Some microseconds between the instant at which a bind has its port and that at which the guard decides about it.
fn slowly(cgroup: &Cgroup, actor: &Actor) -> (Cgroup, Actor) {
    let inner = cgroup.inner("slow");
    let slow = Actor::denier(inner.path(), "slow");
    inner.enrol(actor.pid());
    (inner, slow)
}

/// All open sockets are looked at whenever somebody listens without a bind, and what has a port is claimed for its process. Who is
/// just about to be denied has one: that grants him nothing, and leaves no claim behind.
#[test]
fn a_look_in_the_middle_of_a_bind_is_no_way_in() {
    let Enforced { recording, _cgroup: cgroup, mut one, mut other } = Enforced::new();
    let _slow = slowly(&cgroup, &other);
    let (mut third, mut next) = (Actor::beside(&one), Actor::beside(&one));
    cgroup.enrol(next.pid());
    for (port, protocol) in (8000..).zip(["tcp", "udp", "mptcp"]) {
        let bind = format!("{protocol} 127.0.0.1:{port}");
        let holder = one.bind(&format!("{bind} reuseport"));
        // It stays open, and unbound.
        let denied = other.ok(&format!("socket {protocol} 4")).number("id");
        other.ok(&format!("opt {denied} reuseport 1"));
        std::thread::scope(|scope| {
            let looks = scope.spawn(|| third.ok("listens 1000 tcp"));
            while !looks.is_finished() {
                let got = other.ok(&format!("insist 100 {bind}"));
                assert_eq!((got.number("bound"), got.number("refused")), (0, 100), "{protocol}");
                assert_eq!(other.err(&format!("rebind {denied} 127.0.0.1:{port}")), "EADDRINUSE");
            }
        });
        // Where the guard looks at what listens it holds the files meanwhile.
        recording.fence();
        one.ok(&format!("close {}", holder.id));
        next.bind(&format!("{bind} reuseport"));
    }
    recording.fence();
    let report = recording.stop().report();
    let findings = report.in_netns(one.netns());
    assert!(findings.iter().all(|finding| finding.kind() == "denied"), "{report}");
}

#[test]
fn options_set_late_do_not_open_a_port() {
    let Enforced { recording, _cgroup, mut one, mut other } = Enforced::outside();
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
        one.ok(&format!("close {}", late.id));
        other.bind(&format!("{protocol} {address}:8000 reuseport"));
    }
    drop(recording.stop());
}

/// What overlaps, each way round.
const OVERLAPS: [(&str, &str); 9] = [
    ("127.0.0.1", "0.0.0.0"),
    ("0.0.0.0", "127.0.0.1"),
    ("[::1]", "[::]"),
    ("[::]", "[::1]"),
    ("127.0.0.1", "[::]"),
    ("[::]", "127.0.0.1"),
    ("0.0.0.0", "[::]"),
    ("[::]", "0.0.0.0"),
    ("[::ffff:127.0.0.1]", "127.0.0.1"),
];

#[test]
fn options_set_late_do_not_open_what_overlaps() {
    let Enforced { recording, _cgroup, mut one, mut other } = Enforced::new();
    let mut outside = Actor::beside(&one);
    let mut ports = 8000_u64..;
    // SO_REUSEADDR lets nobody share a TCP port on which somebody listens.
    let options = [("tcp", "reuseport"), ("mptcp", "reuseport"), ("udp", "reuseport"), ("udp", "reuseaddr")];
    for (protocol, option) in options {
        for (first, second) in OVERLAPS {
            let port = ports.next().expect("another port");
            let what = format!("{protocol} {second}:{port} {option}, beside {first}");
            let late = one.bind(&format!("{protocol} {first}:{port}")).id;
            one.ok(&format!("opt {late} {option} 1"));
            let bind = format!("bind {protocol} {second}:{port} {option}");
            // It is the guard that refuses, not the kernel, which lets others share.
            assert_eq!(other.err(&bind), "EADDRINUSE", "{what}");
            let shared = outside.ok(&bind).number("id");
            outside.ok(&format!("close {shared}"));
            assert_eq!(other.err(&bind), "EADDRINUSE", "{what}");
            one.ok(&format!("close {late}"));
            other.ok(&bind);
        }
    }
    let report = recording.stop().report();
    let denied = |finding: &&Finding| finding.kind() == "denied";
    let findings = report.in_netns(one.netns());
    assert_eq!(findings.iter().filter(denied).count(), options.len() * OVERLAPS.len(), "{report}");
}

/// A device decides who shares as an address does. What leaves one for another, or for all of them, is judged as a bind is: by
/// name, by number and by none.
#[test]
fn a_device_set_late_is_no_way_to_a_strangers_endpoint() {
    let Enforced { recording, _cgroup, mut one, mut other } = Enforced::outside();
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
    let finished = recording.stop();
    let findings = finished.report().in_netns(netns);
    assert!(!findings.is_empty());
    for finding in findings {
        assert_eq!(finding.kind(), "denied", "{finding:#?}");
    }
}
