//! Several logs of one machine, such as those of the shards of a job, as one report.
//!
//! Within one boot all logs have one clock, and sockets and processes have the same identities: what two logs tell of one
//! incident is told once. Each log keeps the numbers of its own events, so a finding says which log proves it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Report, Stats};
use crate::event::ProcessKey;
use crate::ledger::finding::{Finding, FindingId, Holder};

/// Reports by machine: those of one boot of one host become one. In the order in which the machines are first met.
#[must_use]
pub fn merged(reports: Vec<Report>) -> Vec<Report> {
    let mut machines: Vec<Vec<Report>> = Vec::new();
    for report in reports {
        // Without a boot id nothing says that two logs have one clock.
        let same = |known: &&mut Vec<Report>| {
            known.first().is_some_and(|first| {
                !first.host.boot_id.is_empty()
                    && (&first.host.boot_id, &first.host.hostname)
                        == (&report.host.boot_id, &report.host.hostname)
            })
        };
        match machines.iter_mut().find(same) {
            Some(known) => known.push(report),
            None => machines.push(vec![report]),
        }
    }
    machines.into_iter().filter_map(of_one_machine).collect()
}

fn of_one_machine(mut reports: Vec<Report>) -> Option<Report> {
    // By time: what is left of an earlier log is known better by the later one.
    reports.sort_by_key(|report| (report.window.start, report.window.end));
    let several = reports.len() > 1;
    let mut reports = reports.into_iter();
    let first = reports.next()?;
    if !several {
        return Some(first);
    }
    let mut merged = Report { findings: Vec::new(), notices: Vec::new(), ..first.clone() };
    let (mut left_out, mut last_start) = (first.left_out, first.window.start);
    let mut findings: Vec<Finding> = Vec::new();
    for (number, report) in std::iter::once(first).chain(reports).enumerate() {
        let log = report.logs.first().cloned().unwrap_or_default();
        if number > 0 {
            let seen_until = merged.window.end;
            if report.window.start > seen_until {
                let (from, to) =
                    (merged.clock.rfc3339(seen_until), merged.clock.rfc3339(report.window.start));
                merged.notice(&format!("nothing was watched from {from} to {to}, between two logs"));
            }
            let meanwhile = report.window.start < seen_until;
            merged.stats = added(merged.stats, report.stats, meanwhile);
            merged.window.end = merged.window.end.max(report.window.end);
            merged.window.complete &= report.window.complete;
            left_out += report.left_out;
            last_start = report.window.start;
            merged.logs.push(log.clone());
        }
        if number > 0 {
            for note in report.notes {
                // Both may have been told.
                if !merged.notes.contains(&note) {
                    merged.notes.push(note);
                }
            }
        }
        for notice in &report.notices {
            merged.notice(&format!("{log}: {notice}"));
        }
        // Two findings of one log are two incidents: each is joined with another of an earlier one.
        let mut told = BTreeSet::new();
        for finding in report.findings {
            let same = |known: &&mut Finding| !told.contains(&known.id) && is_one(known, &finding);
            // Rather the one of the same time, else the last.
            let nearest = |known: &&mut Finding| {
                let overlap = known.first_seen <= finding.last_seen && finding.first_seen <= known.last_seen;
                (overlap, known.last_seen)
            };
            match findings.iter_mut().filter(same).max_by_key(nearest) {
                Some(known) => {
                    told.insert(known.id);
                    join(known, finding);
                }
                None => {
                    let id = FindingId(u32::try_from(findings.len() + 1).unwrap_or(u32::MAX));
                    told.insert(id);
                    merged.sources.insert(id, number);
                    findings.push(Finding { id, ..finding });
                }
            }
        }
    }
    // What an earlier log ended with is not so any longer, or a later one would have told it as well.
    let gone = |finding: &&mut Finding| finding.live && finding.last_seen < last_start;
    findings.iter_mut().filter(gone).for_each(|finding| finding.live = false);
    merged.notes.sort_by_key(|note| note.at);
    Some(merged.with_findings(findings, left_out))
}

