//! The guard: attaching what denies conflicting binds in some cgroups, and what it decides with.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;

use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::{ProgramInfo, loaded_programs};
use bindwatch_probe::abi::policy::{ANCESTORS_MAX, RULES_MAX, TGID_BITS, gives, known};

use super::load::{Guarding, Options, open_root};
use super::preload::{load, load_together};
use super::refusal::reason;
use super::standing::{KIN_WORDS, Rules, Standings};
use super::task_files::Listing;
use super::{Denial, Probe, ProbeError, pins, surroundings, syscall};
use crate::cgroup2;
use crate::event::ProcessKey;
use crate::ledger::{AllowRule, Settings};

/// Allow rules that binds can be denied by.
pub const ALLOW_RULES_MAX: usize = RULES_MAX as usize;

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
const KIN_HOOKS: [(&str, &str); 5] = [
    ("kin_cgroup", "cgroup_mkdir"),
    ("kin_cgroup_gone", "cgroup_rmdir"),
    ("kin_exit", "sched_process_exit"),
    ("kin_exec", "sched_process_exec"),
    ("kin_fork", "sched_process_fork"),
];
/// What keeps the claims of all processes, at the root of the hierarchy, in the order in which they attach.
const CENSUS_HOOKS: [Census; 5] = [
    Census {
        alone: "census_release",
        attach_type: syscall::INET_SOCK_RELEASE,
        recording: "sock_release",
        both: "keep_sock_release",
    },
    Census {
        alone: "census_bind4",
        attach_type: syscall::INET4_POST_BIND,
        recording: "post_bind4",
        both: "keep_post_bind4",
    },
    Census {
        alone: "census_bind6",
        attach_type: syscall::INET6_POST_BIND,
        recording: "post_bind6",
        both: "keep_post_bind6",
    },
    Census {
        alone: "census_option",
        attach_type: syscall::SETSOCKOPT,
        recording: "setsockopt",
        both: "keep_setsockopt",
    },
    Census {
        alone: "census_listen",
        attach_type: syscall::SOCK_OPS,
        recording: "sock_ops",
        both: "keep_sock_ops",
    },
];
/// Attached to the enforced cgroups.
pub(super) const GUARD_HOOKS: [(&str, u32); 3] = [
    ("guard_bind4", syscall::INET4_POST_BIND),
    ("guard_bind6", syscall::INET6_POST_BIND),
    ("guard_option", syscall::SETSOCKOPT),
];
/// In their place where the kernel cannot deny a bind that has its port.
pub(super) const CHECK_HOOKS: [(&str, u32); 2] =
    [("check_bind4", syscall::INET4_BIND), ("check_bind6", syscall::INET6_BIND)];

/// Those that are attached to the enforced cgroups.
const fn denying(guarding: Guarding) -> &'static [(&'static str, u32)] {
    match guarding {
        Guarding::Check => &CHECK_HOOKS,
        Guarding::Off | Guarding::DryRun | Guarding::Deny => &GUARD_HOOKS,
    }
}

/// What claims for those that were there before.
const CENSUS: Listing = Listing::of_files("census_files");

/// The listing by which older sockets are claimed, where that is likely to be one that the kernel takes.
pub(super) fn census(guarding: Guarding) -> Option<Listing> {
    matches!(guarding, Guarding::Deny | Guarding::DryRun).then_some(CENSUS)
}

/// The programs that the guard will attach beside these of a recording, those that the verifier follows longest first.
pub(super) fn guard_programs<'a>(
    guarding: Guarding,
    recording: &'a [&str],
) -> impl Iterator<Item = &'static str> + 'a {
    let census = CENSUS_HOOKS.iter().rev();
    let census =
        census.map(|census| if recording.contains(&census.recording) { census.both } else { census.alone });
    let denying = denying(guarding).iter().map(|(name, _)| *name);
    let kin = KIN_HOOKS.iter().map(|(name, _)| *name);
    denying.chain(census).chain(kin).filter(move |_| guarding != Guarding::Off)
}

/// A program that keeps claims. What is attached to the root is paid by every bind of the machine, so that the recording's own
/// program does it too, where there is one.
struct Census {
    /// The program that does nothing else.
    alone: &'static str,
    attach_type: u32,
    /// The recording's at the same hook.
    recording: &'static str,
    /// The one that does both, in the place of that.
    both: &'static str,
}

