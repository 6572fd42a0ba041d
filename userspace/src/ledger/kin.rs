//! Processes: what is known of them, who descends from whom, and who counts as one party.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::event::{Ancestor, Known, Process, ProcessKey, Seq};

use super::holdings::Table;
use super::pool;
use super::program;
use super::settings::{PoolRule, RelatedBy, Settings};

/// Ended processes remembered beyond those that something still refers to, processes.
pub(super) const ENDED_MAX: usize = 16_384;
/// Processes believed alive, processes; more than a machine runs, reached when exits were lost.
pub(crate) const LIVE_MAX: usize = 131_072;
/// Generations followed upwards, processes.
const GENERATIONS_MAX: usize = 128;
/// Ancestors shown with a holder, processes.
const PARENTS_SHOWN_MAX: usize = 16;

/// A process and what happened to it.
#[derive(Clone, Debug)]
struct Entry {
    facts: Arc<Process>,
    learnt: Seq,
    ended: Option<Seq>,
    told_to_end: Option<Seq>,
}

/// Every process that matters.
pub(super) struct Kin {
    rule: RelatedBy,
    pools: Vec<PoolRule>,
    processes: Table<ProcessKey, Entry>,
    ended: usize,
    /// Numbers at which the next sweep is due.
    sweep_ended_at: usize,
    sweep_live_at: usize,
}

