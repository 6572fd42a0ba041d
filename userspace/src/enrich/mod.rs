//! From the probe's records to events: names for processes, and what has to be looked up because of an event.
//!
//! Everything the ledger will ever know goes through here and comes out as an event, so that a replay needs neither
//! `/proc` nor the kernel. Look-ups are made through [`Lookups`]; tests give their own.

mod budget;
mod crowd;
mod guard;
mod held;
mod later;
mod listeners;
mod names;
mod ports;
mod processes;
mod sockets;
mod stopping;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub use crowd::{CROWDS_PER_SECOND, Neighbour};
pub use held::{BESIDE_MAX, LISTINGS_PER_SECOND, Open};
pub use later::ACCEPTED_TOLD_MAX;
pub(crate) use later::{AGAIN_NS, LOOK_NS};
pub use names::Names;
pub use ports::{SURVEY_AGAIN_NS, SURVEYED_MIN, SURVEYED_PER_SECOND, USERS_MAX};
pub use processes::Processes;

use crate::cgroup2;
use crate::event::{
    Bind, BindFailed, Body, BootTime, CgroupRemoved, Close, ConnectFailed, Cookie, Door, Errno, Exit, Gone,
    Holders, Hook, Ifindex, Inum, Limit, Listen, ListenFailed, OptionSet, PortRange, ProcessKey, Protocol,
    Seq, Setting, Signal, SocketFacts, TableRow, TcpState, Unlisten,
};
use crate::ledger::conflict;
use crate::wire::{Call, Record, SetOption, Small, Stamped};
use budget::Budget;
use later::{Begun, Later};
use listeners::Listeners;
use ports::{Ports, Want};
use sockets::Sockets;
use stopping::Stopping;

/// A fact that has no place in the order yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// When.
    pub at: BootTime,
    /// What saw it.
    pub hook: Hook,
    /// What.
    pub body: Body,
}

/// What the kernel's tables have on a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRow {
    /// The socket; for TIME_WAIT the cookie of the one it was.
    pub socket: SocketFacts,
    /// Its state.
    pub state: TcpState,
    /// The other side.
    pub peer: Option<std::net::SocketAddr>,
    /// Who has it open.
    pub holders: Vec<ProcessKey>,
}

/// Questions to the running system.
pub trait Lookups {
    /// The rows of the kernel's tables with this local port, with who has them at `since` or later, and the instant of which
    /// all that is true: not before `since`. None when it cannot be had.
    fn on_port(&mut self, port: (Inum, Protocol, u16), since: BootTime) -> Option<(BootTime, Vec<PortRow>)>;
    /// Who has these sockets open now; None when that cannot be had. A socket that nobody has is left out.
    fn holders(&mut self, cookies: &BTreeSet<Cookie>) -> Option<Open>;
    /// What these sockets are now. One that nobody has open is left out.
    fn now(&mut self, cookies: &BTreeSet<Cookie>) -> Vec<(SocketFacts, TcpState)>;
    /// How many connections came to this listener, where they are counted; the last time it is asked for, when it is closed.
    fn accepted(&mut self, listener: Cookie, closed: bool) -> Option<u64>;
    /// Every open socket with who has it, and when that was; None when it cannot be had.
    fn open_sockets(&mut self) -> Option<(BootTime, Open)>;
    /// Every socket at rest on a port, of which the probe tells from now on; None when they cannot be had.
    fn crowd(&mut self, netns: Inum, protocol: Protocol, port: u16) -> Option<Vec<Neighbour>>;
    /// What was looked at says nothing about what comes from now on.
    fn forget_looks(&mut self) {}
    /// Nothing more needs to be told of a socket, unless it meets another.
    fn ignore(&mut self, cookie: Cookie);
    /// Who opened the connection that had this cookie.
    fn opener(&mut self, cookie: Cookie) -> Option<ProcessKey>;
    /// Every row of the kernel's tables of a protocol in a network namespace, with who has it at `since` or later; None when it
    /// cannot be had.
    fn table(&mut self, netns: Inum, protocol: Protocol, since: BootTime) -> Option<Vec<PortRow>>;
    /// The ports that the kernel chooses from in a network namespace; None when it is gone.
    fn range(&mut self, netns: Inum) -> Option<PortRange>;
}

