//! The sort keys of all rows: priority, expected answer length and prefix group.
//!
//! Owns the compact storage of the keys: one byte per row, 4 more for a long text, 16 where the priority changes from
//! one row to the next. The order that follows from them is computed in `scan/work_order.rs`.

use serde::{Deserialize, Serialize};

use super::prefix_groups::{PrefixGroupId, PrefixHashes};
use crate::domain::LengthClass;

/// Marks a row whose text is long enough for a prefix group.
const LONG_ROW_BIT: u8 = 0x80;
/// Code of an invalid row. No length class has this number.
const BAD_ROW_CODE: u8 = 0x7f;

const _: () = assert!(LengthClass::COUNT <= BAD_ROW_CODE as usize);

/// Sort keys of all rows.
#[derive(Debug, Default)]
pub(crate) struct SortKeys {
    rows: RowKeys,
    /// Prefix group of each long row.
    prefix_groups: Vec<PrefixGroupId>,
}

/// Sort keys while rows are still being added.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct SortKeysBuilder {
    rows: RowKeys,
    prefix_hashes: PrefixHashes,
}

/// The keys that do not depend on other rows.
#[derive(Debug, Default, Serialize, Deserialize)]
struct RowKeys {
    /// Length class of each row, with [`LONG_ROW_BIT`].
    classes: Vec<u8>,
    /// Pairs of a row and the priority that holds from there on. Before the first pair it is 0.
    priorities: Vec<(u64, i64)>,
}

/// Sort key of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SortKey {
    /// Expected answer length; `None` for an invalid row.
    pub class: Option<LengthClass>,
    /// Prefix group; 0 if the row has none.
    pub prefix_group: PrefixGroupId,
}

impl SortKeysBuilder {
    /// Adds the next row. `param` returns the parameters of its request by name.
    pub(crate) fn add_row<'p>(
        &mut self,
        text: &str,
        priority: i64,
        param: impl Fn(&str) -> Option<&'p str>,
    ) {
        let long = if self.prefix_hashes.add_text(text) { LONG_ROW_BIT } else { 0 };
        self.rows.push(LengthClass::of_prompt(text.len(), param).to_code() | long, priority);
    }

    /// Adds the next row, which is invalid.
    pub(crate) fn add_bad_row(&mut self) {
        self.rows.push(BAD_ROW_CODE, 0);
    }

    pub(crate) fn append_chunk(&mut self, other: Self) {
        self.rows.append_chunk(other.rows);
        self.prefix_hashes.append_chunk(other.prefix_hashes);
    }

    /// Finishes the keys after the last row.
    pub(crate) fn finish(mut self) -> SortKeys {
        self.rows.classes.shrink_to_fit();
        let groups = self.prefix_hashes.assign_groups(self.rows.classes.len());
        SortKeys { rows: self.rows, prefix_groups: groups }
    }
}

impl RowKeys {
    fn push(&mut self, class: u8, priority: i64) {
        self.set_priority_from(self.classes.len() as u64, priority);
        self.classes.push(class);
    }

    /// Sets the priority of all rows from `row` on.
    fn set_priority_from(&mut self, row: u64, priority: i64) {
        if self.priorities.last().map_or(0, |&(_, its)| its) != priority {
            self.priorities.push((row, priority));
        }
    }

    fn append_chunk(&mut self, other: Self) {
        let before = self.classes.len() as u64;
        // If the chunk does not begin with a priority of its own, its first rows have the default 0.
        if !other.classes.is_empty() && other.priorities.first().is_none_or(|&(row, _)| row > 0) {
            self.set_priority_from(before, 0);
        }
        for (row, priority) in other.priorities {
            self.set_priority_from(before + row, priority);
        }
        self.classes.extend(other.classes);
    }
}

impl SortKeys {
    pub(crate) fn len(&self) -> usize {
        self.rows.classes.len()
    }

    /// Returns the number of prefix groups.
    pub(crate) fn group_count(&self) -> usize {
        self.prefix_groups.iter().max().map_or(0, |&last| last as usize)
    }

    /// Returns all keys in row order.
    pub(crate) fn iter_keys(&self) -> impl Iterator<Item = SortKey> {
        let mut groups = self.prefix_groups.iter();
        self.rows.classes.iter().map(move |&code| SortKey {
            class: LengthClass::from_code(code & !LONG_ROW_BIT),
            prefix_group: if code & LONG_ROW_BIT == 0 {
                0
            } else {
                groups.next().copied().unwrap_or(0)
            },
        })
    }

    pub(crate) fn row_class(&self, row: u32) -> Option<LengthClass> {
        self.rows
            .classes
            .get(row as usize)
            .and_then(|code| LengthClass::from_code(code & !LONG_ROW_BIT))
    }

    pub(crate) fn row_priority(&self, row: u64) -> i64 {
        let runs = &self.rows.priorities;
        let after = runs.partition_point(|&(from, _)| from <= row);
        after.checked_sub(1).map_or(0, |at| runs[at].1)
    }

    /// Returns all priorities in row order.
    pub(crate) fn iter_priorities(&self) -> impl Iterator<Item = i64> {
        let mut runs = self.rows.priorities.iter().peekable();
        let mut current = 0;
        (0..self.len() as u64).map(move |row| {
            if let Some((_, priority)) = runs.next_if(|&&(from, _)| from == row) {
                current = *priority;
            }
            current
        })
    }

    /// Returns every priority that a row may have, the highest first.
    pub(crate) fn distinct_priorities(&self) -> Vec<i64> {
        let runs = self.rows.priorities.iter().map(|&(_, priority)| priority);
        let mut all: Vec<i64> = runs.chain([0]).collect();
        all.sort_unstable_by(|one, other| other.cmp(one));
        all.dedup();
        all
    }
}
