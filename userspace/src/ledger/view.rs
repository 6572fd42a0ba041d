//! What is held now, for `list`, `top` and `check`: read-only.

use std::net::IpAddr;

use crate::event::{BootTime, Cookie, Inum, Options, Process, ProcessKey, Protocol, Uid};

use super::finding::{FindingId, Holder, HolderState};
use super::holdings::Holdings;
use super::kin::Kin;
use super::party::Party;
use super::socket::Socket;

/// The state of the ledger between two events.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub(super) holdings: &'a Holdings,
    pub(super) kin: &'a Kin,
}

/// A live socket.
#[derive(Clone, Copy)]
pub struct SocketView<'a> {
    socket: &'a Socket,
    kin: &'a Kin,
}

impl<'a> View<'a> {
    /// Live sockets by network namespace, protocol, port and address. A socket whose port the kernel has not told yet
    /// (listen without bind) is not among them.
    pub fn sockets(&self) -> impl Iterator<Item = SocketView<'a>> + use<'a> {
        let kin = self.kin;
        self.holdings.in_order().map(move |socket| SocketView { socket, kin })
    }

    /// Live sockets on a port.
    pub fn on_port(
        &self,
        netns: Inum,
        protocol: Protocol,
        port: u16,
    ) -> impl Iterator<Item = SocketView<'a>> + use<'a> {
        let kin = self.kin;
        let port = super::place::PortKey { netns, protocol, port };
        self.holdings.on_port(port).map(move |socket| SocketView { socket, kin })
    }

    /// One live socket.
    #[must_use]
    pub fn socket(&self, cookie: Cookie) -> Option<SocketView<'a>> {
        let kin = self.kin;
        self.holdings.get(cookie).map(|socket| SocketView { socket, kin })
    }

    /// Live sockets with who has them, process by process, the oldest socket of each first. One whose port the kernel
    /// has not told yet is not among them.
    pub fn held(&self) -> impl Iterator<Item = (ProcessKey, SocketView<'a>)> + use<'a> {
        let (holdings, kin) = (self.holdings, self.kin);
        let known = move |(process, cookie)| Some((process, holdings.get(cookie)?));
        let shown = move |(process, socket)| (process, SocketView { socket, kin });
        holdings.held().filter_map(known).filter(|(_, socket)| socket.port.port != 0).map(shown)
    }

    /// Live sockets that a process has, in no order.
    pub fn held_by(&self, process: ProcessKey) -> impl Iterator<Item = SocketView<'a>> + use<'a> {
        let (holdings, kin) = (self.holdings, self.kin);
        holdings
            .held_by(process)
            .filter_map(|cookie| holdings.get(cookie))
            .map(move |socket| SocketView { socket, kin })
    }

    /// What is known of a process, ended ones included while they are remembered.
    #[must_use]
    pub fn process(&self, process: ProcessKey) -> Option<&'a Process> {
        self.kin.facts(process).map(AsRef::as_ref)
    }

    /// Whether a process was seen to end.
    #[must_use]
    pub fn has_ended(&self, process: ProcessKey) -> bool {
        self.kin.has_ended(process)
    }

    /// Whether two processes count as one party by the rule that is set.
    #[must_use]
    pub fn related(&self, a: ProcessKey, b: ProcessKey) -> bool {
        self.kin.related(a, b)
    }

    /// Number of processes remembered.
    #[must_use]
    pub fn processes(&self) -> usize {
        self.kin.len()
    }
}

impl<'a> SocketView<'a> {
    /// Its cookie.
    #[must_use]
    pub const fn cookie(&self) -> Cookie {
        self.socket.cookie
    }

    /// Its network namespace.
    #[must_use]
    pub const fn netns(&self) -> Inum {
        self.socket.port.netns
    }

    /// Its protocol.
    #[must_use]
    pub const fn protocol(&self) -> Protocol {
        self.socket.port.protocol
    }

    /// Local address, as bound: v4-mapped addresses stay as they are.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.socket.address()
    }

    /// Local port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.socket.port.port
    }

    /// Options as they are now.
    #[must_use]
    pub const fn options(&self) -> Options {
        self.socket.options
    }

    /// What it does.
    #[must_use]
    pub const fn state(&self) -> HolderState {
        self.socket.state.shown()
    }

    /// Owner (`sk_uid`).
    #[must_use]
    pub const fn uid(&self) -> Uid {
        self.socket.uid
    }

    /// When it was bound; None before the recording.
    #[must_use]
    pub const fn bound_at(&self) -> Option<BootTime> {
        self.socket.since
    }

    /// The process that bound it.
    #[must_use]
    pub const fn binder(&self) -> Option<ProcessKey> {
        self.socket.binder
    }

    /// Who has it open; the last ones known when [`SocketView::is_unheld`].
    #[must_use]
    pub fn processes(&self) -> &'a [ProcessKey] {
        self.socket.holders()
    }

    /// Findings that name it, in order.
    #[must_use]
    pub fn findings(&self) -> &'a [FindingId] {
        &self.socket.findings
    }

    /// Its holders ended, and nobody is known to have it since.
    #[must_use]
    pub const fn is_unheld(&self) -> bool {
        self.socket.unheld
    }

    /// Its holders in the shape that findings use, one for each process.
    pub fn holders(&self) -> impl Iterator<Item = Holder> + use<'a> {
        let (socket, kin) = (self.socket, self.kin);
        socket.holders().iter().map(move |process| Party::holding(kin, *process, socket).holder())
    }
}
