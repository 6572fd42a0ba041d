//! `cargo xtask bench` and `cargo xtask log`: what bindwatch costs, and logs to measure it with.
#![expect(
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "figures for people; a bench fails by panicking"
)]

mod compare;
mod cost;
mod flood;
mod goals;
mod measure;
mod paired;
mod peers;
mod scale;
mod table;
mod work;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use goals::{Amount, GOALS};
use scenarios::synthetic::{self, Plan};
use serde_json::{Value, json};

/// What this program is called with; `cargo xtask bench` stands before `run` and `compare`.
const USAGE: &str = "log EVENTS FILE [SEED] | run [--quick] [--json FILE] [P1…] | compare OLD NEW";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> anyhow::Result<ExitCode> {
    match words {
        ["log", events, path] => log(events, path, "1")?,
        ["log", events, path, seed] => log(events, path, seed)?,
        ["work", rest @ ..] => work::work(rest)?,
        ["measure", command @ ..] => {
            let status = measure::measure(command)?;
            return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        ["soak", events, idle] => scale::soak_here(events, idle)?,
        ["compare", old, new] => {
            let runs = compare::Runs::read(Path::new(old), Path::new(new))?;
            print!("{}", runs.side_by_side());
            let worse = runs.worse();
            worse.iter().for_each(|row| println!("{row}"));
            ensure!(worse.is_empty(), "{} much worse than before", worse.len());
        }
        ["run", rest @ ..] => goals(rest)?,
        _ => bail!("usage: {USAGE}"),
    }
    Ok(ExitCode::SUCCESS)
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

/// Measures the goals that are named, or all.
fn goals(words: &[&str]) -> anyhow::Result<()> {
    let (mut amount, mut json, mut chosen) = (Amount { rounds: 5, part: 1 }, None, Vec::new());
    let mut said = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--quick" => amount = Amount { rounds: 3, part: 10 },
            // Where the figures go says nothing of them: it is not among the words that are kept.
            "--json" => {
                json = Some(*words.next().context("--json needs a file")?);
                continue;
            }
            "--help" | "-h" => {
                println!("usage: {USAGE}\n\ngoals: {}", GOALS.map(|(name, _)| name).join(" "));
                return Ok(());
            }
            goal if GOALS.iter().any(|(name, _)| *name == goal) => chosen.push(goal),
            other => bail!("no such goal: {other}; usage: {USAGE}"),
        }
        said.push(*word);
    }
    let how = how(&said.join(" "))?;
    let mut rows = Vec::new();
    for (name, goal) in GOALS {
        if chosen.is_empty() || chosen.contains(&name) {
            eprintln!("{name} …");
            let measured = goal(amount)
                .unwrap_or_else(|error| vec![table::Row::not_here(name, "", &format!("{error:#}"))]);
            // A later goal may fail for good: what was measured is told at once.
            eprint!("{}", table::markdown(&measured));
            rows.extend(measured);
            // And kept, for the same reason.
            if let Some(path) = json {
                let json = table::json(&rows, &how);
                std::fs::write(path, format!("{json:#}\n")).with_context(|| path.to_owned())?;
            }
        }
    }
    print!("{}", table::markdown(&rows));
    Ok(())
}

/// What tells of a run: when, on what, of what, and by which words.
fn how(words: &str) -> anyhow::Result<Value> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    // The series: what its distribution or host adds to that says nothing of what things cost.
    let kernel: Vec<&str> = kernel.trim().split('.').take(2).collect();
    let now = bindwatch::clock::boot_now();
    let version = std::process::Command::new(scenarios::bindwatch()).arg("--version").output()?;
    Ok(json!({
        "at": bindwatch::clock::Anchors::now().rfc3339(now),
        "kernel": kernel.join("."),
        "machine": std::env::consts::ARCH,
        "processors": std::thread::available_parallelism()?.get(),
        "bindwatch": String::from_utf8_lossy(&version.stdout).trim(),
        "words": words,
    }))
}
