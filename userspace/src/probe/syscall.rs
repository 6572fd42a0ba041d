//! bpf(2), where the loader has no call for it: who is attached to a cgroup, and links that can be pinned.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// As much memory as there is.
const NO_LIMIT: Rlimit = Rlimit { current: None, maximum: None };

/// Commands (`enum bpf_cmd`, include/uapi/linux/bpf.h).
const BPF_PROG_LOAD: u32 = 5;
const BPF_OBJ_PIN: u32 = 6;
const BPF_OBJ_GET_INFO_BY_FD: u32 = 15;
const BPF_PROG_QUERY: u32 = 16;
const BPF_RAW_TRACEPOINT_OPEN: u32 = 17;
const BPF_LINK_CREATE: u32 = 28;
const BPF_LINK_UPDATE: u32 = 29;
/// What is attached to the cgroups above counts as well.
const BPF_F_QUERY_EFFECTIVE: u32 = 1;
/// Programs of one type that a cgroup can have (`BPF_CGROUP_MAX_PROGS`), with those of the cgroups above.
const PROGRAMS_MAX: u32 = 1024;

/// `BPF_PROG_TYPE_TRACING`
const PROG_TYPE_TRACING: u32 = 26;
/// `BPF_TRACE_FEXIT`
const TRACE_FEXIT: u32 = 25;
/// A program that does nothing: `r0 = 0; exit` (`struct bpf_insn`, in the machine's byte order; all other fields are zero).
const DO_NOTHING: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 0, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];

/// `BPF_CGROUP_INET_SOCK_CREATE`
pub(super) const INET_SOCK_CREATE: u32 = 2;
/// `BPF_CGROUP_SOCK_OPS`
pub(super) const SOCK_OPS: u32 = 3;
/// `BPF_CGROUP_INET4_BIND`
pub(super) const INET4_BIND: u32 = 8;
/// `BPF_CGROUP_INET6_BIND`
pub(super) const INET6_BIND: u32 = 9;
/// `BPF_CGROUP_INET4_CONNECT`
pub(super) const INET4_CONNECT: u32 = 10;
/// `BPF_CGROUP_INET6_CONNECT`
pub(super) const INET6_CONNECT: u32 = 11;
/// `BPF_CGROUP_INET4_POST_BIND`
pub(super) const INET4_POST_BIND: u32 = 12;
/// `BPF_CGROUP_INET6_POST_BIND`
pub(super) const INET6_POST_BIND: u32 = 13;
/// `BPF_CGROUP_SETSOCKOPT`
pub(super) const SETSOCKOPT: u32 = 22;
/// `BPF_CGROUP_INET_SOCK_RELEASE`
pub(super) const INET_SOCK_RELEASE: u32 = 34;

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

/// `BPF_PROG_TYPE_CGROUP_SOCK`
pub(super) const CGROUP_SOCK: u32 = 9;

/// `union bpf_attr` for BPF_LINK_CREATE (5.7).
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

/// `union bpf_attr` for BPF_LINK_UPDATE (5.7).
#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// `union bpf_attr` for BPF_RAW_TRACEPOINT_OPEN.
#[repr(C)]
struct RawTracepoint {
    name: u64,
    prog_fd: u32,
    pad: u32,
}

/// `union bpf_attr` for BPF_PROG_LOAD, up to 5.5's fields.
#[derive(Default)]
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
    attach_prog_fd: u32,
    pad: u32,
}

/// `union bpf_attr` for BPF_OBJ_GET_INFO_BY_FD.
#[repr(C)]
struct GetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// Where `recursion_misses` lies in `struct bpf_prog_info` (5.12), in words of 8 bytes, and how many there are up to it.
const MISSES: usize = 26;

