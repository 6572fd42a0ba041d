//! Machines on which there is more than on most, and recordings that last longer.

use std::fs;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, anyhow, bail, ensure};
use nix::sched::{CloneFlags, unshare};
use rustix::net::{AddressFamily, SocketAddrV4, SocketFlags, SocketType, bind, listen, socket_with};
use scenarios::synthetic::{self, Plan};
use scenarios::{Cgroup, Folder, Recording};

use crate::goals::{Amount, Measured, cpu, status_kib, ticks};
use crate::table::{Row, median};

/// Processes, each with a listening socket.
const PROCESSES: u32 = 10_000;
/// Cgroups that they are in.
const CGROUPS: u32 = 1_000;
/// Network namespaces that they are in.
const NAMESPACES: u32 = 100;

/// A process that does nothing and holds a socket. It ends with this.
struct Sleeper(Child);

impl Drop for Sleeper {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Many of them, in a cgroup.
struct Crowd {
    processes: Vec<Sleeper>,
    /// Goes last.
    cgroup: Cgroup,
}

impl Crowd {
    fn of(processes: u32, cgroups: u32, namespaces: u32) -> anyhow::Result<Self> {
        let cgroup = Cgroup::new();
        let mut crowd = Self { processes: Vec::new(), cgroup };
        let each = processes / namespaces;
        for _ in 0..namespaces {
            // A thread has a network namespace of its own, and what it starts is in it. One after the other: a socket is
            // inherited by whatever is started while it is open.
            let started = std::thread::spawn(move || inhabitants(each)).join();
            crowd.processes.extend(started.map_err(|_| anyhow!("a thread that ended early"))??);
        }
        for (number, process) in (0_u32..).zip(&crowd.processes) {
            let folder = crowd.cgroup.path().join(format!("part-{}", number % cgroups));
            fs::create_dir_all(&folder).context("a cgroup")?;
            fs::write(folder.join("cgroup.procs"), process.0.id().to_string())
                .context("a process to move")?;
        }
        Ok(crowd)
    }
}

/// So many processes in a network namespace that is made for them.
fn inhabitants(count: u32) -> anyhow::Result<Vec<Sleeper>> {
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace")?;
    (0..count)
        .map(|number| {
            let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::empty(), None)?;
            bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 10_000 + u16::try_from(number)?))?;
            listen(&socket, 1)?;
            let mut command = Command::new("sleep");
            command.arg("infinity").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().map(Sleeper).context("sleep")
        })
        .collect()
}

/// What a recording and a list need where there are many processes, cgroups and network namespaces.
pub(crate) fn many_processes(amount: Amount) -> Measured {
    let part = amount.part;
    let (processes, cgroups, namespaces) = (PROCESSES / part, CGROUPS / part, NAMESPACES / part);
    let crowd = Crowd::of(processes, cgroups, namespaces)?;
    let (mut resident, mut ready, mut used, mut listed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..amount.few() {
        let start = Instant::now();
        let recording = Recording::start();
        ready.push(start.elapsed().as_secs_f64());
        used.push(ticks(recording.pid())? / 100.0);
        resident.push(status_kib(recording.pid(), "VmRSS")? / 1024.0);
        listed.push(cpu(Command::new(scenarios::bindwatch()).arg("list"))?);
        drop(recording.stop());
    }
    drop(crowd);
    let what = format!(
        "RSS beside {processes} processes with a socket each, {cgroups} cgroups, {namespaces} network namespaces, MiB"
    );
    let note = format!(
        "ready after {:.2} s, {:.2} s of processor time; `list` takes {:.2} s",
        median(&ready),
        median(&used),
        median(&listed)
    );
    Ok(vec![Row::new("scale", &what, 80.0, 40.0, resident).note(note)])
}

/// Events of the long recording.
const EVENTS: u64 = 40_000_000;
/// Most that its log may have, bytes.
const LOG_MAX: u64 = 64 << 20;

/// Whether a recording that lasts long, with a log of limited size, needs more and more memory: most of its last quarter compared
/// with most of its second. The first fills what has bounds; a log that is made shorter takes some for a moment.
///
/// Of an hour of a busy machine, of a week of one that mostly idles, and of ten busy hours: findings are kept, up to their bound.
pub(crate) fn soak(amount: Amount) -> Measured {
    let events = EVENTS / u64::from(amount.part);
    let (hour, week) = (events / 10, 167);
    let mut rows = Vec::new();
    for (what, events, idle, is_judged) in
        [("an hour", hour, 0, true), ("a week", hour, week, true), ("ten hours", events, 0, false)]
    {
        let rounds = (0..amount.few()).map(|_| apart(events, idle)).collect::<anyhow::Result<Vec<_>>>()?;
        let what = format!("most memory of the last quarter of a recording of {what} / of its second");
        let ratios = rounds.iter().map(|(ratio, _)| *ratio).collect();
        let row = if is_judged {
            Row::new("soak", &what, 1.10, 1.00, ratios).of_a_part(amount.part)
        } else {
            Row::told("soak", &what, ratios)
        };
        rows.push(row.note(rounds.into_iter().next().map(|(_, note)| note).unwrap_or_default()));
    }
    Ok(rows)
}

/// [`lasting`] in a process of its own: what an earlier one left with the allocator would hide what this one needs.
fn apart(events: u64, idle: u64) -> anyhow::Result<(f64, String)> {
    let mut command = Command::new(std::env::current_exe()?);
    let output =
        command.args(["soak", &events.to_string(), &idle.to_string()]).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    let said = String::from_utf8(output.stdout)?;
    let (ratio, note) = said.trim().split_once(' ').context("a ratio")?;
    Ok((ratio.parse()?, note.to_owned()))
}

/// The process of [`apart`]: so many events, with so many idle hours.
pub(crate) fn soak_here(events: &str, idle: &str) -> anyhow::Result<()> {
    let plan = Plan { events: events.parse()?, idle: idle.parse()?, ..Plan::default() };
    let (ratio, note) = lasting(plan)?;
    println!("{ratio} {note}");
    Ok(())
}

/// How much more memory a recording takes later, and what there was in it.
fn lasting(plan: Plan) -> anyhow::Result<(f64, String)> {
    let folder = Folder::new();
    let (mut seen, mut last) = (0, 0);
    let mut first = None;
    let mut most = Vec::new();
    let (truth, ledger) = synthetic::record(plan, &folder.file("log.jsonl"), LOG_MAX, |event| {
        seen += 1;
        last = event.at.0;
        first.get_or_insert(last);
        if seen % (plan.events / 4) == 0 {
            most.push(most_since_last());
        }
    })?;
    let most = most.into_iter().collect::<anyhow::Result<Vec<f64>>>()?;
    let hours = (last - first.unwrap_or(last)) as f64 / 3.6e12;
    let note = format!(
        "{hours:.1} hours of the log's clock, {} events, {} binds; most in each quarter: {most:.0?} MiB; {} findings are kept",
        truth.events,
        truth.binds,
        ledger.findings().count()
    );
    let [_, second, _, fourth] = most[..] else { bail!("{} quarters were measured", most.len()) };
    Ok((fourth / second, note))
}

/// Most memory that this process had since this was asked last, MiB: however short it was, as while a log is made shorter.
fn most_since_last() -> anyhow::Result<f64> {
    let most = status_kib(std::process::id(), "VmHWM")? / 1024.0;
    // The peak begins anew (proc(5)).
    fs::write("/proc/self/clear_refs", "5")?;
    Ok(most)
}
