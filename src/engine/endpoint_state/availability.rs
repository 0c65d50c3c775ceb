//! The availability of one endpoint: up, suspended, on probation. Pure but for instants it is given.
//!
//! Owns liveness: suspensions and their growing pauses, and the probation until the first answer after one. When faults
//! mean that an endpoint is dead is in `fault_share`, what counts as a fault in the folder's `mod.rs`; probes themselves
//! are in `endpoint::probe`.

use std::time::{Duration, Instant};

use super::fault_share::FaultShare;

/// The availability of one endpoint, and its history.
#[derive(Debug)]
pub(crate) struct AvailabilityTracker {
    state: EndpointAvailability,
    fault_share: FaultShare,
    /// The pause before the probe of the next suspension.
    probe_backoff: Duration,
    /// Whether it was suspended and has answered nothing since.
    on_probation: bool,
    answered_since_up: bool,
    ever_answered: bool,
    /// Whether it was ready at any time.
    ever_up: bool,
    /// Refusals with this status, if the endpoint has answered nothing else.
    first_refusals: Option<(u16, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndpointAvailability {
    Up,
    /// Gets no prompts; the next probe is due at this time.
    Suspended(Instant),
    /// Gets no prompts; a probe is under way.
    Probing,
}

/// A transient fault, and what is in flight beside it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CountedFault {
    pub(crate) sequences: usize,
    pub(crate) elapsed: Duration,
    /// Sequences that may be in flight.
    pub(crate) window: usize,
    /// Sequences in flight.
    pub(crate) in_flight: usize,
    /// Whether the prompts may be the cause; then a suspension is short.
    pub(crate) may_be_prompts: bool,
}

/// Equal refusals before the first answer, after which an endpoint is suspended if there are others.
const MAX_FIRST_REFUSALS: u32 = 8;
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
            fault_share: FaultShare::default(),
            probe_backoff: MIN_PROBE_BACKOFF,
            on_probation: false,
            answered_since_up: false,
            ever_answered: false,
            ever_up: is_ready,
            first_refusals: None,
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

    /// Returns the faults among the recent requests, and the number of these.
    pub(crate) fn recent_faults(&self) -> (u32, u32) {
        self.fault_share.counts()
    }

    pub(crate) fn record_success(&mut self) {
        if self.on_probation {
            self.fault_share = FaultShare::default();
        }
        self.fault_share.record_answer();
        self.probe_backoff = MIN_PROBE_BACKOFF;
        self.answered_since_up = true;
        self.ever_answered = true;
        self.on_probation = false;
    }

    /// Counts a refusal by an endpoint that has answered nothing.
    pub(crate) fn count_refusal(&mut self, status: u16) {
        let before = self.first_refusals.filter(|&(other, _)| other == status);
        self.first_refusals = Some((status, before.map_or(0, |(_, count)| count) + 1));
    }

    /// Returns whether the endpoint has answered nothing, and refused so much alike, or so soon after a suspension, that
    /// its refusals say nothing about the prompts.
    pub(crate) fn refuses_everything(&self) -> bool {
        let count = self.first_refusals.map_or(0, |(_, count)| count);
        !self.ever_answered && (self.on_probation || count >= MAX_FIRST_REFUSALS)
    }

    /// Counts a transient fault. Returns whether the endpoint is suspended for it: on probation for any, otherwise if
    /// nearly all requests fail.
    pub(crate) fn count_fault(&mut self, fault: CountedFault, now: Instant) -> bool {
        self.fault_share.record_fault(fault.sequences, fault.elapsed);
        let is_dead =
            self.on_probation || self.fault_share.means_dead(fault.window, fault.in_flight);
        let suspends = self.is_up() && is_dead;
        if suspends {
            if fault.may_be_prompts {
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
            self.state = EndpointAvailability::Up;
            self.ever_up = true;
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
