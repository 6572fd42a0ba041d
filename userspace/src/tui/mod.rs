//! The live screen: what is wrong, who holds what, what just failed, and why.
//!
//! `world` is what there is (a fold of events, with the ledger of every command in it), `model` is what the user has
//! chosen (a pure update by keys), `view` is the picture of both (a pure function). Around these, `app` is the loop,
//! and the rest is what it talks to: the terminal, the ring's reader in a thread of its own, a log that is played.
//!
//! The reader of the ring never waits for the screen: it hands events over and goes on. Bytes go to the terminal in yet
//! another thread: a terminal that takes none keeps frames from being drawn, and nothing else.

mod app;
pub mod batch;
mod cell;
mod detail;
mod feed;
pub mod filter;
mod header;
mod help;
pub mod history;
mod input;
pub mod keys;
mod kill;
pub mod model;
#[cfg(test)]
mod model_tests;
mod play;
mod ports_look;
pub mod rates;
pub mod rows;
mod signals;
pub mod terminal;
#[cfg(test)]
mod tests;
pub mod theme;
pub mod view;
pub mod world;

pub use app::{Options, live, replay};
pub use feed::Feed;
pub use play::Player;
pub use ports_look::count_ports;
