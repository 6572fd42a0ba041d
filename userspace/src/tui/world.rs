//! What the screen shows: the ledger of every command, and beside it what only a screen needs (the last events, past
//! holders, rates). A fold of events: live and replay differ in where these come from and in nothing else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use super::history::{History, Spot};
use super::rates::Rates;
use crate::clock::Anchors;
use crate::drive::Recorder;
use crate::event::{Body, BootTime, Cookie, Event, Inum, PortRange, PortUse, Protocol, Rest, Seq};
use crate::ledger::finding::{Finding, FindingId, PortUser, Severity};
use crate::ledger::{Ledger, Settings, View};
use crate::log::Host;
use crate::secrets::mask_arguments;
use crate::sink::notices;
use crate::sink::{Report, Window, report_of};

/// Events remembered for the view of them.
pub const EVENTS_MAX: usize = 10_000;
/// Network namespaces and protocols whose ports are remembered.
const PORTS_MAX: usize = 256;

/// What is watched.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The machine.
    pub host: Host,
    /// Its clocks.
    pub clock: Anchors,
    /// Since when.
    pub start: BootTime,
    /// Hooks in use.
    pub hooks: usize,
    /// Hooks that could not be used, and what that costs.
    pub refused: Vec<String>,
    /// Arguments are shown as they are.
    pub show_secrets: bool,
    /// What makes it less than whole.
    pub notices: Vec<String>,
}

/// Who uses the ports that the kernel chooses from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PortsSeen {
    /// The range, where it is known.
    pub range: Option<PortRange>,
    /// Ports of it that were in use.
    pub used: u32,
    /// By whom, most first.
    pub users: Vec<PortUser>,
    /// By others.
    pub others: Rest,
    /// When this was counted.
    pub at: BootTime,
}

/// Everything there is to show.
pub struct World {
    origin: Origin,
    settings: Settings,
    recorder: Recorder,
    events: VecDeque<Event>,
    history: History,
    rates: Rates,
    /// Findings as they were when they last changed.
    found: BTreeMap<FindingId, Rc<Finding>>,
    stale: BTreeSet<FindingId>,
    ranges: BTreeMap<Inum, PortRange>,
    ports: BTreeMap<(Inum, Protocol), PortsSeen>,
    now: BootTime,
    generation: u64,
}

impl World {
    /// Before the first event.
    #[must_use]
    pub fn new(origin: Origin, settings: Settings) -> Self {
        Self {
            recorder: Recorder::new(None, settings.clone(), origin.clock),
            now: origin.start,
            origin,
            settings,
            events: VecDeque::new(),
            history: History::default(),
            rates: Rates::default(),
            found: BTreeMap::new(),
            stale: BTreeSet::new(),
            ranges: BTreeMap::new(),
            ports: BTreeMap::new(),
            generation: 0,
        }
    }

    /// Before the first event again.
    #[must_use]
    pub fn emptied(&self) -> Self {
        let mut new = Self::new(self.origin.clone(), self.settings.clone());
        new.generation = self.generation + 1;
        new
    }

    /// Takes events, in order.
    pub fn take(&mut self, events: &mut Vec<Event>) {
        if events.is_empty() {
            return;
        }
        for event in events.drain(..) {
            self.history.before(&event, self.recorder.ledger().view());
            self.rates.event(&event);
            self.stale.extend(self.recorder.apply(&event));
            self.now = self.now.max(event.at);
            match &event.body {
                Body::PortRange(range) => self.range(range.clone()),
                Body::PortUse(seen) => self.counted(seen, event.at),
                _ => {}
            }
            if self.events.len() >= EVENTS_MAX {
                self.events.pop_front();
            }
            self.events.push_back(event);
        }
        self.recorder.settle();
        self.generation += 1;
    }

    /// Time went on to `now`. Whether that shows.
    pub fn tick(&mut self, now: BootTime) -> bool {
        let fades = self.rates.fades(self.now);
        self.now = self.now.max(now);
        let due = self.recorder.next_due().is_some_and(|due| due <= now);
        if due {
            self.recorder.tick(now);
            self.generation += 1;
        }
        fades || due
    }

    /// When something that is held back is due to be shown.
    #[must_use]
    pub fn next_due(&self) -> Option<BootTime> {
        self.recorder.next_due()
    }

    /// Brings the findings up to date; before anything of them is shown.
    pub fn refresh(&mut self) {
        let mut held = BTreeSet::new();
        for id in std::mem::take(&mut self.stale) {
            if self.recorder.is_held(id) {
                held.insert(id);
                continue;
            }
            match self.recorder.ledger().finding(id) {
                None => drop(self.found.remove(&id)),
                Some(mut finding) => {
                    if !self.origin.show_secrets {
                        mask(&mut finding);
                    }
                    self.found.insert(id, Rc::new(finding));
                }
            }
        }
        self.stale = held;
    }

    fn range(&mut self, range: PortRange) {
        if self.ranges.len() >= PORTS_MAX {
            self.ranges.clear();
        }
        for ((netns, _), seen) in &mut self.ports {
            if *netns == range.netns {
                seen.range = Some(range.clone());
            }
        }
        self.ranges.insert(range.netns, range);
    }

