//! The scheduler: the event loop of a rank that sends requests and decides which prompts go where.
//!
//! One task owns all state and polls the requests in flight. The state has owners, whose fields no other file sees.
//! This file is the loop: it wakes up, receives prompts, lets batches be sent, completions be handled and commands be
//! applied, and reports. Three files act on several owners at once, on borrowed parts: `dispatch` sends requests,
//! `completion` applies the consequences of their ends, `command` those of the coordinator's commands. Permits are
//! taken before a batch is sent and released when its request ends.
//!
//! | owner | state |
//! |---|---|
//! | `engine::queue` | prompts that wait to be sent |
//! | `engine::endpoint_state` | windows, suspensions and latencies of the endpoints |
//! | `supply` | prompts that are announced, received, revoked |
//! | `in_flight`, `hedging` | requests in flight, prompts in flight twice |
//! | `results`, `fail_fast` | results on their way to the writer, failures that are held back, the tally |
//! | `backlog`, `observer` | the last reports, the timeline |
//! | `stall` | the time since the last progress |
//!
//! Rules without state are in `tail_policy` (hedging, speculation in the tail), `retry_policy` (faults and retries),
//! `invalid_answer` (answers that are not valid), `sequences` (answers with fewer than `n`) and `payload` (a batch as a request).

mod backlog;
mod command;
mod completion;
mod dispatch;
mod fail_fast;
mod hedging;
mod in_flight;
mod invalid_answer;
mod observer;
mod payload;
mod results;
mod retry_policy;
mod sequences;
mod stall;
mod supply;
mod tail_policy;

use std::time::{Duration, Instant};

use tokio::{
    sync::mpsc::{Receiver, Sender, UnboundedReceiver},
    time::sleep_until,
};

pub(crate) use command::EngineCommand;

use super::{
    EngineBacklog, EngineEvent, EngineExit, EnginePolicy, EngineProgress,
    endpoint_state::{Endpoint, EndpointPool},
    queue::TaskQueue,
};
use crate::{
    domain::{FailureKind, ModelNumber, ModelSet, Prompt, PromptResult, Tally},
    endpoint::HttpClient,
};
use backlog::BacklogReporter;
use command::CommandEffect;
use completion::CompletionHandler;
use dispatch::Dispatcher;
use fail_fast::STARTUP_HOLD;
use hedging::HEDGE_INTERVAL;
use in_flight::InFlight;
use observer::TimelineObserver;
use payload::RequestCompletion;
use results::ResultBuffer;
use stall::StallDetector;
use supply::PromptSupply;
use tail_policy::TailGuard;

/// The event loop and the owners of its state.
pub(crate) struct Scheduler {
    policy: EnginePolicy,
    supply: PromptSupply,
    queue: TaskQueue,
    endpoints: EndpointPool,
    in_flight: InFlight,
    results: ResultBuffer,
    tail_guard: TailGuard,
    backlog_reporter: BacklogReporter,
    observer: TimelineObserver,
    /// Whether nothing is sent any more.
    is_draining: bool,
    started_at: Instant,
    stall: StallDetector,
    last_tick: Instant,
    next_progress_report: Instant,
}

/// The event that ends a wait of the loop.
enum WakeReason {
    RequestCompleted(RequestCompletion),
    PromptReceived(Option<Prompt>),
    TimerElapsed,
    CommandReceived(Option<EngineCommand>),
}

/// Prompts read ahead, and the bytes of their texts: enough to order the work, little enough that a lost rank costs
/// little.
const MAX_QUEUED_PROMPTS: usize = 8_192;
const MAX_QUEUED_BYTES: usize = 16 << 20;
/// Bytes read ahead, at most, to fill the windows.
const MAX_WINDOW_BYTES: usize = 64 << 20;
/// Completions handled before new requests are sent: one pass over all endpoints serves many.
const MAX_COMPLETIONS_PER_TICK: usize = 64;
/// The interval at which progress is reported.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// A longer pause between ticks means that the process was suspended: the loop ticks at least every second.
const SUSPEND_THRESHOLD: Duration = Duration::from_secs(4);
/// The time for which all endpoints may be down before other ranks get the prompts.
const DOWN_RETURN_DELAY: Duration = Duration::from_secs(2);

impl Scheduler {
    pub(crate) fn new(
        policy: EnginePolicy,
        client: HttpClient,
        endpoints: Vec<Endpoint>,
        prompts: Receiver<Prompt>,
    ) -> Self {
        let now = Instant::now();
        let endpoints = EndpointPool::new(endpoints, &policy, now);
        Self {
            observer: TimelineObserver::new(&endpoints, now),
            endpoints,
            results: ResultBuffer::new(policy.fail_fast_threshold),
            policy,
            supply: PromptSupply::new(prompts),
            queue: TaskQueue::default(),
            in_flight: InFlight::new(client, now),
            tail_guard: TailGuard::default(),
            backlog_reporter: BacklogReporter::new(now),
            is_draining: false,
            started_at: now,
            stall: StallDetector::new(now),
            last_tick: now,
            next_progress_report: now,
        }
    }

