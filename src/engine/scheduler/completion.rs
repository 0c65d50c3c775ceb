//! What came back, and what becomes of its prompts: settled, tried again, or left to another request.
//!
//! Owns the consequences of answers and faults. What a fault means was found by `endpoint`; when something is sent again is
//! the driver's.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use tracing::{debug, info, warn};

use super::{
    HedgedPrompt, Scheduler,
    in_flight::{InFlightRequest, RequestCompletion},
};
use crate::engine::{
    TokenCounting,
    endpoint_state::concurrency::LoadSample,
    queue::{Batch, PromptTask},
};
use crate::{
    domain::{
        FailureKind, Outcome, ProbeResult, Prompt, PromptAnswer, PromptFailure, PromptResult,
    },
    endpoint::{CanaryResult, RequestFault, ServerLoad, ServerReply},
};

/// So many times the tries it has may a prompt be sent to servers that are not well.
const UNHEALTHY_ATTEMPTS_FACTOR: u32 = 8;

/// No server is waited for longer, whatever it asks for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// A request that came back, without its prompts.
#[derive(Clone, Copy)]
struct CompletedRequest {
    request_id: u64,
    server: usize,
    now: Instant,
    latency_seconds: f64,
    /// Its limit was tighter than what was asked for, and it ran into it.
    hit_tightened_timeout: bool,
}

impl Scheduler {
    pub(crate) fn on_completion(&mut self, landed: RequestCompletion, now: Instant) {
        match landed {
            RequestCompletion::Probe { server, probe } => self.on_probe(server, &probe, now),
            RequestCompletion::Load { server, load } => self.on_load(server, load, now),
            RequestCompletion::Reply { id, result, canary } => {
                let Some(under_way) = self.in_flight_requests.remove(&id) else { return };
                let InFlightRequest {
                    server,
                    batch,
                    sent_at: sent,
                    concurrency_at_send: level,
                    timeout: limit,
                    timeout_tightened: tight,
                    ..
                } = under_way;
                let full = self.servers[server].was_full;
                self.release_permits(server, &batch);
                let took = now - sent;
                let cut_short = tight && took >= limit;
                let back = CompletedRequest {
                    request_id: id,
                    server,
                    now,
                    latency_seconds: took.as_secs_f64(),
                    hit_tightened_timeout: cut_short,
                };
                if let Some(canary) = canary {
                    self.on_canary(server, canary);
                }
                match result {
                    Ok(reply) => {
                        self.record_reply_metrics(server, &batch, &reply, level, full, now);
                        self.on_reply(back, batch, reply);
                    }
                    Err(fault) => {
                        // (whoever else is asked for its prompts, the endpoint has failed)
                        let batch = self.drop_hedged_tasks(id, batch);
                        self.on_fault(back, batch, fault, level);
                    }
                }
            }
            RequestCompletion::Cancelled { id } => {
                let Some(under_way) = self.in_flight_requests.remove(&id) else { return };
                self.release_permits(under_way.server, &under_way.batch);
                if under_way.is_canary {
                    self.servers[under_way.server].render_check.record_canary(None);
                }
                for task in &under_way.batch.tasks {
                    self.hedged_prompts.remove(&task.prompt.index);
                }
            }
        }
    }

    fn release_permits(&mut self, server: usize, batch: &Batch) {
        let permits = batch.permit_count();
        self.servers[server].permits_taken -= permits;
        self.in_flight_sequences -= permits;
    }

    fn on_probe(&mut self, server: usize, probe: &ProbeResult, now: Instant) {
        let served = |facts: &crate::domain::ServerInfo| {
            facts.models.iter().any(|model| model.id == self.policy.model)
        };
        let ready = matches!(probe, ProbeResult::Ready(facts) if served(facts));
        if self.servers[server].finish_probe(ready, now) {
            info!(endpoint = %self.servers[server].url, "the endpoint is ready");
        }
    }

