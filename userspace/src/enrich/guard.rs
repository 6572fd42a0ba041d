//! For enforcement: what the guard has to be told of processes, and what it tells.

use super::{Enricher, Fact, Lookups};
use crate::event::{Body, BootTime, Cookie, Denied, Errno, Hook, Process, ProcessKey};
use crate::probe::Kinship;
use crate::wire::Call;

impl<L: Lookups> Enricher<L> {
    /// Every live process.
    #[must_use]
    pub fn kinships(&self) -> Vec<Kinship> {
        self.processes.kinships()
    }

    /// A process and its ancestors, nearest first. None when it is not known.
    pub fn described(&mut self, process: ProcessKey) -> Option<(Process, Vec<Process>)> {
        let above = self.processes.ancestors(process);
        let described = self.processes.describe(process, &mut self.cgroups)?;
        let above = above.into_iter().filter_map(|one| self.processes.describe(one, &mut self.cgroups));
        Some((described, above.collect()))
    }

    /// A bind that was refused, or would have been.
    pub(super) fn denied(
        &mut self,
        call: Call,
        holder_cookie: Cookie,
        holder: ProcessKey,
        at: BootTime,
        hook: Hook,
        facts: &mut Vec<Fact>,
    ) {
        self.processes.publish(call.task.process, Some(&call.task), &mut self.cgroups, at, facts);
        self.processes.publish(holder, None, &mut self.cgroups, at, facts);
        let dry_run = call.errno == Errno::UNKNOWN;
        let body = Denied {
            process: call.task.process,
            tid: call.task.tid,
            comm: call.task.comm,
            socket: call.socket,
            requested_port: call.requested_port,
            holder_cookie,
            holder,
            errno: if dry_run { Errno::EADDRINUSE } else { call.errno },
            dry_run,
        };
        facts.push(Fact { at, hook, body: Body::Denied(body) });
    }
}
