//! The state of one endpoint as the scheduler sees it: up or suspended, its concurrency limit, its faults. Pure but for
//! instants it is given.
//!
//! An endpoint is suspended when it is unreachable, or when it fails one request after the other; it is probed with
//! growing pauses, and a successful probe ends the suspension. Until it has answered a request it gets one at a time,
//! on probation: one that hangs reports that it is healthy. Owns back-pressure and the rate limit of an endpoint;
//! what its faults mean for the prompts is decided in `scheduler::retry_policy`.
//!
//! | file | owns |
//! |---|---|
//! | `pool` | all endpoints of the rank |
//! | `availability` | suspension, probation and probes |
//! | `concurrency` | how many sequences may be in flight |
//! | `batch_size` | how many prompts a request carries |
//! | `timeouts` | how long requests take, and may take |
//! | `news` | the log lines about endpoints that go down or come up |
//! | `render_check` | whether conversations may be rendered here |

mod availability;
mod batch_size;
mod concurrency;
mod news;
mod pool;
mod render_check;
mod timeouts;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{debug, info, warn};

pub(crate) use pool::EndpointPool;

use super::EnginePolicy;
use crate::{
    domain::{JobModels, ModelSet, ProbeResult, ServerRoutes, Url},
    endpoint::{CanaryResult, RequestFault, ServerLoad},
    metrics::timeline::TimelineSlot,
};
use availability::AvailabilityTracker;
use batch_size::BatchSizer;
use concurrency::{AdmittedRequest, ConcurrencyController, LoadSample};
use news::{EndpointNews, NewsKind};
use render_check::RenderCheck;
use timeouts::LatencyModel;

/// The state of one endpoint.
#[derive(Debug)]
pub(crate) struct EndpointState {
    url: Url,
    /// The URL as answers carry it.
    label: Arc<str>,
    /// The endpoint's row in the job's timeline.
    timeline_slot: TimelineSlot,
    /// Sequences in flight.
    permits_taken: usize,
    availability: AvailabilityTracker,
    /// What is to be logged of it.
    news: Option<EndpointNews>,
    /// The job's models that the server serves, as of its last successful probe.
    models: ModelSet,
    /// Back-pressure replies since the last answer.
    consecutive_refusals: u32,
    /// Prompts per request that the server is known to accept; 1 for a server that takes no lists.
    batch_limit: usize,
    concurrency: ConcurrencyController,
    batch_sizer: BatchSizer,
    latency: LatencyModel,
    render_check: RenderCheck,
    /// Whether the server has not refused the JSON schema of answers.
    takes_schema: bool,
    /// Load polls in a row without a reply.
    missed_load_polls: u32,
    /// Whether the window was used up when everything was sent that could be.
    was_window_full: bool,
    /// When the load is to be polled; none while a poll is under way.
    next_load_poll: Option<Instant>,
    /// When the rate limit or back-pressure lets the next request begin.
    throttled_until: Instant,
}

/// An endpoint as the engine is given it.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) url: Url,
    /// The routes that the server has; none while it is not ready.
    pub(crate) ready_routes: Option<ServerRoutes>,
    /// The job's models that the server serves.
    pub(crate) models: ModelSet,
    /// The endpoint's row in the job's timeline.
    pub(crate) timeline_row: TimelineSlot,
}

/// An answered request, for the models of the endpoint that answered it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnsweredRequest {
    pub(crate) prompts: usize,
    pub(crate) sequences: usize,
    /// Tokens of its answers, estimated where they are not counted.
    pub(crate) tokens: u64,
    /// Sequences in flight when it was sent, its own included.
    pub(crate) concurrency_at_send: usize,
    pub(crate) elapsed: Duration,
}

/// A failed request, for the state of the endpoint that failed it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FailedRequest {
    pub(crate) prompts: usize,
    pub(crate) sequences: usize,
    /// Sequences in flight when it was sent, its own included.
    pub(crate) concurrency_at_send: usize,
    /// Whether every prompt that is left was sent before. Then the prompts may be the cause, and a suspension is short.
    pub(crate) only_retries_left: bool,
    /// Whether every prompt of the job has used up its tries in an earlier session. Then the prompts are the cause of a
    /// fault that has a status, and the endpoint is not suspended.
    pub(crate) only_exhausted_left: bool,
}

