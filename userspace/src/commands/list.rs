//! `bindwatch list`: who holds what now, from the kernel's socket tables.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::process::ExitCode;

use super::census::Census;
use super::{EXIT_FOUND, read_enough, text_or_json};
use crate::cli::{Globals, ListArgs};
use crate::clock::{self, Anchors};
use crate::config::Config;
use crate::event::{
    Body, BootTime, Cookie, Event, Hook, Inventory as Boundary, InventoryPhase, OptionSet, Process,
    ProcessKey, Protocol, Seq, Setting, TcpState,
};
use crate::judge::Rules;
use crate::ledger::Ledger;
use crate::ledger::finding::Finding;
use crate::log::Host;
use crate::probe::{Options, Owners, Probe};
use crate::recording::say;
use crate::sink::words::{self, plural};
use crate::sink::{Report, Stats, Window, text};
use crate::source::sockets::{Inventory, InventorySocket, Scope, States, Tables, TablesError, members};

/// Ring buffer of a probe that only lists, bytes: the smallest there is.
const RING_BYTES: u32 = 4096;

/// Runs the verb.
pub(super) fn run(args: &ListArgs, globals: &Globals) -> anyhow::Result<ExitCode> {
    let format = text_or_json(globals)?;
    let config = Config::load(globals.config.as_deref())?;
    let start = clock::boot_now();
    let mut tables = Tables::open()?;
    let mut inventory = tables.without_holders(states(args), Scope::Every)?;
    inventory.sockets.retain(|socket| is_shown(socket, args));
    let unread = find_holders(&mut inventory)?;
    let mut census = Census::open()?;
    let ownerless = inventory.sockets.iter().filter(|socket| socket.ownerless()).count();
    let hidden = inventory.hidden_processes > 0;
    let judged: Vec<InventorySocket> = on_shared_ports(&inventory.sockets).into_iter().cloned().collect();
    let members = members(&judged);
    let over: Vec<Cookie> = inventory
        .sockets
        .iter()
        .filter(|socket| socket.state == TcpState::TimeWait)
        .map(|socket| socket.socket.cookie)
        .collect();
    let (mut listing, processes) = census.listing(inventory.sockets, tables.own_netns(), hidden);
    let attributed = Attributed::new(&over);
    census.attribute(attributed.owners.clone(), &mut listing);
    let end = clock::boot_now();
    let rules = Rules::resolve(&args.judge, &config, Rules::default());
    let findings = judge(rules, processes, &judged, members, end);
    let stats = Stats { sockets: listing.sockets.len() as u64, ..Stats::default() };
    let window = Window { start, end, complete: inventory.unseen.is_empty() && !hidden };
    let mut report = Report::new(Host::of_this_machine(), Anchors::now(), window, stats, args.show_secrets);
    let mut notices: Vec<String> =
        inventory.unseen.iter().map(|what| format!("not looked into: {what}")).collect();
    if hidden && ownerless > 0 {
        let sockets = plural(ownerless as u64, "socket");
        notices.push(format!(
            "the processes of {sockets} cannot be seen; as root they can: sudo bindwatch list"
        ));
    }
    notices.extend(attributed.notice(over.len()));
    notices.extend(unread.filter(|_| !judged.is_empty() || globals.verbose > 0));
    let is_text = format == crate::cli::Format::Text;
    for notice in &notices {
        // Above a table they would be in the way of what reads it; standard error is for people.
        match is_text {
            true if globals.quiet => {}
            true => say(notice),
            false => report.notice(notice),
        }
    }
    let report = report.with_findings(findings, 0).with_sockets(listing);
    let style = text::Style { colored: globals.colored(&io::stdout()), whole: globals.verbose > 0 };
    read_enough(report.write(format, style, &mut io::stdout().lock()))?;
    let fail_on = args.judge.fail_on.as_ref().or(config.fail_on.as_ref());
    let failed =
        fail_on.is_some_and(|fail_on| report.findings().iter().any(|finding| fail_on.matches(finding)));
    Ok(if failed { ExitCode::from(EXIT_FOUND) } else { ExitCode::SUCCESS })
}

