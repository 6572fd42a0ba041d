use super::*;
use crate::event::Found;

fn refused(number: u32, errno: Errno, port: u16) -> Call {
    let mut call = call(number, 90);
    call.errno = errno;
    call.socket.port = port;
    call
}

fn in_use(number: u32) -> Record {
    Record::BindFailed(refused(number, Errno::EADDRINUSE, 8080))
}

fn row(cookie: u64, state: TcpState, holders: &[u32]) -> PortRow {
    PortRow {
        socket: socket(cookie),
        state,
        peer: None,
        holders: holders.iter().map(|holder| process(*holder)).collect(),
    }
}

fn rows(bodies: &[Body]) -> Vec<&TableRow> {
    bodies
        .iter()
        .filter_map(|body| match body {
            Body::Table(row) => Some(row),
            _ => None,
        })
        .collect()
}

#[test]
fn rows_follow_the_bind_they_were_asked_for() {
    let mut bench = Bench::new();
    bench.exec(1, "/nowhere/runner", &[]);
    bench.fork(1, 2);
    bench.enricher.lookups().rows = vec![row(70, TcpState::Listen, &[])];
    for (expected, types_expected) in [
        // Its process and its ancestor come first, and take numbers.
        (Seq(3), &["process", "process", "bind-failed", "table"][..]),
        (Seq(5), &["bind-failed", "table"]),
    ] {
        let first = bench.next;
        let facts = bench.feed(in_use(2));
        assert_eq!(types(&facts), types_expected);
        let refused = facts.iter().position(|fact| matches!(fact, Body::BindFailed(_))).unwrap();
        assert_eq!(rows(&facts)[0].asked_by, Seq(first.0 + refused as u64));
        assert_eq!(rows(&facts)[0].asked_by, expected);
    }
    assert_eq!(bench.enricher.lookups().asked_ports, [(Inum(4), Protocol::Tcp, 8080); 2]);
}

/// However many are refused, and however far the reader is behind: it looks once at what they all come before.
#[test]
fn one_look_serves_every_bind_that_was_refused_before_it() {
    let mut bench = Bench::new();
    bench.enricher.lookups().rows = vec![row(70, TcpState::Listen, &[])];
    let is_told = |facts: Vec<Body>| rows(&facts).len() == 1;
    // Made 900 us after the first of them.
    bench.enricher.lookups().listed_at = bench.now + 901_000;
    for nth in 0..900 {
        assert!(is_told(bench.feed(in_use(2 + nth % 2))), "{nth}");
    }
    assert_eq!(bench.enricher.lookups().asked_ports.len(), 1);
    // Another port is looked at by itself.
    let other = Record::BindFailed(refused(2, Errno::EADDRINUSE, 8081));
    bench.feed(other);
    assert_eq!(bench.enricher.lookups().asked_ports.len(), 2);
    // What is refused after a look, or read when that is over, needs another one.
    bench.now += 1_000_000;
    assert!(is_told(bench.feed(in_use(2))));
    assert_eq!(bench.enricher.lookups().asked_ports.len(), 3);
    bench.enricher.lookups().listed_at = bench.now + 901_000;
    bench.feed(in_use(2));
    bench.feed(in_use(2));
    assert_eq!(bench.enricher.lookups().asked_ports.len(), 4);
    bench.enricher.forget_listing();
    bench.feed(in_use(2));
    assert_eq!(bench.enricher.lookups().asked_ports.len(), 5);
}

/// Not that nobody has what is in the way.
#[test]
fn a_look_at_a_port_that_fails_says_nothing() {
    let mut bench = Bench::new();
    bench.bind(1, 70);
    bench.enricher.lookups().rows = vec![row(70, TcpState::Listen, &[])];
    bench.enricher.lookups().is_blind = true;
    assert_eq!(types(&bench.feed(in_use(2))), ["process", "bind-failed"]);
    assert_eq!(bench.enricher.lookups().asked_ports.len(), 1);
    // The next one asks again.
    bench.enricher.lookups().is_blind = false;
    assert_eq!(types(&bench.feed(in_use(2))), ["holders", "bind-failed", "table"]);
    assert_eq!(bench.enricher.lookups().asked_ports.len(), 2);
}

