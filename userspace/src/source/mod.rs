//! Where events and inventories come from.

pub mod log;
pub mod sockets;
