//! `bindwatch completions SHELL`

use std::io::Write as _;
use std::process::ExitCode;

use clap::CommandFactory as _;

use super::read_enough;
use crate::cli::{Cli, CompletionsArgs};

/// Prints the completion script.
pub(super) fn run(args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    // clap_complete panics on a failed write, so it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "bindwatch", &mut script);
    read_enough(std::io::stdout().write_all(&script))?;
    Ok(ExitCode::SUCCESS)
}
