//! How events change the holdings. Whatever moves a socket tells the findings that name it, and has its places judged
//! again.

use crate::event::{
    Accepted, Bind, Changed, Close, Cookie, Found, Holders, Inventory, InventoryPhase, Listen, OptionSet,
    ProcessKey, Protocol, Seq, Setting, SocketFacts, TcpState, Unlisten,
};

use super::Ledger;
use super::finding::FindingId;
use super::orphan::FAREWELL_NS;
use super::party::Party;
use super::place::{Place, PortKey};
use super::record::Moment;
use super::socket::{Socket, State};

/// How long a bind may take, and the record of it until it is read, ns.
const BIND_NS: u64 = 1_000_000_000;

/// An inventory under way, and the last one that was whole.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Round {
    /// Number of the inventory, from 1.
    number: u32,
    /// Where it began; None between inventories.
    began: Option<Seq>,
}

impl Ledger {
    pub(super) fn bound(&mut self, bind: &Bind, now: Moment) {
        self.acquit(bind.socket.cookie, now);
        self.waits.succeeded(bind.socket.cookie);
        let is_known = self.holdings.get(bind.socket.cookie).is_some();
        if is_known && !self.unsee(&bind.socket, BIND_NS, now) {
            self.leave(bind.socket.cookie, now);
        }
        let mut socket = Socket::new(&bind.socket, State::Bound, Some(bind.process), Some(now.at), now.seq);
        socket.chosen = bind.requested_port == 0;
        self.enter(socket, now);
        self.ward(bind.socket.cookie, bind.process);
    }

    /// Who looks at the tables during a bind sees its socket there, before it is told how that call ended. Takes such a socket
    /// out: what follows from that look never was, or begins with the bind. A socket that has a port is not bound again, so
    /// what was seen is of this call, unless an overlap was found more than `within_ns` ago. Whether there was one.
    pub(super) fn unsee(&mut self, asked: &SocketFacts, within_ns: u64, now: Moment) -> bool {
        let (port, place) = (PortKey::of(asked), Place::of(asked));
        let seen = self.holdings.get(asked.cookie);
        let Some(seen) = seen.filter(|seen| seen.since.is_none() && (seen.port, seen.place) == (port, place))
        else {
            return false;
        };
        let overlaps = |id: &FindingId| {
            let record = self.records.get(*id).filter(|record| record.live && record.overlaps());
            record.map(|record| (record.id, now.at.since(record.first_seen) <= within_ns))
        };
        let found: Vec<(FindingId, bool)> = seen.findings.iter().filter_map(overlaps).collect();
        if !found.iter().all(|(_, is_recent)| *is_recent) {
            return false;
        }
        for (id, _) in found {
            if let Some(record) = self.records.peek(id) {
                record.withdraw(asked.cookie);
            }
        }
        self.move_out(asked.cookie, now);
        true
    }

    pub(super) fn listening(&mut self, listen: &Listen, now: Moment) {
        let facts = &listen.socket;
        let Some(known) = self.holdings.get(facts.cookie) else {
            self.enter(Socket::new(facts, State::Listen, Some(listen.process), Some(now.at), now.seq), now);
            self.ward(facts.cookie, listen.process);
            return;
        };
        if facts.port != 0 && (known.port, known.place) != (PortKey::of(facts), Place::of(facts)) {
            // Its port was not known yet, or a bind of it was lost.
            let mut socket = known.elsewhere(facts, State::Listen);
            socket.listened = now.seq;
            self.leave(facts.cookie, now);
            self.enter(socket, now);
            self.ward(facts.cookie, listen.process);
            return;
        }
        if let Some(socket) = self.holdings.get_mut(facts.cookie) {
            socket.state = State::Listen;
            socket.stopped = false;
            socket.listened = now.seq;
            socket.options = facts.options;
            socket.shares_port |= facts.options.reuse_port;
            socket.shares_addr |= facts.options.reuse_addr;
        }
        self.changed_here(facts.cookie, now);
    }

