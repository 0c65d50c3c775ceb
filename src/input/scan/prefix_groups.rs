//! Which rows begin alike, of all rows of the input.
//!
//! Owns the families: rows whose texts have a beginning in common that is long enough to be worth a server's prefix cache.
//! They are found by hashes when all rows have been seen, so that it makes no difference how far apart they stand nor in
//! how many parts they were looked at. Does not know what else a row is worth.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::domain::PrefixKeys;

/// A family may be of so many in any case …
const MAX_GROUP_SIZE: usize = 512;
/// … or of one row in so many. What more begin with is in every cache all the time, whatever the order.
const MAX_GROUP_ONE_IN: usize = 32;
/// Hashes compared at a time: what is sorted must not take much beside what is kept.
const SORT_BATCH: usize = 1 << 20;

/// A family's number, from 1 in the order of the families' first rows; 0 is none.
pub(crate) type Family = u32;

/// The beginnings of long rows. 32 bits of hash a level: a false relative costs its prompt a better place and no more.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct PrefixHashes {
    /// How many each row has.
    levels: Vec<u8>,
    /// All rows' one after the other, each row's longest beginning first.
    all: Vec<u32>,
}

impl PrefixHashes {
    /// Takes the next row in, and says whether it is long enough to count.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "levels are three, half of a hash is a hash"
    )]
    pub(crate) fn add(&mut self, text: &str) -> bool {
        let beginnings = PrefixKeys::of(text);
        let levels = beginnings.levels();
        if levels > 0 {
            self.levels.push(levels as u8);
            self.all.extend(beginnings.map(|beginning| xxh3_64(beginning) as u32));
        }
        levels > 0
    }

    /// Those of the rows that follow.
    pub(crate) fn append_chunk(&mut self, other: Self) {
        self.levels.extend(other.levels);
        self.all.extend(other.all);
    }

    /// Each row's family, where the input has so many rows in all. The longest beginning that a row shares decides.
    pub(crate) fn families(self, rows: usize) -> Vec<Family> {
        let most = MAX_GROUP_SIZE.max(rows / MAX_GROUP_ONE_IN);
        let mut families: Vec<Family> = vec![0; self.levels.len()];
        let mut found = 0;
        for level in (1..=PrefixKeys::LEVELS).rev() {
            let count = self.levels.iter().filter(|&&its| usize::from(its) >= level).count();
            let turns = count.div_ceil(SORT_BATCH) as u64;
            for turn in 0..turns {
                let mut alike: Vec<(u32, u32)> = self
                    .at(level)
                    .filter(|&(hash, row)| {
                        (u64::from(hash) * turns) >> 32 == turn && families[row as usize] == 0
                    })
                    .collect();
                alike.sort_unstable();
                for kin in alike.chunk_by(|one, other| one.0 == other.0) {
                    if (2..=most).contains(&kin.len()) {
                        found += 1;
                        kin.iter().for_each(|&(_, row)| families[row as usize] = found);
                    }
                }
            }
        }
        renumber_by_first_row(&mut families, found);
        families
    }

    /// The hashes at a level, each with the number of its row among the long ones.
    fn at(&self, level: usize) -> impl Iterator<Item = (u32, u32)> {
        let mut begin = 0;
        (0..).zip(&self.levels).filter_map(move |(row, &levels)| {
            let its = &self.all[begin..begin + usize::from(levels)];
            begin += its.len();
            Some((*its.get(its.len().checked_sub(level)?)?, row))
        })
    }
}

/// Numbers the families anew. Before, they are numbered by hashes.
fn renumber_by_first_row(families: &mut [Family], found: Family) {
    let mut numbers: Vec<Family> = vec![0; found as usize + 1];
    let mut next = 0;
    for family in families.iter_mut().filter(|family| **family > 0) {
        let number = &mut numbers[*family as usize];
        if *number == 0 {
            next += 1;
            *number = next;
        }
        *family = *number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn families(texts: &[String]) -> Vec<Family> {
        let mut hashes = PrefixHashes::default();
        assert!(texts.iter().all(|text| hashes.add(text)));
        hashes.families(texts.len())
    }

    #[test]
    fn the_longest_common_prefix_makes_the_group() {
        let header = "h".repeat(600);
        let document = |name: &str| format!("{header}{}", name.repeat(2000));
        let all = [document("a"), document("b"), "z".repeat(9000), document("b"), header.clone()];
        assert_eq!(
            families(&all),
            [1, 2, 0, 2, 1],
            "two documents are alike, two headers are left"
        );
        assert!(!PrefixHashes::default().add("short"));
    }

    #[test]
    fn a_prefix_of_nearly_all_rows_makes_no_group() {
        let all = |count: usize| vec!["s".repeat(700); count];
        assert!(families(&all(MAX_GROUP_SIZE)).iter().all(|&family| family == 1));
        assert!(families(&all(MAX_GROUP_SIZE + 1)).iter().all(|&family| family == 0));
        let mut hashes = PrefixHashes::default();
        all(MAX_GROUP_SIZE + 1).iter().for_each(|text| assert!(hashes.add(text)));
        assert_eq!(
            hashes.families((MAX_GROUP_SIZE + 1) * MAX_GROUP_ONE_IN)[MAX_GROUP_SIZE],
            1,
            "of so many it is but a part"
        );
    }
}
