#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::event::{Known, Process, ProcessKey, Uid};

/// A child that is killed with the test.
struct Actor(Child);

impl Actor {
    /// Starts a shell whose script says a line when it stands; `lines` of them are read.
    fn shell(script: &str, lines: usize) -> (Self, Vec<String>) {
        let mut child = Command::new("/bin/bash")
            .args(["-c", script, "odd name\n)", "b c"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let said = (0..lines)
            .map(|_| {
                let mut line = String::new();
                assert!(out.read_line(&mut line).unwrap() > 0, "the actor ended early");
                line.trim().to_owned()
            })
            .collect();
        (Self(child), said)
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // Scripts end when their stdin does.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn of(tgid: u32) -> Process {
    Proc::open().unwrap().process(tgid).expect("the process lives")
}

fn in_scan(tgid: u32) -> Process {
    let all = Proc::open().unwrap().scan_all();
    all.into_iter().find(|p| p.process.tgid == tgid).expect("the process lives")
}

#[test]
fn a_process_and_its_facts() {
    let (actor, _) = Actor::shell("echo up; read -r", 1);
    for process in [of(actor.0.id()), in_scan(actor.0.id())] {
        assert_eq!(process.process.tgid, actor.0.id());
        assert_eq!(Some(process.process), Proc::open().unwrap().key(actor.0.id()));
        assert_eq!(process.lineage, process.process, "it executed bash itself");
        assert_eq!(process.parent.map(|p| p.tgid), Some(std::process::id()));
        assert_eq!(process.known, Known::Scan);
        assert_eq!(process.comm, "bash");
        assert_eq!(process.exe, std::fs::canonicalize("/bin/bash").unwrap().to_str().unwrap());
        assert_eq!(process.cmdline, ["/bin/bash", "-c", "echo up; read -r", "odd name\n)", "b c"]);
        assert!(!process.cmdline_cut);
        assert_eq!(process.uid, Uid(nix::unistd::getuid().as_raw()));
        assert!(process.cgroup.starts_with('/'), "{:?}", process.cgroup);
    }
}

#[test]
fn start_time_is_the_kernels() {
    let (actor, _) = Actor::shell("echo up; read -r", 1);
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", actor.0.id())).unwrap();
    let start: u64 = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
    assert_eq!(of(actor.0.id()).process, ProcessKey { tgid: actor.0.id(), start });
}

#[test]
fn forks_share_a_lineage_and_execs_begin_one() {
    // The subshell forks and stays bash; the sleep executes another program.
    let script = "( echo $BASHPID; read -r ) <&0 & exec 3<&0; sleep 1000 <&3 & s=$!; echo $s; \
                  while [ \"$(readlink /proc/$s/exe)\" = \"$(readlink /proc/$$/exe)\" ]; do :; done; echo up; \
                  read -r; kill $s";
    let (actor, said) = Actor::shell(script, 3);
    let shell = of(actor.0.id());
    let numbers: HashSet<u32> = said.iter().filter_map(|line| line.parse().ok()).collect();
    assert_eq!(numbers.len(), 2, "{said:?}");
    let mut lineages: Vec<(String, bool)> = Vec::new();
    for tgid in numbers {
        let process = of(tgid);
        assert_eq!(process, in_scan(tgid), "one look-up and the scan agree");
        assert_eq!(process.parent, Some(shell.process));
        lineages.push((process.comm, process.lineage == shell.process));
    }
    lineages.sort();
    assert_eq!(lineages, [("bash".to_owned(), true), ("sleep".to_owned(), false)]);
}

#[test]
fn a_scan_has_every_process_once_and_parents_first() {
    let (actor, said) = Actor::shell("( ( echo $BASHPID; read -r; : ); : ); :", 1);
    let mut proc = Proc::open().unwrap();
    let earlier = proc.scan_all();
    assert!(earlier.iter().any(|p| p.process.tgid == actor.0.id()));
    let all = proc.scan_all();
    let mut seen = HashSet::new();
    for process in &all {
        if let Some(parent) = process.parent {
            assert!(seen.contains(&parent), "{parent} comes after its child {}", process.process);
        }
        assert!(seen.insert(process.process), "{} twice", process.process);
    }
    let inner: u32 = said.first().unwrap().parse().unwrap();
    let inner = all.iter().find(|p| p.process.tgid == inner).unwrap();
    assert_eq!(inner.lineage.tgid, actor.0.id(), "two forks up");
    assert!(all.iter().any(|p| p.process.tgid == std::process::id()));
    assert!(all.iter().any(|p| p.process.tgid == 1));
}

#[test]
fn long_arguments_are_cut_and_say_so() {
    let mut child = Command::new("/bin/cat")
        .arg0("x".repeat(CMDLINE_MAX))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // spawn() returns while the exec is still at work on the arguments; an echo tells that it is done.
    child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    let mut echo = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut echo).unwrap();
    let process = of(child.id());
    assert!(process.cmdline_cut);
    assert_eq!(process.cmdline.iter().map(String::len).sum::<usize>(), CMDLINE_MAX);
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[test]
fn gone_is_none() {
    let mut child = Command::new("/bin/true").spawn().unwrap();
    child.wait().unwrap();
    let mut proc = Proc::open().unwrap();
    assert_eq!(proc.process(child.id()), None);
    assert_eq!(proc.key(child.id()), None);
    assert_eq!(proc.process(0), None);
    assert_eq!(proc.process(u32::MAX), None);
}
