//! Findings: one thing worth a person's attention each, with the events that prove it.
//!
//! Times are [`BootTime`]s; the sinks turn them into wall-clock time with the log's anchors.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::event::{
    Ancestor, BootTime, Cookie, Errno, Inum, Options, ProcessKey, Protocol, Rest, Seq, TcpState, Uid,
    WaitOutcome,
};

/// Number of a finding in its log, from 1, in the order in which the findings were first made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FindingId(pub u32);

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Unrelated processes hold live sockets on exactly the same endpoint.
    CoBind,
    /// A newcomer of the same program took an endpoint over and the older holder stopped in time.
    Handover,
    /// Unrelated processes hold overlapping endpoints.
    Shadow,
    /// `bind()` or `listen()` failed with EADDRINUSE.
    Refused,
    /// A socket outlived the job it belonged to.
    Orphan,
    /// No free port was left.
    Exhausted,
    /// Enforcement refused a bind.
    Denied,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// For information.
    Note,
    /// Something failed, or may.
    Warning,
    /// Results of a test cannot be trusted.
    Error,
}

impl Kind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [Self; 7] = [
        Self::CoBind,
        Self::Handover,
        Self::Shadow,
        Self::Refused,
        Self::Orphan,
        Self::Exhausted,
        Self::Denied,
    ];

    /// The name in JSON and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CoBind => "co-bind",
            Self::Handover => "handover",
            Self::Shadow => "shadow",
            Self::Refused => "refused",
            Self::Orphan => "orphan",
            Self::Exhausted => "exhausted",
            Self::Denied => "denied",
        }
    }

    /// How bad this kind is.
    #[must_use]
    pub const fn severity(self) -> Severity {
        match self {
            Self::CoBind | Self::Exhausted => Severity::Error,
            Self::Shadow | Self::Refused | Self::Orphan => Severity::Warning,
            Self::Handover | Self::Denied => Severity::Note,
        }
    }
}

/// Why a bind or listen was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Somebody listens there.
    Listener,
    /// Somebody is bound there without listening.
    Bound,
    /// Only TIME_WAIT entries of ended connections.
    TimeWait,
    /// A connection that is not wholly closed (CLOSE_WAIT, FIN_WAIT…), with or without a process.
    HalfClosed,
    /// A process that outlived what it belonged to: its job, or the process that made the socket.
    Orphan,
    /// A previous instance of the same program on its way out.
    Restart,
    /// The caller or its parent had the port, released it, and somebody took it in between.
    LostRace,
    /// The holder did not set the option that the newcomer set.
    Exclusive,
    /// SO_REUSEPORT across user ids.
    OtherUser,
}

impl Cause {
    /// Every cause, in the order of the documentation.
    pub const ALL: [Self; 9] = [
        Self::Listener,
        Self::Bound,
        Self::TimeWait,
        Self::HalfClosed,
        Self::Orphan,
        Self::Restart,
        Self::LostRace,
        Self::Exclusive,
        Self::OtherUser,
    ];
}

/// What a holder's socket does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HolderState {
    /// Bound; UDP, or TCP that does not listen.
    Bound,
    /// TCP, listening.
    Listen,
    /// TCP, connected or closing.
    Connected,
    /// Nobody's: TIME_WAIT.
    TimeWait,
    /// It was released.
    Closed,
}

/// A process that has, or had, a socket on the endpoint. One entry a process, however many sockets it has there.
#[derive(Clone, Debug, PartialEq)]
pub struct Holder {
    /// Its identity.
    pub process: ProcessKey,
    /// Name.
    pub comm: String,
    /// Executable; empty unknown.
    pub exe: String,
    /// Arguments; empty unknown or withheld.
    pub cmdline: Vec<String>,
    /// The arguments are cut.
    pub cmdline_cut: bool,
    /// Real user id.
    pub uid: Uid,
    /// cgroup2 path; empty unknown.
    pub cgroup: String,
    /// Container id.
    pub container: Option<String>,
    /// The job, suite or test that it belongs to, by its environment.
    pub job: Option<String>,
    /// Root of its lineage.
    pub lineage: ProcessKey,
    /// Its ancestors, nearest first, as they were at fork.
    pub parents: Vec<Ancestor>,
    /// Its first socket there.
    pub socket_cookie: Cookie,
    /// All its sockets there, the first included.
    pub sockets: Vec<Cookie>,
    /// Local address of the first.
    pub address: IpAddr,
    /// Local port.
    pub port: u16,
    /// The other side, where the first is known to be a connection.
    pub peer: Option<SocketAddr>,
    /// The process connected it itself: its port was chosen by the kernel, unless it was bound.
    pub outgoing: bool,
    /// Options of the first, as last seen.
    pub options: Options,
    /// What the first does, as last seen.
    pub state: HolderState,
    /// When the process began to hold; None before the recording, or `bound_unseen`.
    pub bound_at: Option<BootTime>,
    /// When it began is not known: nobody saw it, and it was not there when the sockets were first looked at, or was left out.
    pub bound_unseen: bool,
    /// When its last socket there was released; None while it holds.
    pub released_at: Option<BootTime>,
    /// Connections it accepted there; None not counted.
    pub accepted: Option<u64>,
    /// The process it got the socket from, when it did not bind it itself.
    pub inherited_from: Option<ProcessKey>,
}

