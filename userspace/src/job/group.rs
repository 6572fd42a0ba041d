//! A cgroup (cgroups(7), version 2) as a directory: making it, who is in it, removing it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, FlockOperation};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::event::ProcessKey;
use crate::proc::{Mount, Proc, mounts, unified_path};

/// What the names of our cgroups begin with; the PID of the bindwatch that made it follows.
const PREFIX: &str = "bindwatch-";
/// Names that are tried when a cgroup of this name is there already (its maker's PID recurred).
const NAMES_MAX: u32 = 16;
/// Nested cgroups that are looked into.
const NESTED_MAX: usize = 4096;
/// Rounds of moving processes out while they fork.
const ROUNDS_MAX: usize = 16;
/// How long processes that are ending are waited for, so that the cgroup can be removed.
const ENDING_MAX: Duration = Duration::from_secs(1);

/// How long processes that were asked to end may take.
const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// How often a cgroup is looked at when nothing is heard of it: somebody else may remove it before the kernel, which
/// holds these messages back for 10 ms, tells that it is empty.
const RECHECK: Duration = Duration::from_secs(1);

/// Why there is no cgroup for the command.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// No hierarchy.
    #[error("no cgroup2 hierarchy is mounted; mount one (mount -t cgroup2 none /sys/fs/cgroup)")]
    NoHierarchy,
    /// A mount that shows another part of the hierarchy.
    #[error("the cgroup of this process ({0}) is not in the cgroup2 hierarchy that is mounted here")]
    NotVisible(String),
    /// Not the caller's.
    #[error(
        "may not make a cgroup in {}: {error}; run as root, or in a cgroup that was delegated to you",
        .directory.display()
    )]
    NotWritable {
        /// Where.
        directory: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// In a threaded cgroup, no cgroup for processes can be made.
    #[error("{} cannot hold processes: it is in a threaded cgroup", .0.display())]
    Threaded(PathBuf),
    /// Something else.
    #[error("cannot make the cgroup {}: {error}", .directory.display())]
    Io {
        /// Which.
        directory: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
}

/// A cgroup that this process made.
#[derive(Debug)]
pub(super) struct Group {
    directory: PathBuf,
    path: String,
    /// Its maker holds the lock: whoever else finds the cgroup empty knows by it whether it will be used.
    _lock: File,
}

/// Where this process's cgroup is made: the cgroup it is in itself.
#[derive(Debug)]
pub(super) struct Parent {
    pub(super) directory: PathBuf,
    path: String,
}

impl Parent {
    pub(super) fn find() -> Result<Self, GroupError> {
        let text = fs::read("/proc/self/cgroup").map_err(|_| GroupError::NoHierarchy)?;
        let own = unified_path(&text).ok_or(GroupError::NoHierarchy)?;
        let directory = directory_of(own, &mounts().unwrap_or_default())?;
        let path = String::from_utf8_lossy(own).trim_end_matches('/').to_owned();
        Ok(Self { directory, path })
    }
}

impl Group {
    pub(super) fn create(parent: &Parent) -> Result<Self, GroupError> {
        let Parent { directory: parent, path: above } = parent;
        remove_stale(parent);
        let mut nth = 0;
        loop {
            nth += 1;
            let again = if nth > 1 { format!("-{nth}") } else { String::new() };
            let name = format!("{PREFIX}{}{again}", std::process::id());
            let directory = parent.join(&name);
            match fs::create_dir(&directory) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && nth < NAMES_MAX => {}
                Err(error) if not_permitted(&error) => {
                    return Err(GroupError::NotWritable { directory: parent.clone(), error });
                }
                Err(error) => return Err(GroupError::Io { directory, error }),
                Ok(()) => {
                    let path = format!("{above}/{name}");
                    return Self::finish(parent, &directory, path)
                        .inspect_err(|_| drop(fs::remove_dir(&directory)));
                }
            }
        }
    }

    fn finish(parent: &Path, directory: &Path, path: String) -> Result<Self, GroupError> {
        let io_error = |error: io::Error| GroupError::Io { directory: directory.to_owned(), error };
        let lock = File::open(directory).map_err(io_error)?;
        // Nobody else can have it yet; where it cannot be locked at all, only the PID protects it.
        let _ = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive);
        // To move a process, both ends must be writable.
        for end in [parent, directory] {
            rustix::fs::access(end.join("cgroup.procs"), Access::WRITE_OK).map_err(|errno| {
                GroupError::NotWritable { directory: end.to_owned(), error: errno.into() }
            })?;
        }
        // The root of the hierarchy has no such file, and is a domain.
        let kind = fs::read_to_string(directory.join("cgroup.type")).unwrap_or_default();
        if !kind.is_empty() && kind.trim_end() != "domain" {
            return Err(GroupError::Threaded(directory.to_owned()));
        }
        Ok(Self { directory: directory.to_owned(), path, _lock: lock })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn processes(&self) -> Vec<ProcessKey> {
        let Ok(mut proc) = Proc::open() else { return Vec::new() };
        tgids_in(&self.directory).into_iter().filter_map(|tgid| proc.key(tgid)).collect()
    }

    /// Moves every process to the cgroup above, where bindwatch is.
    pub(super) fn move_all_out(&self) {
        let Some(parent) = self.directory.parent() else { return };
        let target = parent.join("cgroup.procs");
        for _ in 0..ROUNDS_MAX {
            let tgids = tgids_in(&self.directory);
            if tgids.is_empty() {
                break;
            }
            for tgid in tgids {
                // One that ends meanwhile cannot be moved and need not be.
                let _ = fs::write(&target, tgid.to_string());
            }
        }
    }

    /// Asks every process in it to end; those that have not after a while are killed. Those that come meanwhile too.
    pub(super) fn end_all(&self) {
        for (signal, patience) in [(Signal::TERM, FAREWELL_MAX), (Signal::KILL, ENDING_MAX)] {
            for _ in 0..ROUNDS_MAX {
                let pidfds = tgids_in(&self.directory).into_iter().filter_map(|tgid| {
                    let handle =
                        pidfd_open(Pid::from_raw(i32::try_from(tgid).ok()?)?, PidfdFlags::empty()).ok()?;
                    // Its PID cannot have become that of another while the descriptor is open.
                    tgids_in(&self.directory).contains(&tgid).then_some(handle)
                });
                for handle in pidfds {
                    let _ = pidfd_send_signal(handle, signal);
                }
                if signal == Signal::TERM || tgids_in(&self.directory).is_empty() {
                    break;
                }
            }
            if wait_until_empty(&self.directory, Some(patience)) {
                break;
            }
        }
    }

    /// Removes it and those in it. Whether it is gone.
    pub(super) fn remove(&self) -> bool {
        let deadline = Instant::now() + ENDING_MAX;
        loop {
            if remove_tree(&self.directory) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !wait_until_empty(&self.directory, Some(left)) {
                return remove_tree(&self.directory);
            }
        }
    }
}

