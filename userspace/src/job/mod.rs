//! The command of a `run`: in a cgroup of its own, as the user who asked for it, with the caller's streams and terminal.
//!
//! The cgroup tells afterwards which processes the command left behind, whatever they forked and wherever they were
//! re-parented to. It is made below bindwatch's own cgroup and goes away with the job; a janitor, which outlives
//! bindwatch, removes it should bindwatch be killed.

mod account;
mod environment;
mod group;
mod janitor;
mod launch;
mod signals;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

pub use account::{Account, AccountError};
pub use group::GroupError;
pub use janitor::janitor;
pub use launch::{EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, launch};

use rustix::io::FdFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::event::ProcessKey;
use crate::probe::seccomp::Listener;
use crate::proc::Proc;
use crate::wait::Outstanding;
use group::{Group, Parent};
use signals::Forwarded;

/// What a shell adds to the number of the signal that ended a command.
const SIGNALLED: i32 = 128;

/// A job that cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// There is no cgroup to be had. The command could run without one.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// An inner stage could not be started.
    #[error("cannot start {0} of the command: {1}")]
    Start(&'static str, #[source] io::Error),
    /// Nothing is in `/dev`, as in an empty root.
    #[error("there is no /dev/null: mount -t devtmpfs dev /dev")]
    NoDevices,
}

/// A cgroup for a command, with its janitor.
#[derive(Debug)]
pub struct Job {
    program: PathBuf,
    group: Group,
    janitor: Child,
    /// Its standard input: it learns by the end of it that bindwatch has ended, however that ends.
    line: OwnedFd,
    /// Where calls of the command arrive, for whoever guards it.
    listener: Option<Listener>,
}

/// A command that runs.
#[derive(Debug)]
pub struct Running {
    child: tokio::process::Child,
    process: ProcessKey,
    forwarded: Forwarded,
}

/// What becomes of processes that a job leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// They live on, in bindwatch's own cgroup.
    LiveOn,
    /// They are asked to end, and killed when they do not.
    End,
}

/// Lets the janitor go, and waits for it.
fn dismiss(mut janitor: Child, line: OwnedFd) {
    drop(line);
    let _ = janitor.wait();
}

impl Job {
    /// Makes the cgroup `bindwatch-PID` below the caller's, after removing empty ones that dead bindwatches left.
    ///
    /// # Errors
    /// No cgroup2 hierarchy is mounted, the caller's cgroup is not visible there, or it may not be written to.
    pub fn create() -> Result<Self, JobError> {
        Self::create_with(Path::new("/proc/self/exe"))
    }

    /// As [`Job::create`], with another bindwatch for the inner stages.
    ///
    /// # Errors
    /// As [`Job::create`].
    pub fn create_with(program: &Path) -> Result<Self, JobError> {
        let parent = Parent::find()?;
        let pair =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let (line, far) = pair.map_err(|errno| JobError::Start("the janitor", errno.into()))?;
        // It is there before the cgroup is: whenever bindwatch is killed, somebody removes it. The other end of its
        // standard input is bindwatch's alone: it ends with bindwatch, however that ends.
        let janitor = Command::new(program)
            .arg0("bindwatch")
            .arg("__janitor")
            .args([parent.directory.as_os_str(), OsStr::new(&std::process::id().to_string())])
            .current_dir("/")
            // Out of reach of what a terminal sends to its foreground group.
            .process_group(0)
            .stdin(Stdio::from(far))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let janitor = janitor.map_err(|error| match Path::new("/dev/null").exists() {
            true => JobError::Start("the janitor", error),
            false => JobError::NoDevices,
        })?;
        match Group::create(&parent) {
            Ok(group) => Ok(Self { program: program.to_owned(), group, janitor, line, listener: None }),
            Err(error) => {
                dismiss(janitor, line);
                Err(error.into())
            }
        }
    }

    /// Path of its cgroup in the cgroup2 hierarchy, as `/proc/PID/cgroup` shows it.
    #[must_use]
    pub fn cgroup(&self) -> &str {
        self.group.path()
    }

