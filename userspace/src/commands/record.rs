//! `bindwatch record`

use std::process::ExitCode;

use crate::cli::{Globals, RecordArgs};

/// Runs the verb.
pub(super) fn run(_args: &RecordArgs, _globals: &Globals) -> anyhow::Result<ExitCode> {
    anyhow::bail!("record is not available in this version")
}
