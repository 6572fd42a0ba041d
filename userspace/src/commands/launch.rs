//! `bindwatch __launch`

use std::process::ExitCode;

use crate::cli::TrailingArgs;

/// Runs the inner stage.
pub(super) fn run(_args: &TrailingArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("__launch is not available in this version")
}
