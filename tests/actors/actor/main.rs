//! A small real program that does what it is told, one line at a time, and answers each line with one:
//! `ok …` or `err NAME`.
//!
//! | command | what it does |
//! |---|---|
//! | `bind PROTO ADDRESS [FLAG…]` | a socket, bound; answers `id port cookie`. PROTO: tcp, udp, mptcp, udplite. FLAG: reuseaddr, reuseport, v6only, no-port (IP_BIND_ADDRESS_NO_PORT), listen, `dev=NAME` (SO_BINDTODEVICE), `uid=N` (the socket's owner) |
//! | `compat HOW PROTO ADDRESS [FLAG…]` | as `bind`, options and bind by 32-bit system calls. HOW: bind, socketcall |
//! | `compat-opt ID OPTION VALUE` | as `opt`, of reuseaddr and reuseport, by a 32-bit system call |
//! | `reconnect ID ADDRESS`, `disconnect ID`, `send ID ADDRESS` | connects a socket that is there; ends its connection (AF_UNSPEC); sends a datagram. Answer the local `port` |
//! | `port ID` | its local `port` |
//! | `rebind ID ADDRESS` | binds a socket that is there |
//! | `short-opt ID reuseport` | sets it with a value that is too short |
//! | `link NAME` | a network device of the own namespace, up |
//! | `device ID NAME` | SO_BINDTODEVICE; `-` for none |
//! | `enter-net PID` | into that process's network namespace |
//! | `uring HOW PROTO ADDRESS [FLAG…]` | as `bind`, all of it through io_uring. HOW: inline, async, sqpoll, linked (bind and listen submitted as a chain) |
//! | `uring-listen HOW ID`, `uring-opt HOW ID reuseport 0\|1` | listens, sets the option through io_uring |
//! | `handle usr1 restart\|interrupt` | SIGUSR1 interrupts a call, which the kernel then makes again, or which fails |
//! | `bind-later PROTO ADDRESS [FLAG…]`, `bound-later` | binds in a thread, and says at once that it does; answers as `bind` when that has ended |
//! | `binds N PROTO ADDRESS` | N sockets that are bound and closed, one after the other, on the ports from that of ADDRESS on; answers the `ns` of a bind |
//! | `swapping N ADDRESS PORT` | TCP sockets with SO_REUSEPORT, bound by an address whose port another thread keeps changing to PORT and back, until N are bound to PORT, and N to the first or refused; answers how many came to be bound where: `first`, `other`, or were `refused` |
//! | `insist N PROTO ADDRESS` | N sockets with SO_REUSEPORT, one after the other, that want this endpoint; answers how many were `bound` and `refused` |
//! | `again N PROTO ADDRESS` | the same without SO_REUSEPORT |
//! | `listens N PROTO` | N sockets with SO_REUSEPORT that listen, one after the other, without having been bound |
//! | `apart ADDRESS` | binds a socket in a thread with descriptors of its own; answers the `port` of the socket that has this number elsewhere in the process |
//! | `filter bind-eperm\|listener` | a seccomp filter of its own |
//! | `threads N PROTO ADDRESS [FLAG…]` | the same in N threads at once |
//! | `socket PROTO 4\|6` | a socket that is not bound |
//! | `listen ID`, `close ID`, `shutdown ID` | as named |
//! | `opt ID reuseaddr\|reuseport 0\|1` | sets an option |
//! | `opt ID ifindex N` | SO_BINDTOIFINDEX |
//! | `join ID GROUP` | joins a multicast group |
//! | `accept ID` | a connection that waits; answers its `id` |
//! | `accept-now ID` | the same; EAGAIN where none waits |
//! | `accept-all ID` | every connection that waits; answers their `count` |
//! | `connect PROTO ADDRESS` | a connection; answers `id port` |
//! | `connect-from ID ADDRESS` | connects a socket that is bound |
//! | `dup ID` | another descriptor of it; answers its `id` |
//! | `fd ID`, `fetch PID FD` | its number; takes a descriptor out of another process (pidfd_getfd) |
//! | `uring-keep ID` | keeps it as a registered file of io_uring only |
//! | `knock PROTO ADDRESS N` | N connections, or a datagram from each of N sockets; answers `refused` |
//! | `unreached` | how many of the datagrams came back since; `hang-up` closes what knocked |
//! | `take ID` | takes the connections or datagrams that wait, and says how many |
//! | `receive ID` | a datagram, which it waits for |
//! | `serve ID first\|last` | from now on accepts in a thread, and closes each connection before or after the client |
//! | `churn N ADDRESS first\|last` | N connections one after the other, each closed before or after the server; answers how many were `made`, and how the next `failed` |
//! | `fork` | a child without exec; answers its `child` number and `pid` |
//! | `reap PID`, `fork-as PID` | waits for a child that ended; a child with this process id |
//! | `spawn [ID…]` | a child with exec that inherits these sockets, by the ids 1, 2, … |
//! | `leak ID PROGRAM [ARG…]` | a program that inherits the socket, with no other link to the actor; answers its `pid` |
//! | `tell CHILD COMMAND…` | a command to a child; answers what it answers |
//! | `exec [ID…]` | becomes a new image of itself with these sockets, by the ids 1, 2, … |
//! | `inbox NAME`, `post ID NAME`, `unpost`, `close-inbox` | hands a socket to another process (SCM_RIGHTS) |
//! | `hide` | from now on only who has CAP_SYS_PTRACE may look into it |
//! | `setuid N`, `setsid`, `unshare-net`, `pid` | as named |
//! | `sysctl NAME VALUE…`, `ip ARGUMENT…` | sets one up in its network namespace |
//! | `slow-term MS` | from now on SIGTERM ends it only after that time |
//! | `stay` | from now on the end of input does not end it, only a signal does |
//! | `exit` | ends it |
//!
//! Arguments of the program are commands that come first, but for those that begin with `--`. It ends when its input does.

