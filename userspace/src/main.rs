//! bindwatch: parse, call the library, turn the outcome into an exit code.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    bindwatch::commands::run(&bindwatch::cli::Cli::parse())
}
