//! How calls end, from the functions of the kernel that carry them out: at their exits, by BPF trampolines (5.5, x86;
//! the table in user space says which functions, and what each is needed for).
//!
//! Proves: the result of every bind, listen and connect, whatever door it came through (io_uring, 32-bit system calls),
//! and of automatic binds; a refusal by a program of another tool included. Misses: a call during which the same program
//! runs already on the same CPU, where the kernel is preemptible (the kernel guards its programs against themselves);
//! its attempt is told as unresolved when its thread makes the next. Cost: nothing where nobody binds or connects.
//!
//! The functions are called through pointers, so no compiler has inlined them; how many arguments each has is compared
//! with the kernel's BTF before its program is loaded. The context of a program is the arguments, then the result.

use bindwatch_probe::abi::record::hook;

use super::ends;
use crate::kernel::{Addr, offset};
use crate::sock::{AF_INET, Sk};

/// A program at the exit of a function, whose body is given the context.
macro_rules! at_exit {
    ($name:ident, $section:literal, |$context:ident| $body:expr) => {
        /// See the module.
        ///
        /// # Safety
        /// Called by the kernel, with the context of its kind.
        #[unsafe(no_mangle)]
        #[unsafe(link_section = $section)]
        unsafe extern "C" fn $name(context: *const u64) -> i32 {
            let $context = Context(context);
            $body;
            0
        }
    };
}

/// The arguments of a function, and its result.
#[derive(Clone, Copy)]
struct Context(*const u64);

impl Context {
    /// The word with this number, as an `int`.
    #[inline(always)]
    fn int(self, number: usize) -> i32 {
        // SAFETY: every function has as many arguments as its program takes it to have, less one (user space compares
        // them); the verifier refuses a program that reads further.
        unsafe { *self.0.add(number) as i32 }
    }

    /// The first argument, of a function whose first is a `struct sock *`.
    #[inline(always)]
    fn sk(self) -> Sk {
        // SAFETY: as above; every function here has an argument.
        Sk(Addr::of_pointer(unsafe { *self.0 } as *const u8))
    }
}

at_exit!(fexit_inet_bind, "fexit/inet_bind", |ctx| ends::of_bind(ctx.int(3), hook::INET_BIND));
at_exit!(fexit_inet6_bind, "fexit/inet6_bind", |ctx| ends::of_bind(ctx.int(3), hook::INET6_BIND));
// Calls those two, or what they call.
at_exit!(fexit_mptcp_bind, "fexit/mptcp_bind", |ctx| ends::of_bind(ctx.int(3), hook::MPTCP_BIND));
// It has one argument more before 5.17: its context is read as memory.
at_exit!(fexit_listen_start, "fexit/inet_csk_listen_start", |ctx| ends::of_listen(
    Addr::of_pointer(ctx.0).read(offset!(listen_result)),
    hook::INET_CSK_LISTEN_START
));
at_exit!(fexit_tcp_v4_connect, "fexit/tcp_v4_connect", |ctx| ends::of_connect(
    ctx.int(3),
    AF_INET,
    hook::TCP_V4_CONNECT
));
at_exit!(fexit_tcp_v6_connect, "fexit/tcp_v6_connect", |ctx| ends::of_connect(
    ctx.int(3),
    0,
    hook::TCP_V6_CONNECT
));
at_exit!(fexit_inet_autobind, "fexit/inet_autobind", |ctx| ends::of_autobind(
    ctx.sk(),
    ctx.int(1),
    hook::INET_AUTOBIND
));
at_exit!(fexit_ip4_connect, "fexit/__ip4_datagram_connect", |ctx| ends::of_connect(
    ctx.int(3),
    AF_INET,
    hook::IP4_DATAGRAM_CONNECT
));
at_exit!(fexit_ip6_connect, "fexit/__ip6_datagram_connect", |ctx| ends::of_connect(
    ctx.int(3),
    0,
    hook::IP6_DATAGRAM_CONNECT
));
at_exit!(fexit_udp_disconnect, "fexit/udp_disconnect", |ctx| ends::of_disconnect(
    ctx.sk(),
    hook::UDP_DISCONNECT
));
