//! `bindwatch explain`: the story of one endpoint, from a log that may still grow.

use std::io;
use std::process::ExitCode;

use super::progress::Progress;
use super::{read_enough, text_or_json};
use crate::cli::{ExplainArgs, Globals};
use crate::clock::Anchors;
use crate::config::Config;
use crate::drive::Recorder;
use crate::event::BootTime;
use crate::judge::Rules;
use crate::sink::history::{History, endpoint_of};
use crate::sink::{Window, notices, report_of, text};

/// Events that are handed on at once.
const BATCH: usize = 512;

/// Runs the verb.
pub(super) fn run(args: &ExplainArgs, globals: &Globals) -> anyhow::Result<ExitCode> {
    let format = text_or_json(globals)?;
    let config = Config::load(globals.config.as_deref())?;
    let mut progress = Progress::of(std::slice::from_ref(&args.log), globals);
    let mut reader = progress.open(&args.log)?;
    let header = reader.header().clone();
    let clock = header.clock;
    let start = BootTime(clock.boot_ns);
    let asked = args.at.map(|at| at.resolve(clock, start));
    // Before its first event a log knows of nobody, which does not mean that there was nobody.
    let at = asked.filter(|at| *at >= start);
    let mut recorder = Recorder::new(None, Rules::resolve(&args.judge, &config, header.rules).into(), clock);
    let mut history = History::new(args.target.clone(), at);
    let mut batch = Vec::with_capacity(BATCH);
    let mut more = true;
    while more {
        more = reader.fill(&mut batch, BATCH)?;
        progress.events(batch.len());
        // The state at an instant is that behind the last event before it.
        while !batch.is_empty() {
            let before = history.before(&batch);
            let mut now: Vec<_> = batch.drain(..before).collect();
            let told = history.choose(&now);
            recorder.take(&mut now);
            history.take(told, &recorder.ledger().view());
            if before == 0 || !batch.is_empty() {
                history.reach(&recorder.ledger().view());
            }
        }
    }
    drop(progress);
    history.reach(&recorder.ledger().view());
    let ending = reader.ending();
    let end = ending.end.as_ref().map_or(start, |end| end.at).max(recorder.last()).max(start);
    let outside = asked.and_then(|at| outside(at, start, end, clock));
    let (unseen, notes) = (recorder.unseen().sentence(), recorder.notes().to_vec());
    let (ledger, _) = recorder.end("replayed", end);
    let window = Window { start, end, complete: ending.complete() };
    let mut report = report_of(&ledger, header.host, clock, window, args.show_secrets)
        .of_log(args.log.to_string_lossy().into_owned())
        .with_notes(notes)
        .with_history(history)
        .keeping(|finding| args.target.takes(&endpoint_of(finding)));
    for notice in notices::of_ending(ending).iter().chain(&unseen).chain(&outside) {
        report.notice(notice);
    }
    let style = text::Style { colored: globals.colored(&io::stdout()), whole: globals.verbose > 0 };
    read_enough(report.write(format, style, &mut io::stdout().lock()))?;
    Ok(ExitCode::SUCCESS)
}

/// What is to be said about a time in which nothing was watched.
fn outside(at: BootTime, start: BootTime, end: BootTime, clock: Anchors) -> Option<String> {
    if at < start {
        return Some(format!("the log begins at {}: who held it before is not known", clock.rfc3339(start)));
    }
    (at > end).then(|| {
        let end = clock.rfc3339(end);
        format!("the log ends at {end}: who held it later is not known, what is told is its end")
    })
}
