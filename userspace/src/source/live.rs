//! Live events: the probe's ring, made into events in order.
//!
//! Waking a reader costs more than a bind, so the probe wakes nobody while records come: the reader looks every
//! [`DRAIN_EVERY`], or sooner where few of them do. When nothing came for [`IDLE_AFTER`] looks it asks for one wake-up and sleeps without a timer.

mod reads;
mod waiting;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;

use super::census::Counted;
use super::losses::Losses;
use super::moved::Moved;
pub use super::pace::DRAIN_EVERY;
use super::pace::{DRAIN_SOON, Pace};
pub use super::reading::DRAIN_MAX;
use super::sockets::{Tables, TablesError};
use super::system::{Survey, System};
use crate::cgroup2;
use crate::clock;
use crate::enrich::{Enricher, Fact, Processes};
use crate::event::{
    Body, BootTime, Cookie, Event, Found, Hook, Inum, Inventory, InventoryPhase, Job, JobPhase, Limit, Lost,
    OptionSet, PortUse, ProcessKey, Protocol, Seq, Setting,
};
use crate::ledger::{Settings, Standing};
use crate::probe::{
    Attached, Counters, Guarding, Idle, Options, Probe, ProbeError, Ring, Standings, map_large_blocks,
    release_memory, surroundings,
};
use crate::wait::{Carrier, Tried, Waits};
use crate::wire::{self, Record, Stamped};

/// Looks without a record before the reader sleeps without a timer.
pub const IDLE_AFTER: u32 = 20;
/// After a loss the tables are looked at again when none followed for this long, ns.
const SETTLED_NS: u64 = 200_000_000;

/// They are looked at so long after the first of several losses, whether others follow or not, ns: who loses events all the
/// time would never be put right.
const UNSETTLED_MAX_NS: u64 = 5_000_000_000;

/// Least time between two counts of the ports that the kernel chooses from, ns. Nobody is woken for them.
const PORTS_EVERY_NS: u64 = 60_000_000_000;
/// A count is not repeated before this many times what it took: at most a hundredth of the time goes into it.
const PORTS_REST: u64 = 100;
/// Network namespaces and protocols of one count, those with the most ports in use; `port-census` says when there were
/// more.
pub const PORTS_MAX: usize = 256;

