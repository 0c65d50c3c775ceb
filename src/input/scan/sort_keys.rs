//! What the order of work goes by, kept of every row: how soon it is wanted, how long its answer is expected to be, and
//! whom it begins like.
//!
//! Owns the keys, in one byte a row and a little more for what is seldom: 4 bytes for a long text, 16 where the priority
//! changes from one row to the next. Does not know the order that follows from them (that is `order`'s), nor what the
//! servers make of it.

use serde::{Deserialize, Serialize};

use super::prefix_groups::{Family, PrefixHashes};
use crate::domain::LengthClass;

/// A row's text is long enough to be of a family.
const LONG_ROW_BIT: u8 = 0x80;
/// A row that asks nothing. No class has this number.
const BAD_ROW_CODE: u8 = 0x7f;

const _: () = assert!(LengthClass::COUNT <= BAD_ROW_CODE as usize);

/// What the order of work goes by, of all rows.
#[derive(Debug, Default)]
pub struct SortKeys {
    rows: RowKeys,
    /// The family of each long row.
    prefix_groups: Vec<Family>,
}

/// The same while rows still come in.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct SortKeysBuilder {
    rows: RowKeys,
    prefix_hashes: PrefixHashes,
}

/// What needs no other row to be known.
#[derive(Debug, Default, Serialize, Deserialize)]
struct RowKeys {
    /// Each row's class, and whether it is long.
    classes: Vec<u8>,
    /// From which row on another priority holds. Before the first it is 0.
    priorities: Vec<(u64, i64)>,
}

/// One row's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SortKey {
    /// None of a row that asks nothing.
    pub class: Option<LengthClass>,
    /// 0 is none.
    pub prefix_group: Family,
}

impl SortKeysBuilder {
    /// The next row. `param` finds its request's parameters by name.
    pub(crate) fn add<'p>(
        &mut self,
        text: &str,
        priority: i64,
        param: impl Fn(&str) -> Option<&'p str>,
    ) {
        let long = if self.prefix_hashes.add(text) { LONG_ROW_BIT } else { 0 };
        self.rows.push(LengthClass::of(text.len(), param).to_code() | long, priority);
    }

    /// The next row, which asks nothing.
    pub(crate) fn add_bad_row(&mut self) {
        self.rows.push(BAD_ROW_CODE, 0);
    }

    /// Those of the rows that follow.
    pub(crate) fn append_chunk(&mut self, other: Self) {
        self.rows.append_chunk(other.rows);
        self.prefix_hashes.append_chunk(other.prefix_hashes);
    }

    /// That was the last row.
    pub(crate) fn finish(mut self) -> SortKeys {
        self.rows.classes.shrink_to_fit();
        let families = self.prefix_hashes.families(self.rows.classes.len());
        SortKeys { rows: self.rows, prefix_groups: families }
    }
}

impl RowKeys {
    fn push(&mut self, class: u8, priority: i64) {
        self.set_priority_from(self.classes.len() as u64, priority);
        self.classes.push(class);
    }

    /// From this row on another priority holds, if it is another.
    fn set_priority_from(&mut self, row: u64, priority: i64) {
        if self.priorities.last().map_or(0, |&(_, its)| its) != priority {
            self.priorities.push((row, priority));
        }
    }

    fn append_chunk(&mut self, other: Self) {
        let before = self.classes.len() as u64;
        // Where it does not begin with another, the usual one holds again.
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
    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        self.rows.classes.len()
    }

    /// How many families there are.
    pub(crate) fn families(&self) -> usize {
        self.prefix_groups.iter().max().map_or(0, |&last| last as usize)
    }

    /// All rows' keys, in their order.
    pub(crate) fn each(&self) -> impl Iterator<Item = SortKey> {
        let mut families = self.prefix_groups.iter();
        self.rows.classes.iter().map(move |&code| SortKey {
            class: LengthClass::from_code(code & !LONG_ROW_BIT),
            prefix_group: if code & LONG_ROW_BIT == 0 {
                0
            } else {
                families.next().copied().unwrap_or(0)
            },
        })
    }

    /// A row's class.
    pub(crate) fn class(&self, row: u32) -> Option<LengthClass> {
        self.rows
            .classes
            .get(row as usize)
            .and_then(|code| LengthClass::from_code(code & !LONG_ROW_BIT))
    }

    /// A row's priority.
    pub(crate) fn row_priority(&self, row: u64) -> i64 {
        let runs = &self.rows.priorities;
        let after = runs.partition_point(|&(from, _)| from <= row);
        after.checked_sub(1).map_or(0, |at| runs[at].1)
    }

    /// All rows' priorities, in their order.
    pub(crate) fn iter_priorities(&self) -> impl Iterator<Item = i64> {
        let mut runs = self.rows.priorities.iter().peekable();
        let mut holds = 0;
        (0..self.len() as u64).map(move |row| {
            if let Some((_, priority)) = runs.next_if(|&&(from, _)| from == row) {
                holds = *priority;
            }
            holds
        })
    }

    /// Every priority that a row may have, the highest first.
    pub(crate) fn distinct_priorities(&self) -> Vec<i64> {
        let runs = self.rows.priorities.iter().map(|&(_, priority)| priority);
        let mut all: Vec<i64> = runs.chain([0]).collect();
        all.sort_unstable_by(|one, other| other.cmp(one));
        all.dedup();
        all
    }
}
