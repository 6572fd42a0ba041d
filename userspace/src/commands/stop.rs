//! `bindwatch stop`

use std::process::ExitCode;

use crate::cli::{Globals, StopArgs};
use crate::control;

/// Runs the verb.
pub(super) fn run(args: &StopArgs, _globals: &Globals) -> anyhow::Result<ExitCode> {
    control::stop(args.timeout)?;
    Ok(ExitCode::SUCCESS)
}
