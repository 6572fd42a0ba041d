//! What is known a moment after the record that told of it.

use super::*;
use crate::event::{Accepted, Changed, Unresolved};

fn compat(number: u32, cookie: u64) -> Call {
    Call { door: Door::Compat, ..call(number, cookie) }
}

#[test]
fn a_32_bit_bind_that_gets_no_port_has_failed() {
    let mut bench = Bench::new();
    bench.bind(2, 70);
    assert_eq!(bench.feed(Record::Unresolved(compat(2, 71))), [], "it has only begun");
    assert_eq!(bench.wait(1_000_000), []);
    let (process, socket, comm) = (process(2), socket(71), "comm-2".to_owned());
    let failed = Body::Unresolved(Unresolved { process, socket, comm, door: Door::Compat });
    assert_eq!(bench.wait(20_000_000), [failed]);
    assert_eq!(bench.wait(20_000_000), [], "once");
}

#[test]
fn a_32_bit_bind_that_gets_its_port_has_not() {
    let mut bench = Bench::new();
    bench.feed(Record::Unresolved(compat(2, 71)));
    let facts = bench.feed(Record::Bind(compat(2, 71)));
    assert_eq!(types(&facts), ["process", "bind"]);
    assert_eq!(bench.wait(50_000_000), []);
}

/// Of a bind that is denied before the kernel makes it: its end is the same incident.
#[test]
fn a_denied_bind_has_not_failed_as_well() {
    let mut bench = Bench::new();
    let denied = |number, cookie, errno| Record::Denied {
        call: Call { errno, ..call(number, cookie) },
        holder_cookie: Cookie(70),
        holder: process(2),
    };
    let failed = |number, cookie, errno| Record::BindFailed(Call { errno, ..call(number, cookie) });
    bench.bind(2, 70);
    assert_eq!(types(&bench.feed_from(Hook::CheckBind4, denied(3, 71, Errno::EPERM))), ["process", "denied"]);
    assert_eq!(bench.feed(failed(3, 71, Errno::EPERM)), []);
    assert_eq!(types(&bench.feed(failed(3, 71, Errno::EPERM))), ["bind-failed"], "once");
    // Of another thread or socket, and with another errno, it is something else.
    for (number, cookie, errno) in [(4, 71, Errno::EPERM), (3, 72, Errno::EPERM), (3, 71, Errno::EADDRINUSE)]
    {
        bench.feed_from(Hook::CheckBind6, denied(3, 71, Errno::EPERM));
        assert!(types(&bench.feed(failed(number, cookie, errno))).contains(&"bind-failed"));
    }
    // One that got its port in between was not denied.
    bench.feed_from(Hook::CheckBind4, denied(3, 71, Errno::EPERM));
    bench.bind(3, 71);
    assert_eq!(types(&bench.feed(failed(3, 71, Errno::EPERM))), ["bind-failed"]);
    // Of 32 bits: what begins after the denial does not get its port.
    bench.feed_from(Hook::CheckBind4, denied(5, 75, Errno::EPERM));
    assert_eq!(bench.feed(Record::Unresolved(compat(5, 75))), []);
    assert_eq!(bench.wait(50_000_000), []);
}

#[test]
fn the_next_bind_of_a_thread_ends_the_one_before() {
    let mut bench = Bench::new();
    bench.bind(2, 70);
    bench.feed(Record::Unresolved(compat(2, 71)));
    assert_eq!(types(&bench.feed(Record::Unresolved(compat(2, 72)))), ["bind-unresolved"]);
    assert_eq!(types(&bench.wait(50_000_000)), ["bind-unresolved"]);
}

#[test]
fn a_bind_whose_end_was_not_seen_is_told_as_such_at_once() {
    let mut bench = Bench::new();
    bench.bind(2, 70);
    assert_eq!(types(&bench.feed(Record::Unresolved(call(2, 71)))), ["bind-unresolved"]);
}

