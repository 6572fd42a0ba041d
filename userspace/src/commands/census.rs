//! Who has which socket now: sockets of an inventory with what `/proc` says of their processes.

use std::collections::{BTreeMap, HashMap};
use std::io;

use crate::event::{Ancestor, Cookie, Inum, Process, ProcessKey, Uid};
use crate::proc::Proc;
use crate::sink::listing::{Listed, Listing, Person};
use crate::source::sockets::InventorySocket;

/// Ancestors that are looked up.
const ANCESTORS_MAX: usize = 64;

/// Processes that were looked up, each once.
pub(super) struct Census {
    proc: Proc,
    known: HashMap<ProcessKey, Option<Process>>,
}

impl Census {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { proc: Proc::open()?, known: HashMap::new() })
    }

    /// What is known of a process; None when it is gone.
    fn look_up(&mut self, key: ProcessKey) -> Option<&Process> {
        let proc = &mut self.proc;
        let found =
            self.known.entry(key).or_insert_with(|| proc.process(key.tgid).filter(|p| p.process == key));
        found.as_ref()
    }

    /// A process and its ancestors, nearest first; empty when it is gone.
    fn line_of(&mut self, key: ProcessKey) -> Vec<Process> {
        let mut line: Vec<Process> = Vec::new();
        let mut next = Some(key);
        while let Some(process) =
            next.and_then(|key| self.look_up(key)).filter(|_| line.len() <= ANCESTORS_MAX)
        {
            next = process.parent;
            line.push(process.clone());
        }
        line
    }

    /// Notes who opened connections that are over.
    pub(super) fn attribute(&mut self, owners: BTreeMap<Cookie, ProcessKey>, listing: &mut Listing) {
        for owner in owners.values() {
            if !listing.owners_alive.contains_key(owner)
                && let Some(facts) = self.look_up(*owner)
            {
                listing.owners_alive.insert(*owner, facts.clone());
            }
        }
        listing.last_owners = owners;
    }

    /// The sockets with their processes, and those processes with their ancestors, elders first: what a ledger is told.
    pub(super) fn listing(
        &mut self,
        sockets: Vec<InventorySocket>,
        own_netns: Inum,
        hidden: bool,
    ) -> (Listing, Vec<Process>) {
        let mut listing = Listing { own_netns, hidden, devices: devices(), ..Listing::default() };
        let mut places: HashMap<ProcessKey, Option<usize>> = HashMap::new();
        let mut elders_first: Vec<Process> = Vec::new();
        for mut socket in sockets {
            let mut holders = std::mem::take(&mut socket.holders);
            // Who bound it is not recorded: of several, the eldest is taken for it.
            holders.sort_unstable_by_key(|holder| (holder.start, holder.tgid));
            let people = holders.iter().filter_map(|holder| {
                *places.entry(*holder).or_insert_with(|| {
                    let line = self.line_of(*holder);
                    elders_first.extend(line.iter().rev().cloned());
                    let (facts, above) = line.split_first()?;
                    let parent = |process: &Process| Ancestor {
                        pid: process.process.tgid,
                        comm: process.comm.clone(),
                    };
                    let parents = above.iter().map(parent).collect();
                    listing.people.push(Person { facts: facts.clone(), parents });
                    Some(listing.people.len() - 1)
                })
            });
            let holders: Vec<usize> = people.collect();
            listing.sockets.push(listed(socket, holders));
        }
        listing.users = users(&listing);
        (listing, elders_first)
    }
}

fn listed(socket: InventorySocket, holders: Vec<usize>) -> Listed {
    Listed {
        mptcp: socket.mptcp.is_some(),
        owned: socket.inode != 0,
        socket: socket.socket,
        options_known: socket.reuse_known,
        state: socket.state,
        peer: socket.peer,
        queued: socket.queued,
        expires_ms: socket.expires_ms,
        holders,
    }
}

/// The names of the users in a listing, as the user database has them.
fn users(listing: &Listing) -> BTreeMap<Uid, String> {
    let people = listing.people.iter().map(|person| person.facts.uid);
    let owners =
        listing.sockets.iter().filter(|listed| listed.holders.is_empty()).map(|listed| listed.socket.uid);
    let mut names: BTreeMap<Uid, Option<String>> = BTreeMap::new();
    for uid in people.chain(owners) {
        names.entry(uid).or_insert_with(|| {
            let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid.0));
            user.ok().flatten().map(|user| user.name)
        });
    }
    names.into_iter().filter_map(|(uid, name)| name.map(|name| (uid, name))).collect()
}

/// The network devices of the caller's namespace, by index.
fn devices() -> BTreeMap<u32, String> {
    let entries = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| {
        let index = std::fs::read_to_string(entry.path().join("ifindex")).ok()?.trim_end().parse().ok()?;
        Some((index, entry.file_name().to_string_lossy().into_owned()))
    });
    named.collect()
}
