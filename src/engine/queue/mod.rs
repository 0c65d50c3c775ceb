//! The prompts a rank has in hand, and how lists are cut from them: pure.
//!
//! Owns the order of work (priority; families that begin alike, whole, on one endpoint; the longest expected first), what
//! a request's prompts have to share, halves that must stay whole, and prompts that wait for another try. Knows nothing of
//! endpoints but their numbers, or of time but instants it is given. The order of the answers is not its business.

pub(crate) mod length_estimates;
pub(crate) mod prefix_groups;
pub(crate) mod prefixes;
pub(crate) mod slots;
#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use super::EnginePolicy;
use crate::{
    domain::{LengthClass, PrefixKeys, Prompt, Route},
    endpoint::BatchParams,
};
use length_estimates::LengthEstimates;
use prefix_groups::PriorityLevel;
use prefixes::{PrefixIndex, PrefixMembership};
use slots::{BucketId, QueuedTask, TaskKey, TaskSlotMap};

/// A prompt that has no outcome yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PromptTask {
    pub(super) prompt: Prompt,
    /// Requests that held it.
    pub(super) attempts: u32,
    /// Tries that count against it: faults of servers that are well.
    pub(super) counted_tries: u32,
    /// The endpoint that failed it last: another one is preferred.
    pub(super) avoid_endpoint: Option<usize>,
    /// It was asked a second time while the first request was under way. Never twice: it would go on for ever.
    pub(super) hedged: bool,
    /// How long its answer is expected to be.
    pub(super) length_class: LengthClass,
    /// The number by which its beginning is known; none for short ones.
    arrival_number: u64,
}

/// The prompts of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) params: Arc<BatchParams>,
    pub(super) tasks: Vec<PromptTask>,
}

impl Batch {
    /// Permits it takes: one a sequence.
    pub(super) fn permit_count(&self) -> usize {
        self.tasks.len() * self.params.n
    }

    /// Two halves of it.
    pub(super) fn into_halves(mut self) -> [Self; 2] {
        let second = self.tasks.split_off(self.tasks.len() / 2);
        let shared = Arc::clone(&self.params);
        [self, Self { params: shared, tasks: second }]
    }
}

/// What an endpoint has room for.
#[derive(Clone, Copy, Debug)]
pub(super) struct EndpointCapacity {
    pub(super) endpoint: usize,
    /// Permits that are free.
    pub(super) free_permits: usize,
    /// The longest list.
    pub(super) max_batch_size: usize,
    /// May conversations ride in lists, rendered here?
    pub(super) renders_locally: bool,
    /// It has nothing to do: then it takes what no window could hold.
    pub(super) is_idle: bool,
    /// There are other endpoints, which tasks that failed here may wait for.
    pub(super) has_alternatives: bool,
}

/// What waits to be sent.
#[derive(Default)]
pub(super) struct TaskQueue {
    slots: TaskSlotMap,
    priority_levels: BTreeMap<Reverse<i64>, PriorityLevel>,
    length_estimates: LengthEstimates,
    prefix_index: PrefixIndex,
    /// Where tasks stand that nobody else begins like, by their number.
    ungrouped: HashMap<u64, TaskKey>,
    /// Halves of a refused list: sent as they are, and first.
    split_batches: VecDeque<Batch>,
    delayed_batches: BinaryHeap<DelayedBatch>,
    task_count: usize,
    /// Of these: never sent.
    never_sent_count: usize,
    text_bytes: usize,
    last_arrival_number: u64,
    /// Of prompts without parameters of their own, by route.
    default_params: [Option<Arc<BatchParams>>; 2],
}

/// Tasks that wait for their time.
struct DelayedBatch {
    due_at: Instant,
    batch: Batch,
}

impl TaskQueue {
    /// Tasks here, waiting ones included.
    pub(super) fn len(&self) -> usize {
        self.task_count
    }

    /// Tasks here that were never sent.
    pub(super) fn never_sent_count(&self) -> usize {
        self.never_sent_count
    }

    /// The length of their texts.
    pub(super) fn text_bytes(&self) -> usize {
        self.text_bytes
    }

