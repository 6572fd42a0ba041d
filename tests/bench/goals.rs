//! The goals, one function each: what is compared takes turns within a run, so that a busy machine slows both.

use std::fs;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::fs::inotify;
use scenarios::synthetic::{self, Plan};
use scenarios::{Actor, Folder, Recording, loopback};

use crate::measure::of_children;
use crate::table::Row;
use crate::work::{holders, time_until};
use crate::{cost, flood, peers, scale};

/// How much is measured.
#[derive(Clone, Copy)]
pub(crate) struct Amount {
    pub(crate) rounds: usize,
    /// Divides the size of every workload.
    pub(crate) part: u32,
}

impl Amount {
    /// Rounds of what takes turns quickly.
    pub(crate) const fn pairs(self) -> usize {
        2 * self.rounds + 1
    }

    /// Rounds of what takes long and differs little: as few as show by how much.
    pub(crate) fn few(self) -> usize {
        self.rounds.min(3)
    }
}

pub(crate) type Measured = anyhow::Result<Vec<Row>>;
type Goal = (&'static str, fn(Amount) -> Measured);

/// A goal by its name.
pub(crate) const GOALS: [Goal; 18] = [
    ("P1", cost::one_process),
    ("P2", cost::two_processes),
    ("P3", cost::conflicts_only),
    ("P4", peers::against_bpftrace),
    ("P5", cost::other_calls),
    ("P6", cost::enforcement),
    ("P7", peers::first_event),
    ("P8", finding_written),
    ("P9", flood::nothing_lost),
    ("P10", memory),
    ("P11", idle),
    ("P12", peers::list),
    ("P13", report),
    ("P14", frame),
    ("P15", cost::live_sockets),
    ("P16", size),
    ("scale", scale::many_processes),
    ("soak", scale::soak),
];

/// Reads a log as it grows, from its end on: sleeps until something is written to it.
struct Follower {
    file: BufReader<fs::File>,
    watch: OwnedFd,
    line: Vec<u8>,
}

impl Follower {
    fn of(path: &Path) -> anyhow::Result<Self> {
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(&watch, path, inotify::WatchFlags::MODIFY)?;
        let mut file = BufReader::new(fs::File::open(path)?);
        file.seek(SeekFrom::End(0))?;
        Ok(Self { file, watch, line: Vec::new() })
    }

    fn wait_for(&mut self, wanted: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        loop {
            while self.file.read_until(b'\n', &mut self.line)? > 0 && self.line.ends_with(b"\n") {
                let found = wanted(&String::from_utf8_lossy(&self.line));
                self.line.clear();
                if found {
                    return Ok(());
                }
            }
            // What was written since the last look is told here at once.
            rustix::io::read(&self.watch, &mut [0; 4096])?;
        }
    }
}

fn finding_written(amount: Amount) -> Measured {
    let rounds = (0..amount.rounds).map(|_| conflicts(500 / u16::try_from(amount.part.min(5))?));
    let rounds = rounds.collect::<anyhow::Result<Vec<_>>>()?;
    let latest = |times: &Vec<f64>| times.get(times.len() * 99 / 100).or(times.last()).copied();
    let middle = crate::table::median(&rounds.concat());
    let count = rounds.first().map_or(0, Vec::len);
    let note = format!("median {middle:.2} ms; of {count} each");
    let what = "conflict made to finding in the log, p99, ms";
    Ok(vec![Row::new("P8", what, 20.0, 2.0, rounds.iter().filter_map(latest).collect()).time().note(note)])
}

/// From making each of so many conflicts to its finding in the log, ms, sorted.
fn conflicts(count: u16) -> anyhow::Result<Vec<f64>> {
    let recording = Recording::start();
    let address = loopback();
    let (mut one, mut other) = (Actor::new(), Actor::new());
    let mut log = Follower::of(recording.log().path())?;
    let mut times = Vec::new();
    for number in 0..count {
        let port = 20_000 + number;
        let first = one.bind(&format!("tcp {address}:{port} reuseport listen")).id;
        let start = Instant::now();
        let second = other.bind(&format!("tcp {address}:{port} reuseport listen")).id;
        log.wait_for(|line| {
            line.starts_with("{\"type\":\"finding\"") && line.contains(&format!("\"port\":{port}"))
        })?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        one.ok(&format!("close {first}"));
        other.ok(&format!("close {second}"));
    }
    drop(recording.stop());
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// A number of `/proc/PID/status`, KiB.
pub(crate) fn status_kib(pid: u32, name: &str) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such number")?;
    let number = line.trim_start_matches(':').trim().trim_end_matches(" kB");
    number.parse().context("its value")
}

fn memory(amount: Amount) -> Measured {
    let mut rows = Vec::new();
    for (count, must, aim) in [(1_000, 15.0, 8.0), (100_000 / amount.part, 80.0, 40.0)] {
        let held = holders(count)?;
        let (mut resident, mut most) = (Vec::new(), 0.0_f64);
        for _ in 0..amount.few() {
            let recording = Recording::start();
            recording.fence();
            resident.push(status_kib(recording.pid(), "VmRSS")? / 1024.0);
            most = most.max(status_kib(recording.pid(), "VmHWM")? / 1024.0);
            drop(recording.stop());
        }
        drop(held);
        let what = format!("RSS with {count} live sockets, MiB");
        let row =
            Row::new("P10", &what, must, aim, resident).note(format!("{most:.1} at its most, at the start"));
        rows.push(if count == 1_000 { row } else { row.of_a_part(amount.part) });
    }
    Ok(rows)
}

/// Processor time of a process so far, in clock ticks of 10 ms.
pub(crate) fn ticks(pid: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("a name")?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
    Ok(number(11).context("user time")? + number(12).context("system time")?)
}

fn ensure_runs(process: &scenarios::wait::Process, time: Duration) -> anyhow::Result<()> {
    ensure!(!process.ended(scenarios::wait::Deadline::after(time)), "the recording ended");
    Ok(())
}

fn idle(amount: Amount) -> Measured {
    let recording = Recording::start();
    recording.fence();
    let time = Duration::from_secs(if amount.part > 1 { 5 } else { 20 });
    let switches = || -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", recording.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.and_then(|value| value.trim().parse().ok()).context("its switches")
    };
    let never = scenarios::wait::Process::of(recording.pid());
    let pass = |time| ensure_runs(&never, time);
    // It looks some twenty times more before it sleeps without a timer: that is of what was bound, and not of nothing.
    let quiet = Duration::from_millis(500);
    time_until(|| {
        let before = switches()?;
        pass(quiet)?;
        Ok(switches()? <= before)
    })?;
    let (mut percent, mut wakes) = (Vec::new(), Vec::new());
    for _ in 0..amount.rounds {
        let (cpu, woken) = (ticks(recording.pid())?, switches()?);
        pass(time)?;
        percent.push((ticks(recording.pid())? - cpu) / time.as_secs_f64());
        wakes.push((switches()? - woken) / time.as_secs_f64());
    }
    drop(recording.stop());
    let note = "what other programs of the machine do is recorded as well".to_owned();
    Ok(vec![
        Row::new("P11", "processor while nothing binds here, % of a core", 0.1, 0.0, percent),
        Row::new("P11", "wake-ups a second meanwhile", f64::NAN, 0.0, wakes).note(note),
    ])
}

