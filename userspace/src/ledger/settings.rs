//! What a user can set about judging: kinship, reloads, and what is allowed.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::finding::{Finding, Holder};
use super::pool::{self, PoolOf};
use crate::event::Process;

/// When two processes count as one party. Everything else is unrelated, and sharing an endpoint is a finding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RelatedBy {
    /// Only a process with itself.
    Process,
    /// One lineage, one an ancestor of the other, or workers of one pool.
    #[default]
    Lineage,
    /// As lineage, or one session (setsid(2)).
    Session,
    /// As lineage, or one cgroup.
    Cgroup,
    /// As lineage, or one real user id.
    User,
}

/// How the ledger judges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The kinship rule.
    pub related_by: RelatedBy,
    /// How long an older holder may take to stop after its successor bound, ns, for a reload to be a `handover`.
    pub handover_ns: u64,
    /// Pools besides the recognised ones.
    pub pools: Vec<PoolRule>,
    /// Findings that match one of these are not reported.
    pub allow: Vec<AllowRule>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            related_by: RelatedBy::default(),
            handover_ns: 1_000_000_000,
            pools: Vec::new(),
            allow: Vec::new(),
        }
    }
}

/// Sharing that is meant. A finding is allowed when everything the rule gives matches; a rule that gives nothing
/// matches nothing.
///
/// Program and cgroup must match every holder and, where a call failed, its caller as well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowRule {
    /// Pattern (`*` any text, `?` one character) of the process's name, of the last part of its executable's path, or
    /// of the whole path.
    pub program: Option<String>,
    /// This cgroup2 path, or any below it.
    pub cgroup: Option<String>,
    /// The endpoint's address.
    pub address: Option<IpAddr>,
    /// The endpoint's port.
    pub port: Option<RangeInclusive<u16>>,
}

/// A pool that a user declares: two processes are workers of it when both match everything the rule gives. A rule
/// that gives nothing has no workers.
///
/// Unlike what an [`AllowRule`] allows, a stranger among the workers is still found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolRule {
    /// Pattern of the workers' program, as in [`AllowRule::program`].
    pub program: Option<String>,
    /// The workers' cgroup2 path, or one above it.
    pub cgroup: Option<String>,
    /// Pattern of the program of their supervisor: the nearest ancestor that matches, which must be one and the same
    /// process.
    pub parent: Option<String>,
}

/// What the kernel has to know of a process to judge as the ledger does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The pool that it is a worker of.
    pub pool: Option<PoolOf>,
    /// The allow rules whose program and cgroup match, a bit each, the first 32.
    pub rules: u32,
    /// The pool rules for which it is a supervisor, a bit each, the first 32.
    pub parents: u32,
}

impl Settings {
    /// How a process stands. `above` are its ancestors, nearest first.
    #[must_use]
    pub fn standing(&self, process: &Process, above: &[Process]) -> Standing {
        let matching = self.allow.iter().take(32).enumerate();
        let matching =
            matching.filter(|(_, rule)| rule.is_about(&process.comm, &process.exe, &process.cgroup));
        let parents = self.pools.iter().take(32).enumerate().filter(|(_, rule)| rule.is_parent(process));
        Standing {
            pool: pool::of(&self.pools, process, above),
            rules: matching.fold(0, |bits, (nth, _)| bits | 1 << nth),
            parents: parents.fold(0, |bits, (nth, _)| bits | 1 << nth),
        }
    }
}

impl PoolRule {
    /// Whether it could be a worker; of which pool, its supervisor tells.
    pub(super) fn is_worker(&self, process: &Process) -> bool {
        let given = self.program.is_some() || self.cgroup.is_some() || self.parent.is_some();
        let cgroup = self.cgroup.as_ref().is_none_or(|cgroup| is_at_or_below(&process.cgroup, cgroup));
        given
            && cgroup
            && self.program.as_ref().is_none_or(|glob| is_program(glob, &process.comm, &process.exe))
    }

