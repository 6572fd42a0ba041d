//! JUnit XML, in the dialect that Jenkins and GitLab read: every finding is a test, and one that is more than a note
//! failed.

use std::io::{self, BufWriter, Write};

use super::words::{self, endpoint};
use super::{Report, escape, text};
use crate::ledger::finding::{Finding, Severity};

/// Failures that are written in full; the rest have their sentence only.
const FULL_MAX: usize = 1_000;

/// `text` as one line of an attribute or of an element's text.
#[must_use]
pub(super) fn escaped(text: &str) -> String {
    characters(&escape::line(text))
}

/// The same for text of several lines whose parts are escaped for a terminal already.
fn characters(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            // `]]>` must not be in an element's text.
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            c => out.push(c),
        }
    }
    out
}

/// Writes the reports as one document: a suite for each machine.
pub(super) fn write(reports: &[Report], out: &mut dyn Write) -> io::Result<()> {
    let mut out = BufWriter::new(out);
    writeln!(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>")?;
    writeln!(out, "<testsuites name=\"bindwatch\">")?;
    for (id, report) in reports.iter().enumerate() {
        suite(id, report, &mut out)?;
    }
    writeln!(out, "</testsuites>")?;
    out.flush()
}

fn is_failure(finding: &Finding) -> bool {
    finding.kind.severity() > Severity::Note
}

fn suite(id: usize, report: &Report, out: &mut impl Write) -> io::Result<()> {
    let failures = report.findings.iter().filter(|finding| is_failure(finding)).count();
    // A suite without a test is taken for one that did not run.
    let tests = report.findings.len().max(1);
    let seconds = report.window.end.since(report.window.start) / 1_000_000;
    let start = report.clock.rfc3339(report.window.start);
    writeln!(
        out,
        "  <testsuite id=\"{id}\" package=\"bindwatch\" name=\"bindwatch\" tests=\"{tests}\" failures=\"{failures}\" errors=\"0\" skipped=\"0\" time=\"{}.{:03}\" timestamp=\"{}\" hostname=\"{}\">",
        seconds / 1000,
        seconds % 1000,
        start.get(..19).unwrap_or_default(),
        escaped(if report.host.hostname.is_empty() { "unknown" } else { &report.host.hostname }),
    )?;
    writeln!(out, "    <properties>")?;
    for (name, value) in [
        ("kernel", report.host.kernel.clone()),
        ("boot_id", report.host.boot_id.clone()),
        ("complete", report.window.complete.to_string()),
        ("log", report.logs.join(" ")),
    ] {
        writeln!(out, "      <property name=\"{name}\" value=\"{}\"/>", escaped(&value))?;
    }
    writeln!(out, "    </properties>")?;
    if report.findings.is_empty() {
        writeln!(out, "    <testcase classname=\"bindwatch\" name=\"no findings\" time=\"0\"/>")?;
    }
    for (at, finding) in report.findings.iter().enumerate() {
        case(report, finding, at < FULL_MAX, out)?;
    }
    let notices: Vec<String> = report.notices.iter().map(|notice| format!("{notice}\n")).collect();
    writeln!(out, "    <system-out>{}</system-out>", characters(&text::watched(report)))?;
    writeln!(out, "    <system-err>{}</system-err>", characters(&notices.concat()))?;
    writeln!(out, "  </testsuite>")
}

fn case(report: &Report, finding: &Finding, full: bool, out: &mut impl Write) -> io::Result<()> {
    let kind = finding.kind.name();
    let name = format!("{} {}", finding.protocol, endpoint(finding.address, finding.port));
    // Two findings of one kind on one endpoint are two tests.
    writeln!(
        out,
        "    <testcase classname=\"bindwatch.{kind}\" name=\"{} ({})\" time=\"{}\">",
        escaped(&name),
        finding.id.0,
        finding.overlap.unwrap_or(0) / 1_000_000_000,
    )?;
    let summary = escaped(&words::summary(finding, report.clock));
    let mut block = Vec::new();
    if full {
        text::finding(report, finding, &mut block)?;
    }
    let block = characters(&String::from_utf8_lossy(&block));
    if is_failure(finding) {
        writeln!(out, "      <failure type=\"{kind}\" message=\"{summary}\">{block}</failure>")?;
    } else {
        writeln!(out, "      <system-out>{}</system-out>", if full { &block } else { &summary })?;
    }
    writeln!(out, "    </testcase>")
}
