//! The buckets of one priority and their turns: pure.
//!
//! Owns which prefix group goes to which endpoint. A group is served whole by the endpoint that began it, whose prefix
//! cache holds the common beginning; at the end, when nothing else is left, an idle endpoint takes half of the largest
//! group of another. How groups are found is in `prefixes`.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::{
    bucket::{QueueEnd, TaskBucket},
    capacity::BatchBuilder,
    prefixes::PrefixGroupKey,
    slots::{BucketId, TaskKey, TaskSlotMap},
};
use crate::{domain::LengthClass, endpoint::BatchParams};

/// Groups that are kept although none of their prompts is here: more may come, and should go where the others went.
const MAX_EMPTY_GROUPS: usize = 4096;

/// The tasks of one priority.
#[derive(Debug, Default)]
pub(crate) struct PriorityLevel {
    length_buckets: BTreeMap<LengthClass, TaskBucket>,
    prefix_groups: BTreeMap<PrefixGroupKey, PrefixGroup>,
    /// Listed groups without an endpoint, by the length class of their first prompt.
    unassigned_groups: BTreeMap<LengthClass, VecDeque<PrefixGroupKey>>,
    /// Listed groups by the endpoint that serves them.
    assigned_groups: BTreeMap<usize, VecDeque<PrefixGroupKey>>,
    /// Counts down from the largest key: the prefix index numbers its groups upwards.
    last_split_id: PrefixGroupKey,
    /// The number of groups at which empty ones are removed.
    sweep_threshold: usize,
}

#[derive(Debug)]
struct PrefixGroup {
    bucket: TaskBucket,
    length_class: LengthClass,
    endpoint: Option<usize>,
    /// Whether the group stands in `unassigned_groups` or `assigned_groups`.
    is_listed: bool,
}

impl PrefixGroup {
    fn new(length_class: LengthClass) -> Self {
        Self { bucket: TaskBucket::default(), length_class, endpoint: None, is_listed: false }
    }
}

impl PriorityLevel {
    /// Adds a task at the end of a bucket that is for prompts of this length class or for a group.
    pub(crate) fn append_task(
        &mut self,
        params: &Arc<BatchParams>,
        key: TaskKey,
        bucket: BucketId,
        class: LengthClass,
    ) {
        match bucket {
            BucketId::LengthClass(class) => {
                self.length_buckets.entry(class).or_default().push_key(params, key, QueueEnd::Back);
            }
            BucketId::PrefixGroup(group_key) => {
                self.sweep_empty_groups();
                let group = self.prefix_groups.entry(group_key);
                let group = group.or_insert_with(|| PrefixGroup::new(class));
                group.bucket.push_key(params, key, QueueEnd::Back);
                self.list_group(group_key);
            }
        }
    }

    /// Adds a task that comes back at the front of its length class: the group it was of may be gone.
    pub(crate) fn prepend_task(
        &mut self,
        params: &Arc<BatchParams>,
        key: TaskKey,
        class: LengthClass,
    ) {
        self.length_buckets.entry(class).or_default().push_key(params, key, QueueEnd::Front);
    }

    fn sweep_empty_groups(&mut self) {
        if self.prefix_groups.len() >= self.sweep_threshold.max(MAX_EMPTY_GROUPS) {
            self.prefix_groups.retain(|_, group| group.bucket.live_count() > 0 || group.is_listed);
            self.sweep_threshold = self.prefix_groups.len() * 2;
        }
    }

    /// Records that a task has left this bucket.
    pub(crate) fn record_removal(&mut self, bucket: BucketId) {
        match bucket {
            BucketId::LengthClass(class) => {
                if let Some(bucket) = self.length_buckets.get_mut(&class) {
                    bucket.record_removal();
                }
            }
            BucketId::PrefixGroup(group_key) => {
                if let Some(group) = self.prefix_groups.get_mut(&group_key) {
                    group.bucket.record_removal();
                }
                self.unlist_if_empty(group_key);
            }
        }
    }

    fn unlist_if_empty(&mut self, group_key: PrefixGroupKey) {
        let Some(group) = self.prefix_groups.get_mut(&group_key) else { return };
        if group.bucket.live_count() > 0 || !std::mem::take(&mut group.is_listed) {
            return;
        }
        let list = match group.endpoint {
            Some(endpoint) => self.assigned_groups.get_mut(&endpoint),
            None => self.unassigned_groups.get_mut(&group.length_class),
        };
        if let Some(list) = list {
            list.retain(|&listed| listed != group_key);
        }
    }

    /// Moves the tasks of a group to the buckets of their length classes.
    pub(crate) fn dissolve_group(&mut self, slots: &mut TaskSlotMap, group_key: PrefixGroupKey) {
        let Some(mut group) = self.prefix_groups.remove(&group_key) else { return };
        for key in group.bucket.take_keys(slots, BucketId::PrefixGroup(group_key)) {
            let Some(queued) = slots.get_mut(key) else { continue };
            let class = queued.task().length_class();
            queued.set_bucket(BucketId::LengthClass(class));
            let params = Arc::clone(queued.params());
            self.append_task(&params, key, BucketId::LengthClass(class), class);
        }
    }

    /// Takes all groups from an endpoint, so that others may serve them.
    pub(crate) fn release_endpoint(&mut self, endpoint: usize) {
        self.assigned_groups.remove(&endpoint);
        let mut released = Vec::new();
        for (&group_key, group) in &mut self.prefix_groups {
            if group.endpoint == Some(endpoint) {
                (group.endpoint, group.is_listed) = (None, false);
                released.push(group_key);
            }
        }
        for group_key in released {
            self.list_group(group_key);
        }
    }

