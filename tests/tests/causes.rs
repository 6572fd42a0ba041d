//! Binds and listens that fail: who held the port at that moment, and every cause there can be.

#![expect(clippy::indexing_slicing, clippy::panic, reason = "tests fail by panicking")]

use std::net::Ipv4Addr;

use scenarios::wait::{Deadline, Process, Signal, TERM};
use scenarios::{Actor, Recording, Run, loopback};

#[test]
fn a_third_server_learns_who_has_the_port() {
    let recording = Recording::start();
    let address = loopback();
    let (mut one, mut other, mut third) = (Actor::new(), Actor::new(), Actor::new());
    one.bind(&format!("tcp {address}:8000 listen"));
    other.bind(&format!("tcp {address}:8001 listen"));
    assert_eq!(third.err(&format!("bind tcp {address}:8000 listen")), "EADDRINUSE");
    recording.fence();
    let report = recording.stop().report();
    let finding = report.only(address, 8000);
    assert_eq!(
        (finding.kind(), finding.severity(), finding.cause()),
        ("refused", "warning", Some("listener"))
    );
    assert_eq!(finding.pids(), [u64::from(one.pid())]);
    assert_eq!(finding.holders()[0].text("state"), "listen");
    let victim = finding.victim();
    assert_eq!(victim.number("pid"), u64::from(third.pid()));
    assert_eq!(victim.text("errno"), "EADDRINUSE");
    assert_eq!(report.at(address).len(), 1);
    assert!(report.stat("binds_failed") >= 1);
}

#[test]
fn the_cause_is_told() {
    let recording = Recording::start();
    let address = loopback();
    let (mut holder, mut victim) = (Actor::new(), Actor::new());

    holder.bind(&format!("tcp {address}:8000"));
    victim.err(&format!("bind tcp {address}:8000"));

    holder.bind(&format!("udp {address}:8003"));
    victim.err(&format!("bind udp {address}:8003"));

    holder.bind(&format!("tcp {address}:8001 listen"));
    victim.err(&format!("bind tcp {address}:8001 reuseport"));

    holder.bind(&format!("tcp {address}:8002 reuseport listen"));
    let mut stranger = Actor::new();
    stranger.ok("setuid 65534");
    stranger.err(&format!("bind tcp {address}:8002 reuseport"));

    recording.fence();
    let report = recording.stop().report();
    assert_eq!(report.only(address, 8000).cause(), Some("bound"));
    assert_eq!(report.only(address, 8001).cause(), Some("exclusive"));
    assert_eq!(report.only(address, 8002).cause(), Some("other-user"));
    assert_eq!(report.only(address, 8003).cause(), Some("bound"));
    for port in 8000..8004 {
        assert_eq!(report.only(address, port).pids(), [u64::from(holder.pid())], "port {port}");
    }
}

#[test]
fn a_connection_that_was_closed_here_leaves_time_wait() {
    let recording = Recording::start();
    let address = loopback();
    let mut server = lasting();
    let mut client = Actor::beside(&server);
    let listener = server.bind(&format!("tcp {address}:8000 listen"));
    client.ok(&format!("connect tcp {address}:8000"));
    let connection = server.ok(&format!("accept {}", listener.id)).number("id");
    // Whoever closes first keeps the pair of addresses for a minute.
    server.ok(&format!("close {connection}"));
    server.ok(&format!("close {}", listener.id));
    client.ok("close 1");
    let mut next = Actor::beside(&server);
    assert_eq!(next.err(&format!("bind tcp {address}:8000 listen")), "EADDRINUSE");
    recording.fence();
    let finding = recording.stop().report().only(address, 8000);
    assert_eq!((finding.kind(), finding.cause()), ("refused", Some("time-wait")));
    assert_eq!(finding.holders().len(), 0, "nobody holds a TIME_WAIT");
    assert_eq!(finding.last_owner(), Some(server.pid().into()), "who listened there");
}

