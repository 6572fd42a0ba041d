//! What is known of each kernel, kept from run to run: a run of one scenario by one backend renews that and nothing else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::list::Kernel;
use super::outcome::{Outcome, Scenario};
use super::packages::Fetched;
use crate::shell;

/// The last result of each scenario by each backend.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Kept {
    /// The package it was.
    pub(crate) version: String,
    /// The digest of bindwatch that results come from now.
    #[serde(default)]
    pub(crate) build: String,
    /// What `uname -r` said.
    pub(crate) release: String,
    pub(crate) entries: Vec<Entry>,
}

/// One scenario by one backend.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Entry {
    #[serde(flatten)]
    pub(crate) scenario: Scenario,
    /// When it ran, as a day.
    pub(crate) day: String,
    /// The digest of the bindwatch that it ran with. A test that has changed is run again by name.
    #[serde(default)]
    pub(crate) build: String,
}

fn file(kernel: &Kernel) -> PathBuf {
    shell::target_dir().join("vm/kept").join(format!("{}.json", kernel.name))
}

impl Kept {
    /// What is kept of a kernel: nothing where it was another package; of other builds only where these are `joined`.
    pub(crate) fn read(kernel: &Kernel, fetched: &Fetched, build: &str, joined: bool) -> Self {
        let kept = Self::whole(&file(kernel));
        let kept = if kept.version == fetched.version() { kept } else { Self::default() };
        kept.continued(fetched, build, joined)
    }

    /// All that a file has, of whatever build.
    fn whole(file: &Path) -> Self {
        serde_json::from_slice(&std::fs::read(file).unwrap_or_default()).unwrap_or_default()
    }

    fn continued(mut self, fetched: &Fetched, build: &str, joined: bool) -> Self {
        for entry in self.entries.iter_mut().filter(|entry| entry.build.is_empty()) {
            entry.build.clone_from(&self.build);
        }
        self.entries.retain(|entry| joined || entry.build == build);
        fetched.version().clone_into(&mut self.version);
        fetched.release.clone_into(&mut self.release);
        build.clone_into(&mut self.build);
        self
    }

    /// Renews what came to its end in this boot.
    pub(crate) fn renew(&mut self, outcome: &Outcome, day: &str) {
        for scenario in outcome.scenarios.iter().filter(|scenario| scenario.status.is_some()) {
            self.entries.retain(|entry| {
                (&entry.scenario.backend, &entry.scenario.name) != (&scenario.backend, &scenario.name)
            });
            let (scenario, build) = (scenario.clone(), self.build.clone());
            self.entries.push(Entry { scenario, day: day.to_owned(), build });
        }
    }

    /// Keeps it. Where there was more, of another build or package, that is put beside (`KERNEL.json.before`): it took an hour.
    pub(crate) fn write(&self, kernel: &Kernel) -> anyhow::Result<()> {
        let file = file(kernel);
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let (there, beside) = (Self::whole(&file).entries.len(), file.with_extension("json.before"));
        if self.entries.len() < there && Self::whole(&beside).entries.len() <= there {
            std::fs::rename(&file, &beside)?;
            println!("vm: what other builds of bindwatch or the kernel did is in {}", beside.display());
        }
        let text = serde_json::to_vec_pretty(self)?;
        std::fs::write(&file, text).with_context(|| format!("{} cannot be written", file.display()))
    }

    /// Whether a scenario passed by a backend.
    pub(crate) fn passed(&self, backend: &str, name: &str) -> bool {
        self.of(backend).get(name).is_some_and(|entry| entry.scenario.status == Some(0))
    }

    /// By scenario, what a backend did.
    pub(crate) fn of(&self, backend: &str) -> BTreeMap<&str, &Entry> {
        let entries = self.entries.iter().filter(|entry| entry.scenario.backend == backend);
        entries.map(|entry| (entry.scenario.name.as_str(), entry)).collect()
    }
}

/// Today.
pub(crate) fn day() -> anyhow::Result<String> {
    Ok(shell::output(shell::command("date").args(["-u", "+%F"]))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(backend: &str, name: &str, status: Option<i32>) -> Scenario {
        Scenario { backend: backend.to_owned(), name: name.to_owned(), status, ..Scenario::default() }
    }

    #[test]
    fn another_build_starts_anew_unless_builds_are_joined() {
        let fetched = Fetched { packages: Vec::new(), release: "6.1.0".to_owned(), modules: Vec::new() };
        let ran_by = |build: &str| {
            let mut kept = Kept { build: build.to_owned(), ..Kept::default() };
            let scenarios = vec![ran("fexit", "storm", Some(0))];
            kept.renew(&Outcome { scenarios, ..Outcome::default() }, "2026-01-01");
            kept
        };
        assert!(ran_by("one").continued(&fetched, "one", false).passed("fexit", "storm"));
        assert!(!ran_by("one").continued(&fetched, "two", false).passed("fexit", "storm"));
        let mut joined = ran_by("one").continued(&fetched, "two", true);
        assert!(joined.passed("fexit", "storm"));
        let scenarios = vec![ran("kprobe", "storm", Some(0))];
        joined.renew(&Outcome { scenarios, ..Outcome::default() }, "2026-01-01");
        let builds: Vec<&str> = joined.entries.iter().map(|entry| entry.build.as_str()).collect();
        assert_eq!(builds, ["one", "two"]);
    }

    #[test]
    fn a_run_renews_what_it_ran_and_nothing_else() {
        let mut kept = Kept::default();
        let first = vec![ran("fexit", "storm", Some(101)), ran("kprobe", "storm", Some(0))];
        kept.renew(&Outcome { scenarios: first, ..Outcome::default() }, "2026-01-01");
        let second = vec![ran("fexit", "storm", Some(0)), ran("kprobe", "storm", None)];
        kept.renew(&Outcome { scenarios: second, ..Outcome::default() }, "2026-01-02");
        let days: Vec<(&str, Option<i32>)> = ["fexit", "kprobe"]
            .iter()
            .filter_map(|backend| kept.of(backend).get("storm").map(|e| (e.day.as_str(), e.scenario.status)))
            .collect();
        assert_eq!(days, [("2026-01-02", Some(0)), ("2026-01-01", Some(0))]);
    }
}
