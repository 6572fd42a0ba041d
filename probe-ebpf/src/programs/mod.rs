//! The programs, by how they attach. All of these watch and always allow, but for `guard` and `check`.

mod accept;
mod attempt;
mod cgroup;
mod check;
mod connect;
mod ends;
mod fexit;
mod guard;
mod iter;
mod kprobe;
mod sched;
mod syscall;
mod tcp;
mod uring;