/// Processor time that a command takes, s. What it prints is thrown away.
pub(crate) fn cpu(command: &mut Command) -> anyhow::Result<f64> {
    let before = of_children()?.cpu;
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.with_context(|| format!("{command:?}"))?;
    Ok((of_children()?.cpu - before).as_secs_f64())
}

/// jq counting binds and all else by port. A `reduce` within jq copies its counts at each event: that took more than
/// eleven minutes where this takes one.
const JQ: &str = "jq -r 'select(.socket.port) | .socket.port' \"$1\" | sort | uniq -c";

fn report(amount: Amount) -> Measured {
    let events = u64::from(10_000_000 / amount.part);
    let folder = Folder::new();
    let (plain, compressed) = (folder.file("log.jsonl"), folder.file("log.jsonl.zst"));
    let mut rows = Vec::new();
    let bindwatch = || scenarios::bindwatch();
    for (log, name) in [(&plain, "plain"), (&compressed, ".zst")] {
        synthetic::write(Plan { events, ..Plan::default() }, log)?;
        let (mut seconds, mut theirs) = (Vec::new(), Vec::new());
        // jq takes minutes.
        for _ in 0..if name == "plain" { amount.few() } else { 1 } {
            // Some seconds are at the mercy of what else the machine does: the quickest of three turns, and of jq's all.
            let mut turns = Vec::new();
            for _ in 0..3 {
                turns.push(cpu(Command::new(bindwatch()).arg("report").arg(log))?);
            }
            seconds.push(crate::table::least(&turns));
            if name == "plain" {
                theirs.push(cpu(Command::new("sh").args(["-c", JQ, "sh"]).arg(log))?);
            }
        }
        let ratios: Vec<f64> = seconds.iter().map(|ours| ours / crate::table::least(&theirs)).collect();
        let took = format!("{:.2} s of processor time", crate::table::median(&seconds));
        let peaks = (0..amount.few()).map(|_| peak(log)).collect::<anyhow::Result<Vec<f64>>>()?;
        if name == "plain" {
            let what = format!("`report` of {events} events / jq listing ports, sort, uniq -c");
            let row = Row::new("P13", &what, 1.0 / 20.0, 1.0 / 60.0, ratios).of_a_part(amount.part);
            rows.push(row.note(took));
            rows.push(Row::new("P13", "its peak memory, MiB", 64.0, 64.0, peaks));
        } else {
            rows.push(Row::new("P13", "the .zst log's peak memory, MiB", 64.0, 64.0, peaks).note(took));
        }
        fs::remove_file(log)?;
    }
    Ok(rows)
}

