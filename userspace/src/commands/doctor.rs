//! `bindwatch doctor`: what this kernel and this user can do, and how to get what is missing.

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

use super::EXIT_FAILED;
use crate::cgroup2::{self, Paths};
use crate::cli::{DoctorArgs, Format, Globals};
use crate::log::Host;
use crate::probe::hooks::{HOOKS, Need};
use crate::probe::seccomp::{self, Refusal};
use crate::probe::{
    self, Attached, Backend, Denial, Options, PinError, Probe, ProbeError, VMLINUX, surroundings, tracefs,
};
use crate::sink::escape;
use crate::source::sockets::{Scope, States, Tables};

/// The oldest kernel bindwatch works on: the first with the hook on a socket's release (BPF ring buffers came with 5.8).
const KERNEL_MIN: (u32, u32) = (5, 9);

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    /// `ok`; `degraded`: works with less; `missing`: `run` and `record` do not work without.
    state: State,
    /// What was found.
    found: String,
    /// What it costs that it is not `ok`.
    #[serde(skip_serializing_if = "Option::is_none")]
    costs: Option<&'static str>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Degraded,
    Missing,
}

/// A program of the probe.
#[derive(Debug, Serialize)]
struct HookState {
    hook: &'static str,
    tells: &'static str,
    usable: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    costs: Option<&'static str>,
}

/// A way to learn how calls end.
#[derive(Debug, Serialize)]
struct BackendState {
    backend: &'static str,
    tells: &'static str,
    usable: Option<bool>,
    /// What `--backend auto` takes.
    chosen: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    costs: Option<&'static str>,
}

/// What is not shown.
#[derive(Clone, Copy, Debug, Serialize)]
struct Blind {
    what: &'static str,
    /// What is told instead.
    instead: &'static str,
    /// Only the exits of system calls do not show it.
    #[serde(skip)]
    by_calls: bool,
}

const fn blind(what: &'static str, instead: &'static str, by_calls: bool) -> Blind {
    Blind { what, instead, by_calls }
}

/// docs/kernels.md says more about each.
const BLIND: [Blind; 8] = [
    blind("the errno of a 32-bit bind()", "\"unknown\", and the finding is uncertain", true),
    blind("a 32-bit or io_uring connect() without a port", "nothing", true),
    blind("a sendto() that finds no port", "nothing", true),
    blind("a UDP disconnect by io_uring or 32 bits", "its port, until the next inventory", true),
    blind("options set late by 32-bit programs", "as they were, until the next inventory", false),
    blind("ports that connect() and sendto() choose", "looked up when they refuse a bind", false),
    blind("which process accepts on a shared socket", "the socket's count for each of them", false),
    blind("connections of listeners from before", "\"accepted\": null", false),
];

/// A cgroup in which binds are denied whether or not bindwatch runs.
#[derive(Debug, Serialize)]
struct Pinned {
    /// Its path; empty when it was removed.
    cgroup: String,
    id: u64,
    /// What ends it.
    end: String,
}

#[derive(Debug, Serialize)]
struct Doctor {
    schema: &'static str,
    version: &'static str,
    kernel: String,
    /// `run` and `record` work here.
    ready: bool,
    checks: Vec<Check>,
    backends: Vec<BackendState>,
    hooks: Vec<HookState>,
    /// Enforcement that outlives bindwatch (`enforce --pin`); null where this user may not see it.
    pinned: Option<Vec<Pinned>>,
    blind: Vec<Blind>,
}

/// Runs the verb.
pub(super) fn run(_args: &DoctorArgs, globals: &Globals) -> anyhow::Result<ExitCode> {
    let doctor = examine();
    let mut out = io::stdout().lock();
    match globals.format {
        Some(Format::Json) => {
            serde_json::to_writer_pretty(&mut out, &doctor)?;
            writeln!(out)?;
        }
        _ => text(&doctor, &mut out)?,
    }
    Ok(if doctor.ready { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) })
}

