//! Many processes that want the same few ports at the same instant: `racers PROCESSES PORTS ADDRESS FIRST [udp]`.
//!
//! Each racer is a program of its own (fork and exec). All wait for one pipe to be closed, then set SO_REUSEPORT and bind
//! (TCP listens too), and keep what they got until every one has said how it went. Prints `won N lost M`, and for each
//! port that was not won by exactly one how many won it.
//!
//! `racers pair ROUNDS ENDPOINT tcp|udp`: two processes on two processors that go for one port at the same instant, ROUNDS
//! times. Prints `one N both N none N`.

#![expect(unsafe_code, reason = "two processes share memory")]
#![expect(clippy::indexing_slicing, reason = "an actor may end when it is wrong")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, bail, ensure};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["one", endpoint, kind] => one(endpoint, kind),
        ["pinned", cpu, rounds, endpoint, kind, board] => pinned(cpu, rounds, endpoint, kind, board),
        ["pair", rounds, endpoint, kind] => pair(rounds, endpoint, kind),
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

/// What two racers share: how often each has come to a line, and who won which round.
struct Board {
    at: *const AtomicU32,
    rounds: u32,
}

impl Board {
    /// Words of a board: one for the line, one for each racer's result of each round.
    const fn words(rounds: u32) -> usize {
        1 + 2 * rounds as usize
    }

    fn open(path: &str, rounds: u32) -> anyhow::Result<Self> {
        let file = std::fs::File::options().read(true).write(true).open(path).context("the board")?;
        let length = 4 * Self::words(rounds);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping of a file that has this length.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        ensure!(at != libc::MAP_FAILED, "the board cannot be mapped");
        Ok(Self { at: at.cast(), rounds })
    }

    fn word(&self, nth: usize) -> &AtomicU32 {
        assert!(nth < Self::words(self.rounds));
        // SAFETY: within the mapping, which stays as long as the process.
        unsafe { &*self.at.add(nth) }
    }

    /// Waits until both have come to this line, and goes on at the same instant.
    fn line(&self, nth: u32) {
        let line = self.word(0);
        line.fetch_add(1, Ordering::SeqCst);
        let mut spins = 0_u32;
        while line.load(Ordering::SeqCst) < 2 * (nth + 1) {
            spins += 1;
            if spins.is_multiple_of(512) {
                // The other may need this processor.
                std::thread::yield_now();
            }
        }
    }
}

/// Two processes, each on a processor of its own where there are two, that want one port in each round. Prints how many
/// rounds were won by one, by both and by none.
fn pair(rounds: &str, endpoint: &str, kind: &str) -> anyhow::Result<()> {
    let count: u32 = rounds.parse()?;
    let board = tempfile::NamedTempFile::new()?;
    board.as_file().set_len(4 * Board::words(count) as u64)?;
    let path = board.path().to_str().context("a path")?;
    let myself = std::env::current_exe()?;
    let mut racers = Vec::new();
    for cpu in ["0", "1"] {
        let arguments = ["pinned", cpu, rounds, endpoint, kind, path];
        racers.push(Command::new(&myself).args(arguments).spawn().context("a racer")?);
    }
    for mut racer in racers {
        ensure!(racer.wait()?.success(), "a racer failed");
    }
    let results = Board::open(path, count)?;
    let mut won = [0_u32; 3];
    for round in 0..count as usize {
        let winners = results.word(1 + 2 * round).load(Ordering::SeqCst)
            + results.word(2 + 2 * round).load(Ordering::SeqCst);
        won[winners as usize] += 1;
    }
    println!("one {} both {} none {}", won[1], won[2], won[0]);
    Ok(())
}

/// One of two.
fn pinned(cpu: &str, rounds: &str, endpoint: &str, kind: &str, board: &str) -> anyhow::Result<()> {
    let (cpu, rounds): (usize, u32) = (cpu.parse()?, rounds.parse()?);
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(cpu);
    // With one processor they share it.
    let _ = rustix::thread::sched_setaffinity(None, &cpus);
    let board = Board::open(board, rounds)?;
    let endpoint: SocketAddr = endpoint.parse().context("ENDPOINT")?;
    let family = if endpoint.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = if kind == "tcp" { SocketType::STREAM } else { SocketType::DGRAM };
    for round in 0..rounds {
        let socket = socket(family, kind, None)?;
        sockopt::set_socket_reuseport(&socket, true)?;
        board.line(2 * round);
        let won = match bind(&socket, &endpoint) {
            Ok(()) => 1,
            Err(Errno::ADDRINUSE | Errno::PERM) => 0,
            Err(errno) => bail!("bind: {errno}"),
        };
        board.word(1 + 2 * round as usize + cpu).store(won, Ordering::SeqCst);
        // Nobody gives the port up before both have tried.
        board.line(2 * round + 1);
    }
    Ok(())
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
            // Denied before it had a port, as on kernels that cannot do better.
            (how, Some(_)) if how.contains("Operation not permitted") => lost += 1,
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
