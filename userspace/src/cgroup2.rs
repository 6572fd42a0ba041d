//! The cgroup2 hierarchy: where it is mounted, and which path an id stands for.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::proc::{Mount, mounts, unified_path};

/// Directories below the root that are looked through for an unknown id; beyond it a cgroup stays unnamed.
pub const CGROUPS_MAX: usize = 65_536;

/// The mount point of the cgroup2 hierarchy, wherever it is: `/sys/fs/cgroup`, `/sys/fs/cgroup/unified` in a hybrid
/// layout, anywhere else. A mount of the hierarchy's true root is preferred: a container may show a part of it.
#[must_use]
pub fn mount_point() -> Option<PathBuf> {
    let is_true = |point: &Path| std::fs::metadata(point).is_ok_and(|root| root.ino() == ROOT_INODE);
    root_among(mounts().ok()?, is_true)
}

/// The directory of the cgroup that this process is in, of the hierarchy mounted at `mount`; None where that does not show it.
#[must_use]
pub fn own_directory(mount: &Path) -> Option<PathBuf> {
    let text = std::fs::read("/proc/self/cgroup").ok()?;
    let path = Path::new(OsStr::from_bytes(unified_path(&text)?));
    Some(mount.join(path.strip_prefix("/").ok()?)).filter(|directory| directory.is_dir())
}

/// As [`mount_point`], from a list of mounts.
fn root_among(mounts: impl IntoIterator<Item = Mount>, is_true: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let hierarchies = mounts.into_iter().filter(|mount| mount.kind == b"cgroup2");
    // In a cgroup namespace `/` is the namespace's own root, and the machine's is `/..` or further up.
    hierarchies.min_by_key(|mount| (!is_true(&mount.point), mount.root != b"/")).map(|mount| mount.point)
}

/// Inode number of the directory of the hierarchy's true root, whatever a cgroup namespace shows as its root.
pub const ROOT_INODE: u64 = 1;

/// A cgroup2 directory that is not one.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// No hierarchy.
    #[error("no cgroup2 hierarchy is mounted; mount one (mount -t cgroup2 none /sys/fs/cgroup)")]
    NoHierarchy,
    /// Neither a directory of the hierarchy nor a path in it.
    #[error("there is no cgroup {}: give its directory, or its path as /proc/PID/cgroup shows it", .0.display())]
    Missing(PathBuf),
    /// A directory of something else.
    #[error("{} is not a cgroup of the cgroup2 hierarchy, which is mounted at {}", .0.display(), .1.display())]
    Elsewhere(PathBuf, PathBuf),
    /// It cannot be opened.
    #[error("the cgroup {} cannot be opened: {}", .0.display(), .1)]
    Open(PathBuf, #[source] std::io::Error),
}

/// A cgroup, by its directory and its path in the hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    directory: PathBuf,
    path: String,
}

impl Directory {
    /// The cgroup that a user means: a directory, or a path from the root of the hierarchy.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(named: &Path) -> Result<Self, DirectoryError> {
        let root = mount_point().ok_or(DirectoryError::NoHierarchy)?;
        let root = root.canonicalize().unwrap_or(root);
        let inside = || root.join(named.strip_prefix("/").unwrap_or(named)).canonicalize().ok();
        let found =
            named.canonicalize().ok().filter(|directory| directory.starts_with(&root)).or_else(inside);
        match found {
            Some(directory)
                if directory.starts_with(&root) && directory.join("cgroup.controllers").exists() =>
            {
                let path = directory.strip_prefix(&root).unwrap_or(Path::new(""));
                let path = format!("/{}", path.to_string_lossy());
                Ok(Self { directory, path })
            }
            _ if named.exists() => Err(DirectoryError::Elsewhere(named.to_owned(), root)),
            _ => Err(DirectoryError::Missing(named.to_owned())),
        }
    }

    /// One whose path is known.
    #[must_use]
    pub fn known(directory: &Path, path: &str) -> Self {
        Self { directory: directory.to_owned(), path: path.to_owned() }
    }

    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its path, from the root of the hierarchy.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its id: the inode number of its directory.
    ///
    /// # Errors
    /// When it is gone.
    pub fn id(&self) -> Result<u64, DirectoryError> {
        let metadata = std::fs::metadata(&self.directory);
        metadata.map(|it| it.ino()).map_err(|error| DirectoryError::Open(self.directory.clone(), error))
    }

    /// Opens it, as the kernel wants it for attaching.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(&self) -> Result<std::fs::File, DirectoryError> {
        std::fs::File::open(&self.directory)
            .map_err(|error| DirectoryError::Open(self.directory.clone(), error))
    }
}