mod bare;
mod churn;
#[cfg(target_arch = "x86_64")]
mod compat;
mod family;
mod races;
mod sockets;
mod traffic;
mod uring;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Everything an actor has.
pub(crate) struct Actor {
    input: File,
    output: File,
    unread: Vec<u8>,
    sockets: BTreeMap<u64, OwnedFd>,
    children: BTreeMap<u64, family::Channel>,
    inbox: Option<OwnedFd>,
    knocks: Vec<OwnedFd>,
    rings: Vec<io_uring::IoUring>,
    term: Option<(SignalFd, Duration)>,
    later: Option<std::thread::JoinHandle<Result<OwnedFd, Failure>>>,
    stays: bool,
}

/// Why a command failed.
pub(crate) enum Failure {
    /// The kernel said so.
    Errno(Errno),
    /// A child answered so.
    Child(String),
    /// The command is not one.
    Usage,
    /// The actor is to end.
    End,
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Errno(Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }
}

impl From<nix::errno::Errno> for Failure {
    fn from(errno: nix::errno::Errno) -> Self {
        Self::Errno(Errno::from_raw_os_error(errno as i32))
    }
}

impl From<std::num::ParseIntError> for Failure {
    fn from(_: std::num::ParseIntError) -> Self {
        Self::Usage
    }
}

fn main() -> ExitCode {
    let (Ok(input), Ok(output)) =
        (std::io::stdin().as_fd().try_clone_to_owned(), std::io::stdout().as_fd().try_clone_to_owned())
    else {
        return ExitCode::FAILURE;
    };
    let mut actor = Actor {
        input: File::from(input),
        output: File::from(output),
        unread: Vec::new(),
        sockets: BTreeMap::new(),
        children: BTreeMap::new(),
        inbox: None,
        knocks: Vec::new(),
        rings: Vec::new(),
        term: None,
        later: None,
        stays: false,
    };
    let mut commands = std::env::args().skip(1).peekable();
    if let Some(numbers) = commands.peek().and_then(|first| first.strip_prefix("--adopt=")).map(str::to_owned)
    {
        commands.next();
        actor.adopt(&numbers);
    }
    // A mark of its supervisor is no command.
    for command in commands.filter(|argument| !argument.starts_with("--")) {
        if !actor.obey(&command) {
            return ExitCode::SUCCESS;
        }
    }
    while let Some(command) = actor.next_line() {
        if !actor.obey(&command) {
            return ExitCode::SUCCESS;
        }
    }
    if actor.stays {
        let _interrupted = poll(&mut [], None);
    }
    ExitCode::SUCCESS
}

impl Actor {
    /// Does what the line says and answers; false when that was to end.
    fn obey(&mut self, line: &str) -> bool {
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match self.act(&words) {
            Ok(answer) if answer.is_empty() => "ok".to_owned(),
            Ok(answer) => format!("ok {answer}"),
            Err(Failure::End) => return false,
            Err(Failure::Usage) => format!("err usage: {line}"),
            Err(Failure::Child(answer)) => answer,
            Err(Failure::Errno(errno)) => format!("err {}", name(errno)),
        };
        writeln!(self.output, "{answer}").is_ok()
    }