/// Refused binds whose port is looked up, a second. More are told without; `table-lookups` says so.
pub const LOOKUPS_PER_SECOND: u32 = 200;
/// Rows of one answer that are told: those that say most about why a bind is refused. A port can have thousands of
/// TIME_WAIT entries; `table-rows` says when some were left out.
pub const TABLE_ROWS_MAX: usize = 16;
/// How long a socket may be without a living holder before its holder is looked up, ns: an exiting process closes
/// its descriptors right after its end is told.
pub const UNHELD_NS: u64 = 20_000_000;
/// Longest time between two looks, ns, while the only holder found is a process that is still exiting: from Linux 6.16
/// its end is told before its memory is freed, and its descriptors are closed after that.
pub const UNHELD_MAX_NS: u64 = 1_000_000_000;

/// Rows of connections kept until their close comes, rows.
const SEEN_OVER_MAX: usize = 4096;

const SECOND_NS: u64 = 1_000_000_000;

/// Makes events of records.
pub struct Enricher<L> {
    processes: Processes,
    sockets: Sockets,
    later: Later,
    stopping: Stopping,
    listing: held::Listing,
    /// Where only conflicts are told.
    crowd: Option<crowd::Crowd>,
    cgroups: cgroup2::Paths,
    listeners: Listeners,
    ports: Ports,
    /// Rows of connections that nobody had any more when they were looked at, by the cookie and the failed call: their close may be still to come.
    seen_over: BTreeMap<(Cookie, Seq), TableRow>,
    lookups: L,
    budget: Budget,
}

impl<L: Lookups> Enricher<L> {
    /// With the processes that exist, from a scan, and the cgroup2 hierarchy.
    #[must_use]
    pub fn new(processes: Processes, cgroups: cgroup2::Paths, lookups: L) -> Self {
        Self {
            processes,
            sockets: Sockets::default(),
            stopping: Stopping::default(),
            listing: held::Listing::default(),
            crowd: None,
            later: Later::default(),
            cgroups,
            listeners: Listeners::default(),
            ports: Ports::default(),
            seen_over: BTreeMap::new(),
            lookups,
            budget: Budget::default(),
        }
    }

    /// The look-ups, for what is asked outside of records.
    pub const fn lookups(&mut self) -> &mut L {
        &mut self.lookups
    }

