//! Against this machine's kernel: every row is compared with what the socket itself says.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use super::*;
use crate::event::{Ifindex, Uid};
use crate::proc::Proc;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const MAPPED: IpAddr = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());
const ANY4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// A socket bound to a port the kernel chose.
fn bound(address: IpAddr, protocol: Protocol, v6_only: Option<bool>) -> OwnedFd {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let (kind, protocol) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Udplite => (SocketType::DGRAM, ipproto::UDPLITE),
    };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(protocol)).unwrap();
    if let Some(v6_only) = v6_only {
        sockopt::set_ipv6_v6only(&socket, v6_only).unwrap();
    }
    rustix::net::bind(&socket, &SocketAddr::new(address, 0)).unwrap();
    socket
}

fn listening(address: IpAddr, v6_only: Option<bool>) -> OwnedFd {
    let socket = bound(address, Protocol::Tcp, v6_only);
    rustix::net::listen(&socket, 8).unwrap();
    socket
}

fn local(socket: &impl AsFd) -> SocketAddr {
    rustix::net::getsockname(socket).unwrap().try_into().unwrap()
}

fn cookie(socket: &impl AsFd) -> Cookie {
    Cookie(sockopt::socket_cookie(socket).unwrap())
}

fn inode(socket: &impl AsFd) -> u32 {
    u32::try_from(rustix::fs::fstat(socket).unwrap().st_ino).unwrap()
}

fn me() -> ProcessKey {
    Proc::open().unwrap().key(std::process::id()).unwrap()
}

fn uid() -> Uid {
    Uid(nix::unistd::geteuid().as_raw())
}

fn find(inventory: &Inventory, wanted: Cookie) -> &InventorySocket {
    let mut rows = inventory.sockets.iter().filter(|socket| socket.socket.cookie == wanted);
    let row = rows.next().unwrap_or_else(|| panic!("no row has cookie {}", wanted.0));
    assert!(rows.next().is_none(), "cookie {} has two rows", wanted.0);
    row
}

#[test]
fn each_kind_of_socket_is_listed_as_it_is() {
    use TcpState::{Close, Listen};
    let mut cases = vec![
        (listening(V4, None), Protocol::Tcp, Listen, V4),
        (listening(V6, None), Protocol::Tcp, Listen, V6),
        (listening(V6, Some(true)), Protocol::Tcp, Listen, V6),
        (listening(MAPPED, None), Protocol::Tcp, Listen, MAPPED),
        (listening(ANY4, None), Protocol::Tcp, Listen, ANY4),
        (listening(ANY6, Some(false)), Protocol::Tcp, Listen, ANY6),
        (listening(ANY6, Some(true)), Protocol::Tcp, Listen, ANY6),
        (bound(V4, Protocol::Tcp, None), Protocol::Tcp, Close, V4),
        (bound(ANY6, Protocol::Tcp, Some(true)), Protocol::Tcp, Close, ANY6),
        (bound(V4, Protocol::Udp, None), Protocol::Udp, Close, V4),
        (bound(ANY6, Protocol::Udp, Some(false)), Protocol::Udp, Close, ANY6),
    ];
    if has_udplite() {
        cases.push((bound(V4, Protocol::Udplite, None), Protocol::Udplite, Close, V4));
    }
    let mut tables = Tables::open().unwrap();
    let inventory = tables.inventory(States::LISTEN.and(States::BOUND), Scope::Own).unwrap();
    for (socket, protocol, state, address) in &cases {
        let port = local(socket).port();
        // Binding to one IPv6 address sets the option.
        let v6_only = address.is_ipv6() && sockopt::ipv6_v6only(socket).unwrap();
        let expected = InventorySocket {
            socket: SocketFacts {
                cookie: cookie(socket),
                netns: tables.own_netns(),
                netns_cookie: crate::event::NetnsCookie::default(),
                family: if address.is_ipv4() { Family::Inet } else { Family::Inet6 },
                protocol: *protocol,
                address: *address,
                port,
                options: crate::event::Options { v6_only, ..crate::event::Options::default() },
                uid: uid(),
            },
            reuse_known: false,
            state: *state,
            peer: None,
            inode: inode(socket),
            mptcp: None,
            queued: 0,
            expires_ms: None,
            holders: vec![me()],
        };
        assert_eq!(find(&inventory, cookie(socket)), &expected);
        let rows = tables.on_port(tables.own_netns(), *protocol, port).unwrap();
        assert!(rows.iter().any(|row| row.socket == expected.socket && row.state == *state), "{rows:?}");
    }
    assert!(inventory.sockets.iter().all(|s| !matches!(s.state, TcpState::TimeWait)));
}

