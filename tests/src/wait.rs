//! Waiting for something to happen, never for time to pass.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, kill_process, pidfd_open};

pub use rustix::process::Signal;

/// The signal that asks to end.
pub const TERM: Signal = Signal::TERM;

/// How long anything may take before a test fails. Generous: the machine may be busy; nothing waits this long otherwise.
pub const PATIENCE: Duration = Duration::from_secs(60 * SLOWNESS);

/// How much slower than this machine what runs the tests may be: a guest is emulated.
pub const SLOWNESS: u64 = if cfg!(feature = "guest") { 5 } else { 1 };

/// A moment after which waiting is over.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// `time` from now.
    #[must_use]
    pub fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    /// [`PATIENCE`] from now.
    #[must_use]
    pub fn patient() -> Self {
        Self::after(PATIENCE)
    }

    /// Whether it has passed.
    #[must_use]
    pub fn over(self) -> bool {
        self.left().is_zero()
    }

    fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// Waits until one of these can be read (or, for a [`Process`], has ended) and says which; None when the time is over.
pub fn readable<const N: usize>(fds: [BorrowedFd<'_>; N], deadline: Deadline) -> Option<usize> {
    let mut polled = fds.each_ref().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN));
    loop {
        let left = deadline.left();
        let timeout = Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut polled, Some(&timeout)) {
            Ok(0) => return None,
            Ok(_) => return polled.iter().position(|fd| !fd.revents().is_empty()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}

/// A process, known by a descriptor, so that no other with a recycled number is meant.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    fd: OwnedFd,
}

impl Process {
    /// The process with this id, if it is alive or not yet reaped.
    #[must_use]
    pub fn find(pid: u32) -> Option<Self> {
        let pid = Pid::from_raw(pid.try_into().ok()?)?;
        Some(Self { pid, fd: pidfd_open(pid, PidfdFlags::empty()).ok()? })
    }

    /// The process with this id.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn of(pid: u32) -> Self {
        Self::find(pid).unwrap_or_else(|| panic!("process {pid} is gone"))
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Whether it ended before the deadline.
    #[must_use]
    pub fn ended(&self, deadline: Deadline) -> bool {
        readable([self.fd.as_fd()], deadline).is_some()
    }

    /// Sends a signal. One that has ended already is left alone.
    pub fn signal(&self, signal: Signal) {
        match rustix::process::pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(_) => drop(kill_process(self.pid, signal)),
        }
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
