//! `tests/kernels.json`: the one list of kernels, what they have, and which tests need what.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use serde::Deserialize;

use crate::architecture::Architecture;
use crate::shell;

/// The file.
#[derive(Debug, Deserialize)]
pub(crate) struct List {
    pub(crate) kernels: Vec<Kernel>,
    /// Kernels that are no part of the matrix: for `--run`, by name.
    others: Vec<Kernel>,
    /// What not every kernel has.
    pub(crate) features: Vec<Feature>,
    /// Tests that need a feature of the kernel.
    needs: Vec<Need>,
    /// Tests that need programs which are not in a guest.
    programs: Vec<Programs>,
    /// Scenarios whose answers come from how calls end, which backends tell: the only ones that run by each. The others run by
    /// the first backend of a kernel.
    ends: Vec<String>,
    /// Scenarios that a change is held to every time.
    pub(crate) quick: Vec<String>,
    /// Scenarios of which nothing depends on the kernel.
    once: Once,
}

/// Scenarios that one kernel is enough for.
#[derive(Debug, Deserialize)]
struct Once {
    kernel: String,
    why: String,
    scenarios: Vec<String>,
}

/// One kernel.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Kernel {
    pub(crate) name: String,
    pub(crate) distribution: String,
    /// Debian's name of its architecture.
    #[serde(default = "amd64")]
    pub(crate) architecture: String,
    /// The package of its image; `*` stands for the version.
    pub(crate) image: String,
    /// Where from: a mirror and a suite.
    pub(crate) from: Vec<String>,
    /// Every `--backend` that it takes.
    pub(crate) backends: Vec<String>,
    /// Warnings that it gives, and that docs/kernels.md explains.
    #[serde(default)]
    pub(crate) known: Vec<String>,
    /// Features that its version has and it has not, and why.
    #[serde(default)]
    without: BTreeMap<String, String>,
}

/// Something that tests need and that not every kernel has: which do is told by their version, and by trying it in the guest.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Feature {
    pub(crate) name: String,
    /// The first version that has it.
    since: Option<String>,
    /// The first that has it no longer.
    until: Option<String>,
    /// A line of the guest's shell that succeeds where it is there.
    pub(crate) probe: Option<String>,
}

fn amd64() -> String {
    "amd64".to_owned()
}

#[derive(Debug, Deserialize)]
struct Need {
    /// A test, or a module with all of its tests.
    tests: String,
    feature: String,
}

#[derive(Debug, Deserialize)]
struct Programs {
    tests: String,
    why: String,
}

impl Kernel {
    /// What it runs on.
    pub(crate) fn architecture(&self) -> anyhow::Result<&'static Architecture> {
        Architecture::of_debian(&self.architecture)
    }
}

