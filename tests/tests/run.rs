//! `bindwatch run`: the command's own fate, unchanged, and nothing left afterwards.

#![expect(clippy::expect_used, reason = "tests fail by panicking")]

use std::process::Command;

use scenarios::wait::{Deadline, Process, TERM};
use scenarios::{Actor, Folder, Log, Outcome, Run, bindwatch, cgroup_of, cgroup2, loopback};

fn run(folder: &Folder, options: &[&str], command: &[&str]) -> Outcome {
    let output = folder.file("log.jsonl");
    let run = Run::bindwatch(["run", "--quiet", "--output"])
        .args([output])
        .args(options)
        .args(["--"])
        .args(command);
    run.folder(folder.path()).outcome()
}

#[test]
fn the_status_is_the_commands() {
    let folder = Folder::new();
    for (code, command) in [
        (0, &["true"][..]),
        (1, &["false"]),
        (7, &["sh", "-c", "exit 7"]),
        (143, &["sh", "-c", "kill -TERM $$"]),
        (137, &["sh", "-c", "kill -KILL $$"]),
        (126, &["/"]),
        (127, &["bindwatch-no-such-command"]),
    ] {
        let outcome = run(&folder, &[], command);
        assert_eq!(outcome.code(), code, "{command:?}: {outcome}");
    }
}

/// Before 5.11 bindwatch needs another limit of locked memory than most have.
#[test]
fn the_command_may_lock_as_much_memory_as_its_caller() {
    let folder = Folder::new();
    let script =
        "ulimit -l 64 && exec \"$0\" run --quiet --output log.jsonl -- sh -c 'ulimit -S -l; ulimit -H -l'";
    let run = Run::new("sh").args(["-c", script]).args([bindwatch()]).folder(folder.path());
    assert_eq!(run.outcome().expect(0).stdout, "64\n64\n");
}

#[test]
fn what_the_command_says_passes_through_untouched() {
    let folder = Folder::new();
    let outcome = run(&folder, &[], &["sh", "-c", "printf 'out\\n'; printf 'err\\n' >&2; pwd"]).expect(0);
    assert!(outcome.stdout.starts_with("out\n"), "{outcome}");
    assert!(outcome.stderr.contains("err\n"), "{outcome}");
    assert!(
        outcome.stdout.contains(&folder.path().display().to_string()),
        "its folder is the caller's: {outcome}"
    );
}

/// A script in which two servers share a port, and its status.
fn conflict(address: std::net::Ipv4Addr, status: u8) -> String {
    let actor = format!("'{}' 'bind tcp {address}:8000 reuseport listen'", Actor::program().display());
    // Two servers at once: the first holds on until its input ends, when the second is done.
    format!(
        "mkfifo in-{address} out-{address}; {actor} < in-{address} > out-{address} & \
         exec 3> in-{address} 4< out-{address}; read -r answer <&4; \
         {actor} < /dev/null > /dev/null; exec 3>&-; wait; exit {status}"
    )
}

#[test]
fn nothing_depends_on_whether_what_is_said_is_read() {
    let folder = Folder::new();
    let (reader, unread) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = Command::new(bindwatch());
    command.args(["run", "--output", "log.jsonl", "--report", "json=report.json", "--", "sh", "-c"]);
    command.arg(conflict(loopback(), 7)).current_dir(folder.path()).stderr(unread);
    assert_eq!(command.status().expect("a status").code(), Some(7));
    let report = std::fs::read_to_string(folder.file("report.json")).expect("a report");
    assert!(report.contains("\"co-bind\""), "{report}");
}

#[test]
fn fail_on_fails_a_command_that_succeeded_and_leaves_another_status_alone() {
    let folder = Folder::new();
    let (one, other, third) = (loopback(), loopback(), loopback());
    assert_eq!(run(&folder, &["--fail-on", "co-bind"], &["sh", "-c", &conflict(one, 0)]).code(), 1);
    assert_eq!(Log::at(&folder.file("log.jsonl")).report().only(one, 8000).kind(), "co-bind");
    assert_eq!(run(&folder, &["--fail-on", "co-bind"], &["sh", "-c", &conflict(other, 5)]).code(), 5);
    assert_eq!(run(&folder, &[], &["sh", "-c", &conflict(third, 0)]).code(), 0);
}

#[test]
fn signals_reach_the_command_and_its_cgroup_goes_with_it() {
    let folder = Folder::new();
    let mut command = Command::new(bindwatch());
    command.args(["run", "--quiet", "--output"]).arg(folder.file("log.jsonl")).arg("--");
    let mut actor = Actor::start(command.arg(Actor::program()));
    let pid = u32::try_from(actor.ok("pid").number("pid")).expect("a PID");
    assert_ne!(pid, actor.pid(), "bindwatch stays beside its command");
    let cgroup = cgroup_of(pid);
    assert_ne!(cgroup, cgroup_of(std::process::id()), "the command has a cgroup of its own");
    let place = cgroup2().join(cgroup.trim_start_matches('/'));
    assert!(place.is_dir());

    actor.ok("slow-term 0");
    let inner = Process::of(pid);
    actor.process.signal(TERM);
    assert!(inner.ended(Deadline::patient()), "the signal reached the command");
    assert_eq!(actor.ended(), 0, "the command ended by itself, with 0");
    assert!(!place.exists(), "{} is left", place.display());
    let log = Log::at(&folder.file("log.jsonl"));
    assert!(log.report().complete());
}

#[test]
fn what_outlives_the_command_is_an_orphan() {
    let folder = Folder::new();
    let address = loopback();
    let script = format!(
        "mkfifo out; '{}' stay 'bind tcp {address}:8000 listen' < /dev/null > out & exec 4< out; \
         read -r stays <&4; read -r bound <&4; echo $!",
        Actor::program().display()
    );
    let outcome = run(&folder, &[], &["sh", "-c", &script]).expect(0);
    let finding = Log::at(&folder.file("log.jsonl")).report().only(address, 8000);
    assert_eq!((finding.kind(), finding.severity()), ("orphan", "warning"));
    let orphan: u32 = outcome.stdout.lines().next().and_then(|line| line.parse().ok()).expect("a PID");
    assert_eq!(finding.pids(), [u64::from(orphan)]);
    // Whether it still lives is the command's own affair; it is not left to the machine.
    if let Some(orphan) = Process::find(orphan) {
        orphan.signal(TERM);
        assert!(orphan.ended(Deadline::patient()));
    }
}

#[test]
fn the_probes_own_diagnostics_come_with_vv() {
    let folder = Folder::new();
    let twice = "import socket as s; a = s.socket(); a.bind(('127.0.0.1', 0)); b = s.socket()\ntry: b.bind(a.getsockname())\nexcept OSError: pass";
    let watched = |verbosity: &[&str]| {
        let run = Run::bindwatch(["run", "--output"]).args([folder.file("log.jsonl")]).args(verbosity);
        run.args(["--", "/usr/bin/python3", "-c", twice]).outcome().expect(0).stderr
    };
    let said = "ended with errno 98";
    assert!(watched(&["-vv"]).contains(said));
    assert!(!watched(&["-v"]).contains(said));
}
