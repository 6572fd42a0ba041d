//! Events as text: one line an event, processes and sockets by name.
//!
//! ```text
//! proc A exe=/bin/a args=-u,app.py parent=P uid=5 session=7 cgroup=/ci/1    known, root of a lineage
//!                                     mark=3 NODE_UNIQUE_ID, mark=? when it could not be read
//! fork B of=A                                                             a copy of A, of its lineage
//! exec B exe=/bin/b                                                       known again, a lineage of its own;
//!                                     parent=- without its parent, `nameless` by no more than its name
//! bind A s tcp 127.0.0.1:80 rp ra v6only dev=2 owner=5 ns=7                bound to s; asked=0 for any port
//! accepted s n=3                                                           connections so far
//! listen s            unlisten s backlog=1      close s state=established backlog=1      gone s
//! found s tcp 127.0.0.1:80 listen A,B rp                                   of an inventory
//! set s rp=1          set s dev=3               set s multicast
//! holders s A,B       exit A                    signal A
//! refuse C s tcp 127.0.0.1:80 rp                bind() that failed; listen-refuse: listen(); errno=EACCES
//! row LABEL s tcp 127.0.0.1:80 time-wait A,B last=C peer=10.0.0.1:80 outgoing   for the failure labelled by as=LABEL
//! now s tcp 127.0.0.1:0 by=A state=listen           what a socket is now, without a bind
//! unended C s tcp 127.0.0.1:80                     a 32-bit bind that got no port
//! no-port C tcp 10.0.0.1:80 errno=EAGAIN        connect() that failed; on=s: of a socket that is bound
//! range 40000 40009 reserved=40005              ports that the kernel chooses from
//! ports LABEL 10/10 A,1,9,listen B!,0,2 rest=3  for the failure labelled: used of all, process (! ended), sockets,
//!                                               TIME_WAIT, state of one
//! inventory begin|end unseen=x        lost bind=3        job start|end /ci/1 first=A left=A,B
//! ```
//! A line that begins with `@120` happens 120 ms after boot; the others 1 ms after the line before them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::super::finding::{Finding, FindingId, Holder, HolderState, Kind, Receives};
use super::super::{Ledger, Settings};
use crate::event::{
    Accepted, Bind, BindFailed, Body, BootTime, CgroupRemoved, Changed, Close, ConnectFailed, Cookie, Door,
    Errno, Event, Exit, Family, Found, Gone, Holders, Hook, Ifindex, Inum, Inventory, InventoryPhase, Job,
    JobPhase, Known, Listen, ListenFailed, Lost, Mark, NetnsCookie, OptionSet, Options, PortRange, PortUse,
    PortUser, Process, ProcessKey, Protocol, Rest, Seq, Setting, Signal, SocketFacts, TableRow, TcpState,
    Tid, Uid, Unlisten, Unresolved,
};

const MS: u64 = 1_000_000;

/// A ledger that is told a story, checked after every line.
pub(super) struct Story {
    pub(super) ledger: Ledger,
    pub(super) seq: u64,
    at: u64,
    processes: BTreeMap<String, Process>,
    sockets: BTreeMap<String, SocketFacts>,
    labels: BTreeMap<String, Seq>,
    /// As they stood before the event at hand.
    before: BTreeMap<FindingId, Finding>,
}

/// The words of a line behind its verb.
struct Words<'a>(Vec<&'a str>);

impl<'a> Words<'a> {
    fn take(&mut self) -> &'a str {
        assert!(!self.0.is_empty(), "a word is missing");
        self.0.remove(0)
    }

    fn flag(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|word| *word != name);
        self.0.len() != before
    }

    fn value(&mut self, name: &str) -> Option<&'a str> {
        let prefix = format!("{name}=");
        let at = self.0.iter().position(|word| word.starts_with(&prefix))?;
        self.0.remove(at).split_once('=').map(|(_, value)| value)
    }

    fn number<N: std::str::FromStr<Err: std::fmt::Debug>>(&mut self, name: &str) -> Option<N> {
        self.value(name).map(|text| text.parse().unwrap())
    }

    fn end(&self) {
        assert!(self.0.is_empty(), "left over: {:?}", self.0);
    }
}

