//! Processes and how they are related, remembered beyond their ends.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use super::settings::RelatedBy;
use crate::event::{Ancestor, BootTime, Process, ProcessKey, Seq};

/// Ended processes that are remembered though nothing refers to them; beyond it the oldest go.
pub const ENDED_MAX: usize = 16_384;
/// Ancestors that are followed.
const ANCESTORS_MAX: usize = 64;

/// One process.
#[derive(Clone, Debug)]
pub(super) struct Kin {
    /// What was learnt of it.
    pub(super) facts: Rc<Process>,
    /// When and by which event it was last asked to end.
    pub(super) asked_to_end: Option<(BootTime, Seq)>,
    /// When it ended.
    pub(super) ended: Option<BootTime>,
    /// Sockets and findings that name it, and its children here.
    references: u32,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Kinship {
    all: BTreeMap<ProcessKey, Kin>,
    ended: VecDeque<ProcessKey>,
    /// Some were forgotten.
    pub(super) forgotten: u64,
}

impl Kinship {
    /// A process became known, or executed another program.
    pub(super) fn learn(&mut self, process: &Process) {
        let key = process.process;
        if let Some(kin) = self.all.get_mut(&key) {
            let before = kin.facts.parent;
            kin.facts = Rc::new(process.clone());
            if before != process.parent {
                self.refer(process.parent);
                self.unrefer(before);
            }
            return;
        }
        self.refer(process.parent);
        let kin = Kin { facts: Rc::new(process.clone()), asked_to_end: None, ended: None, references: 0 };
        self.all.insert(key, kin);
    }

    /// A process was asked to end.
    pub(super) fn asked_to_end(&mut self, key: ProcessKey, at: BootTime, seq: Seq) {
        if let Some(kin) = self.all.get_mut(&key) {
            kin.asked_to_end = Some((at, seq));
        }
    }

    /// A process ended.
    pub(super) fn ended(&mut self, key: ProcessKey, at: BootTime) {
        let Some(kin) = self.all.get_mut(&key) else { return };
        kin.ended = Some(at);
        self.ended.push_back(key);
        // One comes, at most two are looked at: those still referred to go round.
        for _ in 0..2 {
            if self.ended.len() <= ENDED_MAX {
                return;
            }
            let Some(oldest) = self.ended.pop_front() else { return };
            match self.all.get(&oldest) {
                Some(kin) if kin.references > 0 => self.ended.push_back(oldest),
                Some(_) => {
                    let parent = self.all.remove(&oldest).and_then(|kin| kin.facts.parent);
                    self.unrefer(parent);
                    self.forgotten += 1;
                }
                None => {}
            }
        }
    }

    /// What is known of a process.
    pub(super) fn get(&self, key: ProcessKey) -> Option<&Kin> {
        self.all.get(&key)
    }

    /// Something names a process from now on.
    pub(super) fn refer(&mut self, key: Option<ProcessKey>) {
        if let Some(kin) = key.and_then(|key| self.all.get_mut(&key)) {
            kin.references += 1;
        }
    }

    /// Something no longer names a process.
    pub(super) fn unrefer(&mut self, key: Option<ProcessKey>) {
        if let Some(kin) = key.and_then(|key| self.all.get_mut(&key)) {
            kin.references = kin.references.saturating_sub(1);
        }
    }

    /// Root of the lineage of a process; itself when nothing is known.
    pub(super) fn lineage(&self, key: ProcessKey) -> ProcessKey {
        self.all.get(&key).map_or(key, |kin| kin.facts.lineage)
    }

    /// The ancestors of a process, nearest first.
    pub(super) fn ancestors(&self, key: ProcessKey) -> impl Iterator<Item = ProcessKey> + '_ {
        let parent = |key: &ProcessKey| self.all.get(key).and_then(|kin| kin.facts.parent);
        std::iter::successors(parent(&key), move |key| parent(key)).take(ANCESTORS_MAX)
    }

    /// The ancestors as a finding shows them: those whose name is known.
    pub(super) fn parents(&self, key: ProcessKey) -> Vec<Ancestor> {
        self.ancestors(key)
            .filter_map(|key| self.all.get(&key))
            .map(|kin| Ancestor { pid: kin.facts.process.tgid, comm: kin.facts.comm.clone() })
            .collect()
    }

    /// Whether one is the other's ancestor.
    pub(super) fn is_ancestor(&self, elder: ProcessKey, of: ProcessKey) -> bool {
        self.ancestors(of).any(|key| key == elder)
    }

    /// Whether two processes are related, by the rule.
    pub(super) fn related(&self, a: ProcessKey, b: ProcessKey, rule: RelatedBy) -> bool {
        if a == b {
            return true;
        }
        if rule == RelatedBy::Process {
            return false;
        }
        if self.lineage(a) == self.lineage(b) || self.is_ancestor(a, b) || self.is_ancestor(b, a) {
            return true;
        }
        let (Some(a), Some(b)) = (self.all.get(&a), self.all.get(&b)) else { return false };
        match rule {
            RelatedBy::Process | RelatedBy::Lineage => false,
            RelatedBy::Session => a.facts.session != 0 && a.facts.session == b.facts.session,
            RelatedBy::Cgroup => !a.facts.cgroup.is_empty() && a.facts.cgroup == b.facts.cgroup,
            RelatedBy::User => a.facts.uid == b.facts.uid,
        }
    }

    /// Whether two processes run the same program: the same executable, and for what an interpreter runs the same
    /// script or module.
    pub(super) fn same_program(&self, a: ProcessKey, b: ProcessKey) -> bool {
        let (Some(a), Some(b)) = (self.all.get(&a), self.all.get(&b)) else { return false };
        !a.facts.exe.is_empty() && program(&a.facts) == program(&b.facts)
    }

    /// What tells one program from another: see [`Kinship::same_program`].
    pub(super) fn program(&self, key: ProcessKey) -> (String, String) {
        self.all.get(&key).map_or_else(
            || (String::new(), key.to_string()),
            |kin| {
                let (exe, argument) = program(&kin.facts);
                (exe.to_owned(), argument.to_owned())
            },
        )
    }
}

/// Executable and first argument that is not an option; of `-m MODULE` the module, of `-c CODE` the code.
fn program(facts: &Process) -> (&str, &str) {
    let argument = facts.cmdline.iter().skip(1).find(|argument| !argument.starts_with('-'));
    (&facts.exe, argument.map_or("", String::as_str))
}
