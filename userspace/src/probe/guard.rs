//! The guard: attaching what denies conflicting binds in some cgroups, and what it decides with.

use std::fs::File;

use aya::maps::HashMap;
use aya::programs::{CgroupAttachMode, Program};
use bindwatch_probe::abi::policy::{ANCESTORS_MAX, TGID_BITS};

use super::load::{open_root, reason};
use super::{Probe, ProbeError};
use crate::cgroup2;
use crate::event::ProcessKey;

/// Words of a `Kin`: name, lineage, pool, cut, ancestors.
const KIN_WORDS: usize = 4 + ANCESTORS_MAX;

/// A live process and what relates it to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kinship {
    /// Who.
    pub process: ProcessKey,
    /// Root of its lineage.
    pub lineage: ProcessKey,
    /// Ancestors, nearest first.
    pub ancestors: Vec<ProcessKey>,
}

/// The programs that keep what the guard decides with, in the order in which they attach.
const KIN_HOOKS: [(&str, &str); 3] = [
    ("kin_exit", "sched_process_exit"),
    ("kin_exec", "sched_process_exec"),
    ("kin_fork", "sched_process_fork"),
];
/// Attached to the root of the hierarchy.
const CENSUS_HOOKS: [&str; 3] = ["census_release", "census_bind4", "census_bind6"];
/// Attached to the enforced cgroups.
const GUARD_HOOKS: [&str; 2] = ["guard_bind4", "guard_bind6"];

impl Probe {
    /// Begins to keep kinship and claims. `scan` gives the live processes, once those that come and go are seen.
    ///
    /// # Errors
    /// When the kernel refuses a program: before about 5.17 it cannot deny a bind that has its port.
    pub fn guard(&mut self, scan: impl FnOnce() -> Vec<Kinship>) -> Result<(), ProbeError> {
        for (name, tracepoint) in KIN_HOOKS {
            let Some(Program::RawTracePoint(program)) = self.ebpf.program_mut(name) else {
                return Err(refused(name, "it is not in the object".to_owned()));
            };
            program
                .load()
                .and_then(|()| program.attach(tracepoint))
                .map_err(|error| refused(name, reason(&error)))?;
        }
        let map =
            self.ebpf.map_mut("KIN").ok_or_else(|| refused("KIN", "it is not in the object".to_owned()))?;
        let mut kin: HashMap<_, u32, [u64; KIN_WORDS]> =
            HashMap::try_from(map).map_err(|error| refused("KIN", error.to_string()))?;
        for known in scan() {
            // What fork and exec have told meanwhile is newer.
            let _ = kin.insert(known.process.tgid, words(&known), BPF_NOEXIST);
        }
        let root = cgroup2::mount_point().ok_or(ProbeError::NoCgroup2)?;
        let root = open_root(&root)?;
        for name in CENSUS_HOOKS {
            self.attach_guard(name, &root)?;
        }
        Ok(())
    }

    /// Claims what was bound before. The cookies of those sockets must have been asked for: an inventory does.
    ///
    /// # Errors
    /// When the kernel refuses the iterator.
    pub fn guard_older(&mut self) -> Result<(), ProbeError> {
        self.list_with("census_files").map(drop)
    }

    /// Denies conflicting binds of the processes in a cgroup, or below it, from now on.
    ///
    /// # Errors
    /// As [`Probe::guard`], which comes first.
    pub fn enforce(&mut self, cgroup: &File) -> Result<(), ProbeError> {
        GUARD_HOOKS.iter().try_for_each(|name| self.attach_guard(name, cgroup))
    }

    fn attach_guard(&mut self, name: &'static str, cgroup: &File) -> Result<(), ProbeError> {
        let Some(Program::CgroupSock(program)) = self.ebpf.program_mut(name) else {
            return Err(refused(name, "it is not in the object".to_owned()));
        };
        if program.fd().is_err() {
            program.load().map_err(|error| refused(name, reason(&error)))?;
        }
        program.attach(cgroup, CgroupAttachMode::Single).map_err(|error| refused(name, reason(&error)))?;
        Ok(())
    }
}

const BPF_NOEXIST: u64 = 1;

fn refused(hook: &'static str, reason: String) -> ProbeError {
    ProbeError::Guard { hook, reason }
}

fn words(known: &Kinship) -> [u64; KIN_WORDS] {
    let mut words = [0; KIN_WORDS];
    let names =
        [name(known.process), name(known.lineage), 0, u64::from(known.ancestors.len() > ANCESTORS_MAX)];
    let ancestors = known.ancestors.iter().map(|ancestor| name(*ancestor));
    for (word, value) in words.iter_mut().zip(names.into_iter().chain(ancestors)) {
        *word = value;
    }
    words
}

/// The name of a process in the kernel's maps.
const fn name(process: ProcessKey) -> u64 {
    process.start << TGID_BITS | process.tgid as u64
}

/// The process of such a name.
#[must_use]
pub const fn process_of(name: u64) -> ProcessKey {
    ProcessKey { tgid: (name & ((1 << TGID_BITS) - 1)) as u32, start: name >> TGID_BITS }
}
