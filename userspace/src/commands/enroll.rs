//! `bindwatch enroll`: moves processes into a cgroup that is enforced.

use std::os::fd::OwnedFd;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use nix::unistd::{Uid, geteuid, getuid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::cgroup2::Directory;
use crate::cli::{EnrollArgs, Globals};
use crate::probe::{Enforced, enforced};
use crate::proc;
use crate::recording::say;

/// A process that will be moved. The descriptor tells whether the PID still means it.
struct Candidate {
    pid: u32,
    handle: OwnedFd,
}

/// Runs the verb. All of them are looked at before the first is moved.
pub(super) fn run(args: &EnrollArgs, globals: &Globals) -> anyhow::Result<ExitCode> {
    let cgroup = Directory::find(&args.cgroup)?;
    match enforced(&cgroup.open()?) {
        Enforced::Yes => {}
        Enforced::No => bail!(
            "nothing denies binds in the cgroup {}: run `bindwatch enforce --cgroup` first",
            cgroup.path()
        ),
        Enforced::Unknown if globals.quiet => {}
        Enforced::Unknown => {
            say(&format!("only root can see whether binds are denied in the cgroup {}", cgroup.path()));
        }
    }
    let candidates = args.pids.iter().map(|pid| candidate(*pid)).collect::<anyhow::Result<Vec<_>>>()?;
    for one in &candidates {
        enroll(one, &cgroup)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses who is not there, and who is not the caller's: who may move a process may deny it its ports.
fn candidate(pid: u32) -> anyhow::Result<Candidate> {
    let gone = || format!("there is no process {pid}");
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw).with_context(gone)?;
    let handle = pidfd_open(number, PidfdFlags::empty()).with_context(gone)?;
    if !geteuid().is_root() || !getuid().is_root() {
        let uids = proc::uids(pid).with_context(gone)?;
        if uids.is_empty() || uids.iter().any(|uid| Uid::from_raw(uid.0) != getuid()) {
            bail!("process {pid} is not yours: only root may enroll the processes of others");
        }
    }
    Ok(Candidate { pid, handle })
}

fn enroll(one: &Candidate, cgroup: &Directory) -> anyhow::Result<()> {
    let pid = one.pid;
    let procs = cgroup.directory().join("cgroup.procs");
    let ended = || -> anyhow::Result<bool> {
        let mut one = [PollFd::new(&one.handle, PollFlags::IN)];
        Ok(poll(&mut one, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? > 0)
    };
    let moved = std::fs::write(&procs, pid.to_string());
    // As long as it has not ended its PID cannot have become that of another.
    if ended()? {
        bail!("process {pid} ended before it was moved");
    }
    moved.with_context(|| format!("process {pid} cannot be moved to {}", cgroup.path()))
}
