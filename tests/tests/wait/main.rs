//! `run --on-conflict wait=DURATION`: a bind that would fail is made when its endpoint is free, and nothing else changes.

#![expect(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests fail by panicking")]

mod callers;
mod job;

use std::net::{IpAddr, Ipv4Addr};

use job::Job;
use scenarios::wait::{Deadline, SLOWNESS, Signal, TERM};
use scenarios::{Actor, Finding, Folder, Log, Run, bindwatch, loopback};
use serde_json::Value;

fn outcome(finding: &Finding) -> &str {
    finding.text("wait_outcome")
}

/// How long after the release of a socket the next on the port was bound, ms, by what the kernel told.
fn delay_ms(log: &Log, address: Ipv4Addr, port: u16) -> f64 {
    let mut closed = Vec::new();
    let mut bound: Vec<(u64, u64)> = Vec::new();
    log.each("\"type\":\"", |line| {
        let at = line["at"].as_u64().unwrap_or_default();
        match line["type"].as_str() {
            Some("bind")
                if line["socket"]["port"] == port && line["socket"]["address"] == address.to_string() =>
            {
                bound.push((line["socket"]["cookie"].as_u64().unwrap_or_default(), at));
            }
            Some("close") => closed.push((line["cookie"].as_u64().unwrap_or_default(), at)),
            _ => {}
        }
    });
    let [(old, _), (_, next)] = bound.as_slice() else { panic!("two binds: {bound:?}") };
    let (_, released) = closed.iter().find(|(cookie, _)| cookie == old).expect("the release");
    (*next as f64 - *released as f64) / 1e6
}

/// How a predecessor lets go.
#[derive(Clone, Copy, Debug)]
enum Goes {
    /// It closes its socket, and lives on.
    Closes,
    /// It ends by a signal.
    Ends(Signal),
}

/// Restarts of each kind, fewer where each takes longer.
const RESTARTS: u32 = if SLOWNESS > 1 { 1 } else { 3 };
/// How many times as long as half of them a single restart may take: bindwatch, the command and the kernel that closes
/// the socket each need a processor, and may have to wait for a slice of it where others work.
const LONGEST: f64 = 5.0;

#[test]
fn a_restarted_server_starts_when_its_predecessor_lets_go() {
    let address = loopback();
    // Without it the new server fails.
    let mut old = Actor::new();
    let socket = old.bind(&format!("tcp {address}:8000 reuseaddr listen"));
    let job = Job::with(&[]);
    let mut actor = job.actor;
    assert_eq!(actor.err(&format!("bind tcp {address}:8000 reuseaddr listen")), "EADDRINUSE");
    actor.exit();
    old.ok(&format!("close {}", socket.id));

    drop(old);

    let mut delays = Vec::new();
    for goes in [Goes::Closes, Goes::Ends(TERM), Goes::Ends(Signal::KILL)] {
        for _ in 0..RESTARTS {
            let (mut job, mut old) = (Job::start("10s"), Actor::new());
            let predecessor = u64::from(old.pid());
            let socket = old.bind(&format!("tcp {address}:8000 reuseaddr listen"));
            job.actor.begin(&format!("bind tcp {address}:8000 reuseaddr listen"));
            job.waits(8000);
            match goes {
                Goes::Closes => drop(old.ok(&format!("close {}", socket.id))),
                Goes::Ends(signal) => old.process.signal(signal),
            }
            let answer = job.actor.answer();
            assert!(answer.is_ok(), "{answer}");
            let (log, pid) = (job.log(), job.pid);
            let folder = job.folder;
            job.actor.exit();
            delays.push((goes, delay_ms(&log, address, 8000)));
            let finding = log.report().only(address, 8000);
            assert_eq!((finding.kind(), finding.severity(), outcome(&finding)), ("denied", "note", "done"));
            assert_eq!(finding.pids(), [predecessor], "for whom");
            let victim = finding.victim();
            assert_eq!((victim.number("pid"), &victim.0["errno"]), (u64::from(pid), &Value::Null), "who");
            assert!(finding.0["waited_ms"].is_u64(), "how long: {finding:?}");
            drop(folder);
        }
    }
    println!("bound after the release, ms: {delays:.1?}");
    let mut sorted: Vec<f64> = delays.iter().map(|(_, delay)| *delay).collect();
    sorted.sort_by(f64::total_cmp);
    let bound = 20.0 * SLOWNESS as f64;
    assert!(sorted[0] >= 0.0 && sorted[sorted.len() / 2] <= bound, "the median: {delays:.1?}");
    assert!(sorted.iter().all(|delay| *delay <= LONGEST * bound), "each: {delays:.1?}");
}

