//! A set of prompt indices with one bit each.

/// As words of 64 bits, so that ranks can combine theirs by a reduction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexSet {
    words: Vec<u64>,
    capacity: u64,
}

impl IndexSet {
    /// None of `size` prompts.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self {
            words: vec![0; usize::try_from(size.div_ceil(64)).unwrap_or(usize::MAX)],
            capacity: size,
        }
    }

    /// Puts a prompt in; an index beyond the size is nobody's and is left out.
    pub fn insert(&mut self, index: u64) {
        if index < self.capacity {
            self.words[(index / 64) as usize] |= 1 << (index % 64);
        }
    }

    /// Is it in?
    #[must_use]
    pub fn contains(&self, index: u64) -> bool {
        index < self.capacity && self.words[(index / 64) as usize] & (1 << (index % 64)) != 0
    }

    /// How many are in.
    #[must_use]
    pub fn member_count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// How many with a lower index are in.
    #[must_use]
    pub fn count_before(&self, index: u64) -> u64 {
        let index = index.min(self.capacity);
        let (whole, bits) = ((index / 64) as usize, index % 64);
        let rest = self.words.get(whole).map_or(0, |word| word & ((1 << bits) - 1));
        let ones = |word: &u64| u64::from(word.count_ones());
        self.words[..whole].iter().map(ones).sum::<u64>() + ones(&rest)
    }

    /// All that are in, from `index` on, in order.
    pub fn members_from(&self, index: u64) -> impl Iterator<Item = u64> {
        std::iter::successors(self.find_from(index, true), |&last| self.find_from(last + 1, true))
    }

    /// The words, for a reduction.
    pub fn words_mut(&mut self) -> &mut [u64] {
        &mut self.words
    }

    /// Puts in everything that is in `other`.
    pub fn insert_all(&mut self, other: &Self) {
        self.words.iter_mut().zip(&other.words).for_each(|(mine, other)| *mine |= other);
    }

    /// Takes out everything that is in `other`.
    pub fn remove_all(&mut self, other: &Self) {
        self.words.iter_mut().zip(&other.words).for_each(|(mine, other)| *mine &= !other);
    }

    /// The stretches that are not in: `[from, to)`, in order.
    pub fn missing_ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut next = 0;
        std::iter::from_fn(move || {
            let from = self.find_from(next, false)?;
            let to = self.find_from(from, true).unwrap_or(self.capacity);
            next = to;
            Some((from, to))
        })
    }

    /// The first index from `from` on that is in, or is not.
    fn find_from(&self, from: u64, wanted: bool) -> Option<u64> {
        let mut index = from;
        while index < self.capacity {
            let word = self.words[(index / 64) as usize];
            let word = if wanted { word } else { !word } >> (index % 64);
            if word != 0 {
                let found = index + u64::from(word.trailing_zeros());
                return (found < self.capacity).then_some(found);
            }
            index = (index / 64 + 1) * 64;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn gaps_and_members_are_everything(size in 0u64..400, members in prop::collection::btree_set(0u64..420, 0..200)) {
            let mut bitmap = IndexSet::new(size);
            members.iter().for_each(|&index| bitmap.insert(index));
            let inside: Vec<u64> = members.into_iter().filter(|&index| index < size).collect();
            prop_assert_eq!(bitmap.member_count(), inside.len() as u64);
            prop_assert_eq!(bitmap.members_from(0).collect::<Vec<_>>(), &inside[..]);
            for from in 0..size + 70 {
                let before = inside.iter().filter(|&&index| index < from).count();
                prop_assert_eq!(bitmap.count_before(from), before as u64);
                prop_assert_eq!(bitmap.members_from(from).next(), inside.get(before).copied());
            }
            let gaps: Vec<(u64, u64)> = bitmap.missing_ranges().collect();
            prop_assert!(gaps.windows(2).all(|pair| pair[0].1 < pair[1].0));
            let mut all: Vec<u64> = gaps.iter().flat_map(|&(from, to)| from..to).chain(inside).collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..size).collect::<Vec<_>>());
        }
    }
}