/// Why live events cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The probe.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The socket tables.
    #[error("the sockets that exist already cannot be listed: {0}")]
    Tables(#[from] TablesError),
    /// The ring cannot be waited for.
    #[error("the event ring cannot be waited for: {0}")]
    Ring(#[source] std::io::Error),
    /// There is no timer, or it cannot be waited for.
    #[error("the time until the next look cannot be waited for: {0}")]
    Timer(#[source] std::io::Error),
    /// Binds cannot be taken in.
    #[error("the binds of the command cannot be waited with: {0}")]
    Waits(#[source] std::io::Error),
}

/// The live source.
pub struct Live {
    ring: AsyncFd<Ring>,
    idle: Idle,
    counters: Counters,
    enricher: Enricher<System>,
    attached: Attached,
    only_conflicts: bool,
    facts: Vec<Fact>,
    /// Records that were read before their turn.
    ahead: VecDeque<Stamped>,
    seq: Seq,
    losses: Losses,
    quiet_looks: u32,
    pace: Pace,
    /// There may be many records that were not taken.
    has_more: bool,
    /// What tells the guard of processes, and how they are judged.
    guard: Option<(Standings, Settings)>,
    /// Binds that wait.
    waits: Option<Waits>,
    /// What came of those that were tried.
    tried: Vec<Tried>,
    /// Who carried calls out for others: as long as records of that may come.
    carrier: Option<Arc<Carrier>>,
    /// Sockets that get another device, of which the guard is to be told.
    moved: Moved,
    /// When the last loss was noticed, or what ends sockets was not attached yet, until the tables were looked at again.
    unsettled: Option<Unsettled>,
    /// When the ports that the kernel chooses from are counted next, should anything come then.
    next_ports: BootTime,
    /// What was told of them last.
    ports: BTreeMap<(Inum, Protocol), PortUse>,
}

/// Since when, and until when, what is known was found not to be all.
#[derive(Clone, Copy)]
struct Unsettled {
    first: BootTime,
    last: BootTime,
}

impl Unsettled {
    /// When the tables are looked at.
    fn due(self) -> BootTime {
        BootTime((self.last.0 + SETTLED_NS).min(self.first.0 + UNSETTLED_MAX_NS))
    }
}

/// Whether a socket can share its port.
const fn shares(call: &wire::Call) -> bool {
    call.socket.options.reuse_port || call.socket.options.reuse_addr
}

impl Live {
    /// Attaches the probe and takes the inventory of what exists. The first events (the inventory) are appended to
    /// `events`. Nothing that is bound after this returns is missed. `settings` are for the guard.
    ///
    /// # Errors
    /// Without privileges, on a kernel that cannot carry the probe, or without socket tables.
    pub fn start(
        options: &Options,
        mut processes: Processes,
        settings: &Settings,
        events: &mut Vec<Event>,
    ) -> Result<Self, LiveError> {
        surroundings::check()?;
        map_large_blocks();
        let tables = Tables::open()?;
        let mut probe = Probe::attach(options)?;
        let ring = probe.ring()?.watched().map_err(LiveError::Ring)?;
        let (idle, counters, owners) = (probe.idle()?, probe.counters()?, probe.owners()?);
        let (accepted, watched) = (probe.accepted()?, probe.watched()?);
        let attached = probe.attached().clone();
        let root = cgroup2::mount_point().ok_or(ProbeError::NoCgroup2)?;
        processes.scan();
        if options.guard != Guarding::Off {
            probe.guard(settings, || processes.kinships())?;
        }
        let mut enricher = Enricher::new(
            processes,
            cgroup2::Paths::new(&root),
            System::new(probe, owners, accepted, watched, tables),
        );
        if options.only_conflicts {
            enricher.expect_conflicts_only();
        }
        let mut live = Self {
            ring,
            idle,
            counters,
            enricher,
            attached,
            only_conflicts: options.only_conflicts,
            facts: Vec::new(),
            seq: Seq(1),
            ahead: VecDeque::new(),
            losses: Losses::default(),
            quiet_looks: 0,
            pace: Pace::new().map_err(LiveError::Timer)?,
            // What happened since the probe was attached, while this looked around.
            has_more: true,
            guard: None,
            waits: None,
            tried: Vec::new(),
            carrier: None,
            moved: Moved::default(),
            unsettled: None,
            next_ports: BootTime(0),
            ports: BTreeMap::new(),
        };
        live.take_inventory(events)?;
        if options.guard != Guarding::Off {
            live.enricher.lookups().probe().guard_older()?;
        }
        release_memory();
        Ok(live)
    }

    /// Which hooks are in use.
    #[must_use]
    pub const fn attached(&self) -> &Attached {
        &self.attached
    }

    /// Denies conflicting binds in these cgroups, for a source that was started with `guard`. Once.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn enforce(&mut self, cgroups: &[std::fs::File], settings: &Settings) -> Result<(), LiveError> {
        let standings = self.enricher.lookups().probe().standings()?;
        self.guard = Some((standings, settings.clone()));
        for known in self.enricher.kinships() {
            self.judge(known.process);
        }
        let probe = self.enricher.lookups().probe();
        Ok(cgroups.iter().try_for_each(|cgroup| probe.enforce(cgroup))?)
    }

    /// Lets what is enforced outlive this process.
    ///
    /// # Errors
    /// When it cannot be pinned.
    pub fn pin(&mut self) -> Result<(), LiveError> {
        Ok(self.enricher.lookups().probe().pin_guard()?)
    }

    /// Tells the guard how a process stands: of which pool it is, and what it is allowed.
    fn judge(&mut self, process: ProcessKey) {
        let Some((standings, settings)) = &mut self.guard else { return };
        if let Some((described, above)) = self.enricher.described(process) {
            let standing = settings.standing(&described, &above);
            if standing != Standing::default() {
                standings.set(process, &standing);
            }
        }
    }

    /// Forwards the probe's own diagnostics, where it was loaded with them.
    pub fn diagnostics(&mut self) -> Option<aya_log::EbpfLogger<&'static dyn log::Log>> {
        self.enricher.lookups().probe().logger()
    }

    /// Waits until there may be something to drain.
    ///
    /// # Errors
    /// When the ring cannot be waited for.
    pub async fn ready(&mut self) -> Result<(), LiveError> {
        // It came while others were read, or sockets were looked at. Signals are seen to in between.
        if self.has_more {
            tokio::task::yield_now().await;
            return Ok(());
        }
        let Some(reception) = self.waits.as_ref().map(Waits::reception) else {
            return self.has_records().await;
        };
        tokio::select! {
            () = reception.has_news() => Ok(()),
            ready = self.has_records() => ready,
        }
    }

    async fn has_records(&mut self) -> Result<(), LiveError> {
        let due = self.next_due().map(|due| Duration::from_nanos(due.since(clock::boot_now())));
        if self.quiet_looks < IDLE_AFTER {
            let are_waiting = self.waits.as_ref().is_some_and(Waits::are_there);
            let most = if are_waiting { DRAIN_SOON } else { DRAIN_EVERY };
            return self.pace.pause(due.map_or(most, |due| due.min(most))).await.map_err(LiveError::Timer);
        }
        let readable = self.ring.readable();
        let mut guard = match due {
            None => readable.await,
            Some(due) => match tokio::time::timeout(due, readable).await {
                Ok(guard) => guard,
                Err(_elapsed) => return Ok(()),
            },
        }
        .map_err(LiveError::Ring)?;
        guard.clear_ready();
        self.quiet_looks = 0;
        Ok(())
    }

    fn next_due(&self) -> Option<BootTime> {
        let settled = self.unsettled.map(Unsettled::due);
        let waits = self.waits.as_ref().and_then(Waits::next_due);
        [settled, self.moved.next_due(), self.enricher.next_due(), waits].into_iter().flatten().min()
    }

    /// Appends what the ring has from `until` and before, and what is due, to `events`. Whether there may be more of that.
    ///
    /// Who makes records without a pause can make them faster than they are read: without an end to what is read nothing else would
    /// ever be done.
    ///
    /// # Errors
    /// When the tables cannot be looked at again after a loss.
    pub fn drain(&mut self, until: BootTime, events: &mut Vec<Event>) -> Result<bool, LiveError> {
        let begin = clock::boot_now();
        let mut reading = self.take_records(until, events)?;
        if reading.is_whole() {
            self.forget_carried(until);
        }
        if reading.taken == 0 {
            self.quiet_looks = self.quiet_looks.saturating_add(1);
            if self.quiet_looks >= IDLE_AFTER {
                // A record that came since the last look would not ring the bell: look once more after asking for it.
                if self.idle.ask().is_err() {
                    self.quiet_looks = 0;
                }
                reading = self.take_records(until, events)?;
                if self.ring.get_ref().has_more() {
                    self.quiet_looks = 0;
                }
            }
        }
        let taken = reading.taken;
        if taken > 0 {
            self.quiet_looks = 0;
        }
        self.pace.looked(taken);
        if taken > 0 || self.quiet_looks == 1 {
            let asks_kernel = self.losses.asks_for_missed(begin) || self.quiet_looks == 1;
            self.count_losses(asks_kernel, events);
        }
        self.serve_waits(events);
        let now = clock::boot_now();
        if self.enricher.next_due().is_some_and(|due| due <= now) {
            let seen = self.enricher.due(now, &mut self.facts);
            self.stamp(events);
            if !seen.is_empty() {
                // What was made until then comes behind what was seen, as far as it is not what was seen.
                self.read_ahead();
                // Whoever reads of another device finds it guarded: whichever look it is that sees it.
                if self.guard.is_some() {
                    self.moved.take(now);
                    self.guard_older();
                }
                self.enricher.looked(seen, now, self.ahead.make_contiguous(), &mut self.facts);
                self.stamp(events);
            }
        }
        if self.moved.take(now) {
            self.guard_older();
        }
        if self.unsettled.is_some_and(|unsettled| unsettled.due() <= now) {
            self.unsettled = None;
            self.take_inventory(events)?;
        }
        if taken > 0 && now >= self.next_ports {
            self.count_ports(events);
        }
        self.enricher.forget_listing();
        // A few that came meanwhile are left for the next look: each look costs those who write.
        self.has_more = taken >= DRAIN_MAX || !self.ahead.is_empty();
        if reading.is_behind {
            std::thread::yield_now();
        }
        Ok(!reading.is_newer && (self.has_more || reading.is_behind))
    }

    /// Appends a fact of bindwatch's own. The processes that it names are made known first.
    pub fn insert(&mut self, body: Body, names: &[ProcessKey], events: &mut Vec<Event>) {
        let at = clock::boot_now();
        if let Body::Job(job) = &body
            && job.phase == JobPhase::End
        {
            self.make_good(events);
            // What the job leaves behind is told by who holds it now.
            if self.only_conflicts {
                self.tell_left(job, at);
            }
            self.enricher.settle(at, &mut self.facts);
        }
        for process in names {
            self.enricher.name(*process, at, &mut self.facts);
        }
        self.facts.push(Fact { at, hook: Hook::Bindwatch, body });
        self.stamp(events);
    }

    /// Appends how many connections these listeners have had, where it changed. [`ACCEPTED_TOLD_MAX`] of them at once.
    ///
    /// [`ACCEPTED_TOLD_MAX`]: crate::enrich::ACCEPTED_TOLD_MAX
    pub fn count(&mut self, listeners: &BTreeSet<Cookie>, events: &mut Vec<Event>) {
        self.enricher.accepted_by(listeners, clock::boot_now(), &mut self.facts);
        self.stamp(events);
    }

    /// After a loss: looks at the tables now, where a judgement is about to rest on what is known.
    fn make_good(&mut self, events: &mut Vec<Event>) {
        self.count_losses(true, events);
        if self.unsettled.take().is_some()
            && let Err(error) = self.take_inventory(events)
        {
            log::warn!("what was lost is not made good by a look at the sockets: {error}");
        }
    }

    /// Appends what is counted and not told, and what stands after a loss: at the end.
    pub fn finish(&mut self, events: &mut Vec<Event>) {
        self.make_good(events);
        self.enricher.accepted_so_far(clock::boot_now(), &mut self.facts);
        self.stamp(events);
        self.count_ports(events);
    }

    /// Counts who uses the ports that the kernel chooses from.
    fn count_ports(&mut self, events: &mut Vec<Event>) {
        let begin = clock::boot_now();
        let ports = self.enricher.lookups().ports();
        self.tell_ports(ports, begin, clock::boot_now().since(begin), events);
    }

    fn tell_ports(&mut self, mut ports: Vec<Counted>, at: BootTime, took: u64, events: &mut Vec<Event>) {
        self.next_ports = BootTime(at.0 + PORTS_EVERY_NS.max(took.saturating_mul(PORTS_REST)));
        ports.sort_by_key(|counted| std::cmp::Reverse(counted.used));
        if ports.len() > PORTS_MAX {
            let (bound, unit) = ("port-census".to_owned(), "counts".to_owned());
            let body = Body::Limit(Limit { bound, value: PORTS_MAX as u64, unit });
            self.facts.push(Fact { at, hook: Hook::Bindwatch, body });
        }
        let (told, mut changed) = (std::mem::take(&mut self.ports), Vec::new());
        for Counted { netns, protocol, range, used, users, rest } in ports.into_iter().take(PORTS_MAX) {
            let Some(range) = range else { continue };
            let ports = range.size();
            let counted = PortUse { asked_by: Seq(0), netns, protocol, ports, used, users, rest };
            let key = (netns, protocol);
            if told.get(&key) != Some(&counted) {
                changed.push((counted.clone(), range));
            }
            self.ports.insert(key, counted);
        }
        for (counted, range) in changed {
            self.enricher.ports_in_use(counted, range, at, &mut self.facts);
        }
        self.stamp(events);
    }

    /// A socket is told, of the few that are (`--events conflicts`): what becomes of such is told from now on. What became of
    /// it until now is seen at the next look at the tables.
    fn follow_shared_ports(&mut self) -> Result<(), LiveError> {
        if self.only_conflicts && self.enricher.lookups().probe().attach_for_shared_ports()? {
            self.unsettle();
        }
        Ok(())
    }

    /// Tells the guard of sockets that no hook could claim.
    fn guard_older(&mut self) {
        if let Err(error) = self.enricher.lookups().probe().guard_older() {
            log::warn!("sockets that got their port without a bind are not known to the guard: {error}");
        }
    }

    fn stamp(&mut self, events: &mut Vec<Event>) {
        for Fact { at, hook, body } in self.facts.drain(..) {
            events.push(Event { seq: self.seq, at, hook, body });
            self.seq.0 += 1;
        }
    }

    /// Leaves those sockets that conflict with others or are known already, and watches those that share their port.
    fn leave_conflicts(&mut self, sockets: &mut Vec<Found>) -> Result<(), LiveError> {
        let cookies = self.enricher.leave_conflicts(sockets);
        if cookies.is_empty() {
            return Ok(());
        }
        self.follow_shared_ports()?;
        let open = self.enricher.lookups().watch(&cookies);
        sockets.retain(|found| open.contains(&found.socket.cookie));
        cookies.difference(&open).for_each(|cookie| self.enricher.forget(*cookie));
        Ok(())
    }

    /// A job ended, and only conflicts were told: tells the sockets that its processes have left.
    fn tell_left(&mut self, job: &Job, at: BootTime) {
        let Ok(Survey { mut sockets, .. }) = self.enricher.lookups().survey() else { return };
        let mut is_left = |holder: &ProcessKey| {
            job.left.contains(holder)
                || self.enricher.described(*holder).is_some_and(|(_, above)| {
                    above.iter().any(|ancestor| Some(ancestor.process) == job.process)
                })
        };
        sockets.retain(|found| found.holders.iter().any(&mut is_left));
        let cookies: BTreeSet<Cookie> = sockets.iter().map(|found| found.socket.cookie).collect();
        if !cookies.is_empty()
            && let Err(error) = self.follow_shared_ports()
        {
            log::warn!("the ends of sockets that were left will not be noticed: {error}");
        }
        let open = if cookies.is_empty() { cookies } else { self.enricher.lookups().watch(&cookies) };
        for found in sockets {
            if open.contains(&found.socket.cookie) && !self.enricher.knows(found.socket.cookie) {
                self.enricher.found(found, at, Hook::TaskFile, &mut self.facts);
            }
        }
    }

    fn unsettle(&mut self) {
        let last = clock::boot_now();
        let first = self.unsettled.map_or(last, |unsettled| unsettled.first);
        self.unsettled = Some(Unsettled { first, last });
    }

    /// Makes an event of what was lost since the last look, where the kernel is asked with what it left out.
    fn count_losses(&mut self, asks_kernel: bool, events: &mut Vec<Event>) {
        let missed = asks_kernel.then(|| self.enricher.lookups().probe().missed());
        let counts = self.losses.since(self.counters.read(), missed);
        if counts.is_empty() {
            return;
        }
        self.insert(Body::Lost(Lost { counts }), &[], events);
        self.unsettle();
        if let Some(waits) = &mut self.waits {
            waits.missed_some(clock::boot_now());
        }
    }

    /// Looks at the kernel's tables and makes events of them.
    ///
    /// Records that came before or during the look and not yet read are newer than some of what it saw: a socket
    /// whose bind is among them is left to that record.
    fn take_inventory(&mut self, events: &mut Vec<Event>) -> Result<(), LiveError> {
        let begin = clock::boot_now();
        let Survey { mut sockets, members, unseen, ports } = self.enricher.lookups().survey()?;
        if self.only_conflicts {
            self.leave_conflicts(&mut sockets)?;
        }
        let took = clock::boot_now().since(begin);
        // They are taken as all others are, after what is found.
        self.read_ahead();
        let in_records: BTreeSet<Cookie> = self
            .ahead
            .iter()
            .filter_map(|stamped| match &stamped.record {
                Record::Bind(call) | Record::Listen(call) => Some(call.socket.cookie),
                _ => None,
            })
            .collect();
        let listed: BTreeSet<Cookie> = sockets.iter().map(|found| found.socket.cookie).collect();
        self.enricher.keep_only(&listed, unseen.is_empty(), begin);
        let phase = |phase, unseen| Body::Inventory(Inventory { phase, unseen });
        self.facts.push(Fact {
            at: begin,
            hook: Hook::Bindwatch,
            body: phase(InventoryPhase::Begin, Vec::new()),
        });
        for found in sockets {
            if self.enricher.knows(found.socket.cookie) || !in_records.contains(&found.socket.cookie) {
                self.enricher.found(found, begin, Hook::SockDiag, &mut self.facts);
                self.stamp(events);
            }
        }
        for cookie in members.into_iter().filter(|cookie| self.enricher.knows(*cookie)) {
            let body = Body::Option(OptionSet { cookie, setting: Setting::Multicast });
            self.facts.push(Fact { at: begin, hook: Hook::Proc, body });
        }
        self.facts.push(Fact { at: begin, hook: Hook::Bindwatch, body: phase(InventoryPhase::End, unseen) });
        self.stamp(events);
        self.tell_ports(ports, begin, took, events);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_looked_at_though_more_is_lost_all_the_time() {
        let mut unsettled = Unsettled { first: BootTime(7), last: BootTime(7) };
        assert_eq!(unsettled.due(), BootTime(7 + SETTLED_NS), "nothing more was lost");
        unsettled.last = BootTime(7 + 3 * SETTLED_NS);
        assert_eq!(unsettled.due(), BootTime(7 + 4 * SETTLED_NS));
        unsettled.last = BootTime(8 + UNSETTLED_MAX_NS);
        assert_eq!(unsettled.due(), BootTime(7 + UNSETTLED_MAX_NS), "losses go on");
    }
}