fn states(args: &ListArgs) -> States {
    let mut states = States::LISTEN.and(States::BOUND);
    if args.all {
        states = states.and(States::CONNECTED);
    }
    if args.time_wait {
        states = states.and(States::TIME_WAIT);
    }
    states
}

fn is_shown(socket: &InventorySocket, args: &ListArgs) -> bool {
    args.targets.is_empty() || args.targets.iter().any(|target| target.takes(&socket.socket))
}

/// Whose connections were that are over: only a recording that saw them being opened knows.
struct Attributed {
    owners: BTreeMap<Cookie, ProcessKey>,
    recordings: usize,
}

impl Attributed {
    /// Asks every recording that runs on this machine, which takes privileges.
    fn new(over: &[Cookie]) -> Self {
        let recordings = if over.is_empty() { Vec::new() } else { Owners::of_running_probes() };
        let owner = |cookie: &Cookie| recordings.iter().find_map(|owners| owners.of(*cookie));
        let owners = over.iter().filter_map(|cookie| Some((*cookie, owner(cookie)?))).collect();
        Self { owners, recordings: recordings.len() }
    }

    /// What to tell of those whose owner is not known, of so many.
    fn notice(&self, all: usize) -> Option<String> {
        let unknown = all - self.owners.len();
        let ended = words::are(unknown as u64, "ended connection");
        match (unknown, self.recordings) {
            (0, _) => None,
            (_, 0) => Some(format!(
                "{ended} of owners not known: no recording was running that this user may ask (sudo bindwatch record)"
            )),
            _ => Some(format!(
                "{ended} of owners not known: accepted here, or opened before the recording began"
            )),
        }
    }
}

/// Adds who has the sockets open, and their options. Why the options are not known, where only `/proc` can be asked.
fn find_holders(inventory: &mut Inventory) -> Result<Option<String>, TablesError> {
    if inventory.sockets.is_empty() {
        return Ok(None);
    }
    // No program of these is attached: maps that only they use are made small.
    let options = Options { ring_bytes: RING_BYTES, errno: false, only: Some(&[]), ..Options::default() };
    let descriptors = Probe::load(&options).and_then(|mut probe| probe.task_files());
    inventory.find_holders(descriptors.as_deref().ok())?;
    Ok(descriptors.err().map(|why| format!("SO_REUSEADDR and SO_REUSEPORT are not known: {why}")))
}

/// The sockets that another one may be in conflict with: on their port, of one protocol and network namespace, there is
/// another of their address, or a wildcard. The sockets are in order.
fn on_shared_ports(sockets: &[InventorySocket]) -> Vec<&InventorySocket> {
    let port = |socket: &InventorySocket| (socket.socket.netns, socket.socket.protocol, socket.socket.port);
    let holds = |socket: &&InventorySocket| {
        let at_rest = matches!(socket.state, TcpState::Listen | TcpState::Close);
        socket.socket.port != 0 && (at_rest || socket.socket.protocol != Protocol::Tcp)
    };
    let mut shared = Vec::new();
    for group in sockets.chunk_by(|a, b| port(a) == port(b)).filter(|group| group.len() > 1) {
        let group: Vec<&InventorySocket> = group.iter().filter(holds).collect();
        let address = |socket: &&InventorySocket| socket.socket.address.to_canonical();
        let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for socket in &group {
            *counts.entry(address(socket)).or_default() += 1;
        }
        let wildcard = group.len() > 1 && counts.keys().any(IpAddr::is_unspecified);
        let meets =
            |socket: &&InventorySocket| wildcard || counts.get(&address(socket)).is_some_and(|n| *n > 1);
        shared.extend(group.into_iter().filter(meets));
    }
    shared
}

