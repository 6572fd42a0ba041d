//! `bindwatch __janitor CGROUP`

use std::path::Path;
use std::process::ExitCode;

use crate::cli::TrailingArgs;

/// Runs the inner stage.
pub(super) fn run(args: &TrailingArgs) -> anyhow::Result<ExitCode> {
    let [directory] = args.args.as_slice() else {
        anyhow::bail!("__janitor is an inner stage of bindwatch run, not a command");
    };
    crate::job::janitor(Path::new(directory));
    Ok(ExitCode::SUCCESS)
}
