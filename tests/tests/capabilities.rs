//! What docs/security.md says that each command needs: with it the command works, and without any part of it it does not.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt as _, chown};

use scenarios::{Actor, Cgroup, Folder, Log, Recording, Run, bindwatch, loopback};
use serde_json::Value;

const NEEDED: [&str; 3] = ["bpf", "perfmon", "net_admin"];

/// What it tells people to do.
const SECURITY: &str = include_str!("../../docs/security.md");

/// What is there, but for one.
fn without(one: &str) -> Vec<&'static str> {
    NEEDED.into_iter().filter(|other| *other != one).collect()
}

/// A cgroup of nobody's, as systemd makes one with `Delegate=yes` (cgroups(7), delegation).
fn delegated() -> Cgroup {
    let cgroup = Cgroup::new();
    for file in ["", "cgroup.procs", "cgroup.subtree_control"] {
        chown(cgroup.path().join(file), Some(65534), Some(65534)).expect("another owner");
    }
    cgroup
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
    let json = Run::bindwatch(["doctor", "--format", "json"]).as_nobody_with(&NEEDED).outcome().expect(0);
    let json: Value = serde_json::from_str(&json.stdout).expect("JSON");
    // Where tracefs is root's the trace events are refused: each says what to do.
    let hooks = json.get("hooks").and_then(Value::as_array).expect("hooks");
    // The one of security modules is another matter, and missing nowhere.
    let traced = hooks.iter().filter(|hook| hook.get("hook").is_some_and(|hook| hook != "socket_setsockopt"));
    let fixed = traced.filter_map(|hook| hook.get("fix")?.as_str());
    assert!(fixed.clone().count() > 0, "{json:#}");
    for fix in fixed {
        assert!(fix.contains("as root"), "{fix}");
    }
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
    let own = Cgroup::new();
    let run = |cgroup| Run::bindwatch(command).as_nobody_with(&NEEDED).inside(cgroup);
    let outcome = run(&own).outcome();
    outcome.expect_one_line(125);
    assert!(outcome.stderr.contains("delegated to you"), "{outcome}");
    drop(run(&delegated()).outcome().expect(0));
}

/// The arguments of a `run` that lets a bind of its command wait, on a port that the actor has, and what that does.
struct Waiting {
    // The command lies in it: nobody may enter the folders of the checkout.
    folder: Folder,
    address: Ipv4Addr,
    holder: Actor,
}

impl Waiting {
    fn new() -> Self {
        let folder = Folder::new();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).expect("permissions");
        let (from, to) = (Actor::program(), folder.file("actor"));
        drop(Run::new("cp").args(["--".as_ref(), from.as_path(), to.as_path()]).outcome().expect(0));
        // There before it is written, so that it can be read from its first line on.
        chown(folder.write("log.jsonl", ""), Some(65534), Some(65534)).expect("another owner");
        Self { folder, address: loopback(), holder: Actor::new() }
    }

    fn arguments(&self) -> Vec<String> {
        let (log, actor) = (self.folder.file("log.jsonl"), self.folder.file("actor"));
        let bind = format!("bind tcp {}:8000 listen", self.address);
        let words = ["run", "--quiet", "--on-conflict", "wait=50s", "--output"].map(str::to_owned);
        let rest = [log.display().to_string(), "--".to_owned(), actor.display().to_string(), bind];
        words.into_iter().chain(rest).collect()
    }

    /// The run's bind waits until the port is free, and no longer.
    fn holds(mut self, run: Run) {
        let held = self.holder.bind(&format!("tcp {}:8000 listen", self.address)).id;
        let log = self.folder.file("log.jsonl");
        let run = run.start();
        let is_ours = |line: &Value| line["type"] == "waiting" && line["socket"]["port"] == 8000;
        Log::at(&log).wait_for(&run.process, "\"type\":\"waiting\"", 1, is_ours);
        self.holder.ok(&format!("close {held}"));
        let outcome = run.outcome().expect(0);
        assert!(outcome.stdout.starts_with("ok id="), "{outcome}");
        let finding = Log::at(&log).report().only(self.address, 8000);
        assert_eq!((finding.kind(), finding.text("wait_outcome")), ("denied", "done"), "{finding:#?}");
        assert_eq!(finding.pids(), [u64::from(self.holder.pid())]);
    }
}

