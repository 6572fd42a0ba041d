//! The one sentence that people reconstruct by hand: who held it from when to when, and what came of that.
//!
//! A pure function of a finding. Text from processes in it is escaped.

use std::collections::BTreeSet;

use super::timeline::Span;
use super::words::{self, endpoint, plural};
use crate::clock::Anchors;
use crate::event::{BootTime, Protocol};
use crate::ledger::finding::{Finding, Holder, Kind, Victim};

/// Holders that the sentence tells of; the rest are counted.
const TOLD_MAX: usize = 4;

/// The sentence; None of a kind that is no matter of who held what when, or when nothing is known of that.
#[must_use]
pub fn sentence(finding: &Finding, anchors: Anchors) -> Option<String> {
    let is_case =
        matches!(finding.kind, Kind::CoBind | Kind::Handover | Kind::Shadow | Kind::Refused | Kind::Denied);
    let first = finding.holders.iter().min_by_key(|holder| holder.bound_at).filter(|_| is_case)?;
    let mut holders: Vec<&Holder> = finding.holders.iter().collect();
    holders.sort_by_key(|holder| (holder.bound_at, holder.process));
    let times = span(finding);
    let victim = finding.victim.as_ref().map(|victim| &victim.holder);
    let names = names(&holders.iter().copied().chain(victim).collect::<Vec<_>>());
    let told = if holders.len() == TOLD_MAX + 1 { holders.len() } else { TOLD_MAX };
    let mut parts = Vec::new();
    for (at, (holder, name)) in holders.iter().zip(&names).take(told).enumerate() {
        let what = match at {
            0 => endpoint(holder.address, holder.port),
            _ if (holder.address, holder.port) == (first.address, first.port) => "it".to_owned(),
            _ => endpoint(holder.address, holder.port),
        };
        let also = if at == 0 { "" } else { "also " };
        parts.push(format!("{name} {}", held(holder, &what, also, finding.live, times, anchors)));
    }
    if holders.len() > told {
        parts.push(format!("so did {} more", holders.len() - told));
    }
    if let Some(victim) = &finding.victim {
        let name = names.last().cloned().unwrap_or_default();
        parts.push(format!("{name} {}", failed(finding, victim, times, anchors)));
    }
    let mut text = parts.join("; ");
    if finding.victim.is_none()
        && let Some(split) = split(finding.protocol, &holders)
    {
        text.push_str(": ");
        text.push_str(&split);
    }
    Some(text)
}

/// What to call them: by their jobs where those tell them apart, else by their programs. One may be there twice.
pub(super) fn names(all: &[&Holder]) -> Vec<String> {
    let jobs: Option<Vec<String>> = all.iter().map(|holder| words::job(holder)).collect();
    let processes: BTreeSet<_> = all.iter().map(|holder| holder.process).collect();
    match jobs {
        Some(jobs) if jobs.iter().collect::<BTreeSet<_>>().len() == processes.len() => {
            let named = all.iter().zip(jobs);
            named.map(|(holder, job)| format!("{job} (PID {})", holder.process.tgid)).collect()
        }
        _ => all.iter().map(|holder| words::process(holder)).collect(),
    }
}

/// All the time that the sentence speaks of: how exact its times have to be.
fn span(finding: &Finding) -> Span {
    let times = finding.holders.iter().flat_map(|holder| [holder.bound_at, holder.released_at]).flatten();
    let mut all: Vec<BootTime> = times.chain([finding.first_seen]).collect();
    all.sort_unstable();
    // The two that are closest to each other without being one decide.
    let step = all.windows(2).filter_map(|pair| match pair {
        [a, b] => Some(b.since(*a)).filter(|ns| *ns > 0),
        _ => None,
    });
    let finest = step.min().unwrap_or(u64::MAX);
    let (first, last) = (all.first().copied().unwrap_or_default(), all.last().copied().unwrap_or_default());
    Span {
        from: first,
        to: BootTime(first.0.saturating_add(finest.min(last.since(first)).saturating_mul(2))),
    }
}

fn held(holder: &Holder, what: &str, also: &str, live: bool, times: Span, anchors: Anchors) -> String {
    let at = |time| words::time(anchors, time, times);
    let start = words::unseen_start(holder);
    match (holder.bound_at, holder.released_at) {
        (Some(from), Some(to)) => format!("{also}held {what} from {} to {}", at(from), at(to)),
        (Some(from), None) if live => format!("has {also}held {what} since {}", at(from)),
        (Some(from), None) => format!("{also}held {what} from {} on", at(from)),
        (None, Some(to)) => format!("{also}held {what} from {start} to {}", at(to)),
        (None, None) if live => format!("has {also}held {what} since {start}"),
        (None, None) => format!("{also}held {what} from {start} on"),
    }
}

fn failed(finding: &Finding, victim: &Victim, times: Span, anchors: Anchors) -> String {
    let at = |time| words::time(anchors, time, times);
    let what = endpoint(victim.holder.address, victim.holder.port);
    let call = if victim.call == "listen" { "listen on" } else { "bind" };
    let verb = match (finding.kind, finding.dry_run) {
        (Kind::Denied, false) => "was not let",
        (Kind::Denied, true) => "would not have been let",
        _ => "could not",
    };
    if finding.count > 1 {
        let (first, last) = (at(finding.first_seen), at(finding.last_seen));
        return format!("{verb} {call} {what} {} times from {first} to {last}", finding.count);
    }
    format!("{verb} {call} {what} at {}", at(finding.first_seen))
}

/// Who got how many connections, where that was counted for all of them. Whom a client meant is known to nobody; but who
/// was told of the endpoint while one process alone held it meant that one.
fn split(protocol: Protocol, holders: &[&Holder]) -> Option<String> {
    if protocol != Protocol::Tcp {
        return None;
    }
    let counts: Vec<u64> = holders.iter().map(|holder| holder.accepted).collect::<Option<_>>()?;
    let total: u64 = counts.iter().sum();
    match (counts.as_slice(), total) {
        ([] | [_], _) => None,
        (_, 0) => Some("no connection came".to_owned()),
        ([first, _], _) if *first == total => Some(match total {
            1 => "the only connection went to the first".to_owned(),
            _ => format!("all {total} connections went to the first"),
        }),
        ([_, second], _) => {
            let wrong = "the wrong one for whoever meant the first";
            Some(format!("{second} of {} went to the second, {wrong}", plural(total, "connection")))
        }
        _ => {
            let each: Vec<String> = counts.iter().map(ToString::to_string).collect();
            Some(format!("of {} they got, in this order, {}", plural(total, "connection"), each.join(", ")))
        }
    }
}
