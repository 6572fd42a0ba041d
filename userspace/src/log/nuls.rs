//! A file's end that was given room and never written: a machine that crashes or loses power leaves NUL bytes there.

use std::io::{self, Read};

/// NUL bytes at the end that are left out, bytes, and more. Compressed data may end with a few of its own; JSON has none.
const LEFT_OUT_MIN: u64 = 64;

/// A file without the NUL bytes at its end.
pub(super) struct WithoutNuls<R> {
    inner: R,
    /// NUL bytes that were read and not given: they may be the end.
    held: u64,
    /// NUL bytes to be given: they were not.
    owed: u64,
    /// What is to be given after these.
    after: Vec<u8>,
}

impl<R: Read> WithoutNuls<R> {
    pub(super) const fn new(inner: R) -> Self {
        Self { inner, held: 0, owed: 0, after: Vec::new() }
    }

    /// What is to be given before more is read, bytes; 0 nothing.
    fn give(&mut self, to: &mut [u8]) -> usize {
        if self.owed > 0 {
            let length = usize::try_from(self.owed).map_or(to.len(), |owed| owed.min(to.len()));
            to.iter_mut().take(length).for_each(|byte| *byte = 0);
            self.owed -= length as u64;
            return length;
        }
        let length = self.after.len().min(to.len());
        to.iter_mut().zip(self.after.drain(..length)).for_each(|(to, byte)| *to = byte);
        length
    }
}

impl<R: Read> Read for WithoutNuls<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if to.is_empty() {
            return Ok(0);
        }
        loop {
            let given = self.give(to);
            if given > 0 {
                return Ok(given);
            }
            let length = self.inner.read(to)?;
            let read = to.get(..length).unwrap_or_default();
            if self.held == 0 && read.last().is_some_and(|last| *last != 0) {
                return Ok(length);
            }
            let end = read.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            let nuls = (length - end) as u64;
            if length == 0 {
                if self.held >= LEFT_OUT_MIN || self.held == 0 {
                    return Ok(0);
                }
                self.owed = std::mem::take(&mut self.held);
            } else if end == 0 {
                self.held += nuls;
            } else if self.held == 0 {
                self.held = nuls;
                return Ok(end);
            } else {
                self.after.extend_from_slice(read.get(..end).unwrap_or_default());
                self.owed = std::mem::replace(&mut self.held, nuls);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Gives so many bytes at a time, again and again.
    struct Pieces<'a>(&'a [u8], std::iter::Cycle<std::vec::IntoIter<usize>>);

    impl Read for Pieces<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let length = self.1.next().unwrap_or(1).min(to.len()).min(self.0.len());
            let (now, later) = self.0.split_at(length);
            to.iter_mut().zip(now).for_each(|(to, byte)| *to = *byte);
            self.0 = later;
            Ok(length)
        }
    }

    fn read(bytes: &[u8], pieces: Vec<usize>, room: usize) -> io::Result<Vec<u8>> {
        let mut reader = WithoutNuls::new(Pieces(bytes, pieces.into_iter().cycle()));
        let (mut all, mut to) = (Vec::new(), vec![7; room]);
        loop {
            match reader.read(&mut to)? {
                0 => return Ok(all),
                length => all.extend(to.iter().take(length)),
            }
        }
    }

    proptest! {
        #[test]
        fn only_a_long_end_of_nuls_goes(
            parts in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..20), 0_usize..200), 0..6),
            pieces in prop::collection::vec(1_usize..90, 1..8),
            room in 1_usize..100,
        ) {
            let bytes: Vec<u8> = parts.into_iter().flat_map(|(data, nuls)| data.into_iter().chain(vec![0; nuls])).collect();
            let data = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            let goes = (bytes.len() - data) as u64 >= LEFT_OUT_MIN;
            let expected = if goes { bytes.get(..data).unwrap_or_default() } else { &bytes };
            prop_assert_eq!(read(&bytes, pieces, room)?, expected);
        }
    }
}