#[test]
fn only_a_port_that_is_in_use_is_looked_up() {
    for (errno, port) in [(Errno::EACCES, 80), (Errno::EADDRNOTAVAIL, 8080), (Errno::EADDRINUSE, 0)] {
        for record in [Record::BindFailed, Record::ListenFailed] {
            let mut bench = Bench::new();
            bench.feed(record(refused(2, errno, port)));
            assert_eq!(bench.enricher.lookups().asked_ports, []);
        }
    }
    let mut bench = Bench::new();
    bench.enricher.lookups().rows = vec![row(70, TcpState::Listen, &[])];
    let facts = bench.feed(Record::ListenFailed(refused(2, Errno::EADDRINUSE, 8080)));
    assert_eq!(types(&facts), ["process", "listen-failed", "table"]);
    assert_eq!(rows(&facts)[0].asked_by, Seq(2));
}

#[test]
fn what_says_most_comes_first() {
    use TcpState::*;
    let mut bench = Bench::new();
    bench.enricher.lookups().rows = vec![
        row(1, TimeWait, &[]),
        row(2, Established, &[]),
        row(3, Established, &[5]),
        row(4, FinWait2, &[]),
        row(5, Close, &[]),
        row(6, Listen, &[]),
        row(7, Listen, &[5]),
    ];
    let facts = bench.feed(in_use(2));
    let order: Vec<u64> = rows(&facts).iter().map(|row| row.socket.cookie.0).collect();
    assert_eq!(order, [7, 6, 5, 4, 3, 2, 1]);
}

#[test]
fn many_rows_are_cut_and_that_is_told() {
    let mut bench = Bench::new();
    let waiting = (1..=TABLE_ROWS_MAX as u64).map(|cookie| row(cookie, TcpState::TimeWait, &[]));
    bench.enricher.lookups().rows = waiting.collect();
    assert_eq!(rows(&bench.feed(in_use(2))).len(), TABLE_ROWS_MAX);
    // Not in the way, so not among those that are cut.
    let mut elsewhere = row(98, TcpState::Listen, &[]);
    elsewhere.socket.address = [127, 0, 0, 9].into();
    bench.enricher.lookups().rows.push(elsewhere);
    bench.enricher.lookups().rows.push(row(99, TcpState::Listen, &[]));
    let facts = bench.feed(in_use(2));
    assert_eq!(types(&facts)[..3], ["limit", "bind-failed", "table"]);
    let Body::Limit(limit) = &facts[0] else { unreachable!() };
    assert_eq!((limit.bound.as_str(), limit.value), ("table-rows", TABLE_ROWS_MAX as u64));
    assert_eq!(rows(&facts).len(), TABLE_ROWS_MAX);
    assert_eq!(rows(&facts)[0].socket.cookie, Cookie(99), "the one that holds the port is not what is cut");
}

#[test]
fn an_owner_of_the_past_is_told_only_where_nobody_holds() {
    let mut bench = Bench::new();
    bench.exec(5, "/nowhere/holder", &[]);
    bench.exec(6, "/nowhere/client", &[]);
    bench.feed(Record::Exit(process(6)));
    bench.enricher.lookups().openers = BTreeMap::from([(Cookie(70), process(6)), (Cookie(71), process(6))]);
    bench.enricher.lookups().rows = vec![row(70, TcpState::Listen, &[5]), row(71, TcpState::TimeWait, &[])];
    let facts = bench.feed(in_use(2));
    assert_eq!(types(&facts), ["process", "bind-failed", "process", "table", "process", "table"]);
    assert_eq!(keys(&facts), [process(2), process(5), process(6)], "each before the row that names it");
    assert_eq!((rows(&facts)[0].last_owner, &rows(&facts)[0].holders[..]), (None, &[process(5)][..]));
    assert_eq!((rows(&facts)[1].last_owner, &rows(&facts)[1].holders[..]), (Some(process(6)), &[][..]));
}

#[test]
fn look_ups_a_second_are_bounded_and_that_is_told_once() {
    let mut bench = Bench::new();
    bench.enricher.lookups().rows = vec![row(70, TcpState::Listen, &[])];
    bench.bind(2, 71);
    for _ in 0..LOOKUPS_PER_SECOND {
        assert_eq!(types(&bench.feed(in_use(2))), ["bind-failed", "table"]);
    }
    let facts = bench.feed(in_use(2));
    assert_eq!(types(&facts), ["limit", "bind-failed"]);
    let Body::Limit(limit) = &facts[0] else { unreachable!() };
    assert_eq!((limit.bound.as_str(), limit.value), ("table-lookups", u64::from(LOOKUPS_PER_SECOND)));
    assert_eq!(types(&bench.feed(in_use(2))), ["bind-failed"]);
    // A record of another CPU may be stamped a moment before the second began.
    bench.now -= 1_000_000_000;
    assert_eq!(types(&bench.feed(in_use(2))), ["bind-failed"]);
    bench.now += 2_000_000_000;
    assert_eq!(types(&bench.feed(in_use(2))), ["bind-failed", "table"]);
    assert_eq!(bench.enricher.lookups().asked_ports.len(), LOOKUPS_PER_SECOND as usize + 1);
}

