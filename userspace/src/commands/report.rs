//! `bindwatch report`: what a log shows. Needs no privileges but to read it.

use std::io;
use std::process::ExitCode;

use super::progress::Progress;
use super::{EXIT_FOUND, read_enough};
use crate::cli::{Format, Globals, ReportArgs};
use crate::clock::Anchors;
use crate::config::Config;
use crate::drive::Recorder;
use crate::event::BootTime;
use crate::judge::Rules;
use crate::ledger::finding::{Finding, Holder};
use crate::log::Reader;
use crate::sink::notices;
use crate::sink::{Report, Window, merged, report_of, text, write_all};

/// Events between two looks at what they led to.
const BATCH: usize = 512;

/// Runs the verb.
pub(super) fn run(args: &ReportArgs, globals: &Globals) -> anyhow::Result<ExitCode> {
    let format = globals.format.unwrap_or(Format::Text);
    let config = Config::load(globals.config.as_deref())?;
    let fail_on = args.judge.fail_on.clone().or_else(|| config.fail_on.clone()).unwrap_or_default();
    let style = text::Style { colored: globals.colored(&io::stdout()), whole: globals.verbose > 0 };
    let mut reports = Vec::with_capacity(args.logs.len());
    let mut progress = Progress::of(&args.logs, globals);
    for path in &args.logs {
        let name = path.to_string_lossy().into_owned();
        let reader = progress.open(path)?;
        reports.push(judged(reader, args, &config, &mut progress)?.of_log(name));
    }
    drop(progress);
    let reports = merged(reports);
    read_enough(write_all(&reports, format, style, &mut io::stdout().lock()))?;
    let mut findings = reports.iter().flat_map(Report::findings);
    let failed = findings.any(|finding| fail_on.matches(finding));
    Ok(if failed { ExitCode::from(EXIT_FOUND) } else { ExitCode::SUCCESS })
}

/// Judges a log's events anew, in one pass: what is kept grows with what is held, not with the log.
fn judged(
    mut reader: Reader,
    args: &ReportArgs,
    config: &Config,
    progress: &mut Progress,
) -> anyhow::Result<Report> {
    let header = reader.header().clone();
    let clock = header.clock;
    let start = BootTime(clock.boot_ns);
    let rules = Rules::resolve(&args.judge, config, header.rules);
    let mut recorder = Recorder::new(None, rules.into(), clock);
    let mut since = 0;
    while let Some(event) = reader.next_event() {
        recorder.apply(event?);
        since += 1;
        if since == BATCH {
            recorder.settle();
            progress.events(since);
            since = 0;
        }
    }
    recorder.settle();
    let ending = reader.ending();
    let end = ending.end.as_ref().map_or(start, |end| end.at).max(recorder.last()).max(start);
    let (own, notes) = (recorder.notices(), recorder.notes().to_vec());
    let (ledger, _) = recorder.end("replayed", end);
    let window = Window { start, end, complete: ending.complete() };
    let mut report = report_of(&ledger, header.host, clock, window, args.show_secrets).with_notes(notes);
    for notice in notices::of_ending(ending).iter().chain(&own) {
        report.notice(notice);
    }
    Ok(report.keeping(|finding| wanted(finding, args, clock, start)))
}

/// Whether the options ask for `finding`.
fn wanted(finding: &Finding, args: &ReportArgs, clock: Anchors, start: BootTime) -> bool {
    let since = args.since.map(|since| since.resolve(clock, start));
    let until = args.until.map(|until| until.resolve(clock, start));
    since.is_none_or(|since| finding.live || finding.last_seen >= since)
        && until.is_none_or(|until| finding.first_seen < until)
        && (args.kind.is_empty() || args.kind.contains(&finding.kind))
        && args.port.as_ref().is_none_or(|ports| ports.contains(&finding.port))
        && args.process.as_deref().is_none_or(|wanted| takes_part(finding, wanted))
}

/// Whether a process of this PID, or with this in its name or executable, takes part in `finding`.
fn takes_part(finding: &Finding, wanted: &str) -> bool {
    let pid: Option<u32> = wanted.parse().ok();
    let is_it = |holder: &Holder| match pid {
        Some(pid) => holder.process.tgid == pid,
        None => holder.comm.contains(wanted) || holder.exe.contains(wanted),
    };
    let victim = finding.victim.as_ref().map(|victim| &victim.holder);
    finding.holders.iter().chain(victim).chain(finding.last_owner.as_ref()).any(is_it)
}