/// Waits until no process is in a cgroup or below it. Whether that is so; false when `longest` has passed first.
pub(super) fn wait_until_empty(directory: &Path, longest: Option<Duration>) -> bool {
    let deadline = longest.map(|longest| Instant::now() + longest);
    let Ok(events) = File::open(directory.join("cgroup.events")) else { return true };
    loop {
        // The kernel raises POLLPRI when the file changes after it was read.
        let mut text = [0; 256];
        let read = match rustix::io::pread(&events, &mut text, 0) {
            Ok(read) => read,
            // The cgroup is gone.
            Err(_) => return true,
        };
        let text = text.get(..read).unwrap_or_default();
        if text.split(|&b| b == b'\n').any(|line| line == b"populated 0") {
            return true;
        }
        let left = deadline.map_or(RECHECK, |deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            return false;
        }
        let timeout = Timespec::try_from(left.min(RECHECK)).ok();
        let _ = poll(&mut [PollFd::new(&events, PollFlags::PRI)], timeout.as_ref());
    }
}

/// Removes a cgroup and those in it, the inner ones first. Whether it is gone.
pub(super) fn remove_tree(directory: &Path) -> bool {
    let tree = tree(directory);
    for nested in tree.iter().rev() {
        let _ = fs::remove_dir(nested);
    }
    !directory.exists()
}

/// A cgroup and those in it, outer ones first.
fn tree(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![directory.to_owned()];
    let mut next = 0;
    while let Some(one) = found.get(next).cloned() {
        next += 1;
        for entry in fs::read_dir(&one).into_iter().flatten().flatten() {
            if found.len() < NESTED_MAX && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.push(entry.path());
            }
        }
    }
    found
}

