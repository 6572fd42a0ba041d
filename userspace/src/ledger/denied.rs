//! Binds that enforcement refused.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::event::{Cookie, Denied, Errno};

use super::Ledger;
use super::finding::{FindingId, HolderState, Kind};
use super::party::Party;
use super::place::PortKey;
use super::record::Moment;
use super::refused::Call;

/// Denials that later ones are put together with, the latest, endpoints.
const DENIALS_MAX: usize = 1_024;

/// The finding of each endpoint and the socket that it was kept for.
#[derive(Default)]
pub(super) struct Denials {
    known: BTreeMap<(PortKey, IpAddr, Cookie), FindingId>,
}

impl Ledger {
    /// One holder kept one endpoint: one finding, whoever wanted it and however often.
    pub(super) fn denied(&mut self, denied: &Denied, now: Moment) {
        let port = PortKey::of(&denied.socket);
        let endpoint = (port, denied.socket.address, denied.holder_cookie);
        let call = Call {
            process: denied.process,
            comm: &denied.comm,
            facts: &denied.socket,
            errno: Errno::EADDRINUSE,
            name: "bind",
        };
        let victim = call.victim(self);
        let holders: Vec<Party> = match self.holdings.get(denied.holder_cookie) {
            Some(socket) if !socket.holders().is_empty() => {
                socket.holders().iter().map(|process| Party::holding(&self.kin, *process, socket)).collect()
            }
            _ => {
                let mut facts = denied.socket.clone();
                facts.cookie = denied.holder_cookie;
                vec![Party::named(&self.kin, denied.holder, "", &facts, HolderState::Bound)]
            }
        };
        let again = self.denials.known.get(&endpoint).copied();
        let record = match again {
            Some(id) => self.records.touch(id),
            None => self.records.open(Kind::Denied, port, denied.socket.address, now),
        };
        let Some(record) = record else {
            self.stats.reached("findings", 1);
            return;
        };
        if again.is_some() {
            record.count += 1;
            record.last_seen = now.at;
        }
        record.victim = Some(victim);
        for party in holders {
            record.join(party);
        }
        record.evidence.add(now.seq);
        let id = record.id;
        self.stats.note_cut(record);
        if again.is_none() {
            self.denials.known.insert(endpoint, id);
            if self.denials.known.len() > DENIALS_MAX {
                self.denials.known.pop_first();
            }
        }
    }
}
