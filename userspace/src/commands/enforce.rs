//! `bindwatch enforce`

use std::process::ExitCode;

use super::{UsageError, record};
use crate::cgroup2::Directory;
use crate::cli::{EnforceArgs, Globals, OnConflict};
use crate::config::Config;
use crate::event::EnforcementMode;
use crate::probe::Guarding;
use crate::recording::Recording;
use crate::sink::escape;

/// Runs the verb.
pub(super) fn run(args: &EnforceArgs, globals: &Globals) -> anyhow::Result<ExitCode> {
    if args.recording.on_conflict != OnConflict::Report {
        let text = "enforce denies by itself: --on-conflict is for `bindwatch run`; --dry-run only reports";
        return Err(UsageError(text.to_owned()).into());
    }
    let config = Config::load(globals.config.as_deref())?;
    let cgroups = args.cgroup.iter().map(|path| Directory::find(path)).collect::<Result<Vec<_>, _>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(enforce(args, &cgroups, &config, globals))
}

async fn enforce(
    args: &EnforceArgs,
    cgroups: &[Directory],
    config: &Config,
    globals: &Globals,
) -> anyhow::Result<ExitCode> {
    let (guard, mode) = if args.dry_run {
        (Guarding::DryRun, EnforcementMode::DryRun)
    } else {
        (Guarding::Deny, EnforcementMode::Deny)
    };
    let begin = || {
        let mut recording = Recording::begin(&args.recording, guard, config, globals)?;
        recording.enforce(cgroups, mode, &args.recording, config)?;
        Ok(recording)
    };
    let verb = if args.dry_run { "telling which binds would be denied" } else { "denying conflicting binds" };
    let names: Vec<_> = cgroups.iter().map(|cgroup| escape::line(cgroup.path())).collect();
    let what = format!("{verb} in {}", names.join(", "));
    record::until_stopped(&args.recording, args.duration, config, globals, &what, begin).await
}