/// Two findings of two logs that tell of one incident: the same endpoint, and somebody who is in both.
fn is_one(a: &Finding, b: &Finding) -> bool {
    let place = |finding: &Finding| {
        (finding.kind, finding.netns, finding.protocol, finding.address, finding.port, finding.destination)
    };
    let holders = |finding: &Finding| -> BTreeSet<ProcessKey> {
        finding.holders.iter().map(|holder| holder.process).collect()
    };
    let victim = |finding: &Finding| finding.victim.as_ref().map(|victim| victim.holder.process);
    if place(a) != place(b) || victim(a) != victim(b) {
        return false;
    }
    let (held_a, held_b) = (holders(a), holders(b));
    held_a.is_empty() && held_b.is_empty() || !held_a.is_disjoint(&held_b)
}

fn join(known: &mut Finding, other: Finding) {
    let overlapping = other.first_seen <= known.last_seen;
    known.count = match overlapping {
        // Both logs saw the same calls.
        true => known.count.max(other.count),
        false => known.count.saturating_add(other.count),
    };
    known.first_seen = known.first_seen.min(other.first_seen);
    let later = other.last_seen >= known.last_seen;
    known.last_seen = known.last_seen.max(other.last_seen);
    known.overlap = known.overlap.or(other.overlap).map(|_| known.last_seen.since(known.first_seen));
    known.uncertain |= other.uncertain;
    known.receives = known.receives.or(other.receives);
    if later {
        known.live = other.live;
        known.cause = other.cause.or(known.cause);
        known.victim = other.victim.or_else(|| known.victim.take());
    }
    let mut at: BTreeMap<ProcessKey, usize> =
        known.holders.iter().enumerate().map(|(at, holder)| (holder.process, at)).collect();
    for holder in other.holders {
        match at.get(&holder.process).and_then(|at| known.holders.get_mut(*at)) {
            Some(same) => join_holder(same, holder, later),
            None => {
                at.insert(holder.process, known.holders.len());
                known.holders.push(holder);
            }
        }
    }
}

fn join_holder(known: &mut Holder, other: Holder, later: bool) {
    // One log may have begun when it was there already.
    known.bound_at = known.bound_at.or(other.bound_at);
    known.accepted = known.accepted.max(other.accepted);
    if known.cmdline.is_empty() {
        (known.cmdline, known.cmdline_cut) = (other.cmdline, other.cmdline_cut);
    }
    if known.exe.is_empty() {
        known.exe = other.exe;
    }
    if later {
        known.released_at = other.released_at.or(known.released_at);
        known.state = other.state;
    }
}

