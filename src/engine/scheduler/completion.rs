//! The end of requests: replies, faults, cancelled requests, probes and load polls.
//!
//! Owns no state: a [`CompletionHandler`] applies the consequences to the scheduler's parts. What a fault means for
//! prompts is decided in `retry_policy`, for the endpoint in `endpoint_state`; which of two answers counts in
//! `hedging`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::debug;

use super::{
    in_flight::InFlight,
    invalid_answer::{self, InvalidReasons, NextTry},
    payload::{FeatureUses, RequestCompletion},
    results::ResultBuffer,
    retry_policy::{self, Disposition, FaultContext},
    sequences,
    stall::StallDetector,
};
use crate::{
    domain::{Outcome, PromptAnswer, PromptFailure, PromptResult, ReplyFields},
    endpoint::{BatchParams, CanaryResult, ReplyAnswers, RequestFault, ServerReply},
    engine::{
        EnginePolicy, TokenCounting,
        endpoint_state::{
            AnsweredRequest, EndpointPool, EndpointState, FailedRequest, Feature, FeatureUse,
        },
        queue::{Batch, PromptTask, TaskQueue},
    },
    validation::InvalidText,
};

/// The scheduler's parts that the end of a request concerns.
pub(crate) struct CompletionHandler<'a> {
    policy: &'a EnginePolicy,
    queue: &'a mut TaskQueue,
    endpoints: &'a mut EndpointPool,
    in_flight: &'a mut InFlight,
    results: &'a mut ResultBuffer,
    stall: &'a mut StallDetector,
    is_supply_exhausted: bool,
}

/// A request that has ended, without its prompts.
#[derive(Clone, Copy)]
struct EndedRequest {
    id: u64,
    endpoint: usize,
    latency: Duration,
    round: u32,
    timed_out: bool,
    hit_tightened_timeout: bool,
    uses: FeatureUses,
}

impl<'a> CompletionHandler<'a> {
    pub(crate) fn new(
        policy: &'a EnginePolicy,
        queue: &'a mut TaskQueue,
        endpoints: &'a mut EndpointPool,
        in_flight: &'a mut InFlight,
        results: &'a mut ResultBuffer,
        stall: &'a mut StallDetector,
        is_supply_exhausted: bool,
    ) -> Self {
        Self { policy, queue, endpoints, in_flight, results, stall, is_supply_exhausted }
    }

    /// Handles the next completion if there is one already. Returns whether there was.
    pub(crate) fn handle_next(&mut self, now: Instant) -> bool {
        let next = self.in_flight.try_next_completion();
        let is_some = next.is_some();
        if let Some(completion) = next {
            self.on_completion(completion, now);
        }
        is_some
    }

    pub(crate) fn on_completion(&mut self, completion: RequestCompletion, now: Instant) {
        match completion {
            RequestCompletion::Probe { endpoint, probe } => {
                self.endpoints[endpoint].on_probe(&probe, &self.policy.models, now);
            }
            RequestCompletion::Load { endpoint, load } => {
                self.endpoints[endpoint].on_load(load, now);
            }
            RequestCompletion::Reply { id, result, canary } => {
                self.on_request_end(id, result, canary, now);
            }
            RequestCompletion::Cancelled { id } => self.on_cancelled(id),
        }
    }

    fn on_request_end(
        &mut self,
        id: u64,
        result: Result<(ServerReply, InvalidReasons), RequestFault>,
        canary: Option<CanaryResult>,
        now: Instant,
    ) {
        let Some(request) = self.in_flight.finish(id) else { return };
        let ended = EndedRequest {
            id,
            endpoint: request.endpoint(),
            latency: request.elapsed(now),
            round: request.round(),
            timed_out: request.timed_out(now),
            hit_tightened_timeout: request.hit_tightened_timeout(now),
            uses: request.uses(),
        };
        let batch = request.into_batch();
        let endpoint = &mut self.endpoints[ended.endpoint];
        endpoint.release_permits(batch.permit_count());
        if let Some(canary) = canary {
            endpoint.on_canary(&canary);
        }
        match result {
            Ok((reply, invalid)) => self.on_reply(ended, batch, reply, invalid, now),
            Err(fault) => self.on_fault(ended, batch, fault, now),
        }
    }

