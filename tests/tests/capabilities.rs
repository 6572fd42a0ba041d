//! What docs/security.md says that each command needs: with it the command works, and without any part of it it does not.

#![expect(clippy::expect_used, reason = "tests fail by panicking")]

use std::os::unix::fs::{PermissionsExt as _, chown};

use scenarios::{Cgroup, Folder, Run};

const NEEDED: [&str; 3] = ["bpf", "perfmon", "net_admin"];

/// What is there, but for one.
fn without(one: &str) -> Vec<&'static str> {
    NEEDED.into_iter().filter(|other| *other != one).collect()
}

#[test]
fn three_capabilities_are_needed_and_enough() {
    let (folder, enforced) = (Folder::new(), Cgroup::new());
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).expect("permissions");
    let log = |name: &str| folder.file(name).display().to_string();
    let cgroup = enforced.path().display().to_string();
    let (recorded, denied) = (log("record.jsonl"), log("enforce.jsonl"));
    let record = ["record", "--quiet", "--duration", "1ms", "--output", &recorded].map(str::to_owned);
    let enforce = ["enforce", "--quiet", "--duration", "1ms", "--cgroup", &cgroup, "--output", &denied];
    let commands = [record.to_vec(), enforce.map(str::to_owned).to_vec()];
    for command in &commands {
        drop(Run::bindwatch(command).as_nobody_with(&NEEDED).outcome().expect(0));
        for one in NEEDED {
            let outcome = Run::bindwatch(command).as_nobody_with(&without(one)).outcome();
            outcome.expect_one_line(125);
            assert!(outcome.stderr.contains("CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"), "{one}: {outcome}");
        }
    }
    // `doctor` is of the same opinion.
    let doctor = |capabilities: &[&str]| Run::bindwatch(["doctor"]).as_nobody_with(capabilities).outcome();
    let outcome = doctor(&NEEDED).expect(0);
    assert!(outcome.stdout.contains("bindwatch can record here."), "{outcome}");
    for one in NEEDED {
        let outcome = doctor(&without(one)).expect(125);
        let missing = format!("without CAP_{}", one.to_uppercase());
        assert!(outcome.stdout.contains(&missing), "{outcome}");
    }
}

#[test]
fn run_needs_a_cgroup_as_well_that_it_may_write_to() {
    let folder = Folder::new();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).expect("permissions");
    let log = folder.file("log.jsonl").display().to_string();
    let command = ["run", "--quiet", "--on-conflict", "deny", "--output", &log, "--", "true"];
    let delegated = Cgroup::new();
    let run = || Run::bindwatch(command).as_nobody_with(&NEEDED).inside(&delegated);
    let outcome = run().outcome();
    outcome.expect_one_line(125);
    assert!(outcome.stderr.contains("delegated to you"), "{outcome}");
    // systemd does this for `Delegate=yes` (cgroups(7), delegation).
    for file in ["", "cgroup.procs", "cgroup.subtree_control"] {
        chown(delegated.path().join(file), Some(65534), Some(65534)).expect("another owner");
    }
    drop(run().outcome().expect(0));
}
