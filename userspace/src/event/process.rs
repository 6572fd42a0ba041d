//! Facts about processes.

use serde::{Deserialize, Serialize};

use super::{BootTime, ProcessKey, Uid};

/// How bindwatch came to know a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Known {
    /// Its fork was seen; it runs its parent's program.
    Fork,
    /// Its exec was seen.
    Exec,
    /// It was older than the recording: read from `/proc`.
    Scan,
    /// It was named by an event, and gone before anything else could be learnt.
    Name,
}

/// A process and everything that was learnt of it. Sent again, whole, when it executes another program.
///
/// Text is what the process said, with bytes that are not UTF-8 replaced by U+FFFD: data, to be escaped by every output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Its identity.
    pub process: ProcessKey,
    /// Its parent at fork; re-parenting does not change it. None for the first process, or unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ProcessKey>,
    /// Root of its lineage: the process that executed the program which it, by forks alone, still runs.
    pub lineage: ProcessKey,
    /// How this was learnt.
    pub known: Known,
    /// Name (`comm`).
    pub comm: String,
    /// Path of the executable; empty when unknown.
    #[serde(default)]
    pub exe: String,
    /// Argument list; empty when unknown or withheld (`--cmdline`).
    #[serde(default)]
    pub cmdline: Vec<String>,
    /// The argument list was longer than what could be kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cmdline_cut: bool,
    /// Real user id.
    pub uid: Uid,
    /// Session id. 0 is that of what PID 1 started and that made none of its own; also where it is not known, as with
    /// [`Known::Name`].
    #[serde(default)]
    pub session: u32,
    /// Path of its cgroup in the cgroup2 hierarchy; empty when unknown.
    #[serde(default)]
    pub cgroup: String,
    /// Container id, where the cgroup's path shows one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// As it was when it executed its program. Of a fork: see the root of its lineage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<Mark>,
    /// What its environment says it belongs to: the step of a CI job, the `--name` of a `run`, the test. Data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
}

/// A mark in a process's environment or arguments by which a supervisor tells its workers what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mark {
    /// A worker of Node.js's `cluster`: the number in `NODE_UNIQUE_ID`, which no other worker of its parent has.
    NodeCluster(u32),
    /// A child of Python's `multiprocessing`, started by `spawn`: an argument says so, and arguments can be withheld.
    Multiprocessing,
    /// The process was gone, or not to be looked into: it may have a mark.
    Unknown,
}

impl Mark {
    /// The mark among a process's arguments.
    #[must_use]
    pub fn in_arguments(cmdline: &[String]) -> Option<Self> {
        cmdline.iter().any(|argument| argument == "--multiprocessing-fork").then_some(Self::Multiprocessing)
    }
}

/// A parent as a finding shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    /// Thread group id.
    pub pid: u32,
    /// Name.
    pub comm: String,
}

/// A process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Which.
    pub process: ProcessKey,
}

/// A process was asked to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// Who was asked.
    pub process: ProcessKey,
    /// By whom; None when it was the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<ProcessKey>,
    /// Signal number: SIGHUP, SIGINT, SIGQUIT, SIGKILL or SIGTERM.
    pub signal: u32,
}

impl Process {
    /// A process of which nothing else is known: it has no parent, and begins its lineage.
    #[must_use]
    pub const fn new(process: ProcessKey, known: Known) -> Self {
        Self {
            process,
            parent: None,
            lineage: process,
            known,
            comm: String::new(),
            exe: String::new(),
            cmdline: Vec::new(),
            cmdline_cut: false,
            uid: Uid(0),
            session: 0,
            cgroup: String::new(),
            container: None,
            mark: None,
            job: None,
        }
    }

    /// When the process started, to the clock tick.
    #[must_use]
    pub const fn started(&self) -> BootTime {
        self.process.started()
    }
}