#[test]
fn the_last_owner_of_a_connections_port_is_known() {
    let recording = Recording::start();
    let address = loopback();
    let mut server = lasting();
    let mut client = Actor::beside(&server);
    let listener = server.bind(&format!("tcp {address}:8000 listen"));
    let port = client.ok(&format!("connect tcp {address}:8000")).number("port");
    let connection = server.ok(&format!("accept {}", listener.id)).number("id");
    client.ok("close 1");
    server.ok(&format!("close {connection}"));
    // What a connection is bound to is an address of the machine, chosen with the port.
    let victim = Actor::beside(&server).err(&format!("bind tcp 127.0.0.1:{port}"));
    assert_eq!(victim, "EADDRINUSE");
    recording.fence();
    let finding = recording.stop().report().only(Ipv4Addr::LOCALHOST, port);
    assert_eq!((finding.kind(), finding.cause()), ("refused", Some("time-wait")));
    assert_eq!(finding.holders().len(), 0);
    assert_eq!(finding.last_owner(), Some(client.pid().into()));
}

#[test]
fn a_victim_that_retries_is_one_finding_with_a_count() {
    let recording = Recording::start();
    let address = loopback();
    let (mut holder, mut victim) = (Actor::new(), Actor::new());
    holder.bind(&format!("tcp {address}:8000 listen"));
    for _ in 0..5 {
        victim.err(&format!("bind tcp {address}:8000"));
    }
    recording.fence();
    let finding = recording.stop().report().only(address, 8000);
    assert_eq!(finding.number("count"), 5);
}

#[test]
fn a_restart_that_comes_too_early_is_told_as_such() {
    let recording = Recording::start();
    let address = loopback();
    let bind = format!("bind tcp {address}:8000 listen");
    let commands = ["slow-term 60000", bind.as_str()];
    let old = Actor::with(&commands);
    old.process.signal(TERM);

    // The new instance fails and is gone within milliseconds.
    let new = Run::new(Actor::program()).args(commands).outcome().expect(0);
    assert!(new.stdout.contains("err EADDRINUSE"), "{new}");

    recording.fence();
    let finding = recording.stop().report().only(address, 8000);
    assert_eq!((finding.kind(), finding.cause()), ("refused", Some("restart")));
    assert_eq!(finding.pids(), [u64::from(old.pid())]);
    let victim = finding.victim();
    assert_eq!(victim.texts("cmdline")[1..], commands, "known though it lived for milliseconds only");
    assert!(victim.text("exe").ends_with("/actor"));
    assert!(
        !old.process.ended(Deadline::after(std::time::Duration::ZERO)),
        "the old one was still on its way out"
    );
}

#[test]
fn listen_that_fails_is_refused_too() {
    let recording = Recording::start();
    let address = loopback();
    let (mut one, mut other) = (Actor::new(), Actor::new());
    // With SO_REUSEADDR both may bind; the first to listen wins.
    one.bind(&format!("tcp {address}:8000 reuseaddr"));
    other.bind(&format!("tcp {address}:8000 reuseaddr"));
    one.ok("listen 1");
    assert_eq!(other.err("listen 1"), "EADDRINUSE");
    recording.fence();
    let finding = recording.stop().report().only(address, 8000);
    assert_eq!((finding.kind(), finding.cause()), ("refused", Some("listener")));
    assert_eq!(finding.victim().number("pid"), u64::from(other.pid()));
    assert_eq!(finding.victim().text("call"), "listen");
    assert_eq!(finding.pids(), [u64::from(one.pid())]);
}

/// An actor in a network namespace of its own, where nothing ends a TIME_WAIT before its minute is over.
///
/// By default a RST does, and one comes without anybody's doing: a FIN that was sent twice (a machine that stood still for longer
/// than a retransmission takes) is acknowledged twice, and the second acknowledgement finds the other end gone.
fn lasting() -> Actor {
    let mut actor = Actor::new();
    actor.ok("unshare-net");
    actor.ok("sysctl net/ipv4/tcp_rfc1337 1");
    actor
}

/// An actor in a network namespace of its own, where a server listens on 127.0.0.1:8000 and `ports` are the ports that
/// connections are given.
fn alone(ports: &str) -> Actor {
    let mut server = lasting();
    server.ok(&format!("sysctl net/ipv4/ip_local_port_range {ports}"));
    server.bind("tcp 127.0.0.1:8000 listen");
    server
}

