//! What tells how calls end, and with which errno: the functions of the kernel that carry them out, where programs can be
//! attached to those, else the exits of the system calls.
//!
//! The functions see every door to a port (io_uring, 32-bit system calls, automatic binds), and cost nothing where nobody
//! binds or connects; an attached system call event slows every system call of the machine. BPF LSM's `socket_bind` is not
//! used: it comes before the bind, as the cgroup programs do, and knows no errno (what is used of it lies in `lsm.rs`).

use std::path::Path;

use aya::maps::Array;
use aya::programs::Program;

use super::btf::Function;
use super::refusal::reason;
use super::{Probe, ProbeError, syscall};

/// A way to learn how calls end; the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Programs at the exits of kernel functions, by BPF trampolines (5.5, x86; arm64 from 6.4).
    Fexit,
    /// The same by kretprobes.
    Kprobe,
    /// Trace events at the exits of system calls.
    Tracepoint,
}

impl Backend {
    /// All, in the order in which they are tried.
    pub const ALL: [Self; 3] = [Self::Fexit, Self::Kprobe, Self::Tracepoint];

    /// Its name on the command line and in a log's header.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fexit => "fexit",
            Self::Kprobe => "kprobe",
            Self::Tracepoint => "tracepoint",
        }
    }

    /// What it is, for people.
    #[must_use]
    pub const fn tells(self) -> &'static str {
        match self {
            Self::Fexit => "exits of kernel functions, by BPF trampolines",
            Self::Kprobe => "exits of kernel functions, by kretprobes",
            Self::Tracepoint => "exits of system calls",
        }
    }

    /// What is worse than with the one before it.
    #[must_use]
    pub const fn costs(self) -> Option<&'static str> {
        match self {
            Self::Fexit => None,
            Self::Kprobe => {
                Some("binds and connects cost more, and the errno of some may be missed under load")
            }
            Self::Tracepoint => {
                Some("every system call costs some ns more; 32-bit and io_uring failures are seen in part")
            }
        }
    }

    /// Whether it sees the functions that carry calls out, and so every door.
    #[must_use]
    pub const fn is_inside(self) -> bool {
        !matches!(self, Self::Tracepoint)
    }
}

/// A function that is hooked.
struct Inside {
    /// Its name in the kernel.
    function: &'static str,
    /// How many arguments it must have; None: whatever it has, the program is told.
    arguments: Option<u32>,
    /// Whether kernels without it have nothing that it would carry out.
    optional: bool,
    /// The program at its exit, and what it is called among the hooks.
    fexit: (&'static str, &'static str),
    /// The kretprobe, likewise.
    kret: (&'static str, &'static str),
    /// The program at its entry that a kretprobe cannot do without.
    kprobe: Option<&'static str>,
}

const fn inside(
    function: &'static str,
    arguments: u32,
    fexit: (&'static str, &'static str),
    kret: (&'static str, &'static str),
) -> Inside {
    Inside { function, arguments: Some(arguments), optional: false, fexit, kret, kprobe: None }
}

/// The function in which a socket begins to listen.
pub(super) const LISTEN_START: &str = "inet_csk_listen_start";