fn examine() -> Doctor {
    let kernel = Host::of_this_machine().kernel;
    let mut checks = vec![
        kernel_version(&kernel),
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
    for check in checks.iter_mut().filter(|check| check.state != State::Ok) {
        check.costs = check.costs.or_else(|| costs(check.name));
    }
    let ready = checks.iter().all(|check| check.state != State::Missing);
    let hooks = hooks(attached.as_ref());
    let backends = backends(attached.as_ref());
    let inside = attached.and_then(|attached| attached.backend).is_some_and(Backend::is_inside);
    let by_calls = !inside;
    Doctor {
        schema: "bindwatch.doctor/1",
        version: env!("CARGO_PKG_VERSION"),
        kernel,
        ready,
        checks,
        blind: BLIND.into_iter().filter(|blind| by_calls || !blind.by_calls).collect(),
        backends,
        hooks,
        pinned: pinned(),
    }
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
    match surroundings::check() {
        Ok(()) => Check::ok(name, "the machine's own namespaces".to_owned()),
        Err(error) => Check { state: State::Missing, ..Check::ok(name, error.to_string()) },
    }
}

/// Kernel lockdown (kernel_lockdown(7)), where it can be seen: `none [integrity] confidentiality`.
fn lockdown() -> Check {
    let name = "lockdown";
    let mode = surroundings::lockdown();
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
    if user.is_root() {
        return Check { name, state: State::Ok, found: "root".to_owned(), costs: None, fix: None };
    }
    let missing = probe::missing_capabilities();
    if missing.is_empty() {
        return Check {
            name,
            state: State::Degraded,
            found: format!("user {user}, with the capabilities that it takes"),
            costs: None,
            fix: Some("as root it sees the programs of others, and the errno of failed binds".to_owned()),
        };
    }
    Check {
        name,
        state: State::Missing,
        found: format!("user {user}, without {}", missing.join(", ")),
        costs: None,
        fix: Some("run it with sudo; `list`, `check` and `report` work without".to_owned()),
    }
}

fn file(name: &'static str, path: &str, fix: &str) -> Check {
    match std::fs::File::open(path) {
        Ok(_) => Check { name, state: State::Ok, found: path.to_owned(), costs: None, fix: None },
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
        Some(path) => {
            Check { name, state: State::Ok, found: path.display().to_string(), costs: None, fix: None }
        }
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
        return Check { name, state: State::Ok, found: path.display().to_string(), costs: None, fix: None };
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
            found: reason,
            costs: None,
            fix: Some("as root: mount -t tracefs none /sys/kernel/tracing".to_owned()),
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
            (Check { name, state, found, costs: None, fix: None }, Some(attached))
        }
        Err(error) => {
            let found = match &error {
                ProbeError::NotPermitted => "not tried".to_owned(),
                other => escape::line(&other.to_string()).into_owned(),
            };
            (Check { name, state: State::Missing, found, costs: None, fix: None }, None)
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
        Ok(Denial::Early { reason }) => Check {
            name,
            state: State::Degraded,
            found: format!(
                "before they have a port, with EPERM; of two that race both can get it ({})",
                escape::line(&reason)
            ),
            costs: Some("two that race for a port can both get it, and EPERM is not what programs expect"),
            fix: Some(
                "a newer kernel denies exactly (6.1 does); --strict refuses to do with less".to_owned(),
            ),
        },
        Err(ProbeError::NotPermitted | ProbeError::LockedDown) => {
            Check { name, state: State::Degraded, found: "not tried".to_owned(), costs: None, fix: None }
        }
        Err(error) => Check {
            name,
            state: State::Degraded,
            found: escape::line(&error.to_string()).into_owned(),
            costs: None,
            fix: Some("a newer kernel; everything else works without".to_owned()),
        },
    }
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
        Err(Refusal::Busy) => {
            Check { name, state: State::Degraded, found: Refusal::Busy.to_string(), costs: None, fix: None }
        }
        Err(refusal) => Check {
            name,
            state: State::Degraded,
            found: refusal.to_string(),
            costs: None,
            fix: Some("a newer kernel, or a seccomp profile that allows it".to_owned()),
        },
    }
}

fn backends(attached: Option<&Attached>) -> Vec<BackendState> {
    Backend::ALL
        .into_iter()
        .map(|backend| {
            let refused = attached.and_then(|attached| attached.refusal(backend));
            BackendState {
                backend: backend.name(),
                tells: backend.tells(),
                usable: attached.map(|_| refused.is_none()),
                chosen: attached.is_some_and(|attached| attached.backend == Some(backend)),
                reason: refused.map(str::to_owned),
                costs: backend.costs(),
            }
        })
        .collect()
}

