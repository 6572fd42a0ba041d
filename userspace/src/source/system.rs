//! Look-ups in the running system: what the probe's listing, the socket tables and `/proc` say now.

use std::collections::{BTreeMap, BTreeSet};

use super::census::{self, Counted};
use super::looks::{Looks, by_socket, descriptors, in_order};
use super::sockets::{InventorySocket, Row, States, Tables, members};
use crate::clock;
use crate::enrich::{Lookups, Neighbour, Open, PortRow, USERS_MAX};
use crate::event::{BootTime, Cookie, Found, Inum, PortRange, ProcessKey, Protocol, SocketFacts, TcpState};
use crate::probe::{Accepted, FileRow, Owners, Probe, Watched};
use crate::wire;

/// The running system.
pub(super) struct System {
    probe: Probe,
    owners: Owners,
    accepted: Accepted,
    watched: Watched,
    tables: Tables,
    /// Good for the records that are being read.
    looks: Looks,
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
    pub(super) fn new(
        probe: Probe,
        owners: Owners,
        accepted: Accepted,
        watched: Watched,
        tables: Tables,
    ) -> Self {
        Self { probe, owners, accepted, watched, tables, looks: Looks::default() }
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
    /// Lets the probe tell of these sockets, and gives those of them that are still open.
    pub(super) fn watch(&mut self, cookies: &BTreeSet<Cookie>) -> BTreeSet<Cookie> {
        for cookie in cookies {
            // Whose end is not told is taken for open until the next inventory.
            if let Err(error) = self.watched.add(*cookie) {
                log::warn!("a socket's end will not be noticed: {error}");
            }
        }
        // One that was closed before it was watched is not told of. Where that cannot be seen they are taken for open.
        let Some((_, open)) = self.open_sockets() else { return cookies.clone() };
        cookies.iter().filter(|cookie| open.contains_key(cookie)).copied().collect()
    }

    /// The sockets at rest on a port, with their options and holders, in the order of an inventory.
    fn at_rest_on(&mut self, (netns, protocol, port): (Inum, Protocol, u16)) -> Option<Vec<InventorySocket>> {
        let mut found: BTreeMap<Cookie, InventorySocket> = BTreeMap::new();
        for row in self.probe.task_files().ok()? {
            let here =
                row.netns == netns && row.port == port && wire::protocol(row.protocol) == Some(protocol);
            let (true, Some(cookie), Ok(state)) = (here, row.cookie, wire::tcp_state(row.state)) else {
                continue;
            };
            if protocol == Protocol::Tcp && !matches!(state, TcpState::Listen | TcpState::Close) {
                continue;
            }
            let FileRow { netns_cookie, family, address, options, uid, process, inode, .. } = row;
            let socket =
                SocketFacts { cookie, netns, netns_cookie, family, protocol, address, port, options, uid };
            let entry = found.entry(cookie).or_insert_with(|| InventorySocket {
                socket,
                reuse_known: true,
                state,
                peer: None,
                inode: u32::try_from(inode).unwrap_or(0),
                mptcp: None,
                queued: 0,
                expires_ms: None,
                holders: Vec::new(),
            });
            entry.holders.push(process);
        }
        for socket in found.values_mut() {
            in_order(&mut socket.holders);
        }
        Some(found.into_values().collect())
    }

    /// Rows with the processes that have them open, at `since` or later. One look through all descriptors serves until
    /// [`Lookups::forget_looks`], unless the call or one of the sockets is newer. None where nothing tells who has them.
    fn held(&mut self, rows: Vec<Row>, since: BootTime) -> Option<Vec<PortRow>> {
        if !self.looks.serve(rows.iter().map(|row| row.inode), since) {
            let began = clock::boot_now();
            let look = descriptors(self.probe.task_files())?;
            self.looks.took(began, look);
        }
        let row = |row: Row| PortRow {
            holders: self.looks.holders(row.inode).to_vec(),
            socket: row.socket,
            state: row.state,
            peer: row.peer,
        };
        Some(rows.into_iter().map(row).collect())
    }

    /// What the kernel's tables have on a port, by itself.
    pub(super) fn rows(&mut self, netns: Inum, protocol: Protocol, port: u16) -> Vec<Row> {
        self.tables.on_port(netns, protocol, port).unwrap_or_default()
    }
}

impl Lookups for System {
    fn on_port(
        &mut self,
        (netns, protocol, port): (Inum, Protocol, u16),
        since: BootTime,
    ) -> Option<(BootTime, Vec<PortRow>)> {
        let taken = clock::boot_now();
        let rows = self.tables.on_port(netns, protocol, port);
        let rows = rows.inspect_err(|error| log::debug!("port {port} was not looked up: {error}")).ok()?;
        let is_open = |row: &Row| row.inode != 0;
        let open: BTreeSet<Cookie> =
            rows.iter().filter(|row| is_open(row)).map(|row| row.socket.cookie).collect();
        let mut rows = self.held(rows, since)?;
        // What nobody has may have been closed meanwhile: then it says nothing about the moment of the call.
        let is_lost = |row: &PortRow| row.holders.is_empty() && open.contains(&row.socket.cookie);
        if rows.iter().any(is_lost) {
            let again = self.tables.on_port(netns, protocol, port).unwrap_or_default();
            let still: BTreeSet<Cookie> =
                again.iter().filter(|row| is_open(row)).map(|row| row.socket.cookie).collect();
            let at_rest = |row: &PortRow| matches!(row.state, TcpState::Listen | TcpState::Close);
            rows.retain(|row| !at_rest(row) || !is_lost(row) || still.contains(&row.socket.cookie));
        }
        // Who has them may have been looked at before the table.
        let looked = self.looks.began().filter(|_| !open.is_empty());
        Some((looked.map_or(taken, |began| taken.min(began)), rows))
    }