    /// Fills the batch in the order of work: the groups of its endpoint, then by length class the groups that no
    /// endpoint serves and the single prompts, and half of another endpoint's group if there is nothing else.
    pub(crate) fn fill_batch(
        &mut self,
        slots: &mut TaskSlotMap,
        class_order: &[LengthClass],
        batch: &mut BatchBuilder,
    ) {
        let endpoint = batch.endpoint();
        for _ in 0..self.assigned_groups.get(&endpoint).map_or(0, VecDeque::len) {
            self.take_from_assigned(slots, batch);
            if batch.is_full() {
                return;
            }
        }
        for &class in class_order {
            self.fill_from_unassigned(slots, class, batch);
            if batch.is_full() {
                return;
            }
            if let Some(bucket) = self.length_buckets.get_mut(&class) {
                bucket.take_tasks(slots, BucketId::LengthClass(class), batch);
                if batch.is_full() {
                    return;
                }
            }
        }
        if batch.is_empty() && self.steal_half_group(slots, endpoint) {
            self.take_from_assigned(slots, batch);
        }
    }

    fn fill_from_unassigned(
        &mut self,
        slots: &mut TaskSlotMap,
        class: LengthClass,
        batch: &mut BatchBuilder,
    ) {
        for _ in 0..self.unassigned_groups.get(&class).map_or(0, VecDeque::len) {
            let before = batch.len();
            self.assign_next_group(class, batch.endpoint());
            self.take_from_assigned(slots, batch);
            if batch.len() == before {
                self.unassign_front_group(class, batch.endpoint());
                return;
            }
            if batch.is_full() {
                return;
            }
        }
    }

    /// Takes tasks from the group that the batch's endpoint is at.
    fn take_from_assigned(&mut self, slots: &mut TaskSlotMap, batch: &mut BatchBuilder) {
        let Some(list) = self.assigned_groups.get_mut(&batch.endpoint()) else { return };
        let Some(&group_key) = list.front() else { return };
        let Some(group) = self.prefix_groups.get_mut(&group_key) else {
            list.pop_front();
            return;
        };
        let before = batch.len();
        group.bucket.take_tasks(slots, BucketId::PrefixGroup(group_key), batch);
        if group.bucket.live_count() == 0 {
            list.pop_front();
            group.is_listed = false;
        } else if batch.len() == before {
            list.rotate_left(1);
        }
    }

    fn assign_next_group(&mut self, class: LengthClass, endpoint: usize) {
        let Some(list) = self.unassigned_groups.get_mut(&class) else { return };
        let next = list.pop_front();
        if list.is_empty() {
            self.unassigned_groups.remove(&class);
        }
        let Some(group_key) = next else { return };
        if let Some(group) = self.prefix_groups.get_mut(&group_key) {
            group.endpoint = Some(endpoint);
            self.assigned_groups.entry(endpoint).or_default().push_front(group_key);
        }
    }

    /// Undoes [`Self::assign_next_group`] for a group that has no task for the endpoint.
    fn unassign_front_group(&mut self, class: LengthClass, endpoint: usize) {
        let list = self.assigned_groups.get_mut(&endpoint);
        let Some(group_key) = list.and_then(VecDeque::pop_front) else { return };
        if let Some(group) = self.prefix_groups.get_mut(&group_key) {
            group.endpoint = None;
            self.unassigned_groups.entry(class).or_default().push_front(group_key);
        }
    }

    /// Makes half of the largest group of another endpoint a group of this one. Returns whether there was one.
    fn steal_half_group(&mut self, slots: &mut TaskSlotMap, endpoint: usize) -> bool {
        let others = self.prefix_groups.iter_mut().filter(|(_, group)| {
            group.bucket.live_count() > 0 && group.endpoint.is_some_and(|its| its != endpoint)
        });
        let Some((&group_key, group)) = others.max_by_key(|(_, group)| group.bucket.live_count())
        else {
            return false;
        };
        let class = group.length_class;
        let stolen = group.bucket.take_half(slots, BucketId::PrefixGroup(group_key));
        self.last_split_id = self.last_split_id.wrapping_sub(1);
        let half_key = self.last_split_id;
        let half = BucketId::PrefixGroup(half_key);
        for key in stolen {
            let Some(queued) = slots.get_mut(key) else { continue };
            queued.set_bucket(half);
            let params = Arc::clone(queued.params());
            self.append_task(&params, key, half, class);
        }
        // Appending has listed the half as unassigned.
        let Some(list) = self.unassigned_groups.get_mut(&class) else { return false };
        list.retain(|&listed| listed != half_key);
        if list.is_empty() {
            self.unassigned_groups.remove(&class);
        }
        let Some(group) = self.prefix_groups.get_mut(&half_key) else { return false };
        group.endpoint = Some(endpoint);
        self.assigned_groups.entry(endpoint).or_default().push_front(half_key);
        true
    }

    /// Lists a group that has tasks, if it is not listed yet.
    fn list_group(&mut self, group_key: PrefixGroupKey) {
        let Some(group) = self.prefix_groups.get_mut(&group_key) else { return };
        if group.is_listed || group.bucket.live_count() == 0 {
            return;
        }
        group.is_listed = true;
        let list = match group.endpoint {
            Some(endpoint) => self.assigned_groups.entry(endpoint).or_default(),
            None => self.unassigned_groups.entry(group.length_class).or_default(),
        };
        list.push_back(group_key);
    }
}
