use super::*;
use crate::event::{Found, Known};

#[test]
fn sockets_of_no_interest_are_left_out() {
    let mut bench = Bench::new();
    bench.bind(2, 70);
    for record in [
        Record::Close(small(99, TcpState::Established)),
        Record::Unlisten(small(99, TcpState::Listen)),
        Record::Destroy(small(99, TcpState::Close)),
        Record::Option(SetOption { cookie: Cookie(99), level: 1, name: 15, value: Some(1) }),
        Record::Foreign,
        // Not closed by anybody yet.
        Record::Destroy(small(70, TcpState::Close)),
    ] {
        assert_eq!(bench.feed(record), []);
    }
    assert_eq!(bench.feed(Record::Unlisten(small(70, TcpState::Listen))), []);
    assert_eq!(types(&bench.wait(stopping::HELD_NS)), ["unlisten"]);
}

#[test]
fn a_listen_that_fails_ends_no_listening() {
    let mut bench = Bench::new();
    bench.bind(2, 70);
    assert_eq!(bench.feed(Record::Unlisten(small(70, TcpState::Listen))), []);
    let failed = call(2, 70);
    let facts = bench.feed(Record::ListenFailed(Call { errno: Errno::EADDRINUSE, ..failed }));
    assert!(types(&facts).contains(&"listen-failed"), "{facts:?}");
    assert_eq!(bench.wait(stopping::HELD_NS), []);
    // A close tells that it was so, and so does time.
    bench.feed(Record::Unlisten(small(70, TcpState::Listen)));
    assert_eq!(types(&bench.feed(Record::Close(small(70, TcpState::Close)))), ["unlisten", "close"]);
}

#[test]
fn gone_follows_the_close_of_a_connected_socket_only() {
    use TcpState::*;
    for (state, lingers) in [
        (Established, true),
        (FinWait1, true),
        (CloseWait, true),
        (SynSent, true),
        (Close, false),
        (Listen, false),
    ] {
        let mut bench = Bench::new();
        bench.bind(2, 70);
        assert_eq!(types(&bench.feed(Record::Close(small(70, state)))), ["close"]);
        assert_eq!(bench.feed(Record::Close(small(70, state))), [], "closed once");
        let gone = bench.feed(Record::Destroy(small(70, state)));
        assert_eq!(types(&gone) == ["gone"], lingers, "{state:?}");
        assert_eq!(bench.feed(Record::Destroy(small(70, state))), [], "gone once");
    }
    // A connected UDP socket is gone when it is closed.
    let mut bench = Bench::new();
    let mut call = call(2, 70);
    call.socket.protocol = Protocol::Udp;
    bench.feed(Record::Bind(call));
    bench.feed(Record::Close(small(70, Established)));
    assert_eq!(bench.feed(Record::Destroy(small(70, Established))), []);
}

#[test]
fn options_that_decide_about_sharing() {
    let mut bench = Bench::new();
    bench.bind(2, 70);
    for (level, name, value, setting) in [
        (1, 2, 1, Some(Setting::ReuseAddr(true))),
        (1, 15, 0, Some(Setting::ReusePort(false))),
        (1, 62, 7, Some(Setting::Device(Ifindex(7)))),
        (1, 25, 0x3068_7465, None),
        (0, 35, 1, Some(Setting::Multicast)),
        (41, 20, 1, Some(Setting::Multicast)),
    ] {
        let facts =
            bench.feed(Record::Option(SetOption { cookie: Cookie(70), level, name, value: Some(value) }));
        let expected: Vec<Body> = setting
            .map(|setting| Body::Option(OptionSet { cookie: Cookie(70), setting }))
            .into_iter()
            .collect();
        assert_eq!(facts, expected);
    }
}

#[test]
fn who_inherited_a_socket_is_looked_up_when_its_holder_ended() {
    let mut bench = Bench::new();
    bench.exec(1, "/nowhere/launcher", &[]);
    bench.bind(1, 70);
    bench.fork(1, 2);
    assert_eq!(bench.enricher.next_due(), None);
    bench.feed(Record::Exit(process(1)));
    let ended = bench.now;
    assert_eq!(bench.enricher.next_due(), Some(BootTime(ended + UNHELD_NS)));
    assert_eq!(bench.wait(UNHELD_NS - 1), []);
    assert_eq!(bench.enricher.lookups().asked_holders, []);
    bench.enricher.lookups().holders.insert(Cookie(70), vec![process(2)]);
    let facts = bench.wait(1);
    assert_eq!(types(&facts), ["process", "holders"]);
    assert_eq!((told(&facts)[0].process, told(&facts)[0].known), (process(2), Known::Fork));
    let holders = Holders { cookie: Cookie(70), processes: vec![process(2)] };
    assert_eq!(facts[1], Body::Holders(holders));
    assert_eq!(bench.enricher.next_due(), None);
    // The heir ends too, and nobody is left.
    bench.enricher.lookups().holders.clear();
    bench.feed(Record::Exit(process(2)));
    let none = Holders { cookie: Cookie(70), processes: Vec::new() };
    assert_eq!(bench.wait(UNHELD_NS), [Body::Holders(none)]);
    assert_eq!(bench.enricher.next_due(), None, "and is not looked for again");
}

#[test]
fn a_close_makes_the_look_up_needless() {
    let mut bench = Bench::new();
    bench.bind(1, 70);
    bench.bind(2, 71);
    bench.feed(Record::Exit(process(1)));
    bench.feed(Record::Close(small(70, TcpState::Close)));
    assert_eq!(bench.enricher.next_due(), None);
    assert_eq!(bench.wait(UNHELD_NS), []);
    assert_eq!(bench.enricher.lookups().asked_holders, []);
}

