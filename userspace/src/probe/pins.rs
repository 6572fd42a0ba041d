//! Enforcement that outlives bindwatch: its links in a BPF file system, which keeps them.
//!
//! One folder for each bindwatch, `bindwatch/PID-START` below the mount point. A later one takes over: it attaches programs of
//! its own first and removes the older pins of the same cgroups then, so that at no time nothing is enforced.
//!
//! Pins are made and removed one by one, and whoever does it can be killed in between. What denies only some of a cgroup's
//! binds then is no enforcement, and is removed by the next that starts to enforce.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::guard::{CHECK_HOOKS, GUARD_HOOKS, GuardLink};
use super::syscall;
use crate::event::ProcessKey;
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

/// The folders of ended bindwatches in which a part is missing; none where that cannot be seen.
#[must_use]
pub fn partly_pinned() -> Vec<PathBuf> {
    let Ok(top) = folder() else { return Vec::new() };
    let of_ended = folders(&top).into_iter().filter(|one| !is_of_a_living(one));
    of_ended.filter(|one| is_partly(&names(one))).collect()
}

/// Removes what ended bindwatches have pinned in part.
pub(super) fn sweep() -> Result<(), PinError> {
    for one in partly_pinned() {
        let found = names(&one);
        let whole = whole(&found);
        let partial =
            found.iter().filter(|name| cgroup_of(name).is_some_and(|cgroup| !whole.contains(&cgroup)));
        partial.map(|name| one.join(name)).try_for_each(|path| removed(&path, fs::remove_file(&path)))?;
        if whole.is_empty() {
            remove_folder(&one)?;
        }
    }
    // Not empty where there is more.
    if let Ok(top) = folder() {
        let _ = fs::remove_dir(top);
    }
    Ok(())
}

/// Whether something is missing: of what denies in a cgroup, or all of it.
fn is_partly(names: &[String]) -> bool {
    let whole = whole(names);
    whole.is_empty() || names.iter().filter_map(|name| cgroup_of(name)).any(|cgroup| !whole.contains(&cgroup))
}

/// The cgroups in which all programs deny that have to.
fn whole(names: &[String]) -> BTreeSet<u64> {
    let mut by_cgroup: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
    for name in names {
        if let (Some(cgroup), Some((hook, _))) = (cgroup_of(name), name.split_once(SEPARATOR)) {
            by_cgroup.entry(cgroup).or_default().insert(hook);
        }
    }
    let all =
        |hooks: &BTreeSet<&str>, wanted: &[(&str, u32)]| wanted.iter().all(|(hook, _)| hooks.contains(hook));
    by_cgroup.retain(|_, hooks| all(hooks, &GUARD_HOOKS) || all(hooks, &CHECK_HOOKS));
    by_cgroup.into_keys().collect()
}

/// Whether the bindwatch that made a folder lives: it may be about to pin more.
fn is_of_a_living(folder: &Path) -> bool {
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some((tgid, start)) = name.split_once(SEPARATOR) else { return false };
    let (Ok(tgid), Ok(start)) = (tgid.parse(), start.parse()) else { return false };
    Proc::open().ok().and_then(|mut proc| proc.key(tgid)) == Some(ProcessKey { tgid, start })
}

/// The maps of processes that are pinned: what they know of ancestors, `/proc` no longer does.
pub(super) fn known_processes() -> Vec<PathBuf> {
    let Ok(top) = folder() else { return Vec::new() };
    folders(&top).into_iter().map(|one| one.join(KIN)).filter(|path| path.exists()).collect()
}

fn remove(top: &Path, goes: impl Fn(&Path, u64) -> bool) -> Result<BTreeSet<u64>, PinError> {
    let mut ended = BTreeSet::new();
    for one in folders(top) {
        let (mut denying, mut gone) = (0, 0);
        for name in names(&one) {
            let Some(cgroup) = cgroup_of(&name) else { continue };
            if goes(&one, cgroup) {
                let path = one.join(&name);
                removed(&path, fs::remove_file(&path))?;
                ended.insert(cgroup);
                gone += 1;
            } else {
                denying += 1;
            }
        }
        // Without a program that denies, the others serve nobody. One who lives may not have come to those yet.
        if denying == 0 && (gone > 0 || !is_of_a_living(&one)) {
            remove_folder(&one)?;
        }
    }
    // Not empty where others have theirs.
    let _ = fs::remove_dir(top);
    Ok(ended)
}

/// Removes a folder with all pins in it.
fn remove_folder(folder: &Path) -> Result<(), PinError> {
    let pins = names(folder).into_iter().map(|name| folder.join(name));
    pins.into_iter().try_for_each(|path| removed(&path, fs::remove_file(&path)))?;
    removed(folder, fs::remove_dir(folder))
}

/// What somebody else has removed meanwhile is gone as well.
fn removed(path: &Path, outcome: io::Result<()>) -> Result<(), PinError> {
    match outcome {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(PinError::Stays { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_guarded_by_all_of_it_or_not_at_all() {
        let names = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let guard = "KIN kin_fork guard_bind4-7 guard_bind6-7 guard_option-7";
        for (text, cgroups, partly) in [
            (guard, vec![7], false),
            ("KIN check_bind4-7 check_bind6-7", vec![7], false),
            (&format!("{guard} guard_bind4-8"), vec![7], true),
            ("KIN guard_bind4-7 guard_option-7", vec![], true),
            ("guard_bind4-7 guard_bind6-8 guard_option-7", vec![], true),
            ("KIN check_bind4-7 guard_bind6-7", vec![], true),
            ("KIN kin_fork", vec![], true),
            ("", vec![], true),
        ] {
            let names = names(text);
            assert_eq!(whole(&names), BTreeSet::from_iter(cgroups), "{text}");
            assert_eq!(is_partly(&names), partly, "{text}");
        }
    }

    #[test]
    fn whose_folder_it_is() {
        let me = Proc::open().ok().and_then(|mut proc| proc.key(std::process::id()));
        let start = me.map_or(0, |me| me.start);
        assert!(is_of_a_living(Path::new(&format!("/x/{}-{start}", std::process::id()))));
        assert!(!is_of_a_living(Path::new(&format!("/x/{}-{}", std::process::id(), start + 1))));
        assert!(!is_of_a_living(Path::new("/x/kept")));
    }
}
