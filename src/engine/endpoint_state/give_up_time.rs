//! The time after which something between this program and a server gives up: pure.
//!
//! Owns how a proxy's time limit is told from a server's faults: requests fail after one and the same time, and no
//! answer takes longer. What such failures mean for prompts is decided in `scheduler::retry_policy`.

use std::time::Duration;

/// The time limit of a proxy in front of an endpoint, as far as it is known.
#[derive(Debug, Default)]
pub(crate) struct GiveUpTime {
    time: Duration,
    /// Failures after about this time, less those after another.
    score: u32,
}

/// No proxy gives up sooner: quicker failures are the server's.
const MIN_GIVE_UP_TIME: Duration = Duration::from_millis(900);
/// Failures after about the same time that make it known.
const MIN_SCORE: u32 = 3;
const MAX_SCORE: u32 = 16;

impl GiveUpTime {
    /// Records a request that failed after `elapsed`, and not by a time limit of its own. Returns whether it is one of
    /// those that are given up.
    pub(crate) fn record_fault(&mut self, elapsed: Duration) -> bool {
        if elapsed < MIN_GIVE_UP_TIME {
            return false;
        }
        let is_close = self.time.abs_diff(elapsed) <= self.time / 10;
        if self.score == 0 {
            (self.time, self.score) = (elapsed, 1);
        } else if is_close {
            self.score = (self.score + 1).min(MAX_SCORE);
        } else {
            self.score -= 1;
        }
        is_close && self.score >= MIN_SCORE
    }

    /// Records an answer that took `elapsed`: no proxy gives up before.
    pub(crate) fn record_answer(&mut self, elapsed: Duration) {
        if elapsed >= self.time {
            self.score = 0;
        }
    }

    /// Returns the time, if it is known.
    pub(crate) fn time(&self) -> Option<Duration> {
        (self.score >= MIN_SCORE).then_some(self.time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn failures_after_one_time_that_no_answer_takes_are_a_proxys() {
        let mut give_up = GiveUpTime::default();
        give_up.record_answer(ms(4_000));
        assert!(!give_up.record_fault(ms(5_010)) && !give_up.record_fault(ms(4_990)));
        assert!(give_up.record_fault(ms(5_100)));
        assert!(!give_up.record_fault(ms(20)), "the server's own");
        assert!(give_up.record_fault(ms(5_000)));
        assert_eq!(give_up.time(), Some(ms(5_010)));
        give_up.record_answer(ms(6_000));
        assert_eq!(give_up.time(), None);
    }

    #[test]
    fn a_server_that_dies_with_requests_of_every_age_is_no_proxy() {
        let mut give_up = GiveUpTime::default();
        let given_up = (0..60).filter(|n| give_up.record_fault(ms(1_000 + n * 7919 % 6_000)));
        assert_eq!(given_up.count(), 0);
    }
}
