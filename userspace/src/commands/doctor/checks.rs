//! What is looked at: the machine, the user, and what of bindwatch works with both.

use super::{Check, State, remedy};
use crate::cgroup2;
use crate::probe::hooks::{HOOKS, Need};
use crate::probe::seccomp;
use crate::probe::{
    self, Attached, Denial, Hindrance, Options, Probe, ProbeError, VMLINUX, surroundings as around, tracefs,
};
use crate::sink::escape;
use crate::source::sockets::{Scope, States, Tables};

/// The oldest kernel bindwatch works on: the first with the hook on a socket's release (BPF ring buffers came with 5.8).
const KERNEL_MIN: (u32, u32) = (5, 9);
/// Folders of pins in part that are named; the rest are counted.
const PARTS_NAMED: usize = 3;

/// All checks, and what became of the programs, where they could be tried.
pub(super) fn all(kernel: &str) -> (Vec<Check>, Option<Attached>) {
    let mut checks = vec![
        kernel_version(kernel),
        privileges(),
        surroundings(),
        lockdown(),
        file("types of the kernel", VMLINUX, "a kernel with CONFIG_DEBUG_INFO_BTF=y"),
        cgroups(),
        trace_events(),
        socket_tables(),
    ];
    let (probe, attached) = probe();
    checks.push(probe);
    checks.push(guard());
    checks.push(waiting());
    checks.extend(partly_pinned());
    for check in checks.iter_mut().filter(|check| check.state != State::Ok) {
        check.costs = check.costs.or_else(|| costs(check.name));
    }
    (checks, attached)
}

/// What is not to be had without a capability.
fn costs(name: &str) -> Option<&'static str> {
    Some(match name {
        "kernel" | "privileges" | "surroundings" | "types of the kernel" | "cgroup2" | "probe" => {
            "`run`, `record`, `top` and `enforce` do not work"
        }
        "lockdown" => "the kernel refuses programs that read its memory: nothing can be recorded",
        "trace events" => "refused binds have no errno, and binds through io_uring fail unseen",
        "socket tables" => "sockets older than the recording, and who has a refused port, are not known",
        "denying binds" => "`--on-conflict deny` and `enforce` do not work",
        "waiting binds" => "`--on-conflict wait=DURATION` does not work",
        _ => return None,
    })
}

/// Whether a container hides parts of the machine.
fn surroundings() -> Check {
    let name = "surroundings";
    match around::check() {
        Ok(()) => Check::ok(name, "the machine's own namespaces".to_owned()),
        Err(error) => Check {
            state: State::Missing,
            fix: Some(remedy::of_probe(&error)),
            ..Check::ok(name, error.to_string())
        },
    }
}

/// Kernel lockdown (kernel_lockdown(7)), where it can be seen: `none [integrity] confidentiality`.
fn lockdown() -> Check {
    let name = "lockdown";
    let mode = around::lockdown();
    match mode.as_deref() {
        Some("confidentiality") => Check {
            state: State::Missing,
            fix: Some("boot with lockdown=integrity, or without".to_owned()),
            ..Check::ok(name, "confidentiality".to_owned())
        },
        Some(mode) => Check::ok(name, mode.to_owned()),
        None => Check::ok(name, "none is to be seen".to_owned()),
    }
}

/// The kernel's lists of sockets, by protocol; each is a module in most kernels, loaded when it is first asked.
fn socket_tables() -> Check {
    let name = "socket tables";
    let fix = "modprobe -a inet_diag tcp_diag udp_diag (CONFIG_INET_DIAG, CONFIG_INET_UDP_DIAG)";
    let lacking = |state, why| Check { state, fix: Some(fix.to_owned()), ..Check::ok(name, why) };
    match Tables::open().and_then(|mut tables| tables.inventory(States::LISTEN, Scope::Own)) {
        Ok(inventory) if inventory.unseen.is_empty() => Check::ok(name, "sock_diag".to_owned()),
        Ok(inventory) => lacking(State::Degraded, inventory.unseen.join("; ")),
        Err(error) => lacking(State::Missing, error.to_string()),
    }
}

impl Check {
    /// One that found what it looked for.
    const fn ok(name: &'static str, found: String) -> Self {
        Self { name, state: State::Ok, found, costs: None, fix: None }
    }
}

fn kernel_version(release: &str) -> Check {
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let (major, minor) = KERNEL_MIN;
    let new_enough = version >= KERNEL_MIN;
    Check {
        name: "kernel",
        state: if new_enough { State::Ok } else { State::Missing },
        found: format!("Linux {release}"),
        costs: None,
        fix: (!new_enough).then(|| format!("a kernel of version {major}.{minor} or newer")),
    }
}

fn privileges() -> Check {
    let name = "privileges";
    let user = nix::unistd::geteuid();
    let missing = probe::missing_capabilities();
    let root = user.is_root();
    let who = if root { "root".to_owned() } else { format!("user {user}") };
    if missing.is_empty() && root {
        return Check::ok(name, who);
    }
    if missing.is_empty() {
        return Check {
            state: State::Degraded,
            costs: Some(
                "the programs of others are not seen, nor the errno of failed binds where tracefs is root's",
            ),
            fix: Some("run it as root".to_owned()),
            ..Check::ok(name, format!("{who}, with the capabilities that it takes"))
        };
    }
    let fix = match root {
        true => {
            "in a container: docker run --privileged, or --cap-add BPF --cap-add PERFMON --cap-add NET_ADMIN; a service: \
             CapabilityBoundingSet=CAP_BPF CAP_PERFMON CAP_NET_ADMIN"
        }
        false => "run it with sudo; `list`, `check` and `report` work without",
    };
    Check {
        state: State::Missing,
        fix: Some(fix.to_owned()),
        ..Check::ok(name, format!("{who}, without {}", missing.join(", ")))
    }
}

