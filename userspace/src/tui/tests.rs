//! A stage for the tests of the screen.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::history::Spot;
use super::world::{Origin, World};
use crate::clock::Anchors;
use crate::event::*;
use crate::ledger::Settings;
use crate::log::{Host, samples};

pub(super) const WILD: &str = "0.0.0.0:8080";

/// A world that a test fills by hand.
pub(super) struct Stage {
    pub(super) world: World,
    seq: u64,
}

impl Stage {
    pub(super) fn new() -> Self {
        let origin = Origin {
            host: Host { hostname: "ci-7".into(), kernel: "6.1.0".into(), boot_id: "b".into() },
            clock: Anchors { boot_ns: 0, wall_ns: 1_763_682_000_000_000_000 },
            start: BootTime(0),
            hooks: 3,
            refused: vec![],
            show_secrets: false,
            notices: vec![],
        };
        Self { world: World::new(origin, Settings::default()), seq: 0 }
    }

    pub(super) fn event(&mut self, ms: u64, body: Body) {
        self.seq += 1;
        let event = Event { seq: Seq(self.seq), at: BootTime(ms * 1_000_000), hook: Hook::Bindwatch, body };
        self.world.take(&mut vec![event]);
    }

    /// A process of its own lineage.
    pub(super) fn process(&mut self, ms: u64, process: Process) -> ProcessKey {
        let key = process.process;
        self.event(ms, Body::Process(process));
        key
    }

    /// `p<pid>` binds and listens.
    pub(super) fn binds(&mut self, cookie: u64, pid: u32, place: &str, ms: u64) {
        let plain = Process {
            parent: None,
            mark: None,
            container: None,
            ..samples::process(pid, &format!("p{pid}"))
        };
        let process = self.process(ms, Process { cgroup: "/ci/job".into(), cmdline_cut: false, ..plain });
        self.bound(process, cookie, place, ms);
    }

    pub(super) fn bound(&mut self, process: ProcessKey, cookie: u64, place: &str, ms: u64) {
        let place: std::net::SocketAddr = place.parse().unwrap();
        let socket = samples::socket(cookie, &place.ip().to_string(), place.port());
        let bind = Bind {
            process,
            tid: Tid(process.tgid),
            comm: format!("p{}", process.tgid),
            socket: socket.clone(),
            requested_port: place.port(),
            door: Door::Syscall,
        };
        self.event(ms, Body::Bind(bind));
        self.event(ms, Body::Listen(Listen { process, socket }));
    }

    pub(super) fn accepted(&mut self, cookie: u64, connections: u64) {
        let at = self.world.now().0 / 1_000_000;
        self.event(at, Body::Accepted(Accepted { cookie: Cookie(cookie), connections }));
    }

    pub(super) fn closes(&mut self, cookie: u64, ms: u64) {
        self.event(ms, Body::Close(Close { cookie: Cookie(cookie), state: TcpState::Listen, backlog: 0 }));
        self.event(ms, Body::Gone(Gone { cookie: Cookie(cookie) }));
    }

    pub(super) fn spot(&self, place: &str) -> Spot {
        let place: std::net::SocketAddr = place.parse().unwrap();
        let netns = samples::socket(1, "127.0.0.1", 1).netns;
        Spot { netns, protocol: Protocol::Tcp, port: place.port(), address: place.ip() }
    }
}