    /// Takes a record and appends what it means. `next` is the number that the first appended fact will get.
    pub fn record(&mut self, stamped: Stamped, next: Seq, facts: &mut Vec<Fact>) {
        let begin = facts.len();
        if !self.is_of_interest(&stamped, facts) {
            return;
        }
        let Stamped { at, hook, record, .. } = stamped;
        self.stopping.next(&record, at, facts);
        let mut push = |body| facts.push(Fact { at, hook, body });
        match record {
            Record::Bind(call) => {
                self.processes.publish(call.task.process, Some(&call.task), &mut self.cgroups, at, facts);
                self.meet(&call.socket, call.task.process, at, facts);
                self.sockets.held(&call.socket, call.task.process);
                self.later.bound(call.task.tid);
                let cookie = call.socket.cookie;
                facts.push(Fact { at, hook, body: Body::Bind(bind(call)) });
                if let Some(hook) = self.later.had_joined(cookie) {
                    let option = OptionSet { cookie, setting: Setting::Multicast };
                    facts.push(Fact { at, hook, body: Body::Option(option) });
                }
            }
            Record::BindFailed(call) | Record::Unresolved(call)
                if self.later.was_denied(call.task.tid, call.socket.cookie)
                    && matches!(call.errno, Errno::EPERM | Errno::UNKNOWN) => {}
            Record::BindFailed(call) => self.failed(call, at, hook, next, begin, facts),
            Record::Unresolved(call) => {
                if call.door == Door::Compat {
                    let before = self.later.begin(call, at, hook);
                    before.into_iter().for_each(|before| self.unresolved(before, facts));
                } else {
                    self.unresolved(Begun { call, at, hook }, facts);
                }
            }
            Record::Changed(call, state) => self.changed(call, state, at, hook, facts),
            Record::Denied { call, holder_cookie, holder } => {
                // Of a 32-bit bind that is how it ended.
                self.later.bound(call.task.tid);
                if matches!(hook, Hook::CheckBind4 | Hook::CheckBind6) {
                    self.later.denied(call.task.tid, call.socket.cookie);
                }
                self.denied(call, holder_cookie, holder, at, hook, facts);
            }
            Record::Listen(call) => self.listening(call, at, hook, facts),
            Record::ListenFailed(call) => {
                self.processes.publish(call.task.process, Some(&call.task), &mut self.cgroups, at, facts);
                let rows = in_use(&call).map(|wanted| self.look_up(&wanted, at, facts));
                let asked_by = after(next, begin, facts);
                let want = no_port(&call).then(|| Want::of_bind(&call));
                let body = ListenFailed {
                    process: call.task.process,
                    comm: call.task.comm,
                    socket: call.socket,
                    errno: call.errno,
                };
                facts.push(Fact { at, hook, body: Body::ListenFailed(body) });
                self.tell(rows.unwrap_or_default(), asked_by, at, facts);
                if let Some(want) = want {
                    self.survey(&want, asked_by, at, facts);
                }
            }
            Record::ConnectFailed(call) => {
                self.processes.publish(call.task.process, Some(&call.task), &mut self.cgroups, at, facts);
                let asked_by = after(next, begin, facts);
                let want = found_no_port(&call).then(|| Want::of_connect(&call));
                let body = ConnectFailed {
                    process: call.task.process,
                    comm: call.task.comm,
                    cookie: call.socket.cookie,
                    netns: call.socket.netns,
                    protocol: call.socket.protocol,
                    destination: call.socket.address,
                    destination_port: call.socket.port,
                    errno: call.errno,
                };
                facts.push(Fact { at, hook, body: Body::ConnectFailed(body) });
                if let Some(want) = want {
                    self.survey(&want, asked_by, at, facts);
                }
            }
            Record::Unlisten(small) if self.sockets.knows(small.cookie) => {
                let body = Body::Unlisten(Unlisten { cookie: small.cookie, backlog: small.backlog });
                self.stopping.hold(small.cookie, Fact { at, hook, body });
            }
            Record::Close(small) => {
                self.open_then(&small, at, hook, facts);
                if self.sockets.closed(small.cookie, small.state) {
                    self.listeners.closed(small.cookie, at);
                    self.accepted(small.cookie, true, at, facts);
                    let body = Close { cookie: small.cookie, state: small.state, backlog: small.backlog };
                    facts.push(Fact { at, hook, body: Body::Close(body) });
                }
            }
            Record::Destroy(small) if self.sockets.destroyed(small.cookie) => {
                push(Body::Gone(Gone { cookie: small.cookie }));
            }
            Record::Option(option) if !self.sockets.knows(option.cookie) => {
                if setting(&option) == Some(Setting::Multicast) {
                    self.later.joined(option.cookie, hook);
                }
            }
            Record::Option(option) => {
                let setting = setting(&option);
                if setting.is_none_or(|setting| matches!(setting, Setting::Device(_))) {
                    // It may not succeed, and only the socket knows the index of a name. This record came just before
                    // the option took effect.
                    self.later.look(option.cookie, at);
                }
                if let Some(setting) = setting {
                    let mut push = |body| facts.push(Fact { at, hook, body });
                    push(Body::Option(OptionSet { cookie: option.cookie, setting }));
                }
            }
            Record::Fork(fork) => {
                self.processes.forked(&fork, &mut self.cgroups, at, facts);
                if self.processes.is_full() {
                    self.processes.sweep(self.sockets.all_holders());
                    facts.push(limit("live-processes", crate::ledger::LIVE_MAX as u64, "processes", at));
                }
            }
            Record::Exec(exec) => self.processes.executed(&exec, &mut self.cgroups, at, facts),
            Record::Exit(process) => {
                self.sockets.holder_ended(process, at);
                if self.processes.ended(process) {
                    push(Body::Exit(Exit { process }));
                }
            }
            Record::Signal { target, sender, signal } => {
                if self.processes.is_published(target) {
                    if let Some(sender) = sender {
                        self.processes.publish(sender, None, &mut self.cgroups, at, facts);
                    }
                    facts.push(Fact {
                        at,
                        hook,
                        body: Body::Signal(Signal { process: target, sender, signal }),
                    });
                }
            }
            Record::Cgroup { id, path } => self.cgroups.learn(id, &path),
            Record::CgroupRemoved { id, path } => {
                if self.cgroups.is_removed(id, &path) && self.processes.left(&path) {
                    push(Body::CgroupRemoved(CgroupRemoved { id, path }));
                }
            }
            Record::Unlisten(_) | Record::Destroy(_) | Record::Foreign => {}
        }
    }

