//! `doctor --format json` is one document: all that is in it is looked at here, and what is missing says how to get it.

#![expect(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests fail by panicking")]

use scenarios::{Actor, Run, bindwatch};
use serde_json::{Map, Value};

/// An entry's text of this name.
fn text<'a>(entry: &'a Map<String, Value>, name: &str) -> &'a str {
    match entry.get(name).and_then(Value::as_str) {
        Some(text) if !text.trim().is_empty() => text,
        _ => panic!("no {name}: {entry:?}"),
    }
}

/// Its entries, each with these names and perhaps some of those.
fn entries<'a>(
    doctor: &'a Value,
    list: &str,
    always: &[&str],
    perhaps: &[&str],
) -> Vec<&'a Map<String, Value>> {
    let entries = doctor[list].as_array().unwrap_or_else(|| panic!("no {list}: {doctor}"));
    let entries: Vec<_> = entries.iter().map(|entry| entry.as_object().expect("an object")).collect();
    for entry in &entries {
        let unknown: Vec<_> =
            entry.keys().filter(|key| !always.iter().chain(perhaps).any(|known| known == key)).collect();
        assert!(unknown.is_empty(), "{list}: {unknown:?} in {entry:?}");
        for name in always {
            assert!(entry.contains_key(*name), "{list}: no {name} in {entry:?}");
        }
    }
    entries
}

/// Looks at every part of the document that this command prints.
fn examine(doctor: Run, ready: bool) -> Value {
    let outcome = doctor.args(["doctor", "--format", "json"]).outcome();
    let outcome = outcome.expect(if ready { 0 } else { 125 });
    let doctor: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    let mut names: Vec<_> = doctor.as_object().expect("an object").keys().map(String::as_str).collect();
    names.sort_unstable();
    let expected = ["backends", "blind", "checks", "hooks", "kernel", "pinned", "ready", "schema", "version"];
    assert_eq!(names, expected);
    assert_eq!(doctor["schema"], "bindwatch.doctor/1");
    assert_eq!(doctor["ready"], ready);
    text(doctor.as_object().expect("an object"), "kernel");

    for check in entries(&doctor, "checks", &["name", "state", "found"], &["costs", "fix"]) {
        text(check, "found");
        match text(check, "state") {
            "ok" => assert!(!check.contains_key("costs") && !check.contains_key("fix"), "{check:?}"),
            "degraded" | "missing" => {
                text(check, "costs");
                text(check, "fix");
            }
            state => panic!("{state}"),
        }
    }
    let names = ["backend", "tells", "usable", "chosen"];
    for backend in entries(&doctor, "backends", &names, &["reason", "costs", "fix"]) {
        match &backend["usable"] {
            Value::Bool(true) => assert!(!backend.contains_key("fix"), "{backend:?}"),
            Value::Bool(false) => {
                text(backend, "reason");
                text(backend, "fix");
            }
            untried => {
                assert!(untried.is_null() && !ready, "{backend:?}");
                text(backend, "fix");
            }
        }
    }
    for hook in entries(&doctor, "hooks", &["hook", "tells", "usable"], &["reason", "costs", "fix"]) {
        match &hook["usable"] {
            Value::Bool(true) => assert!(!hook.contains_key("fix"), "{hook:?}"),
            // What is not missed costs nothing, and takes no mending.
            Value::Bool(false) => {
                text(hook, "reason");
                assert_eq!(hook.contains_key("costs"), hook.contains_key("fix"), "{hook:?}");
            }
            untried => {
                assert!(untried.is_null() && !ready, "{hook:?}");
                text(hook, "fix");
            }
        }
    }
    drop(entries(&doctor, "blind", &["what", "instead"], &[]));
    doctor
}

/// What a check says to do.
fn fix<'a>(doctor: &'a Value, name: &str) -> &'a str {
    let check = doctor["checks"].as_array().and_then(|checks| checks.iter().find(|one| one["name"] == name));
    check.and_then(|check| check["fix"].as_str()).unwrap_or_else(|| panic!("no fix of {name}: {doctor:#}"))
}

#[test]
fn what_is_missing_on_this_machine_says_how_to_get_it() {
    let doctor = examine(Run::new(bindwatch()), true);
    // The same in words.
    let table = Run::bindwatch(["doctor"]).outcome().expect(0).stdout;
    let lists = ["checks", "backends", "hooks"].into_iter().filter_map(|list| doctor[list].as_array());
    for fix in lists.flatten().filter_map(|entry| entry["fix"].as_str()) {
        assert!(table.contains(&format!("-> {fix}\n")), "{fix}: {table}");
    }
}

#[test]
fn who_has_no_privileges_is_told_which() {
    let doctor = examine(Run::new(bindwatch()).as_nobody_with(&[]), false);
    assert!(fix(&doctor, "privileges").contains("sudo"), "{doctor:#}");
}

/// As in a container that is not privileged.
#[test]
fn a_root_without_its_capabilities_is_told_which() {
    let bare = Run::new("setpriv").args(["--bounding-set", "-all", "--inh-caps", "-all"]).args([bindwatch()]);
    let doctor = examine(bare, false);
    let fix = fix(&doctor, "privileges");
    assert!(fix.contains("--cap-add BPF --cap-add PERFMON --cap-add NET_ADMIN"), "{fix}");
}

#[test]
fn where_it_runs_is_told_with_the_way_out() {
    let user = Run::new("unshare").args(["--user", "--map-root-user"]).args([bindwatch()]);
    assert!(fix(&examine(user, false), "surroundings").contains("the machine's root"));
    let pid = Run::new("unshare").args(["--pid", "--fork", "--mount-proc"]).args([bindwatch()]);
    assert!(fix(&examine(pid, false), "surroundings").contains("--pid=host"));
}

#[test]
fn an_old_kernel_is_told_with_what_it_takes() {
    for without in ["maps", "links", "bpf"] {
        let old = Run::new(Actor::program().with_file_name("oldkernel")).args([without]).args([bindwatch()]);
        assert!(fix(&examine(old, false), "probe").contains("Linux 5.9"), "{without}");
    }
}
