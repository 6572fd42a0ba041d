//! What stays of the older events when a log is shortened: what is still held or lives, and what findings cite.
//!
//! A pure choice. The older events are read three times: for the sockets, for the processes that are named beside them,
//! and to count what goes.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::event::{Body, BootTime, Cookie, Event, Omitted, ProcessKey, Seq};

/// Sockets that were closed this long before the newer events may matter to those, ns: a refusal by what is left of one
/// names its last owner (TIME_WAIT lasts half of it).
const RECENT_NS: u64 = 120_000_000_000;
/// One such socket may stay for so many bytes of the log's size: about a tenth of it is theirs at most.
const RECENT_EACH: u64 = 8 << 10;

/// Which events are the older ones, and which of them findings cite.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    /// The last of the older events.
    pub(super) until: Seq,
    /// Events that findings cite.
    pub(super) cited: BTreeSet<Seq>,
    /// Size that the log may have, bytes.
    pub(super) limit: u64,
}

/// What the first reading is for.
pub(super) struct Sockets {
    wanted: Wanted,
    open: HashSet<Cookie>,
    closed: HashMap<Cookie, BootTime>,
    cited: HashSet<Cookie>,
    /// Calls that still wait.
    waiting: HashMap<Cookie, Seq>,
    ended: HashSet<ProcessKey>,
    /// Parent, and root of the lineage.
    families: HashMap<ProcessKey, [Option<ProcessKey>; 2]>,
    last: BootTime,
}

impl Sockets {
    pub(super) fn of(wanted: Wanted) -> Self {
        Self {
            wanted,
            open: HashSet::new(),
            closed: HashMap::new(),
            cited: HashSet::new(),
            waiting: HashMap::new(),
            ended: HashSet::new(),
            families: HashMap::new(),
            last: BootTime(0),
        }
    }

    pub(super) fn read(&mut self, event: &Event) {
        self.last = self.last.max(event.at);
        let cookie = event.body.cookie();
        if self.wanted.cited.contains(&event.seq) {
            self.cited.extend(cookie);
        }
        match &event.body {
            Body::Process(process) => {
                self.ended.remove(&process.process);
                self.families.insert(process.process, [process.parent, Some(process.lineage)]);
            }
            Body::Exit(exit) => drop(self.ended.insert(exit.process)),
            Body::Bind(_) | Body::Listen(_) | Body::Changed(_) | Body::Socket(_) => self.open.extend(cookie),
            Body::Close(_) | Body::Gone(_) => {
                let cookie =
                    cookie.filter(|cookie| self.open.remove(cookie) || self.closed.contains_key(cookie));
                self.closed.extend(cookie.map(|cookie| (cookie, event.at)));
            }
            Body::Waiting(waiting) => drop(self.waiting.insert(waiting.socket.cookie, event.seq)),
            Body::Waited(waited) => drop(self.waiting.remove(&waited.cookie)),
            _ => {}
        }
    }

    pub(super) fn chosen(mut self) -> Processes {
        let mut newest: Vec<(BootTime, Cookie)> =
            self.closed.iter().map(|(cookie, at)| (*at, *cookie)).collect();
        newest.sort_unstable_by(|a, b| b.cmp(a));
        let most = usize::try_from(self.wanted.limit / RECENT_EACH).unwrap_or(usize::MAX);
        let since = self.last.0.saturating_sub(RECENT_NS);
        let stay = newest.into_iter().take(most).filter(|(at, _)| at.0 >= since);
        self.closed = stay.map(|(at, cookie)| (cookie, at)).collect();
        let named = self.families.keys().filter(|process| !self.ended.contains(process)).copied().collect();
        Processes { sockets: self, named }
    }

    /// Whether an event stays that is not about a process.
    fn stay(&self, event: &Event) -> bool {
        let is_cited = |seq| self.wanted.cited.contains(&seq);
        if is_cited(event.seq) {
            return true;
        }
        match &event.body {
            Body::Inventory(_)
            | Body::PortRange(_)
            | Body::Lost(_)
            | Body::Limit(_)
            | Body::Job(_)
            | Body::Enforcement(_)
            | Body::Note(_) => true,
            Body::Table(row) => is_cited(row.asked_by),
            Body::PortUse(ports) => is_cited(ports.asked_by),
            Body::Waiting(waiting) => self.waiting.get(&waiting.socket.cookie) == Some(&event.seq),
            Body::Signal(signal) => !self.ended.contains(&signal.process),
            Body::Bind(_)
            | Body::Listen(_)
            | Body::Unlisten(_)
            | Body::Socket(_)
            | Body::Option(_)
            | Body::Changed(_)
            | Body::Accepted(_)
            | Body::Holders(_)
            | Body::Close(_)
            | Body::Gone(_) => event.body.cookie().is_some_and(|cookie| {
                self.open.contains(&cookie)
                    || self.closed.contains_key(&cookie)
                    || self.cited.contains(&cookie)
            }),
            Body::Process(_)
            | Body::Exit(_)
            | Body::BindFailed(_)
            | Body::Denied(_)
            | Body::Waited(_)
            | Body::Unresolved(_)
            | Body::ListenFailed(_)
            | Body::ConnectFailed(_)
            | Body::CgroupRemoved(_)
            | Body::Omitted(_) => false,
        }
    }
}

/// What the second reading is for.
pub(super) struct Processes {
    sockets: Sockets,
    /// Those that live, and those that are named.
    named: HashSet<ProcessKey>,
}

impl Processes {
    pub(super) fn read(&mut self, event: &Event) {
        if self.sockets.stay(event) {
            event.body.for_each_process(|process| {
                self.named.insert(process);
            });
        }
    }

    /// The choice. Whoever stays has ancestors that stay: kinship is told from them.
    pub(super) fn chosen(mut self) -> Keep {
        let mut next: Vec<ProcessKey> = self.named.iter().copied().collect();
        while let Some(process) = next.pop() {
            let above = self.sockets.families.get(&process).into_iter().flatten().flatten();
            next.extend(above.filter(|process| self.named.insert(**process)));
        }
        Keep(self)
    }
}

/// Which of the older events stay.
pub(super) struct Keep(Processes);

impl Keep {
    pub(super) fn stays(&self, event: &Event) -> bool {
        match &event.body {
            Body::Process(process) => self.0.named.contains(&process.process),
            Body::Exit(exit) => self.0.named.contains(&exit.process),
            _ => self.0.sockets.stay(event),
        }
    }

    /// Adds an event to what goes, if it does. What went before goes with it.
    pub(super) fn count(&self, event: &Event, gone: &mut Option<Omitted>) {
        let one = Omitted { events: 1, since: event.at, until: event.at, ..Omitted::default() };
        let more = match &event.body {
            Body::Omitted(before) => before.clone(),
            _ if self.stays(event) => return,
            Body::Bind(_) => Omitted { binds: 1, ..one },
            Body::BindFailed(_) => Omitted { binds_failed: 1, ..one },
            _ => one,
        };
        *gone = Some(match gone.take() {
            None => more,
            Some(gone) => Omitted {
                events: gone.events.saturating_add(more.events),
                binds: gone.binds.saturating_add(more.binds),
                binds_failed: gone.binds_failed.saturating_add(more.binds_failed),
                since: gone.since.min(more.since),
                until: gone.until.max(more.until),
            },
        });
    }
}
