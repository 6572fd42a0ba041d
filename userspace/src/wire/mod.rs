//! Bytes of the ring to typed records, field by field. Total: no input panics, none is trusted.

mod hooks;
#[cfg(test)]
mod tests;

use std::mem::offset_of;

use bindwatch_probe::abi::config::Offsets;
use bindwatch_probe::abi::record::{self as abi, door, hook, kind, option};

use crate::event::{
    BootTime, Cookie, Door, Errno, Family, Hook, Ifindex, Inum, NetnsCookie, Options, ProcessKey, Protocol,
    SocketFacts, TcpState, Tid, Uid,
};
use crate::probe::{FileRow, process_of};
use hooks::hook_of;

/// Why a record could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than its kind wants.
    #[error("a record of {have} bytes, expected {want}")]
    Length {
        /// What came.
        have: usize,
        /// What its kind wants.
        want: usize,
    },
    /// Unknown kind.
    #[error("a record of unknown kind {0}")]
    Kind(u32),
    /// Unknown hook.
    #[error("a record from an unknown hook {0}")]
    Hook(u32),
    /// Unknown address family.
    #[error("a record with unknown address family {0}")]
    Family(u16),
    /// Unknown TCP state.
    #[error("a record with unknown TCP state {0}")]
    State(u8),
    /// Unknown door.
    #[error("a record through an unknown door {0}")]
    Door(u8),
}

/// A record with its time and origin.
#[derive(Clone, Debug, PartialEq)]
pub struct Stamped {
    /// When.
    pub at: BootTime,
    /// Which program.
    pub hook: Hook,
    /// Whether records were lost before it, since the one that was marked so before.
    pub after_loss: bool,
    /// What.
    pub record: Record,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A bind succeeded.
    Bind(Call),
    /// A bind failed.
    BindFailed(Call),
    /// The guard refused a bind.
    Denied {
        /// The bind, as one that failed; without an errno, as one that would have.
        call: Call,
        /// The socket in its way.
        holder_cookie: Cookie,
        /// Who bound that one.
        holder: ProcessKey,
    },
    /// A bind ended unseen.
    Unresolved(Call),
    /// A socket listens.
    Listen(Call),
    /// A socket is somewhere else now, in this state.
    Changed(Call, TcpState),
    /// `listen()` failed.
    ListenFailed(Call),
    /// `connect()` found no local port.
    ConnectFailed(Call),
    /// A socket no longer listens.
    Unlisten(Small),
    /// The last reference is gone.
    Close(Small),
    /// The kernel destroyed it.
    Destroy(Small),
    /// An option was set.
    Option(SetOption),
    /// A process was made.
    Fork(Fork),
    /// A program was executed.
    Exec(Box<Exec>),
    /// A process exits.
    Exit(ProcessKey),
    /// A signal was sent.
    Signal {
        /// To whom.
        target: ProcessKey,
        /// By whom.
        sender: Option<ProcessKey>,
        /// Which.
        signal: u32,
    },
    /// A cgroup was made.
    Cgroup {
        /// Its id.
        id: u64,
        /// Its path.
        path: String,
    },
    /// A cgroup was removed.
    CgroupRemoved {
        /// Its id.
        id: u64,
        /// Its path.
        path: String,
    },
    /// A protocol that has no endpoints of the kind bindwatch knows (ICMP, SCTP…).
    Foreign,
}

impl Record {
    /// The socket that it is about.
    #[must_use]
    pub const fn cookie(&self) -> Option<Cookie> {
        match self {
            Self::Bind(call)
            | Self::BindFailed(call)
            | Self::Denied { call, .. }
            | Self::Unresolved(call)
            | Self::Listen(call)
            | Self::Changed(call, _)
            | Self::ListenFailed(call)
            | Self::ConnectFailed(call) => Some(call.socket.cookie),
            Self::Unlisten(small) | Self::Close(small) | Self::Destroy(small) => Some(small.cookie),
            Self::Option(option) => Some(option.cookie),
            _ => None,
        }
    }

    /// A socket has a port, or another one.
    #[must_use]
    pub const fn is_of_port(&self) -> bool {
        matches!(self, Self::Bind(_) | Self::Listen(_) | Self::Changed(..))
    }
}

