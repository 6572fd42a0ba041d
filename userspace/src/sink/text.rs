//! For people: worst first, the sentence, who it was, what to do, and which events prove it.

use std::io::{self, BufWriter, Write};

use super::json::option_names;
use super::timeline;
use super::words::{self, endpoint, plural};
use super::{Report, chart, escape, story};
use crate::cli::duration_text;
use crate::clock::Anchors;
use crate::event::BootTime;
use crate::ledger::finding::{Finding, Holder, HolderState, PortRange, Severity};

/// Longest list of arguments that is shown, characters.
const ARGUMENTS_CHARS: usize = 240;
/// Longest path that is shown, characters.
const PATH_CHARS: usize = 160;
/// Event numbers that are shown.
const EVIDENCE_SHOWN: usize = 12;
/// Parents that are shown.
const PARENTS_SHOWN: usize = 6;
/// Holders of one finding that are shown in full.
const HOLDERS_SHOWN: usize = 12;
/// Findings in a brief summary.
const BRIEF_FINDINGS: usize = 20;

/// How text is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Severities are coloured.
    pub colored: bool,
    /// Nothing is cut.
    pub whole: bool,
}

impl Style {
    pub(super) fn severity(self, severity: Severity) -> String {
        let code = match severity {
            Severity::Error => "1;31",
            Severity::Warning => "33",
            Severity::Note => "36",
        };
        let word = words::severity(severity);
        if self.colored { format!("\x1b[{code}m{word}\x1b[0m") } else { word.to_owned() }
    }

    fn cut(self, text: &str, max: usize) -> String {
        escape::cut(text, if self.whole { usize::MAX } else { max }).into_owned()
    }

    fn at_most(self, max: usize) -> usize {
        if self.whole { usize::MAX } else { max }
    }
}

/// Writes `report`.
pub(super) fn write(report: &Report, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let mut out = BufWriter::new(out);
    let (clock, window) = (report.clock, report.window);
    let watched = duration_text(window.end.since(window.start));
    writeln!(
        out,
        "{}{} (Linux {}), {} to {} ({watched})",
        // A line that begins so would be a command to GitHub's runner.
        if report.host.hostname.trim_start().starts_with("::") { "host " } else { "" },
        escape::cut(&report.host.hostname, PATH_CHARS),
        escape::cut(&report.host.kernel, PATH_CHARS),
        clock.rfc3339(window.start),
        clock.rfc3339(window.end),
    )?;
    for notice in &report.notices {
        writeln!(out, "{}: {notice}", style.severity(Severity::Warning))?;
    }
    let left_out = left_out(report);
    if report.findings.is_empty() {
        writeln!(out, "{}{left_out}", self::watched(report))?;
    } else {
        writeln!(out, "{}{left_out}", words::totals(&report.findings))?;
    }
    findings_of(report, style, &mut out)?;
    out.flush()
}

/// Writes the findings alone, with how many there are.
pub(super) fn findings(report: &Report, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let mut out = BufWriter::new(out);
    writeln!(out, "{}", words::totals(&report.findings))?;
    findings_of(report, style, &mut out)?;
    out.flush()
}

fn findings_of(report: &Report, style: Style, out: &mut impl Write) -> io::Result<()> {
    let clock = report.clock;
    for case in timeline::cases(&report.findings, report.window.end) {
        for (at, finding) in case.findings.iter().enumerate() {
            writeln!(out)?;
            let timeline = case.timeline.as_ref().filter(|_| at == 0);
            let chart = timeline.map(|timeline| chart::lines(timeline, &report.notes, clock));
            one(finding, &chart.unwrap_or_default(), clock, style, out)?;
            if let Some(log) = report.source_of(finding) {
                writeln!(out, "  log     {}", escape::cut(log, PATH_CHARS))?;
            }
        }
    }
    Ok(())
}

