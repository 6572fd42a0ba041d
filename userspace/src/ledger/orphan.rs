//! Sockets that outlive the job they belong to.

use std::collections::{BTreeMap, BTreeSet};

use crate::event::{Cookie, Job, JobPhase, ProcessKey};

use super::Ledger;
use super::finding::Kind;
use super::party::Party;
use super::place::{Place, PortKey};
use super::record::Moment;
use super::settings::is_at_or_below;
use super::socket::State;

impl Ledger {
    /// A job began or ended: at its end, what only its own processes still hold is orphaned.
    pub(super) fn job(&mut self, job: &Job, now: Moment) {
        if job.phase != JobPhase::End {
            return;
        }
        let left: BTreeSet<ProcessKey> = job.left.iter().copied().collect();
        let whole_machine = job.cgroup.trim_matches('/').is_empty();
        let belongs = |process: ProcessKey| {
            left.contains(&process)
                || (!whole_machine
                    && self
                        .kin
                        .facts(process)
                        .is_some_and(|facts| is_at_or_below(&facts.cgroup, &job.cgroup)))
        };
        // One finding for each endpoint and set of processes.
        let mut orphans: BTreeMap<(PortKey, Place, Vec<ProcessKey>), Vec<Cookie>> = BTreeMap::new();
        for socket in self.holdings.in_order() {
            let mut holders = socket.holders().to_vec();
            holders.sort_unstable();
            // Nobody's: in flight, or about to be closed with its last holder.
            if socket.unheld
                || socket.state == State::Connected
                || !holders.iter().all(|holder| belongs(*holder))
            {
                continue;
            }
            if !holders.is_empty() {
                orphans.entry((socket.port, socket.place, holders)).or_default().push(socket.cookie);
            }
        }
        for ((port, place, _), mut cookies) in orphans {
            cookies.sort_unstable_by_key(|cookie| {
                (self.holdings.get(*cookie).map(|socket| socket.known), *cookie)
            });
            let Some(record) = self.records.open(Kind::Orphan, port, place.address(), now) else {
                self.stats.reached("findings", 1);
                return;
            };
            record.live = true;
            record.evidence.add(now.seq);
            for socket in cookies.iter().filter_map(|cookie| self.holdings.get(*cookie)) {
                record.add_socket_evidence(socket);
                for process in socket.holders() {
                    record.join(Party::holding(&self.kin, *process, socket));
                }
            }
            self.stats.note_cut(record);
            let id = record.id;
            self.records.link(id, &mut self.holdings);
        }
    }
}
