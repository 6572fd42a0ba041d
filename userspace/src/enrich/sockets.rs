//! Which sockets are held, as far as records need it: to leave out those of no interest, and to notice a socket whose
//! known holders are all gone.

use std::collections::{BTreeMap, BTreeSet, HashMap, hash_map};

use super::{UNHELD_MAX_NS, UNHELD_NS};
use crate::event::{BootTime, Cookie, Found, Inum, ProcessKey, Protocol, SocketFacts, TcpState};
use crate::ledger::LINGERING_MAX;
use crate::ledger::few::Few;

type Port = (Inum, Protocol, u16);

/// A socket without a known holder.
#[derive(Clone, Copy)]
struct Unheld {
    /// When its holders are looked up.
    due: BootTime,
    /// How long that was waited for, ns.
    waited: u64,
}

/// The held sockets.
#[derive(Default)]
pub(super) struct Sockets {
    by_cookie: HashMap<Cookie, Port>,
    /// Those whose port is known.
    on_port: BTreeSet<(Port, Cookie)>,
    /// Holder and socket, in both directions.
    held_by: BTreeSet<(ProcessKey, Cookie)>,
    holders: HashMap<Cookie, Few<ProcessKey>>,
    /// Closed by their last holder, but still connected.
    lingering: BTreeSet<Cookie>,
    /// Those that began to listen during the recording.
    listening: BTreeSet<Cookie>,
    /// Open, but no known holder lives.
    unheld: BTreeMap<Cookie, Unheld>,
}

impl Sockets {
    /// A process bound a socket, or listens on it.
    pub(super) fn held(&mut self, socket: &SocketFacts, process: ProcessKey) {
        self.place(socket);
        self.holds(socket.cookie, process);
    }

    /// An inventory found a socket: with these holders, whoever they were before, as the ledger has it from then on.
    pub(super) fn found(&mut self, found: &Found) {
        let cookie = found.socket.cookie;
        self.place(&found.socket);
        // In flight: who takes it up is still looked for.
        let wanted = self.unheld.get(&cookie).copied().filter(|_| found.holders.is_empty());
        self.let_go(cookie);
        for holder in &found.holders {
            self.holds(cookie, *holder);
        }
        if let Some(unheld) = wanted {
            self.unheld.insert(cookie, unheld);
        }
    }

    fn place(&mut self, socket: &SocketFacts) {
        let port = (socket.netns, socket.protocol, socket.port);
        if let Some(before) = self.by_cookie.insert(socket.cookie, port).filter(|before| *before != port) {
            self.on_port.remove(&(before, socket.cookie));
        }
        if socket.port != 0 {
            self.on_port.insert((port, socket.cookie));
        }
    }

