//! Facts about sockets.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Cookie, Hook, Ifindex, Inum, NetnsCookie, ProcessKey, Tid, Uid};

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// AF_INET
    Inet,
    /// AF_INET6
    Inet6,
}

/// Protocol of an endpoint. Each has a port space of its own; MPTCP listens on TCP's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP, MPTCP included.
    Tcp,
    /// UDP.
    Udp,
    /// UDP-Lite (RFC 3828).
    Udplite,
}

impl Protocol {
    /// Its name, as logs and people have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Udplite => "udplite",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// TCP state (`include/net/tcp_states.h`); UDP sockets are `Close` (unconnected) or `Established`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TcpState {
    /// Connected.
    Established,
    /// Connecting.
    SynSent,
    /// Being connected to.
    SynRecv,
    /// Closed here, the other side has not answered.
    FinWait1,
    /// Closed here, the other side has not closed.
    FinWait2,
    /// Nobody has it; the pair of addresses is kept for a minute.
    TimeWait,
    /// Not connected.
    Close,
    /// The other side closed, this one has not.
    CloseWait,
    /// Both closed, the last answer is outstanding.
    LastAck,
    /// Listening.
    Listen,
    /// Both closing.
    Closing,
}

/// Options that decide about sharing, as they are on the socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// SO_REUSEADDR
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reuse_addr: bool,
    /// SO_REUSEPORT
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reuse_port: bool,
    /// IPV6_V6ONLY
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub v6_only: bool,
    /// SO_BINDTODEVICE, by interface index
    #[serde(skip_serializing_if = "is_no_device")]
    pub device: Ifindex,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if wants a reference")]
const fn is_no_device(device: &Ifindex) -> bool {
    device.0 == 0
}

/// An errno of Linux on x86_64 and aarch64, positive. In JSON its name (`"EADDRINUSE"`), or `"errno N"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Errno(pub u32);

impl Errno {
    /// The call failed, and no hook tells with what.
    pub const UNKNOWN: Self = Self(0);
    /// Permission denied by a rule (a denial by a cgroup program).
    pub const EPERM: Self = Self(1);
    /// No resources: UDP's automatic bind found no port.
    pub const EAGAIN: Self = Self(11);
    /// A port below 1024 without the capability.
    pub const EACCES: Self = Self(13);
    /// Already bound, or an address of the wrong length.
    pub const EINVAL: Self = Self(22);
    /// Address already in use.
    pub const EADDRINUSE: Self = Self(98);
    /// Address not on this machine; for connect, no free local port.
    pub const EADDRNOTAVAIL: Self = Self(99);

    const NAMES: [(Self, &'static str); 7] = [
        (Self::UNKNOWN, "unknown"),
        (Self::EPERM, "EPERM"),
        (Self::EAGAIN, "EAGAIN"),
        (Self::EACCES, "EACCES"),
        (Self::EINVAL, "EINVAL"),
        (Self::EADDRINUSE, "EADDRINUSE"),
        (Self::EADDRNOTAVAIL, "EADDRNOTAVAIL"),
    ];
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(errno, _)| errno == self) {
            Some((_, name)) => f.pad(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl Serialize for Errno {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Errno {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Errno;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an errno name, or \"errno N\"")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Errno, E> {
                let named = Errno::NAMES.iter().find(|(_, name)| *name == text).map(|(errno, _)| *errno);
                let numbered = || text.strip_prefix("errno ").and_then(|n| n.parse().ok()).map(Errno);
                named.or_else(numbered).ok_or_else(|| E::custom("unknown errno"))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// The door a call came through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Door {
    /// A system call.
    #[default]
    Syscall,
    /// io_uring.
    IoUring,
    /// A system call of the 32-bit ABI.
    Compat,
}

/// A socket and its local address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketFacts {
    /// Its cookie: how sharing is counted.
    pub cookie: Cookie,
    /// Its network namespace (the socket's, not the task's).
    pub netns: Inum,
    /// The same, unique since boot; 0 unknown.
    #[serde(default)]
    pub netns_cookie: NetnsCookie,
    /// Address family.
    pub family: Family,
    /// Protocol.
    pub protocol: Protocol,
    /// Local address: bound, or requested when the bind failed. v4-mapped addresses stay as they are.
    pub address: IpAddr,
    /// Local port: the one the kernel gave, or the requested one when the bind failed.
    pub port: u16,
    /// Options.
    #[serde(default)]
    pub options: Options,
    /// Owner (`sk_uid`), which SO_REUSEPORT compares.
    pub uid: Uid,
}

/// A socket that an inventory found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The socket.
    pub socket: SocketFacts,
    /// Its state.
    pub state: TcpState,
    /// Processes that have it open; empty when none was found (in flight, or not to be seen).
    pub holders: Vec<ProcessKey>,
}

/// A bind succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Who.
    pub process: ProcessKey,
    /// Which thread.
    pub tid: Tid,
    /// Its name then.
    pub comm: String,
    /// What.
    pub socket: SocketFacts,
    /// The port that was asked for; 0 asked the kernel to choose.
    pub requested_port: u16,
    /// How.
    #[serde(default)]
    pub door: Door,
}

/// A bind failed. The socket's address and port are the requested ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindFailed {
    /// Who.
    pub process: ProcessKey,
    /// Which thread.
    pub tid: Tid,
    /// Its name then.
    pub comm: String,
    /// What.
    pub socket: SocketFacts,
    /// Why.
    pub errno: Errno,
    /// How.
    #[serde(default)]
    pub door: Door,
}

