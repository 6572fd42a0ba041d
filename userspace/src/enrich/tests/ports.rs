//! Ports that run out: when the tables are asked, and what is counted.

use super::*;

fn row(cookie: u64, port: u16, state: TcpState, peer: Option<&str>, holders: &[u32]) -> PortRow {
    PortRow {
        socket: SocketFacts { port, ..socket(cookie) },
        state,
        peer: peer.map(|peer| peer.parse().unwrap()),
        holders: holders.iter().map(|holder| process(*holder)).collect(),
    }
}

fn no_port(protocol: Protocol, errno: Errno) -> Record {
    let mut call = call(2, 90);
    call.errno = errno;
    call.socket.protocol = protocol;
    call.socket.address = [10, 0, 0, 1].into();
    call.socket.port = 443;
    Record::ConnectFailed(call)
}

fn rows_of(bodies: &[Body]) -> Vec<&TableRow> {
    let rows = bodies.iter().filter_map(|body| match body {
        Body::Table(row) => Some(row),
        _ => None,
    });
    rows.collect()
}

fn bind_to_any(record: fn(Call) -> Record) -> Record {
    let mut call = call(2, 90);
    call.errno = Errno::EADDRINUSE;
    call.socket.port = 0;
    record(call)
}

fn count(bodies: &[Body]) -> &PortUse {
    let counts = bodies.iter().filter_map(|body| match body {
        Body::PortUse(count) => Some(count),
        _ => None,
    });
    let counts: Vec<&PortUse> = counts.collect();
    assert_eq!(counts.len(), 1, "{bodies:?}");
    counts[0]
}

/// Sockets of a namespace with the ports 40000 to 40009.
fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.exec(5, "/nowhere/holder", &[]);
    bench.exec(6, "/nowhere/client", &[]);
    bench.feed(Record::Exit(process(6)));
    let fake = bench.enricher.lookups();
    fake.range = Some((40_000, 40_009));
    fake.openers = (20..30).map(|cookie| (Cookie(cookie), process(6))).collect();
    let there = Some("10.0.0.1:443");
    fake.rows = vec![
        row(20, 40_000, TcpState::TimeWait, there, &[]),
        row(21, 40_001, TcpState::TimeWait, there, &[]),
        row(22, 40_001, TcpState::FinWait2, Some("10.0.0.2:443"), &[]),
        row(23, 40_002, TcpState::Established, there, &[5]),
        row(24, 40_003, TcpState::Listen, None, &[5, 7]),
        row(31, 40_004, TcpState::TimeWait, there, &[]),
        row(32, 40_005, TcpState::Close, None, &[]),
        row(33, 39_999, TcpState::TimeWait, there, &[]),
        row(34, 40_010, TcpState::Listen, None, &[5]),
    ];
    bench
}

#[test]
fn who_keeps_a_connect_from_its_ports() {
    let mut bench = bench();
    let first = bench.next;
    let facts = bench.feed(no_port(Protocol::Tcp, Errno::EADDRNOTAVAIL));
    assert_eq!(types(&facts), ["process", "connect-failed", "port-range", "process", "process", "port-use"]);
    let count = count(&facts);
    assert_eq!((count.asked_by, count.ports, count.used), (Seq(first.0 + 1), 10, 6));
    let users: Vec<_> = count.users.iter().map(|u| (u.process, u.sockets, u.time_wait, u.port)).collect();
    // What goes to another place is not in the way.
    assert_eq!(users, [(process(5), 2, 0, 40_002), (process(6), 0, 2, 40_000)]);
    assert_eq!(count.rest, Rest { sockets: 1, time_wait: 1 });
    // The same again at once: nothing new. The range is told once, the count after a while.
    assert_eq!(types(&bench.feed(no_port(Protocol::Tcp, Errno::EADDRNOTAVAIL))), ["connect-failed"]);
    bench.now += SURVEY_AGAIN_NS;
    let facts = bench.feed(no_port(Protocol::Tcp, Errno::EADDRNOTAVAIL));
    assert_eq!(types(&facts), ["connect-failed", "port-use"]);
}

#[test]
fn who_keeps_a_bind_from_its_ports() {
    for record in [Record::BindFailed, Record::ListenFailed] {
        let mut bench = bench();
        bench.enricher.lookups().rows[3].socket.address = [127, 0, 0, 9].into();
        let facts = bench.feed(bind_to_any(record));
        let count = count(&facts);
        assert_eq!((count.used, count.users.len()), (5, 2));
        assert_eq!(count.users[0].process, process(6), "whatever its peer");
        assert_eq!(bench.enricher.lookups().asked_tables, [(Inum(4), Protocol::Tcp)]);
    }
}