/// What there was when nothing was found, and how much was watched.
pub(super) fn watched(report: &Report) -> String {
    let stats = report.stats;
    let found = match (report.findings.is_empty(), report.notices.is_empty()) {
        (true, true) => "No findings: ",
        (true, false) => "No findings in what could be seen: ",
        (false, _) => "",
    };
    format!(
        "{found}{} ({} failed) in {}; {} open at the end",
        plural(stats.binds + stats.binds_failed, "bind"),
        stats.binds_failed,
        duration_text(report.window.end.since(report.window.start)),
        words::were(stats.sockets, "socket"),
    )
}

/// How many findings were not asked for.
pub(super) fn left_out(report: &Report) -> String {
    match report.left_out {
        0 => String::new(),
        count => format!("; {} left out by the options", plural(count as u64, "finding")),
    }
}

/// One finding as the whole report has it, without its chart.
pub(super) fn finding(report: &Report, finding: &Finding, out: &mut impl Write) -> io::Result<()> {
    one(finding, &[], report.clock, Style::default(), out)
}

/// Writes the totals and one line for each finding: what `run` says at its end. `log` is where to read more.
///
/// # Errors
/// When `out` cannot be written to.
pub fn brief(report: &Report, log: &str, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let mut out = BufWriter::new(out);
    for notice in &report.notices {
        writeln!(out, "bindwatch: {}: {notice}", style.severity(Severity::Warning))?;
    }
    writeln!(out, "bindwatch: {}", words::totals(&report.findings))?;
    for finding in report.findings.iter().take(BRIEF_FINDINGS) {
        let severity = style.severity(finding.kind.severity());
        writeln!(out, "  {severity} {}: {}", finding.kind.name(), words::summary(finding, report.clock))?;
    }
    if report.findings.len() > BRIEF_FINDINGS {
        writeln!(out, "  and {} more", report.findings.len() - BRIEF_FINDINGS)?;
    }
    if !report.findings.is_empty() {
        writeln!(out, "  more: bindwatch report {}", escape::arguments(&[log]))?;
    }
    out.flush()
}

fn one(
    finding: &Finding,
    chart: &[String],
    clock: Anchors,
    style: Style,
    out: &mut impl Write,
) -> io::Result<()> {
    let severity = style.severity(finding.kind.severity());
    writeln!(out, "{severity} {}: {}", finding.kind.name(), words::summary(finding, clock))?;
    if let Some(story) = story::sentence(finding, clock) {
        writeln!(out, "  story   {story}")?;
    }
    for line in chart {
        writeln!(out, "          {line}")?;
    }
    let shown = style.at_most(HOLDERS_SHOWN);
    for held in finding.holders.iter().take(shown) {
        holder("holder", held, clock, style, out)?;
        write!(out, "          {}", state(held))?;
        match held.bound_at {
            Some(at) => write!(out, " from {}", clock.rfc3339(at))?,
            None => write!(out, " from {}", words::unseen_start(held))?,
        }
        match held.released_at {
            Some(at) => writeln!(out, " until {}{}", clock.rfc3339(at), lasted(held.bound_at, at))?,
            None => writeln!(out, ", still so at the end")?,
        }
    }
    if finding.holders.len() > shown {
        writeln!(out, "  holders {} more; -v shows all", finding.holders.len() - shown)?;
    }
    if let Some(owner) = &finding.last_owner {
        holder("owner ", owner, clock, style, out)?;
    }
    if let Some(PortRange { low, high, ports, used: Some(used) }) = finding.range {
        writeln!(out, "  ports   {used} of {ports} in use, {low} to {high}")?;
        for user in &finding.users {
            writeln!(out, "          {}", words::port_user(user))?;
        }
        if !finding.others.is_empty() {
            let (open, left) = (finding.others.sockets, finding.others.time_wait);
            writeln!(out, "          others: {open} open, {left} in TIME_WAIT")?;
        }
    }
    if let Some(victim) = &finding.victim {
        holder("victim", &victim.holder, clock, style, out)?;
        let times = if finding.count > 1 {
            let first = clock.rfc3339(finding.first_seen);
            format!("{} times from {first} to {}", finding.count, clock.rfc3339(finding.last_seen))
        } else {
            format!("at {}", clock.rfc3339(finding.last_seen))
        };
        let failed = if finding.dry_run { "would have failed" } else { "failed" };
        if finding.is_failure() {
            writeln!(out, "          {}() {failed} with {} {times}", victim.call, victim.errno)?;
        } else {
            writeln!(out, "          waited in {}() {times}", victim.call)?;
        }
    }
    if let Some(deny) = words::would_deny(finding) {
        writeln!(out, "  deny    {deny}")?;
    }
    if let Some(cause) = finding.cause {
        writeln!(out, "  cause   {}: {}", words::cause(cause), words::cause_meaning(cause))?;
    }
    writeln!(out, "  hint    {}", words::hint(finding))?;
    let shown = style.at_most(EVIDENCE_SHOWN);
    let numbers: Vec<_> = finding.evidence.iter().take(shown).map(|seq| seq.0.to_string()).collect();
    let more = finding.evidence.len().saturating_sub(shown);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    writeln!(out, "  events  {}{more}; network namespace {}", numbers.join(", "), finding.netns.0)
}

