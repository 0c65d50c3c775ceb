//! One loop that keeps a rank's endpoints full: takes prompts in, sends what fits, hands on what comes back.
//!
//! One task owns all state; requests under way are futures it polls. Permits are taken before a list is cut and come back
//! with its answers. Decisions are those of `stock`, `window`, `lists`, `endgame` and their like; what becomes of a request
//! that came back is in `verdicts`; this file only makes things happen.

pub(crate) mod backlog;
pub(crate) mod completion;
pub(crate) mod fail_fast;
pub(crate) mod hedging;
pub(crate) mod in_flight;
pub(crate) mod observer;
pub(crate) mod tail_policy;

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::{sync::mpsc, time::sleep_until};

use super::{
    EngineCommand, EngineEvent, EngineExit, EnginePolicy, EngineProgress, SizeMode,
    endpoint_state::{Endpoint, EndpointState, render_check::RenderCheck},
    queue::{Batch, EndpointCapacity, TaskQueue},
};
use crate::{
    domain::{Prompt, PromptResult, Route, Tally},
    endpoint::HttpClient,
};
use backlog::BacklogReporter;
use fail_fast::{FailFast, STARTUP_HOLD};
use in_flight::{InFlightRequest, RequestCompletion, RequestFuture, RequestPayload};
use observer::TimelineObserver;
use tail_policy::EndpointSpeed;

/// What the loop needs to begin, and all that it knows.
pub(super) struct Scheduler {
    pub(super) policy: EnginePolicy,
    pub(super) client: HttpClient,
    pub(super) servers: Vec<EndpointState>,
    pub(super) queue: TaskQueue,
    pub(super) tally: Tally,
    /// Sequences in flight.
    pub(super) in_flight_sequences: usize,
    pub(super) in_flight_requests: HashMap<u64, InFlightRequest>,
    pub(super) last_request_id: u64,
    /// Prompts that are asked twice, by index.
    pub(super) hedged_prompts: HashMap<u64, HedgedPrompt>,
    pub(super) fail_fast: FailFast,
    pub(super) pending_results: Vec<PromptResult>,
    /// Nothing is sent until somebody decides whether the job is wrong.
    pub(super) paused: bool,
    /// More prompts may come.
    pub(super) input_open: bool,
    /// So many prompts were given in all; and there are no more for now.
    pub(super) supplied_count: u64,
    pub(super) supply_exhausted: bool,
    /// Prompts taken in.
    pub(super) received_count: u64,
    /// Somebody else has settled these, which were here or on their way.
    pub(super) settled_elsewhere: HashSet<u64>,
    /// Of the first so many prompts none is wanted that was not sent.
    pub(super) revoked_count: u64,
    /// These came in all the same.
    pub(super) received_revoked: Vec<u64>,
    pub(super) backlog_reporter: BacklogReporter,
    /// Nothing is sent any more.
    pub(super) draining: bool,
    /// No endpoint has been up since.
    pub(super) all_down_since: Option<Instant>,
    started_at: Instant,
    /// Something was settled last, or nothing was there to be.
    pub(super) last_progress: Instant,
    /// The loop went round last.
    pub(super) last_tick: Instant,
    /// Prompts for a full list are being waited for since.
    pub(super) batch_fill_since: Option<Instant>,
    pub(super) next_hedge_check: Instant,
    /// The last prompts are kept from a slow endpoint: since when there are so many of them.
    tail_withheld: Option<(Instant, usize)>,
    pub(super) observer: TimelineObserver,
}

/// A prompt that is asked twice: the first answer counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct HedgedPrompt {
    pub(super) request_ids: [u64; 2],
    pub(super) is_settled: bool,
}

/// What the loop woke up for.
enum WakeReason {
    RequestCompleted(RequestCompletion),
    PromptReceived(Option<Prompt>),
    TimerElapsed,
    CommandReceived(Option<EngineCommand>),
}