#[test]
fn close_wait_in_a_worker_that_never_bound() {
    let recording = Recording::start();
    let address = loopback();
    let (mut server, mut client) = (Actor::new(), Actor::new());
    server.bind(&format!("tcp {address}:8000 listen"));
    let worker = server.ok("fork").number("pid");
    client.ok(&format!("connect tcp {address}:8000"));
    server.ok("tell 1 accept 1");
    server.ok("tell 1 close 1");
    server.ok("close 1");
    // The worker does not notice that the client is gone.
    client.ok("close 1");
    assert_eq!(Actor::new().err(&format!("bind tcp {address}:8000 listen")), "EADDRINUSE");
    recording.fence();
    let finding = recording.stop().report().only(address, 8000);
    assert_eq!((finding.kind(), finding.cause()), ("refused", Some("half-closed")));
    assert_eq!(finding.pids(), [worker]);
    assert!(finding.text("summary").contains("CLOSE_WAIT"), "{}", finding.text("summary"));
}

#[test]
fn a_connection_that_only_this_side_closed() {
    let recording = Recording::start();
    let address = loopback();
    let (mut server, mut client) = (Actor::new(), Actor::new());
    server.bind(&format!("tcp {address}:8000 listen"));
    server.bind(&format!("tcp {address}:8001 listen"));
    for port in [8000, 8001] {
        client.ok(&format!("connect tcp {address}:{port}"));
    }
    let closed = server.ok("accept 1").number("id");
    let open = server.ok("accept 2").number("id");
    // One is nobody's any more, the other is still the server's; the client closes neither.
    server.ok(&format!("close {closed}"));
    server.ok(&format!("shutdown {open}"));
    server.ok("close 1");
    server.ok("close 2");
    let mut victim = Actor::new();
    victim.err(&format!("bind tcp {address}:8000 listen"));
    victim.err(&format!("bind tcp {address}:8001 listen"));
    recording.fence();
    let report = recording.stop().report();
    let (nobodys, held) = (report.only(address, 8000), report.only(address, 8001));
    assert_eq!((nobodys.kind(), nobodys.cause()), ("refused", Some("half-closed")));
    assert_eq!(nobodys.holders().len(), 0, "{nobodys:?}");
    assert_eq!(nobodys.last_owner(), Some(server.pid().into()));
    assert!(nobodys.text("summary").contains("FIN_WAIT"), "{}", nobodys.text("summary"));
    assert_eq!((held.kind(), held.cause()), ("refused", Some("half-closed")));
    assert_eq!(held.pids(), [u64::from(server.pid())]);
}

#[test]
fn the_owner_of_an_accepted_connection_is_not_guessed() {
    let recording = Recording::start();
    let address = loopback();
    let mut server = lasting();
    let mut client = Actor::beside(&server);
    server.bind(&format!("tcp {address}:8000 listen reuseport"));
    // A second one listens there: whose connection it is cannot be told when it is over.
    let mut second = Actor::beside(&server);
    second.bind(&format!("tcp {address}:8000 listen reuseport"));
    client.ok(&format!("connect tcp {address}:8000"));
    let mut accepted = server.tell("accept-now 1");
    let owner = if accepted.is_ok() { &mut server } else { &mut second };
    if !accepted.is_ok() {
        accepted = owner.ok("accept 1");
    }
    owner.ok(&format!("close {}", accepted.number("id")));
    server.ok("close 1");
    second.ok("close 1");
    client.ok("close 1");
    assert_eq!(Actor::beside(&server).err(&format!("bind tcp {address}:8000 listen")), "EADDRINUSE");
    recording.fence();
    let report = recording.stop().report();
    let found = report.on(address, 8000);
    let refused = found.iter().find(|finding| finding.kind() == "refused");
    let refused = refused.unwrap_or_else(|| panic!("{report}"));
    assert_eq!((refused.cause(), refused.last_owner()), (Some("time-wait"), None));
}

#[test]
fn a_worker_that_outlived_its_master_is_an_orphan() {
    let recording = Recording::start();
    let address = loopback();
    let mut server = Actor::new();
    server.bind(&format!("tcp {address}:8000 listen"));
    let worker = server.ok("fork").number("pid");
    server.ok("tell 1 stay");
    let worker = Process::of(u32::try_from(worker).unwrap_or_default());
    server.process.signal(Signal::KILL);
    let master = server.pid();
    server.ended();
    let mut victim = Actor::new();
    assert_eq!(victim.err(&format!("bind tcp {address}:8000 listen")), "EADDRINUSE");
    recording.fence();
    let finding = recording.stop().report().only(address, 8000);
    worker.signal(Signal::KILL);
    assert_eq!((finding.kind(), finding.cause()), ("refused", Some("orphan")));
    assert_eq!(finding.pids(), [u64::from(worker.id())]);
    assert_eq!(finding.holders()[0].text("inherited_from").split('@').next(), Some(&*master.to_string()));
    assert!(worker.ended(Deadline::patient()));
}

