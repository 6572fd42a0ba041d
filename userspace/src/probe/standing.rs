//! How processes stand to the rules and pools of a user: the rules in the form in which the programs decide by them when a
//! process executes, and what only user space can tell.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData};
use bindwatch_probe::abi::policy::{ANCESTORS_MAX, RULES_MAX, known};
use bindwatch_probe::abi::standing::{
    Criteria, PATTERN_MAX, PATTERN_START, POOL_BITS, POOL_RULES_MAX, PathState, Pattern, Place, pool,
    pool_number,
};

use super::ProbeError;
use super::guard::{name, refused};
use crate::event::ProcessKey;
use crate::ledger::{PoolOf, Settings, Standing};

/// Words of a `Kin`: name, lineage, pool, what is known with the rules, ancestors.
pub(super) const KIN_WORDS: usize = 4 + ANCESTORS_MAX;

const BPF_EXIST: u64 = 2;

/// How processes stand: what the guard decides with, as far as it does not know by itself.
pub struct Standings {
    pub(super) kin: HashMap<MapData, u32, [u64; KIN_WORDS]>,
    pub(super) supervisors: HashMap<MapData, u64, u32>,
    pub(super) seed: u64,
}

impl Standings {
    /// From now on what the process `tgid` binds is decided as if another did it.
    pub fn stand_for(&mut self, tgid: u32, other: ProcessKey) {
        match self.kin.get(&other.tgid, 0).map(|words| (words.first().copied(), words)) {
            Ok((Some(known), words)) if known == name(other) => drop(self.kin.insert(tgid, words, 0)),
            // Nobody knows how it stands: it is let through, and counted.
            _ => drop(self.kin.remove(&tgid)),
        }
    }

    /// Tells how a process stands. Nothing happens when it is gone, or the kernel told it by itself.
    pub fn set(&mut self, process: ProcessKey, standing: &Standing) {
        let Ok(mut words) = self.kin.get(&process.tgid, 0) else { return };
        let [is, _, pool, known_and_rules, ..] = &mut words;
        if *is != name(process) || *known_and_rules & u64::from(known::SETTLED) != 0 {
            return;
        }
        if standing.parents != 0 {
            // Where there is no room its workers are taken for strangers until they are looked at.
            let _ = self.supervisors.insert(*is, standing.parents, 0);
        }
        let number = standing.pool.as_ref().map_or(0, |pool| number_of(pool, self.seed));
        let rules = *known_and_rules & 0xffff_ffff | u64::from(standing.rules) << 32;
        if (*pool, *known_and_rules) == (number, rules) {
            return;
        }
        (*pool, *known_and_rules) = (number, rules);
        // It may have ended meanwhile.
        let _ = self.kin.insert(process.tgid, words, BPF_EXIST);
    }
}

/// The number of a pool in the kernel's maps.
fn number_of(of: &PoolOf, seed: u64) -> u64 {
    match of {
        PoolOf::Multiprocessing(parent) => pool_number(pool::MULTIPROCESSING, name(*parent)),
        PoolOf::NodeCluster(parent) => pool_number(pool::NODE_CLUSTER, name(*parent)),
        PoolOf::Template(unit) => pool_number(pool::TEMPLATE, read(unit, seed).hash | 1),
        PoolOf::Rule(nth, supervisor) => pool_number(pool::RULE + *nth as u64, supervisor.map_or(0, name)),
    }
}

/// A path that was read.
fn read(path: &str, seed: u64) -> PathState {
    let mut state = PathState::new(seed);
    path.bytes().for_each(|byte| state.push(byte));
    state
}

/// The rules, as the programs take them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rules {
    criteria: Criteria,
    patterns: Vec<Pattern>,
    /// Rules by the hash of the cgroup's path that they name.
    prefixes: BTreeMap<u64, u64>,
}

impl Rules {
    /// A number that nobody can know before.
    pub(super) fn seed() -> u64 {
        RandomState::new().build_hasher().finish()
    }

    /// Of what a user has set.
    pub(super) fn of(settings: &Settings, seed: u64) -> Self {
        let mut rules = Self {
            criteria: Criteria { seed, complete: 1, in_use: 1, ..Criteria::default() },
            patterns: Vec::new(),
            prefixes: BTreeMap::new(),
        };
        for (nth, rule) in (0..RULES_MAX).zip(&settings.allow) {
            // One about the endpoint alone asks nobody who he is.
            rules.add(1 << nth, rule.program.as_deref(), rule.cgroup.as_deref());
        }
        for (nth, rule) in (0..POOL_RULES_MAX).zip(&settings.pools) {
            if rule.program.is_none() && rule.cgroup.is_none() && rule.parent.is_none() {
                continue;
            }
            rules.add(1 << (nth + POOL_BITS), rule.program.as_deref(), rule.cgroup.as_deref());
            if let Some(parent) = &rule.parent {
                rules.criteria.with_parent |= 1 << nth;
                rules.add_pattern(parent, 0, 1 << nth);
            }
        }
        if settings.pools.len() > POOL_RULES_MAX as usize {
            rules.criteria.complete = 0;
        }
        rules
    }