/// A program of the guard that is attached, for as long as this is open or pinned.
pub(super) struct GuardLink {
    pub(super) name: &'static str,
    /// The cgroup's id where it denies, None where it keeps what is decided with.
    pub(super) enforced: Option<u64>,
    pub(super) link: OwnedFd,
}

impl Probe {
    /// Tries how the kernel can deny binds, and whether it takes the programs for that, without attaching them.
    ///
    /// # Errors
    /// Why it does not.
    pub fn try_guard() -> Result<Denial, ProbeError> {
        let denial = Denial::of_this_kernel()?;
        let guard = denial.guarding();
        let mut probe = Self::load(&Options { guard, ..Options::default() })?;
        let census = CENSUS_HOOKS.iter().flat_map(|census| [census.alone, census.both]);
        let kept = KIN_HOOKS.iter().map(|(name, _)| *name).chain(census);
        let names: Vec<_> = denying(guard).iter().map(|(name, _)| *name).chain(kept).collect();
        load_together(&mut probe.ebpf, &names, &[], None);
        for name in names {
            load_guard(&mut probe.ebpf, name).map_err(surroundings::plainly)?;
        }
        probe
            .with_census(|probe, listing| probe.load_listing(listing).map(drop))
            .map_err(surroundings::plainly)?;
        Ok(denial)
    }

    /// Begins to keep kinship and claims, by these rules. `scan` gives the live processes, once those that come and go are seen.
    ///
    /// # Errors
    /// When the kernel refuses a program: before about 5.17 it cannot deny a bind that has its port.
    pub fn guard(
        &mut self,
        settings: &Settings,
        scan: impl FnOnce() -> Vec<Kinship>,
    ) -> Result<(), ProbeError> {
        if let Err(error) = pins::sweep() {
            log::warn!("what was pinned in part stays: {error}");
        }
        let rules = self.ebpf.map_mut("RULES");
        let rules = rules.ok_or_else(|| refused("RULES", "it is not in the object".to_owned()))?;
        let mut rules: Array<_, [u64; 3]> =
            Array::try_from(rules).map_err(|error| refused("RULES", error.to_string()))?;
        for (nth, rule) in (0..RULES_MAX).zip(&settings.allow) {
            rules.set(nth, rule_words(rule), 0).map_err(|error| refused("RULES", error.to_string()))?;
        }
        let told = Rules::of(settings, self.seed);
        told.tell(&mut self.ebpf)?;
        for (name, tracepoint) in KIN_HOOKS {
            let program = load_guard(&mut self.ebpf, name)?;
            let link = syscall::link_raw_tracepoint(program, tracepoint);
            let link = link.map_err(|error| refused(name, error.to_string()))?;
            self.guard_links.push(GuardLink { name, enforced: None, link });
        }
        let root = cgroup2::mount_point().ok_or(ProbeError::NoCgroup2)?;
        let cgroups = cgroup2::Paths::all(&root);
        told.tell_places(&mut self.ebpf, cgroups.iter().map(|(id, path)| (*id, path.as_str())))?;
        let map =
            self.ebpf.map_mut("KIN").ok_or_else(|| refused("KIN", "it is not in the object".to_owned()))?;
        let mut kin: HashMap<_, u32, [u64; KIN_WORDS]> =
            HashMap::try_from(map).map_err(|error| refused("KIN", error.to_string()))?;
        let before = known_before();
        for alive in scan() {
            let told = before.iter().find_map(|map| map.get(&alive.process.tgid, 0).ok());
            let told = told.filter(|told| told.first() == Some(&name(alive.process))).map(without_standing);
            // What fork and exec have told meanwhile is newer.
            let _ = kin.insert(alive.process.tgid, told.unwrap_or_else(|| words(&alive)), BPF_NOEXIST);
        }
        let root = open_root(&root)?;
        CENSUS_HOOKS.iter().try_for_each(|census| {
            if self.exchange(census.recording, census.both)? {
                return Ok(());
            }
            self.attach_guard((census.alone, census.attach_type), &root, None)
        })
    }

    /// Puts a program in the place of one of the recording's. Whether that is attached.
    fn exchange(&mut self, recording: &str, other: &'static str) -> Result<bool, ProbeError> {
        let Some((_, link)) = self.root_links.iter().find(|(name, _)| *name == recording) else {
            return Ok(false);
        };
        let program = load_guard(&mut self.ebpf, other)?;
        syscall::exchange(link, program).map_err(|error| refused(other, error.to_string()))?;
        Ok(true)
    }

