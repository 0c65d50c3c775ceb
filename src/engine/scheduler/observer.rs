//! The timeline of this rank's endpoints, as the scheduler samples it.
//!
//! Owns how often endpoints are sampled, and whether each was up in the last sample. How samples are binned, in bounded
//! memory, is in `metrics::timeline`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    domain::PromptResult,
    engine::endpoint_state::{EndpointPool, EndpointState},
    metrics::timeline::{EndpointSnapshot, Timeline},
};

/// Short enough for charts, long enough to cost nothing: the scheduler ticks thousands of times per second.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(20);

/// The timeline so far.
#[derive(Debug)]
pub(crate) struct TimelineObserver {
    timeline: Timeline,
    started_at: Instant,
    /// The time of the last sample, in milliseconds since the start.
    last_sample_ms: u64,
    /// Whether each endpoint was up in the last sample.
    was_up: Vec<bool>,
}

impl TimelineObserver {
    pub(crate) fn new(endpoints: &EndpointPool, now: Instant) -> Self {
        let mut timeline = Timeline::default();
        for endpoint in endpoints.iter() {
            timeline.register_endpoint(endpoint.timeline_slot());
        }
        let was_up = endpoints.iter().map(EndpointState::is_up).collect();
        Self { timeline, started_at: now, last_sample_ms: 0, was_up }
    }

    fn elapsed_ms(&self, now: Instant) -> u64 {
        u64::try_from((now - self.started_at).as_millis()).unwrap_or(u64::MAX)
    }

    /// Samples all endpoints if it is time.
    pub(crate) fn sample_if_due(&mut self, endpoints: &EndpointPool, now: Instant) {
        if self.elapsed_ms(now) >= self.last_sample_ms + SAMPLE_INTERVAL.as_millis() as u64 {
            self.sample_endpoints(endpoints, now);
        }
    }

    /// Records the present state of all endpoints for the time since the last sample.
    pub(crate) fn sample_endpoints(&mut self, endpoints: &EndpointPool, now: Instant) {
        let (from, to) = (self.last_sample_ms, self.elapsed_ms(now));
        self.last_sample_ms = to;
        for (endpoint, was_up) in endpoints.iter().zip(&mut self.was_up) {
            let (slot, is_up) = (endpoint.timeline_slot(), endpoint.is_up());
            let snapshot = EndpointSnapshot {
                in_flight: endpoint.permits_taken() as u64,
                window: endpoint.window_size() as u64,
                is_up,
                is_full: endpoint.is_window_full(),
            };
            self.timeline.record_interval(slot, from, to, snapshot);
            if !is_up {
                self.timeline.away.record_downtime(&slot.name, to - from, *was_up);
            } else if !*was_up {
                self.timeline.away.mark_recovered(&slot.name);
            }
            *was_up = is_up;
        }
    }

    pub(crate) fn record_results(
        &mut self,
        results: &[PromptResult],
        endpoints: &EndpointPool,
        now: Instant,
    ) {
        let at_ms = self.elapsed_ms(now);
        for result in results {
            let Some(label) = &result.endpoint else { continue };
            let mut endpoints = endpoints.iter();
            // Pointers are compared: the labels of results are clones of the endpoints' own.
            if let Some(endpoint) = endpoints.find(|it| Arc::ptr_eq(it.label(), label)) {
                let tokens = result.outcome.completion_tokens();
                self.timeline.record_settled(endpoint.timeline_slot(), at_ms, tokens);
            }
        }
    }

    pub(crate) fn into_timeline(self) -> Timeline {
        self.timeline
    }
}