    fn add(&mut self, bit: u64, program: Option<&str>, cgroup: Option<&str>) {
        match program {
            Some(glob) => self.add_pattern(glob, bit, 0),
            None => self.criteria.any_program |= bit,
        }
        match cgroup {
            Some(path) => {
                let hash = read(path.trim_end_matches('/'), self.criteria.seed).hash;
                *self.prefixes.entry(hash).or_default() |= bit;
            }
            None => self.criteria.any_cgroup |= bit,
        }
    }

    fn add_pattern(&mut self, glob: &str, rules: u64, parents: u64) {
        match pattern(glob) {
            Some(pattern) => {
                self.patterns.push(Pattern { rules, parents, ..pattern });
                self.criteria.patterns += 1;
            }
            None => self.criteria.complete = 0,
        }
    }

    /// What a cgroup says of who is in it.
    fn place(&self, path: &str) -> Place {
        let mut state = PathState::new(self.criteria.seed);
        let mut rules = 0;
        let here = |state: &PathState| self.prefixes.get(&state.hash).copied().unwrap_or_default();
        for byte in path.trim_end_matches('/').bytes() {
            if byte == b'/' {
                state.end();
                rules |= here(&state);
            }
            state.push(byte);
        }
        state.end();
        Place { pool: state.template, rules: rules | here(&state) }
    }

    /// Gives them to the programs. Before those are attached.
    pub(super) fn tell(&self, ebpf: &mut Ebpf) -> Result<(), ProbeError> {
        let Criteria { any_program, any_cgroup, seed, patterns, with_parent, complete, in_use } =
            self.criteria;
        let mut prefixes: HashMap<_, u64, u64> = map_of(ebpf, "PREFIXES")?;
        for (hash, rules) in &self.prefixes {
            prefixes.insert(hash, rules, 0).map_err(|error| refused("PREFIXES", error.to_string()))?;
        }
        let mut table: Array<_, [u64; PATTERN_WORDS]> = map_of(ebpf, "PATTERNS")?;
        for (nth, pattern) in (0..).zip(&self.patterns) {
            let told = table.set(nth, pattern_words(pattern), 0);
            told.map_err(|error| refused("PATTERNS", error.to_string()))?;
        }
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let words = [any_program, any_cgroup, seed, pair(patterns, with_parent), pair(complete, in_use)];
        let mut criteria: Array<_, [u64; 5]> = map_of(ebpf, "CRITERIA")?;
        criteria.set(0, words, 0).map_err(|error| refused("CRITERIA", error.to_string()))
    }

    /// Tells what the cgroups that exist say of who is in them. Those that are made from now on must be seen by the programs.
    pub(super) fn tell_places<'a>(
        &self,
        ebpf: &mut Ebpf,
        cgroups: impl Iterator<Item = (u64, &'a str)>,
    ) -> Result<(), ProbeError> {
        let mut places: HashMap<_, u64, [u64; 2]> = map_of(ebpf, "PLACES")?;
        for (id, path) in cgroups {
            let Place { pool, rules } = self.place(path);
            if pool | rules != 0 {
                places.insert(id, [pool, rules], 0).map_err(|error| refused("PLACES", error.to_string()))?;
            }
        }
        Ok(())
    }
}

fn map_of<'a, M>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<M, ProbeError>
where
    M: TryFrom<&'a mut aya::maps::Map, Error = aya::maps::MapError>,
{
    let map = ebpf.map_mut(name).ok_or_else(|| refused(name, "it is not in the object".to_owned()))?;
    M::try_from(map).map_err(|error| refused(name, error.to_string()))
}

const PATTERN_WORDS: usize = size_of::<Pattern>() / 8;

fn pattern_words(pattern: &Pattern) -> [u64; PATTERN_WORDS] {
    let Pattern { rules, parents, last, stars, inner, steps } = pattern;
    let mut words = [0; PATTERN_WORDS];
    let front = [*rules, *parents, *last, *stars, *inner];
    for (word, value) in words.iter_mut().zip(front.into_iter().chain(steps.iter().copied())) {
        *word = value;
    }
    words
}

/// A pattern that reads from the end; None when it is too long.
fn pattern(glob: &str) -> Option<Pattern> {
    let mut pattern =
        Pattern { rules: 0, parents: 0, last: PATTERN_START, stars: 0, inner: 0, steps: [0; 256] };
    for character in glob.chars().rev() {
        if character == '*' {
            pattern.stars |= pattern.last;
            continue;
        }
        if character == '?' {
            // Any first byte; those that follow it come before it here.
            pattern.inner |= pattern.last;
            for (byte, steps) in (0_u8..=255).zip(&mut pattern.steps) {
                *steps |= if byte >> 6 == 0b10 { 0 } else { pattern.last };
            }
            pattern.last = next(pattern.last)?;
            continue;
        }
        for byte in character.encode_utf8(&mut [0; 4]).bytes().rev() {
            *pattern.steps.get_mut(usize::from(byte))? |= pattern.last;
            pattern.last = next(pattern.last)?;
        }
    }
    Some(pattern)
}