    /// Claims what was bound before. The cookies of those sockets must have been asked for: an inventory does.
    ///
    /// # Errors
    /// When the kernel refuses the iterator.
    pub fn guard_older(&mut self) -> Result<(), ProbeError> {
        self.with_census(Self::list_with)
    }

    /// Does something with the listing by which older sockets are claimed, or with the one that kernels take whose iterators take no
    /// lock (before 6.1).
    fn with_census<T>(
        &mut self,
        mut act: impl FnMut(&mut Self, Listing) -> Result<T, ProbeError>,
    ) -> Result<(), ProbeError> {
        if !self.plain_census {
            match act(self, CENSUS).map(drop) {
                Err(refused) if self.guarding != Guarding::Deny => log::debug!("{refused}"),
                done => return done,
            }
            self.plain_census = true;
        }
        act(self, Listing::of_files("census_files_plain")).map(drop)
    }

    /// Gives what tells how processes stand.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn standings(&mut self) -> Result<Standings, ProbeError> {
        self.kin_again()
    }

    /// How processes stand, once more: another handle on the same.
    ///
    /// # Errors
    /// When the kernel does not give one.
    pub fn kin_again(&self) -> Result<Standings, ProbeError> {
        Ok(Standings { kin: self.shared("KIN")?, supervisors: self.shared("SUPERVISORS")?, seed: self.seed })
    }

    /// A map, by another handle.
    pub(super) fn shared<K: aya::Pod, V: aya::Pod>(
        &self,
        name: &'static str,
    ) -> Result<HashMap<MapData, K, V>, ProbeError> {
        let Some(Map::HashMap(map)) = self.ebpf.map(name) else {
            return Err(refused(name, "it is not in the object".to_owned()));
        };
        let fd = map.fd().as_fd().try_clone_to_owned().map_err(|error| refused(name, error.to_string()))?;
        let map = MapData::from_fd(fd).map(Map::HashMap).and_then(HashMap::try_from);
        map.map_err(|error| refused(name, error.to_string()))
    }

    fn kin(&self) -> Result<BorrowedFd<'_>, ProbeError> {
        match self.ebpf.map("KIN") {
            Some(Map::HashMap(map)) => Ok(map.fd().as_fd()),
            _ => Err(refused("KIN", "it is not in the object".to_owned())),
        }
    }

    /// Lets what is enforced now outlive this process; an earlier bindwatch that did so for these cgroups is relieved.
    ///
    /// # Errors
    /// Without a BPF file system, or without the right to write there.
    pub fn pin_guard(&mut self) -> Result<(), ProbeError> {
        // What records ends with this process: what stays has to do without it.
        let root = open_root(&cgroup2::mount_point().ok_or(ProbeError::NoCgroup2)?)?;
        for census in &CENSUS_HOOKS {
            if !self.guard_links.iter().any(|link| link.name == census.alone) {
                self.attach_guard((census.alone, census.attach_type), &root, None)?;
                self.exchange(census.recording, census.recording)?;
            }
        }
        Ok(pins::keep(&self.guard_links, self.kin()?)?)
    }

    /// Denies conflicting binds of the processes in a cgroup, or below it, from now on.
    ///
    /// # Errors
    /// As [`Probe::guard`], which comes first.
    pub fn enforce(&mut self, cgroup: &File) -> Result<(), ProbeError> {
        denying(self.guarding).iter().try_for_each(|hook| {
            let id = cgroup.metadata().map_err(|error| refused(hook.0, error.to_string()))?.ino();
            self.attach_guard(*hook, cgroup, Some(id))
        })
    }

    fn attach_guard(
        &mut self,
        (name, attach_type): (&'static str, u32),
        cgroup: &File,
        enforced: Option<u64>,
    ) -> Result<(), ProbeError> {
        let program = load_guard(&mut self.ebpf, name)?;
        let link =
            syscall::link(program, cgroup, attach_type).map_err(|error| match error.raw_os_error() {
                Some(nix::libc::EPERM) => refused(name, format!("{error}; {EXCLUSIVE}")),
                _ => refused(name, error.to_string()),
            })?;
        self.guard_links.push(GuardLink { name, enforced, link });
        Ok(())
    }
}

