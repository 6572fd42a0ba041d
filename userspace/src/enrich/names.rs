//! The path of a program, from what its exec said and what the system still knows.

use std::collections::HashMap;
use std::path::Path;

/// Paths whose resolution is remembered; beyond it they are resolved again each time.
const PATHS_MAX: usize = 4096;

/// Resolves paths of programs, and remembers.
#[derive(Debug, Default)]
pub struct Names {
    resolved: HashMap<String, Option<String>>,
}

impl Names {
    /// The program that a process runs: the executed path with its symbolic links resolved, which works for a process
    /// that is gone too. A path that does not resolve here (relative, or in a container) is asked of the process
    /// while it lives, and else stays as it was given.
    pub fn program(&mut self, executed: &str, tgid: u32, contained: bool) -> String {
        if !contained && let Some(resolved) = self.resolve(executed) {
            return resolved;
        }
        let link = std::fs::read_link(format!("/proc/{tgid}/exe")).ok();
        link.map_or_else(|| executed.to_owned(), |path| path.to_string_lossy().into_owned())
    }

    fn resolve(&mut self, executed: &str) -> Option<String> {
        if !executed.starts_with('/') {
            return None;
        }
        if let Some(known) = self.resolved.get(executed) {
            return known.clone();
        }
        let resolved =
            Path::new(executed).canonicalize().ok().map(|path| path.to_string_lossy().into_owned());
        if self.resolved.len() < PATHS_MAX {
            self.resolved.insert(executed.to_owned(), resolved.clone());
        }
        resolved
    }
}
