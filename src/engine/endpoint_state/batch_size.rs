//! In lists of how many prompts an endpoint is asked: pure but for instants it is given.
//!
//! Owns `--batch-size auto`. A list saves the server's front end about a millisecond a prompt and holds finished prompts
//! until its last is done: it pays where answers are short, that is where an endpoint answers hundreds a second.

use std::time::{Duration, Instant};

use crate::engine::SizeMode;

/// Of one endpoint.
#[derive(Debug)]
pub(crate) struct BatchSizer {
    mode: SizeMode,
    auto_size: usize,
    /// Prompts answered a second.
    answer_rate: f64,
    interval_start: Option<Instant>,
    interval_answers: usize,
}

/// Prompts a second above which lists pay, and below which they are given up: a front end takes some 400 single requests
/// a second, and where lengths differ much a list of 8 cost 5 % of the throughput.
const BATCHING_ON_RATE: f64 = 200.0;
const BATCHING_OFF_RATE: f64 = 140.0;
/// Prompts a second and rank above which the client's own time counts, however many endpoints share them.
const RANK_BATCHING_RATE: f64 = 6000.0;
/// Requests a second that cost nobody anything.
const TARGET_REQUEST_RATE: f64 = 16.0;
const MIN_AUTO_BATCH: usize = 8;
const MAX_AUTO_BATCH: usize = 64;
/// How often the rate is looked at.
const RATE_INTERVAL: Duration = Duration::from_millis(250);

impl BatchSizer {
    pub(crate) fn new(size: SizeMode) -> Self {
        Self {
            mode: size,
            auto_size: 1,
            answer_rate: 0.0,
            interval_start: None,
            interval_answers: 0,
        }
    }

    /// The endpoint answered so many prompts; it is one of `endpoints`.
    pub(crate) fn record_answers(&mut self, prompts: usize, endpoints: usize, now: Instant) {
        self.interval_answers += prompts;
        let since = *self.interval_start.get_or_insert(now);
        let passed = now - since;
        if passed < RATE_INTERVAL {
            return;
        }
        let rate = self.interval_answers as f64 / passed.as_secs_f64();
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

    /// Prompts answered a second, as of late.
    pub(crate) fn answer_rate(&self) -> f64 {
        self.answer_rate
    }

    /// The longest list for a window of so many. At least four go in such a window, so that one can end while others run.
    pub(crate) fn max_batch_size(&self, window: usize) -> usize {
        match self.mode {
            SizeMode::Fixed(size) => size.min(window),
            SizeMode::Auto => {
                let fits = window / 4;
                if fits < MIN_AUTO_BATCH / 2 { 1 } else { self.auto_size.min(fits) }
            }
        }
    }

    /// What [`Self::most`] would be in a window of any size: so much is to wait at the server.
    pub(crate) fn unclamped_batch_size(&self) -> usize {
        match self.mode {
            SizeMode::Fixed(size) => size,
            SizeMode::Auto => self.auto_size,
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count up to 64")]
fn batch_size_for(rate: f64) -> usize {
    let wanted =
        (rate / TARGET_REQUEST_RATE).clamp(MIN_AUTO_BATCH as f64, MAX_AUTO_BATCH as f64) as usize;
    // In powers of two: a size that changes with every breath makes no two runs alike.
    1 << wanted.ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizer_at_rate(rate: usize, endpoints: usize) -> BatchSizer {
        sizer_after(rate, endpoints).0
    }

    fn sizer_after(rate: usize, endpoints: usize) -> (BatchSizer, Instant) {
        let mut lists = BatchSizer::new(SizeMode::Auto);
        let mut now = Instant::now();
        for _ in 0..8 {
            now += Duration::from_secs(1);
            lists.record_answers(rate, endpoints, now);
        }
        (lists, now)
    }

    #[test]
    fn long_answers_go_singly_and_short_ones_in_batches() {
        assert_eq!(sizer_at_rate(20, 4).max_batch_size(512), 1);
        assert_eq!(sizer_at_rate(300, 4).max_batch_size(512), 16);
        assert_eq!(sizer_at_rate(9000, 1).max_batch_size(512), 64);
        assert_eq!(sizer_at_rate(9000, 1).max_batch_size(40), 10, "four fit");
        assert_eq!(sizer_at_rate(9000, 1).max_batch_size(9), 1, "lists of two are no lists");
        assert_eq!(sizer_at_rate(100, 200).max_batch_size(512), 8, "a rank with many endpoints");
    }

    #[test]
    fn a_given_size_is_that_size() {
        let lists = BatchSizer::new(SizeMode::Fixed(1000));
        assert_eq!(
            (lists.max_batch_size(1000), lists.max_batch_size(64), lists.unclamped_batch_size()),
            (1000, 64, 1000)
        );
    }

    #[test]
    fn batching_has_hysteresis_between_both_rates() {
        let (mut lists, mut now) = sizer_after(220, 1);
        let before = lists.max_batch_size(512);
        assert!(before > 1);
        for _ in 0..4 {
            now += Duration::from_secs(1);
            lists.record_answers(160, 1, now);
        }
        assert_eq!(lists.max_batch_size(512), before);
    }
}
