//! Calls that enforcement refused, or held.

use super::{attempts, last_owner, listed, place, victim};
use crate::cli::duration_text;
use crate::event::WaitOutcome;
use crate::ledger::finding::{Cause, Finding, Wait};

/// What enforcement would have done about sharing, where it was not in force. None when nothing, or not known.
#[must_use]
pub fn would_deny(finding: &Finding) -> Option<String> {
    let (denied, all) = (finding.would_deny, finding.holders.len());
    (denied > 0).then(|| format!("--on-conflict deny would have refused {denied} of these {all} the bind"))
}

/// A call that was held, by how that ended.
fn waited(finding: &Finding, wait: Wait) -> String {
    let (who, place) = (victim(finding.victim.as_ref()), place(finding));
    let again = match finding.count {
        1 => String::new(),
        count => format!(", the last of {count} times,"),
    };
    let how_long = duration_text(wait.ns);
    let owner = last_owner(finding);
    let hold = if finding.holders.len() > 1 { "hold" } else { "holds" };
    let held = match finding.holders.as_slice() {
        [] => String::new(),
        holders => format!(", which {} {hold}", listed(holders.iter())),
    };
    match wait.outcome {
        Some(WaitOutcome::Done) if !finding.holders.is_empty() => {
            let holders = listed(finding.holders.iter());
            format!("{who} waited {how_long}{again} for {place}, until {holders} let go of it")
        }
        Some(WaitOutcome::Done) if finding.cause == Some(Cause::TimeWait) => {
            format!(
                "{who} waited {how_long}{again} for {place}, until the TIME_WAIT of ended connections{owner} was over"
            )
        }
        Some(WaitOutcome::Done) => format!("{who} waited {how_long}{again} for {place}, until it was free"),
        Some(WaitOutcome::TimedOut) => {
            format!(
                "{who} was denied {place} after waiting {how_long}{again} for it{}",
                held.replacen(", which", ":", 1)
            )
        }
        Some(WaitOutcome::Interrupted) => {
            format!("{who} waited {how_long}{again} for {place}{held}, and was interrupted")
        }
        Some(WaitOutcome::Released) => {
            format!("{who} waited {how_long}{again} for {place}{held}, and was left to the kernel then")
        }
        None => format!("{who} waits for {place}{held}"),
    }
}

pub(super) fn sentence(finding: &Finding) -> String {
    if let Some(wait) = finding.wait {
        return waited(finding, wait);
    }
    let (who, times) = (victim(finding.victim.as_ref()), attempts(finding));
    let was = if finding.dry_run { "would have been" } else { "was" };
    let mut text = format!("{who} {was} denied {}{times}", place(finding));
    if !finding.holders.is_empty() {
        let verb = if finding.holders.len() > 1 { "hold" } else { "holds" };
        text = format!("{text}: {} {verb} it", listed(finding.holders.iter()));
    }
    text
}
