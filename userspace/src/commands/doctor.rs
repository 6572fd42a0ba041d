//! `bindwatch doctor`: what this kernel and this user can do, and how to get what is missing.

mod checks;
mod remedy;
mod text;

use std::io::{self, Write as _};
use std::process::ExitCode;

use serde::Serialize;

use super::{EXIT_FAILED, read_enough};
use crate::cgroup2::{self, Paths};
use crate::cli::{DoctorArgs, Format, Globals};
use crate::log::Host;
use crate::probe::hooks::{Attach, HOOKS};
use crate::probe::{self, Attached, Backend, PinError};
use crate::sink::escape;

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
    /// Few kernels have what it is for: it is not missed elsewhere.
    #[serde(skip)]
    is_rare: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    costs: Option<&'static str>,
    /// How to get it, where it is missed.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
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
    /// How to get it, where it is not usable.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

/// What is not shown.
#[derive(Clone, Copy, Debug, Serialize)]
struct Blind {
    what: &'static str,
    /// What is told instead.
    instead: &'static str,
    /// Who would.
    #[serde(skip)]
    shown_by: ShownBy,
}

/// What shows what others do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ShownBy {
    Nothing,
    /// Programs at functions of the kernel.
    Functions,
    /// A program at the security modules' hook.
    SecurityModules,
}

const fn blind(what: &'static str, instead: &'static str, shown_by: ShownBy) -> Blind {
    Blind { what, instead, shown_by }
}

/// docs/kernels.md says more about each.
const BLIND: [Blind; 8] = [
    blind("the errno of a 32-bit bind()", "\"unknown\", and the finding is uncertain", ShownBy::Functions),
    blind("a 32-bit or io_uring connect() without a port", "nothing", ShownBy::Functions),
    blind("a sendto() that finds no port", "nothing", ShownBy::Functions),
    blind(
        "a UDP disconnect by io_uring or 32 bits",
        "its port, until the next inventory",
        ShownBy::Functions,
    ),
    blind(
        "options set late by 32-bit programs",
        "as they were, until the next inventory",
        ShownBy::SecurityModules,
    ),
    blind("ports that connect() and sendto() choose", "looked up when they refuse a bind", ShownBy::Nothing),
    blind(
        "which process accepts on a shared socket",
        "the socket's count for each of them",
        ShownBy::Nothing,
    ),
    blind("connections of listeners from before", "\"accepted\": null", ShownBy::Nothing),
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
    read_enough(match globals.format {
        Some(Format::Json) => serde_json::to_writer_pretty(&mut out, &doctor)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out)),
        _ => text::write(&doctor, &mut out),
    })?;
    Ok(if doctor.ready { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) })
}

fn examine() -> Doctor {
    let kernel = Host::of_this_machine().kernel;
    let (checks, attached) = checks::all(&kernel);
    let ready = checks.iter().all(|check| check.state != State::Missing);
    let hooks = hooks(attached.as_ref());
    let backends = backends(attached.as_ref());
    let inside = attached.as_ref().and_then(|attached| attached.backend).is_some_and(Backend::is_inside);
    let lsm = HOOKS.iter().find(|hook| hook.attach == Attach::Lsm);
    let by_modules =
        lsm.is_some_and(|lsm| attached.is_some_and(|attached| attached.hooks.contains(&lsm.name)));
    let is_shown = |blind: &Blind| match blind.shown_by {
        ShownBy::Nothing => false,
        ShownBy::Functions => inside,
        ShownBy::SecurityModules => by_modules,
    };
    Doctor {
        schema: "bindwatch.doctor/1",
        version: env!("CARGO_PKG_VERSION"),
        kernel,
        ready,
        checks,
        blind: BLIND.into_iter().filter(|blind| !is_shown(blind)).collect(),
        backends,
        hooks,
        pinned: pinned(),
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
                fix: match attached {
                    None => Some(remedy::UNTRIED.to_owned()),
                    Some(_) => refused.map(|reason| remedy::of_backend(backend, reason)),
                },
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
                is_rare: needless.is_some_and(|needless| needless.costs.is_some()),
                reason: refused
                    .map(|refused| refused.reason.clone())
                    .or_else(|| needless.map(|needless| needless.reason.clone())),
                costs: refused.map(|refused| refused.costs).or(needless.and_then(|needless| needless.costs)),
                fix: match attached {
                    None => Some(remedy::UNTRIED.to_owned()),
                    Some(_) => {
                        let missing = needless.filter(|needless| needless.costs.is_some());
                        let reason = refused.map(|refused| &refused.reason);
                        let reason = reason.or(missing.map(|needless| &needless.reason));
                        reason.map(|reason| remedy::of_hook(hook.attach, reason))
                    }
                },
            }
        })
        .collect()
}