/// Load polls in a row that a server may leave unanswered.
const MAX_MISSED_LOAD_POLLS: u32 = 3;
/// The most by which timers are late; a rate limit makes up for it.
const TIMER_SLACK: Duration = Duration::from_millis(10);
const MIN_REFUSAL_BACKOFF: Duration = Duration::from_millis(25);
const MAX_REFUSAL_BACKOFF: Duration = Duration::from_secs(1);

impl EndpointState {
    fn new(endpoint: Endpoint, policy: &EnginePolicy, now: Instant) -> Self {
        let Endpoint { url, ready_routes, models, timeline_row } = endpoint;
        let availability = AvailabilityTracker::new(ready_routes.is_some(), now);
        // A server that is not known yet is taken to be a vLLM; load polls without a reply correct that.
        let has_metrics = ready_routes.is_none_or(|routes| routes.metrics);
        let concurrency = ConcurrencyController::new(
            policy.concurrency,
            policy.sequences_per_prompt(),
            has_metrics,
        );
        Self {
            label: url.to_string().into(),
            url,
            timeline_slot: timeline_row,
            permits_taken: 0,
            availability,
            news: None,
            models,
            consecutive_refusals: 0,
            batch_limit: usize::MAX,
            missed_load_polls: 0,
            was_window_full: false,
            next_load_poll: concurrency
                .uses_server_metrics()
                .then(|| now + concurrency.poll_interval()),
            concurrency,
            batch_sizer: BatchSizer::new(policy.batch_size),
            latency: LatencyModel::default(),
            render_check: RenderCheck::new(policy.renderer.is_some()),
            takes_schema: true,
            throttled_until: now,
        }
    }

    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// Returns the URL as answers carry it.
    pub(crate) fn label(&self) -> &Arc<str> {
        &self.label
    }

    pub(crate) fn timeline_slot(&self) -> &TimelineSlot {
        &self.timeline_slot
    }

    /// Returns whether the endpoint is not suspended.
    pub(crate) fn is_up(&self) -> bool {
        self.availability.is_up()
    }

    /// Returns the job's models that the server serves, as of its last successful probe.
    pub(crate) fn models(&self) -> &ModelSet {
        &self.models
    }

    /// Returns whether the endpoint is up and has answered since it was suspended, if it ever was.
    pub(crate) fn is_healthy(&self) -> bool {
        self.is_up() && !self.availability.on_probation()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.permits_taken == 0
    }

    /// Returns the sequences in flight.
    pub(crate) fn permits_taken(&self) -> usize {
        self.permits_taken
    }

    /// Returns the sequences that may be in flight.
    pub(crate) fn window_size(&self) -> usize {
        self.concurrency.window_size()
    }

    pub(crate) fn free_permits(&self, now: Instant) -> usize {
        if !self.is_up() || now < self.throttled_until {
            0
        } else if self.availability.on_probation() {
            // One at a time: a server that hangs still answers probes.
            1_usize.saturating_sub(self.permits_taken)
        } else {
            self.window_size().saturating_sub(self.permits_taken)
        }
    }

    pub(crate) fn is_window_full(&self) -> bool {
        self.permits_taken * 10 >= self.window_size() * 9
    }

    /// Returns the prompts per request, at most.
    pub(crate) fn max_batch_size(&self) -> usize {
        if self.availability.on_probation() {
            1
        } else {
            self.batch_sizer.max_batch_size(self.window_size()).min(self.batch_limit)
        }
    }

    /// Returns the recent prompts answered per second.
    pub(crate) fn answer_rate(&self) -> f64 {
        self.batch_sizer.answer_rate()
    }

    /// Returns the median latency of requests with about this number of prompts.
    pub(crate) fn p50_latency(&self, prompts: usize) -> Option<Duration> {
        self.latency.p50_latency(prompts)
    }

    /// Returns the 99th percentile of the latency of requests with about this number of prompts.
    pub(crate) fn p99_latency(&self, prompts: usize) -> Option<Duration> {
        self.latency.p99_latency(prompts)
    }

