//! `bindwatch check`: could one bind here now, and if not, who is in the way.
//!
//! Answered from the kernel's tables alone: a bind to try it out would be in the way of others.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::timeout;

use super::census::Census;
use super::{EXIT_FOUND, EXIT_TIMEOUT, read_enough, text_or_json};
use crate::cli::{CheckArgs, Globals, Place, Target};
use crate::clock::{self, Anchors};
use crate::event::{Cookie, Family, Inum, NetnsCookie, Options, Protocol, SocketFacts, TcpState, Uid};
use crate::ledger::conflict;
use crate::log::Host;
use crate::recording::say;
use crate::sink::listing::Answer;
use crate::sink::{Report, Stats, Window, text};
use crate::source::releases::{self, Releases};
use crate::source::sockets::{Holdings, InventorySocket, Row, Scope, States, Tables, TablesError};

/// How often the tables are read anew while waiting, where nothing tells that they changed. A dump of one port's
/// sockets takes the kernel a millisecond or two.
const POLL_EVERY: Duration = Duration::from_millis(50);

/// Tells when it is worth looking at the tables again.
trait Changes {
    /// Returns when something may have changed since the last look, which found `held`. Cancel safe.
    ///
    /// # Errors
    /// When changes cannot be followed any more.
    fn next(&mut self, held: &[Held]) -> impl Future<Output = io::Result<()>>;
}

/// Changes that nothing tells of: a look every [`POLL_EVERY`].
#[derive(Clone, Copy, Debug, Default)]
struct Poll;

impl Changes for Poll {
    async fn next(&mut self, _held: &[Held]) -> io::Result<()> {
        tokio::time::sleep(POLL_EVERY).await;
        Ok(())
    }
}

/// The probe's word.
impl Changes for Releases {
    async fn next(&mut self, held: &[Held]) -> io::Result<()> {
        self.next(held.iter().flat_map(|held| &held.rows)).await
    }
}

/// Runs the verb.
pub(super) fn run(args: &CheckArgs, globals: &Globals) -> anyhow::Result<ExitCode> {
    let format = text_or_json(globals)?;
    let start = clock::boot_now();
    let mut asked = Asked::new(args)?;
    let mut held = asked.look()?;
    let mut timed_out = false;
    if let Some(longest) = args.wait.filter(|_| !held.iter().all(Held::is_free)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        match runtime.block_on(async { timeout(longest, asked.wait(globals.verbose > 0)).await }) {
            Ok(waited) => held = waited?,
            Err(_) => (held, timed_out) = (asked.look()?, true),
        }
    }
    let free = held.iter().all(Held::is_free);
    let report = asked.report(held, args, start)?;
    if !globals.quiet || format != crate::cli::Format::Text {
        let style = text::Style { colored: globals.colored(&io::stdout()), whole: globals.verbose > 0 };
        read_enough(report.write(format, style, &mut io::stdout().lock()))?;
    }
    Ok(match (free, timed_out) {
        (true, _) => ExitCode::SUCCESS,
        (false, true) => ExitCode::from(EXIT_TIMEOUT),
        (false, false) => ExitCode::from(EXIT_FOUND),
    })
}

/// What was asked, and where the answers come from.
struct Asked<'a> {
    tables: Tables,
    targets: &'a [Target],
    reuse_addr: bool,
}

/// What is in the way of a bind to one target.
struct Held {
    rows: Vec<Row>,
}

impl Held {
    fn is_free(&self) -> bool {
        self.rows.is_empty()
    }
}

impl<'a> Asked<'a> {
    fn new(args: &'a CheckArgs) -> Result<Self, TablesError> {
        Ok(Self { tables: Tables::open()?, targets: &args.targets, reuse_addr: args.reuse_addr })
    }

    /// What is in the way of each target, in their order.
    fn look(&mut self) -> Result<Vec<Held>, TablesError> {
        let targets = self.targets;
        targets.iter().map(|target| self.rows_on(target).map(|rows| Held { rows })).collect()
    }

    /// Waits until every target is free, by the probe where the caller may load it. Loading it takes a moment, which
    /// polling fills.
    async fn wait(&mut self, verbose: bool) -> anyhow::Result<Vec<Held>> {
        let mut poll = Poll;
        let (tell, attached) = tokio::sync::oneshot::channel();
        // A thread of nobody's: when the wait is over before, the process ends with it.
        std::thread::Builder::new().spawn(move || {
            let _ = tell.send(releases::attach());
        })?;
        let attached = tokio::select! {
            held = self.until_free(&mut poll) => return held,
            attached = attached => attached?,
        };
        match attached.and_then(Releases::new) {
            Ok(mut releases) => self.until_free(&mut releases).await,
            Err(error) => {
                if verbose {
                    say(&format!("looking every {} ms: {error}", POLL_EVERY.as_millis()));
                }
                self.until_free(&mut poll).await
            }
        }
    }