/// Prompts read ahead, and the bytes of their texts: enough to order the work in, little enough to lose nothing by it.
const MAX_QUEUED_PROMPTS: usize = 8_192;
const MAX_QUEUED_BYTES: usize = 16 << 20;
/// Replies taken in before what they free is used: one look at everything serves many.
const MAX_COMPLETIONS_PER_TICK: usize = 64;

impl Scheduler {
    pub(super) fn new(policy: EnginePolicy, client: HttpClient, endpoints: Vec<Endpoint>) -> Self {
        let now = Instant::now();
        let server = |endpoint| EndpointState::new(endpoint, &policy, now);
        let servers: Vec<EndpointState> = endpoints.into_iter().map(server).collect();
        Self {
            observer: TimelineObserver::new(&servers, now),
            servers,
            fail_fast: FailFast::new(policy.fail_fast_threshold),
            policy,
            client,
            queue: TaskQueue::default(),
            tally: Tally::default(),
            in_flight_sequences: 0,
            in_flight_requests: HashMap::new(),
            last_request_id: 0,
            hedged_prompts: HashMap::new(),
            pending_results: Vec::new(),
            paused: false,
            input_open: true,
            supplied_count: 0,
            supply_exhausted: false,
            received_count: 0,
            settled_elsewhere: HashSet::new(),
            revoked_count: 0,
            received_revoked: Vec::new(),
            backlog_reporter: BacklogReporter::new(now),
            draining: false,
            all_down_since: None,
            started_at: now,
            last_progress: now,
            last_tick: now,
            batch_fill_since: None,
            next_hedge_check: now,
            tail_withheld: None,
        }
    }

    /// Until every prompt has its outcome, nobody is left to ask, or a command says so.
    pub(super) async fn run_event_loop(
        &mut self,
        prompts: &mut mpsc::Receiver<Prompt>,
        settled: &mpsc::Sender<Vec<PromptResult>>,
        commands: &mut mpsc::UnboundedReceiver<EngineCommand>,
        tell: &impl Fn(EngineEvent),
    ) -> EngineExit {
        let mut flights: FuturesUnordered<RequestFuture> = FuturesUnordered::new();
        let mut next_word = Instant::now();
        loop {
            let now = Instant::now();
            self.detect_suspend(now);
            self.sample_if_due(now);
            self.queue.release_due(now);
            self.receive_available_prompts(prompts);
            if !self.paused && !self.draining && !self.is_filling_batch(now) {
                self.dispatch_requests(&flights, now);
                self.hedge_requests(&flights, now);
                self.servers.iter_mut().for_each(|it| it.was_full = it.is_window_full());
            }
            self.poll_endpoints(&flights, now);
            let all_done = self.is_supply_exhausted()
                && self.queue.len() == 0
                && self.in_flight_sequences == 0;
            if !self.paused
                && let Some((count, message)) = self.fail_fast.check_threshold(all_done)
            {
                self.paused = true;
                tell(EngineEvent::FailFastTripped(count, message));
            }
            if !self.pending_results.is_empty() || self.queue.len() == 0 {
                self.last_progress = now;
            }
            if !self.pending_results.is_empty() {
                let outcomes = std::mem::take(&mut self.pending_results);
                outcomes.iter().for_each(|outcome| self.tally.record_result(outcome));
                self.record_results(&outcomes, now);
                if settled.send(outcomes).await.is_err() {
                    return EngineExit::WriteFailed;
                }
            }
            if now >= next_word {
                tell(EngineEvent::Progress(self.current_progress()));
                next_word = now + super::PROGRESS_INTERVAL;
            }
            self.report_backlog(now, tell);
            if all_done && !self.input_open && !self.paused {
                tell(EngineEvent::Progress(self.current_progress()));
                return EngineExit::Finished;
            }
            if self.is_stalled(now) {
                return EngineExit::Stalled;
            }
            let wake = self.next_wakeup(next_word, now);
            let woken = tokio::select! {
                Some(landed) = flights.next(), if !flights.is_empty() => WakeReason::RequestCompleted(landed),
                prompt = prompts.recv(), if self.input_open && self.has_queue_room() => WakeReason::PromptReceived(prompt),
                () = sleep_until(wake.into()) => WakeReason::TimerElapsed,
                command = commands.recv() => WakeReason::CommandReceived(command),
                // Seen here as well as by the next outcome: there may be no next one, and these would be waited for for ever.
                () = settled.closed() => return EngineExit::WriteFailed,
            };
            match woken {
                WakeReason::RequestCompleted(landed) => {
                    let now = Instant::now();
                    self.on_completion(landed, now);
                    for _ in 0..MAX_COMPLETIONS_PER_TICK {
                        let Some(Some(landed)) = flights.next().now_or_never() else { break };
                        self.on_completion(landed, now);
                    }
                }
                WakeReason::PromptReceived(Some(prompt)) => self.accept_prompt(prompt),
                WakeReason::PromptReceived(None) => self.input_open = false,
                WakeReason::TimerElapsed => {}
                WakeReason::CommandReceived(Some(EngineCommand::Proceed)) => {
                    self.paused = false;
                    self.fail_fast.release_held(&mut self.pending_results);
                }
                WakeReason::CommandReceived(Some(EngineCommand::KeepHolding)) => {
                    self.paused = false;
                    self.fail_fast.raise_threshold();
                }
                WakeReason::CommandReceived(Some(EngineCommand::SetSupplied(given, ending))) => {
                    (self.supplied_count, self.supply_exhausted) = (given, ending);
                }
                WakeReason::CommandReceived(Some(EngineCommand::DropRedundant(indexes))) => {
                    self.drop_redundant(&indexes)
                }
                WakeReason::CommandReceived(Some(EngineCommand::RevokeUnsent(given))) => {
                    self.revoked_count = given;
                    self.return_unsent(tell);
                }
                WakeReason::CommandReceived(Some(EngineCommand::Drain)) => self.draining = true,
                WakeReason::CommandReceived(Some(EngineCommand::Stop) | None) => {
                    return EngineExit::Stopped;
                }
            }
        }
    }

