//! More binds than a slow reader could follow: each is seen, or its loss is stated.

#![expect(clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::time::Duration;

use scenarios::wait::{Deadline, SLOWNESS, Signal};
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

#[test]
fn binds_that_are_refused_without_a_pause_keep_nobody_from_beginning_or_ending() {
    let address = loopback();
    let mut holder = Actor::new();
    holder.bind(&format!("tcp {address}:8000 listen"));
    // As many as there are processors, so that they make records faster than these are read.
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let stubborn: Vec<_> = (0..processors)
        .map(|_| {
            let mut actor = Actor::new();
            actor.begin(&format!("again 1000000000 tcp {address}:8000"));
            actor
        })
        .collect();
    let finding = Recording::start().stop().report().only(address, 8000);
    for actor in stubborn {
        assert!(!actor.process.ended(Deadline::after(Duration::ZERO)), "it goes on");
        actor.process.signal(Signal::KILL);
    }
    assert_eq!((finding.kind(), finding.pids()), ("refused", vec![u64::from(holder.pid())]));
}