#[test]
fn waiting_needs_no_more_than_denying() {
    let (waiting, delegated) = (Waiting::new(), delegated());
    let run = Run::bindwatch(waiting.arguments()).as_nobody_with(&NEEDED).inside(&delegated);
    waiting.holds(run);
    for one in NEEDED {
        let waiting = Waiting::new();
        let run = Run::bindwatch(waiting.arguments()).as_nobody_with(&without(one)).inside(&delegated);
        run.outcome().expect_one_line(125);
    }
}

/// What may not be looked into does as it would without bindwatch, and that is told.
#[test]
fn what_may_not_be_traced_is_not_waited_for() {
    let (mut waiting, delegated) = (Waiting::new(), delegated());
    waiting.holder.bind(&format!("tcp {}:8000 listen", waiting.address));
    let mut arguments = waiting.arguments();
    arguments.insert(arguments.len() - 1, "hide".to_owned());
    let run = Run::bindwatch(arguments).as_nobody_with(&NEEDED).inside(&delegated);
    assert_eq!(run.outcome().expect(0).stdout, "ok\nerr EADDRINUSE\n");
    let log = Log::at(&waiting.folder.file("log.jsonl"));
    assert_eq!(log.lines("\"type\":\"waiting\"").len(), 0);
    let told = log.lines("\"bound\":\"wait-trace\"");
    assert_eq!(told.len(), 1, "{told:?}");
}

/// The way of docs/security.md for a program that all may execute, by its own words: who does has the capabilities, and the
/// command of a `run` has not.
#[test]
fn a_program_with_its_capabilities_needs_no_root() {
    let (folder, enforced) = (Folder::new(), Cgroup::new());
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).expect("permissions");
    let program = folder.file("bindwatch");
    drop(Run::new("cp").args(["--"]).args([bindwatch().as_ref(), program.as_path()]).outcome().expect(0));
    let words = SECURITY.lines().find_map(|line| line.strip_prefix("# setcap ")).expect("how to do it");
    let capabilities = words.split(' ').next().expect("what is given");
    drop(Run::new("setcap").args([capabilities]).args([&program]).outcome().expect(0));
    let nobody = |arguments: &[&str]| {
        let ids = ["--reuid=65534", "--regid=65534", "--clear-groups", "--"];
        Run::new("setpriv").args(ids).args([&program]).args(arguments)
    };
    let log = folder.file("log.jsonl").display().to_string();
    let cgroup = enforced.path().display().to_string();
    let record = ["record", "--quiet", "--duration", "1ms", "--output", &log];
    drop(nobody(&record).outcome().expect(0));
    let enforce = ["enforce", "--quiet", "--duration", "1ms", "--cgroup", &cgroup, "--output", &log];
    drop(nobody(&enforce).outcome().expect(0));
    assert!(nobody(&["doctor"]).outcome().expect(0).stdout.contains("bindwatch can record here."));
    let delegated = delegated();
    let run = [
        "run",
        "--quiet",
        "--on-conflict",
        "deny",
        "--output",
        &log,
        "--",
        "grep",
        "^Cap[PEA]",
        "/proc/self/status",
    ];
    let outcome = nobody(&run).inside(&delegated).outcome().expect(0);
    let has_none = |line: &str| line.ends_with("\t0000000000000000");
    assert_eq!(outcome.stdout.lines().filter(|line| has_none(line)).count(), 3, "{outcome}");
    let waiting = Waiting::new();
    let arguments = waiting.arguments();
    let run = nobody(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).inside(&delegated);
    waiting.holds(run);
}

