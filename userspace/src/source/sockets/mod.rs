//! The sockets there are, from the kernel's own tables (sock_diag(7)) and `/proc/PID/fd`.
//!
//! Works without privileges for the caller's network namespace; whose sockets they are is then known only for the
//! caller's own processes. What this source cannot tell: whether SO_REUSEADDR and SO_REUSEPORT are set (no attribute
//! carries them), TCP sockets that are bound without listening before Linux 6.8, and descriptors that no process has
//! (in flight over a unix socket, or in an io_uring's table).

mod diag;
mod holders;
mod members;
mod netns;

use std::net::SocketAddr;

pub use diag::{DiagError, States};
pub use holders::{Held, Holdings};
pub use members::members;
pub use netns::NetnsError;

use crate::event::{Cookie, Family, Found, Inum, PortRange, ProcessKey, Protocol, SocketFacts, TcpState};
use crate::probe::FileRow;
use diag::Table;
use netns::{NAMESPACES_MAX, Namespaces};

/// A row of the kernel's socket tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The socket and its local address. The reuse bits are not in the tables and always off here.
    pub socket: SocketFacts,
    /// Its state. UDP: `Close` without a peer, else `Established`.
    pub state: TcpState,
    /// The other side of a connection.
    pub peer: Option<SocketAddr>,
    /// Inode of its descriptors; 0 when no process has it (TIME_WAIT, closed connections that still end).
    pub inode: u32,
    /// Of a listening socket the connections that wait to be accepted, else bytes that wait to be read.
    pub queued: u32,
    /// Of a TIME_WAIT entry, for how long it stays, ms.
    pub expires_ms: Option<u32>,
}

/// A socket of an inventory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InventorySocket {
    /// The socket and its local address. Its cookie is that of the socket which holds the port: of MPTCP, the subflow.
    pub socket: SocketFacts,
    /// The reuse bits in [`InventorySocket::socket`] were read from the socket; else they are unknown, and off.
    pub reuse_known: bool,
    /// Its state. UDP: `Close` without a peer, else `Established`.
    pub state: TcpState,
    /// The other side of a connection.
    pub peer: Option<SocketAddr>,
    /// Inode of its descriptors; 0 when no process has it.
    pub inode: u32,
    /// Cookie of the MPTCP socket above it, which is what SO_COOKIE of the descriptor gives.
    pub mptcp: Option<Cookie>,
    /// Of a listening socket the connections that wait to be accepted, else bytes that wait to be read.
    pub queued: u32,
    /// Of a TIME_WAIT entry, for how long it stays, ms.
    pub expires_ms: Option<u32>,
    /// Processes that have it open, each once, in order; empty when none has, or none that the caller may see.
    pub holders: Vec<ProcessKey>,
}

impl InventorySocket {
    /// A row, whose holders are not known.
    #[must_use]
    pub const fn of(row: Row) -> Self {
        let Row { socket, state, peer, inode, queued, expires_ms } = row;
        let holders = Vec::new();
        Self { socket, reuse_known: false, state, peer, inode, mptcp: None, queued, expires_ms, holders }
    }

    /// Adds the MPTCP socket above it; `mptcp` is in the order of inodes.
    fn with_mptcp(mut self, mptcp: &[(u32, Cookie)]) -> Self {
        let at =
            mptcp.binary_search_by_key(&self.inode, |(inode, _)| *inode).ok().filter(|_| self.inode != 0);
        let above = at.and_then(|at| mptcp.get(at)).map(|(_, cookie)| *cookie);
        self.mptcp = above.filter(|cookie| *cookie != self.socket.cookie);
        self
    }

    /// The event that tells the ledger of it.
    #[must_use]
    pub fn found(&self) -> Found {
        Found { socket: self.socket.clone(), state: self.state, holders: self.holders.clone() }
    }

    /// A process must have it open, and none was seen to.
    #[must_use]
    pub const fn ownerless(&self) -> bool {
        self.inode != 0 && self.holders.is_empty()
    }
}

/// The sockets of a machine at one moment, as far as they can be seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// In the order of netns, protocol, port, family, address, cookie.
    pub sockets: Vec<InventorySocket>,
    /// What could not be looked into, a phrase each: network namespaces, tables that the kernel lacks.
    pub unseen: Vec<String>,
    /// Processes whose descriptors the caller may not see.
    pub hidden_processes: usize,
}