    /// Takes a prompt in.
    pub(super) fn add_prompt(&mut self, prompt: Prompt, policy: &EnginePolicy) {
        let shared = self.params_for(&prompt, policy);
        self.last_arrival_number += 1;
        let text = prompt.input.as_str();
        let class = LengthClass::of_prompt(text.len(), |name| shared.params.get(name));
        let number = self.last_arrival_number;
        let long = PrefixKeys::of_text(text).level_count() > 0;
        let belongs = self.prefix_index.add_prompt(number, text);
        let task = PromptTask {
            prompt,
            attempts: 0,
            counted_tries: 0,
            avoid_endpoint: None,
            hedged: false,
            length_class: class,
            arrival_number: number,
        };
        match belongs {
            PrefixMembership::Ungrouped => {
                let slot = self.insert_task(&shared, task, BucketId::LengthClass(class), false);
                if long {
                    self.ungrouped.insert(number, slot);
                }
            }
            PrefixMembership::ExistingGroup(family) => {
                self.insert_task(&shared, task, BucketId::PrefixGroup(family), false);
            }
            PrefixMembership::NewGroup(family, first) => {
                if let Some(slot) = self.ungrouped.remove(&first) {
                    self.move_to_bucket(slot, BucketId::PrefixGroup(family));
                }
                self.insert_task(&shared, task, BucketId::PrefixGroup(family), false);
            }
            PrefixMembership::DissolvedGroup(family) => {
                for level in self.priority_levels.values_mut() {
                    level.dissolve_group(&mut self.slots, family);
                }
                self.insert_task(&shared, task, BucketId::LengthClass(class), false);
            }
        }
    }

    /// Takes tasks back, to be sent before others of their kind.
    pub(super) fn requeue_first(&mut self, batch: Batch) {
        for task in batch.tasks.into_iter().rev() {
            let home = BucketId::LengthClass(task.length_class);
            self.insert_task(&batch.params, task, home, true);
        }
    }

    /// Takes a half that must stay whole, to be sent before everything else.
    pub(super) fn requeue_split(&mut self, half: Batch) {
        if half.tasks.is_empty() {
            return;
        }
        self.add_counts(&half);
        self.split_batches.push_back(half);
    }

    /// Takes tasks that are not to be sent before `due`.
    pub(super) fn requeue_delayed(&mut self, due: Instant, batch: Batch) {
        if batch.tasks.is_empty() {
            return;
        }
        self.add_counts(&batch);
        self.delayed_batches.push(DelayedBatch { due_at: due, batch });
    }

    /// When the next waiting tasks are due.
    pub(super) fn next_release(&self) -> Option<Instant> {
        self.delayed_batches.peek().map(|it| it.due_at)
    }

    /// What waited until `now` may be sent from here on.
    pub(super) fn release_due(&mut self, now: Instant) {
        while self.next_release().is_some_and(|due| due <= now) {
            if let Some(DelayedBatch { batch, .. }) = self.delayed_batches.pop() {
                self.subtract_counts(&batch.tasks);
                self.requeue_first(batch);
            }
        }
    }

    /// An answer of so many tokens: what it shows of lengths.
    pub(super) fn record_answer(&mut self, class: LengthClass, tokens: u64) {
        self.length_estimates.record_answer(class, tokens);
    }

    /// The endpoint is down: others may have what was kept for it.
    pub(super) fn release_endpoint(&mut self, endpoint: usize) {
        self.priority_levels.values_mut().for_each(|level| level.release_endpoint(endpoint));
    }

    /// The next request for an endpoint. Nothing where no task is for this endpoint (tasks that failed here wait for
    /// another, if there is one), or its permits do not suffice.
    pub(super) fn next_batch(&mut self, room: EndpointCapacity) -> Option<Batch> {
        let shunned =
            |task: &PromptTask| room.has_alternatives && task.avoid_endpoint == Some(room.endpoint);
        let fits = |half: &Batch| half.permit_count() <= room.free_permits || room.is_idle;
        let place = self
            .split_batches
            .iter()
            .position(|half| fits(half) && !half.tasks.iter().all(shunned));
        if let Some(half) = place.and_then(|place| self.split_batches.remove(place)) {
            self.subtract_counts(&half.tasks);
            return Some(half);
        }
        let wanted = |shared: &BatchParams| {
            let rides =
                shared.allow_lists && (shared.route == Route::Completions || room.renders_locally);
            let permits = (room.free_permits / shared.n).max(usize::from(room.is_idle));
            permits.min(if rides { room.max_batch_size } else { 1 })
        };
        let (mut tasks, mut shared) = (Vec::new(), None);
        for level in self.priority_levels.values_mut() {
            level.fill_batch(
                &mut self.slots,
                self.length_estimates.class_order(),
                room.endpoint,
                &mut shared,
                wanted,
                shunned,
                &mut tasks,
            );
            if !tasks.is_empty() {
                break;
            }
        }
        self.subtract_counts(&tasks);
        for task in &tasks {
            self.ungrouped.remove(&task.arrival_number);
        }
        Some(Batch { params: shared?, tasks }).filter(|batch| !batch.tasks.is_empty())
    }

