//! Places that go away with the test: folders and cgroups.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::inotify;

use crate::log::drain;
use crate::wait::{Deadline, readable};

/// When this variable is set, folders stay: a test may have dropped its own before it fails.
const KEEP: &str = "BINDWATCH_TEST_KEEP";

/// A folder that everybody may enter and the test's own user may write; removed when dropped, unless the test failed.
#[derive(Debug)]
pub struct Folder(tempfile::TempDir);

impl Folder {
    /// A new folder.
    ///
    /// # Panics
    /// When none can be made.
    #[must_use]
    pub fn new() -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let folder =
            tempfile::Builder::new().prefix("bindwatch-test-").tempdir().expect("a temporary folder");
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("permissions");
        Self(folder)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A file in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file in it and says where.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let file = self.file(name);
        std::fs::write(&file, content).expect("a file in a temporary folder");
        file
    }
}

impl Folder {
    /// Waits until a file of this name is in it, written and named whole.
    ///
    /// # Panics
    /// When it does not appear.
    #[track_caller]
    pub fn appears(&self, name: &str) -> PathBuf {
        let file = self.file(name);
        let watch =
            inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).expect("inotify");
        let appears = inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&watch, self.path(), appears).expect("a watch on the folder");
        let deadline = Deadline::patient();
        while !std::fs::metadata(&file).is_ok_and(|file| file.len() > 0) {
            assert!(readable([watch.as_fd()], deadline).is_some(), "{} does not appear", file.display());
            drain(&watch);
        }
        file
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

/// Where the cgroup2 hierarchy is mounted.
///
/// # Panics
/// When it is not.
#[must_use]
pub fn cgroup2() -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("/proc");
    let place = mounts.lines().find_map(|line| match line.split(' ').collect::<Vec<_>>().as_slice() {
        [_, place, "cgroup2", ..] => Some(PathBuf::from(place)),
        _ => None,
    });
    place.expect("cgroup2 is mounted nowhere")
}

/// The cgroup2 path of a process, as the hierarchy names it: `/`, `/a/b`.
///
/// # Panics
/// When the process is gone.
#[must_use]
#[track_caller]
pub fn cgroup_of(pid: u32) -> String {
    let lines = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("a process that lives");
    lines.lines().find_map(|line| line.strip_prefix("0::")).expect("a cgroup2 path").to_owned()
}

impl Drop for Folder {
    fn drop(&mut self) {
        // The log in it is what a failed test is understood by.
        if std::thread::panicking() || std::env::var_os(KEEP).is_some() {
            self.0.disable_cleanup(true);
            eprintln!("kept: {}", self.path().display());
        }
    }
}

/// A cgroup that is removed when dropped, with those below it; processes still in them are killed.
#[derive(Debug)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// A new one, below the root of the hierarchy.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        Self::named(&format!(
            "bindwatch-test-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        ))
    }

    /// A new one of this name, below the root of the hierarchy.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let folder = cgroup2().join(name);
        std::fs::create_dir(&folder).expect("a cgroup");
        Self(folder)
    }

    /// A new one of this name, below it.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn inner(&self, name: &str) -> Self {
        let folder = self.0.join(name);
        std::fs::create_dir(&folder).expect("a cgroup");
        Self(folder)
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The processes in it, and in those below it.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        let mut processes = Vec::new();
        for folder in self.folders() {
            let members = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            processes.extend(members.lines().filter_map(|line| line.parse::<u32>().ok()));
        }
        processes
    }

    /// Its folder and those below it, the deepest first.
    fn folders(&self) -> Vec<PathBuf> {
        let mut folders = vec![self.0.clone()];
        let mut at = 0;
        while let Some(folder) = folders.get(at) {
            let below = std::fs::read_dir(folder).into_iter().flatten().flatten();
            let below: Vec<PathBuf> = below.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
            folders.extend(below);
            at += 1;
        }
        folders.reverse();
        folders
    }

    /// Moves a process into it.
    ///
    /// # Panics
    /// When the process is gone.
    #[track_caller]
    pub fn enrol(&self, pid: u32) {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("a process to move");
    }
}

impl Default for Cgroup {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let deadline = Deadline::patient();
        // A process leaves its cgroup a moment after its end is told; then `populated` in this file changes.
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK);
        let watch = watch.and_then(|watch| {
            inotify::add_watch(&watch, self.0.join("cgroup.events"), inotify::WatchFlags::MODIFY)?;
            Ok(watch)
        });
        loop {
            for process in self.processes().into_iter().filter_map(crate::wait::Process::find) {
                process.signal(rustix::process::Signal::KILL);
                let _ended = process.ended(deadline);
            }
            let removed = self.folders().iter().try_for_each(std::fs::remove_dir);
            let Err(error) = removed else { return };
            let changed = watch.as_ref().is_ok_and(|watch| {
                let changed = readable([watch.as_fd()], deadline).is_some();
                drain(watch);
                changed
            });
            if !changed {
                eprintln!("cgroup {} stays: {error}", self.0.display());
                return;
            }
        }
    }
}
