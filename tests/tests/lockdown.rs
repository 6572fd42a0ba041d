//! What a kernel forbids by policy: lockdown (kernel_lockdown(7)) ends bindwatch's work with one line that says so, and
//! `kernel.unprivileged_bpf_disabled` is none of root's concern.
//!
//! A kernel is locked down by its command line: `cargo xtask vm debian-12 --append lockdown=confidentiality --scenario lockdown`.
//! Elsewhere the same tests hold bindwatch to not speaking of it.

#![expect(clippy::expect_used, reason = "tests fail by panicking")]

use std::fs;

use scenarios::{Actor, Folder, Outcome, Recording, Run, bindwatch, loopback};
use serde_json::Value;

/// What of lockdown was asked for when the kernel was booted.
fn asked_for() -> Option<String> {
    let words = fs::read_to_string("/proc/cmdline").expect("the kernel's command line");
    words.split_whitespace().find_map(|word| word.strip_prefix("lockdown=")).map(str::to_owned)
}

/// Ends with 125, one line that names lockdown and the way out of it, and nothing done.
fn is_refused(outcome: &Outcome) {
    outcome.expect_one_line(125);
    for words in ["locked down (confidentiality)", "lockdown=integrity", "`list`, `check` and `report` work"]
    {
        assert!(outcome.stderr.contains(words), "{words}: {outcome}");
    }
}

/// What `doctor` says of it.
fn diagnosis(code: i32) -> Value {
    let outcome = Run::bindwatch(["doctor", "--format", "json"]).outcome().expect(code);
    let doctor: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    let checks = doctor.get("checks").and_then(Value::as_array).expect("checks");
    checks.iter().find(|check| check.get("name").is_some_and(|name| name == "lockdown")).expect("it").clone()
}

#[test]
fn lockdown_is_told_in_one_line_where_it_is() {
    let mode = asked_for();
    let folder = Folder::new();
    let log = folder.file("log.jsonl").display().to_string();
    let record = ["record", "--duration", "1ms", "--output", &log];
    if mode.as_deref() != Some("confidentiality") {
        let found = diagnosis(0);
        assert_eq!(found.get("state"), Some(&Value::from("ok")), "{found}");
        if let Some(mode) = mode {
            assert_eq!(found.get("found"), Some(&Value::from(mode)), "{found}");
        }
        drop(Run::bindwatch(record).outcome().expect(0));
        return;
    }

    let done = folder.file("done").display().to_string();
    is_refused(&Run::bindwatch(record).outcome());
    is_refused(&Run::bindwatch(["run", "--output", &log, "--", "touch", &done]).outcome());
    assert!(!folder.file("done").exists(), "the command was not started");
    // As in most containers: the mode is not to be seen.
    let hidden = "umount /sys/kernel/security && exec \"$@\"";
    let hidden = Run::new("unshare").args(["--mount", "sh", "-c", hidden, "sh"]).args([bindwatch()]);
    is_refused(&hidden.args(record).outcome());
    assert!(!folder.file("log.jsonl").exists(), "nothing was recorded");

    let found = diagnosis(125);
    let says = |name| found.get(name).and_then(Value::as_str).unwrap_or_default();
    assert_eq!((says("state"), says("found")), ("missing", "confidentiality"), "{found}");
    assert!(says("fix").contains("lockdown=integrity") && !says("costs").is_empty(), "{found}");

    // What needs no probe.
    let (address, mut holder) = (loopback(), Actor::new());
    holder.bind(&format!("tcp {address}:8000 listen"));
    let list = Run::bindwatch(["list"]).outcome().expect(0);
    assert!(list.stdout.contains(&address.to_string()), "{list}");
    drop(Run::bindwatch(["check", &format!("{address}:8000")]).outcome().expect(1));
}

/// Who may use BPF without privileges.
const UNPRIVILEGED: &str = "/proc/sys/kernel/unprivileged_bpf_disabled";

/// A setting, put back at the end.
struct Setting(String);

impl Setting {
    /// Nobody without privileges, until an administrator says otherwise. 1 is for good, and no less strict.
    fn strict() -> Self {
        let before = fs::read_to_string(UNPRIVILEGED).expect(UNPRIVILEGED).trim().to_owned();
        if before == "0" {
            fs::write(UNPRIVILEGED, "2").expect(UNPRIVILEGED);
        }
        Self(before)
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        if self.0 == "0" {
            drop(fs::write(UNPRIVILEGED, "0"));
        }
    }
}

#[test]
fn that_unprivileged_bpf_is_disabled_makes_no_difference() {
    let setting = Setting::strict();
    if asked_for().as_deref() == Some("confidentiality") {
        // It is lockdown that is in the way, not the setting.
        is_refused(&Run::bindwatch(["record", "--output", "/dev/null"]).outcome());
        return;
    }
    let recording = Recording::start();
    let address = loopback();
    let (mut one, mut other) = (Actor::new(), Actor::new());
    one.bind(&format!("tcp {address}:8000 reuseport listen"));
    other.bind(&format!("tcp {address}:8000 reuseport listen"));
    recording.fence();
    assert_eq!(recording.stop().log.report().only(address, 8000).kind(), "co-bind");
    // Who has no privileges is told what he lacks, and not of the setting, which would not help him.
    let outcome = Run::bindwatch(["record", "--output", "/dev/null"]).as_nobody().outcome();
    outcome.expect_one_line(125);
    assert!(outcome.stderr.contains("CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"), "{outcome}");
    drop(setting);
}
