//! One test suite: a process that opens and closes sockets until it has had enough.

use std::net::{IpAddr, Ipv4Addr};

use bindwatch::event::{
    Accepted, Bind, BindFailed, Body, Changed, Close, Cookie, Door, Errno, Exit, Gone, Hook, Known, Listen,
    OptionSet, Process, ProcessKey, Protocol, Seq, Setting, Signal, SocketFacts, TableRow, TcpState, Tid,
};

use super::chance::Chance;
use super::{Out, facts};

/// One in so many suites meets another one on a fixed port.
const SHARES: u64 = 300;
/// Sockets that such a suite opens, sockets.
const SHARER_SOCKETS: u64 = 40;
/// One in so many sockets is refused the port of a standing server.
const REFUSED: u64 = 3_000;
/// Standing servers whose ports are asked for, servers.
const ASKED_FOR: u64 = 200;
/// First cookie of a suite's sockets.
const FIRST_COOKIE: u64 = 1_000_000;
/// Sockets of one suite, at most.
const SOCKETS_MAX: u64 = 1 << 10;
/// Ticks a second of process start times.
const TICK_NS: u64 = 10_000_000;

/// What a suite does next.
enum Next {
    Process,
    Open,
    Option(SocketFacts),
    Listen(SocketFacts),
    Accepted(Cookie),
    Looked(SocketFacts, u32, Seq),
    Close(Cookie, TcpState),
    Gone(Cookie),
    Exit,
}

/// One suite.
pub(super) struct Suite {
    number: u64,
    key: ProcessKey,
    /// Sockets that it still opens, and those it has opened.
    left: u64,
    opened: u64,
    /// No two suites of one moment have the same.
    lane: usize,
    /// It begins by sharing an endpoint with the suite before or after it.
    shares: bool,
    /// That socket, which it has to its end.
    shared: Option<Cookie>,
    next: Next,
    comm: &'static str,
}

impl Suite {
    pub(super) fn new(number: u64, lane: usize, at: u64, chance: &mut Chance) -> Self {
        // Identifiers come round, as the kernel's do.
        let tgid = 5_000 + u32::try_from(number % 60_000).unwrap_or(0);
        let comm = if chance.once_in(4) { "java" } else { "node" };
        let shares = number % (2 * SHARES) < 2;
        // Long enough to meet the other one.
        let left = if shares { SHARER_SOCKETS } else { chance.between(1, 60) };
        let key = ProcessKey { tgid, start: at / TICK_NS };
        Self { number, key, left, opened: 0, lane, shares, shared: None, next: Next::Process, comm }
    }

    /// Does one thing; false when that was its last.
    pub(super) fn step(&mut self, out: &mut Out<'_>, chance: &mut Chance) -> anyhow::Result<bool> {
        let next = std::mem::replace(&mut self.next, Next::Exit);
        self.next = match next {
            Next::Process => {
                facts::process(out, self.process())?;
                Next::Open
            }
            Next::Open if self.left == 0 && self.shared.is_some() => {
                let Some(cookie) = self.shared.take() else { return Ok(false) };
                Next::Accepted(cookie)
            }
            Next::Open if self.left == 0 => {
                let exit = Exit { process: self.key };
                if chance.once_in(50) {
                    let signal = Signal { process: self.key, sender: Some(facts::RUNNER), signal: 15 };
                    out.event(Hook::SignalGenerate, Body::Signal(signal))?;
                }
                out.event(Hook::SchedProcessExit, Body::Exit(exit))?;
                return Ok(false);
            }
            Next::Open => self.open(out, chance)?,
            Next::Option(socket) => {
                let set = OptionSet { cookie: socket.cookie, setting: Setting::ReusePort(true) };
                out.event(Hook::Setsockopt, Body::Option(set))?;
                self.listen_or_close(socket)
            }
            Next::Listen(socket) => {
                let cookie = socket.cookie;
                out.event(Hook::InetSockSetState, Body::Listen(Listen { process: self.key, socket }))?;
                if self.shared == Some(cookie) {
                    Next::Open
                } else if chance.once_in(8) {
                    Next::Close(cookie, TcpState::Listen)
                } else {
                    Next::Accepted(cookie)
                }
            }
            Next::Accepted(cookie) => {
                let connections = chance.between(1, 200);
                out.event(Hook::SockOps, Body::Accepted(Accepted { cookie, connections }))?;
                Next::Close(cookie, TcpState::Listen)
            }
            Next::Looked(socket, standing, asked_by) => {
                let mut held = facts::socket(
                    facts::standing_cookie(standing),
                    facts::standing_address(),
                    facts::standing_port(standing),
                    Protocol::Tcp,
                );
                held.options = socket.options;
                let row = TableRow {
                    asked_by,
                    socket: held,
                    state: TcpState::Listen,
                    peer: None,
                    holders: vec![facts::standing_holder(standing)],
                    last_owner: None,
                    outgoing: false,
                };
                out.event(Hook::SockDiag, Body::Table(row))?;
                Next::Close(socket.cookie, TcpState::Close)
            }
            Next::Close(cookie, state) => {
                out.event(Hook::SockRelease, Body::Close(Close { cookie, state, backlog: 0 }))?;
                if state == TcpState::FinWait1 { Next::Gone(cookie) } else { Next::Open }
            }
            Next::Gone(cookie) => {
                out.event(Hook::TcpDestroySock, Body::Gone(Gone { cookie }))?;
                Next::Open
            }
            Next::Exit => return Ok(false),
        };
        Ok(true)
    }