    fn receive_available_prompts(&mut self, prompts: &mut mpsc::Receiver<Prompt>) {
        while self.input_open && self.has_queue_room() {
            match prompts.try_recv() {
                Ok(prompt) => self.accept_prompt(prompt),
                Err(mpsc::error::TryRecvError::Disconnected) => self.input_open = false,
                Err(mpsc::error::TryRecvError::Empty) => break,
            }
        }
    }

    fn has_queue_room(&self) -> bool {
        let (prompts, bytes) = (self.queue.len(), self.queue.text_bytes());
        if prompts < MAX_QUEUED_PROMPTS && bytes < MAX_QUEUED_BYTES {
            return true;
        }
        // However long they are, what the windows can hold is needed.
        let windows: usize =
            self.servers.iter().filter(|it| it.is_up()).map(|it| it.window.size()).sum();
        prompts < windows
    }

    fn accept_prompt(&mut self, prompt: Prompt) {
        self.received_count += 1;
        if self.settled_elsewhere.contains(&prompt.index) {
            return;
        }
        if self.received_count <= self.revoked_count {
            self.received_revoked.push(prompt.index);
        } else if prompt.input.is_blank() {
            self.settle_empty_prompt(prompt);
        } else {
            self.queue.add_prompt(prompt, &self.policy);
        }
    }

