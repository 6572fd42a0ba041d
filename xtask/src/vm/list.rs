//! `tests/kernels.json`: the one list of kernels, what they have, and which tests need what.

use anyhow::{Context as _, bail};
use serde::Deserialize;

use crate::shell;

/// The file.
#[derive(Debug, Deserialize)]
pub(crate) struct List {
    pub(crate) kernels: Vec<Kernel>,
    /// Tests that need a feature of the kernel.
    needs: Vec<Need>,
    /// Tests that need programs which are not in a guest.
    programs: Vec<Programs>,
    /// Scenarios that a change is held to every time.
    pub(crate) quick: Vec<String>,
}

/// One kernel.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Kernel {
    pub(crate) name: String,
    pub(crate) distribution: String,
    /// The package of its image; `*` stands for the version.
    pub(crate) image: String,
    /// Where from: a mirror and a suite.
    pub(crate) from: Vec<String>,
    /// Every `--backend` that it takes.
    pub(crate) backends: Vec<String>,
    /// Warnings that it gives, and that docs/kernels.md explains.
    #[serde(default)]
    pub(crate) known: Vec<String>,
    /// What it has.
    pub(crate) features: Vec<String>,
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

impl List {
    /// Reads it.
    pub(crate) fn read() -> anyhow::Result<Self> {
        let file = shell::root().join("tests/kernels.json");
        let text =
            std::fs::read_to_string(&file).with_context(|| format!("{} cannot be read", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is not what it should be", file.display()))
    }

    /// The kernels of these names; the oldest and the newest when none is named.
    pub(crate) fn choose(&self, names: &[&str], all: bool) -> anyhow::Result<Vec<Kernel>> {
        if all {
            return Ok(self.kernels.clone());
        }
        if names.is_empty() {
            let ends = self.kernels.first().into_iter().chain(self.kernels.last());
            return Ok(ends.cloned().collect());
        }
        names
            .iter()
            .map(|name| {
                let found = self.kernels.iter().find(|kernel| kernel.name == *name);
                let Some(found) = found else {
                    let known: Vec<&str> = self.kernels.iter().map(|kernel| kernel.name.as_str()).collect();
                    bail!("no kernel {name} in tests/kernels.json, which has {}", known.join(", "));
                };
                Ok(found.clone())
            })
            .collect()
    }

    /// Why a test cannot run on a kernel; None when it can.
    pub(crate) fn skip(&self, test: &str, kernel: &Kernel) -> Option<String> {
        let programs = self.programs.iter().find(|programs| is_of(test, &programs.tests));
        let feature = self
            .needs
            .iter()
            .find(|need| is_of(test, &need.tests) && !kernel.features.contains(&need.feature));
        programs
            .map(|programs| programs.why.clone())
            .or_else(|| feature.map(|need| format!("no {} in this kernel", need.feature)))
    }
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
        let [oldest, newest] = &list.choose(&[], false).unwrap()[..] else { panic!("two") };
        assert_eq!(list.skip("mptcp::a_test", oldest).as_deref(), Some("no mptcp in this kernel"));
        assert_eq!(list.skip("mptcp::a_test", newest), None);
        assert_eq!(list.skip("mptcp_like::a_test", oldest), None);
        assert!(list.choose(&["none"], false).is_err());
        assert_eq!(list.choose(&[], true).unwrap().len(), list.kernels.len());
    }
}
