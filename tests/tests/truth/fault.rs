//! A reader that does not keep up: what is lost is stated, what it could have changed is uncertain, and a look at the
//! kernel's tables makes the ledger whole again.

use std::sync::{Mutex, PoisonError};

use bindwatch::event::Cookie;
use scenarios::{Actor, Recording, Run, loopback};

use super::history::World;
use super::picture::{Kernel, Picture};
use super::with_what_was_told;
use rustix::process::Signal;
use scenarios::wait::Process;

/// Enough for a reader that reads, and far too little for the flood.
const RING: &str = "1M";
/// The flood while nobody reads.
const PROCESSES: u64 = 150;
const BINDS: u64 = 100;
/// One flood at a time: every recording of the machine gets it.
static FLOOD: Mutex<()> = Mutex::new(());

/// More binds than the ring has room for.
fn storm(at: std::net::Ipv4Addr) {
    let words = [PROCESSES.to_string(), BINDS.to_string(), at.to_string()];
    let made = Run::new(Actor::program().with_file_name("storm")).args(words).outcome().expect(0);
    assert_eq!(made.stdout.trim(), (PROCESSES * BINDS).to_string());
}

/// A recording that is not read, and whose ring is full.
fn flooded() -> (Recording, Process) {
    let recording = Recording::with(["--ring-size", RING]);
    let reader = Process::of(recording.pid());
    reader.signal(Signal::STOP);
    storm(loopback());
    (recording, reader)
}

#[test]
fn a_loss_is_stated_and_made_good() {
    let _alone = FLOOD.lock().unwrap_or_else(PoisonError::into_inner);
    let seed = super::number("BINDWATCH_SEED").unwrap_or(1);
    let recording = Recording::with(["--ring-size", RING]);
    let mut world = World::new(seed);
    let mut marker = Actor::new();
    let mut picture = Picture::new(world.probers());
    let namespaces = world.namespaces();
    let [before, across, after, flying] = scenarios::loopbacks();
    let (mut one, mut other) = (Actor::new(), Actor::new());
    let share = |one: &mut Actor, other: &mut Actor, address| {
        one.bind(&format!("tcp {address}:8000 reuseport listen"));
        other.bind(&format!("tcp {address}:8000 reuseport listen")).id
    };
    let over = share(&mut one, &mut other, before);
    other.ok(&format!("close {over}"));
    share(&mut one, &mut other, across);
    let mut sender = Actor::new();
    let sent = sender.bind(&format!("tcp {flying}:8000 listen"));
    let inbox = format!("bindwatch-fault-{}", sender.pid());
    sender.ok(&format!("inbox {inbox}"));
    world.live(300);
    picture.catch_up(&recording, &mut marker);
    assert_eq!(picture.lost, 0, "nothing is lost yet");
    let differences = picture.differences(&Kernel::now(&namespaces));
    assert!(differences.is_empty(), "{}", differences.join("\n"));

    // Nobody reads, and the world goes on; a process id comes back as another process.
    let reader = Process::of(recording.pid());
    reader.signal(Signal::STOP);
    let flood = loopback();
    storm(flood);
    world.live(1_500);
    let recycled = world.recycle();
    // In nobody's hands while the tables are looked at.
    sender.ok(&format!("post {} {inbox}", sent.id));
    sender.ok(&format!("close {}", sent.id));
    reader.signal(Signal::CONT);
    recording.wait_for_lines("\"type\":\"lost\"", 1, |_| true);
    // The tables are looked at when nothing was lost for a while.
    recording.wait_for_lines("\"phase\":\"end\"", 2, |line| line["type"] == "inventory");
    picture.catch_up(&recording, &mut marker);

    let kernel = Kernel::now(&namespaces);
    let differences = picture.differences(&kernel);
    assert!(differences.is_empty(), "after the loss:\n{}", differences.join("\n"));
    let all =
        kernel.sockets.keys().copied().filter(|cookie| kernel.is_at_rest(&kernel.sockets[cookie])).collect();
    let differences = picture.holder_differences(&kernel, &all);
    assert!(differences.is_empty(), "after the loss:\n{}", with_what_was_told(&differences, recording.log()));
    let known = picture.ledger().view();
    assert!(
        known.sockets().any(|socket| socket.processes().iter().any(|holder| holder.tgid == recycled)),
        "process {recycled} has a socket again"
    );
    // Its binder takes it up again, and whom it keeps out makes that known.
    let cookie = Cookie(sent.cookie);
    assert!(known.socket(cookie).is_some_and(|socket| socket.is_unheld()), "in flight");
    sender.ok("unpost");
    marker.err(&format!("bind tcp {flying}:8000 listen"));
    picture.catch_up(&recording, &mut marker);
    let known = picture.ledger().view().socket(cookie).expect("a socket that is known");
    let holders: Vec<u32> = known.processes().iter().map(|holder| holder.tgid).collect();
    assert_eq!((known.is_unheld(), holders), (false, vec![sender.pid()]));
    // What comes now is certain again.
    share(&mut one, &mut other, after);
    picture.catch_up(&recording, &mut marker);

    let finished = recording.stop();
    let report = finished.report();
    let mut seen = 0;
    finished.log.each(&format!("\"address\":\"{flood}\""), |line| seen += u64::from(line["type"] == "bind"));
    let made = PROCESSES * BINDS;
    let of_binds: u64 = finished
        .log
        .lines("\"type\":\"lost\"")
        .iter()
        .map(|line| line["counts"]["bind"].as_u64().unwrap_or(0))
        .sum();
    eprintln!(
        "{} events lost, {of_binds} of them binds; {seen} of {made} binds of the flood seen",
        picture.lost
    );
    assert!(picture.lost > 0 && seen < made && seen + of_binds >= made, "the loss is stated");
    assert_eq!(report.stat("lost"), picture.lost);
    for (address, uncertain) in [(before, false), (across, true), (after, false)] {
        assert_eq!(report.only(address, 8000).0["uncertain"], uncertain, "{address}");
    }
    let text = Run::bindwatch(["report"]).args([finished.log.path()]).outcome().expect(0).stdout;
    let first: String = text.lines().take(3).collect();
    assert!(first.contains(&picture.lost.to_string()), "the first lines say what was lost: {first}");
}

