//! Runs a program on what looks to it like an older kernel: `oldkernel WITHOUT PROGRAM ARGUMENTS…`.
//!
//! A seccomp filter answers bpf(2) as such a kernel does. It cannot see what a map or a program is of, so a kernel
//! without one kind of map is one without any. WITHOUT is one of
//!
//! - `bpf`: ENOSYS, as a kernel built without CONFIG_BPF_SYSCALL
//! - `maps`: EINVAL from BPF_MAP_CREATE, as for a ring buffer before Linux 5.8
//! - `links`: EINVAL from BPF_LINK_CREATE, as before Linux 5.7

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};
use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// `enum bpf_cmd` of linux/bpf.h.
const BPF_MAP_CREATE: u64 = 0;
const BPF_LINK_CREATE: u64 = 28;

fn main() -> ExitCode {
    match run() {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("oldkernel: {error:#}");
            ExitCode::from(99)
        }
    }
}

fn run() -> anyhow::Result<std::convert::Infallible> {
    let mut arguments = std::env::args_os().skip(1);
    let without = arguments.next().context("usage: oldkernel WITHOUT PROGRAM ARGUMENTS…")?;
    let program = arguments.next().context("which program?")?;
    let (rules, errno) = match without.to_str() {
        Some("bpf") => (Vec::new(), libc::ENOSYS),
        Some("maps") => (vec![command(BPF_MAP_CREATE)?], libc::EINVAL),
        Some("links") => (vec![command(BPF_LINK_CREATE)?], libc::EINVAL),
        _ => bail!("unknown kind of old kernel"),
    };
    let filter = SeccompFilter::new(
        BTreeMap::from([(libc::SYS_bpf, rules)]),
        SeccompAction::Allow,
        SeccompAction::Errno(errno.unsigned_abs()),
        std::env::consts::ARCH.try_into()?,
    )?;
    seccompiler::apply_filter(&BpfProgram::try_from(filter)?)?;
    Err(Command::new(program).args(arguments).exec()).context("the program cannot be executed")
}

/// The rule that matches this command of bpf(2).
fn command(number: u64) -> anyhow::Result<SeccompRule> {
    let is = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, number)?;
    Ok(SeccompRule::new(vec![is])?)
}