/// The device is a name in the call; the socket has its index.
#[test]
fn a_device_is_read_from_the_socket_a_moment_later() {
    let mut bench = Bench::new();
    bench.bind(2, 70);
    let mut on_device = socket(70);
    on_device.options.device = Ifindex(3);
    bench.enricher.lookups.now = vec![(on_device.clone(), TcpState::Close)];
    let to_device = SetOption { cookie: Cookie(70), level: 1, name: 25, value: Some(0x3068_7465) };
    let expected = Body::Changed(Changed { process: None, socket: on_device, state: TcpState::Close });
    assert_eq!(bench.feed(Record::Option(to_device.clone())), []);
    assert_eq!(bench.wait(1_000_000), []);
    assert_eq!(bench.wait(1_000_000), std::slice::from_ref(&expected));
    // Right after a look the next one waits: each goes through every descriptor of the machine.
    assert_eq!(bench.feed(Record::Option(to_device)), []);
    assert_eq!(bench.wait(2_000_000), []);
    assert_eq!(bench.wait(50_000_000), [expected]);
    assert_eq!(bench.wait(50_000_000), []);
}

/// The caller lost its processor in the middle of the call, on a busy machine.
#[test]
fn a_call_that_takes_long_is_not_too_late_for_the_look() {
    let changed = |socket: &SocketFacts| {
        Body::Changed(Changed { process: None, socket: socket.clone(), state: TcpState::Close })
    };
    let mut bench = Bench::new();
    bench.bind(2, 70);
    let (before, mut after) = (socket(70), socket(70));
    after.options.device = Ifindex(3);
    bench.enricher.lookups.now = vec![(before.clone(), TcpState::Close)];
    let to_device = SetOption { cookie: Cookie(70), level: 1, name: 25, value: Some(0x3068_7465) };
    assert_eq!(bench.feed(Record::Option(to_device)), []);
    assert_eq!(bench.wait(2_000_000), [changed(&before)]);
    assert_eq!(bench.wait(200_000_000), [], "told already");
    bench.enricher.lookups.now = vec![(after.clone(), TcpState::Close)];
    assert!(bench.enricher.next_due().is_some());
    assert_eq!(bench.wait(2_000_000_000), [changed(&after)]);
    assert_eq!(bench.enricher.next_due(), None);
}

/// What a 32-bit program sets is told without its value.
#[test]
fn an_option_of_which_the_value_is_not_known_is_read_from_the_socket() {
    let mut bench = Bench::new();
    bench.bind(2, 70);
    let mut shared = socket(70);
    shared.options.reuse_port = true;
    bench.enricher.lookups.now = vec![(shared.clone(), TcpState::Close)];
    for name in [2, 15, 62] {
        let option = SetOption { cookie: Cookie(70), level: 1, name, value: None };
        assert!(option.must_be_looked_up());
        assert_eq!(bench.feed(Record::Option(option)), []);
    }
    let expected = Body::Changed(Changed { process: None, socket: shared, state: TcpState::Close });
    assert_eq!(bench.wait(2_000_000), [expected]);
}

/// The first socket leaves its device, and then the second comes: when it is looked at both have been, and neither record was
/// read. What was seen is told behind them.
#[test]
fn a_device_that_was_set_again_before_the_look_is_not_told_too_early() {
    let mut bench = Bench::new();
    bench.bind(2, 70);
    bench.bind(3, 71);
    let mut on_device = socket(71);
    on_device.options.device = Ifindex(3);
    bench.enricher.lookups.now = vec![(on_device, TcpState::Close)];
    let option =
        Record::Option(SetOption { cookie: Cookie(71), level: 1, name: 25, value: Some(0x3068_7465) });
    assert_eq!(bench.feed(option.clone()), []);
    let close =
        Small { cookie: Cookie(70), state: TcpState::Close, backlog: 0, tgid: 0, netns: Inum(1), port: 0 };
    let meanwhile = [Record::Close(close), option];
    assert_eq!(bench.wait_beside(2_000_000, &meanwhile), []);
    let [close, option] = meanwhile;
    assert_eq!(types(&bench.feed(close)), ["close"]);
    assert_eq!(bench.feed(option), []);
    assert_eq!(types(&bench.wait(50_000_000)), ["changed"]);
}

