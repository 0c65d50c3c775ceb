//! The requests in flight: what is kept of them until they end.
//!
//! Owns the HTTP client, the futures that wait for replies, the batch and the abort handle of each request, and the
//! prompts that are in flight twice. How a batch becomes a request is in `payload`; what its end means is in
//! `completion`.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt, future::AbortHandle, stream::FuturesUnordered};

use super::{
    hedging::{HedgeTracker, ReplyClaim},
    payload::{
        FeatureUses, RequestCompletion, RequestFuture, RequestPayload, RequestTarget, poll_load,
        probe_readiness, request_future,
    },
};
use crate::{
    domain::Url,
    endpoint::HttpClient,
    engine::{EnginePolicy, queue::Batch},
};

/// Everything that is in flight: requests, probes and load polls.
pub(crate) struct InFlight {
    client: HttpClient,
    futures: FuturesUnordered<RequestFuture>,
    requests: HashMap<u64, InFlightRequest>,
    last_request_id: u64,
    /// Sequences of all requests.
    sequences: usize,
    /// Memory that the prompts of all requests take. Their bodies take as much again.
    content_bytes: usize,
    hedges: HedgeTracker,
}

/// A request in flight.
pub(crate) struct InFlightRequest {
    endpoint: usize,
    batch: Batch,
    sent_at: Instant,
    /// The round of requests to the endpoint that it belongs to.
    round: u32,
    timeout: Duration,
    is_timeout_tightened: bool,
    is_canary: bool,
    uses: FeatureUses,
    abort_handle: AbortHandle,
}

/// A request that is about to be sent.
pub(crate) struct OutgoingRequest<'a> {
    pub(crate) endpoint: usize,
    pub(crate) batch: Batch,
    pub(crate) payload: RequestPayload,
    pub(crate) uses: FeatureUses,
    pub(crate) url: &'a Url,
    pub(crate) timeout: Duration,
    /// Whether the time limit is tighter than the configured one.
    pub(crate) is_timeout_tightened: bool,
    /// The round of requests to the endpoint that it belongs to.
    pub(crate) round: u32,
}

impl InFlightRequest {
    pub(crate) fn endpoint(&self) -> usize {
        self.endpoint
    }

    pub(crate) fn batch(&self) -> &Batch {
        &self.batch
    }

    pub(crate) fn into_batch(self) -> Batch {
        self.batch
    }

    /// Returns the time since the request was sent.
    pub(crate) fn elapsed(&self, now: Instant) -> Duration {
        now - self.sent_at
    }

    /// Returns the round of requests to the endpoint that the request belongs to.
    pub(crate) fn round(&self) -> u32 {
        self.round
    }

    pub(crate) fn is_canary(&self) -> bool {
        self.is_canary
    }

    /// Returns the use that the request makes of things that only some servers take.
    pub(crate) fn uses(&self) -> FeatureUses {
        self.uses
    }

    /// Returns whether the request ran into its time limit.
    pub(crate) fn timed_out(&self, now: Instant) -> bool {
        self.elapsed(now) >= self.timeout
    }

    /// Returns whether the request ran into a time limit that is tighter than the configured one.
    pub(crate) fn hit_tightened_timeout(&self, now: Instant) -> bool {
        self.is_timeout_tightened && self.timed_out(now)
    }
}

impl InFlight {
    pub(crate) fn new(client: HttpClient, now: Instant) -> Self {
        Self {
            client,
            futures: FuturesUnordered::new(),
            requests: HashMap::new(),
            last_request_id: 0,
            sequences: 0,
            content_bytes: 0,
            hedges: HedgeTracker::new(now),
        }
    }

    /// Returns whether no request is in flight; probes and load polls may be.
    pub(crate) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Returns the number of requests.
    pub(crate) fn len(&self) -> usize {
        self.requests.len()
    }

    pub(crate) fn sequences(&self) -> usize {
        self.sequences
    }

    /// Returns the memory that the prompts in flight take.
    pub(crate) fn content_bytes(&self) -> usize {
        self.content_bytes
    }

    /// Returns whether [`Self::next_completion`] has anything to wait for.
    pub(crate) fn has_futures(&self) -> bool {
        !self.futures.is_empty()
    }

    /// Waits for the next end of a request, a probe or a load poll. Cancel-safe.
    pub(crate) async fn next_completion(&mut self) -> Option<RequestCompletion> {
        self.futures.next().await
    }

    /// Returns the next completion if there is one already.
    pub(crate) fn try_next_completion(&mut self) -> Option<RequestCompletion> {
        self.futures.next().now_or_never().flatten()
    }