    fn on_cancelled(&mut self, id: u64) {
        let Some(request) = self.in_flight.finish(id) else { return };
        let endpoint = &mut self.endpoints[request.endpoint()];
        endpoint.release_permits(request.batch().permit_count());
        if request.is_canary() {
            endpoint.cancel_canary();
        }
        self.in_flight.forget_hedges(request.batch());
    }

    fn on_reply(
        &mut self,
        ended: EndedRequest,
        batch: Batch,
        reply: ServerReply,
        mut invalid: InvalidReasons,
        now: Instant,
    ) {
        let ReplyAnswers { answers, missing_reason } = reply.answers;
        // All tokens count, also those of answers that a hedge has superseded: the server has generated them.
        let up_count = self.endpoints.up_count();
        let answered = AnsweredRequest {
            prompts: batch.len(),
            sequences: batch.permit_count(),
            tokens: answers.iter().flatten().map(answer_tokens).sum(),
            elapsed: reply.elapsed,
        };
        self.endpoints[ended.endpoint].record_reply(answered, up_count, now);
        self.stall.record_answer();
        self.note_answered_features(ended, &batch, &answers);
        let (params, tasks) = batch.into_parts();
        let mut unanswered = Vec::new();
        for (position, (mut task, answer)) in tasks.into_iter().zip(answers).enumerate() {
            let reasons = if invalid.is_empty() { None } else { invalid.remove(&position) };
            if let Some(doubted) = task.take_list_doubt() {
                let is_answered = (doubted == ended.endpoint).then_some(answer.is_some());
                self.endpoints[doubted].features_mut().settle_list_doubt(is_answered);
            }
            let is_answered = answer.is_some() && reasons.is_none();
            if !self.in_flight.claim_reply(ended.id, task.index(), is_answered) {
                continue;
            }
            let Some(mut answer) = answer else {
                unanswered.push(task);
                continue;
            };
            self.queue.record_answer(task.length_class(), answer_tokens(&answer));
            if self.policy.token_counting == TokenCounting::Off {
                answer.usage = None;
                answer.usage_fields = ReplyFields::default();
            }
            match reasons {
                None if sequences::may_lack_sequences(&task, &answer, &params) => {
                    self.on_partial_answer(task, answer, &params, ended);
                }
                None => self.settle_task(task, Outcome::Answered(answer), ended),
                Some(reasons) => self.on_invalid_answer(task, answer, &reasons, &params, ended),
            }
        }
        if !unanswered.is_empty() {
            let message = missing_reason
                .as_deref()
                .unwrap_or("the reply contains no complete answer for this prompt, or two");
            let context = self.fault_context(ended, 1);
            let batch = Batch::new(params, unanswered);
            let disposition = retry_policy::retry(batch, message, Some(200), context);
            self.apply_disposition(disposition, ended, now);
        }
    }

    /// Records what an answered request says about the server's features.
    fn note_answered_features(
        &mut self,
        ended: EndedRequest,
        batch: &Batch,
        answers: &[Option<PromptAnswer>],
    ) {
        let features = self.endpoints[ended.endpoint].features_mut();
        if batch.len() > 1 {
            features.confirm_lists();
        }
        let asked = batch.params().n;
        let lacks_some = |answer: &PromptAnswer| answer.choices.len() < asked;
        for (feature, mut use_) in ended.uses.by_feature() {
            if feature == Feature::Sequences
                && use_ == FeatureUse::Used
                && answers.iter().flatten().any(lacks_some)
            {
                features.give_up_sequences();
                use_ = FeatureUse::Unneeded;
            }
            features.on_answer(feature, use_);
        }
    }

