//! P9: whether a million binds are seen, and what is said where some are not.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use anyhow::{Context as _, anyhow, ensure};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;
use rustix::time::Timespec;
use scenarios::{Actor, Finding, Recording, loopback};

use crate::goals::{Amount, Measured};
use crate::table::Row;
use crate::work::{Worker, cycles};

/// Who wants the processors meanwhile.
struct Flood {
    what: &'static str,
    /// Processes that bind without a pause.
    binders: u32,
    /// One more works without binding.
    beside: bool,
    /// What is left to the reader.
    nice: Option<&'static str>,
}

/// What became of one.
struct Outcome {
    made: u64,
    seen: u64,
    /// What the log says was lost.
    lost: u64,
    /// What was found of the needles.
    needles: Vec<String>,
}

pub(crate) fn nothing_lost(amount: Amount) -> Measured {
    const FLOODS: [Flood; 3] = [
        Flood { what: "2 processes, the reader at nice 19", binders: 2, beside: false, nice: Some("19") },
        Flood {
            what: "1 process beside a busy one, the reader at nice 19",
            binders: 1,
            beside: true,
            nice: Some("19"),
        },
        Flood { what: "2 processes, the reader as they are", binders: 2, beside: false, nice: None },
    ];
    let mut rows = Vec::new();
    for flood in FLOODS {
        let rounds = (0..amount.few()).map(|_| flood.run(1_000_000 / amount.part));
        let rounds = rounds.collect::<anyhow::Result<Vec<Outcome>>>()?;
        // Any loss will do that is stated to the bind, each time.
        let must = if rounds.iter().all(Outcome::is_exact) { 1.0 } else { 0.0 };
        let what = format!("binds not seen / made, {} (any, where the loss is exact)", flood.what);
        let unseen = rounds.iter().map(Outcome::unseen).collect();
        rows.push(Row::new("P9", &what, must, 0.0, unseen).note(joined(&rounds, Outcome::binds)));
        let what = "needles among them that are missed or told twice";
        let missed = rounds.iter().map(Outcome::missed).collect();
        rows.push(Row::new("P9", what, 0.0, 0.0, missed).note(joined(&rounds, Outcome::found)));
    }
    Ok(rows)
}

/// What is to be said of each round.
fn joined(rounds: &[Outcome], note: fn(&Outcome) -> String) -> String {
    rounds.iter().map(note).collect::<Vec<_>>().join("; ")
}

impl Outcome {
    const fn is_exact(&self) -> bool {
        self.seen + self.lost == self.made
    }

    fn unseen(&self) -> f64 {
        1.0 - self.seen as f64 / self.made as f64
    }

    fn binds(&self) -> String {
        format!("{} made, {} seen, {} stated as lost", self.made, self.seen, self.lost)
    }

    /// How many of one conflict and one refused bind are not found, or not once.
    fn missed(&self) -> f64 {
        let found_once = |wanted: &&str| self.needles.iter().filter(|kind| kind == wanted).count() == 1;
        (2 - ["co-bind", "refused"].iter().filter(|wanted| found_once(wanted)).count()) as f64
    }

    fn found(&self) -> String {
        format!("found: {}", self.needles.join(", "))
    }
}

impl Flood {
    fn run(&self, binds: u32) -> anyhow::Result<Outcome> {
        let each = binds / self.binders;
        let recording = Recording::start();
        if let Some(nice) = self.nice {
            renice(recording.pid(), nice)?;
        }
        let mut beside = self.beside.then(|| Worker::start(&["getppids"])).transpose()?;
        if let Some(beside) = &mut beside {
            beside.ask(u32::MAX)?;
        }
        let address = loopback();
        let mut needles = Some((Actor::new(), Actor::new()));
        let log = recording.log().path().to_owned();
        let mut thread = None;
        let mut ready = 0;
        cycles(self.binders as usize, each, |_| {
            ready += 1;
            if ready == self.binders
                && let Some((one, other)) = needles.take()
            {
                let after = u64::from(each) * 10;
                let (log, at) = (log.clone(), address.to_string());
                thread = Some(std::thread::spawn(move || {
                    grown(&log, after)?;
                    Ok(put(one, other, &at))
                }));
            }
        })?;
        drop(beside);
        let thread: JoinHandle<anyhow::Result<_>> = thread.context("no needles")?;
        let needles = thread.join().map_err(|_| anyhow!("the needles could not be made"))??;
        let finished = recording.stop();
        drop(needles);
        let report = finished.live();
        let mut kinds: Vec<String> =
            report.at(address).iter().map(Finding::kind).map(str::to_owned).collect();
        kinds.sort_unstable();
        let (mut seen, mut lost) = (0_u64, 0_u64);
        for port in [9_000, 8_000, 8_001] {
            finished.log.each(&format!("\"port\":{port}"), |line| {
                // A refused one that is lost is counted with the others.
                seen += u64::from(line["type"] == "bind" || line["type"] == "bind-failed");
            });
        }
        finished.log.each("\"type\":\"lost\"", |line| lost += line["counts"]["bind"].as_u64().unwrap_or(0));
        // Each worker binds once before it is ready; and the needles are four binds.
        Ok(Outcome { made: u64::from(self.binders * (each + 1) + 4), seen, lost, needles: kinds })
    }
}

/// One port that is shared, and one bind that is refused. They stand until what is returned is dropped.
fn put(mut one: Actor, mut other: Actor, address: &str) -> (Actor, Actor) {
    one.bind(&format!("tcp {address}:8000 reuseport listen"));
    other.bind(&format!("tcp {address}:8000 reuseport listen"));
    one.bind(&format!("tcp {address}:8001 listen"));
    other.err(&format!("bind tcp {address}:8001 listen"));
    (one, other)
}

/// Of every thread: priorities are the threads' own.
fn renice(pid: u32, nice: &str) -> anyhow::Result<()> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let mut command = Command::new("renice");
        command.args(["-n", nice, "-p"]).arg(task?.file_name()).stdout(Stdio::null());
        ensure!(command.status()?.success(), "{command:?}");
    }
    Ok(())
}

/// Waits until so much is in a file. It sleeps meanwhile: the processors are the flood's.
fn grown(path: &Path, bytes: u64) -> anyhow::Result<()> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(&watch, path, inotify::WatchFlags::MODIFY)?;
    let most = Timespec { tv_sec: 60, tv_nsec: 0 };
    while fs::metadata(path)?.len() < bytes {
        let told = poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&most))?;
        ensure!(told > 0, "{} does not grow", path.display());
        rustix::io::read(&watch, &mut [0; 4096])?;
    }
    Ok(())
}
