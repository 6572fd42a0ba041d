//! Every process, from fork, exec and exit as they happen, so that one that lived two milliseconds has a name.
//!
//! A process becomes an event only when something names it: most processes never touch a port.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

use super::{Fact, Names};
use crate::cgroup2;
use crate::cli::Cmdline;
use crate::event::{Body, BootTime, Hook, Known, Mark, Process, ProcessKey, Uid};
use crate::ledger::{LIVE_MAX, with_ancestors};
use crate::probe::Kinship;
use crate::proc::{Proc, container_id};
use crate::wire::{Exec, Fork, Task};

/// Ancestors that are made known with a process.
const ANCESTORS_MAX: usize = 64;

/// Ended processes that are remembered, for what names them later: an owner of TIME_WAIT, a sender of a signal.
pub(super) const ENDED_MAX: usize = 4096;

/// Processes that ended before these [`ENDED_MAX`] and are remembered for a child that lives, or that one has. Only a
/// line of forks whose parents end has so many, such as a daemon that replaces itself: it loses its first ancestors.
pub(super) const ENDED_PARENTS_MAX: usize = 4 * ENDED_MAX;

/// What a process runs; shared by everything it forked.
#[derive(Debug, Default)]
struct Program {
    /// Resolved when it is first told.
    exe: String,
    /// As it was executed; empty when `exe` is known.
    executed: String,
    cmdline: Vec<String>,
    cmdline_cut: bool,
}

#[derive(Debug)]
struct Entry {
    parent: Option<ProcessKey>,
    lineage: ProcessKey,
    known: Known,
    comm: String,
    program: Rc<Program>,
    uid: Uid,
    session: u32,
    cgroup: Cgroup,
    container: Option<String>,
    /// What its environment says, once that was asked.
    mark: Option<Option<Mark>>,
    /// The name of the job that its environment tells of, or that of its parent.
    job: Option<String>,
    /// Children that are in the table: they need this entry's name.
    children: u32,
    /// Forks of it that were seen.
    forks: u64,
    /// It ended.
    ended: bool,
    /// It ended, and so did [`ENDED_MAX`] others since.
    forgettable: bool,
    /// It was told, with the facts it has now.
    told: bool,
    /// It was told once.
    published: bool,
}

/// A cgroup by its id until its path is asked for.
#[derive(Clone, Debug, PartialEq)]
enum Cgroup {
    Id(u64),
    Path(String),
}

/// The table of processes.
pub struct Processes {
    entries: HashMap<ProcessKey, Entry>,
    /// Ended processes, in the order of their ends.
    ended: VecDeque<ProcessKey>,
    /// Those before them that had children when they would have been forgotten.
    ended_parents: VecDeque<ProcessKey>,
    /// How many the table may have before [`Processes::sweep`].
    sweep_at: usize,
    names: Names,
    /// cgroups of the processes that were told.
    told_in: BTreeSet<String>,
    proc: Option<Proc>,
    cmdline: Cmdline,
    mask: fn(&mut [String]),
}

impl Processes {
    /// Nobody yet. `mask` hides what must not be kept of an argument list.
    #[must_use]
    pub fn new(cmdline: Cmdline, mask: fn(&mut [String])) -> Self {
        Self {
            entries: HashMap::new(),
            ended: VecDeque::new(),
            ended_parents: VecDeque::new(),
            sweep_at: LIVE_MAX,
            names: Names::default(),
            told_in: BTreeSet::new(),
            proc: Proc::open().ok(),
            cmdline,
            mask,
        }
    }

    /// Takes every process there is now. To be called after the hooks are attached: what happens meanwhile comes as
    /// records, which win.
    pub fn scan(&mut self) {
        let Some(proc) = &mut self.proc else { return };
        for process in proc.scan_all() {
            self.adopt(process);
        }
    }

