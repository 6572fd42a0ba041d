//! What a guest wrote, understood.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What the kernel says when something is wrong with it, or with what it was made to run.
const TROUBLE: [&str; 13] = [
    "Kernel panic",
    "Oops",
    "BUG:",
    "WARNING:",
    "UBSAN:",
    "kernel BUG at",
    "general protection fault",
    "unable to handle",
    "detected stall",
    "self-detected stall",
    "blocked for more than",
    "possible circular locking",
    "Out of memory:",
];

/// One boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// What `uname -r` said.
    pub(crate) release: String,
    /// Features that were tried, and whether they are there.
    pub(crate) features: BTreeMap<String, bool>,
    /// What ran, in order.
    pub(crate) scenarios: Vec<Scenario>,
    /// Lines of the kernel that nobody wants to see.
    pub(crate) trouble: Vec<String>,
    /// Whether the plan came to its end.
    pub(crate) finished: bool,
    /// Whether it was ended for saying nothing.
    pub(crate) silent: bool,
}

/// One scenario by one backend.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Scenario {
    pub(crate) backend: String,
    pub(crate) name: String,
    /// Names of the tests that passed and failed.
    pub(crate) passed: Vec<String>,
    pub(crate) failed: Vec<String>,
    /// The status of its program; None when it did not end.
    pub(crate) status: Option<i32>,
    pub(crate) seconds: u64,
}

impl Outcome {
    /// Joins what came of another guest of the same kernel.
    pub(crate) fn join(&mut self, other: Self) {
        self.features.extend(other.features);
        self.scenarios.extend(other.scenarios);
        self.trouble.extend(other.trouble);
        self.finished &= other.finished;
        self.silent |= other.silent;
    }

    /// A test of the last scenario ended.
    fn told(&mut self, name: &str, verdict: &str) {
        let Some(scenario) = self.scenarios.last_mut() else { return };
        let tests = if verdict == "ok" { &mut scenario.passed } else { &mut scenario.failed };
        tests.push(name.to_owned());
    }
}

/// Reads what a guest said on its second serial line, and its kernel on the first. A warning is `known` by the line before.
pub(crate) fn of(results: &str, console: &str, known: &[String], silent: bool) -> Outcome {
    let mut outcome = Outcome { silent, ..Outcome::default() };
    // A test whose verdict stands behind what programs wrote that it started.
    let mut pending: Option<&str> = None;
    for line in results.lines() {
        match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["@@", "kernel", release] => (*release).clone_into(&mut outcome.release),
            ["@@", "feature", name, there] => {
                outcome.features.insert((*name).to_owned(), *there == "yes");
            }
            ["@@", "begin", backend, name] => {
                pending = None;
                outcome.scenarios.push(Scenario {
                    backend: (*backend).to_owned(),
                    name: (*name).to_owned(),
                    ..Scenario::default()
                });
            }
            ["@@", "end", _, _, status, seconds] => {
                if let Some(scenario) = outcome.scenarios.last_mut() {
                    scenario.status = status.parse().ok();
                    scenario.seconds = seconds.parse().unwrap_or(0);
                }
            }
            ["@@", "finished"] => outcome.finished = true,
            ["test", name, "...", .., verdict @ ("ok" | "FAILED")] => outcome.told(name, verdict),
            ["test", name, "...", ..] => pending = Some(*name),
            [verdict @ ("ok" | "FAILED")] => {
                if let Some(name) = pending.take() {
                    outcome.told(name, verdict);
                }
            }
            _ => {}
        }
    }
    let mut before = "";
    for line in console.lines() {
        let wrong = TROUBLE.iter().any(|sign| line.contains(sign));
        if wrong && !known.iter().any(|known| before.contains(known)) {
            outcome.trouble.push(line.trim_end().to_owned());
        }
        before = line;
    }
    outcome
}

/// What was said in each scenario that failed, by its backend and name.
pub(crate) fn of_failed(results: &str) -> Vec<(&str, String)> {
    let mut failed = Vec::new();
    let mut said: Option<(&str, String)> = None;
    for line in results.lines() {
        if let Some(name) = line.strip_prefix("@@ begin ") {
            said = Some((name, String::new()));
        } else if let Some(end) = line.strip_prefix("@@ end ") {
            let ended_well = |(name, _): &(&str, String)| {
                end.strip_prefix(*name).is_some_and(|status| status.starts_with(" 0 "))
            };
            failed.extend(said.take().filter(|said| !ended_well(said)));
        } else if let Some((_, said)) = &mut said {
            said.push_str(line);
            said.push('\n');
        }
    }
    failed.extend(said);
    failed
}

#[cfg(test)]
#[expect(clippy::panic, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_said_is_counted_by_scenario() {
        let results = "@@ kernel 6.1.0\n@@ feature deny yes\n@@ feature mptcp no\n@@ begin cgroup co_bind\ntest co_bind::a ... ok\ntest co_bind::b ... FAILED\n\n\
                       @@ end cgroup co_bind 101 7\n@@ begin cgroup storm\n";
        let outcome = of(results, "[    0.1] clocksource: tsc\n", &[], false);
        assert_eq!(outcome.release, "6.1.0");
        assert_eq!(outcome.features.values().collect::<Vec<_>>(), [&true, &false]);
        let [one, other] = &outcome.scenarios[..] else { panic!("{outcome:?}") };
        assert_eq!((one.passed.len(), one.failed.len(), one.status, one.seconds), (1, 1, Some(101), 7));
        assert_eq!((other.name.as_str(), other.status), ("storm", None));
        assert!(!outcome.finished && outcome.trouble.is_empty());
    }

    #[test]
    fn a_verdict_counts_behind_what_a_test_wrote() {
        let results = "@@ begin fexit run\ntest run::a ... bindwatch: 1 finding\n  more\nok\ntest run::b ... \nFAILED\n\
                       test run::c ... ok\nok\n@@ end fexit run 101 7\n";
        let outcome = of(results, "", &[], false);
        let [one] = &outcome.scenarios[..] else { panic!("{outcome:?}") };
        assert_eq!(
            (&one.passed[..], &one.failed[..]),
            (&["run::a".to_owned(), "run::c".to_owned()][..], &["run::b".to_owned()][..])
        );
    }

    #[test]
    fn what_failed_is_shown_wherever_it_stands() {
        let results = "@@ kernel 6.1.0\n@@ begin fexit one\nfine\n@@ end fexit one 0 7\n@@ begin fexit two\nwhy\nwhere\n@@ end fexit two 101 7\n\
                       between\n@@ begin kprobe one\nfine\n@@ end kprobe one 0 1\n@@ begin kprobe two\ncut off";
        assert_eq!(
            of_failed(results),
            [("fexit two", "why\nwhere\n".to_owned()), ("kprobe two", "cut off\n".to_owned())]
        );
    }

    #[test]
    fn a_kernel_in_trouble_is_a_failure() {
        let console = "[   12.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!\r\n[   13.0] fine\n";
        assert_eq!(
            of("", console, &[], false).trouble,
            ["[   12.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!"]
        );
    }

    #[test]
    fn a_warning_is_known_by_the_line_before_it() {
        let console = "[1] the reason\n[1] WARNING: here\n[2] another\n[2] WARNING: there\n";
        assert_eq!(of("", console, &["the reason".to_owned()], false).trouble, ["[2] WARNING: there"]);
    }
}
