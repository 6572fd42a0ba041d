//! What a look into the ring took.

/// Records taken in one go, so that a flood does not keep everything else waiting.
pub const DRAIN_MAX: usize = 4096;

/// A look for the records from some moment and before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    /// Records that were taken.
    pub(super) taken: usize,
    /// The last of them is of a later moment. Records are in the ring in the order in which they were begun.
    pub(super) is_newer: bool,
    /// More are in the ring: the first of them is still being written, by a processor that may not run at the moment (a
    /// machine's host gave it to another), or has just come.
    pub(super) is_behind: bool,
}

impl Reading {
    /// Whether every record from that moment and before was taken.
    pub(super) const fn is_whole(self) -> bool {
        self.is_newer || (self.taken < DRAIN_MAX && !self.is_behind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_a_record_that_is_being_written_was_not_read() {
        let whole = |taken, is_newer, is_behind| Reading { taken, is_newer, is_behind }.is_whole();
        assert!(whole(0, false, false) && whole(7, false, false), "the ring was read to its end");
        assert!(!whole(0, false, true) && !whole(7, false, true), "one is still being written");
        assert!(!whole(DRAIN_MAX, false, false), "as many as are taken at once");
        assert!(whole(7, true, true) && whole(DRAIN_MAX, true, false), "what is left is newer");
    }
}
