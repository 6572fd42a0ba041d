//! bpf(2), where the loader has no call for it: who is attached to a cgroup.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

/// Commands (`enum bpf_cmd`, include/uapi/linux/bpf.h).
const BPF_PROG_QUERY: u32 = 16;
/// What is attached to the cgroups above counts as well.
const BPF_F_QUERY_EFFECTIVE: u32 = 1;
/// Programs of one type that a cgroup can have (`BPF_CGROUP_MAX_PROGS`), with those of the cgroups above.
const PROGRAMS_MAX: u32 = 1024;

/// `BPF_CGROUP_INET4_POST_BIND`
pub(super) const INET4_POST_BIND: u32 = 12;

/// `union bpf_attr` for BPF_PROG_QUERY, up to 4.15's fields.
#[repr(C)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    pad: u32,
}

#[expect(unsafe_code, reason = "a system call that no crate has")]
fn bpf<T>(command: u32, attributes: &mut T) -> io::Result<i64> {
    // SAFETY: the attributes are of the command, laid out as the kernel reads them; what they point to lives through the
    // call. The kernel reads and writes no more than it is told of.
    let result = unsafe {
        nix::libc::syscall(nix::libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX)
}

/// Ids of the programs of a type that run for a cgroup.
pub(super) fn programs_at(cgroup: impl AsFd, attach_type: u32) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; PROGRAMS_MAX as usize];
    let mut query = Query {
        target_fd: number(cgroup.as_fd()),
        attach_type,
        query_flags: BPF_F_QUERY_EFFECTIVE,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: PROGRAMS_MAX,
        pad: 0,
    };
    bpf(BPF_PROG_QUERY, &mut query)?;
    ids.truncate(query.prog_cnt as usize);
    Ok(ids)
}