/// The unit of docs/security.md is one to systemd, and gives what the command needs and no more.
#[test]
fn the_unit_is_what_systemd_takes() {
    let folder = Folder::new();
    let unit = SECURITY.split("```ini\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a unit");
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a command");
    let (program, rest) = command.split_once(' ').expect("arguments");
    // systemd wants it to be there.
    folder.write("bindwatch.service", unit.replace(program, &bindwatch().to_string_lossy()));
    let verify =
        Run::new("systemd-analyze").args(["verify", "--man=no"]).args([folder.file("bindwatch.service")]);
    let outcome = verify.outcome().expect(0);
    assert_eq!(outcome.stderr, "", "{outcome}");
    for key in ["AmbientCapabilities=", "CapabilityBoundingSet="] {
        let given =
            unit.lines().find_map(|line| line.strip_prefix(key)).expect("capabilities").to_lowercase();
        assert!(given.split(' ').eq(NEEDED.map(|one| format!("cap_{one}"))), "{given}");
    }
    // Its command, with those, in the place of the paths that it names.
    let cgroup = Cgroup::new();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).expect("permissions");
    let (place, log) = (cgroup.path().display().to_string(), folder.file("log.jsonl").display().to_string());
    let arguments: Vec<&str> = rest
        .split(' ')
        .map(|word| match word {
            "/ci.slice" => &*place,
            _ if word.ends_with("log.jsonl") => &*log,
            word => word,
        })
        .collect();
    let run = Run::bindwatch(arguments).args(["--quiet", "--duration", "1ms"]).as_nobody_with(&NEEDED);
    drop(run.outcome().expect(0));
}

/// What reads, and what writes a note, needs nothing; the live screen needs what a recording does.
#[test]
fn what_needs_nothing_works_without_anything() {
    let recording = Recording::start();
    let address = loopback();
    let mut actor = Actor::new();
    actor.bind(&format!("tcp {address}:8000 listen"));
    let noted = "noted by nobody";
    drop(Run::bindwatch(["mark", noted]).as_nobody().outcome().expect(0));
    recording.fence();
    let finished = recording.stop();
    assert_eq!(finished.log.lines(&format!("\"text\":\"{noted}\"")).len(), 1);
    let readable = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(finished.log.path(), readable).expect("permissions");
    let log = finished.log.path().display().to_string();
    let story = Run::bindwatch(["explain", &log, &address.to_string()]).as_nobody().outcome().expect(0);
    assert!(story.stdout.contains("8000"), "{story}");
    for command in [&["report", &log][..], &["top", "--once", "--replay", &log], &["check", "127.0.0.1:1"]] {
        drop(Run::bindwatch(command).as_nobody().outcome().expect(0));
    }
    let top = ["top", "--once"];
    drop(Run::bindwatch(top).as_nobody_with(&NEEDED).outcome().expect(0));
    for one in NEEDED {
        Run::bindwatch(top).as_nobody_with(&without(one)).outcome().expect_one_line(125);
    }
}

/// Who is not root moves a process of their own where they may write to `cgroup.procs` of the cgroup it comes to, and of the
/// nearest that is above both: those of the cgroup that it leaves are not asked for.
#[test]
fn enroll_needs_the_cgroup_and_the_one_above_both() {
    let above = Cgroup::new();
    let name = above.path().file_name().expect("a name").to_string_lossy().into_owned();
    let [from, to] = ["from", "to"].map(|part| Cgroup::named(&format!("{name}/{part}")));
    let (enforcing, folder) = (Recording::enforcing::<&str>(&to, []), Folder::new());
    let ids = ["--reuid=65534", "--regid=65534", "--clear-groups", "--"];
    let enter = format!("echo $$ > {}/cgroup.procs && exec setpriv \"$@\"", from.path().display());
    let theirs = Run::new("sh").args(["-c", &enter, "sh"]).args(ids).args([
        "sh",
        "-c",
        "echo > there; read x < never",
    ]);
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).expect("permissions");
    drop(Run::new("mkfifo").args(["-m", "666", "there", "never"]).folder(folder.path()).outcome().expect(0));
    let theirs = theirs.folder(folder.path()).start();
    drop(Run::new("cat").args(["there"]).folder(folder.path()).outcome().expect(0));
    let pid = theirs.process.id().to_string();
    let place = to.path().display().to_string();
    let enroll = || Run::bindwatch(["enroll", "--quiet", "--cgroup", &place, &pid]).as_nobody().outcome();
    let give = |cgroup: &Cgroup| {
        chown(cgroup.path().join("cgroup.procs"), Some(65534), Some(65534)).expect("another owner");
    };
    enroll().expect_one_line(125);
    give(&to);
    enroll().expect_one_line(125);
    give(&above);
    drop(enroll().expect(0));
    assert_eq!(to.processes(), [theirs.process.id()]);
    drop(theirs);
    drop(enforcing.stop());
}
