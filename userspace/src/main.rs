//! bindwatch: parse, call the library, turn the outcome into an exit code.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match bindwatch::cli::Cli::try_parse() {
        Ok(cli) => bindwatch::commands::run(&cli),
        Err(error) => bindwatch::commands::wrong_usage(&error),
    }
}