fn added(a: Stats, b: Stats, meanwhile: bool) -> Stats {
    // Two logs of the same time tell of the same binds.
    let sum = |a: u64, b: u64| if meanwhile { a.max(b) } else { a.saturating_add(b) };
    Stats {
        events: a.events.saturating_add(b.events),
        lost: a.lost.saturating_add(b.lost),
        sockets: b.sockets,
        binds: sum(a.binds, b.binds),
        binds_failed: sum(a.binds_failed, b.binds_failed),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::indexing_slicing, reason = "tests fail by panicking")]

    use super::*;
    use crate::event::BootTime;
    use crate::ledger::finding::Cause;
    use crate::sink::Window;
    use crate::sink::tests::{co_bind, refused, report};

    const fn s(seconds: u64) -> BootTime {
        BootTime(seconds * 1_000_000_000)
    }

    fn log(name: &str, from: u64, to: u64, findings: Vec<Finding>) -> Report {
        let mut made = report(findings, false).of_log(name.to_owned());
        made.window = Window { start: s(from), end: s(to), complete: true };
        made.host.boot_id = "boot".to_owned();
        made
    }

    #[test]
    fn what_goes_on_from_one_log_to_the_next_is_one_finding() {
        let mut first = Finding { live: true, last_seen: s(25), ..co_bind() };
        first.holders.iter_mut().for_each(|holder| holder.released_at = None);
        let mut second = Finding { first_seen: s(26), last_seen: s(40), ..co_bind() };
        second.holders.iter_mut().for_each(|holder| {
            holder.bound_at = None;
            holder.released_at = Some(s(40));
        });
        // In whatever order they are given.
        let logs = vec![log("b", 26, 50, vec![second]), log("a", 10, 25, vec![first])];
        let merged = merged(logs);
        assert_eq!(merged.len(), 1);
        let found = merged[0].findings();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].first_seen, found[0].last_seen, found[0].live), (s(20), s(40), false));
        assert_eq!(found[0].overlap, Some(20_000_000_000));
        let held = found[0].holders[0].bound_at.zip(found[0].holders[0].released_at);
        assert_eq!(held, Some((s(20), s(40))), "the beginning from one log, the end from the other");
        assert_eq!(merged[0].source_of(&found[0]), Some("a"));
        assert_eq!(merged[0].window, Window { start: s(10), end: s(50), complete: true });
        assert!(merged[0].notices[0].starts_with("nothing was watched from "), "{:?}", merged[0].notices);
    }

    #[test]
    fn two_incidents_of_one_log_stay_two() {
        let shared = |from, to| Finding { first_seen: s(from), last_seen: s(to), ..co_bind() };
        let (first, second) = (|| shared(20, 25), || shared(60, 65));
        let times = |logs: Vec<Report>| -> Vec<_> {
            merged(logs)[0].findings().iter().map(|found| (found.first_seen, found.last_seen)).collect()
        };
        let both = [(s(20), s(25)), (s(60), s(65))];
        assert_eq!(times(vec![log("a", 1, 5, vec![]), log("b", 10, 90, vec![first(), second()])]), both);
        // In both logs, and the second in one that began later.
        let whole = || log("a", 10, 90, vec![first(), second()]);
        assert_eq!(times(vec![whole(), log("b", 11, 90, vec![first(), second()])]), both);
        assert_eq!(times(vec![whole(), log("b", 50, 90, vec![second()])]), both);
        assert_eq!(times(vec![whole(), log("b", 11, 30, vec![first()])]), both);
    }

    #[test]
    fn a_victim_that_retries_in_both_is_counted_once_a_time() {
        let tried = |from, to, count| {
            let failed = Finding { first_seen: s(from), last_seen: s(to), count, ..refused(Cause::Listener) };
            log("x", from - 1, to + 1, vec![failed])
        };
        let count = |logs| merged(logs)[0].findings()[0].count;
        assert_eq!(count(vec![tried(20, 25, 3), tried(30, 35, 4)]), 7, "one after the other");
        assert_eq!(count(vec![tried(20, 30, 5), tried(25, 35, 4)]), 5, "the same calls, seen twice");
    }

    #[test]
    fn other_incidents_and_other_boots_stay_apart() {
        let mut elsewhere = co_bind();
        elsewhere.holders.iter_mut().for_each(|holder| holder.process.start += 1);
        let here = merged(vec![log("a", 1, 9, vec![co_bind()]), log("b", 1, 9, vec![elsewhere])]);
        assert_eq!((here.len(), here[0].findings().len()), (1, 2), "recycled PIDs are other processes");
        let mut rebooted = log("b", 1, 9, vec![co_bind()]);
        rebooted.host.boot_id = "another".to_owned();
        assert_eq!(merged(vec![log("a", 1, 9, vec![co_bind()]), rebooted]).len(), 2);
        let unknown = || {
            let mut log = log("a", 1, 9, vec![co_bind()]);
            log.host.boot_id.clear();
            log
        };
        assert_eq!(merged(vec![unknown(), unknown()]).len(), 2, "without a boot id nothing is compared");
    }
}
