//! `bindwatch list`

use std::process::ExitCode;

use crate::cli::{Globals, ListArgs};

/// Runs the verb.
pub(super) fn run(_args: &ListArgs, _globals: &Globals) -> anyhow::Result<ExitCode> {
    anyhow::bail!("list is not available in this version")
}
