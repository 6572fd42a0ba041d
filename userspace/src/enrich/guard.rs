//! For enforcement: what the guard has to be told of processes, and what it tells.

use super::{Enricher, Fact, Lookups, after};
use crate::event::{
    Body, BootTime, Cookie, Denied, Errno, Hook, Process, ProcessKey, Seq, Waiting, WaitingCall,
};
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

    /// A call that waits, with what the kernel's tables have on its port. `next` is the number of the first fact.
    pub fn waiting(
        &mut self,
        call: Call,
        which: WaitingCall,
        blocked_by: Option<(Cookie, ProcessKey)>,
        at: BootTime,
        next: Seq,
        facts: &mut Vec<Fact>,
    ) {
        let begin = facts.len();
        self.processes.publish(call.task.process, Some(&call.task), &mut self.cgroups, at, facts);
        if let Some((_, holder)) = blocked_by {
            self.processes.publish(holder, None, &mut self.cgroups, at, facts);
        }
        let rows = self.look_up(&call.socket, at, facts);
        let asked_by = after(next, begin, facts);
        let body = Waiting {
            process: call.task.process,
            tid: call.task.tid,
            comm: call.task.comm,
            call: which,
            socket: call.socket,
            holder_cookie: blocked_by.map(|(cookie, _)| cookie),
            holder: blocked_by.map(|(_, holder)| holder),
        };
        facts.push(Fact { at, hook: Hook::Bindwatch, body: Body::Waiting(body) });
        self.tell(rows, asked_by, at, facts);
    }

    /// Name and user of a process, as far as they are known.
    #[must_use]
    pub fn name_and_user(&self, process: ProcessKey) -> (String, crate::event::Uid) {
        self.processes.name_and_user(process)
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
        if body.had_port(hook) {
            self.sockets.forget(body.socket.cookie);
            self.forget(body.socket.cookie);
        }
        facts.push(Fact { at, hook, body: Body::Denied(body) });
    }
}
