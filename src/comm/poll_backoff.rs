//! How long to sleep between two looks: pure.
//!
//! MPI can only be polled, and polling without sleep costs a core. A nap is an eighth of what was waited so far, within
//! limits: quick answers are seen quickly, no wait is made much longer by its naps, and a rank that waits for hours costs
//! next to nothing.

use std::time::Duration;

/// The lengths of successive naps.
#[derive(Clone, Copy, Debug)]
pub struct PollBackoff {
    min_sleep: Duration,
    most: Duration,
    waited: Duration,
    polls_per_sleep: u32,
}

impl PollBackoff {
    /// For a rank in the middle of work: 50 µs to 2 ms (about 1 % of a core; answers within 3 ms).
    #[must_use]
    pub fn for_active_work() -> Self {
        Self::with_limits(Duration::from_micros(50), Duration::from_millis(2))
    }

    /// For waits that may be long and need no haste: up to 20 ms (0.1 to 0.2 % of a core).
    #[must_use]
    pub fn for_long_wait() -> Self {
        Self::with_limits(Duration::from_micros(20), Duration::from_millis(20))
    }

    /// While bytes are under way, a cell at each look: many looks, then up to 100 µs. On a busy machine a nap of any length
    /// may cost a millisecond, so a nap for every cell made a gather ten times slower.
    #[must_use]
    pub fn for_transfer() -> Self {
        Self {
            polls_per_sleep: 256,
            ..Self::with_limits(Duration::from_micros(5), Duration::from_micros(100))
        }
    }

    /// From `least` to `most`.
    #[must_use]
    pub fn with_limits(least: Duration, most: Duration) -> Self {
        Self { min_sleep: least, most, waited: Duration::ZERO, polls_per_sleep: 1 }
    }

    /// How often to look between two naps.
    #[must_use]
    pub fn polls_per_sleep(&self) -> u32 {
        self.polls_per_sleep
    }

    /// The next nap.
    pub fn length(&mut self) -> Duration {
        let nap = (self.waited / 8).clamp(self.min_sleep, self.most);
        self.waited += nap;
        nap
    }

    /// Something happened: naps are short again.
    pub fn reset(&mut self) {
        self.waited = Duration::ZERO;
    }

    /// Sleeps for the next nap. Blocks the thread.
    pub fn sleep_next(&mut self) {
        let length = self.length();
        std::thread::sleep(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn naps_grow_with_the_wait_to_their_limit_and_begin_anew_when_woken() {
        let mut nap = PollBackoff::with_limits(Duration::from_micros(50), Duration::from_millis(2));
        let mut waited = Duration::ZERO;
        for _ in 0..200 {
            let length = nap.length();
            assert!(length >= Duration::from_micros(50) && length <= Duration::from_millis(2));
            assert!(length <= (waited / 8).max(Duration::from_micros(50)));
            waited += length;
        }
        assert_eq!(nap.length(), Duration::from_millis(2));
        nap.reset();
        assert_eq!(nap.length(), Duration::from_micros(50));
    }
}
