//! The availability of one endpoint: up, suspended, on probation. Pure but for instants it is given.
//!
//! Owns liveness: faults in a row, suspensions and their growing pauses, and the probation until the first answer after
//! one. What counts as a fault is decided in the folder's `mod.rs`; probes themselves are in `endpoint::probe`.

use std::time::{Duration, Instant};

/// The availability of one endpoint, and its history.
#[derive(Debug)]
pub(crate) struct AvailabilityTracker {
    state: EndpointAvailability,
    /// Faults since the last answer.
    consecutive_faults: u32,
    /// The pause before the probe of the next suspension.
    probe_backoff: Duration,
    /// Whether it was suspended and has answered nothing since.
    on_probation: bool,
    answered_since_up: bool,
    ever_answered: bool,
    /// Whether it was ready at any time.
    ever_up: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndpointAvailability {
    Up,
    /// Gets no prompts; the next probe is due at this time.
    Suspended(Instant),
    /// Gets no prompts; a probe is under way.
    Probing,
}

/// Faults in a row after which an endpoint is suspended.
const SUSPEND_AFTER_FAULTS: u32 = 3;
pub(crate) const MIN_PROBE_BACKOFF: Duration = Duration::from_millis(500);
const MAX_PROBE_BACKOFF: Duration = Duration::from_secs(30);
/// The same for an endpoint that was never ready: it is probably starting, and a probe costs it nothing.
const MAX_START_BACKOFF: Duration = Duration::from_secs(2);

impl AvailabilityTracker {
    pub(crate) fn new(is_ready: bool, now: Instant) -> Self {
        Self {
            state: if is_ready {
                EndpointAvailability::Up
            } else {
                EndpointAvailability::Suspended(now + MIN_PROBE_BACKOFF)
            },
            consecutive_faults: 0,
            probe_backoff: MIN_PROBE_BACKOFF,
            on_probation: false,
            answered_since_up: false,
            ever_answered: false,
            ever_up: is_ready,
        }
    }

    /// Returns whether the endpoint is not suspended.
    pub(crate) fn is_up(&self) -> bool {
        self.state == EndpointAvailability::Up
    }

    /// Returns whether the endpoint was suspended and has answered nothing since.
    pub(crate) fn on_probation(&self) -> bool {
        self.on_probation
    }

    pub(crate) fn ever_answered(&self) -> bool {
        self.ever_answered
    }

    pub(crate) fn answered_since_up(&self) -> bool {
        self.answered_since_up
    }

    pub(crate) fn consecutive_faults(&self) -> u32 {
        self.consecutive_faults
    }

    pub(crate) fn record_success(&mut self) {
        self.consecutive_faults = 0;
        self.probe_backoff = MIN_PROBE_BACKOFF;
        self.answered_since_up = true;
        self.ever_answered = true;
        self.on_probation = false;
    }

    /// Counts a transient fault. Returns whether it was one too many and the endpoint is suspended: briefly if the
    /// prompts may be the cause.
    pub(crate) fn count_fault(&mut self, may_be_prompts: bool, now: Instant) -> bool {
        self.consecutive_faults += 1;
        let suspends = self.is_up() && self.consecutive_faults >= SUSPEND_AFTER_FAULTS;
        if suspends {
            if may_be_prompts {
                self.probe_backoff = MIN_PROBE_BACKOFF;
            }
            self.suspend_endpoint(now);
        }
        suspends
    }

    /// Suspends the endpoint. Returns whether it was up until now.
    pub(crate) fn mark_unreachable(&mut self, now: Instant) -> bool {
        // Requests that fail together suspend the endpoint once: every suspension doubles the pause.
        let was_up = self.is_up();
        if was_up {
            self.suspend_endpoint(now);
        }
        was_up
    }

    fn suspend_endpoint(&mut self, now: Instant) {
        self.answered_since_up = false;
        self.on_probation = true;
        self.state = EndpointAvailability::Suspended(now + self.probe_backoff);
        let limit = if self.ever_up { MAX_PROBE_BACKOFF } else { MAX_START_BACKOFF };
        self.probe_backoff = (self.probe_backoff * 2).min(limit);
    }

    /// Returns when the next probe is due; none while the endpoint is up or a probe is under way.
    pub(crate) fn next_probe(&self) -> Option<Instant> {
        match self.state {
            EndpointAvailability::Suspended(due) => Some(due),
            EndpointAvailability::Up | EndpointAvailability::Probing => None,
        }
    }

    /// Returns whether a probe is due, and counts it as under way.
    pub(crate) fn begin_due_probe(&mut self, now: Instant) -> bool {
        let is_due = self.next_probe().is_some_and(|due| due <= now);
        if is_due {
            self.state = EndpointAvailability::Probing;
        }
        is_due
    }

    pub(crate) fn finish_probe(&mut self, is_ready: bool, now: Instant) {
        if is_ready {
            // Its faults are kept: one more and it is suspended again, for twice as long.
            self.state = EndpointAvailability::Up;
            self.ever_up = true;
            self.consecutive_faults = self.consecutive_faults.min(SUSPEND_AFTER_FAULTS - 1);
        } else {
            self.suspend_endpoint(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probe_backoff_grows_to_its_limit() {
        let mut now = Instant::now();
        let mut endpoint = AvailabilityTracker::new(true, now);
        assert!(endpoint.mark_unreachable(now) && !endpoint.mark_unreachable(now), "reported once");
        for _ in 0..12 {
            now = endpoint.next_probe().expect("suspended");
            assert!(endpoint.begin_due_probe(now));
            endpoint.finish_probe(false, now);
            assert!(!endpoint.is_up());
        }
        assert_eq!(endpoint.next_probe(), Some(now + MAX_PROBE_BACKOFF));
    }

    #[test]
    fn a_server_that_is_still_starting_is_found_soon_after_it_is_ready() {
        let mut now = Instant::now();
        let mut endpoint = AvailabilityTracker::new(false, now);
        for _ in 0..12 {
            now = endpoint.next_probe().expect("suspended");
            assert!(endpoint.begin_due_probe(now));
            endpoint.finish_probe(false, now);
            assert!(endpoint.next_probe() <= Some(now + MAX_START_BACKOFF));
        }
    }
}
