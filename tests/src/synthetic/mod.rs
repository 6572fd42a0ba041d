//! Logs of any length that no machine has lived through: what a busy CI machine records, from a seed.
//!
//! Suites come and go, one process each. A suite binds ports that the kernel chooses, listens, serves a few connections,
//! closes, looks for free ports, sends datagrams; and now and then two suites share a fixed port, or one is refused the
//! port of a server that was there all the time. Every line goes through bindwatch's own types and writer, so that such a
//! log is as valid as a recorded one, whatever becomes of the format. The same seed gives the same bytes.

mod chance;
mod facts;
mod suite;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::Path;

use anyhow::Context as _;
use bindwatch::clock::Anchors;
use bindwatch::drive::Recorder;
use bindwatch::event::{Body, BootTime, Event, Hook, Inventory, InventoryPhase, Note, Seq};
use bindwatch::judge::Rules;
use bindwatch::ledger::{Ledger, Settings};
use bindwatch::log::{End, Header, Host, Writer, create};

use chance::Chance;
use suite::Suite;

/// When the recording began, ns since boot; 2026-11-20 12:00:00 UTC.
const BOOT_NS: u64 = 3_600_000_000_000;
const WALL_NS: u64 = 1_795_176_000_000_000_000;
/// Suites that run at one instant, suites.
const AT_ONCE: usize = 64;
/// Mean time from one event of a suite to its next, ns.
const PACE_NS: u64 = 60_000_000;
/// One in so many suites is preceded by a user's note.
const NOTED: u64 = 5_000;

/// What log to make.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What chance begins with.
    pub seed: u64,
    /// Events in the log, at least; it ends in order behind them.
    pub events: u64,
    /// Sockets that others hold from before the recording to its end.
    pub standing: u32,
    /// For how many times as long as a suite took nothing happens behind it, in its lane.
    pub idle: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self { seed: 1, events: 10_000, standing: 200, idle: 0 }
    }
}

/// What is in a log that was made: the truth that a report is compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Truth {
    /// Events.
    pub events: u64,
    /// Binds that succeeded.
    pub binds: u64,
    /// Binds that failed.
    pub refused: u64,
    /// Times that two suites shared an endpoint.
    pub shared: u64,
}

/// Makes the log; compressed when the name ends in `.zst`.
///
/// # Errors
/// When it cannot be written.
pub fn write(plan: Plan, path: &Path) -> anyhow::Result<Truth> {
    let mut writer = Writer::new(create(path)?, &header(), None)?;
    let (truth, at) = events(plan, &mut |event| Ok(writer.event(&event).map(drop)?))?;
    // What a report finds is its own affair, and what this log is made for.
    writer.end(&End {
        at,
        reason: "the command ended".to_owned(),
        events: truth.events,
        ..End::default()
    })?;
    Ok(truth)
}

/// The same as a recording would: judged as it comes, in a log of at most `limit` bytes. `each` is called for every event,
/// before it is taken.
///
/// # Errors
/// When the log cannot be written.
pub fn record(
    plan: Plan,
    path: &Path,
    limit: u64,
    mut each: impl FnMut(&Event),
) -> anyhow::Result<(Truth, Ledger)> {
    /// As many as come in at once.
    const BATCH: usize = 4096;
    let header = header();
    let writer = Writer::new(create(path)?, &header, Some(limit))?;
    let mut recorder = Recorder::new(Some(writer), Settings::default(), header.clock);
    let mut batch = Vec::new();
    let (truth, at) = events(plan, &mut |event| {
        each(&event);
        batch.push(event);
        if batch.len() == BATCH {
            recorder.take(&mut batch);
        }
        recorder.take_failure().map_or(Ok(()), |failure| Err(failure.into()))
    })?;
    recorder.take(&mut batch);
    let (ledger, failure) = recorder.end("the command ended", at);
    failure.map_or(Ok((truth, ledger)), |failure| Err(failure.into()))
}

/// Gives the events of a plan to `take`; what is in them, and the time of the last.
fn events(
    plan: Plan,
    take: &mut dyn FnMut(Event) -> anyhow::Result<()>,
) -> anyhow::Result<(Truth, BootTime)> {
    let mut out = Out { take, truth: Truth::default(), at: BOOT_NS };
    let mut chance = Chance::new(plan.seed);
    facts::machine(&mut out, plan.standing)?;

    let mut next = 0;
    let mut due: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
    let mut lanes: Vec<Option<(Suite, u64)>> = (0..AT_ONCE).map(|_| None).collect();
    let mut free: Vec<(usize, u64)> = (0..AT_ONCE).map(|lane| (lane, 0)).collect();
    loop {
        while out.truth.events < plan.events
            && let Some((lane, rested)) = free.pop()
        {
            if next % NOTED == NOTED - 1 {
                let text = format!("suite {next} starts");
                out.event(Hook::Bindwatch, Body::Note(Note { text, process: facts::RUNNER }))?;
            }
            let at = out.at.max(rested) + chance.below(2 * PACE_NS);
            due.push(Reverse((at, lane)));
            lanes[lane] = Some((Suite::new(next, lane, at, &mut chance), at));
            next += 1;
        }
        let Some(Reverse((at, lane))) = due.pop() else { break };
        out.at = out.at.max(at);
        let (suite, began) = lanes[lane].as_mut().context("a suite that is due")?;
        if suite.step(&mut out, &mut chance)? {
            due.push(Reverse((out.at + chance.below(2 * PACE_NS), lane)));
        } else {
            free.push((lane, out.at + plan.idle * (out.at - *began)));
        }
    }
    Ok((out.truth, BootTime(out.at)))
}

/// A log being made.
struct Out<'a> {
    take: &'a mut dyn FnMut(Event) -> anyhow::Result<()>,
    truth: Truth,
    at: u64,
}

impl Out<'_> {
    /// Writes an event that happens now; its number.
    fn event(&mut self, hook: Hook, body: Body) -> anyhow::Result<Seq> {
        self.truth.events += 1;
        match &body {
            Body::Bind(_) => self.truth.binds += 1,
            Body::BindFailed(_) => self.truth.refused += 1,
            _ => {}
        }
        let seq = Seq(self.truth.events);
        (self.take)(Event { seq, at: BootTime(self.at), hook, body })?;
        Ok(seq)
    }

    fn inventory(&mut self, phase: InventoryPhase) -> anyhow::Result<()> {
        self.event(Hook::Bindwatch, Body::Inventory(Inventory { phase, unseen: Vec::new() })).map(drop)
    }
}

fn header() -> Header {
    Header {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: Host {
            hostname: "ci-7".to_owned(),
            kernel: "6.12.0".to_owned(),
            boot_id: "4b0f1a52-9b8e-4a8e-9d6c-0d1f3d1c2b3a".to_owned(),
        },
        clock: Anchors { boot_ns: BOOT_NS, wall_ns: WALL_NS },
        command_line: ["bindwatch", "record", "-o", "bindwatch.jsonl"].map(str::to_owned).to_vec(),
        hooks: ["post_bind4", "post_bind6", "sock_release", "inet_sock_set_state"]
            .map(str::to_owned)
            .to_vec(),
        refused: Vec::new(),
        backend: None,
        rules: Rules::default(),
        cmdline: "full".to_owned(),
        events: "all".to_owned(),
        enforcement: None,
    }
}