/// The caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its process.
    pub process: ProcessKey,
    /// Its thread.
    pub tid: Tid,
    /// Name of the thread.
    pub comm: String,
    /// Real user id.
    pub uid: Uid,
    /// cgroup id.
    pub cgroup: u64,
}

/// A call on a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Who.
    pub task: Task,
    /// The socket, or for a failed connect its destination as address and port.
    pub socket: SocketFacts,
    /// The port that was asked for.
    pub requested_port: u16,
    /// How it failed; 0 it did not.
    pub errno: Errno,
    /// How it came.
    pub door: Door,
}

/// A change of a socket that is known by its cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Small {
    /// Which.
    pub cookie: Cookie,
    /// State before.
    pub state: TcpState,
    /// Connections waiting to be accepted.
    pub backlog: u32,
    /// Thread group that caused it, 0 the kernel.
    pub tgid: u32,
    /// Its network namespace.
    pub netns: Inum,
    /// Its port; 0 where it was given back already.
    pub port: u16,
}

/// An option that was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetOption {
    /// On which socket.
    pub cookie: Cookie,
    /// As in setsockopt(2).
    pub level: i32,
    /// As in setsockopt(2).
    pub name: i32,
    /// First four bytes; None where what tells of it cannot read them.
    pub value: Option<i32>,
}

impl SetOption {
    /// Only the socket tells what it makes of it: a device (SO_BINDTODEVICE, SO_BINDTOIFINDEX), or a value that is not known.
    #[must_use]
    pub const fn must_be_looked_up(&self) -> bool {
        self.level == 1 && (matches!(self.name, 25 | 62) || self.value.is_none())
    }
}

/// A process was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fork {
    /// Of whom.
    pub parent: ProcessKey,
    /// Which.
    pub child: ProcessKey,
    /// Its session.
    pub session: u32,
}

/// A program was executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// By whom.
    pub task: Task,
    /// Its parent.
    pub parent: ProcessKey,
    /// Its session.
    pub session: u32,
    /// The path that was executed, as given.
    pub filename: String,
    /// The interpreter of a script, else the same path.
    pub interp: String,
    /// Arguments.
    pub args: Vec<String>,
    /// There were more than the record holds.
    pub args_cut: bool,
}

/// A plain integer read from a record.
trait Int: Sized {
    fn read(bytes: &[u8], at: usize) -> Option<Self>;
}

macro_rules! ints {
    ($($int:ty),*) => {$(
        impl Int for $int {
            fn read(bytes: &[u8], at: usize) -> Option<Self> {
                let end = at.checked_add(size_of::<Self>())?;
                Some(Self::from_ne_bytes(bytes.get(at..end)?.try_into().ok()?))
            }
        }
    )*};
}
ints!(u8, u16, u32, u64, i32);

/// Reads one field of a layout; the length was checked before, so the default is never used.
macro_rules! field {
    ($bytes:expr, $layout:ty, $($path:ident).+ : $int:ty) => {
        <$int as Int>::read($bytes, offset_of!($layout, $($path).+)).unwrap_or_default()
    };
}

