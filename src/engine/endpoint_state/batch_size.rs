//! In lists of how many prompts an endpoint is asked: pure but for instants it is given.
//!
//! Owns `--batch-size auto`. A list saves the server's front end about a millisecond a prompt and holds finished prompts
//! until its last is done: it pays where answers are short, that is where an endpoint answers hundreds a second.

use std::time::{Duration, Instant};

use crate::engine::Size;

/// Of one endpoint.
#[derive(Debug)]
pub(crate) struct Lists {
    size: Size,
    auto: usize,
    /// Prompts answered a second.
    rate: f64,
    since: Option<Instant>,
    answered: usize,
}

/// Prompts a second above which lists pay, and below which they are given up: a front end takes some 400 single requests
/// a second, and where lengths differ much a list of 8 cost 5 % of the throughput.
const PAYS: f64 = 200.0;
const PAYS_NOT: f64 = 140.0;
/// Prompts a second and rank above which the client's own time counts, however many endpoints share them.
const RANK_PAYS: f64 = 6000.0;
/// Requests a second that cost nobody anything.
const REQUESTS: f64 = 16.0;
const LEAST: usize = 8;
const MOST: usize = 64;
/// How often the rate is looked at.
const EVERY: Duration = Duration::from_millis(250);

impl Lists {
    pub(crate) fn new(size: Size) -> Self {
        Self { size, auto: 1, rate: 0.0, since: None, answered: 0 }
    }

    /// The endpoint answered so many prompts; it is one of `endpoints`.
    pub(crate) fn answered(&mut self, prompts: usize, endpoints: usize, now: Instant) {
        self.answered += prompts;
        let since = *self.since.get_or_insert(now);
        let passed = now - since;
        if passed < EVERY {
            return;
        }
        let rate = self.answered as f64 / passed.as_secs_f64();
        self.rate = if self.rate == 0.0 { rate } else { (self.rate + rate) / 2.0 };
        (self.since, self.answered) = (Some(now), 0);
        let scale = (RANK_PAYS / endpoints.max(1) as f64 / PAYS).min(1.0);
        if self.rate > PAYS * scale {
            self.auto = lists_for(self.rate).max(LEAST);
        } else if self.rate < PAYS_NOT * scale {
            self.auto = 1;
        }
    }

    /// Prompts answered a second, as of late.
    pub(crate) fn rate(&self) -> f64 {
        self.rate
    }

    /// The longest list for a window of so many. At least four go in such a window, so that one can end while others run.
    pub(crate) fn most(&self, window: usize) -> usize {
        match self.size {
            Size::Exactly(size) => size.min(window),
            Size::Auto => {
                let fits = window / 4;
                if fits < LEAST / 2 { 1 } else { self.auto.min(fits) }
            }
        }
    }

    /// What [`Self::most`] would be in a window of any size: so much is to wait at the server.
    pub(crate) fn wish(&self) -> usize {
        match self.size {
            Size::Exactly(size) => size,
            Size::Auto => self.auto,
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count up to 64")]
fn lists_for(rate: f64) -> usize {
    let wanted = (rate / REQUESTS).clamp(LEAST as f64, MOST as f64) as usize;
    // In powers of two: a size that changes with every breath makes no two runs alike.
    1 << wanted.ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(rate: usize, endpoints: usize) -> Lists {
        after(rate, endpoints).0
    }

    fn after(rate: usize, endpoints: usize) -> (Lists, Instant) {
        let mut lists = Lists::new(Size::Auto);
        let mut now = Instant::now();
        for _ in 0..8 {
            now += Duration::from_secs(1);
            lists.answered(rate, endpoints, now);
        }
        (lists, now)
    }

    #[test]
    fn long_answers_go_alone_and_short_ones_in_lists() {
        assert_eq!(at(20, 4).most(512), 1);
        assert_eq!(at(300, 4).most(512), 16);
        assert_eq!(at(9000, 1).most(512), 64);
        assert_eq!(at(9000, 1).most(40), 10, "four fit");
        assert_eq!(at(9000, 1).most(9), 1, "lists of two are no lists");
        assert_eq!(at(100, 200).most(512), 8, "a rank with many endpoints");
    }

    #[test]
    fn a_given_size_is_that_size() {
        let lists = Lists::new(Size::Exactly(1000));
        assert_eq!((lists.most(1000), lists.most(64), lists.wish()), (1000, 64, 1000));
    }

    #[test]
    fn between_both_marks_nothing_changes() {
        let (mut lists, mut now) = after(220, 1);
        let before = lists.most(512);
        assert!(before > 1);
        for _ in 0..4 {
            now += Duration::from_secs(1);
            lists.answered(160, 1, now);
        }
        assert_eq!(lists.most(512), before);
    }
}
