//! Signals that bindwatch passes on to its command.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgrp, tcgetpgrp};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// The signals that are passed on.
const FORWARDED: [Signal; 6] =
    [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGINT, Signal::SIGQUIT];

/// Streams of the signals to pass on.
#[derive(Debug)]
pub(super) struct Forwarded(Vec<(Signal, Stream)>);

impl Forwarded {
    /// Takes the signals over from their default, so that they no longer end bindwatch.
    ///
    /// One that bindwatch was started with ignoring (nohup(1), a shell's background job) stays ignored, and the command
    /// inherits that.
    pub(super) fn install() -> io::Result<Self> {
        let ignored = ignored_signals();
        let kept = FORWARDED.into_iter().filter(|signal| ignored & bit(*signal) == 0);
        kept.map(|name| Ok((name, signal(SignalKind::from_raw(name as i32))?)))
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// The next signal that came.
    pub(super) async fn next(&mut self) -> Signal {
        poll_fn(|context| {
            for (name, stream) in &mut self.0 {
                if let Poll::Ready(Some(())) = stream.poll_recv(context) {
                    return Poll::Ready(*name);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Sends a signal that came here to the command, unless the terminal has sent it there too.
pub(super) fn pass_on(signal: Signal, pid: u32) {
    if matches!(signal, Signal::SIGINT | Signal::SIGQUIT) && in_foreground() {
        return;
    }
    if let Ok(pid) = i32::try_from(pid) {
        // It may have ended; then it is about to be waited for.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Our process group, which is the command's too, is the one that the terminal sends its signals to.
fn in_foreground() -> bool {
    std::fs::File::open("/dev/tty").is_ok_and(|terminal| tcgetpgrp(&terminal) == Ok(getpgrp()))
}

/// `SigIgn` of `/proc/self/status`: bit N-1 is signal N.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

const fn bit(signal: Signal) -> u64 {
    1 << (signal as u32 - 1)
}