#[test]
fn other_failures_say_nothing_about_ports() {
    for (protocol, errno) in [(Protocol::Udp, Errno::EADDRNOTAVAIL), (Protocol::Tcp, Errno::EAGAIN)] {
        let mut bench = bench();
        assert_eq!(types(&bench.feed(no_port(protocol, errno))), ["process", "connect-failed"]);
    }
    let mut bench = bench();
    assert_eq!(count(&bench.feed(no_port(Protocol::Udp, Errno::EAGAIN))).protocol, Protocol::Udp);
    // A namespace that is gone.
    let mut bench = self::bench();
    bench.enricher.lookups().range = None;
    let facts = bench.feed(no_port(Protocol::Tcp, Errno::EADDRNOTAVAIL));
    assert_eq!(types(&facts), ["process", "connect-failed"]);
}

#[test]
fn counts_a_second_and_names_are_bounded() {
    let mut bench = bench();
    bench.enricher.lookups().rows = (0..30)
        .zip((40_000..40_010).cycle())
        .map(|(n, port)| {
            row(100 + u64::from(n), port, TcpState::Established, Some("10.0.0.1:443"), &[10 + n])
        })
        .collect();
    let facts = bench.feed(no_port(Protocol::Tcp, Errno::EADDRNOTAVAIL));
    assert_eq!(count(&facts).users.len(), USERS_MAX);
    assert_eq!(count(&facts).rest.sockets as usize, 30 - USERS_MAX);
    let to = |port| match no_port(Protocol::Tcp, Errno::EADDRNOTAVAIL) {
        Record::ConnectFailed(mut call) => {
            call.socket.port = port;
            Record::ConnectFailed(call)
        }
        other => other,
    };
    for port in (1..).take((SURVEYED_PER_SECOND / SURVEYED_MIN - 1) as usize) {
        assert_eq!(types(&bench.feed(to(port))), ["connect-failed", "port-use"]);
    }
    assert_eq!(types(&bench.feed(to(80))), ["connect-failed", "limit"]);
    assert_eq!(types(&bench.feed(to(81))), ["connect-failed"]);
    bench.now += 1_000_000_000;
    assert_eq!(types(&bench.feed(to(80))), ["connect-failed", "port-use"]);
}

#[test]
fn an_accepted_connection_belonged_to_who_listened() {
    let mut bench = Bench::new();
    bench.exec(5, "/nowhere/server", &[]);
    bench.feed(Record::Listen(call(5, 70)));
    let owner = |bench: &mut Bench| {
        bench.enricher.lookups().rows = vec![row(99, 8080, TcpState::TimeWait, None, &[])];
        let mut refused = call(2, 90);
        refused.errno = Errno::EADDRINUSE;
        let facts = bench.feed(Record::BindFailed(refused));
        facts.iter().find_map(|body| match body {
            Body::Table(row) => row.last_owner,
            _ => None,
        })
    };
    assert_eq!(owner(&mut bench), Some(process(5)));
    bench.feed(Record::Close(small(70, TcpState::Listen)));
    bench.feed(Record::Exit(process(5)));
    assert_eq!(owner(&mut bench), Some(process(5)));
    // A server that forks: any of its children may have had it.
    bench.fork(5, 9);
    assert_eq!(owner(&mut bench), None);
}

#[test]
fn the_range_is_told_where_a_connection_is_in_the_way() {
    let mut bench = bench();
    let refused = || {
        let mut refused = call(2, 90);
        refused.errno = Errno::EADDRINUSE;
        refused.socket.port = 40_002;
        Record::BindFailed(refused)
    };
    bench.enricher.lookups().rows = vec![row(40, 40_002, TcpState::Listen, None, &[5])];
    assert!(!types(&bench.feed(refused())).contains(&"port-range"));
    bench.enricher.lookups().rows = vec![row(23, 40_002, TcpState::Established, Some("10.0.0.1:443"), &[5])];
    let facts = bench.feed(refused());
    assert_eq!(types(&facts), ["bind-failed", "port-range", "table"]);
    assert!(matches!(&facts[2], Body::Table(row) if row.outgoing));
    assert_eq!(types(&bench.feed(refused())), ["bind-failed", "table"]);
}

#[test]
fn a_connection_that_is_closed_after_the_failure_was_open_then() {
    for (closed_by, holders) in [(6, vec![process(6)]), (5, vec![])] {
        let mut bench = bench();
        bench.enricher.lookups().rows = vec![row(20, 40_000, TcpState::TimeWait, Some("10.0.0.1:443"), &[])];
        let mut refused = call(2, 90);
        refused.errno = Errno::EADDRINUSE;
        refused.socket.port = 40_000;
        bench.feed(Record::BindFailed(refused.clone()));
        bench.feed(Record::BindFailed(refused));
        let close = || {
            let small = small(20, TcpState::Established);
            Record::Close(Small { tgid: process(closed_by).tgid, ..small })
        };
        let facts = bench.feed(close());
        assert_eq!(types(&facts), ["table", "table"]);
        assert!(rows_of(&facts).windows(2).all(|pair| pair[0].asked_by < pair[1].asked_by));
        let Body::Table(row) = &facts[0] else { unreachable!() };
        assert_eq!((row.state, &row.holders, row.last_owner), (TcpState::Established, &holders, None));
        assert!(types(&bench.feed(close())).is_empty());
    }
}
