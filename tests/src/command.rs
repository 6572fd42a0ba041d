//! Running a program to its end.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::place::{Cgroup, Folder};
use crate::wait::{Deadline, PATIENCE, Process, SLOWNESS};

/// The program under test.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn bindwatch() -> PathBuf {
    let built = std::env::var_os("BINDWATCH").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/bindwatch"),
        PathBuf::from,
    );
    assert!(
        built.is_file(),
        "{}: build it with `cargo build --release`, or run `cargo xtask test`",
        built.display()
    );
    built
}

/// A program that `cargo xtask setup` installs with pip: `uvicorn`, `python3`.
///
/// # Panics
/// When it was not installed.
#[must_use]
pub fn python(program: &str) -> PathBuf {
    installed("BINDWATCH_TEST_PYTHON", "tests-python", &format!("bin/{program}"), "setup")
}

/// The Node.js that `cargo xtask setup` installs: one with `reusePort`, which Debian's may not have.
///
/// # Panics
/// When it was not installed.
#[must_use]
pub fn node() -> PathBuf {
    installed("BINDWATCH_TEST_PYTHON", "tests-python", "node", "setup")
}

/// The folder of the schemas that reports are held to.
///
/// # Panics
/// When it was not installed.
#[must_use]
pub fn schemas() -> PathBuf {
    installed("BINDWATCH_TEST_PYTHON", "tests-python", "schemas", "setup")
}

/// A program that `cargo xtask test --real` installs, by its path in that folder.
///
/// # Panics
/// When it was not installed.
#[must_use]
pub fn real(program: &str) -> PathBuf {
    installed("BINDWATCH_TEST_REAL", "tests-real", program, "test --real")
}

fn installed(variable: &str, folder: &str, program: &str, verb: &str) -> PathBuf {
    let folder = std::env::var_os(variable)
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target").join(folder), PathBuf::from);
    let program = folder.join(program);
    assert!(program.exists(), "{}: `cargo xtask {verb}` installs it", program.display());
    program
}

/// A program to run, its arguments, and how long it may take.
#[derive(Debug)]
pub struct Run {
    program: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    folder: Option<PathBuf>,
    time: Duration,
    /// Holds the program where everybody can run it.
    copy: Option<Folder>,
}

impl Run {
    /// Any program.
    #[must_use]
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            folder: None,
            time: PATIENCE,
            copy: None,
        }
    }

    /// bindwatch with these arguments.
    #[must_use]
    pub fn bindwatch<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Self {
        Self::new(bindwatch()).args(arguments)
    }

    /// The same program as somebody without any privilege: `nobody`, no groups, no capabilities. Runs a copy of it: the
    /// checkout may lie in a folder that only root may enter.
    ///
    /// # Panics
    /// When the program cannot be copied.
    #[must_use]
    #[track_caller]
    pub fn as_nobody(self) -> Self {
        self.as_nobody_with(&[])
    }

    /// The same, with these capabilities: `bpf`.
    ///
    /// # Panics
    /// As [`Run::as_nobody`].
    #[must_use]
    #[track_caller]
    pub fn as_nobody_with(self, capabilities: &[&str]) -> Self {
        let mut run = Self::new("setpriv").args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        if !capabilities.is_empty() {
            let set: String = capabilities.iter().map(|name| format!(",+{name}")).collect();
            let sets = ["inh", "ambient", "bounding"].map(|kind| match kind {
                "bounding" => format!("--bounding-set=-all{set}"),
                kind => format!("--{kind}-caps=-all{set}"),
            });
            run = run.args(sets);
        }
        run = run.args(["--"]);
        let copy = Folder::new();
        let program = copy.file("bindwatch");
        // By another process: were the copy written by this one, a child that another test is just starting would have
        // it open for writing as well, and it could not be executed until that child executes its own program.
        let copied = Command::new("cp").arg("--").arg(&self.program).arg(&program).status().expect("cp");
        assert!(copied.success(), "a copy of the program");
        run.arguments.push(program.into());
        run.copy = Some(copy);
        run.arguments.extend(self.arguments);
        run.environment = self.environment;
        run.folder = self.folder;
        run.time = self.time;
        run
    }

    /// The same, started in a cgroup.
    #[must_use]
    pub fn inside(mut self, cgroup: &Cgroup) -> Self {
        let program = std::mem::replace(&mut self.program, "sh".into());
        let script = r#"echo $$ > "$0/cgroup.procs" && exec "$@""#;
        let shell = [OsString::from("-c"), script.into(), cgroup.path().into(), program];
        self.arguments.splice(0..0, shell);
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// A variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Where it runs.
    #[must_use]
    pub fn folder(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_path_buf());
        self
    }

    /// How long it may take, and in a guest as much longer as that is slower.
    #[must_use]
    pub fn within(mut self, time: Duration) -> Self {
        self.time = time * u32::try_from(SLOWNESS).unwrap_or(1);
        self
    }

    /// Starts it with its output kept.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    #[track_caller]
    pub fn start(self) -> Started {
        let (out, err) = (tempfile::tempfile().expect("a file"), tempfile::tempfile().expect("a file"));
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command.stdin(Stdio::null());
        command.stdout(out.try_clone().expect("a descriptor")).stderr(err.try_clone().expect("a descriptor"));
        let line = format!("{command:?}");
        let child = command.spawn().unwrap_or_else(|error| panic!("{line}: {error}"));
        let process = Process::of(child.id());
        Started { line, child, process, out, err, time: self.time, _copy: self.copy }
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it cannot be started or takes too long.
    #[must_use]
    #[track_caller]
    pub fn outcome(self) -> Outcome {
        self.start().outcome()
    }
}

