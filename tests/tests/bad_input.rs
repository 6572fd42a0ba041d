//! What is wrong is said in one line, with an exit code that a script can trust.

#![expect(clippy::expect_used, reason = "tests fail by panicking")]

use std::time::Duration;

use scenarios::{Actor, Cgroup, Folder, Log, Recording, Run, bindwatch, loopback};

#[test]
fn wrong_usage_ends_with_two() {
    let cases: [&[&str]; 9] = [
        &["record", "--on-conflict", "deny"],
        &["check", "not-an-address:80:80"],
        &["check", "127.0.0.1:65536"],
        &["check"],
        &["report"],
        &["report", "--format", "papyrus", "log.jsonl"],
        &["record", "--duration", "yesterday"],
        &["record", "--fail-on", "everything"],
        &["juggle"],
    ];
    for arguments in cases {
        let outcome = Run::bindwatch(arguments).outcome();
        outcome.expect_one_line(2);
        assert_eq!(outcome.stdout, "", "{outcome}");
    }
}

#[test]
fn who_may_not_record_learns_it() {
    let folder = Folder::new();
    let recording = Run::bindwatch(["record", "--output"]).args([folder.file("log.jsonl")]);
    let outcome = recording.as_nobody().outcome();
    outcome.expect_one_line(125);
    assert!(
        outcome.stderr.contains("root") || outcome.stderr.contains("CAP_"),
        "it says what is missing: {outcome}"
    );

    let run = Run::bindwatch(["run", "--output"]).args([folder.file("log.jsonl")]).args(["--", "true"]);
    run.as_nobody().outcome().expect_one_line(125);
}

#[test]
fn an_old_ready_file_does_not_pass_for_a_new_one() {
    let folder = Folder::new();
    let ready = folder.file("ready");
    std::fs::write(&ready, "").expect("a file");
    // Nothing is ever watched here: the log cannot be created.
    let recording =
        Run::bindwatch(["record", "--output", "/no-such-folder/log", "--ready-file"]).args([&ready]);
    recording.outcome().expect_one_line(125);
    assert!(!std::path::Path::new(&ready).exists(), "who waits for it would go on");
}

#[test]
fn what_is_not_a_log_is_refused() {
    let folder = Folder::new();
    let other_schema = "{\"type\":\"header\",\"schema\":\"bindwatch.log/999\"}\n";
    for (name, content) in [
        ("empty.jsonl", &b""[..]),
        ("text.jsonl", b"hello\n"),
        ("other.jsonl", b"{\"type\":\"bind\"}\n"),
        ("newer.jsonl", other_schema.as_bytes()),
        ("binary.jsonl", b"\x7fELF\x02\x01\x01\0\0\0\xff\n\xff\n"),
        ("zstd.jsonl.zst", b"not compressed\n"),
    ] {
        let file = folder.write(name, content);
        let outcome = Run::bindwatch(["report"]).args([file]).outcome();
        outcome.expect_one_line(125);
        assert!(outcome.stderr.contains(name), "it names the file: {outcome}");
    }
    Run::bindwatch(["report"]).args([folder.file("missing.jsonl")]).outcome().expect_one_line(125);
    Run::bindwatch(["report"]).args([folder.path()]).outcome().expect_one_line(125);
}

#[test]
fn an_output_that_cannot_be_written_is_said_before_anything_is_watched() {
    let folder = Folder::new();
    let into_nothing = folder.file("no-such-folder").join("log.jsonl");
    let outcome = Run::bindwatch(["record", "--output"]).args([into_nothing]).outcome();
    outcome.expect_one_line(125);
    assert!(outcome.stderr.contains("no-such-folder"), "{outcome}");

    Run::bindwatch(["record", "--output"]).args([folder.path()]).outcome().expect_one_line(125);
    Run::bindwatch(["record", "--output", "/dev/full"]).outcome().expect_one_line(125);
}

#[test]
fn a_disk_that_fills_up_ends_the_recording_and_leaves_what_was_written() {
    let folder = Folder::new();
    let disk = folder.file("disk");
    std::fs::create_dir(&disk).expect("a folder");
    // A small disk of its own, in a mount namespace that goes away with the recording; the log is carried out of it.
    let script = r#"
        set -u
        mount -t tmpfs -o size=1m tmpfs "$1"
        "$2" record --quiet --output "$1/log.jsonl" --ready-file "$1/ready" --duration 120s &
        recorder=$!
        while [ ! -e "$1/ready" ]; do kill -0 $recorder || exit 99; done
        "$3" 100 100 "$4" > /dev/null
        wait $recorder
        status=$?
        cp "$1/log.jsonl" "$5"
        exit $status"#;
    let saved = folder.file("saved.jsonl");
    let outcome = Run::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"])
        .args([&disk, &bindwatch(), &Actor::program().with_file_name("storm")])
        .args([loopback().to_string()])
        .args([&saved])
        .within(Duration::from_secs(180))
        .outcome();
    outcome.expect_one_line(125);
    assert!(outcome.stderr.contains("log.jsonl"), "it names the file: {outcome}");
    let report = Log::at(&saved).report();
    assert!(!report.complete());
    assert!(report.stat("binds") > 0, "{report}");
}