    /// Takes what `/proc` says of a process, unless records have told more.
    fn adopt(&mut self, process: Process) {
        let key = process.process;
        let known = self.entries.get(&key);
        if known.is_some_and(|entry| entry.known != Known::Name) {
            return;
        }
        // The parent at fork, where the fork was seen; in `/proc` is the parent of today.
        let (fork_parent, children, forks, ended) = known
            .map_or((None, 0, 0, false), |entry| (entry.parent, entry.children, entry.forks, entry.ended));
        if fork_parent.is_none() {
            self.child_of(process.parent);
        }
        let program = Program {
            exe: process.exe,
            executed: String::new(),
            cmdline: process.cmdline,
            cmdline_cut: process.cmdline_cut,
        };
        let entry = Entry {
            parent: fork_parent.or(process.parent),
            lineage: process.lineage,
            known: process.known,
            comm: process.comm,
            program: Rc::new(program),
            uid: process.uid,
            session: process.session,
            cgroup: Cgroup::Path(process.cgroup),
            container: process.container,
            mark: process.mark.map(Some),
            job: process.job,
            children,
            forks,
            ended,
            forgettable: false,
            told: false,
            published: false,
        };
        self.entries.insert(key, entry);
    }

    /// The live processes and what relates them.
    #[must_use]
    pub fn kinships(&self) -> Vec<Kinship> {
        let live = self.entries.iter().filter(|(_, entry)| !entry.ended);
        live.map(|(process, entry)| Kinship {
            process: *process,
            lineage: entry.lineage,
            ancestors: self.ancestors(*process),
        })
        .collect()
    }

    /// Its ancestors, nearest first, as they were at fork.
    #[must_use]
    pub fn ancestors(&self, process: ProcessKey) -> Vec<ProcessKey> {
        std::iter::successors(self.parent(process), |ancestor| self.parent(*ancestor))
            .take(ANCESTORS_MAX)
            .collect()
    }

    fn parent(&self, process: ProcessKey) -> Option<ProcessKey> {
        self.entries.get(&process).and_then(|entry| entry.parent)
    }

    /// A process was made.
    pub fn forked(&mut self, fork: &Fork, cgroups: &mut cgroup2::Paths, at: BootTime, facts: &mut Vec<Fact>) {
        if let Some(parent) = self.entries.get_mut(&fork.parent) {
            parent.forks += 1;
        }
        if let Some(known) = self.entries.get(&fork.child) {
            // A look met it after its fork and before this record. It may have executed since, which comes next, and its
            // parent may have ended, so that it was found with the one it was given to.
            if known.parent != Some(fork.parent) {
                self.born_of(fork, cgroups, at, facts);
            }
            return;
        }
        let entry = match self.entries.get(&fork.parent) {
            Some(parent) => Entry {
                parent: Some(fork.parent),
                lineage: parent.lineage,
                // What it runs is still to be asked, as of its parent.
                known: if parent.known == Known::Name { Known::Name } else { Known::Fork },
                comm: parent.comm.clone(),
                program: Rc::clone(&parent.program),
                uid: parent.uid,
                session: fork.session,
                cgroup: parent.cgroup.clone(),
                container: parent.container.clone(),
                mark: None,
                job: parent.job.clone(),
                children: 0,
                forks: 0,
                ended: false,
                forgettable: false,
                told: false,
                published: false,
            },
            None => Entry { parent: Some(fork.parent), session: fork.session, ..Entry::unknown(fork.child) },
        };
        self.child_of(Some(fork.parent));
        self.entries.insert(fork.child, entry);
    }

    /// Puts a process where its fork says, and tells it again if it was told.
    fn born_of(&mut self, fork: &Fork, cgroups: &mut cgroup2::Paths, at: BootTime, facts: &mut Vec<Fact>) {
        let of_parent = self.entries.get(&fork.parent).map(|parent| parent.lineage);
        let Some(entry) = self.entries.get_mut(&fork.child) else { return };
        let given_to = entry.parent.replace(fork.parent);
        entry.lineage = of_parent.unwrap_or(entry.lineage);
        entry.told = false;
        let published = entry.published;
        if let Some(other) = given_to.and_then(|other| self.entries.get_mut(&other)) {
            other.children = other.children.saturating_sub(1);
        }
        self.child_of(Some(fork.parent));
        if published {
            self.publish(fork.child, None, cgroups, at, facts);
        }
    }

