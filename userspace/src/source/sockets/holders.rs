//! Which process has which socket open, from the links of `/proc/PID/fd`.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use crate::event::ProcessKey;
use crate::proc::{Folder, PidPath, Stat, link_at, number, read_at};

/// Longest `socket:[4294967295]`, bytes, with room. The kernel cuts longer links to it; they are of other files.
const LINK_MAX: usize = 32;
/// Largest `/proc/PID/stat` that is read, bytes.
const STAT_MAX: usize = 4096;

/// A descriptor of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Held {
    /// The socket's inode.
    pub inode: u32,
    /// Who has it.
    pub process: ProcessKey,
    /// Its number there.
    pub fd: u32,
}

/// The descriptors of sockets that the caller may see.
///
/// A process can pass a socket on while the processes are gone through, one by one: what changes meanwhile may be seen
/// twice or not at all. Threads with a descriptor table of their own are not looked into.
#[derive(Clone, Debug, Default)]
pub struct Holdings {
    /// By inode, then process, then descriptor.
    held: Vec<Held>,
    hidden: usize,
}

impl Holdings {
    /// Goes through the descriptors of every process. With `wanted` (ascending), only those inodes are kept.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn scan(wanted: Option<&[u32]>) -> io::Result<Self> {
        let proc = Folder::open_path(c"/proc")?;
        let mut tgids = Vec::new();
        let mut entries = Vec::new();
        proc.numbers(&mut entries, |tgid| tgids.push(tgid));
        let mut stat = Vec::new();
        let mut found = Self::default();
        for tgid in tgids {
            let Ok(process) = Folder::open(proc.as_fd(), PidPath::new(tgid).as_c_str()) else { continue };
            let fds = match Folder::open(process.as_fd(), c"fd") {
                Ok(fds) => fds,
                Err(error) => {
                    found.hidden += usize::from(error.kind() == io::ErrorKind::PermissionDenied);
                    continue;
                }
            };
            let first = found.held.len();
            // The start time is asked for only where a socket is, and filled in below.
            let unknown = ProcessKey { tgid, start: 0 };
            let mut link = [MaybeUninit::uninit(); LINK_MAX];
            fds.numbers(&mut entries, |fd| {
                let Ok(target) = link_at(fds.as_fd(), PidPath::new(fd).as_c_str(), &mut link) else { return };
                let Some(inode) = inode_of(target) else { return };
                if wanted.is_none_or(|wanted| wanted.binary_search(&inode).is_ok()) {
                    found.held.push(Held { inode, process: unknown, fd });
                }
            });
            if found.held.len() == first {
                continue;
            }
            let start = read_at(process.as_fd(), c"stat", &mut stat, STAT_MAX)
                .ok()
                .and_then(|()| Stat::parse(&stat).map(|stat| stat.start));
            match start {
                Some(start) => {
                    for held in found.held.iter_mut().skip(first) {
                        held.process.start = start;
                    }
                }
                // It ended meanwhile, and its sockets with it.
                None => found.held.truncate(first),
            }
        }
        found.held.sort_unstable();
        Ok(found)
    }

    /// Every descriptor.
    #[must_use]
    pub fn all(&self) -> &[Held] {
        &self.held
    }

    /// The descriptors of one socket.
    #[must_use]
    pub fn of(&self, inode: u32) -> &[Held] {
        let from = self.held.partition_point(|held| held.inode < inode);
        let rest = self.held.get(from..).unwrap_or_default();
        let count = rest.iter().take_while(|held| held.inode == inode).count();
        rest.get(..count).unwrap_or_default()
    }

    /// The processes that have one socket open, each once, in order.
    #[must_use]
    pub fn processes(&self, inode: u32) -> Vec<ProcessKey> {
        let mut processes: Vec<ProcessKey> = self.of(inode).iter().map(|held| held.process).collect();
        processes.dedup();
        processes
    }

    /// Processes whose descriptors the caller may not see.
    #[must_use]
    pub const fn hidden_processes(&self) -> usize {
        self.hidden
    }
}

/// Reads `socket:[4711]`.
fn inode_of(link: &[u8]) -> Option<u32> {
    let digits = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    number(digits).and_then(|inode| u32::try_from(inode).ok())
}