    fn counted(&mut self, counted: &PortUse, at: BootTime) {
        let view = self.recorder.ledger().view();
        let users = counted.users.iter().map(|user| {
            let facts = view.process(user.process);
            PortUser {
                process: user.process,
                comm: facts.map(|facts| facts.comm.clone()).unwrap_or_default(),
                exe: facts.map(|facts| facts.exe.clone()).unwrap_or_default(),
                ended: user.ended,
                sockets: user.sockets,
                time_wait: user.time_wait,
            }
        });
        let seen = PortsSeen {
            range: self.ranges.get(&counted.netns).cloned(),
            used: counted.used,
            users: users.collect(),
            others: counted.rest,
            at,
        };
        self.ports_counted(counted.netns, counted.protocol, seen);
    }

    /// Takes a count of the ports in use, as the kernel's tables had it.
    pub fn ports_counted(&mut self, netns: Inum, protocol: Protocol, seen: PortsSeen) {
        if self.ports.len() >= PORTS_MAX {
            self.ports.clear();
        }
        if self
            .ports
            .get(&(netns, protocol))
            .is_none_or(|old| PortsSeen { at: seen.at, ..old.clone() } != seen)
        {
            self.generation += 1;
        }
        self.ports.insert((netns, protocol), seen);
    }

    /// Says what makes the source less than whole.
    pub fn say(&mut self, notices: Vec<String>) {
        self.origin.notices = notices;
    }

    /// Grows whenever something changes that a view could show.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Where this comes from.
    #[must_use]
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The time that it is here: of the last event, or later.
    #[must_use]
    pub const fn now(&self) -> BootTime {
        self.now
    }

    /// The ledger.
    #[must_use]
    pub const fn ledger(&self) -> &Ledger {
        self.recorder.ledger()
    }

    /// What is held now.
    #[must_use]
    pub const fn view(&self) -> View<'_> {
        self.recorder.ledger().view()
    }

    /// Who held what before.
    #[must_use]
    pub const fn history(&self) -> &History {
        &self.history
    }

    /// `tcp 127.0.0.1:80`: where a socket is, or was when it was closed.
    #[must_use]
    pub fn place_of(&self, cookie: Cookie) -> Option<String> {
        let open = self.view().socket(cookie).filter(|socket| socket.port() != 0).map(Spot::of);
        open.or_else(|| self.history.closed(cookie)).map(|spot| spot.to_string())
    }

    /// How many binds there are.
    #[must_use]
    pub const fn rates(&self) -> &Rates {
        &self.rates
    }

    /// The last events, oldest first.
    #[must_use]
    pub const fn events(&self) -> &VecDeque<Event> {
        &self.events
    }

    /// An event by its number, if it is among the last.
    #[must_use]
    pub fn event(&self, seq: Seq) -> Option<&Event> {
        let at = self.events.partition_point(|event| event.seq < seq);
        self.events.get(at).filter(|event| event.seq == seq)
    }

    /// The findings, as of the last [`World::refresh`].
    pub fn findings(&self) -> impl DoubleEndedIterator<Item = &Rc<Finding>> {
        self.found.values()
    }

    /// One of them.
    #[must_use]
    pub fn finding(&self, id: FindingId) -> Option<&Rc<Finding>> {
        self.found.get(&id)
    }

    /// Findings of a severity, and how many of them are live.
    #[must_use]
    pub fn count(&self, severity: Severity) -> (usize, usize) {
        let of_it = self.found.values().filter(|finding| finding.kind.severity() == severity);
        of_it.fold((0, 0), |(all, live), finding| (all + 1, live + usize::from(finding.live)))
    }

    /// Ports in use, by network namespace and protocol.
    pub fn ports(&self) -> impl Iterator<Item = (&(Inum, Protocol), &PortsSeen)> {
        self.ports.iter()
    }

    /// Arguments as they may be shown.
    #[must_use]
    pub fn arguments(&self, arguments: &[String]) -> Vec<String> {
        let mut arguments = arguments.to_vec();
        if !self.origin.show_secrets {
            mask_arguments(&mut arguments);
        }
        arguments
    }

    /// What makes all this less than whole, as sentences.
    #[must_use]
    pub fn notices(&self) -> Vec<String> {
        let stats = self.ledger().stats();
        let mut notices: Vec<String> = notices::of_loss(&stats.lost_by_kind).into_iter().collect();
        notices.extend(notices::of_limits(stats.limits.keys()));
        notices.extend(self.recorder.notices());
        notices.extend(self.origin.notices.iter().cloned());
        notices
    }

    /// All of it as a report.
    #[must_use]
    pub fn report(&self, complete: bool) -> Report {
        let Origin { host, clock, start, show_secrets, .. } = &self.origin;
        let window = Window { start: *start, end: self.now, complete };
        let mut report = report_of(self.ledger(), host.clone(), *clock, window, *show_secrets)
            .with_notes(self.recorder.notes().to_vec());
        self.origin.notices.iter().for_each(|notice| report.notice(notice));
        self.recorder.notices().iter().for_each(|notice| report.notice(notice));
        report
    }
}

fn mask(finding: &mut Finding) {
    let victim = finding.victim.as_mut().map(|victim| &mut victim.holder);
    for holder in finding.holders.iter_mut().chain(victim).chain(finding.last_owner.as_mut()) {
        mask_arguments(&mut holder.cmdline);
    }
}
