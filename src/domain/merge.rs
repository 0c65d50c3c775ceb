//! Mergeable values, so that one rank, one node and the whole job use the same code.

use std::collections::BTreeMap;

/// A value that can absorb another one of its type.
///
/// Laws of every implementation: merging is associative, and `Default` (if implemented) is the neutral element.
/// Reductions merge in rank order, so `merge` need not be commutative.
pub trait Merge {
    /// Merges `other`, which comes after `self`, into `self`.
    fn merge(&mut self, other: Self);
}

impl Merge for u64 {
    fn merge(&mut self, other: Self) {
        // Saturating, because a wrong count must not end a job.
        *self = self.saturating_add(other);
    }
}

impl<T> Merge for Vec<T> {
    fn merge(&mut self, mut other: Self) {
        self.append(&mut other);
    }
}

impl<K: Ord, V: Merge> Merge for BTreeMap<K, V> {
    fn merge(&mut self, other: Self) {
        for (key, value) in other {
            match self.entry(key) {
                std::collections::btree_map::Entry::Occupied(mut mine) => {
                    mine.get_mut().merge(value)
                }
                std::collections::btree_map::Entry::Vacant(place) => {
                    place.insert(value);
                }
            }
        }
    }
}

impl<T: Merge> Merge for Option<T> {
    fn merge(&mut self, other: Self) {
        match (self.as_mut(), other) {
            (Some(mine), Some(other)) => mine.merge(other),
            (None, Some(other)) => *self = Some(other),
            (_, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn merge_pair<T: Merge>(mut a: T, b: T) -> T {
        a.merge(b);
        a
    }

    proptest! {
        #[test]
        fn merging_is_associative_and_empty_is_neutral(
            a in prop::collection::btree_map("[a-d]", 0u64..9, 0..4),
            b in prop::collection::btree_map("[a-d]", 0u64..9, 0..4),
            c in prop::collection::btree_map("[a-d]", 0u64..9, 0..4),
        ) {
            let left = merge_pair(merge_pair(a.clone(), b.clone()), c.clone());
            let right = merge_pair(a.clone(), merge_pair(b, c));
            prop_assert_eq!(left, right);
            prop_assert_eq!(&merge_pair(a.clone(), BTreeMap::new()), &a);
            prop_assert_eq!(merge_pair(BTreeMap::new(), a.clone()), a);
        }
    }
}