    /// Sends requests while there are permits and prompts.
    fn dispatch_requests(&mut self, flights: &FuturesUnordered<RequestFuture>, now: Instant) {
        let up = self.servers.iter().filter(|it| it.is_up()).count();
        self.all_down_since = if up == 0 { self.all_down_since.or(Some(now)) } else { None };
        if self.queue.len() == 0 {
            return;
        }
        let free = |servers: &[EndpointState], it: usize| servers[it].free_permits(now) > 0;
        let mut open: Vec<usize> =
            (0..self.servers.len()).filter(|&it| free(&self.servers, it)).collect();
        // The next request goes to the emptiest endpoint, so that few prompts are spread over all.
        let passed = now - self.started_at;
        // (with nothing under way there is nothing to wait for)
        while (self.in_flight_requests.is_empty()
            || !self.fail_fast.should_hold_requests(self.tally.requests, passed))
            && let Some(&server) = open.iter().min_by(|&&a, &&b| {
                let fill = |it: usize| {
                    let server = &self.servers[it];
                    server.permits_taken as f64 / server.window.size() as f64
                };
                fill(a).total_cmp(&fill(b))
            })
        {
            match self.next_batch_for(server, up, now) {
                Some(batch) => self.launch_request(flights, server, batch, now),
                None => open.retain(|&it| it != server),
            }
            if !free(&self.servers, server) {
                open.retain(|&it| it != server);
            }
        }
    }

    fn next_batch_for(&mut self, server: usize, up: usize, now: Instant) -> Option<Batch> {
        let waiting = self.queue.len();
        let (mut most, window) =
            (self.servers[server].max_batch_size(), self.servers[server].window.size());
        if self.is_supply_exhausted() {
            if self.policy.batch_size == SizeMode::Auto {
                // The last lists are short, so that they end together.
                most = most.min((waiting / (4 * up)).max(1));
            }
            if up > 1 && waiting < window * up && self.withholds_from_endpoint(server, waiting, now)
            {
                return None;
            }
        }
        let it = &self.servers[server];
        let room = EndpointCapacity {
            endpoint: server,
            free_permits: it.free_permits(now),
            max_batch_size: most,
            renders_locally: it.render_check == RenderCheck::Passed,
            is_idle: it.permits_taken == 0,
            has_alternatives: up > 1,
        };
        self.queue.next_batch(room)
    }

    fn withholds_from_endpoint(&mut self, server: usize, waiting: usize, now: Instant) -> bool {
        let speed = |it: &EndpointState| EndpointSpeed {
            p50_latency: it.latency.p50_latency(1),
            rate: it.batch_sizer.answer_rate(),
        };
        let others = self.servers.iter().enumerate();
        let others: Vec<EndpointSpeed> = others
            .filter(|(place, it)| *place != server && it.is_healthy())
            .map(|(_, it)| speed(it))
            .collect();
        let mine = speed(&self.servers[server]);
        if !tail_policy::should_withhold(mine, &others, waiting) {
            return false;
        }
        // For no longer than the others go on: they may have come to a standstill.
        match self.tail_withheld {
            Some((since, then)) if then == waiting => {
                mine.p50_latency.is_some_and(|usual| now - since < usual)
            }
            _ => {
                self.tail_withheld = Some((now, waiting));
                true
            }
        }
    }

    pub(super) fn launch_request(
        &mut self,
        flights: &FuturesUnordered<RequestFuture>,
        server: usize,
        mut batch: Batch,
        now: Instant,
    ) {
        // Where nothing of it can go this way it is back in stock.
        let Some(outgoing) = self.build_payload(server, &mut batch) else { return };
        let permits = batch.permit_count();
        self.servers[server].begin_request(permits, self.policy.rate_limit, now);
        self.in_flight_sequences += permits;
        self.tally.requests += 1;
        let first = batch.tasks.iter().all(|task| task.attempts == 0);
        batch.tasks.iter_mut().for_each(|task| task.attempts += 1);
        let it = &self.servers[server];
        let whole = self.policy.request_timeout(batch.tasks.len());
        let tight =
            it.latency.tightened_timeout(batch.tasks.len()).filter(|&tight| first && tight < whole);
        let limit = tight.unwrap_or(whole);
        self.last_request_id += 1;
        let id = self.last_request_id;
        let canary = matches!(outgoing, RequestPayload::Canary(_));
        let (client, policy) = (&self.client, &self.policy);
        let (flight, cancel) =
            in_flight::start_request(client, &it.url, policy, id, outgoing, &batch, limit);
        let (level, tight) = (it.permits_taken, tight.is_some());
        let under_way = InFlightRequest {
            server,
            batch,
            sent_at: now,
            concurrency_at_send: level,
            timeout: limit,
            timeout_tightened: tight,
            is_canary: canary,
            abort_handle: cancel,
        };
        self.in_flight_requests.insert(id, under_way);
        flights.push(flight);
    }