/// What a ledger says of sockets that share ports. A socket without a process to be seen could be anybody's: it proves
/// nothing.
fn judge(
    rules: Rules,
    processes: Vec<Process>,
    sockets: &[InventorySocket],
    members: BTreeSet<Cookie>,
    at: BootTime,
) -> Vec<Finding> {
    if sockets.is_empty() {
        return Vec::new();
    }
    let mut ledger = Ledger::new(rules.into());
    let mut changed = Vec::new();
    let boundary = |phase| Body::Inventory(Boundary { phase, unseen: Vec::new() });
    let people = processes.into_iter().map(|process| (Hook::Proc, Body::Process(process)));
    let owned = sockets.iter().filter(|socket| !socket.holders.is_empty());
    let found = owned.map(|socket| (Hook::SockDiag, Body::Socket(socket.found())));
    let joined = members
        .into_iter()
        .map(|cookie| (Hook::Proc, Body::Option(OptionSet { cookie, setting: Setting::Multicast })));
    let begin = std::iter::once((Hook::Bindwatch, boundary(InventoryPhase::Begin)));
    let end = std::iter::once((Hook::Bindwatch, boundary(InventoryPhase::End)));
    for (seq, (hook, body)) in (1..).zip(people.chain(begin).chain(found).chain(joined).chain(end)) {
        ledger.apply(&Event { seq: Seq(seq), at, hook, body }, &mut changed);
    }
    let mut findings: Vec<Finding> = ledger.findings().collect();
    for finding in &mut findings {
        // There is no log that these numbers would be of, and one instant is no duration.
        finding.evidence.clear();
        finding.overlap = None;
    }
    findings
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;
    use crate::cli::Target;
    use crate::event::SocketFacts;
    use crate::event::{Family, Inum, NetnsCookie, Options as Set, Uid};

    fn socket(address: &str, v6_only: bool) -> InventorySocket {
        let address: IpAddr = address.parse().unwrap();
        InventorySocket {
            socket: SocketFacts {
                cookie: Cookie(1),
                netns: Inum(1),
                netns_cookie: NetnsCookie(0),
                family: if address.is_ipv4() { Family::Inet } else { Family::Inet6 },
                protocol: Protocol::Tcp,
                address,
                port: 80,
                options: Set { v6_only, ..Set::default() },
                uid: Uid(0),
            },
            reuse_known: false,
            state: TcpState::Listen,
            peer: None,
            inode: 1,
            mptcp: None,
            queued: 0,
            expires_ms: None,
            holders: Vec::new(),
        }
    }

    #[test]
    fn a_target_shows_what_takes_it_in() {
        for (target, address, v6_only, shown) in [
            ("127.0.0.1:80", "127.0.0.1", false, true),
            ("127.0.0.1:80", "::ffff:127.0.0.1", false, true),
            ("127.0.0.1:80", "0.0.0.0", false, true),
            ("127.0.0.1:80", "::", false, true),
            ("127.0.0.1:80", "::", true, false),
            ("127.0.0.1:80", "127.0.0.2", false, false),
            ("127.0.0.1:80", "::1", true, false),
            ("[::1]:80", "::", true, true),
            ("[::1]:80", "0.0.0.0", false, false),
            ("0.0.0.0:80", "0.0.0.0", false, true),
            ("0.0.0.0:80", "127.0.0.1", false, false),
            ("127.0.0.1", "0.0.0.0", false, true),
            (":81", "0.0.0.0", false, false),
            ("tcp/:80", "::1", true, true),
            ("udp/:80", "::1", true, false),
        ] {
            let asked: Target = target.parse().unwrap();
            assert_eq!(asked.takes(&socket(address, v6_only).socket), shown, "{target} {address} {v6_only}");
        }
    }

    #[test]
    fn only_sockets_that_may_conflict_are_judged() {
        let shared = |addresses: &[&str]| {
            let sockets: Vec<InventorySocket> =
                addresses.iter().map(|address| socket(address, false)).collect();
            on_shared_ports(&sockets).len()
        };
        assert_eq!(shared(&["127.0.0.1"]), 0);
        assert_eq!(shared(&["127.0.0.1", "127.0.0.2"]), 0);
        assert_eq!(shared(&["127.0.0.1", "127.0.0.2", "127.0.0.2"]), 2);
        assert_eq!(shared(&["127.0.0.1", "::ffff:127.0.0.1"]), 2);
        assert_eq!(shared(&["0.0.0.0", "127.0.0.2"]), 2);
        let mut other = socket("127.0.0.1", false);
        other.socket.port = 81;
        assert_eq!(on_shared_ports(&[socket("127.0.0.1", false), other]).len(), 0);
    }
}
