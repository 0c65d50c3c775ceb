//! The time that requests take, and may take: pure.
//!
//! Owns latency percentiles by batch size and the time limits that tighten with them: a request that takes four times
//! the p99 of its size hangs, and waiting for the rest of a long limit gains nothing. The configured limit is in
//! `engine::policy`; when a slow request is hedged is decided in `scheduler::tail_policy`.

use std::time::Duration;

use crate::metrics::LogHistogram;

/// Batch sizes are told apart in powers of two, up to 1024.
const SIZE_CLASSES: usize = 11;
/// Requests of a size from which its p99 means something.
const MIN_P99_SAMPLES: u64 = 200;
/// The lowest tightened limit: a server may be busy with something else for a while.
const MIN_TIMEOUT: Duration = Duration::from_secs(30);
const TIMEOUT_P99_FACTOR: u32 = 4;

/// The latencies of one endpoint's requests, by size class.
#[derive(Debug, Default)]
pub(crate) struct LatencyModel {
    by_size_class: [SizeClassLatency; SIZE_CLASSES],
}

/// The latencies of one size class. The percentiles are needed for every request and recomputed only now and then.
#[derive(Debug, Default)]
struct SizeClassLatency {
    /// Whole milliseconds, at least 1.
    histogram: LogHistogram,
    p50: Duration,
    p99: Duration,
    /// The number of samples when the percentiles were computed.
    computed_at_count: u64,
}

impl LatencyModel {
    pub(crate) fn record_latency(&mut self, prompts: usize, latency: Duration) {
        self.by_size_class[size_class(prompts)].record_latency(latency);
    }

    /// Returns the time limit of a first attempt; none with too few samples. Later attempts have the configured limit:
    /// some answers do take that long.
    pub(crate) fn tightened_timeout(&self, prompts: usize) -> Option<Duration> {
        Some(MIN_TIMEOUT.max(self.p99_latency(prompts)? * TIMEOUT_P99_FACTOR))
    }

    /// Returns the 99th percentile; none with too few samples.
    pub(crate) fn p99_latency(&self, prompts: usize) -> Option<Duration> {
        let class = &self.by_size_class[size_class(prompts)];
        (class.histogram.count() >= MIN_P99_SAMPLES).then_some(class.p99)
    }

    /// Returns the median; none without samples.
    pub(crate) fn p50_latency(&self, prompts: usize) -> Option<Duration> {
        let class = &self.by_size_class[size_class(prompts)];
        (class.histogram.count() > 0).then_some(class.p50)
    }
}

impl SizeClassLatency {
    fn record_latency(&mut self, latency: Duration) {
        self.histogram.record(u64::try_from(latency.as_millis()).unwrap_or(u64::MAX).max(1));
        let (count, computed_at) = (self.histogram.count(), self.computed_at_count);
        // With every sample at first, then whenever the count has grown by a sixteenth.
        if count < 2 * computed_at.min(16) || count > computed_at + computed_at / 16 {
            let at = |share| {
                Duration::from_millis(self.histogram.value_at_quantile(share).unwrap_or_default())
            };
            (self.p50, self.p99, self.computed_at_count) = (at(0.5), at(0.99), count);
        }
    }
}

fn size_class(prompts: usize) -> usize {
    (prompts.max(1).ilog2() as usize).min(SIZE_CLASSES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_follow_the_p99_of_a_batch_size() {
        let mut latency = LatencyModel::default();
        assert_eq!((latency.tightened_timeout(1), latency.p50_latency(1)), (None, None));
        for tenths in 0..1000 {
            latency.record_latency(1, Duration::from_millis(100 * tenths));
        }
        let limit = latency.tightened_timeout(1).expect("enough samples").as_secs();
        assert!((370..=410).contains(&limit), "{limit}");
        assert_eq!(latency.tightened_timeout(64), None, "another size");
        (0..MIN_P99_SAMPLES).for_each(|_| latency.record_latency(64, Duration::from_millis(20)));
        assert_eq!(latency.tightened_timeout(64), Some(MIN_TIMEOUT));
        assert_eq!(latency.p50_latency(70), Some(Duration::from_millis(20)));
        (0..MIN_P99_SAMPLES).for_each(|_| latency.record_latency(usize::MAX, Duration::MAX));
        assert!(latency.tightened_timeout(1024) > Some(MIN_TIMEOUT));
    }
}
