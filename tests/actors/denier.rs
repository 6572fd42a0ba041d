//! Another tool with programs at a cgroup: `denier CGROUP bind4|post_bind4|slow|nothing`.
//!
//! `bind4` has the shape of systemd's SocketBindDeny=: EPERM before the port is known. `post_bind4` denies with EACCES when
//! it is. `slow` allows, and takes its time when it is. `nothing` allows whatever it is asked, wherever bindwatch looks: what
//! programs cost that do nothing. Answers each line with `ok`, and goes on until its input ends.

#![expect(unsafe_code, reason = "a system call that no crate has")]

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::process::ExitCode;

use anyhow::{Context as _, bail};

/// `enum bpf_cmd`, `enum bpf_prog_type`, `enum bpf_attach_type`, `enum bpf_func_id` of linux/bpf.h.
const BPF_PROG_LOAD: u32 = 5;
const BPF_LINK_CREATE: u32 = 28;
const BPF_PROG_TYPE_CGROUP_SOCK: u32 = 9;
const BPF_PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;
const BPF_PROG_TYPE_CGROUP_SOCKOPT: u32 = 25;
const BPF_CGROUP_INET_SOCK_CREATE: u32 = 2;
const BPF_CGROUP_INET4_BIND: u32 = 8;
const BPF_CGROUP_INET4_POST_BIND: u32 = 12;
const BPF_CGROUP_SETSOCKOPT: u32 = 22;
const BPF_CGROUP_INET_SOCK_RELEASE: u32 = 34;
const BPF_FUNC_SET_RETVAL: i32 = 187;

/// `struct bpf_insn`: `r0 = 0`, `exit`, `r1 = NUMBER`, `call NUMBER`.
const RETURN_0: [u64; 2] = [0xb7, 0x95];
/// `r1 -= NUMBER`, and two back where r1 is not 0 then.
const COUNT_DOWN: [u64; 2] = [0x117 | 1 << 32, 0x155 | 0xfffe << 16];
/// Some ten microseconds.
const ROUNDS: i32 = 20_000;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("denier: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (cgroup, kind) = (arguments.next().context("CGROUP")?, arguments.next().context("KIND")?);
    let cgroup = File::open(cgroup).context("the cgroup")?;
    let sock = |attach_type| (BPF_PROG_TYPE_CGROUP_SOCK, attach_type);
    let bind4 = (BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_BIND);
    let post_bind4 = sock(BPF_CGROUP_INET4_POST_BIND);
    let (programs, instructions) = match kind.as_str() {
        "bind4" => (vec![bind4], RETURN_0.to_vec()),
        "post_bind4" => {
            let errno = immediate(0x1b7, -libc::EACCES);
            let set = immediate(0x85, BPF_FUNC_SET_RETVAL);
            (vec![post_bind4], [&[errno, set], &RETURN_0[..]].concat())
        }
        "slow" => {
            let allow = [immediate(0xb7, 1), 0x95];
            (vec![post_bind4], [&[immediate(0x1b7, ROUNDS)], &COUNT_DOWN[..], &allow].concat())
        }
        "nothing" => {
            let (made, gone) = (sock(BPF_CGROUP_INET_SOCK_CREATE), sock(BPF_CGROUP_INET_SOCK_RELEASE));
            let option = (BPF_PROG_TYPE_CGROUP_SOCKOPT, BPF_CGROUP_SETSOCKOPT);
            (vec![made, option, bind4, post_bind4, gone], vec![immediate(0xb7, 1), 0x95])
        }
        _ => bail!("unknown kind {kind}"),
    };
    let links = programs.into_iter().map(|(program_type, attach_type)| {
        let program = load(program_type, attach_type, &instructions).context("the program is refused")?;
        let mut create = [0_u32; 4];
        create[0] = program.as_raw_fd().cast_unsigned();
        create[1] = cgroup.as_raw_fd().cast_unsigned();
        create[2] = attach_type;
        bpf(BPF_LINK_CREATE, create.as_ptr().cast(), 16).context("it cannot be attached")
    });
    let links = links.collect::<anyhow::Result<Vec<_>>>()?;
    for line in std::io::stdin().lines() {
        line?;
        println!("ok");
        std::io::stdout().flush()?;
    }
    drop(links);
    Ok(())
}

/// An instruction with an immediate operand, which is its upper half.
fn immediate(code: u64, value: i32) -> u64 {
    code | u64::from(value.cast_unsigned()) << 32
}

fn load(program_type: u32, attach_type: u32, instructions: &[u64]) -> std::io::Result<OwnedFd> {
    let licence = c"GPL";
    // The start of `union bpf_attr` for BPF_PROG_LOAD, up to `expected_attach_type`, as words of 8 bytes.
    let mut attributes = [0_u64; 9];
    attributes[0] = u64::from(program_type) | (instructions.len() as u64) << 32;
    attributes[1] = instructions.as_ptr() as u64;
    attributes[2] = licence.as_ptr() as u64;
    attributes[8] = u64::from(attach_type) << 32;
    bpf(BPF_PROG_LOAD, attributes.as_ptr().cast(), 72)
}

fn bpf(command: u32, attributes: *const u8, size: u32) -> std::io::Result<OwnedFd> {
    // SAFETY: the attributes are as the command wants them, and what they point to lives.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size) };
    let fd = i32::try_from(fd).map_err(std::io::Error::other)?;
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