/// Enforcement that is pinned. None where that cannot be seen.
fn pinned() -> Option<Vec<Pinned>> {
    let ids = match probe::pinned() {
        Ok(ids) => ids,
        Err(PinError::NoFileSystem) => return Some(Vec::new()),
        Err(_) => return None,
    };
    let mut paths = Paths::new(&cgroup2::mount_point().unwrap_or_default());
    let pinned = |id| {
        let cgroup = paths.path(id).to_owned();
        let end = match cgroup.as_str() {
            "" => "bindwatch enforce --unpin".to_owned(),
            path => format!("bindwatch enforce --unpin --cgroup {}", escape::arguments(&[path])),
        };
        Pinned { cgroup, id, end }
    };
    Some(ids.into_iter().map(pinned).collect())
}

fn hooks(attached: Option<&Attached>) -> Vec<HookState> {
    HOOKS
        .iter()
        .map(|hook| {
            let refused = attached
                .and_then(|attached| attached.refused.iter().find(|refused| refused.hook == hook.name));
            let usable = attached.map(|attached| attached.hooks.contains(&hook.name));
            let needless = attached
                .and_then(|attached| attached.needless.iter().find(|needless| needless.hook == hook.name));
            HookState {
                hook: hook.name,
                tells: hook.tells,
                usable,
                reason: refused
                    .map(|refused| refused.reason.clone())
                    .or_else(|| needless.map(|needless| needless.reason.to_owned())),
                costs: refused.map(|refused| refused.costs),
            }
        })
        .collect()
}

fn text(doctor: &Doctor, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "bindwatch {} on Linux {}", doctor.version, escape::line(&doctor.kernel))?;
    for check in &doctor.checks {
        let state = match check.state {
            State::Ok => "ok",
            State::Degraded => "degraded",
            State::Missing => "MISSING",
        };
        writeln!(out, "  {:<9} {:<20} {}", state, check.name, escape::line(&check.found))?;
        if let Some(costs) = check.costs {
            writeln!(out, "  {:<9} {:<20} without it: {}", "", "", costs)?;
        }
        if let Some(fix) = &check.fix {
            writeln!(out, "  {:<9} {:<20} -> {}", "", "", fix)?;
        }
    }
    writeln!(out, "\nHow calls end (--backend)")?;
    for backend in &doctor.backends {
        let state = match (backend.usable, backend.chosen) {
            (Some(true), true) => "in use",
            (Some(true), false) => "ok",
            (Some(false), _) => "refused",
            (None, _) => "untried",
        };
        writeln!(out, "  {:<9} {:<20} {}", state, backend.backend, backend.tells)?;
        if let Some(reason) = &backend.reason {
            writeln!(out, "  {:<9} {:<20} {}", "", "", escape::line(reason))?;
        }
        if let Some(costs) = backend.costs.filter(|_| backend.chosen) {
            writeln!(out, "  {:<9} {:<20} with it: {}", "", "", costs)?;
        }
    }
    writeln!(out, "\nHooks")?;
    for hook in &doctor.hooks {
        let state = match hook.usable {
            Some(true) => "ok",
            Some(false) if hook.costs.is_none() => "needless",
            Some(false) => "refused",
            None => "untried",
        };
        writeln!(out, "  {:<9} {:<20} {}", state, hook.hook, hook.tells)?;
        if let Some(reason) = &hook.reason {
            writeln!(out, "  {:<9} {:<20} {}", "", "", escape::line(reason))?;
        }
        if let Some(costs) = hook.costs {
            writeln!(out, "  {:<9} {:<20} without it: {}", "", "", costs)?;
        }
    }
    if let Some(pinned) = doctor.pinned.as_ref().filter(|pinned| !pinned.is_empty()) {
        writeln!(out, "\nBinds are denied for good (enforce --pin)")?;
        for Pinned { cgroup, id, end } in pinned {
            match cgroup.as_str() {
                "" => writeln!(out, "  in a cgroup that was removed ({id})")?,
                path => writeln!(out, "  in {}", escape::line(path))?,
            }
            writeln!(out, "  {:<9} -> sudo {}", "", escape::line(end))?;
        }
    }
    writeln!(out, "\nNot shown")?;
    for Blind { what, instead, .. } in &doctor.blind {
        writeln!(out, "  {what:<46} {instead}")?;
    }
    writeln!(out)?;
    if doctor.ready {
        writeln!(out, "bindwatch can record here.")
    } else {
        writeln!(
            out,
            "bindwatch cannot record here: see MISSING above. `list`, `check` and `report` work anywhere."
        )
    }
}
