//! `bindwatch record`

use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::{EXIT_FAILED, EXIT_FOUND, UsageError};
use crate::cli::{Globals, OnConflict, RecordArgs};
use crate::config::Config;
use crate::control::Door;
use crate::recording::{self, Recording, say};

/// Longer than any recording: what `--duration` is without it.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Runs the verb.
pub(super) fn run(args: &RecordArgs, globals: &Globals) -> anyhow::Result<ExitCode> {
    if args.recording.on_conflict == OnConflict::Deny {
        let text =
            "record only watches: --on-conflict deny is for `bindwatch run`, whose command it concerns";
        return Err(UsageError(text.to_owned()).into());
    }
    let config = Config::load(globals.config.as_deref())?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(record(args, &config, globals))
}

async fn record(args: &RecordArgs, config: &Config, globals: &Globals) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    if let Some(path) = &args.recording.ready_file {
        recording::remove_ready_file(path)?;
    }
    let mut recording = Recording::begin(&args.recording, config, globals)?;
    let door = Door::open()?;
    if let Some(path) = &args.recording.ready_file {
        recording::create_ready_file(path)?;
    }
    if !globals.quiet {
        say(&format!("recording to {}; Ctrl-C or `bindwatch stop` ends it", args.recording.output.display()));
    }
    let over = tokio::time::sleep(args.duration.unwrap_or(FOR_EVER));
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
            turned = recording.turn() => turned?,
        }
        if recording.is_broken() {
            break "log";
        }
    };
    let outcome = recording.end(reason, args.recording.show_secrets)?;
    if let Some(waiter) = waiter {
        waiter.tell_ended().await;
    }
    outcome.write_reports(&args.recording.report)?;
    if outcome.broken {
        return Ok(ExitCode::from(EXIT_FAILED));
    }
    let fail_on = args.recording.judge.fail_on.clone().or_else(|| config.fail_on.clone());
    let failed = fail_on.is_some_and(|fail_on| outcome.fails(&fail_on));
    Ok(if failed { ExitCode::from(EXIT_FOUND) } else { ExitCode::SUCCESS })
}
