//! A mergeable histogram of whole numbers: exact below 64, then 64 buckets per power of two.
//!
//! Owns the only histogram of the program: for the answers of a run, for `bench`, and for the timeouts of requests.
//! Percentiles are accurate to 1 %. Merging is associative and commutative, so ranks can be reduced in any order. Only
//! buckets with values take memory: latencies between 1 s and 1 min, at most 400 buckets, 10 kB.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::Merge;

/// Counts of whole numbers in logarithmic buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogHistogram {
    counts: BTreeMap<u16, u64>,
    count: u64,
    sum: u64,
    min_max: Option<(u64, u64)>,
}

/// Number of values in a half-open range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct HistogramBin {
    /// Inclusive lower bound.
    pub from: u64,
    /// Exclusive upper bound.
    pub to: u64,
    /// Number of values in the range.
    pub count: u64,
}

/// Binary logarithm of the number of buckets per power of two.
const SUB_BUCKET_BITS: u32 = 6;
const SUB_BUCKETS: u64 = 1 << SUB_BUCKET_BITS;

impl LogHistogram {
    pub(crate) fn record(&mut self, number: u64) {
        *self.counts.entry(bucket_index(number)).or_default() += 1;
        self.count += 1;
        self.sum = self.sum.saturating_add(number);
        self.extend_range(number, number);
    }

    fn extend_range(&mut self, least: u64, greatest: u64) {
        let (low, high) = self.min_max.unwrap_or((least, greatest));
        self.min_max = Some((low.min(least), high.max(greatest)));
    }

    /// Returns the number of values.
    #[must_use]
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Returns the sum of all values, exact.
    #[must_use]
    pub(crate) fn sum(&self) -> u64 {
        self.sum
    }

    /// Returns the smallest and the largest value, `None` if there are none.
    #[must_use]
    pub(crate) fn min_max(&self) -> Option<(u64, u64)> {
        self.min_max
    }

    /// Returns the mean, exact; `None` if there are no values.
    #[must_use]
    pub(crate) fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum as f64 / self.count as f64)
    }

    /// Returns the percentile for a share from 0 to 1, to about 1 %; `None` if there are no values.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a count"
    )]
    pub(crate) fn value_at_quantile(&self, share: f64) -> Option<u64> {
        let (low, high) = self.min_max?;
        let wanted = ((share * self.count as f64).ceil() as u64).clamp(1, self.count);
        let mut before = 0;
        let found = self.counts.iter().find(|(_, count)| {
            before += **count;
            before >= wanted
        });
        found.map(|(&bucket, _)| {
            (bucket_start(bucket).midpoint(bucket_start(bucket + 1) - 1)).clamp(low, high)
        })
    }

    /// Returns at most `most` adjacent bins that cover all values, each made of a whole number of buckets.
    #[must_use]
    pub(crate) fn to_bins(&self, most: usize) -> Vec<HistogramBin> {
        let outer = self.counts.first_key_value().zip(self.counts.last_key_value());
        let Some(((&first, _), (&last, _))) = outer else { return Vec::new() };
        let most = most.max(1);
        // Doubling keeps bins at halves, quarters … of an octave, so that they begin at round numbers.
        let mut width = 1;
        while usize::from(last / width - first / width) + 1 > most {
            width *= 2;
        }
        let mut bins: Vec<HistogramBin> = (first / width..=last / width)
            .map(|it| HistogramBin {
                from: bucket_start(it * width),
                to: bucket_start((it + 1) * width),
                count: 0,
            })
            .collect();
        for (bucket, count) in &self.counts {
            bins[usize::from(bucket / width - first / width)].count += count;
        }
        bins
    }
}

fn bucket_index(number: u64) -> u16 {
    if number < SUB_BUCKETS {
        return number as u16;
    }
    // The leading bits below the highest one choose the bucket within its power of two.
    let octave = number.ilog2() - SUB_BUCKET_BITS;
    let step = (number >> octave) & (SUB_BUCKETS - 1);
    (u64::from(octave + 1) * SUB_BUCKETS + step) as u16
}

/// Returns the smallest number of a bucket; beyond the last bucket, the greatest number.
fn bucket_start(bucket: u16) -> u64 {
    let (octave, step) = (u64::from(bucket) / SUB_BUCKETS, u64::from(bucket) % SUB_BUCKETS);
    if octave == 0 {
        step
    } else {
        let width = 1_u64.checked_shl((octave - 1) as u32);
        width.and_then(|width| width.checked_mul(SUB_BUCKETS + step)).unwrap_or(u64::MAX)
    }
}

impl Merge for LogHistogram {
    fn merge(&mut self, other: Self) {
        Merge::merge(&mut self.counts, other.counts);
        self.count += other.count;
        self.sum = self.sum.saturating_add(other.sum);
        other.min_max.into_iter().for_each(|(least, greatest)| self.extend_range(least, greatest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn histogram_of(numbers: &[u64]) -> LogHistogram {
        let mut histogram = LogHistogram::default();
        numbers.iter().for_each(|&it| histogram.record(it));
        histogram
    }

    proptest! {
        #[test]
        fn a_bucket_contains_its_numbers_and_is_narrow(number in any::<u64>(), shift in 0..64u32) {
            let number = number >> shift;
            let bucket = bucket_index(number);
            let (from, to) = (bucket_start(bucket), bucket_start(bucket + 1));
            prop_assert!(from <= number && (number < to || to == u64::MAX));
            prop_assert!((to - from - 1) * 64 <= from);
        }

        #[test]
        fn bins_are_adjacent_and_count_all_values(numbers in prop::collection::vec(0..3_000_000u64, 1..200), most in 1usize..60) {
            let bins = histogram_of(&numbers).to_bins(most);
            prop_assert!(bins.len() <= most);
            prop_assert_eq!(bins.iter().map(|it| it.count).sum::<u64>(), numbers.len() as u64);
            prop_assert!(bins.windows(2).all(|pair| pair[0].to == pair[1].from));
            for bin in &bins {
                let here = numbers.iter().filter(|it| (bin.from..bin.to).contains(it)).count();
                prop_assert_eq!(bin.count, here as u64);
            }
        }

        #[test]
        fn percentiles_are_within_one_percent_of_the_sorted_values(mut numbers in prop::collection::vec(0..3_000_000u64, 1..200), share in 0.0..1.0f64) {
            let found = histogram_of(&numbers).value_at_quantile(share).expect("there are some") as f64;
            numbers.sort_unstable();
            let rank = ((share * numbers.len() as f64).ceil() as usize).clamp(1, numbers.len());
            let exact = numbers[rank - 1] as f64;
            prop_assert!((found - exact).abs() <= exact / 100.0 + 1.0, "{} {}", found, exact);
        }
    }

    #[test]
    fn an_empty_histogram_has_no_statistics() {
        let none = LogHistogram::default();
        assert_eq!(
            (none.value_at_quantile(0.5), none.mean(), none.min_max(), none.to_bins(9).len()),
            (None, None, None, 0)
        );
    }

    #[test]
    fn the_greatest_numbers_have_statistics() {
        let histogram = histogram_of(&[u64::MAX, u64::MAX]);
        assert_eq!(histogram.value_at_quantile(0.5), Some(u64::MAX));
        let bins = histogram.to_bins(9);
        assert_eq!((bins.len(), bins[0].to, bins[0].count), (1, u64::MAX, 2));
    }
}
