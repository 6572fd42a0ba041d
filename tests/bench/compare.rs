//! Two runs beside each other: whether the ratios of one are those of the other, and what has become much worse.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use serde_json::Value;

use crate::table::short;

/// The files of two runs, as `cargo xtask bench --json` writes them.
pub(crate) struct Runs {
    old: Value,
    new: Value,
}

impl Runs {
    pub(crate) fn read(old: &Path, new: &Path) -> anyhow::Result<Self> {
        let read = |path: &Path| -> anyhow::Result<Value> {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            serde_json::from_str(&text).with_context(|| path.display().to_string())
        };
        Ok(Self { old: read(old)?, new: read(new)? })
    }

    /// The rows of both, as Markdown. Two are the same where what one run saw, from least to most, and what the other saw have
    /// something in common, or the medians are as good as equal; where not, it is said by how much they differ.
    pub(crate) fn side_by_side(&self) -> String {
        let mut out = format!(
            "| # | what | {} | {} | |\n|---|---|---|---|---|\n",
            text(self.old.pointer("/run/at")),
            text(self.new.pointer("/run/at"))
        );
        for (before, now) in self.pairs() {
            let Some(was) = Spread::of(before) else { continue };
            let (is, verdict) = match now.and_then(Spread::of) {
                Some(is) => (is.to_string(), was.beside(&is)),
                None => ("–".to_owned(), "not measured now".to_owned()),
            };
            let (id, what) = (text(before.get("id")), text(before.get("what")));
            let _infallible = writeln!(out, "| {id} | {what} | {was} | {is} | {verdict} |");
        }
        out
    }

    /// Rows of the new run that are much worse than in the old one, or of which something is asked and that were measured there and are
    /// not now: ratios on one machine are, but for noise, those of another. Times are not.
    pub(crate) fn worse(&self) -> Vec<String> {
        /// How much worse is too much, as a factor, and on top of it.
        const FACTOR: f64 = 1.5;
        const SLACK: f64 = 0.05;
        let mut found = Vec::new();
        for (before, now) in self.pairs() {
            let Some(was) = number(before, "median") else { continue };
            if before.get("time") == Some(&Value::Bool(true)) {
                continue;
            }
            let is = match now.and_then(|row| number(row, "median")) {
                Some(is) if is <= was * FACTOR + SLACK => continue,
                Some(is) => format!("{} now", short(is)),
                None if number(before, "must").is_none() => continue,
                None => "not measured now".to_owned(),
            };
            let (id, what) = (text(before.get("id")), text(before.get("what")));
            found.push(format!("{id} {what}: {} before, {is}", short(was)));
        }
        found
    }

    /// Each row of the old run and its like in the new one: of rows with the same words the first is that of the first.
    fn pairs(&self) -> Vec<(&Value, Option<&Value>)> {
        let key = |row: &Value| (text(row.get("id")).to_owned(), text(row.get("what")).to_owned());
        let mut left: Vec<&Value> = rows(&self.new).iter().collect();
        let pair = |row| {
            let like = left.iter().position(|new| key(new) == key(row)).map(|at| left.remove(at));
            (row, like)
        };
        rows(&self.old).iter().map(pair).collect()
    }
}

/// What a run saw of a row.
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(row: &Value) -> Option<Self> {
        Some(Self { median: number(row, "median")?, least: number(row, "min")?, most: number(row, "max")? })
    }

    /// What is to be said of another run's.
    fn beside(&self, other: &Self) -> String {
        /// What is as good as equal, as a part: of what is measured once there is no spread.
        const EQUAL: f64 = 0.01;
        let meet = self.least <= other.most && other.least <= self.most;
        if meet || (other.median - self.median).abs() <= EQUAL * self.median {
            "the same".to_owned()
        } else {
            format!("{:+.1} %", 100.0 * (other.median / self.median - 1.0))
        }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{} ({} to {})", short(self.median), short(self.least), short(self.most))
    }
}

fn rows(run: &Value) -> &[Value] {
    run.get("rows").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn number(row: &Value, name: &str) -> Option<f64> {
    row.get(name).and_then(Value::as_f64)
}

fn text(value: Option<&Value>) -> &str {
    value.and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::Runs;
    use crate::table::{Row, json};
    use serde_json::Value;

    fn row(what: &str, values: &[f64]) -> Row {
        Row::new("P1", what, 1.0, 1.0, values.to_vec())
    }

    fn runs(old: &[Row], new: &[Row]) -> Runs {
        let run = |rows| json(rows, &Value::Null);
        Runs { old: run(old), new: run(new) }
    }

    #[test]
    fn what_is_much_worse_or_gone_is_told() {
        let old =
            [row("a", &[1.0]), row("b", &[1.0]), row("c", &[1.0]), row("d", &[1.0]).time(), row("e", &[0.0])];
        let new = [row("a", &[1.54]), row("b", &[1.56]), row("d", &[9.0]).time(), row("e", &[0.05])];
        assert_eq!(
            runs(&old, &new).worse(),
            ["P1 b: 1.00 before, 1.56 now", "P1 c: 1.00 before, not measured now"]
        );
        let unmeasured = [Row::not_here("P1", "a", "no such program")];
        let measured = [row("a", &[1.0])];
        assert_eq!(runs(&measured, &unmeasured).worse(), ["P1 a: 1.00 before, not measured now"]);
        assert_eq!(runs(&unmeasured, &measured).worse(), Vec::<String>::new());
    }

    #[test]
    fn of_rows_with_the_same_words_each_has_its_own() {
        let old = [row("a", &[1.0]), row("a", &[9.0]), Row::told("P1", "b", vec![1.0])];
        let new = [row("a", &[1.0]), row("a", &[1.0])];
        assert_eq!(runs(&old, &new).worse(), Vec::<String>::new());
        assert_eq!(runs(&new, &old).worse(), ["P1 a: 1.00 before, 9.00 now"]);
    }

    #[test]
    fn ratios_are_the_same_where_the_spreads_meet() {
        let old = [
            row("a", &[1.0, 1.2]),
            row("b", &[1.0, 1.2]),
            row("c", &[1.0]),
            row("d", &[0.0]),
            row("e", &[1.0]),
        ];
        let new = [row("a", &[1.2, 1.4]), row("b", &[1.3, 1.5]), row("d", &[0.0]), row("e", &[1.009])];
        let table = runs(&old, &new).side_by_side();
        let verdicts = table.lines().skip(2).filter_map(|line| line.rsplit(" | ").next());
        assert_eq!(
            verdicts.collect::<Vec<_>>(),
            ["the same |", "+25.0 % |", "not measured now |", "the same |", "the same |"]
        );
    }
}
