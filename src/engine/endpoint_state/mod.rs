//! The state of one endpoint as the scheduler sees it: up or suspended, its concurrency limit, its faults. Pure but for
//! instants it is given.
//!
//! An endpoint is suspended when it is unreachable, when nearly all requests to it fail, or when it refuses everything
//! for a while; it is probed with growing pauses, and a successful probe ends the suspension. Until it has answered a
//! request it gets one at a time, on probation: one that hangs reports that it is healthy. Faults and refusals that
//! befall some requests cost it nothing. Owns the reaction to back-pressure and the rate limit of an endpoint; what its
//! faults mean for the prompts is decided in `scheduler::retry_policy`.
//!
//! | file | owns |
//! |---|---|
//! | `pool` | all endpoints of the rank |
//! | `availability` | suspension, probation and probes |
//! | `fault_share` | when faults mean that the endpoint is dead |
//! | `back_pressure` | when refusals mean that it has too much to do |
//! | `give_up_time` | the time limit of a proxy in front of it |
//! | `concurrency` | how many sequences may be in flight |
//! | `batch_size` | how many prompts a request carries |
//! | `timeouts` | how long requests take, and may take |
//! | `news` | the log lines about endpoints that go down or come up |
//! | `render_check` | whether conversations may be rendered here |
//! | `server_features` | whether the server takes lists, several sequences, requests for token ids |

mod availability;
mod back_pressure;
mod batch_size;
mod concurrency;
mod fault_share;
mod give_up_time;
mod news;
mod pool;
mod render_check;
mod server_features;
mod timeouts;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{debug, info, warn};

pub(crate) use pool::EndpointPool;
pub(crate) use server_features::{Feature, FeatureUse, ServerFeatures};

use super::EnginePolicy;
use crate::{
    domain::{JobModels, ModelSet, ProbeResult, ServerRoutes, Url},
    endpoint::{CanaryResult, RequestFault, ServerLoad},
    metrics::timeline::TimelineSlot,
};
use availability::{AvailabilityTracker, CountedFault};
use back_pressure::{Refusal, RefusalShare};
use batch_size::BatchSizer;
use concurrency::{AdmittedRequest, ConcurrencyController, LoadSample};
use give_up_time::GiveUpTime;
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
    news: Vec<EndpointNews>,
    /// The job's models that the server serves, as of its last successful probe.
    models: ModelSet,
    refusal_share: RefusalShare,
    /// Refusals since the last answer that left nothing in flight.
    barren_refusals: u32,
    refusal_log: RefusalLog,
    give_up_time: GiveUpTime,
    is_give_up_logged: bool,
    /// When a request was last answered.
    last_answer: Option<Instant>,
    /// Whether a suspension was logged and nothing answered since.
    is_suspension_logged: bool,
    /// Prompts per request that the server is known to accept; 1 for a server that takes no lists.
    batch_limit: usize,
    concurrency: ConcurrencyController,
    batch_sizer: BatchSizer,
    latency: LatencyModel,
    render_check: RenderCheck,
    features: ServerFeatures,
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

/// The log lines about refusals: the first at once, later ones summed up.
#[derive(Debug, Default)]
struct RefusalLog {
    /// When the last line was written, and the pause before the next.
    last: Option<(Instant, Duration)>,
    /// Refusals since the last line.
    unreported: u64,
}

/// An answered request, for the models of the endpoint that answered it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnsweredRequest {
    pub(crate) prompts: usize,
    pub(crate) sequences: usize,
    /// Tokens of its answers, estimated where they are not counted.
    pub(crate) tokens: u64,
    pub(crate) elapsed: Duration,
}