#[test]
fn a_listener_without_a_port_is_looked_at_unless_it_is_told() {
    let mut bench = Bench::new();
    let mut unbound = call(2, 70);
    unbound.socket.port = 0;
    bench.enricher.lookups.now = vec![(socket(70), TcpState::Listen)];
    assert_eq!(types(&bench.feed(Record::Listen(unbound.clone()))), ["process", "listen"]);
    assert_eq!(types(&bench.wait(50_000_000)), ["changed"]);
    unbound.socket.cookie = Cookie(71);
    bench.feed(Record::Listen(unbound));
    bench.feed(Record::Listen(call(2, 71)));
    assert_eq!(bench.wait(50_000_000), []);
}

#[test]
fn a_port_that_was_given_up_is_no_longer_waited_for() {
    let mut bench = Bench::new();
    bench.bind(2, 70);
    let mut nowhere = call(2, 70);
    nowhere.socket.port = 0;
    assert_eq!(types(&bench.feed(Record::Changed(nowhere.clone(), TcpState::Close))), ["changed"]);
    assert_eq!(bench.feed(Record::Changed(nowhere, TcpState::Close)), [], "it held none");
    assert_eq!(bench.feed(Record::Close(small(70, TcpState::Close))), []);
}

#[test]
fn what_a_listener_got_is_told_when_it_closes_and_at_the_end() {
    let mut bench = Bench::new();
    for cookie in 70..73 {
        bench.bind(2, cookie);
        bench.enricher.lookups.accepted.insert(Cookie(cookie), cookie);
    }
    bench.feed(Record::Listen(call(2, 70)));
    bench.feed(Record::Listen(call(2, 71)));
    let told = Body::Accepted(Accepted { cookie: Cookie(70), connections: 70 });
    let facts = bench.feed(Record::Close(small(70, TcpState::Listen)));
    assert_eq!((facts.first(), types(&facts)), (Some(&told), vec!["accepted", "close"]));
    assert_eq!(types(&bench.feed(Record::Close(small(72, TcpState::Close)))), ["close"], "it never listened");
    let mut facts = Vec::new();
    bench.enricher.accepted_so_far(BootTime(bench.now), &mut facts);
    assert_eq!(types(&bench.bodies(facts)), ["accepted"]);
}

#[test]
fn listeners_that_are_looked_at_are_counted_while_they_are_there() {
    let mut bench = Bench::new();
    for cookie in 70..73 {
        bench.bind(2, cookie);
        bench.feed(Record::Listen(call(2, cookie)));
        bench.enricher.lookups.accepted.insert(Cookie(cookie), 1);
    }
    let looked_at = |bench: &mut Bench, cookies: &[u64]| {
        let (cookies, mut facts) = (cookies.iter().copied().map(Cookie).collect(), Vec::new());
        bench.enricher.accepted_by(&cookies, BootTime(bench.now), &mut facts);
        let told = bench.bodies(facts);
        let counted = told.into_iter().filter_map(|body| match body {
            Body::Accepted(told) => Some((told.cookie.0, told.connections)),
            _ => None,
        });
        counted.collect::<Vec<_>>()
    };
    // Not those that nobody looks at, nor what does not listen; and only what is new.
    assert_eq!(looked_at(&mut bench, &[70, 71, 99]), [(70, 1), (71, 1)]);
    bench.enricher.lookups.accepted.insert(Cookie(71), 5);
    assert_eq!(looked_at(&mut bench, &[70, 71, 72]), [(71, 5), (72, 1)]);
    assert_eq!(looked_at(&mut bench, &[70, 71, 72]), []);
    // The last word is told whether it is new or not.
    assert_eq!(types(&bench.feed(Record::Close(small(71, TcpState::Listen)))), ["accepted", "close"]);
    assert_eq!(looked_at(&mut bench, &[71]), []);
}

#[test]
fn a_group_that_was_joined_before_the_bind_is_told_with_it() {
    let mut bench = Bench::new();
    bench.bind(2, 69);
    let join = SetOption { cookie: Cookie(70), level: 0, name: 35, value: Some(1) };
    assert_eq!(bench.feed(Record::Option(join)), [], "it has no port yet");
    let meant = Body::Option(OptionSet { cookie: Cookie(70), setting: Setting::Multicast });
    let facts = bench.bind(2, 70);
    assert_eq!((types(&facts), facts.last()), (vec!["bind", "option"], Some(&meant)));
    assert_eq!(types(&bench.bind(2, 70)), ["bind"]);
}
