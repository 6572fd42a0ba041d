//! The ledger: what is held by whom, and what is wrong with it, as a pure function of events.
//!
//! No clock, no IO, no randomness, no globals: live recording, replay and tests run exactly this code.
//!
//! An event first changes the facts (`kin`, `holdings`, `past`), through `changes`; then the places it touched are judged
//! again (`overlap`), or a failure is explained (`refused`, `cause`, `exhausted`). What was found is kept in `record` and
//! handed out as snapshots ([`Finding`]).

mod cause;
mod changes;
mod denied;
mod evidence;
mod exhausted;
pub(crate) mod few;
pub mod finding;
mod holdings;
mod invariants;
mod kin;
mod orphan;
mod overlap;
mod party;
mod past;
mod place;
mod pool;
mod program;
mod receives;
mod record;
mod refused;
mod settings;
mod socket;
mod stats;
#[cfg(test)]
mod tests;
mod view;
mod waiting;

pub use finding::{Finding, FindingId, Kind};
pub(crate) use kin::{LIVE_MAX, with_ancestors};
pub(crate) use past::LINGERING_MAX;
pub use place::conflict;
pub use pool::PoolOf;
pub use settings::{AllowRule, PoolRule, RelatedBy, Settings, Standing};
pub use stats::Stats;
pub use view::{SocketView, View};

use std::collections::{BTreeMap, BTreeSet};

use crate::event::{
    Body, BootTime, Cookie, Door, Errno, Event, Inum, Limit, PortRange, Seq, SocketFacts, Unresolved,
};

use changes::Round;
use denied::Denials;
use exhausted::Shortages;
use holdings::Holdings;
use kin::Kin;
use orphan::Wards;
use overlap::Overlaps;
use past::{Linger, Releases};
use record::{Moment, Record, Records};
use refused::{Call, Refusals};
use waiting::Waits;

/// Network namespaces whose port range is remembered, namespaces.
const RANGES_MAX: usize = 4096;

/// Everything that was learnt from the events applied, and the findings they led to.
pub struct Ledger {
    settings: Settings,
    kin: Kin,
    holdings: Holdings,
    overlaps: Overlaps,
    releases: Releases,
    lingering: Linger,
    refusals: Refusals,
    shortages: Shortages,
    wards: Wards,
    /// The ports that the kernel chooses from.
    ranges: BTreeMap<Inum, PortRange>,
    denials: Denials,
    waits: Waits,
    round: Round,
    /// The last loss.
    lost_at: Option<Seq>,
    records: Records,
    stats: Stats,
}