    fn on_partial_answer(
        &mut self,
        task: PromptTask,
        answer: PromptAnswer,
        params: &Arc<BatchParams>,
        ended: EndedRequest,
    ) {
        match sequences::ask_for_rest(self.policy, params, task, answer) {
            Ok(rest) => self.queue.requeue_first(rest),
            Err(partial) => {
                let (task, answer) = *partial;
                self.settle_task(task, Outcome::Answered(answer), ended);
            }
        }
    }

    fn on_invalid_answer(
        &mut self,
        task: PromptTask,
        answer: PromptAnswer,
        reasons: &[Option<InvalidText>],
        params: &Arc<BatchParams>,
        ended: EndedRequest,
    ) {
        let index = task.index();
        match invalid_answer::resolve_invalid(self.policy, params, task, answer, reasons) {
            NextTry::AskAgain(batch) => {
                debug!(event = "answer_invalid", index, "answer invalid, asked again: row {index}");
                self.queue.requeue_first(batch);
            }
            NextTry::Fail(task, failure) => {
                self.settle_task(*task, Outcome::Failed(failure), ended);
            }
        }
    }

    fn on_fault(
        &mut self,
        ended: EndedRequest,
        mut batch: Batch,
        fault: RequestFault,
        now: Instant,
    ) {
        // Hedges change nothing for the endpoint: it has failed, whoever answers the prompts.
        self.in_flight.drop_hedged_tasks(ended.id, &mut batch);
        let only_retries_left = self.only_retries_left();
        let endpoint = &mut self.endpoints[ended.endpoint];
        let speaks = endpoint.ever_answered() && only_retries_left;
        let is_list = batch.len() > 1;
        let fault = fault.judge_denial(
            // (what is wrong with a list shows where its prompts are sent alone)
            is_list || endpoint.answered_since_up() || speaks || self.policy.only_exhausted_left,
        );
        debug!(
            event = "request_failed",
            endpoint = %endpoint.url(),
            prompts = batch.len(),
            ?fault,
            "request failed at {}: {fault:?}",
            endpoint.url()
        );
        let failed = FailedRequest {
            prompts: batch.len(),
            sequences: batch.permit_count(),
            round: ended.round,
            elapsed: ended.latency,
            timed_out: ended.timed_out,
            only_retries_left,
            only_exhausted_left: self.policy.only_exhausted_left,
        };
        if let Some(message) = fault.schema_refusal().filter(|_| ended.uses.schema) {
            // Not the prompts' fault: they are sent without it.
            endpoint.refuse_schema(message);
            self.queue.requeue_split(batch);
            return;
        }
        if fault.is_refusal() && doubts_feature(endpoint, ended.uses, &batch) {
            self.queue.requeue_split(batch);
            return;
        }
        match fault {
            RequestFault::Busy { .. } | RequestFault::Transient { .. } => {
                self.stall.record_fault(ended.latency, now);
            }
            // Endpoints that are down are suspended until a probe succeeds; all else is a server that works.
            RequestFault::EndpointDown { .. } => {}
            _ => self.stall.record_answer(),
        }
        if !says_nothing_new(endpoint, &fault, &batch) && endpoint.record_fault(&fault, failed, now)
        {
            self.queue.release_endpoint(ended.endpoint);
        }
        // (the prompts of a list are first sent alone: the list may be what the server refuses)
        if let Some((_, message)) = fault.refusal()
            && (!is_list || fault.is_endpoints_own())
            && self.is_asked_elsewhere(&fault, &batch, ended.endpoint)
        {
            self.ask_elsewhere(batch, message, ended.endpoint, now);
            return;
        }
        self.judge_lists(ended.endpoint, &fault, &mut batch);
        // Read after the fault was recorded: an endpoint that it has suspended has answered nothing since.
        let mut context = self.fault_context(ended, batch.len());
        context.gave_up_after = self.gave_up_after(ended, now);
        let disposition = retry_policy::resolve_fault(fault, batch, context);
        self.apply_disposition(disposition, ended, now);
    }

