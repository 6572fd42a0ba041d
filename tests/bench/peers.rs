//! bindwatch beside other tools that do the same: bpftrace, strace, ss and lsof.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;
use rustix::process::Signal;
use rustix::time::{ClockId, Timespec, clock_gettime};
use scenarios::wait::Process;
use scenarios::{Folder, Recording, loopback};

use crate::cost::recorded;
use crate::goals::{Amount, Measured, cpu};
use crate::paired::{Load, Round, rounds};
use crate::table::{Row, least, median};
use crate::work::{Worker, holders, time_until};

/// What a person would write to see every bind: a line each, with who, where and how it ended.
const PROGRAM: &str = "BEGIN { printf(\"ready\\n\"); } \
    tracepoint:syscalls:sys_enter_bind { @to[tid] = args->umyaddr; } \
    tracepoint:syscalls:sys_exit_bind /@to[tid]/ { \
        $to = (struct sockaddr_in *)uptr(@to[tid]); \
        if ($to->sin_family == 2) { \
            $port = $to->sin_port; \
            printf(\"%llu %d %s %s %d %d\\n\", nsecs, pid, comm, ntop(2, $to->sin_addr.s_addr), \
                ($port >> 8) | (($port & 255) << 8), args->ret); \
        } \
        delete(@to[tid]); \
    }";

/// bpftrace that tells of every bind.
struct Bpftrace {
    child: Child,
    out: PathBuf,
    folder: Folder,
}

impl Bpftrace {
    /// All that is done before it is started, and waits for a line then. It is told how to write its own lines.
    fn prepare(buffering: &str) -> anyhow::Result<Self> {
        let version = Command::new("bpftrace").arg("--version").output();
        version.context("bpftrace is missing: `cargo xtask bench` installs it")?;
        let folder = Folder::new();
        let out = folder.file("bpftrace.txt");
        // It finds trace events by tracefs, which not every machine has mounted: then in a namespace of its own.
        const MOUNTED: &str = "mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing; \
            echo prepared; read go; exec bpftrace -B \"$1\" -e \"$0\"";
        let child = Command::new("unshare")
            .args(["--mount", "sh", "-c", MOUNTED, PROGRAM, buffering])
            .stdin(Stdio::piped())
            .stdout(fs::File::create(&out)?)
            .stderr(Stdio::null())
            .spawn()
            .context("bpftrace")?;
        let prepared = Self { child, out, folder };
        time_until(|| Ok(!fs::read(&prepared.out)?.is_empty()))?;
        Ok(prepared)
    }

    fn go(&mut self) -> anyhow::Result<()> {
        writeln!(self.child.stdin.take().context("its input")?, "go").map_err(Into::into)
    }

    /// Starts one that tells of the binds of a load by now. That it has greeted says nothing: it attaches to the calls later.
    fn start(load: &mut Load) -> anyhow::Result<Self> {
        let mut peer = Self::prepare("full")?;
        peer.go()?;
        let deadline = Instant::now() + Duration::from_secs(60);
        while peer.told(Duration::ZERO)? == 0 {
            ensure!(Instant::now() < deadline, "bpftrace tells of nothing");
            load.slice()?;
        }
        Ok(peer)
    }

    /// How many binds it has told that were made after this time since boot.
    fn told(&self, since: Duration) -> anyhow::Result<u64> {
        let text = fs::read(&self.out)?;
        let text = String::from_utf8_lossy(&text);
        let is_later = |line: &str| {
            let at = line.split(' ').next().and_then(|at| at.parse::<u64>().ok());
            line.contains(" 127.") && at.is_some_and(|at| Duration::from_nanos(at) >= since)
        };
        Ok(text.lines().filter(|line| is_later(line)).count() as u64)
    }

    /// Ends it; how many binds it has told that were made after this time since boot.
    fn stop(mut self, since: Duration) -> anyhow::Result<u64> {
        Process::of(self.child.id()).signal(Signal::INT);
        self.child.wait()?;
        self.told(since)
    }
}

/// What telling of binds took elsewhere: in whoever reads them.
#[derive(Default)]
struct Reader {
    /// Its processor time for a bind in each round, ns.
    each: Vec<f64>,
    made: u64,
    told: u64,
}