    /// A process executed a program.
    pub fn executed(
        &mut self,
        exec: &Exec,
        cgroups: &mut cgroup2::Paths,
        at: BootTime,
        facts: &mut Vec<Fact>,
    ) {
        let key = exec.task.process;
        if !self.entries.contains_key(&key) {
            let parent = Some(exec.parent).filter(|parent| *parent != key);
            self.child_of(parent);
            let entry = Entry { parent, ..Entry::unknown(key) };
            self.entries.insert(key, entry);
        }
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.lineage = key;
        entry.known = Known::Exec;
        entry.comm.clone_from(&exec.task.comm);
        entry.uid = exec.task.uid;
        entry.session = exec.session;
        entry.mark = None;
        entry.cgroup = Cgroup::Id(exec.task.cgroup);
        entry.program = Rc::new(Program {
            exe: String::new(),
            executed: exec.interp.clone(),
            cmdline: exec.args.clone(),
            cmdline_cut: exec.args_cut,
        });
        entry.told = false;
        if entry.published {
            self.publish(key, None, cgroups, at, facts);
        }
    }

    /// A process ended. Whether it was ever told.
    pub fn ended(&mut self, key: ProcessKey) -> bool {
        let Some(entry) = self.entries.get_mut(&key).filter(|entry| !entry.ended) else { return false };
        entry.ended = true;
        let published = entry.published;
        self.ended.push_back(key);
        if self.ended.len() > ENDED_MAX
            && let Some(oldest) = self.ended.pop_front()
        {
            self.forget_in_time(oldest);
        }
        published
    }

    /// The root of a process's lineage; one that is not known is its own.
    #[must_use]
    pub fn lineage(&self, key: ProcessKey) -> ProcessKey {
        self.entries.get(&key).map_or(key, |entry| entry.lineage)
    }

    /// Whether a process is known to have ended.
    #[must_use]
    pub fn has_ended(&self, key: ProcessKey) -> bool {
        self.entries.get(&key).is_some_and(|entry| entry.ended)
    }

    /// How many children a process was seen to make; None when it is not known, or no longer.
    #[must_use]
    pub fn children_of(&self, key: ProcessKey) -> Option<u64> {
        self.entries.get(&key).map(|entry| entry.forks)
    }