    /// The cgroup's directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.group.directory()
    }

    /// Starts a command in the cgroup, with the caller's streams, process group and session; as `user`, when given. Its
    /// processes find `name` in their environment.
    ///
    /// From here on the signals SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGUSR1 and SIGUSR2 are the command's (see
    /// [`Running::wait`]), except those that bindwatch was started with ignoring. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// The process cannot be started. A command that is not found is no error here: it ends with 127.
    pub fn spawn(
        &self,
        command: &[OsString],
        user: Option<&Account>,
        name: Option<&str>,
    ) -> Result<Running, JobError> {
        self.spawn_with(command, user, name, None)
    }

    /// As [`Job::spawn`]; and binds and listens of the command arrive at the listener that is returned, before they are
    /// carried out. The command waits in the first of them for an answer. No listener: the command was not started, and
    /// has said why.
    ///
    /// # Errors
    /// As [`Job::spawn`].
    pub fn spawn_handing_over(
        &self,
        command: &[OsString],
        user: Option<&Account>,
        name: Option<&str>,
    ) -> Result<(Running, Option<Listener>), JobError> {
        let failed = |error| JobError::Start("the listener", error);
        let near = SocketFlags::CLOEXEC;
        let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, near, None);
        let (near, far) = pair.map_err(|errno| failed(errno.into()))?;
        rustix::io::fcntl_setfd(&far, FdFlags::empty()).map_err(|errno| failed(errno.into()))?;
        let running = self.spawn_with(command, user, name, Some(far.as_raw_fd()))?;
        drop(far);
        let received = crate::wait::receive(&near).map_err(failed)?;
        Ok((running, received.and_then(|fds| fds.into_iter().next()).map(Listener::from)))
    }

    /// Lets the janitor have what it needs so that the command goes on when bindwatch is killed: calls are carried out by
    /// the kernel then, as if nothing had been, as long as somebody lives who could make one.
    ///
    /// # Errors
    /// When the janitor is gone.
    pub fn guard(&mut self, listener: &Listener, outstanding: &Outstanding) -> Result<(), JobError> {
        let failed = |error| JobError::Start("the guardian", error);
        crate::wait::send(&self.line, &[listener.as_fd(), outstanding.as_fd()]).map_err(failed)?;
        let own = listener.as_fd().try_clone_to_owned().map_err(failed)?;
        self.listener = Some(own.into());
        Ok(())
    }

    fn spawn_with(
        &self,
        command: &[OsString],
        user: Option<&Account>,
        name: Option<&str>,
        hand_over: Option<RawFd>,
    ) -> Result<Running, JobError> {
        let forwarded = Forwarded::install().map_err(|error| JobError::Start("signals", error))?;
        let mut launch = tokio::process::Command::new(&self.program);
        launch.arg0("bindwatch").arg("__launch").arg("--cgroup").arg(self.group.directory());
        if let Some(user) = user {
            launch.args(user.arguments());
        }
        if let Some(name) = name {
            launch.env(crate::proc::label::NAME, name);
        }
        if let Some(number) = hand_over {
            launch.arg("--hand-over").arg(number.to_string());
        }
        let child = launch.arg("--").args(command).spawn();
        let child = child.map_err(|error| JobError::Start("the process", error))?;
        let started = child.id().and_then(|tgid| Proc::open().ok()?.key(tgid));
        let process =
            started.ok_or_else(|| JobError::Start("the process", io::ErrorKind::NotFound.into()))?;
        Ok(Running { child, process, forwarded })
    }

    /// Ends what is left of the job ([`Job::processes`]), or moves it out of the cgroup, which is then removed, with
    /// those that the job made in it. Whether it is gone; if not, the janitor removes it when the last process in it has
    /// ended.
    ///
    /// Blocks for at most a second when processes in it are just ending, and for three where they have to be killed.
    pub fn end(self, left: Left) -> bool {
        match left {
            Left::LiveOn => self.group.move_all_out(),
            Left::End => self.group.end_all(),
        }
        let removed = self.group.remove();
        // Somebody may have left the cgroup, or be in nobody's hands yet: as long as they live the janitor does.
        let is_guarding = self.listener.is_some_and(|listener| !listener.is_abandoned());
        if removed && !is_guarding {
            // It has nothing to do and ends; nothing of bindwatch shall be left.
            dismiss(self.janitor, self.line);
        }
        removed
    }

    /// Processes that are in the cgroup, or in one below it, now; in order.
    #[must_use]
    pub fn processes(&self) -> Vec<ProcessKey> {
        self.group.processes()
    }
}

impl Running {
    /// The command's process.
    #[must_use]
    pub const fn process(&self) -> ProcessKey {
        self.process
    }

    /// Waits for the command and returns its status as a shell would give it: its own, or 128+N when signal N ended it.
    ///
    /// Signals that bindwatch gets meanwhile are passed on to it. Those that the terminal sends (Ctrl-C, Ctrl-\) it has
    /// already, and they are not repeated. Cancel safe.
    ///
    /// # Errors
    /// The kernel does not say how the process ended.
    pub async fn wait(&mut self) -> io::Result<i32> {
        loop {
            tokio::select! {
                status = self.child.wait() => return Ok(as_shell(status?)),
                signal = self.forwarded.next() => {
                    if let Some(pid) = self.child.id() {
                        signals::pass_on(signal, pid);
                    }
                }
            }
        }
    }
}

fn as_shell(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| SIGNALLED + signal)).unwrap_or(SIGNALLED)
}

/// Text of the user or of a process, for an error message.
fn shown(text: &OsStr) -> String {
    crate::sink::escape::line(&text.to_string_lossy()).into_owned()
}