impl Story {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            ledger: Ledger::new(settings),
            seq: 0,
            at: 1_000 * MS,
            processes: BTreeMap::new(),
            sockets: BTreeMap::new(),
            labels: BTreeMap::new(),
            before: BTreeMap::new(),
        }
    }

    pub(super) fn tell(&mut self, text: &str) {
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let body = self.parse(line);
            self.apply(body, line);
        }
    }

    /// A millisecond passes.
    pub(super) fn tick(&mut self) {
        self.at += MS;
    }

    /// The event that a line tells of.
    pub(super) fn parse(&mut self, line: &str) -> Body {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        self.tick();
        if let Some(at) = words[0].strip_prefix('@') {
            self.at = at.parse::<u64>().unwrap() * MS;
            words.remove(0);
        }
        let verb = words.remove(0);
        self.body(verb, &mut Words(words))
    }

    /// Applies an event, and holds what the ledger says has changed against what has.
    pub(super) fn apply(&mut self, body: Body, line: &str) {
        self.seq += 1;
        // After the port was found, as on any kernel that can.
        let hook = if matches!(body, Body::Denied(_)) { Hook::GuardBind4 } else { Hook::Bindwatch };
        let event = Event { seq: Seq(self.seq), at: BootTime(self.at), hook, body };
        let mut changed = Vec::new();
        self.ledger.apply(&event, &mut changed);
        if let Err(why) = self.ledger.check_invariants() {
            panic!("after event {} ({line}): {why}; findings: {:#?}", self.seq, self.findings());
        }
        let after: BTreeMap<FindingId, Finding> =
            self.ledger.findings().map(|finding| (finding.id, still(finding))).collect();
        let ids = self.before.keys().chain(after.keys()).copied();
        let mut differ: Vec<FindingId> = ids.filter(|id| self.before.get(id) != after.get(id)).collect();
        differ.sort_unstable();
        differ.dedup();
        assert_eq!(changed, differ, "findings changed by event {} ({line})", self.seq);
        self.before = after;
    }

    fn body(&mut self, verb: &str, words: &mut Words<'_>) -> Body {
        let body = match verb {
            "proc" | "fork" | "exec" => self.process(verb, words),
            "exit" => Body::Exit(Exit { process: self.key(words.take()) }),
            "signal" => Body::Signal(Signal { process: self.key(words.take()), sender: None, signal: 15 }),
            "bind" => {
                let process = self.key(words.take());
                let socket = self.facts(words);
                let (comm, requested_port) = (String::new(), words.number("asked").unwrap_or(socket.port));
                Body::Bind(Bind { process, tid: Tid(1), comm, socket, requested_port, door: Door::Syscall })
            }
            "refuse" => {
                let (process, errno) = (self.key(words.take()), errno(words, Errno::EADDRINUSE));
                self.label(words);
                let socket = self.facts(words);
                let comm = "victim".to_owned();
                Body::BindFailed(BindFailed {
                    process,
                    tid: Tid(1),
                    comm,
                    socket,
                    errno,
                    door: Door::Syscall,
                })
            }
            "listen-refuse" => {
                let (process, errno) = (self.key(words.take()), errno(words, Errno::EADDRINUSE));
                self.label(words);
                let socket = self.sockets[words.take()].clone();
                Body::ListenFailed(ListenFailed { process, comm: "victim".to_owned(), socket, errno })
            }
            "no-port" => {
                let (process, errno) = (self.key(words.take()), errno(words, Errno::EADDRNOTAVAIL));
                self.label(words);
                let known = words.value("on").map(|name| self.sockets[name].cookie);
                let protocol = protocol(words.take());
                let to: SocketAddr = words.take().parse().unwrap();
                Body::ConnectFailed(ConnectFailed {
                    process,
                    comm: "victim".to_owned(),
                    cookie: known.unwrap_or(Cookie(999)),
                    netns: Inum(words.number("ns").unwrap_or(1)),
                    protocol,
                    destination: to.ip(),
                    destination_port: to.port(),
                    errno,
                })
            }
            "listen" => {
                let process =
                    words.value("by").map_or(ProcessKey { tgid: 1, start: 1 }, |name| self.key(name));
                let socket =
                    if words.0.len() > 1 { self.facts(words) } else { self.sockets[words.take()].clone() };
                Body::Listen(Listen { process, socket })
            }
            "accepted" => {
                let connections = u64::from(words.number::<u32>("n").unwrap_or(0));
                Body::Accepted(Accepted { cookie: self.cookie(words), connections })
            }
            "unlisten" => {
                let backlog = words.number("backlog").unwrap_or(0);
                Body::Unlisten(Unlisten { cookie: self.cookie(words), backlog })
            }
            "close" => {
                let state = words.value("state").map_or(TcpState::Close, state);
                let backlog = words.number("backlog").unwrap_or(0);
                Body::Close(Close { cookie: self.cookie(words), state, backlog })
            }
            "now" => {
                let process = words.value("by").map(|name| self.key(name));
                let state = words.value("state").map_or(TcpState::Close, state);
                Body::Changed(Changed { process, socket: self.facts(words), state })
            }
            "unended" => {
                let process = self.key(words.take());
                let (socket, comm) = (self.facts(words), "victim".to_owned());
                Body::Unresolved(Unresolved { process, socket, comm, door: Door::Compat })
            }
            "gone" => Body::Gone(Gone { cookie: self.cookie(words) }),
            "set" => {
                let on = |value: &str| value == "1";
                let setting = if words.flag("multicast") {
                    Setting::Multicast
                } else if let Some(value) = words.value("rp") {
                    Setting::ReusePort(on(value))
                } else if let Some(value) = words.value("ra") {
                    Setting::ReuseAddr(on(value))
                } else {
                    Setting::Device(Ifindex(words.number("dev").unwrap()))
                };
                let cookie = self.cookie(words);
                let options =
                    self.sockets.values_mut().find(|socket| socket.cookie == cookie).map(|s| &mut s.options);
                match (setting, options) {
                    (Setting::ReusePort(on), Some(options)) => options.reuse_port = on,
                    (Setting::ReuseAddr(on), Some(options)) => options.reuse_addr = on,
                    (Setting::Device(device), Some(options)) => options.device = device,
                    _ => {}
                }
                Body::Option(OptionSet { cookie, setting })
            }
            "holders" => {
                let cookie = self.cookie(words);
                let processes = if words.0.is_empty() { Vec::new() } else { self.keys(words.take()) };
                Body::Holders(Holders { cookie, processes })
            }
            "found" => {
                let (name, protocol, endpoint, state_) =
                    (words.take(), words.take(), words.take(), words.take());
                let holders = words
                    .0
                    .first()
                    .is_some_and(|word| self.processes.contains_key(word.split(',').next().unwrap()));
                let holders = if holders { self.keys(words.take()) } else { Vec::new() };
                words.0.splice(0..0, [name, protocol, endpoint]);
                Body::Socket(Found { socket: self.facts(words), state: state(state_), holders })
            }
            "row" => {
                let asked_by = self.labels[words.take()];
                let last_owner = words.value("last").map(|name| self.key(name));
                let outgoing = words.flag("outgoing");
                let peer = words.value("peer").map(|peer| peer.parse().unwrap());
                let (name, protocol, endpoint, state_) =
                    (words.take(), words.take(), words.take(), words.take());
                let holders = words
                    .0
                    .first()
                    .is_some_and(|word| self.processes.contains_key(word.split(',').next().unwrap()));
                let holders = if holders { self.keys(words.take()) } else { Vec::new() };
                words.0.splice(0..0, [name, protocol, endpoint]);
                let socket = self.facts(words);
                Body::Table(TableRow {
                    asked_by,
                    socket,
                    state: state(state_),
                    peer,
                    holders,
                    last_owner,
                    outgoing,
                })
            }
            "range" => Body::PortRange(PortRange {
                netns: Inum(words.number("ns").unwrap_or(1)),
                low: words.take().parse().unwrap(),
                high: words.take().parse().unwrap(),
                reserved: words.number("reserved").map(|port| (port, port)).into_iter().collect(),
            }),
            "ports" => {
                let asked_by = self.labels[words.take()];
                let (used, ports) = words.take().split_once('/').unwrap();
                let rest = Rest { sockets: 0, time_wait: words.number("rest").unwrap_or(0) };
                let users = words.0.drain(..).map(|word| {
                    let (name, sockets, time_wait, state) = match word.split(',').collect::<Vec<_>>()[..] {
                        [name, sockets, time_wait] => (name, sockets, time_wait, None),
                        [name, sockets, time_wait, "listen"] => {
                            (name, sockets, time_wait, Some(TcpState::Listen))
                        }
                        [name, sockets, time_wait, "connected"] => {
                            (name, sockets, time_wait, Some(TcpState::Established))
                        }
                        _ => panic!("{word}: NAME,SOCKETS,TIME_WAIT[,listen|,connected]"),
                    };
                    let process = self.processes.get(&name[..1]).unwrap().process;
                    let (sockets, time_wait) = (sockets.parse().unwrap(), time_wait.parse().unwrap());
                    let (cookie, address) = (Cookie(700 + u64::from(process.tgid)), [127, 0, 0, 1].into());
                    let ended = name.len() > 1;
                    PortUser { process, ended, sockets, time_wait, cookie, address, port: 40_000, state }
                });
                let users = users.collect();
                let (ports, used) = (ports.parse().unwrap(), used.parse().unwrap());
                let (netns, protocol) = (Inum(1), Protocol::Tcp);
                Body::PortUse(PortUse { asked_by, netns, protocol, ports, used, users, rest })
            }
            "inventory" => {
                let unseen = words.value("unseen").map(str::to_owned).into_iter().collect();
                let phase = if words.take() == "begin" { InventoryPhase::Begin } else { InventoryPhase::End };
                Body::Inventory(Inventory { phase, unseen })
            }
            "lost" => {
                let counts = words.0.drain(..).map(|word| word.split_once('=').unwrap());
                Body::Lost(Lost {
                    counts: counts.map(|(kind, n)| (kind.to_owned(), n.parse().unwrap())).collect(),
                })
            }
            "rmdir" => Body::CgroupRemoved(CgroupRemoved { id: 9, path: words.take().to_owned() }),
            "job" => {
                let process = words.value("first").map(|name| self.key(name));
                let left = words.value("left").map_or(Vec::new(), |names| self.keys(names));
                let phase = if words.take() == "start" { JobPhase::Start } else { JobPhase::End };
                let (name, cgroup) = ("job".to_owned(), words.take().to_owned());
                Body::Job(Job { phase, name, cgroup, process, status: None, left })
            }
            _ => panic!("unknown verb {verb}"),
        };
        words.end();
        body
    }

    fn process(&mut self, verb: &str, words: &mut Words<'_>) -> Body {
        let name = words.take();
        let number = self.processes.len() as u32 + 1;
        let mut process = match (verb, self.processes.get(name)) {
            ("exec", Some(known)) => Process { lineage: known.process, known: Known::Exec, ..known.clone() },
            (_, known) => {
                let new = ProcessKey { tgid: 100 + number, start: 10 + u64::from(number) };
                let key = known.map_or(new, |known| known.process);
                Process {
                    comm: name.to_lowercase(),
                    exe: format!("/bin/{}", name.to_lowercase()),
                    ..Process::new(key, Known::Exec)
                }
            }
        };
        if verb == "fork" {
            let parent = self.processes[words.value("of").unwrap()].clone();
            process = Process {
                process: process.process,
                parent: Some(parent.process),
                known: Known::Fork,
                ..parent
            };
        }
        if let Some(parent) = words.value("parent") {
            process.parent = (parent != "-").then(|| self.key(parent));
        }
        if words.flag("nameless") {
            process.known = Known::Name;
        }
        if let Some(exe) = words.value("exe") {
            exe.clone_into(&mut process.exe);
        }
        if let Some(args) = words.value("args") {
            process.cmdline = std::iter::once("argv0").chain(args.split(',')).map(str::to_owned).collect();
        }
        if let Some(cgroup) = words.value("cgroup") {
            cgroup.clone_into(&mut process.cgroup);
        }
        if let Some(mark) = words.value("mark") {
            process.mark = Some(mark.parse().map_or(Mark::Unknown, Mark::NodeCluster));
        }
        process.uid = words.number("uid").map_or(process.uid, Uid);
        process.session = words.number("session").unwrap_or(process.session);
        self.processes.insert(name.to_owned(), process.clone());
        Body::Process(process)
    }

    /// `NAME PROTOCOL ADDRESS:PORT options…`
    fn facts(&mut self, words: &mut Words<'_>) -> SocketFacts {
        let (name, protocol) = (words.take(), protocol(words.take()));
        let endpoint: SocketAddr = words.take().parse().unwrap();
        let cookie =
            self.sockets.get(name).map_or(Cookie(self.sockets.len() as u64 + 1), |known| known.cookie);
        let facts = SocketFacts {
            cookie,
            netns: Inum(words.number("ns").unwrap_or(1)),
            netns_cookie: NetnsCookie(1),
            family: if endpoint.is_ipv4() { Family::Inet } else { Family::Inet6 },
            protocol,
            address: endpoint.ip(),
            port: endpoint.port(),
            options: Options {
                reuse_addr: words.flag("ra"),
                reuse_port: words.flag("rp"),
                v6_only: words.flag("v6only"),
                device: Ifindex(words.number("dev").unwrap_or(0)),
            },
            uid: Uid(words.number("owner").unwrap_or(0)),
        };
        self.sockets.insert(name.to_owned(), facts.clone());
        facts
    }

    fn label(&mut self, words: &mut Words<'_>) {
        if let Some(label) = words.value("as") {
            self.labels.insert(label.to_owned(), Seq(self.seq + 1));
        }
    }

    pub(super) fn key(&self, name: &str) -> ProcessKey {
        self.processes.get(name).unwrap_or_else(|| panic!("no process {name}")).process
    }

    fn keys(&self, names: &str) -> Vec<ProcessKey> {
        names.split(',').map(|name| self.key(name)).collect()
    }

    fn cookie(&self, words: &mut Words<'_>) -> Cookie {
        self.socket(words.take())
    }

    pub(super) fn socket(&self, name: &str) -> Cookie {
        self.sockets.get(name).unwrap_or_else(|| panic!("no socket {name}")).cookie
    }

    pub(super) fn name(&self, key: ProcessKey) -> &str {
        self.processes.iter().find(|(_, process)| process.process == key).map_or("?", |(name, _)| name)
    }

    /// The findings, one a line.
    pub(super) fn findings(&self) -> Vec<String> {
        self.ledger.findings().map(|finding| self.finding(&finding)).collect()
    }

    /// `KIND PROTOCOL ADDRESS:PORT HOLDER[sockets state]… and what else there is`
    fn finding(&self, finding: &Finding) -> String {
        let address = SocketAddr::new(finding.address, finding.port);
        let mut text = format!("{} {} {address}", finding.kind.name(), finding.protocol);
        if finding.live {
            text += " live";
        }
        for holder in &finding.holders {
            text += &format!(" {}", self.holder(holder));
        }
        match finding.receives {
            Some(Receives::Split) => text += " -> split",
            Some(Receives::One(lineage)) => text += &format!(" -> {}", self.name(lineage)),
            None => {}
        }
        if let Some(victim) = &finding.victim {
            text += &format!(" victim={}", self.name(victim.holder.process));
            if victim.call != "bind" {
                text += &format!("/{}", victim.call);
            }
        }
        if let Some(cause) = finding.cause {
            text += &format!(" {}", kebab(&format!("{cause:?}")));
        }
        if let Some(owner) = &finding.last_owner {
            text += &format!(" last={}", self.holder(owner));
        }
        if let Some(range) = finding.range {
            text += &format!(" range={}-{}", range.low, range.high);
            if let Some(used) = range.used {
                text += &format!(" used={used}/{}", range.ports);
            }
        }
        for user in &finding.users {
            let ended = if user.ended { " ended" } else { "" };
            text += &format!(" user={}({}+{}{ended})", self.name(user.process), user.sockets, user.time_wait);
        }
        if finding.others != Rest::default() {
            text += &format!(" others={}+{}", finding.others.sockets, finding.others.time_wait);
        }
        if let Some(to) = finding.destination {
            text += &format!(" to={to}");
        }
        if finding.count != 1 {
            text += &format!(" x{}", finding.count);
        }
        if finding.uncertain {
            text += " uncertain";
        }
        assert!(
            finding.overlap.is_some() == matches!(finding.kind, Kind::CoBind | Kind::Handover | Kind::Shadow)
        );
        if let Some(overlap) = finding.overlap {
            text += &format!(" {}ms", overlap / MS);
        }
        text
    }

    fn holder(&self, holder: &Holder) -> String {
        let from = holder.inherited_from.map_or(String::new(), |from| format!("<{}", self.name(from)));
        let name = |cookie: &Cookie| {
            let socket = self.sockets.iter().find(|(_, socket)| socket.cookie == *cookie);
            socket.map_or("?".to_owned(), |(name, _)| name.clone())
        };
        let sockets: Vec<String> = holder.sockets.iter().map(name).collect();
        assert_eq!(holder.sockets.first(), Some(&holder.socket_cookie));
        let state = kebab(&format!("{:?}", holder.state));
        let released = holder.released_at.is_some() && holder.state != HolderState::Closed;
        let released = if released { " released" } else { "" };
        format!("{}{from}[{} {state}{released}]", self.name(holder.process), sockets.join(","))
    }
}