/// `union bpf_attr` for BPF_OBJ_PIN.
#[repr(C)]
struct Pin {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
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

/// Loads a program. Before 5.11 the memory of programs and maps counts as locked by the user, whoever of its processes made them, so
/// that another recording can use root's limit up (EPERM): it is lifted for the call.
fn load_program(load: &mut Load) -> io::Result<OwnedFd> {
    match bpf(BPF_PROG_LOAD, load) {
        Err(error) if error.raw_os_error() == Some(nix::libc::EPERM) => {
            let limit = getrlimit(Resource::Memlock);
            if limit.current.is_none() || setrlimit(Resource::Memlock, NO_LIMIT).is_err() {
                return Err(error);
            }
            let loaded = bpf(BPF_PROG_LOAD, load);
            // Lowering it is always permitted.
            let _ = setrlimit(Resource::Memlock, limit);
            owned(loaded?)
        }
        other => owned(other?),
    }
}

/// How often the kernel did not run a program because it was running (5.12); 0 where it does not say.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn recursion_misses(program: impl AsFd) -> io::Result<u64> {
    // Nothing is asked for that the kernel would write elsewhere: its addresses are 0.
    let mut info = [0_u64; MISSES + 1];
    let info_len = u32::try_from(size_of_val(&info)).unwrap_or(0);
    let mut get = GetInfo {
        bpf_fd: number(program.as_fd()),
        info_len,
        info: info.as_mut_ptr().expose_provenance() as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut get)?;
    Ok(info[MISSES])
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

/// Loads a program that is given by its instructions (`struct bpf_insn`, as numbers).
pub(super) fn load(prog_type: u32, attach_type: u32, instructions: &[u64]) -> io::Result<OwnedFd> {
    let mut load = Load {
        prog_type,
        insn_cnt: u32::try_from(instructions.len()).unwrap_or(u32::MAX),
        insns: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        expected_attach_type: attach_type,
        ..Load::default()
    };
    load_program(&mut load)
}

/// Attaches a program to a cgroup for as long as the link is open, or pinned.
pub(super) fn link(program: impl AsFd, cgroup: impl AsFd, attach_type: u32) -> io::Result<OwnedFd> {
    let mut create = LinkCreate {
        prog_fd: number(program.as_fd()),
        target_fd: number(cgroup.as_fd()),
        attach_type,
        flags: 0,
    };
    owned(bpf(BPF_LINK_CREATE, &mut create)?)
}

/// Puts a program in the place of the one that a link to a cgroup attaches. None that runs for the cgroup is missed meanwhile.
pub(super) fn exchange(link: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let mut update = LinkUpdate {
        link_fd: number(link.as_fd()),
        new_prog_fd: number(program.as_fd()),
        flags: 0,
        old_prog_fd: 0,
    };
    bpf(BPF_LINK_UPDATE, &mut update).map(drop)
}

/// Attaches a program to a raw tracepoint, likewise.
pub(super) fn link_raw_tracepoint(program: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let name = CString::new(name)?;
    let mut open = RawTracepoint { name: name.as_ptr() as u64, prog_fd: number(program.as_fd()), pad: 0 };
    owned(bpf(BPF_RAW_TRACEPOINT_OPEN, &mut open)?)
}

/// Whether a program can be attached to the exit of the function with this id: one that does nothing is, for a moment.
pub(super) fn try_function_exit(id: u32) -> io::Result<()> {
    let mut load = Load {
        prog_type: PROG_TYPE_TRACING,
        insn_cnt: 2,
        insns: DO_NOTHING.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        expected_attach_type: TRACE_FEXIT,
        attach_btf_id: id,
        ..Load::default()
    };
    let program = load_program(&mut load)?;
    let mut open = RawTracepoint { name: 0, prog_fd: number(program.as_fd()), pad: 0 };
    owned(bpf(BPF_RAW_TRACEPOINT_OPEN, &mut open)?).map(drop)
}

#[expect(unsafe_code, reason = "the kernel gives a number")]
fn owned(fd: i64) -> io::Result<OwnedFd> {
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: a descriptor that was just made for us, and is close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Gives a link or a map a name in a BPF file system, which keeps it.
pub(super) fn pin(object: impl AsFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut pin = Pin { pathname: path.as_ptr() as u64, bpf_fd: number(object.as_fd()), file_flags: 0 };
    bpf(BPF_OBJ_PIN, &mut pin).map(drop)
}