    fn act(&mut self, words: &[&str]) -> Result<String, Failure> {
        match words {
            ["bind", protocol, address, flags @ ..] => self.bind(protocol, address, flags),
            #[cfg(target_arch = "x86_64")]
            ["compat-opt", id, option, value] => self.compat_option(id.parse()?, option, value.parse()?),
            #[cfg(target_arch = "x86_64")]
            ["compat", how, protocol, address, flags @ ..] => self.compat(how, protocol, address, flags),
            ["reconnect", id, address] => self.reconnect(id.parse()?, address),
            ["disconnect", id] => self.disconnect(id.parse()?),
            ["send", id, address] => self.send(id.parse()?, address),
            ["port", id] => self.port(id.parse()?),
            ["rebind", id, address] => self.rebind(id.parse()?, address),
            ["short-opt", id, "reuseport"] => self.short_option(id.parse()?),
            ["link", name] => link(name),
            ["device", id, name] => self.device(id.parse()?, name),
            ["enter-net", pid] => enter_net(pid.parse()?),
            ["uring", how, protocol, address, flags @ ..] => self.uring(how, protocol, address, flags),
            ["uring-listen", how, id] => self.uring_listen(how, id.parse()?),
            ["uring-opt", how, id, "reuseport", value] => self.uring_option(how, id.parse()?, value.parse()?),
            ["threads", count, protocol, address, flags @ ..] => {
                self.threads(count.parse()?, protocol, address, flags)
            }
            ["handle", "usr1", how] => bare::handle_usr1(*how == "restart"),
            ["bind-later", protocol, address, flags @ ..] => {
                let (protocol, address) = ((*protocol).to_owned(), (*address).to_owned());
                let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
                self.later = Some(std::thread::spawn(move || {
                    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
                    sockets::bound(&protocol, &address, &flags)
                }));
                Ok(String::new())
            }
            ["bound-later"] => {
                let thread = self.later.take().ok_or(Failure::Usage)?;
                let socket = thread.join().unwrap_or(Err(Failure::Usage))?;
                self.told(socket)
            }
            ["swapping", count, address, other] => races::swapping(count.parse()?, address, other.parse()?),
            ["insist", count, protocol, address] => sockets::insist(count.parse()?, protocol, address, true),
            ["again", count, protocol, address] => sockets::insist(count.parse()?, protocol, address, false),
            ["listens", count, protocol] => sockets::listens(count.parse()?, protocol),
            ["apart", address] => races::apart(address),
            ["filter", what] => races::filter(what),
            ["binds", count, protocol, address] => sockets::binds(count.parse()?, protocol, address),
            ["socket", protocol, family] => self.socket(protocol, family),
            ["listen", id] => self.listen(id.parse()?),
            ["close", id] => self.sockets.remove(&id.parse()?).map(|_| String::new()).ok_or(Failure::Usage),
            ["shutdown", id] => self.shutdown(id.parse()?),
            ["opt", id, option, value] => self.option(id.parse()?, option, value),
            ["join", id, group] => self.join(id.parse()?, group),
            ["accept-all", id] => self.accept_all(id.parse()?),
            ["accept", id] => self.accept(id.parse()?),
            ["accept-now", id] => self.accept_now(id.parse()?),
            ["connect", protocol, address] => self.connect(protocol, address),
            ["knock", protocol, address, count] => self.knock(protocol, address, count.parse()?),
            ["unreached"] => self.unreached(),
            ["hang-up"] => {
                self.knocks.clear();
                Ok(String::new())
            }
            ["take", id] => self.take(id.parse()?),
            ["receive", id] => self.receive(id.parse()?),
            ["connect-from", id, address] => self.connect_from(id.parse()?, address),
            ["serve", id, who] => self.serve(id.parse()?, who),
            ["churn", count, address, who] => churn::churn(count.parse()?, address, who),
            ["fork"] => self.fork(None),
            ["fork-as", pid] => self.fork(Some(pid.parse()?)),
            ["reap", pid] => {
                nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid.parse()?), None)?;
                Ok(String::new())
            }
            ["leak", id, program, arguments @ ..] => self.leak(id, program, arguments),
            ["fd", id] => Ok(format!("fd={}", self.get(id.parse()?)?.as_raw_fd())),
            ["fetch", pid, fd] => self.fetch(pid.parse()?, fd.parse()?),
            ["uring-keep", id] => self.uring_keep(id.parse()?),
            ["spawn", ids @ ..] => self.spawn(ids),
            ["tell", child, command @ ..] => self.relay(child.parse()?, command),
            ["exec", ids @ ..] => self.exec(ids),
            ["inbox", name] => self.open_inbox(name),
            ["post", id, name] => self.post(id.parse()?, name),
            ["unpost"] => self.unpost(),
            ["close-inbox"] => {
                self.inbox = None;
                Ok(String::new())
            }
            ["dup", id] => {
                let copy = self.get(id.parse()?)?.try_clone()?;
                Ok(format!("id={}", self.keep(copy)))
            }
            ["hide"] => {
                rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
                Ok(String::new())
            }
            ["setuid", uid] => {
                rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(uid.parse()?))?;
                Ok(String::new())
            }
            ["setsid"] => Ok(format!("session={}", rustix::process::setsid()?.as_raw_nonzero())),
            ["unshare-net"] => unshare_net(),
            ["sysctl", name, value @ ..] => {
                std::fs::write(format!("/proc/sys/{name}"), value.join(" "))?;
                Ok(String::new())
            }
            ["ip", arguments @ ..] => ip(arguments),
            ["pid"] => Ok(format!("pid={}", std::process::id())),
            ["slow-term", time] => self.slow_term(Duration::from_millis(time.parse()?)),
            ["stay"] => {
                self.stays = true;
                Ok(String::new())
            }
            ["exit"] => Err(Failure::End),
            _ => Err(Failure::Usage),
        }
    }

    /// The next command; None at the end of input. SIGTERM is looked at here.
    fn next_line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return Some(String::from_utf8_lossy(&line).trim().to_owned());
            }
            let mut waiting = vec![PollFd::new(&self.input, PollFlags::IN)];
            if let Some((signals, _)) = &self.term {
                waiting.push(PollFd::new(signals, PollFlags::IN));
            }
            match poll(&mut waiting, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return None,
            }
            if waiting.get(1).is_some_and(|signals| !signals.revents().is_empty()) {
                self.linger();
            }
            if waiting.first().is_some_and(|input| input.revents().is_empty()) {
                continue;
            }
            let mut buffer = [0; 512];
            match self.input.read(&mut buffer) {
                Ok(0) | Err(_) => return None,
                Ok(length) => self.unread.extend(buffer.iter().take(length)),
            }
        }
    }

    fn slow_term(&mut self, time: Duration) -> Result<String, Failure> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGTERM);
        mask.thread_block()?;
        self.term = Some((SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC)?, time));
        Ok(String::new())
    }

    /// SIGTERM came: holds everything for the time that was set, then ends.
    fn linger(&self) {
        let time = self.term.as_ref().map(|(_, time)| *time).unwrap_or_default();
        let time = Timespec {
            tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        };
        let _timeout = poll(&mut [], Some(&time));
        std::process::exit(0);
    }
}

