//! Back-off between two polls. Pure but for the sleep itself.
//!
//! MPI can only be polled, and polling without sleeping costs a core. A sleep lasts an eighth of the wait so far,
//! within limits: quick answers are seen quickly, no wait becomes much longer by its sleeps, and a rank that waits
//! for hours costs next to nothing.

use std::time::Duration;

/// Sequence of sleep lengths.
#[derive(Clone, Copy, Debug)]
pub struct PollBackoff {
    min_sleep: Duration,
    max_sleep: Duration,
    waited: Duration,
    polls_per_sleep: u32,
}

impl PollBackoff {
    /// Returns the back-off during work: 50 µs to 2 ms (about 1 % of a core; answers are seen within 3 ms).
    #[must_use]
    pub fn for_active_work() -> Self {
        Self::with_limits(Duration::from_micros(50), Duration::from_millis(2))
    }

    /// Returns the back-off for waits that may be long and are not urgent: up to 20 ms (0.1 to 0.2 % of a core).
    #[must_use]
    pub fn for_long_wait() -> Self {
        Self::with_limits(Duration::from_micros(20), Duration::from_millis(20))
    }

    /// Returns the back-off during a transfer, which moves one cell per poll: many polls, then up to 100 µs. On a busy
    /// machine a sleep of any length may cost a millisecond, so one sleep per cell made a gather ten times slower.
    #[must_use]
    pub fn for_transfer() -> Self {
        Self {
            polls_per_sleep: 256,
            ..Self::with_limits(Duration::from_micros(5), Duration::from_micros(100))
        }
    }

    /// Returns a back-off that sleeps between the two limits.
    #[must_use]
    pub fn with_limits(min_sleep: Duration, max_sleep: Duration) -> Self {
        Self { min_sleep, max_sleep, waited: Duration::ZERO, polls_per_sleep: 1 }
    }

    /// Returns the number of polls between two sleeps.
    #[must_use]
    pub fn polls_per_sleep(&self) -> u32 {
        self.polls_per_sleep
    }

    /// Returns the length of the next sleep.
    pub fn next_sleep(&mut self) -> Duration {
        let sleep = (self.waited / 8).clamp(self.min_sleep, self.max_sleep);
        self.waited += sleep;
        sleep
    }

    /// Starts with short sleeps again, since something has happened.
    pub fn reset(&mut self) {
        self.waited = Duration::ZERO;
    }

    /// Sleeps for the next length. Blocks the thread.
    pub fn sleep_next(&mut self) {
        let length = self.next_sleep();
        std::thread::sleep(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeps_grow_with_the_wait_up_to_their_limit_and_start_short_after_a_reset() {
        let mut backoff =
            PollBackoff::with_limits(Duration::from_micros(50), Duration::from_millis(2));
        let mut waited = Duration::ZERO;
        for _ in 0..200 {
            let length = backoff.next_sleep();
            assert!(length >= Duration::from_micros(50) && length <= Duration::from_millis(2));
            assert!(length <= (waited / 8).max(Duration::from_micros(50)));
            waited += length;
        }
        assert_eq!(backoff.next_sleep(), Duration::from_millis(2));
        backoff.reset();
        assert_eq!(backoff.next_sleep(), Duration::from_micros(50));
    }
}
