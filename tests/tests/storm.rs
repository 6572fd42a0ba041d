//! More binds than a slow reader could follow: each is seen, or its loss is stated.

#![expect(clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::time::Duration;

use scenarios::wait::SLOWNESS;
use scenarios::{Actor, Log, Recording, Run, loopback};

const PROCESSES: u64 = if SLOWNESS == 1 { 2_500 } else { 100 };
const BINDS: u64 = 100;

/// The `bind` records that the log says were lost.
fn lost(log: &Log) -> u64 {
    let counts =
        log.lines("\"type\":\"lost\"").into_iter().map(|line| line["counts"]["bind"].as_u64().unwrap_or(0));
    counts.sum()
}

#[test]
fn a_quarter_of_a_million_binds_are_all_accounted_for() {
    let recording = Recording::start();
    let address = loopback();
    let storm = Run::new(Actor::program().with_file_name("storm"))
        .args([PROCESSES.to_string(), BINDS.to_string(), address.to_string()])
        .within(Duration::from_secs(240))
        .outcome()
        .expect(0);
    assert_eq!(storm.stdout.trim(), (PROCESSES * BINDS).to_string());
    // No marker: it might be among what is lost. What is in the ring at the end is read.
    let finished = recording.stop();

    let mut seen = 0;
    let needle = format!("\"address\":\"{address}\"");
    finished.log.each(&needle, |line| seen += u64::from(line["type"] == "bind"));
    let (made, lost) = (PROCESSES * BINDS, lost(&finished.log));
    println!("{seen} of {made} binds seen, {lost} stated as lost");
    assert!(seen <= made, "{seen} seen of {made}");
    // Other tests bind meanwhile, so some of what was lost may have been theirs.
    assert!(seen + lost >= made, "{seen} seen and {lost} stated as lost, of {made}");

    let report = finished.report();
    assert_eq!(report.stat("lost") == 0, lost == 0 && finished.log.lines("\"type\":\"lost\"").is_empty());
    assert!(report.stat("binds") >= seen);
    assert!(report.at(address).iter().all(|finding| finding.kind() != "co-bind"), "{report}");
}