/// A network namespace of its own, in which only loopback is up. It goes away with its last process.
fn unshare_net() -> Result<String, Failure> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
    ip(&["link", "set", "lo", "up"])
}

fn ip(arguments: &[&str]) -> Result<String, Failure> {
    let up = std::process::Command::new("ip").args(arguments).status()?;
    if up.success() { Ok(String::new()) } else { Err(Failure::Errno(Errno::IO)) }
}

/// A network device that leads nowhere, and its number.
fn link(name: &str) -> Result<String, Failure> {
    let ip = |arguments: &[&str]| std::process::Command::new("ip").args(arguments).status();
    let made = ip(&["link", "add", name, "type", "veth", "peer", "name", &format!("{name}p")])?;
    let up = ip(&["link", "set", name, "up"])?;
    if !(made.success() && up.success()) {
        return Err(Failure::Errno(Errno::IO));
    }
    Ok(format!("number={}", nix::net::if_::if_nametoindex(name)?))
}

/// Into the network namespace of another process.
fn enter_net(pid: u32) -> Result<String, Failure> {
    let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
    nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
    Ok(String::new())
}

pub(crate) fn name(errno: Errno) -> String {
    let known = match errno {
        Errno::ACCESS => "EACCES",
        Errno::ADDRINUSE => "EADDRINUSE",
        Errno::ADDRNOTAVAIL => "EADDRNOTAVAIL",
        Errno::AGAIN => "EAGAIN",
        Errno::BUSY => "EBUSY",
        Errno::CONNREFUSED => "ECONNREFUSED",
        Errno::INTR => "EINTR",
        Errno::NODEV => "ENODEV",
        Errno::INVAL => "EINVAL",
        Errno::PERM => "EPERM",
        _ => return format!("errno {}", errno.raw_os_error()),
    };
    known.to_owned()
}
