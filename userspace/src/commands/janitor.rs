//! `bindwatch __janitor`

use std::process::ExitCode;

use crate::cli::TrailingArgs;

/// Runs the inner stage.
pub(super) fn run(_args: &TrailingArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("__janitor is not available in this version")
}
