//! `cargo xtask log`, `bench` and `bench compare`: a program of the scenarios' package does the work, optimised; here
//! is what it needs.

use crate::setup::{self, Part};
use crate::shell;

/// Makes a log; relative paths are from the repository's top folder.
pub(crate) fn log(arguments: &[&str]) -> anyhow::Result<()> {
    bench("log", arguments)
}

/// Measures the goals.
pub(crate) fn goals(arguments: &[&str]) -> anyhow::Result<()> {
    setup::parts(&[Part::Bench])?;
    shell::run(shell::cargo().args(["build", "--release", "--quiet", "--package", "bindwatch"]))?;
    shell::run(shell::cargo().args([
        "build",
        "--release",
        "--quiet",
        "--package",
        "bindwatch",
        "--example",
        "frames",
    ]))?;
    // The actors of the scenarios stand beside the program.
    shell::run(shell::cargo().args(["build", "--release", "--quiet", "--package", "scenarios", "--bins"]))?;
    bench("run", arguments)
}

/// Whether a run is much worse than another.
pub(crate) fn compare(old: &str, new: &str) -> anyhow::Result<()> {
    bench("compare", &[old, new])
}

fn bench(verb: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = shell::cargo();
    command.args(["run", "--quiet", "--release", "--package", "scenarios", "--bin", "bench", "--", verb]);
    shell::run(command.args(arguments))
}
