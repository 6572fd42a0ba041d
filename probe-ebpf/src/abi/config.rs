//! What user space tells the programs before they load: read-only globals, filled from the running kernel's BTF.

/// Value of an offset that this kernel's BTF does not have; the programs then leave the field zero.
pub const ABSENT: u32 = u32::MAX;

/// A bit field: the byte it lies in, the bit it starts at in that byte, and how wide it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitField {
    /// Offset of the byte from the start of the struct, or [`ABSENT`].
    pub byte: u32,
    /// Lowest bit in that byte.
    pub shift: u32,
    /// Mask after the shift.
    pub mask: u32,
}

impl BitField {
    /// A field this kernel does not have.
    pub const NONE: Self = Self { byte: ABSENT, shift: 0, mask: 0 };
}

/// Byte offsets of the kernel fields the programs read, resolved from BTF when bindwatch starts.
///
/// No layout is baked into the programs: each name below is `struct__field`, looked up in `/sys/kernel/btf/vmlinux`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// `task_struct.tgid`
    pub task_tgid: u32,
    /// `task_struct.pid` (the thread)
    pub task_pid: u32,
    /// `task_struct.group_leader`
    pub task_group_leader: u32,
    /// `task_struct.real_parent`
    pub task_real_parent: u32,
    /// `task_struct.start_boottime` (5.5), ns
    pub task_start_boottime: u32,
    /// `task_struct.mm`
    pub task_mm: u32,
    /// `task_struct.signal`
    pub task_signal: u32,
    /// `task_struct.flags`
    pub task_flags: u32,
    /// `task_struct.comm`
    pub task_comm: u32,
    /// `task_struct.thread_info.status` (x86): whether the system call is a 32-bit one
    pub task_status: u32,
    /// `task_struct.files`
    pub task_files: u32,
    /// `files_struct.fdt`
    pub files_fdt: u32,
    /// `fdtable.fd`
    pub fdtable_fd: u32,
    /// `fdtable.max_fds`
    pub fdtable_max: u32,
    /// `signal_struct.live.counter`: threads of the group that have not begun to exit
    pub signal_live: u32,
    /// `signal_struct.pids[PIDTYPE_SID]`
    pub signal_session: u32,
    /// `pid.numbers[0].nr`
    pub pid_nr: u32,
    /// `mm_struct.arg_start`
    pub mm_arg_start: u32,
    /// `mm_struct.arg_end`
    pub mm_arg_end: u32,
    /// `mm_struct.env_start`
    pub mm_env_start: u32,
    /// `mm_struct.env_end`
    pub mm_env_end: u32,
    /// `mm_struct.exe_file`
    pub mm_exe_file: u32,
    /// `file.f_path.mnt`
    pub file_mount: u32,
    /// `file.f_path.dentry`
    pub file_dentry: u32,
    /// `dentry.d_parent`
    pub dentry_parent: u32,
    /// `dentry.d_name.name`
    pub dentry_name: u32,
    /// `vfsmount.mnt_root`
    pub vfsmount_root: u32,
    /// `mount.mnt`
    pub mount_mnt: u32,
    /// `mount.mnt_parent`
    pub mount_parent: u32,
    /// `mount.mnt_mountpoint`
    pub mount_point: u32,
    /// `cgroup.root`
    pub cgroup_root: u32,
    /// `cgroup_root.hierarchy_id`: 0 is cgroup2
    pub root_hierarchy: u32,
    /// `linux_binprm.filename`
    pub bprm_filename: u32,
    /// `linux_binprm.interp`
    pub bprm_interp: u32,
    /// `sock_common.skc_num`: local port, host order
    pub skc_num: u32,
    /// `inet_sock.inet_sport`: the same in network order, from the instant at which its bind is carried out
    pub inet_sport: u32,
    /// `sock_common.skc_dport`: 0 unless connected
    pub skc_dport: u32,
    /// `sock_common.skc_family`
    pub skc_family: u32,
    /// `sock_common.skc_state`
    pub skc_state: u32,
    /// `sock_common.skc_bound_dev_if`
    pub skc_bound_dev_if: u32,
    /// `sock_common.skc_rcv_saddr`
    pub skc_rcv_saddr: u32,
    /// `sock_common.skc_v6_rcv_saddr`
    pub skc_v6_rcv_saddr: u32,
    /// `sock_common.skc_cookie`
    pub skc_cookie: u32,
    /// `sock_common.skc_net`
    pub skc_net: u32,
    /// `net.ns.inum`
    pub net_inum: u32,
    /// `net.net_cookie`
    pub net_cookie: u32,
    /// `sock.sk_protocol`
    pub sk_protocol: u32,
    /// `sock.sk_type`
    pub sk_type: u32,
    /// `sock.sk_uid`
    pub sk_uid: u32,
    /// `sock.sk_ack_backlog`
    pub sk_ack_backlog: u32,
    /// `sock.sk_shutdown`
    pub sk_shutdown: u32,
    /// `socket.sk`
    pub socket_sk: u32,
    /// `file.private_data`
    pub file_private_data: u32,
    /// `file.f_inode`
    pub file_inode: u32,
    /// `inode.i_mode`
    pub inode_mode: u32,
    /// `inode.i_ino`
    pub inode_ino: u32,
    /// `task_struct.cred`
    pub task_cred: u32,
    /// `cred.uid`: the real user id
    pub cred_uid: u32,
    /// `task_struct.cgroups`
    pub task_cgroups: u32,
    /// `css_set.dfl_cgrp`: the cgroup in the cgroup2 hierarchy
    pub css_set_dfl_cgrp: u32,
    /// `cgroup.kn`
    pub cgroup_kn: u32,
    /// `kernfs_node.id`
    pub kernfs_id: u32,
    /// `mptcp_sock.first`: the subflow that holds the port
    pub mptcp_first: u32,
    /// Whether programs can ask what those before them have said (`bpf_get_retval`, 5.18): absent where not
    pub get_retval: u32,
    /// `io_kiocb.file`
    pub uring_file: u32,
    /// Field `req` in the record of the tracepoint `io_uring:io_uring_complete`, from tracefs
    pub uring_complete_req: u32,
    /// Field `res` there
    pub uring_complete_res: u32,
    /// Field `req` in the record of the tracepoint `io_uring:io_uring_submit_req`, from tracefs
    pub uring_submit_req: u32,
    /// Field `opcode` there
    pub uring_submit_opcode: u32,
    /// Field `flags` there
    pub uring_submit_flags: u32,
    /// Where the result of `inet_csk_listen_start` lies in the context of a program at its exit: it has one argument more
    /// before 5.17
    pub listen_result: u32,
    /// The register in `pt_regs` that holds a function's result, and on its entry
    pub regs_result: u32,
    /// its first argument
    pub regs_argument: u32,
    /// `inet_connection_sock.icsk_bind_hash`: the port that a TCP socket has, as an `inet_bind_bucket`
    pub icsk_bind_hash: u32,
    /// `inet_bind_bucket.bhash2`: its addresses (6.8)
    pub tb_bhash2: u32,
    /// `inet_bind_bucket.owners`: its sockets (before 6.8)
    pub tb_owners: u32,
    /// `inet_bind2_bucket.bhash_node`: one of its addresses (6.8)
    pub tb2_node: u32,
    /// `inet_bind2_bucket.owners`: the sockets of that (6.8)
    pub tb2_owners: u32,
    /// `sock_common.skc_node`: the next of the UDP sockets with the same hash of ports
    pub skc_node: u32,
    /// Whether programs can ask where a task keeps the registers of its system call (`bpf_task_pt_regs`, 5.15), and those still
    /// hold its arguments when it ends (x86): absent where not
    pub task_pt_regs: u32,
    /// Whether programs of all kinds can have the running task as such, to be read without a helper (5.15, by the presence of
    /// `bpf_task_pt_regs`): absent where not
    pub task_itself: u32,
    /// The register that holds a function's second argument on its entry
    pub regs_second: u32,
    /// `net.dev_base_head`: the network devices of a namespace
    pub net_devices: u32,
    /// `net_device.dev_list`: the next of them
    pub dev_list: u32,
    /// `net_device.name`
    pub dev_name: u32,
    /// `net_device.ifindex`
    pub dev_index: u32,
    /// `sock_common.skc_reuse`
    pub skc_reuse: BitField,
    /// `sock_common.skc_reuseport`
    pub skc_reuseport: BitField,
    /// `sock_common.skc_ipv6only`
    pub skc_ipv6only: BitField,
    /// `tcp_sock.is_mptcp`
    pub tcp_is_mptcp: BitField,
}

