//! Harness of the scenario tests: real programs that do what a test tells them, one line at a time, while bindwatch
//! records; and the report that must say so.
//!
//! Nothing here sleeps. What a test waits for is an answer, a line of the log, or the end of a process, and each wait
//! has a deadline ([`wait::PATIENCE`]). A test is sure that nothing was found because a marker bind after it was seen
//! ([`Recording::fence`]).
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a harness fails by panicking, at the line of the test"
)]

mod actor;
mod address;
pub mod browser;
mod command;
mod log;
mod place;
mod recording;
mod report;
pub mod servers;
pub mod synthetic;
mod terminal;
pub mod wait;

pub use actor::{Actor, Answer, Socket};
pub use address::{loopback, loopbacks};
pub use command::{Outcome, Run, bindwatch, node, python, real, schemas};
pub use log::Log;
pub use place::{Cgroup, Folder, cgroup_of, cgroup2};
pub use recording::{Finished, Recording, Server};
pub use report::{Finding, Holder, Report};
pub use terminal::Terminal;