/// A program that runs; killed when dropped.
#[derive(Debug)]
pub struct Started {
    line: String,
    child: Child,
    /// The process.
    pub process: Process,
    out: File,
    err: File,
    time: Duration,
    _copy: Option<Folder>,
}

impl Started {
    /// Waits for its end.
    ///
    /// # Panics
    /// When it takes too long.
    #[must_use]
    #[track_caller]
    pub fn outcome(mut self) -> Outcome {
        let in_time = self.process.ended(Deadline::after(self.time));
        if !in_time {
            self.process.signal(Signal::KILL);
        }
        let status = self.child.wait().expect("a child to reap");
        let outcome = Outcome {
            line: self.line.clone(),
            status,
            stdout: text(&mut self.out),
            stderr: text(&mut self.err),
        };
        assert!(in_time, "took longer than {:?}: {outcome}", self.time);
        outcome
    }

    /// What it has written to standard error until now.
    #[must_use]
    pub fn said(&mut self) -> String {
        text(&mut self.err)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // A failed test is understood by a log that is whole.
            let asked = std::thread::panicking();
            if asked {
                self.process.signal(Signal::TERM);
            }
            if !asked || !self.process.ended(Deadline::patient()) {
                self.process.signal(Signal::KILL);
            }
            drop(self.child.wait());
        }
    }
}

fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("output that was kept");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Outcome {
    line: String,
    status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// Its status as a shell gives it: 128 and the signal when one ended it.
    ///
    /// # Panics
    /// Never on Linux, where a process that ended has one or the other.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().or_else(|| self.status.signal().map(|signal| 128 + signal)).expect("a status")
    }

    /// Fails unless it ended with `code`.
    ///
    /// # Panics
    /// When it did not.
    #[must_use = "also look at what it said, or say that you do not with `drop`"]
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code(), code, "{self}");
        self
    }

    /// Fails unless it ended with `code` and said why in one line that begins with the program's name.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn expect_one_line(&self, code: i32) {
        assert_eq!(self.code(), code, "{self}");
        assert_eq!(self.stderr.lines().count(), 1, "one line that says why and what to do: {self}");
        assert!(self.stderr.starts_with("bindwatch: "), "{self}");
        assert_eq!(self.stdout, "", "{self}");
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}\nstdout:\n{}\nstderr:\n{}", self.line, self.status, self.stdout, self.stderr)
    }
}
