//! `cargo xtask vm`: the scenarios on stock kernels, each booted in QEMU.

mod apt;
mod cpio;
mod emulator;
mod guest;
mod image;
mod kept;
mod list;
mod outcome;
mod packages;
mod table;
mod tools;

use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, bail};

use self::guest::Boot;
use self::image::Programs;
use self::kept::Kept;
use self::list::{Kernel, List};
use self::outcome::Outcome;
use self::packages::Fetched;
use self::table::Column;
use crate::architecture::Architecture;
use crate::setup::{self, Part};
use crate::shell;

/// How long one scenario may take in a guest, in seconds. Emulation is ten to thirty times slower than the machine, and the
/// machine may be busy: no verdict comes of time unless something hangs.
const PATIENCE: u64 = 1800;

/// A backend, the line of shell that breaks it behind bindwatch's back, and the scenarios that must notice.
const BROKEN: (&str, &str, &[&str]) = (
    "kprobe",
    "mount -t debugfs debugfs /sys/kernel/debug; echo 0 > /sys/kernel/debug/kprobes/enabled",
    &["autobind", "doors_compat"],
);

/// What to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options<'a> {
    kernels: Vec<&'a str>,
    all: bool,
    /// For which machine kernels are that are not named: for this one, unless it is another.
    target: Option<&'a str>,
    backend: Option<&'a str>,
    scenarios: Vec<&'a str>,
    /// The scenarios of `quick` alone.
    quick: bool,
    update: bool,
    /// A line of shell to run before the scenarios that are named, or instead of any; what it prints is shown.
    run: Option<&'a str>,
    /// Goes onto the kernel's command line.
    append: Vec<&'a str>,
    /// Writes the table to docs/kernels.md.
    write: bool,
    /// What has passed with the same programs on the same kernel is not run again.
    resume: bool,
    /// Nothing is booted: for the table of what is kept.
    no_run: bool,
    /// Results of other builds of bindwatch count as well.
    join: bool,
    /// How many guests run at once; one for each processor unless told.
    guests: Option<usize>,
    /// The scenarios shall fail: see [`BROKEN`].
    broken: bool,
    /// A guest's clock counts its instructions.
    count: bool,
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
                "--target" => options.target = Some(value()?),
                "--quick" => options.quick = true,
                "--update" => options.update = true,
                "--write" => options.write = true,
                "--continue" => options.resume = true,
                "--join" => options.join = true,
                "--no-run" => options.no_run = true,
                "--guests" => options.guests = Some(value()?.parse().context("--guests needs a number")?),
                "--broken" => options.broken = true,
                "--count" => options.count = true,
                "--backend" => options.backend = Some(value()?),
                "--run" => options.run = Some(value()?),
                "--append" => options.append.push(value()?),
                "--scenario" => options.scenarios.push(value()?),
                option if option.starts_with('-') => bail!("no such option: {option}"),
                kernel => options.kernels.push(kernel),
            }
        }
        if options.broken {
            // Asked for are all kernels' backends that can be broken, and what ought to notice.
            options.backend = Some(BROKEN.0);
            options.run = Some(BROKEN.1);
            options.scenarios = BROKEN.2.to_vec();
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

/// A kernel, and what came of one boot of it.
struct Verdict {
    column: Column,
    outcome: Outcome,
    /// What is wrong, one line each.
    wrong: Vec<String>,
}

/// Runs the verb.
pub(crate) fn vm(options: &Options<'_>) -> anyhow::Result<()> {
    let verdicts = verdicts(options)?;
    let failed = verdicts.iter().filter(|verdict| !verdict.wrong.is_empty()).count();
    let columns: Vec<Column> = verdicts.into_iter().map(|verdict| verdict.column).collect();
    let booted = columns.len();
    let ran_scenarios = options.run.is_none() || !options.scenarios.is_empty();
    if ran_scenarios {
        println!("\n{}\n", table::markdown(&columns));
    }
    if options.write {
        table::store(columns)?;
    }
    if failed > 0 {
        bail!("{failed} of {booted} kernels failed: see {}", results().display());
    }
    Ok(())
}

/// How much of each thing that a guest wrote is shown when something is wrong in a quick run, lines.
const SHOWN: usize = 80;

/// The quick scenarios on the oldest and the newest kernel, for `cargo xtask test`: how many tests passed, and how much is wrong.
pub(crate) fn quick() -> anyhow::Result<(u32, u32)> {
    let verdicts = verdicts(&Options { quick: true, ..Options::default() })?;
    let ran = verdicts.iter().flat_map(|verdict| &verdict.outcome.scenarios);
    let passed = ran.map(|scenario| scenario.passed.len()).sum::<usize>();
    let wrong = verdicts.iter().map(|verdict| verdict.wrong.len()).sum::<usize>();
    Ok((u32::try_from(passed)?, u32::try_from(wrong)?))
}

/// What is built for guests of one kind of machine.
struct Built {
    programs: Programs,
    /// Its tests: the program of each, and its name there.
    tests: Vec<(&'static str, String)>,
    digest: String,
    emulator: PathBuf,
}

impl Built {
    fn new(machine: &'static Architecture, quick: bool) -> anyhow::Result<Self> {
        let programs = if quick { Programs::as_tested()? } else { Programs::build(machine)? };
        let emulator = emulator::of(machine)?;
        Ok(Self { tests: programs.list()?, digest: programs.digest()?, programs, emulator })
    }
}

/// Boots every kernel that is asked for.
fn verdicts(options: &Options<'_>) -> anyhow::Result<Vec<Verdict>> {
    let list = List::read()?;
    let machine = options.target.map_or_else(Architecture::host, Architecture::named)?;
    let kernels = list.choose(&options.kernels, options.all, machine)?;
    let mut machines: Vec<&'static Architecture> = Vec::new();
    for kernel in &kernels {
        let of_kernel = kernel.architecture()?;
        if !machines.contains(&of_kernel) {
            machines.push(of_kernel);
        }
    }
    let of_machines = machines.iter().flat_map(|one| [Part::GuestsOf(one), Part::Cross(one)]);
    setup::parts(&[Part::Guests].into_iter().chain(of_machines).collect::<Vec<_>>())?;
    let fetched: Vec<Fetched> =
        kernels.iter().map(|kernel| packages::fetch(kernel, options.update)).collect::<Result<_, _>>()?;
    let built: Vec<Built> =
        machines.into_iter().map(|machine| Built::new(machine, options.quick)).collect::<Result<_, _>>()?;

    let (next, done) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        // A guest is emulated by one thread, whatever processors it has.
        let processors = || std::thread::available_parallelism().map_or(1, NonZero::get);
        let at_once = options.guests.unwrap_or_else(processors).clamp(1, kernels.len().max(1));
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    // The newest first: they take longest, and the last one has nothing beside it.
                    let begun = next.fetch_add(1, Ordering::Relaxed);
                    let Some(at) = kernels.len().checked_sub(begun + 1) else { return };
                    let Some((kernel, fetched)) = kernels.get(at).zip(fetched.get(at)) else { return };
                    let of_kernel =
                        |built: &&Built| built.programs.architecture.debian == kernel.architecture;
                    let Some(built) = built.iter().find(of_kernel) else { return };
                    let verdict = run(&list, kernel, fetched, built, options);
                    done.lock().unwrap_or_else(PoisonError::into_inner).insert(at, verdict);
                }
            });
        }
    });
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    let verdicts: Vec<Verdict> = done.into_values().collect::<Result<_, _>>()?;
    if options.quick {
        verdicts.iter().filter(|verdict| !verdict.wrong.is_empty()).for_each(show);
    }
    Ok(verdicts)
}

