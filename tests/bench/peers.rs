//! bindwatch beside other tools that do the same: bpftrace and ss.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::Context as _;
use rustix::process::Signal;
use scenarios::wait::Process;
use scenarios::{Folder, Recording, loopback};

use crate::goals::{Amount, Measured, cpu, ticks};
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
    _folder: Folder,
}

impl Bpftrace {
    fn start() -> anyhow::Result<Self> {
        let folder = Folder::new();
        let out = folder.file("bpftrace.txt");
        // It finds trace events by tracefs, which not every machine has mounted: then in a namespace of its own.
        const MOUNTED: &str = "mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing; \
            exec bpftrace -e \"$0\"";
        let child = Command::new("unshare")
            .args(["--mount", "sh", "-c", MOUNTED, PROGRAM])
            .stdout(fs::File::create(&out)?)
            .stderr(Stdio::null())
            .spawn()
            .context("bpftrace")?;
        Ok(Self { child, out, _folder: folder })
    }

    /// Waits until it has told this many lines, its greeting among them.
    fn until(&self, lines: usize) -> anyhow::Result<()> {
        time_until(|| Ok(self.lines()? >= lines)).map(drop)
    }

    fn lines(&self) -> anyhow::Result<usize> {
        Ok(fs::read(&self.out)?.iter().filter(|byte| **byte == b'\n').count())
    }

    /// Ends it; how many lines it told.
    fn stop(mut self) -> anyhow::Result<usize> {
        Process::of(self.child.id()).signal(Signal::INT);
        self.child.wait()?;
        self.lines()
    }
}

/// What telling of binds took elsewhere: in whoever reads them.
#[derive(Default)]
struct Reader {
    /// Its processor time, ns.
    used: f64,
    /// Of so many binds.
    made: u64,
    told: u64,
}

impl Reader {
    /// Measures beside a reader that runs.
    fn beside(&mut self, pid: u32, load: &mut Load, recordings: usize) -> anyhow::Result<f64> {
        /// A clock tick (`_SC_CLK_TCK`), ns.
        const TICK: f64 = 1e7;
        let (used, made) = (ticks(pid)?, load.made());
        let time = load.side(recordings)?;
        self.used += (ticks(pid)? - used) * TICK;
        self.made += load.made() - made;
        Ok(time)
    }

    fn each(&self) -> f64 {
        self.used / self.made.max(1) as f64
    }
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
            let peer = Bpftrace::start()?;
            peer.until(1)?;
            let time = theirs.beside(peer.child.id(), load, 0);
            theirs.told += (peer.stop()? as u64).saturating_sub(1);
            time
        };
        let count = amount.pairs() / 2 + 1;
        let found = rounds(&mut load, count, [&mut beside_ours, &mut beside_theirs])?;
        let extra = |round: &Round<2>| round.with.map(|time| (time - round.without).max(1.0));
        let ratios = |ours: f64, theirs: f64| {
            found.iter().map(extra).map(|extra| (extra[0] + ours) / (extra[1] + theirs)).collect::<Vec<_>>()
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
        rows.push(Row::new("P4", &what, 0.12, 0.05, ratios(0.0, 0.0)).note(note));
        let note = format!("readers {:.0} and {:.0} ns", ours.each(), theirs.each());
        let what = format!("{what}, the reader's processor time included");
        rows.push(Row::new("P4", &what, 1.0, 1.0, ratios(ours.each(), theirs.each())).note(note));
    }
    Ok(rows)
}

/// How often each of two takes its turn in a round; the quickest counts.
const TURNS: usize = 3;

pub(crate) fn first_event(amount: Amount) -> Measured {
    let mut values = Vec::new();
    // What is not recorded: the log would be of these binds alone.
    for _ in 0..amount.pairs() {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            let start = Instant::now();
            let recording = Recording::start();
            ours.push(start.elapsed().as_secs_f64());
            drop(recording.stop());
            let worker = Worker::start(&["binds", &loopback().to_string()])?;
            let start = Instant::now();
            let peer = Bpftrace::start()?;
            peer.until(2)?;
            theirs.push(start.elapsed().as_secs_f64());
            peer.stop()?;
            drop(worker);
        }
        values.push(least(&ours) / least(&theirs));
    }
    let what = "exec to ready (a bind from then on is seen) / bpftrace's exec to first line";
    Ok(vec![Row::new("P7", what, 0.35, 0.15, values)])
}

pub(crate) fn list(amount: Amount) -> Measured {
    let mut rows = Vec::new();
    for (count, must, aim) in [(10_000, 0.60, 0.45), (50_000, 0.25, 0.10)] {
        let held = holders(count)?;
        let mut values = Vec::new();
        for _ in 0..amount.pairs() {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..TURNS {
                ours.push(cpu(Command::new(scenarios::bindwatch()).arg("list"))?);
                theirs.push(cpu(Command::new("ss").arg("-tlnp"))?);
            }
            values.push(least(&ours) / least(&theirs));
        }
        drop(held);
        rows.push(Row::new("P12", &format!("`list` / `ss -tlnp`, {count} sockets"), must, aim, values));
    }
    Ok(rows)
}