    /// A socket from an inventory, with those who have it open.
    pub fn found(&mut self, found: crate::event::Found, at: BootTime, hook: Hook, facts: &mut Vec<Fact>) {
        for holder in &found.holders {
            self.processes.publish(*holder, None, &mut self.cgroups, at, facts);
        }
        self.sockets.found(&found);
        if found.state == TcpState::Listen {
            let only = match found.holders.as_slice() {
                [one] => self.processes.children_of(*one).map(|made| (*one, made)),
                _ => None,
            };
            self.listeners.listens(&found.socket, only);
        }
        facts.push(Fact { at, hook, body: Body::Socket(found) });
    }

    /// Whether a socket is known from a record.
    #[must_use]
    pub fn knows(&self, cookie: Cookie) -> bool {
        self.sockets.knows(cookie)
    }

    /// Forgets sockets that an inventory did not find: their release was lost.
    pub fn keep_only(&mut self, cookies: &BTreeSet<Cookie>, complete: bool, at: BootTime) {
        self.sockets.keep_only(cookies, complete);
        self.listeners.keep_only(|cookie| self.sockets.knows(cookie), at);
    }

    /// Makes a process known that is named by something else than a record.
    pub fn name(&mut self, process: ProcessKey, at: BootTime, facts: &mut Vec<Fact>) {
        self.processes.publish(process, None, &mut self.cgroups, at, facts);
    }

    /// When something is due that no record will bring: the earliest instant at which [`Enricher::due`] has work.
    #[must_use]
    pub fn next_due(&self) -> Option<BootTime> {
        let crowd = self.crowd.as_ref().and_then(crowd::Crowd::next_due);
        let own = [self.sockets.next_due(), self.later.next_due(), self.stopping.next_due(), crowd];
        own.into_iter().flatten().min()
    }

    /// Tells what was held back, and looks up what no record tells: who holds the sockets whose known holders have ended, and
    /// long enough ago. Gives what sockets have become, to be told by [`Enricher::looked`].
    #[must_use]
    pub fn due(&mut self, now: BootTime, facts: &mut Vec<Fact>) -> Vec<(SocketFacts, TcpState)> {
        self.stopping.due(now, facts);
        for begun in self.later.take_failed(now) {
            self.unresolved(begun, facts);
        }
        let mut wanted = self.later.take_look(now);
        self.crowds_due(&wanted, now, facts);
        self.look_for_holders(now, now, facts);
        wanted.retain(|cookie| self.sockets.knows(*cookie));
        if wanted.is_empty() { Vec::new() } else { self.lookups.now(&wanted) }
    }

    /// Looks up who holds all of them, also those whose holders have only just ended: a judgement is about to rest on it.
    pub fn settle(&mut self, now: BootTime, facts: &mut Vec<Fact>) {
        self.stopping.due(BootTime(u64::MAX), facts);
        self.look_for_holders(now, BootTime(u64::MAX), facts);
    }

    fn look_for_holders(&mut self, now: BootTime, due: BootTime, facts: &mut Vec<Fact>) {
        let unheld = self.sockets.take_unheld(due);
        if unheld.is_empty() {
            return;
        }
        let Some(mut found) = self.lookups.holders(&unheld.keys().copied().collect()) else {
            // Nothing is known by that, neither that nobody has them.
            unheld.into_iter().for_each(|(cookie, waited)| self.sockets.put_off(cookie, now, waited));
            return;
        };
        for (cookie, waited) in unheld {
            let mut processes = found.remove(&cookie).unwrap_or_default();
            let found_one = !processes.is_empty();
            processes.retain(|process| !self.processes.has_ended(*process));
            if found_one && processes.is_empty() {
                self.sockets.put_off(cookie, now, waited);
                continue;
            }
            for process in &processes {
                self.processes.publish(*process, None, &mut self.cgroups, now, facts);
            }
            self.sockets.holders(cookie, &processes);
            let body = Body::Holders(Holders { cookie, processes });
            facts.push(Fact { at: now, hook: Hook::TaskFile, body });
        }
    }

