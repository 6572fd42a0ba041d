//! One page that needs nothing but itself: no network, no other file, light and dark, readable without its script.
//!
//! The content security policy lets in the style and the script of this page, by their digests, and nothing else.

mod picture;

use std::io::{self, BufWriter, Write};

use super::timeline::{self, Case};
use super::words::{self, endpoint, plural};
use super::{Report, escape, json, story, text};
use crate::cli::duration_text;
use crate::clock::Anchors;
use crate::ledger::finding::{Finding, Holder};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// SHA-256 of the style and of the script, in base64; a test holds them true.
const STYLE_DIGEST: &str = "IMgWeMB7IVh9XIaHkRUOxNRlQKiujL/zx7yxuW6i6wA=";
const SCRIPT_DIGEST: &str = "g+OtVfAlu6nFbhFfVK3XsUjIx/NVjAp+GBl9tmGqQZw=";
/// Findings in full; a browser shows no more with ease.
const FINDINGS_MAX: usize = 1_000;
/// Holders of one finding, rows.
const HOLDERS_SHOWN: usize = 50;
/// Longest list of arguments, characters.
const ARGUMENTS_CHARS: usize = 2_000;
/// Longest path, characters.
const PATH_CHARS: usize = 400;

/// `text` as one line of an element's text or of an attribute in quotes.
#[must_use]
pub(super) fn escaped(text: &str) -> String {
    let line = escape::line(text);
    let mut out = String::with_capacity(line.len() + 16);
    for c in line.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// Writes the reports as one page.
pub(super) fn write(reports: &[Report], out: &mut dyn Write) -> io::Result<()> {
    let mut out = BufWriter::new(out);
    let total = words::totals(reports.iter().flat_map(|report| report.findings()));
    write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-{STYLE_DIGEST}'; script-src 'sha256-{SCRIPT_DIGEST}'; base-uri 'none'; form-action 'none'\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta name=\"referrer\" content=\"no-referrer\"/>\n\
         <title>bindwatch: {total}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>bindwatch: {total}</h1>\n",
    )?;
    let mut shown = 0;
    for report in reports {
        machine(report, &mut shown, &mut out)?;
    }
    writeln!(out, "</main>\n<script>{SCRIPT}</script>\n</body>\n</html>")?;
    out.flush()
}

fn machine(report: &Report, shown: &mut usize, out: &mut impl Write) -> io::Result<()> {
    let (clock, window) = (report.clock, report.window);
    writeln!(
        out,
        "<p>{} (Linux {}), {} to {} ({})</p>\n<p class=\"dim\">{}{}</p>",
        escaped(&report.host.hostname),
        escaped(&report.host.kernel),
        clock.rfc3339(window.start),
        clock.rfc3339(window.end),
        duration_text(window.end.since(window.start)),
        text::watched(report),
        text::left_out(report),
    )?;
    for notice in &report.notices {
        writeln!(out, "<p class=\"notice\"><b>Warning:</b> {}</p>", escaped(notice))?;
    }
    if *shown == 0 {
        writeln!(out, "<nav aria-label=\"what is shown\"></nav>")?;
    }
    let mut left = report.findings().len();
    for case in timeline::cases(report.findings(), window.end) {
        if *shown + case.findings.len() > FINDINGS_MAX {
            break;
        }
        *shown += case.findings.len();
        left -= case.findings.len();
        section(report, &case, out)?;
    }
    if left > 0 {
        let pointer = escape::arguments(&report.logs);
        writeln!(
            out,
            "<p class=\"notice\"><b>{} more did not fit here.</b> All of them: <code>bindwatch report {}</code></p>",
            plural(left as u64, "finding"),
            escaped(&pointer),
        )?;
    }
    Ok(())
}

fn section(report: &Report, case: &Case<'_>, out: &mut impl Write) -> io::Result<()> {
    let clock = report.clock;
    writeln!(out, "<section>")?;
    if let Some(first) = case.findings.first() {
        writeln!(out, "<h2>{} {}</h2>", case.protocol, endpoint(first.address, first.port))?;
        if let Some(story) = story::sentence(first, clock) {
            writeln!(out, "<p class=\"story\">{}</p>", escaped(&story))?;
        }
    }
    if let Some(timeline) = &case.timeline {
        picture::write(timeline, clock, &report.notes, out)?;
    }
    for finding in &case.findings {
        article(report, finding, out)?;
    }
    writeln!(out, "</section>")
}

