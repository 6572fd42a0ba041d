//! A live socket, and the rules by which two of them share or exclude each other.

use std::net::IpAddr;
use std::sync::Arc;

use crate::event::{
    BootTime, Cookie, Family, Ifindex, Options, Process, ProcessKey, Protocol, Seq, SocketFacts, TcpState,
    Uid,
};

use super::finding::{FindingId, HolderState};
use super::place::{Place, PortKey};

/// What a socket does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Bound: UDP, or TCP that neither listens nor is known to be connected.
    Bound,
    Listen,
    /// TCP with a peer; known of sockets that an inventory found.
    Connected,
}

impl State {
    pub(super) const fn shown(self) -> HolderState {
        match self {
            Self::Bound => HolderState::Bound,
            Self::Listen => HolderState::Listen,
            Self::Connected => HolderState::Connected,
        }
    }

    /// Of a socket in the kernel's tables.
    pub(super) const fn of(protocol: Protocol, state: TcpState) -> Self {
        match (protocol, state) {
            (Protocol::Tcp, TcpState::Listen) => Self::Listen,
            (Protocol::Tcp, TcpState::Close) | (Protocol::Udp | Protocol::Udplite, _) => Self::Bound,
            (Protocol::Tcp, _) => Self::Connected,
        }
    }
}

/// Holders that a look-up found, where they are not just the process that bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shared {
    /// Never empty.
    pub(super) processes: Vec<ProcessKey>,
    /// The look-up's event.
    pub(super) seq: Seq,
    pub(super) at: BootTime,
}

/// A live socket. Small: a busy machine has a hundred thousand.
#[derive(Clone, Debug)]
pub(super) struct Socket {
    pub(super) cookie: Cookie,
    pub(super) port: PortKey,
    pub(super) place: Place,
    pub(super) family: Family,
    /// As they are now.
    pub(super) options: Options,
    /// SO_REUSEPORT was on at some time since the bind. Switching it off does not take a socket out of what it shares.
    pub(super) shares_port: bool,
    /// The same of SO_REUSEADDR.
    pub(super) shares_addr: bool,
    /// A multicast group was joined: sharing is meant.
    pub(super) multicast: bool,
    /// Its device was changed after the bind: it may be where it could not have been bound.
    pub(super) moved: bool,
    /// The kernel chose its port.
    pub(super) chosen: bool,
    /// It listened and was shut down: the port is held, but nothing is received.
    pub(super) stopped: bool,
    /// Its holders ended and nobody is known to have it since; they are still named.
    pub(super) unheld: bool,
    /// It was looked for, and no process has it: a message in flight, or io_uring.
    pub(super) nobodys: bool,
    pub(super) state: State,
    pub(super) uid: Uid,
    /// The inventory that last listed it.
    pub(super) round: u32,
    pub(super) binder: Option<ProcessKey>,
    /// The binder as it was when it bound; None before the recording.
    pub(super) bound_as: Option<Arc<Process>>,
    pub(super) shared: Option<Box<Shared>>,
    /// When it was bound; None before the recording, or `unseen`.
    pub(super) since: Option<BootTime>,
    /// Its bind was not seen, lost or not told, nor was it among the sockets that were there first.
    pub(super) unseen: bool,
    /// The event it is known from: its bind, its listen, or its line in an inventory.
    pub(super) known: Seq,
    /// When it began to listen; 0 never seen.
    pub(super) listened: Seq,
    /// Findings that name it.
    pub(super) findings: Vec<FindingId>,
}

impl Socket {
    pub(super) fn new(
        facts: &SocketFacts,
        state: State,
        binder: Option<ProcessKey>,
        since: Option<BootTime>,
        known: Seq,
    ) -> Box<Self> {
        Box::new(Self {
            cookie: facts.cookie,
            port: PortKey::of(facts),
            place: Place::of(facts),
            family: facts.family,
            options: facts.options,
            shares_port: facts.options.reuse_port,
            shares_addr: facts.options.reuse_addr,
            multicast: facts.address.to_canonical().is_multicast(),
            moved: false,
            chosen: false,
            stopped: false,
            unheld: false,
            nobodys: false,
            state,
            uid: facts.uid,
            round: 0,
            binder,
            bound_as: None,
            shared: None,
            since,
            unseen: false,
            known,
            listened: if matches!(state, State::Listen) { known } else { Seq(0) },
            findings: Vec::new(),
        })
    }

