//! `cargo xtask log`: a program of the scenarios' package does the work, optimised.

use crate::shell;

/// Makes a log; relative paths are from the repository's top folder.
pub(crate) fn log(arguments: &[&str]) -> anyhow::Result<()> {
    bench("log", arguments)
}

fn bench(verb: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = shell::cargo();
    command.args(["run", "--quiet", "--release", "--package", "scenarios", "--bin", "bench", "--", verb]);
    shell::run(command.args(arguments))
}
