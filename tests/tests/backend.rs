//! What tells how calls end: each backend that this kernel takes is used where it is asked for, and all say the same.

#![expect(clippy::indexing_slicing, clippy::expect_used, reason = "tests fail by panicking")]

use scenarios::{Actor, Finding, Recording, Report, Run, loopback};
use serde_json::Value;

/// A backend, as `doctor` tells of it.
struct Backend {
    name: String,
    /// Why it cannot be used here.
    refused: Option<String>,
    chosen: bool,
}

fn backends() -> Vec<Backend> {
    let doctor = Run::bindwatch(["doctor", "--format", "json"]).outcome().expect(0).stdout;
    let doctor: Value = serde_json::from_str(&doctor).expect("JSON");
    let backends = doctor["backends"].as_array().expect("a list of backends").iter();
    let backend = |backend: &Value| Backend {
        name: backend["backend"].as_str().expect("its name").to_owned(),
        refused: backend["reason"].as_str().map(str::to_owned),
        chosen: backend["chosen"] == true,
    };
    backends.map(backend).collect()
}

fn usable() -> Vec<String> {
    backends().into_iter().filter(|backend| backend.refused.is_none()).map(|backend| backend.name).collect()
}

/// The head of a log that is being written.
fn header(recording: &Recording) -> Value {
    recording.log().lines("\"type\":\"header\"").remove(0)
}

#[test]
fn the_backend_that_is_asked_for_is_used_or_refused() {
    let all = backends();
    let names: Vec<&str> = all.iter().map(|backend| backend.name.as_str()).collect();
    assert_eq!(names, ["fexit", "kprobe", "tracepoint"]);
    let best = all.iter().find(|backend| backend.refused.is_none()).expect("one that works");
    assert!(best.chosen, "the best that works: {}", best.name);
    assert_eq!(header(&Recording::with(["--backend", "auto"]))["backend"], best.name.as_str());
    for Backend { name, refused, .. } in &all {
        if let Some(reason) = refused {
            let outcome = Run::bindwatch(["record", "-o", "/dev/null", "--backend", name]).outcome();
            outcome.expect_one_line(125);
            assert!(outcome.stderr.contains(&format!("--backend {name} cannot be used")), "{outcome}");
            assert!(outcome.stderr.contains(reason), "{reason}: {outcome}");
            continue;
        }
        let header = header(&Recording::with(["--backend", name]));
        assert_eq!(header["backend"], name.as_str());
        let hooks: Vec<&str> =
            header["hooks"].as_array().expect("hooks").iter().filter_map(Value::as_str).collect();
        // An attached system call event slows every system call: there are none where nothing needs them.
        let slow = hooks.iter().any(|hook| hook.starts_with("sys_"));
        assert_eq!(slow, name == "tracepoint", "{hooks:?}");
        let prefix = if name == "kprobe" { "kretprobe" } else { "fexit" };
        let inside = hooks.iter().any(|hook| *hook == format!("{prefix}/inet_bind"));
        assert_eq!(inside, name != "tracepoint", "{hooks:?}");
    }
}

#[test]
fn nothing_tells_ends_where_no_errno_is_wanted() {
    let header = header(&Recording::with(["--errno", "off"]));
    assert_eq!(header["backend"], Value::Null);
    let hooks = header["hooks"].as_array().expect("hooks");
    assert!(!hooks.iter().any(|hook| hook.as_str().is_some_and(|hook| hook.contains('/'))), "{hooks:?}");
}

