//! `cargo xtask vm`: the scenarios on stock kernels, each booted in QEMU.

mod cpio;
mod guest;
mod image;
mod list;
mod outcome;
mod packages;
mod table;

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, bail};

use self::image::Programs;
use self::list::{Kernel, List};
use self::outcome::Outcome;
use self::packages::Fetched;
use crate::setup::{self, Part};
use crate::shell;

/// How long one scenario may take in a guest, in seconds. Emulation is ten to thirty times slower than the machine.
const PATIENCE: u64 = 360;

/// What to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options<'a> {
    kernels: Vec<&'a str>,
    all: bool,
    backend: Option<&'a str>,
    scenarios: Vec<&'a str>,
    /// The scenarios of `quick` alone.
    quick: bool,
    update: bool,
    /// Writes the table to docs/kernels.md.
    write: bool,
}

impl<'a> Options<'a> {
    /// Reads the words behind `vm`.
    pub(crate) fn of(words: &[&'a str]) -> anyhow::Result<Self> {
        let mut options = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().copied().with_context(|| format!("{word} needs a value"));
            match *word {
                "--all" => options.all = true,
                "--quick" => options.quick = true,
                "--update" => options.update = true,
                "--write" => options.write = true,
                "--backend" => options.backend = Some(value()?),
                "--scenario" => options.scenarios.push(value()?),
                option if option.starts_with('-') => bail!("no such option: {option}"),
                kernel => options.kernels.push(kernel),
            }
        }
        Ok(options)
    }
}

/// A test of a guest, and what is to become of it.
struct Test {
    program: &'static str,
    name: String,
    /// Why not.
    skipped: Option<String>,
}

/// A kernel, and what came of it.
pub(crate) struct Verdict {
    kernel: Kernel,
    version: String,
    outcome: Outcome,
    /// By scenario: tests that were left out, and why.
    skipped: BTreeMap<String, Vec<(String, String)>>,
    /// What is wrong, one line each.
    wrong: Vec<String>,
}

/// Runs the verb.
pub(crate) fn vm(options: &Options<'_>) -> anyhow::Result<()> {
    setup::parts(&[Part::Guests])?;
    let list = List::read()?;
    let kernels = list.choose(&options.kernels, options.all)?;
    let fetched: Vec<Fetched> =
        kernels.iter().map(|kernel| packages::fetch(kernel, options.update)).collect::<Result<_, _>>()?;
    let programs = Programs::build()?;
    let tests = programs.list()?;

    let (next, done) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        // A guest is emulated by one thread, whatever processors it has.
        let at_once = std::thread::available_parallelism().map_or(1, NonZero::get).min(kernels.len());
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some((kernel, fetched)) = kernels.get(at).zip(fetched.get(at)) else { return };
                    let verdict = run(&list, kernel, fetched, &programs, &tests, options);
                    done.lock().unwrap_or_else(PoisonError::into_inner).insert(at, verdict);
                }
            });
        }
    });
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    let verdicts: Vec<Verdict> = done.into_values().collect::<Result<_, _>>()?;
    let table = table::markdown(&verdicts);
    println!("\n{table}");
    if options.write {
        table::store(&table)?;
    }
    let mut failed = 0;
    for verdict in &verdicts {
        let (ran, skipped) = verdict.counts();
        let word = if verdict.wrong.is_empty() { "ok" } else { "FAILED" };
        println!(
            "vm: {word:<6} {:<14} {ran} ran, {skipped} skipped ({})",
            verdict.kernel.name, verdict.version
        );
        for line in &verdict.wrong {
            println!("vm:        {line}");
        }
        failed += usize::from(!verdict.wrong.is_empty());
    }
    if failed > 0 {
        bail!("{failed} of {} kernels failed: see {}", verdicts.len(), results().display());
    }
    Ok(())
}

/// The names of all kernels.
pub(crate) fn names() -> anyhow::Result<Vec<String>> {
    Ok(List::read()?.kernels.into_iter().map(|kernel| kernel.name).collect())
}

/// Where output is kept, by kernel.
fn results() -> std::path::PathBuf {
    shell::target_dir().join("vm/results")
}