impl Inventory {
    /// Adds who has each socket open: from the descriptors that a program in the kernel listed, which know the reuse
    /// bits too, and from `/proc` where there is no such list or its PIDs are not the caller's.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn find_holders(&mut self, descriptors: Option<&[FileRow]>) -> Result<(), TablesError> {
        if let Some(descriptors) = descriptors {
            self.complete(descriptors);
        }
        if descriptors.is_none() || !in_first_pid_namespace() {
            let holdings = Holdings::scan(None).map_err(TablesError::Proc)?;
            for socket in &mut self.sockets {
                socket.holders.extend(holdings.processes(socket.inode));
            }
            self.hidden_processes = holdings.hidden_processes();
        }
        for socket in &mut self.sockets {
            socket.holders.sort_unstable();
            socket.holders.dedup();
        }
        Ok(())
    }

    fn complete(&mut self, descriptors: &[FileRow]) {
        // The number stands beside the row: searching then reads no rows.
        let mut by_inode: Vec<(u64, &FileRow)> = descriptors.iter().map(|row| (row.inode, row)).collect();
        by_inode.sort_unstable_by_key(|(inode, _)| *inode);
        for socket in &mut self.sockets {
            let inode = u64::from(socket.inode);
            let from = by_inode.partition_point(|(at, _)| *at < inode);
            let rows = by_inode.iter().skip(from).take_while(|(at, _)| *at == inode && inode != 0);
            for (_, row) in rows {
                socket.socket.options = row.options;
                socket.socket.netns_cookie = row.netns_cookie;
                socket.reuse_known = true;
                socket.holders.push(row.process);
            }
        }
    }
}

/// Whether the PIDs that the kernel's programs see are those of `/proc`: in a container mostly they are not.
pub(super) fn in_first_pid_namespace() -> bool {
    // `PROC_PID_INIT_INO` (include/linux/proc_ns.h): the same number on every boot.
    const FIRST: &str = "pid:[4026531836]";
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link.as_os_str() == FIRST)
}

/// Which network namespaces an inventory looks into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The caller's.
    Own,
    /// Every one that a process is in or that is mounted somewhere, as far as the caller may enter them.
    Every,
}