    /// Whether it is the supervisor of the workers below it.
    pub(super) fn is_parent(&self, process: &Process) -> bool {
        self.parent.as_ref().is_some_and(|glob| is_program(glob, &process.comm, &process.exe))
    }
}

impl AllowRule {
    /// Whether the rule allows the finding.
    #[must_use]
    pub fn allows(&self, finding: &Finding) -> bool {
        let about_who = self.program.is_some() || self.cgroup.is_some();
        if !about_who && self.address.is_none() && self.port.is_none() {
            return false;
        }
        if self.address.is_some_and(|address| address.to_canonical() != finding.address.to_canonical())
            || self.port.as_ref().is_some_and(|ports| !ports.contains(&finding.port))
        {
            return false;
        }
        let mut someone = false;
        let victim = finding.victim.as_ref().map(|victim| &victim.holder);
        let all = finding.holders.iter().chain(victim).all(|who| {
            someone = true;
            self.allows_process(who)
        });
        !about_who || (someone && all)
    }

    fn allows_process(&self, who: &Holder) -> bool {
        self.is_about(&who.comm, &who.exe, &who.cgroup)
    }

    fn is_about(&self, comm: &str, exe: &str, cgroup: &str) -> bool {
        self.program.as_ref().is_none_or(|glob| is_program(glob, comm, exe))
            && self.cgroup.as_ref().is_none_or(|top| is_at_or_below(cgroup, top))
    }
}

/// Whether a pattern matches a process's name, the path of its executable, or the last part of that.
fn is_program(glob: &str, comm: &str, exe: &str) -> bool {
    let base = exe.rsplit('/').next().unwrap_or_default();
    [comm, exe, base].iter().any(|name| glob_matches(glob, name))
}

/// Whether a cgroup is this one or below it.
pub(super) fn is_at_or_below(cgroup: &str, top: &str) -> bool {
    let top = top.trim_end_matches('/');
    cgroup.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Matches `*` and `?` in time proportional to the product of the lengths, whatever the pattern.
fn glob_matches(glob: &str, text: &str) -> bool {
    let (mut pattern, mut rest) = (glob.chars(), text.chars());
    // Where to take up again after the last star: the pattern behind it, and the text it has not swallowed yet.
    let mut retry: Option<(std::str::Chars<'_>, std::str::Chars<'_>)> = None;
    loop {
        let mut after = pattern.clone();
        match after.next() {
            Some('*') => {
                retry = Some((after.clone(), rest.clone()));
                pattern = after;
                continue;
            }
            Some(wanted) => {
                if let Some(found) = rest.next()
                    && (wanted == '?' || wanted == found)
                {
                    pattern = after;
                    continue;
                }
            }
            None if rest.as_str().is_empty() => return true,
            None => {}
        }
        let Some((behind, unswallowed)) = &mut retry else { return false };
        if unswallowed.next().is_none() {
            return false;
        }
        pattern = behind.clone();
        rest = unswallowed.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_texts() {
        for (glob, text, matches) in [
            ("node", "node", true),
            ("node", "nodejs", false),
            ("node*", "nodejs", true),
            ("*/python3*", "/usr/bin/python3.11", true),
            ("*a*b", "xaxxbxb", true),
            ("*a*b", "xaxxbxc", false),
            ("n?de", "node", true),
            ("n?de", "nde", false),
            ("", "", true),
            ("*", "", true),
            ("?", "", false),
        ] {
            assert_eq!(glob_matches(glob, text), matches, "{glob} on {text}");
        }
    }

    #[test]
    fn cgroups_match_by_component() {
        assert!(is_at_or_below("/ci/job-1/x", "/ci/job-1"));
        assert!(is_at_or_below("/ci/job-1", "/ci/job-1/"));
        assert!(!is_at_or_below("/ci/job-10", "/ci/job-1"));
        assert!(is_at_or_below("/ci", "/"));
    }
}