impl Kin {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            rule: settings.related_by,
            pools: settings.pools.clone(),
            processes: Table::default(),
            ended: 0,
            sweep_ended_at: ENDED_MAX,
            sweep_live_at: LIVE_MAX,
        }
    }

    /// Takes in what was learnt of a process. True when it was known and its kin may have changed.
    pub(super) fn learn(&mut self, process: &Process, seq: Seq) -> bool {
        let Some(known) = self.processes.get_mut(&process.process) else {
            let known =
                Entry { facts: Arc::new(process.clone()), learnt: seq, ended: None, told_to_end: None };
            self.processes.insert(process.process, known);
            return false;
        };
        if process.known == Known::Name {
            return false;
        }
        let before = &known.facts;
        let changed = before.lineage != process.lineage
            || before.session != process.session
            || before.cgroup != process.cgroup
            || before.uid != process.uid
            || (before.parent != process.parent && process.parent.is_some())
            || pool::differs(before, process)
            || (!self.pools.is_empty() && (before.comm != process.comm || before.exe != process.exe));
        let mut facts = process.clone();
        facts.parent = facts.parent.or(before.parent);
        known.facts = Arc::new(facts);
        known.learnt = seq;
        changed
    }

    pub(super) fn end(&mut self, process: ProcessKey, seq: Seq) {
        if let Some(known) = self.processes.get_mut(&process)
            && known.ended.is_none()
        {
            known.ended = Some(seq);
            self.ended += 1;
        }
    }

    pub(super) fn tell_to_end(&mut self, process: ProcessKey, seq: Seq) {
        if let Some(known) = self.processes.get_mut(&process) {
            known.told_to_end = Some(seq);
        }
    }

    /// When it was asked to end, or began to.
    pub(super) fn leaving_since(&self, process: ProcessKey) -> Option<Seq> {
        let known = self.processes.get(&process)?;
        known.told_to_end.or(known.ended)
    }

    /// When it ended.
    pub(super) fn ended_at(&self, process: ProcessKey) -> Option<Seq> {
        self.processes.get(&process)?.ended
    }

    pub(super) fn has_ended(&self, process: ProcessKey) -> bool {
        self.processes.get(&process).is_some_and(|known| known.ended.is_some())
    }

    pub(super) fn facts(&self, process: ProcessKey) -> Option<&Arc<Process>> {
        self.processes.get(&process).map(|known| &known.facts)
    }

    pub(super) fn len(&self) -> usize {
        self.processes.len()
    }

    /// Root of the lineage; an unknown process is its own.
    pub(super) fn lineage(&self, process: ProcessKey) -> ProcessKey {
        self.processes.get(&process).map_or(process, |known| known.facts.lineage)
    }

    pub(super) fn parent(&self, process: ProcessKey) -> Option<ProcessKey> {
        self.processes.get(&process).and_then(|known| known.facts.parent)
    }

    /// Ancestors, nearest first, as they were at fork.
    pub(super) fn ancestors(&self, process: ProcessKey) -> impl Iterator<Item = ProcessKey> + '_ {
        std::iter::successors(self.parent(process), |ancestor| self.parent(*ancestor)).take(GENERATIONS_MAX)
    }

    pub(super) fn is_ancestor(&self, ancestor: ProcessKey, process: ProcessKey) -> bool {
        self.ancestors(process).any(|other| other == ancestor)
    }

    /// Ancestors as a finding shows them.
    pub(super) fn parents_shown(&self, process: ProcessKey) -> Box<[Ancestor]> {
        self.ancestors(process)
            .take(PARENTS_SHOWN_MAX)
            .map(|ancestor| Ancestor {
                pid: ancestor.tgid,
                comm: self.facts(ancestor).map_or_else(String::new, |facts| facts.comm.clone()),
            })
            .collect()
    }

    /// Whether two processes count as one party.
    pub(super) fn related(&self, a: ProcessKey, b: ProcessKey) -> bool {
        if a == b {
            return true;
        }
        if self.rule == RelatedBy::Process {
            return false;
        }
        if self.lineage(a) == self.lineage(b) || self.is_ancestor(a, b) || self.is_ancestor(b, a) {
            return true;
        }
        let (Some(a), Some(b)) = (self.facts(a), self.facts(b)) else { return false };
        let [root_a, root_b] = [a, b].map(|process| self.root(process));
        if pool::is_one(root_a, root_b) || pool::is_meant(&self.pools, a, b, |one| self.facts_above(one)) {
            return true;
        }
        match self.rule {
            RelatedBy::Process | RelatedBy::Lineage => false,
            // 0 is a session as well: what PID 1 started and made none of its own is in it. Of whom nothing but the name
            // is known, the session is not.
            RelatedBy::Session => [a, b].iter().all(|one| one.known != Known::Name) && a.session == b.session,
            RelatedBy::Cgroup => !a.cgroup.is_empty() && a.cgroup == b.cgroup,
            RelatedBy::User => a.uid == b.uid,
        }
    }

    /// Whether two unrelated processes could be workers of a pool, for all that is known.
    pub(super) fn could_be_related(&self, a: ProcessKey, b: ProcessKey) -> bool {
        let (Some(a), Some(b)) = (self.facts(a), self.facts(b)) else { return false };
        self.rule != RelatedBy::Process && pool::could_be_one(self.root(a), self.root(b))
    }

    /// Whether nothing but its name is known of a process: neither who made it nor what it runs.
    pub(super) fn is_nameless(&self, process: ProcessKey) -> bool {
        self.facts(process).is_none_or(|facts| facts.known == Known::Name)
    }

    /// The root of a process's lineage, or the process where that is forgotten: what its supervisor executed.
    fn root<'a>(&'a self, process: &'a Process) -> &'a Process {
        self.facts(process.lineage).map_or(process, AsRef::as_ref)
    }

    fn facts_above<'a>(&'a self, process: &'a Process) -> impl Iterator<Item = &'a Process> {
        self.ancestors(process.process).filter_map(|above| self.facts(above).map(AsRef::as_ref))
    }

    /// Whether any of the first is related to any of the second. Of nobody nothing can be said: related.
    pub(super) fn any_related(
        &self,
        first: impl Iterator<Item = ProcessKey>,
        second: &(impl Iterator<Item = ProcessKey> + Clone),
    ) -> bool {
        if second.clone().next().is_none() {
            return true;
        }
        let mut nobody = true;
        for a in first {
            nobody = false;
            if second.clone().any(|b| self.related(a, b)) {
                return true;
            }
        }
        nobody
    }

    /// Whether both run the same program.
    pub(super) fn same_program(&self, a: ProcessKey, b: ProcessKey) -> bool {
        program::same(self.facts(a).map(AsRef::as_ref), self.facts(b).map(AsRef::as_ref))
    }

    /// Whether more is remembered than should be: time to [`Kin::sweep`].
    pub(super) fn is_full(&self) -> bool {
        self.ended >= self.sweep_ended_at || self.processes.len() - self.ended >= self.sweep_live_at
    }

    /// Forgets the oldest ended processes, down to half the bound, that nothing refers to: neither `roots`
    /// nor any process that stays, by descent. Returns how many processes believed alive had to go as well.
    pub(super) fn sweep(&mut self, roots: impl Iterator<Item = ProcessKey>) -> u64 {
        let roots: BTreeSet<ProcessKey> = roots.collect();
        let mut stays: Vec<ProcessKey> =
            roots.into_iter().filter(|root| self.processes.contains_key(root)).collect();
        let mut live: Vec<(Seq, ProcessKey)> = Vec::new();
        let mut ended: Vec<(Seq, ProcessKey)> = Vec::new();
        for (process, known) in &self.processes {
            match known.ended {
                None => live.push((known.learnt, *process)),
                Some(seq) => ended.push((seq, *process)),
            }
        }
        live.sort_unstable_by(|a, b| b.cmp(a));
        ended.sort_unstable_by(|a, b| b.cmp(a));
        let dropped =
            if live.len() >= self.sweep_live_at { live.len().saturating_sub(LIVE_MAX / 2) } else { 0 };
        live.truncate(live.len() - dropped);
        ended.truncate(ENDED_MAX / 2);
        stays.extend(live.iter().chain(&ended).map(|(_, process)| *process));
        let keep = with_ancestors(stays.into_iter(), |process| self.parent(process));
        self.processes.retain(|process, _| keep.contains(process));
        self.ended = self.processes.values().filter(|known| known.ended.is_some()).count();
        self.sweep_ended_at = ENDED_MAX.max(self.ended + ENDED_MAX / 2);
        self.sweep_live_at = LIVE_MAX.max(self.processes.len() - self.ended + LIVE_MAX / 2);
        dropped as u64
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let ended = self.processes.values().filter(|known| known.ended.is_some()).count();
        if ended != self.ended {
            return Err(format!("{} processes counted as ended, {ended} are", self.ended));
        }
        match self.processes.iter().find(|(process, known)| **process != known.facts.process) {
            Some((process, _)) => Err(format!("process {process} kept under another key")),
            None => Ok(()),
        }
    }
}

/// Processes and all that they descend from, as `parent` has it: who stays where others are forgotten.
pub(crate) fn with_ancestors(
    of: impl Iterator<Item = ProcessKey>,
    parent: impl Fn(ProcessKey) -> Option<ProcessKey>,
) -> rustc_hash::FxHashSet<ProcessKey> {
    let mut all = rustc_hash::FxHashSet::default();
    for process in of {
        // Behind a process that is among them already, so are its ancestors.
        let mut next = Some(process);
        while let Some(one) = next.filter(|one| all.insert(*one)) {
            next = parent(one);
        }
    }
    all
}