#[test]
fn a_kernel_that_is_too_old_is_named_before_anything_is_written() {
    // What is missing before 5.8 (ring buffers), before 5.7 (links), and in a kernel without BPF.
    for without in ["maps", "links", "bpf"] {
        let folder = Folder::new();
        let log = folder.file("log.jsonl");
        let old = |arguments: &[&str]| {
            let old = Run::new(Actor::program().with_file_name("oldkernel")).args([without]);
            old.args([bindwatch()]).args(arguments).folder(folder.path())
        };
        for command in
            [&["record", "--output", "log.jsonl"][..], &["run", "--output", "log.jsonl", "--", "true"]]
        {
            let outcome = old(command).outcome();
            outcome.expect_one_line(125);
            assert!(outcome.stderr.contains("Linux 5.9 or newer"), "what to do about it: {outcome}");
            assert!(!log.exists(), "nothing was recorded: {outcome}");
        }
        let doctor = old(&["doctor"]).outcome();
        assert_eq!(doctor.code(), 125, "{doctor}");
        assert!(doctor.stdout.contains("MISSING   probe"), "{doctor}");
        assert!(doctor.stdout.contains("bindwatch cannot record here"), "{doctor}");

        // What needs no probe works on.
        assert_eq!(old(&["list"]).outcome().code(), 0);
    }
}

/// The kernel's table has room for 32 rules. Findings, which bindwatch judges itself, take any number.
#[test]
fn more_allow_rules_than_the_kernel_takes_are_refused_where_binds_are_denied() {
    let (folder, cgroup) = (Folder::new(), Cgroup::new());
    let rules = |count: u16| (1..=count).flat_map(|nth| ["--allow".to_owned(), format!("port={nth}")]);
    let entries: String = (1..=33).map(|nth| format!("[[allow]]\nport = {nth}\n")).collect();
    let config = folder.write("many.toml", entries).display().to_string();
    let place = cgroup.path().display().to_string();
    let enforce = ["enforce", "--quiet", "--duration", "1ms", "--cgroup", &place];
    let denying: [(&[&str], &[&str]); 5] = [
        (&["run", "--quiet", "--on-conflict", "deny"], &["--", "true"]),
        (&["run", "--quiet", "--on-conflict", "wait=1s"], &["--", "true"]),
        (&enforce, &[]),
        (&enforce, &["--dry-run"]),
        (&enforce, &["--pin"]),
    ];
    for (command, rest) in denying {
        let start = || Run::bindwatch(command).folder(folder.path());
        let outcome = start().args(rules(33)).args(rest).outcome();
        outcome.expect_one_line(2);
        assert!(outcome.stderr.contains("33 allow rules") && outcome.stderr.contains("32"), "{outcome}");
        assert!(!folder.file("bindwatch.jsonl").exists(), "{outcome}");
        start().args(["--config", &config]).args(rest).outcome().expect_one_line(2);
    }
    for (command, rest) in
        [(&["run", "--quiet"][..], &["--", "true"][..]), (&["record", "--quiet"], &["--duration", "1ms"])]
    {
        drop(Run::bindwatch(command).folder(folder.path()).args(rules(33)).args(rest).outcome().expect(0));
    }
}

/// The last of those that it takes counts there as the first.
#[test]
fn the_last_allow_rule_that_the_kernel_takes_counts() {
    let (cgroup, address) = (Cgroup::new(), loopback());
    let rules = (8001..8032).chain([8000]).flat_map(|port| ["--allow".to_owned(), format!("port={port}")]);
    let recording = Recording::enforcing(&cgroup, rules);
    let (mut one, mut other) = (Actor::new(), Actor::new());
    cgroup.enrol(one.pid());
    cgroup.enrol(other.pid());
    one.bind(&format!("tcp {address}:8000 reuseport listen"));
    other.bind(&format!("tcp {address}:8000 reuseport listen"));
    one.bind(&format!("tcp {address}:8032 reuseport listen"));
    assert_eq!(other.tell(&format!("bind tcp {address}:8032 reuseport")).to_string(), "err EADDRINUSE");
    drop(recording.stop());
}
