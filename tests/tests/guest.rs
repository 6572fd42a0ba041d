//! The stories that need nothing but a kernel, in one program: what `cargo xtask vm` runs in a guest.
//!
//! Each module is a story, and each is a process of its own there, by the name of the module as filter.

#[path = "accepted.rs"]
mod accepted;
#[path = "actors.rs"]
mod actors;
#[path = "autobind.rs"]
mod autobind;
#[path = "backend.rs"]
mod backend;
#[path = "bad_input.rs"]
mod bad_input;
#[path = "capabilities.rs"]
mod capabilities;
#[path = "causes.rs"]
mod causes;
#[path = "co_bind.rs"]
mod co_bind;
#[path = "conflicts.rs"]
mod conflicts;
#[path = "containers.rs"]
mod containers;
#[path = "doctor.rs"]
mod doctor;
#[path = "doors_compat.rs"]
mod doors_compat;
#[path = "doors_uring.rs"]
mod doors_uring;
#[path = "enforce.rs"]
mod enforce;
#[path = "enforce_cgroup.rs"]
mod enforce_cgroup;
#[path = "enforce_doors.rs"]
mod enforce_doors;
#[path = "enforce_early.rs"]
mod enforce_early;
#[path = "enforce_life.rs"]
mod enforce_life;
#[path = "enforce_parties.rs"]
mod enforce_parties;
#[path = "enforce_related.rs"]
mod enforce_related;
#[path = "enforce_standing.rs"]
mod enforce_standing;
#[path = "exhausted.rs"]
mod exhausted;
#[path = "explain.rs"]
mod explain;
#[path = "holders.rs"]
mod holders;
#[path = "killed.rs"]
mod killed;
#[path = "late_options.rs"]
mod late_options;
#[path = "lockdown.rs"]
mod lockdown;
#[path = "matrix/main.rs"]
mod matrix;
#[path = "mptcp.rs"]
mod mptcp;
#[path = "multicast.rs"]
mod multicast;
#[path = "names.rs"]
mod names;
#[path = "orphan.rs"]
mod orphan;
#[path = "pools.rs"]
mod pools;
#[path = "replay.rs"]
mod replay;
#[path = "run.rs"]
mod run;
#[path = "scale.rs"]
mod scale;
#[path = "storm.rs"]
mod storm;
#[path = "truth/main.rs"]
mod truth;
#[path = "wait/main.rs"]
mod wait;