impl Reader {
    /// Measures beside a reader that runs.
    fn beside(&mut self, pid: u32, load: &mut Load, recordings: usize) -> anyhow::Result<f64> {
        let (used, made) = (ran(pid)?, load.made());
        let time = load.side(recordings)?;
        let made = load.made() - made;
        self.each.push((ran(pid)? - used) / made.max(1) as f64);
        self.made += made;
        Ok(time)
    }

    fn of(&self, round: usize) -> f64 {
        self.each.get(round).copied().unwrap_or(f64::NAN)
    }
}

/// Processor time of the threads that a process has, ns (`/proc/PID/task/TID/schedstat`).
fn ran(pid: u32) -> anyhow::Result<f64> {
    let mut sum = 0.0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = fs::read_to_string(thread?.path().join("schedstat"))?;
        sum += stat.split(' ').next().context("a time")?.parse::<f64>()?;
    }
    Ok(sum)
}

pub(crate) fn against_bpftrace(amount: Amount) -> Measured {
    let kinds = [
        ("at up to 20 000 binds a second", Load::paced()?),
        ("as fast as it goes, processor time", Load::cycles(1)?),
    ];
    let mut rows = Vec::new();
    for (pace, mut load) in kinds {
        let (mut ours, mut theirs) = (Reader::default(), Reader::default());
        let mut beside_ours = |load: &mut Load| {
            let recording = Recording::start();
            let time = ours.beside(recording.pid(), load, 1);
            drop(recording.stop());
            time
        };
        let mut beside_theirs = |load: &mut Load| {
            let peer = Bpftrace::start(load)?;
            // Of those before nobody knows how many it could have told: it may not have been attached yet.
            let begin = Duration::try_from(clock_gettime(ClockId::Boottime)).context("a time")?;
            let time = theirs.beside(peer.child.id(), load, 0);
            theirs.told += peer.stop(begin)?;
            time
        };
        let count = amount.pairs() / 2 + 1;
        let found = rounds(&mut load, count, [&mut beside_ours, &mut beside_theirs])?;
        let extra = |round: &Round<2>| round.with.map(|time| (time - round.without).max(1.0));
        let ratio = |round: &Round<2>, [ours, theirs]: [f64; 2]| {
            let extra = extra(round);
            (extra[0] + ours) / (extra[1] + theirs)
        };
        let middle = |of: usize| median(&found.iter().map(|round| extra(round)[of]).collect::<Vec<_>>());
        let lost = 100.0 * (1.0 - theirs.told as f64 / theirs.made.max(1) as f64);
        let note = format!(
            "{:.0} and {:.0} ns; bpftrace lost {:.1} % of the binds",
            middle(0),
            middle(1),
            lost.max(0.0)
        );
        let what = format!("extra of a cycle {pace}: bindwatch's / bpftrace's");
        let ratios = found.iter().map(|round| ratio(round, [0.0; 2])).collect();
        rows.push(Row::new("P4", &what, 0.12, 0.05, ratios).note(note));
        let note = format!("readers {:.0} and {:.0} ns", median(&ours.each), median(&theirs.each));
        let what = format!("{what}, the reader's processor time included");
        let ratios = found
            .iter()
            .map(|round| ratio(round, [ours.of(round.number), theirs.of(round.number)]))
            .collect();
        rows.push(Row::told("P4", &what, ratios).note(note));
    }
    rows.push(against_strace(amount)?);
    Ok(rows)
}

/// strace stops whoever it watches at each call, two times.
fn against_strace(amount: Amount) -> anyhow::Result<Row> {
    let mut load = Load::cycles(1)?;
    let mut ours = |load: &mut Load| recorded(load, &[]);
    let mut theirs = |load: &mut Load| {
        let folder = Folder::new();
        let out = folder.file("strace.txt");
        let mut command = Command::new("strace");
        command.args(["--quiet=attach,exit", "--trace=bind", "--output"]).arg(&out);
        let mut child = command.args(["--attach", &load.pid().to_string()]).spawn().context("strace")?;
        let deadline = Instant::now() + Duration::from_secs(60);
        while fs::metadata(&out).map_or(0, |file| file.len()) == 0 {
            ensure!(Instant::now() < deadline, "strace tells of nothing");
            load.slice()?;
        }
        let time = load.side(0);
        Process::of(child.id()).signal(Signal::INT);
        child.wait()?;
        time
    };
    let found = rounds(&mut load, amount.pairs() / 2 + 1, [&mut ours, &mut theirs])?;
    let values = found.iter().map(|round| {
        let [ours, theirs] = round.with.map(|time| (time - round.without).max(1.0));
        ours / theirs
    });
    let values: Vec<f64> = values.collect();
    let cycle = median(&found.iter().map(|round| round.with[1] / round.without).collect::<Vec<_>>());
    let note = format!("with strace a cycle takes {cycle:.1} times as much processor time of its own");
    Ok(Row::told("P4", "extra of a cycle as fast as it goes: bindwatch's / strace's", values).note(note))
}

