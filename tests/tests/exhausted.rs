//! Ports that run out, each time in a network namespace of its own with its own range.

#![expect(clippy::indexing_slicing, reason = "tests fail by panicking")]

use scenarios::{Actor, Finding, Recording, Report, Run};

/// An actor in a network namespace of its own, with this range and without a second use of what is in TIME_WAIT.
fn alone(range: &str) -> Actor {
    let mut actor = Actor::new();
    actor.ok("unshare-net");
    actor.ok("sysctl net/ipv4/tcp_tw_reuse 0");
    actor.ok(&format!("sysctl net/ipv4/ip_local_port_range {range}"));
    actor
}

/// A server there, on 127.0.0.1:8000, that closes its connections first or last.
fn serving(range: &str, who: &str) -> Actor {
    let mut server = alone(range);
    server.bind("tcp 127.0.0.1:8000 listen");
    server.ok(&format!("serve 1 {who}"));
    server
}

/// The share of a process in the finding: open sockets, TIME_WAIT entries.
fn share(finding: &Finding, pid: u64) -> Option<(u64, u64)> {
    let users = finding.0["users"].as_array()?;
    let user = users.iter().find(|user| user["pid"] == pid)?;
    Some((user["sockets"].as_u64()?, user["time_wait"].as_u64()?))
}

#[test]
fn time_wait_on_the_servers_side_uses_no_ports_up() {
    let recording = Recording::start();
    let server = serving("32768 60999", "first");
    let mut client = Actor::beside(&server);
    assert_eq!(client.ok("churn 1500 127.0.0.1:8000 last").number("made"), 1500);
    client.exit();
    recording.fence();
    let report = recording.stop().report();
    assert_eq!(report.in_netns(server.netns()).len(), 0, "{report}");
}

#[test]
fn time_wait_on_the_clients_side_uses_them_up() {
    let recording = Recording::start();
    // Few, since TIME_WAIT lasts a minute, which an emulated kernel takes for some hundred connections.
    let server = serving("40000 40149", "last");
    let netns = server.netns();
    let mut client = Actor::beside(&server);
    // Before the last port is taken nothing has happened.
    assert_eq!(client.ok("churn 140 127.0.0.1:8000 first").number("made"), 140);
    let pid = u64::from(client.pid());
    client.exit();
    let mut other = Actor::beside(&server);
    let outcome = other.ok("churn 100 127.0.0.1:8000 first");
    // What the kernel did not keep in TIME_WAIT was free again.
    let made = outcome.number("made");
    assert!((10..20).contains(&made), "{outcome}");
    assert!(outcome.to_string().ends_with("failed=EADDRNOTAVAIL"), "{outcome}");
    for _ in 0..3 {
        assert_eq!(other.ok("churn 1 127.0.0.1:8000 first").number("made"), 0);
    }
    // Another destination is another matter.
    let another = server_on(&server, "127.0.0.2");
    assert_eq!(other.ok("churn 10 127.0.0.2:8000 first").number("made"), 10);
    recording.fence();
    drop(another);
    let found = recording.stop().report().in_netns(netns);
    assert_eq!(found.len(), 1, "{found:#?}");
    let finding = &found[0];
    assert_eq!((finding.kind(), finding.severity()), ("exhausted", "error"));
    assert_eq!((finding.text("destination"), finding.number("count")), ("127.0.0.1:8000", 4));
    assert_eq!(finding.victim().number("pid"), u64::from(other.pid()));
    assert_eq!(finding.victim().text("errno"), "EADDRNOTAVAIL");
    assert_eq!(finding.holders().len(), 0, "nobody has what is in TIME_WAIT: {finding:#?}");
    assert_eq!(finding.last_owner(), Some(pid), "it has exited, and is named");
    assert_eq!(share(finding, pid), Some((0, 150 - made)));
    assert_eq!(share(finding, other.pid().into()), Some((0, made)));
    assert_eq!(finding.0["users"][0]["ended"], true);
    let range = &finding.0["port_range"];
    assert_eq!((&range["low"], &range["high"]), (&40_000.into(), &40_149.into()));
    assert_eq!((&range["ports"], &range["used"]), (&150.into(), &150.into()));
    let summary = finding.text("summary");
    assert!(summary.contains(&format!("(PID {pid}, ended: {} in TIME_WAIT)", 150 - made)), "{summary}");
}

/// One more server in the same network namespace.
fn server_on(server: &Actor, address: &str) -> Actor {
    let mut another = Actor::beside(server);
    another.bind(&format!("tcp {address}:8000 listen"));
    another.ok("serve 1 last");
    another
}