#[test]
fn who_has_what_is_in_the_way_is_told_first() {
    let mut bench = Bench::new();
    bench.exec(5, "/nowhere/binder", &[]);
    bench.exec(6, "/nowhere/taker", &[]);
    bench.bind(5, 70);
    bench.enricher.lookups().rows = vec![row(70, TcpState::Listen, &[6])];
    let facts = bench.feed(in_use(2));
    assert_eq!(types(&facts), ["process", "process", "holders", "bind-failed", "table"]);
    let Body::Holders(holders) = &facts[2] else { unreachable!() };
    assert_eq!((holders.cookie, &holders.processes[..]), (Cookie(70), &[process(6)][..]));
    assert_eq!(types(&bench.feed(in_use(2))), ["bind-failed", "table"], "told once");

    // In flight: nobody has it. One that is exiting still has it.
    bench.enricher.lookups().rows = vec![row(70, TcpState::Listen, &[])];
    let facts = bench.feed(in_use(2));
    let Body::Holders(holders) = &facts[0] else { unreachable!() };
    assert_eq!(holders.processes, []);
    bench.feed(Record::Exit(process(6)));
    bench.enricher.lookups().rows = vec![row(70, TcpState::Listen, &[6])];
    assert_eq!(types(&bench.feed(in_use(2))), ["bind-failed", "table"]);
}

/// What the ledger has after an inventory is what the inventory found: what is told later must be told beside that.
#[test]
fn an_inventory_replaces_the_holders_that_were_known() {
    let mut bench = Bench::new();
    bench.bind(5, 70);
    bench.bind(5, 71);
    // In flight while the tables are looked at, and taken up again by who had sent it; and passed on to another, and back.
    for (cookie, holders) in [(70, vec![]), (71, vec![process(6)])] {
        let found = Found { socket: socket(cookie), state: TcpState::Listen, holders };
        bench.enricher.found(found, BootTime(5), Hook::SockDiag, &mut Vec::new());
    }
    for (cookie, holders) in [(70, &[5][..]), (71, &[5, 6][..])] {
        bench.enricher.lookups().rows = vec![row(cookie, TcpState::Listen, holders)];
        let facts = bench.feed(in_use(2));
        let told = facts.iter().find_map(|fact| match fact {
            Body::Holders(told) => Some((told.cookie, told.processes.clone())),
            _ => None,
        });
        let holders = holders.iter().map(|number| process(*number)).collect();
        assert_eq!(told, Some((Cookie(cookie), holders)));
    }
}

#[test]
fn a_bind_beside_a_strangers_socket_asks_who_has_it() {
    let mut bench = Bench::new();
    bench.exec(5, "/nowhere/binder", &[]);
    bench.exec(6, "/nowhere/taker", &[]);
    bench.bind(5, 70);
    bench.enricher.lookups().holders = BTreeMap::from([(Cookie(70), vec![process(6)])]);
    bench.enricher.lookups().listed_at = u64::MAX;
    assert_eq!(types(&bench.bind(5, 71)), ["bind"], "its own");
    assert_eq!(bench.enricher.lookups().listings, 0);
    assert_eq!(types(&bench.bind(2, 72)), ["process", "process", "holders", "bind"]);
    // One look is good for all records that were there before it.
    bench.bind(3, 73);
    assert_eq!(bench.enricher.lookups().listings, 1);
    for more in 0..=u64::from(LISTINGS_PER_SECOND) {
        bench.enricher.forget_listing();
        let facts = bench.bind(4, 80 + more);
        let told = types(&facts).contains(&"limit");
        assert_eq!(told, more == u64::from(LISTINGS_PER_SECOND) - 1, "{more}");
    }
    assert_eq!(bench.enricher.lookups().listings, LISTINGS_PER_SECOND);
}
