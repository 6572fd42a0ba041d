//! bindwatch's picture and the kernel's, and where they differ.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bindwatch::event::{Body, Cookie, Event, ProcessKey, Protocol, Seq, TcpState};
use bindwatch::ledger::finding::HolderState;
use bindwatch::ledger::{Ledger, Settings};
use bindwatch::log::{Line, decode};
use bindwatch::source::sockets::{InventorySocket, Scope, States, Tables};
use scenarios::{Actor, Log, Recording};

/// For so long the end of a socket's listening is held back, and other events come before it.
const HELD: Duration = Duration::from_millis(2);

/// What a recording's log says so far.
pub(crate) struct Picture {
    ledger: Ledger,
    offset: u64,
    rest: Vec<u8>,
    /// Whose refused binds are asked about, and those.
    probers: Vec<u32>,
    probes: BTreeSet<Seq>,
    /// Sockets that were looked up because of one.
    pub(crate) looked_up: BTreeSet<Cookie>,
    changed: Vec<bindwatch::ledger::FindingId>,
    pub(crate) events: u64,
    /// Events that the log says were lost.
    pub(crate) lost: u64,
    /// Those of them that the kernel left out itself, where its programs can be preempted.
    pub(crate) left_out: u64,
    /// Inventories that ended after the last loss.
    pub(crate) settled: u64,
}

impl Picture {
    pub(crate) fn new(probers: Vec<u32>) -> Self {
        Self {
            ledger: Ledger::new(Settings::default()),
            offset: 0,
            rest: Vec::new(),
            probers,
            probes: BTreeSet::new(),
            looked_up: BTreeSet::new(),
            changed: Vec::new(),
            events: 0,
            lost: 0,
            left_out: 0,
            settled: 0,
        }
    }

    pub(crate) const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Takes everything that happened up to now: up to a marker's bind, and what is in the log by then.
    pub(crate) fn catch_up(&mut self, recording: &Recording, marker: &mut Actor) {
        let begin = Instant::now();
        loop {
            // Nothing that is held back outlasts a marker that was bound when its time was over.
            let is_last = begin.elapsed() > HELD;
            let socket = marker.bind("udp 127.0.0.1:0");
            marker.ok(&format!("close {}", socket.id));
            let needle = format!("\"cookie\":{},", socket.cookie);
            recording.wait_for_lines(&needle, 1, |line| line["type"] == "close");
            if is_last {
                break;
            }
        }
        self.read(recording.log());
    }

