//! As `fexit`, by kretprobes, for kernels without trampolines. Where the registers lie is resolved from BTF.
//!
//! Misses more than `fexit`: a kretprobe that finds too many calls under way, and one that hits while another program
//! runs on the CPU, stays silent. The attempt is then told as unresolved when its thread makes the next. Cost: more than
//! `fexit` for each bind and connect; nothing for the rest.

use bindwatch_probe::abi::record::hook;

use super::{attempt, ends};
use crate::kernel::{Addr, offset};
use crate::sock::{AF_INET, Sk};
use crate::task;

/// A program whose body is given the registers.
macro_rules! at {
    ($name:ident, $section:literal, |$registers:ident| $body:expr) => {
        /// See the module.
        ///
        /// # Safety
        /// Called by the kernel, with the registers.
        #[unsafe(no_mangle)]
        #[unsafe(link_section = $section)]
        unsafe extern "C" fn $name($registers: *const u8) -> i32 {
            $body;
            0
        }
    };
}

/// What the function gives back.
#[inline(always)]
fn result(registers: *const u8) -> i32 {
    Addr::of_pointer(registers).read(offset!(regs_result))
}

/// Keeps the socket that a function is called with until it returns: the registers do not.
#[inline(always)]
fn begins(registers: *const u8) {
    let Some(entry) = attempt::entry(task::tid()) else { return };
    let sk: u64 = Addr::of_pointer(registers).read(offset!(regs_argument));
    // SAFETY: the entry is this thread's own.
    unsafe { (*entry).aside = sk };
}

/// The socket that was kept, once.
#[inline(always)]
fn kept() -> Option<Sk> {
    let entry = attempt::of(task::tid())?;
    // SAFETY: the entry is this thread's own.
    let entry = unsafe { &mut *entry };
    let sk = entry.aside;
    entry.aside = 0;
    (sk != 0).then_some(Sk(Addr(sk)))
}

at!(kret_inet_bind, "kretprobe/inet_bind", |regs| ends::of_bind(result(regs), hook::INET_BIND));
at!(kret_inet6_bind, "kretprobe/inet6_bind", |regs| ends::of_bind(result(regs), hook::INET6_BIND));
at!(kret_mptcp_bind, "kretprobe/mptcp_bind", |regs| ends::of_bind(result(regs), hook::MPTCP_BIND));
at!(kret_listen_start, "kretprobe/inet_csk_listen_start", |regs| ends::of_listen(
    result(regs),
    hook::INET_CSK_LISTEN_START
));
at!(kret_tcp_v4_connect, "kretprobe/tcp_v4_connect", |regs| ends::of_connect(
    result(regs),
    AF_INET,
    hook::TCP_V4_CONNECT
));
at!(kret_tcp_v6_connect, "kretprobe/tcp_v6_connect", |regs| ends::of_connect(
    result(regs),
    0,
    hook::TCP_V6_CONNECT
));
at!(kprobe_inet_autobind, "kprobe/inet_autobind", |regs| begins(regs));
at!(kret_inet_autobind, "kretprobe/inet_autobind", |regs| if let Some(sk) = kept() {
    ends::of_autobind(sk, result(regs), hook::INET_AUTOBIND);
});
at!(kret_ip4_connect, "kretprobe/__ip4_datagram_connect", |regs| ends::of_connect(
    result(regs),
    AF_INET,
    hook::IP4_DATAGRAM_CONNECT
));
at!(kret_ip6_connect, "kretprobe/__ip6_datagram_connect", |regs| ends::of_connect(
    result(regs),
    0,
    hook::IP6_DATAGRAM_CONNECT
));
at!(kprobe_udp_disconnect, "kprobe/udp_disconnect", |regs| begins(regs));
at!(kret_udp_disconnect, "kretprobe/udp_disconnect", |_regs| if let Some(sk) = kept() {
    ends::of_disconnect(sk, hook::UDP_DISCONNECT);
});
