//! bindwatch: see every socket bind on a Linux machine, and who shared, took or held which port.
//!
//! The tree reads as the path of one bind: the probe's record ([`event`] is what becomes of it), the `ledger` that
//! judges, and the sinks that speak. `docs/architecture.md` is the map.

pub mod event;
pub mod ledger;
pub mod proc;
pub mod source;