    fn failed(
        &mut self,
        call: Call,
        at: BootTime,
        hook: Hook,
        next: Seq,
        begin: usize,
        facts: &mut Vec<Fact>,
    ) {
        self.processes.publish(call.task.process, Some(&call.task), &mut self.cgroups, at, facts);
        let rows = in_use(&call).map(|wanted| self.look_up(&wanted, at, facts));
        let asked_by = after(next, begin, facts);
        let want = no_port(&call).then(|| Want::of_bind(&call));
        let body = BindFailed {
            process: call.task.process,
            tid: call.task.tid,
            comm: call.task.comm,
            socket: call.socket,
            errno: call.errno,
            door: call.door,
        };
        facts.push(Fact { at, hook, body: Body::BindFailed(body) });
        self.tell(rows.unwrap_or_default(), asked_by, at, facts);
        if let Some(want) = want {
            self.survey(&want, asked_by, at, facts);
        }
    }

    fn listening(&mut self, call: Call, at: BootTime, hook: Hook, facts: &mut Vec<Fact>) {
        let process = call.task.process;
        self.processes.publish(process, Some(&call.task), &mut self.cgroups, at, facts);
        if !self.sockets.knows(call.socket.cookie) {
            self.sockets.held(&call.socket, process);
        }
        if call.socket.port == 0 {
            // The kernel is about to choose it; where no later record tells, the socket does.
            self.later.look(call.socket.cookie, at);
        } else {
            self.later.seen(call.socket.cookie);
        }
        self.remember_listener(&call.socket);
        self.sockets.listens(call.socket.cookie);
        facts.push(Fact { at, hook, body: Body::Listen(Listen { process, socket: call.socket }) });
    }

    fn remember_listener(&mut self, socket: &SocketFacts) {
        let only = self
            .sockets
            .sole_holder(socket.cookie)
            .and_then(|holder| self.processes.children_of(holder).map(|made| (holder, made)));
        self.listeners.listens(socket, only);
    }

    /// Asks the kernel's tables what is in the way on a port that was refused: TIME_WAIT and closing connections have no
    /// event. Who has it is told at once, the rest by [`Enricher::tell`].
    fn look_up(&mut self, wanted: &SocketFacts, at: BootTime, facts: &mut Vec<Fact>) -> Vec<PortRow> {
        let Some(mut rows) = self.rows_on((wanted.netns, wanted.protocol, wanted.port), at, facts) else {
            return Vec::new();
        };
        // Of loopback alone there are 16 million addresses.
        rows.retain(|row| row.socket.cookie != wanted.cookie && conflict(wanted, &row.socket));
        rows.sort_by_key(silence);
        if rows.len() > TABLE_ROWS_MAX {
            rows.truncate(TABLE_ROWS_MAX);
            facts.push(limit("table-rows", TABLE_ROWS_MAX as u64, "rows for one refused bind", at));
        }
        self.met(&rows, at, facts);
        rows
    }

    /// Tells the rows that were looked up for a failed call.
    fn tell(&mut self, rows: Vec<PortRow>, asked_by: Seq, at: BootTime, facts: &mut Vec<Fact>) {
        let Some(netns) = rows.first().map(|row| row.socket.netns) else { return };
        let is_connection = |row: &PortRow| !matches!(row.state, TcpState::Listen | TcpState::Close);
        let openers: Vec<Option<ProcessKey>> = rows
            .iter()
            .map(|row| self.lookups.opener(row.socket.cookie).filter(|_| is_connection(row)))
            .collect();
        if openers.iter().any(Option::is_some) {
            self.range(netns, at, facts);
        }
        for (row, opener) in rows.into_iter().zip(openers) {
            let last_owner = match opener {
                _ if !row.holders.is_empty() => None,
                None if is_over(row.state) => {
                    let children = |process| self.processes.children_of(process);
                    self.listeners.owner_of(&row.socket, children)
                }
                opener => opener,
            };
            for process in row.holders.iter().chain(&last_owner) {
                self.processes.publish(*process, None, &mut self.cgroups, at, facts);
                self.tell_signals(*process, facts);
            }
            let body = TableRow {
                asked_by,
                socket: row.socket,
                state: row.state,
                peer: row.peer,
                holders: row.holders,
                last_owner,
                outgoing: opener.is_some(),
            };
            if opener.is_some() && body.holders.is_empty() {
                self.seen_over.insert((body.socket.cookie, asked_by), body.clone());
                if self.seen_over.len() > SEEN_OVER_MAX {
                    // Cookies grow: the oldest goes.
                    self.seen_over.pop_first();
                }
            }
            facts.push(Fact { at, hook: Hook::SockDiag, body: Body::Table(body) });
        }
    }

