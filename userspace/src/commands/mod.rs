//! The verbs: each chooses its sources and sinks. Here they are called, and their outcome becomes an exit code.

mod census;
mod check;
mod completions;
mod doctor;
mod enforce;
mod enroll;
mod explain;
mod janitor;
mod launch;
mod list;
mod man;
mod mark;
mod progress;
mod record;
mod report;
mod run;
mod stop;
mod top;

use std::io::{self, Write as _};
use std::process::ExitCode;

use crate::cli::{Cli, Format, Globals, Verb};
use crate::sink::escape;

/// Exit code when findings matched `--fail-on`, or something `check` was asked about is held.
pub const EXIT_FOUND: u8 = 1;
/// Exit code when `check --wait` ran out.
pub const EXIT_TIMEOUT: u8 = 124;
/// Exit code on wrong usage.
pub const EXIT_USAGE: u8 = 2;
/// Exit code when bindwatch itself fails.
pub const EXIT_FAILED: u8 = 125;

/// Usage that is wrong in a way that only the command can see: ends with [`EXIT_USAGE`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// The format that was asked for, text when none was, of a verb that prints text or JSON.
///
/// # Errors
/// When another was asked for.
fn text_or_json(globals: &Globals) -> Result<Format, UsageError> {
    match globals.format.unwrap_or(Format::Text) {
        format @ (Format::Text | Format::Json) => Ok(format),
        other => Err(UsageError(format!(
            "format {} is for `bindwatch report`; here use text or json",
            other.name()
        ))),
    }
}

/// What was written to standard output for somebody who may have seen enough of it (`bindwatch report LOG | head`): that is no
/// failure, and the exit code says what it would have said.
///
/// # Errors
/// When it could not be written for any other reason.
pub(crate) fn read_enough(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), format!("cannot write to standard output: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// Does what the command line says. Errors are printed here, as one line on standard error.
#[must_use]
pub fn run(cli: &Cli) -> ExitCode {
    let globals = &cli.globals;
    crate::diagnostics::start(globals.verbose);
    let outcome = match &cli.verb {
        Verb::Run(args) => run::run(args, globals),
        Verb::Record(args) => record::run(args, globals),
        Verb::Report(args) => report::run(args, globals),
        Verb::Explain(args) => explain::run(args, globals),
        Verb::List(args) => list::run(args, globals),
        Verb::Top(args) => top::run(args, globals),
        Verb::Check(args) => check::run(args, globals),
        Verb::Doctor(args) => doctor::run(args, globals),
        Verb::Enforce(args) => enforce::run(args, globals),
        Verb::Enroll(args) => enroll::run(args, globals),
        Verb::Mark(args) => mark::run(args, globals),
        Verb::Stop(args) => stop::run(args, globals),
        Verb::Completions(args) => completions::run(args),
        Verb::Man(args) => man::run(args),
        Verb::Launch(args) => Ok(launch::run(args)),
        Verb::Janitor(args) => janitor::run(args),
    };
    outcome.unwrap_or_else(|error| failed(&error))
}

/// What the command line's parser has to say: help and version as they are, anything else as one line on standard
/// error.
#[must_use]
pub fn wrong_usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // Nothing is left to do should standard output be closed.
        drop(error.print());
        return ExitCode::SUCCESS;
    }
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        drop(error.print());
        return ExitCode::from(EXIT_USAGE);
    }
    drop(writeln!(io::stderr(), "bindwatch: {}", escape::line(&usage_line(&error.render().to_string()))));
    ExitCode::from(EXIT_USAGE)
}

/// The first paragraph of the parser's message, and the tip if there is one; what follows is the usage, which `--help`
/// shows better.
fn usage_line(message: &str) -> String {
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let joined = |lines: &mut dyn Iterator<Item = &str>| lines.map(str::trim).collect::<Vec<_>>().join(" ");
    let first = joined(&mut message.lines().take_while(|line| !line.trim().is_empty()));
    let tip = message.lines().find_map(|line| line.trim().strip_prefix("tip: "));
    let tip = tip.map(|tip| format!("; {tip}")).unwrap_or_default();
    format!("{first}{tip} (see bindwatch --help)")
}

fn failed(error: &anyhow::Error) -> ExitCode {
    // Whoever read our output has seen enough of it: `bindwatch report LOG | head`.
    let broken_pipe = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(broken_pipe) {
        return ExitCode::SUCCESS;
    }
    let line = one_line(error);
    // Nothing is left to do should standard error be closed.
    drop(writeln!(io::stderr(), "bindwatch: {}", escape::line(&line)));
    ExitCode::from(if error.is::<UsageError>() { EXIT_USAGE } else { EXIT_FAILED })
}

/// What went wrong and its causes. Many messages name their cause where it reads best; it is not said again then.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::one_line;
    use crate::probe::ProbeError;

    #[test]
    fn a_cause_is_said_once() {
        let missing = || io::Error::from_raw_os_error(nix::libc::ENOENT);
        let error = anyhow::Error::from(ProbeError::NoBtf { source: missing() });
        let line = one_line(&error);
        assert_eq!(line.matches("No such file").count(), 1, "{line}");
        assert!(line.ends_with("CONFIG_DEBUG_INFO_BTF"), "what to do comes last: {line}");

        let error = anyhow::Error::from(missing()).context("cannot read the list");
        assert_eq!(one_line(&error), "cannot read the list: No such file or directory (os error 2)");
    }
}
