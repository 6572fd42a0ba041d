//! The offsets the probe needs, from the running kernel's BTF and tracefs.

use std::path::Path;

use bindwatch_probe::abi::config::{ABSENT, Offsets};

use super::backend::{FUNCTIONS, LISTEN_START};
use super::btf::{Btf, Function};
use super::vmlinux::Types;
use super::{ProbeError, lsm};

/// `PIDTYPE_SID`, as a pointer index into `signal_struct.pids` (include/linux/pid_types.h).
const PIDTYPE_SID: u32 = 3;

const STRUCTS: [&str; 36] = [
    "cred",
    "css_set",
    "task_struct",
    "signal_struct",
    "pid",
    "mm_struct",
    "linux_binprm",
    "sock_common",
    "sock",
    "tcp_sock",
    "socket",
    "net",
    "file",
    "inode",
    "cgroup",
    "kernfs_node",
    "upid",
    "inet_sock",
    "ns_common",
    "atomic_t",
    "possible_net_t",
    "mptcp_sock",
    "io_kiocb",
    "files_struct",
    "fdtable",
    "pt_regs",
    "inet_connection_sock",
    "inet_bind_bucket",
    "inet_bind2_bucket",
    "net_device",
    "path",
    "dentry",
    "qstr",
    "vfsmount",
    "mount",
    "cgroup_root",
];

/// What io_uring binds with, where it can (6.11: io_uring/net.c).
const IO_BIND: &str = "io_bind";

/// Reads the offsets from the kernel's BTF. Those of io_uring's tracepoints are left out: see [`add_uring`].
///
/// # Errors
/// When the kernel has no BTF, or lacks a field that the probe cannot do without.
pub(super) fn resolve() -> Result<Resolved, ProbeError> {
    let blob = Types::of_kernel().map_err(|source| ProbeError::NoBtf { source })?;
    let helpers = ["bpf_get_retval", IO_BIND, "bpf_get_current_task_btf", "bpf_task_pt_regs", "bpf_loop"];
    let asked = [[TASK_FILE, TASK, lsm::FUNCTION].as_slice(), &helpers].concat();
    let functions = [asked.as_slice(), &FUNCTIONS].concat();
    let btf = Btf::parse(&blob, &STRUCTS, &functions).map_err(|source| ProbeError::BadBtf { source })?;
    let mut offsets = from_btf(&btf);
    let [get_retval, io_bind, task, registers, loops] = helpers.map(|name| btf.function(name));
    let by_process = loops.and_then(|_| btf.function(TASK));
    let inside = FUNCTIONS.map(|name| btf.function(name));
    // Elsewhere the register of the first argument becomes that of the result.
    let arguments_stay = btf.offset("pt_regs", "di") != ABSENT && offsets.regs_second != ABSENT;
    if task.is_some() && registers.is_some() {
        offsets.task_itself = 0;
        if arguments_stay {
            offsets.task_pt_regs = 0;
        }
    }
    offsets.get_retval = if get_retval.is_some() { 0 } else { ABSENT };
    // A program's context at a function's exit is its arguments and its result, a word each.
    let listen_start = FUNCTIONS.iter().zip(inside).find(|(name, _)| **name == LISTEN_START);
    offsets.listen_result =
        listen_start.and_then(|(_, function)| function).map_or(ABSENT, |function| 8 * function.arguments);
    let needed = [
        ("task_struct.tgid", offsets.task_tgid),
        ("task_struct.group_leader", offsets.task_group_leader),
        ("task_struct.start_boottime", offsets.task_start_boottime),
        ("task_struct.signal", offsets.task_signal),
        ("signal_struct.live", offsets.signal_live),
        ("sock_common.skc_num", offsets.skc_num),
        ("inet_sock.inet_sport", offsets.inet_sport),
        ("sock_common.skc_family", offsets.skc_family),
        ("sock_common.skc_state", offsets.skc_state),
        ("sock_common.skc_cookie", offsets.skc_cookie),
        ("sock_common.skc_net", offsets.skc_net),
        ("net.ns.inum", offsets.net_inum),
        ("sock.sk_protocol", offsets.sk_protocol),
        ("sock_common.skc_reuseport", offsets.skc_reuseport.byte),
    ];
    match needed.iter().find(|(_, offset)| *offset == ABSENT) {
        Some((field, _)) => Err(ProbeError::NoField { field }),
        None => Ok(Resolved {
            offsets,
            listings: Listings {
                by_file: btf.function(TASK_FILE).map(|function| function.id),
                by_process: by_process.map(|function| function.id),
            },
            inside,
            lsm_function: btf.function(lsm::FUNCTION).map(|function| function.id),
            binds_by_uring: io_bind.is_some(),
        }),
    }
}

/// The function that an `iter/task_file` program attaches to.
pub(super) const TASK_FILE: &str = "bpf_iter_task_file";
/// That of an `iter/task` program.
pub(super) const TASK: &str = "bpf_iter_task";