/// Enforcement refused a bind, or would have. The socket's port is the one it had got for a moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    /// Who.
    pub process: ProcessKey,
    /// Which thread.
    pub tid: Tid,
    /// Its name then.
    pub comm: String,
    /// What.
    pub socket: SocketFacts,
    /// The port that was asked for; 0 asked the kernel to choose.
    pub requested_port: u16,
    /// The socket that it would have shared the port with.
    pub holder_cookie: Cookie,
    /// Who bound that one.
    pub holder: ProcessKey,
    /// The errno that the call got, or would have got.
    #[serde(default = "address_in_use", skip_serializing_if = "is_address_in_use")]
    pub errno: Errno,
    /// It was let through: a dry run only tells what it would have refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

impl Denied {
    /// Whether the socket had got its port, which the kernel takes from it again before the call returns (`__inet_bind` in
    /// `net/ipv4/af_inet.c`): who looks at the tables meanwhile sees it there.
    #[must_use]
    pub const fn had_port(&self, hook: Hook) -> bool {
        !self.dry_run && matches!(hook, Hook::GuardBind4 | Hook::GuardBind6)
    }
}

const fn address_in_use() -> Errno {
    Errno::EADDRINUSE
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_address_in_use(errno: &Errno) -> bool {
    *errno == Errno::EADDRINUSE
}

/// A bind or listen of a `run --on-conflict wait` would fail with EADDRINUSE, and waits for its endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Who.
    pub process: ProcessKey,
    /// Which thread.
    pub tid: Tid,
    /// Its name then.
    pub comm: String,
    /// The call: `bind` or `listen`.
    pub call: WaitingCall,
    /// What it wants.
    pub socket: SocketFacts,
    /// The socket that it would share the port with, where sharing is what is not wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder_cookie: Option<Cookie>,
    /// Who bound that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<ProcessKey>,
}

/// A call that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaitingCall {
    /// `bind()`
    Bind,
    /// `listen()`
    Listen,
}

/// A call no longer waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waited {
    /// Who.
    pub process: ProcessKey,
    /// Its socket.
    pub cookie: Cookie,
    /// How long it waited, ns. Of one that was interrupted: until that was noticed.
    pub waited_ns: u64,
    /// How it ended.
    pub outcome: WaitOutcome,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaitOutcome {
    /// The call succeeded.
    Done,
    /// The time was over: the call fails, which its own event tells.
    TimedOut,
    /// A signal interrupted the caller, or ended it.
    Interrupted,
    /// The call was left to the kernel: the job ended, or it would fail for another reason by now.
    Released,
}

/// A bind whose end nobody saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unresolved {
    /// Who.
    pub process: ProcessKey,
    /// What was requested.
    pub socket: SocketFacts,
    /// Its name then.
    #[serde(default)]
    pub comm: String,
    /// How.
    #[serde(default)]
    pub door: Door,
}

