#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

/// The kinds that describe a call on a socket.
const CALLS: [u32; 7] = [
    kind::BIND,
    kind::BIND_FAILED,
    kind::BIND_UNRESOLVED,
    kind::LISTEN,
    kind::LISTEN_FAILED,
    kind::CONNECT_FAILED,
    kind::CHANGED,
];

/// Writes integers where a layout has them.
macro_rules! put {
    ($bytes:ident, $layout:ty, { $($($path:ident).+ = $value:expr;)* }) => {
        $({
            let value = ($value).to_ne_bytes();
            let at = offset_of!($layout, $($path).+);
            $bytes[at..at + value.len()].copy_from_slice(&value);
        })*
    };
}

/// Writes bytes where a layout has a field of bytes.
macro_rules! put_bytes {
    ($bytes:ident, $layout:ty, $($path:ident).+ = $value:expr) => {
        let value: &[u8] = $value;
        let at = offset_of!($layout, $($path).+);
        $bytes[at..at + value.len()].copy_from_slice(value);
    };
}

fn blank<T>(kind: u32, hook: u32) -> Vec<u8> {
    let mut bytes = vec![0; size_of::<T>()];
    put!(bytes, abi::Head, {
        kind = kind;
        hook = hook;
        at = 77_000_000_123_u64;
    });
    bytes
}

/// A call on a TCP socket at 127.0.0.2:8080, every field different from its neighbours.
fn call_of(kind: u32) -> Vec<u8> {
    let mut bytes = blank::<abi::Sock>(kind, hook::POST_BIND4);
    put!(bytes, abi::Sock, {
        task.start = 8_802_139_999_999_u64;
        task.cgroup = 0x1_0000_0042_u64;
        task.tgid = 4711_u32;
        task.tid = 4712_u32;
        task.uid = 1001_u32;
        cookie = 0xdead_beef_0123_u64;
        netns_cookie = 4096_u64;
        netns = 4_026_531_840_u32;
        uid = 1002_u32;
        device = 3_u32;
        errno = 98_u32;
        port = 8080_u16;
        requested_port = 80_u16;
        options = option::REUSEADDR | option::V6ONLY;
        family = 2_u16;
        protocol = 6_u16;
        state = 7_u8;
        door = door::IO_URING;
    });
    put_bytes!(bytes, abi::Sock, task.comm = b"server");
    put_bytes!(bytes, abi::Sock, address = &[127, 0, 0, 2]);
    bytes
}

fn expected_call() -> Call {
    Call {
        task: Task {
            process: ProcessKey { tgid: 4711, start: 880_213 },
            tid: Tid(4712),
            comm: "server".to_owned(),
            uid: Uid(1001),
            cgroup: 0x1_0000_0042,
        },
        socket: SocketFacts {
            cookie: Cookie(0xdead_beef_0123),
            netns: Inum(4_026_531_840),
            netns_cookie: NetnsCookie(4096),
            family: Family::Inet,
            protocol: Protocol::Tcp,
            address: Ipv4Addr::new(127, 0, 0, 2).into(),
            port: 8080,
            options: Options { reuse_addr: true, reuse_port: false, v6_only: true, device: Ifindex(3) },
            uid: Uid(1002),
        },
        requested_port: 80,
        errno: Errno(98),
        door: Door::IoUring,
    }
}

fn small_of(kind: u32) -> Vec<u8> {
    let mut bytes = blank::<abi::Small>(kind, hook::SOCK_RELEASE);
    put!(bytes, abi::Small, {
        cookie = 9001_u64;
        tgid = 11_u32;
        netns = 12_u32;
        backlog = 13_u32;
        port = 14_u16;
        protocol = 6_u16;
        state = 10_u8;
    });
    bytes
}

fn option_of() -> Vec<u8> {
    let mut bytes = blank::<abi::SetOption>(kind::OPTION, hook::SETSOCKOPT);
    put!(bytes, abi::SetOption, {
        cookie = 9002_u64;
        tgid = 11_u32;
        level = 1_i32;
        name = 15_i32;
        value = -2_i32;
    });
    bytes
}

fn fork_of() -> Vec<u8> {
    let mut bytes = blank::<abi::Fork>(kind::FORK, hook::SCHED_PROCESS_FORK);
    put!(bytes, abi::Fork, {
        parent_start = 10_000_000_u64;
        child_start = 29_999_999_u64;
        parent_tgid = 100_u32;
        child_tgid = 101_u32;
        session = 99_u32;
    });
    bytes
}

