//! The table: what each line is to reach, what was measured, and whether that is enough.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// One measurement of a goal. The smaller the better, always.
pub(crate) struct Row {
    pub(crate) id: &'static str,
    pub(crate) what: String,
    /// NaN where nothing is asked of it.
    pub(crate) must: f64,
    pub(crate) aim: f64,
    /// It is a time: another machine's says nothing.
    is_time: bool,
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
            is_time: false,
            outcome: Outcome::Measured { values, note: String::new() },
        }
    }

    /// A measurement of which nothing is asked: what it is compared with.
    pub(crate) fn told(id: &'static str, what: &str, values: Vec<f64>) -> Self {
        Self::new(id, what, f64::NAN, f64::NAN, values)
    }

    /// Not judged, as it is of a part of what the goal is about.
    pub(crate) fn of_a_part(mut self, part: u32) -> Self {
        if part > 1 {
            (self.must, self.aim) = (f64::NAN, f64::NAN);
        }
        self
    }

    /// It is a time, and no ratio.
    pub(crate) const fn time(mut self) -> Self {
        self.is_time = true;
        self
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
            is_time: false,
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
            Some(_) if self.must.is_nan() && self.aim.is_nan() => "told",
            Some((median, ..)) if median <= self.aim => "aim met",
            Some(_) if self.must.is_nan() => "aim missed",
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

pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        v if v.is_nan() => "–".to_owned(),
        0.0 => "0".to_owned(),
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

/// As JSON, which `compare` reads. `how` is what tells of this run: when, where and with which words.
pub(crate) fn json(rows: &[Row], how: &Value) -> Value {
    let rows = rows.iter().map(|row| {
        let (median, least, most) = row.spread().unwrap_or((f64::NAN, f64::NAN, f64::NAN));
        let values = row.values().unwrap_or_default();
        let (low, high) = row.quartiles().unwrap_or((f64::NAN, f64::NAN));
        let note = match &row.outcome {
            Outcome::Measured { note, .. } => note,
            Outcome::NotHere(why) => why,
        };
        json!({"id": row.id, "what": row.what, "median": median, "quartiles": [low, high], "min": least, "max": most, "must": row.must,
               "aim": row.aim, "values": values, "time": row.is_time, "note": note, "verdict": row.verdict()})
    });
    json!({"schema": "bindwatch.bench/2", "run": how, "rows": rows.collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::{Row, markdown};

    #[test]
    fn a_verdict_is_of_what_was_asked() {
        let table = markdown(&[
            Row::new("P1", "a", 1.4, 1.2, vec![1.3]),
            Row::new("P1", "b", 1.4, 1.2, vec![1.5]),
            Row::new("P1", "c", 1.4, 1.2, vec![1.1]),
            Row::new("P1", "d", 1.4, 1.2, vec![1.5]).of_a_part(10),
            Row::told("P1", "e", vec![1.5]),
            Row::new("P1", "f", f64::NAN, 1.0, vec![1.5]),
        ]);
        let verdicts = table.lines().skip(2).filter_map(|line| line.rsplit(" | ").next());
        let expected = ["met |", "MISSED |", "aim met |", "told |", "told |", "aim missed |"];
        assert_eq!(verdicts.collect::<Vec<_>>(), expected);
    }
}
