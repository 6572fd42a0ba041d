//! Sockets that outlive what they belong to: a job, the process that bound them, the parent that started their server.

use std::collections::{BTreeMap, BTreeSet};

use crate::event::{BootTime, Cookie, Job, JobPhase, Known, ProcessKey};

use super::finding::{FindingId, Kind};
use super::party::Party;
use super::place::{Place, PortKey};
use super::record::Moment;
use super::settings::is_at_or_below;
use super::socket::{Socket, State};
use super::{Ledger, program};

/// How long a server may outlive the parent that started it, ns: a parent that asks it to end does not always wait.
pub(super) const FAREWELL_NS: u64 = 1_000_000_000;
/// Sockets of jobs that are watched for the end of a parent, sockets.
const WARDS_MAX: usize = 65_536;
/// A full list is swept once for so many sockets that find no room, sockets.
const SWEEP_EVERY: usize = 4_096;
/// Jobs at once; `run` has one.
const JOBS_MAX: usize = 64;

/// Sockets that were bound in a job, by the process whose end their servers should not outlive.
#[derive(Default)]
pub(super) struct Wards {
    /// First processes of the jobs that go on.
    jobs: BTreeSet<ProcessKey>,
    by_starter: BTreeMap<ProcessKey, BTreeSet<Cookie>>,
    count: usize,
    /// Sockets that found no room since the last that did.
    refused: usize,
    /// Those whose starter has ended: when they are looked at, and its end.
    due: BTreeMap<(BootTime, Cookie), (ProcessKey, Moment)>,
}

impl Wards {
    /// A process ended.
    pub(super) fn ended(&mut self, process: ProcessKey, now: Moment) {
        let cookies = self.by_starter.remove(&process).unwrap_or_default();
        self.count -= cookies.len();
        let at = BootTime(now.at.0.saturating_add(FAREWELL_NS));
        self.due.extend(cookies.into_iter().map(|cookie| ((at, cookie), (process, now))));
    }

    fn next_due(&self) -> Option<BootTime> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    /// Forgets the sockets that are closed.
    fn sweep(&mut self, is_open: impl Fn(Cookie) -> bool) {
        self.by_starter.retain(|_, cookies| {
            cookies.retain(|cookie| is_open(*cookie));
            !cookies.is_empty()
        });
        self.count = self.by_starter.values().map(BTreeSet::len).sum();
    }
}

/// What an orphan outlived.
#[derive(Clone, Copy)]
enum Belonged<'a> {
    /// The process that bound it and that it was inherited from.
    Binder(ProcessKey),
    /// A cgroup.
    Cgroup(&'a str),
    /// A job.
    Elsewhere,
    /// The parent of its server, by [`FAREWELL_NS`].
    Outlived,
}

impl<'a> Belonged<'a> {
    const fn binder(self) -> Option<ProcessKey> {
        if let Self::Binder(process) = self { Some(process) } else { None }
    }

    const fn cgroup(self) -> Option<&'a str> {
        if let Self::Cgroup(path) = self { Some(path) } else { None }
    }
}

impl Ledger {
    /// A job began or ended: at its end, what only its own processes still hold is orphaned.
    pub(super) fn job(&mut self, job: &Job, now: Moment) {
        if job.phase == JobPhase::Start {
            self.watch_command(&job.cgroup);
            if let Some(process) = job.process.filter(|_| self.wards.jobs.len() < JOBS_MAX) {
                self.wards.jobs.insert(process);
            }
            return;
        }
        if let Some(process) = job.process {
            self.wards.jobs.remove(&process);
        }
        let left: BTreeSet<ProcessKey> = job.left.iter().copied().collect();
        let whole_machine = job.cgroup.trim_matches('/').is_empty();
        // By its cgroup, or, where it left that, by descent.
        let belongs = |process: ProcessKey| {
            left.contains(&process)
                || job.process.is_some_and(|first| first == process || self.kin.is_ancestor(first, process))
                || (!whole_machine
                    && self
                        .kin
                        .facts(process)
                        .is_some_and(|facts| is_at_or_below(&facts.cgroup, &job.cgroup)))
        };
        let orphans: Vec<Cookie> = self
            .holdings
            .in_order()
            .filter(|socket| is_open(socket) && socket.holders().iter().all(|holder| belongs(*holder)))
            .map(|socket| socket.cookie)
            .collect();
        self.orphan(orphans, Belonged::Elsewhere, now, now);
    }

