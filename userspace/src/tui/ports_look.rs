//! Counts who uses the ports that the kernel chooses from, in a thread of its own, when the view of them asks.

use std::sync::mpsc::{SyncSender, sync_channel};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::world::{PortsSeen, World};
use crate::clock;
use crate::event::{Inum, Protocol};
use crate::ledger::finding::PortUser;
use crate::probe::Owners;
use crate::proc::Proc;
use crate::source::census;
use crate::source::sockets::{Scope, States, Tables};

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
    let opener = |cookie| owners.iter().find_map(|owners| owners.of(cookie));
    let counted = census::count(tables, &inventory.sockets, USERS_MAX, opener);
    let at = clock::boot_now();
    let seen = counted.into_iter().map(|counted| {
        let users = counted.users.into_iter().map(|user| {
            let found = proc.as_mut().and_then(|proc| proc.process(user.process.tgid));
            let found = found.filter(|found| found.process == user.process);
            let ended = found.is_none();
            let (comm, exe) = found.map(|found| (found.comm, found.exe)).unwrap_or_default();
            let (process, sockets, time_wait) = (user.process, user.sockets, user.time_wait);
            PortUser { process, comm, exe, ended, sockets, time_wait }
        });
        let seen = PortsSeen {
            range: counted.range,
            used: counted.used,
            users: users.collect(),
            others: counted.rest,
            at,
        };
        ((counted.netns, counted.protocol), seen)
    });
    seen.collect()
}