/// Paths of cgroups by id. An id is the inode number of the cgroup's directory; ids are not used twice.
#[derive(Debug, Default)]
pub struct Paths {
    root: PathBuf,
    by_id: HashMap<u64, String>,
    /// From records alone: the directory was gone before it was looked at, or it is of another hierarchy.
    unseen: HashMap<u64, String>,
}

impl Paths {
    /// Of the hierarchy mounted at `root`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), by_id: HashMap::new(), unseen: HashMap::new() }
    }

    /// Remembers a cgroup whose making was seen.
    ///
    /// The event fires for cgroup v1 hierarchies too, whose ids are of another sequence and so recur: the directory
    /// must be there and have this inode. One that is gone already is believed as long as no directory has the id.
    pub fn learn(&mut self, id: u64, path: &str) {
        let directory = self.root.join(path.trim_start_matches('/'));
        match std::fs::metadata(&directory) {
            Ok(metadata) if metadata.ino() != id => {}
            Ok(_) => insert(&mut self.by_id, id, path.to_owned()),
            // It was asked for before this came, and no directory had it.
            Err(_) if self.by_id.get(&id).is_some_and(String::is_empty) => {
                insert(&mut self.by_id, id, path.to_owned());
            }
            Err(_) => insert(&mut self.unseen, id, path.to_owned()),
        }
    }

    /// Whether the removal that was seen is one of this hierarchy: of cgroup v1 it is told too, whose ids are of another
    /// sequence, and which may have the same paths.
    #[must_use]
    pub fn is_removed(&self, id: u64, path: &str) -> bool {
        let there = std::fs::metadata(self.root.join(path.trim_start_matches('/')));
        match self.by_id.get(&id).filter(|known| !known.is_empty()) {
            // Another may have been made in its place since.
            Some(known) => known == path && !there.is_ok_and(|now| now.ino() == id),
            None => there.is_err(),
        }
    }

    /// The path of a cgroup, from its root (`/`), or an empty text when it is not known any more.
    pub fn path(&mut self, id: u64) -> &str {
        if id != 0 && !self.by_id.contains_key(&id) {
            self.scan();
            if !self.by_id.contains_key(&id) {
                // Unknown after a look at the whole tree: do not look again for the same id.
                let path = self.unseen.remove(&id).unwrap_or_default();
                insert(&mut self.by_id, id, path);
            }
        }
        self.by_id.get(&id).map_or("", String::as_str)
    }

    /// Every cgroup that there is, by id.
    #[must_use]
    pub fn all(root: &Path) -> HashMap<u64, String> {
        let mut paths = Self::new(root);
        paths.scan();
        paths.by_id
    }

    fn scan(&mut self) {
        let mut open = vec![self.root.clone()];
        let mut seen = 0;
        while let Some(directory) = open.pop() {
            seen += 1;
            if seen > CGROUPS_MAX {
                return;
            }
            if let Ok(metadata) = std::fs::metadata(&directory) {
                let path = directory.strip_prefix(&self.root).unwrap_or(Path::new(""));
                let path = format!("/{}", path.to_string_lossy());
                insert(&mut self.by_id, metadata.ino(), path);
            }
            let Ok(entries) = std::fs::read_dir(&directory) else { continue };
            let children =
                entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            open.extend(children.map(|entry| entry.path()));
        }
    }
}