/// An exec whose argument area is `area`, of which `len` bytes count and of which there were `total`.
fn exec_of(area: &[u8], len: u32, total: u32) -> Vec<u8> {
    let mut bytes = blank::<abi::Exec>(kind::EXEC, hook::SCHED_PROCESS_EXEC);
    put!(bytes, abi::Exec, {
        task.start = 29_999_999_u64;
        task.cgroup = 5_u64;
        task.tgid = 101_u32;
        task.tid = 102_u32;
        task.uid = 1000_u32;
        parent_start = 10_000_000_u64;
        parent_tgid = 100_u32;
        session = 99_u32;
        args_total = total;
        args_len = len;
    });
    put_bytes!(bytes, abi::Exec, task.comm = b"0123456789abcdef");
    put_bytes!(bytes, abi::Exec, filename = b"/srv/run\0junk");
    put_bytes!(bytes, abi::Exec, interp = b"/bin/sh\0");
    bytes.extend_from_slice(area);
    bytes
}

fn exit_of() -> Vec<u8> {
    let mut bytes = blank::<abi::Exit>(kind::EXIT, hook::SCHED_PROCESS_EXIT);
    put!(bytes, abi::Exit, {
        start = 30_000_000_u64;
        tgid = 55_u32;
    });
    bytes
}

fn signal_of(sender: u32) -> Vec<u8> {
    let mut bytes = blank::<abi::Signal>(kind::SIGNAL, hook::SIGNAL_GENERATE);
    put!(bytes, abi::Signal, {
        target_start = 10_000_000_u64;
        sender_start = 20_000_000_u64;
        target_tgid = 1_u32;
        sender_tgid = sender;
        signal = 15_u32;
    });
    bytes
}

fn cgroup_of(path: &[u8]) -> Vec<u8> {
    let mut bytes = blank::<abi::Cgroup>(kind::CGROUP, hook::CGROUP_MKDIR);
    put!(bytes, abi::Cgroup, {
        id = 0x2_0000_0001_u64;
    });
    put_bytes!(bytes, abi::Cgroup, path = path);
    bytes
}

/// One record of every kind.
fn every_kind() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = CALLS.map(call_of).into();
    all.extend([kind::UNLISTEN, kind::CLOSE, kind::DESTROY].map(small_of));
    let mut removed = cgroup_of(b"/x");
    put!(removed, abi::Head, {
        kind = kind::CGROUP_REMOVED;
        hook = hook::CGROUP_RMDIR;
    });
    all.push(removed);
    all.extend([option_of(), fork_of(), exec_of(b"a\0b\0", 4, 4), exit_of(), signal_of(7), cgroup_of(b"/x")]);
    all
}

fn record(bytes: &[u8]) -> Record {
    decode(bytes).unwrap().record
}

#[test]
fn heads() {
    let read = decode(&exit_of()).unwrap();
    assert_eq!((read.at, read.hook), (BootTime(77_000_000_123), Hook::SchedProcessExit));
    assert!(!read.after_loss);
    let mut marked = exit_of();
    put!(marked, abi::Head, {
        hook = hook::SCHED_PROCESS_EXIT | hook::AFTER_LOSS;
    });
    assert_eq!(decode(&marked).unwrap(), Stamped { after_loss: true, ..read });
    let hooks: Vec<Hook> =
        (hook::BIND4..=hook::UDP_DISCONNECT).map(|number| hook_of(number).unwrap()).collect();
    let mut different = hooks.clone();
    different.sort_unstable();
    different.dedup();
    assert_eq!(different.len(), hooks.len());
    assert_eq!((hooks[0], hooks[17], hooks[27]), (Hook::Bind4, Hook::CgroupRmdir, Hook::UdpDisconnect));
}

#[test]
fn calls() {
    let call = expected_call;
    let expected = [
        Record::Bind(call()),
        Record::BindFailed(call()),
        Record::Unresolved(call()),
        Record::Listen(call()),
        Record::ListenFailed(call()),
        Record::ConnectFailed(call()),
        Record::Changed(call(), TcpState::Close),
    ];
    for (kind, expected) in CALLS.into_iter().zip(expected) {
        assert_eq!(record(&call_of(kind)), expected);
    }
}