    /// The same socket at another place: whose it is, and since when, stay.
    pub(super) fn elsewhere(&self, facts: &SocketFacts, state: State) -> Box<Self> {
        let mut socket = Self::new(facts, state, self.binder, self.since, self.known);
        socket.shared.clone_from(&self.shared);
        socket.bound_as.clone_from(&self.bound_as);
        (socket.chosen, socket.unseen) = (self.chosen, self.unseen);
        socket
    }

    /// The local address as the socket has it: v4-mapped on an IPv6 socket.
    pub(super) const fn address(&self) -> IpAddr {
        match (self.family, self.place) {
            (Family::Inet6, Place::V4(address)) => IpAddr::V6(address.to_ipv6_mapped()),
            _ => self.place.address(),
        }
    }

    /// Who has it open, or had when that was last known.
    pub(super) fn holders(&self) -> &[ProcessKey] {
        self.shared.as_ref().map_or(self.binder.as_slice(), |shared| &shared.processes)
    }

    /// The process that bound it, when it has it no more.
    pub(super) fn left_by(&self) -> Option<ProcessKey> {
        self.binder.filter(|binder| !self.holders().contains(binder))
    }

    /// Holders, and the process that bound it: kinship with any of them counts.
    pub(super) fn parties(&self) -> impl Iterator<Item = ProcessKey> + Clone + '_ {
        self.holders().iter().copied().chain(self.left_by())
    }

    /// The one process behind it; None when there are several, or none is known.
    pub(super) fn sole(&self) -> Option<ProcessKey> {
        match self.holders() {
            [one] if self.binder.is_none_or(|binder| binder == *one) => Some(*one),
            _ => None,
        }
    }

    /// When the process began to hold it; None before the recording.
    pub(super) fn held_since(&self, process: ProcessKey) -> Option<BootTime> {
        match &self.shared {
            Some(shared) if self.binder != Some(process) => self.since.map(|_| shared.at),
            _ => self.since,
        }
    }

    /// Whether it could receive what others on the port want as well.
    pub(super) fn takes_part(&self) -> bool {
        !self.stopped && !self.multicast && self.state != State::Connected
    }

    /// Whether it can receive: UDP, and TCP that listens.
    pub(super) fn is_open(&self) -> bool {
        self.port.protocol != Protocol::Tcp || self.state == State::Listen
    }

    /// Whether the kernel lets both be there and both get traffic, were they alive at places that meet.
    ///
    /// TCP sockets that share by SO_REUSEADDR alone do not: only one of them can listen. Nothing keeps a socket from being
    /// moved to another's device.
    pub(super) fn shares_with(&self, other: &Self) -> bool {
        self.takes_part()
            && other.takes_part()
            && devices_meet(self.options.device, other.options.device)
            && ((self.shares_port && other.shares_port)
                || (self.port.protocol != Protocol::Tcp && self.shares_addr && other.shares_addr)
                || ((self.moved || other.moved) && self.is_open() && other.is_open()))
    }
}

/// A socket bound to a device conflicts with those on the same device and those on none.
pub(super) const fn devices_meet(a: Ifindex, b: Ifindex) -> bool {
    a.0 == 0 || b.0 == 0 || a.0 == b.0
}

/// Whether a socket on the port keeps a newcomer out, were they at places that meet (kernel's bind conflict).
pub(super) const fn blocks(
    protocol: Protocol,
    newcomer: (Options, Uid),
    holder: (Options, Uid),
    state: State,
) -> bool {
    if !devices_meet(newcomer.0.device, holder.0.device) {
        return false;
    }
    if newcomer.0.reuse_port && holder.0.reuse_port && newcomer.1.0 == holder.1.0 {
        return false;
    }
    let listens = matches!(protocol, Protocol::Tcp) && matches!(state, State::Listen);
    !(newcomer.0.reuse_addr && holder.0.reuse_addr && !listens)
}
