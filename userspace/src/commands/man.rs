//! `bindwatch man [VERB]`

use std::process::ExitCode;

use clap::CommandFactory as _;

use super::{UsageError, read_enough};
use crate::cli::{Cli, ManArgs};

/// Prints the manual page.
pub(super) fn run(args: &ManArgs) -> anyhow::Result<ExitCode> {
    let mut root = Cli::command();
    root.build();
    let command = match &args.verb {
        None => root,
        Some(verb) => {
            let known = |command: &&clap::Command| command.get_name() == verb && !command.is_hide_set();
            let found = root.get_subcommands().find(known).cloned();
            // A page of its own is named like git's: bindwatch-run(1).
            let named = found.map(|command| {
                command.name(format!("bindwatch-{verb}")).bin_name(format!("bindwatch {verb}"))
            });
            named.ok_or_else(|| {
                UsageError(format!("there is no verb \"{verb}\"; bindwatch --help lists them"))
            })?
        }
    };
    read_enough(clap_mangen::Man::new(command).render(&mut std::io::stdout()))?;
    Ok(ExitCode::SUCCESS)
}