    /// Forgets a process now, or when its last child is forgotten, or when too many wait for that.
    fn forget_in_time(&mut self, key: ProcessKey) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.forgettable = true;
        if entry.children == 0 {
            self.forget(key);
            return;
        }
        self.ended_parents.push_back(key);
        if self.ended_parents.len() > ENDED_PARENTS_MAX
            && let Some(oldest) = self.ended_parents.pop_front()
        {
            if let Some(entry) = self.entries.get_mut(&oldest) {
                entry.children = 0;
            }
            self.forget(oldest);
        }
    }

    /// Whether more are in the table than should be: time to [`Processes::sweep`].
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.entries.len() > self.sweep_at
    }

    /// Forgets those that have not ended, but for the youngest (half of as many as may live), for `holders` and for the
    /// ancestors of any that stays: the ends of most of the others were lost. Whoever lives nonetheless is asked for again
    /// when something names it.
    pub fn sweep(&mut self, holders: impl Iterator<Item = ProcessKey>) {
        let mut live: Vec<ProcessKey> =
            self.entries.iter().filter(|(_, entry)| !entry.ended).map(|(key, _)| *key).collect();
        live.sort_unstable_by_key(|key| Reverse((key.start, key.tgid)));
        live.truncate(LIVE_MAX / 2);
        let stay = with_ancestors(live.into_iter().chain(holders), |key| self.parent(key));
        // What has ended has a bound of its own.
        let over: Vec<ProcessKey> = self
            .entries
            .iter()
            .filter(|(key, entry)| !entry.ended && !stay.contains(key))
            .map(|(key, _)| *key)
            .collect();
        for key in over {
            let parent = self.entries.remove(&key).and_then(|entry| entry.parent);
            if let Some(parent) = parent.and_then(|parent| self.entries.get_mut(&parent)) {
                parent.children = parent.children.saturating_sub(1);
            }
        }
        self.sweep_at = LIVE_MAX.max(self.entries.len() + LIVE_MAX / 2);
    }

    /// How many are in the table.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Name and user of a process, as far as they are known.
    #[must_use]
    pub fn name_and_user(&self, key: ProcessKey) -> (String, Uid) {
        self.entries.get(&key).map_or((String::new(), Uid(0)), |entry| (entry.comm.clone(), entry.uid))
    }

    /// Whether a process was told.
    #[must_use]
    pub fn is_published(&self, key: ProcessKey) -> bool {
        self.entries.get(&key).is_some_and(|entry| entry.published)
    }

    /// Drops entries that nobody needs: ended long ago, and without children in the table.
    fn forget(&mut self, key: ProcessKey) {
        let mut next = Some(key);
        while let Some(key) = next {
            if self.entries.get(&key).is_none_or(|entry| !entry.forgettable || entry.children > 0) {
                return;
            }
            next = self.entries.remove(&key).and_then(|entry| entry.parent);
            if let Some(parent) = next.and_then(|parent| self.entries.get_mut(&parent)) {
                parent.children = parent.children.saturating_sub(1);
            }
        }
    }

    fn child_of(&mut self, parent: Option<ProcessKey>) {
        if let Some(parent) = parent.and_then(|key| self.entries.get_mut(&key)) {
            parent.children += 1;
        }
    }

    /// Tells a process, its ancestors first, unless it was told already as it is. `seen` is what a record says of it
    /// now: its user and its cgroup may have changed since its exec. Without it, one that is gone and unknown is left
    /// out: the events that name it stand alone.
    pub fn publish(
        &mut self,
        key: ProcessKey,
        seen: Option<&Task>,
        cgroups: &mut cgroup2::Paths,
        at: BootTime,
        facts: &mut Vec<Fact>,
    ) {
        self.ask(key);
        if let Some(seen) = seen {
            self.entries.entry(key).or_insert_with(|| Entry::unknown(key)).update(seen, cgroups);
        }
        let mut line = Vec::new();
        let mut up = Some(key);
        while let Some(key) = up.filter(|_| line.len() < ANCESTORS_MAX) {
            self.ask(key);
            match self.entries.get(&key) {
                Some(entry) if entry.told => break,
                Some(entry) => {
                    line.push(key);
                    up = entry.parent;
                }
                None => break,
            }
        }
        for key in line.into_iter().rev() {
            if let Some(process) = self.tell(key, cgroups) {
                facts.push(Fact { at, hook: Hook::Bindwatch, body: Body::Process(process) });
            }
        }
    }

    /// Looks a process up that no record told, or only by name: its fork was lost, or it is older and the scan missed
    /// it.
    fn ask(&mut self, key: ProcessKey) {
        let wanted = |entry: &Entry| entry.known == Known::Name && !entry.published && !entry.ended;
        if !self.entries.get(&key).is_none_or(wanted) {
            return;
        }
        let found = self.proc.as_mut().and_then(|proc| proc.process(key.tgid));
        if let Some(process) = found.filter(|found| found.process == key) {
            self.adopt(process);
        }
    }

    fn tell(&mut self, key: ProcessKey, cgroups: &mut cgroup2::Paths) -> Option<Process> {
        let entry = self.entries.get_mut(&key)?;
        entry.told = true;
        entry.published = true;
        // No record tells of setsid(2); a daemon calls it after its fork.
        if !entry.ended
            && entry.known != Known::Name
            && let Some(session) = self.proc.as_mut().and_then(|proc| proc.session(key))
        {
            entry.session = session;
        }
        let process = self.describe(key, cgroups)?;
        if self.told_in.len() < cgroup2::CGROUPS_MAX && !self.told_in.contains(&process.cgroup) {
            self.told_in.insert(process.cgroup.clone());
        }
        Some(process)
    }

    /// A cgroup was removed. Whether a process was told that was in it; beyond [`cgroup2::CGROUPS_MAX`] it may have been.
    pub fn left(&mut self, cgroup: &str) -> bool {
        let is_full = self.told_in.len() >= cgroup2::CGROUPS_MAX;
        self.told_in.remove(cgroup) || is_full
    }

    /// What is known of a process, looked up where records did not tell it; its session may have changed since.
    pub fn describe(&mut self, key: ProcessKey, cgroups: &mut cgroup2::Paths) -> Option<Process> {
        // Ancestors are told first: theirs is known.
        let from_parent = self.parent(key).and_then(|parent| self.entries.get(&parent)?.job.clone());
        let entry = self.entries.get_mut(&key)?;
        let cgroup = entry.cgroup.path(cgroups);
        if let Some(innermost) = container_id(&cgroup) {
            entry.container = Some(innermost.into_owned());
        }
        if entry.program.exe.is_empty() && !entry.program.executed.is_empty() {
            let live = || self.proc.as_mut().and_then(|proc| proc.exe(key));
            let exe = self.names.program(&entry.program.executed, entry.container.is_some(), live);
            entry.program = Rc::new(Program {
                exe,
                executed: String::new(),
                cmdline: entry.program.cmdline.clone(),
                cmdline_cut: entry.program.cmdline_cut,
            });
        }
        let executed = entry.lineage == key && matches!(entry.known, Known::Exec | Known::Scan);
        if executed && entry.mark.is_none() {
            let read = self.proc.as_mut().map(|proc| proc.environment(key));
            let (mark, job) = read.unwrap_or((Some(Mark::Unknown), None));
            entry.mark = Some(Mark::in_arguments(&entry.program.cmdline).or(mark));
            // An environment is handed on: of one that is gone already, what its parent had is taken.
            entry.job = job.unwrap_or(from_parent);
        } else if !executed && entry.job.is_none() {
            entry.job = from_parent;
        }
        let mut cmdline = match self.cmdline {
            Cmdline::Full => entry.program.cmdline.clone(),
            Cmdline::Exe | Cmdline::None => Vec::new(),
        };
        (self.mask)(&mut cmdline);
        Some(Process {
            process: key,
            parent: entry.parent,
            lineage: entry.lineage,
            known: entry.known,
            comm: entry.comm.clone(),
            exe: if self.cmdline == Cmdline::None { String::new() } else { entry.program.exe.clone() },
            cmdline,
            cmdline_cut: entry.program.cmdline_cut && self.cmdline == Cmdline::Full,
            uid: entry.uid,
            session: entry.session,
            cgroup,
            container: entry.container.clone(),
            mark: entry.mark.flatten(),
            job: entry.job.clone(),
        })
    }
}