#[test]
fn every_protocol_family_and_door_waits() {
    let mut job = Job::start("50s");
    let mut old = Actor::new();
    let v4 = loopback();
    let mut port = 8100;
    let mut check = |job: &mut Job, held: &str, wanted: &str| {
        port += 1;
        let socket = old.bind(&held.replace("PORT", &port.to_string()));
        job.actor.begin(&wanted.replace("PORT", &port.to_string()));
        job.waits(port);
        old.ok(&format!("close {}", socket.id));
        let answer = job.actor.answer();
        assert!(answer.is_ok(), "{wanted}: {answer}");
        // Put down to the caller.
        job.own("bind", port);
        port
    };
    let mut on = Vec::new();
    for protocol in ["tcp", "udp", "mptcp"] {
        for address in [v4.to_string(), "[::1]".to_owned()] {
            let listen = if protocol == "udp" { "" } else { "listen" };
            let held = format!("{protocol} {address}:PORT {listen}");
            on.push((address.clone(), check(&mut job, &held, &format!("bind {held}"))));
        }
    }
    // What overlaps; a port that takes a capability, which the command has.
    check(&mut job, "tcp [::]:PORT listen", &format!("bind tcp {v4}:PORT listen"));
    check(&mut job, &format!("tcp {v4}:PORT listen"), "bind tcp 0.0.0.0:PORT listen");
    // Where two agree to share, and are strangers.
    check(
        &mut job,
        &format!("tcp {v4}:PORT reuseport listen"),
        &format!("bind tcp {v4}:PORT reuseport listen"),
    );
    check(&mut job, &format!("udp {v4}:PORT reuseaddr"), &format!("bind udp {v4}:PORT reuseaddr"));
    #[cfg(target_arch = "x86_64")]
    for how in ["bind", "socketcall"] {
        check(&mut job, &format!("tcp {v4}:PORT listen"), &format!("compat {how} tcp {v4}:PORT"));
    }
    let report = job.end();
    for (address, port) in on {
        let address: IpAddr = address.trim_matches(['[', ']']).parse().expect("an address");
        let finding = report.only(address, port.into());
        assert_eq!((finding.kind(), outcome(&finding)), ("denied", "done"));
        assert_eq!(finding.pids(), [u64::from(old.pid())]);
    }
    assert!(report.at(v4).iter().all(|finding| finding.kind() == "denied"), "{report}");
}

#[test]
fn listen_waits_where_it_is_what_is_refused() {
    let address = loopback();
    let (mut job, mut old) = (Job::start("50s"), Actor::new());
    let theirs = old.bind(&format!("tcp {address}:8000 reuseaddr"));
    let own = job.actor.bind(&format!("tcp {address}:8000 reuseaddr"));
    old.ok(&format!("listen {}", theirs.id));
    job.actor.begin(&format!("listen {}", own.id));
    job.waits(8000);
    old.ok(&format!("close {}", theirs.id));
    let answer = job.actor.answer();
    assert!(answer.is_ok(), "{answer}");
    let mut client = Actor::new();
    client.ok(&format!("connect tcp {address}:8000"));
    job.actor.ok(&format!("accept {}", own.id));
    let report = job.end();
    let waited: Vec<_> =
        report.on(address, 8000).into_iter().filter(|it| it.0["waited_ms"].is_u64()).collect();
    let [finding] = waited.as_slice() else { panic!("{report}") };
    assert_eq!((outcome(finding), finding.victim().text("call")), ("done", "listen"));
}

