//! Sockets as `list` and `check` show them: a table in the order of ss(8), a line per answer.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;

use serde::Serialize;

use super::json::option_names;
use super::table::Table;
use super::text::Style;
use super::words::{self, endpoint, plural};
use super::{Report, escape};
use crate::cli::duration_text;
use crate::clock::Anchors;
use crate::event::{
    Ancestor, BootTime, Cookie, Inum, Options, Process, ProcessKey, Protocol, SocketFacts, TcpState, Uid,
};
use crate::ledger::finding::{HolderState, Severity};

/// Longest program with its arguments in the table, characters.
const PROGRAM_CHARS: usize = 64;
/// Longest name of a user or a device, characters.
const NAME_CHARS: usize = 32;
/// Processes of one socket that a line names; the rest are counted.
const PIDS_SHOWN: usize = 3;
/// Marks a socket that is in a finding.
const STRANGERS: &str = "!";
/// Marks a socket that has its endpoint not for itself, by what is in no finding: meant, or of processes unseen.
const SHARED: &str = "=";

/// A process that has sockets.
#[derive(Clone, Debug, PartialEq)]
pub struct Person {
    /// What is known of it.
    pub facts: Process,
    /// Its ancestors, nearest first.
    pub parents: Vec<Ancestor>,
}

/// A socket to show.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// The socket.
    pub socket: SocketFacts,
    /// Its reuse bits are known.
    pub options_known: bool,
    /// Its state.
    pub state: TcpState,
    /// The other side.
    pub peer: Option<SocketAddr>,
    /// An MPTCP socket is above it.
    pub mptcp: bool,
    /// A process must have it open, seen or not.
    pub owned: bool,
    /// Connections that wait to be accepted, or bytes to be read.
    pub queued: u32,
    /// Of a TIME_WAIT entry, for how long it stays, ms.
    pub expires_ms: Option<u32>,
    /// Who has it, by their places in [`Listing::people`]; the first is the one that is taken to have bound it.
    pub holders: Vec<usize>,
}

/// Sockets and who has them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    /// Every process that has one of the sockets, once.
    pub people: Vec<Person>,
    /// The sockets, in the order in which they are shown.
    pub sockets: Vec<Listed>,
    /// Who opened the connections that are over, by the cookies of their sockets, as far as a running recording knows.
    pub last_owners: BTreeMap<Cookie, ProcessKey>,
    /// Those of them that still run.
    pub owners_alive: BTreeMap<ProcessKey, Process>,
    /// Names of users.
    pub users: BTreeMap<Uid, String>,
    /// Names of devices of the network namespace that `bindwatch` is in.
    pub devices: BTreeMap<u32, String>,
    /// That network namespace.
    pub own_netns: Inum,
    /// Processes were hidden from the caller: a socket without one may have one.
    pub hidden: bool,
}

/// What `check` found of one thing it was asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// What was asked about.
    pub target: String,
    /// Nothing keeps a bind from it.
    pub free: bool,
    /// What does, by places in [`Listing::sockets`].
    #[serde(skip)]
    pub sockets: Vec<usize>,
}

impl Listing {
    /// The processes that have a socket.
    pub fn holders<'a>(&'a self, listed: &'a Listed) -> impl Iterator<Item = &'a Person> {
        listed.holders.iter().filter_map(|place| self.people.get(*place))
    }

    /// What is known of a process that opened connections that are over; None when it has ended too.
    #[must_use]
    pub fn last_owner(&self, owner: ProcessKey) -> Option<&Process> {
        self.owners_alive.get(&owner)
    }

    fn user(&self, uid: Uid) -> String {
        self.users
            .get(&uid)
            .map_or_else(|| uid.0.to_string(), |name| escape::cut(name, NAME_CHARS).into_owned())
    }

