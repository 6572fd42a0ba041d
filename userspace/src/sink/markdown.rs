//! For a pull request's comment or a job's summary: at most as large as a summary may be.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::timeline::{self, Case};
use super::words::{self, plural};
use super::{Report, chart, escape, story, text};
use crate::cli::duration_text;
use crate::ledger::finding::{Finding, Holder};

/// Largest document, bytes: a job summary of GitHub Actions may have 1 MiB, and is dropped whole when it has more.
pub(super) const SIZE_MAX: usize = 1_000_000;
/// Kept free for the line that says what was cut, bytes.
const POINTER_BYTES: usize = 1_000;
/// Holders in a table, rows.
const HOLDERS_SHOWN: usize = 20;
/// Longest list of arguments, characters.
const ARGUMENTS_CHARS: usize = 240;

/// `text` as a part of a line that Markdown shows as it is, in a table's cell too: no markup, no link, no mention. It must
/// not begin the line, where a number or a dash would begin a list.
#[must_use]
pub(super) fn escaped(text: &str) -> String {
    let line = escape::line(text);
    let mut out = String::with_capacity(line.len() + 16);
    let mut rest = line.chars().peekable();
    let mut before = ' ';
    while let Some(c) = rest.next() {
        match c {
            // An empty comment takes apart what GitHub would make a mention, a reference or a link of.
            '@' => out.push_str("@<!-- -->"),
            '#' => out.push_str("\\#<!-- -->"),
            ':' if rest.peek() == Some(&'/') => out.push_str(":<!-- -->"),
            '.' if before.eq_ignore_ascii_case(&'w') => out.push_str("<!-- -->."),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            // A backslash before it would be taken for the end of a table's cell by some.
            '|' => out.push_str("&#124;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '~' | '$' => {
                out.push('\\');
                out.push(c);
            }
            // Blanks at either end, and more than one, would be lost.
            ' ' if before == ' ' || rest.peek().is_none() => out.push_str("&#32;"),
            c => out.push(c),
        }
        before = c;
    }
    out
}

/// `text` in a fence of its own, which nothing in it can close.
fn fenced(lines: &[String]) -> String {
    let longest = lines.iter().flat_map(|line| line.split(|c| c != '`')).map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}text\n{}\n{fence}\n", lines.join("\n"))
}

/// Writes the reports as one document.
pub(super) fn write(reports: &[Report], out: &mut dyn Write) -> io::Result<()> {
    let mut document = String::new();
    for report in reports {
        one(report, &mut document, SIZE_MAX.saturating_sub(POINTER_BYTES));
    }
    out.write_all(document.as_bytes())?;
    out.flush()
}

fn one(report: &Report, document: &mut String, max: usize) {
    document.push_str(&head(report));
    let cases = timeline::cases(&report.findings, report.window.end);
    let mut left = report.findings.len();
    for case in &cases {
        let part = section(case, report);
        if document.len() + part.len() > max {
            break;
        }
        document.push_str(&part);
        left -= case.findings.len();
    }
    if left > 0 {
        let missing = plural(left as u64, "finding");
        let pointer = escape::arguments(&report.logs);
        document.push_str(&format!(
            "**{missing} more did not fit here.** All of them: {}\n\n",
            code(&escape::cut(&format!("bindwatch report {pointer}"), ARGUMENTS_CHARS))
        ));
    }
}

fn head(report: &Report) -> String {
    let (clock, window) = (report.clock, report.window);
    let watched = duration_text(window.end.since(window.start));
    let mut text = format!("## bindwatch: {}\n\n", words::totals(&report.findings));
    for notice in &report.notices {
        text.push_str(&format!("> **Warning:** {}\n\n", escaped(notice)));
    }
    text.push_str(&format!(
        "Host {} (Linux {}), {} to {} ({watched}). {}{}\n\n",
        escaped(&report.host.hostname),
        escaped(&report.host.kernel),
        clock.rfc3339(window.start),
        clock.rfc3339(window.end),
        text::watched(report),
        text::left_out(report),
    ));
    if !report.findings.is_empty() {
        text.push_str("| | what | where | in short |\n|---|---|---|---|\n");
        for finding in report.findings.iter().take(HOLDERS_SHOWN) {
            text.push_str(&format!(
                "| {} | `{}` | `{} {}` | {} |\n",
                words::severity(finding.kind.severity()),
                finding.kind.name(),
                finding.protocol,
                words::endpoint(finding.address, finding.port),
                escaped(&words::summary(finding, clock)),
            ));
        }
        if report.findings.len() > HOLDERS_SHOWN {
            text.push_str(&format!("| | | | and {} more, below |\n", report.findings.len() - HOLDERS_SHOWN));
        }
        text.push('\n');
    }
    text
}

fn section(case: &Case<'_>, report: &Report) -> String {
    let mut text = String::new();
    for (at, finding) in case.findings.iter().enumerate() {
        text.push_str(&one_finding(finding, report));
        if at == 0
            && let Some(timeline) = &case.timeline
        {
            text.push_str(&fenced(&chart::lines(timeline, &report.notes, report.clock)));
            text.push('\n');
        }
        text.push_str(&evidence(finding, report));
    }
    text
}