    /// Returns the time limit that observed latencies allow for a first attempt.
    pub(crate) fn tightened_timeout(&self, prompts: usize) -> Option<Duration> {
        self.latency.tightened_timeout(prompts)
    }

    pub(crate) fn ever_answered(&self) -> bool {
        self.availability.ever_answered()
    }

    pub(crate) fn answered_since_up(&self) -> bool {
        self.availability.answered_since_up()
    }

    /// Returns whether conversations may be rendered here for this endpoint.
    pub(crate) fn renders_locally(&self) -> bool {
        self.render_check == RenderCheck::Passed
    }

    /// Returns whether the server has not refused the JSON schema of answers.
    pub(crate) fn takes_schema(&self) -> bool {
        self.takes_schema
    }

    /// Records that the server refuses the JSON schema of answers: it is not sent to it any more.
    pub(crate) fn refuse_schema(&mut self, message: &str) {
        if std::mem::replace(&mut self.takes_schema, false) {
            warn!(
                event = "schema_not_taken",
                endpoint = %self.url,
                "schema not taken by {}, answers are only checked: {message}",
                self.url
            );
        }
    }

    /// Returns whether the next conversation is to be a canary, and counts it as one.
    pub(crate) fn try_take_canary(&mut self) -> bool {
        self.render_check.try_take_canary()
    }

    /// Records that a canary was not sent or was cancelled.
    pub(crate) fn cancel_canary(&mut self) {
        self.render_check.record_canary(None);
    }

    /// Takes the permits of a request that is about to be sent.
    pub(crate) fn begin_request(&mut self, permits: usize, rate_limit: Option<f64>, now: Instant) {
        self.permits_taken += permits;
        if let Some(rate) = rate_limit {
            // Late timers are made up for.
            let late = now.checked_sub(TIMER_SLACK).unwrap_or(now);
            self.throttled_until =
                self.throttled_until.max(late) + Duration::from_secs_f64(1.0 / rate);
        }
    }

    pub(crate) fn release_permits(&mut self, permits: usize) {
        self.permits_taken -= permits;
    }

    /// Returns when the next request may begin, unless that is at once.
    pub(crate) fn throttled_until(&self, now: Instant) -> Option<Instant> {
        Some(self.throttled_until).filter(|&start| self.is_up() && start > now)
    }

    /// Remembers whether the window is used up, for the requests that are answered next.
    pub(crate) fn note_window_use(&mut self) {
        self.was_window_full = self.is_window_full();
    }

    /// Records an answered request; `endpoints_up` is the number of endpoints that share the rank's work.
    pub(crate) fn record_reply(
        &mut self,
        request: AnsweredRequest,
        endpoints_up: usize,
        now: Instant,
    ) {
        let admitted = AdmittedRequest {
            concurrency_at_send: request.concurrency_at_send,
            sequences: request.sequences,
            tokens: request.tokens,
            was_window_full: self.was_window_full,
        };
        self.record_success();
        self.concurrency.record_admitted(admitted, now);
        self.batch_sizer.record_answers(request.prompts, endpoints_up, now);
        self.latency.record_latency(request.prompts, request.elapsed);
    }

    /// Records that the server works: it answered, or it refused with a reason that concerns the prompts.
    fn record_success(&mut self) {
        self.availability.record_success();
        self.consecutive_refusals = 0;
    }

