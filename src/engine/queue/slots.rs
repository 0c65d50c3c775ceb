//! Tasks in hand and the queues they stand in: pure.
//!
//! Owns two containers that belong together: the rack holds the tasks, shelves hold the order. A task can change its shelf
//! without being looked for in the old one: a shelf's entry counts only while the rack says that the task stands there.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::{PromptTask, prefixes::PrefixGroupKey};
use crate::{domain::LengthClass, endpoint::BatchParams};

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum BucketId {
    /// With those of about its length.
    LengthClass(LengthClass),
    /// With those that begin as it does.
    PrefixGroup(PrefixGroupKey),
}

/// A task's place in the rack, and which of those that stood there it is: an entry in a queue outlives its task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TaskKey {
    index: usize,
    generation: u64,
}

/// A task that waits.
#[derive(Debug)]
pub(crate) struct QueuedTask {
    pub(crate) task: PromptTask,
    pub(crate) params: Arc<BatchParams>,
    pub(crate) bucket: BucketId,
}

/// All tasks that stand on shelves.
#[derive(Debug, Default)]
pub(crate) struct TaskSlotMap {
    slots: Vec<Option<(u64, QueuedTask)>>,
    free_indexes: Vec<usize>,
    last_generation: u64,
}

impl TaskSlotMap {
    pub(crate) fn insert_task(&mut self, held: QueuedTask) -> TaskKey {
        self.last_generation += 1;
        let number = self.last_generation;
        let place = self.free_indexes.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[place] = Some((number, held));
        TaskKey { index: place, generation: number }
    }

    pub(crate) fn get_mut(&mut self, slot: TaskKey) -> Option<&mut QueuedTask> {
        let (number, held) = self.slots.get_mut(slot.index)?.as_mut()?;
        (*number == slot.generation).then_some(held)
    }

    /// Takes out all that are `wanted`: their entries in queues count no more, and their shelves are to be told.
    pub(crate) fn take_matching(
        &mut self,
        wanted: impl Fn(&QueuedTask) -> bool,
    ) -> Vec<QueuedTask> {
        let mut out = Vec::new();
        for (place, slot) in self.slots.iter_mut().enumerate() {
            if let Some((_, held)) = slot.take_if(|(_, held)| wanted(held)) {
                self.free_indexes.push(place);
                out.push(held);
            }
        }
        out
    }

    fn get_in_bucket(&self, slot: TaskKey, home: BucketId) -> Option<&QueuedTask> {
        let (number, held) = self.slots.get(slot.index)?.as_ref()?;
        (*number == slot.generation && held.bucket == home).then_some(held)
    }

    fn remove_task(&mut self, slot: TaskKey) -> Option<QueuedTask> {
        let place = self.slots.get_mut(slot.index)?;
        let (_, held) = place.take_if(|(number, _)| *number == slot.generation)?;
        self.free_indexes.push(slot.index);
        Some(held)
    }
}

/// Tasks of one home, by what their requests share.
#[derive(Debug, Default)]
pub(crate) struct TaskBucket {
    queues: HashMap<Arc<BatchParams>, VecDeque<TaskKey>>,
    turn_order: VecDeque<Arc<BatchParams>>,
    live_count: usize,
}

impl TaskBucket {
    /// How many stand here.
    pub(crate) fn live_count(&self) -> usize {
        self.live_count
    }

    pub(crate) fn push_key(&mut self, shared: &Arc<BatchParams>, slot: TaskKey, first: bool) {
        self.live_count += 1;
        let queue = match self.queues.get_mut(shared) {
            Some(queue) => queue,
            None => {
                self.turn_order.push_back(Arc::clone(shared));
                self.queues.entry(Arc::clone(shared)).or_default()
            }
        };
        if first { queue.push_front(slot) } else { queue.push_back(slot) }
    }

    /// A task that stood here now stands elsewhere: the rack was told.
    pub(crate) fn record_removal(&mut self) {
        self.live_count -= 1;
    }

    /// Takes all of them out of their queues, or the later half of each; what they share is kept in the rack.
    pub(crate) fn split_queues(
        &mut self,
        rack: &TaskSlotMap,
        home: BucketId,
        all: bool,
    ) -> Vec<TaskKey> {
        let mut out = Vec::new();
        for queue in self.queues.values_mut() {
            queue.retain(|&slot| rack.get_in_bucket(slot, home).is_some());
            let from = if all { 0 } else { queue.len() / 2 };
            out.extend(queue.split_off(from));
        }
        self.live_count -= out.len().min(self.live_count);
        out
    }

    /// Up to as many tasks as `wanted` says of what they share, all sharing the same: `shared` where something is in it,
    /// else the first group that gives any. `shunned` tasks stay where they are.
    pub(crate) fn take_tasks(
        &mut self,
        rack: &mut TaskSlotMap,
        home: BucketId,
        shared: &mut Option<Arc<BatchParams>>,
        wanted: impl Fn(&BatchParams) -> usize,
        shunned: impl Fn(&PromptTask) -> bool,
        into: &mut Vec<PromptTask>,
    ) {
        if self.live_count == 0 {
            return;
        }
        if let Some(shared) = shared {
            let most = wanted(shared);
            self.take_from_queue(rack, home, shared, most, &shunned, into);
            return;
        }
        for _ in 0..self.turn_order.len() {
            let Some(next) = self.turn_order.front().cloned() else { return };
            let before = into.len();
            let most = wanted(&next);
            if most == 0 {
                self.turn_order.rotate_left(1);
                continue; // its permits do not suffice now
            }
            let left = self.take_from_queue(rack, home, &next, most, &shunned, into);
            if left == 0 {
                self.turn_order.pop_front();
                self.queues.remove(&next);
            }
            if into.len() > before {
                *shared = Some(next);
                return;
            }
            // A group that gave nothing lets the others go first.
            if left > 0 {
                self.turn_order.rotate_left(1);
            }
        }
    }

    /// How many entries its queue has left.
    fn take_from_queue(
        &mut self,
        rack: &mut TaskSlotMap,
        home: BucketId,
        shared: &Arc<BatchParams>,
        most: usize,
        shunned: &impl Fn(&PromptTask) -> bool,
        into: &mut Vec<PromptTask>,
    ) -> usize {
        let Some(queue) = self.queues.get_mut(shared) else { return 0 };
        let mut stay = Vec::new();
        let mut wanted = most.saturating_sub(into.len());
        while wanted > 0
            && let Some(slot) = queue.pop_front()
        {
            match rack.get_in_bucket(slot, home) {
                Some(held) if shunned(&held.task) => stay.push(slot),
                Some(_) => {
                    into.extend(rack.remove_task(slot).map(|held| held.task));
                    self.live_count -= 1;
                    wanted -= 1;
                }
                None => {} // it stands elsewhere by now
            }
        }
        for slot in stay.into_iter().rev() {
            queue.push_front(slot);
        }
        queue.len()
    }
}
