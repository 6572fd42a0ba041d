//! What is measured: the loops that other processes run. Each waits for a line, works, and prints one number.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketAddrV4, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Ports that held sockets are spread over, on each address.
const PORTS_EACH: u32 = 20_000;

/// The other end of [`Worker`]: does what it is told.
pub(crate) fn work(words: &[&str]) -> anyhow::Result<()> {
    let number = |word: &str| word.parse::<u32>().context("a number");
    let address = |word: &str| word.parse::<Ipv4Addr>().context("an address");
    match words {
        ["cycle", count, at] => {
            let (count, at) = (number(count)?, address(at)?);
            cycle(at)?;
            say("ready")?;
            line()?;
            say(&each(count, || cycle(at))?)
        }
        ["cycles", at] => {
            let at = address(at)?;
            slices(|| cycle(at))
        }
        ["plain", at] => {
            // Not the same port again: whoever looks at a descriptor while it is closed holds its port for a moment.
            let (at, mut number) = (address(at)?, 0);
            slices(|| {
                number = (number + 1) % 1_000;
                let at = SocketAddrV4::new(at, 9_000 + number);
                let socket =
                    socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
                bind(&socket, &at).context("bind")
            })
        }
        ["paced", at] => {
            let at = address(at)?;
            paced(|| cycle(at))
        }
        ["getppids"] => slices(|| {
            std::hint::black_box(rustix::process::getppid());
            Ok(())
        }),
        ["hold", count, at] => {
            let held = hold(number(count)?, address(at)?)?;
            say("ready")?;
            line()?;
            drop(held);
            say("0")
        }
        ["binds", at] => {
            // Until its input ends: somebody waits for the first bind that is seen.
            let at = address(at)?;
            say("ready")?;
            let input = std::io::stdin();
            let pause = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
            // Nothing is written to it: it can be read when it ends.
            while poll(&mut [PollFd::new(&input, PollFlags::IN)], Some(&pause))? == 0 {
                cycle(at)?;
            }
            say("0")
        }
        _ => bail!("no such work: {}", words.join(" ")),
    }
}

/// Waits for a line, or for the end of its input.
fn line() -> std::io::Result<usize> {
    std::io::stdin().read_line(&mut String::new())
}

fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{text}")?;
    out.flush().map_err(Into::into)
}

/// Processor time of each of so many, and the time that passed, ns.
fn each(count: u32, mut one: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<String> {
    let cpu = || Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).context("a time");
    let (before, start) = (cpu()?, Instant::now());
    for _ in 0..count {
        one()?;
    }
    let spent = cpu()?.saturating_sub(before);
    let passed = start.elapsed();
    let each = |time: Duration| time.as_secs_f64() * 1e9 / f64::from(count);
    Ok(format!("{} {}", each(spent), each(passed)))
}

/// Does as many as each line says, with a pause after each that is spent working, and answers with the median of the time
/// that passed during one, ns, twice.
fn paced(mut one: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    /// Twenty thousand a second.
    const PAUSE: Duration = Duration::from_micros(50);
    one()?;
    answer(|count| {
        let mut times = Vec::new();
        for _ in 0..count {
            let start = Instant::now();
            one()?;
            times.push(start.elapsed());
            while start.elapsed() < PAUSE {
                std::hint::spin_loop();
            }
        }
        times.sort();
        let median = times.get(times.len() / 2).map_or(0, Duration::as_nanos);
        Ok(format!("{median} {median}"))
    })
}

/// Does as many as each line says, and answers with the processor time and the time that passed for each, ns.
fn slices(mut one: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    one()?;
    answer(|count| each(count, &mut one))
}

/// Is ready, and answers each line, which is a number, until there is none.
fn answer(mut to: impl FnMut(u32) -> anyhow::Result<String>) -> anyhow::Result<()> {
    say("ready")?;
    loop {
        let mut line = String::new();
        if std::io::stdin().read_line(&mut line)? == 0 {
            return Ok(());
        }
        say(&to(line.trim().parse()?)?)?;
    }
}

