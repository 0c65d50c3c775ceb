//! The prompts of a rank that wait to be sent, and how batches are cut from them: pure.
//!
//! Owns the order of work: priority first, then prefix groups whole on one endpoint, then the longest expected answers.
//! Owns also the halves of refused batches, which must stay whole, and the tasks that wait for their next attempt.
//! Knows endpoints only by number and time only as instants that it is given. The order of answers in the output is
//! restored when they are gathered; requests in flight are in `scheduler::in_flight`.
//!
//! | file | owns |
//! |---|---|
//! | `task` | a prompt between two requests, a batch |
//! | `invalid_tries` | its answers that were not valid |
//! | `capacity` | how many prompts fit an endpoint's next request |
//! | `slots` | the tasks that wait in buckets, by key |
//! | `bucket` | the order within a bucket |
//! | `prefix_groups` | the order of buckets, and which endpoint serves which prefix group |
//! | `prefixes` | which prompts begin alike |
//! | `length_estimates` | the expected length of answers |

mod bucket;
mod capacity;
mod invalid_tries;
mod length_estimates;
mod prefix_groups;
mod prefixes;
mod slots;
mod task;
#[cfg(test)]
mod tests;

use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeMap, BinaryHeap, HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

pub(crate) use capacity::EndpointCapacity;
pub(crate) use invalid_tries::{FollowUp, InvalidTries};
pub(crate) use task::{Batch, PromptTask};

use super::EnginePolicy;
use crate::{
    domain::{LengthClass, ModelNumber, ModelSet, PrefixKeys, Prompt, PromptInput, Route},
    endpoint::BatchParams,
};
use capacity::BatchBuilder;
use length_estimates::LengthEstimates;
use prefix_groups::PriorityLevel;
use prefixes::{PrefixIndex, PrefixMembership};
use slots::{BucketId, QueuedTask, TaskKey, TaskSlotMap};

/// The tasks that wait to be sent.
#[derive(Default)]
pub(crate) struct TaskQueue {
    slots: TaskSlotMap,
    /// Tasks by priority and, within it, by model: groups that begin alike never share a model's prefix cache with others,
    /// and an endpoint has to look only at the models that it serves.
    priority_levels: BTreeMap<LevelKey, PriorityLevel>,
    length_estimates: LengthEstimates,
    /// By model.
    prefix_indexes: Vec<PrefixIndex>,
    /// Tasks that belong to no group but could found one, by arrival number.
    ungrouped: HashMap<u64, TaskKey>,
    /// Batches that must stay whole, such as the halves of a refused one. They are sent before everything else.
    split_batches: VecDeque<Batch>,
    delayed_batches: BinaryHeap<DelayedBatch>,
    /// Single tasks that are sent after all others: they take long, and may never be answered.
    postponed: VecDeque<Batch>,
    /// Tasks here, delayed ones included.
    task_count: usize,
    /// The same by model.
    model_counts: Vec<usize>,
    never_sent_count: usize,
    content_bytes: usize,
    last_arrival_number: u64,
    /// The request parameters of prompts without parameters of their own, by model, for the completions and the chat
    /// route.
    default_params: Vec<[Option<Arc<BatchParams>>; 2]>,
}

/// Priority, the highest first, and model.
type LevelKey = (Reverse<i64>, ModelNumber);

/// Tasks that wait for a time, such as the end of a retry's back-off.
struct DelayedBatch {
    due_at: Instant,
    batch: Batch,
}

impl TaskQueue {
    pub(crate) fn len(&self) -> usize {
        self.task_count
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.task_count == 0
    }

    /// Returns the number of tasks for these models.
    pub(crate) fn waiting_for(&self, models: &ModelSet) -> usize {
        let numbered = (0..=ModelNumber::MAX).zip(&self.model_counts);
        numbered.filter(|(number, _)| models.contains(*number)).map(|(_, count)| count).sum()
    }

    /// Returns the models that tasks are for.
    pub(crate) fn waiting_models(&self) -> ModelSet {
        let numbered = (0..=ModelNumber::MAX).zip(&self.model_counts);
        numbered.filter(|(_, count)| **count > 0).map(|(number, _)| number).collect()
    }

