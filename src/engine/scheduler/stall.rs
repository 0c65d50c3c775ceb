//! Whether a rank's servers only ever fail: pure but for instants it is given.
//!
//! Owns two limits. An engine with nothing in flight that settles nothing has stalled; so has one whose requests have
//! all failed for a while, however busily they are sent. Endpoints that cannot be reached are suspended, and judged by
//! the coordinator.

use std::time::{Duration, Instant};

/// The time since the last sign of progress.
#[derive(Debug)]
pub(crate) struct StallDetector {
    /// When a prompt was last settled, or none was left.
    last_progress: Instant,
    /// When the first request failed since the last answer.
    failing_since: Option<Instant>,
    /// The longest time that such a request took to fail.
    slowest_fault: Duration,
}

/// A request in flight that is this much older than those that failed may be answered yet.
const FAULT_SLACK: Duration = Duration::from_secs(1);

impl StallDetector {
    pub(crate) fn new(now: Instant) -> Self {
        Self { last_progress: now, failing_since: None, slowest_fault: Duration::ZERO }
    }

    /// Records that a prompt was settled, or that none is left.
    pub(crate) fn record_progress(&mut self, now: Instant) {
        self.last_progress = now;
    }

    /// Records that a server works: it answered, or it has nothing to answer.
    pub(crate) fn record_answer(&mut self) {
        (self.failing_since, self.slowest_fault) = (None, Duration::ZERO);
    }

    /// Records a request that was refused or failed after `elapsed`.
    pub(crate) fn record_fault(&mut self, elapsed: Duration, now: Instant) {
        self.failing_since.get_or_insert(now);
        self.slowest_fault = self.slowest_fault.max(elapsed);
    }

    /// Starts the times again: this process was suspended, not the servers.
    pub(crate) fn restart(&mut self, now: Instant) {
        self.last_progress = now;
        if let Some(since) = &mut self.failing_since {
            *since = now;
        }
    }

    /// Returns whether nothing has been settled for too long, although nothing is in flight. Requests in flight are
    /// ended by their own time limits.
    pub(crate) fn is_quiet(&self, limit: Duration, now: Instant) -> bool {
        now - self.last_progress >= limit
    }

    /// Returns whether requests have done nothing but fail for too long. `oldest_age` is that of the oldest request in
    /// flight.
    pub(crate) fn only_fails(
        &self,
        limit: Duration,
        oldest_age: impl FnOnce() -> Duration,
        now: Instant,
    ) -> bool {
        let Some(since) = self.failing_since else { return false };
        let usual = self.slowest_fault * 2;
        now - since >= limit.max(usual) && oldest_age() <= usual + FAULT_SLACK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_only_fail_are_given_up_and_slow_ones_are_not() {
        let (start, limit) = (Instant::now(), Duration::from_secs(8));
        let mut stall = StallDetector::new(start);
        let at = |seconds| start + Duration::from_secs(seconds);
        let none = || Duration::ZERO;
        assert!(!stall.only_fails(limit, none, at(100)), "nothing has failed");
        stall.record_fault(Duration::from_millis(2), at(100));
        assert!(!stall.only_fails(limit, none, at(107)));
        assert!(stall.only_fails(limit, none, at(108)));
        let minute = || Duration::from_secs(60);
        assert!(!stall.only_fails(limit, minute, at(160)), "the answer to another may come yet");
        stall.record_answer();
        assert!(!stall.only_fails(limit, none, at(160)));
        stall.record_fault(minute(), at(200));
        assert!(!stall.only_fails(limit, none, at(300)), "a fault takes a minute here");
        assert!(stall.only_fails(limit, minute, at(320)));
        stall.restart(at(330));
        assert!(!stall.only_fails(limit, none, at(331)) && !stall.is_quiet(limit, at(331)));
        assert!(stall.is_quiet(limit, at(338)));
    }
}