/// The ids of the functions that programs can attach to which list descriptors.
#[derive(Clone, Copy, Default)]
pub(super) struct Listings {
    /// [`TASK_FILE`], where it exists.
    pub(super) by_file: Option<u32>,
    /// [`TASK`], where programs can loop (5.17).
    pub(super) by_process: Option<u32>,
}

/// What the kernel's BTF tells.
pub(super) struct Resolved {
    /// Where its fields are.
    pub(super) offsets: Offsets,
    /// What programs that list descriptors can attach to.
    pub(super) listings: Listings,
    /// The functions that carry calls out, in the order of [`FUNCTIONS`].
    pub(super) inside: [Option<Function>; FUNCTIONS.len()],
    /// The id of [`lsm::FUNCTION`], where it exists.
    pub(super) lsm_function: Option<u32>,
    /// io_uring can bind.
    pub(super) binds_by_uring: bool,
}

impl Resolved {
    /// Every function that a program can attach to, and its id.
    pub(super) fn functions(&self) -> Vec<(&'static str, u32)> {
        let Listings { by_file, by_process } = self.listings;
        let inside = FUNCTIONS.into_iter().zip(self.inside.map(|found| found.map(|found| found.id)));
        [(TASK_FILE, by_file), (TASK, by_process), (lsm::FUNCTION, self.lsm_function)]
            .into_iter()
            .chain(inside)
            .filter_map(|(name, id)| Some((name, id?)))
            .collect()
    }
}

fn from_btf(btf: &Btf<'_>) -> Offsets {
    let task = |path| btf.offset("task_struct", path);
    let skc = |path| btf.offset("sock_common", path);
    let sk = |path| btf.offset("sock", path);
    let pids = btf.offset("signal_struct", "pids");
    Offsets {
        task_tgid: task("tgid"),
        task_pid: task("pid"),
        task_group_leader: task("group_leader"),
        task_real_parent: task("real_parent"),
        task_start_boottime: task("start_boottime"),
        task_mm: task("mm"),
        task_signal: task("signal"),
        task_flags: task("flags"),
        task_comm: task("comm"),
        task_status: task("thread_info.status"),
        task_files: task("files"),
        files_fdt: btf.offset("files_struct", "fdt"),
        fdtable_fd: btf.offset("fdtable", "fd"),
        fdtable_max: btf.offset("fdtable", "max_fds"),
        signal_live: btf.offset("signal_struct", "live"),
        signal_session: if pids == ABSENT { ABSENT } else { pids + 8 * PIDTYPE_SID },
        pid_nr: btf.offset("pid", "numbers.nr"),
        mm_arg_start: btf.offset("mm_struct", "arg_start"),
        mm_arg_end: btf.offset("mm_struct", "arg_end"),
        mm_env_start: btf.offset("mm_struct", "env_start"),
        mm_env_end: btf.offset("mm_struct", "env_end"),
        mm_exe_file: btf.offset("mm_struct", "exe_file"),
        file_mount: btf.offset("file", "f_path.mnt"),
        file_dentry: btf.offset("file", "f_path.dentry"),
        dentry_parent: btf.offset("dentry", "d_parent"),
        dentry_name: btf.offset("dentry", "d_name.name"),
        vfsmount_root: btf.offset("vfsmount", "mnt_root"),
        mount_mnt: btf.offset("mount", "mnt"),
        mount_parent: btf.offset("mount", "mnt_parent"),
        mount_point: btf.offset("mount", "mnt_mountpoint"),
        cgroup_root: btf.offset("cgroup", "root"),
        root_hierarchy: btf.offset("cgroup_root", "hierarchy_id"),
        bprm_filename: btf.offset("linux_binprm", "filename"),
        bprm_interp: btf.offset("linux_binprm", "interp"),
        skc_num: skc("skc_num"),
        inet_sport: btf.offset("inet_sock", "inet_sport"),
        skc_dport: skc("skc_dport"),
        skc_family: skc("skc_family"),
        skc_state: skc("skc_state"),
        skc_bound_dev_if: skc("skc_bound_dev_if"),
        skc_rcv_saddr: skc("skc_rcv_saddr"),
        skc_v6_rcv_saddr: skc("skc_v6_rcv_saddr"),
        skc_cookie: skc("skc_cookie"),
        skc_net: skc("skc_net"),
        net_inum: btf.offset("net", "ns.inum"),
        net_cookie: btf.offset("net", "net_cookie"),
        sk_protocol: sk("sk_protocol"),
        sk_type: sk("sk_type"),
        sk_uid: sk("sk_uid"),
        sk_ack_backlog: sk("sk_ack_backlog"),
        sk_shutdown: sk("sk_shutdown"),
        socket_sk: btf.offset("socket", "sk"),
        file_private_data: btf.offset("file", "private_data"),
        file_inode: btf.offset("file", "f_inode"),
        inode_mode: btf.offset("inode", "i_mode"),
        inode_ino: btf.offset("inode", "i_ino"),
        task_cred: task("cred"),
        cred_uid: btf.offset("cred", "uid"),
        task_cgroups: task("cgroups"),
        css_set_dfl_cgrp: btf.offset("css_set", "dfl_cgrp"),
        cgroup_kn: btf.offset("cgroup", "kn"),
        kernfs_id: btf.offset("kernfs_node", "id"),
        mptcp_first: btf.offset("mptcp_sock", "first"),
        uring_file: btf.offset("io_kiocb", "file"),
        regs_result: register(btf, "ax"),
        regs_argument: register(btf, "di"),
        regs_second: btf.offset("pt_regs", "si"),
        icsk_bind_hash: btf.offset("inet_connection_sock", "icsk_bind_hash"),
        tb_bhash2: btf.offset("inet_bind_bucket", "bhash2"),
        tb_owners: btf.offset("inet_bind_bucket", "owners"),
        tb2_node: btf.offset("inet_bind2_bucket", "bhash_node"),
        tb2_owners: btf.offset("inet_bind2_bucket", "owners"),
        skc_node: skc("skc_node"),
        net_devices: btf.offset("net", "dev_base_head"),
        dev_list: btf.offset("net_device", "dev_list"),
        dev_name: btf.offset("net_device", "name"),
        dev_index: btf.offset("net_device", "ifindex"),
        skc_reuse: btf.bit_field("sock_common", "skc_reuse"),
        skc_reuseport: btf.bit_field("sock_common", "skc_reuseport"),
        skc_ipv6only: btf.bit_field("sock_common", "skc_ipv6only"),
        tcp_is_mptcp: btf.bit_field("tcp_sock", "is_mptcp"),
        ..Offsets::NONE
    }
}