/// A socket is not what it was, without a bind of its own: listen(), connect() or sendto() chose its port, connecting
/// gave it an address, disconnecting took both away, or its options were read anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Who did it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessKey>,
    /// What it is now. Port 0: it holds none.
    pub socket: SocketFacts,
    /// Its state now.
    pub state: TcpState,
}

/// A TCP socket began to listen. Carries the whole socket: one that listens without a bind is seen here first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    /// Who called.
    pub process: ProcessKey,
    /// Its socket. Port 0: the kernel chooses it after this event (listen without bind).
    pub socket: SocketFacts,
}

/// A TCP socket no longer listens; it may still hold its port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unlisten {
    /// Which socket.
    pub cookie: Cookie,
    /// Connections that were waiting to be accepted.
    #[serde(default)]
    pub backlog: u32,
}

/// `listen()` failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenFailed {
    /// Who.
    pub process: ProcessKey,
    /// Its name then.
    pub comm: String,
    /// What.
    pub socket: SocketFacts,
    /// Why.
    pub errno: Errno,
}

/// An option was set on a socket that is already bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OptionSet {
    /// Which socket.
    pub cookie: Cookie,
    /// Which option and its value.
    pub setting: Setting,
}

/// An option and what it was set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Setting {
    /// SO_REUSEADDR
    ReuseAddr(bool),
    /// SO_REUSEPORT
    ReusePort(bool),
    /// SO_BINDTODEVICE or SO_BINDTOIFINDEX, by index
    Device(Ifindex),
    /// A multicast group was joined: sharing the port is meant.
    Multicast,
}

/// How many connections came to a listener, when it was closed or the recording ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Which.
    pub cookie: Cookie,
    /// Connections that were established to it, those that still wait to be accepted included.
    pub connections: u64,
}

/// The last reference to a socket went away. A TCP connection may keep the port for a while (see `Gone`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Close {
    /// Which socket.
    pub cookie: Cookie,
    /// Its state at that moment.
    pub state: TcpState,
    /// Connections that were waiting to be accepted.
    #[serde(default)]
    pub backlog: u32,
}

/// The kernel destroyed a TCP socket; at most a TIME_WAIT entry remains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// Which socket.
    pub cookie: Cookie,
}

/// `connect()` found no free local port, or a datagram for which a socket without a port was to be given one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectFailed {
    /// Who.
    pub process: ProcessKey,
    /// Its name then.
    pub comm: String,
    /// Which socket.
    pub cookie: Cookie,
    /// Its network namespace.
    pub netns: Inum,
    /// Protocol.
    pub protocol: Protocol,
    /// Where it wanted to go. Of a datagram that is not known, and unspecified, as its port is.
    pub destination: IpAddr,
    /// The port there.
    pub destination_port: u16,
    /// Why.
    pub errno: Errno,
}

impl ConnectFailed {
    /// Whether it was a datagram that wanted a port.
    #[must_use]
    pub fn is_datagram(&self) -> bool {
        self.protocol != Protocol::Tcp && self.destination.is_unspecified() && self.destination_port == 0
    }
}

/// Who has a descriptor of a socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holders {
    /// Which socket.
    pub cookie: Cookie,
    /// Every process that has it open; empty when none was found.
    pub processes: Vec<ProcessKey>,
}

/// A row of the kernel's socket tables on a port that a bind was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRow {
    /// The failed bind's event this row was looked up for.
    pub asked_by: super::Seq,
    /// The socket there; for TIME_WAIT the cookie is that of the socket it was.
    pub socket: SocketFacts,
    /// Its state.
    pub state: TcpState,
    /// The other side of a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<std::net::SocketAddr>,
    /// Processes that have it open.
    #[serde(default)]
    pub holders: Vec<ProcessKey>,
    /// The process that had it last, where it is remembered though nobody has it open: who connected it, or the one
    /// process that listened on its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_owner: Option<ProcessKey>,
    /// It was seen to be connected from here: its port is one that the kernel chose, unless it was bound.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub outgoing: bool,
}
