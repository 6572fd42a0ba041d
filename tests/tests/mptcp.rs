//! MPTCP: the socket a process has and the one that holds the port are two to the kernel, and one to everybody else.

#![expect(clippy::indexing_slicing, reason = "tests fail by panicking")]

use scenarios::{Actor, Recording, loopback};

#[test]
fn two_mptcp_servers_are_one_co_bind() {
    let recording = Recording::start();
    let address = loopback();
    let (mut one, mut other, mut plain) = (Actor::new(), Actor::new(), Actor::new());
    one.bind(&format!("mptcp {address}:8000 reuseport listen"));
    let second = other.bind(&format!("mptcp {address}:8000 reuseport listen"));
    plain.bind(&format!("tcp {address}:8000 reuseport listen"));
    other.ok(&format!("close {}", second.id));
    recording.fence();
    let finding = recording.stop().report().only(address, 8000);
    assert_eq!((finding.kind(), finding.text("protocol")), ("co-bind", "tcp"));
    let pids = [u64::from(one.pid()), u64::from(other.pid()), u64::from(plain.pid())];
    assert_eq!(finding.pids(), pids);
    for holder in finding.holders() {
        assert_eq!(holder.texts("options"), ["SO_REUSEPORT"]);
    }
    assert!(finding.holders()[1].0["released_at"].is_string(), "{finding:?}");
    assert!(finding.holders()[0].0["released_at"].is_null(), "{finding:?}");
}

#[test]
fn an_mptcp_listener_keeps_others_out_and_lets_go() {
    let recording = Recording::start();
    let address = loopback();
    let (mut holder, mut victim) = (Actor::new(), Actor::new());
    let bound = holder.bind(&format!("mptcp {address}:8000"));
    assert_eq!(victim.err(&format!("bind tcp {address}:8000")), "EADDRINUSE");
    let listening = holder.bind(&format!("mptcp {address}:8001 listen"));
    assert_eq!(victim.err(&format!("bind mptcp {address}:8001")), "EADDRINUSE");
    // A look at who holds them would keep them open for a moment longer.
    recording.fence();
    for socket in [bound, listening] {
        holder.ok(&format!("close {}", socket.id));
        victim.bind(&format!("tcp {address}:{} listen", socket.port));
    }
    recording.fence();
    let report = recording.stop().report();
    for (port, cause) in [(8000, "bound"), (8001, "listener")] {
        let finding = report.only(address, port);
        assert_eq!((finding.kind(), finding.cause()), ("refused", Some(cause)));
        assert_eq!(finding.pids(), [u64::from(holder.pid())]);
        assert!(finding.holders()[0].0["released_at"].is_string(), "{finding:?}");
    }
}

#[test]
fn an_mptcp_socket_is_followed_to_who_has_it() {
    let recording = Recording::start();
    let address = loopback();
    let mut binder = Actor::new();
    let socket = binder.bind(&format!("mptcp {address}:8000 listen"));
    let heir = binder.ok(&format!("spawn {}", socket.id)).number("pid");
    binder.ok("tell 1 stay");
    binder.exit();
    recording.wait_for_lines("\"type\":\"holders\"", 1, |line| {
        line["processes"].to_string().contains(&format!("\"{heir}@"))
    });
    let mut victim = Actor::new();
    assert_eq!(victim.err(&format!("bind tcp {address}:8000")), "EADDRINUSE");
    recording.fence();
    let finding = recording.stop().report().only(address, 8000);
    assert_eq!(finding.pids(), [heir]);
    scenarios::wait::Process::of(u32::try_from(heir).unwrap_or(0)).signal(scenarios::wait::Signal::KILL);
}

#[test]
fn an_option_set_late_on_an_mptcp_socket_counts() {
    let recording = Recording::start();
    let address = loopback();
    let (mut one, mut other) = (Actor::new(), Actor::new());
    let socket = one.bind(&format!("mptcp {address}:8000"));
    one.ok(&format!("opt {} reuseport 1", socket.id));
    other.bind(&format!("tcp {address}:8000 reuseport"));
    recording.fence();
    let finding = recording.stop().report().only(address, 8000);
    assert_eq!(finding.kind(), "co-bind");
    assert_eq!(finding.pids(), [u64::from(one.pid()), u64::from(other.pid())]);
}
