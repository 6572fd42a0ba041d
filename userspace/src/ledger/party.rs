//! A process in a finding, with what it was when it came in, and its stakes in the endpoint.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::event::{Ancestor, BootTime, Cookie, Options, Process, ProcessKey, Seq, SocketFacts, Uid};

use super::finding::{Holder, HolderState};
use super::kin::Kin;
use super::socket::Socket;

/// Sockets of one process that a finding lists, sockets.
pub(super) const STAKES_MAX: usize = 256;

/// One socket of a process in a finding.
#[derive(Clone, Debug)]
pub(super) struct Stake {
    pub(super) cookie: Cookie,
    /// When the process let it go; None while it has it.
    pub(super) closed_at: Option<BootTime>,
    /// It takes part in what the finding is about.
    pub(super) active: bool,
    /// Scratch of one update.
    pub(super) kept: bool,
    /// Connections that came to it; None not known.
    pub(super) accepted: Option<u64>,
    /// By this event; 0 by none.
    pub(super) counted: Seq,
}

impl Stake {
    pub(super) const fn is_open(&self) -> bool {
        self.closed_at.is_none()
    }
}

/// A holder as a finding keeps it. The facts are those of the moment it came in.
#[derive(Clone, Debug)]
pub(super) struct Party {
    pub(super) process: ProcessKey,
    pub(super) facts: Option<Arc<Process>>,
    /// The name that its call gave, where nothing else is known.
    comm: String,
    lineage: ProcessKey,
    parents: Box<[Ancestor]>,
    pub(super) stakes: Vec<Stake>,
    /// Connections that came to sockets that are not listed any more; None not known.
    accepted_before: Option<u64>,
    address: IpAddr,
    port: u16,
    pub(super) options: Options,
    pub(super) state: HolderState,
    pub(super) bound_at: Option<BootTime>,
    /// See [`Holder::bound_unseen`].
    bound_unseen: bool,
    pub(super) released_at: Option<BootTime>,
    /// When its last stake ceased to be active.
    pub(super) stopped_at: Option<BootTime>,
    /// Connections that were lost in its queues.
    pub(super) backlog: u64,
    inherited_from: Option<ProcessKey>,
    /// Enforcement would have refused its bind; None not judged.
    pub(super) would_be_denied: Option<bool>,
    /// The other side, and whether the process connected to it.
    pub(super) connection: Option<(SocketAddr, bool)>,
}

impl Party {
    /// A holder of a live socket.
    pub(super) fn holding(kin: &Kin, process: ProcessKey, socket: &Socket) -> Self {
        Self {
            bound_at: socket.held_since(process),
            bound_unseen: socket.unseen,
            state: socket.state.shown(),
            inherited_from: socket.binder.filter(|binder| *binder != process),
            ..Self::bare(kin, process, socket.cookie, socket.address(), socket.port.port, socket.options)
        }
    }

    /// A process that a table row, or its own failed call, connects with a socket.
    pub(super) fn named(
        kin: &Kin,
        process: ProcessKey,
        comm: &str,
        facts: &SocketFacts,
        state: HolderState,
    ) -> Self {
        let mut party = Self::bare(kin, process, facts.cookie, facts.address, facts.port, facts.options);
        party.state = state;
        // No inventory listed it.
        party.bound_unseen = true;
        if party.facts.is_none() {
            comm.clone_into(&mut party.comm);
        }
        party
    }

    fn bare(
        kin: &Kin,
        process: ProcessKey,
        cookie: Cookie,
        address: IpAddr,
        port: u16,
        options: Options,
    ) -> Self {
        Self {
            process,
            facts: kin.facts(process).cloned(),
            comm: String::new(),
            lineage: kin.lineage(process),
            parents: kin.parents_shown(process),
            stakes: vec![Stake {
                cookie,
                closed_at: None,
                active: true,
                kept: true,
                accepted: None,
                counted: Seq(0),
            }],
            accepted_before: Some(0),
            address,
            port,
            options,
            state: HolderState::Bound,
            bound_at: None,
            bound_unseen: false,
            released_at: None,
            stopped_at: None,
            backlog: 0,
            inherited_from: None,
            would_be_denied: None,
            connection: None,
        }
    }

