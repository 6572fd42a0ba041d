//! `bindwatch run`

use std::io;
use std::process::ExitCode;

use rustix::process::{Resource, getrlimit, setrlimit};

use super::{EXIT_FAILED, EXIT_FOUND, UsageError};
use crate::cgroup2::Directory;
use crate::cli::{Globals, OnConflict, RunArgs};
use crate::config::Config;
use crate::event::{Body, Job as JobEvent, JobPhase, ProcessKey};
use crate::job::{Account, Job, Left, Running};
use crate::judge::{RelatedBy, Rules};
use crate::notes::NoteBox;
use crate::probe::Guarding;
use crate::proc::label;
use crate::recording::{self, Outcome, Recording, say};
use crate::sink::{text, words};
use crate::wait::Outstanding;

/// Runs the verb.
pub(super) fn run(args: &RunArgs, globals: &Globals) -> anyhow::Result<ExitCode> {
    let config = Config::load(globals.config.as_deref())?;
    let account = Account::resolve(args.user.as_deref(), |name| std::env::var(name).ok())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(watch(args, account.as_ref(), &config, globals))
}

async fn watch(
    args: &RunArgs,
    account: Option<&Account>,
    config: &Config,
    globals: &Globals,
) -> anyhow::Result<ExitCode> {
    if let Some(path) = &args.recording.ready_file {
        recording::remove_ready_file(path)?;
    }
    let related_by = Rules::resolve(&args.recording.judge, config, Rules::default()).related_by;
    let guard = match args.recording.on_conflict {
        // bindwatch makes the call then: what it is compared by would be its own.
        OnConflict::Wait(_) if !matches!(related_by, RelatedBy::Lineage | RelatedBy::Process) => {
            let text = "--on-conflict wait decides by lineage or process: --related-by session, cgroup and user are for deny";
            return Err(UsageError(text.to_owned()).into());
        }
        OnConflict::Report if args.recording.strict => {
            return Err(UsageError("--strict is for --on-conflict deny and wait".to_owned()).into());
        }
        OnConflict::Report => Guarding::Off,
        OnConflict::Deny | OnConflict::Wait(_) => Guarding::Deny,
    };
    // Before 5.11 the memory of programs and maps counts as locked: whoever loads them may take that limit off itself.
    let locked = getrlimit(Resource::Memlock);
    let mut recording = Recording::begin(&args.recording, guard, config, globals)?;
    let mut job = Job::create()?;
    if guard != Guarding::Off {
        let cgroup = Directory::known(job.directory(), job.cgroup());
        recording.enforce(&[cgroup], &args.recording, config)?;
    }
    if let Some(path) = &args.recording.ready_file {
        recording::create_ready_file(path)?;
    }
    let mut notes = NoteBox::open()?;
    // The command has the caller's; to lower it is always permitted.
    if getrlimit(Resource::Memlock) != locked
        && let Err(error) = setrlimit(Resource::Memlock, locked)
    {
        log::warn!("the command may lock more memory than its caller: {error}");
    }
    let names = args.name.as_deref().map(label::nested);
    let mut running = match args.recording.on_conflict {
        OnConflict::Report | OnConflict::Deny => job.spawn(&args.command, account, names.as_deref())?,
        OnConflict::Wait(longest) => {
            let (running, listener) = job.spawn_handing_over(&args.command, account, names.as_deref())?;
            // Where it could not be had the command was not started, and said why.
            if let Some(listener) = listener {
                let outstanding = Outstanding::new()?;
                job.guard(&listener, &outstanding)?;
                recording.hold(listener, outstanding, longest)?;
            }
            running
        }
    };
    let program = args.command.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = args.name.clone().unwrap_or(program);
    let event = |phase, status, left| JobEvent {
        phase,
        name: name.clone(),
        cgroup: job.cgroup().to_owned(),
        process: Some(running.process()),
        status,
        left,
    };
    let start = event(JobPhase::Start, None, Vec::new());
    let mut ended = event(JobPhase::End, None, Vec::new());
    let names: Vec<ProcessKey> = vec![running.process()];
    // Whatever goes wrong with the recording from here on, the command is not disturbed.
    let mut failure = recording.insert(Body::Job(start), &names).err();
    let status = wait(&mut running, &mut recording, &mut notes, &mut failure).await?;
    recording.let_pass();
    (ended.status, ended.left) = (Some(status), job.processes());
    let names = ended.left.clone();
    if failure.is_none() {
        failure = recording.insert(Body::Job(ended), &names).err();
    }
    if args.kill_orphans && !names.is_empty() && !globals.quiet {
        let left = words::plural(names.len() as u64, "process");
        say(&format!("ending {left} that the command left behind"));
    }
    job.end(if args.kill_orphans { Left::End } else { Left::LiveOn });
    if let Some(failure) = &failure {
        say(&format!("the recording is not whole: {failure:#}"));
    }
    let outcome = recording.end("the command ended", args.recording.watch.show_secrets)?;
    // The command's status and the reports do not depend on whether anybody reads standard error.
    drop(summarise(&outcome, args, globals));
    let written = outcome.write_reports(&args.recording.report);
    if let Err(error) = &written {
        say(&format!("{error:#}"));
    }
    let is_whole = !outcome.broken && failure.is_none() && written.is_ok();
    let fail_on = args.recording.judge.fail_on.as_ref().or(config.fail_on.as_ref());
    let found = fail_on.is_some_and(|fail_on| outcome.fails(fail_on));
    Ok(match status {
        0 if !is_whole => ExitCode::from(EXIT_FAILED),
        0 if found => ExitCode::from(EXIT_FOUND),
        status => ExitCode::from(u8::try_from(status & 0xff).unwrap_or(EXIT_FAILED)),
    })
}

/// Records until the command ends.
async fn wait(
    running: &mut Running,
    recording: &mut Recording,
    notes: &mut NoteBox,
    failure: &mut Option<anyhow::Error>,
) -> io::Result<i32> {
    loop {
        if failure.is_some() {
            recording.let_pass();
            return running.wait().await;
        }
        tokio::select! {
            biased;
            status = running.wait() => return status,
            note = notes.next() => *failure = recording.note(notes, note).err(),
            turned = recording.turn() => *failure = turned.err(),
        }
    }
}

/// A few lines, only when there is something to say.
fn summarise(outcome: &Outcome, args: &RunArgs, globals: &Globals) -> io::Result<()> {
    let has_something = !outcome.report.findings().is_empty() || outcome.report.has_notices();
    if globals.quiet || !has_something {
        return Ok(());
    }
    let stderr = io::stderr();
    let style = text::Style { colored: globals.colored(&stderr), whole: false };
    text::brief(&outcome.report, &args.recording.output.to_string_lossy(), style, &mut stderr.lock())
}
