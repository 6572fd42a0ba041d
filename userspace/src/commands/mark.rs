//! `bindwatch mark`

use std::process::ExitCode;

use crate::cli::{Globals, MarkArgs};
use crate::notes;

/// Runs the verb.
pub(super) fn run(args: &MarkArgs, _globals: &Globals) -> anyhow::Result<ExitCode> {
    notes::write(&args.text.join(" "))?;
    Ok(ExitCode::SUCCESS)
}
