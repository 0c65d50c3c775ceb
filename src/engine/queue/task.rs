//! A prompt on its way to an outcome, and the batch of prompts that one request carries: pure.
//!
//! Owns what is remembered of a prompt between two requests: its attempts, the endpoint that failed it, whether it was
//! hedged. Where a task waits is known to `slots` and `prefix_groups`; what a failed request means for its tasks is
//! decided in `scheduler::retry_policy`.

use std::sync::Arc;

use super::InvalidTries;
use crate::{
    domain::{LengthClass, Prompt},
    endpoint::BatchParams,
};

/// A prompt that has no outcome yet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PromptTask {
    prompt: Prompt,
    /// Requests that carried the prompt, whatever became of them.
    attempts: u32,
    /// Attempts that count against `--retries`: those that a healthy server failed.
    counted_tries: u32,
    /// The endpoint that failed the prompt last; another one is preferred.
    avoid_endpoint: Option<usize>,
    /// Refusals by endpoints that have answered nothing, whose word is not final.
    provisional_refusals: u32,
    is_hedged: bool,
    length_class: LengthClass,
    arrival_number: u64,
    /// The endpoint where a list failed that had the prompt in it, until the prompt has another result.
    list_doubt: Option<usize>,
    /// Its answers that were not valid or lacked sequences, if there were any.
    invalid_tries: Option<Box<InvalidTries>>,
}

impl PromptTask {
    /// `arrival_number` is the number under which the prefix index knows the prompt.
    pub(crate) fn new(prompt: Prompt, length_class: LengthClass, arrival_number: u64) -> Self {
        Self {
            prompt,
            attempts: 0,
            counted_tries: 0,
            avoid_endpoint: None,
            provisional_refusals: 0,
            is_hedged: false,
            length_class,
            arrival_number,
            list_doubt: None,
            invalid_tries: None,
        }
    }

    pub(crate) fn prompt(&self) -> &Prompt {
        &self.prompt
    }

    pub(crate) fn into_prompt(self) -> Prompt {
        self.prompt
    }

    /// Returns the prompt's position in the whole input.
    pub(crate) fn index(&self) -> u64 {
        self.prompt.index
    }

    pub(crate) fn priority(&self) -> i64 {
        self.prompt.priority
    }

    /// Returns the memory that the prompt's text and images take.
    pub(crate) fn content_bytes(&self) -> usize {
        self.prompt.content_bytes()
    }

    pub(crate) fn attempts(&self) -> u32 {
        self.attempts
    }

    pub(crate) fn was_sent(&self) -> bool {
        self.attempts > 0
    }

    pub(crate) fn counted_tries(&self) -> u32 {
        self.counted_tries
    }

    pub(crate) fn avoids(&self, endpoint: usize) -> bool {
        self.avoid_endpoint == Some(endpoint)
    }

    /// Records that a request to `endpoint` failed; `counts` is whether `--retries` counts it.
    pub(crate) fn record_failed_attempt(&mut self, endpoint: usize, counts: bool) {
        self.counted_tries += u32::from(counts);
        self.avoid_endpoint = Some(endpoint);
    }

    /// Takes the mark of [`Batch::mark_list_doubt`].
    pub(crate) fn take_list_doubt(&mut self) -> Option<usize> {
        self.list_doubt.take()
    }

    /// Returns the answers that were not valid.
    pub(crate) fn invalid_tries(&self) -> Option<&InvalidTries> {
        self.invalid_tries.as_deref()
    }

    /// Returns the record of answers that were not valid, which is empty before the first.
    pub(crate) fn invalid_tries_mut(&mut self) -> &mut InvalidTries {
        self.invalid_tries.get_or_insert_default()
    }

    pub(crate) fn take_invalid_tries(&mut self) -> Option<Box<InvalidTries>> {
        self.invalid_tries.take()
    }

    pub(crate) fn is_hedged(&self) -> bool {
        self.is_hedged
    }

    /// Returns the copy that a hedged request carries. A prompt is hedged once: one that hangs everywhere would
    /// otherwise be sent for ever.
    pub(crate) fn hedged_copy(&self) -> Self {
        Self { is_hedged: true, list_doubt: None, ..self.clone() }
    }

    /// Returns the class of the answer's expected length.
    pub(crate) fn length_class(&self) -> LengthClass {
        self.length_class
    }

    pub(crate) fn arrival_number(&self) -> u64 {
        self.arrival_number
    }
}