    /// A socket is not where or what it was, or it has got a port without a bind.
    pub(super) fn socket_changed(&mut self, changed: &Changed, now: Moment) {
        let facts = &changed.socket;
        if facts.port == 0 {
            self.leave(facts.cookie, now);
            return;
        }
        let state = State::of(facts.protocol, changed.state);
        let Some(known) = self.holdings.get(facts.cookie) else {
            if let Some(process) = changed.process {
                self.enter(Socket::new(facts, state, Some(process), Some(now.at), now.seq), now);
                self.ward(facts.cookie, process);
            }
            return;
        };
        if (known.port, known.place) != (PortKey::of(facts), Place::of(facts)) {
            let mut socket = known.elsewhere(facts, state);
            socket.listened = known.listened;
            socket.shares_port |= known.shares_port;
            socket.shares_addr |= known.shares_addr;
            socket.multicast |= known.multicast;
            (socket.unheld, socket.nobodys) = (known.unheld, known.nobodys);
            socket.moved = known.moved || known.options.device != facts.options.device;
            let binder = socket.binder;
            self.move_out(facts.cookie, now);
            self.enter(socket, now);
            if let Some(binder) = binder {
                self.ward(facts.cookie, binder);
            }
            return;
        }
        if known.state == state && known.options == facts.options {
            return;
        }
        if let Some(socket) = self.holdings.get_mut(facts.cookie) {
            socket.moved |= socket.options.device != facts.options.device;
            socket.state = state;
            socket.options = facts.options;
            socket.shares_port |= facts.options.reuse_port;
            socket.shares_addr |= facts.options.reuse_addr;
        }
        self.changed_here(facts.cookie, now);
    }

    pub(super) fn unlistened(&mut self, unlisten: &Unlisten, now: Moment) {
        let Some(socket) = self.holdings.get_mut(unlisten.cookie) else { return };
        socket.state = State::Bound;
        socket.stopped = true;
        for id in &socket.findings {
            if let Some(record) = self.records.peek(*id) {
                record.add_backlog(unlisten.cookie, unlisten.backlog);
            }
        }
        if socket.chosen {
            // A port that the kernel chose is not kept beyond that (SOCK_BINDPORT_LOCK, `tcp_set_state`).
            self.leave(unlisten.cookie, now);
            return;
        }
        self.changed_here(unlisten.cookie, now);
    }

    /// `listen()` failed: the socket is bound as before. For a moment it listened.
    pub(super) fn listen_failed(&mut self, cookie: Cookie, now: Moment) {
        let Some(socket) = self.holdings.get_mut(cookie) else { return };
        if socket.state == State::Listen {
            socket.state = State::Bound;
            self.changed_here(cookie, now);
        }
    }

    pub(super) fn option_set(&mut self, option: &OptionSet, now: Moment) {
        let Some(socket) = self.holdings.get_mut(option.cookie) else { return };
        match option.setting {
            Setting::ReuseAddr(on) => {
                socket.options.reuse_addr = on;
                socket.shares_addr |= on;
            }
            Setting::ReusePort(on) => {
                socket.options.reuse_port = on;
                socket.shares_port |= on;
            }
            Setting::Device(device) => {
                socket.moved |= socket.options.device != device;
                socket.options.device = device;
            }
            Setting::Multicast => {
                socket.multicast = true;
                for id in &socket.findings {
                    if let Some(record) =
                        self.records.peek(*id).filter(|record| record.live && record.overlaps())
                    {
                        record.withdraw(option.cookie);
                    }
                }
            }
        }
        self.changed_here(option.cookie, now);
    }

    /// How many connections a listener got: told of every overlap that names it.
    pub(super) fn accepted(&mut self, accepted: &Accepted, now: Moment) {
        let Some(socket) = self.holdings.get(accepted.cookie) else { return };
        for id in &socket.findings {
            if let Some(record) = self.records.peek(*id).filter(|record| record.overlaps())
                && record.add_accepted(accepted, now.seq)
            {
                record.evidence.add(now.seq);
                self.records.touch(*id);
            }
        }
    }

    pub(super) fn closed(&mut self, close: &Close, now: Moment) {
        if let Some(socket) = self.holdings.get(close.cookie) {
            for id in &socket.findings {
                if let Some(record) = self.records.peek(*id) {
                    record.add_backlog(close.cookie, close.backlog);
                }
            }
            if self.lingering.closed(socket, close.state, now.seq) {
                self.stats.reached("lingering-sockets", 1);
            }
        }
        self.leave(close.cookie, now);
    }

    pub(super) fn gone(&mut self, cookie: Cookie, now: Moment) {
        self.lingering.gone(cookie);
        self.leave(cookie, now);
    }

    pub(super) fn holders_seen(&mut self, holders: &Holders, now: Moment) {
        self.holdings.set_holders(holders.cookie, &holders.processes, now.seq, now.at);
        let Some(socket) = self.holdings.get(holders.cookie) else { return };
        if !holders.processes.is_empty() {
            self.records.follow(socket, &holders.processes, now);
        }
        self.changed_here(holders.cookie, now);
        self.inherited(holders.cookie, now);
    }

