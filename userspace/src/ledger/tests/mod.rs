//! The ledger against events written as text, against the kernel's measured table, and against a naive model.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "tests fail by panicking"
)]

mod bounds;
mod cobind;
mod flight;
mod model;
mod moved;
mod naive;
mod orphan;
mod pools;
mod refused;
mod rest;
mod scale;
mod shadow;
mod story;
mod waiting;