    /// Records a failed request. Returns whether the endpoint was suspended for it.
    pub(crate) fn record_fault(
        &mut self,
        fault: &RequestFault,
        request: FailedRequest,
        now: Instant,
    ) -> bool {
        match fault {
            RequestFault::ListTooLong if request.prompts > 1 => {
                self.record_success();
                self.batch_limit = self.batch_limit.min((request.prompts / 2).max(1));
            }
            RequestFault::ListTooLong => {}
            RequestFault::Prompt { .. }
            | RequestFault::Request { .. }
            | RequestFault::TooManyTokens { .. } => self.record_success(),
            RequestFault::Busy { .. } => {
                self.apply_backpressure(request.concurrency_at_send, request.sequences, now);
            }
            RequestFault::Transient { status: Some(_), .. } if request.only_exhausted_left => {}
            RequestFault::Transient { message, status } => {
                let may_be_prompts = status.is_some() && request.only_retries_left;
                if self.availability.count_fault(may_be_prompts, now) {
                    let retry_in_s = self.next_probe().map_or(0.0, |due| (due - now).as_secs_f64());
                    let reason = format!(
                        "{} consecutive faults, probed again in {retry_in_s:.1} s, the last: {message}",
                        self.availability.consecutive_faults(),
                    );
                    self.news = Some(EndpointNews { kind: NewsKind::Suspended, reason });
                    return true;
                }
            }
            RequestFault::EndpointDown { message } => {
                if self.availability.mark_unreachable(now) {
                    let reason = message.clone();
                    self.news = Some(EndpointNews { kind: NewsKind::Unreachable, reason });
                    return true;
                }
            }
        }
        false
    }

    /// Lowers the limits after a reply that the server has too much to do. After the second in a row nothing is sent
    /// for a moment, and for longer each time: further requests would only be refused as well.
    fn apply_backpressure(&mut self, concurrency: usize, sequences: usize, now: Instant) {
        self.concurrency.decrease_on_refusal(concurrency, sequences);
        self.consecutive_refusals = (self.consecutive_refusals + 1).min(8);
        if self.consecutive_refusals > 1 {
            let pause = MIN_REFUSAL_BACKOFF * 2_u32.pow(self.consecutive_refusals - 2);
            self.throttled_until = self.throttled_until.max(now + pause.min(MAX_REFUSAL_BACKOFF));
        }
    }

    /// Returns when the next probe is due; none while the endpoint is up or a probe is under way.
    pub(crate) fn next_probe(&self) -> Option<Instant> {
        self.availability.next_probe()
    }

    /// Returns whether a probe is due, and counts it as under way.
    pub(crate) fn begin_due_probe(&mut self, now: Instant) -> bool {
        self.availability.begin_due_probe(now)
    }

    /// Records the result of a probe: the endpoint is up again if it serves one of the job's models.
    pub(crate) fn on_probe(&mut self, probe: &ProbeResult, models: &JobModels, now: Instant) {
        let served = probe.ready_info().map(|info| models.served_by(info)).unwrap_or_default();
        let is_ready = !served.is_empty();
        if is_ready {
            self.models = served;
        }
        self.availability.finish_probe(is_ready, now);
        if is_ready {
            self.news = Some(EndpointNews { kind: NewsKind::Ready, reason: String::new() });
        }
    }

    /// Returns when the load is to be polled, if it is.
    pub(crate) fn load_poll_due(&self) -> Option<Instant> {
        self.next_load_poll.filter(|_| self.is_up() && self.permits_taken > 0)
    }

    /// Returns whether a load poll is due, and counts it as under way.
    pub(crate) fn begin_due_load_poll(&mut self, now: Instant) -> bool {
        let is_due = self.load_poll_due().is_some_and(|due| due <= now);
        if is_due {
            self.next_load_poll = None;
        }
        is_due
    }

    /// Records the load that the server reports, or that it reported none.
    pub(crate) fn on_load(&mut self, load: Option<ServerLoad>, now: Instant) {
        if let Some(ServerLoad { running, waiting, preemptions, cache_usage }) = load {
            let sample = LoadSample { running, waiting, preemptions, cache_usage };
            let batch_size = self.batch_sizer.unclamped_batch_size();
            if self.concurrency.apply_sample(sample, self.permits_taken, batch_size, now) {
                debug!(
                    event = "concurrency_changed",
                    endpoint = %self.url,
                    limit = self.window_size(),
                    running,
                    waiting,
                    batch_size,
                    "concurrency limit changed: {} at {} ({running} running, {waiting} waiting)",
                    self.window_size(),
                    self.url,
                );
            }
        }
        self.finish_load_poll(load.is_some(), now);
    }

    /// A server that leaves several polls in a row unanswered is not polled any more.
    fn finish_load_poll(&mut self, replied: bool, now: Instant) {
        self.missed_load_polls = if replied { 0 } else { self.missed_load_polls + 1 };
        if self.missed_load_polls >= MAX_MISSED_LOAD_POLLS {
            self.concurrency.fall_back_to_throughput();
        }
        let polls = self.concurrency.uses_server_metrics();
        self.next_load_poll = polls.then(|| now + self.concurrency.poll_interval());
    }