/// The functions, all of them called through pointers or from another file of the kernel, so that there is something to
/// hook. Seen on 5.10, 6.1, 6.12 and 7.2.
///
/// `inet_csk_get_port` and `udp_lib_get_port` are not among them: they run inside of these, and more often, and do not know
/// what the caller will see. Neither is `__inet_bind`, which a bind that another tool's program refuses never reaches.
const INSIDE: [Inside; 10] = [
    inside("inet_bind", 3, ("fexit_inet_bind", "fexit/inet_bind"), ("kret_inet_bind", "kretprobe/inet_bind")),
    inside(
        "inet6_bind",
        3,
        ("fexit_inet6_bind", "fexit/inet6_bind"),
        ("kret_inet6_bind", "kretprobe/inet6_bind"),
    ),
    Inside {
        // From 6.6 it no longer comes through the two above.
        optional: true,
        ..inside(
            "mptcp_bind",
            3,
            ("fexit_mptcp_bind", "fexit/mptcp_bind"),
            ("kret_mptcp_bind", "kretprobe/mptcp_bind"),
        )
    },
    Inside {
        arguments: None,
        ..inside(
            LISTEN_START,
            0,
            ("fexit_listen_start", "fexit/inet_csk_listen_start"),
            ("kret_listen_start", "kretprobe/inet_csk_listen_start"),
        )
    },
    inside(
        "tcp_v4_connect",
        3,
        ("fexit_tcp_v4_connect", "fexit/tcp_v4_connect"),
        ("kret_tcp_v4_connect", "kretprobe/tcp_v4_connect"),
    ),
    inside(
        "tcp_v6_connect",
        3,
        ("fexit_tcp_v6_connect", "fexit/tcp_v6_connect"),
        ("kret_tcp_v6_connect", "kretprobe/tcp_v6_connect"),
    ),
    Inside {
        kprobe: Some("kprobe_inet_autobind"),
        ..inside(
            "inet_autobind",
            1,
            ("fexit_inet_autobind", "fexit/inet_autobind"),
            ("kret_inet_autobind", "kretprobe/inet_autobind"),
        )
    },
    inside(
        "__ip4_datagram_connect",
        3,
        ("fexit_ip4_connect", "fexit/__ip4_datagram_connect"),
        ("kret_ip4_connect", "kretprobe/__ip4_datagram_connect"),
    ),
    inside(
        "__ip6_datagram_connect",
        3,
        ("fexit_ip6_connect", "fexit/__ip6_datagram_connect"),
        ("kret_ip6_connect", "kretprobe/__ip6_datagram_connect"),
    ),
    Inside {
        kprobe: Some("kprobe_udp_disconnect"),
        ..inside(
            "udp_disconnect",
            2,
            ("fexit_udp_disconnect", "fexit/udp_disconnect"),
            ("kret_udp_disconnect", "kretprobe/udp_disconnect"),
        )
    },
];

/// Their names.
pub(super) const FUNCTIONS: [&str; INSIDE.len()] = {
    let mut names = [""; INSIDE.len()];
    let mut at = 0;
    while at < names.len() {
        #[expect(clippy::indexing_slicing, reason = "in the compiler")]
        {
            names[at] = INSIDE[at].function;
        }
        at += 1;
    }
    names
};

/// Where the kernel tells of its kprobes (4.17, CONFIG_KPROBE_EVENTS).
const KPROBES: &str = "/sys/bus/event_source/devices/kprobe";

/// The functions of [`FUNCTIONS`] that the kernel has.
pub(super) type Found = [Option<Function>; FUNCTIONS.len()];

impl Probe {
    /// Attaches the backend that is asked for, or the best that this kernel takes. To be called before the programs that
    /// see calls begin are attached. The exits of system calls are left to the caller.
    ///
    /// # Errors
    /// When the one that is asked for cannot be had.
    pub(super) fn attach_backend(&mut self, wanted: Option<Backend>) -> Result<Backend, ProbeError> {
        let candidates =
            Backend::ALL.into_iter().filter(|backend| wanted.is_none_or(|wanted| wanted == *backend));
        for backend in candidates.filter(|backend| backend.is_inside()) {
            match self.attach_inside(backend) {
                Ok(hooks) => {
                    self.tell_programs().map_err(|reason| ProbeError::Object { reason })?;
                    self.attached.hooks.extend(hooks);
                    self.attached.backend = Some(backend);
                    return Ok(backend);
                }
                Err(reason) if wanted.is_some() => {
                    return Err(ProbeError::Backend { backend: backend.name(), reason });
                }
                Err(reason) => self.attached.passed_over.push((backend, reason)),
            }
        }
        self.attached.backend = Some(Backend::Tracepoint);
        Ok(Backend::Tracepoint)
    }

    /// Tries a backend, and leaves nothing attached.
    pub(super) fn try_backend(&mut self, backend: Backend) -> Result<(), String> {
        let outcome = self.attach_inside(backend).map(drop);
        self.detach_inside();
        outcome
    }

