//! The table: what each line is to reach, what was measured, and whether that is enough.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};

/// One measurement of a goal. The smaller the better, always.
pub(crate) struct Row {
    pub(crate) id: &'static str,
    pub(crate) what: String,
    pub(crate) must: f64,
    pub(crate) aim: f64,
    pub(crate) outcome: Outcome,
}

/// What became of it.
pub(crate) enum Outcome {
    /// The values of each round, and what they were made of.
    Measured { values: Vec<f64>, note: String },
    /// Why it could not be measured.
    NotHere(String),
}

impl Row {
    pub(crate) fn new(id: &'static str, what: &str, must: f64, aim: f64, values: Vec<f64>) -> Self {
        Self {
            id,
            what: what.to_owned(),
            must,
            aim,
            outcome: Outcome::Measured { values, note: String::new() },
        }
    }

    pub(crate) fn note(mut self, text: String) -> Self {
        if let Outcome::Measured { note, .. } = &mut self.outcome {
            *note = text;
        }
        self
    }

    pub(crate) fn not_here(id: &'static str, what: &str, why: &str) -> Self {
        Self {
            id,
            what: what.to_owned(),
            must: f64::NAN,
            aim: f64::NAN,
            outcome: Outcome::NotHere(why.to_owned()),
        }
    }

    /// Median, least and most.
    pub(crate) fn spread(&self) -> Option<(f64, f64, f64)> {
        let values = self.values()?;
        Some((median(values), least(values), most(values)))
    }

    /// Between which two half of the values are.
    fn quartiles(&self) -> Option<(f64, f64)> {
        let values = self.values()?;
        Some((at(values, 1, 4), at(values, 3, 4)))
    }

    fn values(&self) -> Option<&[f64]> {
        match &self.outcome {
            Outcome::Measured { values, .. } if !values.is_empty() => Some(values),
            _ => None,
        }
    }

    fn verdict(&self) -> &'static str {
        match self.spread() {
            None => "not measured here",
            Some((median, ..)) if median <= self.aim => "aim met",
            Some((median, ..)) if median <= self.must => "met",
            Some(_) => "MISSED",
        }
    }
}

pub(crate) fn median(values: &[f64]) -> f64 {
    at(values, 1, 2)
}

/// The value that so many of so many parts are below.
fn at(values: &[f64], parts: usize, of: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() * parts / of).copied().unwrap_or(f64::NAN)
}

pub(crate) fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// As Markdown, which a terminal shows as well.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut out = String::from(
        "| # | what | median | quartiles | least to most | must | aim | verdict |\n|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let line = match (&row.outcome, row.spread()) {
            (Outcome::Measured { note, .. }, Some((median, least, most))) => {
                let (low, high) = row.quartiles().unwrap_or((median, median));
                let note = if note.is_empty() { String::new() } else { format!("; {note}") };
                format!(
                    "| {} | {}{note} | {} | {} to {} | {} to {} | {} | {} | {} |",
                    row.id,
                    row.what,
                    short(median),
                    short(low),
                    short(high),
                    short(least),
                    short(most),
                    short(row.must),
                    short(row.aim),
                    row.verdict()
                )
            }
            (Outcome::NotHere(why), _) => {
                format!("| {} | {} | | | | | | not measured here: {why} |", row.id, row.what)
            }
            (Outcome::Measured { .. }, None) => format!("| {} | {} | | | | | | no value |", row.id, row.what),
        };
        let _infallible = writeln!(out, "{line}");
    }
    out
}

/// As JSON, which `compare` reads.
pub(crate) fn json(rows: &[Row]) -> Value {
    let rows = rows.iter().map(|row| {
        let (median, least, most) = row.spread().unwrap_or((f64::NAN, f64::NAN, f64::NAN));
        let values = row.values().unwrap_or_default();
        let (low, high) = row.quartiles().unwrap_or((f64::NAN, f64::NAN));
        json!({"id": row.id, "what": row.what, "median": median, "quartiles": [low, high], "min": least, "max": most, "must": row.must,
               "aim": row.aim, "values": values, "verdict": row.verdict()})
    });
    json!({"schema": "bindwatch.bench/1", "rows": rows.collect::<Vec<_>>()})
}

/// Rows of `new` that are much worse than in `old`: ratios on one machine are, but for noise, those of another.
pub(crate) fn worse(old: &Path, new: &Path) -> anyhow::Result<Vec<String>> {
    /// How much worse is too much, as a factor, and on top of it.
    const FACTOR: f64 = 1.5;
    const SLACK: f64 = 0.05;
    let read = |path: &Path| -> anyhow::Result<Value> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Ok(serde_json::from_str(&text)?)
    };
    let (old, new) = (read(old)?, read(new)?);
    let rows = |value: &Value| value.get("rows").and_then(Value::as_array).cloned().unwrap_or_default();
    let key = |row: &Value| (row.get("id").cloned(), row.get("what").cloned());
    let median = |row: &Value| row.get("median").and_then(Value::as_f64);
    let mut found = Vec::new();
    for before in rows(&old) {
        let after = rows(&new).into_iter().find(|row| key(row) == key(&before));
        if let (Some(before_median), Some(after_median)) = (median(&before), after.as_ref().and_then(median))
            && after_median > before_median * FACTOR + SLACK
        {
            let (id, what) = key(&before);
            found.push(format!(
                "{} {}: {} before, {} now",
                id.unwrap_or_default(),
                what.unwrap_or_default(),
                short(before_median),
                short(after_median)
            ));
        }
    }
    Ok(found)
}