#[test]
fn when_the_time_is_over_it_fails_as_it_would_have() {
    let (address, shared) = (loopback(), loopback());
    let (mut job, mut old) = (Job::start("150ms"), Actor::new());
    old.bind(&format!("tcp {address}:8000 listen"));
    old.bind(&format!("tcp {shared}:8000 reuseport listen"));
    old.bind(&format!("udp {address}:8001"));
    for what in
        [format!("tcp {address}:8000"), format!("tcp {shared}:8000 reuseport"), format!("udp {address}:8001")]
    {
        assert_eq!(job.actor.err(&format!("bind {what}")), "EADDRINUSE", "{what}");
    }
    // What fails for another reason fails at once, and as ever; what has no endpoint is not waited for.
    let bound = job.actor.bind(&format!("tcp {address}:8002"));
    assert_eq!(job.actor.err(&format!("rebind {} {address}:8000", bound.id)), "EINVAL");
    assert_eq!(job.actor.err("bind tcp 192.0.2.1:8000"), "EADDRNOTAVAIL");
    job.actor.bind(&format!("tcp {address}:0 listen"));
    let pid = u64::from(job.pid);
    let report = job.end();
    for (address, port, kind) in
        [(address, 8000, "refused"), (shared, 8000, "denied"), (address, 8001, "refused")]
    {
        let finding = report.only(address, port);
        assert_eq!((finding.kind(), outcome(&finding), finding.number("count")), (kind, "timed-out", 1));
        assert!((150..30_000).contains(&finding.number("waited_ms")), "{finding:?}");
        assert_eq!((finding.victim().number("pid"), finding.victim().text("errno")), (pid, "EADDRINUSE"));
        assert_eq!(finding.pids(), [u64::from(old.pid())]);
    }
}

#[test]
fn a_signal_interrupts_a_wait() {
    let address = loopback();
    let (mut job, mut old) = (Job::start("50s"), Actor::new());
    let socket = old.bind(&format!("tcp {address}:8000 listen"));
    old.bind(&format!("tcp {address}:8001 listen"));

    // A handler without SA_RESTART.
    job.actor.ok("handle usr1 interrupt");
    job.actor.begin(&format!("bind tcp {address}:8001"));
    job.waits(8001);
    job.process().signal(Signal::USR1);
    assert_eq!(job.actor.answer().to_string(), "err EINTR");
    // Others go on; the same port can be waited for again.
    job.actor.bind(&format!("tcp {address}:8002 listen"));

    // With it the call is made again, and its wait goes on.
    job.actor.ok("handle usr1 restart");
    job.actor.begin(&format!("bind tcp {address}:8000"));
    job.waits(8000);
    for _ in 0..3 {
        job.process().signal(Signal::USR1);
    }
    old.ok(&format!("close {}", socket.id));
    let answer = job.actor.answer();
    assert!(answer.is_ok(), "{answer}");

    // SIGKILL.
    old.bind(&format!("tcp {address}:8003 listen"));
    job.actor.begin(&format!("bind tcp {address}:8003"));
    job.waits(8003);
    let inner = job.process();
    inner.signal(Signal::KILL);
    assert!(inner.ended(Deadline::patient()), "it ends at once");
    let folder = job.folder;
    assert_eq!(job.actor.ended(), 137);
    let report = Log::at(&folder.file("log.jsonl")).report();
    let of = |port| report.only(address, port);
    assert_eq!(outcome(&of(8000)), "done");
    assert_eq!(outcome(&of(8001)), "interrupted");
    assert_eq!(outcome(&of(8003)), "interrupted");
    assert_eq!(of(8003).victim().0["errno"], Value::Null, "{report}");
}

