//! Facts about processes, from `/proc`.
//!
//! Everything here races with processes that end: a process that is gone, or that the caller may not see, is None and
//! never an error. All files of one process are read through one descriptor of its `/proc/PID` folder, which stays
//! with that process when its PID is given to another.

mod cgroup;
pub mod label;
mod mounts;
mod read;
mod scan;
mod stat;
#[cfg(test)]
mod tests;

pub use cgroup::{container_id, container_of, unified_path};
pub use mounts::{Mount, mounts};
pub(crate) use read::{Folder, PidPath, link_at, read_at};
pub(crate) use scan::uids_of;
pub use scan::{CMDLINE_MAX, Proc, uids};
pub use stat::Stat;
pub(crate) use stat::number;