#[test]
fn open_sockets_use_ports_up_for_binds_and_listens() {
    let recording = Recording::start();
    let mut holder = alone("40000 40009");
    holder.ok("sysctl net/ipv4/ip_local_reserved_ports 40000-40001");
    for _ in 0..8 {
        holder.bind("tcp 0.0.0.0:0");
    }
    let mut victim = Actor::beside(&holder);
    assert_eq!(victim.err("bind tcp 127.0.0.1:0"), "EADDRINUSE");
    let socket = victim.ok("socket tcp 4").number("id");
    assert_eq!(victim.err(&format!("listen {socket}")), "EADDRINUSE");
    recording.fence();
    let found = recording.stop().report().in_netns(holder.netns());
    let calls: Vec<_> = found.iter().map(|finding| finding.victim().text("call").to_owned()).collect();
    assert!(found.iter().all(|finding| finding.kind() == "exhausted"), "{found:#?}");
    assert!(calls.contains(&"listen".to_owned()) || found[0].number("count") == 2, "{calls:?}");
    for finding in &found {
        assert_eq!(finding.pids(), [u64::from(holder.pid())]);
        assert_eq!(share(finding, holder.pid().into()), Some((8, 0)));
        let range = &finding.0["port_range"];
        assert_eq!((&range["ports"], &range["used"]), (&8.into(), &8.into()), "without the reserved ones");
    }
}

#[test]
fn datagrams_find_no_port_either() {
    let recording = Recording::start();
    let mut holder = alone("40000 40003");
    for _ in 0..4 {
        holder.bind("udp 0.0.0.0:0");
    }
    let mut victim = Actor::beside(&holder);
    assert_eq!(victim.err("connect udp 127.0.0.1:53"), "EAGAIN");
    recording.fence();
    let found = recording.stop().report().in_netns(holder.netns());
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!((found[0].kind(), found[0].text("protocol")), ("exhausted", "udp"));
    assert_eq!(found[0].pids(), [u64::from(holder.pid())]);
    assert_eq!(share(&found[0], holder.pid().into()), Some((4, 0)));
}

#[test]
fn connections_that_fail_for_another_reason_are_no_shortage() {
    let recording = Recording::start();
    let mut server = serving("40000 40999", "last");
    // A port that was chosen, twice for the same pair of addresses.
    for expected in [true, false] {
        let bound = server.bind("tcp 127.0.0.1:30000 reuseaddr");
        let outcome = server.tell(&format!("connect-from {} 127.0.0.1:8000", bound.id));
        assert_eq!(outcome.is_ok(), expected, "{outcome}");
    }
    // IPv6 without an address to connect from: the commonest EADDRNOTAVAIL there is.
    server.ok("sysctl net/ipv6/conf/all/disable_ipv6 1");
    for protocol in ["tcp", "udp"] {
        assert_eq!(server.err(&format!("connect {protocol} [::1]:8000")), "EADDRNOTAVAIL");
    }
    recording.fence();
    let report = recording.stop().report();
    assert_eq!(report.in_netns(server.netns()).len(), 0, "{report}");
}

#[test]
fn the_owners_of_time_wait_are_listed() {
    let recording = Recording::start();
    let server = serving("40000 49999", "last");
    let mut client = Actor::beside(&server);
    client.ok("churn 30 127.0.0.1:8000 first");
    let pid = client.pid();
    let listed = |pid: u32| {
        let report = Run::bindwatch(["list", "--time-wait", "--format", "json"]).outcome().expect(0).stdout;
        let sockets = Report::of(&report).0["sockets"].as_array().cloned().unwrap_or_default();
        let of_client = |socket: &&serde_json::Value| {
            socket["netns"] == server.netns() && socket["tcp_state"] == "time-wait"
        };
        let owners: Vec<_> = sockets.iter().filter(of_client).map(|s| s["last_owner"].clone()).collect();
        assert!(owners.len() >= 25 && owners.iter().all(|owner| owner["pid"] == pid), "{owners:?}");
        owners[0].clone()
    };
    assert_eq!((&listed(pid)["comm"], &listed(pid)["ended"]), (&"actor".into(), &false.into()));
    client.exit();
    assert_eq!((&listed(pid)["comm"], &listed(pid)["ended"]), (&serde_json::Value::Null, &true.into()));
    let table = Run::bindwatch(["list", "--time-wait"]).outcome().expect(0).stdout;
    let line = table.lines().find(|line| line.contains(&format!("(PID {pid}, ended)")));
    assert!(line.is_some_and(|line| line.contains("from 127.0.0.1 to 127.0.0.1:8000")), "{table}");
    assert!(!table.contains("time-wait ("), "counted, not listed one by one");
    drop(recording);
}

#[test]
fn owners_of_time_wait_are_not_guessed() {
    let address = scenarios::loopback();
    let (mut server, mut client) = (Actor::new(), Actor::new());
    server.bind(&format!("tcp {address}:8000 listen"));
    server.ok("serve 1 last");
    client.ok(&format!("churn 3 {address}:8000 first"));
    let outcome = Run::bindwatch(["list", "--time-wait"]).as_nobody().outcome().expect(0);
    let line = outcome.stdout.lines().find(|line| line.contains(&format!("to {address}:8000")));
    // The kernel does not keep every one (two of these three on 5.10).
    assert!(line.is_some_and(|line| line.contains("not known")), "{outcome}");
    assert!(outcome.stderr.contains("no recording was running that this user may ask"), "{outcome}");
}
