//! `bindwatch stop`

use std::process::ExitCode;

use crate::cli::{Globals, StopArgs};

/// Runs the verb.
pub(super) fn run(_args: &StopArgs, _globals: &Globals) -> anyhow::Result<ExitCode> {
    anyhow::bail!("stop is not available in this version")
}
