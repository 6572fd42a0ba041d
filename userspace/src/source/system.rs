//! Look-ups in the running system: what the probe's listing, the socket tables and `/proc` say now.

use std::collections::{BTreeMap, BTreeSet};

use super::census::{self, Counted};
use super::sockets::{Holdings, InventorySocket, Row, States, Tables, members};
use crate::clock;
use crate::enrich::{Lookups, Open, PortRow, USERS_MAX};
use crate::event::{BootTime, Cookie, Found, Inum, PortRange, ProcessKey, Protocol, SocketFacts, TcpState};
use crate::probe::{Accepted, FileRow, Owners, Probe};
use crate::wire;

/// The running system.
pub(super) struct System {
    probe: Probe,
    owners: Owners,
    accepted: Accepted,
    tables: Tables,
}

/// What an inventory found.
pub(super) struct Survey {
    /// Sockets that hold a port.
    pub(super) sockets: Vec<Found>,
    /// Those among them that share their port on purpose: members of a multicast group.
    pub(super) members: BTreeSet<Cookie>,
    /// What could not be looked into.
    pub(super) unseen: Vec<String>,
    /// Who uses the ports that the kernel chooses from.
    pub(super) ports: Vec<Counted>,
}

impl System {
    /// With a probe that is attached.
    pub(super) const fn new(probe: Probe, owners: Owners, accepted: Accepted, tables: Tables) -> Self {
        Self { probe, owners, accepted, tables }
    }

    /// The probe.
    pub(super) const fn probe(&mut self) -> &mut Probe {
        &mut self.probe
    }

    /// Every socket that holds a port now, in all network namespaces, with its options and holders.
    ///
    /// The dump of the tables comes first: it makes the kernel give a cookie to every socket it lists, which the
    /// listing of descriptors can then only read.
    ///
    /// # Errors
    /// When the tables of the own network namespace cannot be had.
    pub(super) fn survey(&mut self) -> Result<Survey, super::sockets::TablesError> {
        let scope = super::sockets::Scope::Every;
        let mut inventory = self.tables.without_holders(States::ALL, scope)?;
        let mut unseen = std::mem::take(&mut inventory.unseen);
        let descriptors = self.probe.task_files();
        inventory.find_holders(descriptors.as_deref().ok())?;
        if let Err(error) = descriptors {
            unseen.push(format!("options of sockets older than the recording ({error})"));
        }
        let opener = |cookie| self.owners.of(cookie);
        let ports = census::count(&mut self.tables, &inventory.sockets, USERS_MAX, opener);
        let holds_port = |socket: &InventorySocket| {
            let at_rest = matches!(socket.state, TcpState::Listen | TcpState::Close);
            socket.socket.port != 0 && (at_rest || socket.socket.protocol != Protocol::Tcp)
        };
        inventory.sockets.retain(holds_port);
        let members = members(&inventory.sockets);
        let sockets = inventory.sockets.iter().map(InventorySocket::found).collect();
        Ok(Survey { sockets, members, unseen, ports })
    }

    /// Who uses the ports that the kernel chooses from; nothing where the tables cannot be had.
    pub(super) fn ports(&mut self) -> Vec<Counted> {
        let scope = super::sockets::Scope::Every;
        let Ok(mut inventory) = self.tables.without_holders(States::ALL, scope) else { return Vec::new() };
        let descriptors = self.probe.task_files();
        if inventory.find_holders(descriptors.as_deref().ok()).is_err() {
            return Vec::new();
        }
        let opener = |cookie| self.owners.of(cookie);
        census::count(&mut self.tables, &inventory.sockets, USERS_MAX, opener)
    }
}

impl System {
    /// What the kernel's tables have on a port, by itself.
    pub(super) fn rows(&mut self, netns: Inum, protocol: Protocol, port: u16) -> Vec<Row> {
        self.tables.on_port(netns, protocol, port).unwrap_or_default()
    }
}