    /// A process ended: it no longer counts among the holders of what others have as well. What it had alone keeps its
    /// name until its close, or a look-up, tells more.
    pub(super) fn ended(&mut self, process: ProcessKey, now: Moment) {
        self.kin.end(process, now.seq);
        self.wards.ended(process, now);
        let held: Vec<Cookie> = self.holdings.held_by(process).collect();
        let left: Vec<Cookie> = self.holdings.left_by(process).collect();
        for cookie in held {
            // What was in nobody's hands has only the names of those who had it last.
            let Some(socket) = self.holdings.get(cookie).filter(|socket| !socket.nobodys) else { continue };
            let rest: Vec<ProcessKey> =
                socket.holders().iter().copied().filter(|other| *other != process).collect();
            if rest.is_empty() {
                if let Some(socket) = self.holdings.get_mut(cookie) {
                    socket.unheld = true;
                }
                continue;
            }
            let (seq, at) =
                socket.shared.as_ref().map_or((now.seq, now.at), |shared| (shared.seq, shared.at));
            self.holdings.set_holders(cookie, &rest, seq, at);
            if let Some(socket) = self.holdings.get(cookie) {
                self.records.follow(socket, &rest, now);
            }
            self.changed_here(cookie, now);
            self.inherited(cookie, now);
        }
        for cookie in left {
            self.inherited(cookie, now);
        }
    }

    /// Kin of a process changed (it executed another program): what it holds is judged again.
    pub(super) fn kin_changed(&mut self, process: ProcessKey, now: Moment) {
        let held: Vec<Cookie> = self.holdings.held_by(process).collect();
        for cookie in held {
            self.changed_here(cookie, now);
            self.inherited(cookie, now);
        }
    }

    pub(super) fn inventory(&mut self, inventory: &Inventory, now: Moment) {
        match inventory.phase {
            InventoryPhase::Begin => {
                self.round.number += 1;
                self.round.began = Some(now.seq);
            }
            InventoryPhase::End => self.inventory_ended(inventory.unseen.is_empty(), now),
        }
    }

    fn inventory_ended(&mut self, complete: bool, now: Moment) {
        let Some(began) = self.round.began.take() else { return };
        let round = self.round.number;
        let is_listed = |socket: &&Socket| socket.round == round;
        let looked_into: std::collections::BTreeSet<_> =
            self.holdings.any_order().filter(is_listed).map(|socket| socket.port.netns).collect();
        let mut over: Vec<(Seq, Cookie)> = self
            .holdings
            .any_order()
            .filter(|socket| !is_listed(socket) && socket.known < began)
            .filter(|socket| complete || looked_into.contains(&socket.port.netns))
            .map(|socket| (socket.known, socket.cookie))
            .collect();
        over.sort_unstable();
        for (_, cookie) in over {
            self.leave(cookie, now);
        }
        if complete {
            self.lingering.settle(began, round);
            self.records.lossy = self.lost_at.is_some_and(|lost| lost > began);
        }
    }

    /// A socket that an inventory listed.
    pub(super) fn found(&mut self, found: &Found, now: Moment) {
        let facts = &found.socket;
        let tcp = facts.protocol == Protocol::Tcp;
        if tcp && found.state == TcpState::TimeWait {
            return;
        }
        let state = State::of(facts.protocol, found.state);
        let binder = self.likely_binder(&found.holders);
        let round = self.round.number;
        let closing = matches!(
            found.state,
            TcpState::FinWait1
                | TcpState::FinWait2
                | TcpState::Closing
                | TcpState::LastAck
                | TcpState::CloseWait
        );
        if tcp && closing && found.holders.is_empty() {
            self.leave(facts.cookie, now);
            let socket = Socket::new(facts, state, None, None, now.seq);
            if self.lingering.add(&socket, None, now.seq, round) {
                self.stats.reached("lingering-sockets", 1);
            }
            return;
        }
        let known = self.holdings.get(facts.cookie);
        let same = known.filter(|known| (known.port, known.place) == (PortKey::of(facts), Place::of(facts)));
        let Some(known) = same else {
            self.leave(facts.cookie, now);
            let mut socket = Socket::new(facts, state, binder, None, now.seq);
            socket.round = round;
            // The first inventory lists what was there before.
            socket.unseen = round > 1 || round == 1 && self.round.began.is_none();
            self.enter(socket, now);
            self.holdings.set_holders(facts.cookie, &found.holders, now.seq, now.at);
            self.changed_here(facts.cookie, now);
            return;
        };
        let unchanged = known.state == state
            && known.options == facts.options
            && if found.holders.is_empty() {
                known.nobodys || known.holders().is_empty()
            } else {
                !known.unheld && known.holders() == found.holders
            };
        let nobody_known = known.holders().is_empty();
        if let Some(socket) = self.holdings.get_mut(facts.cookie) {
            socket.round = round;
            if !unchanged {
                socket.stopped &= state != State::Listen;
                socket.moved |= socket.options.device != facts.options.device;
                socket.state = state;
                socket.options = facts.options;
                socket.shares_port |= facts.options.reuse_port;
                socket.shares_addr |= facts.options.reuse_addr;
            }
        }
        if unchanged {
            return;
        }
        if nobody_known && let Some(mut socket) = self.holdings.remove(facts.cookie) {
            socket.binder = binder;
            self.holdings.insert(socket);
        }
        // Nobody: in flight, or with io_uring only.
        self.holdings.set_holders(facts.cookie, &found.holders, now.seq, now.at);
        if let Some(socket) = self.holdings.get(facts.cookie)
            && !found.holders.is_empty()
        {
            self.records.follow(socket, &found.holders, now);
        }
        self.changed_here(facts.cookie, now);
    }

