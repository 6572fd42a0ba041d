//! Many processes that live for a moment and bind: `storm PROCESSES BINDS ADDRESS`.
//!
//! or one server that looks whether its port is free before it takes it: `storm check ADDRESS PORT`.
//!
//! Each process of a storm is a program of its own (fork and exec) that binds BINDS times, UDP and TCP by turns, to a port the
//! kernel chooses, and closes again. Prints how many binds succeeded in all: the truth that a recording is compared with.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, ExitCode};

use anyhow::{Context as _, bail, ensure};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

/// Processes that live at one instant.
const AT_ONCE: usize = 8;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["one", binds, address] => one(binds, address),
        ["check", address, port] => check(address, port),
        [processes, binds, address] => all(processes, binds, address),
        _ => Err(anyhow::anyhow!("usage: storm PROCESSES BINDS ADDRESS | storm check ADDRESS PORT")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("storm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn one(binds: &str, address: &str) -> anyhow::Result<()> {
    let address: IpAddr = address.parse().context("ADDRESS")?;
    for turn in 0..binds.parse::<u32>().context("BINDS")? {
        if turn % 2 == 0 {
            UdpSocket::bind((address, 0)).context("bind")?;
        } else {
            TcpListener::bind((address, 0)).context("bind")?;
        }
    }
    Ok(())
}

/// Two steps, each when a line comes in: sees by a connect that nobody is there; then listens with SO_REUSEPORT. Ends
/// with its input.
fn check(address: &str, port: &str) -> anyhow::Result<()> {
    let address = SocketAddr::new(address.parse().context("ADDRESS")?, port.parse().context("PORT")?);
    let mut lines = std::io::stdin().lines();
    let mut next = || lines.next().transpose().context("input");
    next()?;
    ensure!(TcpStream::connect(address).is_err(), "somebody listens already");
    println!("checked");
    next()?;
    let server = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseport(&server, true)?;
    bind(&server, &address).context("bind")?;
    listen(&server, 8)?;
    println!("bound");
    while next()?.is_some() {}
    Ok(())
}

fn all(processes: &str, binds: &str, address: &str) -> anyhow::Result<()> {
    let myself = std::env::current_exe().context("the path of this program")?;
    let count: u64 = processes.parse().context("PROCESSES")?;
    let each: u64 = binds.parse().context("BINDS")?;
    let mut running: VecDeque<Child> = VecDeque::new();
    for _ in 0..count {
        if running.len() == AT_ONCE {
            reap(running.pop_front())?;
        }
        let child =
            Command::new(&myself).args(["one", binds, address]).spawn().context("cannot start a process")?;
        running.push_back(child);
    }
    while !running.is_empty() {
        reap(running.pop_front())?;
    }
    println!("{}", count * each);
    Ok(())
}

/// Fails when a process did not make all its binds: the count would be a guess.
fn reap(child: Option<Child>) -> anyhow::Result<()> {
    let Some(mut child) = child else { bail!("no process to wait for") };
    let status = child.wait().context("a process cannot be waited for")?;
    ensure!(status.success(), "a process failed: {status}");
    Ok(())
}