fn article(report: &Report, finding: &Finding, out: &mut impl Write) -> io::Result<()> {
    let clock = report.clock;
    let severity = words::severity(finding.kind.severity());
    writeln!(
        out,
        "<article data-severity=\"{severity}\" id=\"finding-{}\">\n<h3><span class=\"badge {severity}\">{severity}</span>{}</h3>\n<p>{}</p>",
        finding.id.0,
        finding.kind.name(),
        escaped(&words::summary(finding, clock)),
    )?;
    if let Some(cause) = finding.cause {
        writeln!(
            out,
            "<p>Cause <code>{}</code>: {}</p>",
            words::cause(cause),
            escaped(words::cause_meaning(cause))
        )?;
    }
    writeln!(out, "<p class=\"hint\"><b>Hint:</b> {}</p>", advice(&words::hint(finding)))?;
    if let Some(deny) = words::would_deny(finding) {
        writeln!(out, "<p class=\"hint\"><b>Enforced:</b> {}</p>", advice(&deny))?;
    }
    writeln!(out, "<details>\n<summary>Who, and the evidence</summary>")?;
    for held in finding.holders.iter().take(HOLDERS_SHOWN) {
        holder("Holder", held, clock, out)?;
    }
    if finding.holders.len() > HOLDERS_SHOWN {
        let more = finding.holders.len() - HOLDERS_SHOWN;
        writeln!(out, "<p class=\"dim\">and {more} holders more</p>")?;
    }
    if let Some(owner) = &finding.last_owner {
        holder("Last owner", owner, clock, out)?;
    }
    if let Some(victim) = &finding.victim {
        holder(&format!("{}() failed with {}", victim.call, victim.errno), &victim.holder, clock, out)?;
    }
    if !finding.users.is_empty() {
        writeln!(out, "<ul>")?;
        for user in &finding.users {
            writeln!(out, "<li>{}</li>", escaped(&words::port_user(user)))?;
        }
        writeln!(out, "</ul>")?;
    }
    let events: Vec<String> = finding.evidence.iter().map(|seq| seq.0.to_string()).collect();
    let log = report.source_of(finding).map_or_else(String::new, |log| format!(" of {}", escaped(log)));
    writeln!(
        out,
        "<p class=\"dim\">Events {}{log}; {}; network namespace {}</p>\n</details>\n</article>",
        events.join(", "),
        plural(finding.count, "time"),
        finding.netns.0,
    )
}

/// Options that sentences name.
const OPTIONS: [&str; 2] = ["--allow", "--on-conflict deny"];

/// A sentence of ours whose option stays whole: a browser breaks a line after a dash. The first one only: behind it comes
/// what processes said.
fn advice(text: &str) -> String {
    let escaped = escaped(text);
    let place = OPTIONS.iter().filter_map(|option| Some((escaped.find(option)?, option))).min();
    match place.and_then(|(at, option)| escaped.split_at_checked(at).zip(Some(option))) {
        Some(((before, rest), option)) => {
            let rest = rest.strip_prefix(option).unwrap_or(rest);
            // A rule that follows may be broken over two lines: it can be long.
            let rule = rest.strip_prefix(' ').and_then(|rest| rest.split(' ').next());
            let rest = match rule.filter(|rule| rule.contains('=')) {
                Some(rule) => {
                    format!(" <code>{rule}</code>{}", rest.get(1 + rule.len()..).unwrap_or_default())
                }
                None => rest.to_owned(),
            };
            format!("{before}<code class=\"option\">{option}</code>{rest}")
        }
        None => escaped,
    }
}

fn holder(role: &str, held: &Holder, clock: Anchors, out: &mut impl Write) -> io::Result<()> {
    let options = json::option_names(held.options).join(", ");
    let parents: Vec<String> = held
        .parents
        .iter()
        .map(|parent| format!("{} (PID {})", words::name(&parent.comm), parent.pid))
        .collect();
    let arguments = escape::arguments(&held.cmdline);
    let cut = if held.cmdline_cut { " …" } else { "" };
    let from = held.bound_at.map_or_else(|| words::unseen_start(held).to_owned(), |at| clock.rfc3339(at));
    let until = held.released_at.map_or_else(|| "the end".to_owned(), |at| clock.rfc3339(at));
    let failed = role.contains("failed");
    let rows = [
        (role, words::process(held)),
        ("arguments", format!("{}{cut}", escape::cut(&arguments, ARGUMENTS_CHARS))),
        ("program", escape::cut(&held.exe, PATH_CHARS).into_owned()),
        ("user", held.uid.0.to_string()),
        ("cgroup", escape::cut(&held.cgroup, PATH_CHARS).into_owned()),
        (
            "job",
            held.job.as_deref().map_or_else(String::new, |job| escape::cut(job, PATH_CHARS).into_owned()),
        ),
        ("container", held.container.clone().unwrap_or_default()),
        ("parents", parents.join(" < ")),
        ("socket", format!("{} {options}", endpoint(held.address, held.port)).trim_end().to_owned()),
        ("held", if failed { String::new() } else { format!("{from} to {until}") }),
        ("connections", held.accepted.map_or_else(String::new, |count| count.to_string())),
    ];
    writeln!(out, "<dl>")?;
    for (name, value) in rows {
        if !value.is_empty() {
            writeln!(out, "<dt>{name}</dt><dd>{}</dd>", escaped(&value))?;
        }
    }
    writeln!(out, "</dl>")
}

#[cfg(test)]
mod tests;
