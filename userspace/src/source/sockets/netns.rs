//! Network namespaces: finding them, and asking in them.
//!
//! A netlink socket answers for the namespace it was opened in, wherever it is used afterwards. So a thread enters the
//! namespace, opens the socket and ends; nothing of bindwatch stays there. No descriptor of a namespace is kept between
//! questions either: an open one would keep a dying namespace, its devices and its ports alive. What is remembered is a
//! witness, a path at which the namespace was last seen; it is checked by inode number each time.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::diag::{Diag, DiagError};
use crate::event::{Inum, PortRange};
use crate::proc::{Folder, Mount, link_at, mounts, number};

/// Network namespaces that are looked into. Beyond it [`Namespaces::more`] says so.
pub(super) const NAMESPACES_MAX: usize = 4096;
/// Longest `net:[4026531840]`, bytes, with room.
const LINK_MAX: usize = 64;

/// A network namespace that cannot be looked into.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// No process is in it and it is mounted nowhere.
    #[error("network namespace {} is gone", .0.0)]
    Gone(Inum),
    /// The caller may not enter it.
    #[error("network namespace {} cannot be entered: that needs CAP_SYS_ADMIN (run as root)", .0.0)]
    Locked(Inum),
    /// Something else.
    #[error("cannot enter network namespace {}: {error}", .netns.0)]
    Io {
        /// Which.
        netns: Inum,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// Entered, and the kernel gives no sock_diag socket there.
    #[error(transparent)]
    Diag(#[from] DiagError),
}

/// Every network namespace that was seen, and where.
pub(super) struct Namespaces {
    proc: Folder,
    own: Inum,
    witnesses: HashMap<Inum, CString>,
    buffer: Vec<u8>,
    more: bool,
}

impl Namespaces {
    pub(super) fn open() -> io::Result<Self> {
        let proc = Folder::open_path(c"/proc")?;
        let own =
            inum_at(&proc, c"thread-self/ns/net").ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(Self { proc, own, witnesses: HashMap::new(), buffer: Vec::new(), more: false })
    }

    pub(super) const fn own(&self) -> Inum {
        self.own
    }

    pub(super) fn diag_of_own(&self) -> Result<Diag, DiagError> {
        Diag::open(self.own)
    }

    /// Every network namespace but the caller's that can be found now, in order.
    pub(super) fn others(&mut self) -> Vec<Inum> {
        self.look_around();
        let mut found: Vec<Inum> = self.witnesses.keys().copied().filter(|inum| *inum != self.own).collect();
        found.sort_unstable();
        found
    }

    /// There were more namespaces than [`NAMESPACES_MAX`] when they were last looked for.
    pub(super) const fn more(&self) -> bool {
        self.more
    }

    /// A sock_diag socket of a network namespace.
    pub(super) fn diag_of(&mut self, inum: Inum) -> Result<Diag, NetnsError> {
        self.inside(inum, || Ok(Diag::open(inum)?))
    }

    /// The ports that the kernel chooses from in a network namespace. `/proc/sys/net` is that of the reading thread.
    pub(super) fn port_range(&mut self, inum: Inum) -> Result<PortRange, NetnsError> {
        self.inside(inum, || {
            let read = |name: &str| {
                std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}"))
                    .map_err(|error| NetnsError::Io { netns: inum, error })
            };
            let range = read("ip_local_port_range")?;
            // Where it cannot be read, none are taken for reserved.
            let reserved = read("ip_local_reserved_ports").unwrap_or_default();
            parse_range(inum, &range, &reserved).ok_or_else(|| NetnsError::Io {
                netns: inum,
                error: io::Error::other(format!("its port range cannot be read: {:?}", range.trim_end())),
            })
        })
    }

    /// Does something in a network namespace, in a thread of its own where it is another one.
    fn inside<T: Send>(
        &mut self,
        inum: Inum,
        ask: impl FnOnce() -> Result<T, NetnsError> + Send,
    ) -> Result<T, NetnsError> {
        if inum == self.own {
            return ask();
        }
        let handle = match self.handle(inum) {
            Ok(handle) => handle,
            // Its witness is gone, or it was never seen.
            Err(_) => {
                self.look_around();
                self.handle(inum)?
            }
        };
        let entered = std::thread::scope(|scope| {
            let inside = || {
                move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network)).map_err(
                    |errno| match errno {
                        Errno::PERM | Errno::ACCESS => NetnsError::Locked(inum),
                        errno => NetnsError::Io { netns: inum, error: errno.into() },
                    },
                )?;
                ask()
            };
            std::thread::Builder::new()
                .name("netns".to_owned())
                .spawn_scoped(scope, inside)
                .map(|thread| thread.join())
        });
        let io_error = |error| NetnsError::Io { netns: inum, error };
        match entered {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(io_error(io::Error::other("the thread for it ended early"))),
            Err(error) => Err(io_error(error)),
        }
    }

    /// Opens the witness of a namespace and checks that it still is that one.
    fn handle(&self, inum: Inum) -> Result<OwnedFd, NetnsError> {
        let witness = self.witnesses.get(&inum).ok_or(NetnsError::Gone(inum))?;
        let handle = rustix::fs::openat(
            if witness.as_bytes().starts_with(b"/") { CWD } else { self.proc.as_fd() },
            witness.as_c_str(),
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| match errno {
            Errno::PERM | Errno::ACCESS => NetnsError::Locked(inum),
            Errno::NOENT | Errno::SRCH => NetnsError::Gone(inum),
            errno => NetnsError::Io { netns: inum, error: errno.into() },
        })?;
        match rustix::fs::fstat(&handle) {
            Ok(stat) if stat.st_ino == u64::from(inum.0) => Ok(handle),
            _ => Err(NetnsError::Gone(inum)),
        }
    }

    /// Forgets what was known and collects one witness per namespace: a process in it, or where it is mounted.
    fn look_around(&mut self) {
        self.witnesses.clear();
        let (proc, witnesses) = (&self.proc, &mut self.witnesses);
        let mut more = false;
        let mut remember = |inum, path| {
            if witnesses.len() < NAMESPACES_MAX || witnesses.contains_key(&inum) {
                witnesses.entry(inum).or_insert(path);
            } else {
                more = true;
            }
        };
        proc.numbers(&mut self.buffer, |tgid| {
            let Ok(path) = CString::new(format!("{tgid}/ns/net")) else { return };
            if let Some(inum) = inum_at(proc, &path) {
                remember(inum, path);
            }
        });
        // `ip netns add` and container managers keep namespaces by mounting them.
        for Mount { root, point, .. } in mounts().unwrap_or_default() {
            let Some((inum, path)) = inum_of(&root).zip(CString::new(point.into_os_string().into_vec()).ok())
            else {
                continue;
            };
            remember(inum, path);
        }
        self.more = more;
    }
}

