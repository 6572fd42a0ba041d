//! Sets that mostly have one member: the sockets on a port, the sockets of a process, the holders of a socket.

use std::collections::BTreeSet;
use std::ops::RangeBounds;

/// A set in order that is never empty. A second member makes it a tree, which it stays: what is shared once is shared
/// again.
#[derive(Clone, Debug)]
pub(crate) enum Few<T> {
    One(T),
    Many(BTreeSet<T>),
}

impl<T: Ord + Copy> Few<T> {
    pub(crate) fn insert(&mut self, item: T) {
        match self {
            Self::One(one) if *one == item => {}
            Self::One(one) => *self = Self::Many(BTreeSet::from([*one, item])),
            Self::Many(many) => {
                many.insert(item);
            }
        }
    }

    /// Takes `item` out; true when nothing would be left.
    pub(crate) fn remove(&mut self, item: &T) -> bool {
        match self {
            Self::One(one) => one == item,
            Self::Many(many) => {
                many.remove(item);
                many.is_empty()
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(many) => many.len(),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.range(..)
    }

    pub(crate) fn range(&self, range: impl RangeBounds<T>) -> impl Iterator<Item = &T> {
        let (one, many) = match self {
            Self::One(one) => (range.contains(one).then_some(one), None),
            Self::Many(many) => (None, Some(many.range(range))),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    pub(crate) fn contains(&self, item: &T) -> bool {
        match self {
            Self::One(one) => one == item,
            Self::Many(many) => many.contains(item),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn few_is_a_set(steps in proptest::collection::vec((any::<bool>(), 0..6_u8), 0..40)) {
            let (mut set, mut few): (BTreeSet<u8>, Option<Few<u8>>) = (BTreeSet::new(), None);
            for (adds, item) in steps {
                if adds {
                    set.insert(item);
                    match &mut few {
                        Some(few) => few.insert(item),
                        None => few = Some(Few::One(item)),
                    }
                } else {
                    set.remove(&item);
                    if few.as_mut().is_some_and(|few| few.remove(&item)) {
                        few = None;
                    }
                }
                prop_assert_eq!(set.is_empty(), few.is_none());
                let Some(few) = &few else { continue };
                prop_assert_eq!(set.len(), few.len());
                prop_assert!(few.iter().eq(&set) && few.range(2..=4).eq(set.range(2..=4)));
                prop_assert!((0..6).all(|item| few.contains(&item) == set.contains(&item)));
            }
        }
    }
}
