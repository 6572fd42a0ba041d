//! Where events come from.

pub mod log;
