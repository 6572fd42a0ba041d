//! `cargo xtask check`: everything that can be judged without running bindwatch.

use std::time::{Duration, Instant};

use anyhow::bail;

use crate::setup::{self, Part};
use crate::{build_ebpf, shell, tidy, vm};

type Step = fn() -> anyhow::Result<()>;

/// Runs every step, also after one failed, and ends with a line for each.
pub(crate) fn check() -> anyhow::Result<()> {
    setup::parts(&[Part::Toolchain, Part::Check])?;
    let steps: [(&str, Step); 8] = [
        ("format", format),
        ("tidy", tidy::tidy),
        ("lints", clippy),
        ("probe lints", clippy_programs),
        ("docs of the code", rustdoc),
        ("dependencies", dependencies),
        ("probe object", build_ebpf::check),
        ("boxes", boxes),
    ];
    let mut table = Vec::new();
    for (name, step) in steps {
        let begin = Instant::now();
        let outcome = step();
        if let Err(error) = &outcome {
            eprintln!("{name}: {error:#}");
        }
        table.push((name, outcome.is_ok(), begin.elapsed()));
    }
    let mut failed = Vec::new();
    for (name, passed, took) in table {
        println!("{} {name:18} {}", if passed { "ok    " } else { "FAILED" }, seconds(took));
        if !passed {
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("check failed: {}", failed.join(", "));
    }
    Ok(())
}

/// The Vagrantfile is read by a Vagrant that starts nothing: there must be a box for each kernel.
fn boxes() -> anyhow::Result<()> {
    let mut ruby = shell::command("ruby");
    let said = shell::output(ruby.args(["-w", "tests/vagrant.rb", "Vagrantfile"]))?;
    let found: Vec<&str> = said.lines().filter_map(|line| line.split(' ').next()).collect();
    let expected = vm::names()?;
    if found != expected {
        bail!("the Vagrantfile has boxes for {}, not for {}", found.join(", "), expected.join(", "));
    }
    println!("Vagrantfile: a box for each of {}", expected.join(", "));
    Ok(())
}

fn format() -> anyhow::Result<()> {
    shell::run(shell::cargo().args(["fmt", "--all", "--check"]))
}

fn clippy() -> anyhow::Result<()> {
    shell::run(shell::cargo().args([
        "clippy",
        "--quiet",
        "--locked",
        "--workspace",
        "--all-targets",
        "--features",
        "scenarios/real,scenarios/guest",
        "--",
        "-Dwarnings",
    ]))
}

/// The programs of the probe, type-checked for this machine: clippy comes with no toolchain that has a `core` for BPF.
/// Their warnings on the BPF target itself are refused by the step `probe object`.
fn clippy_programs() -> anyhow::Result<()> {
    shell::run(shell::cargo().args([
        "clippy",
        "--quiet",
        "--locked",
        "--release",
        "--package",
        "bindwatch-probe",
        "--bin",
        "bindwatch-bpf",
        "--features",
        "programs",
        "--",
        "-Dwarnings",
    ]))
}

/// Links of docstrings lead somewhere.
fn rustdoc() -> anyhow::Result<()> {
    shell::run(
        shell::cargo()
            .args(["doc", "--quiet", "--locked", "--workspace", "--no-deps", "--document-private-items"])
            .env("RUSTDOCFLAGS", "-Dwarnings"),
    )
}

fn dependencies() -> anyhow::Result<()> {
    println!(
        "dependencies: licences, bans and sources; advisories need a database from the network and are left out"
    );
    // Crates of other systems are in the graph too, and no build here has fetched them.
    shell::run(shell::cargo().args(["fetch", "--quiet", "--locked"]))?;
    shell::run(shell::cargo().args([
        "deny",
        "--offline",
        "--log-level",
        "error",
        "check",
        "--hide-inclusion-graph",
        "licenses",
        "bans",
        "sources",
    ]))
}

fn seconds(time: Duration) -> String {
    format!("{:7.1} s", time.as_secs_f64())
}
