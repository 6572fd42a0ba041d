//! The picture of a case: who held what from when to when, where they overlapped, and what failed meanwhile.
//!
//! A pure function of findings: no clock, no look-up. What is drawn of it is the business of the formats and the screen;
//! [`Timeline::column`] maps an instant to a place on a line of any width.

use crate::event::{BootTime, Inum, Protocol};
use crate::ledger::finding::{Finding, Holder, Kind, Victim};

/// Bars of one timeline, processes.
pub const BARS_MAX: usize = 24;
/// Marks of one timeline, failed calls.
pub const MARKS_MAX: usize = 24;
/// How much longer than the trouble itself the drawn time is at most, to each side.
const CONTEXT: u64 = 4;
/// The shortest time that is drawn, ns.
const SHORTEST_NS: u64 = 1_000_000;

/// From one instant to a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first instant.
    pub from: BootTime,
    /// The last one.
    pub to: BootTime,
}

/// A process that held something on the port.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bar<'a> {
    /// Who and what.
    pub holder: &'a Holder,
    /// When it began, or the beginning of the drawn time.
    pub span: Span,
    /// It began before the drawn time, or before the recording.
    pub open_start: bool,
    /// It went on after the drawn time, or is not known to have ended.
    pub open_end: bool,
}

/// A call that failed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mark<'a> {
    /// When it failed, the first and the last time.
    pub span: Span,
    /// How often.
    pub count: u64,
    /// Whose call.
    pub victim: &'a Victim,
}

/// Who held a port from when to when.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeline<'a> {
    /// The time that is drawn.
    pub span: Span,
    /// In the order in which they came.
    pub bars: Vec<Bar<'a>>,
    /// In the order in which they failed.
    pub marks: Vec<Mark<'a>>,
    /// When unrelated processes shared.
    pub overlaps: Vec<Span>,
    /// Bars and marks beyond [`BARS_MAX`] and [`MARKS_MAX`].
    pub left_out: usize,
}

/// Findings about one port of one network namespace, and their picture.
#[derive(Clone, Debug)]
pub struct Case<'a> {
    /// The network namespace.
    pub netns: Inum,
    /// The protocol.
    pub protocol: Protocol,
    /// The port; 0 of what concerns no single port.
    pub port: u16,
    /// The findings, worst first.
    pub findings: Vec<&'a Finding>,
    /// Nothing where there is nothing to be drawn.
    pub timeline: Option<Timeline<'a>>,
}

/// Groups findings by port: the case with the worst finding first, and within a case the worst first, as they come.
#[must_use]
pub fn cases<'a>(findings: impl IntoIterator<Item = &'a Finding>, end: BootTime) -> Vec<Case<'a>> {
    let mut cases: Vec<Case<'a>> = Vec::new();
    let mut places = std::collections::BTreeMap::new();
    for finding in findings {
        let alone = if finding.port == 0 { finding.id.0 } else { 0 };
        let key = (finding.netns, finding.protocol, finding.port, alone);
        let at = *places.entry(key).or_insert_with(|| {
            let Finding { netns, protocol, port, .. } = *finding;
            cases.push(Case { netns, protocol, port, findings: Vec::new(), timeline: None });
            cases.len() - 1
        });
        if let Some(case) = cases.get_mut(at) {
            case.findings.push(finding);
        }
    }
    for case in &mut cases {
        case.timeline = Timeline::of(&case.findings, end);
    }
    cases
}

