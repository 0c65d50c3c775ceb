//! A mergeable latency histogram for benchmarks, with buckets one percent wide.
//!
//! The histogram of runs and reports is in `metrics/`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::Merge;

/// Number of latencies in each bucket of a logarithmic scale.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BenchLatencies(BTreeMap<u16, u64>);

/// Latency of the first bucket in seconds; shorter ones are counted in it too.
const FIRST_BUCKET_SECONDS: f64 = 1e-5;
const BUCKET_RATIO: f64 = 1.01;

impl BenchLatencies {
    /// Records a latency in seconds.
    pub fn record_latency(&mut self, seconds: f64) {
        let step = ((seconds / FIRST_BUCKET_SECONDS).max(1.0).ln() / BUCKET_RATIO.ln()).round();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let step = step.clamp(0.0, f64::from(u16::MAX)) as u16; // (what is no number is the first)
        *self.0.entry(step).or_default() += 1;
    }

    /// Returns the quantile for a share from 0 to 1 (0.99: p99) in seconds, accurate to one percent; `None` without latencies.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let all: u64 = self.0.values().sum();
        let wanted = (share.clamp(0.0, 1.0) * all as f64).ceil().max(1.0);
        let mut seen = 0;
        for (&step, &count) in &self.0 {
            seen += count;
            if seen as f64 >= wanted {
                return Some(FIRST_BUCKET_SECONDS * BUCKET_RATIO.powi(i32::from(step)));
            }
        }
        None
    }
}

impl Merge for BenchLatencies {
    fn merge(&mut self, other: Self) {
        Merge::merge(&mut self.0, other.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn latencies_of(seconds: &[f64]) -> BenchLatencies {
        let mut all = BenchLatencies::default();
        seconds.iter().for_each(|&it| all.record_latency(it));
        all
    }

    proptest! {
        #[test]
        fn a_quantile_is_accurate_to_a_percent_also_after_merging(
            one in prop::collection::vec(1e-4..1e4f64, 1..60),
            other in prop::collection::vec(1e-4..1e4f64, 0..60),
            share in 0.0..1.0f64,
        ) {
            let mut merged = latencies_of(&one);
            merged.merge(latencies_of(&other));
            let mut all = [one, other].concat();
            prop_assert_eq!(&merged, &latencies_of(&all));
            all.sort_by(f64::total_cmp);
            let place = ((share * all.len() as f64).ceil() as usize).max(1) - 1;
            let found = merged.quantile(share).expect("there are some");
            prop_assert!((found / all[place] - 1.0).abs() < 0.011, "{} for {}", found, all[place]);
        }
    }

    #[test]
    fn an_empty_histogram_has_no_quantile_and_invalid_numbers_are_accepted() {
        assert_eq!(latencies_of(&[]).quantile(0.5), None);
        assert!(latencies_of(&[f64::NAN, -1.0, 0.0, f64::INFINITY]).quantile(0.5).is_some());
    }
}
