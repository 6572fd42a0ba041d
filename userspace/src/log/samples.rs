//! At least one event of every kind, with every field that may be left out both given and left out.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::BTreeMap;

use super::{Enforces, Header, Host, RefusedHook};
use crate::clock::Anchors;
use crate::event::*;
use crate::judge::Rules;

pub(crate) fn header() -> Header {
    Header {
        version: "0.1.0".to_owned(),
        host: Host { hostname: "ci-7".to_owned(), kernel: "6.1.0".to_owned(), boot_id: "b".to_owned() },
        clock: Anchors { boot_ns: 1_000_000_000, wall_ns: 1_763_682_000_000_000_000 },
        command_line: vec!["bindwatch".to_owned(), "run".to_owned()],
        hooks: vec!["post_bind4".to_owned()],
        refused: vec![RefusedHook { hook: "fexit".to_owned(), reason: "EPERM".to_owned() }],
        backend: None,
        rules: Rules { allow: vec!["program=nginx,port=80".parse().unwrap()], ..Rules::default() },
        cmdline: "full".to_owned(),
        events: "all".to_owned(),
        enforcement: Some(Enforces {
            mode: EnforcementMode::Check,
            reason: Some("an old kernel".to_owned()),
        }),
    }
}

pub(crate) fn key(tgid: u32) -> ProcessKey {
    ProcessKey { tgid, start: 880_213 }
}

pub(crate) fn process(tgid: u32, text: &str) -> Process {
    Process {
        process: key(tgid),
        parent: Some(key(1)),
        lineage: key(tgid),
        known: Known::Exec,
        comm: text.to_owned(),
        exe: text.to_owned(),
        cmdline: vec![text.to_owned(), "--flag".to_owned()],
        cmdline_cut: true,
        uid: Uid(1000),
        session: 7,
        cgroup: text.to_owned(),
        container: Some(text.to_owned()),
        mark: Some(Mark::NodeCluster(3)),
        job: Some("build / suite".to_owned()),
    }
}

pub(crate) fn socket(cookie: u64, address: &str, port: u16) -> SocketFacts {
    SocketFacts {
        cookie: Cookie(cookie),
        netns: Inum(4_026_531_840),
        netns_cookie: NetnsCookie(1),
        family: if address.contains(':') { Family::Inet6 } else { Family::Inet },
        protocol: Protocol::Tcp,
        address: address.parse().unwrap(),
        port,
        options: Options { reuse_port: true, ..Options::default() },
        uid: Uid(1000),
    }
}