/// Without what only time changes.
fn still(mut finding: Finding) -> Finding {
    if finding.live {
        finding.last_seen = BootTime(0);
        finding.overlap = finding.overlap.map(|_| 0);
    }
    finding
}

fn kebab(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !text.is_empty() {
            text.push('-');
        }
        text.extend(letter.to_lowercase());
    }
    text
}

fn protocol(word: &str) -> Protocol {
    match word {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "udplite" => Protocol::Udplite,
        _ => panic!("unknown protocol {word}"),
    }
}

fn state(word: &str) -> TcpState {
    let states = [
        TcpState::Established,
        TcpState::SynSent,
        TcpState::FinWait1,
        TcpState::FinWait2,
        TcpState::TimeWait,
        TcpState::Close,
        TcpState::CloseWait,
        TcpState::LastAck,
        TcpState::Listen,
        TcpState::Closing,
    ];
    states
        .into_iter()
        .find(|state| kebab(&format!("{state:?}")) == word)
        .unwrap_or_else(|| panic!("no state {word}"))
}

fn errno(words: &mut Words<'_>, usual: Errno) -> Errno {
    match words.value("errno") {
        None => usual,
        Some("EAGAIN") => Errno::EAGAIN,
        Some("EACCES") => Errno::EACCES,
        Some("EADDRNOTAVAIL") => Errno::EADDRNOTAVAIL,
        Some(other) => panic!("unknown errno {other}"),
    }
}

/// Tells a story and compares what is found at its end. Lines of `expected` in order; none for no finding.
#[track_caller]
pub(super) fn check(story: &str, expected: &str) {
    check_with(Settings::default(), story, expected);
}

/// The same with settings.
#[track_caller]
pub(super) fn check_with(settings: Settings, story: &str, expected: &str) {
    let mut told = Story::new(settings);
    told.tell(story);
    let expected: Vec<&str> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(told.findings(), expected, "{story}");
}
