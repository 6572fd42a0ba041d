//! bindwatch while it records, and the servers it watches.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use rustix::fs::inotify;
use rustix::process::Signal;
use serde_json::Value;

use crate::actor::Actor;
use crate::address::loopback;
use crate::command::{Outcome, Run, Started};
use crate::log::{Log, drain};
use crate::place::{Cgroup, Folder};
use crate::report::Report;
use crate::wait::{Deadline, readable};

/// When this variable is set, recordings use the backend of this name.
const BACKEND: &str = "BINDWATCH_TEST_BACKEND";

/// The report that a recording writes at its end.
const LIVE: &str = "live.json";

/// `bindwatch record`, from the moment its hooks are live.
#[derive(Debug)]
pub struct Recording {
    started: Started,
    log: Log,
    folder: Folder,
}

impl Recording {
    /// Starts one.
    ///
    /// # Panics
    /// When it does not get ready.
    #[must_use]
    #[track_caller]
    pub fn start() -> Self {
        Self::with::<&str>([])
    }

    /// Starts one with more options.
    ///
    /// # Panics
    /// When it does not get ready.
    #[must_use]
    #[track_caller]
    pub fn with<S: AsRef<OsStr>>(options: impl IntoIterator<Item = S>) -> Self {
        Self::by("record", options)
    }

    /// Starts `bindwatch enforce` on a cgroup, with more options: it records as well.
    ///
    /// # Panics
    /// When it does not get ready.
    #[must_use]
    #[track_caller]
    pub fn enforcing<S: AsRef<OsStr>>(cgroup: &Cgroup, options: impl IntoIterator<Item = S>) -> Self {
        let cgroup = [OsStr::new("--cgroup").to_owned(), cgroup.path().into()];
        Self::by("enforce", options.into_iter().map(|option| option.as_ref().to_owned()).chain(cgroup))
    }

    #[track_caller]
    fn by<S: AsRef<OsStr>>(verb: &str, options: impl IntoIterator<Item = S>) -> Self {
        let folder = Folder::new();
        let (log, ready) = (folder.file("log.jsonl"), folder.file("ready"));
        let watch =
            inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).expect("inotify");
        let appears = inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&watch, folder.path(), appears).expect("a watch on the folder");
        let options: Vec<_> = options.into_iter().map(|option| option.as_ref().to_owned()).collect();
        let chosen = options.iter().any(|option| option == "--backend" || option == "--errno");
        let backend = std::env::var_os(BACKEND)
            .filter(|_| !chosen)
            .map(|name| [OsStr::new("--backend").to_owned(), name]);
        let mut started = Run::bindwatch([verb, "--output"])
            .args([&log])
            .args(["--ready-file"])
            .args([&ready])
            .args(["--report", &format!("json={}", folder.file(LIVE).display())])
            .args(backend.into_iter().flatten())
            .args(options)
            .within(Duration::from_secs(300))
            .folder(folder.path())
            .start();
        let deadline = Deadline::patient();
        while !ready.exists() {
            match readable([watch.as_fd(), started.process.as_fd()], deadline) {
                Some(0) => drain(&watch),
                Some(_) => panic!("the recording did not start: {}", started.outcome()),
                None => panic!("the recording does not get ready: {}", started.said()),
            }
        }
        Self { started, log: Log::at(&log), folder }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.started.process.id()
    }

    /// Its log, which grows.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// A copy of the log as it is now: two reports of it are the same, which those of a log that grows need not be.
    ///
    /// # Panics
    /// When it cannot be copied.
    #[must_use]
    #[track_caller]
    pub fn so_far(&self) -> Log {
        let copy = self.folder.file("so-far.jsonl");
        std::fs::copy(self.log.path(), &copy).expect("a copy of the log");
        Log::at(&copy)
    }

    /// The folder of its log.
    #[must_use]
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Returns when everything that happened before is in the log: a marker bind after it is.
    ///
    /// # Panics
    /// When the marker does not appear.
    #[track_caller]
    pub fn fence(&self) {
        let address = loopback();
        let mut marker = Actor::new();
        marker.bind(&format!("udp {address}:0"));
        self.wait_for(address, "bind", 1);
    }

    /// Waits for this many lines of a type about a socket at this address, and gives them.
    ///
    /// # Panics
    /// When they do not appear.
    #[track_caller]
    pub fn wait_for(&self, address: Ipv4Addr, kind: &str, count: usize) -> Vec<Value> {
        let needle = format!("\"address\":\"{address}\"");
        let wanted = |line: &Value| line.get("type").and_then(Value::as_str) == Some(kind);
        self.log.wait_for(&self.started.process, &needle, count, wanted)
    }

    /// Waits for this many lines that contain `needle` and satisfy `wanted`.
    ///
    /// # Panics
    /// When they do not appear.
    #[track_caller]
    pub fn wait_for_lines(
        &self,
        needle: &str,
        count: usize,
        wanted: impl FnMut(&Value) -> bool,
    ) -> Vec<Value> {
        self.log.wait_for(&self.started.process, needle, count, wanted)
    }

    /// Ends it in order and gives its log, which must be whole.
    ///
    /// # Panics
    /// When it fails or leaves an unfinished log.
    #[must_use]
    #[track_caller]
    pub fn stop(self) -> Finished {
        self.started.process.signal(Signal::TERM);
        let outcome = self.started.outcome().expect(0);
        let last = self.log.last_line();
        assert!(last.starts_with("{\"type\":\"end\""), "the last line is {last}\n{outcome}");
        Finished { log: self.log, outcome, folder: self.folder }
    }

    /// Waits for it to end by itself.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    #[track_caller]
    pub fn ended(self) -> Finished {
        let outcome = self.started.outcome();
        Finished { log: self.log, outcome, folder: self.folder }
    }

    /// Ends it as the out-of-memory killer would.
    ///
    /// # Panics
    /// When it survives.
    #[must_use]
    #[track_caller]
    pub fn kill(self) -> Finished {
        self.started.process.signal(Signal::KILL);
        let outcome = self.started.outcome().expect(137);
        Finished { log: self.log, outcome, folder: self.folder }
    }
}

