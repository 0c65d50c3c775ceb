//! The tasks of one bucket, by the parameters that their requests share: pure.
//!
//! Owns the order within a bucket and the turns of its parameter groups. Tasks themselves are in `slots`; which bucket
//! comes first is decided in `prefix_groups`.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::{
    capacity::BatchBuilder,
    slots::{BucketId, TaskKey, TaskSlotMap},
};
use crate::endpoint::BatchParams;

/// The end of a queue at which a task joins it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueEnd {
    /// Tasks that come back after a failed request: they are sent before others of their kind.
    Front,
    Back,
}

/// The keys of one bucket's tasks. Entries of tasks that have left stay until they are met.
#[derive(Debug, Default)]
pub(crate) struct TaskBucket {
    queues: HashMap<Arc<BatchParams>, VecDeque<TaskKey>>,
    turn_order: VecDeque<Arc<BatchParams>>,
    /// Entries whose tasks still wait here.
    live_count: usize,
}

impl TaskBucket {
    pub(crate) fn live_count(&self) -> usize {
        self.live_count
    }

    pub(crate) fn push_key(&mut self, params: &Arc<BatchParams>, key: TaskKey, end: QueueEnd) {
        self.live_count += 1;
        // Not `entry` alone: it would take a clone of the parameters for every task.
        let queue = match self.queues.get_mut(params) {
            Some(queue) => queue,
            None => {
                self.turn_order.push_back(Arc::clone(params));
                self.queues.entry(Arc::clone(params)).or_default()
            }
        };
        match end {
            QueueEnd::Front => queue.push_front(key),
            QueueEnd::Back => queue.push_back(key),
        }
    }

    /// Records that a task which waited here has left; the slot map already says so.
    pub(crate) fn record_removal(&mut self) {
        self.live_count -= 1;
    }

    /// Removes the keys of all tasks from their queues.
    pub(crate) fn take_keys(&mut self, slots: &TaskSlotMap, bucket: BucketId) -> Vec<TaskKey> {
        self.split_queues(slots, bucket, |_| 0)
    }

    /// Removes the keys of the later half of each queue.
    pub(crate) fn take_half(&mut self, slots: &TaskSlotMap, bucket: BucketId) -> Vec<TaskKey> {
        self.split_queues(slots, bucket, |len| len / 2)
    }

    fn split_queues(
        &mut self,
        slots: &TaskSlotMap,
        bucket: BucketId,
        split_at: impl Fn(usize) -> usize,
    ) -> Vec<TaskKey> {
        let mut removed = Vec::new();
        for queue in self.queues.values_mut() {
            queue.retain(|&key| slots.get_in_bucket(key, bucket).is_some());
            removed.extend(queue.split_off(split_at(queue.len())));
        }
        self.live_count -= removed.len().min(self.live_count);
        removed
    }

    /// Moves tasks into the batch until it is full: tasks with the batch's parameters, or for an empty batch those of
    /// the first group that has a task for its endpoint. Rejected tasks stay where they are.
    pub(crate) fn take_tasks(
        &mut self,
        slots: &mut TaskSlotMap,
        bucket: BucketId,
        batch: &mut BatchBuilder,
    ) {
        if self.live_count == 0 {
            return;
        }
        if let Some(params) = batch.params().cloned() {
            self.take_from_queue(slots, bucket, &params, batch);
            return;
        }
        for _ in 0..self.turn_order.len() {
            let Some(next) = self.turn_order.front().cloned() else { return };
            if batch.remaining(&next) == 0 {
                self.turn_order.rotate_left(1);
                continue; // the free permits do not suffice now
            }
            let entries_left = self.take_from_queue(slots, bucket, &next, batch);
            if entries_left == 0 {
                self.turn_order.pop_front();
                self.queues.remove(&next);
            }
            if !batch.is_empty() {
                batch.set_params(next);
                return;
            }
            // A group without a task for this endpoint lets the others go first.
            if entries_left > 0 {
                self.turn_order.rotate_left(1);
            }
        }
    }

    /// Returns the entries that the queue has left.
    fn take_from_queue(
        &mut self,
        slots: &mut TaskSlotMap,
        bucket: BucketId,
        params: &Arc<BatchParams>,
        batch: &mut BatchBuilder,
    ) -> usize {
        let Some(queue) = self.queues.get_mut(params) else { return 0 };
        let mut rejected = Vec::new();
        let mut wanted = batch.remaining(params);
        while wanted > 0
            && let Some(key) = queue.pop_front()
        {
            match slots.get_in_bucket(key, bucket) {
                Some(queued) if batch.rejects(queued.task()) => rejected.push(key),
                Some(_) => {
                    if let Some(queued) = slots.remove_task(key) {
                        batch.push_task(queued.into_task());
                    }
                    self.live_count -= 1;
                    wanted -= 1;
                }
                None => {} // the task has moved on since
            }
        }
        for key in rejected.into_iter().rev() {
            queue.push_front(key);
        }
        queue.len()
    }
}