/// Remembers a path. A map that is full begins anew: what exists is found again.
fn insert(paths: &mut HashMap<u64, String>, id: u64, path: String) {
    if paths.len() >= 2 * CGROUPS_MAX {
        paths.clear();
    }
    paths.insert(id, path);
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    #[test]
    fn finds_the_mount_in_each_layout() {
        let unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw";
        let hybrid = "29 23 0:25 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      40 23 0:35 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";
        let odd = "40 23 0:35 / /mnt/my\\040groups rw shared:1 master:2 - cgroup2 none rw";
        let part = "41 23 0:35 /docker/x /sys/fs/cgroup ro - cgroup2 cgroup ro\n\
                    42 23 0:35 / /host/cgroup ro - cgroup2 cgroup ro";
        let point = |text: &str| {
            let mounts = text.lines().filter_map(|line| Mount::parse(line.trim_start().as_bytes()));
            root_among(mounts, |_| false).map(|path| path.display().to_string())
        };
        assert_eq!(point(unified).as_deref(), Some("/sys/fs/cgroup"));
        assert_eq!(point(hybrid).as_deref(), Some("/sys/fs/cgroup/unified"));
        assert_eq!(point(odd).as_deref(), Some("/mnt/my groups"));
        assert_eq!(point(part).as_deref(), Some("/host/cgroup"));
        assert_eq!(point("29 23 0:25 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu"), None);

        let container = "29 23 0:25 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n\
                         30 23 0:25 /../.. /host/cgroup rw - cgroup2 cgroup rw";
        let mounts = container.lines().filter_map(|line| Mount::parse(line.as_bytes()));
        let true_root = root_among(mounts, |point| point.starts_with("/host"));
        assert_eq!(
            true_root.as_deref(),
            Some(Path::new("/host/cgroup")),
            "the machine's, where it is mounted"
        );
    }

    /// A tree of folders in the place of the hierarchy. Ids are inode numbers here too.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> (Self, Paths) {
            let root = tempfile::tempdir().unwrap();
            let paths = Paths::new(root.path());
            (Self(root), paths)
        }

        fn make(&self, path: &str) -> u64 {
            let directory = self.0.path().join(path);
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::metadata(directory).unwrap().ino()
        }
    }

    #[test]
    fn ids_to_paths() {
        let (tree, mut paths) = Tree::new();
        let (root, job) = (tree.make(""), tree.make("ci.slice/job"));
        assert_eq!(paths.path(job), "/ci.slice/job");
        assert_eq!(paths.path(root), "/");
        assert_eq!(paths.path(0), "");
        let late = tree.make("late");
        assert_eq!(paths.path(late), "/late");
        // Names outlive their folders.
        std::fs::remove_dir(tree.0.path().join("late")).unwrap();
        assert_eq!(paths.path(late), "/late");
    }

    #[test]
    fn an_unknown_id_is_not_searched_for_twice() {
        let (tree, mut paths) = Tree::new();
        let elsewhere = tempfile::tempdir_in(tree.0.path().parent().unwrap()).unwrap();
        let id = std::fs::metadata(elsewhere.path()).unwrap().ino();
        assert_eq!(paths.path(id), "");
        let moved = tree.0.path().join("moved");
        std::fs::rename(elsewhere.keep(), &moved).unwrap();
        assert_eq!(paths.path(id), "");
        // But its making is taken, should the record come later.
        paths.learn(id, "/moved");
        assert_eq!(paths.path(id), "/moved");
    }

    #[test]
    fn a_cgroup_that_is_gone_again() {
        let (_tree, mut paths) = Tree::new();
        paths.learn(u64::MAX, "/brief");
        assert_eq!(paths.path(u64::MAX), "/brief");
        // Asked for before its making was told.
        assert_eq!(paths.path(u64::MAX - 1), "");
        paths.learn(u64::MAX - 1, "/late");
        assert_eq!(paths.path(u64::MAX - 1), "/late");
    }

    #[test]
    fn a_cgroup_of_version_1_takes_no_name_away() {
        for learnt_first in [false, true] {
            let (tree, mut paths) = Tree::new();
            let (service, other) = (tree.make("service"), tree.make("other"));
            if !learnt_first {
                assert_eq!(paths.path(service), "/service");
            }
            // The same number, for a path that is not here, and for one that has another number here.
            paths.learn(service, "/docker/4f2a");
            paths.learn(service, "/other");
            assert_eq!(paths.path(service), "/service");
            assert_eq!(paths.path(other), "/other");
            paths.learn(service, "/docker/4f2b");
            assert_eq!(paths.path(service), "/service");
        }
    }

    #[test]
    fn a_removal_is_of_this_hierarchy_or_not() {
        let (tree, mut paths) = Tree::new();
        let (service, other) = (tree.make("service"), tree.make("other"));
        assert_eq!(paths.path(service), "/service");
        // Of version 1: a path that is still here, or one that this number does not have here.
        assert!(!paths.is_removed(service, "/service"));
        assert!(!paths.is_removed(other + 1000, "/other"));
        assert!(!paths.is_removed(service, "/docker/4f2a"));
        std::fs::remove_dir(tree.0.path().join("service")).unwrap();
        assert!(paths.is_removed(service, "/service"));
        assert!(paths.is_removed(u64::MAX, "/never-asked-for"));
        // Another is made in its place before the record is read.
        let again = tree.make("x/y");
        std::fs::rename(tree.0.path().join("x/y"), tree.0.path().join("service")).unwrap();
        assert!(again == service || paths.is_removed(service, "/service"));
    }

    #[test]
    fn memory_is_bounded() {
        let (tree, mut paths) = Tree::new();
        let root = tree.make("");
        for id in 0..5 * CGROUPS_MAX as u64 {
            paths.learn(u64::MAX - id, "/brief");
        }
        assert!(paths.by_id.len() + paths.unseen.len() <= 4 * CGROUPS_MAX);
        assert_eq!(paths.path(root), "/");
    }
}
