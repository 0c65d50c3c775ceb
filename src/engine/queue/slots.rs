//! The tasks that wait in buckets, by key: pure.
//!
//! Owns the slot map. Buckets keep only keys, in the order of work. A task can change its bucket without a search in
//! the old one: a bucket's entry counts only while the slot map says that the task stands there. Keys carry a version,
//! so an entry that outlives its task never names the task that took over the slot.

use std::sync::Arc;

use slotmap::SlotMap;

use super::{prefixes::PrefixGroupKey, task::PromptTask};
use crate::{domain::LengthClass, endpoint::BatchParams};

slotmap::new_key_type! {
    /// The slot of a task and the slot's version.
    pub(crate) struct TaskKey;
}

/// The bucket in which a task waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum BucketId {
    /// Prompts whose answers are expected to be about as long.
    LengthClass(LengthClass),
    /// Prompts that begin alike.
    PrefixGroup(PrefixGroupKey),
}

/// A task that waits in a bucket.
#[derive(Debug)]
pub(crate) struct QueuedTask {
    task: PromptTask,
    params: Arc<BatchParams>,
    bucket: BucketId,
}

impl QueuedTask {
    pub(crate) fn new(task: PromptTask, params: Arc<BatchParams>, bucket: BucketId) -> Self {
        Self { task, params, bucket }
    }

    pub(crate) fn task(&self) -> &PromptTask {
        &self.task
    }

    pub(crate) fn into_task(self) -> PromptTask {
        self.task
    }

    pub(crate) fn params(&self) -> &Arc<BatchParams> {
        &self.params
    }

    pub(crate) fn bucket(&self) -> BucketId {
        self.bucket
    }

    /// Moves the task to another bucket; its entry in the old one no longer counts.
    pub(crate) fn set_bucket(&mut self, bucket: BucketId) {
        self.bucket = bucket;
    }
}

/// All tasks that wait in buckets.
#[derive(Debug, Default)]
pub(crate) struct TaskSlotMap {
    slots: SlotMap<TaskKey, QueuedTask>,
}

impl TaskSlotMap {
    pub(crate) fn insert_task(&mut self, queued: QueuedTask) -> TaskKey {
        self.slots.insert(queued)
    }

    pub(crate) fn get_mut(&mut self, key: TaskKey) -> Option<&mut QueuedTask> {
        self.slots.get_mut(key)
    }

    /// Returns the task if it waits in this bucket.
    pub(crate) fn get_in_bucket(&self, key: TaskKey, bucket: BucketId) -> Option<&QueuedTask> {
        self.slots.get(key).filter(|queued| queued.bucket == bucket)
    }

    pub(crate) fn remove_task(&mut self, key: TaskKey) -> Option<QueuedTask> {
        self.slots.remove(key)
    }

    /// Removes the tasks that `matches` selects. The caller corrects the counts of their buckets.
    pub(crate) fn take_matching(
        &mut self,
        matches: impl Fn(&QueuedTask) -> bool,
    ) -> Vec<QueuedTask> {
        // Keys first: the map cannot change while it is iterated, and `drain` takes all.
        let selected = self.slots.iter().filter(|(_, queued)| matches(queued));
        let keys: Vec<TaskKey> = selected.map(|(key, _)| key).collect();
        keys.into_iter().filter_map(|key| self.slots.remove(key)).collect()
    }
}