    fn build_payload(&mut self, server: usize, batch: &mut Batch) -> Option<RequestPayload> {
        let conversations = batch.params.route == Route::Chat && batch.params.allow_lists;
        if conversations && batch.tasks.len() > 1 {
            let (question, left) = in_flight::render_batch(&self.policy, batch);
            if let Some(left) = left {
                self.queue.requeue_first(left);
            }
            return question.map(RequestPayload::Request);
        }
        if conversations && self.servers[server].render_check.try_take_canary() {
            let kwargs = batch.params.params.get(super::policy::TEMPLATE_KWARGS);
            match in_flight::render_conversation(&self.policy, &batch.tasks[0].prompt, kwargs) {
                Some(text) => return Some(RequestPayload::Canary(text)),
                None => {
                    self.servers[server].render_check.record_canary(None);
                }
            }
        }
        Some(RequestPayload::Request(in_flight::build_request(&self.policy, batch)))
    }

    fn poll_endpoints(&mut self, flights: &FuturesUnordered<RequestFuture>, now: Instant) {
        for (server, it) in self.servers.iter_mut().enumerate() {
            if it.begin_due_probe(now) {
                flights.push(in_flight::probe_readiness(&self.client, &it.url, server));
            }
            if it.load_poll_due().is_some_and(|due| due <= now) {
                it.begin_load_poll();
                flights.push(in_flight::poll_load(&self.client, &it.url, server));
            }
        }
    }

    /// Endpoints are up, and do nothing but refuse.
    fn is_stalled(&self, now: Instant) -> bool {
        let EnginePolicy { no_progress_timeout: patience, timeout, .. } = self.policy;
        let stuck = now - self.last_progress >= patience.max(timeout * 2);
        self.in_flight_sequences == 0 && !self.paused && stuck
    }

    fn next_wakeup(&self, next_word: Instant, now: Instant) -> Instant {
        let probes = self.servers.iter().filter_map(EndpointState::next_probe);
        let loads = self.servers.iter().filter_map(EndpointState::load_poll_due);
        let starts = self.servers.iter().filter_map(|it| it.throttled_until(now));
        let given_back = self.return_deadline();
        let telling = self.backlog_reporter.report_due(self);
        let moment = Some(self.started_at + STARTUP_HOLD).filter(|&it| it > now);
        let copies = (self.is_supply_exhausted() && !self.in_flight_requests.is_empty())
            .then_some(self.next_hedge_check);
        let withheld = self.tail_withheld.map(|_| now + hedging::HEDGE_INTERVAL);
        let filled = self.batch_fill_since.map(|since| since + self.policy.max_batch_wait);
        let all = probes.chain(loads).chain(self.queue.next_release()).chain(given_back);
        let all = all
            .chain(telling)
            .chain(copies)
            .chain(moment)
            .chain(withheld)
            .chain(filled.filter(|&it| it > now));
        // What is due already is waited for by something else (a probe under way, a permit): not by spinning.
        let least = now + Duration::from_millis(5);
        let wake = all.fold(next_word, Instant::min).max(least);
        // A rate limit may allow more than one request in that time.
        starts.fold(wake, Instant::min)
    }

    pub(super) fn current_progress(&self) -> EngineProgress {
        EngineProgress {
            tally: self.tally.clone(),
            in_flight: self.in_flight_sequences as u64,
            endpoints_up: self.servers.iter().filter(|it| it.is_up()).count() as u64,
        }
    }
}
