//! Where events and inventories come from.

pub mod census;
pub mod live;
pub mod log;
mod looks;
mod losses;
mod moved;
mod pace;
mod reading;
pub mod releases;
pub mod sockets;
mod system;
