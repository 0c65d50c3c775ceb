//! Which answers of an earlier input belong to which rows of the new one. Pure.
//!
//! Rows are the same when what they say has the same hash. Of rows that say the same, the answers go in their old order to
//! the first of the new ones. Memory is 24 bytes an answer; the new rows pass by and are not kept.

/// No row, so far.
const UNMATCHED: u64 = u64::MAX;

/// An answered row of the earlier input.
#[derive(Clone, Copy, Debug)]
struct AnsweredRow {
    hash: u64,
    old_index: u64,
    /// Where it stands now.
    new_index: u64,
}

/// Answers that are there, to be matched.
#[derive(Debug, Default)]
pub(crate) struct AnsweredRows {
    rows: Vec<AnsweredRow>,
    /// Answers of which nobody knows what their rows said.
    unknown: u64,
}

impl AnsweredRows {
    /// An answer of the row with this index, which said this. Any order will do.
    pub(crate) fn add_answer(&mut self, index: u64, hash: u64) {
        self.rows.push(AnsweredRow { hash, old_index: index, new_index: UNMATCHED });
    }

    /// An answer of a row with a hash that is not known: it cannot be kept.
    pub(crate) fn add_unknown(&mut self) {
        self.unknown += 1;
    }

    /// All are in.
    pub(crate) fn begin(mut self) -> RowMatcher {
        self.rows.sort_unstable_by_key(|old| (old.hash, old.old_index));
        RowMatcher { answered_rows: self.rows, unknown: self.unknown, rows_seen: 0, kept: 0 }
    }
}

/// Rows of the new input take their answers as they pass by.
#[derive(Debug)]
pub(crate) struct RowMatcher {
    /// Sorted by hash and index. Of one hash those come first that have a new row, so that a search finds the next.
    answered_rows: Vec<AnsweredRow>,
    unknown: u64,
    rows_seen: u64,
    kept: u64,
}

impl RowMatcher {
    /// The next row of the new input.
    pub(crate) fn match_row(&mut self, hash: u64) {
        let next = self.answered_rows.partition_point(|old| {
            old.hash < hash || (old.hash == hash && old.new_index != UNMATCHED)
        });
        if let Some(old) = self.answered_rows.get_mut(next).filter(|old| old.hash == hash) {
            old.new_index = self.rows_seen;
            self.kept += 1;
        }
        self.rows_seen += 1;
    }

    /// That was the last.
    pub(crate) fn finish(mut self) -> MigrationPlan {
        let told = MatchCounts {
            kept: self.kept,
            new: self.rows_seen - self.kept,
            gone: self.answered_rows.len() as u64 - self.kept + self.unknown,
            unknown: self.unknown,
        };
        self.answered_rows.retain(|old| old.new_index != UNMATCHED);
        self.answered_rows.sort_unstable_by_key(|old| old.old_index);
        MigrationPlan { counts: told, all: self.answered_rows }
    }
}

/// How many answers stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MatchCounts {
    /// Answers whose rows are in the new input.
    pub(crate) kept: u64,
    /// The new input's other rows, which are to be asked.
    pub(crate) new: u64,
    /// Answers whose rows are not in the new input, or are not known.
    pub(crate) gone: u64,
    /// Of these: whose rows are not known.
    pub(crate) unknown: u64,
}

/// Where answers go.
#[derive(Debug)]
pub(crate) struct MigrationPlan {
    pub(crate) counts: MatchCounts,
    /// By the old index; all have a new one.
    all: Vec<AnsweredRow>,
}

impl MigrationPlan {
    /// The new index of the row that had this one, if its answer is kept.
    pub(crate) fn of(&self, old: u64) -> Option<u64> {
        let at = self.all.binary_search_by_key(&old, |it| it.old_index).ok()?;
        Some(self.all[at].new_index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Rows by what they say, some of them answered; few different ones, so that many stand twice.
    fn match_rows(before: &[(u64, bool)], after: &[u64], unknown: u64) -> MigrationPlan {
        let mut answered = AnsweredRows::default();
        // The order in which answers stand in files is another one than the input's.
        for (index, &(hash, is_answered)) in before.iter().enumerate().rev() {
            if is_answered {
                answered.add_answer(index as u64, hash);
            }
        }
        (0..unknown).for_each(|_| answered.add_unknown());
        let mut matching = answered.begin();
        after.iter().for_each(|&hash| matching.match_row(hash));
        matching.finish()
    }

    proptest! {
        #[test]
        fn every_answer_finds_the_row_it_belongs_to(
            before in prop::collection::vec((0u64..8, any::<bool>()), 0..60),
            after in prop::collection::vec(0u64..8, 0..60),
            unknown in 0u64..3,
        ) {
            let moves = match_rows(&before, &after, unknown);
            let MatchCounts { kept, new, gone, .. } = moves.counts;
            let answered = before.iter().filter(|(_, answered)| *answered).count() as u64;
            prop_assert_eq!(kept + new, after.len() as u64);
            prop_assert_eq!(kept + gone, answered + unknown);

            let pairs: Vec<(u64, u64)> = (0..before.len() as u64)
                .filter_map(|old| moves.of(old).map(|new| (old, new)))
                .collect();
            prop_assert_eq!(pairs.len() as u64, kept);
            let mut rows: Vec<u64> = pairs.iter().map(|&(_, new)| new).collect();
            rows.sort_unstable();
            rows.dedup();
            prop_assert_eq!(rows.len() as u64, kept, "each row is used once");
            for &(old, new) in &pairs {
                prop_assert!(before[old as usize].1, "only answered ones");
                prop_assert_eq!(before[old as usize].0, after[new as usize]);
            }
            // The k-th answer of those that say the same is the k-th row's, and as many are kept as there can be.
            for hash in 0..8 {
                let of = |&&(old, _): &&(u64, u64)| before[old as usize].0 == hash;
                let mine: Vec<u64> = pairs.iter().filter(of).map(|&(_, new)| new).collect();
                let rows: Vec<u64> =
                    (0..).zip(&after).filter(|(_, it)| **it == hash).map(|(at, _)| at).collect();
                let there = before.iter().filter(|&&it| it == (hash, true)).count();
                prop_assert_eq!(&mine[..], &rows[..rows.len().min(there)]);
            }
        }

        #[test]
        fn an_input_that_is_as_it_was_moves_nothing(hashes in prop::collection::vec(0u64..8, 0..60)) {
            let before: Vec<(u64, bool)> = hashes.iter().map(|&hash| (hash, true)).collect();
            let moves = match_rows(&before, &hashes, 0);
            let all = hashes.len() as u64;
            prop_assert_eq!(moves.counts, MatchCounts { kept: all, new: 0, gone: 0, unknown: 0 });
            prop_assert!((0..all).all(|index| moves.of(index) == Some(index)));
        }
    }
}
