//! SARIF 2.1.0, for code scanning. What was found is no place in a source file: the location is the log, and the
//! endpoint is its logical location.

use std::io::{self, BufWriter, Write};

use serde_json::ser::PrettyFormatter;
use serde_json::{Value, json};

use super::escape::SafeJson;
use super::words::{self, endpoint};
use super::{Report, escape, story};
use crate::ledger::finding::{Finding, Kind, Severity};

/// Results of one run: what code scanning of GitHub takes.
const RESULTS_MAX: usize = 25_000;

/// `text` as the text of a message: one line, and no link in it.
#[must_use]
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for c in escape::line(text).chars() {
        if matches!(c, '\\' | '[' | ']') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// The bytes of a path that stand for themselves in a URI (RFC 3986); the rest as %XX.
fn uri(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

const fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    }
}

/// Writes the reports as one document: a run for each machine.
pub(super) fn write(reports: &[Report], out: &mut dyn Write) -> io::Result<()> {
    let document = json!({
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": reports.iter().map(run).collect::<Vec<_>>(),
    });
    let mut buffered = BufWriter::new(out);
    let formatter = SafeJson(PrettyFormatter::new());
    serde::Serialize::serialize(
        &document,
        &mut serde_json::Serializer::with_formatter(&mut buffered, formatter),
    )?;
    buffered.write_all(b"\n")?;
    buffered.flush()
}

fn run(report: &Report) -> Value {
    let notifications: Vec<Value> = report
        .notices
        .iter()
        .map(|notice| json!({ "level": "warning", "message": { "text": escaped(notice) } }))
        .collect();
    let clock = report.clock;
    let results: Vec<Value> =
        report.findings.iter().take(RESULTS_MAX).map(|finding| result(report, finding)).collect();
    json!({
        "tool": { "driver": {
            "name": "bindwatch",
            "version": env!("CARGO_PKG_VERSION"),
            "rules": Kind::ALL.iter().map(|kind| rule(*kind)).collect::<Vec<_>>(),
        } },
        "columnKind": "unicodeCodePoints",
        "invocations": [{
            "executionSuccessful": report.window.complete,
            "startTimeUtc": clock.rfc3339(report.window.start),
            "endTimeUtc": clock.rfc3339(report.window.end),
            "machine": report.host.hostname,
            "toolExecutionNotifications": notifications,
        }],
        "results": results,
        "properties": {
            "kernel": report.host.kernel,
            "bootId": report.host.boot_id,
            "stats": serde_json::to_value(report.stats).unwrap_or_default(),
            "leftOut": report.left_out + report.findings.len().saturating_sub(RESULTS_MAX),
        },
    })
}

fn rule(kind: Kind) -> Value {
    json!({
        "id": kind.name(),
        "shortDescription": { "text": words::kind_meaning(kind) },
        "defaultConfiguration": { "level": level(kind.severity()) },
    })
}

fn result(report: &Report, finding: &Finding) -> Value {
    let place = format!("{} {}", finding.protocol, endpoint(finding.address, finding.port));
    let mut text = escaped(&words::summary(finding, report.clock));
    let story = story::sentence(finding, report.clock);
    for more in story.into_iter().chain([words::hint(finding)]).chain(words::would_deny(finding)) {
        text.push_str(&format!("\n\n{}", escaped(&more)));
    }
    let log = report.source_of(finding).or(report.logs.first().map(String::as_str));
    json!({
        "ruleId": finding.kind.name(),
        "ruleIndex": Kind::ALL.iter().position(|kind| *kind == finding.kind).unwrap_or(0),
        "level": level(finding.kind.severity()),
        "message": { "text": text },
        "locations": [{
            "physicalLocation": {
                "artifactLocation": { "uri": uri(log.unwrap_or("bindwatch.jsonl")) },
                "region": { "startLine": 1 },
            },
            "logicalLocations": [{ "name": place, "kind": "resource" }],
        }],
        "partialFingerprints": { "bindwatch/v1": fingerprint(finding) },
        "occurrenceCount": finding.count.max(1),
        "properties": {
            "evidence": finding.evidence,
            "netns": finding.netns,
            "uncertain": finding.uncertain,
            "wouldDeny": finding.would_deny,
        },
    })
}

/// What stays the same from one run of a job to the next: no PIDs, no times.
fn fingerprint(finding: &Finding) -> String {
    let victim = finding.victim.as_ref().map(|victim| &victim.holder);
    let mut names: Vec<&str> =
        finding.holders.iter().chain(victim).map(|holder| holder.comm.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let place = endpoint(finding.address, finding.port);
    let text = format!("{} {} {place} {}", finding.kind.name(), finding.protocol, names.join("\0"));
    // FNV-1a, 64 bits: the same in every version.
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}