/// Who a holder is: name, arguments, executable, cgroup, parents.
fn holder(label: &str, held: &Holder, clock: Anchors, style: Style, out: &mut impl Write) -> io::Result<()> {
    write!(out, "  {label}  {}, user {}", words::process(held), held.uid.0)?;
    if !held.cgroup.is_empty() {
        write!(out, ", cgroup {}", style.cut(&held.cgroup, PATH_CHARS))?;
    }
    if let Some(container) = &held.container {
        write!(out, ", container {}", style.cut(container, PATH_CHARS))?;
    }
    if let Some(job) = &held.job {
        write!(out, ", job {}", style.cut(job, PATH_CHARS))?;
    }
    writeln!(out)?;
    if !held.cmdline.is_empty() {
        let cut = if held.cmdline_cut { " …" } else { "" };
        let arguments = escape::arguments(&held.cmdline);
        writeln!(out, "          $ {}{cut}", style.cut(&arguments, ARGUMENTS_CHARS))?;
    }
    let exe = match style.cut(&held.exe, PATH_CHARS) {
        exe if exe.is_empty() => exe,
        exe if exe.starts_with('/') => format!("{exe}, "),
        // No line begins with what a process said: it could be a command to a CI system.
        exe => format!("program {exe}, "),
    };
    write!(out, "          {exe}started {}", clock.rfc3339(held.process.started()))?;
    let shown = style.at_most(PARENTS_SHOWN);
    let parents: Vec<_> = held
        .parents
        .iter()
        .take(shown)
        .map(|p| format!("{} (PID {})", words::name(&p.comm), p.pid))
        .collect();
    if !parents.is_empty() {
        let more = if held.parents.len() > shown { " < …" } else { "" };
        write!(out, " by {}{more}", parents.join(" < "))?;
    }
    writeln!(out)?;
    if let Some(giver) = held.inherited_from {
        writeln!(out, "          got the socket from PID {}", giver.tgid)?;
    }
    Ok(())
}

/// What a holder did: `listened on 127.0.0.1:80 with SO_REUSEPORT, accepted 61`.
fn state(held: &Holder) -> String {
    let verb = match held.state {
        HolderState::Bound => "bound to",
        HolderState::Listen => "listened on",
        HolderState::Connected => "connected from",
        HolderState::TimeWait => "in TIME_WAIT on",
        HolderState::Closed => "held",
    };
    let mut text = format!("{verb} {}", endpoint(held.address, held.port));
    if let Some(peer) = held.peer {
        text.push_str(&format!(" to {peer}"));
    }
    if held.sockets.len() > 1 {
        text.push_str(&format!(" with {} sockets", held.sockets.len()));
    }
    let options = option_names(held.options);
    if !options.is_empty() {
        text.push_str(&format!(", {}", options.join(" and ")));
    }
    if let Some(accepted) = held.accepted {
        text.push_str(&format!(", {} accepted", plural(accepted, "connection")));
    }
    text.push(',');
    text
}

fn lasted(from: Option<BootTime>, until: BootTime) -> String {
    from.map_or_else(String::new, |from| format!(" ({})", duration_text(until.since(from))))
}
