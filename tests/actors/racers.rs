//! Many processes that want the same few ports at the same instant: `racers PROCESSES PORTS ADDRESS FIRST [udp]`.
//!
//! Each racer is a program of its own (fork and exec). All wait for one pipe to be closed, then set SO_REUSEPORT and bind
//! (TCP listens too), and keep what they got until every one has said how it went. Prints `won N lost M`, and for each
//! port that was not won by exactly one how many won it.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context as _, bail, ensure};
use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["one", endpoint, kind] => one(endpoint, kind),
        [processes, ports, address, first] => all(processes, ports, address, first, "tcp"),
        [processes, ports, address, first, kind] => all(processes, ports, address, first, kind),
        _ => Err(anyhow::anyhow!("usage: racers PROCESSES PORTS ADDRESS FIRST [tcp|udp]")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("racers: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Waits for the start, binds, says `won` or the error, and keeps the socket until it is killed.
fn one(endpoint: &str, kind: &str) -> anyhow::Result<()> {
    let endpoint: SocketAddr = endpoint.parse().context("ENDPOINT")?;
    let family = if endpoint.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let is_tcp = kind == "tcp";
    let socket = socket(family, if is_tcp { SocketType::STREAM } else { SocketType::DGRAM }, None)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    println!("{endpoint} here");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    let bound = bind(&socket, &endpoint).and_then(|()| if is_tcp { listen(&socket, 8) } else { Ok(()) });
    match bound {
        Ok(()) => println!("{endpoint} won"),
        Err(errno) => println!("{endpoint} {errno}"),
    }
    std::io::stdout().flush()?;
    loop {
        std::thread::park();
    }
}

fn all(processes: &str, ports: &str, address: &str, first: &str, kind: &str) -> anyhow::Result<()> {
    let (processes, ports): (u16, u16) = (processes.parse()?, ports.parse()?);
    let (address, first): (IpAddr, u16) = (address.parse()?, first.parse()?);
    let myself = std::env::current_exe().context("the path of this program")?;
    let (start, starter) = std::io::pipe().context("a pipe")?;
    let (answers, answer) = std::io::pipe().context("a pipe")?;
    let mut racers: Vec<Child> = Vec::new();
    for nth in 0..processes {
        let endpoint = SocketAddr::new(address, first + nth % ports);
        let racer = Command::new(&myself)
            .args(["one", &endpoint.to_string(), kind])
            .stdin(Stdio::from(start.try_clone()?))
            .stdout(Stdio::from(answer.try_clone()?))
            .spawn()
            .context("a racer")?;
        racers.push(racer);
    }
    drop(answer);
    let mut answers = BufReader::new(answers).lines();
    for _ in &racers {
        let line = answers.next().context("a racer ended")??;
        ensure!(line.ends_with(" here"), "a racer said {line:?}");
    }
    drop(starter);
    let mut won: BTreeMap<u16, u32> = (first..first + ports).map(|port| (port, 0)).collect();
    let mut lost = 0;
    for _ in &racers {
        let line = answers.next().context("a racer ended")??;
        let (endpoint, how) = line.split_once(' ').context("a word")?;
        let port = endpoint.parse::<SocketAddr>()?.port();
        match (how, won.get_mut(&port)) {
            ("won", Some(count)) => *count += 1,
            (how, Some(_)) if how.contains("Address already in use") => lost += 1,
            _ => bail!("a racer said {line:?}"),
        }
    }
    println!("won {} lost {lost}", won.values().sum::<u32>());
    for (port, count) in won.into_iter().filter(|(_, count)| *count != 1) {
        println!("port {port} was won by {count}");
    }
    for mut racer in racers {
        racer.kill()?;
        racer.wait()?;
    }
    Ok(())
}