    /// Other sockets on its port.
    pub(super) fn beside(&self, socket: &SocketFacts) -> impl Iterator<Item = Cookie> + use<'_> {
        let (port, own) = ((socket.netns, socket.protocol, socket.port), socket.cookie);
        let all = self.on_port.range((port, Cookie(0))..=(port, Cookie(u64::MAX)));
        all.map(|(_, cookie)| *cookie).filter(move |cookie| *cookie != own)
    }

    /// Who is known to hold a socket.
    pub(super) fn holders_of(&self, cookie: Cookie) -> impl Iterator<Item = ProcessKey> + use<'_> {
        self.holders.get(&cookie).into_iter().flat_map(Few::iter).copied()
    }

    fn holds(&mut self, cookie: Cookie, process: ProcessKey) {
        self.held_by.insert((process, cookie));
        let holders = self.holders.entry(cookie);
        holders.and_modify(|holders| holders.insert(process)).or_insert(Few::One(process));
        self.unheld.remove(&cookie);
    }

    /// Everyone who has one, some of them more than once.
    pub(super) fn all_holders(&self) -> impl Iterator<Item = ProcessKey> + use<'_> {
        self.held_by.iter().map(|(process, _)| *process)
    }

    /// Whether it is held.
    pub(super) fn knows(&self, cookie: Cookie) -> bool {
        self.by_cookie.contains_key(&cookie)
    }

    /// The one process that has it, as far as is known.
    pub(super) fn sole_holder(&self, cookie: Cookie) -> Option<ProcessKey> {
        let holders = self.holders.get(&cookie).filter(|holders| holders.len() == 1)?;
        holders.iter().next().copied()
    }

    /// It began to listen.
    pub(super) fn listens(&mut self, cookie: Cookie) {
        self.listening.insert(cookie);
    }

    /// Whether it is among those that began to listen during the recording.
    pub(super) fn listens_now(&self, cookie: Cookie) -> bool {
        self.listening.contains(&cookie)
    }

    /// Those that listen, in order.
    pub(super) fn listeners(&self) -> Vec<Cookie> {
        self.listening.iter().copied().collect()
    }

    /// Whether a socket that is gone had listened. Once.
    pub(super) fn listened(&mut self, cookie: Cookie) -> bool {
        self.listening.remove(&cookie)
    }

    /// The last reference went away. Whether the socket was known.
    pub(super) fn closed(&mut self, cookie: Cookie, state: TcpState) -> bool {
        let Some(port) = self.by_cookie.remove(&cookie) else { return false };
        self.on_port.remove(&(port, cookie));
        self.let_go(cookie);
        if port.1 == Protocol::Tcp && !matches!(state, TcpState::Close | TcpState::Listen) {
            self.lingering.insert(cookie);
            // The kernel numbers sockets in the order in which they are asked for their cookies.
            if self.lingering.len() > LINGERING_MAX {
                self.lingering.pop_first();
            }
        }
        true
    }

    /// How many closed ones are waited for.
    #[cfg(test)]
    pub(super) fn lingering(&self) -> usize {
        self.lingering.len()
    }

    /// The kernel destroyed it. Whether it was waited for.
    pub(super) fn destroyed(&mut self, cookie: Cookie) -> bool {
        self.lingering.remove(&cookie)
    }

    /// A process ended: it holds nothing any more.
    pub(super) fn holder_ended(&mut self, process: ProcessKey, at: BootTime) {
        let first = (process, Cookie(0));
        let last = (process, Cookie(u64::MAX));
        let held: Vec<Cookie> = self.held_by.range(first..=last).map(|(_, cookie)| *cookie).collect();
        for cookie in held {
            self.held_by.remove(&(process, cookie));
            if let hash_map::Entry::Occupied(mut holders) = self.holders.entry(cookie)
                && holders.get_mut().remove(&process)
            {
                holders.remove();
                self.unheld.insert(cookie, Unheld { due: BootTime(at.0 + UNHELD_NS), waited: UNHELD_NS });
            }
        }
    }

    /// The earliest instant at which holders are to be looked up.
    pub(super) fn next_due(&self) -> Option<BootTime> {
        self.unheld.values().map(|unheld| unheld.due).min()
    }

    /// Takes the sockets whose holders are to be looked up now, with how long that was waited for, ns.
    pub(super) fn take_unheld(&mut self, now: BootTime) -> BTreeMap<Cookie, u64> {
        let ripe: BTreeMap<Cookie, u64> = self
            .unheld
            .iter()
            .filter(|(_, unheld)| unheld.due <= now)
            .map(|(cookie, unheld)| (*cookie, unheld.waited))
            .collect();
        self.unheld.retain(|_, unheld| unheld.due > now);
        ripe
    }

    /// Puts a look-up off that came too early after `waited` ns: for twice as long, and at most [`UNHELD_MAX_NS`].
    pub(super) fn put_off(&mut self, cookie: Cookie, now: BootTime, waited: u64) {
        let waited = (2 * waited).min(UNHELD_MAX_NS);
        self.unheld.insert(cookie, Unheld { due: BootTime(now.0 + waited), waited });
    }

    /// Who holds a socket, from a look-up.
    pub(super) fn holders(&mut self, cookie: Cookie, processes: &[ProcessKey]) {
        if !self.knows(cookie) {
            return;
        }
        self.let_go(cookie);
        for process in processes {
            self.holds(cookie, *process);
        }
    }

    /// Forgets every socket but these.
    ///
    /// Unless it was `complete`, what is in a network namespace of which it lists nothing may be there still.
    pub(super) fn keep_only(&mut self, cookies: &BTreeSet<Cookie>, complete: bool) {
        let listed = self.by_cookie.iter().filter(|(cookie, _)| cookies.contains(cookie));
        let seen: BTreeSet<Inum> = listed.map(|(_, (netns, _, _))| *netns).collect();
        if complete {
            self.listening.retain(|cookie| cookies.contains(cookie));
            // The ledger waits no longer for the ends of any of them either: that of some was lost.
            self.lingering.clear();
        }
        let is_gone =
            |cookie: &Cookie, netns: &Inum| !cookies.contains(cookie) && (complete || seen.contains(netns));
        let gone = self.by_cookie.iter().filter(|(cookie, (netns, _, _))| is_gone(cookie, netns));
        let gone: Vec<Cookie> = gone.map(|(cookie, _)| *cookie).collect();
        for cookie in gone {
            self.forget(cookie);
        }
    }

    /// It is not at its port, or never was.
    pub(super) fn forget(&mut self, cookie: Cookie) {
        self.listening.remove(&cookie);
        if let Some(port) = self.by_cookie.remove(&cookie) {
            self.on_port.remove(&(port, cookie));
        }
        self.let_go(cookie);
    }

    fn let_go(&mut self, cookie: Cookie) {
        self.unheld.remove(&cookie);
        for process in self.holders.remove(&cookie).iter().flat_map(Few::iter) {
            self.held_by.remove(&(*process, cookie));
        }
    }
}
