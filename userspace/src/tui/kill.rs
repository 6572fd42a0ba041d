//! A signal to a process that a row is about.

use std::io;

use crate::event::ProcessKey;
use crate::proc::Proc;

/// Asks a process to end, if it still is the one that is meant: a PID may be somebody else's by now, so the process is
/// held by a descriptor before its start time is looked at (pidfd_open(2)). False when it is not.
pub(super) fn terminate(process: ProcessKey) -> io::Result<bool> {
    let pid = i32::try_from(process.tgid).ok().and_then(rustix::process::Pid::from_raw);
    let Some(pid) = pid else { return Ok(false) };
    let fd = match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(false),
        other => other?,
    };
    if Proc::open()?.key(process.tgid) != Some(process) {
        return Ok(false);
    }
    match rustix::process::pidfd_send_signal(&fd, rustix::process::Signal::TERM) {
        Err(rustix::io::Errno::SRCH) => Ok(false),
        other => Ok(other.map(|()| true)?),
    }
}
