//! Enforcement from its beginning to its end: with bindwatch, unless it is pinned; beside another bindwatch and other tools.

#![expect(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::inotify;
use rustix::process::Signal;
use scenarios::wait::{Deadline, Process, SLOWNESS, readable};
use scenarios::{Actor, Cgroup, Folder, Log, Recording, Run, bindwatch, cgroup2, loopback};

/// Two strangers in a cgroup.
fn strangers(cgroup: &Cgroup) -> (Actor, Actor) {
    let (one, other) = (Actor::new(), Actor::new());
    cgroup.enrol(one.pid());
    cgroup.enrol(other.pid());
    (one, other)
}

#[track_caller]
fn refused(actor: &mut Actor, command: &str) {
    assert_eq!(actor.tell(command).to_string(), "err EADDRINUSE", "{command}");
}

/// A BPF file system at its usual place, for as long as a test needs one: for one test at once.
struct BpfMount {
    mounted: bool,
    _alone: MutexGuard<'static, ()>,
}

/// Where enforcement is pinned.
const PINS: &str = "/sys/fs/bpf/bindwatch";

/// The folders of pins, with the names in each.
fn pins() -> BTreeMap<PathBuf, BTreeSet<String>> {
    let names = |folder: &Path| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<BTreeSet<_>>()
    };
    names(Path::new(PINS))
        .into_iter()
        .map(|name: String| Path::new(PINS).join(name))
        .map(|one| (one.clone(), names(&one)))
        .collect()
}

impl BpfMount {
    fn new() -> Self {
        static ONE: Mutex<()> = Mutex::new(());
        let alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let point = "/sys/fs/bpf";
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
        let there = mounts.lines().any(|line| line.contains(" - bpf "));
        if !there {
            drop(Run::new("mount").args(["-t", "bpf", "bpf", point]).outcome().expect(0));
        }
        Self { mounted: !there, _alone: alone }
    }
}

impl Drop for BpfMount {
    fn drop(&mut self) {
        drop(Run::bindwatch(["enforce", "--unpin"]).outcome());
        if self.mounted {
            drop(Run::new("umount").args(["/sys/fs/bpf"]).outcome());
        }
    }
}

#[test]
fn what_is_pinned_outlives_bindwatch_and_is_taken_over() {
    let cgroup = Cgroup::new();
    let (mut one, mut other) = strangers(&cgroup);
    let address = loopback();
    let _mount = BpfMount::new();

    let recording = Recording::enforcing(&cgroup, ["--pin"]);
    one.bind(&format!("tcp {address}:8000 reuseport listen"));
    drop(recording.kill());
    refused(&mut other, &format!("bind tcp {address}:8000 reuseport"));
    one.bind(&format!("tcp {address}:8001 reuseport listen"));
    refused(&mut other, &format!("bind tcp {address}:8001 reuseport"));
    // The doctor says so, and how to end it.
    let name = cgroup.path().file_name().expect("a name").to_string_lossy().into_owned();
    let doctor = Run::bindwatch(["doctor", "--format", "json"]).outcome().expect(0);
    let doctor: serde_json::Value = serde_json::from_str(&doctor.stdout).expect("JSON");
    let pinned = doctor.get("pinned").and_then(serde_json::Value::as_array).expect("what is pinned");
    let path = serde_json::Value::from(format!("/{name}"));
    let ours = pinned.iter().find(|one| one.get("cgroup") == Some(&path)).expect("this cgroup");
    let end = format!("bindwatch enforce --unpin --cgroup /{name}");
    assert_eq!(ours.get("end"), Some(&end.clone().into()));
    let doctor = Run::bindwatch(["doctor"]).outcome().expect(0);
    assert!(doctor.stdout.contains(&format!("in /{name}\n")) && doctor.stdout.contains(&end), "{doctor}");
    // Who is related to whom stays known.
    one.ok("fork");
    one.ok(&format!("tell 1 bind tcp {address}:8001 reuseport listen"));

    // The next one knows what was bound in between, and takes over without a gap.
    let recording = Recording::enforcing(&cgroup, ["--pin"]);
    refused(&mut other, &format!("bind tcp {address}:8001 reuseport"));
    let pins = Run::new("find").args(["/sys/fs/bpf/bindwatch", "-name", "guard_bind4-*"]).outcome().expect(0);
    assert_eq!(pins.stdout.lines().count(), 1, "{pins}");
    let report = recording.stop().report();
    assert!(report.at(address).iter().any(|finding| finding.kind() == "denied"), "{report}");
    refused(&mut other, &format!("bind tcp {address}:8000 reuseport"));

    let outcome =
        Run::bindwatch(["enforce", "--unpin", "--cgroup"]).args([cgroup.path()]).outcome().expect(0);
    assert!(outcome.stderr.contains("binds are no longer denied in /bindwatch-test-"), "{outcome}");
    assert!(!Path::new("/sys/fs/bpf/bindwatch").exists());
    other.bind(&format!("tcp {address}:8000 reuseport"));
}

