//! `bindwatch __janitor CGROUP PID`

use std::path::Path;
use std::process::ExitCode;

use crate::cli::TrailingArgs;

const NOT_A_COMMAND: &str = "__janitor is an inner stage of bindwatch run, not a command";

/// Runs the inner stage.
pub(super) fn run(args: &TrailingArgs) -> anyhow::Result<ExitCode> {
    let [parent, maker] = args.args.as_slice() else { anyhow::bail!(NOT_A_COMMAND) };
    let Some(maker) = maker.to_str().and_then(|maker| maker.parse().ok()) else {
        anyhow::bail!(NOT_A_COMMAND)
    };
    crate::job::janitor(Path::new(parent), maker);
    Ok(ExitCode::SUCCESS)
}