    /// Of processes that have a socket: the eldest ancestor of the first, or the first.
    fn likely_binder(&self, holders: &[ProcessKey]) -> Option<ProcessKey> {
        let first = *holders.first()?;
        Some(self.kin.ancestors(first).filter(|ancestor| holders.contains(ancestor)).last().unwrap_or(first))
    }

    /// A new socket, or one at a new place.
    fn enter(&mut self, mut socket: Box<Socket>, now: Moment) {
        if socket.round == 0 {
            // What was bound since an inventory began is none of its business.
            socket.round = self.round.number;
        }
        if socket.bound_as.is_none() && socket.since.is_some() {
            socket.bound_as = socket.binder.and_then(|binder| self.kin.facts(binder).cloned());
        }
        let (port, place, cookie) = (socket.port, socket.place, socket.cookie);
        self.lingering.gone(cookie);
        let alone = self.holdings.insert(socket);
        if !alone || !self.overlaps.is_empty() {
            self.review(port, place, Some(cookie), now);
        }
    }

    /// A socket leaves its place for good.
    fn leave(&mut self, cookie: Cookie, now: Moment) {
        let Some(socket) = self.move_out(cookie, now) else { return };
        let is_release = socket.port.port != 0 && socket.state != State::Connected;
        if is_release && self.releases.add(&socket, now.seq, now.at) {
            self.stats.reached("released-ports", 1);
        }
    }

    /// A socket is no longer at its place.
    fn move_out(&mut self, cookie: Cookie, now: Moment) -> Option<Box<Socket>> {
        let socket = self.holdings.remove(cookie)?;
        self.records.follow(&socket, &[], now);
        for id in &socket.findings {
            self.settle_orphan(*id, now);
            self.settle_handover(*id, now);
        }
        if !self.none_misses(&socket) {
            self.review(socket.port, socket.place, None, now);
        }
        Some(socket)
    }

    /// An orphan whose last socket was released is over.
    fn settle_orphan(&mut self, id: FindingId, now: Moment) {
        if let Some(record) = self.records.peek(id)
            && record.kind == super::Kind::Orphan
            && record.live
            && record.parties.iter().all(|party| party.released_at.is_some())
        {
            if record.presumed && now.at.0 < record.first_seen.0.saturating_add(FAREWELL_NS) {
                // It was closed in time. Something of a later time was told before.
                self.records.retract(id);
                return;
            }
            record.live = false;
            record.last_seen = now.at;
            self.records.touch(id);
        }
    }

    /// A newcomer that is gone as soon as the older holder took nothing over: both ended together, and until then both
    /// answered.
    fn settle_handover(&mut self, id: FindingId, now: Moment) {
        let within_ns = self.settings.handover_ns;
        if let Some(record) = self.records.peek(id)
            && record.kind == super::Kind::Handover
            && now.at.since(record.last_seen) <= within_ns
            && record.parties.iter().all(|party| party.released_at.is_some())
        {
            record.kind = super::Kind::CoBind;
            record.evidence.add(now.seq);
            self.records.touch(id);
        }
    }

    /// Something about a socket changed, but not its place.
    fn changed_here(&mut self, cookie: Cookie, now: Moment) {
        let Some(socket) = self.holdings.get(cookie) else { return };
        let (port, place) = (socket.port, socket.place);
        for id in &socket.findings {
            let Some(record) = self.records.peek(*id).filter(|record| record.live) else { continue };
            let mut changed = record.refresh(socket);
            if record.kind == super::Kind::Orphan {
                // Whoever has it now keeps it orphaned.
                for process in socket.holders() {
                    changed |= record.join(Party::holding(&self.kin, *process, socket));
                }
            }
            if changed {
                record.evidence.add(now.seq);
                self.records.touch(*id);
            }
        }
        self.review(port, place, Some(cookie), now);
    }
}