impl Ledger {
    /// An empty ledger.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            kin: Kin::new(&settings),
            settings,
            holdings: Holdings::default(),
            overlaps: Overlaps::new(),
            releases: Releases::default(),
            lingering: Linger::default(),
            refusals: Refusals::default(),
            shortages: Shortages::default(),
            wards: Wards::default(),
            ranges: BTreeMap::new(),
            denials: Denials::default(),
            waits: Waits::default(),
            round: Round::default(),
            lost_at: None,
            records: Records::default(),
            stats: Stats::default(),
        }
    }

    /// Feeds one event; pushes the ids of findings that are new or changed, each once, in order.
    ///
    /// A finding can be taken back (its sockets joined a multicast group after all): its id is pushed, and
    /// [`Ledger::finding`] no longer knows it. Findings that an allow rule matches are not pushed.
    pub fn apply(&mut self, event: &Event, changed: &mut Vec<FindingId>) {
        self.stats.count(event);
        let now = Moment { seq: event.seq, at: event.at };
        self.outlived(now);
        match &event.body {
            Body::Process(process) => {
                if self.kin.learn(process, now.seq) {
                    self.kin_changed(process.process, now);
                }
                self.sweep_kin();
            }
            Body::Exit(exit) => self.ended(exit.process, now),
            Body::Signal(signal) => self.kin.tell_to_end(signal.process, now.seq),
            Body::Socket(found) => self.found(found, now),
            Body::Inventory(inventory) => self.inventory(inventory, now),
            Body::Bind(bind) => self.bound(bind, now),
            Body::BindFailed(failed) => {
                self.call_failed(
                    now,
                    Call {
                        process: failed.process,
                        comm: &failed.comm,
                        facts: &failed.socket,
                        errno: failed.errno,
                        name: "bind",
                    },
                );
            }
            Body::Denied(denied) => self.denied(denied, event.hook, now),
            Body::Waiting(waiting) => self.waiting(waiting, now),
            Body::Waited(waited) => self.waited(waited, now),
            Body::Listen(listen) => self.listening(listen, now),
            Body::Unlisten(unlisten) => self.unlistened(unlisten, now),
            Body::ListenFailed(failed) => {
                self.listen_failed(failed.socket.cookie, now);
                self.call_failed(
                    now,
                    Call {
                        process: failed.process,
                        comm: &failed.comm,
                        facts: &failed.socket,
                        errno: failed.errno,
                        name: "listen",
                    },
                );
            }
            Body::Option(option) => self.option_set(option, now),
            Body::Changed(changed) => self.socket_changed(changed, now),
            Body::Accepted(accepted) => self.accepted(accepted, now),
            Body::Close(close) => self.closed(close, now),
            Body::Gone(gone) => self.gone(gone.cookie, now),
            Body::ConnectFailed(failed) => self.connect_failed(failed, now),
            Body::Holders(holders) => self.holders_seen(holders, now),
            Body::Table(row) => self.table_row(row, now),
            Body::PortRange(range) => {
                self.ranges.insert(range.netns, range.clone());
                if self.ranges.len() > RANGES_MAX {
                    // Told again when it is needed again; until then findings there do without.
                    self.ranges.retain(|netns, _| *netns == range.netns);
                    self.stats.reached("port-ranges", 1);
                }
            }
            Body::PortUse(ports) => self.ports_counted(ports, now),
            Body::Lost(_) => self.doubt(now),
            // Nothing that came after it is in the log.
            Body::Limit(limit) if limit.bound == Limit::LOG_SIZE => self.doubt(now),
            Body::CgroupRemoved(removed) => self.cgroup_removed(&removed.path, now),
            Body::Job(job) => self.job(job, now),
            Body::Enforcement(enforcement) => self.enforced(enforcement),
            Body::Unresolved(unresolved) => self.unresolved(unresolved, now),
            Body::Limit(_) | Body::Omitted(_) | Body::Note(_) => {}
        }
        self.report(changed);
    }

    /// What happened is not all known any more.
    fn doubt(&mut self, now: Moment) {
        self.lost_at = Some(now.seq);
        self.records.doubt_live();
    }

    /// A bind of a 32-bit system call that got no port: that it failed is known, with what is not.
    fn unresolved(&mut self, unresolved: &Unresolved, now: Moment) {
        let facts = &unresolved.socket;
        if unresolved.door != Door::Compat || facts.port == 0 || self.blockers(facts).is_empty() {
            return;
        }
        let (process, comm) = (unresolved.process, unresolved.comm.as_str());
        self.refuse(Call { process, comm, facts, errno: Errno::UNKNOWN, name: "bind" }, now);
    }

    fn call_failed(&mut self, now: Moment, call: Call<'_>) {
        let SocketFacts { port, .. } = call.facts;
        match (call.errno, port) {
            (Errno::EADDRINUSE, 0) => self.exhaust(call, None, now),
            (Errno::EADDRINUSE, _) => self.refuse(call, now),
            _ => {}
        }
    }

    /// Hands out what the event touched.
    fn report(&mut self, changed: &mut Vec<FindingId>) {
        if self.records.touched.is_empty() {
            return;
        }
        let mut touched = std::mem::take(&mut self.records.touched);
        touched.sort_unstable();
        touched.dedup();
        for id in touched.drain(..) {
            let Some(record) = self.records.get(id) else {
                changed.push(id);
                continue;
            };
            let shown = record.shown || !self.is_allowed(record);
            if shown {
                changed.push(id);
            }
            if let Some(record) = self.records.peek(id) {
                record.shown = shown;
            }
        }
        self.records.touched = touched;
    }

    fn is_allowed(&self, record: &Record) -> bool {
        if self.settings.allow.is_empty() {
            return false;
        }
        let finding = record.snapshot(self.now());
        self.settings.allow.iter().any(|rule| rule.allows(&finding))
    }

    /// Forgets processes when too many are remembered.
    fn sweep_kin(&mut self) {
        if !self.kin.is_full() {
            return;
        }
        let sockets = self.holdings.any_order().flat_map(socket::Socket::parties);
        let roots = sockets.chain(self.releases.processes()).chain(self.lingering.owners());
        let dropped = self.kin.sweep(roots);
        if dropped > 0 {
            self.stats.reached("live-processes", dropped);
        }
    }

    /// The latest time of an event.
    fn now(&self) -> BootTime {
        self.stats.end
    }

    /// A finding as it stands. None when an allow rule matches it, or when it was taken back.
    #[must_use]
    pub fn finding(&self, id: FindingId) -> Option<Finding> {
        self.records
            .get(id)
            .filter(|record| !self.is_allowed(record))
            .map(|record| record.snapshot(self.now()))
    }

    /// The findings as they stand, in order of their ids, without those that an allow rule matches.
    pub fn findings(&self) -> impl Iterator<Item = Finding> + '_ {
        self.records
            .iter()
            .filter(|record| !self.is_allowed(record))
            .map(|record| record.snapshot(self.now()))
    }

    /// The sockets of live findings about sharing: whose connections are worth counting while it goes on.
    #[must_use]
    pub fn shared(&self) -> BTreeSet<Cookie> {
        let live = self.records.iter().filter(|record| record.live && record.overlaps());
        let stakes = live.flat_map(|record| &record.parties).flat_map(|party| &party.stakes);
        stakes.filter(|stake| stake.is_open()).map(|stake| stake.cookie).collect()
    }

    /// What was counted.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats { sockets: self.holdings.len() as u64, ..self.stats.clone() }
    }

    /// What is held now.
    #[must_use]
    pub const fn view(&self) -> View<'_> {
        View { holdings: &self.holdings, kin: &self.kin }
    }
}
