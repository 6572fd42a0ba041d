//! `cargo xtask test`: every test of the workspace, the scenarios with real processes included.

use std::io::{BufRead as _, BufReader};
use std::ops::AddAssign;
use std::process::Stdio;

use anyhow::{Context as _, bail};

use crate::leftovers::Traces;
use crate::setup::{self, Part};
use crate::{folders, shell, vm};

/// Scenarios wait far more than they compute, so more of them run at once than there are cores.
const THREADS: usize = 4;

/// Runs the tests whose names contain `filter`; all without one, the quick ones of guests too. With `real` also those of `tests/real.rs`.
pub(crate) fn test(filter: Option<&str>, real: bool) -> anyhow::Result<()> {
    if !shell::is_root()? {
        bail!("the scenarios attach programs to the kernel and need root: run `sudo -E cargo xtask test`");
    }
    // Dist: packages are made of a small program and looked into.
    let parts = [Part::Test, Part::Dist, Part::Real];
    setup::parts(if real { &parts } else { &parts[..2] })?;
    shell::run(shell::cargo().args(["build", "--quiet", "--locked", "--release", "--package", "bindwatch"]))?;
    let before = Traces::now()?;

    let mut cargo = shell::cargo();
    cargo.args(["test", "--quiet", "--locked", "--workspace", "--no-fail-fast"]).args(filter);
    if real {
        cargo.args(["--features", "scenarios/real"]);
    }
    cargo
        .env("BINDWATCH_TEST_PYTHON", folders::python())
        .env("BINDWATCH_TEST_REAL", folders::real())
        .env("BINDWATCH", shell::target_dir().join("release/bindwatch"))
        .env("RUST_TEST_THREADS", THREADS.to_string());
    // Where this runs in CI, the processes of the scenarios are no jobs of that.
    for name in ["GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL", "BUILDKITE", "BINDWATCH_NAME"] {
        cargo.env_remove(name);
    }
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("cargo cannot be started")?;
    let mut counts = Counts::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.context("cargo's output cannot be read")?;
            if let Some(more) = Counts::of(&line) {
                counts += more;
            }
            println!("{line}");
        }
    }
    let status = child.wait().context("cargo did not end")?;

    if !real {
        println!("not selected: tests/tests/real.rs, with Go (cargo xtask test --real)");
    }
    let left = Traces::left(&before)?;
    for trace in &left {
        println!("left behind: {trace}");
    }
    if !left.is_empty() {
        counts.failed += 1;
    }
    if filter.is_none() {
        match vm::quick() {
            Ok((passed, failed)) => counts += Counts { passed, failed, skipped: 0 },
            Err(error) => {
                println!("guests: {error:#}");
                counts.failed += 1;
            }
        }
    }
    println!("{} passed, {} failed, {} skipped", counts.passed, counts.failed, counts.skipped);
    if counts.failed > 0 {
        bail!("tests failed");
    }
    if !status.success() {
        bail!("cargo test failed: {status}");
    }
    if counts.passed == 0 {
        bail!("no test was run");
    }
    Ok(())
}

/// How the tests of one binary, or all, ended.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl Counts {
    /// From a line of the test harness: `test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; …`
    fn of(line: &str) -> Option<Self> {
        let result = line.strip_prefix("test result: ")?;
        let mut counts = Self::default();
        for part in result.split(['.', ';']) {
            let mut words = part.split_whitespace();
            if let (Some(Ok(number)), Some(what)) = (words.next().map(str::parse), words.next()) {
                match what {
                    "passed" => counts.passed = number,
                    "failed" => counts.failed = number,
                    "ignored" => counts.skipped = number,
                    _ => {} // measured; filtered out: not asked for
                }
            }
        }
        Some(counts)
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.passed += more.passed;
        self.failed += more.failed;
        self.skipped += more.skipped;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_harness_result_line_is_counted() {
        let line = "test result: FAILED. 5 passed; 2 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.31s";
        assert_eq!(Counts::of(line), Some(Counts { passed: 5, failed: 2, skipped: 1 }));
        assert_eq!(Counts::of("test a::b ... ok"), None);
        let mut sum = Counts::default();
        sum += Counts::of(line).unwrap_or_default();
        sum += Counts::of("test result: ok. 1 passed; 0 failed; 0 ignored").unwrap_or_default();
        assert_eq!(sum, Counts { passed: 6, failed: 2, skipped: 1 });
    }
}