/// Bodies of every kind, with `text` wherever a process or a user has the word.
pub(crate) fn bodies(text: &str) -> Vec<Body> {
    let (comm, door) = (text.to_owned(), Door::Syscall);
    let every = Options { reuse_addr: true, reuse_port: true, v6_only: true, device: Ifindex(3) };
    let v6 = SocketFacts {
        options: every,
        protocol: Protocol::Udp,
        ..socket(u64::MAX, "::ffff:127.0.0.1", 65535)
    };
    let bare = Process {
        parent: None,
        container: None,
        mark: Some(Mark::Unknown),
        job: None,
        cmdline: vec![],
        cmdline_cut: false,
        known: Known::Name,
        ..process(1, text)
    };
    let forked = Process {
        mark: Some(Mark::Multiprocessing),
        known: Known::Fork,
        cmdline: vec![comm.clone(); 3],
        ..process(2, text)
    };
    let job = Job {
        phase: JobPhase::Start,
        name: comm.clone(),
        cgroup: comm.clone(),
        process: None,
        status: None,
        left: vec![],
    };
    let (tid, errno) = (Tid(4711), Errno::EADDRINUSE);
    let row = TableRow {
        asked_by: Seq(3),
        socket: v6.clone(),
        state: TcpState::TimeWait,
        peer: Some("[::1]:9".parse().unwrap()),
        holders: vec![],
        last_owner: Some(key(9)),
        outgoing: true,
    };
    let settings = [
        Setting::ReuseAddr(true),
        Setting::ReusePort(false),
        Setting::Device(Ifindex(2)),
        Setting::Multicast,
    ];
    let mut bodies = vec![
        Body::Process(process(4711, text)),
        Body::Process(bare),
        Body::Exit(Exit { process: key(4711) }),
        Body::Signal(Signal { process: key(1), sender: Some(key(2)), signal: 15 }),
        Body::Signal(Signal { process: key(1), sender: None, signal: 9 }),
        Body::Socket(Found {
            socket: socket(1, "0.0.0.0", 80),
            state: TcpState::Listen,
            holders: vec![key(1), key(2)],
        }),
        Body::Inventory(Inventory { phase: InventoryPhase::Begin, unseen: vec![] }),
        Body::Inventory(Inventory { phase: InventoryPhase::End, unseen: vec![comm.clone()] }),
        Body::Bind(Bind {
            process: key(1),
            tid,
            comm: comm.clone(),
            socket: v6.clone(),
            requested_port: 0,
            door,
        }),
        Body::BindFailed(BindFailed {
            process: key(1),
            tid,
            comm: comm.clone(),
            socket: v6.clone(),
            errno: Errno(111),
            door: Door::IoUring,
        }),
        Body::Denied(Denied {
            process: key(1),
            tid,
            comm: comm.clone(),
            socket: v6.clone(),
            requested_port: 0,
            holder_cookie: Cookie(7),
            holder: key(2),
            errno: Errno::EADDRINUSE,
            dry_run: false,
        }),
        Body::Denied(Denied {
            process: key(1),
            tid,
            comm: comm.clone(),
            socket: v6.clone(),
            requested_port: 80,
            holder_cookie: Cookie(7),
            holder: key(2),
            errno: Errno::EPERM,
            dry_run: true,
        }),
        Body::Enforcement(Enforcement { mode: EnforcementMode::Deny, cgroups: vec![comm.clone()] }),
        Body::Enforcement(Enforcement { mode: EnforcementMode::Wait, cgroups: vec![] }),
        Body::Waiting(Waiting {
            process: key(1),
            tid,
            comm: comm.clone(),
            call: WaitingCall::Bind,
            socket: v6.clone(),
            holder_cookie: Some(Cookie(7)),
            holder: Some(key(2)),
        }),
        Body::Waiting(Waiting {
            process: key(1),
            tid,
            comm: comm.clone(),
            call: WaitingCall::Listen,
            socket: v6.clone(),
            holder_cookie: None,
            holder: None,
        }),
        Body::Waited(Waited {
            process: key(1),
            cookie: Cookie(1),
            waited_ns: 412_000_000,
            outcome: WaitOutcome::TimedOut,
        }),
        Body::Enforcement(Enforcement { mode: EnforcementMode::DryRun, cgroups: vec![] }),
        Body::Enforcement(Enforcement { mode: EnforcementMode::Check, cgroups: vec![] }),
        Body::Unresolved(Unresolved {
            process: key(1),
            socket: v6.clone(),
            comm: comm.clone(),
            door: Door::Compat,
        }),
        Body::Changed(Changed { process: Some(key(1)), socket: v6.clone(), state: TcpState::Close }),
        Body::Accepted(Accepted { cookie: Cookie(1), connections: 61 }),
        Body::Changed(Changed { process: None, socket: v6.clone(), state: TcpState::Established }),
        Body::Listen(Listen { process: key(1), socket: v6.clone() }),
        Body::Unlisten(Unlisten { cookie: Cookie(1), backlog: 5 }),
        Body::ListenFailed(ListenFailed { process: key(1), comm: comm.clone(), socket: v6, errno }),
        Body::Close(Close { cookie: Cookie(1), state: TcpState::CloseWait, backlog: 0 }),
        Body::Gone(Gone { cookie: Cookie(1) }),
        Body::ConnectFailed(ConnectFailed {
            process: key(1),
            comm: comm.clone(),
            cookie: Cookie(5),
            netns: Inum(1),
            protocol: Protocol::Udplite,
            destination: "10.0.0.1".parse().unwrap(),
            destination_port: 443,
            errno: Errno::EADDRNOTAVAIL,
        }),
        Body::Holders(Holders { cookie: Cookie(1), processes: vec![key(1)] }),
        Body::Table(TableRow {
            peer: None,
            last_owner: None,
            holders: vec![key(3)],
            outgoing: false,
            ..row.clone()
        }),
        Body::Table(row),
        Body::PortRange(PortRange {
            netns: Inum(1),
            low: 32_768,
            high: 60_999,
            reserved: vec![(8080, 8090)],
        }),
        Body::PortRange(PortRange { netns: Inum(1), low: 1, high: 1, reserved: vec![] }),
        Body::PortUse(PortUse {
            asked_by: Seq(3),
            netns: Inum(1),
            protocol: Protocol::Tcp,
            ports: 10,
            used: 10,
            users: vec![PortUser {
                process: key(9),
                ended: true,
                sockets: 2,
                time_wait: 7,
                cookie: Cookie(1),
                address: "127.0.0.1".parse().unwrap(),
                port: 40_000,
                state: Some(TcpState::Listen),
            }],
            rest: Rest { sockets: 0, time_wait: 1 },
        }),
        Body::PortUse(PortUse {
            asked_by: Seq(3),
            netns: Inum(1),
            protocol: Protocol::Udp,
            ports: 10,
            used: 0,
            users: vec![],
            rest: Rest::default(),
        }),
        Body::Lost(Lost { counts: BTreeMap::from([(comm.clone(), 3), ("close".to_owned(), u64::MAX)]) }),
        Body::Limit(Limit { bound: comm.clone(), value: 5, unit: "bytes".to_owned() }),
        Body::Omitted(Omitted {
            events: u64::MAX,
            binds: 2,
            binds_failed: 1,
            since: BootTime(3),
            until: BootTime(4),
        }),
        Body::Job(Job {
            phase: JobPhase::End,
            process: Some(key(1)),
            status: Some(-1),
            left: vec![key(2)],
            ..job.clone()
        }),
        Body::Job(job),
        Body::CgroupRemoved(CgroupRemoved { id: u64::MAX, path: comm.clone() }),
        Body::Note(Note { text: comm, process: key(1) }),
    ];
    bodies.extend(settings.map(|setting| Body::Option(OptionSet { cookie: Cookie(1), setting })));
    bodies.push(Body::Process(forked));
    bodies
}

/// All of [`bodies`] as the events of a log.
pub(crate) fn events(text: &str) -> Vec<Event> {
    let numbered = bodies(text).into_iter().zip(1..);
    let at = |seq: u64| BootTime(2_000_000_000 + seq * 10_000_000);
    numbered.map(|(body, seq)| Event { seq: Seq(seq), at: at(seq), hook: Hook::PostBind4, body }).collect()
}
