//! `cargo xtask tidy`: the rules of the house that no compiler knows.
//!
//! Each rule is a function from text to problems, so that its tests need no repository.

mod docs;
mod source;

use std::fmt;
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::shell::{self, root};

/// Longest Rust file, lines: one idea each.
const LINES_MAX: usize = 600;

/// Files larger than this are data and not read for text, bytes.
const TEXT_MAX: usize = 4 << 20;

/// Files that must be there.
const LICENCES: [&str; 3] = ["LICENSE-MIT", "LICENSE-APACHE", "probe-ebpf/LICENSE-GPL-2.0"];

/// One thing to mend.
#[derive(Debug, PartialEq, Eq)]
struct Problem {
    file: String,
    /// From 1; 0 is the whole file.
    line: usize,
    what: String,
}

impl Problem {
    fn new(file: &str, line: usize, what: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.what),
            line => write!(f, "{}:{line}: {}", self.file, self.what),
        }
    }
}

/// A file of the repository.
struct File {
    /// From the top folder.
    path: String,
    text: String,
}

/// Looks at every file that git knows or would add.
pub(crate) fn tidy() -> anyhow::Result<()> {
    let files = files()?;
    let mut problems = Vec::new();
    for file in &files {
        problems.extend(look_at(file));
    }
    problems.extend(missing(&files));
    let text = |path: &str| files.iter().find(|file| file.path == path).map(|file| file.text.as_str());
    if let (Some(events), Some(format)) = (text("userspace/src/event/mod.rs"), text("docs/log-format.md")) {
        problems.extend(docs::event_types(events, "docs/log-format.md", format));
    }
    for problem in &problems {
        eprintln!("{problem}");
    }
    if !problems.is_empty() {
        bail!("{} of the house's rules broken (docs/hacking.md)", problems.len());
    }
    Ok(())
}

fn files() -> anyhow::Result<Vec<File>> {
    let listing = shell::output(shell::command("git").args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    let mut files = Vec::new();
    for path in listing.split('\0').filter(|path| !path.is_empty()) {
        let full = root().join(path);
        if !full.is_file() {
            continue; // deleted and not yet committed
        }
        let bytes = std::fs::read(&full).with_context(|| format!("cannot read {path}"))?;
        if bytes.len() <= TEXT_MAX {
            files.push(File { path: path.to_owned(), text: String::from_utf8_lossy(&bytes).into_owned() });
        }
    }
    Ok(files)
}

fn look_at(file: &File) -> Vec<Problem> {
    let File { path, text } = file;
    let mut problems = source::machine_paths(path, text);
    match Path::new(path).extension().and_then(|extension| extension.to_str()) {
        Some("rs") => {
            problems.extend(source::length(path, text, LINES_MAX));
            problems.extend(source::ignored_tests(path, text));
            problems.extend(source::sleeping_tests(path, text));
            if path.starts_with("userspace/src/ledger/") {
                problems.extend(source::pure(path, text));
            }
        }
        Some("py") if path.starts_with("tests/") => problems.extend(source::sleeping_tests(path, text)),
        Some("md") => problems.extend(docs::links(path, text, &root())),
        _ => {}
    }
    if path.ends_with("Cargo.toml") && text.contains("[package]") && !text.contains("license") {
        problems.push(Problem::new(path, 0, "the package names no licence"));
    }
    problems
}

fn missing(files: &[File]) -> Vec<Problem> {
    let text = |path: &str| files.iter().find(|file| file.path == path).map(|file| file.text.as_str());
    let mut problems = Vec::new();
    for licence in LICENCES {
        if text(licence).is_none_or(|text| text.trim().is_empty()) {
            problems.push(Problem::new(licence, 0, "the licence is missing"));
        }
    }
    if !text("docs/CHANGELOG.md").is_some_and(|text| text.lines().any(|line| line == "## Unreleased")) {
        problems.push(Problem::new("docs/CHANGELOG.md", 0, "has no section \"## Unreleased\""));
    }
    problems
}

#[cfg(test)]
mod tests {
    #![expect(clippy::indexing_slicing, reason = "tests fail by panicking")]

    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn licences_and_changelog_must_be_there() {
        let whole = [
            file("LICENSE-MIT", "MIT"),
            file("LICENSE-APACHE", "Apache"),
            file("probe-ebpf/LICENSE-GPL-2.0", "GPL"),
            file("docs/CHANGELOG.md", "# Changelog\n\n## Unreleased\n"),
        ];
        assert_eq!(missing(&whole), []);
        assert_eq!(missing(&whole[1..]), [Problem::new("LICENSE-MIT", 0, "the licence is missing")]);
        assert_eq!(missing(&whole[..3])[0].file, "docs/CHANGELOG.md");
    }

    #[test]
    fn each_kind_of_file_meets_its_rules() {
        let impure = file("userspace/src/ledger/mod.rs", "use std::fs;\n");
        assert_eq!(look_at(&impure).len(), 1);
        assert_eq!(look_at(&file("userspace/src/log.rs", "use std::fs;\n")).len(), 0);
        assert_eq!(look_at(&file("a/Cargo.toml", "[package]\nname = \"a\"\n")).len(), 1);
        assert_eq!(look_at(&file("a/Cargo.toml", "[package]\nlicense.workspace = true\n")).len(), 0);
        assert_eq!(look_at(&file("docs/x.md", "[a](no-such-file.md)\n")).len(), 1);
    }
}
