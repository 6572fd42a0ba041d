//! Where events and inventories come from.

pub mod sockets;