/// A refused bind stands in no table afterwards: its record has room where those of binds have none, and comes after what is said
/// to be lost before it.
#[test]
fn a_refused_bind_is_told_where_others_are_lost() {
    let _alone = FLOOD.lock().unwrap_or_else(PoisonError::into_inner);
    let (recording, reader) = flooded();
    let (address, mut one, mut other) = (loopback(), Actor::new(), Actor::new());
    one.bind(&format!("tcp {address}:8000 listen"));
    other.err(&format!("bind tcp {address}:8000 listen"));
    reader.signal(Signal::CONT);
    recording.wait_for_lines("\"phase\":\"end\"", 2, |line| line["type"] == "inventory");
    let finished = recording.stop();
    let seq_of = |kind: &str, wanted: &str| {
        let lines = finished.log.lines(wanted);
        lines.iter().find(|line| line["type"] == kind).and_then(|line| line["seq"].as_u64())
    };
    let refused = seq_of("bind-failed", &format!("\"address\":\"{address}\"")).expect("the refused bind");
    let bound = seq_of("bind", &format!("\"address\":\"{address}\""));
    assert_eq!(bound, None, "the holder's record was lost");
    assert!(seq_of("lost", "\"type\":\"lost\"").expect("a loss") < refused, "the loss comes before");
    let report = finished.report();
    let found = report.only(address, 8000);
    assert_eq!((found.kind(), &found.0["uncertain"]), ("refused", &true.into()));
    let holders: Vec<_> = found.0["holders"].as_array().into_iter().flatten().collect();
    assert!(
        matches!(holders[..], [holder] if holder["pid"] == one.pid() && holder["bound_at"].is_null()),
        "{}",
        found.0
    );
    let summary = found.0["summary"].as_str().expect("a summary");
    assert!(summary.contains("listens there since an unknown time"), "{summary}");
}

/// What is lost just before the end is looked for at the end.
#[test]
fn what_stands_at_the_end_is_found_after_a_loss() {
    let _alone = FLOOD.lock().unwrap_or_else(PoisonError::into_inner);
    let (recording, reader) = flooded();
    let (address, mut one, mut other) = (loopback(), Actor::new(), Actor::new());
    for actor in [&mut one, &mut other] {
        actor.bind(&format!("tcp {address}:8000 reuseport listen"));
    }
    reader.signal(Signal::TERM);
    reader.signal(Signal::CONT);
    let finished = recording.ended();
    let report = finished.report();
    assert!(report.stat("lost") > 0, "the ring was full");
    let lines = finished.log.lines(&format!("\"address\":\"{address}\""));
    assert!(lines.iter().all(|line| line["type"] != "bind"), "their records were lost");
    let found = report.only(address, 8000);
    assert_eq!((found.kind(), &found.0["uncertain"]), ("co-bind", &true.into()));
}