    /// Takes out the tasks that `which` names by their index; their indexes.
    pub(super) fn remove_matching(&mut self, which: impl Fn(u64) -> bool) -> Vec<u64> {
        let named = |task: &PromptTask| which(task.prompt.index);
        let mut out = Vec::new();
        for held in self.slots.take_matching(|held| named(&held.task)) {
            if let Some(level) = self.priority_levels.get_mut(&Reverse(held.task.prompt.priority)) {
                level.record_removal(held.bucket);
            }
            self.ungrouped.remove(&held.task.arrival_number);
            out.push(held.task);
        }
        for batch in &mut self.split_batches {
            out.extend(batch.tasks.extract_if(.., |task| named(task)));
        }
        self.split_batches.retain(|batch| !batch.tasks.is_empty());
        let mut later = std::mem::take(&mut self.delayed_batches).into_vec();
        for it in &mut later {
            out.extend(it.batch.tasks.extract_if(.., |task| named(task)));
        }
        later.retain(|it| !it.batch.tasks.is_empty());
        self.delayed_batches = later.into();
        self.subtract_counts(&out);
        out.iter().map(|task| task.prompt.index).collect()
    }

    fn insert_task(
        &mut self,
        shared: &Arc<BatchParams>,
        task: PromptTask,
        home: BucketId,
        first: bool,
    ) -> TaskKey {
        self.task_count += 1;
        self.never_sent_count += usize::from(task.attempts == 0);
        self.text_bytes += task.prompt.input.as_str().len();
        let level = self.priority_levels.entry(Reverse(task.prompt.priority)).or_default();
        let class = task.length_class;
        let slot =
            self.slots.insert_task(QueuedTask { task, params: Arc::clone(shared), bucket: home });
        level.insert_task(shared, slot, home, class, first);
        slot
    }

    fn move_to_bucket(&mut self, slot: TaskKey, home: BucketId) {
        let Some(held) = self.slots.get_mut(slot) else { return };
        let (class, shared) = (held.task.length_class, Arc::clone(&held.params));
        let level = self.priority_levels.entry(Reverse(held.task.prompt.priority)).or_default();
        level.record_removal(held.bucket);
        held.bucket = home;
        level.insert_task(&shared, slot, home, class, false);
    }

    fn add_counts(&mut self, batch: &Batch) {
        self.task_count += batch.tasks.len();
        self.never_sent_count += count_never_sent(&batch.tasks);
        self.text_bytes +=
            batch.tasks.iter().map(|it| it.prompt.input.as_str().len()).sum::<usize>();
    }

    fn subtract_counts(&mut self, tasks: &[PromptTask]) {
        self.task_count -= tasks.len();
        self.never_sent_count -= count_never_sent(tasks);
        self.text_bytes -= tasks.iter().map(|it| it.prompt.input.as_str().len()).sum::<usize>();
    }

    /// What a prompt's request must share with the others in it.
    fn params_for(&mut self, prompt: &Prompt, policy: &EnginePolicy) -> Arc<BatchParams> {
        let route = policy.route_of(prompt);
        let asked = prompt.params.get_u64("max_tokens").or(policy.max_tokens());
        let fitted = policy.fitted_max_tokens(asked, &prompt.input);
        if !prompt.params.is_empty() || fitted.is_some() {
            return Arc::new(policy.batch_params(&prompt.params, route, fitted));
        }
        // Most prompts have nothing of their own: what they share is made once.
        let usual = &mut self.default_params[usize::from(route == Route::Chat)];
        let usual =
            usual.get_or_insert_with(|| Arc::new(policy.batch_params(&prompt.params, route, None)));
        Arc::clone(usual)
    }
}

fn count_never_sent(tasks: &[PromptTask]) -> usize {
    tasks.iter().filter(|task| task.attempts == 0).count()
}

impl Ord for DelayedBatch {
    /// The heap's top is the earliest.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.due_at.cmp(&self.due_at)
    }
}

impl PartialOrd for DelayedBatch {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for DelayedBatch {
    fn eq(&self, other: &Self) -> bool {
        self.due_at == other.due_at
    }
}

impl Eq for DelayedBatch {}
