//! Enforcement that outlives bindwatch: its links in a BPF file system, which keeps them.
//!
//! One folder for each bindwatch, `bindwatch/PID-START` below the mount point. A later one takes over: it attaches programs of
//! its own first and removes the older pins of the same cgroups then, so that at no time nothing is enforced.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::guard::GuardLink;
use super::syscall;
use crate::proc::{Proc, mounts};

/// The folder of all pins.
const FOLDER: &str = "bindwatch";
/// What is between the name of a program that denies and the id of its cgroup.
const SEPARATOR: char = '-';
/// The name of the map of processes.
const KIN: &str = "KIN";

/// Why enforcement cannot be pinned.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// Nowhere to.
    #[error("no BPF file system is mounted, which --pin needs: mount -t bpf bpf /sys/fs/bpf")]
    NoFileSystem,
    /// It was refused.
    #[error("enforcement cannot be pinned at {}: {source}", .path.display())]
    Refused {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is there cannot be seen.
    #[error("{} cannot be read: {source}", .path.display())]
    Hidden {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be removed.
    #[error("{} cannot be removed: {source}", .path.display())]
    Stays {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn folder() -> Result<PathBuf, PinError> {
    let mounts = mounts().unwrap_or_default();
    let usual = Path::new("/sys/fs/bpf");
    let mut found = mounts.into_iter().filter(|mount| mount.kind == b"bpf").map(|mount| mount.point);
    let first = found.next().ok_or(PinError::NoFileSystem)?;
    let chosen = if first == usual || found.any(|point| point == usual) { usual.to_owned() } else { first };
    Ok(chosen.join(FOLDER))
}

/// Keeps links, and the map of processes, when this process ends. What kept the same cgroups before is removed.
pub(super) fn keep(links: &[GuardLink], kin: impl AsFd) -> Result<(), PinError> {
    let top = folder()?;
    let myself = Proc::open().ok().and_then(|mut proc| proc.key(std::process::id()));
    let start = myself.map_or(0, |myself| myself.start);
    let mine = top.join(format!("{}-{start}", std::process::id()));
    let refused = |path: &Path| {
        let path = path.to_owned();
        move |source| PinError::Refused { path, source }
    };
    fs::create_dir_all(&mine).map_err(refused(&mine))?;
    // What is decided with comes first: where something is denied, it is there.
    let path = mine.join(KIN);
    syscall::pin(kin, &path).map_err(refused(&path))?;
    let order = links.iter().filter(|link| link.enforced.is_none());
    let mut cgroups = BTreeSet::new();
    for link in order.chain(links.iter().filter(|link| link.enforced.is_some())) {
        let path = mine.join(match link.enforced {
            Some(cgroup) => format!("{}{SEPARATOR}{cgroup}", link.name),
            None => link.name.to_owned(),
        });
        syscall::pin(&link.link, &path).map_err(refused(&path))?;
        cgroups.extend(link.enforced);
    }
    remove(&top, |folder, cgroup| folder != mine && cgroups.contains(&cgroup)).map(drop)
}

/// The cgroups, by id, in which enforcement is pinned.
///
/// # Errors
/// Without a BPF file system, or without the right to see what is in it.
pub fn pinned() -> Result<BTreeSet<u64>, PinError> {
    let top = folder()?;
    match fs::read_dir(&top) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(PinError::Hidden { path: top, source });
        }
        _ => {}
    }
    Ok(folders(&top).iter().flat_map(|one| names(one)).filter_map(|name| cgroup_of(&name)).collect())
}

/// Ends pinned enforcement in these cgroups, in all when none is given. The cgroups in which it ended.
///
/// # Errors
/// When it cannot be removed.
pub fn unpin(cgroups: &BTreeSet<u64>) -> Result<BTreeSet<u64>, PinError> {
    remove(&folder()?, |_, cgroup| cgroups.is_empty() || cgroups.contains(&cgroup))
}

/// The maps of processes that are pinned: what they know of ancestors, `/proc` no longer does.
pub(super) fn known_processes() -> Vec<PathBuf> {
    let Ok(top) = folder() else { return Vec::new() };
    folders(&top).into_iter().map(|one| one.join(KIN)).filter(|path| path.exists()).collect()
}

fn remove(top: &Path, goes: impl Fn(&Path, u64) -> bool) -> Result<BTreeSet<u64>, PinError> {
    let stays = |path: &Path| {
        let path = path.to_owned();
        move |source| PinError::Stays { path, source }
    };
    let mut removed = BTreeSet::new();
    for one in folders(top) {
        let mut denying = 0;
        for name in names(&one) {
            let Some(cgroup) = cgroup_of(&name) else { continue };
            if goes(&one, cgroup) {
                let path = one.join(&name);
                fs::remove_file(&path).map_err(stays(&path))?;
                removed.insert(cgroup);
            } else {
                denying += 1;
            }
        }
        // Without a program that denies, the others serve nobody.
        if denying == 0 {
            for name in names(&one) {
                let path = one.join(&name);
                fs::remove_file(&path).map_err(stays(&path))?;
            }
            fs::remove_dir(&one).map_err(stays(&one))?;
        }
    }
    // Not empty where others have theirs.
    let _ = fs::remove_dir(top);
    Ok(removed)
}

fn folders(top: &Path) -> Vec<PathBuf> {
    fs::read_dir(top).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The cgroup of a pin that denies.
fn cgroup_of(name: &str) -> Option<u64> {
    name.split_once(SEPARATOR)?.1.parse().ok()
}
