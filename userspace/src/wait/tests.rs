//! Calls of a real thread, through a real filter: what waits, and when it is tried again.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::io::Errno;

use super::{Carrier, News, Outstanding, Reception, Tried, Waits};
use crate::clock;
use crate::event::{
    BootTime, Cookie, Family, Inum, NetnsCookie, Options, Protocol, SocketFacts, TcpState, Uid, WaitOutcome,
};
use crate::probe::seccomp;
use crate::wire::{Record, Small};

/// Longer than a test takes.
const LONG: Duration = Duration::from_secs(600);

/// A thread whose binds are handed over, and who takes them in.
struct Scene {
    waits: Waits,
    reception: Arc<Reception>,
    caller: JoinHandle<Result<(), Errno>>,
    /// What is in the way.
    holder: Option<TcpListener>,
    wanted: SocketAddr,
}

impl Scene {
    /// The thread binds a port that is taken.
    fn new(longest: Duration) -> Self {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let wanted = holder.local_addr().unwrap();
        let (sender, receiver) = mpsc::channel();
        let caller = std::thread::spawn(move || {
            use rustix::net::{AddressFamily, SocketType, bind, socket};
            sender.send(seccomp::hand_over().unwrap()).unwrap();
            let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
            bind(&socket, &wanted)
        });
        let carrier = Arc::new(Carrier::new(None));
        let outstanding = Outstanding::new().unwrap();
        let reception = Arc::new(Reception::new(receiver.recv().unwrap(), outstanding, carrier));
        reception.open().unwrap();
        let waits = Waits::new(Arc::clone(&reception), longest);
        Self { waits, reception, caller, holder: Some(holder), wanted }
    }

    /// Waits until its call waits, and gives its number.
    fn begins(&mut self) -> u64 {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(self.reception.has_news());
        let Some(News::Waits(held)) = self.waits.take_news().pop() else { panic!("it waits") };
        let held = self.waits.resume(held).unwrap();
        assert_eq!(held.address(), Some(self.wanted));
        let socket = self.socket(held.cookie());
        self.waits.begin(*held, socket)
    }

    /// Tries until nothing is due.
    fn tries(&mut self, now: BootTime) -> Option<super::Ended> {
        loop {
            match self.waits.try_one(now)? {
                Tried::Over(ended) => return Some(ended),
                Tried::Waits | Tried::Look(_) => {}
            }
        }
    }

    fn socket(&self, cookie: Cookie) -> SocketFacts {
        SocketFacts {
            cookie,
            netns: Inum(1),
            netns_cookie: NetnsCookie::default(),
            family: Family::Inet,
            protocol: Protocol::Tcp,
            address: self.wanted.ip(),
            port: self.wanted.port(),
            options: Options::default(),
            uid: Uid(0),
        }
    }

    fn closes(&mut self, cookie: u64, on: u16, at: BootTime) {
        let small = Small {
            cookie: Cookie(cookie),
            state: TcpState::Listen,
            backlog: 0,
            tgid: 1,
            netns: Inum(1),
            port: on,
        };
        self.waits.hear(&Record::Close(small), at);
    }
}

/// `ns` later.
fn after(at: BootTime, ns: u64) -> BootTime {
    BootTime(at.0 + ns)
}

#[test]
fn a_record_of_an_end_on_the_port_is_what_makes_it_try() {
    let mut scene = Scene::new(LONG);
    let number = scene.begins();
    let begun = clock::boot_now();
    assert!(scene.tries(begun).is_none(), "it is taken");
    // A series of tries, each of which the clock allows; the last asks to look at what is in the way.
    let mut tries = 0;
    let now = loop {
        let now = scene.waits.next_due().unwrap();
        match scene.waits.try_one(now).unwrap() {
            Tried::Waits => tries += 1,
            Tried::Look(it) => {
                assert_eq!(it, number);
                break now;
            }
            Tried::Over(ended) => panic!("{ended:?}"),
        }
    };
    assert!((5..50).contains(&tries), "{tries} tries in {} ns", now.since(begun));
    let way = [(Cookie(1), true)].into();
    scene.waits.in_the_way(number, &way, None, now);
    let over = scene.waits.next_due().unwrap();
    assert!(over.since(begun) > 500_000_000_000, "nothing is tried until something happens");

    drop(scene.holder.take());
    scene.closes(2, scene.wanted.port() ^ 1, after(now, 1));
    assert_eq!(scene.waits.next_due(), Some(over), "another port");
    scene.closes(1, scene.wanted.port(), after(now, 1));
    let ended = scene.tries(after(now, 1)).unwrap();
    assert_eq!((ended.outcome, ended.facts.port), (WaitOutcome::Done, scene.wanted.port()));
    assert_eq!(scene.caller.join().unwrap(), Ok(()));
}

#[test]
fn when_the_time_is_over_it_fails() {
    let mut scene = Scene::new(Duration::from_secs(1));
    let _ = scene.begins();
    let ended = scene.tries(after(clock::boot_now(), 2_000_000_000)).unwrap();
    assert_eq!(ended.outcome, WaitOutcome::TimedOut);
    assert_eq!(scene.caller.join().unwrap(), Err(Errno::ADDRINUSE));
}

#[test]
fn what_is_being_closed_is_tried_until_it_is() {
    let mut scene = Scene::new(LONG);
    let number = scene.begins();
    let begun = clock::boot_now();
    // Its end was told, and it is still there, at rest: it must be about to go. A connection's end is told when it is.
    for (at_rest, soon) in [(true, true), (false, false)] {
        scene.closes(1, scene.wanted.port(), begun);
        while !matches!(scene.waits.try_one(scene.waits.next_due().unwrap()).unwrap(), Tried::Look(_)) {}
        let way = [(Cookie(1), at_rest)].into();
        scene.waits.in_the_way(number, &way, None, begun);
        assert_eq!(scene.waits.next_due().unwrap().since(begun) < 1_000_000_000, soon, "{at_rest}");
    }
    drop(scene.waits);
    assert_eq!(scene.caller.join().unwrap(), Err(Errno::ADDRINUSE), "left to the kernel");
}

#[test]
fn what_is_left_to_the_kernel_is_carried_out_by_it() {
    let mut scene = Scene::new(LONG);
    let _ = scene.begins();
    drop(scene.holder.take());
    let [ended] = scene.waits.let_pass().try_into().unwrap();
    assert_eq!(ended.outcome, WaitOutcome::Released);
    assert_eq!(scene.caller.join().unwrap(), Ok(()), "it was free by then");
    assert!(scene.waits.let_pass().is_empty());
}
