//! The order of work over the whole input: pure.
//!
//! Owns what goes before what: higher priorities; then families together, each at the place of its first row; then the
//! longest expected answers, so that the last minute is short ones; then the row that stands first. Rows are dealt into
//! their places by counting, since there may be tens of millions of them. Does not know how many a rank gets of it.

use std::cmp::Reverse;

use super::sort_keys::{SortKey, SortKeys};
use crate::domain::LengthClass;

/// Places by the expected length; the last is for rows that ask nothing.
const POSITIONS: usize = LengthClass::COUNT + 1;
/// One row in so many may be longer or shorter than the others, and the input's own order is still as good as any.
const UNEVEN_ONE_IN: usize = 1000;
/// One row in so many may be of a family. By accident, two rows in a thousand seem to be among ten million long ones.
const GROUPED_ONE_IN: usize = 100;

impl SortKeys {
    /// The open rows among the first `rows`, in the order of work. `None` where the input's own order is as good, which
    /// can be read without going to and fro: no priorities, hardly any families, and nearly all rows of about one length.
    /// Also `None` beyond 2^32 rows, whose numbers would not fit.
    ///
    /// Takes 4 bytes an open row; while it is made, up to 5 more where families are many and small, or 6 where there are
    /// priorities.
    #[must_use]
    pub fn work_order(&self, rows: u64, is_open: impl Fn(u64) -> bool) -> Option<Vec<u32>> {
        let rows = u32::try_from(rows.min(self.len() as u64)).ok()?;
        let open = || (0..rows).zip(self.each()).filter(|&(row, _)| is_open(u64::from(row)));
        let places = Places::new();
        let mut counts = KeyCounts::new(self.families());
        open().for_each(|(_, key)| counts.add(key, &places));
        let levels = self.distinct_priorities();
        let urgent = levels.len() > 1 && {
            let all = (0..u64::from(rows)).zip(self.iter_priorities());
            let mut priorities = all.filter(|&(row, _)| is_open(row)).map(|(_, its)| its);
            priorities.next().is_some_and(|first| priorities.any(|other| other != first))
        };
        if !urgent && counts.is_uniform() {
            return None;
        }
        let mut order = self.arrange_by_group(open(), counts, &places);
        if urgent {
            order = self.sort_by_priority(&order, &levels);
        }
        (!order.is_sorted()).then_some(order)
    }

    /// By families and classes.
    fn arrange_by_group(
        &self,
        open: impl Iterator<Item = (u32, SortKey)>,
        counts: KeyCounts,
        places: &Places,
    ) -> Vec<u32> {
        let mut order = vec![0; counts.all];
        let mut starts = counts.bucket_offsets();
        for (row, key) in open {
            let start = match key.prefix_group {
                0 => &mut starts.alone[places.of(key.class)],
                family => &mut starts.families[family as usize],
            };
            order[*start as usize] = row;
            *start += 1;
        }
        // Where the next would go is now where each family ends.
        for (&count, &end) in counts.families.iter().zip(&starts.families) {
            order[(end - count) as usize..end as usize]
                .sort_unstable_by_key(|&row| (places.of(self.class(row)), row));
        }
        order
    }

    /// Higher priorities first, and else as it was.
    fn sort_by_priority(&self, order: &[u32], levels: &[i64]) -> Vec<u32> {
        let level_of = |priority| levels.partition_point(|&its| Reverse(its) < Reverse(priority));
        // Looked up for rows here and there, a level by row is much faster than the priorities' own search; more levels
        // than this are nobody's priorities.
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

/// Each class's place, the longest first; classes of both kinds share one where they stand for the same length.
struct Places([usize; LengthClass::COUNT]);

impl Places {
    fn new() -> Self {
        let longer = |class: LengthClass| {
            LengthClass::all().filter(|it| it.typical_length() > class.typical_length()).count()
        };
        let mut places = [0; LengthClass::COUNT];
        LengthClass::all().for_each(|class| places[class.number()] = longer(class));
        Self(places)
    }

    fn of(&self, class: Option<LengthClass>) -> usize {
        class.map_or(POSITIONS - 1, |class| self.0[class.number()])
    }
}

/// How many rows there are of each kind.
struct KeyCounts {
    all: usize,
    /// Of no family, by class; rows that ask nothing come last.
    classes: [usize; POSITIONS],
    /// Of no family, by place.
    alone: [u32; POSITIONS],
    /// By family. Number 0 is none.
    families: Vec<u32>,
    /// The place of each family's first row.
    places: Vec<u8>,
}

/// Where the next row of each kind goes.
struct BucketOffsets {
    alone: [u32; POSITIONS],
    families: Vec<u32>,
}

impl KeyCounts {
    fn new(families: usize) -> Self {
        let families = if families == 0 { 0 } else { families + 1 };
        Self {
            all: 0,
            classes: [0; POSITIONS],
            alone: [0; POSITIONS],
            families: vec![0; families],
            places: vec![0; families],
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "there are 99 places")]
    fn add(&mut self, key: SortKey, places: &Places) {
        self.all += 1;
        let place = places.of(key.class);
        if key.prefix_group == 0 {
            self.alone[place] += 1;
            self.classes[key.class.map_or(POSITIONS - 1, LengthClass::number)] += 1;
        } else {
            let family = key.prefix_group as usize;
            if self.families[family] == 0 {
                self.places[family] = place as u8;
            }
            self.families[family] += 1;
        }
    }

    /// Are there hardly any families, and nearly all rows of two neighbouring classes? That is a factor of two.
    fn is_uniform(&self) -> bool {
        let of = |class: LengthClass| self.classes[class.number()];
        let pair = |class: LengthClass| of(class) + class.next_longer().map_or(0, of);
        let alone: usize = self.classes.iter().sum();
        let asking = alone - self.classes[POSITIONS - 1];
        let most = LengthClass::all().map(pair).max().unwrap_or(0);
        (self.all - alone) * GROUPED_ONE_IN <= self.all && (asking - most) * UNEVEN_ONE_IN <= asking
    }

    /// At each place families come first, in the order in which the input has them.
    fn bucket_offsets(&self) -> BucketOffsets {
        let mut of_families = [0; POSITIONS];
        for (&place, &count) in self.places.iter().zip(&self.families) {
            of_families[usize::from(place)] += count;
        }
        let mut alone = self.alone;
        exclusive_prefix_sum(
            of_families.iter_mut().zip(&mut alone).flat_map(|(akin, alone)| [akin, alone]),
        );
        let next = |(&place, &count): (&u8, &u32)| {
            let start = &mut of_families[usize::from(place)];
            *start += count;
            *start - count
        };
        let families = self.places.iter().zip(&self.families).map(next).collect();
        BucketOffsets { alone, families }
    }
}

/// Counts become places: each is what those before it add up to.
fn exclusive_prefix_sum<'c>(counts: impl Iterator<Item = &'c mut u32>) {
    let mut start = 0;
    for count in counts {
        start += std::mem::replace(count, start);
    }
}
