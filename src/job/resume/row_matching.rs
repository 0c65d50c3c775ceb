//! Matching of answers to an earlier input with the rows of the new one. Pure; the files are read in
//! [`super::changed_input`].
//!
//! Two rows are equal if the hashes of their content are equal. Among equal rows, the answers go to the new rows in
//! their old order. Memory is 24 bytes per answer; the new rows are streamed and not kept.

/// Stands for an answer without a new row.
const UNMATCHED: u64 = u64::MAX;

/// An answered row of the earlier input.
#[derive(Clone, Copy, Debug)]
struct AnsweredRow {
    hash: u64,
    old_index: u64,
    /// [`UNMATCHED`] until a row of the new input claims it.
    new_index: u64,
}

/// Answered rows of the earlier input, while they are collected.
#[derive(Debug, Default)]
pub(crate) struct AnsweredRows {
    rows: Vec<AnsweredRow>,
    /// Number of answers without a row hash.
    unknown: u64,
}

impl AnsweredRows {
    /// Adds the answer to the row with this index and content hash. The order of calls does not matter.
    pub(crate) fn add_answer(&mut self, index: u64, hash: u64) {
        self.rows.push(AnsweredRow { hash, old_index: index, new_index: UNMATCHED });
    }

    /// Counts an answer whose row hash is unknown, which therefore cannot be kept.
    pub(crate) fn add_unknown(&mut self) {
        self.unknown += 1;
    }

    pub(crate) fn start_matching(mut self) -> RowMatcher {
        self.rows.sort_unstable_by_key(|old| (old.hash, old.old_index));
        RowMatcher { answered_rows: self.rows, unknown: self.unknown, rows_seen: 0, kept: 0 }
    }
}

/// Assigns answers to the rows of the new input, one row at a time.
#[derive(Debug)]
pub(crate) struct RowMatcher {
    /// Sorted by hash and old index. Within a hash the matched rows come first, so that a binary search finds the next
    /// one.
    answered_rows: Vec<AnsweredRow>,
    unknown: u64,
    rows_seen: u64,
    kept: u64,
}

impl RowMatcher {
    /// Takes the hash of the next row of the new input.
    pub(crate) fn match_row(&mut self, hash: u64) {
        // The partition point is the first row of this hash without a match, if there is one.
        let next = self.answered_rows.partition_point(|old| {
            old.hash < hash || (old.hash == hash && old.new_index != UNMATCHED)
        });
        if let Some(old) = self.answered_rows.get_mut(next).filter(|old| old.hash == hash) {
            old.new_index = self.rows_seen;
            self.kept += 1;
        }
        self.rows_seen += 1;
    }

    pub(crate) fn into_plan(mut self) -> MigrationPlan {
        let counts = MatchCounts {
            kept: self.kept,
            new: self.rows_seen - self.kept,
            gone: self.answered_rows.len() as u64 - self.kept + self.unknown,
            unknown: self.unknown,
        };
        self.answered_rows.retain(|old| old.new_index != UNMATCHED);
        self.answered_rows.sort_unstable_by_key(|old| old.old_index);
        MigrationPlan { counts, kept_rows: self.answered_rows }
    }
}

/// Numbers of answers and rows that a changed input keeps, adds and drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MatchCounts {
    /// Answers whose rows are in the new input.
    pub(crate) kept: u64,
    /// Rows of the new input without an answer, whose prompts will be sent.
    pub(crate) new: u64,
    /// Answers whose rows are not in the new input or have an unknown hash.
    pub(crate) gone: u64,
    /// The part of `gone` whose rows have an unknown hash.
    pub(crate) unknown: u64,
}

/// Mapping from old to new row indices for the answers that are kept.
#[derive(Debug)]
pub(crate) struct MigrationPlan {
    pub(crate) counts: MatchCounts,
    /// Sorted by old index; every row has a new one.
    kept_rows: Vec<AnsweredRow>,
}

impl MigrationPlan {
    /// Returns the new index of the row that had the index `old`, if its answer is kept.
    pub(crate) fn new_index(&self, old: u64) -> Option<u64> {
        let at = self.kept_rows.binary_search_by_key(&old, |row| row.old_index).ok()?;
        Some(self.kept_rows[at].new_index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Matches rows that are given as hashes. The hashes are few, so that many rows are equal.
    fn match_rows(before: &[(u64, bool)], after: &[u64], unknown: u64) -> MigrationPlan {
        let mut answered = AnsweredRows::default();
        // Shard files are not in input order either.
        for (index, &(hash, is_answered)) in before.iter().enumerate().rev() {
            if is_answered {
                answered.add_answer(index as u64, hash);
            }
        }
        (0..unknown).for_each(|_| answered.add_unknown());
        let mut matcher = answered.start_matching();
        after.iter().for_each(|&hash| matcher.match_row(hash));
        matcher.into_plan()
    }

    proptest! {
        #[test]
        fn every_answer_goes_to_a_row_with_the_same_content(
            before in prop::collection::vec((0u64..8, any::<bool>()), 0..60),
            after in prop::collection::vec(0u64..8, 0..60),
            unknown in 0u64..3,
        ) {
            let plan = match_rows(&before, &after, unknown);
            let MatchCounts { kept, new, gone, .. } = plan.counts;
            let answered = before.iter().filter(|(_, answered)| *answered).count() as u64;
            prop_assert_eq!(kept + new, after.len() as u64);
            prop_assert_eq!(kept + gone, answered + unknown);

            let pairs: Vec<(u64, u64)> = (0..before.len() as u64)
                .filter_map(|old| plan.new_index(old).map(|new| (old, new)))
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
            // Among equal rows the k-th answer goes to the k-th new row, and none is dropped without need.
            for hash in 0..8 {
                let has_hash = |&&(old, _): &&(u64, u64)| before[old as usize].0 == hash;
                let taken: Vec<u64> =
                    pairs.iter().filter(has_hash).map(|&(_, new)| new).collect();
                let rows: Vec<u64> =
                    (0..).zip(&after).filter(|(_, row)| **row == hash).map(|(at, _)| at).collect();
                let answers = before.iter().filter(|&&row| row == (hash, true)).count();
                prop_assert_eq!(&taken[..], &rows[..rows.len().min(answers)]);
            }
        }

        #[test]
        fn an_unchanged_input_keeps_every_answer_at_its_index(hashes in prop::collection::vec(0u64..8, 0..60)) {
            let before: Vec<(u64, bool)> = hashes.iter().map(|&hash| (hash, true)).collect();
            let plan = match_rows(&before, &hashes, 0);
            let all = hashes.len() as u64;
            prop_assert_eq!(plan.counts, MatchCounts { kept: all, new: 0, gone: 0, unknown: 0 });
            prop_assert!((0..all).all(|index| plan.new_index(index) == Some(index)));
        }
    }
}
