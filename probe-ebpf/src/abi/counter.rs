//! Slots of the per-CPU counter map `COUNTERS`: what was lost, by kind. Monotonic; user space reads and sums them.

/// Bind, bind-failed, listen-failed or connect-failed records that did not fit into the ring.
pub const BIND: u32 = 0;
/// Release, listen and end-of-TCP-socket records that did not fit.
pub const CLOSE: u32 = 1;
/// Option records that did not fit.
pub const OPTION: u32 = 2;
/// Fork, exec, exit, signal and cgroup records that did not fit.
pub const PROCESS: u32 = 3;
/// Attempts that could not be remembered until their end ([`super::ATTEMPTS_MAX`]): their failure is not known.
pub const ATTEMPT: u32 = 4;
/// Verdicts that could not be had: an unknown process, too many ancestors, or no room for a claim. Let through.
pub const GUARD: u32 = 5;
/// How many slots there are.
pub const SLOTS: u32 = 6;

/// A name for each slot, in order, as it appears in `lost` events.
pub const NAMES: [&str; SLOTS as usize] = ["bind", "close", "option", "process", "attempt", "guard"];
