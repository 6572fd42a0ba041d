//! A command of a `run` that lets its binds wait.

use std::process::Command;

use scenarios::wait::Process;
use scenarios::{Actor, Folder, Log, Report, bindwatch};
use serde_json::Value;

/// An actor that is the command of a waiting `run`.
pub(crate) struct Job {
    pub(crate) actor: Actor,
    pub(crate) folder: Folder,
    pub(crate) pid: u32,
}

impl Job {
    pub(crate) fn start(longest: &str) -> Self {
        Self::with(&["--on-conflict", &format!("wait={longest}")])
    }

    pub(crate) fn with(options: &[&str]) -> Self {
        let folder = Folder::new();
        let mut run = Command::new(bindwatch());
        run.args(["run", "--quiet", "--report"]).arg(format!("json={}", folder.file("live.json").display()));
        run.arg("--output").arg(folder.file("log.jsonl"));
        run.args(options).arg("--").arg(Actor::program());
        let mut actor = Actor::start(&mut run);
        let pid = u32::try_from(actor.ok("pid").number("pid")).expect("a PID");
        Self { actor, folder, pid }
    }

    pub(crate) fn log(&self) -> Log {
        Log::at(&self.folder.file("log.jsonl"))
    }

    /// Returns when a call of the command has begun to wait for this port.
    #[track_caller]
    pub(crate) fn waits(&self, port: u16) {
        self.own("waiting", port);
    }

    /// Returns when this process of the command has begun to wait for the port.
    #[track_caller]
    pub(crate) fn waits_for(&self, pid: u64, port: u16) {
        self.told("waiting", pid, port);
    }

    /// Returns when the command's own event of this kind on this port is in the log.
    #[track_caller]
    pub(crate) fn own(&self, kind: &str, port: u16) {
        self.told(kind, self.pid.into(), port);
    }

    #[track_caller]
    fn told(&self, kind: &str, pid: u64, port: u16) {
        let who = format!("{pid}@");
        let is_it = |line: &Value| {
            line["type"] == kind
                && line["socket"]["port"] == port
                && line["process"].as_str().is_some_and(|process| process.starts_with(&who))
        };
        self.log().wait_for(&self.actor.process, &format!("\"port\":{port}"), 1, is_it);
    }

    /// The command itself.
    pub(crate) fn process(&self) -> Process {
        Process::of(self.pid)
    }

    /// Its report, which must be the one of its log.
    pub(crate) fn end(self) -> Report {
        self.actor.exit();
        let live = std::fs::read_to_string(self.folder.file("live.json")).expect("a report");
        let (live, replayed) = (Report::of(&live), Log::at(&self.folder.file("log.jsonl")).report());
        assert_eq!(live.0["findings"], replayed.0["findings"], "a recording and its log");
        replayed
    }
}