/// A recording that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Its log.
    pub log: Log,
    /// How it ended and what it said.
    pub outcome: Outcome,
    /// The log's folder.
    pub folder: Folder,
}

impl Finished {
    /// What was found: the report of the recording itself, whose findings and numbers must be those of its log.
    ///
    /// # Panics
    /// When the two differ.
    #[must_use]
    #[track_caller]
    pub fn report(&self) -> Report {
        let (live, replayed) = (self.live(), self.log.report());
        for part in ["findings", "stats", "host"] {
            let (live, replayed) = (&live.0[part], &replayed.0[part]);
            assert!(
                live == replayed,
                "{part} of a recording and of its log:\n{}",
                difference(live, replayed)
            );
        }
        live
    }

    /// The report that the recording itself wrote at its end.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn live(&self) -> Report {
        Report::of(&std::fs::read_to_string(self.folder.file(LIVE)).expect("a report at the end"))
    }
}

/// The lines in which two values differ.
fn difference(one: &Value, other: &Value) -> String {
    let (one, other) = (format!("{one:#}"), format!("{other:#}"));
    let mut lines: Vec<String> = one
        .lines()
        .zip(other.lines())
        .filter(|(a, b)| a != b)
        .map(|(a, b)| format!("live {a}\nlog  {b}"))
        .collect();
    lines.truncate(20);
    format!("{} and {} lines; {}", one.lines().count(), other.lines().count(), lines.join("\n"))
}

/// A real server with all its workers, in a cgroup of its own; killed when dropped.
#[derive(Debug)]
pub struct Server {
    /// Its first process.
    pub started: Started,
    cgroup: Cgroup,
}

impl Server {
    /// Starts it. It must stay in the foreground.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    #[track_caller]
    pub fn start<S: AsRef<OsStr>>(folder: &Path, command: impl IntoIterator<Item = S>) -> Self {
        Self::start_in(Cgroup::new(), folder, command)
    }

    /// Starts it in a cgroup that was made for it.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    #[track_caller]
    pub fn start_in<S: AsRef<OsStr>>(
        cgroup: Cgroup,
        folder: &Path,
        command: impl IntoIterator<Item = S>,
    ) -> Self {
        // It enters the cgroup before it becomes the server, so that no worker escapes.
        let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", cgroup.path().display());
        let started = Run::new("sh").args(["-c", &enter, "sh"]).args(command).folder(folder).start();
        Self { started, cgroup }
    }

    /// Its first process's id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.started.process.id()
    }

    /// Its processes that live.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        self.cgroup.processes()
    }

    /// Its cgroup.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }
}
