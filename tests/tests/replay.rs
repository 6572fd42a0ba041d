//! The same log gives the same report to everybody, everywhere.

#![expect(clippy::expect_used, reason = "tests fail by panicking")]

use scenarios::{Actor, Folder, Recording, Run, loopback};

const FORMATS: [&str; 2] = ["text", "json"];

#[test]
fn a_report_depends_on_the_log_and_on_nothing_else() {
    let recording = Recording::start();
    let address = loopback();
    let (mut one, mut other) = (Actor::new(), Actor::new());
    for actor in [&mut one, &mut other] {
        actor.bind(&format!("tcp {address}:8000 reuseport listen"));
    }
    assert_eq!(one.err(&format!("bind tcp {address}:8000")), "EADDRINUSE");
    recording.fence();
    let finished = recording.stop();
    drop((one, other));

    let elsewhere = Folder::new();
    let copy = elsewhere.write("log.jsonl", std::fs::read(finished.log.path()).expect("a log"));
    for format in FORMATS {
        let report = || Run::bindwatch(["report", "--format", format, "log.jsonl"]);
        let here = report().folder(finished.folder.path()).outcome().expect(0);
        assert!(here.stdout.contains(&address.to_string()), "{here}");
        let there = report()
            .env("TZ", "Pacific/Kiritimati")
            .env("LC_ALL", "C")
            .env("HOME", "/nonexistent")
            .folder(copy.parent().expect("a folder"))
            .as_nobody()
            .outcome()
            .expect(0);
        assert_eq!(here.stdout, there.stdout, "{format}");
    }
}

#[test]
fn a_recording_and_its_log_tell_the_same_to_the_byte() {
    let recording = Recording::start();
    let address = loopback();
    let mut one = Actor::new();
    one.bind(&format!("tcp {address}:8000 listen"));
    assert_eq!(Actor::new().err(&format!("bind tcp {address}:8000")), "EADDRINUSE");
    recording.fence();
    let finished = recording.stop();
    assert_eq!(finished.live().to_string(), finished.log.report().to_string());
}

#[test]
fn the_findings_in_the_log_are_those_of_its_report() {
    let recording = Recording::start();
    let address = loopback();
    let (mut one, mut other) = (Actor::new(), Actor::new());
    for actor in [&mut one, &mut other] {
        actor.bind(&format!("tcp {address}:8000 reuseport listen"));
    }
    recording.fence();
    let finished = recording.stop();
    let written = finished.log.lines("\"type\":\"finding\"");
    let ours: Vec<_> =
        written.iter().filter(|line| line.to_string().contains(&address.to_string())).collect();
    assert!(!ours.is_empty(), "a co-bind is written into the log when it is found");
    assert_eq!(finished.report().at(address).len(), 1);
}

#[test]
fn a_compressed_log_gives_the_same_report() {
    let recording = Recording::start();
    let address = loopback();
    let mut one = Actor::new();
    one.bind(&format!("tcp {address}:8000 listen"));
    assert_eq!(Actor::new().err(&format!("bind tcp {address}:8000")), "EADDRINUSE");
    recording.fence();
    let finished = recording.stop();
    let (plain, packed) = (finished.log.path(), finished.folder.file("log.jsonl.zst"));
    let compressed = Run::new("zstd").args(["-q", "-o"]).args([&packed]).args([plain]).outcome();
    drop(compressed.expect(0));
    let report = |log: &std::path::Path| {
        Run::bindwatch(["report", "--format", "json"]).args([log]).outcome().expect(0)
    };
    assert_eq!(report(plain).stdout, report(&packed).stdout);
}