    fn options(&self, listed: &Listed) -> String {
        if listed.socket.options == Options::default() && !listed.mptcp {
            return String::new();
        }
        let mut shown: Vec<String> = Vec::new();
        for name in option_names(listed.socket.options) {
            if name != "SO_BINDTODEVICE" {
                shown.push(name.to_owned());
            }
        }
        let device = listed.socket.options.device.0;
        if device != 0 {
            let own = listed.socket.netns == self.own_netns;
            let name = self.devices.get(&device).filter(|_| own);
            let name =
                name.map_or_else(|| device.to_string(), |name| escape::cut(name, NAME_CHARS).into_owned());
            shown.push(format!("SO_BINDTODEVICE={name}"));
        }
        if listed.mptcp {
            shown.push("MPTCP".to_owned());
        }
        shown.join(" ")
    }
}

impl Listed {
    /// What it does, for a holder.
    #[must_use]
    pub const fn doing(&self) -> HolderState {
        match self.state {
            TcpState::Listen => HolderState::Listen,
            TcpState::Close => HolderState::Bound,
            TcpState::TimeWait => HolderState::TimeWait,
            _ => HolderState::Connected,
        }
    }

    fn state_word(&self) -> Cow<'static, str> {
        match (self.state, self.queued, self.expires_ms) {
            (TcpState::Listen, waiting @ 1.., _) => format!("listen ({waiting} waiting)").into(),
            (TcpState::TimeWait, _, Some(ms)) => format!("time-wait ({} s)", ms.div_ceil(1000)).into(),
            (state, _, _) => word(state, self.socket.protocol).into(),
        }
    }
}

/// A state by the name people know.
const fn word(state: TcpState, protocol: Protocol) -> &'static str {
    match state {
        TcpState::Established if !matches!(protocol, Protocol::Tcp) => "connected",
        TcpState::Established => "established",
        TcpState::SynSent => "syn-sent",
        TcpState::SynRecv => "syn-recv",
        TcpState::FinWait1 => "fin-wait-1",
        TcpState::FinWait2 => "fin-wait-2",
        TcpState::TimeWait => "time-wait",
        TcpState::Close => "bound",
        TcpState::CloseWait => "close-wait",
        TcpState::LastAck => "last-ack",
        TcpState::Listen => "listen",
        TcpState::Closing => "closing",
    }
}

/// Program and arguments of a process, on one line.
fn program(facts: &Process, max: usize) -> String {
    let cut = if facts.cmdline_cut { " …" } else { "" };
    let text = match facts.cmdline.split_first() {
        Some((first, rest)) => {
            // The path before the name says less than the arguments behind it.
            let name = first.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(first);
            let mut arguments = vec![name];
            arguments.extend(rest.iter().map(String::as_str));
            escape::arguments(&arguments)
        }
        None => format!("[{}]", escape::line(&facts.comm)),
    };
    format!("{}{cut}", shortened(&text, max))
}

