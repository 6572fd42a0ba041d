//! The ledger: what is held by whom, and what is wrong with it, as a pure function of events.
//!
//! No clock, no IO, no randomness, no globals: live recording, replay and tests run exactly this code. Order is that of
//! the events; wherever something is gone through, it is gone through in an order that the events decide.

pub mod finding;
mod hold;
mod kin;
mod plane;
mod record;
mod refuse;
mod settings;
mod share;
mod spent;

use std::collections::{BTreeMap, BTreeSet};

pub use hold::{Holding, Socket};
pub use kin::ENDED_MAX;
pub use plane::conflict;
pub use record::MEMBERS_MAX;
pub use refuse::RELEASES_MAX;
pub use settings::{AllowRule, RelatedBy, Settings};

use crate::event::{
    BindFailed, Body, BootTime, Cookie, Errno, Event, Found, Inum, InventoryPhase, Job, JobPhase, Listen,
    Process, ProcessKey, Protocol, Seq, Setting, SocketFacts, TcpState,
};
use finding::{Finding, FindingId, HolderState, Kind};
use hold::Sockets;
use kin::Kinship;
use record::{Failure, Member, Record};
use refuse::{Call, Refusals};
use share::{Incident, Leaving};
use spent::Spent;

/// Findings that are kept; beyond it new ones are counted only.
pub const FINDINGS_MAX: usize = 10_000;
/// Closed connections that are remembered while they keep their port; beyond it the first go.
pub const LINGERING_MAX: usize = 16_384;

/// Counts of what was applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Events.
    pub events: u64,
    /// Events that were lost.
    pub lost: u64,
    /// The same, by kind.
    pub lost_by_kind: BTreeMap<String, u64>,
    /// Sockets that are open.
    pub sockets: u64,
    /// Binds that succeeded.
    pub binds: u64,
    /// Binds that failed, for whatever reason.
    pub binds_failed: u64,
    /// Bounds that were reached, and how much each left out.
    pub limits: BTreeMap<String, u64>,
    /// When the first event happened.
    pub start: BootTime,
    /// When the last event happened.
    pub end: BootTime,
}

/// The ledger.
pub struct Ledger {
    settings: Settings,
    kin: Kinship,
    sockets: Sockets,
    /// Closed by everybody, but still connected: the port they keep, and who had it.
    lingering: BTreeMap<Cookie, ((Inum, Protocol, u16), Member)>,
    findings: Vec<Record>,
    /// Live `co-bind` and `shadow` findings.
    incidents: BTreeMap<Incident, FindingId>,
    /// The findings a socket is in.
    involved: BTreeMap<Cookie, Vec<FindingId>>,
    refusals: Refusals,
    spent: BTreeMap<Spent, FindingId>,
    /// Sockets that an inventory has not listed yet.
    unlisted: Option<BTreeSet<Cookie>>,
    /// Something was lost, and no inventory was taken since.
    tainted: bool,
    changed: BTreeSet<FindingId>,
    stats: Stats,
}