    /// Attaches all programs of a backend that sees functions, or none. Gives what they are called.
    fn attach_inside(&mut self, backend: Backend) -> Result<Vec<&'static str>, String> {
        let mut missing = INSIDE.iter().zip(self.inside).filter(|(inside, found)| {
            !inside.optional && found.is_none_or(|found| !inside.takes(found)) && backend == Backend::Fexit
        });
        if let Some((inside, found)) = missing.next() {
            return Err(match found {
                None => format!("this kernel has no function {} of its own", inside.function),
                Some(found) => format!(
                    "{} has {} arguments in this kernel, which bindwatch does not know",
                    inside.function, found.arguments
                ),
            });
        }
        drop(missing);
        let outcome = match backend {
            Backend::Fexit => self.attach_fexit(),
            Backend::Kprobe => self.attach_kprobe(),
            Backend::Tracepoint => Ok(Vec::new()),
        };
        if outcome.is_err() {
            self.detach_inside();
        }
        outcome
    }

    fn attach_fexit(&mut self) -> Result<Vec<&'static str>, String> {
        // Kernels that refuse do so for a program that does nothing as well, and that is tried in no time.
        if let Some(Some(first)) = self.inside.first() {
            syscall::try_function_exit(first.id)
                .map_err(|error| format!("programs cannot be attached to kernel functions: {error}"))?;
        }
        let types = self.types.as_ref().ok_or("its types were not asked for")?;
        let mut hooks = Vec::new();
        for (inside, found) in INSIDE.iter().zip(self.inside) {
            if found.is_none_or(|found| !inside.takes(found)) {
                continue;
            }
            let (name, hook) = inside.fexit;
            let Some(Program::FExit(program)) = self.ebpf.program_mut(name) else {
                return Err(format!("{name} is not in the object"));
            };
            program
                .load(inside.function, types)
                .and_then(|()| program.attach().map(drop))
                .map_err(|error| format!("{hook}: {}", reason(&error)))?;
            hooks.push(hook);
        }
        Ok(hooks)
    }

    fn attach_kprobe(&mut self) -> Result<Vec<&'static str>, String> {
        if !Path::new(KPROBES).exists() {
            return Err("this kernel has no kprobes (CONFIG_KPROBE_EVENTS)".to_owned());
        }
        let mut hooks = Vec::new();
        for (inside, found) in INSIDE.iter().zip(self.inside) {
            if found.is_none() && inside.optional {
                continue;
            }
            let (name, hook) = inside.kret;
            // The entry last: what it keeps is taken by the return.
            for name in std::iter::once(name).chain(inside.kprobe) {
                let Some(Program::KProbe(program)) = self.ebpf.program_mut(name) else {
                    return Err(format!("{name} is not in the object"));
                };
                program
                    .load()
                    .and_then(|()| program.attach(inside.function, 0).map(drop))
                    .map_err(|error| format!("{hook}: {}", reason(&error)))?;
            }
            hooks.push(hook);
        }
        Ok(hooks)
    }

    /// Takes away what of a backend is attached.
    fn detach_inside(&mut self) {
        for inside in &INSIDE {
            for name in [inside.fexit.0, inside.kret.0].into_iter().chain(inside.kprobe) {
                // One that was never loaded has nothing to take away.
                match self.ebpf.program_mut(name) {
                    Some(Program::FExit(program)) => drop(program.unload()),
                    Some(Program::KProbe(program)) => drop(program.unload()),
                    _ => {}
                }
            }
        }
    }

    /// Tells the programs that see calls begin that their ends are seen inside.
    fn tell_programs(&mut self) -> Result<(), String> {
        let map = self.ebpf.map_mut("ENDS_INSIDE").ok_or("it has no map ENDS_INSIDE")?;
        let mut map: Array<_, u32> =
            map.try_into().map_err(|error: aya::maps::MapError| error.to_string())?;
        map.set(0, 1, 0).map_err(|error| error.to_string())
    }
}

impl Inside {
    /// Whether a program knows what the function's context looks like.
    fn takes(&self, found: Function) -> bool {
        self.arguments.is_none_or(|arguments| arguments == found.arguments)
    }
}
