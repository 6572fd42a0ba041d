//! Random histories of what programs do with sockets, over real processes.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use scenarios::wait::{Deadline, Process};
use scenarios::{Actor, Answer};

/// Processes that live at once.
const LIVES_MAX: usize = 12;
/// Descriptors that one process has.
const SOCKETS_MAX: usize = 24;
/// Ports that histories fight for, from this one on.
const FIRST_PORT: u64 = 7_000;
const PORTS: u64 = 12;
const TWO_TICKS: Duration = Duration::from_millis(20);
/// Network namespaces that last.
const NAMESPACES: usize = 2;

/// Numbers that a seed decides (splitmix64).
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) const fn of(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).expect("a small number")
    }

    fn in_hundred(&mut self, part: usize) -> bool {
        self.below(100) < part
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() { None } else { from.get(self.below(from.len())) }
    }
}

/// A socket as the one who has it knows it.
#[derive(Clone, Copy, Debug)]
struct Known {
    tcp: bool,
    connected: bool,
    /// The kernel chose its port.
    chosen: bool,
    /// Bound to one IPv4 address. A wildcard's becomes one when it connects, and no event says so.
    specific: bool,
    mptcp: bool,
}

impl Known {
    const fn of(tcp: bool, chosen: bool, specific: bool) -> Self {
        Self { tcp, connected: false, chosen, specific, mptcp: false }
    }
}

/// A process.
struct Life {
    /// The actor at the root of its line of commands, and the way down from there.
    top: usize,
    path: Vec<u64>,
    process: Process,
    sockets: BTreeMap<u64, Known>,
    parent: Option<usize>,
    children_made: u64,
    /// Its inbox's name and what waits there.
    inbox: Option<(String, Vec<Known>)>,
    namespace: usize,
}