    /// Records the comparison of a conversation that was sent both ways.
    pub(crate) fn on_canary(&mut self, canary: &CanaryResult) {
        let matched = match canary {
            CanaryResult::Match => Some(true),
            CanaryResult::Mismatch(_) => Some(false),
            CanaryResult::Inconclusive => None,
        };
        if !self.render_check.record_canary(matched) {
            return;
        }
        let endpoint = &self.url;
        match canary {
            CanaryResult::Mismatch(reason) => {
                info!(
                    event = "chat_batching_off",
                    %endpoint,
                    "chat batching off at {endpoint}: {reason}"
                );
            }
            CanaryResult::Match | CanaryResult::Inconclusive => {
                info!(
                    event = "chat_batching_on",
                    %endpoint,
                    "chat batching on at {endpoint}: template verified"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::availability::MIN_PROBE_BACKOFF;
    use super::*;
    use crate::engine::policy::test_policy;

    fn test_server(now: Instant) -> EndpointState {
        let ready_routes = Some(ServerRoutes { metrics: true, ..ServerRoutes::default() });
        let endpoint = Endpoint {
            url: Url::loopback(1),
            ready_routes,
            models: ModelSet::of_model(0),
            timeline_row: TimelineSlot::default(),
        };
        EndpointState::new(endpoint, &test_policy(), now)
    }

    #[test]
    fn consecutive_faults_suspend_and_answers_restore() {
        let now = Instant::now();
        let mut server = test_server(now);
        assert!(
            !server.availability.count_fault(false, now)
                && !server.availability.count_fault(false, now)
        );
        server.record_success();
        assert!(
            !server.availability.count_fault(false, now)
                && !server.availability.count_fault(false, now)
        );
        assert!(server.availability.count_fault(false, now));
        assert!(!server.is_up() && !server.begin_due_probe(now));
        let later = now + MIN_PROBE_BACKOFF;
        assert!(
            server.begin_due_probe(later) && !server.begin_due_probe(later),
            "one probe at a time"
        );
        server.availability.finish_probe(true, later);
        assert!(server.is_up());
        assert_eq!((server.free_permits(later), server.max_batch_size()), (1, 1), "on probation");
        assert!(server.availability.count_fault(false, later));
        assert_eq!(server.next_probe(), Some(later + MIN_PROBE_BACKOFF * 2));
        assert!(server.begin_due_probe(later + MIN_PROBE_BACKOFF * 2));
        server.availability.finish_probe(true, later);
        server.record_success();
        assert_eq!(server.free_permits(later), 8);
    }

    #[test]
    fn consecutive_refusals_throttle_the_endpoint() {
        let now = Instant::now();
        let mut server = test_server(now);
        server.apply_backpressure(8, 1, now);
        assert_eq!(server.throttled_until(now), None, "one may be chance");
        for _ in 0..20 {
            server.apply_backpressure(8, 1, now);
        }
        assert_eq!(server.throttled_until(now), Some(now + MAX_REFUSAL_BACKOFF));
        server.record_success();
        server.apply_backpressure(8, 1, now + MAX_REFUSAL_BACKOFF);
        assert_eq!(server.throttled_until(now + MAX_REFUSAL_BACKOFF), None);
    }

    #[test]
    fn a_rate_limit_spaces_requests() {
        let now = Instant::now();
        let mut server = test_server(now);
        server.begin_request(1, Some(4.0), now);
        server.begin_request(1, Some(4.0), now);
        server.release_permits(1);
        let next = server.throttled_until(now).expect("a limit");
        let after = next - now;
        assert!((400..=500).contains(&after.as_millis()), "{after:?}");
        assert_eq!((server.free_permits(now), server.throttled_until(now)), (0, Some(next)));
        assert_eq!((server.free_permits(next), server.throttled_until(next)), (7, None));
        server.begin_request(1, None, next);
        assert_eq!(server.free_permits(next), 6);
    }
}
