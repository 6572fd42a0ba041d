//! What makes a report less than whole, as sentences for the first lines of every format.

use std::collections::{BTreeMap, BTreeSet};

use super::words::{are, plural, were};
use crate::clock::Anchors;
use crate::event::{Body, Event, Job, JobPhase, Omitted, ProcessKey};
use crate::ledger::Ledger;
use crate::ledger::finding::Kind;
use crate::log::Ending;

/// Network namespaces that a notice names; the rest are counted.
const UNSEEN_NAMED: usize = 3;
/// Processes left behind that a report names; the rest are counted.
const LEFT_NAMED: usize = 16;
/// Longest name of a command there, characters.
const COMMAND_CHARS: usize = 80;
/// Network namespaces that are remembered.
const UNSEEN_MAX: usize = 4096;

/// What is to be said about lost events, by kind.
#[must_use]
pub fn of_loss(lost: &BTreeMap<String, u64>) -> Option<String> {
    let total = lost.values().fold(0_u64, |sum, count| sum.saturating_add(*count));
    let kinds: Vec<_> = lost.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    (total > 0).then(|| {
        format!(
            "{} lost ({}): findings marked uncertain could be wrong, and others could be missing",
            were(total, "event"),
            kinds.join(", ")
        )
    })
}

/// What is to be said about events that were taken out of a log.
#[must_use]
pub fn of_omitted(omitted: &Omitted, clock: Anchors) -> String {
    format!(
        "the log was kept below its --max-size: {} not in it any more (from {} to {}; {} and {}); what was still held then, \
         and what findings cite, is, but a finding of that time may count fewer events",
        are(omitted.events, "event"),
        clock.rfc3339(omitted.since),
        clock.rfc3339(omitted.until),
        plural(omitted.binds, "bind"),
        plural(omitted.binds_failed, "failed bind"),
    )
}

/// What is to be said about bounds that were reached.
pub fn of_limits<'a>(bounds: impl IntoIterator<Item = &'a String>) -> impl Iterator<Item = String> {
    bounds.into_iter().map(|bound| format!("the bound {bound} was reached: what was beyond it is missing"))
}

/// Network namespaces that no inventory could look into.
#[derive(Clone, Debug, Default)]
pub struct Unseen(BTreeSet<String>);

impl Unseen {
    /// Takes an event.
    pub fn event(&mut self, event: &Event) {
        if let Body::Inventory(inventory) = &event.body {
            let room = UNSEEN_MAX.saturating_sub(self.0.len());
            self.0.extend(inventory.unseen.iter().take(room).cloned());
        }
    }

    /// What is to be said about them.
    #[must_use]
    pub fn sentence(&self) -> Option<String> {
        let mut names: Vec<_> = self.0.iter().take(UNSEEN_NAMED).cloned().collect();
        if self.0.len() > UNSEEN_NAMED {
            names.push(format!("{} more", self.0.len() - UNSEEN_NAMED));
        }
        let missing = "sockets that are older than the recording are missing where it could not look";
        (!self.0.is_empty()).then(|| format!("{missing} ({})", names.join(", ")))
    }
}

/// Processes that the commands of a recording left behind, as far as no finding is about them.
#[derive(Clone, Debug, Default)]
pub struct Leftovers {
    named: Vec<String>,
    more: u64,
}

impl Leftovers {
    /// Takes the end of a job, which the ledger has judged.
    pub fn job(&mut self, job: &Job, ledger: &Ledger) {
        if job.phase != JobPhase::End {
            return;
        }
        let view = ledger.view();
        // The orphans' findings name them; or a rule allows what they hold.
        let is_told = |process: ProcessKey| {
            let findings = view.held_by(process).flat_map(|socket| socket.findings());
            findings.into_iter().any(|id| ledger.finding(*id).is_none_or(|found| found.kind == Kind::Orphan))
        };
        let command: String = job.name.chars().take(COMMAND_CHARS).collect();
        for process in job.left.iter().filter(|process| !is_told(**process)) {
            if self.named.len() >= LEFT_NAMED {
                self.more += 1;
                continue;
            }
            let name = view.process(*process).map_or("a process", |facts| facts.comm.as_str());
            self.named.push(format!(
                "orphan: {name} (PID {}) still ran when the command \"{command}\" had ended",
                process.tgid
            ));
        }
    }

    /// What is to be said about them, each by itself.
    pub fn sentences(&self) -> impl Iterator<Item = String> + '_ {
        let more = (self.more > 0).then(|| {
            format!("orphan: and {} more process{}", self.more, if self.more == 1 { "" } else { "es" })
        });
        self.named.iter().cloned().chain(more)
    }
}

/// What is to be said about how a log ended.
#[must_use]
pub fn of_ending(ending: &Ending) -> Vec<String> {
    let mut sentences = Vec::new();
    match (&ending.torn, &ending.end) {
        (Some(torn), _) => {
            sentences.push(format!("the log is cut short at line {}: {}", torn.line, torn.reason));
        }
        (None, None) => sentences
            .push("the log has no last line: the recording was killed, or is still going on".to_owned()),
        (None, Some(end)) if end.dropped > 0 => {
            sentences.push(format!("{} not in the log, which could take no more", are(end.dropped, "event")));
        }
        (None, Some(_)) => {}
    }
    if ending.unknown > 0 {
        let lines = were(ending.unknown, "line");
        sentences.push(format!("{lines} skipped: a newer bindwatch wrote them, and can read them"));
    }
    sentences
}
