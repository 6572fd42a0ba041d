//! Where a container hides a part of the machine, bindwatch says so and records nothing; where it does not, it works.

#![expect(clippy::expect_used, reason = "tests fail by panicking")]

use scenarios::{Actor, Cgroup, Folder, Outcome, Run, bindwatch, cgroup2, loopback};

/// `bindwatch record` in what these words make of it.
fn record(wrap: &[&str]) -> Outcome {
    let folder = Folder::new();
    let (program, arguments) = wrap.split_first().expect("a program");
    let outcome = Run::new(program)
        .args(arguments)
        .args([bindwatch()])
        .args(["record", "--duration", "1ms", "--output"])
        .args([folder.file("log.jsonl")])
        .outcome();
    if outcome.code() != 0 {
        assert!(!folder.file("log.jsonl").exists(), "nothing was recorded: {outcome}");
    }
    outcome
}

#[test]
fn a_user_namespace_is_a_clear_no() {
    let outcome = record(&["unshare", "--user", "--map-root-user"]);
    outcome.expect_one_line(125);
    assert!(outcome.stderr.contains("user namespace"), "{outcome}");
    let doctor = Run::new("unshare").args(["--user", "--map-root-user"]).args([bindwatch()]).args(["doctor"]);
    let doctor = doctor.outcome().expect(125);
    assert!(doctor.stdout.contains("user namespace"), "{doctor}");
}

#[test]
fn a_pid_namespace_of_its_own_is_refused() {
    let outcome = record(&["unshare", "--pid", "--fork", "--mount-proc"]);
    outcome.expect_one_line(125);
    assert!(outcome.stderr.contains("--pid=host"), "{outcome}");
}

#[test]
fn a_part_of_the_cgroups_is_refused_and_a_view_of_all_is_enough() {
    let cgroup = Cgroup::new();
    // As a container has it: the hierarchy is mounted in a cgroup namespace, and no other mount of it is to be seen.
    let hide = format!(
        "of() {{ grep ' - cgroup2 ' /proc/self/mountinfo | tail -n 1 | cut -d' ' -f5; }}; \
         while [ -n \"$(of)\" ]; do umount -l \"$(of)\" || exit 9; done; \
         mount -t cgroup2 none {} && exec \"$@\"",
        cgroup2().display()
    );
    let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", cgroup.path().display());
    let words = ["sh", "-c", &enter, "sh", "unshare", "--cgroup", "--mount", "sh", "-c", &hide, "sh"];
    let outcome = record(&words);
    outcome.expect_one_line(125);
    assert!(outcome.stderr.contains("--cgroupns=host"), "{outcome}");

    // A namespace that still shows the machine's hierarchy hides nothing.
    drop(record(&["unshare", "--cgroup"]).expect(0));
}

#[test]
fn a_run_in_a_cgroup_namespace_that_shows_all_sees_binds_elsewhere() {
    let (folder, address) = (Folder::new(), loopback());
    let mut outside = Actor::new();
    outside.bind(&format!("tcp {address}:8000 reuseport listen"));
    let log = folder.file("log.jsonl");
    let inside = format!("bind tcp {address}:8000 reuseport listen");
    let run =
        Run::new("unshare").args(["--cgroup"]).args([bindwatch()]).args(["run", "--output"]).args([&log]);
    let run =
        run.args(["--fail-on", "co-bind", "--"]).args([Actor::program()]).args([inside.as_str(), "exit"]);
    drop(run.outcome().expect(1));
}