    /// Returns the number of tasks that no request has carried yet.
    pub(crate) fn never_sent_count(&self) -> usize {
        self.never_sent_count
    }

    /// Returns the memory that the texts and images of all tasks take.
    pub(crate) fn content_bytes(&self) -> usize {
        self.content_bytes
    }

    pub(crate) fn add_prompt(&mut self, prompt: Prompt, policy: &EnginePolicy) {
        let params = self.params_for(&prompt, policy);
        self.last_arrival_number += 1;
        let text = prompt.input.as_str();
        let class = LengthClass::of_prompt(text.len(), |name| params.params.get(name));
        let number = self.last_arrival_number;
        let may_found_group = PrefixKeys::of_text(text).level_count() > 0;
        let model = params.model_number;
        let prefix_index = indexed_by_model(&mut self.prefix_indexes, model);
        let membership = prefix_index.add_prompt(number, text);
        let task = PromptTask::new(prompt, class, number);
        match membership {
            PrefixMembership::Ungrouped => {
                let key = self.insert_task(&params, task, BucketId::LengthClass(class));
                if may_found_group {
                    self.ungrouped.insert(number, key);
                }
            }
            PrefixMembership::ExistingGroup(group) => {
                self.insert_task(&params, task, BucketId::PrefixGroup(group));
            }
            PrefixMembership::NewGroup(group, first) => {
                if let Some(key) = self.ungrouped.remove(&first) {
                    self.move_to_bucket(key, BucketId::PrefixGroup(group));
                }
                self.insert_task(&params, task, BucketId::PrefixGroup(group));
            }
            PrefixMembership::DissolvedGroup(group) => {
                for ((_, its_model), level) in &mut self.priority_levels {
                    if *its_model == model {
                        level.dissolve_group(&mut self.slots, group);
                    }
                }
                self.insert_task(&params, task, BucketId::LengthClass(class));
            }
        }
    }

    /// Takes tasks back, to be sent before others of their kind.
    pub(crate) fn requeue_first(&mut self, batch: Batch) {
        let (params, tasks) = batch.into_parts();
        // In reverse, since each goes to the front.
        for task in tasks.into_iter().rev() {
            self.add_counts(params.model_number, std::slice::from_ref(&task));
            let (key, class) = (level_key(&task, &params), task.length_class());
            let queued = QueuedTask::new(task, Arc::clone(&params), BucketId::LengthClass(class));
            let level = self.priority_levels.entry(key).or_default();
            level.prepend_task(&params, self.slots.insert_task(queued), class);
        }
    }

    /// Takes a batch that must stay whole, to be sent before everything else.
    pub(crate) fn requeue_split(&mut self, batch: Batch) {
        if batch.is_empty() {
            return;
        }
        self.add_counts(batch.params().model_number, batch.tasks());
        self.split_batches.push_back(batch);
    }

    /// Takes tasks that are not to be sent before `due_at`.
    pub(crate) fn requeue_delayed(&mut self, due_at: Instant, batch: Batch) {
        if batch.is_empty() {
            return;
        }
        self.add_counts(batch.params().model_number, batch.tasks());
        self.delayed_batches.push(DelayedBatch { due_at, batch });
    }

    /// Takes tasks that are to be sent one by one, after all others.
    pub(crate) fn postpone(&mut self, batch: Batch) {
        self.add_counts(batch.params().model_number, batch.tasks());
        let (params, tasks) = batch.into_parts();
        let single = |task| Batch::new(Arc::clone(&params), vec![task]);
        self.postponed.extend(tasks.into_iter().map(single));
    }

    /// Returns when the next delayed tasks are due.
    pub(crate) fn next_release(&self) -> Option<Instant> {
        self.delayed_batches.peek().map(|delayed| delayed.due_at)
    }