/// What is found, in the order of its text.
const EXPECTED: [&str; 10] = [
    "co-bind error tcp 8300 cause null count 1 uncertain false victim null null holders [listen,listen]",
    "exhausted error tcp 0 cause null count 1 uncertain false victim connect EADDRNOTAVAIL holders [listen]",
    "exhausted error tcp 0 cause null count 2 uncertain false victim listen EADDRINUSE holders [listen]",
    "exhausted error udp 0 cause null count 1 uncertain false victim bind EADDRINUSE holders [bound]",
    "exhausted error udp 0 cause null count 1 uncertain false victim connect EAGAIN holders [bound]",
    "exhausted error udp 0 cause null count 1 uncertain false victim connect EAGAIN holders [bound]",
    "refused warning tcp 8000 cause listener count 1 uncertain false victim bind EADDRINUSE holders [listen]",
    "refused warning tcp 8000 cause listener count 1 uncertain false victim bind EADDRINUSE holders [listen]",
    "refused warning tcp 8400 cause listener count 1 uncertain false victim listen EADDRINUSE holders [listen]",
    "refused warning udp 8100 cause bound count 1 uncertain false victim bind EADDRINUSE holders [bound]",
];

/// What a finding says, without what is another run's: ids, times, addresses and processes by number.
fn gist(report: &Report, finding: &Finding) -> String {
    let victim = &finding.0["victim"];
    let states: Vec<&Value> =
        finding.0["holders"].as_array().expect("holders").iter().map(|holder| &holder["state"]).collect();
    let field = |name: &str| finding.0[name].to_string();
    format!(
        "{} {} {} {} cause {} count {} uncertain {} victim {} {} holders {}",
        field("kind"),
        field("severity"),
        field("protocol"),
        field("port"),
        field("cause"),
        field("count"),
        report.doubts(finding),
        victim["call"],
        victim["errno"],
        Value::from_iter(states.into_iter().cloned()),
    )
    .replace('"', "")
}

/// Failures and successes that every backend sees alike.
fn live_through(backend: &str) -> Vec<String> {
    let recording = Recording::with(["--backend", backend]);
    let (one, other) = (loopback(), loopback());
    let mut holder = Actor::new();
    holder.bind(&format!("tcp {one}:8000 listen"));
    holder.bind(&format!("udp {one}:8100"));
    holder.bind(&format!("tcp {one}:8300 reuseport listen"));
    let mut victim = Actor::new();
    // Refused: by IPv4, by IPv6 (a mapped address), a datagram socket, and one that only shares.
    assert_eq!(victim.err(&format!("bind tcp {one}:8000")), "EADDRINUSE");
    assert_eq!(victim.err(&format!("bind tcp [::ffff:{one}]:8000")), "EADDRINUSE");
    assert_eq!(victim.err(&format!("bind udp {one}:8100")), "EADDRINUSE");
    victim.bind(&format!("tcp {one}:8300 reuseport listen"));
    // Refused when it listens: both may be bound.
    let first = victim.bind(&format!("tcp {other}:8400 reuseaddr"));
    let second = victim.bind(&format!("tcp {other}:8400 reuseaddr"));
    victim.ok(&format!("listen {}", first.id));
    assert_eq!(victim.err(&format!("listen {}", second.id)), "EADDRINUSE");
    // What fails for another reason is no finding, and what leaves its port for later is no failure.
    victim.bind(&format!("tcp {one}:0 no-port"));
    let mut nobody = Actor::with(&["setuid 65534"]);
    assert_eq!(nobody.err(&format!("bind tcp {other}:80")), "EACCES");
    // A connection takes an address for a socket that had none: a newcomer there overlaps no longer.
    let moved = victim.bind("udp 0.0.0.0:8500 reuseaddr");
    victim.ok(&format!("reconnect {} {other}:53", moved.id));
    // Without a free port.
    let mut alone = Actor::new();
    alone.ok("unshare-net");
    alone.ok("sysctl net/ipv4/ip_local_port_range 40000 40001");
    // Listeners: what is bound only is in no table before 6.8, and is then not counted.
    for (protocol, listens) in [("tcp", "listen"), ("udp", "")] {
        alone.bind(&format!("{protocol} 0.0.0.0:0 {listens}"));
        alone.bind(&format!("{protocol} 0.0.0.0:0 {listens}"));
        assert_eq!(alone.err(&format!("bind {protocol} 127.0.0.1:0")), "EADDRINUSE");
    }
    let socket = alone.ok("socket tcp 4").number("id");
    assert_eq!(alone.err(&format!("listen {socket}")), "EADDRINUSE");
    assert_eq!(alone.err("connect tcp 127.0.0.1:9"), "EADDRNOTAVAIL");
    assert_eq!(alone.err("connect udp 127.0.0.1:9"), "EAGAIN");
    assert_eq!(alone.err("connect udp [::1]:9"), "EAGAIN");
    recording.fence();
    let report = recording.stop().report();
    let there = report.in_netns(alone.netns());
    let found = [report.at(one), report.at(one.to_ipv6_mapped()), report.at(other), there].concat();
    let mut gists: Vec<String> = found.iter().map(|finding| gist(&report, finding)).collect();
    gists.sort();
    gists
}