impl Ledger {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            kin: Kinship::default(),
            sockets: Sockets::default(),
            lingering: BTreeMap::new(),
            findings: Vec::new(),
            incidents: BTreeMap::new(),
            involved: BTreeMap::new(),
            refusals: Refusals::default(),
            spent: BTreeMap::new(),
            unlisted: None,
            tainted: false,
            changed: BTreeSet::new(),
            stats: Stats::default(),
        }
    }

    /// Applies an event and appends the findings that are new or have changed, each once, in their order.
    pub fn apply(&mut self, event: &Event, changed: &mut Vec<FindingId>) {
        let Event { seq, at, .. } = *event;
        if self.stats.events == 0 {
            self.stats.start = at;
        }
        self.stats.events += 1;
        self.stats.end = self.stats.end.max(at);
        self.body(&event.body, at, seq);
        changed.extend(std::mem::take(&mut self.changed));
    }

    fn body(&mut self, body: &Body, at: BootTime, seq: Seq) {
        match body {
            Body::Process(process) => self.kin.learn(process),
            Body::Exit(exit) => {
                self.sockets.process_ended(exit.process);
                self.kin.ended(exit.process, at);
            }
            Body::Signal(signal) => self.kin.asked_to_end(signal.process, at, seq),
            Body::Socket(found) => self.found(found, at, seq),
            Body::Inventory(inventory) => match inventory.phase {
                InventoryPhase::Begin => self.unlisted = Some(self.sockets.cookies()),
                InventoryPhase::End => self.inventory_ends(at, seq),
            },
            Body::Bind(bind) => {
                self.stats.binds += 1;
                self.bound(&bind.socket, bind.process, at, seq);
            }
            Body::BindFailed(failed) => self.bind_failed(failed, at, seq),
            Body::Unresolved(_) | Body::Note(_) => {}
            Body::Listen(listen) => self.listens(listen, at, seq),
            Body::Unlisten(unlisten) => {
                self.leave(unlisten.cookie, Leaving::Stopped, unlisten.backlog, at, seq);
                self.sockets.change(unlisten.cookie, |socket| socket.stopped = Some(at));
            }
            Body::ListenFailed(failed) => {
                if failed.errno == Errno::EADDRINUSE {
                    let call = Call {
                        process: failed.process,
                        socket: &failed.socket,
                        errno: failed.errno,
                        name: "listen",
                    };
                    self.refused(&call, at, seq);
                }
                // It never listened: what stopped was the attempt.
                self.sockets
                    .change(failed.socket.cookie, |socket| (socket.listens, socket.stopped) = (None, None));
            }
            Body::Option(option) => self.option(option.cookie, option.setting, at, seq),
            Body::Close(close) => self.close(close.cookie, close.state, close.backlog, at, seq),
            Body::Gone(gone) => {
                self.lingering.remove(&gone.cookie);
            }
            Body::ConnectFailed(failed) => self.no_port_to_connect(failed, at, seq),
            Body::Holders(holders) => self.holders(holders.cookie, &holders.processes, at, seq),
            Body::Table(row) => self.table_row(row, at, seq),
            Body::Lost(lost) => self.lost(&lost.counts),
            Body::Limit(limit) => *self.stats.limits.entry(limit.bound.clone()).or_default() += 1,
            Body::Job(job) => self.job(job, at, seq),
        }
    }

    fn bound(&mut self, facts: &SocketFacts, process: ProcessKey, at: BootTime, seq: Seq) {
        let cookie = facts.cookie;
        if self.sockets.get(cookie).is_some() {
            // Bound anew: what it held before is released.
            self.close(cookie, TcpState::Close, 0, at, seq);
        }
        if let Some(unlisted) = &mut self.unlisted {
            unlisted.remove(&cookie);
        }
        self.kin.refer(Some(process));
        self.sockets.insert(Socket {
            facts: facts.clone(),
            bound_at: Some(at),
            seq,
            listens: None,
            stopped: None,
            multicast: false,
            binder: Some(process),
            holders: vec![Holding { process, from: None, seq }],
        });
        self.meet(cookie, at, seq);
    }

    fn found(&mut self, found: &Found, at: BootTime, seq: Seq) {
        let cookie = found.socket.cookie;
        if let Some(unlisted) = &mut self.unlisted {
            unlisted.remove(&cookie);
        }
        if self.sockets.get(cookie).is_some() {
            self.sockets.change(cookie, |socket| socket.facts.options = found.socket.options);
            if !found.holders.is_empty() {
                self.holders(cookie, &found.holders, at, seq);
            }
            self.meet(cookie, at, seq);
            return;
        }
        // Of several the eldest stands for who bound it: the one that is an ancestor of others, or started first.
        let eldest = found.holders.iter().copied().min_by_key(|holder| {
            let elders = found.holders.iter().filter(|other| self.kin.is_ancestor(**other, *holder)).count();
            (elders, holder.start, holder.tgid)
        });
        let holder =
            |process: ProcessKey| Holding { process, from: eldest.filter(|eldest| *eldest != process), seq };
        self.kin.refer(eldest);
        self.sockets.insert(Socket {
            facts: found.socket.clone(),
            bound_at: None,
            seq,
            listens: (found.state == TcpState::Listen).then_some(seq),
            stopped: None,
            multicast: false,
            binder: eldest,
            holders: found.holders.iter().copied().map(holder).collect(),
        });
        self.meet(cookie, at, seq);
    }

    fn inventory_ends(&mut self, at: BootTime, seq: Seq) {
        for cookie in self.unlisted.take().unwrap_or_default() {
            self.close(cookie, TcpState::Close, 0, at, seq);
        }
        self.tainted = false;
    }

    fn listens(&mut self, listen: &Listen, at: BootTime, seq: Seq) {
        let cookie = listen.socket.cookie;
        if self.sockets.get(cookie).is_none() {
            // Bound by the listen itself, or before the recording and missed.
            self.bound(&listen.socket, listen.process, at, seq);
        }
        let options = listen.socket.options;
        self.sockets.change(cookie, |socket| {
            socket.listens = Some(seq);
            socket.stopped = None;
            socket.facts.options = options;
        });
        self.meet(cookie, at, seq);
        self.retell(cookie, at, seq);
    }

    fn option(&mut self, cookie: Cookie, setting: Setting, at: BootTime, seq: Seq) {
        let known = self.sockets.change(cookie, |socket| {
            let options = &mut socket.facts.options;
            match setting {
                Setting::ReuseAddr(on) => options.reuse_addr = on,
                Setting::ReusePort(on) => options.reuse_port = on,
                Setting::Device(device) => options.device = device,
                Setting::Multicast => socket.multicast = true,
            }
        });
        if known {
            self.separate(cookie, setting, at, seq);
            self.meet(cookie, at, seq);
            self.retell(cookie, at, seq);
        }
    }

    /// An option by which a socket leaves what it was in: another device, or a multicast group.
    fn separate(&mut self, cookie: Cookie, setting: Setting, at: BootTime, seq: Seq) {
        if matches!(setting, Setting::Device(_) | Setting::Multicast) {
            self.leave(cookie, Leaving::Stopped, 0, at, seq);
        }
    }

    fn close(&mut self, cookie: Cookie, state: TcpState, backlog: u32, at: BootTime, seq: Seq) {
        self.leave(cookie, Leaving::Closed, backlog, at, seq);
        let Some(socket) = self.sockets.remove(cookie) else { return };
        self.released(&socket, at, seq);
        let at_rest = matches!(state, TcpState::Close | TcpState::Listen);
        if socket.facts.protocol == Protocol::Tcp && !at_rest {
            let port = (socket.facts.netns, socket.facts.protocol, socket.facts.port);
            let member = Member {
                bound_at: socket.bound_at,
                released_at: Some(at),
                seq,
                ..Member::new(&socket.facts, socket.binder, HolderState::Connected)
            };
            self.lingering.insert(cookie, (port, member));
            if self.lingering.len() > LINGERING_MAX {
                self.lingering.pop_first();
            }
        }
        self.kin.unrefer(socket.binder);
    }

    fn bind_failed(&mut self, failed: &BindFailed, at: BootTime, seq: Seq) {
        self.stats.binds_failed += 1;
        if failed.errno != Errno::EADDRINUSE {
            return;
        }
        let call =
            Call { process: failed.process, socket: &failed.socket, errno: failed.errno, name: "bind" };
        if failed.socket.port != 0 {
            self.refused(&call, at, seq);
            return;
        }
        let member = Member { seq, ..Member::new(&failed.socket, Some(failed.process), HolderState::Closed) };
        self.exhausted(&failed.socket, None, Failure { member, errno: failed.errno, call: "bind" }, at, seq);
    }

    fn holders(&mut self, cookie: Cookie, processes: &[ProcessKey], at: BootTime, seq: Seq) {
        let Some(socket) = self.sockets.get(cookie) else { return };
        let binder = socket.binder;
        let holders = processes
            .iter()
            .map(|process| {
                let known = socket.holders.iter().find(|holding| holding.process == *process);
                let from = binder.filter(|binder| binder != process);
                known.copied().unwrap_or(Holding { process: *process, from, seq })
            })
            .collect();
        self.sockets.set_holders(cookie, holders);
        self.retell(cookie, at, seq);
    }

    fn lost(&mut self, counts: &BTreeMap<String, u64>) {
        for (kind, count) in counts {
            self.stats.lost += count;
            *self.stats.lost_by_kind.entry(kind.clone()).or_default() += count;
        }
        self.tainted = true;
        for record in self.findings.iter_mut().filter(|record| record.live) {
            record.uncertain = true;
            self.changed.insert(record.id);
        }
    }

    fn job(&mut self, job: &Job, at: BootTime, seq: Seq) {
        if job.phase == JobPhase::End {
            self.job_ended(job, at, seq);
        }
    }

    /// Opens a finding; None when there are too many.
    fn open(&mut self, kind: Kind, on: &SocketFacts, at: BootTime) -> Option<FindingId> {
        if self.findings.len() >= FINDINGS_MAX {
            *self.stats.limits.entry("findings".to_owned()).or_default() += 1;
            return None;
        }
        let id = FindingId(u32::try_from(self.findings.len()).ok()? + 1);
        let mut record = Record::new(id, kind, on, at);
        record.uncertain = self.tainted;
        self.findings.push(record);
        Some(id)
    }

    fn record(&self, id: FindingId) -> Option<&Record> {
        self.findings.get(id.0 as usize - 1)
    }

    fn record_mut(&mut self, id: FindingId) -> Option<&mut Record> {
        self.findings.get_mut(id.0 as usize - 1)
    }

    fn prove(&mut self, id: FindingId, seq: Seq) {
        if let Some(record) = self.record_mut(id) {
            record.prove(seq);
        }
    }

    /// A finding changed.
    fn touch(&mut self, id: FindingId) {
        let tainted = self.tainted;
        if let Some(record) = self.record_mut(id) {
            record.uncertain |= tainted;
        }
        self.changed.insert(id);
    }

    /// A finding as it stands now; None also when an allow rule takes it out.
    #[must_use]
    pub fn finding(&self, id: FindingId) -> Option<Finding> {
        let finding = self.record(id)?.finding(&self.kin, self.stats.end);
        (!self.settings.allow.iter().any(|rule| rule.allows(&finding))).then_some(finding)
    }

    /// All findings as they stand now, in their order, without those that an allow rule takes out.
    pub fn findings(&self) -> impl Iterator<Item = Finding> + '_ {
        self.findings.iter().filter_map(|record| self.finding(record.id))
    }

    /// Counts.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = self.stats.clone();
        stats.sockets = self.sockets.len() as u64;
        if self.kin.forgotten > 0 {
            stats.limits.insert("ended-processes".to_owned(), self.kin.forgotten);
        }
        stats
    }

    /// The open sockets, by cookie.
    pub fn sockets(&self) -> impl Iterator<Item = &Socket> {
        self.sockets.iter()
    }

    /// What was learnt of a process.
    #[must_use]
    pub fn process(&self, key: ProcessKey) -> Option<&Process> {
        self.kin.get(key).map(|kin| &*kin.facts)
    }

    /// The open sockets as holders: one entry a socket and process.
    pub fn holdings(&self) -> impl Iterator<Item = finding::Holder> + '_ {
        self.sockets.iter().flat_map(|socket| {
            socket.holders.iter().map(|holding| record::holder(&Member::of(socket, *holding), &self.kin))
        })
    }

    /// Whether what must always hold does.
    ///
    /// # Errors
    /// What does not hold.
    pub fn check_invariants(&self) -> Result<(), String> {
        self.sockets.check()?;
        self.check_incidents()?;
        let ordered = self.findings.iter().enumerate().all(|(n, record)| record.id.0 as usize == n + 1);
        if !ordered {
            return Err("findings are not numbered in order".to_owned());
        }
        let closed = self.involved.keys().find(|cookie| self.sockets.get(**cookie).is_none());
        closed.map_or(Ok(()), |cookie| Err(format!("the closed socket {} is still in findings", cookie.0)))
    }
}

impl AllowRule {
    /// Whether a finding is meant, by this rule: the endpoint matches, and so does everybody in it.
    fn allows(&self, finding: &Finding) -> bool {
        let on_port = self.port.as_ref().is_none_or(|ports| ports.contains(&finding.port));
        let on_address =
            self.address.is_none_or(|address| address.to_canonical() == finding.address.to_canonical());
        let everybody = finding.holders.iter().chain(finding.victim.as_ref().map(|victim| &victim.holder));
        let named = self.program.is_some() || self.cgroup.is_some();
        let all = !named || everybody.clone().next().is_some();
        on_port && on_address && all && everybody.into_iter().all(|holder| self.allows_holder(holder))
    }

    fn allows_holder(&self, holder: &finding::Holder) -> bool {
        let base = holder.exe.rsplit('/').next().unwrap_or_default();
        let program = self
            .program
            .as_ref()
            .is_none_or(|name| [&*holder.comm, &*holder.exe, base].contains(&name.as_str()));
        let cgroup = self.cgroup.as_ref().is_none_or(|path| {
            holder
                .cgroup
                .strip_prefix(path.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        program && cgroup
    }
}
