//! Logs of any length: made from a seed, and reported on in memory that grows with what is held, not with the log.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::path::Path;

use scenarios::synthetic::{Plan, Truth, write};
use scenarios::{Folder, Log, Run};

fn make(plan: Plan, path: &Path) -> Truth {
    write(plan, path).expect("a log")
}

#[test]
fn a_made_log_is_as_true_as_a_recorded_one() {
    let folder = Folder::new();
    let (plain, compressed) = (folder.file("plain.jsonl"), folder.file("compressed.jsonl.zst"));
    let plan = Plan { events: 60_000, ..Plan::default() };
    let truth = make(plan, &plain);
    assert_eq!(make(plan, &compressed), truth);
    assert!(truth.shared > 0 && truth.refused > 0, "{truth:?}");

    let report = Log::at(&plain).report();
    assert_eq!(report.stat("events"), truth.events);
    assert_eq!(report.stat("binds"), truth.binds);
    assert_eq!(report.stat("binds_failed"), truth.refused);
    assert_eq!(report.stat("sockets"), u64::from(plan.standing), "what was opened was closed");
    let shared = report.0["findings"].as_array().expect("findings");
    let shared = shared.iter().filter(|finding| finding["kind"] == "co-bind").count();
    assert_eq!(shared as u64, truth.shared, "{report}");
    assert!(Log::at(&compressed).report().0 == report.0, "the compressed log's report is another");

    let again = folder.file("again.jsonl");
    make(plan, &again);
    let same = |file: &Path| std::fs::read(file).expect("a log");
    assert!(same(&again) == same(&plain), "one seed, two logs");
    make(Plan { seed: 2, ..plan }, &again);
    assert!(same(&again) != same(&plain), "two seeds, one log");
}

/// Largest memory of a report of a log, KiB.
fn memory(log: &Path) -> u64 {
    let bench = scenarios::Actor::program().with_file_name("bench");
    let report =
        [scenarios::bindwatch().as_os_str(), "report".as_ref(), log.as_os_str()].map(ToOwned::to_owned);
    let outcome = Run::new(bench).args(["measure"]).args(report).outcome().expect(0);
    let measured = outcome.stderr.lines().last().expect("a line");
    let (_, kib) = measured.split_once("peak_kib=").expect("its memory");
    kib.parse().expect("a number")
}

#[test]
fn a_report_of_a_log_four_times_as_long_takes_no_more_memory() {
    const MORE_MAX_KIB: u64 = 8 << 10;
    let folder = Folder::new();
    let (short, long) = (folder.file("short.jsonl"), folder.file("long.jsonl"));
    make(Plan { events: 50_000, ..Plan::default() }, &short);
    make(Plan { events: 200_000, ..Plan::default() }, &long);
    let (short, long) = (memory(&short), memory(&long));
    println!("{short} KiB for 50 000 events, {long} KiB for 200 000");
    assert!(long < short + MORE_MAX_KIB, "{short} KiB for 50 000 events, {long} KiB for 200 000");
}
