//! Who calls, and how: children, threads with descriptors of their own, memory that changes, filters, io_uring.

use scenarios::wait::{Deadline, SLOWNESS, Signal};
use scenarios::{Actor, Run, bindwatch, loopback};

use super::job::Job;
use super::outcome;

#[test]
fn children_wait_as_the_command_does() {
    let address = loopback();
    let (mut job, mut old) = (Job::start("50s"), Actor::new());
    for (port, how) in [(8000, "fork"), (8001, "spawn")] {
        let socket = old.bind(&format!("tcp {address}:{port} listen"));
        let made = job.actor.ok(how);
        let (child, pid) = (made.number("child"), made.number("pid"));
        job.actor.begin(&format!("tell {child} bind tcp {address}:{port} listen"));
        job.waits_for(pid, port);
        old.ok(&format!("close {}", socket.id));
        let answer = job.actor.answer();
        assert!(answer.is_ok(), "{how}: {answer}");
    }
    let report = job.end();
    for port in [8000, 8001] {
        // A child may outlive the command by a moment, and is an orphan then.
        let mut findings = report.on(address, port);
        findings.retain(|finding| finding.kind() != "orphan");
        let [finding] = findings.as_slice() else { panic!("{report}") };
        assert_eq!((finding.kind(), outcome(finding)), ("denied", "done"));
        assert_eq!(finding.pids(), [u64::from(old.pid())]);
    }
}

#[test]
fn the_socket_is_that_of_the_thread() {
    let address = loopback();
    let mut job = Job::start("50s");
    let port = job.actor.ok(&format!("apart {address}:8000")).number("port");
    assert_eq!(port, 0, "the socket of the same number that another thread has was bound");
    job.own("bind", 8000);
    job.end();
}

#[test]
fn what_is_looked_at_is_what_is_bound() {
    let address = loopback();
    let (mut job, mut old) = (Job::start("1ms"), Actor::new());
    old.bind(&format!("tcp {address}:8000 reuseport listen"));
    let answer = job.actor.ok(&format!("swapping 50 {address}:8000 8001"));
    let [first, other, refused] = ["first", "other", "refused"].map(|name| answer.number(name));
    assert_eq!(first, 0, "{answer}: the port that is a stranger's was never bound");
    assert!(other >= 50 && refused >= 50, "{answer}: each was asked for");
    job.end();
}

#[test]
fn filters_of_the_command_count_as_ever() {
    let address = loopback();
    let (mut job, mut old) = (Job::start("50s"), Actor::new());
    // There can be one listener.
    assert_eq!(job.actor.err("filter listener"), "EBUSY");
    let socket = old.bind(&format!("tcp {address}:8000 listen"));
    job.actor.begin(&format!("bind tcp {address}:8000 listen"));
    job.waits(8000);
    old.ok(&format!("close {}", socket.id));
    let answer = job.actor.answer();
    assert!(answer.is_ok(), "{answer}");
    // What refuses comes before what hands over.
    job.actor.ok("filter bind-eperm");
    assert_eq!(job.actor.err(&format!("bind tcp {address}:8001")), "EPERM");
    job.end();
}

#[test]
fn io_uring_is_refused_at_once_and_told() {
    let address = loopback();
    let (mut job, mut old) = (Job::start("50s"), Actor::new());
    old.bind(&format!("tcp {address}:8000 listen"));
    let said = job.actor.tell(&format!("uring inline tcp {address}:8000 listen"));
    let said = said.to_string();
    // The kernel may be too old to bind through it; here it either is refused at once, or cannot.
    assert!(said.starts_with("err "), "{said}");
    let is_refused = said == "err EADDRINUSE";
    let report = job.end();
    let kinds: Vec<_> = report.on(address, 8000).iter().map(|it| it.kind().to_owned()).collect();
    assert_eq!(kinds, if is_refused { vec!["refused"] } else { vec![] }, "{report}");
}

/// Rounds of starting and killing, fewer where each takes longer.
const ROUNDS: u32 = if SLOWNESS > 1 { 6 } else { 12 };

#[test]
fn whenever_bindwatch_is_killed_its_command_goes_on() {
    let address = loopback();
    let mut old = Actor::new();
    old.bind(&format!("tcp {address}:8000 listen"));
    for round in 0..ROUNDS {
        let mut job = Job::start("50s");
        let inner = job.process();
        // Another moment each time: in calls that are carried out, that begin to wait, that wait.
        let port = 8001 + u16::try_from(round).expect("a port");
        let command = match round % 3 {
            0 => format!("binds 2000 tcp {address}:9000"),
            1 => format!("bind tcp {address}:8000"),
            _ => format!("bind tcp {address}:{port}"),
        };
        job.actor.begin(&command);
        if round % 6 == 1 {
            job.waits(8000);
        }
        job.actor.process.signal(Signal::KILL);
        let answer = job.actor.answer().to_string();
        // A call that was made and not answered yet says EINVAL: its socket is bound.
        let expected: &[&str] = match round % 3 {
            1 => &["err EADDRINUSE"],
            _ => &["ok", "err EINVAL"],
        };
        assert!(expected.iter().any(|it| answer.starts_with(it)), "{command}: {answer}");
        // Whatever comes next is the kernel's.
        job.actor.bind(&format!("tcp {address}:{} listen", 20_000 + round));
        assert_eq!(job.actor.err(&format!("bind tcp {address}:8000")), "EADDRINUSE");
        job.actor.exit();
        assert!(inner.ended(Deadline::patient()), "round {round}");
    }
}

#[test]
fn every_format_says_who_waited_how_long_for_whom() {
    let address = loopback();
    let (mut job, mut old) = (Job::start("50s"), Actor::new());
    let socket = old.bind(&format!("tcp {address}:8000 listen"));
    job.actor.begin(&format!("bind tcp {address}:8000 listen"));
    job.waits(8000);
    old.ok(&format!("close {}", socket.id));
    assert!(job.actor.answer().is_ok());
    let (pid, log) = (job.pid, job.folder.file("log.jsonl"));
    let folder = job.folder;
    job.actor.exit();
    let shown = |arguments: &[&str]| {
        Run::bindwatch(arguments.iter().copied()).args([&log]).outcome().expect(0).stdout
    };
    let sentence = format!("actor (PID {pid}) waited ");
    for format in ["text", "json", "markdown", "html", "junit", "sarif", "github"] {
        let shown = shown(&["report", "--format", format]);
        assert!(shown.contains(&sentence), "{format}: {shown}");
        assert!(shown.contains(&format!("{}", old.pid())), "{format}, for whom: {shown}");
    }
    let told = Run::new(bindwatch()).args(["explain"]).args([&log]).args([format!("{address}:8000")]);
    let told = told.outcome().expect(0).stdout;
    assert!(told.contains("waited") && told.contains("began to wait"), "{told}");
    let screen = Run::bindwatch(["top", "--once", "--replay"]).args([&log]).outcome().expect(0).stdout;
    for who in [pid, old.pid()] {
        assert!(screen.contains(&format!("(PID {who})")), "{screen}");
    }
    drop(folder);
}