    /// Its bind was seen, and its own.
    pub(super) const fn bound_itself(&self) -> bool {
        self.bound_at.is_some() && self.inherited_from.is_none()
    }

    pub(super) fn stake(&mut self, cookie: Cookie) -> Option<&mut Stake> {
        self.stakes.iter_mut().find(|stake| stake.cookie == cookie)
    }

    pub(super) fn is_active(&self) -> bool {
        self.stakes.iter().any(|stake| stake.active)
    }

    /// Where the socket is in its list that can be left out for another: the one that was closed first, but for that which the
    /// process came in with.
    pub(super) fn droppable(&self) -> Option<usize> {
        let closed = self.stakes.iter().enumerate().skip(1);
        let closed = closed.filter_map(|(at, stake)| stake.closed_at.map(|closed| (closed, at)));
        closed.min().map(|(_, at)| at)
    }

    /// Makes room in its list. Whether there is some.
    pub(super) fn drop_closed(&mut self) -> bool {
        let Some(at) = self.droppable() else { return false };
        let dropped = self.stakes.remove(at);
        self.accepted_before =
            self.accepted_before.zip(dropped.accepted).map(|(sum, more)| sum.saturating_add(more));
        true
    }

    /// When it let its last socket go; None while it has one.
    pub(super) fn last_closed(&self) -> Option<BootTime> {
        let all = self.stakes.iter().map(|stake| stake.closed_at);
        all.reduce(|a, b| a.zip(b).map(|(a, b)| a.max(b))).flatten()
    }

    /// Its first socket that it still has; failing that, its first.
    pub(super) fn shown_socket(&self) -> Option<Cookie> {
        self.stakes.iter().find(|stake| stake.is_open()).or(self.stakes.first()).map(|stake| stake.cookie)
    }

    /// Executable and user, when both are known: what a reload keeps.
    pub(super) fn reload_identity(&self) -> Option<(&str, Uid)> {
        self.facts.as_ref().filter(|facts| !facts.exe.is_empty()).map(|facts| (facts.exe.as_str(), facts.uid))
    }

    /// In the shape that outputs use.
    pub(super) fn holder(&self) -> Holder {
        let facts = self.facts.as_deref();
        let text =
            |pick: fn(&Process) -> &String| facts.map_or_else(String::new, |facts| pick(facts).clone());
        let first = self.stakes.first().map_or(Cookie(0), |stake| stake.cookie);
        Holder {
            process: self.process,
            comm: facts.map_or_else(|| self.comm.clone(), |facts| facts.comm.clone()),
            exe: text(|facts| &facts.exe),
            cmdline: facts.map_or_else(Vec::new, |facts| facts.cmdline.clone()),
            cmdline_cut: facts.is_some_and(|facts| facts.cmdline_cut),
            uid: facts.map_or(Uid::default(), |facts| facts.uid),
            cgroup: text(|facts| &facts.cgroup),
            container: facts.and_then(|facts| facts.container.clone()),
            job: facts.and_then(|facts| facts.job.clone()),
            lineage: self.lineage,
            parents: self.parents.to_vec(),
            socket_cookie: first,
            sockets: self.stakes.iter().map(|stake| stake.cookie).collect(),
            address: self.address,
            port: self.port,
            peer: self.connection.map(|(peer, _)| peer),
            outgoing: self.connection.is_some_and(|(_, outgoing)| outgoing),
            options: self.options,
            state: self.state,
            bound_at: self.bound_at,
            bound_unseen: self.bound_unseen,
            released_at: self.released_at,
            // Unknown of one is unknown of all.
            accepted: self
                .stakes
                .iter()
                .map(|stake| stake.accepted)
                .chain([self.accepted_before])
                .try_fold(0_u64, |sum, accepted| Some(sum.saturating_add(accepted?))),
            inherited_from: self.inherited_from,
        }
    }
}