    /// A cgroup was removed: what was bound in it, or below it, and is held by its binder or descendants of that, which
    /// left in time, is orphaned. Who was handed such a socket goes on serving.
    pub(super) fn cgroup_removed(&mut self, path: &str, now: Moment) {
        if path.trim_matches('/').is_empty() {
            return;
        }
        let outlives = |socket: &Socket| {
            let Some(bound_as) = &socket.bound_as else { return false };
            let binder = bound_as.process;
            is_open(socket)
                && is_at_or_below(&bound_as.cgroup, path)
                && socket.holders().iter().all(|holder| {
                    !self.kin.has_ended(*holder)
                        && (*holder == binder || self.kin.is_ancestor(binder, *holder))
                })
        };
        let orphans = self.holdings.in_order().filter(|socket| outlives(socket));
        let orphans: Vec<Cookie> = orphans.map(|socket| socket.cookie).collect();
        self.orphan(orphans, Belonged::Cgroup(path), now, now);
    }

    /// A process bound a socket: should that be in a job, the socket is not to outlive the process's starter.
    pub(super) fn ward(&mut self, cookie: Cookie, process: ProcessKey) {
        if self.wards.jobs.is_empty() || self.holdings.get(cookie).is_none_or(|socket| socket.port.port == 0)
        {
            return;
        }
        let of_a_job = |ancestor| self.wards.jobs.contains(&ancestor);
        // The script, not the subshell of it that executed the server: `(cd server && ./serve &)`.
        let parent = self.kin.parent(self.kin.lineage(process));
        let Some(starter) = parent.map(|parent| self.kin.lineage(parent)) else { return };
        // The end of the job's first process is the job's.
        if of_a_job(starter) || !self.kin.ancestors(starter).any(of_a_job) {
            return;
        }
        // Where most are open a sweep finds little: not for each that comes.
        if self.wards.count >= WARDS_MAX && self.wards.refused.is_multiple_of(SWEEP_EVERY) {
            let holdings = &self.holdings;
            self.wards.sweep(|cookie| holdings.get(cookie).is_some());
        }
        if self.wards.count >= WARDS_MAX {
            self.wards.refused += 1;
            self.stats.reached("job-sockets", 1);
            return;
        }
        self.wards.refused = 0;
        let is_new = self.wards.by_starter.entry(starter).or_default().insert(cookie);
        self.wards.count += usize::from(is_new);
    }

    /// Looks at the sockets whose server's starter ended [`FAREWELL_NS`] ago.
    ///
    /// A server that made a session of its own wants to go on by itself (daemon(7)), and is left alone.
    pub(super) fn outlived(&mut self, now: Moment) {
        while self.wards.next_due().is_some_and(|due| due <= now.at) {
            let Some(((_, cookie), (starter, ended))) = self.wards.due.pop_first() else { return };
            // What was started by PID 1 and made none of its own is in session 0.
            let session_of = |process: ProcessKey| {
                self.kin.facts(process).filter(|facts| facts.known != Known::Name).map(|facts| facts.session)
            };
            let session = session_of(starter);
            let stays_in_session = |holder: &ProcessKey| session.is_some() && session_of(*holder) == session;
            let outlives_all_of_it = |holder: &ProcessKey| {
                let above = self.kin.ancestors(*holder);
                let mut of_starter = above.filter(|one| self.kin.lineage(*one) == starter).peekable();
                of_starter.peek().is_some() && of_starter.all(|one| self.kin.has_ended(one))
            };
            let outlives = |socket: &Socket| {
                is_open(socket)
                    && socket.holders().iter().all(|holder| {
                        !self.kin.has_ended(*holder) && outlives_all_of_it(holder) && stays_in_session(holder)
                    })
            };
            if self.holdings.get(cookie).is_some_and(outlives) {
                self.orphan(vec![cookie], Belonged::Outlived, ended, now);
            }
        }
    }