    /// Takes what is in the log by now.
    pub(crate) fn read(&mut self, log: &Log) {
        let mut file = File::open(log.path()).expect("a log");
        file.seek(SeekFrom::Start(self.offset)).expect("a place in the log");
        self.offset += file.read_to_end(&mut self.rest).expect("a log that can be read") as u64;
        let whole = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines: Vec<u8> = self.rest.drain(..whole).collect();
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let text = String::from_utf8_lossy(line).into_owned();
            match decode(&mut line.to_vec()) {
                Ok(Line::Event(event)) => self.apply(&event),
                Ok(_) => {}
                Err(error) => panic!("{error}: {text}"),
            }
        }
        self.ledger
            .check_invariants()
            .unwrap_or_else(|why| panic!("the ledger is at odds with itself: {why}"));
    }

    fn apply(&mut self, event: &Event) {
        self.events += 1;
        match &event.body {
            Body::Lost(lost) => {
                self.lost += lost.counts.values().sum::<u64>();
                self.left_out += lost.counts.get("missed").copied().unwrap_or(0);
                self.settled = 0;
            }
            Body::Inventory(inventory) if inventory.phase == bindwatch::event::InventoryPhase::End => {
                self.settled += 1;
            }
            Body::BindFailed(failed) if self.probers.contains(&failed.process.tgid) => {
                self.probes.insert(event.seq);
            }
            Body::Table(row) if self.probes.contains(&row.asked_by) => {
                self.looked_up.insert(row.socket.cookie);
            }
            _ => {}
        }
        self.changed.clear();
        self.ledger.apply(event, &mut self.changed);
    }

    /// Where it differs from the kernel's tables in these network namespaces.
    pub(crate) fn differences(&self, kernel: &Kernel) -> Vec<String> {
        let mut differences = Vec::new();
        let view = self.ledger.view();
        for (cookie, row) in &kernel.sockets {
            let Some(known) = view.socket(*cookie) else {
                if kernel.is_at_rest(row) {
                    differences.push(format!("not known: {}", shown(row)));
                }
                continue;
            };
            let socket = &row.socket;
            // One that connects gets a local address with no event.
            let address = if kernel.is_at_rest(row) { socket.address } else { known.address() };
            let (theirs, ours) = (
                (socket.netns, socket.protocol, address, socket.port, socket.uid, socket.options.device),
                (
                    known.netns(),
                    known.protocol(),
                    known.address(),
                    known.port(),
                    known.uid(),
                    known.options().device,
                ),
            );
            if theirs != ours {
                differences.push(format!("{ours:?} known of {}", shown(row)));
            }
            if (row.state == TcpState::Listen) != (known.state() == HolderState::Listen) {
                differences.push(format!("{:?} known of {}", known.state(), shown(row)));
            }
        }
        for known in view.sockets().filter(|known| kernel.namespaces.contains(&known.netns().0)) {
            if !kernel.sockets.contains_key(&known.cookie()) {
                differences.push(format!(
                    "no longer there: {:?} {} {}:{}",
                    known.cookie(),
                    known.protocol(),
                    known.address(),
                    known.port()
                ));
            }
        }
        differences
    }

    /// Where the holders of these sockets differ, and what lines of the log are about it.
    pub(crate) fn holder_differences(
        &self,
        kernel: &Kernel,
        sockets: &BTreeSet<Cookie>,
    ) -> Vec<(String, Vec<String>)> {
        let mut differences = Vec::new();
        for (cookie, row) in kernel.sockets.iter().filter(|(cookie, _)| sockets.contains(cookie)) {
            let Some(known) = self.ledger.view().socket(*cookie) else { continue };
            let mut ours: Vec<ProcessKey> =
                if known.is_unheld() { Vec::new() } else { known.processes().to_vec() };
            ours.sort_unstable();
            if ours != row.holders {
                let mut needles = vec![format!("\"cookie\":{},", cookie.0)];
                let holders = ours.iter().chain(&row.holders);
                needles.extend(holders.map(|holder| format!("\"{}@", holder.tgid)));
                differences.push((format!("held by {ours:?}, known of {}", shown(row)), needles));
            }
        }
        differences
    }
}

/// What the kernel's tables say, by `sock_diag`, and the links of every process's descriptors.
pub(crate) struct Kernel {
    namespaces: Vec<u32>,
    pub(crate) sockets: BTreeMap<Cookie, InventorySocket>,
}

impl Kernel {
    pub(crate) fn now(namespaces: &[u32]) -> Self {
        let states = States::LISTEN.and(States::BOUND).and(States::CONNECTED);
        let inventory =
            Tables::open().expect("/proc").inventory(states, Scope::Every).expect("the socket tables");
        let sockets = inventory
            .sockets
            .into_iter()
            .filter(|row| namespaces.contains(&row.socket.netns.0) && row.socket.port != 0)
            .filter(|row| row.socket.protocol != Protocol::Udplite)
            .map(|row| (row.socket.cookie, row))
            .collect();
        Self { namespaces: namespaces.to_vec(), sockets }
    }

    /// Sockets that hold a port by themselves. A connection may have it from the one that accepted it.
    pub(crate) fn is_at_rest(&self, row: &InventorySocket) -> bool {
        row.socket.protocol != Protocol::Tcp || matches!(row.state, TcpState::Listen | TcpState::Close)
    }

    /// The bind that a socket keeps everybody from, and the number of its namespace.
    pub(crate) fn same_bind(&self, row: &InventorySocket) -> (usize, String) {
        let socket = &row.socket;
        let namespace = self.namespaces.iter().position(|inode| *inode == socket.netns.0).expect("ours");
        let (address, v6_only) = match socket.address {
            IpAddr::V4(address) => (address.to_string(), ""),
            IpAddr::V6(address) => {
                (format!("[{address}]"), if socket.options.v6_only { " v6only" } else { "" })
            }
        };
        (namespace, format!("{} {address}:{}{v6_only}", socket.protocol, socket.port))
    }
}

fn shown(row: &InventorySocket) -> String {
    let socket = &row.socket;
    format!(
        "{:?} {} {}:{} {:?} uid {} device {} in {}, held by {:?}",
        socket.cookie,
        socket.protocol,
        socket.address,
        socket.port,
        row.state,
        socket.uid.0,
        socket.options.device.0,
        socket.netns.0,
        row.holders
    )
}
