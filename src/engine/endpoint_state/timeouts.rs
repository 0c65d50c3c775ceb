//! How long a request may take: pure.
//!
//! Owns the time limits that tighten with what is seen: a request that takes four times as long as the slowest hundredth
//! of its size hangs, and nothing is gained by waiting for the rest of a long limit.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Sizes of lists that are told apart: powers of two up to 1024.
const SIZE_CLASSES: usize = 11;
/// Requests of a size before its slowest hundredth means something.
const MIN_P99_SAMPLES: u64 = 200;
/// No limit is tightened below this: a server may be busy with something else for a while.
const MIN_TIMEOUT: Duration = Duration::from_secs(30);
/// How many times the slowest hundredth.
const TIMEOUT_P99_FACTOR: u32 = 4;
/// Milliseconds in a day: what takes longer is as good as never.
const MAX_LATENCY_MS: u64 = 86_400_000;

/// What requests took so far, by size.
#[derive(Debug, Default)]
pub(crate) struct LatencyModel {
    by_size_class: [Option<SizeClassLatency>; SIZE_CLASSES],
}

/// What requests of one size took. The two figures are asked for with every request and worked out now and then.
#[derive(Debug)]
struct SizeClassLatency {
    histogram: Histogram<u32>,
    p50: Duration,
    p99: Duration,
    /// How many there were when the figures were worked out.
    computed_at_count: u64,
}

impl LatencyModel {
    /// A request of so many prompts was answered after this time.
    pub(crate) fn record_latency(&mut self, prompts: usize, took: Duration) {
        let Some(its) = self.by_size_class.get_mut(size_class(prompts)) else { return };
        if its.is_none() {
            *its = SizeClassLatency::new();
        }
        if let Some(its) = its {
            its.record_latency(took);
        }
    }

    /// The limit of a first try; none where too little was seen for one. A later try has the whole time: some answers
    /// are that long.
    pub(crate) fn tightened_timeout(&self, prompts: usize) -> Option<Duration> {
        Some(MIN_TIMEOUT.max(self.p99_latency(prompts)? * TIMEOUT_P99_FACTOR))
    }

    /// What the slowest hundredth of this size took, at least; none where too little was seen.
    pub(crate) fn p99_latency(&self, prompts: usize) -> Option<Duration> {
        let its = self.by_size_class.get(size_class(prompts))?.as_ref();
        its.filter(|it| it.histogram.len() >= MIN_P99_SAMPLES).map(|it| it.p99)
    }

    /// What the middle one of this size took.
    pub(crate) fn p50_latency(&self, prompts: usize) -> Option<Duration> {
        self.by_size_class.get(size_class(prompts))?.as_ref().map(|it| it.p50)
    }
}

impl SizeClassLatency {
    /// The bounds are constants that the library takes.
    fn new() -> Option<Self> {
        let histogram = Histogram::new_with_bounds(1, MAX_LATENCY_MS, 2).ok()?;
        Some(Self { histogram, p50: Duration::ZERO, p99: Duration::ZERO, computed_at_count: 0 })
    }

    fn record_latency(&mut self, took: Duration) {
        let millis = u64::try_from(took.as_millis()).unwrap_or(MAX_LATENCY_MS);
        self.histogram.saturating_record(millis.clamp(1, MAX_LATENCY_MS));
        let count = self.histogram.len();
        if count < 2 * self.computed_at_count.min(16)
            || count > self.computed_at_count + self.computed_at_count / 16
        {
            let at = |quantile| Duration::from_millis(self.histogram.value_at_quantile(quantile));
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
        let mut patience = LatencyModel::default();
        assert_eq!((patience.tightened_timeout(1), patience.p50_latency(1)), (None, None));
        for tenths in 0..1000 {
            patience.record_latency(1, Duration::from_millis(100 * tenths));
        }
        let limit = patience.tightened_timeout(1).expect("enough was seen").as_secs();
        assert!((370..=410).contains(&limit), "{limit}");
        assert_eq!(patience.tightened_timeout(64), None, "another size");
        (0..MIN_P99_SAMPLES).for_each(|_| patience.record_latency(64, Duration::from_millis(20)));
        assert_eq!(patience.tightened_timeout(64), Some(MIN_TIMEOUT));
        assert_eq!(patience.p50_latency(70), Some(Duration::from_millis(20)));
        patience.record_latency(usize::MAX, Duration::MAX);
    }
}
