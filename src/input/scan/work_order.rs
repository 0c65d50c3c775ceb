//! The order of work over the whole input (pure).
//!
//! Owns the precedence: higher priorities first; then prefix groups together, each at the position of its first row;
//! then the longest expected answers, so that the tail of the run consists of short ones; then the lower index. Rows
//! are placed by counting sort, since there may be tens of millions of them. How many rows a rank is granted at a time
//! is in `ledger/guided.rs`.

use std::cmp::Reverse;

use super::sort_keys::{SortKey, SortKeys};
use crate::domain::LengthClass;

/// Number of positions by expected length; the last one is for invalid rows.
const POSITIONS: usize = LengthClass::COUNT + 1;
/// If at most one row in this many is longer or shorter than the others, the input's own order is as good as any.
const UNEVEN_ONE_IN: usize = 1000;
/// If at most one row in this many is in a group, groups are ignored. Hash collisions alone group about two rows in a
/// thousand among ten million long ones.
const GROUPED_ONE_IN: usize = 100;

impl SortKeys {
    /// Returns the open rows among the first `rows`, in the order of work. Returns `None` if the input's own order is
    /// as good, which is read sequentially: no priorities, hardly any groups, and nearly all rows of about one length.
    /// Also returns `None` beyond 2^32 rows, whose numbers would not fit.
    ///
    /// Takes 4 bytes per open row; while it is computed, up to 5 more with many small groups, or 6 with priorities.
    #[must_use]
    pub(crate) fn work_order(&self, rows: u64, is_open: impl Fn(u64) -> bool) -> Option<Vec<u32>> {
        let rows = u32::try_from(rows.min(self.len() as u64)).ok()?;
        let open = || (0..rows).zip(self.iter_keys()).filter(|&(row, _)| is_open(u64::from(row)));
        let positions = ClassPositions::new();
        let mut counts = KeyCounts::new(self.group_count());
        open().for_each(|(_, key)| counts.count_row(key, &positions));
        let levels = self.distinct_priorities();
        let has_priorities = levels.len() > 1 && {
            let all = (0..u64::from(rows)).zip(self.iter_priorities());
            let mut priorities = all.filter(|&(row, _)| is_open(row)).map(|(_, its)| its);
            priorities.next().is_some_and(|first| priorities.any(|other| other != first))
        };
        if !has_priorities && counts.is_uniform() {
            return None;
        }
        let mut order = self.arrange_by_group(open(), counts, &positions);
        if has_priorities {
            order = self.sort_by_priority(&order, &levels);
        }
        // A sorted order is the input's own, which needs no table.
        (!order.is_sorted()).then_some(order)
    }

    /// Orders rows by groups and length classes.
    fn arrange_by_group(
        &self,
        open: impl Iterator<Item = (u32, SortKey)>,
        counts: KeyCounts,
        positions: &ClassPositions,
    ) -> Vec<u32> {
        let mut order = vec![0; counts.total];
        let mut starts = counts.bucket_offsets();
        for (row, key) in open {
            let start = match key.prefix_group {
                0 => &mut starts.ungrouped[positions.position_of(key.class)],
                group => &mut starts.groups[group as usize],
            };
            order[*start as usize] = row;
            *start += 1;
        }
        // Each group's next free position is now the end of the group.
        for (&count, &end) in counts.groups.iter().zip(&starts.groups) {
            order[(end - count) as usize..end as usize]
                .sort_unstable_by_key(|&row| (positions.position_of(self.row_class(row)), row));
        }
        order
    }

    /// Stable sort by priority, the highest first.
    fn sort_by_priority(&self, order: &[u32], levels: &[i64]) -> Vec<u32> {
        let level_of = |priority| levels.partition_point(|&its| Reverse(its) < Reverse(priority));
        // Rows are visited in random order, where a level per row is much faster than a search in the priorities. More
        // than 65,536 levels do not occur in practice.
        let known: Vec<u16> = if levels.len() <= 1 << 16 {
            self.iter_priorities().map_while(|its| u16::try_from(level_of(its)).ok()).collect()
        } else {
            Vec::new()
        };
        let level = |row: u32| match known.get(row as usize) {
            Some(&level) => usize::from(level),
            None => level_of(self.row_priority(u64::from(row))),
        };
        let mut starts = vec![0; levels.len()];
        order.iter().for_each(|&row| starts[level(row)] += 1);
        exclusive_prefix_sum(starts.iter_mut());
        let mut sorted = vec![0; order.len()];
        for &row in order {
            let start: &mut u32 = &mut starts[level(row)];
            sorted[*start as usize] = row;
            *start += 1;
        }
        sorted
    }
}