    /// A connection is closed that a look-up for an earlier failure had found in nobody's hands: it was in somebody's when
    /// the call failed. Tells the row again as it was then.
    fn open_then(&mut self, small: &Small, at: BootTime, hook: Hook, facts: &mut Vec<Fact>) {
        let of_it = (small.cookie, Seq(0))..=(small.cookie, Seq(u64::MAX));
        while let Some(key) = self.seen_over.range(of_it.clone()).next().map(|(key, _)| *key) {
            let Some(row) = self.seen_over.remove(&key) else { return };
            let holders: Vec<ProcessKey> =
                row.last_owner.into_iter().filter(|opener| opener.tgid == small.tgid).collect();
            let body = TableRow { state: small.state, holders, last_owner: None, ..row };
            facts.push(Fact { at, hook, body: Body::Table(body) });
        }
    }
}

/// The port that a refused call found in use.
fn in_use(call: &Call) -> Option<SocketFacts> {
    let is_in_use = call.errno == Errno::EADDRINUSE && call.socket.port != 0;
    is_in_use.then(|| call.socket.clone())
}

/// The call let the kernel choose a port, and there was none.
fn no_port(call: &Call) -> bool {
    call.errno == Errno::EADDRINUSE && call.socket.port == 0
}

/// `connect()` may have found no port; EADDRNOTAVAIL can mean that there is no address to connect from as well.
fn found_no_port(call: &Call) -> bool {
    match call.socket.protocol {
        Protocol::Tcp => call.errno == Errno::EADDRNOTAVAIL,
        Protocol::Udp | Protocol::Udplite => call.errno == Errno::EAGAIN,
    }
}

/// A connection that its process has closed.
const fn is_over(state: TcpState) -> bool {
    matches!(
        state,
        TcpState::TimeWait | TcpState::FinWait1 | TcpState::FinWait2 | TcpState::Closing | TcpState::LastAck
    )
}

/// How little a row says about why a bind is refused: what is held comes before what lingers, and that before
/// TIME_WAIT.
fn silence(row: &PortRow) -> (u8, bool) {
    let rank = match row.state {
        TcpState::Listen => 0,
        TcpState::Close => 1,
        TcpState::TimeWait => 4,
        TcpState::Established => 3,
        _ => 2,
    };
    (rank, row.holders.is_empty())
}

fn limit(bound: &str, value: u64, unit: &str, at: BootTime) -> Fact {
    let body = Limit { bound: bound.to_owned(), value, unit: unit.to_owned() };
    Fact { at, hook: Hook::Bindwatch, body: Body::Limit(body) }
}

/// The number of the next fact, when the first one after `begin` gets `next`.
fn after(next: Seq, begin: usize, facts: &[Fact]) -> Seq {
    Seq(next.0 + (facts.len() - begin) as u64)
}

fn bind(call: Call) -> Bind {
    Bind {
        process: call.task.process,
        tid: call.task.tid,
        comm: call.task.comm,
        socket: call.socket,
        requested_port: call.requested_port,
        door: call.door,
    }
}

/// What an option means for sharing (socket(7), ip(7), ipv6(7)).
fn setting(option: &SetOption) -> Option<Setting> {
    match (option.level, option.name) {
        (1, 2) => Some(Setting::ReuseAddr(option.value? != 0)),
        (1, 15) => Some(Setting::ReusePort(option.value? != 0)),
        (1, 62) => Some(Setting::Device(Ifindex(option.value?.unsigned_abs()))),
        // SO_BINDTODEVICE names the device; which index that is must be asked of the socket.
        (1, _) => None,
        _ => Some(Setting::Multicast),
    }
}
