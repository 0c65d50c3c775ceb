//! The number of prompts per request of an endpoint: pure but for instants it is given.
//!
//! Owns `--batch-size auto`. A batch saves the server's front end about a millisecond per prompt, and holds finished
//! prompts back until its last is done: it pays where answers are short, that is where an endpoint answers hundreds per
//! second. How batches are filled is in `queue`.

use std::time::{Duration, Instant};

use crate::engine::SizeMode;

/// The batch size of one endpoint, from an exponentially weighted moving average (EWMA) of its answer rate.
#[derive(Debug)]
pub(crate) struct BatchSizer {
    mode: SizeMode,
    auto_size: usize,
    /// Prompts answered per second.
    answer_rate: f64,
    interval_start: Option<Instant>,
    interval_answers: usize,
}

/// Prompts per second above which batching is switched on, and below which it is switched off; between them is
/// hysteresis. A front end takes some 400 single requests per second, and where lengths differ much a batch of 8 cost
/// 5 % of the throughput.
const BATCHING_ON_RATE: f64 = 200.0;
const BATCHING_OFF_RATE: f64 = 140.0;
/// Prompts per second of the rank above which the client's own CPU time counts, however many endpoints share them.
const RANK_BATCHING_RATE: f64 = 6000.0;
/// Requests per second that are cheap for both sides.
const TARGET_REQUEST_RATE: f64 = 16.0;
const MIN_AUTO_BATCH: usize = 8;
const MAX_AUTO_BATCH: usize = 64;
/// The shortest interval in which the answer rate is measured.
const RATE_INTERVAL: Duration = Duration::from_millis(250);

impl BatchSizer {
    pub(crate) fn new(mode: SizeMode) -> Self {
        Self { mode, auto_size: 1, answer_rate: 0.0, interval_start: None, interval_answers: 0 }
    }

    /// Records the answers of a request; `endpoints` is the number of endpoints that share the rank's work.
    pub(crate) fn record_answers(&mut self, prompts: usize, endpoints: usize, now: Instant) {
        self.interval_answers += prompts;
        let start = *self.interval_start.get_or_insert(now);
        let elapsed = now - start;
        if elapsed < RATE_INTERVAL {
            return;
        }
        let rate = self.interval_answers as f64 / elapsed.as_secs_f64();
        self.answer_rate =
            if self.answer_rate == 0.0 { rate } else { (self.answer_rate + rate) / 2.0 };
        (self.interval_start, self.interval_answers) = (Some(now), 0);
        let scale = (RANK_BATCHING_RATE / endpoints.max(1) as f64 / BATCHING_ON_RATE).min(1.0);
        if self.answer_rate > BATCHING_ON_RATE * scale {
            self.auto_size = batch_size_for(self.answer_rate).max(MIN_AUTO_BATCH);
        } else if self.answer_rate < BATCHING_OFF_RATE * scale {
            self.auto_size = 1;
        }
    }

    /// Returns the recent prompts answered per second.
    pub(crate) fn answer_rate(&self) -> f64 {
        self.answer_rate
    }

    /// Returns the prompts per request, at most, in a window of this many sequences. At least four batches fit the
    /// window, so that one can end while others run.
    pub(crate) fn max_batch_size(&self, window: usize) -> usize {
        match self.mode {
            SizeMode::Fixed(size) => size.min(window),
            SizeMode::Auto => {
                let quarter = window / 4;
                if quarter < MIN_AUTO_BATCH / 2 { 1 } else { self.auto_size.min(quarter) }
            }
        }
    }

    /// Returns [`Self::max_batch_size`] in a window of any size: as many prompts should wait at the server.
    pub(crate) fn unclamped_batch_size(&self) -> usize {
        match self.mode {
            SizeMode::Fixed(size) => size,
            SizeMode::Auto => self.auto_size,
        }
    }
}

/// Returns a power of two: a size that changed with every measurement would make no two runs alike.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count up to 64")]
fn batch_size_for(rate: f64) -> usize {
    let prompts = rate / TARGET_REQUEST_RATE;
    let prompts = prompts.clamp(MIN_AUTO_BATCH as f64, MAX_AUTO_BATCH as f64) as usize;
    1 << prompts.ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizer_at_rate(rate: usize, endpoints: usize) -> BatchSizer {
        sizer_after(rate, endpoints).0
    }

    fn sizer_after(rate: usize, endpoints: usize) -> (BatchSizer, Instant) {
        let mut sizer = BatchSizer::new(SizeMode::Auto);
        let mut now = Instant::now();
        for _ in 0..8 {
            now += Duration::from_secs(1);
            sizer.record_answers(rate, endpoints, now);
        }
        (sizer, now)
    }

    #[test]
    fn long_answers_go_singly_and_short_ones_in_batches() {
        assert_eq!(sizer_at_rate(20, 4).max_batch_size(512), 1);
        assert_eq!(sizer_at_rate(300, 4).max_batch_size(512), 16);
        assert_eq!(sizer_at_rate(9000, 1).max_batch_size(512), 64);
        assert_eq!(sizer_at_rate(9000, 1).max_batch_size(40), 10, "four fit");
        assert_eq!(sizer_at_rate(9000, 1).max_batch_size(9), 1, "a batch of two does not pay");
        assert_eq!(sizer_at_rate(100, 200).max_batch_size(512), 8, "a rank with many endpoints");
    }

    #[test]
    fn a_given_size_is_that_size() {
        let sizer = BatchSizer::new(SizeMode::Fixed(1000));
        let sizes =
            (sizer.max_batch_size(1000), sizer.max_batch_size(64), sizer.unclamped_batch_size());
        assert_eq!(sizes, (1000, 64, 1000));
    }

    #[test]
    fn batching_has_hysteresis_between_both_rates() {
        let (mut sizer, mut now) = sizer_after(220, 1);
        let before = sizer.max_batch_size(512);
        assert!(before > 1);
        for _ in 0..4 {
            now += Duration::from_secs(1);
            sizer.record_answers(160, 1, now);
        }
        assert_eq!(sizer.max_batch_size(512), before);
    }
}
