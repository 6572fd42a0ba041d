//! `cargo xtask bench` and `cargo xtask log`: what bindwatch costs, and logs to measure it with.

mod measure;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use scenarios::synthetic::{self, Plan};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let Some(("measure", command)) = words.split_first().map(|(verb, rest)| (*verb, rest)) {
        return match measure::measure(command) {
            Ok(status) if status.success() => ExitCode::SUCCESS,
            Ok(_) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("bench: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> anyhow::Result<()> {
    match words {
        ["log", events, path] => log(events, path, "1"),
        ["log", events, path, seed] => log(events, path, seed),
        _ => bail!("usage: log EVENTS FILE [SEED]"),
    }
}

fn log(events: &str, path: &str, seed: &str) -> anyhow::Result<()> {
    let plan = Plan {
        events: events.parse().context("EVENTS")?,
        seed: seed.parse().context("SEED")?,
        ..Plan::default()
    };
    let truth = synthetic::write(plan, Path::new(path))?;
    println!("{path}: {truth:?}");
    Ok(())
}
