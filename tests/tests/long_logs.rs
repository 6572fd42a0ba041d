//! Logs of any length: made from a seed, and reported on in memory that grows with what is held, not with the log.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use bindwatch::event::Body;
use bindwatch::ledger::Ledger;
use bindwatch::ledger::finding::Kind;
use bindwatch::log::Reader;
use scenarios::synthetic::{Plan, Truth, record, write};
use scenarios::{Folder, Log, Report, Run};

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

/// What was found, as far as a shorter log must tell it: kind, port, and who takes part.
fn found(ledger: &Ledger) -> BTreeSet<(String, u64, BTreeSet<u64>)> {
    let name =
        |kind: Kind| serde_json::to_value(kind).expect("a name").as_str().unwrap_or_default().to_owned();
    let findings = ledger.findings();
    findings
        .map(|finding| {
            let holders = finding.holders.iter().map(|holder| holder.process.tgid.into()).collect();
            (name(finding.kind), finding.port.into(), holders)
        })
        .collect()
}

fn told(report: &Report) -> BTreeSet<(String, u64, BTreeSet<u64>)> {
    let findings = report.0["findings"].as_array().expect("findings");
    let number = |value: &serde_json::Value| value.as_u64().unwrap_or(0);
    findings
        .iter()
        .map(|finding| {
            let holders = finding["holders"].as_array().expect("holders").iter();
            let kind = finding["kind"].as_str().unwrap_or_default().to_owned();
            (kind, number(&finding["port"]), holders.map(|holder| number(&holder["pid"])).collect())
        })
        .collect()
}

#[test]
fn a_log_that_is_kept_short_has_what_is_new_what_is_held_and_what_was_found() {
    let folder = Folder::new();
    // As many events as are several times that size.
    for (name, limit, events) in [("short.jsonl", 1 << 20, 60_000), ("short.jsonl.zst", 1 << 19, 200_000)] {
        let path = folder.file(name);
        let plan = Plan { events, ..Plan::default() };
        let mut last = 0;
        let mut longest = 0;
        let (truth, ledger) = record(plan, &path, limit, |event| {
            last = event.seq.0;
            longest = longest.max(std::fs::metadata(&path).map_or(0, |file| file.len()));
        })
        .expect("a log");
        let length = std::fs::metadata(&path).expect("the log").len();
        println!("{name}: {events} events in {length} bytes, at most {longest}");
        assert!(longest <= limit, "{name}: {longest} bytes");
        // What is written behind the limit: findings, and the last line.
        assert!(length < limit * 2, "{name}: {length} bytes");
        assert!(std::fs::read_dir(folder.path()).expect("a folder").count() <= 2, "something is left behind");

        let (mut omitted, mut read_last, mut full) = (Vec::new(), 0, false);
        for event in Reader::new(File::open(&path).expect("the log"), &path).expect("its header") {
            let event = event.expect("an event");
            read_last = event.seq.0;
            match event.body {
                Body::Omitted(gone) => omitted.push(gone.events),
                Body::Limit(_) => full = true,
                _ => {}
            }
        }
        assert!(!full, "{name} was full");
        assert_eq!(read_last, last, "the last event");
        assert!(omitted.len() == 1 && omitted[0] > plan.events / 2, "{omitted:?}");

        let log = Log::at(&path);
        let report = log.report();
        assert_eq!(report.stat("events"), truth.events);
        assert_eq!(report.stat("binds"), truth.binds);
        assert_eq!(report.stat("binds_failed"), truth.refused);
        assert_eq!(report.stat("sockets"), u64::from(plan.standing), "what is held");
        let (found, told) = (found(&ledger), told(&report));
        assert!(!found.is_empty());
        let missing: Vec<_> = found.difference(&told).collect();
        let wrong: Vec<_> = told.difference(&found).collect();
        assert!(missing.is_empty() && wrong.is_empty(), "{name}: missing {missing:?}, wrong {wrong:?}");
        let text =
            Run::bindwatch([std::ffi::OsStr::new("report"), path.as_os_str()]).outcome().expect(0).stdout;
        assert!(text.contains("was kept below its --max-size"), "{text}");
    }
}