/// Whoever is killed while it pins, or unpins, leaves a part: IPv4 guarded, and IPv6 not. That is no enforcement.
#[test]
fn what_was_pinned_in_part_goes_with_the_next_start() {
    let _mount = BpfMount::new();
    for gone in ["guard_bind6-", "guard_option-", "guard_"] {
        let (cgroup, whole, other) = (Cgroup::new(), Cgroup::new(), Cgroup::new());
        drop(Recording::enforcing(&whole, ["--pin"]).stop());
        let kept = pins();
        let recording = Recording::enforcing(&cgroup, ["--pin"]);
        // What a living one is about to pin is not touched.
        let part: Vec<_> = pins().into_iter().filter(|(folder, _)| !kept.contains_key(folder)).collect();
        let [(folder, names)] = part.as_slice() else { panic!("one folder more: {part:?}") };
        for name in names.iter().filter(|name| name.starts_with(gone)) {
            std::fs::remove_file(folder.join(name)).expect("a pin to remove");
        }
        drop(Recording::enforcing::<&str>(&other, []).stop());
        assert!(folder.exists(), "{gone}");
        drop(recording.kill());

        let said = Run::bindwatch(["doctor"]).outcome().expect(0).stdout;
        assert!(
            said.contains("was killed while it pinned") && said.contains(&*folder.to_string_lossy()),
            "{said}"
        );
        drop(Recording::enforcing::<&str>(&other, []).stop());
        assert_eq!(pins(), kept, "{gone}");
        let said = Run::bindwatch(["doctor"]).outcome().expect(0).stdout;
        assert!(!said.contains("was killed while it pinned"), "{said}");
        drop(Run::bindwatch(["enforce", "--unpin"]).outcome().expect(0));
        assert!(!Path::new(PINS).exists());
    }
}

#[test]
fn two_at_once_deny_together_and_each_for_itself() {
    let cgroup = Cgroup::new();
    let (mut one, mut other) = strangers(&cgroup);
    let address = loopback();
    let (first, watching) = (Recording::enforcing::<&str>(&cgroup, []), Recording::start());
    one.bind(&format!("tcp {address}:8000 reuseport listen"));
    let second = Recording::enforcing::<&str>(&cgroup, []);
    one.bind(&format!("tcp {address}:8001 reuseport listen"));
    for port in [8000, 8001] {
        refused(&mut other, &format!("bind tcp {address}:{port} reuseport"));
    }
    drop(first.kill());
    for port in [8000, 8001] {
        refused(&mut other, &format!("bind tcp {address}:{port} reuseport"));
    }
    drop(second.stop());
    let report = watching.stop().report();
    other.bind(&format!("tcp {address}:8000 reuseport"));
    // What they denied nobody else takes for a bind.
    assert!(report.at(address).iter().all(|finding| finding.kind() == "refused"), "{report}");
    assert_eq!(report.at(address).len(), 2, "{report}");
}

#[test]
fn what_another_tool_denies_stays_denied_and_is_nobodys() {
    for kind in ["bind4", "post_bind4"] {
        for first in [true, false] {
            let (cgroup, address) = (Cgroup::new(), loopback());
            let (mut one, mut other) = strangers(&cgroup);
            let tool = || Actor::denier(cgroup.path(), kind);
            let before = first.then(tool);
            let recording = Recording::enforcing::<&str>(&cgroup, []);
            let tool = before.unwrap_or_else(tool);
            let denied = if kind == "bind4" { "EPERM" } else { "EACCES" };
            let socket = one.tell("socket tcp 4").to_string();
            let id =
                socket.split("id=").nth(1).and_then(|rest| rest.split(' ').next()).expect("an id").to_owned();
            one.ok(&format!("opt {id} reuseport 1"));
            assert_eq!(one.err(&format!("rebind {id} {address}:8000")), denied, "{kind} {first}");
            tool.process.signal(Signal::KILL);
            assert!(tool.process.ended(Deadline::patient()));
            // The port was never had by the socket that is still open.
            other.bind(&format!("tcp {address}:8000 reuseport listen"));
            assert_eq!(one.err(&format!("rebind {id} {address}:8000")), "EADDRINUSE", "{kind} {first}");
            one.ok(&format!("rebind {id} {address}:8001"));
            refused(&mut other, &format!("bind tcp {address}:8001 reuseport"));
            let report = recording.stop().report();
            let kinds: Vec<_> = report.at(address).iter().map(|finding| finding.kind().to_owned()).collect();
            assert_eq!(kinds, ["denied", "denied"], "{report}");
        }
    }
}