    fn on_load(&mut self, server: usize, load: Option<ServerLoad>, now: Instant) {
        let it = &mut self.servers[server];
        if let Some(ServerLoad { running, waiting, preemptions }) = load {
            let sample = LoadSample { running, waiting, preemptions };
            let list = it.batch_sizer.unclamped_batch_size();
            let changed = it.window.apply_sample(sample, it.permits_taken, list, now);
            if changed {
                let window = it.window.size();
                debug!(endpoint = %it.url, window, running, waiting, list, "the window is changed");
            }
        }
        it.finish_load_poll(load.is_some(), now);
    }

    fn on_canary(&mut self, server: usize, canary: CanaryResult) {
        let it = &mut self.servers[server];
        let same = match &canary {
            CanaryResult::Match => Some(true),
            CanaryResult::Mismatch(_) => Some(false),
            CanaryResult::Inconclusive => None,
        };
        if it.render_check.record_canary(same) {
            match canary {
                CanaryResult::Mismatch(why) => {
                    info!(endpoint = %it.url, "conversations go one by one: {why}");
                }
                _ => {
                    info!(endpoint = %it.url, "conversations are rendered here and may go in lists")
                }
            }
        }
    }

    /// What an answered request shows of its endpoint.
    fn record_reply_metrics(
        &mut self,
        server: usize,
        batch: &Batch,
        reply: &ServerReply,
        level: usize,
        full: bool,
        now: Instant,
    ) {
        let up = self.servers.iter().filter(|it| it.is_up()).count();
        let tokens = reply.answers.iter().flatten().map(answer_tokens).sum();
        let it = &mut self.servers[server];
        it.record_success();
        it.window.record_admitted(level, batch.permit_count(), tokens, full, now);
        it.batch_sizer.record_answers(batch.tasks.len(), up, now);
        it.latency.record_latency(batch.tasks.len(), reply.elapsed);
    }

    fn on_reply(&mut self, back: CompletedRequest, batch: Batch, reply: ServerReply) {
        let mut again = Vec::new();
        for (task, answer) in batch.tasks.into_iter().zip(reply.answers) {
            if self.has_duplicate_requests()
                && self.is_superseded_by_hedge(back.request_id, &task, answer.is_some())
            {
                continue;
            }
            match answer {
                Some(answer) => self.on_answer(back, task, answer),
                None => again.push(task),
            }
        }
        if !again.is_empty() {
            let what = "the reply has no answer, or two, for this prompt".to_owned();
            let batch = Batch { params: batch.params, tasks: again };
            self.retry_or_fail(back, batch, &what, Some(200));
        }
    }

    fn on_answer(&mut self, back: CompletedRequest, task: PromptTask, mut answer: PromptAnswer) {
        self.queue.record_answer(task.length_class, answer_tokens(&answer));
        if self.policy.token_counting == TokenCounting::Off {
            answer.usage = None;
        }
        self.settle_task(task, Outcome::Answered(answer), Some(back));
    }

    fn has_duplicate_requests(&self) -> bool {
        !(self.hedged_prompts.is_empty() && self.settled_elsewhere.is_empty())
    }

    /// Of a prompt that is asked twice: has the other request answered it, or will it? Then there is nothing to do here.
    fn is_superseded_by_hedge(&mut self, id: u64, task: &PromptTask, answered: bool) -> bool {
        if self.settled_elsewhere.contains(&task.prompt.index) {
            return true;
        }
        let Some(twin) = self.hedged_prompts.get_mut(&task.prompt.index) else { return false };
        if twin.is_settled || !answered {
            self.hedged_prompts.remove(&task.prompt.index);
            return true;
        }
        twin.is_settled = true;
        let other = twin.request_ids.into_iter().find(|&it| it != id);
        self.cancel_if_redundant(other);
        false
    }

    fn drop_hedged_tasks(&mut self, id: u64, mut batch: Batch) -> Batch {
        if self.has_duplicate_requests() {
            batch.tasks.retain(|task| !self.is_superseded_by_hedge(id, task, false));
        }
        batch
    }

