//! Who got the connections of a port that several listen on.

#![expect(clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::net::TcpStream;

use scenarios::wait::PATIENCE;
use scenarios::{Actor, Recording, loopback};

const CONNECTIONS: u64 = 100;

#[test]
fn the_split_of_a_shared_port_is_told() {
    for protocol in ["tcp", "mptcp"] {
        let recording = Recording::start();
        let address = loopback();
        let mut servers = [Actor::new(), Actor::new()];
        let sockets: Vec<_> = servers
            .iter_mut()
            .map(|server| server.bind(&format!("{protocol} {address}:8000 reuseport listen")))
            .collect();
        let clients: Vec<TcpStream> =
            (0..CONNECTIONS).filter_map(|_| TcpStream::connect((address, 8000)).ok()).collect();
        assert_eq!(clients.len() as u64, CONNECTIONS);
        // What the servers themselves count is the truth.
        let mut got = [0, 0];
        for ((server, socket), count) in servers.iter_mut().zip(&sockets).zip(&mut got) {
            *count = server.ok(&format!("accept-all {}", socket.id)).number("count");
        }
        assert_eq!(got.iter().sum::<u64>(), CONNECTIONS);
        assert!(got.iter().all(|count| *count > 0), "a split: {got:?}");
        // One closes, the other is there at the end.
        servers[1].ok(&format!("close {}", sockets[1].id));
        recording.fence();
        let finding = recording.stop().report().only(address, 8000);
        let told: Vec<u64> = finding.holders().iter().map(|holder| holder.number("accepted")).collect();
        assert_eq!(told, got, "{protocol}");
    }
}

/// A recording that is killed has told by then who got how many.
#[test]
fn the_split_so_far_is_in_the_log() {
    let recording = Recording::start();
    let address = loopback();
    let mut servers = [Actor::new(), Actor::new()];
    for server in &mut servers {
        server.bind(&format!("tcp {address}:8000 reuseport listen"));
    }
    let clients: Vec<TcpStream> =
        (0..CONNECTIONS).filter_map(|_| TcpStream::connect((address, 8000)).ok()).collect();
    // Nobody is woken to count: it is done when something else comes, every two seconds.
    let begin = std::time::Instant::now();
    let sum = loop {
        assert!(begin.elapsed() < PATIENCE, "nobody counts");
        recording.fence();
        let holders = recording.so_far().report().only(address, 8000).holders();
        let counts: Option<u64> = holders.iter().map(|holder| holder.0["accepted"].as_u64()).sum();
        if let Some(sum) = counts.filter(|sum| *sum == clients.len() as u64) {
            break sum;
        }
    };
    assert_eq!(sum, CONNECTIONS);
    let holders = recording.kill().log.report().only(address, 8000).holders();
    assert_eq!(holders.iter().map(|holder| holder.number("accepted")).sum::<u64>(), CONNECTIONS);
}

#[test]
fn what_the_listeners_of_before_got_is_not_known() {
    let address = loopback();
    let mut servers = [Actor::new(), Actor::new()];
    servers[0].bind(&format!("tcp {address}:8000 reuseport listen"));
    let recording = Recording::start();
    servers[1].bind(&format!("tcp {address}:8000 reuseport listen"));
    let _client = TcpStream::connect((address, 8000));
    recording.fence();
    let holders = recording.stop().report().only(address, 8000).holders();
    assert!(holders[0].0["accepted"].is_null(), "{holders:?}");
    assert!(holders[1].0["accepted"].is_u64(), "{holders:?}");
}

#[test]
fn a_shadowed_listener_got_nothing() {
    let recording = Recording::start();
    let address = loopback();
    let (mut wide, mut narrow) = (Actor::new(), Actor::new());
    let port = wide.bind("tcp 0.0.0.0:0 reuseport listen").port;
    narrow.bind(&format!("tcp {address}:{port} reuseport listen"));
    let number = u16::try_from(port).unwrap_or(0);
    let clients: Vec<TcpStream> = (0..5).filter_map(|_| TcpStream::connect((address, number)).ok()).collect();
    assert_eq!(clients.len(), 5);
    recording.fence();
    let holders = recording.stop().report().only(address, port).holders();
    assert_eq!((holders[0].number("accepted"), holders[1].number("accepted")), (0, 5));
}