    /// A socket whose binder has ended and that descendants have, which run other programs: it was left open for them
    /// by mistake. Descendants of the same program, and those that it was handed to, go on serving.
    pub(super) fn inherited(&mut self, cookie: Cookie, now: Moment) {
        let Some(socket) = self.holdings.get(cookie) else { return };
        let Some(binder) = socket.binder.filter(|binder| self.kin.has_ended(*binder)) else { return };
        let leaked = |holder: &ProcessKey| {
            let facts = self.kin.facts(*holder).filter(|facts| facts.known != Known::Name);
            let servers = self.kin.facts(binder);
            facts.is_some()
                && servers.is_some_and(|facts| facts.known != Known::Name)
                && self.kin.lineage(*holder) != self.kin.lineage(binder)
                && self.kin.is_ancestor(binder, *holder)
                && !program::same(facts.map(AsRef::as_ref), servers.map(AsRef::as_ref))
        };
        // What was bound before the recording could have been handed over on purpose by a binder that is not known.
        if socket.since.is_some() && is_open(socket) && socket.holders().iter().all(leaked) {
            self.orphan(vec![cookie], Belonged::Binder(binder), now, now);
        }
    }

    /// Makes findings of sockets that belong to nothing any more `since` then: one for each endpoint and set of
    /// processes. Those that are known as orphans only get another piece of evidence.
    fn orphan(&mut self, cookies: Vec<Cookie>, to: Belonged<'_>, since: Moment, now: Moment) {
        let mut groups: BTreeMap<(PortKey, Place, Vec<ProcessKey>), Vec<Cookie>> = BTreeMap::new();
        for cookie in cookies {
            let Some(socket) = self.holdings.get(cookie) else { continue };
            let mut holders = socket.holders().to_vec();
            holders.sort_unstable();
            groups.entry((socket.port, socket.place, holders)).or_default().push(cookie);
        }
        for ((port, place, holders), mut cookies) in groups {
            cookies.sort_unstable_by_key(|cookie| {
                (self.holdings.get(*cookie).map(|socket| socket.known), *cookie)
            });
            let known = self.known_orphan(port, place, &holders);
            let owner = to.binder().and_then(|binder| {
                let socket = cookies.first().and_then(|cookie| self.holdings.get(*cookie))?;
                Some(Party::holding(&self.kin, binder, socket).holder())
            });
            let record = match known {
                Some(id) => self.records.touch(id),
                None => self.records.open(Kind::Orphan, port, place.address(), now),
            };
            let Some(record) = record else {
                self.stats.reached("findings", 1);
                return;
            };
            if known.is_none() {
                record.live = true;
                record.first_seen = since.at;
                record.removed_cgroup = to.cgroup().map(str::to_owned);
                record.presumed = true;
            }
            record.presumed &= matches!(to, Belonged::Outlived);
            record.last_owner = record.last_owner.take().or(owner);
            record.evidence.add(since.seq);
            record.evidence.add(now.seq);
            for socket in cookies.iter().filter_map(|cookie| self.holdings.get(*cookie)) {
                record.add_socket_evidence(socket);
                for process in socket.holders() {
                    record.join(Party::holding(&self.kin, *process, socket));
                }
            }
            self.stats.note_cut(record);
            let id = record.id;
            self.records.link(id, &mut self.holdings);
        }
    }

    /// The live finding on orphans of these processes at this place.
    fn known_orphan(&self, port: PortKey, place: Place, holders: &[ProcessKey]) -> Option<FindingId> {
        let named = self.holdings.at(port, place).flat_map(|socket| socket.findings.iter().copied());
        let mut candidates: Vec<FindingId> = named.collect();
        candidates.sort_unstable();
        candidates.dedup();
        candidates.into_iter().find(|id| {
            self.records.get(*id).is_some_and(|record| {
                let live = record.parties.iter().filter(|party| party.released_at.is_none());
                let mut processes: Vec<ProcessKey> = live.map(|party| party.process).collect();
                processes.sort_unstable();
                record.kind == Kind::Orphan && record.live && processes == holders
            })
        })
    }
}

/// Whether somebody has it, and it is not one connection: in flight it is nobody's, and with its last holder just
/// ended it is about to be closed.
fn is_open(socket: &Socket) -> bool {
    !socket.unheld && socket.state != State::Connected && !socket.holders().is_empty()
}
