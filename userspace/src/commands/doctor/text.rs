//! What `doctor` found, for people.

use std::io::{self, Write};

use super::{Blind, Doctor, Pinned, State};
use crate::sink::escape;

/// Writes it.
pub(super) fn write(doctor: &Doctor, out: &mut impl Write) -> io::Result<()> {
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
        if let Some(costs) = backend.costs.filter(|_| state == "in use") {
            writeln!(out, "  {:<9} {:<20} with it: {}", "", "", costs)?;
        }
        fix(out, backend.usable, backend.fix.as_deref())?;
    }
    writeln!(out, "\nHooks")?;
    for hook in &doctor.hooks {
        let state = match hook.usable {
            Some(true) => "ok",
            Some(false) if hook.costs.is_none() => "needless",
            Some(false) if hook.is_rare => "off",
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
        fix(out, hook.usable, hook.fix.as_deref())?;
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

/// How to get what was refused. What was not tried all takes the same, which the checks say.
fn fix(out: &mut impl Write, usable: Option<bool>, fix: Option<&str>) -> io::Result<()> {
    match fix.filter(|_| usable == Some(false)) {
        Some(fix) => writeln!(out, "  {:<9} {:<20} -> {fix}", "", ""),
        None => Ok(()),
    }
}
