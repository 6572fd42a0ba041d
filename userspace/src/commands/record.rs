//! `bindwatch record`

use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::{EXIT_FAILED, EXIT_FOUND, UsageError};
use crate::cli::{Globals, OnConflict, RecordArgs, RecordingArgs};
use crate::config::Config;
use crate::control::Door;
use crate::notes::NoteBox;
use crate::probe::Guarding;
use crate::recording::{self, Recording, say};

/// Longer than any recording: what `--duration` is without it.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Runs the verb.
pub(super) fn run(args: &RecordArgs, globals: &Globals) -> anyhow::Result<ExitCode> {
    if args.recording.on_conflict != OnConflict::Report || args.recording.strict {
        let text = "record only watches: --on-conflict and --strict are for `bindwatch run`, and `bindwatch enforce` denies in any cgroup";
        return Err(UsageError(text.to_owned()).into());
    }
    let config = Config::load(globals.config.as_deref())?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(record(args, &config, globals))
}

async fn record(args: &RecordArgs, config: &Config, globals: &Globals) -> anyhow::Result<ExitCode> {
    let begin = || Recording::begin(&args.recording, Guarding::Off, config, globals);
    let what = format!("recording to {}", args.recording.output.display());
    until_stopped(&args.recording, args.duration, config, globals, &what, begin).await
}

/// Records what `begin` gives until a signal, `bindwatch stop` or the time ends it; then the reports.
pub(super) async fn until_stopped(
    args: &RecordingArgs,
    duration: Option<Duration>,
    config: &Config,
    globals: &Globals,
    what: &str,
    begin: impl FnOnce() -> anyhow::Result<Recording>,
) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    if let Some(path) = &args.ready_file {
        recording::remove_ready_file(path)?;
    }
    let mut recording = begin()?;
    let door = Door::open()?;
    let mut notes = NoteBox::open()?;
    if let Some(path) = &args.ready_file {
        recording::create_ready_file(path)?;
    }
    if !globals.quiet {
        say(&format!("{what}; Ctrl-C or `bindwatch stop` ends it"));
    }
    let over = tokio::time::sleep(duration.unwrap_or(FOR_EVER));
    tokio::pin!(over);
    // Made once: a request that is being read must not be dropped because a record came.
    let asked = door.asked_to_stop();
    tokio::pin!(asked);
    let mut waiter = None;
    let reason = loop {
        tokio::select! {
            biased;
            _ = interrupt.recv() => break "interrupt",
            _ = terminate.recv() => break "terminate",
            _ = hang_up.recv() => break "hangup",
            () = &mut over => break "duration",
            asked = &mut asked => {
                waiter = Some(asked);
                break "stop";
            }
            note = notes.next() => recording.note(&mut notes, note)?,
            turned = recording.turn() => turned?,
        }
        if recording.is_broken() {
            break "log";
        }
    };
    let outcome = recording.end(reason, args.watch.show_secrets)?;
    if let Some(waiter) = waiter {
        waiter.tell_ended().await;
    }
    outcome.write_reports(&args.report)?;
    if outcome.broken {
        return Ok(ExitCode::from(EXIT_FAILED));
    }
    let fail_on = args.judge.fail_on.clone().or_else(|| config.fail_on.clone());
    let failed = fail_on.is_some_and(|fail_on| outcome.fails(&fail_on));
    Ok(if failed { ExitCode::from(EXIT_FOUND) } else { ExitCode::SUCCESS })
}