    /// Runs to the end and reports the timeline. `results` leads to the writer.
    pub(crate) async fn run(
        mut self,
        results: Sender<Vec<PromptResult>>,
        mut commands: UnboundedReceiver<EngineCommand>,
        events: &impl Fn(EngineEvent),
    ) -> (EngineExit, Tally) {
        let exit = self.run_event_loop(&results, &mut commands, events).await;
        self.observer.sample_endpoints(&self.endpoints, Instant::now());
        self.endpoints.log_last_news(Instant::now());
        events(EngineEvent::TimelineRecorded(self.observer.into_timeline()));
        (exit, self.results.into_tally())
    }

    /// Runs until every prompt has its outcome, no endpoint makes progress, or a command stops it.
    async fn run_event_loop(
        &mut self,
        results: &Sender<Vec<PromptResult>>,
        commands: &mut UnboundedReceiver<EngineCommand>,
        events: &impl Fn(EngineEvent),
    ) -> EngineExit {
        loop {
            let now = Instant::now();
            if let Some(exit) = self.tick(results, events, now).await {
                return exit;
            }
            let wakeup = self.next_wakeup(now);
            let reason = tokio::select! {
                Some(completion) = self.in_flight.next_completion(), if self.in_flight.has_futures() => {
                    WakeReason::RequestCompleted(completion)
                }
                prompt = self.supply.recv(), if self.supply.is_open() && self.has_queue_room() => {
                    WakeReason::PromptReceived(prompt)
                }
                () = sleep_until(wakeup.into()) => WakeReason::TimerElapsed,
                command = commands.recv() => WakeReason::CommandReceived(command),
                // The next result would meet the closed channel too, but there may be no next one while these are
                // awaited.
                () = results.closed() => return EngineExit::WriteFailed,
            };
            if let Some(exit) = self.on_wake(reason, events) {
                return exit;
            }
        }
    }

    /// Does all that is due. Returns how the loop ends, if it does.
    async fn tick(
        &mut self,
        results: &Sender<Vec<PromptResult>>,
        events: &impl Fn(EngineEvent),
        now: Instant,
    ) -> Option<EngineExit> {
        self.detect_suspend(now);
        self.observer.sample_if_due(&self.endpoints, now);
        self.queue.release_due(now);
        self.receive_available_prompts();
        self.endpoints.update_served(now);
        if !self.results.is_paused() && !self.is_draining && !self.is_filling_batch(now) {
            let mut dispatcher = Dispatcher::new(
                &self.policy,
                &mut self.queue,
                &mut self.endpoints,
                &mut self.in_flight,
                &mut self.results,
                &mut self.tail_guard,
                self.supply.is_exhausted(),
            );
            dispatcher.dispatch_requests(now - self.started_at, now);
            dispatcher.hedge_requests(now);
            self.endpoints.note_window_use();
        }
        self.poll_endpoints(now);
        self.endpoints.log_news(now);
        let all_done = self.is_all_done();
        if let Some((count, message)) = self.results.check_fail_fast(all_done) {
            events(EngineEvent::FailFastTripped(count, message));
        }
        self.note_progress(now);
        if self.results.has_pending() {
            let settled = self.results.take_pending();
            self.observer.record_results(&settled, &self.endpoints, now);
            if results.send(settled).await.is_err() {
                return Some(EngineExit::WriteFailed);
            }
        }
        if now >= self.next_progress_report {
            events(EngineEvent::Progress(self.current_progress()));
            self.next_progress_report = now + PROGRESS_INTERVAL;
        }
        self.report_backlog(events, now);
        if all_done && !self.supply.is_open() && !self.results.is_paused() {
            events(EngineEvent::Progress(self.current_progress()));
            return Some(EngineExit::Finished);
        }
        self.is_stalled(now).then_some(EngineExit::Stalled)
    }

    fn on_wake(&mut self, reason: WakeReason, events: &impl Fn(EngineEvent)) -> Option<EngineExit> {
        match reason {
            WakeReason::RequestCompleted(completion) => {
                self.on_completions(completion);
            }
            WakeReason::PromptReceived(Some(prompt)) => self.accept_prompt(prompt),
            WakeReason::PromptReceived(None) | WakeReason::TimerElapsed => {}
            WakeReason::CommandReceived(Some(command)) => return self.on_command(command, events),
            // The handle was dropped: there is no one to work for.
            WakeReason::CommandReceived(None) => return Some(EngineExit::Stopped),
        }
        None
    }

