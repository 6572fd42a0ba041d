//! `bindwatch report`

use std::process::ExitCode;

use crate::cli::{Globals, ReportArgs};

/// Runs the verb.
pub(super) fn run(_args: &ReportArgs, _globals: &Globals) -> anyhow::Result<ExitCode> {
    anyhow::bail!("report is not available in this version")
}