#[test]
fn all_backends_find_the_same() {
    for backend in usable() {
        assert_eq!(live_through(&backend), EXPECTED, "{backend}");
    }
}

/// Doors that have no system call event, or whose event does not tell.
#[test]
fn functions_show_what_system_calls_do_not() {
    for backend in usable().into_iter().filter(|backend| backend != "tracepoint") {
        let recording = Recording::with(["--backend", &backend]);
        let mut holder = Actor::new();
        let mut refused = Vec::new();
        let hows: &[&str] = if cfg!(target_arch = "x86_64") { &["bind", "socketcall"] } else { &[] };
        for how in hows {
            let address = loopback();
            holder.bind(&format!("tcp {address}:8000 listen"));
            assert_eq!(Actor::new().err(&format!("compat {how} tcp {address}:8000 listen")), "EADDRINUSE");
            refused.push(address);
        }
        let mut alone = Actor::new();
        alone.ok("unshare-net");
        alone.ok("sysctl net/ipv4/ip_local_port_range 40000 40000");
        alone.bind("udp 0.0.0.0:0");
        let socket = alone.ok("socket udp 4").number("id");
        assert_eq!(alone.err(&format!("send {socket} 127.0.0.1:9")), "EAGAIN");
        recording.fence();
        let report = recording.stop().report();
        for address in refused {
            assert_eq!(gist(&report, &report.only(address, 8000)), EXPECTED[6], "{backend}");
        }
        let there = report.in_netns(alone.netns());
        let exhausted: Vec<String> = there.iter().map(|finding| gist(&report, finding)).collect();
        let expected =
            "exhausted error udp 0 cause null count 1 uncertain false victim send EAGAIN holders [bound]";
        assert_eq!(exhausted, [expected], "{backend}");
    }
}

/// What the kernel cannot do is not seen by nobody: that its events are missing costs nothing.
#[test]
fn a_hook_is_missed_only_where_there_is_something_to_see() {
    let doctor = Run::bindwatch(["doctor", "--format", "json"]).outcome().expect(0).stdout;
    let doctor: Value = serde_json::from_str(&doctor).expect("JSON");
    let symbols = std::fs::read_to_string("/proc/kallsyms").expect("the kernel's functions");
    let can_bind = symbols.lines().any(|line| line.split_whitespace().nth(2) == Some("io_bind"));
    let hooks = doctor["hooks"].as_array().expect("hooks");
    let missed: Vec<&Value> = hooks.iter().filter(|hook| hook["usable"] == false).collect();
    for hook in &missed {
        assert!(hook["reason"].is_string(), "{hook}");
        let name = hook["hook"].as_str().expect("its name");
        // The end of connect() tells what its beginning would, where it knows the arguments.
        let needless = name.starts_with("io_uring") && !can_bind || name == "sys_enter_connect";
        assert_eq!(hook["costs"].is_null(), needless, "{hook}");
    }
    let probe = doctor["checks"].as_array().and_then(|checks| checks.iter().find(|c| c["name"] == "probe"));
    // Few kernels have BPF as a security module: it is a hook more there, and none less elsewhere.
    let is_rare = |hook: &Value| hook["hook"] == "socket_setsockopt" && hook["fix"].is_string();
    let costly = missed.iter().any(|hook| !hook["costs"].is_null() && !is_rare(hook));
    let expected = if costly { "degraded" } else { "ok" };
    assert_eq!(probe.expect("the probe")["state"], expected, "{missed:?}");
}
