//! `bindwatch enforce`

use std::collections::BTreeSet;
use std::process::ExitCode;

use super::{UsageError, record};
use crate::cgroup2::{self, Directory, Paths};
use crate::cli::{EnforceArgs, Globals, OnConflict};
use crate::config::Config;
use crate::probe::{self, Guarding};
use crate::recording::{Recording, say};
use crate::sink::escape;

/// Runs the verb.
pub(super) fn run(args: &EnforceArgs, globals: &Globals) -> anyhow::Result<ExitCode> {
    if args.recording.on_conflict != OnConflict::Report {
        let text = "enforce denies by itself: --on-conflict is for `bindwatch run`; --dry-run only reports";
        return Err(UsageError(text.to_owned()).into());
    }
    let config = Config::load(globals.config.as_deref())?;
    let cgroups = args.cgroup.iter().map(|path| Directory::find(path)).collect::<Result<Vec<_>, _>>()?;
    if args.unpin {
        return end_pinned(&cgroups, globals);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(enforce(args, &cgroups, &config, globals))
}

async fn enforce(
    args: &EnforceArgs,
    cgroups: &[Directory],
    config: &Config,
    globals: &Globals,
) -> anyhow::Result<ExitCode> {
    let guard = if args.dry_run { Guarding::DryRun } else { Guarding::Deny };
    let begin = || {
        let mut recording = Recording::begin(&args.recording, guard, config, globals)?;
        recording.enforce(cgroups, &args.recording, config)?;
        if args.pin {
            recording.pin()?;
        }
        Ok(recording)
    };
    let verb = if args.dry_run { "telling which binds would be denied" } else { "denying conflicting binds" };
    let names: Vec<_> = cgroups.iter().map(|cgroup| escape::line(cgroup.path())).collect();
    let kept =
        if args.pin { ", also after the end of bindwatch, until `bindwatch enforce --unpin`" } else { "" };
    let what = format!("{verb} in {}{kept}", names.join(", "));
    record::until_stopped(&args.recording, args.duration, config, globals, &what, begin).await
}

/// `--unpin`: ends what an earlier bindwatch left in force.
fn end_pinned(cgroups: &[Directory], globals: &Globals) -> anyhow::Result<ExitCode> {
    let ids = cgroups.iter().map(Directory::id).collect::<Result<BTreeSet<_>, _>>()?;
    let ended = probe::unpin(&ids)?;
    if !globals.quiet {
        let mut paths = Paths::new(&cgroup2::mount_point().unwrap_or_default());
        let names: Vec<_> = ended.iter().map(|id| name_of(&mut paths, *id)).collect();
        say(&match names.as_slice() {
            [] => "nothing is pinned there".to_owned(),
            names => format!("binds are no longer denied in {}", names.join(", ")),
        });
    }
    Ok(ExitCode::SUCCESS)
}

fn name_of(paths: &mut Paths, id: u64) -> String {
    match paths.path(id) {
        "" => format!("a cgroup that was removed ({id})"),
        path => path.to_owned(),
    }
}