fn tgids_in(directory: &Path) -> BTreeSet<u32> {
    let read = |one: PathBuf| fs::read_to_string(one.join("cgroup.procs")).unwrap_or_default();
    let texts = tree(directory).into_iter().map(read);
    texts.flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<u32>>()).collect()
}

/// The cgroups of bindwatches below one, with the PID of the maker of each.
fn of_bindwatch(parent: &Path) -> impl Iterator<Item = (u32, PathBuf)> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let name = entry.file_name();
        let rest = name.to_str()?.strip_prefix(PREFIX)?;
        let pid = rest.split('-').next().unwrap_or_default().parse().ok()?;
        Some((pid, entry.path()))
    })
}

/// The cgroups that a bindwatch made below one.
pub(super) fn made_by(parent: &Path, maker: u32) -> Vec<PathBuf> {
    of_bindwatch(parent).filter(|(pid, _)| *pid == maker).map(|(_, directory)| directory).collect()
}

/// Removes the empty cgroups of bindwatches that are dead.
fn remove_stale(parent: &Path) {
    for (pid, directory) in of_bindwatch(parent) {
        if Path::new("/proc").join(pid.to_string()).exists() {
            continue;
        }
        // Its maker may be in another PID namespace; then it holds the lock.
        let unlocked = File::open(&directory)
            .is_ok_and(|lock| rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok());
        if unlocked && tgids_in(&directory).is_empty() {
            remove_tree(&directory);
        }
    }
}

/// Where the hierarchy shows the cgroup `path`.
fn directory_of(path: &[u8], mounts: &[Mount]) -> Result<PathBuf, GroupError> {
    let path = Path::new(OsStr::from_bytes(path));
    let mut any = false;
    for mount in mounts.iter().rev().filter(|mount| mount.kind == b"cgroup2") {
        any = true;
        // A path outside the cgroup namespace begins with "/..", and a mount can show a part of the hierarchy.
        let inside = path.strip_prefix(Path::new(OsStr::from_bytes(&mount.root)));
        let directory = inside.ok().map(|inside| mount.point.join(inside));
        if let Some(directory) =
            directory.filter(|directory| !directory.components().any(|part| part.as_os_str() == ".."))
            && directory.join("cgroup.procs").exists()
        {
            return Ok(directory);
        }
    }
    Err(if any { GroupError::NotVisible(super::shown(path.as_os_str())) } else { GroupError::NoHierarchy })
}

fn not_permitted(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_may_be_mounted_anywhere_and_in_part() -> io::Result<()> {
        // A directory that looks like a hierarchy: /top/inner.
        let folder = tempfile::tempdir()?;
        let inner = folder.path().join("top/inner");
        fs::create_dir_all(&inner)?;
        fs::write(inner.join("cgroup.procs"), "")?;
        let mount = |root: &str, point: &Path, kind: &str| Mount {
            root: root.into(),
            point: point.to_owned(),
            kind: kind.into(),
        };
        let whole = mount("/", folder.path(), "cgroup2");
        let part = mount("/top", &folder.path().join("top"), "cgroup2");
        let other_part = mount("/elsewhere", folder.path(), "cgroup2");
        let v1 = mount("/", folder.path(), "cgroup");
        let find = |path: &str, mounts: &[&Mount]| {
            let mounts: Vec<Mount> = mounts.iter().map(|mount| (*mount).clone()).collect();
            directory_of(path.as_bytes(), &mounts).map_err(|error| error.to_string())
        };
        assert_eq!(find("/top/inner", &[&whole]), Ok(inner.clone()));
        assert_eq!(find("/top/inner", &[&v1, &part, &other_part]), Ok(inner));
        for hidden in ["/top/inner/gone", "/../outside", "/top/../../etc"] {
            let error = find(hidden, &[&whole, &v1]);
            assert!(
                error.as_ref().is_err_and(|text| text.contains("is not in the cgroup2 hierarchy")),
                "{error:?}"
            );
        }
        let error = find("/top/inner", &[&v1]);
        assert!(
            error.as_ref().is_err_and(|text| text.starts_with("no cgroup2 hierarchy is mounted")),
            "{error:?}"
        );
        Ok(())
    }
}