/// Loads a program of the guard, once.
fn load_guard<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<BorrowedFd<'a>, ProbeError> {
    let missing = || refused(name, "it is not in the object".to_owned());
    let program = ebpf.program_mut(name).ok_or_else(missing)?;
    load(program, None).map_err(|error| refused(name, reason(&error)))?;
    let program = program.fd().map_err(|error| refused(name, reason(&error)))?;
    Ok(program.as_fd())
}

/// Whether conflicting binds are denied in a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforced {
    /// By some bindwatch, there or above.
    Yes,
    /// By none.
    No,
    /// The caller may not see it.
    Unknown,
}

/// Whether a program that denies runs for the processes of a cgroup.
#[must_use]
pub fn enforced(cgroup: &File) -> Enforced {
    let mut there = Vec::new();
    for attach_type in [syscall::INET4_POST_BIND, syscall::INET4_BIND] {
        match syscall::programs_at(cgroup, attach_type) {
            Ok(programs) => there.extend(programs),
            Err(_) => return Enforced::Unknown,
        }
    }
    let is_ours = |name: &str| GUARD_HOOKS.iter().chain(&CHECK_HOOKS).any(|(hook, _)| *hook == name);
    let denies =
        |program: &ProgramInfo| there.contains(&program.id()) && program.name_as_str().is_some_and(is_ours);
    let mut programs = loaded_programs().filter_map(Result::ok);
    if programs.any(|program| denies(&program)) { Enforced::Yes } else { Enforced::No }
}

const BPF_NOEXIST: u64 = 1;

/// What EPERM means where a program is attached that was loaded.
const EXCLUSIVE: &str = "another tool may have attached a program there that tolerates no other";

pub(super) fn refused(hook: &'static str, reason: String) -> ProbeError {
    ProbeError::Guard { hook, reason }
}

/// What an earlier bindwatch left that pinned it.
fn known_before() -> Vec<HashMap<MapData, u32, [u64; KIN_WORDS]>> {
    let maps = pins::known_processes().into_iter().filter_map(|path| MapData::from_pin(path).ok());
    maps.filter_map(|map| HashMap::try_from(Map::HashMap(map)).ok()).collect()
}

/// Pools and rules are told anew.
const fn without_standing(mut words: [u64; KIN_WORDS]) -> [u64; KIN_WORDS] {
    let [_, _, pool, known_and_rules, ..] = &mut words;
    *pool = 0;
    *known_and_rules &= known::CUT as u64;
    words
}

fn words(kinship: &Kinship) -> [u64; KIN_WORDS] {
    let mut words = [0; KIN_WORDS];
    let names =
        [name(kinship.process), name(kinship.lineage), 0, u64::from(kinship.ancestors.len() > ANCESTORS_MAX)];
    let ancestors = kinship.ancestors.iter().map(|ancestor| name(*ancestor));
    for (word, value) in words.iter_mut().zip(names.into_iter().chain(ancestors)) {
        *word = value;
    }
    words
}

/// A rule that gives nothing allows nothing: it has no last port.
fn rule_words(rule: &AllowRule) -> [u64; 3] {
    let who = if rule.program.is_some() || rule.cgroup.is_some() { gives::WHO } else { 0 };
    let ports = rule.port.as_ref().map_or((0, u16::MAX), |ports| (*ports.start(), *ports.end()));
    if who == 0 && rule.address.is_none() && rule.port.is_none() {
        return [0; 3];
    }
    let (octets, address) = match rule.address.map(|address| address.to_canonical()) {
        Some(IpAddr::V4(address)) => {
            let [a, b, c, d] = address.octets();
            ([a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], gives::ADDRESS)
        }
        Some(IpAddr::V6(address)) => (address.octets(), gives::ADDRESS | gives::IPV6),
        None => ([0; 16], 0),
    };
    let (first, second) = octets.split_at(8);
    let word = |half: &[u8]| u64::from_ne_bytes(half.try_into().unwrap_or_default());
    let (low, high) = (word(first), word(second));
    [low, high, u64::from(ports.0) | u64::from(ports.1) << 16 | u64::from(who | address) << 32]
}

/// The name of a process in the kernel's maps.
pub(super) const fn name(process: ProcessKey) -> u64 {
    process.start << TGID_BITS | process.tgid as u64
}

/// The process of such a name.
#[must_use]
pub const fn process_of(name: u64) -> ProcessKey {
    ProcessKey { tgid: (name & ((1 << TGID_BITS) - 1)) as u32, start: name >> TGID_BITS }
}
