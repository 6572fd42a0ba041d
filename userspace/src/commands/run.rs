//! `bindwatch run`

use std::process::ExitCode;

use crate::cli::{Globals, RunArgs};

/// Runs the verb.
pub(super) fn run(_args: &RunArgs, _globals: &Globals) -> anyhow::Result<ExitCode> {
    anyhow::bail!("run is not available in this version")
}
