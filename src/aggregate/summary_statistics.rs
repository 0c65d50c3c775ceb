//! Mergeable summary of numbers: count, minimum, maximum, mean, standard deviation and median.
//!
//! Memory: one count per distinct number, up to [`MAX_DISTINCT_NUMBERS`]. Beyond that, one count per bucket of a
//! logarithmic histogram (1,024 buckets between a power of two and the next), which keeps the median (p50) within 0.05
//! %. The choice depends on the numbers alone, never on their distribution over ranks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::exact_sum::{ExactSum, number_from_key, order_key, sample_variance};
use crate::domain::Merge;

/// Number of distinct values that are counted exactly.
const MAX_DISTINCT_NUMBERS: usize = 100_000;
/// Mantissa bits that a bucket ignores; 10 of 52 remain.
const DROPPED_BITS: u32 = 42;

/// Summary of finite numbers that are small enough for an exact sum of squares.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SummaryStatistics {
    count: u64,
    sum: ExactSum,
    sum_of_squares: ExactSum,
    /// Counts by the number's sort key, or by the upper bits of the key once bucketed.
    counts: BTreeMap<i64, u64>,
    bucketed: bool,
    capacity: usize,
    /// Sort keys of the minimum and maximum.
    min_max_keys: Option<(i64, i64)>,
}

impl Default for SummaryStatistics {
    fn default() -> Self {
        Self::with_capacity(MAX_DISTINCT_NUMBERS)
    }
}

impl SummaryStatistics {
    fn with_capacity(capacity: usize) -> Self {
        let (total, squares) = Default::default();
        Self {
            count: 0,
            sum: total,
            sum_of_squares: squares,
            counts: BTreeMap::new(),
            bucketed: false,
            capacity,
            min_max_keys: None,
        }
    }

    pub(super) fn add_number(&mut self, number: f64) {
        let place = order_key(number);
        self.count += 1;
        self.sum.add_number(number);
        self.sum_of_squares.add_product(number, number);
        self.extend_range((place, place));
        *self
            .counts
            .entry(if self.bucketed { place >> DROPPED_BITS } else { place })
            .or_default() += 1;
        if self.counts.len() > self.capacity {
            self.switch_to_buckets();
        }
    }

    fn extend_range(&mut self, (least, greatest): (i64, i64)) {
        let (low, high) = self.min_max_keys.unwrap_or((least, greatest));
        self.min_max_keys = Some((low.min(least), high.max(greatest)));
    }

    /// Replaces exact counts by buckets. A part never has more distinct numbers than the whole, so a part that switches
    /// belongs to a whole that switches too.
    fn switch_to_buckets(&mut self) {
        if std::mem::replace(&mut self.bucketed, true) {
            return;
        }
        for (place, count) in std::mem::take(&mut self.counts) {
            *self.counts.entry(place >> DROPPED_BITS).or_default() += count;
        }
    }

    fn median(&self) -> Option<f64> {
        let last = self.count.checked_sub(1)?;
        Some(f64::midpoint(self.nth_smallest(last / 2)?, self.nth_smallest(self.count / 2)?))
    }

    /// Returns the number of this rank in ascending order, from 0.
    fn nth_smallest(&self, rank: u64) -> Option<f64> {
        let mut before = 0;
        let found = self.counts.iter().find(|(_, count)| {
            before += **count;
            before > rank
        });
        let (&found, _) = found?;
        let (low, high) = self.min_max_keys?;
        let bucket_middle = |bucket: i64| (bucket << DROPPED_BITS) | (1 << (DROPPED_BITS - 1));
        Some(number_from_key(if self.bucketed {
            bucket_middle(found).clamp(low, high)
        } else {
            found
        }))
    }

    /// Returns all values as JSON; without numbers they are null, since a mean of 0 would be a claim.
    pub(super) fn to_json(&self) -> Map<String, Value> {
        let bound = |select: fn((i64, i64)) -> i64| {
            self.min_max_keys.map(|range| number_from_key(select(range)))
        };
        let some = (self.count > 0).then_some(self.count);
        let mean = some.map(|count| self.sum.to_f64() / count as f64);
        let deviation =
            some.map(|count| sample_variance(count, &self.sum, &self.sum_of_squares).sqrt());
        let mut map = Map::new();
        map.insert("count".into(), self.count.into());
        for (name, value) in [
            ("min", bound(|range| range.0)),
            ("max", bound(|range| range.1)),
            ("mean", mean),
            ("std", deviation),
            ("median", self.median()),
        ] {
            map.insert(name.into(), value.into());
        }
        map.insert("median_is_exact".into(), (!self.bucketed).into());
        map
    }
}

impl Merge for SummaryStatistics {
    fn merge(&mut self, mut other: Self) {
        self.count += other.count;
        self.sum.merge(std::mem::take(&mut other.sum));
        self.sum_of_squares.merge(std::mem::take(&mut other.sum_of_squares));
        other.min_max_keys.into_iter().for_each(|range| self.extend_range(range));
        // Both sides must have the same resolution before their counts are added.
        if self.bucketed || other.bucketed {
            self.switch_to_buckets();
            other.switch_to_buckets();
        }
        Merge::merge(&mut self.counts, other.counts);
        if self.counts.len() > self.capacity {
            self.switch_to_buckets();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn summarize_numbers(numbers: &[f64], capacity: usize) -> SummaryStatistics {
        let mut all = SummaryStatistics::with_capacity(capacity);
        numbers.iter().for_each(|number| all.add_number(*number));
        all
    }

    #[test]
    fn a_known_sample() {
        let it = summarize_numbers(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0], 100).to_json();
        assert_eq!((it["min"].as_f64(), it["max"].as_f64()), (Some(2.0), Some(9.0)));
        assert_eq!((it["mean"].as_f64(), it["median"].as_f64()), (Some(5.0), Some(4.5)));
        assert_eq!(it["std"].as_f64(), Some((32.0f64 / 7.0).sqrt()));
        let one = summarize_numbers(&[3.0], 100).to_json();
        assert_eq!((one["std"].as_f64(), one["median"].as_f64()), (Some(0.0), Some(3.0)));
    }

    #[test]
    fn no_numbers_have_no_mean() {
        let none = summarize_numbers(&[], 100).to_json();
        for name in ["min", "max", "mean", "std", "median"] {
            assert!(none[name].is_null(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_parts_in_any_order_give_the_same_as_one_pass(
            parts in prop::collection::vec(prop::collection::vec(prop_oneof![-9e9..9e9f64, -3.0..3.0f64, Just(1.0)], 0..20), 0..6),
            turn in 0usize..6, capacity in 1usize..60,
        ) {
            let whole = summarize_numbers(&parts.concat(), capacity).to_json();
            let mut turned = parts.clone();
            turned.rotate_left(turn.min(parts.len()));
            let merged = turned.iter().fold(SummaryStatistics::with_capacity(capacity), |mut all, part| {
                all.merge(summarize_numbers(part, capacity));
                all
            });
            prop_assert_eq!(merged.to_json(), whole);
        }

        #[test]
        fn bucketed_median_is_within_a_two_thousandth(mut numbers in prop::collection::vec(prop_oneof![-9e9..9e9f64, -3.0..3.0f64], 9..99)) {
            let bucketed = summarize_numbers(&numbers, 3);
            prop_assert!(bucketed.bucketed);
            numbers.sort_by(f64::total_cmp);
            for (place, number) in (0..).zip(&numbers) {
                let found = bucketed.nth_smallest(place).expect("there are so many");
                prop_assert!((found - number).abs() <= number.abs() * 0.0005, "{found} {number}");
            }
        }
    }
}