fn run(
    list: &List,
    kernel: &Kernel,
    fetched: &Fetched,
    programs: &Programs,
    tests: &[(&'static str, String)],
    options: &Options<'_>,
) -> anyhow::Result<Verdict> {
    let folder = results().join(&kernel.name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    let mut scenarios: BTreeMap<&str, Vec<Test>> = BTreeMap::new();
    for (program, name) in tests {
        let scenario = name.split("::").next().unwrap_or(name);
        let quick = options.quick && list.quick.iter().any(|quick| quick == scenario);
        let all = options.scenarios.is_empty() && !options.quick;
        if all || quick || options.scenarios.contains(&scenario) {
            let skipped = list.skip(name, kernel);
            scenarios.entry(scenario).or_default().push(Test { program, name: name.clone(), skipped });
        }
    }
    if scenarios.is_empty() {
        bail!("no such scenario");
    }
    let backends: Vec<&String> = kernel
        .backends
        .iter()
        .filter(|backend| options.backend.is_none_or(|wanted| wanted == *backend))
        .collect();
    if backends.is_empty() {
        bail!("{} has the backends {}", kernel.name, kernel.backends.join(", "));
    }
    let plan = plan(&scenarios, &backends, kernel);
    let files = folder.join("initramfs");
    image::write(&files, kernel, fetched, programs, &plan)?;
    println!("vm: {} ({}, {})", kernel.name, kernel.distribution, fetched.release);
    let began = Instant::now();
    let outcome = guest::boot(&packages::image(kernel), &files, &kernel.known, &folder, |line| {
        if let Some(said) = line.strip_prefix("@@ end ") {
            println!("vm: {:>4} s  {:<13} {said}", began.elapsed().as_secs(), kernel.name);
        } else if line.starts_with("test ") && line.ends_with("FAILED") {
            println!("vm: {:>4} s  {:<13} {line}", began.elapsed().as_secs(), kernel.name);
        }
    })?;
    std::fs::remove_file(&files)?;

    let mut wrong = Vec::new();
    for backend in &backends {
        for (name, tests) in &scenarios {
            let expected = tests.iter().filter(|test| test.skipped.is_none()).count();
            let found =
                outcome.scenarios.iter().find(|found| found.backend == **backend && found.name == *name);
            match found {
                _ if expected == 0 => {}
                None => wrong.push(format!("{name} by {backend}: did not run")),
                Some(found) if found.status != Some(0) || found.passed.len() != expected => {
                    let status =
                        found.status.map_or("did not end".to_owned(), |status| format!("status {status}"));
                    let passed = found.passed.len();
                    let failed = found.failed.join(", ");
                    wrong.push(format!(
                        "{name} by {backend}: {passed} of {expected} passed, {status} {failed}"
                    ));
                }
                Some(_) => {}
            }
        }
    }
    wrong.extend(outcome.trouble.iter().map(|line| format!("the kernel says: {line}")));
    if outcome.silent {
        wrong.push("it said nothing for too long, and was ended".to_owned());
    }
    if !outcome.finished {
        wrong.push("it did not come to its end".to_owned());
    }
    let skipped = scenarios.into_iter().map(|(name, tests)| {
        (name.to_owned(), tests.into_iter().filter_map(|test| Some((test.name, test.skipped?))).collect())
    });
    Ok(Verdict {
        kernel: kernel.clone(),
        version: fetched.version().to_owned(),
        outcome,
        skipped: skipped.collect(),
        wrong,
    })
}

/// The end of the guest's script: every scenario by every backend.
fn plan(scenarios: &BTreeMap<&str, Vec<Test>>, backends: &[&String], kernel: &Kernel) -> String {
    let mut plan =
        format!("PATIENCE={PATIENCE}\nexport BINDWATCH_TEST_FEATURES={}\n", kernel.features.join(","));
    for backend in backends {
        for (name, tests) in scenarios {
            let chosen: Vec<&Test> = tests.iter().filter(|test| test.skipped.is_none()).collect();
            if let Some(first) = chosen.first() {
                let names: Vec<&str> = chosen.iter().map(|test| test.name.as_str()).collect();
                plan += &format!("scenario {backend} /t/deps/{} {name} {}\n", first.program, names.join(" "));
            }
        }
    }
    plan + "echo '@@ finished'\n"
}

impl Verdict {
    /// Tests that ran and that did not.
    fn counts(&self) -> (usize, usize) {
        let ran =
            self.outcome.scenarios.iter().map(|scenario| scenario.passed.len() + scenario.failed.len()).sum();
        let backends = self.kernel.backends.len();
        (ran, self.skipped.values().map(Vec::len).sum::<usize>() * backends)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn words_are_options() {
        let options = Options::of(&["debian-12", "--scenario", "storm", "--backend", "fexit"]).unwrap();
        assert_eq!((options.kernels, options.scenarios), (vec!["debian-12"], vec!["storm"]));
        assert_eq!(options.backend, Some("fexit"));
        assert!(Options::of(&["--scenario"]).is_err());
        assert!(Options::of(&["--nothing"]).is_err());
    }
}
