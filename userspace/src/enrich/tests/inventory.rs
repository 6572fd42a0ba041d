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
