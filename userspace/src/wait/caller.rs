//! Who called, and the descriptor that the call is about.

use std::collections::HashMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::process::{ForeignRawFd, Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::event::ProcessKey;
use crate::proc::Proc;

/// Processes that are remembered, processes; each keeps a descriptor open.
const CALLERS_MAX: usize = 128;
/// CAP_NET_BIND_SERVICE, as a bit of `CapEff` in `/proc/PID/status`.
const NET_BIND_SERVICE: u64 = 1 << 10;

/// A process that calls.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) process: ProcessKey,
    pidfd: OwnedFd,
}

/// The processes that called lately.
pub(super) struct Callers {
    /// By the id of the first thread, which no other process has while this one lives.
    known: HashMap<u32, Arc<Caller>>,
    proc: Proc,
    /// The security label of bindwatch, where the kernel has such.
    label: Option<Vec<u8>>,
    /// The user namespace of bindwatch.
    user_namespace: Option<std::path::PathBuf>,
}

impl Callers {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            known: HashMap::new(),
            proc: Proc::open()?,
            label: fs::read("/proc/thread-self/attr/current").ok().filter(|label| !label.is_empty()),
            user_namespace: fs::read_link("/proc/thread-self/ns/user").ok(),
        })
    }

    /// The process of a thread, and a duplicate of one of its descriptors (`pidfd_getfd(2)`, Linux 5.6). None: it is
    /// gone, has no such descriptor, or may not be looked into.
    ///
    /// Whose it was is certain only if the notification is valid afterwards.
    pub(super) fn descriptor(&mut self, tid: u32, fd: i32) -> Option<(Arc<Caller>, OwnedFd)> {
        let fd = ForeignRawFd::try_from(fd).ok()?;
        if let Some(known) = self.known.get(&tid) {
            match pidfd_getfd(&known.pidfd, fd, PidfdGetfdFlags::empty()) {
                Ok(socket) => return Some((Arc::clone(known), socket)),
                // It has ended, and another has its number.
                Err(Errno::SRCH) => drop(self.known.remove(&tid)),
                Err(_) => return None,
            }
        }
        let tgid = thread_group(tid)?;
        let caller = match self.known.get(&tgid) {
            Some(known) if tgid != tid => Arc::clone(known),
            _ => self.learn(tgid)?,
        };
        match pidfd_getfd(&caller.pidfd, fd, PidfdGetfdFlags::empty()) {
            Ok(socket) => Some((caller, socket)),
            Err(Errno::SRCH) => {
                let caller = self.learn(tgid)?;
                let socket = pidfd_getfd(&caller.pidfd, fd, PidfdGetfdFlags::empty()).ok()?;
                Some((caller, socket))
            }
            Err(_) => None,
        }
    }

    fn learn(&mut self, tgid: u32) -> Option<Arc<Caller>> {
        let pidfd = pidfd_open(Pid::from_raw(i32::try_from(tgid).ok()?)?, PidfdFlags::empty()).ok()?;
        let caller = Arc::new(Caller { process: self.proc.key(tgid)?, pidfd });
        if self.known.len() >= CALLERS_MAX {
            self.known.clear();
        }
        self.known.insert(tgid, Arc::clone(&caller));
        Some(caller)
    }

    /// Whether the kernel's security modules would judge bindwatch as they judge this thread.
    pub(super) fn has_our_label(&self, tid: u32) -> bool {
        match &self.label {
            None => true,
            Some(own) => fs::read(format!("/proc/{tid}/attr/current")).is_ok_and(|label| label == *own),
        }
    }

    /// Whether this thread may bind ports below 1024; None where that cannot be told, since it is in another user
    /// namespace.
    pub(super) fn may_bind_low(&self, tid: u32) -> Option<bool> {
        let namespace = fs::read_link(format!("/proc/{tid}/ns/user")).ok();
        if namespace.is_none() || namespace != self.user_namespace {
            return None;
        }
        let status = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        Some(u64::from_str_radix(effective.trim(), 16).ok()? & NET_BIND_SERVICE != 0)
    }
}

/// The process that a thread belongs to.
fn thread_group(tid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// Name of a thread; empty when it is gone.
pub(super) fn name_of(process: ProcessKey, tid: u32) -> String {
    let name = fs::read(format!("/proc/{}/task/{tid}/comm", process.tgid)).unwrap_or_default();
    String::from_utf8_lossy(name.trim_ascii_end()).into_owned()
}