    fn holders(&mut self, cookies: &BTreeSet<Cookie>) -> Option<Open> {
        let rows = self.probe.task_files().ok()?;
        let wanted = |row: &FileRow| row.cookie.filter(|cookie| cookies.contains(cookie));
        Some(by_socket(rows.iter().filter_map(|row| Some((wanted(row)?, row.process)))))
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
        let rows = self.probe.task_files().ok()?;
        Some((begin, by_socket(rows.iter().filter_map(|row| Some((row.cookie?, row.process))))))
    }

    fn crowd(&mut self, netns: Inum, protocol: Protocol, port: u16) -> Option<Vec<Neighbour>> {
        let at = (netns, protocol, port);
        // The kernel gives a cookie to every socket that it lists here.
        drop(self.tables.on_port(netns, protocol, port));
        let listed: BTreeSet<Cookie> =
            self.at_rest_on(at)?.into_iter().map(|socket| socket.socket.cookie).collect();
        let told: BTreeSet<Cookie> =
            listed.iter().filter(|cookie| self.watched.has(**cookie)).copied().collect();
        for cookie in &listed {
            if let Err(error) = self.watched.add(*cookie) {
                log::warn!("a socket's end will not be noticed: {error}");
            }
        }
        // One that was closed before it was watched is not told of, and one that came meanwhile tells of itself.
        let mut there = self.at_rest_on(at)?;
        let open: BTreeSet<Cookie> = there.iter().map(|socket| socket.socket.cookie).collect();
        listed.difference(&open).for_each(|cookie| self.watched.remove(*cookie));
        there.retain(|socket| listed.contains(&socket.socket.cookie));
        let members = members(&there);
        let neighbour = |socket: &InventorySocket| Neighbour {
            found: socket.found(),
            is_told: told.contains(&socket.socket.cookie),
            is_member: members.contains(&socket.socket.cookie),
        };
        Some(there.iter().map(neighbour).collect())
    }

    fn forget_looks(&mut self) {
        self.looks.forget();
    }

    fn ignore(&mut self, cookie: Cookie) {
        self.watched.remove(cookie);
    }

    fn opener(&mut self, cookie: Cookie) -> Option<ProcessKey> {
        self.owners.of(cookie)
    }

    fn table(&mut self, netns: Inum, protocol: Protocol, since: BootTime) -> Option<Vec<PortRow>> {
        let rows = self.tables.of(netns, protocol).ok()?;
        self.held(rows, since)
    }

    fn range(&mut self, netns: Inum) -> Option<PortRange> {
        self.tables.port_range(netns).ok()
    }
}