#[test]
fn other_threads_go_on() {
    let address = loopback();
    let (mut job, mut old) = (Job::start("50s"), Actor::new());
    let socket = old.bind(&format!("tcp {address}:8000 listen"));
    job.actor.ok(&format!("bind-later tcp {address}:8000 listen"));
    job.waits(8000);
    job.actor.bind(&format!("tcp {address}:8001 listen"));
    job.actor.ok(&format!("threads 3 tcp {address}:8002 reuseport listen"));
    old.ok(&format!("close {}", socket.id));
    job.actor.ok("bound-later");
    let pid = u64::from(job.pid);
    let finding = job.end().only(address, 8000);
    assert_eq!((outcome(&finding), finding.victim().number("pid")), ("done", pid));
}

#[test]
fn a_connection_that_frees_its_port_without_a_word_is_waited_for() {
    let (mut job, mut old) = (Job::start("50s"), Actor::new());
    old.ok("unshare-net");
    job.actor.ok(&format!("enter-net {}", old.pid()));
    // How long FIN_WAIT2 lasts, after which the kernel forgets it: as TIME_WAIT, no record tells of its end.
    old.ok("sysctl net/ipv4/tcp_fin_timeout 1");
    let listener = old.bind("tcp 127.0.0.1:8000 listen");
    let client = old.ok("connect tcp 127.0.0.1:8000").number("id");
    let accepted = old.ok(&format!("accept {}", listener.id)).number("id");
    old.ok(&format!("close {}", listener.id));
    old.ok(&format!("close {accepted}"));
    job.actor.begin("bind tcp 127.0.0.1:8000 listen");
    job.waits(8000);
    let answer = job.actor.answer();
    assert!(answer.is_ok(), "{answer}");
    old.ok(&format!("close {client}"));
    let netns = old.netns();
    let report = job.end();
    let [finding] = report.in_netns(netns).try_into().expect("one finding");
    assert_eq!((outcome(&finding), finding.cause()), ("done", Some("half-closed")));
}

#[test]
fn everything_proceeds_when_bindwatch_is_killed() {
    let address = loopback();
    let (mut job, mut old) = (Job::start("50s"), Actor::new());
    old.bind(&format!("tcp {address}:8000 listen"));
    job.actor.begin(&format!("bind tcp {address}:8000"));
    job.waits(8000);
    job.actor.process.signal(Signal::KILL);
    assert_eq!(job.actor.answer().to_string(), "err EADDRINUSE", "as if nothing had been");
    for port in 8001..8021 {
        job.actor.bind(&format!("tcp {address}:{port} listen"));
    }
    assert_eq!(job.actor.err(&format!("bind tcp {address}:8000")), "EADDRINUSE");
    let inner = job.process();
    job.actor.exit();
    assert!(inner.ended(Deadline::patient()));
}

#[test]
fn what_outlives_the_run_binds_as_ever() {
    let folder = Folder::new();
    let (input, output) = (folder.file("in"), folder.file("out"));
    let script = format!(
        "mkfifo '{0}' '{1}'; (exec '{2}' < '{0}' > '{1}' 2> /dev/null) & echo $!",
        input.display(),
        output.display(),
        Actor::program().display()
    );
    let run = Run::bindwatch(["run", "--quiet", "--on-conflict", "wait=1s", "--output"]);
    drop(run.args([folder.file("log.jsonl")]).args(["--", "sh", "-c", &script]).outcome().expect(0));
    // Only now does the child begin: its two ends are opened.
    let address = loopback();
    let talk = format!(
        "exec 3> '{}' 4< '{}'; echo 'bind tcp {address}:8000 listen' >&3; read -r one <&4; \
         echo 'bind tcp {address}:8000 listen' >&3; read -r two <&4; echo \"$one; $two\"",
        input.display(),
        output.display()
    );
    let said = Run::new("sh").args(["-c", &talk]).outcome().expect(0).stdout;
    assert!(said.starts_with("ok id=1") && said.ends_with("; err EADDRINUSE\n"), "{said}");
}

