//! The ledger: what is held by whom, and what is wrong with it, as a pure function of events.
//!
//! No clock, no IO, no randomness, no globals: live recording, replay and tests run exactly this code.

pub mod finding;