/// UDP-Lite left Linux with 7.x.
fn has_udplite() -> bool {
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, Some(ipproto::UDPLITE)).is_ok()
}

#[test]
fn connections_and_what_remains_of_them() {
    let listener = TcpListener::bind((V4, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = TcpStream::connect((V4, port)).unwrap();
    let waiting = TcpStream::connect((V4, port)).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let (client_at, client_cookie) = (client.local_addr().unwrap(), cookie(&client));
    let mut tables = Tables::open().unwrap();

    let inventory = tables.inventory(States::ALL, Scope::Own).unwrap();
    let row = find(&inventory, cookie(&accepted));
    assert_eq!((row.state, row.peer), (TcpState::Established, Some(client_at)));
    assert_eq!((row.socket.port, row.holders.as_slice()), (port, &[me()][..]));
    let row = find(&inventory, client_cookie);
    assert_eq!(row.peer, Some(SocketAddr::new(V4, port)));
    assert_eq!(find(&inventory, cookie(&listener)).queued, 1, "one connection was not accepted");

    // Who closes first keeps the addresses.
    drop(client);
    let mut end = [0; 1];
    assert_eq!(std::io::Read::read(&mut &accepted, &mut end).unwrap(), 0, "the client's FIN is here");
    let row = until_row(&mut tables, client_at.port(), |row| row.socket.cookie == client_cookie);
    // Which of the two depends on whether the acknowledgement was delayed.
    assert!(matches!(row.state, TcpState::FinWait1 | TcpState::FinWait2), "{:?}", row.state);
    assert_eq!((row.inode, row.peer), (0, Some(SocketAddr::new(V4, port))));
    drop(accepted);
    let row = until_row(&mut tables, client_at.port(), |row| row.state == TcpState::TimeWait);
    assert_eq!(row.socket.cookie, client_cookie, "it keeps the cookie of the socket it was");
    assert_eq!((row.socket.address, row.socket.port, row.inode), (V4, client_at.port(), 0));
    assert!(row.expires_ms.is_some_and(|ms| (1..=60_000).contains(&ms)), "{:?}", row.expires_ms);
    let inventory = tables.inventory(States::TIME_WAIT, Scope::Own).unwrap();
    let row = find(&inventory, client_cookie);
    assert!(row.holders.is_empty() && !row.ownerless());
    assert!(inventory.sockets.iter().all(|s| s.state == TcpState::TimeWait));
    drop(waiting);
}

/// The last answers of a connection pass through the loopback's softirq: asked again until they have. With the acknowledgement of
/// its FIN a socket that nobody has is exchanged for a smaller one, and for that moment neither is in the table.
fn until_row(tables: &mut Tables, port: u16, is_it: impl Fn(&Row) -> bool) -> Row {
    for _ in 0..1000 {
        let rows = tables.on_port(tables.own_netns(), Protocol::Tcp, port).unwrap();
        if let Some(row) = rows.into_iter().find(&is_it) {
            return row;
        }
        std::thread::yield_now();
    }
    panic!("not among the sockets on port {port}");
}

#[test]
fn a_port_is_asked_for_by_number_and_protocol() {
    let udp = UdpSocket::bind((V4, 0)).unwrap();
    let port = udp.local_addr().unwrap().port();
    let mut tables = Tables::open().unwrap();
    let own = tables.own_netns();
    let rows = tables.on_port(own, Protocol::Udp, port).unwrap();
    assert_eq!(rows.iter().filter(|row| row.socket.cookie == cookie(&udp)).count(), 1);
    assert!(rows.iter().all(|row| row.socket.port == port && row.socket.protocol == Protocol::Udp));
    assert!(
        !tables
            .on_port(own, Protocol::Tcp, port)
            .unwrap()
            .iter()
            .any(|row| row.socket.cookie == cookie(&udp))
    );
    udp.connect((V4, 9)).unwrap();
    let rows = tables.on_port(own, Protocol::Udp, port).unwrap();
    let row = rows.iter().find(|row| row.socket.cookie == cookie(&udp)).unwrap();
    assert_eq!((row.state, row.peer), (TcpState::Established, Some(SocketAddr::new(V4, 9))));
}

#[test]
fn a_device_is_part_of_a_row() {
    let socket = bound(ANY4, Protocol::Udp, None);
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::BindToDevice, &"lo".into()).unwrap();
    let inventory = Tables::open().unwrap().inventory(States::BOUND, Scope::Own).unwrap();
    assert_eq!(find(&inventory, cookie(&socket)).socket.options.device, Ifindex(1));
}

#[test]
fn mptcp_is_one_socket() {
    let flags = SocketFlags::CLOEXEC;
    let Ok(socket) =
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, Some(ipproto::MPTCP))
    else {
        // Not built into every kernel, and can be switched off (net.mptcp.enabled).
        return;
    };
    rustix::net::bind(&socket, &SocketAddr::new(V4, 0)).unwrap();
    rustix::net::listen(&socket, 8).unwrap();
    let inventory = Tables::open().unwrap().inventory(States::LISTEN, Scope::Own).unwrap();
    let mut rows = inventory.sockets.iter().filter(|row| row.inode == inode(&socket));
    let row = rows.next().expect("it is listed");
    assert!(rows.next().is_none());
    assert_eq!((row.mptcp, row.socket.protocol), (Some(cookie(&socket)), Protocol::Tcp));
    assert_ne!(row.socket.cookie, cookie(&socket), "the port is the subflow's");
    assert_eq!(row.holders, [me()]);
}