/// How often each of two takes its turn in a round; the quickest counts.
const TURNS: usize = 3;

/// How long it takes from now until a file in a folder has a line with these words in it, s. It sleeps until something is written:
/// both cores are left to who writes.
fn until_written(folder: &Folder, path: &Path, words: [&str; 2]) -> anyhow::Result<f64> {
    let start = Instant::now();
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(&watch, folder.path(), inotify::WatchFlags::MODIFY)?;
    let is_there = |text: &str| text.lines().any(|line| words.iter().all(|word| line.contains(word)));
    let most = Timespec { tv_sec: 60, tv_nsec: 0 };
    while !fs::read(path).is_ok_and(|text| is_there(&String::from_utf8_lossy(&text))) {
        ensure!(poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&most))? > 0, "nothing is told");
        while rustix::io::read(&watch, &mut [0; 4096]).is_ok() {}
    }
    Ok(start.elapsed().as_secs_f64())
}

pub(crate) fn first_event(amount: Amount) -> Measured {
    let address = loopback().to_string();
    // Binds a thousand times a second.
    let _worker = Worker::start(&["binds", &address])?;
    let mut values = Vec::new();
    let (mut all_ours, mut all_theirs) = (Vec::new(), Vec::new());
    for _ in 0..amount.pairs() {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            let folder = Folder::new();
            let log = folder.file("log.jsonl");
            let mut command = Command::new(scenarios::bindwatch());
            command.args(["record", "--quiet", "--output"]).arg(&log).stdout(Stdio::null());
            let mut child = command.spawn().context("bindwatch")?;
            ours.push(until_written(&folder, &log, ["{\"type\":\"bind\"", &address])?);
            Process::of(child.id()).signal(Signal::INT);
            child.wait()?;
            let mut peer = Bpftrace::prepare("line")?;
            peer.go()?;
            theirs.push(until_written(&peer.folder, &peer.out, ["", &address])?);
            peer.stop(Duration::ZERO)?;
        }
        values.push(least(&ours) / least(&theirs));
        all_ours.push(least(&ours) * 1e3);
        all_theirs.push(least(&theirs) * 1e3);
    }
    let note = format!("{:.0} and {:.0} ms", median(&all_ours), median(&all_theirs));
    let what = "start to the first bind in the log / bpftrace's to its first line of one";
    Ok(vec![Row::new("P7", what, 0.35, 0.15, values).note(note)])
}

pub(crate) fn list(amount: Amount) -> Measured {
    let mut rows = Vec::new();
    for (count, must, aim) in [(10_000, 0.60, 0.45), (50_000, 0.25, 0.10)] {
        let (mut to_ss, mut to_lsof) = (Vec::new(), Vec::new());
        for _ in 0..amount.pairs() {
            // Others each time: how sockets lie in memory is a part of what it takes to read them.
            let held = holders(count)?;
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..TURNS {
                ours.push(cpu(Command::new(scenarios::bindwatch()).arg("list"))?);
                theirs.push(cpu(Command::new("ss").arg("-tlnp"))?);
            }
            to_ss.push(least(&ours) / least(&theirs));
            let lsof = cpu(Command::new("lsof").args(["-nP", "-iTCP", "-sTCP:LISTEN"]))?;
            to_lsof.push(least(&ours) / lsof);
            drop(held);
        }
        rows.push(Row::new("P12", &format!("`list` / `ss -tlnp`, {count} sockets"), must, aim, to_ss));
        rows.push(Row::told("P12", &format!("`list` / `lsof -nP -iTCP`, {count} sockets"), to_lsof));
    }
    Ok(rows)
}
