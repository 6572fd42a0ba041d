//! Events: the only thing the ledger eats and the only thing the log stores.
//!
//! An [`Event`] is a plain fact with its place in the order ([`Seq`]) and the time it happened ([`BootTime`]).
//! Nothing here reads a clock, a file or the kernel; the types know serde and nothing else.

mod ids;
mod mentions;
mod ports;
mod process;
mod socket;
mod system;

pub use ids::{BootTime, Cookie, Ifindex, Inum, NetnsCookie, ProcessKey, Seq, Tid, Uid};
pub use ports::{PortRange, PortUse, PortUser, Rest};
pub use process::{Ancestor, Exit, Known, Mark, Process, Signal};
pub use socket::{
    Accepted, Bind, BindFailed, Changed, Close, ConnectFailed, Denied, Door, Errno, Family, Found, Gone,
    Holders, Listen, ListenFailed, OptionSet, Options, Protocol, Setting, SocketFacts, TableRow, TcpState,
    Unlisten, Unresolved, WaitOutcome, Waited, Waiting, WaitingCall,
};
pub use system::{
    CgroupRemoved, Enforcement, EnforcementMode, Hook, Inventory, InventoryPhase, Job, JobPhase, Limit, Lost,
    Note, Omitted,
};

/// One fact, in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Place in the order: the only order there is. Starts at 1 in a log, and skips only what a [`Body::Omitted`] stands
    /// for.
    pub seq: Seq,
    /// When it happened, `CLOCK_BOOTTIME`. For people: order is [`Event::seq`].
    pub at: BootTime,
    /// What saw it.
    pub hook: Hook,
    /// What happened.
    pub body: Body,
}

/// What happened. The `type` of a log line is the variant's name in [`Body::type_name`].
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// A process became known, or executed another program. Precedes every event that names the process; its
    /// ancestors precede it.
    Process(Process),
    /// A known process ended. Its sockets are closed by their own events.
    Exit(Exit),
    /// A signal that asks a known process to end was sent to it.
    Signal(Signal),
    /// A socket that existed when an inventory was taken.
    Socket(Found),
    /// An inventory of the kernel's socket tables begins or ends: at the start, and after a loss.
    Inventory(Inventory),
    /// A bind succeeded.
    Bind(Bind),
    /// A bind failed.
    BindFailed(BindFailed),
    /// Enforcement refused a bind, or would have.
    Denied(Denied),
    /// A bind or listen waits for its endpoint.
    Waiting(Waiting),
    /// It no longer waits.
    Waited(Waited),
    /// A bind was entered and nobody can tell how it ended.
    Unresolved(Unresolved),
    /// A TCP socket began to listen.
    Listen(Listen),
    /// A TCP socket no longer listens.
    Unlisten(Unlisten),
    /// `listen()` failed.
    ListenFailed(ListenFailed),
    /// An option that decides about sharing was set on a bound socket.
    Option(OptionSet),
    /// A socket's port, address or options are not what they were.
    Changed(Changed),
    /// How many connections came to a listener.
    Accepted(Accepted),
    /// The last reference to a socket went away.
    Close(Close),
    /// The kernel destroyed a TCP socket.
    Gone(Gone),
    /// `connect()` found no local port.
    ConnectFailed(ConnectFailed),
    /// Who has a descriptor of a socket, as looked up at this moment.
    Holders(Holders),
    /// What the kernel's tables had on a port when it was looked up for a failed bind.
    Table(TableRow),
    /// The ports that the kernel chooses from in a network namespace.
    PortRange(PortRange),
    /// Who used those ports when a call found none.
    PortUse(PortUse),
    /// Events were lost.
    Lost(Lost),
    /// A bound of bindwatch was reached.
    Limit(Limit),
    /// Older events were taken out of the log, to keep it below its size.
    Omitted(Omitted),
    /// A job (the command of `run`) started or ended.
    Job(Job),
    /// Conflicting binds are refused from now on.
    Enforcement(Enforcement),
    /// A cgroup was removed in which a process was that this log tells of.
    CgroupRemoved(CgroupRemoved),
    /// A note from a user (`bindwatch mark`).
    Note(Note),
}

impl Body {
    /// The `type` of the log line that holds this body.
    #[must_use]
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Process(_) => "process",
            Self::Exit(_) => "exit",
            Self::Signal(_) => "signal",
            Self::Socket(_) => "socket",
            Self::Inventory(_) => "inventory",
            Self::Bind(_) => "bind",
            Self::BindFailed(_) => "bind-failed",
            Self::Denied(_) => "denied",
            Self::Waiting(_) => "waiting",
            Self::Waited(_) => "waited",
            Self::Unresolved(_) => "bind-unresolved",
            Self::Listen(_) => "listen",
            Self::Unlisten(_) => "unlisten",
            Self::ListenFailed(_) => "listen-failed",
            Self::Option(_) => "option",
            Self::Changed(_) => "changed",
            Self::Accepted(_) => "accepted",
            Self::Close(_) => "close",
            Self::Gone(_) => "gone",
            Self::ConnectFailed(_) => "connect-failed",
            Self::Holders(_) => "holders",
            Self::Table(_) => "table",
            Self::PortRange(_) => "port-range",
            Self::PortUse(_) => "port-use",
            Self::Lost(_) => "lost",
            Self::Limit(_) => "limit",
            Self::Omitted(_) => "omitted",
            Self::Job(_) => "job",
            Self::Enforcement(_) => "enforcement",
            Self::CgroupRemoved(_) => "cgroup-removed",
            Self::Note(_) => "note",
        }
    }
}