    /// Makes the delayed tasks that are due ready to be sent.
    pub(crate) fn release_due(&mut self, now: Instant) {
        while self.next_release().is_some_and(|due_at| due_at <= now) {
            if let Some(DelayedBatch { batch, .. }) = self.delayed_batches.pop() {
                self.subtract_counts(batch.params().model_number, batch.tasks());
                self.requeue_first(batch);
            }
        }
    }

    /// Records the length of an answer, in tokens, for the order of work.
    pub(crate) fn record_answer(&mut self, class: LengthClass, tokens: u64) {
        self.length_estimates.record_answer(class, tokens);
    }

    /// Lets other endpoints serve the prefix groups of an endpoint that is down.
    pub(crate) fn release_endpoint(&mut self, endpoint: usize) {
        self.priority_levels.values_mut().for_each(|level| level.release_endpoint(endpoint));
    }

    /// Removes and returns the next request's prompts for an endpoint. Returns none if no task is for this endpoint
    /// (tasks that failed here wait for another, if there is one), or if its free permits do not suffice.
    pub(crate) fn next_batch(&mut self, capacity: EndpointCapacity) -> Option<Batch> {
        let split = self.split_batches.iter().position(|batch| capacity.admits_whole(batch));
        if let Some(batch) = split.and_then(|position| self.split_batches.remove(position)) {
            self.subtract_counts(batch.params().model_number, batch.tasks());
            return Some(batch);
        }
        let class_order = self.length_estimates.class_order();
        let served = self.priority_levels.iter_mut();
        let counts = &self.model_counts;
        let mut served = served.filter(|((_, model), _)| {
            capacity.models.contains(*model) && counts.get(usize::from(*model)) > Some(&0)
        });
        let batch = served.find_map(|(&(_, model), level)| {
            let mut builder = BatchBuilder::new(capacity, model);
            level.fill_batch(&mut self.slots, class_order, &mut builder);
            builder.finish()
        });
        let batch = batch.or_else(|| {
            let postponed = self.postponed.iter().position(|batch| capacity.admits_whole(batch))?;
            self.postponed.remove(postponed)
        })?;
        self.subtract_counts(batch.params().model_number, batch.tasks());
        // A task that has left can found no group.
        for task in batch.tasks() {
            self.ungrouped.remove(&task.arrival_number());
        }
        Some(batch)
    }

    /// Removes all tasks that `matches` selects by model and index, and returns their indexes.
    pub(crate) fn remove_matching(
        &mut self,
        matches: impl Fn(ModelNumber, u64) -> bool,
    ) -> Vec<u64> {
        let mut indexes = Vec::new();
        let selected =
            |queued: &QueuedTask| matches(queued.params().model_number, queued.task().index());
        for queued in self.slots.take_matching(selected) {
            let (bucket, model) = (queued.bucket(), queued.params().model_number);
            let key = level_key(queued.task(), queued.params());
            let task = queued.into_task();
            if let Some(level) = self.priority_levels.get_mut(&key) {
                level.record_removal(bucket);
            }
            self.ungrouped.remove(&task.arrival_number());
            self.subtract_counts(model, std::slice::from_ref(&task));
            indexes.push(task.index());
        }
        let mut split: Vec<Batch> = std::mem::take(&mut self.split_batches).into();
        let mut delayed = std::mem::take(&mut self.delayed_batches).into_vec();
        let mut postponed = std::mem::take(&mut self.postponed);
        let batches = split.iter_mut().chain(delayed.iter_mut().map(|entry| &mut entry.batch));
        let batches = batches.chain(postponed.iter_mut());
        for batch in batches {
            let (model, mut removed) = (batch.params().model_number, Vec::new());
            batch.partition_tasks(|task| !matches(model, task.index()), &mut removed);
            self.subtract_counts(model, &removed);
            indexes.extend(removed.iter().map(PromptTask::index));
        }
        split.retain(|batch| !batch.is_empty());
        delayed.retain(|entry| !entry.batch.is_empty());
        postponed.retain(|batch| !batch.is_empty());
        self.postponed = postponed;
        (self.split_batches, self.delayed_batches) = (split.into(), delayed.into());
        indexes
    }

