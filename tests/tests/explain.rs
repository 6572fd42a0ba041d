//! The story of one endpoint, while the recording still runs.

#![expect(clippy::indexing_slicing, clippy::expect_used, reason = "tests fail by panicking")]

use scenarios::{Actor, Recording, Report, Run, loopback};

#[test]
fn the_story_of_an_endpoint_is_told_while_the_recording_runs() {
    let recording = Recording::start();
    let (address, other) = (loopback(), loopback());
    let mut servers = [Actor::new(), Actor::new()];
    let first = servers[0].bind(&format!("tcp {address}:8000 reuseport listen"));
    servers[1].bind(&format!("tcp {address}:8000 reuseport listen"));
    servers[0].bind(&format!("tcp {other}:8000 listen"));
    recording.fence();
    let log = recording.log().path().to_owned();
    let explain = |options: &[&str]| {
        Run::bindwatch(["explain"])
            .args([&log])
            .args([format!("{address}:8000")])
            .args(options)
            .outcome()
            .expect(0)
    };
    let pids = servers.each_ref().map(Actor::pid);
    let told = explain(&[]).stdout;
    let lines: Vec<&str> = told.lines().filter(|line| line.contains(" bound tcp ")).collect();
    assert_eq!(lines.len(), 2, "{told}");
    assert!(
        lines[0].contains(&format!("(PID {})", pids[0])) && lines[1].contains(&format!("(PID {})", pids[1]))
    );
    assert!(told.contains("error co-bind") && !told.contains(&other.to_string()), "{told}");
    assert!(told.starts_with("warning: the log has no last line"), "what is not yet there is said: {told}");

    let now = explain(&["--format", "json", "--at", "1h"]).stdout;
    let history = Report::of(&now).0["history"].clone();
    let held = |history: &serde_json::Value| -> Vec<u64> {
        let holders = history["holders"].as_array().expect("holders").iter();
        holders.filter_map(|holder| holder["pid"].as_u64()).collect()
    };
    assert_eq!(held(&history), pids.map(u64::from), "after the last event, who holds it now");
    // Between the first bind and the second only the first held it.
    let second =
        history["events"].as_array().expect("events").iter().filter(|event| event["event"] == "bind").nth(1);
    let before = second.expect("two binds")["at"].as_str().expect("a time").to_owned();
    let before = before.parse::<jiff::Timestamp>().expect("a time") - std::time::Duration::from_millis(1);
    let then = explain(&["--format", "json", "--at", &before.to_string()]).stdout;
    let then = held(&Report::of(&then).0["history"]);
    assert!(then.is_empty() || then == [u64::from(pids[0])], "{then:?}");

    servers[0].ok(&format!("close {}", first.id));
    recording.fence();
    let after = explain(&[]).stdout;
    assert!(after.contains(&format!("on tcp {address}:8000 was closed")), "{after}");
    drop(recording.stop());
}

#[test]
fn what_is_not_in_the_log_did_not_happen_there() {
    let recording = Recording::start();
    let address = loopback();
    recording.fence();
    let finished = recording.stop();
    let told = Run::bindwatch(["explain"])
        .args([finished.log.path()])
        .args([format!("{address}:8000")])
        .outcome()
        .expect(0);
    assert!(told.stdout.contains("nothing happened there\n\nNo findings there\n"), "{told}");
    let missing = Run::bindwatch(["explain", "/nowhere.jsonl", ":80"]).outcome();
    missing.expect_one_line(125);
}