fn one_finding(finding: &Finding, report: &Report) -> String {
    let clock = report.clock;
    let mut text = format!(
        "### {} {}: {} {}\n\n**What happened:** {}\n\n",
        words::severity(finding.kind.severity()),
        finding.kind.name(),
        finding.protocol,
        words::endpoint(finding.address, finding.port),
        escaped(&words::summary(finding, clock)),
    );
    if let Some(story) = story::sentence(finding, clock) {
        text.push_str(&format!("**Story:** {}\n\n", escaped(&story)));
    }
    text.push_str(&format!("**Hint:** {}\n\n", escaped(&words::hint(finding))));
    if let Some(deny) = words::would_deny(finding) {
        text.push_str(&format!("**Enforced:** {}\n\n", escaped(&deny)));
    }
    text
}

fn evidence(finding: &Finding, report: &Report) -> String {
    let clock = report.clock;
    let victim = finding.victim.as_ref().map(|victim| ("victim", &victim.holder));
    let owner = finding.last_owner.as_ref().map(|owner| ("last owner", owner));
    let holders = finding.holders.iter().take(HOLDERS_SHOWN).map(|holder| ("holder", holder));
    let rows: Vec<(&str, &Holder)> = holders.chain(owner).chain(victim).collect();
    let mut text = String::from("<details><summary>Who, and the evidence</summary>\n\n");
    if !rows.is_empty() {
        text.push_str("| | process | user | socket | from | until | connections | arguments |\n");
        text.push_str("|---|---|---|---|---|---|---|---|\n");
    }
    for (role, held) in rows {
        let from = held.bound_at.map_or_else(|| words::unseen_start(held).to_owned(), |at| clock.rfc3339(at));
        let until = held.released_at.map_or_else(String::new, |at| clock.rfc3339(at));
        let (from, until) = if role == "victim" { (String::new(), String::new()) } else { (from, until) };
        let arguments = escape::arguments(&held.cmdline);
        // Writing to a String cannot fail.
        let _: Result<(), std::fmt::Error> = writeln!(
            text,
            "| {role} | {} | {} | {} {} | {from} | {until} | {} | {} |",
            escaped(&words::process(held)),
            held.uid.0,
            words::endpoint(held.address, held.port),
            super::json::option_names(held.options).join(" ").replace('_', "\\_"),
            held.accepted.map_or_else(String::new, |count| count.to_string()),
            escaped(&escape::cut(&arguments, ARGUMENTS_CHARS)),
        );
    }
    if finding.holders.len() > HOLDERS_SHOWN {
        text.push_str(&format!("\nand {} holders more\n", finding.holders.len() - HOLDERS_SHOWN));
    }
    if let Some(cause) = finding.cause {
        text.push_str(&format!("\nCause `{}`: {}.\n", words::cause(cause), words::cause_meaning(cause)));
    }
    let events: Vec<String> = finding.evidence.iter().map(|seq| seq.0.to_string()).collect();
    text.push_str(&format!(
        "\nEvents {}; network namespace {}{}\n\n</details>\n\n",
        events.join(", "),
        finding.netns.0,
        report.source_of(finding).map_or_else(String::new, |log| format!("; log {}", escaped(log))),
    ));
    text
}

/// `text` as code, whatever is in it.
fn code(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    let gap = if text.starts_with('`') || text.ends_with('`') { " " } else { "" };
    format!("{fence}{gap}{}{gap}{fence}", escape::line(text))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::expect_used, reason = "tests fail by panicking")]
    use super::super::tests::{co_bind, report};
    use super::*;
    use crate::ledger::finding::FindingId;

    #[test]
    fn what_does_not_fit_is_counted_with_a_pointer() {
        let found = |number| Finding { id: FindingId(number), port: 1, ..co_bind() };
        let mut wide = (1..=4000).map(found).collect::<Vec<_>>();
        for (finding, port) in wide.iter_mut().zip(1..) {
            finding.port = port;
            finding.holders.iter_mut().for_each(|holder| holder.comm = "é|`".repeat(5));
        }
        let all = wide.len();
        let mut document = Vec::new();
        write(&[report(wide, true).of_log("a job's.jsonl".to_owned())], &mut document).expect("memory");
        assert!(document.len() <= SIZE_MAX && document.len() > SIZE_MAX / 2, "{}", document.len());
        let text = String::from_utf8(document).expect("no character is cut");
        let shown = text.lines().filter(|line| line.starts_with("### ")).count();
        let missing = plural((all - shown) as u64, "finding");
        let last = text.trim_end().lines().last().unwrap_or_default();
        let pointer = "`bindwatch report 'a job'\\''s.jsonl'`";
        assert_eq!(last, format!("**{missing} more did not fit here.** All of them: {pointer}"));
        // Nothing was cut in its middle.
        assert_eq!(text.matches("<details>").count(), text.matches("</details>").count());
    }
}