/// At most `max` characters, the last one `…` when more are left out. `text` is escaped already.
fn shortened(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        None => text.to_owned(),
        Some(_) => text.chars().take(max.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// Writes the table, and below it what is wrong.
pub(super) fn write(report: &Report, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let mut out = BufWriter::new(out);
    let Some(listing) = &report.listing else { return Ok(()) };
    for notice in &report.notices {
        writeln!(out, "{}: {notice}", style.severity(Severity::Warning))?;
    }
    let involved: BTreeSet<Cookie> = report
        .findings
        .iter()
        .flat_map(|finding| finding.holders.iter().flat_map(|holder| holder.sockets.iter().copied()))
        .collect();
    let several =
        listing.sockets.windows(2).any(|pair| matches!(pair, [a, b] if a.socket.netns != b.socket.netns));
    let shows_peer =
        |listed: &Listed| listed.peer.is_some() && (style.whole || listed.state != TcpState::TimeWait);
    let peers = listing.sockets.iter().any(shows_peer);
    let columns = Columns { several, peers };
    let shared = shared(listing);
    let max = if style.whole { usize::MAX } else { PROGRAM_CHARS };
    let programs: Vec<String> = listing.people.iter().map(|person| program(&person.facts, max)).collect();
    let mut table = Table::default();
    columns.heads(&mut table);
    for listed in listing.sockets.iter().filter(|listed| style.whole || listed.state != TcpState::TimeWait) {
        let in_finding = involved.contains(&listed.socket.cookie);
        let mark = match (in_finding, shared.contains(&listed.socket.cookie)) {
            (true, _) => STRANGERS,
            (false, true) => SHARED,
            (false, false) => "",
        };
        columns.lines(listing, listed, mark, &programs, style, &mut table);
    }
    table.write(style, &mut out)?;
    for line in super::ended::lines(listing, several, style) {
        writeln!(out, "{line}")?;
    }
    for finding in &report.findings {
        let severity = style.severity(finding.kind.severity());
        writeln!(out, "{severity} {}: {}", finding.kind.name(), words::summary(finding, report.clock))?;
    }
    out.flush()
}

/// Which of the sockets, which are in order, are at rest on one endpoint with another.
fn shared(listing: &Listing) -> BTreeSet<Cookie> {
    let at_rest = |listed: &&Listed| matches!(listed.state, TcpState::Listen | TcpState::Close);
    let endpoint = |listed: &Listed| {
        let socket = &listed.socket;
        (socket.netns, socket.protocol, socket.port, socket.address)
    };
    let groups = listing.sockets.chunk_by(|a, b| endpoint(a) == endpoint(b)).filter(|group| group.len() > 1);
    let several =
        groups.map(|group| group.iter().filter(at_rest)).filter(|group| group.clone().nth(1).is_some());
    several.flatten().map(|listed| listed.socket.cookie).collect()
}

/// Which columns the table has.
#[derive(Clone, Copy)]
struct Columns {
    several: bool,
    peers: bool,
}

impl Columns {
    fn heads(self, table: &mut Table) {
        for (head, shown) in [
            ("PROTO", true),
            ("LOCAL", true),
            ("PEER", self.peers),
            ("STATE", true),
            ("NETNS", self.several),
            ("USER", true),
            ("PID", true),
            ("PROGRAM", true),
            ("OPTIONS", true),
        ] {
            if shown {
                table.cell(head);
            }
        }
        table.end_line(false);
    }

    /// A socket: one line, or one for each holder where nothing is to be cut.
    fn lines(
        self,
        listing: &Listing,
        listed: &Listed,
        mark: &str,
        programs: &[String],
        style: Style,
        table: &mut Table,
    ) {
        let socket = &listed.socket;
        let mut line = |uid: Uid, pids: &[usize], more: usize, program: &str| {
            table.part(socket.protocol.name()).cell(mark);
            table.endpoint(SocketAddr::new(socket.address, socket.port)).end_cell();
            if self.peers {
                if let Some(peer) = listed.peer {
                    table.endpoint(peer);
                }
                table.end_cell();
            }
            table.cell(&listed.state_word());
            if self.several {
                table.number(socket.netns.0).end_cell();
            }
            match listing.users.get(&uid) {
                Some(name) => table.cell(&escape::cut(name, NAME_CHARS)),
                None => table.number(uid.0).end_cell(),
            }
            let pids = pids.iter().filter_map(|place| listing.people.get(*place));
            for (at, person) in pids.enumerate() {
                if at > 0 {
                    table.part(",");
                }
                table.number(person.facts.process.tgid);
            }
            if more > 0 {
                table.part(",+").number(more);
            }
            if listed.holders.is_empty() {
                table.part("-");
            }
            table.end_cell();
            table.cell(program);
            table.cell(&listing.options(listed));
            table.end_line(mark == STRANGERS);
        };
        let person = |place: usize| {
            let uid = listing.people.get(place).map_or(socket.uid, |person| person.facts.uid);
            (uid, programs.get(place).map_or("", String::as_str))
        };
        let Some(first) = listed.holders.first() else {
            return line(socket.uid, &[], 0, nobody(listing, listed));
        };
        if style.whole {
            for place in &listed.holders {
                let (uid, program) = person(*place);
                line(uid, &[*place], 0, program);
            }
            return;
        }
        // One more by its number is shorter than "+1".
        let all = listed.holders.as_slice();
        let named = if all.len() == PIDS_SHOWN + 1 { all } else { all.get(..PIDS_SHOWN).unwrap_or(all) };
        let (uid, program) = person(*first);
        line(uid, named, all.len() - named.len(), program);
    }
}

/// Why no process is shown.
const fn nobody(listing: &Listing, listed: &Listed) -> &'static str {
    match (listed.owned, listing.hidden) {
        // TIME_WAIT, or closed by its process and not by the other side.
        (false, _) => "-",
        (true, true) => "?",
        // In flight over a unix socket, in an io_uring, or the kernel's own.
        (true, false) => "(no process)",
    }
}

/// Writes what `check` found: a line for each thing it was asked about, and below it what is there.
pub(super) fn write_answers(report: &Report, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let mut out = BufWriter::new(out);
    let (Some(listing), Some(answers)) = (&report.listing, &report.targets) else { return Ok(()) };
    for notice in &report.notices {
        writeln!(out, "{}: {notice}", style.severity(Severity::Warning))?;
    }
    for answer in answers {
        let target = escape::line(&answer.target);
        if answer.free {
            writeln!(out, "{target} is free")?;
            continue;
        }
        writeln!(out, "{target} is held")?;
        let sockets: Vec<&Listed> =
            answer.sockets.iter().filter_map(|place| listing.sockets.get(*place)).collect();
        for line in held_lines(listing, &sockets, report.clock, report.window.end, style) {
            writeln!(out, "  {line}")?;
        }
    }
    out.flush()
}

/// What keeps a bind from an endpoint, a line each; connections of one kind are counted.
fn held_lines(
    listing: &Listing,
    sockets: &[&Listed],
    clock: Anchors,
    now: BootTime,
    style: Style,
) -> Vec<String> {
    let mut lines = Vec::new();
    let mut connections: BTreeMap<String, (u64, u32)> = BTreeMap::new();
    for listed in sockets {
        let socket = &listed.socket;
        let place = format!("{} {}", socket.protocol, endpoint(socket.address, socket.port));
        if !matches!(listed.state, TcpState::Listen | TcpState::Close) && socket.protocol == Protocol::Tcp {
            let whose = whose(listing, listed, clock, now, style);
            let key = format!("{} on {place}, {whose}", word(listed.state, socket.protocol));
            let known = connections.entry(key).or_default();
            known.0 += 1;
            known.1 = known.1.max(listed.expires_ms.unwrap_or(0));
            continue;
        }
        let options = listing.options(listed);
        let options = if options.is_empty() { options } else { format!(", {options}") };
        lines.push(format!(
            "{place} {}{options}, {}",
            listed.state_word(),
            whose(listing, listed, clock, now, style)
        ));
    }
    lines.extend(connections.into_iter().map(|(key, (count, expires_ms))| match expires_ms {
        0 => format!("{} {key}", plural(count, "connection")),
        ms => format!("{} {key}, {} s more at most", plural(count, "connection"), ms.div_ceil(1000)),
    }));
    lines
}

/// By whom, and since when.
fn whose(listing: &Listing, listed: &Listed, clock: Anchors, now: BootTime, style: Style) -> String {
    let people: Vec<&Person> = listing.holders(listed).collect();
    let Some((first, rest)) = people.split_first() else {
        let user = listing.user(listed.socket.uid);
        return match (listed.owned, listing.hidden) {
            (false, _) => "of no process any more".to_owned(),
            (true, true) => format!("by a process of user {user} that you may not see (run as root)"),
            (true, false) => format!("by user {user}, in no process that can be found"),
        };
    };
    let facts = &first.facts;
    let others = match rest.len() {
        0 => String::new(),
        _ if style.whole => {
            let pids: Vec<String> = rest.iter().map(|person| person.facts.process.tgid.to_string()).collect();
            format!(" and PID {}", pids.join(", "))
        }
        more => format!(" and {}", plural(more as u64, "other")),
    };
    let max = if style.whole { usize::MAX } else { PROGRAM_CHARS };
    format!(
        "by {} (PID {}{others}, user {}), which started {} ({} ago): {}",
        words::name(&facts.comm),
        facts.process.tgid,
        listing.user(facts.uid),
        clock.rfc3339(facts.process.started()),
        duration_text(now.since(facts.process.started())),
        program(facts, max),
    )
}
