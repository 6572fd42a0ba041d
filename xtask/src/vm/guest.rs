//! One boot of one kernel in QEMU, emulated (TCG): no virtualisation is asked of the machine, so that it runs anywhere.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::outcome::{self, Outcome};
use crate::architecture::Architecture;
use crate::shell;

/// Memory of a guest in MiB: its file system lies in it as well.
const MEMORY: u32 = 1536;
/// Processors. Two: races need them.
const PROCESSORS: u32 = 2;
/// How long a guest may say nothing.
const SILENCE: Duration = Duration::from_secs(2000);
/// Words of every guest's command line. A panic ends it at once, and warnings are shown: a splat is a failure. It is faster without
/// defences against speculation, which an emulator does not do.
const COMMAND_LINE: &str = "loglevel=5 panic=-1 mitigations=off";

/// What emulating a machine takes, and its kernel's words: where the console is.
struct Machine {
    qemu: &'static [&'static str],
    words: &'static str,
    /// Serial lines that it has of its own; more are on its bus, and begin to count anew.
    lines: usize,
}

/// One thread for all processors: up to QEMU 8.0 a thread each can run an instruction that another has just replaced (LKML, July
/// 2023: "qemu-x86_64 booting with 8.0.0 stil see int3"), which is a panic when tracepoints are switched. An emulator does strings
/// of bytes one by one: kernels shall move words. Time comes without asking a device, and a guest that has to wait for a
/// processor does not take its timer for broken.
const X86_64: Machine = Machine {
    qemu: &["-cpu", "max,erms=off,fsrm=off,la57=off"],
    words: "console=ttyS0 tsc=reliable no_timer_check",
    lines: 3,
};

/// The processor is that of many servers and of rented ones: a newer one takes longer, as it signs pointers. The board has one
/// serial line, which is the console.
const AARCH64: Machine = Machine {
    qemu: &["-M", "virt,gic-version=3", "-cpu", "neoverse-n1"],
    words: "console=ttyAMA0",
    lines: 1,
};

impl Machine {
    fn of(architecture: &Architecture) -> &'static Self {
        if architecture.name == "aarch64" { &AARCH64 } else { &X86_64 }
    }
}

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// What is booted, and where its output goes.
pub(crate) struct Boot<'a> {
    pub(crate) emulator: &'a Path,
    pub(crate) architecture: &'a Architecture,
    pub(crate) image: &'a Path,
    pub(crate) files: &'a Path,
    /// Words of the kernel's command line, after those that every guest has.
    pub(crate) append: &'a [&'a str],
    /// Its clock counts instructions, 4 ns each: what takes time there is the same on every machine, however busy that is.
    pub(crate) count: bool,
    pub(crate) folder: &'a Path,
}

impl Boot<'_> {
    /// Boots a kernel and waits for its end. Each line of its results is told as it comes, with the outcome so far and the
    /// seconds of processor time that the guest has had.
    /// Warnings that are `known` count for nothing.
    pub(crate) fn run(
        &self,
        known: &[String],
        mut tell: impl FnMut(&str, &Outcome, u64),
    ) -> anyhow::Result<Outcome> {
        let path = |name: &str| self.folder.join(name);
        let machine = Machine::of(self.architecture);
        let mut qemu = shell::command(self.emulator);
        qemu.args(["-accel", "tcg,thread=single", "-display", "none", "-no-reboot", "-nodefaults"]);
        qemu.args(machine.qemu);
        if self.count {
            qemu.args(["-icount", "shift=2,sleep=off"]);
        }
        qemu.args(["-m", &MEMORY.to_string(), "-smp", &PROCESSORS.to_string()]);
        if machine.lines == 1 {
            // So that what is `ttyS1` on one machine is `ttyS1` on all.
            qemu.args(["-chardev", "null,id=ttyS0", "-device", "pci-serial,chardev=ttyS0"]);
        }
        for (at, name) in ["console.log", "results.log", "files.tar.gz"].iter().enumerate() {
            File::create(path(name)).with_context(|| format!("{name} cannot be written"))?;
            let file = path(name).display().to_string();
            if at < machine.lines {
                qemu.args(["-serial", &format!("file:{file}")]);
            } else {
                let device = format!("pci-serial,chardev=line{at}");
                qemu.args(["-chardev", &format!("file,id=line{at},path={file}"), "-device", &device]);
            }
        }
        qemu.arg("-kernel").arg(self.image).arg("-initrd").arg(self.files);
        let line = [&[COMMAND_LINE, machine.words], self.append].concat().join(" ");
        qemu.args(["-append", &line]);
        qemu.stdout(Stdio::null()).stderr(File::create(path("qemu.log"))?);
        let mut running = Running(qemu.spawn().context("QEMU cannot be started")?);

        let mut results = File::open(path("results.log"))?;
        let mut text = String::new();
        let mut told = 0;
        let mut heard = Instant::now();
        let mut silent = false;
        loop {
            let ended = running.0.try_wait()?.is_some();
            let mut bytes = Vec::new();
            results.seek(std::io::SeekFrom::Start(text.len() as u64))?;
            results.read_to_end(&mut bytes)?;
            let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            bytes.truncate(whole);
            if !bytes.is_empty() {
                heard = Instant::now();
                // What tests print can be anything; its length must stay, for the place to read on from.
                text.extend(bytes.iter().map(|byte| if byte.is_ascii() { char::from(*byte) } else { '?' }));
            }
            let fresh = text.get(told..).unwrap_or_default();
            if !fresh.is_empty() {
                let so_far = outcome::of(&text, "", known, false);
                let seconds = spent(running.0.id());
                fresh.lines().for_each(|line| tell(line, &so_far, seconds));
            }
            told = text.len();
            if ended {
                break;
            }
            if heard.elapsed() > SILENCE {
                silent = true;
                break;
            }
            std::thread::sleep(LOOK);
        }
        drop(running);
        let console = std::fs::read(path("console.log"))?;
        Ok(outcome::of(&text, &String::from_utf8_lossy(&console), known, silent))
    }
}

/// Processor time of a process, seconds: `utime` and `stime` of proc_pid_stat(5), in the ticks of which Linux has 100.
fn spent(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2);
    ticks.filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() / 100
}

/// Ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
