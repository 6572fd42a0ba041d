//! Pools: workers that a supervisor execs one by one and that share on purpose, known by a mark, never by likeness.
//!
//! The marks are one table, here; docs/findings.md lists them with the versions they were checked on.

use crate::event::{Mark, Process, ProcessKey};

use super::settings::PoolRule;

/// What makes two processes workers of one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Pool<'a> {
    /// Children that Python's multiprocessing started by `spawn`; `--multiprocessing-fork` since Python 3.4.
    /// Those of `forkserver` are forks of one server: one lineage without a mark.
    Multiprocessing { parent: ProcessKey },
    /// Workers of Node.js's `cluster`: `NODE_UNIQUE_ID` in their environment, a number of its own for each.
    NodeCluster { parent: ProcessKey },
    /// Instances of a systemd template unit: `name@1.service` and `name@2.service` (systemd.unit(5)).
    Template { slice: &'a str, unit: &'a str },
}

/// A pool, as a single process shows it: workers of one show the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolOf {
    /// Children of this process that Python's multiprocessing started.
    Multiprocessing(ProcessKey),
    /// Workers of Node.js's `cluster` of this process.
    NodeCluster(ProcessKey),
    /// Instances of a systemd template unit: its cgroup's path up to and with the `@`.
    Template(String),
    /// Workers by a user's rule, which is given by its number, and their supervisor, where the rule asks for one.
    Rule(usize, Option<ProcessKey>),
}

/// Programs that start workers of `cluster`. Only asked to know what a mark that could not be read leaves open.
const CLUSTER_RUNTIMES: [&str; 4] = ["node", "nodejs", "bun", "electron"];

/// Whether two processes, the roots of their lineages, are workers of one recognised pool.
pub(super) fn is_one(a: &Process, b: &Process) -> bool {
    match (Pool::of(a), Pool::of(b)) {
        // The same number twice was inherited by both from somebody else: no `cluster` gave it to them.
        (Some(pool @ Pool::NodeCluster { .. }), Some(other)) => pool == other && a.mark != b.mark,
        (Some(pool), Some(other)) => pool == other,
        _ => false,
    }
}

/// Whether two processes could be workers of one pool, of which a mark could not be read.
pub(super) fn could_be_one(a: &Process, b: &Process) -> bool {
    let open = |process: &Process| {
        let program = process.exe.rsplit('/').next().filter(|program| !program.is_empty());
        let runs_cluster = CLUSTER_RUNTIMES.contains(&program.unwrap_or(&process.comm));
        runs_cluster && process.mark == Some(Mark::Unknown)
    };
    let marked = |process: &Process| open(process) || matches!(process.mark, Some(Mark::NodeCluster(_)));
    a.parent.is_some() && a.parent == b.parent && (open(a) || open(b)) && marked(a) && marked(b)
}

/// Whether what decides about pools differs between what was known of a process and what is.
pub(super) fn differs(before: &Process, now: &Process) -> bool {
    Pool::of(before) != Pool::of(now) || before.mark != now.mark
}

/// Whether a user's rule makes two processes workers of one pool. `ancestors` gives a process's ancestors, nearest
/// first.
pub(super) fn is_meant<'a, I: Iterator<Item = &'a Process>>(
    rules: &[PoolRule],
    a: &'a Process,
    b: &'a Process,
    ancestors: impl Fn(&'a Process) -> I,
) -> bool {
    rules.iter().any(|rule| {
        let supervisor =
            |process| ancestors(process).find(|above| rule.is_parent(above)).map(|it| it.process);
        rule.is_worker(a)
            && rule.is_worker(b)
            && (rule.parent.is_none() || supervisor(a).is_some_and(|one| Some(one) == supervisor(b)))
    })
}

/// The pool that a process is a worker of; `above` are its ancestors, nearest first. The marks go before the rules.
pub(super) fn of(rules: &[PoolRule], process: &Process, above: &[Process]) -> Option<PoolOf> {
    match Pool::of(process) {
        Some(Pool::Multiprocessing { parent }) => return Some(PoolOf::Multiprocessing(parent)),
        Some(Pool::NodeCluster { parent }) => return Some(PoolOf::NodeCluster(parent)),
        Some(Pool::Template { slice, unit }) => return Some(PoolOf::Template(format!("{slice}/{unit}@"))),
        None => {}
    }
    rules.iter().enumerate().find_map(|(nth, rule)| {
        let supervisor = above.iter().find(|one| rule.is_parent(one)).map(|one| one.process);
        (rule.is_worker(process) && (rule.parent.is_none() || supervisor.is_some()))
            .then_some(PoolOf::Rule(nth, supervisor))
    })
}

impl<'a> Pool<'a> {
    fn of(process: &'a Process) -> Option<Self> {
        if let Some(parent) = process.parent {
            match process.mark {
                Some(Mark::Multiprocessing) => return Some(Self::Multiprocessing { parent }),
                Some(Mark::NodeCluster(_)) => return Some(Self::NodeCluster { parent }),
                None | Some(Mark::Unknown) => {}
            }
            // Logs of older versions have no mark.
            if Mark::in_arguments(&process.cmdline).is_some() {
                return Some(Self::Multiprocessing { parent });
            }
        }
        template(&process.cgroup).map(|(slice, unit)| Self::Template { slice, unit })
    }
}

/// The innermost template instance in a cgroup's path: what is above it, and the template's name.
///
/// Only units that systemd places itself: `user@1000.service` is a user's whole session, no pool.
fn template(cgroup: &str) -> Option<(&str, &str)> {
    let mut end = cgroup.len();
    loop {
        let start = cgroup.get(..end)?.rfind('/')?;
        let name = cgroup.get(start + 1..end)?;
        if let Some(instance) = name.strip_suffix(".service") {
            let (unit, instance) = instance.split_once('@')?;
            let pool = !unit.is_empty() && !instance.is_empty() && unit != "user";
            return if pool { Some((cgroup.get(..start)?, unit)) } else { None };
        }
        end = start;
    }
}

#[cfg(test)]
mod tests {
    use super::template;

    #[test]
    fn template_instances_are_read_from_the_cgroup() {
        assert_eq!(
            template("/system.slice/system-web.slice/web@1.service"),
            Some(("/system.slice/system-web.slice", "web"))
        );
        assert_eq!(template("/system.slice/web@1.service/workers/a"), Some(("/system.slice", "web")));
        assert_eq!(template("/system.slice/web.service"), None);
        assert_eq!(template("/user.slice/user-1000.slice/user@1000.service/app.slice"), None);
        assert_eq!(template("/web@.service"), None);
        assert_eq!(template(""), None);
    }
}
