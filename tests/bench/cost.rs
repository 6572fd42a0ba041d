//! What a recording costs those that bind, and those that do not.

use scenarios::Recording;

use crate::goals::{Amount, Measured};
use crate::paired::{Load, rounds};
use crate::table::Row;

/// The load's time beside a recording with these options, ns.
pub(crate) fn recorded(load: &mut Load, options: &[&str]) -> anyhow::Result<f64> {
    let recording = Recording::with(options);
    let time = load.side(1);
    drop(recording.stop());
    time
}

fn ratios(amount: Amount, load: anyhow::Result<Load>, options: &[&str]) -> anyhow::Result<Vec<f64>> {
    let mut load = load?;
    let rounds = rounds(&mut load, amount.pairs(), [&mut |load| recorded(load, options)])?;
    Ok(rounds.iter().map(|round| round.with[0] / round.without).collect())
}

pub(crate) fn one_process(amount: Amount) -> Measured {
    let values = ratios(amount, Load::cycles(1), &[])?;
    Ok(vec![Row::new("P1", "cycle recorded / not, 1 process", 1.40, 1.25, values)])
}

pub(crate) fn two_processes(amount: Amount) -> Measured {
    let values = ratios(amount, Load::cycles(2), &[])?;
    Ok(vec![Row::new("P2", "cycle recorded / not, 2 processes", 1.50, 1.30, values)])
}

pub(crate) fn conflicts_only(amount: Amount) -> Measured {
    let values = ratios(amount, Load::cycles(1), &["--events", "conflicts"])?;
    Ok(vec![Row::new("P3", "cycle with --events conflicts / without bindwatch", 1.15, 1.06, values)])
}

pub(crate) fn other_calls(amount: Amount) -> Measured {
    let kinds: [(&str, &[&str], f64); 2] = [
        ("getppid recorded / not, errno by tracepoints", &[], 1.15),
        ("getppid recorded / not, --errno off", &["--errno", "off"], 1.02),
    ];
    let mut rows = Vec::new();
    for (what, options, must) in kinds {
        rows.push(Row::new("P5", what, must, 1.02, ratios(amount, Load::calls(), options)?));
    }
    rows.push(Row::not_here("P5", "getppid with fexit", "this kernel refuses fexit programs"));
    Ok(rows)
}
