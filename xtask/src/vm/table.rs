//! The matrix: kernel, backend, scenario, and how many tests ran.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;

use super::Verdict;
use crate::shell;

/// Between these lines of docs/kernels.md the table is written.
const BEGIN: &str = "<!-- made by `cargo xtask vm --all --write`: begin -->";
const END: &str = "<!-- end -->";

/// The table.
pub(crate) fn markdown(verdicts: &[Verdict]) -> String {
    let columns: Vec<(&Verdict, &String)> = verdicts
        .iter()
        .flat_map(|verdict| verdict.kernel.backends.iter().map(move |b| (verdict, b)))
        .collect();
    let names: BTreeSet<&String> = verdicts.iter().flat_map(|verdict| verdict.skipped.keys()).collect();
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    let mut text = String::from("| scenario |");
    for (verdict, backend) in &columns {
        text += &format!(" {} {}, {backend} |", verdict.kernel.distribution, release(verdict));
    }
    text += &format!("\n|---|{}\n", "---|".repeat(columns.len()));
    for name in names {
        text += &format!("| `{name}` |");
        for (verdict, backend) in &columns {
            let ran = verdict.outcome.scenarios.iter().find(|s| s.name == *name && s.backend == **backend);
            let mut cell = Vec::new();
            if let Some(scenario) = ran {
                cell.push(scenario.passed.len().to_string());
                if !scenario.failed.is_empty() || scenario.status != Some(0) {
                    cell.push(format!("**{} failed**", scenario.failed.len().max(1)));
                }
            }
            let skipped = verdict.skipped.get(name).map_or(&[][..], Vec::as_slice);
            for (_, reason) in skipped {
                let next = reasons.len() + 1;
                let number = *reasons.entry(reason).or_insert(next);
                let note = format!("[{number}]");
                match cell.iter().position(|word| word.ends_with(&note)) {
                    Some(_) => {}
                    None => {
                        let count = skipped.iter().filter(|(_, other)| other == reason).count();
                        cell.push(format!("{count} skipped {note}"));
                    }
                }
            }
            text += &format!(" {} |", cell.join(", "));
        }
        text.push('\n');
    }
    let mut notes: Vec<(usize, &str)> =
        reasons.into_iter().map(|(reason, number)| (number, reason)).collect();
    notes.sort_unstable();
    for (number, reason) in notes {
        text += &format!("\n\\[{number}\\] {reason}.  ");
    }
    text
}

fn release(verdict: &Verdict) -> &str {
    let release = verdict.outcome.release.as_str();
    release.split(['-', '+']).next().unwrap_or(release)
}

/// Writes it to docs/kernels.md, with the day.
pub(crate) fn store(table: &str) -> anyhow::Result<()> {
    let file = shell::root().join("docs/kernels.md");
    let text = std::fs::read_to_string(&file)?;
    let (before, rest) =
        text.split_once(BEGIN).with_context(|| format!("docs/kernels.md has no line {BEGIN}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("docs/kernels.md has no line {END}"))?;
    let day = shell::output(shell::command("date").args(["-u", "+%F"]))?;
    let table = table.trim_end();
    std::fs::write(&file, format!("{before}{BEGIN}\n\nRun on {day}.\n\n{table}\n\n{END}{after}"))?;
    println!("vm: docs/kernels.md has the table of {day}");
    Ok(())
}