    /// Sends a request and returns its id.
    pub(crate) fn launch(
        &mut self,
        request: OutgoingRequest<'_>,
        policy: &EnginePolicy,
        now: Instant,
    ) -> u64 {
        let OutgoingRequest { endpoint, batch, payload, url, timeout, .. } = request;
        self.last_request_id += 1;
        let id = self.last_request_id;
        let is_canary = matches!(payload, RequestPayload::Canary { .. });
        let target = RequestTarget { client: &self.client, url, timeout };
        let (future, abort_handle) = request_future(id, payload, &batch, policy, target);
        self.sequences += batch.permit_count();
        self.content_bytes += batch.content_bytes();
        // The batch stays here: a retry or a hedge needs the prompts again.
        let in_flight = InFlightRequest {
            endpoint,
            batch,
            sent_at: now,
            round: request.round,
            timeout,
            is_timeout_tightened: request.is_timeout_tightened,
            is_canary,
            uses: request.uses,
            abort_handle,
        };
        self.requests.insert(id, in_flight);
        self.futures.push(future);
        id
    }

    pub(crate) fn launch_probe(&self, url: &Url, models: Vec<String>, endpoint: usize) {
        self.futures.push(probe_readiness(&self.client, url, models, endpoint));
    }

    pub(crate) fn launch_load_poll(&self, url: &Url, endpoint: usize) {
        self.futures.push(poll_load(&self.client, url, endpoint));
    }

    /// Removes a request that has ended.
    pub(crate) fn finish(&mut self, id: u64) -> Option<InFlightRequest> {
        let request = self.requests.remove(&id)?;
        self.sequences -= request.batch.permit_count();
        self.content_bytes -= request.batch.content_bytes();
        Some(request)
    }

    /// Returns the request if it has not ended.
    pub(crate) fn get_request(&self, id: u64) -> Option<&InFlightRequest> {
        self.requests.get(&id)
    }

    /// Returns the time since the oldest request was sent; zero if there is none.
    pub(crate) fn oldest_age(&self, now: Instant) -> Duration {
        self.requests.values().map(|request| request.elapsed(now)).max().unwrap_or_default()
    }

    /// Returns the ids of all requests, the oldest first.
    pub(crate) fn ids_by_age(&self) -> Vec<u64> {
        let mut oldest: Vec<(Instant, u64)> =
            self.requests.iter().map(|(&id, request)| (request.sent_at, id)).collect();
        oldest.sort_unstable();
        oldest.into_iter().map(|(_, id)| id).collect()
    }

    /// Returns when requests are next to be checked for hedging.
    pub(crate) fn next_hedge_check(&self) -> Instant {
        self.hedges.next_check()
    }

    pub(crate) fn schedule_hedge_check(&mut self, now: Instant) {
        self.hedges.schedule_check(now);
    }

    /// Records that request `hedge` carries a copy of a prompt of request `original`.
    pub(crate) fn record_hedge(&mut self, index: u64, original: u64, hedge: u64) {
        self.hedges.record_hedge(index, [original, hedge]);
        if let Some(request) = self.requests.get_mut(&original) {
            request.batch.mark_hedged(index);
        }
    }

    /// Forgets the hedges of a request that was cancelled.
    pub(crate) fn forget_hedges(&mut self, batch: &Batch) {
        self.hedges.forget_hedges(batch);
    }

    /// Returns whether the reply of a request decides about its prompt, and not another request's. The other request is
    /// cancelled if it is no longer needed.
    pub(crate) fn claim_reply(&mut self, request_id: u64, index: u64, is_answered: bool) -> bool {
        if self.hedges.is_empty() {
            // The common case costs no look-up per prompt.
            return true;
        }
        match self.hedges.claim_reply(request_id, index, is_answered) {
            ReplyClaim::Counts => true,
            ReplyClaim::Supersedes(other) => {
                self.cancel_if_redundant(other);
                true
            }
            ReplyClaim::Superseded => false,
        }
    }

    /// Removes the prompts of a failed request that another request has answered or will.
    pub(crate) fn drop_hedged_tasks(&mut self, request_id: u64, batch: &mut Batch) {
        if !self.hedges.is_empty() {
            batch.retain_tasks(|task| self.claim_reply(request_id, task.index(), false));
        }
    }

    pub(crate) fn is_settled_elsewhere(&self, index: u64) -> bool {
        self.hedges.is_settled_elsewhere(index)
    }

    /// Records prompts that another rank has settled, and cancels the requests that carry no other prompts.
    pub(crate) fn drop_redundant(&mut self, indexes: HashSet<u64>) {
        let concerned = self.requests.iter().filter(|(_, request)| {
            request.batch.tasks().iter().any(|task| indexes.contains(&task.index()))
        });
        let concerned: Vec<u64> = concerned.map(|(&id, _)| id).collect();
        self.hedges.add_settled_elsewhere(indexes);
        for id in concerned {
            self.cancel_if_redundant(id);
        }
    }

    /// Closes the connection of a request whose prompts are all settled: the server stops generating.
    fn cancel_if_redundant(&self, id: u64) {
        let Some(request) = self.requests.get(&id) else { return };
        if request.batch.tasks().iter().all(|task| self.hedges.is_settled(task.index())) {
            request.abort_handle.abort();
        }
    }
}