/// What a guest wrote of what failed, and the end of all: where this runs in CI nobody can look into its files. Escaped, as it can be
/// anything.
fn show(verdict: &Verdict) {
    let kernel = &verdict.column.kernel.name;
    let read = |name: &str| {
        let text = std::fs::read(failed(kernel).join(name)).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    };
    let print = |title: &str, text: &str| {
        println!("vm: the end of {title} of {kernel}:");
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(SHOWN);
        lines.iter().skip(from).for_each(|line| println!("  {}", line.escape_debug()));
    };
    let results = read("results.log");
    for (name, said) in outcome::of_failed(&results) {
        print(name, &said);
    }
    print("results.log", &results);
    print("console.log", &read("console.log"));
}

/// The names of all kernels.
pub(crate) fn names() -> anyhow::Result<Vec<String>> {
    Ok(List::read()?.kernels.into_iter().map(|kernel| kernel.name).collect())
}

/// Where output is kept, by kernel.
fn results() -> PathBuf {
    shell::target_dir().join("vm/results")
}

/// Where that of the last run is in which something was wrong: the next one's takes the place of its own.
fn failed(kernel: &str) -> PathBuf {
    results().join(format!("{kernel}-failed"))
}

fn run(
    list: &List,
    kernel: &Kernel,
    fetched: &Fetched,
    built: &Built,
    options: &Options<'_>,
) -> anyhow::Result<Verdict> {
    let Built { programs, tests, digest, emulator } = built;
    let folder = results().join(&kernel.name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    let mut scenarios: BTreeMap<&str, Vec<Test>> = BTreeMap::new();
    for (program, name) in tests {
        let scenario = name.split("::").next().unwrap_or(name);
        let quick = options.quick && list.quick.iter().any(|quick| quick == scenario);
        let all = options.scenarios.is_empty() && !options.quick && options.run.is_none();
        if all || quick || options.scenarios.contains(&scenario) {
            let skipped = list.skip(name, kernel, &fetched.release);
            scenarios.entry(scenario).or_default().push(Test { program, name: name.clone(), skipped });
        }
    }
    if scenarios.is_empty() && options.run.is_none() {
        bail!("no such scenario");
    }
    let backends: Vec<&String> = kernel
        .backends
        .iter()
        .filter(|backend| options.backend.is_none_or(|wanted| wanted == *backend))
        .collect();
    if backends.is_empty() && !scenarios.is_empty() {
        bail!("{} has the backends {}", kernel.name, kernel.backends.join(", "));
    }
    let mut kept = Kept::read(kernel, fetched, digest, options.join);
    // What runs, in this order: a backend, and one of its scenarios.
    let chosen: Vec<(&str, &str)> = backends
        .iter()
        .flat_map(|backend| scenarios.keys().map(move |name| (backend.as_str(), *name)))
        .filter(|(backend, name)| wanted(list, options, name, backend, kernel))
        .filter(|(backend, name)| !(options.no_run || options.resume && kept.passed(backend, name)))
        .collect();
    println!("vm: {} ({}, {})", kernel.name, kernel.distribution, fetched.release);
    let (began, day) = (Instant::now(), kept::day()?);
    // With another command line or clock, or after something was done to it, it is not the kernel that users have; and the programs of
    // the quick ones are not those that users have.
    let stock = options.append.is_empty() && options.run.is_none() && !options.quick && !options.count;
    let mut outcome = Outcome { finished: true, ..Outcome::default() };
    let is_alone = |name: &str| {
        scenarios.get(name).and_then(|tests| tests.first()).is_some_and(|test| test.program == image::ALONE)
    };
    let (alone, together): (Vec<_>, Vec<_>) = chosen.iter().partition(|(_, name)| is_alone(name));
    for (number, backend) in guests(&together, &alone, options).enumerate() {
        let folder = folder.join(backend.map_or(String::new(), |backend| format!("alone-{backend}")));
        std::fs::create_dir_all(&folder)?;
        let files = folder.join("initramfs");
        let backend_word = backend.map(|backend| format!("{}={backend}", image::BACKEND));
        let append: Vec<&str> = options.append.iter().copied().chain(backend_word.as_deref()).collect();
        match backend {
            Some(_) => image::write_alone(&files, programs)?,
            None => {
                let plan = plan(list, options, &scenarios, &together);
                image::write(&files, kernel, fetched, programs, &plan)?;
            }
        }
        let boot = Boot {
            emulator,
            architecture: programs.architecture,
            image: &packages::image(kernel),
            files: &files,
            append: &append,
            count: options.count,
            folder: &folder,
        };
        let of_boot = boot.run(&kernel.known, |line, so_far, spent| {
            if let Some(said) = line.strip_prefix("@@ end ") {
                let seconds = began.elapsed().as_secs();
                println!("vm: {seconds:>4} s, {spent:>4} s of processor  {:<13} {said}", kernel.name);
                kept.renew(so_far, &day);
                if stock && let Err(error) = kept.write(kernel) {
                    println!("vm: {error:#}");
                }
            } else if line.starts_with("test ") && line.ends_with("FAILED") {
                println!("vm: {:>4} s  {:<13} {line}", began.elapsed().as_secs(), kernel.name);
            } else if options.run.is_some() && !line.starts_with("@@") {
                println!("{line}");
            }
        })?;
        std::fs::remove_file(&files)?;
        if number == 0 { outcome = of_boot } else { outcome.join(of_boot) }
    }

    let mut wrong = Vec::new();
    for (backend, name) in &chosen {
        let tests = scenarios.get(name).map_or(&[][..], Vec::as_slice);
        let expected = tests.iter().filter(|test| test.skipped.is_none()).count();
        let found = outcome.scenarios.iter().find(|found| found.backend == *backend && found.name == *name);
        match found {
            _ if expected == 0 => {}
            None => wrong.push(format!("{name} by {backend}: did not run")),
            Some(found) if options.broken => {
                let (passed, failed) = (found.passed.len(), found.failed.len());
                println!("vm: {name} by the broken {backend}: {passed} passed, {failed} failed");
                if failed == 0 {
                    wrong.push(format!("{name} does not notice that {backend} tells nothing"));
                }
            }
            Some(found) if found.status != Some(0) || found.passed.len() != expected => {
                let status =
                    found.status.map_or("did not end".to_owned(), |status| format!("status {status}"));
                let passed = found.passed.len();
                let failed = found.failed.join(", ");
                wrong.push(format!("{name} by {backend}: {passed} of {expected} passed, {status} {failed}"));
            }
            Some(_) => {}
        }
    }
    wrong.extend(outcome.trouble.iter().map(|line| format!("the kernel says: {line}")));
    wrong.extend(list.mistakes(kernel, &fetched.release, &outcome.features));
    if outcome.silent {
        wrong.push("it said nothing for too long, and was ended".to_owned());
    }
    if !outcome.finished {
        wrong.push("it did not come to its end".to_owned());
    }
    let mut skipped: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for (_, name) in tests {
        let scenario = name.split("::").next().unwrap_or(name);
        let of = skipped.entry(scenario.to_owned()).or_default();
        of.extend(list.skip(name, kernel, &fetched.release).map(|why| (name.clone(), why)));
    }
    let verdict = Verdict { column: Column { kernel: kernel.clone(), kept, skipped }, outcome, wrong };
    verdict.tell(began.elapsed().as_secs());
    if !verdict.wrong.is_empty() {
        let failed = failed(&kernel.name);
        if failed.exists() {
            std::fs::remove_dir_all(&failed)?;
        }
        std::fs::rename(&folder, &failed)?;
    }
    Ok(verdict)
}

/// The guests that a kernel is booted with: one for all that share one, and then one for each backend of what is alone in its own.
fn guests<'a>(
    together: &[&(&str, &str)],
    alone: &[&(&'a str, &str)],
    options: &Options<'_>,
) -> impl Iterator<Item = Option<&'a str>> {
    let shared = !together.is_empty() || options.run.is_some();
    let own: Vec<_> = alone.iter().map(|(backend, _)| Some(*backend)).collect();
    shared.then_some(None).into_iter().chain(own)
}

/// Whether a scenario runs by a backend: where it depends on it, and where that was asked for.
fn wanted(list: &List, options: &Options<'_>, scenario: &str, backend: &str, kernel: &Kernel) -> bool {
    options.backend.is_some() || list.is_for(scenario, backend, kernel)
}

/// The end of the guest's script: every scenario by every backend.
fn plan(
    list: &List,
    options: &Options<'_>,
    scenarios: &BTreeMap<&str, Vec<Test>>,
    chosen: &[&(&str, &str)],
) -> String {
    let mut plan = format!("PATIENCE={PATIENCE}\n");
    if let Some(line) = options.run {
        plan += &format!("{line}\n");
    }
    // Tried is what the tests at hand depend on; what is only tried by hand needs no trial.
    let asked = |feature: &str| {
        let mut tests = scenarios.values().flatten();
        tests.any(|test| list.asks_for(&test.name, feature))
    };
    for feature in list.features.iter().filter(|feature| options.run.is_none() && asked(&feature.name)) {
        if let Some(probe) = &feature.probe {
            plan += &format!("feature {} \"$(cat <<'@@'\n{probe}\n@@\n)\"\n", feature.name);
        }
    }
    for (backend, name) in chosen {
        let tests = scenarios.get(name).into_iter().flatten();
        let tests: Vec<&Test> = tests.filter(|test| test.skipped.is_none()).collect();
        if let Some(first) = tests.first() {
            let names: Vec<&str> = tests.iter().map(|test| test.name.as_str()).collect();
            plan += &format!("scenario {backend} /t/deps/{} {name} {}\n", first.program, names.join(" "));
        }
    }
    plan + "echo '@@ finished'\n"
}

impl Verdict {
    /// Says it.
    fn tell(&self, seconds: u64) {
        let scenarios = &self.outcome.scenarios;
        let ran: usize = scenarios.iter().map(|one| one.passed.len() + one.failed.len()).sum();
        let skipped: usize = self.column.skipped.values().map(Vec::len).sum();
        let word = if self.wrong.is_empty() { "ok" } else { "FAILED" };
        let Kernel { name, .. } = &self.column.kernel;
        let version = &self.column.kept.version;
        println!(
            "vm: {word:<6} {name:<14} {ran} ran, {skipped} skipped by each backend ({version}, {seconds} s)"
        );
        for line in &self.wrong {
            println!("vm:        {name:<14} {line}");
        }
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
