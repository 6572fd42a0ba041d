//! Waiting for ports: binds of a `run`'s command that would fail are held until their endpoint is free.
//!
//! A filter hands every bind() and listen() of the command over ([`crate::probe::seccomp`]). A thread ([`Reception`]) takes
//! them in and carries them out itself, on a duplicate of the caller's socket ([`Carrier`]): only so does the outcome come
//! here before the caller has it. What succeeds is answered at once; what fails with EADDRINUSE waits (`Waits`) for a
//! record of the ring that says that a socket on the endpoint ended; whatever else is left to the kernel, which carries the
//! call out as the caller. What the probe then tells of bindwatch is put down to who called.
//!
//! The listener outlives bindwatch in a process that lets every call pass ([`Guardian`]).

mod call;
mod caller;
mod carrier;
mod guardian;
mod outstanding;
mod pass;
mod reception;
#[cfg(test)]
mod tests;
mod waits;

pub use carrier::Carrier;
pub use guardian::Guardian;
pub use outstanding::Outstanding;
pub(crate) use pass::{receive, send};
pub(crate) use reception::Held;
pub use reception::{News, Reception};
pub(crate) use waits::{Ended, Tried, Waits};

/// Binds that are held at once; more are left to the kernel, and a `limit` event says so.
pub const WAITING_MAX: usize = 256;