/// A process whose call failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Victim {
    /// Who, in a holder's shape; its address and port are the requested ones.
    pub holder: Holder,
    /// How the call ended.
    pub errno: Errno,
    /// The call: `bind`, `listen` or `connect`.
    pub call: &'static str,
}

/// A call that was held until its endpoint was free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// How long, ns; of one that was interrupted until that was noticed, of one that goes on 0.
    pub ns: u64,
    /// How it ended; None: it goes on.
    pub outcome: Option<WaitOutcome>,
}

/// The ports that the kernel chooses from, for the findings in which they matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PortRange {
    /// The lowest.
    pub low: u16,
    /// The highest.
    pub high: u16,
    /// How many there are, without those that are reserved.
    pub ports: u32,
    /// How many of them the failed call could not have; None where that was not counted.
    pub used: Option<u32>,
}

/// A process that uses up ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortUser {
    /// Its identity.
    pub process: ProcessKey,
    /// Name.
    pub comm: String,
    /// Executable; empty unknown.
    pub exe: String,
    /// It had ended when the ports were counted.
    pub ended: bool,
    /// Sockets it had open.
    pub sockets: u32,
    /// What was left of its connections (TIME_WAIT, and closing ones).
    pub time_wait: u32,
}

/// Who gets new connections or datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receives {
    /// All of them, by turns.
    Split,
    /// One: the root of its lineage.
    One(ProcessKey),
}

/// A finding as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Its number.
    pub id: FindingId,
    /// What happened.
    pub kind: Kind,
    /// Protocol of the endpoint.
    pub protocol: Protocol,
    /// Address of the endpoint (of `shadow`: the more specific one; of `refused`: the requested one).
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its network namespace.
    pub netns: Inum,
    /// When it began.
    pub first_seen: BootTime,
    /// When it was last so.
    pub last_seen: BootTime,
    /// How long unrelated holders overlapped, ns, for the kinds that overlap.
    pub overlap: Option<u64>,
    /// It is so now (at the end of the events applied).
    pub live: bool,
    /// Why, for `refused`.
    pub cause: Option<Cause>,
    /// The state of the connection that the cause rests on.
    pub tcp_state: Option<TcpState>,
    /// Where a failed `connect()` wanted to go.
    pub destination: Option<SocketAddr>,
    /// Who holds or held, in the order in which they came.
    pub holders: Vec<Holder>,
    /// Whose call failed; of several, the last.
    pub victim: Option<Victim>,
    /// Who had it when nobody holds it now.
    pub last_owner: Option<Holder>,
    /// The cgroup that an `orphan` outlived, by its path: it was removed.
    pub removed_cgroup: Option<String>,
    /// The ports that the kernel chooses from: of `exhausted`, and of a `refused` whose port it gave to a connection.
    pub range: Option<PortRange>,
    /// Who used them up, most first; of `exhausted`.
    pub users: Vec<PortUser>,
    /// What others used of them, together.
    pub others: Rest,
    /// How long the call of the victim was held, for `--on-conflict wait`.
    pub wait: Option<Wait>,
    /// How often.
    pub count: u64,
    /// Of `denied`: nothing was refused, it only would have been.
    pub dry_run: bool,
    /// Of what overlaps in a `run` that only reports: how many of its processes enforcement would have refused the bind.
    pub would_deny: u64,
    /// Lost events could have changed it.
    pub uncertain: bool,
    /// Who gets the traffic.
    pub receives: Option<Receives>,
    /// Events that prove it, in order; at most [`EVIDENCE_MAX`].
    pub evidence: Vec<Seq>,
}

impl Finding {
    /// Whether the victim's call failed. One that was held may have come to a good end; of one that waits still, was
    /// interrupted, or was left to the kernel, this finding tells no failure.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        self.kind != Kind::Denied || self.wait.is_none_or(|wait| wait.outcome == Some(WaitOutcome::TimedOut))
    }
}

/// Evidence kept for one finding, events: the first half of them and the last half.
pub const EVIDENCE_MAX: usize = 64;
