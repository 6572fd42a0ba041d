//! Parts of lines that were read a moment ago, by their bytes: the network namespace, the options and the user of a
//! socket are those of the last, or of the one before. Equal bytes mean the same, and comparing them is quicker than reading.

/// Longest part that is remembered, bytes.
const LENGTH_MAX: usize = 128;
/// Parts that are remembered of one kind; more would take longer than reading.
const PARTS: usize = 4;

/// What parts of one kind meant.
pub(super) struct Recent<T> {
    parts: [Part<T>; PARTS],
    /// The part that is overwritten next.
    next: usize,
}

struct Part<T> {
    bytes: [u8; LENGTH_MAX],
    /// 0: there is none.
    length: usize,
    means: T,
}

impl<T: Copy> Recent<T> {
    /// Nothing is remembered; `any` is of no consequence.
    pub(super) fn new(any: T) -> Self {
        Self {
            parts: std::array::from_fn(|_| Part { bytes: [0; LENGTH_MAX], length: 0, means: any }),
            next: 0,
        }
    }

    /// What `text` begins with, and what follows: as it was read before, or by `read`, which hands back what it has left.
    ///
    /// What `read` takes must end with a byte that cannot be followed by more of the same, such as a quote: then bytes that
    /// are equal to the taken ones mean the same, whatever comes behind them.
    #[inline]
    pub(super) fn read<'a>(
        &mut self,
        text: &'a [u8],
        read: impl FnOnce(&'a [u8]) -> Option<(T, &'a [u8])>,
    ) -> Option<(T, &'a [u8])> {
        for part in &self.parts {
            if part.length > 0
                && let Some(rest) = part.bytes.get(..part.length).and_then(|bytes| text.strip_prefix(bytes))
            {
                return Some((part.means, rest));
            }
        }
        let (means, rest) = read(text)?;
        self.remember(text.get(..text.len() - rest.len())?, means);
        Some((means, rest))
    }

    #[cold]
    fn remember(&mut self, taken: &[u8], means: T) {
        if let Some(part) = self.parts.get_mut(self.next)
            && let Some(bytes) = part.bytes.get_mut(..taken.len())
        {
            bytes.copy_from_slice(taken);
            (part.length, part.means) = (taken.len(), means);
            self.next = (self.next + 1) % PARTS;
        }
    }
}
