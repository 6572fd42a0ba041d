//! bindwatch: see every socket bind on a Linux machine, and who shared, took or held which port.
//!
//! The tree reads as the path of one bind: the probe's record ([`event`] is what becomes of it), the `ledger` that
//! judges, and the sinks that speak. `docs/architecture.md` is the map.

pub mod cgroup2;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod control;
pub mod diagnostics;
pub mod drive;
pub mod enrich;
pub mod event;
pub mod job;
pub mod judge;
pub mod ledger;
pub mod log;
pub mod notes;
pub mod probe;
pub mod proc;
pub mod recording;
pub mod secrets;
pub mod sink;
pub mod source;
pub mod tui;
pub mod wait;
pub mod wire;