    /// Returns whether a refusal is not final: the endpoint has answered nothing yet, or is at fault itself, and the
    /// prompts can be asked elsewhere. Where no endpoint has answered anything, each of them is asked once.
    fn is_asked_elsewhere(&self, fault: &RequestFault, batch: &Batch, endpoint: usize) -> bool {
        let has_answered = self.endpoints[endpoint].ever_answered();
        if has_answered {
            return fault.is_endpoints_own();
        }
        let others = self.endpoints.other_up_count(endpoint, batch.params().model_number);
        self.endpoints.has_other_answered(endpoint)
            || self.results.are_refusals_returned()
            || batch.max_provisional_refusals() < others
    }

    fn ask_elsewhere(&mut self, batch: Batch, message: &str, endpoint: usize, now: Instant) {
        self.stall.record_fault(Duration::ZERO, now);
        let others = self.endpoints.other_up_count(endpoint, batch.params().model_number);
        let state = &mut self.endpoints[endpoint];
        // Without another endpoint the prompts wait until it has mended, or go to another rank.
        if (others == 0 || state.ever_answered() || state.refuses_everything())
            && state.suspend_refuser(message, now)
        {
            self.queue.release_endpoint(endpoint);
        }
        self.results.count_retries(batch.len());
        self.queue.requeue_first(batch.refused_by(endpoint));
    }

    /// Returns the time after which a proxy has given up the request, if that is why it failed.
    fn gave_up_after(&self, ended: EndedRequest, now: Instant) -> Option<Duration> {
        let endpoint = &self.endpoints[ended.endpoint];
        let time = endpoint.give_up_time().filter(|_| !ended.timed_out)?;
        let is_close = ended.latency.abs_diff(time) <= time / 10;
        (is_close && !endpoint.has_hung(self.only_retries_left(), now)).then_some(time)
    }

    /// Records what a failed request says about lists at the endpoint.
    fn judge_lists(&mut self, number: usize, fault: &RequestFault, batch: &mut Batch) {
        let is_denial = matches!(fault, RequestFault::Transient { status: Some(400..500), .. });
        let is_refusal = is_denial || matches!(fault, RequestFault::Prompt { too_long: false, .. });
        let is_failure = is_refusal || matches!(fault, RequestFault::Transient { .. });
        if batch.len() > 1 {
            let features = self.endpoints[number].features_mut();
            if let RequestFault::UnusableList { message } = fault {
                features.give_up_lists(message);
            } else if is_failure && features.doubt_lists(batch.len(), is_refusal, fault.message()) {
                // (a prompt can be in doubt for one list only)
                self.settle_list_doubts(number, batch, false);
                batch.mark_list_doubt(number);
            }
        } else if is_failure {
            self.settle_list_doubts(number, batch, true);
        }
    }

    /// Ends the doubts about lists that the batch's prompts were in; `has_failed` is whether the prompts have failed
    /// alone, at this endpoint.
    fn settle_list_doubts(&mut self, number: usize, batch: &mut Batch, has_failed: bool) {
        for doubted in batch.take_list_doubts() {
            let is_answered = (has_failed && doubted == number).then_some(false);
            self.endpoints[doubted].features_mut().settle_list_doubt(is_answered);
        }
    }

    fn fault_context(&self, ended: EndedRequest, prompts: usize) -> FaultContext {
        let endpoint = &self.endpoints[ended.endpoint];
        FaultContext {
            endpoint: ended.endpoint,
            answered_since_up: endpoint.answered_since_up(),
            ever_answered: endpoint.ever_answered(),
            only_retries_left: self.only_retries_left(),
            only_exhausted_left: self.policy.only_exhausted_left,
            hit_tightened_timeout: ended.hit_tightened_timeout,
            gave_up_after: None,
            timed_out: ended.timed_out,
            needs_singles: endpoint.features().needs_singles(prompts),
            max_tries: self.policy.max_tries,
        }
    }

    /// Returns whether every prompt that is left was sent before.
    fn only_retries_left(&self) -> bool {
        self.is_supply_exhausted && self.queue.never_sent_count() == 0
    }

