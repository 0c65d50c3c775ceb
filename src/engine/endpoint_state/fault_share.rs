//! The share of faults among an endpoint's recent requests: pure.
//!
//! Owns when faults mean that an endpoint is dead, and not merely that some requests draw one: nearly all recent
//! requests failed, and as many sequences since the last answer as are still in flight. A burst of requests brings its faults
//! before its answers, so that faults in a row alone mean nothing. Refusals for too much load are judged in
//! `back_pressure`.

use std::time::Duration;

/// The outcomes of an endpoint's last requests.
#[derive(Debug, Default)]
pub(crate) struct FaultShare {
    /// One bit per request, set for a fault; the latest is the lowest.
    faults: u32,
    /// Requests that `faults` knows, at most 32.
    known: u32,
    /// Sequences that failed since the last answer.
    failed_since_answer: usize,
}

/// Requests that say something about an endpoint, at least.
const MIN_REQUESTS: u32 = 8;
/// A request that failed after this long weighs as much as several that failed at once: a server that hangs is not to
/// be waited for many times.
const LONG_FAULT: Duration = Duration::from_secs(20);
const LONG_FAULT_WEIGHT: u32 = 4;

impl FaultShare {
    pub(crate) fn record_answer(&mut self) {
        self.push(0, 1);
        self.failed_since_answer = 0;
    }

    /// Records a request of `sequences` that failed after `elapsed`.
    pub(crate) fn record_fault(&mut self, sequences: usize, elapsed: Duration) {
        self.push(1, if elapsed >= LONG_FAULT { LONG_FAULT_WEIGHT } else { 1 });
        self.failed_since_answer = self.failed_since_answer.saturating_add(sequences);
    }

    /// Returns the faults among the recent requests, and the number of these.
    pub(crate) fn counts(&self) -> (u32, u32) {
        (self.faults.count_ones(), self.known)
    }

    /// Returns whether the faults mean that the endpoint is dead; `in_flight` sequences have no outcome yet.
    pub(crate) fn means_dead(&self, window: usize, in_flight: usize) -> bool {
        let window = u32::try_from(window).unwrap_or(u32::MAX).clamp(MIN_REQUESTS, u32::BITS);
        let recent = window.min(self.known);
        let faults = (self.faults & (u32::MAX >> (u32::BITS - recent.max(1)))).count_ones();
        recent >= MIN_REQUESTS && faults * 8 >= recent * 7 && self.failed_since_answer >= in_flight
    }

    fn push(&mut self, bit: u32, times: u32) {
        for _ in 0..times {
            self.faults = self.faults << 1 | bit;
        }
        self.known = (self.known + times).min(u32::BITS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_millis(2);

    #[test]
    fn nothing_but_faults_means_dead_once_they_outnumber_what_is_in_flight() {
        let mut share = FaultShare::default();
        (0..100).for_each(|_| share.record_answer());
        (0..27).for_each(|_| share.record_fault(1, QUICK));
        assert!(!share.means_dead(64, 0), "27 of 32");
        (0..4).for_each(|_| share.record_fault(1, QUICK));
        assert!(!share.means_dead(64, 32), "31 failed, but 32 may be answered");
        assert!(share.means_dead(64, 31));
        share.record_answer();
        assert!(!share.means_dead(64, 31));
        assert_eq!(share.counts(), (31, 32));
    }

    #[test]
    fn every_second_request_may_fail() {
        let mut share = FaultShare::default();
        for request in 0..10_000u32 {
            // (a fixed sequence with runs of up to a dozen)
            if request.wrapping_mul(2_654_435_761) >> 31 == 0 {
                share.record_fault(1, QUICK);
            } else {
                share.record_answer();
            }
            assert!(!share.means_dead(64, 32), "after {request}");
        }
    }

    #[test]
    fn few_requests_that_hang_mean_dead() {
        let mut share = FaultShare::default();
        share.record_fault(1, LONG_FAULT);
        assert!(!share.means_dead(1, 0));
        share.record_fault(1, LONG_FAULT);
        assert!(share.means_dead(1, 0));
    }
}