const fn next(state: u64) -> Option<u64> {
    if state >> PATTERN_MAX == 0 { Some(state << 1) } else { None }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

    use bindwatch_probe::abi::standing::advance;
    use proptest::prelude::*;

    use super::*;
    use crate::ledger::{AllowRule, PoolRule};

    /// As the programs step.
    fn matches(pattern: &Pattern, text: &str) -> bool {
        let step = |state, byte: u8| {
            advance(state, byte, pattern.steps[usize::from(byte)], pattern.stars, pattern.inner)
        };
        text.bytes().rev().fold(PATTERN_START, step) & pattern.last != 0
    }

    /// By the rule that judges findings.
    fn is_meant(glob: &str, comm: &str) -> bool {
        let rule = AllowRule { program: Some(glob.to_owned()), ..AllowRule::default() };
        let settings = Settings { allow: vec![rule], ..Settings::default() };
        let process = crate::event::Process { comm: comm.to_owned(), ..nobody() };
        settings.standing(&process, &[]).rules != 0
    }

    fn nobody() -> crate::event::Process {
        serde_json::from_value(serde_json::json!({
            "process": "1@1", "lineage": "1@1", "known": "exec", "comm": "", "exe": "x/y",
            "cmdline": [], "uid": 0, "cgroup": "/", "container": null, "session": 0,
        }))
        .unwrap()
    }

    proptest! {
        #[test]
        fn a_pattern_matches_as_the_rule_does(glob in "[ab?*ü/]{0,9}", text in "[abüß/\u{20ac}]{0,9}") {
            // The rule sees the executable as well, which matches where everything does.
            prop_assume!(!is_meant(&glob, "\u{1}"));
            prop_assert_eq!(matches(&pattern(&glob).unwrap(), &text), is_meant(&glob, &text), "{} on {}", glob, text);
        }
    }

    #[test]
    fn what_fits_into_a_pattern() {
        let long = "a".repeat(63);
        assert!(matches(&pattern(&long).unwrap(), &long));
        assert_eq!(pattern(&"a".repeat(64)), None);
        let stars = format!("{}a", "*".repeat(100));
        assert!(matches(&pattern(&stars).unwrap(), "/usr/bin/a"));
        assert!(!matches(&pattern(&stars).unwrap(), "/usr/bin/ab"));
    }

    fn pools(cgroups: &[&str]) -> Rules {
        let pool = |path: &&str| PoolRule { cgroup: Some((*path).to_owned()), ..PoolRule::default() };
        let settings = Settings { pools: cgroups.iter().map(pool).collect(), ..Settings::default() };
        Rules::of(&settings, 7)
    }

    #[test]
    fn a_cgroup_below_one_that_a_rule_names() {
        let rules = pools(&["/ci/job-1", "/ci/", "/"]);
        let of = |path| rules.place(path).rules >> POOL_BITS;
        assert_eq!(of("/ci/job-1"), 0b111);
        assert_eq!(of("/ci/job-1/x/y"), 0b111);
        assert_eq!(of("/ci/job-10"), 0b110);
        assert_eq!(of("/cix"), 0b100);
        assert_eq!(of("/"), 0b100);
    }

    #[test]
    fn a_template_unit_has_the_number_that_its_name_gives() {
        let rules = pools(&[]);
        for (path, unit) in [
            ("/system.slice/system-web.slice/web@1.service", Some("/system.slice/system-web.slice/web@")),
            ("/system.slice/web@1.service/workers/a", Some("/system.slice/web@")),
            ("/a/web@1.service/sub@x", Some("/a/web@")),
            ("/system.slice/web.service", None),
            ("/x/web@1.service/inner.service", None),
            ("/user.slice/user@1000.service/app.slice", None),
            ("/user.slice/xuser@1000.service", Some("/user.slice/xuser@")),
            ("/web@.service", None),
            ("/@1.service", None),
            ("/web@1@2.service", Some("/web@")),
            ("/", None),
        ] {
            let process = crate::event::Process { cgroup: path.to_owned(), ..nobody() };
            let pool = Settings::default().standing(&process, &[]).pool;
            assert_eq!(pool, unit.map(|unit| PoolOf::Template(unit.to_owned())), "{path}");
            let place = rules.place(path).pool;
            let number = if place == 0 { 0 } else { pool_number(pool::TEMPLATE, place) };
            assert_eq!(number, pool.map_or(0, |pool| number_of(&pool, 7)), "{path}");
        }
    }

    #[test]
    fn rules_that_cannot_be_told_are_left_to_user_space() {
        let pool = |program: &str| PoolRule { program: Some(program.to_owned()), ..PoolRule::default() };
        let of = |pools: Vec<PoolRule>| Rules::of(&Settings { pools, ..Settings::default() }, 1).criteria;
        assert_eq!(of(vec![pool("a*")]).complete, 1);
        assert_eq!(of(vec![pool(&"a".repeat(64))]).complete, 0);
        assert_eq!(of((0..33).map(|_| pool("a")).collect()).complete, 0);
        // A rule that gives nothing has no workers.
        assert_eq!(of(vec![PoolRule::default()]).any_program, 0);
    }
}
