//! What a command used: its processor time and its memory, as the kernel counted them.

use std::ffi::OsStr;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// What a command and its children used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used {
    pub(crate) cpu: Duration,
    /// Largest resident memory of any one process, KiB.
    pub(crate) peak_kib: u64,
}

/// Runs a command and says on standard error, in one line, what it used. For one command a process: the kernel's figures
/// are those of all children that this one has had.
pub(crate) fn measure<S: AsRef<OsStr>>(command: &[S]) -> anyhow::Result<ExitStatus> {
    let (program, arguments) = command.split_first().context("measure what?")?;
    let status = Command::new(program)
        .args(arguments)
        .status()
        .with_context(|| format!("{} cannot be started", program.as_ref().display()))?;
    let used = of_children()?;
    eprintln!("cpu_us={} peak_kib={}", used.cpu.as_micros(), used.peak_kib);
    Ok(status)
}

/// What the children of this process used that have ended.
pub(crate) fn of_children() -> anyhow::Result<Used> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let time = |value: TimeVal| {
        Duration::new(value.tv_sec().unsigned_abs(), 0)
            + Duration::from_micros(value.tv_usec().unsigned_abs())
    };
    let cpu = time(usage.user_time()) + time(usage.system_time());
    Ok(Used { cpu, peak_kib: usage.max_rss().unsigned_abs() })
}
