//! The actors do what they are told: without that, no scenario proves anything.

use scenarios::{Actor, Run, loopback};

#[test]
fn sockets_are_bound_shared_and_refused_as_the_kernel_does() {
    let address = loopback();
    let (mut one, mut other) = (Actor::new(), Actor::new());
    let shared = one.bind(&format!("tcp {address}:8000 reuseport listen"));
    assert_eq!(shared.port, 8000);
    assert_ne!(other.bind(&format!("tcp {address}:8000 reuseport listen")).cookie, shared.cookie);
    assert_eq!(other.err(&format!("bind tcp {address}:8000")), "EADDRINUSE");
    one.ok(&format!("threads 3 udp {address}:8001 reuseport"));
    assert_ne!(one.bind(&format!("udp {address}:0")).port, 0);
}

#[test]
fn children_inherit_by_fork_by_spawn_by_exec_and_by_message() {
    let address = loopback();
    let mut one = Actor::new();
    let socket = one.bind(&format!("tcp {address}:8000 listen"));
    one.ok("fork");
    assert_eq!(one.err(&format!("tell 1 bind tcp {address}:8000")), "EADDRINUSE");
    one.ok("spawn 1");
    one.ok("close 1");
    assert_eq!(one.err(&format!("bind tcp {address}:8000")), "EADDRINUSE", "the children have it");
    let name = format!("bindwatch-test-{}", std::process::id());
    let mut other = Actor::new();
    other.ok(&format!("inbox {name}"));
    one.ok(&format!("tell 2 post 1 {name}"));
    assert_eq!(other.ok("unpost").number("cookie"), socket.cookie);
    let pid = other.pid();
    assert_eq!(other.ok("exec 1").number("pid"), u64::from(pid));
    drop(one);
    assert_eq!(other.ok("listen 1").number("port"), 8000);
}

#[test]
fn a_slow_one_holds_on_after_the_signal() {
    let address = loopback();
    let mut slow = Actor::with(&["slow-term 0", &format!("bind tcp {address}:8000 listen")]);
    assert_eq!(Actor::new().err(&format!("bind tcp {address}:8000")), "EADDRINUSE");
    slow.ok("pid");
    slow.process.signal(scenarios::wait::TERM);
    assert_eq!(slow.ended(), 0, "it ended by itself, not by the signal");
}

#[test]
fn a_storm_counts_its_binds() {
    let storm = Run::new(Actor::program().with_file_name("storm"));
    let outcome = storm.args(["10", "6", &loopback().to_string()]).outcome().expect(0);
    assert_eq!(outcome.stdout, "60\n");
}
