//! A set of integers below a fixed capacity, such as prompt indices, with one bit each.
//!
//! Not a crate's, since two things are needed that those lack: the words are `u64` on every platform, so that ranks
//! combine their sets with one reduction over them, and the number of members is known without counting.

/// Set of integers below its capacity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BitSet {
    words: Vec<u64>,
    capacity: u64,
    member_count: u64,
}

impl BitSet {
    /// Creates an empty set for integers below `capacity`.
    #[must_use]
    pub(crate) fn new(capacity: u64) -> Self {
        let words = usize::try_from(capacity.div_ceil(64)).unwrap_or(usize::MAX);
        Self { words: vec![0; words], capacity, member_count: 0 }
    }

    /// Inserts an integer. Returns false if it was a member already or is not below the capacity.
    pub(crate) fn insert(&mut self, index: u64) -> bool {
        if index >= self.capacity || self.contains(index) {
            return false;
        }
        self.words[(index / 64) as usize] |= 1 << (index % 64);
        self.member_count += 1;
        true
    }

    /// Returns whether the integer is a member.
    #[must_use]
    pub(crate) fn contains(&self, index: u64) -> bool {
        index < self.capacity && self.words[(index / 64) as usize] & (1 << (index % 64)) != 0
    }

    /// Returns the number of members, in constant time.
    #[must_use]
    pub(crate) fn member_count(&self) -> u64 {
        self.member_count
    }

    /// Returns the number of members below `index`.
    #[must_use]
    pub(crate) fn count_before(&self, index: u64) -> u64 {
        let index = index.min(self.capacity);
        let (whole, bits) = ((index / 64) as usize, index % 64);
        let rest = self.words.get(whole).map_or(0, |word| word & ((1 << bits) - 1));
        count_ones(&self.words[..whole]) + count_ones(&[rest])
    }

    /// Iterates over the members from `index` on, in ascending order.
    pub(crate) fn members_from(&self, index: u64) -> impl Iterator<Item = u64> {
        std::iter::successors(self.find_from(index, true), |&last| self.find_from(last + 1, true))
    }

    /// Iterates over the ranges `[from, to)` of integers below the capacity that are not members, in ascending order.
    pub(crate) fn missing_ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut next = 0;
        std::iter::from_fn(move || {
            let from = self.find_from(next, false)?;
            let to = self.find_from(from, true).unwrap_or(self.capacity);
            next = to;
            Some((from, to))
        })
    }

    /// Inserts all members of a set with the same capacity.
    pub(crate) fn insert_all(&mut self, other: &Self) {
        self.update_words(|words| {
            words.iter_mut().zip(&other.words).for_each(|(own, its)| *own |= its)
        });
    }

    /// Removes all members of a set with the same capacity.
    pub(crate) fn remove_all(&mut self, other: &Self) {
        self.update_words(|words| {
            words.iter_mut().zip(&other.words).for_each(|(own, its)| *own &= !its)
        });
    }

    /// Changes the words in place, as a reduction over ranks does. Bits beyond the capacity must stay 0.
    pub(crate) fn update_words(&mut self, update: impl FnOnce(&mut [u64])) {
        update(&mut self.words);
        self.member_count = count_ones(&self.words);
    }

    /// Returns the first integer from `from` on that is a member, or is not.
    fn find_from(&self, from: u64, is_member: bool) -> Option<u64> {
        let mut index = from;
        while index < self.capacity {
            let word = self.words[(index / 64) as usize];
            let word = if is_member { word } else { !word } >> (index % 64);
            if word != 0 {
                let found = index + u64::from(word.trailing_zeros());
                return (found < self.capacity).then_some(found);
            }
            index = (index / 64 + 1) * 64;
        }
        None
    }
}

impl Extend<u64> for BitSet {
    fn extend<I: IntoIterator<Item = u64>>(&mut self, indices: I) {
        for index in indices {
            self.insert(index);
        }
    }
}

fn count_ones(words: &[u64]) -> u64 {
    words.iter().map(|word| u64::from(word.count_ones())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::btree_set, prelude::*};

    fn bit_set(capacity: u64, members: impl IntoIterator<Item = u64>) -> BitSet {
        let mut set = BitSet::new(capacity);
        set.extend(members);
        set
    }

    proptest! {
        #[test]
        fn members_and_missing_ranges_partition_the_capacity(
            capacity in 0u64..400, inserted in btree_set(0u64..420, 0..200),
        ) {
            let set = bit_set(capacity, inserted.iter().copied());
            let members: Vec<u64> = inserted.into_iter().filter(|&index| index < capacity).collect();
            prop_assert_eq!(set.member_count(), members.len() as u64);
            prop_assert_eq!(set.members_from(0).collect::<Vec<_>>(), &members[..]);
            for from in 0..capacity + 70 {
                let before = members.iter().filter(|&&index| index < from).count();
                prop_assert_eq!(set.count_before(from), before as u64);
                prop_assert_eq!(set.members_from(from).next(), members.get(before).copied());
                prop_assert_eq!(set.contains(from), members.binary_search(&from).is_ok());
            }
            let missing: Vec<(u64, u64)> = set.missing_ranges().collect();
            prop_assert!(missing.windows(2).all(|pair| pair[0].1 < pair[1].0));
            let mut all: Vec<u64> = missing.iter().flat_map(|&(from, to)| from..to).chain(members).collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..capacity).collect::<Vec<_>>());
        }

        #[test]
        fn union_and_difference_keep_the_member_count_right(
            one in btree_set(0u64..300, 0..100), other in btree_set(0u64..300, 0..100),
        ) {
            let (first, second) = (bit_set(300, one.iter().copied()), bit_set(300, other.iter().copied()));
            let (mut union, mut difference) = (first.clone(), first);
            union.insert_all(&second);
            difference.remove_all(&second);
            prop_assert_eq!(union, bit_set(300, one.union(&other).copied()));
            prop_assert_eq!(difference, bit_set(300, one.difference(&other).copied()));
        }
    }

    #[test]
    fn insert_returns_whether_the_integer_is_new_and_below_the_capacity() {
        let mut set = BitSet::new(65);
        assert!(set.insert(64) && !set.insert(64) && !set.insert(65));
        assert_eq!(set.member_count(), 1);
    }
}