#[test]
fn changes_of_sockets() {
    let small = || Small {
        cookie: Cookie(9001),
        state: TcpState::Listen,
        backlog: 13,
        tgid: 11,
        netns: Inum(12),
        port: 14,
    };
    assert_eq!(record(&small_of(kind::UNLISTEN)), Record::Unlisten(small()));
    assert_eq!(record(&small_of(kind::CLOSE)), Record::Close(small()));
    assert_eq!(record(&small_of(kind::DESTROY)), Record::Destroy(small()));
    let option = SetOption { cookie: Cookie(9002), level: 1, name: 15, value: Some(-2) };
    assert_eq!(record(&option_of()), Record::Option(option.clone()));
    // Which is in the program's memory.
    let mut unread = option_of();
    put!(unread, abi::SetOption, {
        head.hook = hook::SOCKET_SETSOCKOPT;
    });
    assert_eq!(record(&unread), Record::Option(SetOption { value: None, ..option }));
}

#[test]
fn processes() {
    let (parent, child) = (ProcessKey { tgid: 100, start: 1 }, ProcessKey { tgid: 101, start: 2 });
    assert_eq!(record(&fork_of()), Record::Fork(Fork { parent, child, session: 99 }));
    let task = Task {
        process: child,
        tid: Tid(102),
        // As long as the kernel's field: no NUL ends it.
        comm: "0123456789abcdef".to_owned(),
        uid: Uid(1000),
        cgroup: 5,
    };
    let exec = Exec {
        task,
        parent,
        session: 99,
        filename: "/srv/run".to_owned(),
        interp: "/bin/sh".to_owned(),
        args: vec!["sh".to_owned(), "/srv/run".to_owned()],
        args_cut: false,
    };
    // Args lie in a field that is larger than they are.
    assert_eq!(record(&exec_of(b"sh\0/srv/run\0\0\0\0old\0", 12, 12)), Record::Exec(Box::new(exec)));
    assert_eq!(record(&exit_of()), Record::Exit(ProcessKey { tgid: 55, start: 3 }));
    let target = ProcessKey { tgid: 1, start: 1 };
    let sender = Some(ProcessKey { tgid: 7, start: 2 });
    assert_eq!(record(&signal_of(7)), Record::Signal { target, sender, signal: 15 });
    assert_eq!(record(&signal_of(0)), Record::Signal { target, sender: None, signal: 15 });
    let cgroup = Record::Cgroup { id: 0x2_0000_0001, path: "/a/b".to_owned() };
    assert_eq!(record(&cgroup_of(b"/a/b\0c")), cgroup);
    let mut removed = cgroup_of(b"/a/b");
    put!(removed, abi::Head, {
        kind = kind::CGROUP_REMOVED;
    });
    assert_eq!(record(&removed), Record::CgroupRemoved { id: 0x2_0000_0001, path: "/a/b".to_owned() });
}

#[test]
fn every_length_is_told_or_read() {
    for bytes in every_kind() {
        assert!(decode(&bytes).is_ok());
        let is_exec = matches!(record(&bytes), Record::Exec(_));
        let whole = if is_exec { size_of::<abi::Exec>() } else { bytes.len() };
        for len in 0..whole {
            let want = if len < size_of::<abi::Head>() { size_of::<abi::Head>() } else { whole };
            assert_eq!(decode(&bytes[..len]), Err(DecodeError::Length { have: len, want }));
        }
        for len in whole..bytes.len() {
            assert!(decode(&bytes[..len]).is_ok());
        }
    }
}

#[test]
fn unknown_numbers() {
    for unknown in [0, kind::CGROUP_REMOVED + 1, u32::MAX] {
        assert_eq!(decode(&blank::<abi::Sock>(unknown, hook::BIND4)), Err(DecodeError::Kind(unknown)));
    }
    for unknown in [0, hook::SOCKET_SETSOCKOPT + 1, u32::MAX] {
        assert_eq!(decode(&blank::<abi::Exit>(kind::EXIT, unknown)), Err(DecodeError::Hook(unknown)));
    }
    for kind in CALLS {
        for unknown in [0, 1, 16, u16::MAX] {
            let mut bytes = call_of(kind);
            put!(bytes, abi::Sock, {
                family = unknown;
            });
            assert_eq!(decode(&bytes), Err(DecodeError::Family(unknown)));
        }
        for unknown in [3, u8::MAX] {
            let mut bytes = call_of(kind);
            put!(bytes, abi::Sock, {
                door = unknown;
            });
            assert_eq!(decode(&bytes), Err(DecodeError::Door(unknown)));
        }
    }
    for kind in [kind::UNLISTEN, kind::CLOSE, kind::DESTROY] {
        for unknown in [0, 14, u8::MAX] {
            let mut bytes = small_of(kind);
            put!(bytes, abi::Small, {
                state = unknown;
            });
            assert_eq!(decode(&bytes), Err(DecodeError::State(unknown)));
        }
    }
}

