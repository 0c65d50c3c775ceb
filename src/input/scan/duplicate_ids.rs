//! Detection of duplicate ids, in 16 bytes per row that has an id.
//!
//! Owns the comparison by hash. Id texts are not kept: `scan/mod.rs` reads both rows again to verify equal hashes.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// Hashes of the ids that rows give themselves.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct IdHashes {
    /// Pairs of hash and index, in the order of the index until [`find_duplicates`](Self::find_duplicates) sorts them.
    explicit: Vec<(u64, u64)>,
    /// Whether an id could equal the default id of another row, which is its index.
    any_numeric: bool,
}

impl IdHashes {
    /// Adds a row's own id. Rows must be added in the order of their index.
    pub(crate) fn add_id(&mut self, text: &str, index: u64) {
        self.any_numeric |= is_decimal_index(text);
        self.explicit.push((xxh3_64(text.as_bytes()), index));
    }

    /// Adds the ids of the next chunk, whose first row has the index `first`.
    pub(crate) fn append_chunk(&mut self, other: Self, first: u64) {
        self.any_numeric |= other.any_numeric;
        if self.explicit.is_empty() && first == 0 {
            self.explicit = other.explicit;
        } else {
            self.explicit
                .extend(other.explicit.into_iter().map(|(hash, index)| (hash, first + index)));
        }
    }

    /// Returns pairs of rows whose ids have equal hashes, sorted by the later row. The earlier one is the first of its
    /// hash.
    pub(crate) fn find_duplicates(mut self, rows: u64) -> Vec<(u64, u64)> {
        if self.any_numeric && (self.explicit.len() as u64) < rows {
            self.add_default_ids(rows);
        }
        self.explicit.sort_unstable();
        let mut pairs = Vec::new();
        for group in self.explicit.chunk_by(|one, other| one.0 == other.0) {
            pairs.extend(group[1..].iter().map(|duplicate| (group[0].1, duplicate.1)));
        }
        pairs.sort_unstable_by_key(|&(_, duplicate)| duplicate);
        pairs
    }

    fn add_default_ids(&mut self, rows: u64) {
        // In place: a list of the rows without an id would be as large as the ids themselves.
        let (own, mut at) = (self.explicit.len(), 0);
        for index in 0..rows {
            if at < own && self.explicit[at].1 == index {
                at += 1;
            } else {
                self.explicit.push((xxh3_64(index.to_string().as_bytes()), index));
            }
        }
    }
}

fn is_decimal_index(text: &str) -> bool {
    text.parse::<u64>().is_ok_and(|number| number.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn duplicates_of(ids: &[Option<&str>]) -> Vec<(u64, u64)> {
        let mut all = IdHashes::default();
        for (index, id) in (0..).zip(ids) {
            if let Some(id) = id {
                all.add_id(id, index);
            }
        }
        all.find_duplicates(ids.len() as u64)
    }

    #[test]
    fn duplicates_of_explicit_and_default_ids_are_found() {
        assert_eq!(
            duplicates_of(&[Some("a"), Some("b"), Some("a"), Some("b"), Some("a")]),
            [(0, 2), (1, 3), (0, 4)]
        );
        assert_eq!(duplicates_of(&[Some("2"), None, None, Some("1")]), [(0, 2), (1, 3)]);
        assert_eq!(duplicates_of(&[Some("1"), Some("0")]), [], "both have their own");
        assert_eq!(duplicates_of(&[Some("0"), Some("01"), None, Some("9")]), []);
        assert_eq!(duplicates_of(&[None, None]), []);
    }
}
