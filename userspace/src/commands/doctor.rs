//! `bindwatch doctor`

use std::process::ExitCode;

use crate::cli::{DoctorArgs, Globals};

/// Runs the verb.
pub(super) fn run(_args: &DoctorArgs, _globals: &Globals) -> anyhow::Result<ExitCode> {
    anyhow::bail!("doctor is not available in this version")
}