#[test]
fn states_by_the_kernels_numbers() {
    use TcpState::*;
    let expected = [
        Established,
        SynSent,
        SynRecv,
        FinWait1,
        FinWait2,
        TimeWait,
        Close,
        CloseWait,
        LastAck,
        Listen,
        Closing,
        SynRecv,
        Close,
    ];
    let read: Vec<TcpState> = (1..=13).map(|number| tcp_state(number).unwrap()).collect();
    assert_eq!(read, expected);
}

#[test]
fn protocols() {
    for (number, expected) in [
        (6_u16, Some(Protocol::Tcp)),
        (262, Some(Protocol::Tcp)),
        (17, Some(Protocol::Udp)),
        (136, Some(Protocol::Udplite)),
        // ICMP, SCTP, raw, and the low byte of MPTCP's number.
        (1, None),
        (132, None),
        (255, None),
        (0, None),
    ] {
        let mut bytes = call_of(kind::BIND);
        put!(bytes, abi::Sock, {
            protocol = number;
        });
        match (record(&bytes), expected) {
            (Record::Bind(call), Some(expected)) => assert_eq!(call.socket.protocol, expected),
            (read, expected) => assert_eq!((read, expected), (Record::Foreign, None), "protocol {number}"),
        }
    }
}

#[test]
fn addresses_stay_as_they_are() {
    let v6 = |address: Ipv6Addr| {
        let mut bytes = call_of(kind::BIND);
        put!(bytes, abi::Sock, {
            family = 10_u16;
        });
        put_bytes!(bytes, abi::Sock, address = &address.octets());
        match record(&bytes) {
            Record::Bind(call) => (call.socket.family, call.socket.address),
            _ => (Family::Inet, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        }
    };
    for address in [Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST, Ipv4Addr::LOCALHOST.to_ipv6_mapped()] {
        assert_eq!(v6(address), (Family::Inet6, IpAddr::V6(address)));
    }
    // What lies behind the four bytes of an IPv4 address is not part of it.
    let mut bytes = call_of(kind::BIND);
    put_bytes!(bytes, abi::Sock, address = &[10, 1, 2, 3, 9, 9, 9, 9]);
    let Record::Bind(call) = record(&bytes) else { unreachable!("{bytes:?}") };
    assert_eq!(call.socket.address, IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3)));
}

#[test]
fn text_that_is_none() {
    let mut bytes = call_of(kind::BIND);
    put_bytes!(bytes, abi::Sock, task.comm = b"a\xff\x1b[2J\0rest");
    let Record::Bind(call) = record(&bytes) else { unreachable!("{bytes:?}") };
    assert_eq!(call.task.comm, "a\u{fffd}\u{1b}[2J");

    let whole = [b'p'; bindwatch_probe::abi::PATH_MAX];
    let Record::Cgroup { path, .. } = record(&cgroup_of(&whole)) else { unreachable!() };
    assert_eq!(path.as_bytes(), whole);

    let mut bytes = exec_of(b"", 0, 0);
    put_bytes!(bytes, abi::Exec, filename = &[0xc3; bindwatch_probe::abi::PATH_MAX]);
    let Record::Exec(exec) = record(&bytes) else { unreachable!() };
    // The last field before it, and the next, are not run into.
    assert_eq!(exec.filename, "\u{fffd}".repeat(bindwatch_probe::abi::PATH_MAX));
    assert_eq!(exec.interp, "/bin/sh");
}

