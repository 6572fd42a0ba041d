//! The machine of the log: who is there before the recording, and the shapes of its facts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bindwatch::event::{
    Body, Cookie, Family, Found, Hook, Inum, InventoryPhase, Known, NetnsCookie, Options, PortRange, Process,
    ProcessKey, Protocol, SocketFacts, TcpState, Uid,
};

use super::Out;

/// The network namespace of everything.
pub(super) const NETNS: Inum = Inum(4_026_531_840);
/// The first process.
const INIT: ProcessKey = ProcessKey { tgid: 1, start: 2 };
/// The agent that starts every suite.
pub(super) const RUNNER: ProcessKey = ProcessKey { tgid: 4_000, start: 300_000 };
/// The first port of the servers that are there all the time.
pub(super) const STANDING_PORT: u16 = 6_000;
/// Cookies of those; suites' sockets have larger ones.
const STANDING_COOKIE: u64 = 100;
/// Processes that have the servers, each several.
const SERVERS_EACH: u32 = 8;

/// Who and what is there when the recording begins.
pub(super) fn machine(out: &mut Out<'_>, standing: u32) -> anyhow::Result<()> {
    process(
        out,
        Process { known: Known::Scan, ..new(INIT, None, "systemd", &["/sbin/init"], "/init.scope") },
    )?;
    let runner =
        new(RUNNER, Some(INIT), "Runner.Worker", &["/opt/runner/Runner.Worker", "spawnclient"], CGROUP);
    process(out, Process { known: Known::Scan, ..runner })?;
    for number in 0..standing.div_ceil(SERVERS_EACH) {
        let command = ["/usr/bin/redis-server", "*:6379", "--daemonize", "no"];
        let server = new(server(number), Some(INIT), "redis-server", &command, "/system.slice/redis.service");
        process(out, Process { known: Known::Scan, ..server })?;
    }
    out.inventory(InventoryPhase::Begin)?;
    for number in 0..standing {
        let socket =
            socket(standing_cookie(number), standing_address(), standing_port(number), Protocol::Tcp);
        let holders = vec![server(number / SERVERS_EACH)];
        out.event(Hook::SockDiag, Body::Socket(Found { socket, state: TcpState::Listen, holders }))?;
    }
    out.inventory(InventoryPhase::End)?;
    let range = PortRange { netns: NETNS, low: 32_768, high: 60_999, reserved: Vec::new() };
    out.event(Hook::Proc, Body::PortRange(range)).map(drop)
}

/// The cgroup of every suite.
pub(super) const CGROUP: &str = "/actions.slice/runner-3.service";

/// The process that has the standing servers of this hundred.
pub(super) const fn server(number: u32) -> ProcessKey {
    ProcessKey { tgid: 600 + number, start: 1_000 + number as u64 }
}

pub(super) const fn standing_address() -> IpAddr {
    IpAddr::V4(Ipv4Addr::LOCALHOST)
}

pub(super) fn standing_port(number: u32) -> u16 {
    STANDING_PORT + u16::try_from(number % 20_000).unwrap_or(0)
}

pub(super) const fn standing_cookie(number: u32) -> Cookie {
    Cookie(STANDING_COOKIE + number as u64)
}

/// The process of a standing server.
pub(super) const fn standing_holder(number: u32) -> ProcessKey {
    server(number / SERVERS_EACH)
}

/// A process that executed a program.
pub(super) fn new(
    key: ProcessKey,
    parent: Option<ProcessKey>,
    comm: &str,
    command: &[&str],
    cgroup: &str,
) -> Process {
    Process {
        process: key,
        parent,
        lineage: key,
        known: Known::Exec,
        comm: comm.to_owned(),
        exe: command.first().copied().unwrap_or_default().to_owned(),
        cmdline: command.iter().map(|argument| (*argument).to_owned()).collect(),
        cmdline_cut: false,
        uid: Uid(1001),
        session: RUNNER.tgid,
        cgroup: cgroup.to_owned(),
        container: None,
        mark: None,
        job: None,
    }
}

pub(super) fn process(out: &mut Out<'_>, process: Process) -> anyhow::Result<()> {
    out.event(Hook::Bindwatch, Body::Process(process)).map(drop)
}

pub(super) fn socket(cookie: Cookie, address: IpAddr, port: u16, protocol: Protocol) -> SocketFacts {
    SocketFacts {
        cookie,
        netns: NETNS,
        netns_cookie: NetnsCookie(1),
        family: if address.is_ipv6() { Family::Inet6 } else { Family::Inet },
        protocol,
        address,
        port,
        options: Options { reuse_addr: protocol == Protocol::Tcp, ..Options::default() },
        uid: Uid(1001),
    }
}

/// The wildcard of IPv6, and so of both.
pub(super) const fn any() -> IpAddr {
    IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}

/// An address of the loopback's own, of one suite.
pub(super) fn own_address(number: u64) -> IpAddr {
    // 127.1.0.1 and on, 128 addresses in each of the last bytes.
    let [.., b, c, d] = (number * 2).to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, (b % 127) + 1, c, d | 1))
}
