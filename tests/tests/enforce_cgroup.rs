//! `enforce` and `enroll`: binds are denied in the cgroups that were named, as long as it runs, and nowhere else.

#![expect(clippy::expect_used, reason = "tests fail by panicking")]

use std::process::Command;

use scenarios::{Actor, Cgroup, Folder, Log, Recording, Run, bindwatch, loopback};

/// Moves actors into a cgroup.
fn enroll(cgroup: &Cgroup, actors: &[&Actor]) -> Run {
    let pids = actors.iter().map(|actor| actor.pid().to_string());
    Run::bindwatch(["enroll", "--cgroup"]).args([cgroup.path()]).args(pids)
}

#[test]
fn binds_are_denied_in_the_cgroup_as_long_as_it_runs() {
    let (cgroup, address) = (Cgroup::new(), loopback());
    let (mut one, mut other, mut outside) = (Actor::new(), Actor::new(), Actor::new());
    let recording = Recording::enforcing::<&str>(&cgroup, []);
    drop(enroll(&cgroup, &[&one, &other]).outcome().expect(0));
    let mut pids = [one.pid(), other.pid()];
    pids.sort_unstable();
    let mut inside = cgroup.processes();
    inside.sort_unstable();
    assert_eq!(inside, pids);

    one.bind(&format!("tcp {address}:8000 reuseport listen"));
    assert_eq!(other.tell(&format!("bind tcp {address}:8000 reuseport")).to_string(), "err EADDRINUSE");
    // Outside nobody is denied anything; what is held there counts.
    outside.bind(&format!("tcp {address}:8000 reuseport listen"));
    outside.bind(&format!("udp {address}:8001 reuseport"));
    assert_eq!(other.tell(&format!("bind udp {address}:8001 reuseport")).to_string(), "err EADDRINUSE");
    recording.fence();
    let finished = recording.stop();
    other.bind(&format!("tcp {address}:8000 reuseport listen"));

    let report = finished.report();
    let denied: Vec<_> =
        report.at(address).into_iter().filter(|finding| finding.kind() == "denied").collect();
    assert_eq!(denied.len(), 2, "{report}");
    for (finding, holder) in denied.iter().zip([&one, &outside]) {
        assert_eq!(finding.pids(), [u64::from(holder.pid())], "{report}");
        assert_eq!(finding.victim().number("pid"), u64::from(other.pid()));
        assert_eq!(finding.0.get("dry_run"), None);
    }
    let said = &finished.outcome.stderr;
    assert!(said.contains("denying conflicting binds in /"), "{said}");
}

#[test]
fn a_dry_run_tells_what_would_have_been_denied() {
    let (cgroup, address) = (Cgroup::new(), loopback());
    let (mut one, mut other) = (Actor::new(), Actor::new());
    let recording = Recording::enforcing(&cgroup, ["--dry-run"]);
    drop(enroll(&cgroup, &[&other]).outcome().expect(0));
    one.bind(&format!("tcp {address}:8000 reuseport listen"));
    other.bind(&format!("tcp {address}:8000 reuseport listen"));
    recording.fence();
    let report = recording.stop().report();
    let findings = report.at(address);
    let kinds: Vec<_> = findings.iter().map(|finding| finding.kind()).collect();
    assert_eq!(kinds, ["co-bind", "denied"], "{report}");
    let denied = findings.last().expect("a finding");
    assert_eq!(denied.0.get("dry_run"), Some(&true.into()));
    assert_eq!(denied.pids(), [u64::from(one.pid())]);
    assert_eq!(denied.victim().number("pid"), u64::from(other.pid()));
    assert!(denied.text("summary").contains("would have been denied tcp"), "{report}");
}

#[test]
fn a_run_that_only_reports_says_what_it_would_have_denied() {
    let (folder, address) = (Folder::new(), loopback());
    let mut outside = Actor::new();
    outside.bind(&format!("tcp {address}:8001 reuseport listen"));
    let mut run = Command::new(bindwatch());
    run.args(["run", "--quiet", "--output"]).arg(folder.file("log.jsonl")).arg("--").arg(Actor::program());
    let mut job = Actor::start(&mut run);
    job.ok("spawn");
    job.ok("spawn");
    for child in [1, 2] {
        job.ok(&format!("tell {child} bind tcp {address}:8000 reuseport listen"));
    }
    job.ok(&format!("tell 1 bind tcp {address}:8001 reuseport listen"));
    // Whoever comes from outside would not have been denied.
    job.ok(&format!("tell 1 bind tcp {address}:8002 reuseport listen"));
    outside.bind(&format!("tcp {address}:8002 reuseport listen"));
    job.exit();
    let report = Log::at(&folder.file("log.jsonl")).report();
    for (port, would_deny) in [(8000, Some(1)), (8001, Some(1)), (8002, None)] {
        // A child that has not ended yet with its parent is an orphan as well, and whoever stays longest took over.
        let found = report.on(address, port).into_iter().find(|finding| finding.kind() != "orphan");
        let finding = found.expect("that it was shared");
        assert_eq!(finding.0.get("would_deny").and_then(serde_json::Value::as_u64), would_deny, "{report}");
    }
}

#[test]
fn only_what_may_be_enrolled_is() {
    let (cgroup, bystander) = (Cgroup::new(), Actor::new());
    let outcome = enroll(&cgroup, &[&bystander]).outcome();
    outcome.expect_one_line(125);
    assert!(outcome.stderr.contains("nothing denies binds in the cgroup /"), "{outcome}");

    let recording = Recording::enforcing::<&str>(&cgroup, []);
    let outcome = enroll(&cgroup, &[&bystander]).args(["--quiet"]).as_nobody().outcome();
    outcome.expect_one_line(125);
    assert!(outcome.stderr.contains("is not yours"), "{outcome}");
    // One that is not there keeps the others out as well.
    let outcome = enroll(&cgroup, &[&bystander]).args(["4194304"]).outcome();
    outcome.expect_one_line(125);
    assert!(outcome.stderr.contains("there is no process 4194304"), "{outcome}");
    assert!(cgroup.processes().is_empty());
    drop(recording.stop());

    for (path, said) in [("/no-such-cgroup", "there is no cgroup"), ("/tmp", "is not a cgroup")] {
        let outcome = Run::bindwatch(["enforce", "--cgroup", path]).outcome();
        outcome.expect_one_line(125);
        assert!(outcome.stderr.contains(said), "{outcome}");
    }
}

#[test]
fn a_wait_by_what_bindwatch_itself_is_compared_by_is_refused() {
    for rule in ["session", "cgroup", "user"] {
        let run = Run::bindwatch(["run", "--on-conflict", "wait=1s", "--related-by", rule, "--", "true"]);
        let outcome = run.outcome();
        outcome.expect_one_line(2);
        assert!(outcome.stderr.contains("--on-conflict wait decides by lineage or process"), "{outcome}");
    }
}

#[test]
fn nothing_is_pinned_without_the_right_to() {
    let cgroup = Cgroup::new();
    let enforce = Run::bindwatch(["enforce", "--pin", "--cgroup"]).args([cgroup.path()]).as_nobody();
    let outcome = enforce.outcome();
    outcome.expect_one_line(125);
    assert!(outcome.stderr.contains("bindwatch needs root to load its probe"), "{outcome}");
    let (mut one, mut other) = (Actor::new(), Actor::new());
    cgroup.enrol(one.pid());
    cgroup.enrol(other.pid());
    let address = loopback();
    one.bind(&format!("tcp {address}:27113 reuseport listen"));
    other.bind(&format!("tcp {address}:27113 reuseport listen"));
}