/// A failed request, for the state of the endpoint that failed it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FailedRequest {
    pub(crate) prompts: usize,
    pub(crate) sequences: usize,
    /// The round of requests that it belongs to, see [`EndpointState::begin_request`].
    pub(crate) round: u32,
    pub(crate) elapsed: Duration,
    /// Whether it ran into its own time limit.
    pub(crate) timed_out: bool,
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
/// The longest pause that a server can ask for.
pub(crate) const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);
/// Refusals in a row that left nothing in flight, from which an endpoint is suspended: their pauses come to a few
/// seconds.
const SUSPEND_AFTER_BARREN: u32 = 9;
/// The pause after the first log line about refusals; it doubles.
const MIN_LOG_PAUSE: Duration = Duration::from_secs(30);

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
            features: ServerFeatures::new(url.clone()),
            url,
            timeline_slot: timeline_row,
            permits_taken: 0,
            availability,
            news: Vec::new(),
            models,
            refusal_share: RefusalShare::default(),
            barren_refusals: 0,
            refusal_log: RefusalLog::default(),
            give_up_time: GiveUpTime::default(),
            is_give_up_logged: false,
            last_answer: None,
            is_suspension_logged: false,
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
        if self.availability.on_probation() || !self.features.takes_lists() {
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

    /// Returns what the server takes of the things that only some servers take.
    pub(crate) fn features(&self) -> &ServerFeatures {
        &self.features
    }

    pub(crate) fn features_mut(&mut self) -> &mut ServerFeatures {
        &mut self.features
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

    /// Takes the permits of a request that is about to be sent. Returns the round that it belongs to.
    pub(crate) fn begin_request(
        &mut self,
        permits: usize,
        rate_limit: Option<f64>,
        now: Instant,
    ) -> u32 {
        self.permits_taken += permits;
        if let Some(rate) = rate_limit {
            // Late timers are made up for.
            let late = now.checked_sub(TIMER_SLACK).unwrap_or(now);
            self.throttled_until =
                self.throttled_until.max(late) + Duration::from_secs_f64(1.0 / rate);
        }
        self.refusal_share.record_sent(permits, self.concurrency.window_size())
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
            sequences: request.sequences,
            tokens: request.tokens,
            was_window_full: self.was_window_full,
        };
        self.record_success();
        self.is_suspension_logged = false;
        self.last_answer = Some(now);
        self.give_up_time.record_answer(request.elapsed);
        if self.concurrency.record_admitted(admitted, now) {
            self.refusal_share.begin_round(false);
        }
        self.batch_sizer.record_answers(request.prompts, endpoints_up, now);
        self.latency.record_latency(request.prompts, request.elapsed);
    }

    /// Records that the server works: it answered, or it refused with a reason that concerns the prompts.
    fn record_success(&mut self) {
        self.availability.record_success();
        self.barren_refusals = 0;
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
            // Until an endpoint has answered a request, its refusals say nothing about the prompts.
            RequestFault::Prompt { status, .. } | RequestFault::Request { status, .. }
                if !self.ever_answered() || fault.is_endpoints_own() =>
            {
                self.availability.count_refusal(*status);
            }
            RequestFault::Prompt { .. }
            | RequestFault::UnusableList { .. }
            | RequestFault::Request { .. }
            | RequestFault::TooManyTokens { .. } => self.record_success(),
            RequestFault::Busy { status, message, retry_after } => {
                self.news.extend(self.refusal_log.record_refusal(*status, message, now));
                if self.apply_backpressure(request.round, *retry_after, now) {
                    let reason =
                        format!("it refuses everything, the last: HTTP {status}: {message}");
                    self.log_suspension(&reason, now);
                    return true;
                }
            }
            RequestFault::Transient { status: Some(_), .. } if request.only_exhausted_left => {}
            RequestFault::Transient { message, .. }
                if !request.timed_out && self.is_given_up(message, request, now) => {}
            RequestFault::Transient { message, status } => {
                let counted = CountedFault {
                    sequences: request.sequences,
                    elapsed: request.elapsed,
                    window: self.window_size(),
                    in_flight: self.permits_taken,
                    may_be_prompts: status.is_some() && request.only_retries_left,
                };
                if self.availability.count_fault(counted, now) {
                    let (faults, requests) = self.availability.recent_faults();
                    let reason = format!(
                        "{faults} of its last {requests} requests failed, the last: {message}"
                    );
                    self.log_suspension(&reason, now);
                    return true;
                }
            }
            RequestFault::Denied { message, .. } | RequestFault::EndpointDown { message } => {
                if self.availability.mark_unreachable(now) {
                    let reason = message.clone();
                    self.news.push(EndpointNews { kind: NewsKind::Unreachable, reason });
                    return true;
                }
            }
        }
        false
    }

    /// Returns the time after which a proxy in front of the endpoint gives up, if there seems to be one.
    pub(crate) fn give_up_time(&self) -> Option<Duration> {
        self.give_up_time.time()
    }

    /// Returns whether the endpoint has stopped answering, and a proxy only hides that: it had work that no proxy has
    /// given up before, and has answered nothing for twice the proxy's time limit.
    pub(crate) fn has_hung(&self, only_retries_left: bool, now: Instant) -> bool {
        let (Some(time), Some(last_answer)) = (self.give_up_time(), self.last_answer) else {
            return false;
        };
        !only_retries_left && now - last_answer >= time * 2
    }

    /// Returns whether a proxy in front of the endpoint has given up the request, and the endpoint works. Logs the first.
    fn is_given_up(&mut self, message: &str, request: FailedRequest, now: Instant) -> bool {
        if !self.give_up_time.record_fault(request.elapsed) {
            return false;
        }
        if let Some(time) = self.give_up_time()
            && !std::mem::replace(&mut self.is_give_up_logged, true)
        {
            let after_s = time.as_secs_f64();
            let reason = format!(
                "it, or a proxy in front of it, gives up after about {after_s:.0} s: {message}"
            );
            self.news.push(EndpointNews { kind: NewsKind::GivingUp, reason });
        }
        !self.has_hung(request.only_retries_left, now)
    }

    /// Returns whether the endpoint has answered nothing and refuses whatever it is asked.
    pub(crate) fn refuses_everything(&self) -> bool {
        self.availability.refuses_everything()
    }

    /// Suspends an endpoint whose refusals are its own fault. Returns whether it was up until now.
    pub(crate) fn suspend_refuser(&mut self, message: &str, now: Instant) -> bool {
        let was_up = self.availability.mark_unreachable(now);
        if was_up {
            self.log_suspension(&format!("it refuses what it is asked, the last: {message}"), now);
        }
        was_up
    }

    /// Reports a suspension; repeated ones without an answer in between are not worth a warning.
    fn log_suspension(&mut self, reason: &str, now: Instant) {
        if std::mem::replace(&mut self.is_suspension_logged, true) {
            debug!(
                event = "endpoint_suspended_again",
                endpoint = %self.url,
                "endpoint suspended again: {}: {reason}",
                self.url
            );
            return;
        }
        let retry_in_s = self.next_probe().map_or(0.0, |due| (due - now).as_secs_f64());
        let reason = format!("probed again in {retry_in_s:.1} s: {reason}");
        self.news.push(EndpointNews { kind: NewsKind::Suspended, reason });
    }

    /// Lowers the limits after a refusal that is back-pressure. Refusals that leave nothing in flight are answered by
    /// growing pauses as well: further requests would only be refused. Returns whether the endpoint is suspended, since
    /// it has admitted nothing for a while.
    fn apply_backpressure(
        &mut self,
        round: u32,
        retry_after: Option<Duration>,
        now: Instant,
    ) -> bool {
        let admitted = self.permits_taken;
        match self.refusal_share.record_refusal(round) {
            Refusal::Scattered => {}
            Refusal::Stale => self.concurrency.decrease_further(admitted),
            Refusal::BackPressure => {
                self.concurrency.decrease_to(admitted);
                self.refusal_share.begin_round(true);
            }
        }
        if admitted > 0 {
            return false;
        }
        self.barren_refusals = (self.barren_refusals + 1).min(SUSPEND_AFTER_BARREN);
        // (one may be chance)
        if self.barren_refusals > 1 {
            let pause = MIN_REFUSAL_BACKOFF * 2_u32.pow(self.barren_refusals - 2);
            let asked = retry_after.unwrap_or_default().min(MAX_RETRY_AFTER);
            let pause = pause.min(MAX_REFUSAL_BACKOFF).max(asked);
            self.throttled_until = self.throttled_until.max(now + pause);
        }
        let is_barren = self.barren_refusals >= SUSPEND_AFTER_BARREN;
        (is_barren || self.availability.on_probation()) && self.availability.mark_unreachable(now)
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
            self.news.push(EndpointNews { kind: NewsKind::Ready, reason: String::new() });
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
                self.refusal_share.begin_round(false);
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

impl RefusalLog {
    /// Counts a refusal. Returns what is to be logged, if that is due.
    fn record_refusal(&mut self, status: u16, message: &str, now: Instant) -> Option<EndpointNews> {
        self.unreported += 1;
        let next_pause = match self.last {
            None => MIN_LOG_PAUSE,
            Some((at, pause)) if now - at >= pause => pause * 2,
            Some(_) => return None,
        };
        let count = std::mem::take(&mut self.unreported);
        self.last = Some((now, next_pause));
        let reason = format!("{count} refused, sent again later: HTTP {status}: {message}");
        Some(EndpointNews { kind: NewsKind::Refusing, reason })
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

    fn failed_request(round: u32) -> FailedRequest {
        FailedRequest {
            prompts: 1,
            sequences: 1,
            round,
            elapsed: Duration::from_millis(2),
            timed_out: false,
            only_retries_left: false,
            only_exhausted_left: false,
        }
    }

    fn busy() -> RequestFault {
        RequestFault::Busy { status: 503, message: "busy".into(), retry_after: None }
    }

    fn transient() -> RequestFault {
        RequestFault::Transient { message: "cut".into(), status: None }
    }

    /// Sends a request that ends with this fault. Returns whether the endpoint was suspended.
    fn fail(server: &mut EndpointState, fault: &RequestFault, now: Instant) -> bool {
        let round = server.begin_request(1, None, now);
        server.release_permits(1);
        server.record_fault(fault, failed_request(round), now)
    }

    #[test]
    fn nothing_but_faults_suspends_and_answers_restore() {
        let now = Instant::now();
        let mut server = test_server(now);
        for _ in 0..7 {
            assert!(!fail(&mut server, &transient(), now));
        }
        assert!(fail(&mut server, &transient(), now));
        assert!(!server.is_up() && !server.begin_due_probe(now));
        let later = now + MIN_PROBE_BACKOFF;
        assert!(
            server.begin_due_probe(later) && !server.begin_due_probe(later),
            "one probe at a time"
        );
        server.availability.finish_probe(true, later);
        assert!(server.is_up());
        assert_eq!((server.free_permits(later), server.max_batch_size()), (1, 1), "on probation");
        assert!(fail(&mut server, &transient(), later));
        assert_eq!(server.next_probe(), Some(later + MIN_PROBE_BACKOFF * 2));
        assert!(server.begin_due_probe(later + MIN_PROBE_BACKOFF * 2));
        server.availability.finish_probe(true, later);
        server.record_success();
        assert_eq!(server.free_permits(later), 8);
        assert!(!fail(&mut server, &transient(), later), "its past is forgotten");
    }

    #[test]
    fn scattered_faults_and_refusals_cost_an_endpoint_nothing() {
        let now = Instant::now();
        let mut server = test_server(now);
        for request in 0..10_000 {
            match request % 10 {
                3 => assert!(!fail(&mut server, &transient(), now)),
                6 => assert!(!fail(&mut server, &busy(), now)),
                _ => {
                    server.begin_request(1, None, now);
                    server.release_permits(1);
                    server.record_success();
                }
            }
            assert_eq!((server.window_size(), server.throttled_until(now)), (8, None));
        }
    }

    #[test]
    fn an_endpoint_that_refuses_everything_gets_pauses_and_is_suspended() {
        let mut now = Instant::now();
        let mut server = test_server(now);
        assert!(!fail(&mut server, &busy(), now));
        assert_eq!(server.throttled_until(now), None, "one may be chance");
        let begun = now;
        while !fail(&mut server, &busy(), now) {
            now = server.throttled_until(now).expect("a pause");
        }
        let paused = now - begun;
        assert!(Duration::from_secs(1) < paused && paused < Duration::from_secs(5), "{paused:?}");
        assert!(!server.is_up());
        server.begin_due_probe(server.next_probe().expect("suspended"));
        server.availability.finish_probe(true, now);
        assert!(fail(&mut server, &busy(), now), "on probation");
        assert!(server.availability.next_probe() >= Some(now + MIN_PROBE_BACKOFF * 2));
    }

    #[test]
    fn requests_that_a_proxy_gives_up_suspend_no_endpoint_unless_it_hangs() {
        let mut now = Instant::now();
        let mut server = test_server(now);
        let elapsed = Duration::from_secs(5);
        let give_up = |server: &mut EndpointState, now| {
            let round = server.begin_request(1, None, now);
            server.release_permits(1);
            let request = FailedRequest { elapsed, ..failed_request(round) };
            server.record_fault(&transient(), request, now)
        };
        for _ in 0..100 {
            now += elapsed;
            assert!(!give_up(&mut server, now), "nothing was ever answered");
        }
        assert_eq!(server.give_up_time(), Some(elapsed));
        server.last_answer = Some(now);
        let suspended = (0..100).filter(|_| give_up(&mut server, now + elapsed)).count();
        assert_eq!(suspended, 0);
        let suspended = (0..100).filter(|_| give_up(&mut server, now + elapsed * 2)).count();
        assert_eq!(suspended, 1, "it has answered nothing for 10 s");
    }

    #[test]
    fn back_pressure_lowers_the_window_to_what_the_server_has_admitted() {
        let now = Instant::now();
        let mut server = test_server(now);
        let rounds: Vec<u32> = (0..8).map(|_| server.begin_request(1, None, now)).collect();
        for &round in &rounds[3..] {
            server.release_permits(1);
            server.record_fault(&busy(), failed_request(round), now);
        }
        assert_eq!((server.window_size(), server.throttled_until(now)), (3, None));
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