/// One cycle of the goals: a TCP socket with SO_REUSEPORT is bound and closed.
fn cycle(at: Ipv4Addr) -> anyhow::Result<()> {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    bind(&socket, &SocketAddrV4::new(at, 9_000)).context("bind")?;
    Ok(())
}

fn hold(count: u32, at: Ipv4Addr) -> anyhow::Result<Vec<OwnedFd>> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("more open files")?;
    let [a, b, c, d] = at.octets();
    (0..count)
        .map(|number| {
            let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            let at = Ipv4Addr::new(a, b, c, d.wrapping_add(u8::try_from(number / PORTS_EACH)?));
            bind(&socket, &SocketAddrV4::new(at, 10_000 + u16::try_from(number % PORTS_EACH)?))?;
            listen(&socket, 1)?;
            Ok(socket)
        })
        .collect()
}

/// Processes that hold so many listening sockets, each as many as one may have open everywhere.
pub(crate) fn holders(count: u32) -> anyhow::Result<Vec<Worker>> {
    const EACH: u32 = 10_000;
    (0..count.div_ceil(EACH))
        .map(|number| {
            let here = EACH.min(count - number * EACH).to_string();
            Worker::start(&["hold", &here, &scenarios::loopback().to_string()])
        })
        .collect()
}

/// A process that works for us.
pub(crate) struct Worker {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts one; it is ready and waits.
    pub(crate) fn start(words: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("work").args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("a worker")?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("its output")?);
        let mut worker = Self { child, input, output };
        ensure!(worker.hear()? == "ready", "a worker that does not get ready");
        Ok(worker)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// One slice of a worker that does slices.
    pub(crate) fn ask(&mut self, count: u32) -> anyhow::Result<()> {
        writeln!(self.input.as_mut().context("its input")?, "{count}").map_err(Into::into)
    }

    /// What it took: processor time and the time that passed, ns for each.
    pub(crate) fn answer(&mut self) -> anyhow::Result<(f64, f64)> {
        let said = self.hear()?;
        let (cpu, passed) = said.split_once(' ').with_context(|| format!("a worker said {said:?}"))?;
        Ok((cpu.parse()?, passed.parse()?))
    }

    fn hear(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    pub(crate) fn go(&mut self) -> anyhow::Result<()> {
        writeln!(self.input.as_mut().context("its input")?, "go").map_err(Into::into)
    }

    /// What it measured: processor time. Ends it.
    pub(crate) fn result(self) -> anyhow::Result<f64> {
        self.times().map(|(cpu, _)| cpu)
    }

    /// Processor time, and the time that passed. Ends it.
    pub(crate) fn times(mut self) -> anyhow::Result<(f64, f64)> {
        drop(self.input.take());
        let said = self.hear()?;
        self.child.wait()?;
        let mut words = said.split(' ').map(str::parse::<f64>);
        match (words.next(), words.next()) {
            (Some(Ok(cpu)), Some(Ok(passed))) => Ok((cpu, passed)),
            (Some(Ok(only)), None) => Ok((only, only)),
            _ => bail!("a worker said {said:?}"),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// Lets so many workers cycle at once, each on an address of its own; the mean time of a cycle, ns of processor time.
/// `prepare` sees them before they begin.
pub(crate) fn cycles(workers: usize, count: u32, mut prepare: impl FnMut(&Worker)) -> anyhow::Result<f64> {
    let count = count.to_string();
    let mut all = (0..workers)
        .map(|_| Worker::start(&["cycle", &count, &scenarios::loopback().to_string()]))
        .collect::<anyhow::Result<Vec<_>>>()?;
    all.iter().for_each(&mut prepare);
    for worker in &mut all {
        worker.go()?;
    }
    let times = all.into_iter().map(Worker::result).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(times.iter().sum::<f64>() / workers as f64)
}

/// How long `until` takes to become true, looked at all the time.
pub(crate) fn time_until(mut until: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<Duration> {
    const MOST: Duration = Duration::from_secs(60);
    let start = Instant::now();
    while !until()? {
        ensure!(start.elapsed() < MOST, "not within {MOST:?}");
        std::thread::yield_now();
    }
    Ok(start.elapsed())
}