/// Reads one record.
///
/// # Errors
/// When it is shorter than its kind wants or holds a number that no version of this wire has.
pub fn decode(bytes: &[u8]) -> Result<Stamped, DecodeError> {
    long_enough::<abi::Head>(bytes)?;
    let at = BootTime(field!(bytes, abi::Head, at: u64));
    let number = field!(bytes, abi::Head, hook: u32);
    let (hook, after_loss) = (
        hook_of(number & !hook::AFTER_LOSS).map_err(|_| DecodeError::Hook(number))?,
        number & hook::AFTER_LOSS != 0,
    );
    let record = match field!(bytes, abi::Head, kind: u32) {
        kind::BIND => call(bytes)?.map_or(Record::Foreign, Record::Bind),
        kind::BIND_FAILED => call(bytes)?.map_or(Record::Foreign, Record::BindFailed),
        kind::DENIED => denied(bytes)?,
        kind::BIND_UNRESOLVED => call(bytes)?.map_or(Record::Foreign, Record::Unresolved),
        kind::CHANGED => {
            let state = tcp_state(field!(bytes, abi::Sock, state: u8));
            match call(bytes)? {
                Some(call) => Record::Changed(call, state?),
                None => Record::Foreign,
            }
        }
        kind::LISTEN => call(bytes)?.map_or(Record::Foreign, Record::Listen),
        kind::LISTEN_FAILED => call(bytes)?.map_or(Record::Foreign, Record::ListenFailed),
        kind::CONNECT_FAILED => call(bytes)?.map_or(Record::Foreign, Record::ConnectFailed),
        kind::UNLISTEN => Record::Unlisten(small(bytes)?),
        kind::CLOSE => Record::Close(small(bytes)?),
        kind::DESTROY => Record::Destroy(small(bytes)?),
        kind::OPTION => Record::Option(set_option(bytes, hook)?),
        kind::FORK => Record::Fork(fork(bytes)?),
        kind::EXEC => Record::Exec(Box::new(exec(bytes)?)),
        kind::EXIT => {
            long_enough::<abi::Exit>(bytes)?;
            Record::Exit(ProcessKey::from_ns(
                field!(bytes, abi::Exit, tgid: u32),
                field!(bytes, abi::Exit, start: u64),
            ))
        }
        kind::SIGNAL => signal(bytes)?,
        number @ (kind::CGROUP | kind::CGROUP_REMOVED) => {
            long_enough::<abi::Cgroup>(bytes)?;
            let path = text(bytes, offset_of!(abi::Cgroup, path), bindwatch_probe::abi::PATH_MAX);
            let id = field!(bytes, abi::Cgroup, id: u64);
            if number == kind::CGROUP {
                Record::Cgroup { id, path }
            } else {
                Record::CgroupRemoved { id, path }
            }
        }
        unknown => return Err(DecodeError::Kind(unknown)),
    };
    Ok(Stamped { at, hook, after_loss, record })
}

fn long_enough<T>(bytes: &[u8]) -> Result<(), DecodeError> {
    let want = size_of::<T>();
    if bytes.len() < want { Err(DecodeError::Length { have: bytes.len(), want }) } else { Ok(()) }
}

/// Reads the task that lies at `base`.
fn task(bytes: &[u8], base: usize) -> Task {
    let bytes = bytes.get(base..).unwrap_or_default();
    Task {
        process: ProcessKey::from_ns(
            field!(bytes, abi::Task, tgid: u32),
            field!(bytes, abi::Task, start: u64),
        ),
        tid: Tid(field!(bytes, abi::Task, tid: u32)),
        comm: text(bytes, offset_of!(abi::Task, comm), 16),
        uid: Uid(field!(bytes, abi::Task, uid: u32)),
        cgroup: field!(bytes, abi::Task, cgroup: u64),
    }
}

fn call(bytes: &[u8]) -> Result<Option<Call>, DecodeError> {
    long_enough::<abi::Sock>(bytes)?;
    let Some(protocol) = protocol(field!(bytes, abi::Sock, protocol: u16)) else { return Ok(None) };
    let family = family(field!(bytes, abi::Sock, family: u16))?;
    let socket = SocketFacts {
        cookie: Cookie(field!(bytes, abi::Sock, cookie: u64)),
        netns: Inum(field!(bytes, abi::Sock, netns: u32)),
        netns_cookie: NetnsCookie(field!(bytes, abi::Sock, netns_cookie: u64)),
        family,
        protocol,
        address: FileRow::address_of(family, array(bytes, offset_of!(abi::Sock, address))),
        port: field!(bytes, abi::Sock, port: u16),
        options: options(field!(bytes, abi::Sock, options: u16), field!(bytes, abi::Sock, device: u32)),
        uid: Uid(field!(bytes, abi::Sock, uid: u32)),
    };
    Ok(Some(Call {
        task: task(bytes, offset_of!(abi::Sock, task)),
        socket,
        requested_port: field!(bytes, abi::Sock, requested_port: u16),
        errno: Errno(field!(bytes, abi::Sock, errno: u32)),
        door: match field!(bytes, abi::Sock, door: u8) {
            door::SYSCALL => Door::Syscall,
            door::IO_URING => Door::IoUring,
            door::COMPAT => Door::Compat,
            unknown => return Err(DecodeError::Door(unknown)),
        },
    }))
}

fn denied(bytes: &[u8]) -> Result<Record, DecodeError> {
    long_enough::<abi::Denied>(bytes)?;
    Ok(call(bytes)?.map_or(Record::Foreign, |call| Record::Denied {
        call,
        holder_cookie: Cookie(field!(bytes, abi::Denied, holder_cookie: u64)),
        holder: process_of(field!(bytes, abi::Denied, holder: u64)),
    }))
}

