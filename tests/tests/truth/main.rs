//! Random histories of real processes: what bindwatch believes is held, and by whom, must be what the kernel's own tables
//! say.
//!
//! `BINDWATCH_SEED` gives the first seed, `BINDWATCH_TRUTH` how many (20). The log of a seed that fails is kept.
//!
//! What is promised of holders: who bound a socket is known from its bind, and everybody who has it is looked up when a
//! finding is made of it. So every socket here is asked about by a bind that it keeps out, and then compared.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "tests fail by panicking"
)]

mod fault;
mod history;
mod picture;

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use scenarios::wait::SLOWNESS;
use scenarios::{Actor, Log, Recording};

use history::{Chance, World};
use picture::{Kernel, Picture};

/// Calls of one history.
const CALLS: u64 = 10_000;
/// Histories of one run.
const SEEDS: u64 = if SLOWNESS == 1 { 20 } else { 1 };
/// Steps between two looks.
const STEPS: u64 = 400;
/// Sockets whose holders are asked for at one look. Some are not looked up: bindwatch looks at 200 ports a second.
const ASKED: usize = 12;
/// Sockets whose holders must have been compared in one history.
const ASKED_MIN: usize = 50;
/// Lines of the log that are shown of a difference.
const TOLD_MAX: usize = 100;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name}={value}")))
}

#[test]
fn the_ledger_equals_the_kernel() {
    let first = number("BINDWATCH_SEED").unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_micros() as u64 % 1_000_000
    });
    for seed in first..first + number("BINDWATCH_TRUTH").unwrap_or(SEEDS) {
        history(seed);
    }
}

/// Differences of holders, each with the last that the log says of the socket and of those who have it: in a guest the log goes with
/// the failure.
fn with_what_was_told(differences: &[(String, Vec<String>)], log: &Log) -> String {
    let text = std::fs::read_to_string(log.path()).expect("a log");
    let mut told = String::new();
    for (difference, needles) in differences {
        told.push_str(difference);
        let about = |line: &&str| needles.iter().any(|needle| line.contains(needle));
        let lines: Vec<&str> = text.lines().filter(about).collect();
        for line in lines.iter().skip(lines.len().saturating_sub(TOLD_MAX)) {
            told.push_str("\n  ");
            told.push_str(line);
        }
        told.push('\n');
    }
    told
}

fn history(seed: u64) {
    eprintln!("BINDWATCH_SEED={seed}");
    let recording = Recording::start();
    let mut world = World::new(seed);
    let mut marker = Actor::new();
    let mut picture = Picture::new(world.probers());
    let mut asking = Chance::of(!seed);
    let namespaces = world.namespaces();
    let (mut looks, mut compared, mut asked) = (0, 0, 0);
    while world.calls < CALLS {
        world.live(STEPS);
        picture.catch_up(&recording, &mut marker);
        let kernel = Kernel::now(&namespaces);
        let differences = picture.differences(&kernel);
        assert!(
            differences.is_empty(),
            "seed {seed}, after {} calls:\n{}",
            world.calls,
            differences.join("\n")
        );

        // Who has them is looked up where it matters: at a bind that is refused.
        let at_rest: Vec<_> = kernel.sockets.iter().filter(|(_, row)| kernel.is_at_rest(row)).collect();
        let mut chosen = BTreeSet::new();
        for _ in 0..ASKED.min(at_rest.len()) {
            let (cookie, row) = at_rest[asking.below(at_rest.len())];
            if !chosen.insert(*cookie) {
                continue;
            }
            let (namespace, bind) = kernel.same_bind(row);
            let answer = world.probe(namespace, &bind);
            assert_eq!(answer, "err EADDRINUSE", "seed {seed}: {bind} beside {row:?}");
        }
        picture.looked_up.clear();
        picture.catch_up(&recording, &mut marker);
        // Beyond so many look-ups a second the holders are those that were known.
        chosen.retain(|cookie| picture.looked_up.contains(cookie));
        let differences = picture.holder_differences(&kernel, &chosen);
        assert!(
            differences.is_empty(),
            "seed {seed}, after {} calls:\n{}",
            world.calls,
            with_what_was_told(&differences, recording.log())
        );
        looks += 1;
        compared += at_rest.len();
        asked += chosen.len();
    }
    assert!(asked >= ASKED_MIN, "holders of {asked} sockets were looked up");
    let finished = recording.stop();
    let report = finished.report();
    picture.read(&finished.log);
    // What the kernel itself leaves out is stated, and made up for: there were no differences.
    let expected = (picture.left_out, picture.left_out);
    assert_eq!((picture.lost, report.stat("lost")), expected, "bindwatch lost nothing");
    assert_eq!(picture.ledger().findings().count(), report.findings().len());
    eprintln!(
        "seed {seed}: {} calls ({} refused by the kernel), {} events, {looks} looks at {compared} sockets, holders of \
         {asked}, 0 differences, {} events left out by the kernel",
        world.calls, world.refused, picture.events, picture.left_out
    );
}