#[test]
fn one_of_two_holders_is_enough() {
    let mut bench = Bench::new();
    let found = Found { socket: socket(70), state: TcpState::Listen, holders: vec![process(1), process(2)] };
    bench.enricher.found(found, BootTime(1), Hook::SockDiag, &mut Vec::new());
    bench.exec(1, "/nowhere/a", &[]);
    bench.feed(Record::Exit(process(1)));
    assert_eq!(bench.enricher.next_due(), None);
    bench.feed(Record::Exit(process(2)));
    assert!(bench.enricher.next_due().is_some());
}

/// From Linux 6.16 a process tells its end before it frees its memory, which for a large one takes longer than the
/// look-up waits; its descriptors are still open then.
#[test]
fn a_process_that_is_still_ending_is_no_holder() {
    let mut bench = Bench::new();
    bench.bind(1, 70);
    bench.bind(1, 71);
    bench.fork(1, 2);
    bench.feed(Record::Exit(process(1)));
    bench.enricher.lookups().holders.insert(Cookie(70), vec![process(1)]);
    bench.enricher.lookups().holders.insert(Cookie(71), vec![process(1), process(2)]);
    let facts = bench.wait(UNHELD_NS);
    assert_eq!(types(&facts), ["process", "holders"]);
    assert_eq!(facts[1], Body::Holders(Holders { cookie: Cookie(71), processes: vec![process(2)] }));
    // The other is looked at again, less and less often.
    let mut waits = Vec::new();
    for _ in 0..8 {
        let due = bench.enricher.next_due().unwrap();
        waits.push(due.since(BootTime(bench.now)));
        assert_eq!(bench.wait(due.since(BootTime(bench.now))), []);
    }
    assert_eq!(waits[..2], [2 * UNHELD_NS, 4 * UNHELD_NS]);
    assert_eq!(waits[7], 1_000_000_000);
    assert_eq!(types(&bench.feed(Record::Close(small(70, TcpState::Listen)))), ["close"]);
    assert_eq!(bench.enricher.next_due(), None);
}

#[test]
fn an_inventory_makes_sockets_and_holders_known() {
    let mut bench = Bench::new();
    bench.exec(2, "/nowhere/server", &[]);
    let found = Found { socket: socket(70), state: TcpState::Listen, holders: vec![process(2), process(3)] };
    let mut facts = Vec::new();
    bench.enricher.found(found.clone(), BootTime(5), Hook::SockDiag, &mut facts);
    let bodies = bench.bodies(facts);
    assert_eq!(types(&bodies), ["process", "socket"], "the holder that is not known stands alone");
    assert_eq!(bodies[1], Body::Socket(found));
    assert!(bench.enricher.knows(Cookie(70)));
    assert_eq!(types(&bench.feed(Record::Close(small(70, TcpState::Listen)))), ["close"]);
}

#[test]
fn a_look_up_that_is_due_outlasts_an_inventory_that_found_nobody() {
    let mut bench = Bench::new();
    bench.bind(1, 70);
    bench.feed(Record::Exit(process(1)));
    let due = bench.enricher.next_due();
    let found = Found { socket: socket(70), state: TcpState::Listen, holders: Vec::new() };
    bench.enricher.found(found, BootTime(5), Hook::SockDiag, &mut Vec::new());
    assert_eq!(bench.enricher.next_due(), due);
    assert!(due.is_some());
}

#[test]
fn an_inventory_forgets_what_it_did_not_find() {
    let mut bench = Bench::new();
    bench.bind(1, 70);
    bench.bind(1, 71);
    bench.feed(Record::Exit(process(1)));
    bench.enricher.keep_only(&BTreeSet::from([Cookie(71), Cookie(99)]), true, BootTime(0));
    assert!(!bench.enricher.knows(Cookie(70)));
    assert!(bench.enricher.knows(Cookie(71)));
    assert!(!bench.enricher.knows(Cookie(99)), "not found by this");
    assert_eq!(bench.feed(Record::Close(small(70, TcpState::Close))), []);
    bench.wait(UNHELD_NS);
    assert_eq!(bench.enricher.lookups().asked_holders, [BTreeSet::from([Cookie(71)])]);
}

#[test]
fn a_look_up_that_fails_says_nothing_and_is_made_again() {
    let mut bench = Bench::new();
    bench.bind(1, 70);
    bench.feed(Record::Exit(process(1)));
    bench.enricher.lookups().is_blind = true;
    assert_eq!(bench.wait(UNHELD_NS), []);
    assert!(bench.enricher.next_due().is_some());
    bench.enricher.lookups().is_blind = false;
    assert_eq!(types(&bench.wait(2 * UNHELD_NS)), ["holders"]);
    assert_eq!(bench.enricher.lookups().asked_holders.len(), 2);
    assert_eq!(bench.enricher.next_due(), None);
}

#[test]
fn a_listen_without_a_bind_is_held() {
    let mut bench = Bench::new();
    assert_eq!(types(&bench.feed(Record::Listen(call(2, 70)))), ["process", "listen"]);
    bench.feed(Record::Exit(process(2)));
    assert!(bench.enricher.next_due().is_some());
    assert_eq!(types(&bench.feed(Record::Close(small(70, TcpState::Listen)))), ["close"]);
}

#[test]
fn other_calls_name_their_process_first() {
    for (record, name) in [
        (Record::Unresolved(call(2, 70)), "bind-unresolved"),
        (Record::ConnectFailed(call(2, 70)), "connect-failed"),
    ] {
        let mut bench = Bench::new();
        assert_eq!(types(&bench.feed(record)), ["process", name]);
        assert!(!bench.enricher.knows(Cookie(70)), "it holds nothing");
        assert_eq!(bench.enricher.lookups().asked_ports, []);
    }
}
