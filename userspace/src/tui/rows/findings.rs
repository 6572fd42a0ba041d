//! What is wrong, worst first.

use std::cmp::Reverse;

use super::{By, Column, Entry, Index, Key, Query, Row, Scene, fixed, growing, number, sort};
use crate::cli::duration_text;
use crate::ledger::finding::{Finding, Holder, Severity};
use crate::sink::words;
use crate::tui::filter::Field;
use crate::tui::theme::Role;
use crate::tui::world::World;

pub(super) const COLUMNS: [Column; 7] = [
    fixed("", 1, 0),
    fixed("KIND", 9, 1),
    growing("ENDPOINT", 25, 1, 51, 0),
    fixed("SINCE", 12, 4),
    fixed("STATE", 10, 2),
    number("N", 3, 5),
    growing("WHAT", 10, 4, u16::MAX, 3),
];

/// A mark for those who see no colour.
const fn mark(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "!",
        Severity::Warning => "*",
        Severity::Note => "-",
    }
}

fn everybody(finding: &Finding) -> impl Iterator<Item = &Holder> {
    let victim = finding.victim.as_ref().map(|victim| &victim.holder);
    victim.into_iter().chain(&finding.holders).chain(&finding.last_owner)
}

pub(super) fn index(world: &World, query: &Query) -> Index {
    let mut wanted: Vec<&Finding> = Vec::new();
    let mut hidden = 0;
    for finding in world.findings() {
        let passes = query.filter.passes(|each| {
            each(Field::Kind(finding.kind.name()));
            each(Field::Kind(words::severity(finding.kind.severity())));
            each(Field::Kind(if finding.live { "live" } else { "past" }));
            finding.cause.into_iter().for_each(|cause| each(Field::Kind(words::cause(cause))));
            each(Field::Endpoint(finding.address, finding.port));
            each(Field::Netns(finding.netns.0));
            for holder in everybody(finding) {
                each(Field::Pid(holder.process.tgid));
                each(Field::Program(&holder.comm));
                each(Field::Program(&holder.exe));
                holder.cmdline.iter().for_each(|argument| each(Field::Program(argument)));
                each(Field::Cgroup(&holder.cgroup));
                each(Field::Uid(holder.uid.0));
            }
        });
        if passes {
            wanted.push(finding);
        } else {
            hidden += 1;
        }
    }
    wanted.sort_by_key(|finding| {
        (
            Reverse(finding.kind.severity()),
            Reverse(finding.live),
            Reverse(finding.first_seen),
            Reverse(finding.id),
        )
    });
    let mut entries: Vec<Entry> =
        wanted.into_iter().map(|finding| Entry::new(Key::Finding(finding.id))).collect();
    if let Some(by) = query.sort {
        sort(&mut entries, by, |entry| {
            let Some(finding) = found(world, entry) else { return By::Number(0) };
            match by.0 {
                1 => By::text(finding.kind.name()),
                2 => By::Number(finding.port.into()),
                3 => By::Number(finding.first_seen.0),
                4 => By::Number(if finding.live { u64::MAX } else { finding.overlap.unwrap_or_default() }),
                5 => By::Number(count(finding)),
                6 => By::text(&everybody(finding).next().map(words::process).unwrap_or_default()),
                _ => By::Number(finding.kind.severity() as u64),
            }
        });
    }
    Index { entries, hidden, ..Index::default() }
}

fn found<'a>(world: &'a World, entry: &Entry) -> Option<&'a Finding> {
    let Key::Finding(id) = entry.key else { return None };
    world.finding(id).map(AsRef::as_ref)
}

/// Holders that a row names.
const NAMED: usize = 8;

/// Who it concerns, in few words.
fn who(finding: &Finding) -> String {
    let named: Vec<String> = finding.holders.iter().take(NAMED).map(words::process).collect();
    let mut holders = named.join(", ");
    if finding.holders.len() > NAMED {
        holders.push_str(&format!(" and {} more", finding.holders.len() - NAMED));
    }
    let victim = finding.victim.as_ref().map(|victim| words::process(&victim.holder));
    let cause = finding.cause.map(words::cause);
    match (victim, cause) {
        (Some(victim), Some(cause)) if holders.is_empty() => format!("{victim}: {cause}"),
        (Some(victim), Some(cause)) => format!("{victim}: {cause} {holders}"),
        (Some(victim), None) if holders.is_empty() => victim,
        (Some(victim), None) => format!("{victim}: {holders}"),
        (None, _) => holders,
    }
}

/// How often it happened, or how many hold it.
const fn count(finding: &Finding) -> u64 {
    if finding.count > 1 { finding.count } else { finding.holders.len() as u64 }
}

pub(super) fn row(scene: Scene<'_>, entry: &Entry) -> Option<Row> {
    let finding = found(scene.world, entry)?;
    let severity = finding.kind.severity();
    let state = match (finding.live, finding.overlap) {
        (true, _) => "live".to_owned(),
        (false, Some(ns)) => duration_text(ns),
        (false, None) => "past".to_owned(),
    };
    let count = count(finding);
    let unsure = if finding.uncertain { "? " } else { "" };
    let what = format!("{unsure}{}", who(finding));
    Some(Row {
        cells: vec![
            mark(severity).to_owned(),
            finding.kind.name().to_owned(),
            format!("{} {}", finding.protocol, words::endpoint(finding.address, finding.port)),
            scene.time(finding.first_seen),
            state,
            if count > 0 { count.to_string() } else { String::new() },
            what,
        ],
        role: if finding.live || severity == Severity::Error { Role::from(severity) } else { Role::Plain },
    })
}
