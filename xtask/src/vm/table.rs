//! The matrix: kernel, backend, scenario, how many tests passed, how many were left out, and why.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;

use super::kept::{Entry, Kept};
use super::list::Kernel;
use crate::shell;

/// Between these lines of docs/kernels.md the tables are written, one for each kind of machine.
const BEGIN: [(&str, &str); 2] = [
    ("amd64", "<!-- made by `cargo xtask vm --all --write`: begin -->"),
    ("arm64", "<!-- made by `cargo xtask vm --target aarch64 --all --write`: begin -->"),
];
const END: &str = "<!-- end -->";

/// A kernel, what came of it so far, and by scenario what is left out there: a test, and why.
pub(crate) struct Column {
    pub(crate) kernel: Kernel,
    pub(crate) kept: Kept,
    pub(crate) skipped: BTreeMap<String, Vec<(String, String)>>,
}

/// The table: a column for each kernel, and in it a number for each backend.
pub(crate) fn markdown(columns: &[Column]) -> String {
    let names: BTreeSet<&String> = columns.iter().flat_map(|column| column.skipped.keys()).collect();
    let mut reasons: Vec<String> = Vec::new();
    let mut text = String::from("| scenario |");
    for column in columns {
        text += &format!(" {} {} |", column.kernel.distribution, release(&column.kept.release));
    }
    text += &format!("\n|---|{}\n| |", "---|".repeat(columns.len()));
    for column in columns {
        text += &format!(" {} |", column.kernel.backends.join(" · "));
    }
    text.push('\n');
    for name in names {
        text += &format!("| `{name}` |");
        for column in columns {
            text += &format!(" {} |", cell(column, name, &mut reasons));
        }
        text.push('\n');
    }
    text += "| **all** |";
    for column in columns {
        let sums = column.kernel.backends.iter().map(|backend| {
            let passed: usize = column.kept.of(backend).values().map(|e| e.scenario.passed.len()).sum();
            passed.to_string()
        });
        text += &format!(" {} |", sums.collect::<Vec<_>>().join(" · "));
    }
    text.push('\n');
    for (at, reason) in reasons.iter().enumerate() {
        text += &format!("\n\\[{}\\] {reason}.  ", at + 1);
    }
    text
}

fn cell(column: &Column, name: &str, reasons: &mut Vec<String>) -> String {
    let skipped = column.skipped.get(name).map_or(&[][..], Vec::as_slice);
    let mut results: Vec<Option<&Entry>> =
        column.kernel.backends.iter().map(|backend| column.kept.of(backend).get(name).copied()).collect();
    // What does not depend on the backend runs by the first.
    while results.len() > 1 && results.last().is_some_and(Option::is_none) {
        results.pop();
    }
    let mut words = Vec::new();
    if results.iter().any(Option::is_some) {
        let numbers = results.iter().map(|result| result.map_or_else(|| "–".to_owned(), number));
        words.push(numbers.collect::<Vec<_>>().join(" · "));
    } else if skipped.is_empty() {
        words.push("–".to_owned());
    }
    let mut told = BTreeSet::new();
    for (_, reason) in skipped {
        if told.insert(reason) {
            let at = reasons.iter().position(|known| known == reason).unwrap_or_else(|| {
                reasons.push(reason.clone());
                reasons.len() - 1
            });
            let count = skipped.iter().filter(|(_, other)| other == reason).count();
            words.push(format!("{count} skipped [{}]", at + 1));
        }
    }
    words.join(", ")
}

fn number(entry: &Entry) -> String {
    let scenario = &entry.scenario;
    if scenario.status == Some(0) && scenario.failed.is_empty() {
        return scenario.passed.len().to_string();
    }
    format!("{} and **{} failed**", scenario.passed.len(), scenario.failed.len().max(1))
}

fn release(release: &str) -> &str {
    release.split(['-', '+']).next().unwrap_or(release)
}

/// Writes the table of each kind of machine to docs/kernels.md, with the days of its results.
pub(crate) fn store(columns: Vec<Column>) -> anyhow::Result<()> {
    let mut rest = columns;
    for (architecture, begin) in BEGIN {
        let (of_it, others): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|column| column.kernel.architecture == architecture);
        if !of_it.is_empty() {
            store_between(begin, &of_it)?;
        }
        rest = others;
    }
    Ok(())
}

fn store_between(begin: &str, columns: &[Column]) -> anyhow::Result<()> {
    let file = shell::root().join("docs/kernels.md");
    let text = std::fs::read_to_string(&file)?;
    let (before, rest) =
        text.split_once(begin).with_context(|| format!("docs/kernels.md has no line {begin}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("docs/kernels.md has no line {END}"))?;
    let entries = || columns.iter().flat_map(|column| &column.kept.entries);
    let days: BTreeSet<&str> = entries().map(|entry| entry.day.as_str()).collect();
    let days = days.into_iter().collect::<Vec<_>>().join(" and ");
    let builds: BTreeSet<&str> = entries().map(|entry| entry.build.as_str()).collect();
    let builds = match builds.len() {
        1 => "one build of bindwatch".to_owned(),
        more => {
            let now = columns.first().map_or("", |column| &column.kept.build);
            let last = entries().filter(|entry| entry.build == now).count();
            format!("{more} builds of bindwatch, {last} of {} results by the last one", entries().count())
        }
    };
    let table = markdown(columns);
    let table = table.trim_end();
    std::fs::write(
        &file,
        format!("{before}{begin}\n\nRun on {days}, with {builds}.\n\n{table}\n\n{END}{after}"),
    )?;
    println!("vm: docs/kernels.md has the table of {days}");
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use crate::architecture::Architecture;
    use crate::vm::list::List;
    use crate::vm::outcome::{Outcome, Scenario};

    #[test]
    fn a_cell_has_a_number_for_each_backend_and_says_what_was_left_out() {
        let machine = Architecture::named("x86_64").unwrap();
        let kernel = List::read().unwrap().choose(&["debian-11"], false, machine).unwrap().remove(0);
        let ran = |backend: &str, status, failed: &[&str]| Scenario {
            backend: backend.to_owned(),
            name: "storm".to_owned(),
            passed: vec!["storm::a".to_owned(), "storm::b".to_owned()],
            failed: failed.iter().map(|name| (*name).to_owned()).collect(),
            status: Some(status),
            seconds: 1,
        };
        let scenarios = vec![ran("fexit", 0, &[]), ran("kprobe", 101, &["storm::c"])];
        let mut kept = Kept { release: "5.10.0-46-cloud".to_owned(), ..Kept::default() };
        kept.renew(&Outcome { scenarios, ..Outcome::default() }, "2026-01-01");
        let left_out = vec![("storm::d".to_owned(), "no such thing".to_owned())];
        let skipped =
            BTreeMap::from([("storm".to_owned(), left_out.clone()), ("mptcp".to_owned(), left_out)]);
        let table = markdown(&[Column { kernel, kept, skipped }]);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(
            lines,
            [
                "| scenario | Debian 11 5.10.0 |",
                "|---|---|",
                "| | fexit · kprobe · tracepoint |",
                "| `mptcp` | 1 skipped [1] |",
                "| `storm` | 2 · 2 and **1 failed**, 1 skipped [1] |",
                "| **all** | 2 · 2 · 0 |",
                "",
                "\\[1\\] no such thing.  ",
            ]
        );
    }
}