impl Offsets {
    /// Nothing resolved: what the object holds until the loader overrides it.
    pub const NONE: Self = Self {
        task_tgid: ABSENT,
        task_pid: ABSENT,
        task_group_leader: ABSENT,
        task_real_parent: ABSENT,
        task_start_boottime: ABSENT,
        task_mm: ABSENT,
        task_signal: ABSENT,
        task_flags: ABSENT,
        task_comm: ABSENT,
        task_status: ABSENT,
        task_files: ABSENT,
        files_fdt: ABSENT,
        fdtable_fd: ABSENT,
        fdtable_max: ABSENT,
        signal_live: ABSENT,
        signal_session: ABSENT,
        pid_nr: ABSENT,
        mm_arg_start: ABSENT,
        mm_arg_end: ABSENT,
        mm_env_start: ABSENT,
        mm_env_end: ABSENT,
        mm_exe_file: ABSENT,
        file_mount: ABSENT,
        file_dentry: ABSENT,
        dentry_parent: ABSENT,
        dentry_name: ABSENT,
        vfsmount_root: ABSENT,
        mount_mnt: ABSENT,
        mount_parent: ABSENT,
        mount_point: ABSENT,
        cgroup_root: ABSENT,
        root_hierarchy: ABSENT,
        bprm_filename: ABSENT,
        bprm_interp: ABSENT,
        skc_num: ABSENT,
        inet_sport: ABSENT,
        skc_dport: ABSENT,
        skc_family: ABSENT,
        skc_state: ABSENT,
        skc_bound_dev_if: ABSENT,
        skc_rcv_saddr: ABSENT,
        skc_v6_rcv_saddr: ABSENT,
        skc_cookie: ABSENT,
        skc_net: ABSENT,
        net_inum: ABSENT,
        net_cookie: ABSENT,
        sk_protocol: ABSENT,
        sk_type: ABSENT,
        sk_uid: ABSENT,
        sk_ack_backlog: ABSENT,
        sk_shutdown: ABSENT,
        socket_sk: ABSENT,
        file_private_data: ABSENT,
        file_inode: ABSENT,
        inode_mode: ABSENT,
        inode_ino: ABSENT,
        task_cred: ABSENT,
        cred_uid: ABSENT,
        task_cgroups: ABSENT,
        css_set_dfl_cgrp: ABSENT,
        cgroup_kn: ABSENT,
        kernfs_id: ABSENT,
        mptcp_first: ABSENT,
        get_retval: ABSENT,
        uring_file: ABSENT,
        uring_complete_req: ABSENT,
        uring_complete_res: ABSENT,
        uring_submit_req: ABSENT,
        uring_submit_opcode: ABSENT,
        uring_submit_flags: ABSENT,
        listen_result: ABSENT,
        regs_result: ABSENT,
        regs_argument: ABSENT,
        icsk_bind_hash: ABSENT,
        tb_bhash2: ABSENT,
        tb_owners: ABSENT,
        tb2_node: ABSENT,
        tb2_owners: ABSENT,
        skc_node: ABSENT,
        task_pt_regs: ABSENT,
        task_itself: ABSENT,
        regs_second: ABSENT,
        net_devices: ABSENT,
        dev_list: ABSENT,
        dev_name: ABSENT,
        dev_index: ABSENT,
        skc_reuse: BitField::NONE,
        skc_reuseport: BitField::NONE,
        skc_ipv6only: BitField::NONE,
        tcp_is_mptcp: BitField::NONE,
    };
}

const _: () = assert!(size_of::<Offsets>() == 86 * 4 + 4 * 12);
