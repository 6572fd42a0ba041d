//! Newtypes for the numbers of the field, so that none is taken for another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Place of an event in the order of its log, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seq(pub u64);

/// An instant on `CLOCK_BOOTTIME`, ns since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootTime(pub u64);

impl BootTime {
    /// Time from `earlier` to here, ns; 0 when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Socket cookie (`SO_COOKIE`): unique since boot, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cookie(pub u64);

/// Inode number of a network namespace: what `/proc/PID/ns/net` shows. Can recur after the namespace is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Inum(pub u32);

/// Cookie of a network namespace (`SO_NETNS_COOKIE`): unique since boot; 0 unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NetnsCookie(pub u64);

/// Interface index a socket is bound to; 0 is none, which conflicts with every device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ifindex(pub u32);

/// User id in the initial user namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Uid(pub u32);

/// Thread id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tid(pub u32);

/// A process: its thread group id and when it started. PIDs recycle, this pair does not.
///
/// The start time is field 22 of `/proc/PID/stat`: clock ticks since boot, 100 a second. In JSON: `"4711@880213"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessKey {
    /// Thread group id.
    pub tgid: u32,
    /// Start of the group's leader, clock ticks (10 ms) since boot.
    pub start: u64,
}

/// Nanoseconds in one clock tick of `/proc/PID/stat` (`USER_HZ` is 100 on every architecture bindwatch supports).
pub(super) const TICK_NS: u64 = 10_000_000;

impl ProcessKey {
    /// From a kernel record, whose start time is in ns since boot.
    #[must_use]
    pub const fn from_ns(tgid: u32, start_ns: u64) -> Self {
        Self { tgid, start: start_ns / TICK_NS }
    }

    /// When the process started, to the tick.
    #[must_use]
    pub const fn started(self) -> BootTime {
        BootTime(self.start.saturating_mul(TICK_NS))
    }
}

impl fmt::Display for ProcessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.tgid, self.start)
    }
}

/// A process key that does not parse.
#[derive(Debug, thiserror::Error)]
#[error("\"{0}\" is not a process key: expected PID@START, for example 4711@880213")]
pub struct BadProcessKey(String);

impl FromStr for ProcessKey {
    type Err = BadProcessKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadProcessKey(text.chars().take(40).collect());
        let (tgid, start) = text.split_once('@').ok_or_else(bad)?;
        Ok(Self { tgid: tgid.parse().map_err(|_| bad())?, start: start.parse().map_err(|_| bad())? })
    }
}

impl Serialize for ProcessKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ProcessKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = ProcessKey;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a process key like \"4711@880213\"")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ProcessKey, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}
