//! What an inventory puts right.

use super::*;

#[test]
fn listeners_whose_close_was_lost_are_forgotten_at_the_next_inventory() {
    let mut bench = Bench::new();
    for cookie in 1..=1_000 {
        bench.bind(2, cookie);
        bench.feed(Record::Listen(call(2, cookie)));
    }
    bench.enricher.keep_only(&BTreeSet::new(), true, BootTime(bench.now));
    bench.now += 120_000_000_000;
    bench.bind(2, 5_000);
    bench.feed(Record::Listen(call(2, 5_000)));
    bench.feed(Record::Close(small(5_000, TcpState::Listen)));
    assert!(bench.enricher.listeners.len() <= 1, "{}", bench.enricher.listeners.len());
}

/// An inventory that could not look into its network namespace says nothing about a socket.
#[test]
fn the_end_of_a_socket_where_nobody_could_look_is_still_told() {
    let mut bench = Bench::new();
    bench.bind(2, 70);
    bench.enricher.keep_only(&BTreeSet::new(), false, BootTime(bench.now));
    assert_eq!(types(&bench.feed(Record::Close(small(70, TcpState::Close)))), ["close"]);
}

/// The destruction of a connection can be lost as well as a close.
#[test]
fn connections_whose_destruction_was_lost_are_forgotten_at_the_next_inventory() {
    let mut bench = Bench::new();
    for cookie in 1..=100 {
        bench.bind(2, cookie);
        bench.feed(Record::Close(small(cookie, TcpState::FinWait1)));
    }
    bench.enricher.keep_only(&BTreeSet::new(), false, BootTime(bench.now));
    assert_eq!(
        types(&bench.feed(Record::Destroy(small(1, TcpState::Close)))),
        ["gone"],
        "it may be there still"
    );
    bench.enricher.keep_only(&BTreeSet::new(), true, BootTime(bench.now));
    assert_eq!(bench.enricher.sockets.lingering(), 0);
    assert_eq!(bench.feed(Record::Destroy(small(2, TcpState::Close))), []);
}

#[test]
fn connections_that_are_waited_for_are_bounded() {
    let mut bench = Bench::new();
    let most = crate::ledger::LINGERING_MAX as u64;
    for cookie in 1..=most + 1 {
        bench.bind(2, cookie);
        bench.feed(Record::Close(small(cookie, TcpState::FinWait1)));
    }
    assert_eq!(bench.enricher.sockets.lingering() as u64, most);
    assert_eq!(bench.feed(Record::Destroy(small(1, TcpState::Close))), []);
    assert_eq!(types(&bench.feed(Record::Destroy(small(2, TcpState::Close)))), ["gone"]);
}