/// Position of each length class, the longest first. Classes of both kinds share a position if they stand for the same
/// length.
struct ClassPositions([usize; LengthClass::COUNT]);

impl ClassPositions {
    fn new() -> Self {
        let longer = |class: LengthClass| {
            LengthClass::all_classes()
                .filter(|other| other.typical_length() > class.typical_length())
                .count()
        };
        let mut positions = [0; LengthClass::COUNT];
        LengthClass::all_classes().for_each(|class| positions[class.class_index()] = longer(class));
        Self(positions)
    }

    fn position_of(&self, class: Option<LengthClass>) -> usize {
        class.map_or(POSITIONS - 1, |class| self.0[class.class_index()])
    }
}

/// Number of rows by class and group.
struct KeyCounts {
    total: usize,
    /// Rows without a group, by class; invalid rows come last.
    classes: [usize; POSITIONS],
    /// Rows without a group, by position.
    ungrouped: [u32; POSITIONS],
    /// Rows by group. Number 0 is no group.
    groups: Vec<u32>,
    /// Position of each group's first row.
    group_positions: Vec<u8>,
}

/// Offset in the order at which the next row of each kind goes.
struct BucketOffsets {
    ungrouped: [u32; POSITIONS],
    groups: Vec<u32>,
}

impl KeyCounts {
    fn new(groups: usize) -> Self {
        let groups = if groups == 0 { 0 } else { groups + 1 };
        Self {
            total: 0,
            classes: [0; POSITIONS],
            ungrouped: [0; POSITIONS],
            groups: vec![0; groups],
            group_positions: vec![0; groups],
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "there are 99 places")]
    fn count_row(&mut self, key: SortKey, positions: &ClassPositions) {
        self.total += 1;
        let position = positions.position_of(key.class);
        if key.prefix_group == 0 {
            self.ungrouped[position] += 1;
            self.classes[key.class.map_or(POSITIONS - 1, LengthClass::class_index)] += 1;
        } else {
            let group = key.prefix_group as usize;
            if self.groups[group] == 0 {
                self.group_positions[group] = position as u8;
            }
            self.groups[group] += 1;
        }
    }

    /// Whether there are hardly any groups and nearly all rows are of two neighbouring classes, that is within a factor
    /// of two.
    fn is_uniform(&self) -> bool {
        let of = |class: LengthClass| self.classes[class.class_index()];
        let pair = |class: LengthClass| of(class) + class.next_longer().map_or(0, of);
        let ungrouped: usize = self.classes.iter().sum();
        let asking = ungrouped - self.classes[POSITIONS - 1];
        let largest_pair = LengthClass::all_classes().map(pair).max().unwrap_or(0);
        (self.total - ungrouped) * GROUPED_ONE_IN <= self.total
            && (asking - largest_pair) * UNEVEN_ONE_IN <= asking
    }

    /// Returns the offsets. At each position groups come first, in the order of their first rows.
    fn bucket_offsets(&self) -> BucketOffsets {
        let mut group_offsets = [0; POSITIONS];
        for (&position, &count) in self.group_positions.iter().zip(&self.groups) {
            group_offsets[usize::from(position)] += count;
        }
        let mut ungrouped = self.ungrouped;
        exclusive_prefix_sum(
            group_offsets
                .iter_mut()
                .zip(&mut ungrouped)
                .flat_map(|(grouped, ungrouped)| [grouped, ungrouped]),
        );
        let next = |(&position, &count): (&u8, &u32)| {
            let start = &mut group_offsets[usize::from(position)];
            *start += count;
            *start - count
        };
        let groups = self.group_positions.iter().zip(&self.groups).map(next).collect();
        BucketOffsets { ungrouped, groups }
    }
}

/// Replaces each count by the sum of those before it.
fn exclusive_prefix_sum<'c>(counts: impl Iterator<Item = &'c mut u32>) {
    let mut start = 0;
    for count in counts {
        start += std::mem::replace(count, start);
    }
}
