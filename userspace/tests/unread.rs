//! Whoever reads our output may have seen enough of it: the exit code says what it would have said.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::net::TcpListener;
use std::process::{Command, Stdio};

/// The exit code of bindwatch, with its output read to the end, and with nobody there to read it.
fn codes(arguments: &[&str]) -> [Option<i32>; 2] {
    let (reader, unread) = std::io::pipe().unwrap();
    drop(reader);
    [Stdio::null(), Stdio::from(unread)].map(|output| {
        let mut bindwatch = Command::new(env!("CARGO_BIN_EXE_bindwatch"));
        bindwatch.args(arguments).stdout(output).stderr(Stdio::null());
        bindwatch.status().unwrap().code()
    })
}

#[test]
fn what_is_held_is_not_free_because_nobody_reads_on() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = held.local_addr().unwrap().to_string();
    assert_eq!(codes(&["check", &place]), [Some(1); 2]);
    assert_eq!(codes(&["check", &place, "--wait", "50ms"]), [Some(124); 2]);
}

#[test]
fn what_is_missing_is_told_although_nobody_reads_on() {
    // Root without a single capability.
    let codes = ["text", "json"].map(|format| {
        let (reader, unread) = std::io::pipe().unwrap();
        drop(reader);
        let mut bindwatch = Command::new("setpriv");
        bindwatch.args(["--bounding-set=-all", "--inh-caps=-all", env!("CARGO_BIN_EXE_bindwatch")]);
        bindwatch.args(["doctor", "--format", format]).stdout(unread).stderr(Stdio::null());
        bindwatch.status().unwrap().code()
    });
    assert_eq!(codes, [Some(125); 2]);
}

#[test]
fn what_was_found_is_told_although_nobody_reads_on() {
    let log = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/co-bind.jsonl");
    for format in ["text", "json", "markdown", "html", "junit", "sarif", "github"] {
        let arguments = ["report", "--format", format, "--fail-on", "error", log];
        assert_eq!(codes(&arguments), [Some(1); 2], "{format}");
    }
    assert_eq!(codes(&["report", "--fail-on", "refused", log]), [Some(0); 2]);
    let top = |how: &[&str]| codes(&[&["top", "--replay", log, "--fail-on", "error"], how].concat());
    assert_eq!(top(&["--once"]), [Some(1); 2]);
    // The first time it prints nothing was found yet.
    assert_eq!(top(&["--batch", "--delay", "100ms"]), [Some(1); 2]);
    assert_eq!(top(&["--iterations", "1000", "--delay", "100ms"]), [Some(1); 2]);
    assert_eq!(top(&["--iterations", "2", "--delay", "100ms"]), [Some(0); 2]);
}

#[test]
fn what_cannot_be_written_says_where_to() {
    let log = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/co-bind.jsonl");
    let commands: [&[&str]; 7] = [
        &["report", log],
        &["top", "--once", "--replay", log],
        &["check", "127.0.0.1:9"],
        &["explain", log, ":80"],
        &["list"],
        &["man"],
        &["completions", "bash"],
    ];
    for arguments in commands {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut bindwatch = Command::new(env!("CARGO_BIN_EXE_bindwatch"));
        let output = bindwatch.args(arguments).stdout(full).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{arguments:?}: {said}");
        assert!(said.contains("cannot write to standard output: No space left"), "{arguments:?}: {said}");
    }
}
