//! The programs, by how they attach. All of these watch and always allow, but for `guard`, `check` and `option`.

mod accept;
mod attempt;
mod cgroup;
mod check;
mod connect;
mod ends;
mod fexit;
mod guard;
mod iter;
mod kin;
mod kprobe;
mod lsm;
mod option;
mod sched;
mod syscall;
mod tcp;
mod uring;
