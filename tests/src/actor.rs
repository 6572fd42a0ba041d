//! An actor as a test sees it: commands go in, one answer a line comes out.

use std::fmt;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use rustix::process::Signal;

use crate::wait::{Deadline, Process, readable};

/// An actor; killed when dropped. `actors/actor/main.rs` lists what it understands.
#[derive(Debug)]
pub struct Actor {
    child: Child,
    /// The process.
    pub process: Process,
    stdin: File,
    stdout: File,
    unread: Vec<u8>,
}

impl Actor {
    /// The program.
    ///
    /// # Panics
    /// When cargo did not build it beside this test.
    #[must_use]
    pub fn program() -> PathBuf {
        program("actor")
    }

    /// Starts one.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    #[track_caller]
    pub fn new() -> Self {
        Self::start(&mut Command::new(Self::program()))
    }

    /// Starts one with first commands as arguments, whose answers are waited for: so a test can name a process by its
    /// command line.
    ///
    /// # Panics
    /// When it does not start or a command fails.
    #[must_use]
    #[track_caller]
    pub fn with(commands: &[&str]) -> Self {
        let mut actor = Self::start(Command::new(Self::program()).args(commands));
        for command in commands {
            let answer = Answer(actor.line());
            assert!(answer.is_ok(), "{command}: {answer}");
        }
        actor
    }

    /// Starts the command, which becomes an actor in the end (`bindwatch run -- actor`).
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let process = Process::of(child.id());
        let stdin = File::from(OwnedFd::from(child.stdin.take().expect("a pipe")));
        let stdout = File::from(OwnedFd::from(child.stdout.take().expect("a pipe")));
        Self { child, process, stdin, stdout, unread: Vec::new() }
    }

    /// Starts another tool, whose programs are at a cgroup when this returns. `actors/denier.rs` lists what they do.
    ///
    /// # Panics
    /// When it does not start, or the kernel refuses its programs.
    #[must_use]
    #[track_caller]
    pub fn denier(cgroup: &Path, kind: &str) -> Self {
        let mut denier =
            Self::start(Command::new(Self::program().with_file_name("denier")).arg(cgroup).arg(kind));
        denier.ok("there");
        denier
    }

    /// Starts one in the network namespace of another.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    #[track_caller]
    pub fn beside(other: &Self) -> Self {
        let target = format!("--target={}", other.pid());
        // `nsenter` becomes the actor: no process between them.
        Self::start(Command::new("nsenter").args([&target, "--net", "--"]).arg(Self::program()))
    }

    /// The inode number of the network namespace it is in.
    ///
    /// # Panics
    /// When it is gone.
    #[must_use]
    #[track_caller]
    pub fn netns(&self) -> u64 {
        let link = std::fs::read_link(format!("/proc/{}/ns/net", self.pid())).expect("an actor that lives");
        let link = link.to_string_lossy();
        let number = link.strip_prefix("net:[").and_then(|rest| rest.strip_suffix(']')).expect("net:[…]");
        number.parse().expect("a number")
    }

    /// Keeps its network namespace until the test program ends. The number of one that is gone is given to the next that is made, and
    /// a recording of several tests would tell of both by it.
    fn keep_netns(&self) {
        static KEPT: Mutex<Vec<File>> = Mutex::new(Vec::new());
        let netns = File::open(format!("/proc/{}/ns/net", self.pid())).expect("an actor that lives");
        KEPT.lock().expect("no test panicked here").push(netns);
    }

    /// Its process id. Where it was started by another program, that program's.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Tells it a command and gives the answer.
    ///
    /// # Panics
    /// When it is gone or does not answer.
    #[track_caller]
    pub fn tell(&mut self, command: &str) -> Answer {
        writeln!(self.stdin, "{command}")
            .unwrap_or_else(|error| panic!("{command}: the actor is gone: {error}"));
        Answer(self.line())
    }

    /// Tells it a command whose answer may take its time: [`Actor::answer`] gives it.
    ///
    /// # Panics
    /// When it is gone.
    #[track_caller]
    pub fn begin(&mut self, command: &str) {
        writeln!(self.stdin, "{command}")
            .unwrap_or_else(|error| panic!("{command}: the actor is gone: {error}"));
    }

    /// The answer to what was begun.
    ///
    /// # Panics
    /// When it is gone or does not answer.
    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        Answer(self.line())
    }

    /// Tells it a command that must succeed.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn ok(&mut self, command: &str) -> Answer {
        let answer = self.tell(command);
        assert!(answer.is_ok(), "{command}: {answer}");
        if command == "unshare-net" {
            self.keep_netns();
        }
        answer
    }

    /// Tells it to bind and gives the socket: `tcp 127.0.0.1:0 reuseport listen`.
    ///
    /// # Panics
    /// When the bind fails.
    #[track_caller]
    pub fn bind(&mut self, what: &str) -> Socket {
        let answer = self.ok(&format!("bind {what}"));
        Socket { id: answer.number("id"), port: answer.number("port"), cookie: answer.number("cookie") }
    }

    /// Tells it a command that must fail, and gives the name of the error.
    ///
    /// # Panics
    /// When it succeeds.
    #[track_caller]
    pub fn err(&mut self, command: &str) -> String {
        let answer = self.tell(command);
        answer.0.strip_prefix("err ").unwrap_or_else(|| panic!("{command}: {answer}")).to_owned()
    }

    /// Tells it to exit and waits.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn exit(mut self) {
        writeln!(self.stdin, "exit").expect("an actor that lives");
        assert!(self.process.ended(Deadline::patient()), "the actor does not exit");
        drop(self.child.wait());
    }

    /// Waits for its end and gives its status as a shell does.
    ///
    /// # Panics
    /// When it does not end.
    #[track_caller]
    pub fn ended(mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt as _;
        assert!(self.process.ended(Deadline::patient()), "the actor does not end");
        let status = self.child.wait().expect("a child to reap");
        status.code().or_else(|| status.signal().map(|signal| 128 + signal)).expect("a status")
    }

    #[track_caller]
    fn line(&mut self) -> String {
        let deadline = Deadline::patient();
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return String::from_utf8_lossy(&line).trim_end().to_owned();
            }
            assert!(readable([self.stdout.as_fd()], deadline).is_some(), "the actor does not answer");
            let mut buffer = [0; 512];
            let length = self.stdout.read(&mut buffer).expect("a pipe to read");
            assert!(length > 0, "the actor is gone");
            self.unread.extend(buffer.iter().take(length));
        }
    }
}

impl Default for Actor {
    #[track_caller]
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.process.signal(Signal::KILL);
            drop(self.child.wait());
        }
    }
}

/// A program of this package: cargo puts them beside the test's folder, and beside each other.
pub(crate) fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let beside = test.parent().expect("a folder");
    let folder = if beside.ends_with("deps") { beside.parent().expect("target/debug") } else { beside };
    let program = folder.join(name);
    assert!(program.is_file(), "{} was not built", program.display());
    program
}

/// A socket that an actor has.
#[derive(Clone, Copy, Debug)]
pub struct Socket {
    /// The actor's own number for it.
    pub id: u64,
    /// Its port.
    pub port: u64,
    /// Its cookie.
    pub cookie: u64,
}

/// What an actor answered: `ok id=1 port=8000 cookie=77`, or `err EADDRINUSE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer(String);

impl Answer {
    /// Whether the command succeeded.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.0 == "ok" || self.0.starts_with("ok ")
    }

    /// A number in it.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    #[track_caller]
    pub fn number(&self, name: &str) -> u64 {
        let value = self.0.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in: {self}"))
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
