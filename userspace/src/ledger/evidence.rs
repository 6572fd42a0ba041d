//! The events that prove a finding, bounded: its beginning and its latest.

use crate::event::Seq;

use super::finding::EVIDENCE_MAX;

/// Sorted, each once, at most [`EVIDENCE_MAX`]: when more come in, those in the middle go.
#[derive(Clone, Debug, Default)]
pub(super) struct Evidence(Vec<Seq>);

impl Evidence {
    pub(super) fn add(&mut self, seq: Seq) {
        if seq == Seq(0) {
            return;
        }
        if let Err(at) = self.0.binary_search(&seq) {
            self.0.insert(at, seq);
            if self.0.len() > EVIDENCE_MAX {
                self.0.remove(EVIDENCE_MAX / 2);
            }
        }
    }

    /// What it proved is proved by a later event.
    pub(super) fn remove(&mut self, seq: Seq) {
        if let Ok(at) = self.0.binary_search(&seq) {
            self.0.remove(at);
        }
    }

    pub(super) fn as_slice(&self) -> &[Seq] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_half_and_the_last_half_stay() {
        let mut evidence = Evidence::default();
        for seq in (1..=1000).chain([500, 1000, 0]) {
            evidence.add(Seq(seq));
        }
        let half = EVIDENCE_MAX as u64 / 2;
        let expected: Vec<Seq> = (1..=half).chain(1001 - half..=1000).map(Seq).collect();
        assert_eq!(evidence.as_slice(), expected);
    }
}
