//! `bindwatch check`

use std::process::ExitCode;

use crate::cli::{CheckArgs, Globals};

/// Runs the verb.
pub(super) fn run(_args: &CheckArgs, _globals: &Globals) -> anyhow::Result<ExitCode> {
    anyhow::bail!("check is not available in this version")
}
