//! What is left of a recording that was killed: a log up to its last whole line, and nothing in the kernel.

#![expect(clippy::expect_used, reason = "tests fail by panicking")]

use std::collections::BTreeSet;

use scenarios::wait::Deadline;
use scenarios::{Actor, Recording, Run, loopback};

/// The ids of the programs that this process keeps in the kernel, by its descriptors.
fn programs_of(pid: u32) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("a process that lives").flatten() {
        let facts = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let ids = facts.lines().filter_map(|line| line.strip_prefix("prog_id:")?.trim().parse::<u32>().ok());
        found.extend(ids);
    }
    found
}

fn is_loaded(program: u32) -> bool {
    Run::new("bpftool").args(["prog", "show", "id", &program.to_string()]).outcome().code() == 0
}

#[test]
fn a_killed_recording_leaves_a_log_that_reads_and_nothing_attached() {
    let recording = Recording::start();
    let address = loopback();
    let (mut one, mut other) = (Actor::new(), Actor::new());
    for actor in [&mut one, &mut other] {
        actor.bind(&format!("tcp {address}:8000 reuseport listen"));
    }
    recording.fence();
    let programs = programs_of(recording.pid());
    assert!(!programs.is_empty(), "a recording keeps its programs by descriptors");
    let killed = recording.kill();

    // The kernel frees them a moment later.
    let deadline = Deadline::patient();
    for program in programs {
        while is_loaded(program) {
            assert!(!deadline.over(), "program {program} is still loaded");
        }
    }

    let report = killed.log.report();
    assert!(!report.complete(), "the log has no end, and the report says so");
    assert_eq!(report.only(address, 8000).kind(), "co-bind");
    let text = Run::bindwatch(["report"]).args([killed.log.path()]).outcome().expect(0);
    assert!(text.stdout.contains(&address.to_string()), "{text}");
}

#[test]
fn a_log_is_read_up_to_its_last_whole_line() {
    let recording = Recording::start();
    let address = loopback();
    let mut actor = Actor::new();
    actor.bind(&format!("tcp {address}:8000 listen"));
    assert_eq!(Actor::new().err(&format!("bind tcp {address}:8000")), "EADDRINUSE");
    recording.fence();
    let finished = recording.stop();
    let whole = std::fs::read(finished.log.path()).expect("a log");
    let header = whole.iter().position(|byte| *byte == b'\n').expect("a header");

    // At a few places over its length: inside the header nothing can be read, behind it everything that is whole.
    for part in 1..8 {
        let cut = header + 1 + (whole.len() - header - 2) * part / 8;
        let log = scenarios::Log::at(&finished.folder.write("cut.jsonl", whole.get(..cut).expect("a part")));
        let report = log.report();
        assert!(!report.complete(), "cut at {cut} of {}", whole.len());
    }
    let headless = finished.folder.write("headless.jsonl", whole.get(..header / 2).expect("a part"));
    Run::bindwatch(["report"]).args([headless]).outcome().expect_one_line(125);
}