#[test]
fn what_a_command_leaves_is_told_and_ended_where_that_was_asked_for() {
    for (options, lives) in [(&[][..], true), (&["--kill-orphans"][..], false)] {
        let (folder, address) = (Folder::new(), loopback());
        let mut run = Command::new(bindwatch());
        run.args(["run", "--output"])
            .arg(folder.file("log.jsonl"))
            .args(options)
            .arg("--")
            .arg(Actor::program());
        let mut job = Actor::start(&mut run);
        let socket = job.bind(&format!("tcp {address}:8000 listen"));
        // It inherits the socket and nothing else of the actor, and takes no notice of SIGTERM.
        let leak = format!("leak {} env --ignore-signal=TERM sleep 1000", socket.id);
        let pid = u32::try_from(job.ok(&leak).number("pid")).expect("a PID");
        let process = Process::of(pid);
        job.exit();
        let report = Log::at(&folder.file("log.jsonl")).report();
        let finding = report.only(address, 8000);
        assert_eq!((finding.kind(), finding.pids()), ("orphan", vec![u64::from(pid)]), "{report}");
        assert_eq!(report.0.get("notices"), None, "it is named once: {report}");
        assert_eq!(!process.ended(Deadline::after(Duration::ZERO)), lives);
        process.signal(Signal::KILL);
    }
}