    /// Returns once every target is free, all at one look. Looks first: what changed before `changes` began to tell is
    /// not told.
    async fn until_free(&mut self, changes: &mut impl Changes) -> anyhow::Result<Vec<Held>> {
        loop {
            let held = self.look()?;
            if held.iter().all(Held::is_free) {
                return Ok(held);
            }
            changes.next(&held).await?;
        }
    }

    fn rows_on(&mut self, target: &Target) -> Result<Vec<Row>, TablesError> {
        let own = self.tables.own_netns();
        let mut rows = Vec::new();
        match target.port {
            Some(port) => {
                for protocol in protocols(target) {
                    rows.extend(self.tables.on_port(own, protocol, port)?);
                }
            }
            None => rows = self.tables.rows(States::ALL, Scope::Own)?.0,
        }
        let binds = wanted(target, own);
        rows.retain(|row| {
            let ignored = self.reuse_addr && row.state == TcpState::TimeWait;
            let on_protocol = target.protocol.is_none_or(|protocol| protocol == row.socket.protocol);
            row.socket.port != 0
                && !ignored
                && on_protocol
                && binds.iter().any(|bind| conflict(bind, &row.socket))
        });
        Ok(without_connections(rows))
    }

    fn report(
        &mut self,
        held: Vec<Held>,
        args: &CheckArgs,
        start: crate::event::BootTime,
    ) -> anyhow::Result<Report> {
        let mut inodes: Vec<u32> =
            held.iter().flat_map(|held| held.rows.iter().map(|row| row.inode)).collect();
        inodes.retain(|inode| *inode != 0);
        inodes.sort_unstable();
        let holdings = if inodes.is_empty() { Holdings::default() } else { Holdings::scan(Some(&inodes))? };
        let mut sockets: Vec<InventorySocket> = Vec::new();
        let mut answers = Vec::new();
        for (target, held) in self.targets.iter().zip(held) {
            let from = sockets.len();
            sockets.extend(held.rows.into_iter().map(|row| {
                let holders = holdings.processes(row.inode);
                InventorySocket { holders, ..InventorySocket::of(row) }
            }));
            let places = (from..sockets.len()).collect::<Vec<_>>();
            answers.push(Answer { target: target.to_string(), free: places.is_empty(), sockets: places });
        }
        let stats = Stats { sockets: sockets.len() as u64, ..Stats::default() };
        let hidden = holdings.hidden_processes() > 0;
        let only_time_wait =
            !sockets.is_empty() && sockets.iter().all(|socket| socket.state == TcpState::TimeWait);
        let (listing, _) = Census::open()?.listing(sockets, self.tables.own_netns(), hidden);
        let window = Window { start, end: clock::boot_now(), complete: !hidden };
        let host = Host::of_this_machine();
        let mut report = Report::new(host, Anchors::now(), window, stats, args.show_secrets);
        if only_time_wait {
            report.notice(
                "only ended connections (TIME_WAIT) are in the way: a server that sets SO_REUSEADDR, as its \
                 predecessor did, can bind at once (check --reuse-addr)",
            );
        }
        Ok(report.with_sockets(listing).with_targets(answers))
    }
}

/// Every protocol that has ports, or the one asked for.
fn protocols(target: &Target) -> Vec<Protocol> {
    target
        .protocol
        .map_or_else(|| vec![Protocol::Tcp, Protocol::Udp, Protocol::Udplite], |protocol| vec![protocol])
}

/// The binds that are asked about, as sockets: without options, so an IPv6 wildcard takes IPv4 too.
fn wanted(target: &Target, netns: Inum) -> Vec<SocketFacts> {
    let every = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let addresses = match &target.place {
        Place::Every => every.to_vec(),
        Place::Only(addresses) => addresses.clone(),
    };
    let bind = |address: IpAddr| SocketFacts {
        cookie: Cookie(0),
        netns,
        netns_cookie: NetnsCookie::default(),
        family: if address.is_ipv4() { Family::Inet } else { Family::Inet6 },
        protocol: target.protocol.unwrap_or(Protocol::Tcp),
        address,
        port: target.port.unwrap_or(0),
        options: Options::default(),
        uid: Uid(0),
    };
    addresses.into_iter().map(bind).collect()
}

/// Leaves out the connections of ports that a socket at rest holds anyway.
fn without_connections(mut rows: Vec<Row>) -> Vec<Row> {
    let at_rest = |row: &Row| matches!(row.state, TcpState::Listen | TcpState::Close);
    let port = |row: &Row| (row.socket.protocol, row.socket.port);
    let mut held: Vec<_> = rows.iter().filter(|row| at_rest(row)).map(port).collect();
    held.sort_unstable();
    rows.retain(|row| at_rest(row) || held.binary_search(&port(row)).is_err());
    rows
}