/// Largest memory of a report, MiB.
fn peak(log: &Path) -> anyhow::Result<f64> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("measure").arg(scenarios::bindwatch()).arg("report").arg(log);
    let output = command.stdout(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let (_, kib) = said.rsplit_once("peak_kib=").context("its memory")?;
    Ok(kib.trim().parse::<f64>()? / 1024.0)
}

/// Views of `top`.
const VIEWS: usize = 5;

fn frame(amount: Amount) -> Measured {
    let what = "a frame of 120x40 with 10 000 sockets, ms (the slowest view)";
    let program = std::env::current_exe()?.with_file_name("examples").join("frames");
    if !program.is_file() {
        return Ok(vec![Row::not_here("P14", what, "cargo build --release -p bindwatch --example frames")]);
    }
    let rounds = (0..amount.rounds).map(|_| slowest(&program)).collect::<anyhow::Result<Vec<_>>>()?;
    let order = rounds.iter().map(|(order, _)| *order).fold(0.0, f64::max);
    let note = format!("{order:.1} ms at most to order the rows, once when something changed");
    let frames = rounds.iter().map(|(_, frame)| *frame).collect();
    Ok(vec![Row::new("P14", what, 8.0, 2.0, frames).time().note(note)])
}

/// What the slowest view takes with 10 000 sockets to put its rows in order, and for a frame, ms.
fn slowest(program: &Path) -> anyhow::Result<(f64, f64)> {
    let output = Command::new(program).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "the frames could not be drawn: {}", output.status);
    let text = String::from_utf8(output.stdout)?;
    // Sockets, view, ms to put the rows in order, ms of a frame, bytes of it.
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let here = lines.filter(|words| words.first() == Some(&"10000"));
    let times = here
        .map(|words| Ok((words.get(2).context("rows")?.parse()?, words.get(3).context("a frame")?.parse()?)));
    let times = times.collect::<anyhow::Result<Vec<(f64, f64)>>>()?;
    ensure!(times.len() == VIEWS, "{} views were drawn, of {VIEWS}", times.len());
    Ok(times.iter().fold((0.0, 0.0), |most, one| (most.0.max(one.0), most.1.max(one.1))))
}

fn size(_: Amount) -> Measured {
    let what = "static stripped binary with its probe, MiB";
    let mib = |file: &Path| -> anyhow::Result<f64> {
        let size = fs::metadata(file).with_context(|| file.display().to_string())?.len();
        Ok(size as f64 / f64::from(1 << 20))
    };
    let release = scenarios::bindwatch();
    let built = release.parent().and_then(Path::parent).map(|target| {
        let machine = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        target.join("static").join(machine).join("dist/bindwatch")
    });
    // What users get, where it was made.
    let Some(dist) = built.filter(|file| file.is_file()) else {
        return Ok(vec![Row::not_here("P16", what, "it was not made: cargo xtask dist")]);
    };
    let made = |file: &Path| fs::metadata(file).and_then(|metadata| metadata.modified());
    // The one that is measured may be of another day.
    let age = if made(&dist)? < made(&release)? { "; made before that: cargo xtask dist" } else { "" };
    let note =
        format!("the release build, dynamically linked and with its symbols: {:.2}{age}", mib(&release)?);
    Ok(vec![Row::new("P16", what, 12.0, 6.0, vec![mib(&dist)?]).note(note)])
}