#[test]
fn the_callers_rights_decide() {
    let folder = Folder::new();
    let (address, port) = (loopback(), 81);
    // The command lies there: nobody may enter the folders of the checkout.
    let (from, program) = (Actor::program(), folder.file("actor"));
    drop(Run::new("cp").args(["--".as_ref(), from.as_path(), program.as_path()]).outcome().expect(0));
    let run = |user: &[&str], command: &[&str]| {
        let run = Run::bindwatch(["run", "--quiet", "--on-conflict", "wait=200ms", "--output"]);
        run.args([folder.file("log.jsonl")]).args(user).args(["--"]).args(command).outcome().expect(0).stdout
    };
    // Set-user-ID programs go on working: the command can still gain privileges.
    let said = run(&["--user", "nobody"], &["grep", "NoNewPrivs", "/proc/self/status"]);
    assert_eq!(said, "NoNewPrivs:\t0\n");
    let bind = format!("bind tcp {address}:{port}");
    let program = program.display().to_string();
    assert_eq!(run(&["--user", "nobody"], &[&program, &bind]), "err EACCES\n");
    assert!(run(&[], &[&program, &bind]).starts_with("ok"), "root may");
    let mut old = Actor::new();
    old.bind(&format!("tcp {address}:{port} listen"));
    assert_eq!(run(&[], &[&program, &bind]), "err EADDRINUSE\n", "root waits");
    let report = Log::at(&folder.file("log.jsonl")).report();
    assert_eq!(outcome(&report.only(address, port)), "timed-out");
}

#[test]
fn one_inside_another_says_so() {
    let folder = Folder::new();
    let inner = folder.file("inner.jsonl").display().to_string();
    let run = Run::bindwatch(["run", "--quiet", "--on-conflict", "wait=1s", "--output"]);
    let run = run.args([folder.file("outer.jsonl")]).args(["--"]).args([bindwatch()]);
    let outcome =
        run.args(["run", "--quiet", "--on-conflict", "wait=1s", "--output", &inner, "--", "true"]).outcome();
    assert_eq!(outcome.code(), 125, "{outcome}");
    assert!(outcome.stderr.contains("leave wait out of one of them"), "{outcome}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
}

/// Rounds, each of as many binds with wait as without, one right after the other: what else runs then slows both.
const ROUNDS: u16 = if SLOWNESS > 1 { 8 } else { 20 };
/// Binds of a round.
const BINDS: u16 = 500;
/// How many times as long a bind may take that need not wait, in half of the rounds: four times what was seen on a busy
/// machine.
const RATIO: f64 = 100.0;

/// What a bind costs that need not wait. `cargo xtask test ten_thousand` prints it.
#[test]
fn ten_thousand_other_binds_are_not_delayed() {
    let address = loopback();
    let (mut with, mut without) = (Job::start("10s"), Job::with(&["--on-conflict", "deny"]));
    let (mut pairs, mut ratios) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let command = |half: u16| format!("binds {BINDS} tcp {address}:{}", half + round * BINDS);
        let one = without.actor.ok(&command(8_000)).number("ns");
        let other = with.actor.ok(&command(20_000)).number("ns");
        pairs.push((one, other));
        ratios.push(other as f64 / one as f64);
    }
    pairs.sort_unstable();
    ratios.sort_by(f64::total_cmp);
    let middle = usize::from(ROUNDS / 2);
    println!(
        "ns of a bind without and with wait: {:?}; ratio {:.1} ({ratios:.1?})",
        pairs[middle], ratios[middle]
    );
    // It goes by way of bindwatch and back (docs/kernels.md).
    assert!(ratios[middle] <= RATIO * SLOWNESS as f64, "{ratios:.1?}");
    // It may cost; it does not wait for anything.
    assert!(pairs.iter().any(|(_, with)| *with < 1_000_000 * SLOWNESS), "{pairs:?}");
    without.actor.exit();
    let report = with.end();
    assert_eq!(report.stat("lost"), 0);
    assert!(report.at(address).is_empty(), "nothing waited or failed: {report}");
}
