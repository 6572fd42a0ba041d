//! Stored logs × formats: `bindwatch report` says of each what is stored beside it, byte for byte, every time.
//!
//! `BLESS=1 cargo test -p bindwatch --test golden` stores what it says now; read the difference before it is committed.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden")
}

fn report(arguments: &[&str], log: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bindwatch"));
    // A folder without a configuration file, and no user's either.
    command.env_clear().current_dir(folder()).arg("report").args(arguments).arg(log);
    command.output().unwrap()
}

fn stdout(arguments: &[&str], log: &Path) -> String {
    let output = report(arguments, log);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{}", log.display());
    assert_eq!(output.status.code(), Some(0), "{}", log.display());
    String::from_utf8(output.stdout).unwrap()
}

fn check(name: &str, format: &str) {
    // By its bare name: some formats show it.
    let log = PathBuf::from(name).with_extension("jsonl");
    let said = stdout(&["--format", format], &log);
    assert_eq!(said, stdout(&["--format", format], &log), "the same log twice");
    let ending = match format {
        "text" => "txt",
        "markdown" => "md",
        "junit" => "xml",
        "github" => "commands",
        other => other,
    };
    let golden = folder().join(name).with_extension(ending);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&golden, &said).unwrap();
    }
    let stored = std::fs::read_to_string(&golden).unwrap_or_default();
    assert!(said == stored, "{} differs: BLESS=1 stores what is said now:\n{said}", golden.display());
}

const LOGS: [&str; 5] = ["clean", "co-bind", "refused", "torn", "lost"];

#[test]
fn text() {
    LOGS.iter().for_each(|name| check(name, "text"));
}

#[test]
fn json() {
    LOGS.iter().for_each(|name| check(name, "json"));
}

#[test]
fn every_other_format() {
    for format in ["markdown", "html", "junit", "sarif", "github"] {
        LOGS.iter().for_each(|name| check(name, format));
    }
}

#[test]
fn the_page_refers_to_nothing_outside_itself() {
    for name in LOGS {
        let page = stdout(&["--format", "html"], &folder().join(name).with_extension("jsonl"));
        for reference in
            ["http:", "https:", " src=", " href=", "url(", "@import", "<link", "<iframe", "xlink"]
        {
            assert!(!page.contains(reference), "{name}: {reference}");
        }
        assert!(page.contains("default-src 'none'"), "and its policy lets it load nothing");
    }
}

#[test]
fn every_stored_log_is_checked() {
    let logs = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut stems: Vec<_> = logs.filter(|path| path.extension().is_some_and(|e| e == "jsonl")).collect();
    stems.sort();
    let mut known: Vec<_> = LOGS.iter().map(|name| folder().join(name).with_extension("jsonl")).collect();
    known.sort();
    assert_eq!(stems, known);
}

#[test]
fn nothing_a_process_said_reaches_the_terminal() {
    let said = stdout(&[], &folder().join("refused.jsonl"));
    assert!(said.contains("py\\x1b[31mthon\\u{202e}"), "{said}");
    assert!(said.chars().all(|c| c == '\n' || !c.is_control()), "{said}");
    assert!(!said.contains("hunter2") && !said.contains("s3cr3t"), "{said}");
    assert!(stdout(&["-v", "--show-secrets"], &folder().join("refused.jsonl")).contains("hunter2"));
}

#[test]
fn the_exit_code_says_what_was_found() {
    let code = |arguments: &[&str], log: &str| report(arguments, &folder().join(log)).status.code();
    assert_eq!(code(&["--fail-on", "error"], "co-bind.jsonl"), Some(1));
    assert_eq!(code(&["--fail-on", "co-bind"], "co-bind.jsonl"), Some(1));
    assert_eq!(code(&["--fail-on", "refused"], "co-bind.jsonl"), Some(0));
    assert_eq!(code(&["--fail-on", "error", "--port", "1-1000"], "co-bind.jsonl"), Some(0));
    assert_eq!(code(&["--fail-on", "error", "--process", "4803"], "co-bind.jsonl"), Some(1));
    assert_eq!(code(&["--fail-on", "error", "--process", "nginx"], "co-bind.jsonl"), Some(0));
    assert_eq!(code(&["--fail-on", "error", "--until", "5s"], "co-bind.jsonl"), Some(0));
    assert_eq!(code(&["--fail-on", "error", "--since", "15s"], "co-bind.jsonl"), Some(1));
    assert_eq!(code(&["--fail-on", "error", "--since", "50s"], "co-bind.jsonl"), Some(0));
    assert_eq!(code(&["--fail-on", "error", "--kind", "refused,shadow"], "co-bind.jsonl"), Some(0));
    assert_eq!(code(&["--fail-on", "error", "--kind", "refused,co-bind"], "co-bind.jsonl"), Some(1));
    assert_eq!(code(&["--kind", "collision"], "co-bind.jsonl"), Some(2));
    assert_eq!(code(&["--port", "90-80"], "co-bind.jsonl"), Some(2));
    assert_eq!(code(&["--since", "yesterday"], "co-bind.jsonl"), Some(2));
    assert_eq!(code(&["--fail-on", "error", "--allow", "program=node,port=9926"], "co-bind.jsonl"), Some(0));
    assert_eq!(code(&["--fail-on", "error"], "refused.jsonl"), Some(0));
    assert_eq!(code(&["--fail-on", "warning"], "refused.jsonl"), Some(1));
    assert_eq!(code(&["--format", "github", "--fail-on", "error"], "co-bind.jsonl"), Some(1));
    assert_eq!(code(&["--format", "pdf"], "co-bind.jsonl"), Some(2));
    assert_eq!(code(&[], "no-such.jsonl"), Some(125));
    assert_eq!(code(&[], "co-bind.txt"), Some(125));
}