    fn process(&self) -> Process {
        let script = format!("/home/runner/work/app/app/packages/suite-{}/dist/main.js", self.number % 900);
        let log = format!("--log-file=/tmp/suite-{}.log", self.number);
        let command =
            ["/usr/bin/node", "--enable-source-maps", &script, "--reporter=junit", "--shard=3/8", &log];
        let key = ProcessKey { ..self.key };
        Process {
            known: Known::Exec,
            job: Some("ci / integration".to_owned()),
            ..facts::new(key, Some(facts::RUNNER), self.comm, &command, facts::CGROUP)
        }
    }

    /// Opens a socket: what becomes of it is what comes next.
    fn open(&mut self, out: &mut Out<'_>, chance: &mut Chance) -> anyhow::Result<Next> {
        self.left -= 1;
        self.opened = (self.opened + 1).min(SOCKETS_MAX - 1);
        let cookie = Cookie(FIRST_COOKIE + self.number * SOCKETS_MAX + self.opened);
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        // Ports that the kernel chose: no two suites of one moment get the same.
        let lane = u16::try_from(self.lane)?;
        let chosen = 32_768 + lane * 220 + u16::try_from(chance.below(220)).unwrap_or(0);
        if std::mem::take(&mut self.shares) {
            // Two suites in a row have one number here.
            let address = facts::own_address(self.number / 2);
            let mut socket = facts::socket(cookie, address, 9_926, Protocol::Tcp);
            socket.options.reuse_port = true;
            out.truth.shared += self.number % 2;
            self.shared = Some(cookie);
            return self.bind(socket, 9_926, out);
        }
        if chance.once_in(REFUSED) {
            let standing = u32::try_from(chance.below(ASKED_FOR))?;
            let (address, port) = (facts::standing_address(), facts::standing_port(standing));
            let socket = facts::socket(cookie, address, port, Protocol::Tcp);
            let failed = BindFailed {
                process: self.key,
                tid: Tid(self.key.tgid),
                comm: self.comm.to_owned(),
                socket: socket.clone(),
                errno: Errno::EADDRINUSE,
                door: Door::Syscall,
            };
            let asked_by = out.event(Hook::SysExitBind, Body::BindFailed(failed))?;
            return Ok(Next::Looked(socket, standing, asked_by));
        }
        match chance.below(100) {
            // A server on a port that the kernel chose.
            0..=54 => {
                let address = if chance.once_in(3) { facts::any() } else { local };
                self.bind(facts::socket(cookie, address, chosen, Protocol::Tcp), 0, out)
            }
            // Is this port free?
            55..=69 => {
                let socket = facts::socket(cookie, local, chosen, Protocol::Tcp);
                self.bind(socket, 0, out)?;
                Ok(Next::Close(cookie, TcpState::Close))
            }
            // Datagrams.
            70..=84 => self.bind(facts::socket(cookie, local, chosen, Protocol::Udp), 0, out),
            // A client that connects, and so gets a port without a bind.
            85..=91 => {
                let socket = facts::socket(cookie, local, chosen, Protocol::Udp);
                let changed = Changed { process: Some(self.key), socket, state: TcpState::Established };
                out.event(Hook::Proc, Body::Changed(changed))?;
                Ok(Next::Close(cookie, TcpState::Established))
            }
            // A client that binds first, and leaves its connection half closed.
            92..=93 => {
                let socket = facts::socket(cookie, local, chosen, Protocol::Tcp);
                self.bind(socket, 0, out)?;
                Ok(Next::Close(cookie, TcpState::FinWait1))
            }
            // A server on an address and port of its own.
            _ => {
                let address = facts::own_address(self.number);
                let port = 8_000 + u16::try_from(chance.below(100))?;
                let socket = facts::socket(cookie, address, port, Protocol::Tcp);
                let set = chance.once_in(4);
                let next = self.bind(socket.clone(), port, out)?;
                Ok(if set { Next::Option(socket) } else { next })
            }
        }
    }

    fn bind(&self, socket: SocketFacts, requested_port: u16, out: &mut Out<'_>) -> anyhow::Result<Next> {
        let hook = if socket.address.is_ipv6() { Hook::PostBind6 } else { Hook::PostBind4 };
        let bind = Bind {
            process: self.key,
            tid: Tid(self.key.tgid),
            comm: self.comm.to_owned(),
            socket: socket.clone(),
            requested_port,
            door: Door::Syscall,
        };
        out.event(hook, Body::Bind(bind))?;
        Ok(self.listen_or_close(socket))
    }

    fn listen_or_close(&self, socket: SocketFacts) -> Next {
        match socket.protocol {
            Protocol::Tcp => Next::Listen(socket),
            Protocol::Udp | Protocol::Udplite => Next::Close(socket.cookie, TcpState::Close),
        }
    }
}