    /// The connection is closed when nobody wants anything in it any more: the server then stops working on it.
    pub(crate) fn cancel_if_redundant(&self, id: Option<u64>) {
        let Some(under_way) = id.and_then(|id| self.in_flight_requests.get(&id)) else { return };
        let settled = |task: &PromptTask| {
            let index = task.prompt.index;
            self.settled_elsewhere.contains(&index)
                || self
                    .hedged_prompts
                    .get(&index)
                    .is_some_and(|twin: &HedgedPrompt| twin.is_settled)
        };
        if under_way.batch.tasks.iter().all(settled) {
            under_way.abort_handle.abort();
        }
    }

    fn on_fault(
        &mut self,
        back: CompletedRequest,
        batch: Batch,
        fault: RequestFault,
        level: usize,
    ) {
        let CompletedRequest { server, now, .. } = back;
        let url = self.servers[server].url.clone();
        debug!(endpoint = %url, prompts = batch.tasks.len(), ?fault, "a request failed");
        match fault {
            RequestFault::Prompt { .. } | RequestFault::ListTooLong if batch.tasks.len() > 1 => {
                self.servers[server].record_success();
                if fault == RequestFault::ListTooLong {
                    self.servers[server].lower_batch_limit(batch.tasks.len());
                }
                batch.into_halves().into_iter().for_each(|half| self.queue.requeue_split(half));
            }
            RequestFault::Prompt { too_long, message: what, status } => {
                self.servers[server].record_success();
                let kind = if too_long { FailureKind::TooLong } else { FailureKind::Refused };
                self.fail_batch(back, batch, kind, &what, Some(status));
            }
            RequestFault::ListTooLong => {
                let what = "the server takes no list, not even of one";
                self.fail_batch(back, batch, FailureKind::BadRequest, what, Some(400));
            }
            RequestFault::Request { message: what, status } => {
                self.servers[server].record_success();
                let status = Some(status).filter(|&status| status > 0);
                self.fail_batch(back, batch, FailureKind::BadRequest, &what, status);
            }
            RequestFault::TooManyTokens { tokens_left: left, message: what } => {
                self.reduce_max_tokens(back, batch, left, &what)
            }
            RequestFault::Busy { retry_after: after } => {
                self.servers[server].apply_backpressure(level, batch.permit_count(), now);
                // A server that names hours is asked again in a minute: it may have been another's hour.
                let wait = after.unwrap_or_default().min(MAX_RETRY_AFTER);
                let attempts = batch.tasks.iter().map(|task| task.attempts).max().unwrap_or(1);
                self.queue.requeue_delayed(now + wait.max(retry_backoff(attempts.min(3))), batch);
            }
            RequestFault::Transient { message: what, status } => {
                let briefly = status.is_some() && self.has_only_retries();
                if self.servers[server].record_fault(now, briefly) {
                    warn!(endpoint = %url, "the endpoint is put aside after faults in a row: {what}");
                    self.queue.release_endpoint(server);
                }
                self.retry_or_fail(back, batch, &what, status);
            }
            RequestFault::EndpointDown { message: what } => {
                if self.servers[server].mark_unreachable(now) {
                    warn!(endpoint = %url, "the endpoint is gone: {what}");
                    self.queue.release_endpoint(server);
                }
                // Not the prompts' fault: no try of theirs is used up.
                self.tally.retried += batch.tasks.len() as u64;
                self.queue.requeue_first(batch);
            }
        }
    }

    /// The server counted, and less is left than was asked for: ask for that.
    fn reduce_max_tokens(
        &mut self,
        back: CompletedRequest,
        mut batch: Batch,
        left: u64,
        what: &str,
    ) {
        self.servers[back.server].record_success();
        let asked = batch.params.params.get_u64("max_tokens");
        if batch.tasks.len() > 1 {
            batch.into_halves().into_iter().for_each(|half| self.queue.requeue_split(half));
        } else if asked.is_none_or(|asked| asked > left) {
            let mut shared = (*batch.params).clone();
            shared.params.set("max_tokens", left.to_string());
            batch.params = shared.into();
            self.queue.requeue_split(batch);
        } else {
            self.fail_batch(back, batch, FailureKind::TooLong, what, Some(400));
        }
    }

