//! What a recording costs those that bind, and those that do not.

use anyhow::Context as _;
use scenarios::{Actor, Cgroup, Recording, Run};
use serde_json::Value;

use crate::goals::{Amount, Measured};
use crate::paired::{Load, rounds};
use crate::table::{Row, median};
use crate::work::holders;

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

/// The load's time beside programs that do nothing, where the recording has its own, ns.
fn beside_nothing(load: &mut Load) -> anyhow::Result<f64> {
    let root = bindwatch::cgroup2::mount_point().context("no cgroup2 hierarchy is mounted")?;
    let _programs = Actor::denier(&root, "nothing");
    load.side(0)
}

pub(crate) fn one_process(amount: Amount) -> Measured {
    let mut load = Load::cycles(1)?;
    let mut ours = |load: &mut Load| recorded(load, &[]);
    let found = rounds(&mut load, amount.pairs(), [&mut ours, &mut beside_nothing])?;
    let ratios = |of: usize| found.iter().map(|round| round.with[of] / round.without).collect::<Vec<_>>();
    let each = median(&found.iter().map(|round| round.without).collect::<Vec<_>>());
    let floor = "the same beside programs at the same five cgroup hooks that do nothing";
    let note = format!("a cycle takes {each:.0} ns");
    Ok(vec![
        Row::new("P1", "cycle recorded / not, 1 process", 1.40, 1.25, ratios(0)).note(note),
        Row::told("P1", floor, ratios(1)),
    ])
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
    // Events of system calls are on the way of every one; functions of the kernel are not.
    let kinds: [(&str, &[&str], f64); 4] = [
        ("getppid recorded / not, errno by tracepoints", &["--backend", "tracepoint"], 1.15),
        ("getppid recorded / not, errno by fexit", &["--backend", "fexit"], 1.02),
        ("getppid recorded / not, errno by kprobes", &["--backend", "kprobe"], 1.02),
        ("getppid recorded / not, --errno off", &["--errno", "off"], 1.02),
    ];
    let mut rows = Vec::new();
    for (what, options, must) in kinds {
        rows.push(match refused(options)? {
            Some(reason) => Row::not_here("P5", what, &reason),
            None => Row::new("P5", what, must, 1.02, ratios(amount, Load::calls(), options)?),
        });
    }
    Ok(rows)
}

/// Why this kernel takes not the backend that is asked for.
fn refused(options: &[&str]) -> anyhow::Result<Option<String>> {
    let doctor = Run::bindwatch(["doctor", "--format", "json"]).outcome().stdout;
    let doctor: Value = serde_json::from_str(&doctor).context("what doctor says")?;
    let backends = doctor.get("backends").and_then(Value::as_array).context("its backends")?;
    let asked = backends.iter().find(|backend| options.iter().any(|option| backend["backend"] == **option));
    Ok(asked.and_then(|backend| backend["reason"].as_str()).map(str::to_owned))
}

/// Of what one recording alone and one that enforces cost, in turn.
pub(crate) fn enforcement(amount: Amount) -> Measured {
    let cgroup = Cgroup::new();
    let kinds = [
        ("cycle in an enforced cgroup / recorded", Load::inside(&cgroup)?, 1.15, 1.05),
        ("cycle outside of it / recorded", Load::cycles(1)?, 1.15, 1.00),
        ("cycle without SO_REUSEPORT outside of it / recorded", Load::plain()?, 1.15, 1.00),
    ];
    let mut rows = Vec::new();
    for (what, mut load, must, aim) in kinds {
        let mut alone = |load: &mut Load| recorded(load, &[]);
        let mut enforced = |load: &mut Load| {
            let recording = Recording::enforcing::<&str>(&cgroup, []);
            let time = load.side(1);
            drop(recording.stop());
            time
        };
        let found = rounds(&mut load, amount.pairs(), [&mut alone, &mut enforced])?;
        let values = found.iter().map(|round| round.with[1] / round.with[0]).collect();
        let extra =
            |of: usize| median(&found.iter().map(|round| round.with[of] - round.without).collect::<Vec<_>>());
        let note = format!("{:.0} ns more than without bindwatch; {:.0} recorded alone", extra(1), extra(0));
        rows.push(Row::new("P6", what, must, aim, values).note(note));
    }
    Ok(rows)
}

/// Whether a bind costs more the more sockets there are.
pub(crate) fn live_sockets(amount: Amount) -> Measured {
    let mut values = Vec::new();
    let mut load = Load::cycles(1)?;
    for _ in 0..amount.rounds.min(3) {
        let mut extra = |held: u32| -> anyhow::Result<f64> {
            let held = holders(held)?;
            let round = rounds(&mut load, 1, [&mut |load| recorded(load, &[])])?;
            drop(held);
            let ratios: Vec<f64> = round.iter().map(|round| round.with[0] / round.without).collect();
            Ok(median(&ratios))
        };
        values.push(extra(100_000 / amount.part)? / extra(100)?);
    }
    let what = format!("recorded / not, with {} live sockets / with 100", 100_000 / amount.part);
    Ok(vec![Row::new("P15", &what, 1.2, 1.0, values).of_a_part(amount.part)])
}
