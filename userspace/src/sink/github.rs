//! Workflow commands of GitHub Actions: annotations on the job, without any file.

use std::io::{self, Write};

use super::words::{self, plural};
use super::{Report, escape, story};
use crate::ledger::finding::{Finding, Severity};

/// Annotations of one level, that which sums up the rest included: what GitHub shows of one step.
const LEVEL_MAX: usize = 10;
/// Longest message, characters.
const MESSAGE_CHARS: usize = 2_000;

/// `text` as the message of a workflow command: one line, with what the runner takes for an escape escaped.
#[must_use]
pub(super) fn message(text: &str) -> String {
    escape::line(text).replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// `text` as a property of a workflow command.
#[must_use]
pub(super) fn property(text: &str) -> String {
    message(text).replace(':', "%3A").replace(',', "%2C")
}

const fn command(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "notice",
    }
}

/// Writes the reports as one list of commands.
pub(super) fn write(reports: &[Report], out: &mut dyn Write) -> io::Result<()> {
    let mut out = io::BufWriter::new(out);
    for severity in [Severity::Error, Severity::Warning, Severity::Note] {
        level(reports, severity, &mut out)?;
    }
    out.flush()
}

fn level(reports: &[Report], severity: Severity, out: &mut impl Write) -> io::Result<()> {
    let notices = reports.iter().flat_map(|report| &report.notices).filter(|_| severity == Severity::Warning);
    let notices = notices.map(|notice| ("bindwatch".to_owned(), message(notice)));
    let findings = reports.iter().flat_map(|report| {
        let of_level = report.findings.iter().filter(move |finding| finding.kind.severity() == severity);
        of_level.map(move |finding| annotation(report, finding))
    });
    let all: Vec<(String, String)> = notices.chain(findings).collect();
    let shown = if all.len() > LEVEL_MAX { LEVEL_MAX - 1 } else { all.len() };
    for (title, text) in all.iter().take(shown) {
        writeln!(out, "::{} title={title}::{text}", command(severity))?;
    }
    if all.len() > shown {
        let rest = plural((all.len() - shown) as u64, words::severity(severity));
        let pointer: Vec<String> = reports.iter().flat_map(|report| report.logs.clone()).collect();
        let pointer = message(&format!("bindwatch report {}", escape::arguments(&pointer)));
        writeln!(out, "::{} title=bindwatch::and {rest} more: {pointer}", command(severity))?;
    }
    Ok(())
}

fn annotation(report: &Report, finding: &Finding) -> (String, String) {
    let place = words::endpoint(finding.address, finding.port);
    let title = property(&format!("bindwatch {}: {} {place}", finding.kind.name(), finding.protocol));
    let summary = words::summary(finding, report.clock);
    let story = story::sentence(finding, report.clock).map_or_else(String::new, |story| format!("\n{story}"));
    // The line feeds between the parts are ours.
    let deny = words::would_deny(finding).unwrap_or_default();
    let hint = format!("Hint: {}", words::hint(finding));
    let parts = [summary.as_str(), story.trim_start(), &hint, &deny];
    let parts: Vec<String> = parts
        .iter()
        .filter(|part| !part.is_empty())
        .map(|part| message(&escape::cut(part, MESSAGE_CHARS)))
        .collect();
    (title, parts.join("%0A"))
}