    fn on_completions(&mut self, first: RequestCompletion) {
        let mut handler = CompletionHandler::new(
            &self.policy,
            &mut self.queue,
            &mut self.endpoints,
            &mut self.in_flight,
            &mut self.results,
            &mut self.stall,
            self.supply.is_exhausted(),
        );
        let now = Instant::now();
        handler.on_completion(first, now);
        for _ in 0..MAX_COMPLETIONS_PER_TICK {
            if !handler.handle_next(now) {
                break;
            }
        }
    }

    fn on_command(
        &mut self,
        command: EngineCommand,
        events: &impl Fn(EngineEvent),
    ) -> Option<EngineExit> {
        let Self { supply, queue, in_flight, results, .. } = self;
        match command.apply(supply, queue, in_flight, results) {
            CommandEffect::Continue => {}
            CommandEffect::ReturnUnsent => self.return_unsent(|_| true, events),
            CommandEffect::ReturnHeld => self.return_held(events),
            CommandEffect::Drain => self.is_draining = true,
            CommandEffect::Stop => return Some(EngineExit::Stopped),
        }
        None
    }

    /// A process that was suspended or swapped out was away itself: endpoints did not stand still meanwhile.
    fn detect_suspend(&mut self, now: Instant) {
        if now - self.last_tick > SUSPEND_THRESHOLD {
            self.stall.restart(now);
            self.endpoints.restart_unserved(now);
        }
        self.last_tick = now;
    }

    fn receive_available_prompts(&mut self) {
        while self.has_queue_room()
            && let Some(prompt) = self.supply.try_next()
        {
            self.accept_prompt(prompt);
        }
    }

    /// Back-pressure towards the reader: prompts are received only while there is room for them.
    fn has_queue_room(&self) -> bool {
        let (prompts, bytes) = (self.queue.len(), self.queue.content_bytes());
        // However long the texts are, enough to fill the windows is needed. Large images are sent as they come.
        (prompts < MAX_QUEUED_PROMPTS && bytes < MAX_QUEUED_BYTES)
            || (prompts < self.endpoints.total_window() && bytes < MAX_WINDOW_BYTES)
    }

    fn accept_prompt(&mut self, prompt: Prompt) {
        self.supply.count_received();
        if self.in_flight.is_settled_elsewhere(prompt.index)
            || self.supply.keep_if_revoked(prompt.index)
        {
            return;
        }
        if let Some(failure) = prompt.image_failure().cloned() {
            self.results.reject_prompt(prompt, failure.kind, failure.message);
        } else if prompt.is_blank() {
            let message = "the prompt is empty: nothing was sent".into();
            self.results.reject_prompt(prompt, FailureKind::EmptyPrompt, message);
        } else if self.policy.model_number(&prompt).is_none() {
            // The scan has seen every row, so the row is not the one that was scanned.
            let name = prompt.model.as_deref().unwrap_or_default();
            let message = format!("the row names the model {name:?}, which the job does not use");
            self.results.reject_prompt(prompt, FailureKind::BadRow, message);
        } else {
            self.queue.add_prompt(prompt, &self.policy);
        }
    }

    fn is_filling_batch(&mut self, now: Instant) -> bool {
        let max_batch_size = self.endpoints.max_batch_size();
        let max_wait = self.policy.max_batch_wait;
        self.supply.is_filling_batch(self.queue.len(), max_batch_size, max_wait, now)
    }

    fn poll_endpoints(&mut self, now: Instant) {
        for (number, url) in self.endpoints.begin_due_probes(now) {
            self.in_flight.launch_probe(url, self.policy.models.names(), number);
        }
        for (number, url) in self.endpoints.begin_due_load_polls(now) {
            self.in_flight.launch_load_poll(url, number);
        }
    }

    /// Returns whether every prompt received so far has its outcome, and no more are to be expected for now.
    fn is_all_done(&self) -> bool {
        self.supply.is_exhausted() && self.queue.is_empty() && self.in_flight.sequences() == 0
    }

    fn note_progress(&mut self, now: Instant) {
        if self.results.has_pending() || self.queue.is_empty() {
            self.stall.record_progress(now);
        }
        if self.queue.is_empty() && self.in_flight.is_empty() && self.endpoints.any_healthy() {
            self.stall.record_answer();
        }
    }

    /// Returns whether the servers have done nothing for too long, or have only failed.
    fn is_stalled(&self, now: Instant) -> bool {
        if self.results.is_paused() {
            return false;
        }
        let limit = self.policy.no_progress_timeout;
        let is_quiet = self.in_flight.sequences() == 0
            && self.stall.is_quiet(limit.max(self.policy.timeout * 2), now);
        is_quiet || self.stall.only_fails(limit, || self.in_flight.oldest_age(now), now)
    }