/// What `run` says on standard error of processes that its command left behind, and what the report says of them.
#[track_caller]
fn left_by(script: &str, options: &[&str]) -> (Vec<String>, Vec<String>) {
    let folder = Folder::new();
    let log = folder.file("log.jsonl");
    let run = Run::bindwatch(["run", "--kill-orphans", "--output"]).args([&log]).args(options);
    let outcome = run.args(["--", "sh", "-c", script]).folder(folder.path()).outcome().expect(0);
    let orphans = |text: &str| {
        let lines = text.lines().filter(|line| line.contains("orphan: ") || line.contains(" more process"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let told = Run::bindwatch(["report"]).args([&log]).outcome().expect(0);
    assert!(!format!("{outcome}{told}").contains('\u{1b}'), "{outcome}{told}");
    let notices = Log::at(&log).report().0.get("notices").cloned();
    let notices: Vec<String> =
        notices.map_or_else(Vec::new, |texts| serde_json::from_value(texts).expect("texts"));
    // A notice can also be about events that the kernel left out.
    let notices = orphans(&notices.join("\n"));
    let whole: Vec<String> = notices.iter().map(|notice| format!("warning: {notice}")).collect();
    assert_eq!(orphans(&told.stdout), whole, "{told}");
    (orphans(&outcome.stderr), notices)
}

#[test]
fn a_process_that_a_command_leaves_is_named_also_without_a_socket() {
    // A script of that name: a shell need not run under another than its own.
    let script = "name=$(printf 'a\\033[2Jb'); printf '#!/bin/sh\\necho > there; read x < never\\n' > \"$name\"; \
                  chmod +x \"$name\"; mkfifo there never; \"./$name\" & read x < there; true";
    let (said, notices) = left_by(script, &[]);
    let [line] = said.as_slice() else { panic!("one line: {said:?}") };
    let told = line.strip_prefix("bindwatch: warning: orphan: a\\x1b[2Jb (PID ").expect(line);
    let (pid, rest) = told.split_once(')').expect(line);
    assert!(pid.parse::<u32>().is_ok_and(|pid| pid > 1), "{line}");
    assert_eq!(rest, " still ran when the command \"sh\" had ended");
    assert_eq!(notices, [line.strip_prefix("bindwatch: warning: ").expect(line)]);

    let (said, notices) = left_by(script, &["--quiet", "--name", "a\u{1b}[2Jb"]);
    assert_eq!((said.len(), notices.len()), (0, 1));
    assert!(notices[0].ends_with("when the command \"a\\x1b[2Jb\" had ended"), "{notices:?}");

    let many = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19; do sleep 1000 & done";
    let (said, notices) = left_by(many, &[]);
    assert_eq!((said.len(), notices.len()), (17, 17), "{said:?}");
    assert_eq!(notices.last().map(String::as_str), Some("orphan: and 3 more processes"));

    assert_eq!(left_by("sleep 1000 & kill $!; wait", &[]), (vec![], vec![]), "nothing is left");
}

/// Numbers that look random, from a seed (xorshift64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Programs that somebody keeps in the kernel, by their ids.
fn programs() -> BTreeSet<u64> {
    let listed = Run::new("bpftool").args(["--json", "prog", "show"]).outcome().expect(0);
    let listed: Vec<serde_json::Value> = serde_json::from_str(&listed.stdout).expect("JSON");
    listed.iter().filter_map(|program| program.get("id")?.as_u64()).collect()
}

/// What a process keeps in the kernel, by its descriptors; nothing when it has ended.
fn programs_of(pid: u32) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten() {
        let facts = std::fs::read_to_string(entry.path()).unwrap_or_default();
        found.extend(
            facts.lines().filter_map(|line| line.strip_prefix("prog_id:")?.trim().parse::<u64>().ok()),
        );
    }
    found
}

/// What a process has in the kernel while it only asks what this kernel can do, one at a time.
const ASKING: usize = 1;

#[test]
fn killed_at_any_moment_it_leaves_nothing() {
    const BATCHES: u32 = if SLOWNESS > 1 { 4 } else { 20 };
    const AT_ONCE: u32 = 8;
    let _mount = BpfMount::new();
    let mut dice = Dice(seed());
    let (cgroup, folder) = (Cgroup::new(), Folder::new());
    // Jobs' cgroups are made beside the tests' own.
    let own = scenarios::cgroup_of(std::process::id());
    let beside = cgroup2().join(own.trim_start_matches('/'));
    let start = |nth: u32| {
        let log = folder.file(&format!("log-{nth}.jsonl"));
        if nth.is_multiple_of(2) {
            // A command that ends by itself, should it have been started.
            let how = if nth.is_multiple_of(4) { "deny" } else { "wait=5s" };
            let run = Run::bindwatch(["run", "--quiet", "--on-conflict", how, "--output"]).args([&log]);
            run.args(["--", "sleep", "0.05"]).start()
        } else {
            // Half of them end by themselves, so that some are killed while they do.
            let run = Run::bindwatch(["enforce", "--quiet", "--output"]).args([&log]);
            let options: &[&str] = match nth % 8 {
                1 => &[],
                3 => &["--duration", "50ms"],
                5 => &["--pin"],
                _ => &["--pin", "--duration", "50ms"],
            };
            run.args(options).args(["--cgroup"]).args([cgroup.path()]).start()
        }
    };
    // How long as many starts take on this machine now.
    let begin = Instant::now();
    for one in (0..5).map(|nth| start(2 * nth)).collect::<Vec<_>>() {
        drop(one.outcome().expect(0));
    }
    let longest =
        u64::try_from(begin.elapsed().as_millis()).expect("less than an age").clamp(1, 800 * SLOWNESS);
    let (mut pids, mut loaded, mut live) = (Vec::new(), BTreeSet::new(), 0);
    for nth in 0..BATCHES {
        let batch: Vec<_> = (0..AT_ONCE).map(start).collect();
        // One moment for all: each is somewhere else by then.
        let moment = Deadline::after(Duration::from_millis(dice.below(longest)));
        let mut ended: Vec<bool> = batch.iter().map(|one| one.process.ended(moment)).collect();
        // However slow the machine is, some are killed when they have begun to load what they attach.
        while nth % 4 == 0
            && ended.contains(&false)
            && batch.iter().all(|one| programs_of(one.process.id()).len() <= ASKING)
        {
            ended = batch.iter().map(|one| one.process.ended(Deadline::after(Duration::ZERO))).collect();
        }
        for (one, ended) in batch.iter().zip(ended) {
            let found = programs_of(one.process.id());
            live += u32::from(found.len() > ASKING);
            loaded.extend(found);
            if !ended {
                one.process.signal(Signal::KILL);
            }
            pids.push(one.process.id());
        }
        batch.into_iter().for_each(|one| drop(one.outcome()));
    }
    let rounds = BATCHES * AT_ONCE;
    println!("{live} of {rounds} had programs in the kernel when they were killed, within {longest} ms");
    assert!(live > 0, "all were killed too early");
    // What is pinned is pinned whole, once another has started; and then it can be unpinned.
    println!("{} were killed when they had pinned something", pins().len());
    drop(Recording::enforcing::<&str>(&Cgroup::new(), []).stop());
    let left = pins();
    assert!(left.values().all(is_whole), "in part: {left:?}");
    drop(Run::bindwatch(["enforce", "--unpin"]).outcome().expect(0));
    assert_eq!(pins(), BTreeMap::new());
    let deadline = Deadline::patient();
    let left = || {
        let mut left: Vec<String> =
            programs().intersection(&loaded).map(|id| format!("program {id}")).collect();
        for pid in &pids {
            let names = [format!("bindwatch-{pid}"), format!("bindwatch-{pid}-2")];
            let cgroups = names.iter().map(|name| beside.join(name)).filter(|path| path.exists());
            left.extend(cgroups.map(|path| path.display().to_string()));
        }
        let attached = Run::new("bpftool").args(["cgroup", "show"]).args([cgroup.path()]).outcome();
        left.extend(attached.stdout.lines().skip(1).map(str::to_owned));
        for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
            let cmdline = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            // The janitors, and whoever else was told this PID or this folder.
            let words: Vec<_> = cmdline.split(|&byte| byte == 0).map(String::from_utf8_lossy).collect();
            let ours = |word: &str| {
                pids.iter().any(|pid| word == pid.to_string())
                    || word.starts_with(&*folder.path().to_string_lossy())
            };
            if words.first().is_some_and(|name| name.ends_with("bindwatch"))
                && words.iter().any(|word| ours(word))
            {
                left.push(words.join(" "));
            }
        }
        left
    };
    let mut last = left();
    while !last.is_empty() {
        assert!(!deadline.over(), "left behind: {last:#?}");
        last = left();
    }
}

/// What is pinned in a cgroup denies all kinds of binds.
fn is_whole(names: &BTreeSet<String>) -> bool {
    let hooks = |kind: &str| names.iter().filter(|name| name.starts_with(kind)).count();
    hooks("guard_") == 3 || hooks("check_") == 2
}

/// A number for the dice: of the environment, or a new one.
fn seed() -> u64 {
    let seed = std::env::var("BINDWATCH_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) << 20 | 1);
    println!("BINDWATCH_SEED={seed}");
    seed
}

/// One by one, each in the moments in which it pins, or ends.
#[test]
fn killed_while_it_pins_or_ends_it_leaves_nothing() {
    const ROUNDS: u32 = if SLOWNESS > 1 { 6 } else { 16 };
    let _mount = BpfMount::new();
    let (mut dice, cgroup, kept) = (Dice(seed()), Cgroup::new(), Cgroup::new());
    // With these there is a folder to watch.
    drop(Recording::enforcing(&kept, ["--pin"]).stop());
    let (others, mut loaded, mut partly, mut in_time) = (pins(), BTreeSet::new(), 0, 0);
    for nth in 0..ROUNDS {
        let (folder, place) = (Folder::new(), Folder::new());
        let (options, watched, longest): (&[&str], _, _) = match nth % 2 {
            0 => (&["--pin"], Path::new(PINS), 1_000),
            _ => (&["--duration", "1ms"], place.path(), 100_000),
        };
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC).expect("inotify");
        inotify::add_watch(&watch, watched, inotify::WatchFlags::CREATE).expect("a watch on the folder");
        let run = Run::bindwatch(["enforce", "--quiet", "--output"]).args([folder.file("log.jsonl")]);
        let run = run.args(["--ready-file"]).args([place.file("ready")]).args(options);
        let one = run.args(["--cgroup"]).args([cgroup.path()]).start();
        let begun = readable([watch.as_fd(), one.process.as_fd()], Deadline::patient());
        assert_eq!(begun, Some(0), "{}", one.outcome());
        if nth % 2 == 1 {
            loaded.extend(programs_of(one.process.id()));
        }
        in_time += u32::from(!one.process.ended(Deadline::after(Duration::from_micros(dice.below(longest)))));
        one.process.signal(Signal::KILL);
        drop(one.outcome());
        partly += u32::from(!pins().values().all(is_whole));
    }
    println!("{in_time} of {ROUNDS} were killed, {partly} when they had pinned a part");
    assert!(in_time > 0, "all ended by themselves");
    drop(Recording::enforcing::<&str>(&Cgroup::new(), []).stop());
    let left = pins();
    assert!(left.values().all(is_whole) && others.keys().all(|other| left.contains_key(other)), "{left:?}");
    drop(Run::bindwatch(["enforce", "--unpin"]).outcome().expect(0));
    assert_eq!(pins(), BTreeMap::new());
    let deadline = Deadline::patient();
    loop {
        let attached = Run::new("bpftool").args(["cgroup", "show"]).args([cgroup.path()]).outcome().stdout;
        let running: Vec<_> = programs().intersection(&loaded).copied().collect();
        if attached.lines().count() <= 1 && running.is_empty() {
            break;
        }
        assert!(!deadline.over(), "left behind: programs {running:?}\n{attached}");
    }
}
