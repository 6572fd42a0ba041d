//! The path of a program, from what its exec said and what the system still knows.

use std::collections::HashMap;
use std::path::Path;

/// Paths whose resolution is remembered; beyond it they are resolved again each time.
const PATHS_MAX: usize = 4096;

/// What the kernel appends to the target of `/proc/PID/exe` when the file is gone.
const DELETED: &str = " (deleted)";

/// Resolves paths of programs, and remembers.
#[derive(Debug, Default)]
pub struct Names {
    resolved: HashMap<String, String>,
}

impl Names {
    /// The program that a process runs: the executed path with its symbolic links resolved, which works for a process
    /// that is gone too. A path that does not resolve here is asked of the process: `live` is what it runs now, None
    /// when it is gone. By then it may run something else: unless only the process itself can resolve the path
    /// (relative, in a container, an open descriptor), the answer counts if its file has the executed name. Else the
    /// path stays as it was given.
    pub fn program(
        &mut self,
        executed: &str,
        contained: bool,
        live: impl FnOnce() -> Option<String>,
    ) -> String {
        let is_private = contained || means_another_file_here(executed);
        if !is_private && let Some(resolved) = self.resolve(executed) {
            return resolved;
        }
        let live = live().map(|exe| match exe.strip_suffix(DELETED) {
            Some(gone) => gone.to_owned(),
            None => exe,
        });
        live.filter(|exe| is_private || Path::new(exe).file_name() == Path::new(executed).file_name())
            .unwrap_or_else(|| executed.to_owned())
    }

    fn resolve(&mut self, executed: &str) -> Option<String> {
        if let Some(known) = self.resolved.get(executed) {
            return Some(known.clone());
        }
        let resolved = Path::new(executed).canonicalize().ok()?.to_string_lossy().into_owned();
        if self.resolved.len() < PATHS_MAX {
            self.resolved.insert(executed.to_owned(), resolved.clone());
        }
        Some(resolved)
    }
}

/// Whether a path leads elsewhere for this process than for the one that executed it: it is relative, or goes by the
/// caller's own `/proc` folder (`/proc/self/exe`), or by its descriptors, as the kernel words fexecve(3).
fn means_another_file_here(path: &str) -> bool {
    !path.starts_with('/') || path.starts_with("/proc/") || path.starts_with("/dev/fd/")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    fn asked(executed: &str, contained: bool, live: Option<&str>) -> String {
        Names::default().program(executed, contained, || live.map(str::to_owned))
    }

    #[test]
    fn links_are_resolved_without_asking() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().canonicalize().unwrap().join("server-1.2");
        let link = folder.path().join("server");
        std::fs::write(&program, "").unwrap();
        std::os::unix::fs::symlink(&program, &link).unwrap();
        let (program, link) = (program.to_string_lossy(), link.to_string_lossy());
        let mut names = Names::default();
        assert_eq!(names.program(&link, false, || unreachable!("asked of the process")), program);
        // And remembered, when the files are gone.
        drop(folder);
        assert_eq!(names.program(&link, false, || None), program);
        // A container has its own file of that path.
        assert_eq!(asked("/bin/sh", true, Some("/usr/bin/busybox")), "/usr/bin/busybox");
    }

    #[test]
    fn a_path_that_did_not_resolve_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().canonicalize().unwrap().join("test");
        let path = program.to_string_lossy();
        let executed = folder.path().join(".").join("test").to_string_lossy().into_owned() + "/.";
        let executed = executed.strip_suffix("/.").unwrap();
        let mut names = Names::default();
        assert_eq!(names.program(executed, false, || None), executed);
        std::fs::write(&program, "").unwrap();
        assert_eq!(names.program(executed, false, || None), path);
    }

    #[test]
    fn what_a_process_runs_by_now_is_not_what_it_executed_then() {
        assert_eq!(asked("/nowhere/wrapper", false, Some("/usr/bin/sleep")), "/nowhere/wrapper");
        assert_eq!(asked("/nowhere/wrapper", false, None), "/nowhere/wrapper");
        assert_eq!(asked("/nowhere/bin/server", false, Some("/nowhere/real/server")), "/nowhere/real/server");
        assert_eq!(asked("/nowhere/server", false, Some("/nowhere/server (deleted)")), "/nowhere/server");
        assert_eq!(asked("/nowhere/server", true, Some("/app/other")), "/app/other");
        assert_eq!(asked("/nowhere/server", true, None), "/nowhere/server");
        assert_eq!(asked("./server", false, Some("/srv/app/server")), "/srv/app/server");
        assert_eq!(asked("./server", false, None), "./server");
    }

    /// What they lead to here is bindwatch itself, or one of its own files.
    #[test]
    fn paths_that_mean_another_file_to_each_process() {
        for path in ["/proc/self/exe", "/proc/thread-self/exe", "/dev/fd/0", "/dev/fd/7/run"] {
            assert_eq!(asked(path, false, Some("/usr/bin/runc")), "/usr/bin/runc");
            assert_eq!(asked(path, false, None), path);
        }
    }
}
