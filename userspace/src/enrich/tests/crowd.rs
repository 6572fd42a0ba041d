use super::*;
use crate::event::Found;

/// Tells only of conflicts, where these sockets are on the port.
fn bench(there: Vec<Neighbour>) -> Bench {
    let mut bench = Bench::new();
    bench.enricher.expect_conflicts_only();
    bench.enricher.lookups().crowd = Some(there);
    bench
}

fn neighbour(cookie: u64, last: u8, holder: u32) -> Neighbour {
    let socket = at(cookie, last);
    let found = Found { socket, state: TcpState::Listen, holders: vec![process(holder)] };
    Neighbour { found, is_told: false, is_member: false }
}

/// A socket on 127.0.0.`last`.
fn at(cookie: u64, last: u8) -> SocketFacts {
    SocketFacts { address: Ipv4Addr::new(127, 0, 0, last).into(), ..socket(cookie) }
}

fn bind(bench: &mut Bench, number: u32, cookie: u64, last: u8) -> Vec<Body> {
    let call = Call { socket: at(cookie, last), ..call(number, cookie) };
    bench.feed(Record::Bind(call))
}

fn without_processes(bodies: &[Body]) -> Vec<&'static str> {
    types(bodies).into_iter().filter(|name| *name != "process").collect()
}

#[test]
fn who_was_there_first_is_told_before_the_bind_that_met_it() {
    let mut bench = bench(vec![neighbour(70, 1, 2), neighbour(71, 1, 3)]);
    assert_eq!(without_processes(&bind(&mut bench, 3, 71, 1)), ["socket", "bind"]);
    // From then on all of them are known.
    assert_eq!(without_processes(&bind(&mut bench, 4, 72, 1)).last(), Some(&"bind"));
    assert_eq!(bench.enricher.lookups().asked_crowds, 1);
    assert_eq!(types(&bench.feed(Record::Close(small(70, TcpState::Listen)))), ["close"]);
}

#[test]
fn a_socket_that_turns_out_to_be_alone_is_forgotten() {
    let mut bench = bench(vec![neighbour(71, 1, 3)]);
    assert_eq!(bind(&mut bench, 3, 71, 1), []);
    assert_eq!(bench.enricher.lookups().ignored, [Cookie(71)]);
    assert_eq!(bench.feed(Record::Close(small(71, TcpState::Listen))), []);
}

#[test]
fn another_address_of_a_port_is_remembered_and_not_told_until_it_conflicts() {
    let mut bench = bench(vec![neighbour(70, 1, 2), neighbour(71, 9, 3)]);
    assert_eq!(bind(&mut bench, 3, 71, 9), []);
    assert_eq!(bench.enricher.lookups().ignored, [], "its end must be noticed");
    assert_eq!(bind(&mut bench, 4, 72, 5), [], "neither with this one");
    assert_eq!(bench.enricher.lookups().asked_crowds, 1);
    // This one conflicts with one of the three.
    bench.enricher.lookups().crowd.as_mut().unwrap().push(neighbour(73, 9, 5));
    assert_eq!(without_processes(&bind(&mut bench, 5, 73, 9)), ["socket", "bind"]);
    assert_eq!(bench.enricher.lookups().asked_crowds, 2);
}

#[test]
fn a_neighbour_whose_own_record_is_to_come_is_left_to_that() {
    let mut later = neighbour(72, 1, 4);
    later.is_told = true;
    let mut bench = bench(vec![neighbour(71, 1, 3), later]);
    assert_eq!(without_processes(&bind(&mut bench, 3, 71, 1)), ["bind"]);
    assert_eq!(without_processes(&bind(&mut bench, 4, 72, 1)).last(), Some(&"bind"));
}

/// As it was found while its bind was being refused.
#[test]
fn a_socket_whose_bind_was_denied_is_not_on_the_port() {
    for hook in [Hook::GuardBind4, Hook::CheckBind4] {
        let mut bench = bench(vec![neighbour(70, 1, 2), neighbour(71, 1, 3)]);
        assert_eq!(without_processes(&bind(&mut bench, 3, 71, 1)), ["socket", "bind"]);
        let call = Call { socket: at(70, 1), errno: Errno::EADDRINUSE, ..call(2, 70) };
        let denied = Record::Denied { call, holder_cookie: Cookie(71), holder: process(3) };
        assert_eq!(without_processes(&bench.feed_from(hook, denied)), ["denied"]);
        // Before it had a port nothing could be seen of it: what is known was so before.
        let is_known = hook == Hook::CheckBind4;
        assert_eq!(bench.enricher.knows(Cookie(70)), is_known);
        let closed = bench.feed(Record::Close(small(70, TcpState::Close)));
        assert_eq!(types(&closed), if is_known { vec!["close"] } else { vec![] });
    }
}

#[test]
fn ports_beyond_the_bound_are_looked_at_later() {
    let mut bench = bench(vec![neighbour(1, 1, 2)]);
    let all = u64::from(CROWDS_PER_SECOND) + 1;
    let mut limits = 0;
    for cookie in 0..all {
        let mut call = call(3, 100 + cookie);
        call.socket.port = 1000 + u16::try_from(cookie).unwrap();
        let bodies = bench.feed(Record::Bind(call));
        limits += types(&bodies).iter().filter(|name| **name == "limit").count();
    }
    assert_eq!((bench.enricher.lookups().asked_crowds, limits), (CROWDS_PER_SECOND, 1));
    bench.wait(SECOND_NS);
    assert_eq!(bench.enricher.lookups().asked_crowds, CROWDS_PER_SECOND + 1);
}

#[test]
fn signals_to_who_turns_out_to_hold_a_port_are_told_then() {
    let mut bench = Bench::with(Processes::new(Cmdline::Full, |_| {}));
    bench.enricher.expect_conflicts_only();
    bench.enricher.lookups().crowd = Some(vec![neighbour(70, 1, 2)]);
    bench.fork(1, 2);
    let signal = Record::Signal { target: process(2), sender: None, signal: 15 };
    assert_eq!(bench.feed(signal), []);
    let bodies = bind(&mut bench, 3, 71, 1);
    assert_eq!(without_processes(&bodies), ["socket", "signal", "bind"]);
    assert!(told(&bodies).iter().any(|told| told.process == process(2)));
}
