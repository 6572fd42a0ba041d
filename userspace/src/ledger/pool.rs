//! Pools: workers that a supervisor execs one by one and that share on purpose, known by a mark, never by likeness.

use crate::event::{Process, ProcessKey};

/// What makes two processes workers of one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pool<'a> {
    /// Children that Python's multiprocessing started by `spawn`; `--multiprocessing-fork` since Python 3.4 (checked: 3.11).
    /// Those of `forkserver` are forks of one server: one lineage without a mark.
    Multiprocessing { parent: ProcessKey },
    /// Instances of a systemd template unit: `name@1.service` and `name@2.service` (systemd.unit(5)).
    Template { slice: &'a str, unit: &'a str },
}

impl<'a> Pool<'a> {
    pub(super) fn of(process: &'a Process) -> Option<Self> {
        if let Some(parent) = process.parent
            && process.cmdline.iter().any(|argument| argument == "--multiprocessing-fork")
        {
            return Some(Self::Multiprocessing { parent });
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