fn small(bytes: &[u8]) -> Result<Small, DecodeError> {
    long_enough::<abi::Small>(bytes)?;
    Ok(Small {
        cookie: Cookie(field!(bytes, abi::Small, cookie: u64)),
        state: tcp_state(field!(bytes, abi::Small, state: u8))?,
        backlog: field!(bytes, abi::Small, backlog: u32),
        tgid: field!(bytes, abi::Small, tgid: u32),
        netns: Inum(field!(bytes, abi::Small, netns: u32)),
        port: field!(bytes, abi::Small, port: u16),
    })
}

fn set_option(bytes: &[u8], hook: Hook) -> Result<SetOption, DecodeError> {
    long_enough::<abi::SetOption>(bytes)?;
    Ok(SetOption {
        cookie: Cookie(field!(bytes, abi::SetOption, cookie: u64)),
        level: field!(bytes, abi::SetOption, level: i32),
        name: field!(bytes, abi::SetOption, name: i32),
        value: (hook != Hook::SocketSetsockopt).then(|| field!(bytes, abi::SetOption, value: i32)),
    })
}

fn fork(bytes: &[u8]) -> Result<Fork, DecodeError> {
    long_enough::<abi::Fork>(bytes)?;
    let parent = (field!(bytes, abi::Fork, parent_tgid: u32), field!(bytes, abi::Fork, parent_start: u64));
    let child = (field!(bytes, abi::Fork, child_tgid: u32), field!(bytes, abi::Fork, child_start: u64));
    Ok(Fork {
        parent: ProcessKey::from_ns(parent.0, parent.1),
        child: ProcessKey::from_ns(child.0, child.1),
        session: field!(bytes, abi::Fork, session: u32),
    })
}

fn exec(bytes: &[u8]) -> Result<Exec, DecodeError> {
    long_enough::<abi::Exec>(bytes)?;
    let path = |offset| text(bytes, offset, bindwatch_probe::abi::PATH_MAX);
    let (have, total) = (field!(bytes, abi::Exec, args_len: u32), field!(bytes, abi::Exec, args_total: u32));
    let args = bytes.get(size_of::<abi::Exec>()..).unwrap_or_default();
    let args = args.get(..have as usize).unwrap_or(args);
    let parent = (field!(bytes, abi::Exec, parent_tgid: u32), field!(bytes, abi::Exec, parent_start: u64));
    Ok(Exec {
        task: task(bytes, offset_of!(abi::Exec, task)),
        parent: ProcessKey::from_ns(parent.0, parent.1),
        session: field!(bytes, abi::Exec, session: u32),
        filename: path(offset_of!(abi::Exec, filename)),
        interp: path(offset_of!(abi::Exec, interp)),
        args: split_args(args),
        // Counted, not believed: a record may claim more than it holds.
        args_cut: args.len() < total as usize,
    })
}

fn signal(bytes: &[u8]) -> Result<Record, DecodeError> {
    long_enough::<abi::Signal>(bytes)?;
    let target =
        (field!(bytes, abi::Signal, target_tgid: u32), field!(bytes, abi::Signal, target_start: u64));
    let sender =
        (field!(bytes, abi::Signal, sender_tgid: u32), field!(bytes, abi::Signal, sender_start: u64));
    Ok(Record::Signal {
        target: ProcessKey::from_ns(target.0, target.1),
        sender: (sender.0 != 0).then(|| ProcessKey::from_ns(sender.0, sender.1)),
        signal: field!(bytes, abi::Signal, signal: u32),
    })
}

/// Splits an argument area at its NULs. Bytes that are not UTF-8 become U+FFFD.
#[must_use]
pub fn split_args(area: &[u8]) -> Vec<String> {
    let area = area.strip_suffix(&[0]).unwrap_or(area);
    if area.is_empty() {
        return Vec::new();
    }
    area.split(|byte| *byte == 0).map(|arg| String::from_utf8_lossy(arg).into_owned()).collect()
}

/// The processes of a listing that have more than it tells, and from which descriptor on.
#[must_use]
pub fn unfinished(bytes: &[u8]) -> Vec<(u32, u32)> {
    let rows = bytes.chunks_exact(size_of::<abi::FileRow>());
    let ends = rows.filter(|row| field!(row, abi::FileRow, family: u16) == 0);
    ends.map(|row| (field!(row, abi::FileRow, tgid: u32), field!(row, abi::FileRow, fd: u32))).collect()
}