impl Lookups for System {
    fn on_port(&mut self, netns: Inum, protocol: Protocol, port: u16) -> Vec<PortRow> {
        let Ok(rows) = self.tables.on_port(netns, protocol, port) else { return Vec::new() };
        let is_open = |row: &Row| row.inode != 0;
        let open: BTreeSet<Cookie> =
            rows.iter().filter(|row| is_open(row)).map(|row| row.socket.cookie).collect();
        let mut rows = with_holders(rows);
        // What nobody has may have been closed meanwhile: then it says nothing about the moment of the call.
        let is_lost = |row: &PortRow| row.holders.is_empty() && open.contains(&row.socket.cookie);
        if rows.iter().any(is_lost) {
            let again = self.tables.on_port(netns, protocol, port).unwrap_or_default();
            let still: BTreeSet<Cookie> =
                again.iter().filter(|row| is_open(row)).map(|row| row.socket.cookie).collect();
            let at_rest = |row: &PortRow| matches!(row.state, TcpState::Listen | TcpState::Close);
            rows.retain(|row| !at_rest(row) || !is_lost(row) || still.contains(&row.socket.cookie));
        }
        rows
    }

    fn holders(&mut self, cookies: &BTreeSet<Cookie>) -> Vec<(Cookie, Vec<ProcessKey>)> {
        let mut found: BTreeMap<Cookie, Vec<ProcessKey>> = BTreeMap::new();
        for row in self.probe.task_files().unwrap_or_default() {
            if let Some(cookie) = row.cookie.filter(|cookie| cookies.contains(cookie)) {
                found.entry(cookie).or_default().push(row.process);
            }
        }
        for processes in found.values_mut() {
            processes.sort_unstable();
            processes.dedup();
        }
        found.into_iter().collect()
    }

    fn now(&mut self, cookies: &BTreeSet<Cookie>) -> Vec<(SocketFacts, TcpState)> {
        let mut found: BTreeMap<Cookie, (SocketFacts, TcpState)> = BTreeMap::new();
        for row in self.probe.task_files().unwrap_or_default() {
            let Some(cookie) = row.cookie.filter(|cookie| cookies.contains(cookie)) else { continue };
            let (Some(protocol), Ok(state)) = (wire::protocol(row.protocol), wire::tcp_state(row.state))
            else {
                continue;
            };
            let FileRow { netns, netns_cookie, family, address, port, options, uid, .. } = row;
            let facts =
                SocketFacts { cookie, netns, netns_cookie, family, protocol, address, port, options, uid };
            found.insert(cookie, (facts, state));
        }
        found.into_values().collect()
    }

    fn accepted(&mut self, listener: Cookie, closed: bool) -> Option<u64> {
        let count = self.accepted.of(listener);
        if closed {
            self.accepted.forget(listener);
        }
        count
    }

    fn open_sockets(&mut self) -> Option<(BootTime, Open)> {
        let begin = clock::boot_now();
        let mut open = Open::new();
        for row in self.probe.task_files().ok()? {
            if let Some(cookie) = row.cookie {
                open.entry(cookie).or_default().push(row.process);
            }
        }
        for processes in open.values_mut() {
            processes.sort_unstable();
            processes.dedup();
        }
        Some((begin, open))
    }

    fn opener(&mut self, cookie: Cookie) -> Option<ProcessKey> {
        self.owners.of(cookie)
    }

    fn table(&mut self, netns: Inum, protocol: Protocol) -> Option<Vec<PortRow>> {
        self.tables.of(netns, protocol).ok().map(with_holders)
    }

    fn range(&mut self, netns: Inum) -> Option<PortRange> {
        self.tables.port_range(netns).ok()
    }
}

/// Rows with the processes that have them open, from one look through all descriptors.
fn with_holders(rows: Vec<Row>) -> Vec<PortRow> {
    let mut inodes: Vec<u32> = rows.iter().map(|row| row.inode).filter(|inode| *inode != 0).collect();
    inodes.sort_unstable();
    let holdings = if inodes.is_empty() {
        Holdings::default()
    } else {
        Holdings::scan(Some(&inodes)).unwrap_or_default()
    };
    rows.into_iter()
        .map(|row| PortRow {
            holders: if row.inode == 0 { Vec::new() } else { holdings.processes(row.inode) },
            socket: row.socket,
            state: row.state,
            peer: row.peer,
        })
        .collect()
}
