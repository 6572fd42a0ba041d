//! The cgroup2 hierarchy: where it is mounted, and which path an id stands for.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Directories below the root that are looked through for an unknown id; beyond it a cgroup stays unnamed.
pub const CGROUPS_MAX: usize = 65_536;

/// The mount point of the cgroup2 hierarchy, wherever it is: `/sys/fs/cgroup`, `/sys/fs/cgroup/unified` in a hybrid
/// layout, anywhere else. Only a mount of the hierarchy's root counts: a container may show a part of it.
#[must_use]
pub fn mount_point() -> Option<PathBuf> {
    mount_in(&std::fs::read_to_string("/proc/self/mountinfo").ok()?)
}

/// As [`mount_point`], from the text of a mountinfo file (proc(5)).
fn mount_in(mountinfo: &str) -> Option<PathBuf> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (fields, rest) = line.split_once(" - ")?;
        let kind = rest.split(' ').next()?;
        let mut fields = fields.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| (root == "/", PathBuf::from(unescape(point))))
    });
    let mut mounts: Vec<(bool, PathBuf)> = mounts.collect();
    // In a cgroup namespace the root is the namespace's own; a mount of a part is better than none.
    mounts.sort_by_key(|(whole, _)| !whole);
    mounts.into_iter().next().map(|(_, point)| point)
}

/// Mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> String {
    let mut text = field.to_owned();
    for (escaped, plain) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        text = text.replace(escaped, plain);
    }
    text
}

/// Paths of cgroups by id. An id is the inode number of the cgroup's directory; ids are not used twice.
#[derive(Debug, Default)]
pub struct Paths {
    root: PathBuf,
    by_id: HashMap<u64, String>,
}

impl Paths {
    /// Of the hierarchy mounted at `root`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), by_id: HashMap::new() }
    }

    /// Remembers a cgroup whose making was seen.
    ///
    /// The event fires for cgroup v1 hierarchies too, whose ids are of another sequence: the directory must be there
    /// and have this inode, or be gone again already while no other id has the path.
    pub fn learn(&mut self, id: u64, path: &str) {
        let directory = self.root.join(path.trim_start_matches('/'));
        match std::fs::metadata(&directory) {
            Ok(metadata) if metadata.ino() != id => {}
            Ok(_) | Err(_) => self.insert(id, path.to_owned()),
        }
    }

    /// The path of a cgroup, from its root (`/`), or an empty text when it is not known any more.
    pub fn path(&mut self, id: u64) -> &str {
        if id != 0 && !self.by_id.contains_key(&id) {
            self.scan();
            // Unknown after a look at the whole tree: do not look again for the same id.
            self.by_id.entry(id).or_default();
        }
        self.by_id.get(&id).map_or("", String::as_str)
    }

    fn insert(&mut self, id: u64, path: String) {
        if self.by_id.len() < 2 * CGROUPS_MAX {
            self.by_id.insert(id, path);
        }
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
                self.insert(metadata.ino(), format!("/{}", path.to_string_lossy()));
            }
            let Ok(entries) = std::fs::read_dir(&directory) else { continue };
            let children =
                entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            open.extend(children.map(|entry| entry.path()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_mount_in_each_layout() {
        let unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw";
        let hybrid = "29 23 0:25 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      40 23 0:35 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";
        let odd = "40 23 0:35 / /mnt/my\\040groups rw shared:1 master:2 - cgroup2 none rw";
        let part = "41 23 0:35 /docker/x /sys/fs/cgroup ro - cgroup2 cgroup ro\n\
                    42 23 0:35 / /host/cgroup ro - cgroup2 cgroup ro";
        let point = |text| mount_in(text).map(|path| path.display().to_string());
        assert_eq!(point(unified).as_deref(), Some("/sys/fs/cgroup"));
        assert_eq!(point(hybrid).as_deref(), Some("/sys/fs/cgroup/unified"));
        assert_eq!(point(odd).as_deref(), Some("/mnt/my groups"));
        assert_eq!(point(part).as_deref(), Some("/host/cgroup"));
        assert_eq!(point("29 23 0:25 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu"), None);
    }
}
