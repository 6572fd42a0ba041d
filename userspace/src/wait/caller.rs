//! Who called, and the descriptor that the call is about.

use std::collections::HashMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::process::{ForeignRawFd, Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::event::ProcessKey;
use crate::proc::Proc;

/// Threads that are remembered, threads; each keeps a descriptor open.
const CALLERS_MAX: usize = 128;
/// CAP_NET_BIND_SERVICE, as a bit of `CapEff` in `/proc/PID/status`.
const NET_BIND_SERVICE: u64 = 1 << 10;

/// `PIDFD_THREAD`: of a thread, not of its process (Linux 6.9). A thread can have descriptors of its own.
const OF_THREAD: PidfdFlags = PidfdFlags::from_bits_retain(0o200);

/// A thread that calls.
#[derive(Debug)]
pub(super) struct Caller {
    /// Its process.
    pub(super) process: ProcessKey,
    pidfd: OwnedFd,
    /// Whether that is the thread's, not that of its process.
    is_own: bool,
}

/// The threads that called lately.
pub(super) struct Callers {
    /// By their ids, which no others have while they live.
    known: HashMap<u32, Arc<Caller>>,
    proc: Proc,
    /// The kernel has descriptors of threads.
    has_threads: bool,
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
            has_threads: true,
            label: fs::read("/proc/thread-self/attr/current").ok().filter(|label| !label.is_empty()),
            user_namespace: fs::read_link("/proc/thread-self/ns/user").ok(),
        })
    }

    /// Who a thread is, and a duplicate of one of its descriptors (`pidfd_getfd(2)`, Linux 5.6).
    ///
    /// Whose it was is certain only if the notification is valid afterwards.
    ///
    /// # Errors
    /// When it is gone, has no such descriptor, or may not be looked into: that is EPERM.
    pub(super) fn descriptor(&mut self, tid: u32, fd: i32) -> Result<(Arc<Caller>, OwnedFd), Errno> {
        if let Some(known) = self.known.get(&tid) {
            match known.descriptor(tid, fd) {
                Ok(socket) => return Ok((Arc::clone(known), socket)),
                // It has ended, and another has its number.
                Err(Errno::SRCH) => drop(self.known.remove(&tid)),
                Err(error) => return Err(error),
            }
        }
        let caller = self.learn(tid).ok_or(Errno::SRCH)?;
        let socket = caller.descriptor(tid, fd)?;
        Ok((caller, socket))
    }

    fn learn(&mut self, tid: u32) -> Option<Arc<Caller>> {
        let tgid = thread_group(tid)?;
        let (pidfd, is_own) = if tid == tgid {
            (open(tgid, PidfdFlags::empty()).ok()?, true)
        } else {
            match if self.has_threads { open(tid, OF_THREAD) } else { Err(Errno::INVAL) } {
                Ok(pidfd) => (pidfd, true),
                Err(Errno::INVAL) => {
                    self.has_threads = false;
                    (open(tgid, PidfdFlags::empty()).ok()?, false)
                }
                Err(_) => return None,
            }
        };
        let caller = Arc::new(Caller { process: self.proc.key(tgid)?, pidfd, is_own });
        if self.known.len() >= CALLERS_MAX {
            self.known.clear();
        }
        self.known.insert(tid, Arc::clone(&caller));
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

impl Caller {
    fn descriptor(&self, tid: u32, fd: i32) -> Result<OwnedFd, Errno> {
        let number = ForeignRawFd::try_from(fd).map_err(|_| Errno::BADF)?;
        let socket = pidfd_getfd(&self.pidfd, number, PidfdGetfdFlags::empty())?;
        // The first thread's descriptors need not be those of the one that calls.
        if self.is_own || is_descriptor_of(tid, fd, &socket) { Ok(socket) } else { Err(Errno::BADF) }
    }
}

fn open(id: u32, flags: PidfdFlags) -> Result<OwnedFd, Errno> {
    let id = i32::try_from(id).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    pidfd_open(id, flags)
}

/// Whether a thread has this socket as its descriptor of this number.
fn is_descriptor_of(tid: u32, fd: i32, socket: &OwnedFd) -> bool {
    let theirs = fs::metadata(format!("/proc/{tid}/fd/{fd}"));
    let ours = rustix::fs::fstat(socket);
    theirs
        .ok()
        .zip(ours.ok())
        .is_some_and(|(theirs, ours)| (theirs.dev(), theirs.ino()) == (ours.st_dev, ours.st_ino))
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use std::net::UdpSocket;
    use std::os::fd::AsRawFd as _;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_thread_with_descriptors_of_its_own_is_not_taken_for_its_process() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let number = socket.as_raw_fd();
        let (send, told) = mpsc::channel();
        let (go_on, goes_on) = mpsc::channel::<()>();
        let inode = |socket: &OwnedFd| rustix::fs::fstat(socket).unwrap().st_ino;
        let shared = rustix::fs::fstat(&socket).unwrap().st_ino;
        let thread = std::thread::spawn(move || {
            let tid = rustix::thread::gettid().as_raw_pid().cast_unsigned();
            send.send(tid).unwrap();
            goes_on.recv().unwrap();
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES).unwrap();
            // The same number is another socket from here on.
            let other = UdpSocket::bind("127.0.0.1:0").unwrap();
            let mut socket: OwnedFd = socket.into();
            rustix::io::dup2(&other, &mut socket).unwrap();
            send.send(tid).unwrap();
            goes_on.recv().unwrap();
        });
        let mut old = Callers { has_threads: false, ..Callers::new().unwrap() };
        let mut new = Callers::new().unwrap();
        let tid = told.recv().unwrap();
        for callers in [&mut old, &mut new] {
            let (caller, found) = callers.descriptor(tid, number).unwrap();
            assert_eq!((caller.process.tgid, inode(&found)), (std::process::id(), shared));
            assert!(callers.descriptor(tid, 1 << 20).is_err());
        }
        go_on.send(()).unwrap();
        let tid = told.recv().unwrap();
        assert!(old.descriptor(tid, number).is_err(), "not the first thread's");
        if new.has_threads {
            assert_ne!(inode(&new.descriptor(tid, number).unwrap().1), shared);
        }
        go_on.send(()).unwrap();
        thread.join().unwrap();
        assert!(old.descriptor(tid, number).is_err() && new.descriptor(tid, number).is_err());
    }
}