    fn insert_task(
        &mut self,
        params: &Arc<BatchParams>,
        task: PromptTask,
        bucket: BucketId,
    ) -> TaskKey {
        self.add_counts(params.model_number, std::slice::from_ref(&task));
        let level = self.priority_levels.entry(level_key(&task, params)).or_default();
        let class = task.length_class();
        let key = self.slots.insert_task(QueuedTask::new(task, Arc::clone(params), bucket));
        level.append_task(params, key, bucket, class);
        key
    }

    fn move_to_bucket(&mut self, key: TaskKey, bucket: BucketId) {
        let Some(queued) = self.slots.get_mut(key) else { return };
        let (class, params) = (queued.task().length_class(), Arc::clone(queued.params()));
        let level = self.priority_levels.entry(level_key(queued.task(), &params)).or_default();
        level.record_removal(queued.bucket());
        queued.set_bucket(bucket);
        level.append_task(&params, key, bucket, class);
    }

    fn add_counts(&mut self, model: ModelNumber, tasks: &[PromptTask]) {
        self.task_count += tasks.len();
        *indexed_by_model(&mut self.model_counts, model) += tasks.len();
        self.never_sent_count += count_never_sent(tasks);
        self.content_bytes += tasks.iter().map(PromptTask::content_bytes).sum::<usize>();
    }

    fn subtract_counts(&mut self, model: ModelNumber, tasks: &[PromptTask]) {
        self.task_count -= tasks.len();
        *indexed_by_model(&mut self.model_counts, model) -= tasks.len();
        self.never_sent_count -= count_never_sent(tasks);
        self.content_bytes -= tasks.iter().map(PromptTask::content_bytes).sum::<usize>();
    }

    /// Returns the parameters that the prompt must share with the others of its request.
    fn params_for(&mut self, prompt: &Prompt, policy: &EnginePolicy) -> Arc<BatchParams> {
        // (the scheduler has rejected prompts whose model is none of the job's)
        let model = policy.model_number(prompt).unwrap_or(0);
        let defaults = || policy.defaults_of(prompt).answer_limit();
        let requested = prompt.params.answer_limit().or_else(defaults);
        let truncated = prompt.params.get_u64("truncate_prompt_tokens");
        let fitted = policy.fitted_max_tokens(model, requested, &prompt.input, truncated);
        let is_text = matches!(prompt.input, PromptInput::Text(_) | PromptInput::Messages(_));
        let has_images = !prompt.images.is_empty();
        let is_plain = is_text && !has_images && prompt.route.is_none();
        if !prompt.params.is_empty() || fitted.is_some() || !is_plain {
            let mut params = policy.batch_params(prompt, fitted);
            // Images cannot be rendered here.
            params.allow_lists &= !has_images;
            return Arc::new(params);
        }
        // Most prompts have no parameters of their own: those they share are built once.
        let route = policy.route_of(prompt);
        let shared = indexed_by_model(&mut self.default_params, model);
        let shared = &mut shared[usize::from(route == Route::Chat)];
        let shared = shared.get_or_insert_with(|| Arc::new(policy.batch_params(prompt, None)));
        Arc::clone(shared)
    }
}

fn level_key(task: &PromptTask, params: &BatchParams) -> LevelKey {
    (Reverse(task.priority()), params.model_number)
}

/// Returns the value of a model in a list by model number, which grows as needed.
fn indexed_by_model<T: Default>(values: &mut Vec<T>, model: ModelNumber) -> &mut T {
    let at = usize::from(model);
    if values.len() <= at {
        values.resize_with(at + 1, T::default);
    }
    &mut values[at]
}

fn count_never_sent(tasks: &[PromptTask]) -> usize {
    tasks.iter().filter(|task| !task.was_sent()).count()
}

impl Ord for DelayedBatch {
    /// Reversed, so that the heap's top is the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        other.due_at.cmp(&self.due_at)
    }
}

impl PartialOrd for DelayedBatch {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for DelayedBatch {
    fn eq(&self, other: &Self) -> bool {
        self.due_at == other.due_at
    }
}

impl Eq for DelayedBatch {}