fn file(name: &'static str, path: &str, fix: &str) -> Check {
    match std::fs::File::open(path) {
        Ok(_) => Check::ok(name, path.to_owned()),
        Err(error) => Check {
            name,
            state: State::Missing,
            found: format!("{path}: {error}"),
            costs: None,
            fix: Some(fix.to_owned()),
        },
    }
}

fn cgroups() -> Check {
    let name = "cgroup2";
    match cgroup2::mount_point() {
        Some(path) => Check::ok(name, path.display().to_string()),
        None => Check {
            name,
            state: State::Missing,
            found: "not mounted".to_owned(),
            costs: None,
            fix: Some(
                "mount -t cgroup2 none /sys/fs/cgroup/unified, or boot with \
                 systemd.unified_cgroup_hierarchy=1"
                    .to_owned(),
            ),
        },
    }
}

fn trace_events() -> Check {
    let name = "trace events";
    if let Some(path) = tracefs::mounted() {
        return Check::ok(name, path.display().to_string());
    }
    match tracefs::with(|visible| visible.map(drop)) {
        Ok(()) => Check {
            name,
            state: State::Ok,
            found: "tracefs is not mounted; bindwatch mounts it for itself alone".to_owned(),
            costs: None,
            fix: None,
        },
        Err(reason) => Check {
            name,
            state: State::Degraded,
            fix: Some(remedy::of_tracefs(&reason).to_owned()),
            found: reason,
            costs: None,
        },
    }
}

/// Loads the probe and tries every program.
fn probe() -> (Check, Option<Attached>) {
    let name = "probe";
    match Probe::try_all(&Options::default()) {
        Ok(attached) => {
            let core_refused = HOOKS.iter().any(|hook| {
                hook.need == Need::Core && attached.refused.iter().any(|refused| refused.hook == hook.name)
            });
            let found = match attached.refused.len() {
                0 if !attached.needless.is_empty() => {
                    format!(
                        "all {} programs that this kernel has a use for load and attach",
                        attached.hooks.len()
                    )
                }
                0 => format!("all {} programs load and attach", attached.hooks.len()),
                refused => format!("{} programs attach, {refused} do not (below)", attached.hooks.len()),
            };
            let state = match (core_refused, attached.refused.is_empty()) {
                (true, _) => State::Missing,
                (false, true) => State::Ok,
                (false, false) => State::Degraded,
            };
            let fix = match state {
                State::Ok => None,
                State::Degraded => Some("what each of the refused hooks says".to_owned()),
                State::Missing => Some(remedy::KERNEL.to_owned()),
            };
            let costs = (state == State::Degraded).then_some("what the refused hooks tell is not seen");
            (Check { name, state, found, costs, fix }, Some(attached))
        }
        Err(error) => {
            let found = match &error {
                ProbeError::NotPermitted => "not tried".to_owned(),
                other => escape::line(&other.to_string()).into_owned(),
            };
            let fix = Some(remedy::of_probe(&error));
            (Check { name, state: State::Missing, found, costs: None, fix }, None)
        }
    }
}

/// Whether the programs that deny binds load.
fn guard() -> Check {
    let name = "denying binds";
    match Probe::try_guard() {
        Ok(Denial::Exact) => Check {
            name,
            state: State::Ok,
            found: "exactly: one was denied after it had its port, which was free again".to_owned(),
            costs: None,
            fix: None,
        },
        Ok(Denial::Early { reason, by }) => Check {
            name,
            state: State::Degraded,
            found: format!(
                "before they have a port, with EPERM; of two that race both can get it ({})",
                escape::line(&reason)
            ),
            costs: Some("two that race for a port can both get it, and EPERM is not what programs expect"),
            fix: Some(match by {
                Hindrance::Kernel => {
                    "a newer kernel denies exactly (6.1 does); --strict refuses to do with less".to_owned()
                }
                Hindrance::Program => {
                    "start bindwatch where it may bind (a unit without SocketBindDeny=); --strict refuses to do with less"
                        .to_owned()
                }
            }),
        },
        Err(error @ (ProbeError::NotPermitted | ProbeError::LockedDown)) => Check {
            state: State::Degraded,
            fix: Some(remedy::of_probe(&error)),
            ..Check::ok(name, "not tried".to_owned())
        },
        Err(error) => Check {
            name,
            state: State::Degraded,
            found: escape::line(&error.to_string()).into_owned(),
            costs: None,
            fix: Some("a newer kernel; everything else works without".to_owned()),
        },
    }
}

/// What bindwatches left that were killed while they pinned or unpinned.
fn partly_pinned() -> Option<Check> {
    let folders = probe::partly_pinned();
    let names: Vec<_> = folders.iter().take(PARTS_NAMED).map(|folder| folder.display().to_string()).collect();
    let more = folders.len().saturating_sub(PARTS_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!names.is_empty()).then(|| Check {
        name: "pins",
        state: State::Degraded,
        found: format!(
            "a bindwatch was killed while it pinned, so only a part is in force: {}{more}",
            names.join(", ")
        ),
        costs: None,
        fix: Some("the next `bindwatch enforce` removes it; with --pin it pins all of it".to_owned()),
    })
}

/// Whether binds can be handed over.
fn waiting() -> Check {
    let name = "waiting binds";
    match seccomp::try_out() {
        Ok(()) => Check {
            name,
            state: State::Ok,
            found: "run --on-conflict wait=DURATION works where denying does".to_owned(),
            costs: None,
            fix: None,
        },
        Err(refusal) => Check {
            state: State::Degraded,
            fix: Some(remedy::of_waiting(&refusal).to_owned()),
            ..Check::ok(name, refusal.to_string())
        },
    }
}