impl<'a> Timeline<'a> {
    /// The picture of findings about one port, in a recording that ended, or has come, to `end`. None when there is
    /// nothing to be seen in it: fewer than two who held or wanted the port.
    #[must_use]
    pub fn of(findings: &[&'a Finding], end: BootTime) -> Option<Self> {
        let mut holders: Vec<&Holder> = Vec::new();
        let mut marks: Vec<Mark<'a>> = Vec::new();
        let mut overlaps = Vec::new();
        for finding in findings.iter().filter(|finding| finding.kind != Kind::Exhausted) {
            for holder in &finding.holders {
                let same = |known: &&Holder| {
                    known.process == holder.process
                        && known.address == holder.address
                        && known.bound_at == holder.bound_at
                };
                if !holders.iter().any(same) {
                    holders.push(holder);
                }
            }
            let span = Span { from: finding.first_seen, to: finding.last_seen };
            if let Some(victim) = &finding.victim {
                marks.push(Mark { span, count: finding.count, victim });
            } else if matches!(finding.kind, Kind::CoBind | Kind::Shadow | Kind::Handover) {
                overlaps.push(span);
            }
        }
        if holders.len() + marks.len() < 2 {
            return None;
        }
        holders.sort_by_key(|holder| (holder.bound_at, holder.process));
        marks.sort_by_key(|mark| (mark.span.from, mark.victim.holder.process));
        let left_out = holders.len().saturating_sub(BARS_MAX) + marks.len().saturating_sub(MARKS_MAX);
        holders.truncate(BARS_MAX);
        marks.truncate(MARKS_MAX);
        let span = drawn(&holders, &marks, findings, end)?;
        let bars = holders.into_iter().map(|holder| Bar::of(holder, span)).collect();
        overlaps.sort_by_key(|overlap| (overlap.from, overlap.to));
        Some(Self { span, bars, marks, overlaps, left_out })
    }

    /// The place of `at` on a line of `width` units: 0 to `width`.
    #[must_use]
    pub fn column(&self, at: BootTime, width: u64) -> u64 {
        self.span.column(at, width)
    }
}

impl Span {
    /// How long, ns.
    #[must_use]
    pub const fn length(self) -> u64 {
        self.to.since(self.from)
    }

    /// The place of `at` on a line of `width` units that stands for this time: 0 to `width`.
    #[must_use]
    pub fn column(self, at: BootTime, width: u64) -> u64 {
        let into = u128::from(at.since(self.from).min(self.length()));
        let place = into * u128::from(width) / u128::from(self.length().max(1));
        u64::try_from(place).unwrap_or(width).min(width)
    }

    /// The time that both have; None when there is none.
    #[must_use]
    pub fn common(self, other: Self) -> Option<Self> {
        let (from, to) = (self.from.max(other.from), self.to.min(other.to));
        (from <= to).then_some(Self { from, to })
    }
}

impl<'a> Bar<'a> {
    fn of(holder: &'a Holder, drawn: Span) -> Self {
        let open_start = holder.bound_at.is_none_or(|at| at < drawn.from);
        let open_end = holder.released_at.is_none_or(|at| at > drawn.to);
        let from = holder.bound_at.map_or(drawn.from, |at| at.clamp(drawn.from, drawn.to));
        let to = holder.released_at.map_or(drawn.to, |at| at.clamp(from, drawn.to));
        Self { holder, span: Span { from, to }, open_start, open_end }
    }

    /// The parts of it in which it shared.
    pub fn shared<'o>(&self, overlaps: &'o [Span]) -> impl Iterator<Item = Span> + use<'o> {
        let own = self.span;
        overlaps.iter().filter_map(move |overlap| own.common(*overlap))
    }
}

/// The time to draw: all of it, unless the trouble would be too small to see in it.
fn drawn(holders: &[&Holder], marks: &[Mark<'_>], findings: &[&Finding], end: BootTime) -> Option<Span> {
    let focus = Span {
        from: findings.iter().map(|finding| finding.first_seen).min()?,
        to: findings.iter().map(|finding| finding.last_seen).max()?,
    };
    let times = holders.iter().flat_map(|holder| [holder.bound_at, Some(holder.released_at.unwrap_or(end))]);
    let failed = marks.iter().flat_map(|mark| [mark.span.from, mark.span.to]);
    let times: Vec<BootTime> = times.flatten().chain(failed).chain([focus.from, focus.to]).collect();
    let all = Span { from: *times.iter().min()?, to: *times.iter().max()? };
    // Of a moment, what came just before and after is worth a look.
    let context = focus.length().saturating_mul(CONTEXT).max(all.length() / 100).max(SHORTEST_NS);
    let from = all.from.max(BootTime(focus.from.0.saturating_sub(context)));
    let to = all.to.min(BootTime(focus.to.0.saturating_add(context)));
    let to = to.max(BootTime(from.0.saturating_add(SHORTEST_NS)));
    Some(Span { from, to })
}