/// Reads `32768\t60999` and `8080,9148-9150`.
fn parse_range(netns: Inum, range: &str, reserved: &str) -> Option<PortRange> {
    let mut ends = range.split_whitespace().map(str::parse);
    let (low, high) = (ends.next()?.ok()?, ends.next()?.ok()?);
    let reserved = reserved.trim().split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.parse().ok()?, last.parse().ok()?))
    });
    Some(PortRange { netns, low, high, reserved: reserved.collect() })
}

/// The namespace that a link of `/proc` names.
fn inum_at(proc: &Folder, path: &CStr) -> Option<Inum> {
    let mut buffer = [MaybeUninit::uninit(); LINK_MAX];
    inum_of(link_at(proc.as_fd(), path, &mut buffer).ok()?)
}

/// Reads `net:[4026531840]`.
fn inum_of(link: &[u8]) -> Option<Inum> {
    let digits = link.strip_prefix(b"net:[")?.strip_suffix(b"]")?;
    number(digits).and_then(|inum| u32::try_from(inum).ok()).map(Inum)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    #[test]
    fn a_range_is_read() {
        let range = parse_range(Inum(1), "32768\t60999\n", "8080,9148-9150\n").unwrap();
        assert_eq!((range.low, range.high), (32_768, 60_999));
        assert_eq!(range.reserved, [(8080, 8080), (9148, 9150)]);
        assert_eq!(parse_range(Inum(1), "1 2", "\n").unwrap().reserved, []);
        assert_eq!(parse_range(Inum(1), "70000 2", ""), None);
        assert_eq!(parse_range(Inum(1), "", ""), None);
        let mut namespaces = Namespaces::open().unwrap();
        assert!(namespaces.port_range(namespaces.own()).unwrap().size() > 0);
    }

    #[test]
    fn what_is_not_there_is_gone() {
        let mut namespaces = Namespaces::open().unwrap();
        assert!(matches!(namespaces.diag_of(Inum(1)), Err(NetnsError::Gone(Inum(1)))));
    }
}
