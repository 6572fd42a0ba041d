//! What the rest of the system asks of the screen.

use std::io;

use nix::sys::signal::Signal;
use tokio::signal::unix::{self, SignalKind, signal};

/// What a signal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// End.
    End,
    /// The terminal has another size.
    Resized,
    /// Stop until somebody lets it go on.
    Stop,
    /// It was stopped, and goes on.
    GoOn,
}

/// The signals that are listened to.
pub(super) struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    hang_up: unix::Signal,
    resized: unix::Signal,
    stop: unix::Signal,
    go_on: unix::Signal,
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// When no handler can be put in place.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            resized: signal(SignalKind::window_change())?,
            stop: signal(SignalKind::from_raw(Signal::SIGTSTP as i32))?,
            go_on: signal(SignalKind::from_raw(Signal::SIGCONT as i32))?,
        })
    }

    /// The next one. Nothing is lost when this is given up.
    pub(super) async fn next(&mut self) -> Call {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => Call::End,
            _ = self.terminate.recv() => Call::End,
            _ = self.hang_up.recv() => Call::End,
            _ = self.resized.recv() => Call::Resized,
            _ = self.stop.recv() => Call::Stop,
            _ = self.go_on.recv() => Call::GoOn,
        }
    }
}
