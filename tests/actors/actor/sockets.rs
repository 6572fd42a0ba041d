//! What an actor does with sockets.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{BindToDevice, IpBindAddressNoPort};
use nix::unistd::Uid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Protocol, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType,
    accept_with, bind, connect, connect_unspec, getsockname, ipproto, listen, recvmsg, sendmsg_addr, sendto,
    shutdown, socket_with, sockopt,
};

use crate::bare::to_ifindex;
use crate::{Actor, Failure};

/// Connections that may wait to be accepted.
pub(crate) const BACKLOG: i32 = 128;

impl Actor {
    pub(crate) fn keep(&mut self, socket: OwnedFd) -> u64 {
        let id = self.sockets.last_key_value().map_or(1, |(last, _)| last + 1);
        self.sockets.insert(id, socket);
        id
    }

    pub(crate) fn get(&self, id: u64) -> Result<&OwnedFd, Failure> {
        self.sockets.get(&id).ok_or(Failure::Usage)
    }

    pub(crate) fn bind(&mut self, protocol: &str, address: &str, flags: &[&str]) -> Result<String, Failure> {
        let socket = bound(protocol, address, flags)?;
        self.told(socket)
    }

    pub(crate) fn threads(
        &mut self,
        count: u64,
        protocol: &str,
        address: &str,
        flags: &[&str],
    ) -> Result<String, Failure> {
        let sockets: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..count).map(|_| scope.spawn(|| bound(protocol, address, flags))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or(Err(Failure::Usage))).collect()
        });
        let mut answer = String::new();
        for socket in sockets {
            answer = self.told(socket?)?;
        }
        Ok(answer)
    }

    pub(crate) fn socket(&mut self, protocol: &str, family: &str) -> Result<String, Failure> {
        let family = match family {
            "4" => AddressFamily::INET,
            "6" => AddressFamily::INET6,
            _ => return Err(Failure::Usage),
        };
        let socket = new(protocol, family)?;
        self.told(socket)
    }

    /// Keeps the socket and says what it is.
    pub(crate) fn told(&mut self, socket: OwnedFd) -> Result<String, Failure> {
        let port = port_of(&socket)?;
        let cookie = sockopt::socket_cookie(&socket)?;
        Ok(format!("id={} port={port} cookie={cookie}", self.keep(socket)))
    }

    pub(crate) fn listen(&mut self, id: u64) -> Result<String, Failure> {
        listen(self.get(id)?, BACKLOG)?;
        Ok(format!("port={}", port_of(self.get(id)?)?))
    }

    pub(crate) fn shutdown(&mut self, id: u64) -> Result<String, Failure> {
        shutdown(self.get(id)?, Shutdown::Both)?;
        Ok(String::new())
    }

    pub(crate) fn option(&mut self, id: u64, option: &str, value: &str) -> Result<String, Failure> {
        let socket = self.get(id)?;
        match option {
            "reuseaddr" => sockopt::set_socket_reuseaddr(socket, value == "1")?,
            "reuseport" => sockopt::set_socket_reuseport(socket, value == "1")?,
            "ifindex" => to_ifindex(socket, value.parse()?)?,
            _ => return Err(Failure::Usage),
        }
        Ok(String::new())
    }

    pub(crate) fn join(&mut self, id: u64, group: &str) -> Result<String, Failure> {
        let group: Ipv4Addr = group.parse().map_err(|_| Failure::Usage)?;
        sockopt::set_ip_add_membership(self.get(id)?, &group, &Ipv4Addr::LOCALHOST)?;
        Ok(String::new())
    }

    pub(crate) fn accept(&mut self, id: u64) -> Result<String, Failure> {
        let connection = accept_with(self.get(id)?, SocketFlags::CLOEXEC)?;
        Ok(format!("id={}", self.keep(connection)))
    }

    pub(crate) fn accept_now(&mut self, id: u64) -> Result<String, Failure> {
        rustix::io::ioctl_fionbio(self.get(id)?, true)?;
        let accepted = self.accept(id);
        rustix::io::ioctl_fionbio(self.get(id)?, false)?;
        accepted
    }

    pub(crate) fn connect_from(&self, id: u64, address: &str) -> Result<String, Failure> {
        let address: SocketAddr = address.parse().map_err(|_| Failure::Usage)?;
        connect(self.get(id)?, &address)?;
        Ok(String::new())
    }

    pub(crate) fn accept_all(&mut self, id: u64) -> Result<String, Failure> {
        let mut count = 0;
        loop {
            let socket = self.get(id)?;
            let mut waiting = [PollFd::new(socket, PollFlags::IN)];
            if poll(&mut waiting, Some(&Timespec::default()))? == 0 {
                return Ok(format!("count={count}"));
            }
            let connection = accept_with(socket, SocketFlags::CLOEXEC)?;
            self.keep(connection);
            count += 1;
        }
    }

    pub(crate) fn connect(&mut self, protocol: &str, address: &str) -> Result<String, Failure> {
        let address: SocketAddr = address.parse().map_err(|_| Failure::Usage)?;
        let socket = new(protocol, family_of(&address))?;
        connect(&socket, &address)?;
        let port = port_of(&socket)?;
        Ok(format!("id={} port={port}", self.keep(socket)))
    }

    pub(crate) fn reconnect(&mut self, id: u64, address: &str) -> Result<String, Failure> {
        let address: SocketAddr = address.parse().map_err(|_| Failure::Usage)?;
        connect(self.get(id)?, &address)?;
        Ok(format!("port={}", port_of(self.get(id)?)?))
    }

    pub(crate) fn disconnect(&mut self, id: u64) -> Result<String, Failure> {
        connect_unspec(self.get(id)?)?;
        Ok(format!("port={}", port_of(self.get(id)?)?))
    }

    pub(crate) fn send(&mut self, id: u64, address: &str) -> Result<String, Failure> {
        let address: SocketAddr = address.parse().map_err(|_| Failure::Usage)?;
        sendto(self.get(id)?, b"datagram", SendFlags::empty(), &address)?;
        Ok(format!("port={}", port_of(self.get(id)?)?))
    }

    pub(crate) fn port(&self, id: u64) -> Result<String, Failure> {
        Ok(format!("port={}", port_of(self.get(id)?)?))
    }

    pub(crate) fn rebind(&mut self, id: u64, address: &str) -> Result<String, Failure> {
        let address: SocketAddr = address.parse().map_err(|_| Failure::Usage)?;
        bind(self.get(id)?, &address)?;
        Ok(String::new())
    }

    /// SO_REUSEPORT with a value of one byte.
    pub(crate) fn short_option(&mut self, id: u64) -> Result<String, Failure> {
        crate::bare::set_short(self.get(id)?)?;
        Ok(String::new())
    }

    pub(crate) fn device(&mut self, id: u64, name: &str) -> Result<String, Failure> {
        let name = if name == "-" { std::ffi::OsString::new() } else { name.into() };
        setsockopt(self.get(id)?, BindToDevice, &name)?;
        Ok(String::new())
    }

    pub(crate) fn open_inbox(&mut self, name: &str) -> Result<String, Failure> {
        let inbox = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        bind(&inbox, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
        self.inbox = Some(inbox);
        Ok(String::new())
    }

    pub(crate) fn post(&mut self, id: u64, name: &str) -> Result<String, Failure> {
        let outbox = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        let descriptors = [std::os::fd::AsFd::as_fd(self.get(id)?)];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(Failure::Errno(Errno::NOMEM));
        }
        let to = SocketAddrUnix::new_abstract_name(name.as_bytes())?;
        sendmsg_addr(&outbox, &to, &[std::io::IoSlice::new(b"socket")], &mut control, SendFlags::empty())?;
        Ok(String::new())
    }

    pub(crate) fn unpost(&mut self) -> Result<String, Failure> {
        let inbox = self.inbox.as_ref().ok_or(Failure::Usage)?;
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut text = [0; 16];
        recvmsg(inbox, &mut [std::io::IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let socket = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let socket = socket.ok_or(Failure::Usage)?;
        self.told(socket)
    }
}

pub(crate) fn bound(protocol: &str, address: &str, flags: &[&str]) -> Result<OwnedFd, Failure> {
    let address: SocketAddr = address.parse().map_err(|_| Failure::Usage)?;
    let owner = flags.iter().find_map(|flag| flag.strip_prefix("uid=")).map(str::parse).transpose()?;
    // The kernel takes a socket's owner from the file system's user id at socket(2).
    let own = owner.map(|owner| nix::unistd::setfsuid(Uid::from_raw(owner)));
    let socket = new(protocol, family_of(&address));
    if let Some(own) = own {
        nix::unistd::setfsuid(own);
    }
    let socket = socket?;
    for flag in flags {
        if let Some(device) = flag.strip_prefix("dev=") {
            setsockopt(&socket, BindToDevice, &device.into())?;
            continue;
        }
        match *flag {
            _ if flag.starts_with("uid=") => {}
            "reuseaddr" => sockopt::set_socket_reuseaddr(&socket, true)?,
            "reuseport" => sockopt::set_socket_reuseport(&socket, true)?,
            "v6only" => sockopt::set_ipv6_v6only(&socket, true)?,
            "no-port" => setsockopt(&socket, IpBindAddressNoPort, &true)?,
            "listen" => {}
            _ => return Err(Failure::Usage),
        }
    }
    bind(&socket, &address)?;
    if flags.contains(&"listen") {
        listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

pub(crate) fn new(protocol: &str, family: AddressFamily) -> Result<OwnedFd, Failure> {
    let (kind, protocol) = kind_of(protocol)?;
    Ok(socket_with(family, kind, SocketFlags::CLOEXEC, protocol)?)
}

pub(crate) fn kind_of(protocol: &str) -> Result<(SocketType, Option<Protocol>), Failure> {
    let udplite = std::num::NonZeroU32::new(136).map(Protocol::from_raw);
    Ok(match protocol {
        "tcp" => (SocketType::STREAM, Some(ipproto::TCP)),
        "mptcp" => (SocketType::STREAM, Some(ipproto::MPTCP)),
        "udp" => (SocketType::DGRAM, Some(ipproto::UDP)),
        "udplite" => (SocketType::DGRAM, udplite),
        _ => return Err(Failure::Usage),
    })
}

pub(crate) fn family_of(address: &SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

pub(crate) fn port_of(socket: &OwnedFd) -> Result<u16, Failure> {
    let name: SocketAddrAny = getsockname(socket)?;
    let address: SocketAddr = name.try_into()?;
    Ok(address.port())
}

/// Binds sockets one after the other to one endpoint, each closed before the next: how many came to have it.
pub(crate) fn insist(count: u32, protocol: &str, address: &str, shares: bool) -> Result<String, Failure> {
    let address: SocketAddr = address.parse().map_err(|_| Failure::Usage)?;
    let (mut bound, mut refused) = (0_u32, 0_u32);
    for _ in 0..count {
        let socket = new(protocol, family_of(&address))?;
        sockopt::set_socket_reuseport(&socket, shares)?;
        match bind(&socket, &address) {
            Ok(()) => bound += 1,
            Err(Errno::ADDRINUSE) => refused += 1,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(format!("bound={bound} refused={refused}"))
}

/// Sockets that share and get their ports by listening, one after the other.
pub(crate) fn listens(count: u32, protocol: &str) -> Result<String, Failure> {
    for _ in 0..count {
        let socket = new(protocol, AddressFamily::INET)?;
        sockopt::set_socket_reuseport(&socket, true)?;
        listen(&socket, 1)?;
    }
    Ok(String::new())
}

/// Binds sockets one after the other, each closed before the next, and says how long one bind took, ns.
///
/// Each has a port of its own: a port can still be taken right after its close, by whoever looks at descriptors then.
pub(crate) fn binds(count: u16, protocol: &str, address: &str) -> Result<String, Failure> {
    let first: SocketAddr = address.parse().map_err(|_| Failure::Usage)?;
    let mut total = std::time::Duration::ZERO;
    for nth in 0..count {
        let address = SocketAddr::new(first.ip(), first.port().checked_add(nth).ok_or(Failure::Usage)?);
        let socket = new(protocol, family_of(&address))?;
        let begin = std::time::Instant::now();
        let bound = bind(&socket, &address);
        total += begin.elapsed();
        bound?;
    }
    Ok(format!("ns={}", total.as_nanos() / u128::from(count.max(1))))
}