/// The rows of a listing. A torn last row is left out; rows of no interest too.
#[must_use]
pub fn file_rows(bytes: &[u8]) -> Vec<FileRow> {
    bytes.chunks_exact(size_of::<abi::FileRow>()).filter_map(file_row).collect()
}

fn file_row(bytes: &[u8]) -> Option<FileRow> {
    let family = family(field!(bytes, abi::FileRow, family: u16)).ok()?;
    let cookie = field!(bytes, abi::FileRow, cookie: u64);
    Some(FileRow {
        process: ProcessKey::from_ns(
            field!(bytes, abi::FileRow, tgid: u32),
            field!(bytes, abi::FileRow, start: u64),
        ),
        cookie: (cookie != 0).then_some(Cookie(cookie)),
        inode: field!(bytes, abi::FileRow, inode: u64),
        netns: Inum(field!(bytes, abi::FileRow, netns: u32)),
        netns_cookie: NetnsCookie(field!(bytes, abi::FileRow, netns_cookie: u64)),
        family,
        protocol: field!(bytes, abi::FileRow, protocol: u16),
        address: FileRow::address_of(family, array(bytes, offset_of!(abi::FileRow, address))),
        port: field!(bytes, abi::FileRow, port: u16),
        options: options(field!(bytes, abi::FileRow, options: u16), field!(bytes, abi::FileRow, device: u32)),
        uid: Uid(field!(bytes, abi::FileRow, uid: u32)),
        state: field!(bytes, abi::FileRow, state: u8),
    })
}

fn family(number: u16) -> Result<Family, DecodeError> {
    match number {
        2 => Ok(Family::Inet),
        10 => Ok(Family::Inet6),
        unknown => Err(DecodeError::Family(unknown)),
    }
}

/// The protocols that have endpoints; MPTCP's own socket stands on TCP's.
#[must_use]
pub const fn protocol(number: u16) -> Option<Protocol> {
    match number {
        6 | 262 => Some(Protocol::Tcp),
        17 => Some(Protocol::Udp),
        136 => Some(Protocol::Udplite),
        _ => None,
    }
}

/// A TCP state by the kernel's number (include/net/tcp_states.h).
///
/// # Errors
/// When the kernel has a state that is not known here.
pub const fn tcp_state(number: u8) -> Result<TcpState, DecodeError> {
    Ok(match number {
        1 => TcpState::Established,
        2 => TcpState::SynSent,
        // 12 is TCP_NEW_SYN_RECV: a request socket.
        3 | 12 => TcpState::SynRecv,
        4 => TcpState::FinWait1,
        5 => TcpState::FinWait2,
        6 => TcpState::TimeWait,
        // 13 is TCP_BOUND_INACTIVE, which sock_diag alone knows.
        7 | 13 => TcpState::Close,
        8 => TcpState::CloseWait,
        9 => TcpState::LastAck,
        10 => TcpState::Listen,
        11 => TcpState::Closing,
        unknown => return Err(DecodeError::State(unknown)),
    })
}

const fn options(bits: u16, device: u32) -> Options {
    Options {
        reuse_addr: bits & option::REUSEADDR != 0,
        reuse_port: bits & option::REUSEPORT != 0,
        v6_only: bits & option::V6ONLY != 0,
        device: Ifindex(device),
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|b| b.try_into().ok()).unwrap_or([0; N])
}

/// The text in a field of `len` bytes, up to its NUL. Bytes that are not UTF-8 become U+FFFD.
fn text(bytes: &[u8], at: usize, len: usize) -> String {
    let field = bytes.get(at..at + len).unwrap_or_default();
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(field.get(..end).unwrap_or_default()).into_owned()
}

/// The offsets as the object holds them: a row of 32-bit words.
#[expect(unsafe_code, reason = "the loader wants the bytes of the read-only global")]
pub(crate) const fn offset_words(offsets: &Offsets) -> [u32; size_of::<Offsets>() / 4] {
    // SAFETY: Offsets is repr(C) and consists of u32 only, without padding (its size is asserted where it is defined),
    // so any value of it is a valid array of words of the same size.
    unsafe { *std::ptr::from_ref(offsets).cast() }
}
