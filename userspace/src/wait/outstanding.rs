//! The calls that were received and not answered, where they are known beyond the end of bindwatch: in a file in memory
//! that the guardian has open too.
//!
//! A call that somebody received is given to nobody else; it waits for its answer, which needs its number.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::fs::MemfdFlags;

use super::WAITING_MAX;

/// Size of a number in the file, bytes.
const SIZE: usize = 8;

/// The numbers of calls. First the last that was received, then those that wait.
#[derive(Debug)]
pub struct Outstanding {
    file: OwnedFd,
    /// Which places are taken.
    taken: Mutex<[bool; WAITING_MAX]>,
}

/// The place of a call that waits.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place(usize);

impl Outstanding {
    /// Nothing yet.
    ///
    /// # Errors
    /// Without memory for it.
    pub fn new() -> io::Result<Self> {
        let file = rustix::fs::memfd_create("bindwatch-waits", MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&file, (SIZE * (WAITING_MAX + 1)) as u64)?;
        Ok(Self { file, taken: Mutex::new([false; WAITING_MAX]) })
    }

    /// A call was received.
    pub(super) fn received(&self, id: u64) {
        self.write(0, id);
    }

    /// A call will wait: before the next is received. None when too many do.
    pub(super) fn waits(&self, id: u64) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, free) = taken.iter_mut().enumerate().find(|(_, taken)| !**taken)?;
        *free = true;
        self.write(at + 1, id);
        Some(Place(at))
    }

    /// It was answered.
    pub(super) fn answered(&self, Place(at): Place) {
        self.write(at + 1, 0);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = taken.get_mut(at) {
            *taken = false;
        }
    }

    fn write(&self, at: usize, id: u64) {
        // It cannot fail: the file is as large as this, and in memory.
        let _ = rustix::io::pwrite(&self.file, &id.to_ne_bytes(), (at * SIZE) as u64);
    }

    /// What is in such a file: every call that may wait for an answer. One that was received and not written down is the
    /// next after the last.
    pub(super) fn read(file: impl AsFd) -> Vec<u64> {
        let mut bytes = [0; SIZE * (WAITING_MAX + 1)];
        let read = rustix::io::pread(file, &mut bytes, 0).unwrap_or(0);
        let numbers = bytes.get(..read).unwrap_or_default().chunks_exact(SIZE);
        let mut ids: Vec<u64> =
            numbers.map(|number| number.try_into().map_or(0, u64::from_ne_bytes)).collect();
        if let Some(last) = ids.first().copied() {
            ids.push(last.wrapping_add(1));
        }
        ids.retain(|id| *id != 0);
        ids
    }
}

impl AsFd for Outstanding {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    #[test]
    fn what_waits_and_what_may() {
        let outstanding = Outstanding::new().unwrap();
        outstanding.received(7);
        assert_eq!(Outstanding::read(&outstanding), [7, 8]);
        let place = outstanding.waits(7).unwrap();
        outstanding.received(8);
        assert_eq!(Outstanding::read(&outstanding), [8, 7, 9]);
        outstanding.answered(place);
        assert_eq!(Outstanding::read(&outstanding), [8, 9]);
        let places: Vec<_> = (0..WAITING_MAX as u64).map(|id| outstanding.waits(100 + id).unwrap()).collect();
        assert_eq!(outstanding.waits(1), None, "more cannot wait");
        assert_eq!(Outstanding::read(&outstanding).len(), WAITING_MAX + 2);
        places.into_iter().for_each(|place| outstanding.answered(place));
        assert!(outstanding.waits(1).is_some());
    }
}
