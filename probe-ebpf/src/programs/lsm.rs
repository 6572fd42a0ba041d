//! Options that 32-bit programs set, from the hook of the kernel's security modules: the cgroup programs are not run for those
//! (`do_sock_setsockopt` in net/socket.c asks `in_compat_syscall` first).

use bindwatch_probe::abi::counter;
use bindwatch_probe::abi::record::{SetOption, hook, kind};

use super::cgroup::{SOL_SOCKET, decides};
use crate::emit::{self, Urgency, head};
use crate::kernel::{Addr, offset};
use crate::sock::Sk;
use crate::task;

/// An option is about to be set.
///
/// Proves: that a bound socket is asked by a 32-bit system call to change an option that decides about sharing. What it is set to lies in
/// the program's memory, and whether it succeeds is open: user space reads it from the socket, a moment later. Runs for every
/// setsockopt() of the machine, and returns at once for those that are not of 32 bits. Always allows. Floor: 5.7, where BPF is among
/// the security modules (`lsm=`), with trampolines. Kernel: `security_socket_setsockopt`.
///
/// # Safety
/// Called by the kernel, with the socket, level and name as its context, and the verdict so far.
#[unsafe(no_mangle)]
#[unsafe(link_section = "lsm/socket_setsockopt")]
unsafe extern "C" fn socket_setsockopt(context: *const u64) -> i32 {
    if task::is_compat() {
        // SAFETY: as the caller promises.
        let (socket, level, name) = unsafe {
            (Addr::of_pointer(*context as *const u8), *context.add(1) as i32, *context.add(2) as i32)
        };
        if decides(level, name) {
            asked(Sk(socket.follow(offset!(socket_sk))), level, name);
        }
    }
    0
}

/// Tells an option that is asked for, of a socket that can have one to be told.
#[inline(always)]
fn asked(sk: Sk, level: i32, name: i32) {
    // MPTCP sets its subflow's too.
    let sk = sk.of_port();
    let cookie = sk.raw_cookie();
    // A multicast group that was joined before the bind shows nowhere.
    if cookie == 0 || (level == SOL_SOCKET && sk.port() == 0) {
        return;
    }
    emit::emit::<SetOption>(counter::OPTION, Urgency::Routine, |record| {
        let option = SetOption {
            head: head(kind::OPTION, hook::SOCKET_SETSOCKOPT),
            cookie,
            tgid: task::tgid_of(task::current()),
            level,
            name,
            value: 0,
        };
        // SAFETY: the pointer is to a reserved record of this size.
        unsafe { record.write(option) };
    });
}
