//! First process of a machine that has two files: this one, and bindwatch. Started by the kernel from an initramfs, it tells
//! what bindwatch says where nothing is mounted, mounts what it asks for, one after the other, and has it watch a co-bind.
//!
//! What it finds goes to the second serial line, as from every guest (`cargo xtask vm`): `--list` names its tests. In the end it
//! switches the machine off. `first two` is what is watched: two processes that share a port.

use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use rustix::net::{
    AddressFamily, Ipv4Addr, SocketAddrV4, SocketFlags, SocketType, bind, listen, socket_with, sockopt,
};

type Test = (&'static str, fn() -> anyhow::Result<()>);

/// What is tried, in this order.
const TESTS: [Test; 7] = [
    ("empty_root::nothing_is_mounted", nothing_is_mounted),
    ("empty_root::only_proc_is_mounted", only_proc_is_mounted),
    ("empty_root::no_cgroups_are_mounted", no_cgroups_are_mounted),
    ("empty_root::doctor_is_ready", doctor_is_ready),
    ("empty_root::there_are_no_devices", there_are_no_devices),
    ("empty_root::run_finds_a_co_bind", run_finds_a_co_bind),
    ("empty_root::report_tells_it_again", report_tells_it_again),
];

const BINDWATCH: &str = "/bindwatch";
const LOG: &str = "/log.jsonl";
/// The second serial line, whose node is in the initramfs.
const RESULTS: &str = "/dev/ttyS1";
/// The variable that says which backend is asked for.
const BACKEND: &str = "BINDWATCH_TEST_BACKEND";
/// The port that is shared.
const PORT: u16 = 8000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["--list", ..] => {
            TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
            Ok(())
        }
        ["two"] => two(),
        ["one"] => one(),
        _ if std::process::id() == 1 => all(),
        _ => Err(anyhow::anyhow!("usage: first --list | two; or as the first process")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("first: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The backend by which the kernel's command line asks for the tests: words that the kernel does not know are the environment of
/// its first process.
fn all() -> anyhow::Result<()> {
    let mut out = OpenOptions::new().write(true).open(RESULTS).context(RESULTS)?;
    let backend = std::env::var(BACKEND).context("no BINDWATCH_TEST_BACKEND=NAME on the command line")?;
    let started = Instant::now();
    writeln!(out, "@@ begin {backend} empty_root")?;
    let mut status = 0;
    for (name, test) in TESTS {
        match test() {
            Ok(()) => writeln!(out, "test {name} ... ok")?,
            Err(error) => {
                status = 101;
                writeln!(out, "{error:#}\ntest {name} ... FAILED")?;
            }
        }
    }
    writeln!(out, "@@ end {backend} empty_root {status} {}\n@@ finished", started.elapsed().as_secs())?;
    rustix::termios::tcdrain(&out).context("its last line")?;
    reboot(RebootMode::RB_POWER_OFF)?;
    Ok(())
}

fn run(arguments: &[&str]) -> anyhow::Result<Output> {
    // There is no /dev/null to read from.
    let output =
        Command::new(BINDWATCH).args(arguments).stdin(Stdio::inherit()).output().context(BINDWATCH)?;
    std::io::stdout().write_all(&output.stdout)?;
    std::io::stderr().write_all(&output.stderr)?;
    Ok(output)
}

/// It does not record, and its one line on standard error has these words.
fn refused(words: &str) -> anyhow::Result<()> {
    let output = run(&["run", "--output", LOG, "--", "/first", "two"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(125), "{}: {said}", output.status);
    ensure!(said.lines().count() == 1 && said.contains(words), "it says: {said}");
    Ok(())
}

fn mounted(kind: &str, at: &str) -> anyhow::Result<()> {
    if !std::path::Path::new(at).exists() {
        std::fs::create_dir(at)?;
    }
    mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("{kind} at {at}"))
}

fn nothing_is_mounted() -> anyhow::Result<()> {
    refused("mount -t proc proc /proc")
}

fn only_proc_is_mounted() -> anyhow::Result<()> {
    mounted("proc", "/proc")?;
    refused("/sys is not mounted: mount -t sysfs sysfs /sys")
}

fn no_cgroups_are_mounted() -> anyhow::Result<()> {
    mounted("sysfs", "/sys")?;
    refused("no cgroup2 hierarchy is mounted")
}

fn doctor_is_ready() -> anyhow::Result<()> {
    mounted("cgroup2", "/sys/fs/cgroup")?;
    let output = run(&["doctor"])?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && said.contains("bindwatch can record here"),
        "{}: {said}",
        output.status
    );
    // The modules that list sockets are not here either, on any kernel of the list.
    let tables = said.lines().any(|line| line.trim_start().starts_with("degraded  socket tables"));
    ensure!(tables, "what does it say of socket tables: {said}");
    Ok(())
}

fn there_are_no_devices() -> anyhow::Result<()> {
    refused("there is no /dev/null: mount -t devtmpfs dev /dev")
}

fn run_finds_a_co_bind() -> anyhow::Result<()> {
    mounted("devtmpfs", "/dev")?;
    let shared = ["--related-by", "process", "--output", LOG, "--", "/first", "two"];
    let output = run(&[&["run"], &shared[..]].concat())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", output.status);
    ensure!(said.contains("co-bind"), "it says: {said}");
    Ok(())
}

fn report_tells_it_again() -> anyhow::Result<()> {
    let output = run(&["report", LOG])?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() && said.contains("co-bind"), "{}: {said}", output.status);
    Ok(())
}

/// Two processes on one port, both at once: the second lets go when the first has heard that it is there.
fn two() -> anyhow::Result<()> {
    let _held = share()?;
    let mut other = Command::new("/first");
    let mut other = other.arg("one").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut said = String::new();
    BufReader::new(other.stdout.take().context("its output")?).read_line(&mut said)?;
    drop(other.stdin.take());
    let status = other.wait()?;
    ensure!(said == "there\n" && status.success(), "the other one: {status}");
    Ok(())
}

fn one() -> anyhow::Result<()> {
    let _held = share()?;
    println!("there");
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

/// Not for programs that are executed: they would have it as well.
fn share() -> anyhow::Result<rustix::fd::OwnedFd> {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT))?;
    listen(&socket, 1)?;
    Ok(socket)
}