impl List {
    /// Reads it.
    pub(crate) fn read() -> anyhow::Result<Self> {
        let file = shell::root().join("tests/kernels.json");
        let text =
            std::fs::read_to_string(&file).with_context(|| format!("{} cannot be read", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is not what it should be", file.display()))
    }

    /// The kernels of these names, for whatever machine. When none is named: the oldest and the newest for this machine, or `all`
    /// of them.
    pub(crate) fn choose(
        &self,
        names: &[&str],
        all: bool,
        machine: &Architecture,
    ) -> anyhow::Result<Vec<Kernel>> {
        if names.is_empty() {
            let of_machine = self.kernels.iter().filter(|kernel| kernel.architecture == machine.debian);
            let mut kernels: Vec<Kernel> = of_machine.cloned().collect();
            if !all && kernels.len() > 2 {
                kernels.drain(1..kernels.len() - 1);
            }
            return Ok(kernels);
        }
        names
            .iter()
            .map(|name| {
                let found = self.kernels.iter().chain(&self.others).find(|kernel| kernel.name == *name);
                let Some(found) = found else {
                    let known: Vec<&str> = self.kernels.iter().map(|kernel| kernel.name.as_str()).collect();
                    bail!("no kernel {name} in tests/kernels.json, which has {}", known.join(", "));
                };
                Ok(found.clone())
            })
            .collect()
    }

    /// Why a kernel of this release has not a feature; None when it has.
    pub(crate) fn lacks(&self, feature: &str, kernel: &Kernel, release: &str) -> Option<String> {
        let Some(known) = self.features.iter().find(|known| known.name == feature) else {
            return Some(format!("{feature} is no feature"));
        };
        let version = version(release);
        if let Some(since) = known.since.as_deref().filter(|since| version < self::version(since)) {
            return Some(format!("{feature} comes with {since}"));
        }
        if let Some(until) = known.until.as_deref().filter(|until| version >= self::version(until)) {
            return Some(format!("{feature} went with {until}"));
        }
        kernel.without.get(feature).map(|why| format!("{feature}: {why}"))
    }

    /// Whether what becomes of a test depends on a feature.
    pub(crate) fn asks_for(&self, test: &str, feature: &str) -> bool {
        self.needs.iter().any(|need| need.feature == feature && is_of(test, &need.tests))
    }

    /// Why a test cannot run on a kernel; None when it can.
    pub(crate) fn skip(&self, test: &str, kernel: &Kernel, release: &str) -> Option<String> {
        if let Some(programs) = self.programs.iter().find(|programs| is_of(test, &programs.tests)) {
            return Some(programs.why.clone());
        }
        let once = &self.once;
        if kernel.name != once.kernel && once.scenarios.iter().any(|scenario| is_of(test, scenario)) {
            return Some(format!("{}: {} alone runs it", once.why, once.kernel));
        }
        let mut needs = self.needs.iter().filter(|need| is_of(test, &need.tests));
        needs.find_map(|need| self.lacks(&need.feature, kernel, release))
    }

    /// Whether a scenario is for a backend of a kernel.
    pub(crate) fn is_for(&self, scenario: &str, backend: &str, kernel: &Kernel) -> bool {
        kernel.backends.first().is_some_and(|first| first == backend)
            || self.ends.iter().any(|ends| ends == scenario)
    }

    /// What is wrong with what this list says of a kernel, given what its guest found to be there, by trying.
    pub(crate) fn mistakes(
        &self,
        kernel: &Kernel,
        release: &str,
        found: &BTreeMap<String, bool>,
    ) -> Vec<String> {
        let mistake = |feature: &Feature| {
            let lacks = self.lacks(&feature.name, kernel, release);
            match (lacks, found.get(&feature.name)?) {
                (Some(why), true) => {
                    Some(format!("it has {} and its tests are skipped: {why}", feature.name))
                }
                (None, false) => Some(format!("it should have {}, and has not", feature.name)),
                _ => None,
            }
        };
        self.features.iter().filter_map(mistake).collect()
    }
}

/// Major and minor number of a release: `6.8.0-142-generic` is 6.8.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Whether a test is meant by a name: its own, or that of a module it is in.
fn is_of(test: &str, name: &str) -> bool {
    test.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_test_is_skipped_where_its_feature_is_missing_and_nowhere_else() {
        let list = List::read().unwrap();
        let machine = Architecture::named("x86_64").unwrap();
        let [oldest, newest] = &list.choose(&[], false, machine).unwrap()[..] else { panic!("two") };
        let skip = |test, kernel, release| list.skip(test, kernel, release);
        assert_eq!(skip("mptcp::a", oldest, "5.10.0-46").as_deref(), Some("mptcp: built without MPTCP"));
        assert_eq!(skip("mptcp::a", newest, "7.2.13+deb14-cloud-amd64"), None);
        assert_eq!(skip("mptcp_like::a", oldest, "5.10.0-46"), None);
        assert_eq!(
            skip("doors_uring::a", oldest, "5.10.0").as_deref(),
            Some("io-uring-bind comes with 6.11")
        );
        assert_eq!(skip("doors_uring::a", newest, "6.11.0"), None);
        let udp_lite = "autobind::protocols_have_ports_of_their_own";
        assert_eq!(skip(udp_lite, newest, "7.2.13").as_deref(), Some("udp-lite went with 7.1"));
        let once = "not about the kernel: debian-12 alone runs it";
        assert_eq!(skip("replay::a", newest, "7.2.13").as_deref(), Some(once));
        let one = list.choose(&["debian-12"], false, machine).unwrap().remove(0);
        assert_eq!(skip("replay::a", &one, "6.1.0"), None);
    }

    #[test]
    fn kernels_are_those_of_a_machine_unless_they_are_named() {
        let list = List::read().unwrap();
        let [one, other] = ["x86_64", "aarch64"].map(|name| Architecture::named(name).unwrap());
        let names = |names: &[&str], all, machine| -> Vec<String> {
            list.choose(names, all, machine).unwrap().into_iter().map(|kernel| kernel.name).collect()
        };
        for machine in [one, other] {
            let (ends, all) = (names(&[], false, machine), names(&[], true, machine));
            assert_eq!((ends.first(), ends.last()), (all.first(), all.last()));
            assert!(ends.len() == 2 && all.len() >= 2, "{all:?}");
            assert_eq!(all.iter().any(|name| name == "debian-12"), machine == one);
            assert_eq!(names(&["debian-12"], false, machine), ["debian-12"]);
        }
        assert_eq!(names(&[], true, one).len() + names(&[], true, other).len(), list.kernels.len());
        assert!(list.choose(&["none"], false, one).is_err());
    }

    #[test]
    fn a_skip_on_a_kernel_that_has_the_feature_is_a_mistake() {
        let list = List::read().unwrap();
        let machine = Architecture::named("x86_64").unwrap();
        let [oldest, newest] = &list.choose(&[], false, machine).unwrap()[..] else { panic!("two") };
        let found = |there: bool| BTreeMap::from([("mptcp".to_owned(), there)]);
        assert_eq!(
            list.mistakes(oldest, "5.10.0", &found(true)),
            ["it has mptcp and its tests are skipped: mptcp: built without MPTCP"]
        );
        assert_eq!(list.mistakes(newest, "7.2.0", &found(false)), ["it should have mptcp, and has not"]);
        assert!(list.mistakes(newest, "7.2.0", &found(true)).is_empty());
        assert!(list.mistakes(oldest, "5.10.0", &found(false)).is_empty());
    }
}