#[test]
fn every_holder_and_descriptor_of_a_socket() {
    let socket = bound(V4, Protocol::Udp, None);
    let second = rustix::io::fcntl_dupfd_cloexec(&socket, 0).unwrap();
    // The child has it as its standard output.
    let mut child =
        Command::new("/bin/cat").stdin(Stdio::piped()).stdout(socket.try_clone().unwrap()).spawn().unwrap();
    let childs = Proc::open().unwrap().key(child.id()).unwrap();
    let held = Holdings::scan(Some(&[inode(&socket)])).unwrap();
    let mut expected: Vec<Held> = [socket.as_raw_fd(), second.as_raw_fd()]
        .map(|fd| Held { inode: inode(&socket), process: me(), fd: u32::try_from(fd).unwrap() })
        .into();
    expected.push(Held { inode: inode(&socket), process: childs, fd: 1 });
    expected.sort_unstable();
    // The clone for the child may still be open here: only what must be there is compared.
    let found: Vec<Held> = held.of(inode(&socket)).to_vec();
    assert!(expected.iter().all(|one| found.contains(one)), "{found:?} has not all of {expected:?}");
    assert_eq!(
        held.processes(inode(&socket)),
        Vec::from_iter(std::collections::BTreeSet::from([me(), childs]))
    );
    assert!(held.of(0).is_empty());
    let other = bound(V4, Protocol::Udp, None);
    assert!(held.of(inode(&other)).is_empty(), "only what was wanted is kept");
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[test]
fn another_network_namespace() {
    assert!(nix::unistd::geteuid().is_root(), "this test makes a network namespace: run it as root");
    // A thread leaves for a new namespace and starts a child there; the socket is this process's.
    let (socket, mut child, netns) = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let socket = listening(ANY4, None);
        let child = Command::new("/bin/cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let link = std::fs::read_link(format!("/proc/{}/ns/net", child.id())).unwrap();
        let digits: String = link.to_str().unwrap().chars().filter(char::is_ascii_digit).collect();
        (socket, child, Inum(digits.parse().unwrap()))
    })
    .join()
    .unwrap();
    let mut tables = Tables::open().unwrap();
    assert_ne!(netns, tables.own_netns());
    let port = local(&socket).port();

    let own = tables.inventory(States::LISTEN, Scope::Own).unwrap();
    assert!(own.sockets.iter().all(|row| row.socket.cookie != cookie(&socket)));
    let every = tables.inventory(States::LISTEN, Scope::Every).unwrap();
    let row = find(&every, cookie(&socket));
    assert_eq!((row.socket.netns, row.socket.port, row.holders.as_slice()), (netns, port, &[me()][..]));
    let rows = tables.on_port(netns, Protocol::Tcp, port).unwrap();
    assert_eq!(rows.iter().map(|row| row.socket.cookie).collect::<Vec<_>>(), [cookie(&socket)]);
    // This thread is where it was.
    assert_eq!(Tables::open().unwrap().own_netns(), tables.own_netns());

    drop(child.stdin.take());
    child.wait().unwrap();
    match tables.on_port(netns, Protocol::Tcp, port) {
        Err(TablesError::Netns(NetnsError::Gone(gone))) => assert_eq!(gone, netns),
        other => panic!("nothing shows the namespace any more, yet {other:?}"),
    }
}
