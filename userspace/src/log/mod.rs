//! The event log: JSON Lines, one object a line, the header first, `end` last.
//!
//! An event's line is `{"type":…,"seq":…,"at":…,"hook":…` and then the fields of its body, always in this order, so
//! that a reader can tell what a line is from its first bytes. Lines of type `finding` repeat what the ledger concluded,
//! for grep; a reader skips them and concludes again.

mod file;
mod keep;
mod line;
mod nuls;
mod reader;
mod recent;
#[cfg(test)]
pub(crate) mod samples;
mod shorten;
#[cfg(test)]
mod tests;
mod usual;
mod writer;
mod written;

use serde::{Deserialize, Serialize};

pub use file::{CreateError, LogFile, create, create_private};
pub use line::{DecodeError, Line, decode, encode};
pub use reader::{Ending, ReadError, Reader, Torn};
pub use writer::{Progress, WriteError, Writer};

use crate::clock::Anchors;
use crate::event::BootTime;
use crate::judge::Rules;

/// What the schema of every log begins with.
pub const SCHEMA_NAME: &str = "bindwatch.log/";
/// Version of the schema that this bindwatch writes, and the newest it reads.
pub const SCHEMA_VERSION: u32 = 1;
/// Longest line that is read, bytes. Far above anything written: a process's arguments are kept to some KiB.
pub const LINE_MAX: usize = 4 << 20;

/// The machine a log is from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Host {
    /// Its name.
    pub hostname: String,
    /// Kernel release, as `uname -r` has it.
    pub kernel: String,
    /// `/proc/sys/kernel/random/boot_id`: socket cookies and process start times are unique within it.
    pub boot_id: String,
}

impl Host {
    /// The machine this runs on. What cannot be learnt is empty.
    #[must_use]
    pub fn of_this_machine() -> Self {
        let name = nix::sys::utsname::uname();
        let text = |part: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
            name.as_ref().map_or_else(|_| String::new(), |name| part(name).to_string_lossy().into_owned())
        };
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self {
            hostname: text(|name| name.nodename()),
            kernel: text(|name| name.release()),
            boot_id: boot_id.trim_end().to_owned(),
        }
    }
}

/// A hook that could not be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedHook {
    /// Its name.
    pub hook: String,
    /// Why.
    pub reason: String,
}

/// First line of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the bindwatch that wrote it.
    pub version: String,
    /// The machine.
    pub host: Host,
    /// One instant on both clocks.
    pub clock: Anchors,
    /// How bindwatch was called.
    #[serde(default)]
    pub command_line: Vec<String>,
    /// Hooks in use.
    #[serde(default)]
    pub hooks: Vec<String>,
    /// Hooks that were tried and refused, and why.
    #[serde(default)]
    pub refused: Vec<RefusedHook>,
    /// What tells how calls end (`fexit`, `kprobe`, `tracepoint`); None with `--errno off`, and in logs of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// What findings are judged by.
    #[serde(default)]
    pub rules: Rules,
    /// How much of the arguments of processes was kept (`--cmdline`).
    #[serde(default)]
    pub cmdline: String,
    /// Which events were logged (`--events`).
    #[serde(default)]
    pub events: String,
    /// How conflicting binds are dealt with, where they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforcement: Option<Enforces>,
}

/// How conflicting binds are dealt with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforces {
    /// How.
    pub mode: crate::event::EnforcementMode,
    /// Why not better, where the mode is `check`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Last line of a log that was ended in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct End {
    /// When.
    pub at: BootTime,
    /// Why the recording ended, for people.
    pub reason: String,
    /// Events applied, including those that are not in the log.
    pub events: u64,
    /// Events that the log does not have because it reached its size limit.
    pub dropped: u64,
    /// Events that the kernel could not hand over, or that could not be read.
    pub lost: u64,
    /// Findings.
    pub findings: u64,
}