/// An inventory that cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// Neither sockets nor processes can be had.
    #[error("cannot read /proc: {0}; mount it (mount -t proc proc /proc)")]
    Proc(#[source] std::io::Error),
    /// The kernel refused a table that is always there.
    #[error(transparent)]
    Diag(#[from] DiagError),
    /// A network namespace cannot be looked into.
    #[error(transparent)]
    Netns(#[from] NetnsError),
}

/// The kernel's socket tables, in every network namespace that can be entered.
pub struct Tables {
    namespaces: Namespaces,
}

impl Tables {
    /// Looks up the caller's network namespace.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn open() -> Result<Self, TablesError> {
        Ok(Self { namespaces: Namespaces::open().map_err(TablesError::Proc)? })
    }

    /// The caller's network namespace.
    #[must_use]
    pub const fn own_netns(&self) -> Inum {
        self.namespaces.own()
    }

    /// Every socket whose state is one of `states`, with the processes that have it open.
    ///
    /// # Errors
    /// The tables of the caller's own network namespace cannot be had, or `/proc`; what else cannot be seen is in
    /// [`Inventory::unseen`].
    pub fn inventory(&mut self, states: States, scope: Scope) -> Result<Inventory, TablesError> {
        let mut inventory = self.without_holders(states, scope)?;
        inventory.find_holders(None)?;
        Ok(inventory)
    }

    /// Every socket whose state is one of `states`: for [`Inventory::find_holders`], which tells who has
    /// them. In this order, as the kernel gives each socket that it lists a cookie, and the listing only reads it.
    ///
    /// # Errors
    /// The tables of the caller's own network namespace cannot be had; what else cannot be seen is in
    /// [`Inventory::unseen`].
    pub fn without_holders(&mut self, states: States, scope: Scope) -> Result<Inventory, TablesError> {
        let Dump { rows, mut mptcp, unseen } = self.list(states, scope)?;
        mptcp.sort_unstable();
        let mut sockets: Vec<InventorySocket> =
            rows.into_iter().map(|row| InventorySocket::of(row).with_mptcp(&mptcp)).collect();
        sockets.sort_by_cached_key(|socket| {
            let socket = &socket.socket;
            (socket.netns, socket.protocol, socket.port, socket.family, socket.address, socket.cookie)
        });
        Ok(Inventory { sockets, unseen, hidden_processes: 0 })
    }

    /// Every row of the tables whose state is one of `states`, in no order, and what could not be looked into.
    ///
    /// # Errors
    /// As [`Tables::inventory`].
    pub fn rows(&mut self, states: States, scope: Scope) -> Result<(Vec<Row>, Vec<String>), TablesError> {
        self.list(states, scope).map(|listed| (listed.rows, listed.unseen))
    }

    fn list(&mut self, states: States, scope: Scope) -> Result<Dump, TablesError> {
        let mut listed = Dump::default();
        let others = match scope {
            Scope::Own => Vec::new(),
            Scope::Every => self.namespaces.others(),
        };
        // Both walk tables of the kernel that are large also where there are few sockets: some milliseconds on two processors.
        let namespaces = &self.namespaces;
        let (tcp, rest) = std::thread::scope(|scope| {
            let rest = scope.spawn(|| {
                let mut listed = Dump::default();
                dump_rest(&mut namespaces.diag_of_own()?, states, &mut listed).map(|()| listed)
            });
            let tcp = namespaces.diag_of_own().and_then(|mut diag| dump_tcp(&mut diag, states, &mut listed));
            (tcp, rest.join())
        });
        tcp?;
        listed.append(rest.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        let mut locked = 0_usize;
        for netns in others {
            match self.namespaces.diag_of(netns) {
                Ok(mut diag) => {
                    let tcp = dump_tcp(&mut diag, states, &mut listed);
                    if let Err(error) = tcp.and_then(|()| dump_rest(&mut diag, states, &mut listed)) {
                        listed.unseen.push(format!("network namespace {}: {error}", netns.0));
                    }
                }
                Err(NetnsError::Gone(_)) => {}
                Err(NetnsError::Locked(_)) => locked += 1,
                Err(error) => listed.unseen.push(error.to_string()),
            }
        }
        if locked > 0 {
            listed
                .unseen
                .push(format!("{locked} other network namespaces (entering them needs CAP_SYS_ADMIN)"));
        }
        if self.namespaces.more() {
            listed.unseen.push(format!("network namespaces beyond {NAMESPACES_MAX}"));
        }
        listed.unseen.sort();
        listed.unseen.dedup();
        Ok(listed)
    }

    /// Every row on one port, whatever its state and address: what a refused bind met.
    ///
    /// # Errors
    /// The network namespace is gone or may not be entered, or the kernel lacks the table.
    pub fn on_port(&mut self, netns: Inum, protocol: Protocol, port: u16) -> Result<Vec<Row>, TablesError> {
        let mut rows = self.select(netns, protocol, Some(port))?;
        rows.retain(|row| row.socket.port == port);
        rows.sort_by_key(|row| (row.socket.family, row.socket.address, row.peer, row.socket.cookie));
        Ok(rows)
    }

    /// Every row of a protocol in a network namespace that has a port, whatever its state, in no order.
    ///
    /// # Errors
    /// As [`Tables::on_port`].
    pub fn of(&mut self, netns: Inum, protocol: Protocol) -> Result<Vec<Row>, TablesError> {
        let mut rows = self.select(netns, protocol, None)?;
        rows.retain(|row| row.socket.port != 0);
        Ok(rows)
    }

    /// The ports that the kernel chooses from in a network namespace (`net.ipv4.ip_local_port_range`; IPv6 and UDP have
    /// the same).
    ///
    /// # Errors
    /// The network namespace is gone or may not be entered.
    pub fn port_range(&mut self, netns: Inum) -> Result<PortRange, TablesError> {
        Ok(self.namespaces.port_range(netns)?)
    }

    fn select(
        &mut self,
        netns: Inum,
        protocol: Protocol,
        port: Option<u16>,
    ) -> Result<Vec<Row>, TablesError> {
        let mut rows = Vec::new();
        let mut diag = self.namespaces.diag_of(netns)?;
        for family in [Family::Inet, Family::Inet6] {
            match diag.dump(Table::Of(protocol), family, States::ALL, port, |row| rows.push(row)) {
                // A kernel without IPv6, or without UDP-Lite (7.1): what is not there holds no port.
                Err(DiagError::Absent(..)) if family == Family::Inet6 || protocol == Protocol::Udplite => {}
                other => other?,
            }
        }
        Ok(rows)
    }
}

/// What the tables have.
#[derive(Default)]
struct Dump {
    rows: Vec<Row>,
    /// Inodes of MPTCP sockets, and their cookies.
    mptcp: Vec<(u32, Cookie)>,
    unseen: Vec<String>,
}

impl Dump {
    fn append(&mut self, mut other: Self) {
        self.rows.append(&mut other.rows);
        self.mptcp.append(&mut other.mptcp);
        self.unseen.append(&mut other.unseen);
    }
}

/// Dumps the sockets of a protocol in one network namespace.
fn dump(
    diag: &mut diag::Diag,
    protocol: Protocol,
    states: States,
    listed: &mut Dump,
) -> Result<(), DiagError> {
    for family in [Family::Inet, Family::Inet6] {
        match diag.dump(Table::Of(protocol), family, states, None, |row| listed.rows.push(row)) {
            // Not every kernel has IPv6 or UDP-Lite, and what is not there holds no port.
            Err(DiagError::Absent(..)) if family == Family::Inet6 || protocol == Protocol::Udplite => {}
            Err(absent @ DiagError::Absent(..)) => listed.unseen.push(absent.to_string()),
            other => other?,
        }
    }
    Ok(())
}

/// Dumps TCP's tables of one network namespace.
fn dump_tcp(diag: &mut diag::Diag, states: States, listed: &mut Dump) -> Result<(), DiagError> {
    dump(diag, Protocol::Tcp, states, listed)
}

/// Dumps every other table of one network namespace.
fn dump_rest(diag: &mut diag::Diag, states: States, listed: &mut Dump) -> Result<(), DiagError> {
    dump(diag, Protocol::Udp, states, listed)?;
    dump(diag, Protocol::Udplite, states, listed)?;
    for family in [Family::Inet, Family::Inet6] {
        // MPTCP is an extra: its ports were listed with TCP's.
        let _ = diag.dump(Table::Mptcp, family, States::LISTEN, None, |row| {
            listed.mptcp.push((row.inode, row.socket.cookie));
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