#[test]
fn whoever_probes_and_binds_later_loses_the_race() {
    let recording = Recording::start();
    let address = loopback();
    let (mut prober, mut other) = (Actor::new(), Actor::new());
    let mut probe = |prober: &mut Actor| {
        let free = prober.bind(&format!("tcp {address}:0"));
        prober.ok(&format!("close {}", free.id));
        other.bind(&format!("tcp {address}:{} listen", free.port));
        free.port
    };
    let itself = probe(&mut prober);
    prober.err(&format!("bind tcp {address}:{itself} listen"));
    let child = probe(&mut prober);
    prober.ok("spawn");
    assert_eq!(prober.err(&format!("tell 1 bind tcp {address}:{child} listen")), "EADDRINUSE");
    let stranger = probe(&mut prober);
    Actor::new().err(&format!("bind tcp {address}:{stranger} listen"));
    recording.fence();
    let report = recording.stop().report();
    for (port, cause) in [(itself, "lost-race"), (child, "lost-race"), (stranger, "listener")] {
        let finding = report.only(address, port);
        assert_eq!((finding.kind(), finding.cause()), ("refused", Some(cause)), "{finding:?}");
        assert_eq!(finding.pids(), [u64::from(other.pid())]);
    }
}

#[test]
fn a_fixed_port_that_a_connection_was_given() {
    let recording = Recording::start();
    let mut server = alone("40000 40000");
    let netns = server.netns();
    let (mut client, mut victim) = (Actor::beside(&server), Actor::beside(&server));
    victim.bind("tcp 127.0.0.1:40000");
    victim.ok("close 1");
    assert_eq!(client.ok("connect tcp 127.0.0.1:8000").number("port"), 40_000);
    victim.err("bind tcp 127.0.0.1:40000 listen");
    Actor::beside(&server).err("bind tcp 0.0.0.0:40000 listen");
    // What is left of a connection is in the way as well.
    let accepted = server.ok("accept 1").number("id");
    client.ok("close 1");
    server.ok(&format!("close {accepted}"));
    Actor::beside(&server).err("bind tcp [::]:40000 listen");
    recording.fence();
    let found = recording.stop().report().in_netns(netns);
    let [race, held, over] = &found[..] else { panic!("three findings: {found:#?}") };
    for (finding, cause) in [(race, "lost-race"), (held, "bound"), (over, "time-wait")] {
        assert_eq!((finding.kind(), finding.cause()), ("refused", Some(cause)), "{finding:?}");
        let hint = finding.text("hint");
        assert!(hint.contains("net.ipv4.ip_local_reserved_ports=40000"), "{hint}");
    }
    for finding in [race, held] {
        assert_eq!(finding.pids(), [u64::from(client.pid())]);
        assert_eq!(finding.holders()[0].text("state"), "connected");
        let summary = finding.text("summary");
        assert!(summary.contains("outgoing connection to 127.0.0.1:8000"), "{summary}");
    }
    assert_eq!((over.holders().len(), over.last_owner()), (0, Some(client.pid().into())));
}

#[test]
fn a_fixed_port_below_the_range_has_no_such_hint() {
    let recording = Recording::start();
    let server = alone("40000 40009");
    let mut holder = Actor::beside(&server);
    holder.bind("tcp 127.0.0.1:30000");
    holder.ok("connect-from 1 127.0.0.1:8000");
    Actor::beside(&server).err("bind tcp 127.0.0.1:30000 listen");
    recording.fence();
    let found = recording.stop().report().in_netns(server.netns());
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!((found[0].cause(), found[0].pids()), (Some("bound"), vec![u64::from(holder.pid())]));
    assert!(!found[0].text("hint").contains("reserved_ports"), "{}", found[0].text("hint"));
}