/// The prompts of one request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Batch {
    params: Arc<BatchParams>,
    tasks: Vec<PromptTask>,
}

impl Batch {
    pub(crate) fn new(params: Arc<BatchParams>, tasks: Vec<PromptTask>) -> Self {
        Self { params, tasks }
    }

    pub(crate) fn params(&self) -> &Arc<BatchParams> {
        &self.params
    }

    pub(crate) fn tasks(&self) -> &[PromptTask] {
        &self.tasks
    }

    pub(crate) fn len(&self) -> usize {
        self.tasks.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    pub(crate) fn into_parts(self) -> (Arc<BatchParams>, Vec<PromptTask>) {
        (self.params, self.tasks)
    }

    /// Returns the permits that the batch takes: one per sequence.
    pub(crate) fn permit_count(&self) -> usize {
        self.tasks.len() * self.params.n
    }

    /// Returns the memory that the prompts take.
    pub(crate) fn content_bytes(&self) -> usize {
        self.tasks.iter().map(PromptTask::content_bytes).sum()
    }

    /// Returns the same prompts, for which another endpoint is preferred.
    pub(crate) fn avoiding(mut self, endpoint: usize) -> Self {
        self.tasks.iter_mut().for_each(|task| task.record_failed_attempt(endpoint, false));
        self
    }

    /// Returns the same prompts after a refusal that is not final, since the endpoint has answered nothing.
    pub(crate) fn refused_by(self, endpoint: usize) -> Self {
        let mut batch = self.avoiding(endpoint);
        batch.tasks.iter_mut().for_each(|task| task.provisional_refusals += 1);
        batch
    }

    /// Returns the refusals, by endpoints that have answered nothing, of the task that has most of them.
    pub(crate) fn max_provisional_refusals(&self) -> usize {
        self.tasks.iter().map(|task| task.provisional_refusals as usize).max().unwrap_or(0)
    }

    pub(crate) fn into_halves(mut self) -> [Self; 2] {
        let second = self.tasks.split_off(self.tasks.len() / 2);
        let params = Arc::clone(&self.params);
        [self, Self { params, tasks: second }]
    }

    /// Returns the same prompts, to be sent one by one.
    pub(crate) fn into_singles(self) -> Self {
        let params = BatchParams { allow_lists: false, ..(*self.params).clone() };
        Self { params: params.into(), tasks: self.tasks }
    }

    /// Records that the prompts were in a list that failed at this endpoint. Prompts of an earlier one keep their mark.
    pub(crate) fn mark_list_doubt(&mut self, endpoint: usize) {
        for task in &mut self.tasks {
            task.list_doubt = task.list_doubt.or(Some(endpoint));
        }
    }

    /// Takes the marks of all prompts.
    pub(crate) fn take_list_doubts(&mut self) -> impl Iterator<Item = usize> {
        self.tasks.iter_mut().filter_map(PromptTask::take_list_doubt)
    }

    pub(crate) fn is_first_attempt(&self) -> bool {
        !self.tasks.iter().any(PromptTask::was_sent)
    }

    pub(crate) fn begin_attempt(&mut self) {
        self.tasks.iter_mut().for_each(|task| task.attempts += 1);
    }

    /// Returns the attempts of the task that was sent most often; none for an empty batch.
    pub(crate) fn max_attempts(&self) -> Option<u32> {
        self.tasks.iter().map(PromptTask::attempts).max()
    }

    pub(crate) fn mark_hedged(&mut self, index: u64) {
        if let Some(task) = self.tasks.iter_mut().find(|task| task.index() == index) {
            task.is_hedged = true;
        }
    }

    pub(crate) fn retain_tasks(&mut self, keep: impl FnMut(&PromptTask) -> bool) {
        self.tasks.retain(keep);
    }

    /// Keeps the tasks that `keep` selects, in order, and moves the others to the end of `removed`.
    pub(crate) fn partition_tasks(
        &mut self,
        mut keep: impl FnMut(&PromptTask) -> bool,
        removed: &mut Vec<PromptTask>,
    ) {
        removed.extend(self.tasks.extract_if(.., |task| !keep(task)));
    }

    /// Returns the same prompts with another `max_tokens`.
    pub(crate) fn with_max_tokens(mut self, max_tokens: u64) -> Self {
        let mut params = (*self.params).clone();
        params.params.set_answer_limit(max_tokens);
        self.params = params.into();
        self
    }
}