/// A world of processes in two network namespaces, and the calls made in it.
pub(crate) struct World {
    chance: Chance,
    seed: u64,
    tops: Vec<Option<Actor>>,
    lives: BTreeMap<usize, Life>,
    made: usize,
    inboxes: usize,
    /// Keeps the namespaces, and binds there to see who is in the way.
    probers: Vec<Actor>,
    pub(crate) calls: u64,
    /// Calls that the kernel refused.
    pub(crate) refused: u64,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let probers: Vec<Actor> = (0..NAMESPACES)
            .map(|_| {
                let mut prober = Actor::new();
                prober.ok("unshare-net");
                prober
            })
            .collect();
        let mut world = Self {
            chance: Chance::of(seed),
            seed,
            tops: Vec::new(),
            lives: BTreeMap::new(),
            made: 0,
            inboxes: 0,
            probers,
            calls: 0,
            refused: 0,
        };
        for _ in 0..LIVES_MAX / 2 {
            world.appear();
        }
        world
    }

    /// The network namespaces that last, by their inode numbers.
    pub(crate) fn namespaces(&self) -> Vec<u32> {
        let inode = |prober: &Actor| {
            use std::os::unix::fs::MetadataExt as _;
            let place = format!("/proc/{}/ns/net", prober.pid());
            u32::try_from(std::fs::metadata(place).expect("a namespace").ino()).expect("an inode number")
        };
        self.probers.iter().map(inode).collect()
    }

    /// The processes that [`World::probe`] binds with.
    pub(crate) fn probers(&self) -> Vec<u32> {
        self.probers.iter().map(Actor::pid).collect()
    }

    /// Tries to bind where a socket is; the kernel must refuse it.
    pub(crate) fn probe(&mut self, namespace: usize, what: &str) -> String {
        self.calls += 1;
        self.probers[namespace].tell(&format!("bind {what}")).to_string()
    }

    /// So many steps of somebody.
    pub(crate) fn live(&mut self, steps: u64) {
        for _ in 0..steps {
            self.step();
        }
    }

    fn step(&mut self) {
        if self.lives.len() < 3 {
            self.appear();
        }
        let keys: Vec<usize> = self.lives.keys().copied().collect();
        let who = *self.chance.pick(&keys).expect("somebody lives");
        match self.chance.below(212) {
            0..70 => self.bind(who),
            70..90 => self.with_socket(who, |known| known.tcp, |id| format!("listen {id}")),
            90..125 => self.close(who),
            125..145 => self.set(who),
            145..149 => self.stop(who),
            149..153 => self.connect(who),
            153..160 => self.dup(who),
            160..168 => self.pass(who),
            168..178 => self.receive(who),
            178..184 => self.fork(who),
            184..188 => self.spawn(who),
            188..190 => self.exec(who),
            190..193 => self.end(who),
            193..195 => self.move_to(who),
            195 => self.brief_namespace(),
            196 => self.appear(),
            197..202 => self.listen_only(who),
            202..211 => self.peer(who),
            _ => self.close(who),
        }
    }

    fn tell(&mut self, who: usize, command: &str) -> Answer {
        self.calls += 1;
        let life = &self.lives[&who];
        let mut line = String::new();
        for child in &life.path {
            line.push_str(&format!("tell {child} "));
        }
        line.push_str(command);
        let answer = self.tops[life.top].as_mut().expect("an actor that lives").tell(&line);
        self.refused += u64::from(!answer.is_ok());
        answer
    }

    fn appear(&mut self) {
        if self.lives.len() >= LIVES_MAX {
            return;
        }
        let namespace = self.chance.below(NAMESPACES);
        let inside = format!("--net=/proc/{}/ns/net", self.probers[namespace].pid());
        let actor = Actor::start(Command::new("nsenter").arg(inside).arg(Actor::program()));
        let process = Process::of(actor.pid());
        self.tops.push(Some(actor));
        let life = Life {
            top: self.tops.len() - 1,
            path: Vec::new(),
            process,
            sockets: BTreeMap::new(),
            parent: None,
            children_made: 0,
            inbox: None,
            namespace,
        };
        let who = self.add(life);
        // It is in its namespace, and the actor, when it answers.
        self.tell(who, "pid");
    }

    fn add(&mut self, life: Life) -> usize {
        self.made += 1;
        self.lives.insert(self.made, life);
        self.made
    }

    fn bind(&mut self, who: usize) {
        if self.lives[&who].sockets.len() >= SOCKETS_MAX {
            return self.close(who);
        }
        let tcp = self.chance.in_hundred(55);
        let addresses = ["127.0.0.1", "127.0.0.2", "0.0.0.0", "[::1]", "[::]", "[::]", "[::ffff:127.0.0.1]"];
        let at = self.chance.below(addresses.len());
        let port = if self.chance.in_hundred(25) {
            0
        } else {
            FIRST_PORT + self.chance.below(PORTS as usize) as u64
        };
        let mut flags = String::new();
        for (flag, part) in [(" reuseaddr", 40), (" reuseport", 55), (" dev=lo", 5)] {
            if self.chance.in_hundred(part) {
                flags.push_str(flag);
            }
        }
        if at == 5 {
            flags.push_str(" v6only");
        }
        if self.chance.in_hundred(5) {
            flags.push_str(" uid=4242");
        }
        if tcp && self.chance.in_hundred(50) {
            flags.push_str(" listen");
        }
        let door = match (tcp, self.chance.below(25)) {
            (true, 0) => "uring inline tcp",
            (true, 1) => "uring async tcp",
            (true, 2) => "uring sqpoll tcp",
            (true, 3) => "uring linked tcp",
            (true, 4) => "compat bind tcp",
            (true, 5) => "compat socketcall tcp",
            (true, 6 | 7) => "bind mptcp",
            (true, _) => "bind tcp",
            (false, 0) => "uring inline udp",
            (false, 1) => "uring async udp",
            (false, _) => "bind udp",
        };
        let answer = self.tell(who, &format!("{door} {}:{port}{flags}", addresses[at]));
        if answer.is_ok() {
            let known = Known { mptcp: door == "bind mptcp", ..Known::of(tcp, port == 0, at < 2) };
            self.life(who).sockets.insert(answer.number("id"), known);
        }
    }

    /// A listener that was never bound.
    fn listen_only(&mut self, who: usize) {
        if self.lives[&who].sockets.len() >= SOCKETS_MAX {
            return;
        }
        let family = if self.chance.in_hundred(50) { 4 } else { 6 };
        let id = self.tell(who, &format!("socket tcp {family}")).number("id");
        if self.chance.in_hundred(50) {
            self.tell(who, &format!("opt {id} reuseport 1"));
        }
        self.tell(who, &format!("listen {id}"));
        self.life(who).sockets.insert(id, Known::of(true, true, false));
    }

    /// A UDP socket gets or loses its peer.
    fn peer(&mut self, who: usize) {
        if self.chance.in_hundred(30) {
            return self.give_up(who);
        }
        // What one process knows of a port that the kernel chose is not what another does that has the socket too.
        let fits = |known: &Known| !known.tcp && known.specific && !known.chosen;
        if let Some(id) = self.socket_of(who, fits) {
            let port = FIRST_PORT + self.chance.below(PORTS as usize) as u64;
            self.tell(who, &format!("reconnect {id} 127.0.0.1:{port}"));
            if self.chance.in_hundred(50) {
                self.tell(who, &format!("disconnect {id}"));
            }
        }
    }

    /// A UDP socket has no port after its peer when the kernel chose that.
    fn give_up(&mut self, who: usize) {
        if self.lives[&who].sockets.len() >= SOCKETS_MAX {
            return;
        }
        let id = self.tell(who, "bind udp 127.0.0.1:0").number("id");
        self.tell(who, &format!("reconnect {id} 127.0.0.1:9"));
        self.tell(who, &format!("disconnect {id}"));
        self.life(who).sockets.insert(id, Known::of(false, true, true));
    }

    fn life(&mut self, who: usize) -> &mut Life {
        self.lives.get_mut(&who).expect("somebody who lives")
    }

    fn socket_of(&mut self, who: usize, fits: impl Fn(&Known) -> bool) -> Option<u64> {
        let all = &self.lives[&who].sockets;
        let fitting: Vec<u64> = all.iter().filter(|(_, known)| fits(known)).map(|(id, _)| *id).collect();
        self.chance.pick(&fitting).copied()
    }

    fn with_socket(&mut self, who: usize, fits: impl Fn(&Known) -> bool, command: impl Fn(u64) -> String) {
        if let Some(id) = self.socket_of(who, fits) {
            self.tell(who, &command(id));
        }
    }

    fn close(&mut self, who: usize) {
        if let Some(id) = self.socket_of(who, |_| true) {
            self.tell(who, &format!("close {id}"));
            self.life(who).sockets.remove(&id);
        }
    }

    fn set(&mut self, who: usize) {
        let options = [
            "reuseaddr 0",
            "reuseaddr 1",
            "reuseport 0",
            "reuseport 1",
            "reuseport 1",
            "ifindex 0",
            "ifindex 1",
        ];
        let option = options[self.chance.below(options.len())];
        self.with_socket(who, |_| true, |id| format!("opt {id} {option}"));
    }

    /// Shuts a listener down. Its port is still held then, unless the kernel chose it.
    fn stop(&mut self, who: usize) {
        if let Some(id) = self.socket_of(who, |known| known.tcp && !known.chosen && !known.mptcp)
            && self.tell(who, &format!("listen {id}")).is_ok()
        {
            self.tell(who, &format!("shutdown {id}"));
        }
    }

    fn connect(&mut self, who: usize) {
        let port = FIRST_PORT + self.chance.below(PORTS as usize) as u64;
        let free =
            |known: &Known| known.tcp && known.specific && !known.connected && !known.chosen && !known.mptcp;
        if let Some(id) = self.socket_of(who, free)
            && self.tell(who, &format!("connect-from {id} 127.0.0.1:{port}")).is_ok()
        {
            self.life(who).sockets.entry(id).and_modify(|known| known.connected = true);
        }
    }

    fn dup(&mut self, who: usize) {
        if self.lives[&who].sockets.len() >= SOCKETS_MAX {
            return;
        }
        if let Some(id) = self.socket_of(who, |_| true) {
            let answer = self.tell(who, &format!("dup {id}"));
            let known = self.lives[&who].sockets[&id];
            self.life(who).sockets.insert(answer.number("id"), known);
        }
    }

    /// Sends a socket to another process of the same namespace.
    fn pass(&mut self, who: usize) {
        let namespace = self.lives[&who].namespace;
        let near: Vec<usize> = self
            .lives
            .iter()
            .filter(|(other, life)| **other != who && life.namespace == namespace)
            .map(|(other, _)| *other)
            .collect();
        let (Some(to), Some(id)) = (self.chance.pick(&near).copied(), self.socket_of(who, |_| true)) else {
            return;
        };
        if self.lives[&to].inbox.is_none() {
            self.inboxes += 1;
            let name = format!("bindwatch-truth-{}-{}-{}", std::process::id(), self.seed, self.inboxes);
            self.tell(to, &format!("inbox {name}"));
            self.life(to).inbox = Some((name, Vec::new()));
        }
        let known = self.lives[&who].sockets[&id];
        let Some((name, waiting)) = &self.lives[&to].inbox else { return };
        // The queue of a datagram socket is short, and a full one makes the sender wait.
        if waiting.len() >= 5 {
            return;
        }
        let name = name.clone();
        if self.tell(who, &format!("post {id} {name}")).is_ok()
            && let Some((_, waiting)) = &mut self.life(to).inbox
        {
            waiting.push(known);
        }
        // Half of them are let go at once: the socket is in flight only, if it was not shared.
        if self.chance.in_hundred(50) {
            self.tell(who, &format!("close {id}"));
            self.life(who).sockets.remove(&id);
        }
    }

    fn receive(&mut self, who: usize) {
        let waits = matches!(&self.lives[&who].inbox, Some((_, waiting)) if !waiting.is_empty());
        if !waits {
            return;
        }
        let answer = self.tell(who, "unpost");
        let Some((_, waiting)) = &mut self.life(who).inbox else { return };
        let known = waiting.remove(0);
        self.life(who).sockets.insert(answer.number("id"), known);
    }

    fn fork(&mut self, who: usize) {
        if self.lives.len() >= LIVES_MAX {
            return;
        }
        let sockets = self.lives[&who].sockets.clone();
        let answer = self.tell(who, "fork");
        // It has the inbox as well, and what comes there comes to one of the two: nobody knows to whom. It lets go of it.
        let child = self.born(who, &answer, sockets);
        self.tell(child, "close-inbox");
    }

    fn spawn(&mut self, who: usize) {
        if self.lives.len() >= LIVES_MAX {
            return;
        }
        let (ids, sockets) = self.some_sockets(who);
        let answer = self.tell(who, &format!("spawn {ids}"));
        let child = self.born(who, &answer, sockets);
        self.tell(child, "pid");
    }

    fn exec(&mut self, who: usize) {
        let (ids, sockets) = self.some_sockets(who);
        self.tell(who, &format!("exec {ids}"));
        let life = self.life(who);
        (life.sockets, life.inbox, life.children_made) = (sockets, None, 0);
        // Its children hear nothing more.
        self.bury_children(who);
    }

    /// Some of its sockets, as the ids of a command and as an image with just these numbers them.
    fn some_sockets(&mut self, who: usize) -> (String, BTreeMap<u64, Known>) {
        let all: Vec<(u64, Known)> =
            self.lives[&who].sockets.iter().map(|(id, known)| (*id, *known)).collect();
        let taken: Vec<(u64, Known)> = all.into_iter().filter(|_| self.chance.in_hundred(30)).collect();
        let ids: Vec<String> = taken.iter().map(|(id, _)| id.to_string()).collect();
        (ids.join(" "), (1..).zip(taken.into_iter().map(|(_, known)| known)).collect())
    }

    fn born(&mut self, parent: usize, answer: &Answer, sockets: BTreeMap<u64, Known>) -> usize {
        let (top, mut path, namespace) = {
            let life = self.life(parent);
            life.children_made += 1;
            (life.top, life.path.clone(), life.namespace)
        };
        path.push(answer.number("child"));
        let pid = u32::try_from(answer.number("pid")).expect("a process id");
        let process = Process::of(pid);
        self.add(Life {
            top,
            path,
            process,
            sockets,
            parent: Some(parent),
            children_made: 0,
            inbox: None,
            namespace,
        })
    }

    fn end(&mut self, who: usize) {
        self.calls += 1;
        let Some(life) = self.lives.remove(&who) else { return };
        life.process.signal(Signal::KILL);
        assert!(life.process.ended(Deadline::patient()), "a killed process ends");
        if life.path.is_empty() {
            self.tops[life.top] = None;
        }
        self.bury_children(who);
    }

    /// Waits for the children of a process whose line to them is cut.
    fn bury_children(&mut self, parent: usize) {
        let children: Vec<usize> = self
            .lives
            .iter()
            .filter(|(_, life)| life.parent == Some(parent))
            .map(|(child, _)| *child)
            .collect();
        for child in children {
            let Some(life) = self.lives.remove(&child) else { continue };
            assert!(life.process.ended(Deadline::patient()), "a process without its line ends");
            self.bury_children(child);
        }
    }

    /// A process ends and another gets its id, which is given. Both bind.
    pub(crate) fn recycle(&mut self) -> u32 {
        while self.lives.len() + 2 > LIVES_MAX {
            let last = *self.lives.keys().next_back().expect("somebody lives");
            self.end(last);
        }
        self.appear();
        let parent = self.made;
        let answer = self.tell(parent, "fork");
        let pid = answer.number("pid");
        let first = self.born(parent, &answer, BTreeMap::new());
        self.tell(first, "bind udp 127.0.0.1:0 reuseport");
        self.end(first);
        self.tell(parent, &format!("reap {pid}"));
        // Two processes of one id differ by when they started, to the tick of 10 ms.
        let begin = Instant::now();
        while begin.elapsed() < TWO_TICKS {
            self.tell(parent, "pid");
        }
        let answer = self.tell(parent, &format!("fork-as {pid}"));
        assert_eq!(answer.number("pid"), pid, "{answer}");
        let second = self.born(parent, &answer, BTreeMap::new());
        let bound = self.tell(second, "bind udp 127.0.0.1:0 reuseport");
        let known = Known::of(false, true, true);
        self.life(second).sockets.insert(bound.number("id"), known);
        u32::try_from(pid).expect("a process id")
    }

    /// Goes to the other namespace; its sockets stay where they are.
    fn move_to(&mut self, who: usize) {
        let namespace = 1 - self.lives[&who].namespace;
        let pid = self.probers[namespace].pid();
        self.tell(who, &format!("enter-net {pid}"));
        // Names of inboxes belong to a namespace: the old one is not to be reached any more.
        if self.lives[&who].inbox.is_some() {
            self.tell(who, "close-inbox");
        }
        let life = self.life(who);
        (life.namespace, life.inbox) = (namespace, None);
    }

    /// A namespace that goes away with its one process and its sockets.
    fn brief_namespace(&mut self) {
        let mut actor = Actor::new();
        self.calls += 5;
        actor.ok("unshare-net");
        actor.bind("tcp 127.0.0.1:7000 reuseport listen");
        actor.bind("udp [::]:7001 reuseaddr");
        actor.bind("tcp 0.0.0.0:0");
        drop(actor);
    }
}
