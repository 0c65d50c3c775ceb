//! The order of work: the mapping from places to rows.
//!
//! Owns that bijection. Why the order is what it is (priorities, prefix groups) is decided in
//! `input/scan/work_order.rs`.

use std::ops::Range;

/// Range of consecutive places.
pub type PlaceRange = Range<u64>;

/// Rows to work on, by place: in input order, which needs no memory per row, or in another order, which needs 4 bytes
/// per row.
#[derive(Clone, Debug)]
pub(crate) enum WorkOrder {
    /// Input order: the start of each run of rows (its place and its row), and the number of rows.
    InputOrder(Vec<(u64, u64)>, u64),
    /// Row of each place.
    Sorted(Vec<u32>),
}

impl WorkOrder {
    /// Creates the input order of these runs of rows.
    pub(crate) fn from_runs(runs: impl Iterator<Item = Range<u64>>) -> Self {
        let (mut starts, mut places) = (Vec::new(), 0);
        for run in runs.filter(|run| run.start < run.end) {
            starts.push((places, run.start));
            places += run.end - run.start;
        }
        Self::InputOrder(starts, places)
    }

    /// Splits the order into this many, each with the rows of one group in the same order.
    #[must_use]
    pub(crate) fn split_into(
        self,
        groups: usize,
        group_of: impl Fn(u64) -> usize + Copy,
    ) -> Vec<Self> {
        if self.iter_rows().all(|row| u32::try_from(row).is_ok()) {
            let mut split = vec![Vec::new(); groups];
            for row in self.iter_rows() {
                if let (Some(group), Ok(row)) = (split.get_mut(group_of(row)), u32::try_from(row)) {
                    group.push(row);
                }
            }
            return split.into_iter().map(Self::Sorted).collect();
        }
        let of_group = |group| self.iter_rows().filter(move |&row| group_of(row) == group);
        (0..groups).map(|group| Self::from_runs(of_group(group).map(|row| row..row + 1))).collect()
    }

    fn iter_rows(&self) -> Box<dyn Iterator<Item = u64> + '_> {
        match self {
            Self::Sorted(rows) => Box::new(rows.iter().map(|&row| u64::from(row))),
            Self::InputOrder(starts, places) => {
                let ends = starts.iter().skip(1).map(|&(place, _)| place).chain([*places]);
                Box::new(
                    starts.iter().zip(ends).flat_map(|(&(place, row), end)| row..row + end - place),
                )
            }
        }
    }

    /// Returns the number of places.
    #[must_use]
    pub(crate) fn place_count(&self) -> u64 {
        match self {
            Self::InputOrder(_, places) => *places,
            Self::Sorted(rows) => rows.len() as u64,
        }
    }

    /// Returns the rows at these places in their order, as runs.
    #[must_use]
    pub(crate) fn rows_at(&self, span: PlaceRange) -> Vec<Range<u64>> {
        let end = span.end.min(self.place_count());
        let span = span.start.min(end)..end;
        let mut runs: Vec<Range<u64>> = Vec::new();
        match self {
            Self::InputOrder(starts, places) => {
                let mut run = starts.partition_point(|&(place, _)| place <= span.start);
                let mut at = span.start;
                while at < span.end {
                    let end = starts.get(run).map_or(*places, |&(place, _)| place).min(span.end);
                    let Some(&(place, row)) = run.checked_sub(1).and_then(|it| starts.get(it))
                    else {
                        break; // no run begins at place 0: the order is empty
                    };
                    runs.push(row + at - place..row + end - place);
                    (at, run) = (end, run + 1);
                }
            }
            Self::Sorted(rows) => {
                // Places are below the vector's length, so they fit in usize.
                for &row in &rows[span.start as usize..span.end as usize] {
                    let row = u64::from(row);
                    match runs.last_mut() {
                        Some(last) if last.end == row => last.end += 1,
                        _ => runs.push(row..row + 1),
                    }
                }
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_place_maps_to_its_row_in_both_orders(gaps in prop::collection::vec((1u64..5, 0u64..6), 0..12), from in 0u64..40, len in 0u64..40) {
            let mut runs = Vec::new();
            let mut row = 0;
            for (gap, len) in gaps {
                runs.push(row + gap..row + gap + len);
                row += gap + len;
            }
            let all: Vec<u64> = runs.iter().cloned().flatten().collect();
            let in_order = WorkOrder::from_runs(runs.into_iter());
            let sorted = WorkOrder::Sorted(all.iter().map(|&row| row as u32).collect());
            prop_assert_eq!(in_order.place_count(), all.len() as u64);
            let to = (from + len).min(all.len() as u64);
            let wanted = &all[(from.min(to)) as usize..to as usize];
            for order in [in_order.clone(), sorted.clone()] {
                for (group, part) in order.split_into(2, |row| (row % 2) as usize).iter().enumerate() {
                    let rows: Vec<u64> = part.rows_at(0..part.place_count()).into_iter().flatten().collect();
                    let of_group: Vec<u64> = all.iter().copied().filter(|row| row % 2 == group as u64).collect();
                    prop_assert_eq!(rows, of_group);
                }
            }
            for order in [in_order, sorted] {
                let rows: Vec<u64> = order.rows_at(from..from + len).into_iter().flatten().collect();
                prop_assert_eq!(&rows, wanted);
            }
        }
    }
}
