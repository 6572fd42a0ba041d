//! `bindwatch __launch`

use std::process::ExitCode;

use crate::cli::TrailingArgs;

/// Runs the inner stage.
pub(super) fn run(args: &TrailingArgs) -> ExitCode {
    ExitCode::from(crate::job::launch(&args.args))
}
