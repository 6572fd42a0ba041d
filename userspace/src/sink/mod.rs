//! What people and programs get to see: one file a format, over one [`Report`].

pub mod chart;
mod ended;
pub mod escape;
mod github;
pub mod history;
#[cfg(test)]
mod hostile;
mod html;
pub mod json;
mod junit;
pub mod listing;
mod markdown;
mod merge;
pub mod notices;
mod sarif;
pub mod story;
mod table;
#[cfg(test)]
mod tests;
pub mod text;
pub mod timeline;
pub mod told;
pub mod words;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::{self, Write};

pub use merge::merged;

use crate::cli::Format;
use crate::clock::Anchors;
use crate::event::{BootTime, ProcessKey};
use crate::ledger::Ledger;
use crate::ledger::finding::{Finding, FindingId};
use crate::log::Host;
use crate::secrets::mask_arguments;

/// What was watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// From when.
    pub start: BootTime,
    /// Until when.
    pub end: BootTime,
    /// Everything until an orderly end is there.
    pub complete: bool,
}

/// Counts of what was watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Events.
    pub events: u64,
    /// Events that were lost.
    pub lost: u64,
    /// Sockets.
    pub sockets: u64,
    /// Binds that succeeded.
    pub binds: u64,
    /// Binds that failed.
    pub binds_failed: u64,
}

/// Everything a format can show. Arguments are masked when it is made, so that no format can forget to.
#[derive(Clone, Debug)]
pub struct Report {
    host: Host,
    clock: Anchors,
    window: Window,
    stats: Stats,
    notices: Vec<String>,
    findings: Vec<Finding>,
    left_out: usize,
    /// Names of the logs that this is about.
    logs: Vec<String>,
    /// Of several logs, the one that a finding is from: its evidence is in there.
    sources: BTreeMap<FindingId, usize>,
    /// What users wrote into the recording, in order.
    notes: Vec<Remark>,
    /// What `explain` tells.
    history: Option<history::History>,
    targets: Option<Vec<listing::Answer>>,
    listing: Option<listing::Listing>,
    show_secrets: bool,
}

/// A note of a user in a recording (`bindwatch mark`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// When.
    pub at: BootTime,
    /// What they wrote: data.
    pub text: String,
    /// Who.
    pub process: ProcessKey,
}

impl Report {
    /// A report without findings.
    #[must_use]
    pub fn new(host: Host, clock: Anchors, window: Window, stats: Stats, show_secrets: bool) -> Self {
        let (notices, findings, left_out) = (Vec::new(), Vec::new(), 0);
        let (history, targets, listing) = (None, None, None);
        let (logs, sources, notes) = (Vec::new(), BTreeMap::new(), Vec::new());
        Self {
            host,
            clock,
            window,
            stats,
            notices,
            findings,
            left_out,
            logs,
            sources,
            notes,
            history,
            targets,
            listing,
            show_secrets,
        }
    }

    /// Says which log this is about.
    #[must_use]
    pub fn of_log(mut self, name: String) -> Self {
        self.logs = vec![name];
        self
    }

    /// Takes what users wrote into the recording.
    #[must_use]
    pub fn with_notes(mut self, notes: Vec<Remark>) -> Self {
        self.notes = notes;
        self
    }

    /// Takes the story of what `explain` was asked about.
    #[must_use]
    pub fn with_history(mut self, mut history: history::History) -> Self {
        if !self.show_secrets {
            history.mask();
        }
        self.history = Some(history);
        self
    }

    /// The log that a finding's evidence is in, where there are several.
    #[must_use]
    pub fn source_of(&self, finding: &Finding) -> Option<&str> {
        let at = self.sources.get(&finding.id)?;
        self.logs.get(*at).map(String::as_str)
    }

    /// Says in the first lines of every format what makes this report less than whole: loss, a log cut short. One
    /// sentence, without its full stop; text from elsewhere in it is escaped here.
    pub fn notice(&mut self, notice: &str) {
        self.notices.push(escape::line(notice).into_owned());
    }