#[test]
fn arguments() {
    let read = |area: &[u8], len: u32, total: u32| {
        let Record::Exec(exec) = record(&exec_of(area, len, total)) else { unreachable!() };
        (exec.args, exec.args_cut)
    };
    let many = "x\0".repeat(2048);
    assert_eq!(read(many.as_bytes(), 4096, 4096), (vec!["x".to_owned(); 2048], false));
    for (area, len, total, args, cut) in [
        (&b""[..], 0, 0, &[][..], false),
        (b"\0\0\0\0", 0, 0, &[], false),
        (b"a\0\0c\0", 5, 5, &["a", "", "c"], false),
        (b"a\0\0", 3, 3, &["a", ""], false),
        // Not ended by a NUL: overwritten for ps, or cut in an argument.
        (b"one title", 9, 9, &["one title"], false),
        (b"a\0long", 6, 9000, &["a", "long"], true),
        (b"\xff\0", 2, 2, &["\u{fffd}"], false),
        // More is claimed than is here.
        (b"a\0b\0", 4000, 4000, &["a", "b"], true),
        (b"a\0b\0", u32::MAX, u32::MAX, &["a", "b"], true),
        // A list that was cut before its first byte.
        (b"", 0, 10, &[], true),
    ] {
        assert_eq!(
            read(area, len, total),
            (args.iter().map(|arg| (*arg).to_owned()).collect(), cut),
            "{area:?}"
        );
    }
}

/// A descriptor of a UDP socket at [::1]:53.
fn row_of(family: u16, cookie: u64) -> Vec<u8> {
    let mut bytes = vec![0; size_of::<abi::FileRow>()];
    put!(bytes, abi::FileRow, {
        start = 19_999_999_u64;
        cookie = cookie;
        netns_cookie = 3_u64;
        inode = 4_u64;
        tgid = 5_u32;
        fd = 6_u32;
        netns = 7_u32;
        uid = 8_u32;
        device = 9_u32;
        port = 53_u16;
        options = option::REUSEPORT;
        family = family;
        protocol = 17_u16;
        state = 7_u8;
    });
    put_bytes!(bytes, abi::FileRow, address = &Ipv6Addr::LOCALHOST.octets());
    bytes
}

#[test]
fn listings_of_descriptors() {
    let expected = FileRow {
        process: ProcessKey { tgid: 5, start: 1 },
        cookie: Some(Cookie(2)),
        inode: 4,
        netns: Inum(7),
        netns_cookie: NetnsCookie(3),
        family: Family::Inet6,
        protocol: 17,
        address: Ipv6Addr::LOCALHOST.into(),
        port: 53,
        options: Options { reuse_port: true, device: Ifindex(9), ..Options::default() },
        uid: Uid(8),
        state: 7,
    };
    // AF_UNIX is of no interest; a cookie of 0 is none.
    let listing = [row_of(10, 2), row_of(1, 2), row_of(10, 0)].concat();
    let anonymous = FileRow { cookie: None, ..expected };
    assert_eq!(file_rows(&listing), [expected.clone(), anonymous]);
    for torn in 0..size_of::<abi::FileRow>() {
        let listing = [&row_of(10, 2)[..], &row_of(10, 2)[..torn]].concat();
        assert_eq!(file_rows(&listing), std::slice::from_ref(&expected));
    }
    assert_eq!(file_rows(&[]), []);
}

#[test]
fn offsets_as_words() {
    let mut offsets = Offsets::NONE;
    offsets.task_tgid = 1;
    offsets.tcp_is_mptcp.mask = 2;
    let words = offset_words(&offsets);
    assert_eq!((words[0], words[1], words[words.len() - 1]), (1, u32::MAX, 2));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1200)) {
        let _ = decode(&bytes);
        let _ = (file_rows(&bytes), unfinished(&bytes));
        let _ = split_args(&bytes);
    }

    /// Most arbitrary bytes end at their head: these get past it.
    #[test]
    fn arbitrary_bodies_never_panic(
        kind in kind::BIND..=kind::CGROUP_REMOVED,
        hook in hook::BIND4..=hook::CGROUP_RMDIR,
        body in proptest::collection::vec(any::<u8>(), 0..1200),
    ) {
        let mut bytes = vec![0; size_of::<abi::Head>()];
        put!(bytes, abi::Head, { kind = kind; hook = hook; });
        bytes.extend(body);
        match decode(&bytes) {
            Ok(_) | Err(DecodeError::Length { .. } | DecodeError::Family(_) | DecodeError::State(_) | DecodeError::Door(_)) => {}
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    /// A record is read, or refused, for its own bytes: what follows it does not matter.
    #[test]
    fn what_follows_a_record_does_not_matter(
        at in 0_usize..16,
        tail in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let bytes = every_kind().swap_remove(at);
        let longer = [&bytes[..], &tail].concat();
        prop_assert_eq!(decode(&longer), decode(&bytes));
    }
}
