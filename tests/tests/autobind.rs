//! Ports that come without a bind, and ports that go without a close.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use scenarios::{Actor, Recording, loopback};

/// The kernel chooses the port while listen(2) runs, after the hook that sees it.
#[test]
fn a_listener_that_was_never_bound_is_known_by_its_port() {
    let recording = Recording::start();
    let mut listeners = Vec::new();
    for how in ["listen", "uring-listen inline", "uring-listen async"] {
        let (mut holder, mut victim) = (Actor::new(), Actor::new());
        holder.ok("socket tcp 4");
        holder.ok(&format!("{how} 1"));
        let port = holder.ok("port 1").number("port");
        assert_ne!(port, 0);
        let address = loopback();
        assert_eq!(victim.err(&format!("bind tcp {address}:{port}")), "EADDRINUSE");
        listeners.push((how, address, port, holder));
    }
    recording.fence();
    let report = recording.stop().report();
    for (how, address, port, holder) in listeners {
        let finding = report.only(address, port);
        assert_eq!((finding.kind(), finding.cause()), ("refused", Some("listener")), "{how}");
        assert_eq!(finding.pids(), [u64::from(holder.pid())], "{how}");
        assert_eq!(finding.holders()[0].text("address"), "0.0.0.0", "{how}");
        assert!(finding.holders()[0].0["bound_at"].is_string(), "known from an event, not looked up: {how}");
    }
}

#[test]
fn the_port_of_an_outgoing_connection_is_its_process_s() {
    let recording = Recording::start();
    let address = loopback();
    let (mut server, mut client, mut victim) = (Actor::new(), Actor::new(), Actor::new());
    server.bind(&format!("tcp {address}:8000 listen"));
    let tcp = client.ok(&format!("connect tcp {address}:8000")).number("port");
    let udp = client.ok(&format!("connect udp {address}:8000")).number("port");
    client.ok("socket udp 4");
    let sent = client.ok(&format!("send 3 {address}:8000")).number("port");
    // Bound to an address, and to a port only when it connects.
    let late = client.bind(&format!("tcp {address}:0 no-port"));
    assert_eq!(late.port, 0);
    let late = client.ok(&format!("reconnect {} {address}:8000", late.id)).number("port");
    let mut refused = Vec::new();
    let source = std::net::Ipv4Addr::LOCALHOST;
    for (protocol, address, port) in
        [("tcp", source, tcp), ("udp", source, udp), ("udp", source, sent), ("tcp", address, late)]
    {
        // Where the kernel took another source address, the wildcard is in its way.
        let wanted = if address == source { std::net::Ipv4Addr::UNSPECIFIED } else { address };
        assert_eq!(
            victim.err(&format!("bind {protocol} {wanted}:{port}")),
            "EADDRINUSE",
            "{protocol} {port}"
        );
        refused.push((protocol, wanted, port));
    }
    recording.fence();
    let report = recording.stop().report();
    for (protocol, wanted, port) in refused {
        let finding = report.only(wanted, port);
        assert_eq!((finding.kind(), finding.cause()), ("refused", Some("bound")), "{protocol} {port}");
        assert_eq!(finding.pids(), [u64::from(client.pid())], "{protocol} {port}");
    }
}

#[test]
fn a_port_that_a_udp_socket_gave_up_is_not_held_by_it() {
    let recording = Recording::start();
    let address = loopback();
    let (mut former, mut now, mut victim) = (Actor::new(), Actor::new(), Actor::new());
    let socket = former.bind(&format!("udp {address}:0 reuseport"));
    former.ok(&format!("reconnect {} {address}:9", socket.id));
    assert_eq!(former.ok(&format!("disconnect {}", socket.id)).number("port"), 0, "given up");

    now.bind(&format!("udp {address}:{} reuseport", socket.port));
    assert_eq!(victim.err(&format!("bind udp {address}:{}", socket.port)), "EADDRINUSE");
    // A port that was asked for is kept.
    let kept = former.bind(&format!("udp {address}:8000"));
    former.ok(&format!("reconnect {} {address}:9", kept.id));
    assert_eq!(former.ok(&format!("disconnect {}", kept.id)).number("port"), 8000);
    assert_eq!(victim.err(&format!("bind udp {address}:8000")), "EADDRINUSE");
    recording.fence();
    let report = recording.stop().report();
    let finding = report.only(address, socket.port);
    assert_eq!(finding.kind(), "refused", "and no co-bind with the one that gave it up");
    assert_eq!(finding.pids(), [u64::from(now.pid())]);
    assert_eq!(report.only(address, 8000).pids(), [u64::from(former.pid())]);
}

#[test]
fn a_socket_that_connects_has_an_address() {
    let recording = Recording::start();
    let (mut holder, mut other) = (Actor::new(), Actor::new());
    let socket = holder.bind("udp 0.0.0.0:0 reuseport");
    let address = loopback();
    holder.ok(&format!("reconnect {} {address}:9", socket.id));
    // It has 127.0.0.1 by now: this one is alone at its address.
    other.bind(&format!("udp {address}:{} reuseport", socket.port));
    recording.fence();
    let finished = recording.stop();
    let changed = finished.log.lines("\"type\":\"changed\"");
    let line = changed.iter().find(|line| line["socket"]["cookie"] == socket.cookie).expect("a change");
    assert_eq!(line["socket"]["address"], "127.0.0.1");
    let found = finished.report().on(address, socket.port);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn protocols_have_ports_of_their_own() {
    let recording = Recording::start();
    let address = loopback();
    let (mut one, mut other, mut victim) = (Actor::new(), Actor::new(), Actor::new());
    one.bind(&format!("udplite {address}:8000"));
    other.bind(&format!("udp {address}:8000"));
    assert_eq!(victim.err(&format!("bind udplite {address}:8000")), "EADDRINUSE");
    // A v4-mapped address is an IPv4 one.
    one.bind(&format!("tcp [::ffff:{address}]:8001 reuseport listen"));
    other.bind(&format!("tcp {address}:8001 reuseport listen"));
    recording.fence();
    let report = recording.stop().report();
    let refused = report.only(address, 8000);
    assert_eq!((refused.kind(), refused.text("protocol")), ("refused", "udplite"));
    assert_eq!(refused.pids(), [u64::from(one.pid())]);
    let shared = report.only(address, 8001);
    assert_eq!(shared.kind(), "co-bind");
    assert_eq!(shared.pids(), [u64::from(one.pid()), u64::from(other.pid())]);
}