    fn apply_disposition(&mut self, disposition: Disposition, ended: EndedRequest, now: Instant) {
        match disposition {
            Disposition::Split(batch) => {
                batch.into_halves().into_iter().for_each(|half| self.queue.requeue_split(half));
            }
            Disposition::SendWhole(batch) => self.queue.requeue_split(batch),
            Disposition::SendSingly(batch) => self.queue.requeue_first(batch.into_singles()),
            Disposition::Return(batch) => {
                self.results.count_retries(batch.len());
                self.queue.requeue_first(batch);
            }
            Disposition::Delay { batch, delay } => self.queue.requeue_delayed(now + delay, batch),
            Disposition::Retry { batch, delay, exhausted, failure } => {
                self.results.count_retries(batch.len());
                self.queue.requeue_delayed(now + delay, batch);
                self.fail_batch(exhausted, &failure, ended);
            }
            Disposition::Postpone { batch, exhausted, failure } => {
                self.results.count_retries(batch.len());
                self.queue.postpone(batch);
                self.fail_batch(exhausted, &failure, ended);
            }
            Disposition::Fail { batch, failure } => self.fail_batch(batch, &failure, ended),
        }
    }

    fn fail_batch(&mut self, batch: Batch, failure: &PromptFailure, ended: EndedRequest) {
        let (_, tasks) = batch.into_parts();
        for task in tasks {
            self.settle_task(task, Outcome::Failed(failure.clone()), ended);
        }
    }

    fn settle_task(&mut self, mut task: PromptTask, mut outcome: Outcome, ended: EndedRequest) {
        let attempts = task.attempts();
        let invalid = task.take_invalid_tries().map(|tries| match &mut outcome {
            Outcome::Answered(answer) => tries.complete(answer),
            Outcome::Failed(_) => tries.into_failed(),
        });
        // (an answer may only have lacked sequences)
        let invalid = invalid.filter(|invalid| invalid.count > 0).map(Box::new);
        self.results.push_result(PromptResult {
            prompt: task.into_prompt(),
            outcome,
            endpoint: Some(self.endpoints[ended.endpoint].label().clone()),
            latency: ended.latency.as_secs_f64(),
            attempts,
            invalid,
        });
    }
}

/// The most sequences that are asked for one by one.
const MAX_SINGLE_SEQUENCES: usize = 128;

/// Records that a request was refused. Returns whether it is to be sent again without something that the server may not
/// take.
fn doubts_feature(endpoint: &mut EndpointState, uses: FeatureUses, batch: &Batch) -> bool {
    let params = batch.params();
    // Several sequences without randomness are refused for good reason.
    let is_splittable = params.n <= MAX_SINGLE_SEQUENCES && !invalid_answer::is_greedy(params);
    let features = endpoint.features_mut();
    uses.by_feature().into_iter().any(|(feature, use_)| {
        let may_doubt = feature != Feature::Sequences || is_splittable;
        may_doubt && features.on_refusal(feature, use_)
    })
}

/// Returns whether a fault says nothing about the endpoint: it comes from a prompt that has failed before, while the
/// endpoint answers others, or from a list at a server that may take none.
fn says_nothing_new(endpoint: &EndpointState, fault: &RequestFault, batch: &Batch) -> bool {
    let RequestFault::Transient { status: Some(_), .. } = fault else { return false };
    if batch.len() > 1 {
        return !endpoint.features().has_answered_lists();
    }
    let has_failed_before = batch.tasks().first().is_some_and(|task| task.counted_tries() > 0);
    has_failed_before && endpoint.answered_since_up()
}

/// Returns the tokens of an answer, estimated where they are not counted.
fn answer_tokens(answer: &PromptAnswer) -> u64 {
    match answer.usage {
        Some(usage) => usage.completion_tokens,
        None => answer.choices.iter().map(|choice| choice.text.len() as u64 / 4).sum(),
    }
}