impl Entry {
    /// A process of which nothing is known but that it is.
    fn unknown(key: ProcessKey) -> Self {
        Self {
            parent: None,
            lineage: key,
            known: Known::Name,
            comm: String::new(),
            program: Rc::default(),
            uid: Uid(0),
            session: 0,
            cgroup: Cgroup::Path(String::new()),
            container: None,
            mark: None,
            job: None,
            children: 0,
            forks: 0,
            ended: false,
            forgettable: false,
            told: false,
            published: false,
        }
    }

    /// Takes what a record says of the process now.
    fn update(&mut self, seen: &Task, cgroups: &mut cgroup2::Paths) {
        let is_leader = seen.tid.0 == seen.process.tgid;
        if (is_leader || self.comm.is_empty()) && self.comm != seen.comm {
            self.comm.clone_from(&seen.comm);
            self.told = false;
        }
        if self.uid != seen.uid {
            self.uid = seen.uid;
            self.told = false;
        }
        let path = cgroups.path(seen.cgroup);
        if !path.is_empty() && !matches!(&self.cgroup, Cgroup::Path(known) if known == path) {
            let path = path.to_owned();
            let same = self.cgroup.path(cgroups) == path;
            self.cgroup = Cgroup::Path(path);
            self.told = self.told && same;
        }
    }
}

impl Cgroup {
    fn path(&self, cgroups: &mut cgroup2::Paths) -> String {
        match self {
            Self::Id(id) => cgroups.path(*id).to_owned(),
            Self::Path(path) => path.clone(),
        }
    }
}
