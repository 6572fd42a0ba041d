//! Counts who uses the ports that the kernel chooses from, in a thread of its own, when the view of them asks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{SyncSender, sync_channel};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::world::{PortsSeen, World};
use crate::clock;
use crate::event::{Inum, PortRange, ProcessKey, Protocol, Rest, TcpState};
use crate::ledger::finding::PortUser;
use crate::probe::Owners;
use crate::proc::Proc;
use crate::source::sockets::{InventorySocket, Scope, States, Tables};

/// Processes that a count names.
const USERS_MAX: usize = 50;

/// A count, by network namespace and protocol.
pub(super) type Count = Vec<((Inum, Protocol), PortsSeen)>;

/// The thread that counts.
pub(super) struct Counter {
    ask: SyncSender<()>,
    answers: UnboundedReceiver<Count>,
}

impl Counter {
    /// Starts the thread. It sleeps until it is asked.
    pub(super) fn start() -> std::io::Result<Self> {
        // One question: a second one while it counts is the same one.
        let (ask, asked) = sync_channel(1);
        let (to, answers) = unbounded_channel();
        std::thread::Builder::new().name("ports".to_owned()).spawn(move || {
            let mut tables = None;
            let owners = Owners::of_running_probes();
            while asked.recv().is_ok() {
                if tables.is_none() {
                    tables = Tables::open().ok();
                }
                let count = tables.as_mut().map(|tables| count(tables, &owners)).unwrap_or_default();
                if to.send(count).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { ask, answers })
    }

    /// Asks for a count.
    pub(super) fn ask(&self) {
        // When it is full, it was asked already.
        let _full = self.ask.try_send(());
    }

    /// Waits for one.
    pub(super) async fn answer(&mut self) -> Count {
        match self.answers.recv().await {
            Some(count) => count,
            None => std::future::pending().await,
        }
    }
}

/// Counts at once.
pub fn count_ports(world: &mut World) {
    if let Ok(mut tables) = Tables::open() {
        for ((netns, protocol), seen) in count(&mut tables, &Owners::of_running_probes()) {
            world.ports_counted(netns, protocol, seen);
        }
    }
}

/// Looks at the kernel's tables. What cannot be had is not there.
pub(super) fn count(tables: &mut Tables, owners: &[Owners]) -> Count {
    let Ok(inventory) = tables.inventory(States::ALL, Scope::Every) else { return Count::new() };
    let mut proc = Proc::open().ok();
    let mut ranges: BTreeMap<Inum, Option<PortRange>> = BTreeMap::new();
    let mut shares: BTreeMap<(Inum, Protocol), Shares> = BTreeMap::new();
    for socket in &inventory.sockets {
        let (netns, protocol) = (socket.socket.netns, socket.socket.protocol);
        let range = ranges.entry(netns).or_insert_with(|| tables.port_range(netns).ok());
        if range.as_ref().is_some_and(|range| range.gives(socket.socket.port)) {
            shares.entry((netns, protocol)).or_default().add(socket, owners);
        }
    }
    // Where nothing is used, that is to be seen as well.
    let own = tables.own_netns();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        shares.entry((own, protocol)).or_default();
        ranges.entry(own).or_insert_with(|| tables.port_range(own).ok());
    }
    let at = clock::boot_now();
    let seen = shares.into_iter().map(|(key, shares)| {
        let range = ranges.get(&key.0).cloned().flatten();
        (key, PortsSeen { range, at, ..shares.seen(proc.as_mut()) })
    });
    seen.collect()
}

#[derive(Default)]
struct Shares {
    ports: BTreeSet<u16>,
    users: BTreeMap<ProcessKey, (u32, u32)>,
    others: Rest,
}

impl Shares {
    fn add(&mut self, socket: &InventorySocket, owners: &[Owners]) {
        self.ports.insert(socket.socket.port);
        let left = socket.holders.is_empty()
            && !matches!(socket.state, TcpState::Listen | TcpState::Close | TcpState::Established);
        let opener = || owners.iter().find_map(|owners| owners.of(socket.socket.cookie));
        let (open, time_wait) = match socket.holders.first().copied().or_else(opener) {
            Some(process) => {
                let share = self.users.entry(process).or_default();
                (&mut share.0, &mut share.1)
            }
            None => (&mut self.others.sockets, &mut self.others.time_wait),
        };
        *(if left { time_wait } else { open }) += 1;
    }

    fn seen(mut self, mut proc: Option<&mut Proc>) -> PortsSeen {
        let mut users: Vec<PortUser> = self
            .users
            .into_iter()
            .map(|(process, (sockets, time_wait))| {
                let (comm, exe) = (String::new(), String::new());
                PortUser { process, comm, exe, ended: false, sockets, time_wait }
            })
            .collect();
        users.sort_by_key(|user| (std::cmp::Reverse(user.sockets + user.time_wait), user.process));
        for user in users.iter().skip(USERS_MAX) {
            self.others.sockets += user.sockets;
            self.others.time_wait += user.time_wait;
        }
        users.truncate(USERS_MAX);
        for user in &mut users {
            let found = proc.as_mut().and_then(|proc| proc.process(user.process.tgid));
            match found.filter(|found| found.process == user.process) {
                Some(found) => (user.comm, user.exe) = (found.comm, found.exe),
                None => user.ended = true,
            }
        }
        let used = u32::try_from(self.ports.len()).unwrap_or(u32::MAX);
        PortsSeen { used, users, others: self.others, ..PortsSeen::default() }
    }
}