    /// Something makes this report less than whole.
    #[must_use]
    pub fn has_notices(&self) -> bool {
        !self.notices.is_empty()
    }

    /// Takes the findings, worst first, then as they came. `left_out` were not asked for.
    #[must_use]
    pub fn with_findings(mut self, findings: impl IntoIterator<Item = Finding>, left_out: usize) -> Self {
        self.findings = findings.into_iter().collect();
        self.left_out = left_out;
        if !self.show_secrets {
            self.findings.iter_mut().for_each(mask);
        }
        self.findings.sort_by_key(|finding| (Reverse(finding.kind.severity()), finding.kind, finding.id));
        self
    }

    /// Leaves out findings that are not wanted, and counts them.
    #[must_use]
    pub fn keeping(mut self, wanted: impl Fn(&Finding) -> bool) -> Self {
        let all = self.findings.len();
        self.findings.retain(wanted);
        self.left_out += all - self.findings.len();
        self
    }

    /// Takes the sockets that `list` and `check` show.
    #[must_use]
    pub fn with_sockets(mut self, mut listing: listing::Listing) -> Self {
        if !self.show_secrets {
            listing.people.iter_mut().for_each(|person| mask_arguments(&mut person.facts.cmdline));
        }
        self.listing = Some(listing);
        self
    }

    /// Takes the answers of `check`.
    #[must_use]
    pub fn with_targets(mut self, targets: Vec<listing::Answer>) -> Self {
        self.targets = Some(targets);
        self
    }

    /// The findings, worst first.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Writes the report.
    ///
    /// # Errors
    /// When `out` cannot be written to.
    pub fn write(&self, format: Format, style: text::Style, out: &mut dyn Write) -> io::Result<()> {
        match format {
            Format::Text if self.history.is_some() => history::write(self, style, out),
            Format::Text if self.targets.is_some() => listing::write_answers(self, style, out),
            Format::Text if self.listing.is_some() => listing::write(self, style, out),
            _ => write_all(std::slice::from_ref(self), format, style, out),
        }
    }
}

/// Writes reports of several machines: as one document, or, as JSON, as one document after the other.
///
/// # Errors
/// When `out` cannot be written to.
pub fn write_all(
    reports: &[Report],
    format: Format,
    style: text::Style,
    out: &mut dyn Write,
) -> io::Result<()> {
    match format {
        Format::Markdown => markdown::write(reports, out),
        Format::Html => html::write(reports, out),
        Format::Junit => junit::write(reports, out),
        Format::Sarif => sarif::write(reports, out),
        Format::Github => github::write(reports, out),
        Format::Json => reports.iter().try_for_each(|report| json::write(report, out)),
        Format::Text => reports.iter().enumerate().try_for_each(|(at, report)| {
            if at > 0 {
                writeln!(out)?;
            }
            text::write(report, style, out)
        }),
    }
}

/// The report on what `ledger` holds and found, with what it knows to be missing.
#[must_use]
pub fn report_of(ledger: &Ledger, host: Host, clock: Anchors, window: Window, show_secrets: bool) -> Report {
    let counted = ledger.stats();
    let stats = Stats {
        events: counted.events,
        lost: counted.lost,
        sockets: counted.sockets,
        binds: counted.binds,
        binds_failed: counted.binds_failed,
    };
    let mut report = Report::new(host, clock, window, stats, show_secrets);
    let limits = notices::of_limits(counted.limits.keys());
    let omitted = counted.omitted.as_ref().map(|omitted| notices::of_omitted(omitted, clock));
    for sentence in notices::of_loss(&counted.lost_by_kind).into_iter().chain(limits).chain(omitted) {
        report.notice(&sentence);
    }
    report.with_findings(ledger.findings(), 0)
}

/// Masks the arguments of everybody in a finding.
fn mask(finding: &mut Finding) {
    let victim = finding.victim.as_mut().map(|victim| &mut victim.holder);
    for holder in finding.holders.iter_mut().chain(victim).chain(finding.last_owner.as_mut()) {
        mask_arguments(&mut holder.cmdline);
    }
}
