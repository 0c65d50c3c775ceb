//! Sending: which batch goes to which endpoint, and which prompts are sent a second time.
//!
//! Owns no state: a [`Dispatcher`] acts on the scheduler's parts for one tick. Load balancing sends the next batch to
//! the endpoint whose window is used least. Which prompts a batch holds is decided in `queue`, how many an endpoint
//! takes in `endpoint_state`, when the tail's rules apply in `tail_policy`.

use std::time::{Duration, Instant};

use super::{
    hedging::hedge_candidates,
    in_flight::{InFlight, OutgoingRequest},
    payload::{BuiltPayload, build_payload},
    results::ResultBuffer,
    tail_policy::TailGuard,
};
use crate::engine::{
    EnginePolicy, SizeMode,
    endpoint_state::EndpointPool,
    queue::{Batch, EndpointCapacity, TaskQueue},
};

/// Bytes of prompts in flight per endpoint, at most: windows count prompts, whose images may have megabytes each. A
/// window of 256 images of 500 kB fits.
const MAX_BYTES_PER_ENDPOINT: usize = 128 << 20;

/// The scheduler's parts that sending concerns.
pub(crate) struct Dispatcher<'a> {
    policy: &'a EnginePolicy,
    queue: &'a mut TaskQueue,
    endpoints: &'a mut EndpointPool,
    in_flight: &'a mut InFlight,
    results: &'a mut ResultBuffer,
    tail_guard: &'a mut TailGuard,
    is_supply_exhausted: bool,
}

impl<'a> Dispatcher<'a> {
    pub(crate) fn new(
        policy: &'a EnginePolicy,
        queue: &'a mut TaskQueue,
        endpoints: &'a mut EndpointPool,
        in_flight: &'a mut InFlight,
        results: &'a mut ResultBuffer,
        tail_guard: &'a mut TailGuard,
        is_supply_exhausted: bool,
    ) -> Self {
        Self { policy, queue, endpoints, in_flight, results, tail_guard, is_supply_exhausted }
    }

    /// Sends requests while there are permits and prompts, each to the endpoint whose window is used least.
    pub(crate) fn dispatch_requests(&mut self, since_start: Duration, now: Instant) {
        if self.queue.is_empty() {
            return;
        }
        let mut open = self.endpoints.with_free_permits(now);
        let max_bytes = MAX_BYTES_PER_ENDPOINT * self.endpoints.up_count().max(1);
        // (with nothing in flight there is no outcome to wait for)
        while (self.in_flight.is_empty()
            || (self.in_flight.content_bytes() < max_bytes
                && !self.results.should_hold_requests(self.in_flight.len(), since_start)))
            && let Some(endpoint) = self.endpoints.emptiest_of(&open)
        {
            let batch = self.next_batch_for(endpoint, now);
            let is_served = batch.is_some();
            if let Some(batch) = batch {
                self.launch_request(endpoint, batch, now);
            }
            if !is_served || self.endpoints[endpoint].free_permits(now) == 0 {
                open.retain(|&other| other != endpoint);
            }
        }
    }

    fn next_batch_for(&mut self, number: usize, now: Instant) -> Option<Batch> {
        let endpoint = &self.endpoints[number];
        let mut max_batch_size = endpoint.max_batch_size();
        if self.is_supply_exhausted {
            // The prompts that the endpoint could answer, and the endpoints that could answer them.
            let waiting = self.queue.waiting_for(endpoint.models());
            let up_count = self.endpoints.up_count_for(endpoint.models()).max(1);
            if self.policy.batch_size == SizeMode::Auto {
                // The last batches are small, so that they end together.
                max_batch_size = max_batch_size.min((waiting / (4 * up_count)).max(1));
            }
            if up_count > 1
                && waiting < endpoint.window_size() * up_count
                && self.tail_guard.should_withhold_from(number, self.endpoints, waiting, now)
            {
                return None;
            }
        }
        self.queue.next_batch(EndpointCapacity {
            endpoint: number,
            free_permits: endpoint.free_permits(now),
            max_batch_size,
            renders_locally: endpoint.renders_locally(),
            is_idle: endpoint.is_idle(),
            models: *endpoint.models(),
            alternatives: *self.endpoints.served_twice(),
        })
    }

    /// Sends a batch and returns the request's id; none if its prompts went back to the queue, to be sent one by one.
    fn launch_request(&mut self, number: usize, mut batch: Batch, now: Instant) -> Option<u64> {
        let endpoint = &mut self.endpoints[number];
        let BuiltPayload { payload, uses, unrenderable } =
            build_payload(self.policy, endpoint, &mut batch);
        if let Some(unrenderable) = unrenderable {
            self.queue.requeue_first(unrenderable);
        }
        let payload = payload?;
        let round = endpoint.begin_request(batch.permit_count(), self.policy.rate_limit, now);
        self.results.count_request();
        let timeout = self.policy.request_timeout(batch.len());
        let tightened = endpoint
            .tightened_timeout(batch.len())
            .filter(|&tightened| batch.is_first_attempt() && tightened < timeout);
        batch.begin_attempt();
        let timeout = tightened.unwrap_or(timeout);
        let request = OutgoingRequest {
            endpoint: number,
            batch,
            payload,
            uses,
            url: endpoint.url(),
            timeout,
            is_timeout_tightened: tightened.is_some(),
            round,
        };
        Some(self.in_flight.launch(request, self.policy, now))
    }

    /// Sends again what seems stuck, or would be done sooner elsewhere, once nothing else is left to send.
    pub(crate) fn hedge_requests(&mut self, now: Instant) {
        if !self.is_supply_exhausted
            || now < self.in_flight.next_hedge_check()
            || self.in_flight.is_empty()
        {
            return;
        }
        self.in_flight.schedule_hedge_check(now);
        let mut idle = self.endpoints.free_by_latency(now);
        for original in self.in_flight.ids_by_age() {
            if idle.is_empty() {
                return;
            }
            let Some(request) = self.in_flight.get_request(original) else { continue };
            // Elsewhere if there is another endpoint: the endpoint may hang, and not the request.
            let model = request.batch().params().model_number;
            let is_alone = self.endpoints.healthy_count(model) < 2;
            let current = request.endpoint();
            let serves = |it: usize| self.endpoints[it].models().contains(model);
            let target = idle.iter().find(|&&it| serves(it) && (is_alone || it != current));
            let Some(&target) = target else { continue };
            let (batch, elapsed) = (request.batch(), request.elapsed(now));
            for batch in hedge_candidates(batch, current, elapsed, target, self.endpoints) {
                if batch.permit_count() > self.endpoints[target].free_permits(now) {
                    break;
                }
                let index = batch.tasks()[0].index();
                if let Some(hedge) = self.launch_request(target, batch, now) {
                    self.in_flight.record_hedge(index, original, hedge);
                }
            }
            idle.retain(|&it| self.endpoints[it].free_permits(now) > 0);
        }
    }
}