#[test]
fn findings_are_chosen_by_their_kind() {
    let kinds = |arguments: &[&str]| -> Vec<String> {
        let arguments = [&["--format", "json"], arguments].concat();
        let log = folder().join("refused.jsonl");
        let logs =
            report(&[&arguments[..], &[folder().join("co-bind.jsonl").to_str().unwrap()]].concat(), &log);
        let text = String::from_utf8(logs.stdout).unwrap();
        let documents = serde_json::Deserializer::from_str(&text).into_iter::<serde_json::Value>();
        let findings =
            documents.flat_map(|document| document.unwrap()["findings"].as_array().unwrap().clone());
        findings.map(|finding| finding["kind"].as_str().unwrap().to_owned()).collect()
    };
    let all = kinds(&[]);
    for kind in ["refused", "co-bind"] {
        let of_kind: Vec<&String> = all.iter().filter(|one| *one == kind).collect();
        assert!(!of_kind.is_empty() && of_kind.len() < all.len(), "{kind} of {all:?}");
        assert_eq!(kinds(&["--kind", kind]).iter().collect::<Vec<_>>(), of_kind);
    }
    assert_eq!(kinds(&["--kind", "refused,co-bind"]), all);
    assert_eq!(kinds(&["--kind", "orphan"]), Vec::<String>::new());
}

#[test]
fn errors_are_one_line() {
    let cases = [
        (report(&[], Path::new("no-such.jsonl")), "cannot read no-such.jsonl: No such file or directory"),
        (
            report(&[], Path::new("co-bind.txt")),
            "co-bind.txt is not a bindwatch log: its first line is not a header",
        ),
    ];
    for (output, expected) in cases {
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.starts_with(&format!("bindwatch: {expected}")), "{said}");
        assert_eq!((said.lines().count(), output.stdout.len()), (1, 0), "{said}");
    }
}

#[test]
fn logs_of_one_boot_are_one_report() {
    let said = stdout(&["--format", "json", "lost.jsonl"], Path::new("co-bind.jsonl"));
    let one: serde_json::Value = serde_json::from_str(&said).unwrap();
    // Both logs tell of the same two processes on the same port.
    assert_eq!(one["findings"].as_array().unwrap().len(), 1, "{said}");
    assert_eq!(one["findings"][0]["log"], "co-bind.jsonl", "the log whose events prove it");
    assert!(said.contains("lost.jsonl: 14 events were lost"), "{said}");
    let said = stdout(&["refused.jsonl"], Path::new("co-bind.jsonl"));
    assert_eq!(said.lines().filter(|line| line.starts_with("ci-7 (Linux")).count(), 1, "{said}");
    assert!(said.contains("error co-bind") && said.contains("warning refused"), "{said}");
}

#[test]
fn logs_of_two_machines_are_told_one_after_another_in_one_document() {
    let here = tempfile::tempdir().unwrap();
    let other = here.path().join("other.jsonl");
    let log = std::fs::read_to_string(folder().join("refused.jsonl")).unwrap();
    std::fs::write(&other, log.replace("\"ci-7\"", "\"ci-8\"")).unwrap();
    let other = other.to_str().unwrap();
    let said = |format: &str| stdout(&["--format", format, other], Path::new("co-bind.jsonl"));
    for format in ["text", "markdown", "html", "junit", "sarif"] {
        let said = said(format);
        assert!(said.contains("ci-7") && said.contains("ci-8"), "{said}");
    }
    assert_eq!(said("junit").matches("<testsuite ").count(), 2);
    let sarif: serde_json::Value = serde_json::from_str(&said("sarif")).unwrap();
    assert_eq!(sarif["runs"].as_array().unwrap().len(), 2);
    let said = said("json");
    let documents = serde_json::Deserializer::from_str(&said).into_iter::<serde_json::Value>();
    assert_eq!(documents.count(), 2, "one document after the other");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_bindwatch"));
    command.current_dir(folder()).args(["report", "--fail-on", "error", "co-bind.jsonl"]).stdout(writer);
    let output = command.output().unwrap();
    // Nothing is said of it, and what was found still decides.
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn who_held_a_port_outside_of_a_log_is_not_known() {
    let explained = |at: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bindwatch"));
        command.env_clear().current_dir(folder());
        let output = command
            .args(["explain", "co-bind.jsonl", "127.0.0.3:9926", "--format", "json", "--at", at])
            .output()
            .unwrap();
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let before = explained("1999-01-01T00:00:00Z");
    assert!(before["history"]["holders"].is_null());
    assert!(before["notices"][0].as_str().unwrap().starts_with("the log begins at "), "{before}");
    let later = explained("2999-01-01T00:00:00Z");
    assert!(later["notices"][0].as_str().unwrap().starts_with("the log ends at "), "{later}");
    let within = explained("12s");
    assert!(within["history"]["holders"].is_array() && within["notices"].get(0).is_none(), "{within}");
}
