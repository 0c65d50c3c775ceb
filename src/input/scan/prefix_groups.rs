//! Prefix groups over the whole input: rows with a common beginning that is worth a server's prefix cache.
//!
//! Owns the grouping by hashes. It runs when all rows have been seen, so the result does not depend on the distance
//! between rows nor on the chunks. The engine's queue groups the prompts of its leases again, in
//! `engine/queue/prefix_groups.rs`.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::domain::PrefixKeys;

/// A group may have this many rows in any case …
const MAX_GROUP_SIZE: usize = 512;
/// … or one row in this many. A prefix shared by more rows is in every server's cache all the time, in any order.
const MAX_GROUP_ONE_IN: usize = 32;
/// Hashes sorted at a time, to bound the memory beside the hashes that are kept.
const SORT_BATCH: usize = 1 << 20;

/// Number of a prefix group, from 1 in the order of the groups' first rows; 0 is no group.
pub(crate) type PrefixGroupId = u32;

/// Prefix hashes of long rows. They have 32 bits per level: a collision only gives a prompt an earlier position.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct PrefixHashes {
    /// Number of hashes of each long row.
    level_counts: Vec<u8>,
    /// The hashes of all long rows, concatenated, each row's longest prefix first.
    hashes: Vec<u32>,
}

impl PrefixHashes {
    /// Adds the next row. Returns whether it is long enough to be in a group.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "levels are three, half of a hash is a hash"
    )]
    pub(crate) fn add_text(&mut self, text: &str) -> bool {
        let prefixes = PrefixKeys::of_text(text);
        let levels = prefixes.level_count();
        if levels > 0 {
            self.level_counts.push(levels as u8);
            self.hashes.extend(prefixes.map(|prefix| xxh3_64(prefix) as u32));
        }
        levels > 0
    }

    pub(crate) fn append_chunk(&mut self, other: Self) {
        self.level_counts.extend(other.level_counts);
        self.hashes.extend(other.hashes);
    }

    /// Returns the group of each long row. `rows` is the number of all rows. A row belongs to the group of the longest
    /// prefix that it shares.
    pub(crate) fn assign_groups(self, rows: usize) -> Vec<PrefixGroupId> {
        let max_size = MAX_GROUP_SIZE.max(rows / MAX_GROUP_ONE_IN);
        let mut groups: Vec<PrefixGroupId> = vec![0; self.level_counts.len()];
        let mut group_count = 0;
        // The longest prefixes first: a row that found its group there takes no part in the shorter ones.
        for level in (1..=PrefixKeys::MAX_LEVELS).rev() {
            let count = self.level_counts.iter().filter(|&&its| usize::from(its) >= level).count();
            let passes = count.div_ceil(SORT_BATCH) as u64;
            // Each pass takes one range of hash values, so that equal hashes meet in the same pass.
            for pass in 0..passes {
                let mut candidates: Vec<(u32, u32)> = self
                    .hashes_at_level(level)
                    .filter(|&(hash, row)| {
                        (u64::from(hash) * passes) >> 32 == pass && groups[row as usize] == 0
                    })
                    .collect();
                candidates.sort_unstable();
                for group in candidates.chunk_by(|one, other| one.0 == other.0) {
                    if (2..=max_size).contains(&group.len()) {
                        group_count += 1;
                        group.iter().for_each(|&(_, row)| groups[row as usize] = group_count);
                    }
                }
            }
        }
        renumber_by_first_row(&mut groups, group_count);
        groups
    }

    /// Returns the hashes at a level, each with the number of its row among the long ones.
    fn hashes_at_level(&self, level: usize) -> impl Iterator<Item = (u32, u32)> {
        let mut begin = 0;
        (0..).zip(&self.level_counts).filter_map(move |(row, &levels)| {
            let its = &self.hashes[begin..begin + usize::from(levels)];
            begin += its.len();
            Some((*its.get(its.len().checked_sub(level)?)?, row))
        })
    }
}

/// Renumbers the groups, which were numbered in the order of their hashes.
fn renumber_by_first_row(groups: &mut [PrefixGroupId], group_count: PrefixGroupId) {
    let mut numbers: Vec<PrefixGroupId> = vec![0; group_count as usize + 1];
    let mut next = 0;
    for group in groups.iter_mut().filter(|group| **group > 0) {
        let number = &mut numbers[*group as usize];
        if *number == 0 {
            next += 1;
            *number = next;
        }
        *group = *number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups_of(texts: &[String]) -> Vec<PrefixGroupId> {
        let mut hashes = PrefixHashes::default();
        assert!(texts.iter().all(|text| hashes.add_text(text)));
        hashes.assign_groups(texts.len())
    }

    #[test]
    fn the_longest_common_prefix_makes_the_group() {
        let header = "h".repeat(600);
        let document = |name: &str| format!("{header}{}", name.repeat(2000));
        let all = [document("a"), document("b"), "z".repeat(9000), document("b"), header.clone()];
        assert_eq!(
            groups_of(&all),
            [1, 2, 0, 2, 1],
            "two documents are alike, two headers are left"
        );
        assert!(!PrefixHashes::default().add_text("short"));
    }

    #[test]
    fn a_prefix_of_nearly_all_rows_makes_no_group() {
        let all = |count: usize| vec!["s".repeat(700); count];
        assert!(groups_of(&all(MAX_GROUP_SIZE)).iter().all(|&group| group == 1));
        assert!(groups_of(&all(MAX_GROUP_SIZE + 1)).iter().all(|&group| group == 0));
        let mut hashes = PrefixHashes::default();
        all(MAX_GROUP_SIZE + 1).iter().for_each(|text| assert!(hashes.add_text(text)));
        assert_eq!(
            hashes.assign_groups((MAX_GROUP_SIZE + 1) * MAX_GROUP_ONE_IN)[MAX_GROUP_SIZE],
            1,
            "of so many it is but a part"
        );
    }
}