/// A register by its name on x86; on arm64 the first of all holds both the first argument and the result.
fn register(btf: &Btf<'_>, x86: &str) -> u32 {
    let at = btf.offset("pt_regs", x86);
    if at == ABSENT { btf.offset("pt_regs", "regs") } else { at }
}

/// Adds the fields of io_uring's tracepoints from their format files; leaves them absent where there are none
/// (no io_uring, or a kernel whose records have no request).
pub(super) fn add_uring(offsets: &mut Offsets, tracefs: &Path) {
    let field = |event: &str, name: &str| {
        let path = tracefs.join("events/io_uring").join(event).join("format");
        std::fs::read_to_string(path).ok().and_then(|format| field_offset(&format, name)).unwrap_or(ABSENT)
    };
    let found = [
        field("io_uring_complete", "req"),
        field("io_uring_complete", "res"),
        field("io_uring_submit_req", "req"),
        field("io_uring_submit_req", "opcode"),
        field("io_uring_submit_req", "flags"),
        // Its request leads to the socket.
        offsets.uring_file,
    ];
    if found.contains(&ABSENT) {
        return;
    }
    [
        offsets.uring_complete_req,
        offsets.uring_complete_res,
        offsets.uring_submit_req,
        offsets.uring_submit_opcode,
        offsets.uring_submit_flags,
        offsets.uring_file,
    ] = found;
}

/// The offset of a field in a tracepoint's format file: `field:void * req; offset:16; size:8; signed:0;`, with tabs
/// between.
fn field_offset(format: &str, name: &str) -> Option<u32> {
    format.lines().find_map(|line| {
        let (declaration, rest) = line.trim().strip_prefix("field:")?.split_once(';')?;
        let declared = declaration.rsplit([' ', '*']).next()?;
        if declared.split('[').next()? != name {
            return None;
        }
        rest.trim().strip_prefix("offset:")?.split_once(';')?.0.trim().parse().ok()
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    #[test]
    fn finds_fields_in_a_format_file() {
        let format = "name: io_uring_complete\nID: 1\nformat:\n\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n\
             \tfield:void * ctx;\toffset:8;\tsize:8;\tsigned:0;\n\tfield:void * req;\toffset:16;\tsize:8;\tsigned:0;\n\
             \tfield:int res;\toffset:32;\tsize:4;\tsigned:1;\n";
        assert_eq!(field_offset(format, "req"), Some(16));
        assert_eq!(field_offset(format, "res"), Some(32));
        assert_eq!(field_offset(format, "opcode"), None);
    }

    #[test]
    fn resolves_every_field_on_the_running_kernel() {
        let Resolved { offsets, listings, .. } = resolve().unwrap();
        assert_eq!(offsets.skc_family, 16, "sock_common begins with two addresses, a hash and two ports");
        assert!(
            offsets.skc_reuse.mask == 0xf
                && offsets.skc_reuseport.mask == 1
                && offsets.skc_ipv6only.mask == 1
        );
        assert!(listings.by_file.is_some(), "iterators exist since 5.8");
    }
}