    /// Returns when the loop has something to do without an event.
    fn next_wakeup(&self, now: Instant) -> Instant {
        let hedge_check = (self.supply.is_exhausted() && !self.in_flight.is_empty())
            .then(|| self.in_flight.next_hedge_check());
        let backlog_report =
            self.backlog_reporter.report_due(self.supply.received_count(), self.queue.len() as u64);
        let startup_hold_end = Some(self.started_at + STARTUP_HOLD).filter(|&end| end > now);
        let batch_fill_end = self.supply.batch_fill_end(self.policy.max_batch_wait);
        let due = [
            self.endpoints.next_poll(),
            self.queue.next_release(),
            self.return_deadline(),
            backlog_report,
            hedge_check,
            startup_hold_end,
            self.tail_guard.is_withholding().then(|| now + HEDGE_INTERVAL),
            batch_fill_end.filter(|&end| end > now),
        ];
        let first = due.into_iter().flatten().fold(self.next_progress_report, Instant::min);
        // What is due already waits for another event (a probe under way, a permit): without a pause the loop would
        // spin.
        let first = first.max(now + Duration::from_millis(5));
        // A rate limit may allow more than one request in that time.
        self.endpoints.next_throttle_end(now).map_or(first, |end| end.min(first))
    }

    fn current_progress(&self) -> EngineProgress {
        EngineProgress {
            tally: self.results.tally().clone(),
            in_flight: self.in_flight.sequences() as u64,
            endpoints_up: self.endpoints.up_count() as u64,
            models_up: *self.endpoints.served(),
        }
    }

    /// Reports what is news: an outage or its end, prompts that are returned, the end of a drain, a small backlog.
    fn report_backlog(&mut self, events: &impl Fn(EngineEvent), now: Instant) {
        if self.backlog_reporter.is_models_news(*self.endpoints.served()) {
            events(EngineEvent::Progress(self.current_progress()));
        }
        if self.is_draining || self.supply.has_revoked() {
            self.return_unsent(|_| true, events);
        } else if self.return_deadline().is_some_and(|deadline| deadline <= now) {
            let overdue: ModelSet =
                self.unserved_waiting().filter(|&(_, due)| due <= now).map(|(it, _)| it).collect();
            self.return_unsent(|model| overdue.contains(model), events);
        }
        if self.is_draining
            && self.in_flight.sequences() == 0
            && self.backlog_reporter.is_drained_news()
        {
            events(EngineEvent::Progress(self.current_progress()));
        }
        if self.backlog_reporter.is_due(now) {
            let backlog = self.current_backlog(now);
            if self.backlog_reporter.should_report(backlog, now) {
                events(EngineEvent::Backlog(backlog));
            }
        }
    }

    fn current_backlog(&self, now: Instant) -> EngineBacklog {
        let may_send = self.queue.is_empty() && !self.results.is_paused();
        let idle_permits = if may_send { self.endpoints.healthy_free_permits(now) } else { 0 };
        EngineBacklog {
            received_count: self.supply.received_count(),
            queued_count: self.queue.len() as u64,
            window_total: self.endpoints.total_window() as u64,
            answer_rate: self.endpoints.total_answer_rate(),
            idle_permits: idle_permits as u64,
            p50_latency: self.endpoints.min_p50_latency(),
        }
    }

    /// Returns when other ranks should get queued prompts, if no endpoint that serves their model is up before.
    fn return_deadline(&self) -> Option<Instant> {
        self.unserved_waiting().map(|(_, due)| due).min()
    }

    /// Returns the models of queued prompts that no endpoint that is up serves, and when other ranks should get them.
    fn unserved_waiting(&self) -> impl Iterator<Item = (ModelNumber, Instant)> {
        let wait = DOWN_RETURN_DELAY.min(self.policy.no_progress_timeout / 2);
        let due = move |model| Some((model, self.endpoints.unserved_since(model)? + wait));
        // The common case, in which all models are served, costs no look at each of them.
        let are_served = self.queue.is_empty() || self.endpoints.serves_all();
        let models = if are_served { ModelSet::default() } else { self.queue.waiting_models() };
        models.members().into_iter().filter_map(due)
    }

    fn return_held(&mut self, events: &impl Fn(EngineEvent)) {
        let (indexes, message) = self.results.take_held();
        self.endpoints.suspend_refusers(&message, Instant::now());
        if !indexes.is_empty() {
            events(EngineEvent::PromptsReturned(indexes));
        }
    }

    /// Returns the prompts of models that `matches` selects, as far as they are not in flight, to the coordinator.
    fn return_unsent(
        &mut self,
        matches: impl Fn(ModelNumber) -> bool,
        events: &impl Fn(EngineEvent),
    ) {
        let mut indexes = self.queue.remove_matching(|model, _| matches(model));
        self.supply.take_revoked(&mut indexes);
        if !indexes.is_empty() {
            events(EngineEvent::PromptsReturned(indexes));
        }
    }
}