    /// Another try for those that have one left.
    fn retry_or_fail(
        &mut self,
        back: CompletedRequest,
        batch: Batch,
        what: &str,
        status: Option<u16>,
    ) {
        let Batch { params: shared, mut tasks } = batch;
        // A server that has answered nothing since it came up is not well, whatever it says of itself: what it does is no
        // try of the prompts', unless they have been around for so long that they may be what breaks it.
        // Where only such prompts are left that failed before, a status is an answer: they must not be open for ever
        // because nothing else is left that could show how well the server is.
        let it = &self.servers[back.server];
        let speaks = status.is_some() && it.ever_answered && self.has_only_retries();
        let well = (it.answered_since_up || speaks) && !back.hit_tightened_timeout;
        for task in &mut tasks {
            let around =
                task.attempts >= self.policy.max_tries.saturating_mul(UNHEALTHY_ATTEMPTS_FACTOR);
            task.counted_tries += u32::from(well || around);
            task.avoid_endpoint = Some(back.server);
        }
        let (over, again): (Vec<PromptTask>, Vec<PromptTask>) =
            tasks.into_iter().partition(|task| task.counted_tries >= self.policy.max_tries);
        if let Some(attempts) = again.iter().map(|task| task.attempts).max() {
            self.tally.retried += again.len() as u64;
            let batch = Batch { params: shared.clone(), tasks: again };
            self.queue.requeue_delayed(back.now + retry_backoff(attempts), batch);
        }
        let batch = Batch { params: shared, tasks: over };
        let what = format!("no answer in {} tries; the last: {what}", self.policy.max_tries);
        self.fail_batch(back, batch, FailureKind::Exhausted, &what, status);
    }

    /// Was everything that is left asked before?
    fn has_only_retries(&self) -> bool {
        self.is_supply_exhausted() && self.queue.never_sent_count() == 0
    }

    fn fail_batch(
        &mut self,
        back: CompletedRequest,
        batch: Batch,
        kind: FailureKind,
        what: &str,
        status: Option<u16>,
    ) {
        for task in batch.tasks {
            let failure = PromptFailure { kind, message: what.to_owned(), status };
            self.settle_task(task, Outcome::Failed(failure), Some(back));
        }
    }

    /// An empty prompt is not sent.
    pub(crate) fn settle_empty_prompt(&mut self, prompt: Prompt) {
        let failure = PromptFailure {
            kind: FailureKind::EmptyPrompt,
            message: "the prompt is empty: nothing was asked".into(),
            status: None,
        };
        let outcome = Outcome::Failed(failure);
        let settled = PromptResult { prompt, outcome, endpoint: None, latency: 0.0, attempts: 0 };
        self.fail_fast.filter_outcome(settled, &mut self.pending_results);
    }

    fn settle_task(&mut self, task: PromptTask, outcome: Outcome, back: Option<CompletedRequest>) {
        let PromptTask { prompt, attempts, .. } = task;
        let endpoint = back.map(|back| self.servers[back.server].label.clone());
        let latency = back.map_or(0.0, |back| back.latency_seconds);
        let settled = PromptResult { prompt, outcome, endpoint, latency, attempts };
        self.fail_fast.filter_outcome(settled, &mut self.pending_results);
    }
}

/// Tokens of an answer; where they are not counted, about.
fn answer_tokens(answer: &PromptAnswer) -> u64 {
    match answer.usage {
        Some(usage) => usage.completion_tokens,
        None => answer.choices.iter().map(|it| it.text.len() as u64 / 4).sum(),
    }
}

/// How long to wait before another try: half a second, doubling to 8 s, with jitter. A server that needs longer is put
/// aside, with pauses of its own.
fn retry_backoff(tried: u32) -> Duration {
    let mut steps = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(500))
        .with_max_delay(Duration::from_secs(8))
        .without_max_times()
        .with_jitter()
        .build();
    steps.nth(tried.saturating_sub(1).min(16) as usize).unwrap_or_default()
}
