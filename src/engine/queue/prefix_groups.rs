//! The shelves of one priority and whose turn it is: pure.
//!
//! Owns which family goes to which endpoint. A family is served whole by the endpoint that began it; at the end, when
//! nothing else is left, an idle endpoint takes half of what another has before it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::{
    PromptTask,
    prefixes::PrefixGroupKey,
    slots::{BucketId, TaskBucket, TaskKey, TaskSlotMap},
};
use crate::{domain::LengthClass, endpoint::BatchParams};

/// Families kept although nobody of them is here: more may come, and should go where the others went.
const MAX_EMPTY_GROUPS: usize = 4096;

/// The tasks of one priority.
#[derive(Debug, Default)]
pub(crate) struct PriorityLevel {
    length_buckets: BTreeMap<LengthClass, TaskBucket>,
    prefix_groups: BTreeMap<PrefixGroupKey, PrefixGroup>,
    /// Families that nobody serves yet, by the class they are expected to be of.
    unassigned_groups: BTreeMap<LengthClass, VecDeque<PrefixGroupKey>>,
    /// Families that an endpoint serves and that have tasks here.
    assigned_groups: BTreeMap<usize, VecDeque<PrefixGroupKey>>,
    /// Counts down: numbers of split families, from the other end.
    last_split_id: PrefixGroupKey,
    /// So many families before the empty ones are looked for again.
    sweep_threshold: usize,
}

#[derive(Debug)]
struct PrefixGroup {
    bucket: TaskBucket,
    length_class: LengthClass,
    endpoint: Option<usize>,
    /// Does it stand in `unserved` or `served`?
    is_listed: bool,
}

impl PriorityLevel {
    pub(crate) fn insert_task(
        &mut self,
        shared: &Arc<BatchParams>,
        slot: TaskKey,
        home: BucketId,
        class: LengthClass,
        first: bool,
    ) {
        match home {
            BucketId::LengthClass(class) => {
                self.length_buckets.entry(class).or_default().push_key(shared, slot, first);
            }
            BucketId::PrefixGroup(family) => {
                if self.prefix_groups.len() >= self.sweep_threshold.max(MAX_EMPTY_GROUPS) {
                    self.prefix_groups
                        .retain(|_, kin| kin.bucket.live_count() > 0 || kin.is_listed);
                    self.sweep_threshold = self.prefix_groups.len() * 2;
                }
                let kin = self.prefix_groups.entry(family).or_insert_with(|| PrefixGroup {
                    bucket: TaskBucket::default(),
                    length_class: class,
                    endpoint: None,
                    is_listed: false,
                });
                kin.bucket.push_key(shared, slot, first);
                self.list_group(family);
            }
        }
    }

    /// A task has left this home for another.
    pub(crate) fn record_removal(&mut self, home: BucketId) {
        let shelf = match home {
            BucketId::LengthClass(class) => self.length_buckets.get_mut(&class),
            BucketId::PrefixGroup(family) => {
                self.prefix_groups.get_mut(&family).map(|kin| &mut kin.bucket)
            }
        };
        if let Some(shelf) = shelf {
            shelf.record_removal();
        }
        if let BucketId::PrefixGroup(family) = home {
            self.unlist_if_empty(family);
        }
    }

    /// A family without tasks stands in nobody's list.
    fn unlist_if_empty(&mut self, family: PrefixGroupKey) {
        let Some(kin) = self.prefix_groups.get_mut(&family) else { return };
        if kin.bucket.live_count() > 0 || !std::mem::take(&mut kin.is_listed) {
            return;
        }
        let list = match kin.endpoint {
            Some(endpoint) => self.assigned_groups.get_mut(&endpoint),
            None => self.unassigned_groups.get_mut(&kin.length_class),
        };
        if let Some(list) = list {
            list.retain(|&it| it != family);
        }
    }

    /// The family's tasks go with those of their length.
    pub(crate) fn dissolve_group(&mut self, rack: &mut TaskSlotMap, family: PrefixGroupKey) {
        let Some(mut kin) = self.prefix_groups.remove(&family) else { return };
        for slot in kin.bucket.split_queues(rack, BucketId::PrefixGroup(family), true) {
            let Some(held) = rack.get_mut(slot) else { continue };
            let class = held.task.length_class;
            held.bucket = BucketId::LengthClass(class);
            let shared = Arc::clone(&held.params);
            self.insert_task(&shared, slot, BucketId::LengthClass(class), class, false);
        }
    }

    /// Nobody serves what this endpoint served.
    pub(crate) fn release_endpoint(&mut self, endpoint: usize) {
        self.assigned_groups.remove(&endpoint);
        let its: Vec<PrefixGroupKey> = self
            .prefix_groups
            .iter_mut()
            .filter(|(_, kin)| kin.endpoint == Some(endpoint))
            .map(|(&family, kin)| {
                (kin.endpoint, kin.is_listed) = (None, false);
                family
            })
            .collect();
        for family in its {
            self.list_group(family);
        }
    }

    /// Fills `into` for an endpoint, in the order of work, with tasks that share the same.
    #[expect(clippy::too_many_arguments, reason = "the stock's parts, borrowed one by one")]
    pub(crate) fn fill_batch(
        &mut self,
        rack: &mut TaskSlotMap,
        order: &[LengthClass],
        endpoint: usize,
        shared: &mut Option<Arc<BatchParams>>,
        wanted: impl Fn(&BatchParams) -> usize + Copy,
        shunned: impl Fn(&PromptTask) -> bool + Copy,
        into: &mut Vec<PromptTask>,
    ) {
        let full = |shared: &Option<Arc<BatchParams>>, into: &Vec<PromptTask>| {
            shared.as_ref().is_some_and(|shared| into.len() >= wanted(shared))
        };
        for _ in 0..self.assigned_groups.get(&endpoint).map_or(0, VecDeque::len) {
            self.take_from_assigned(rack, endpoint, shared, wanted, shunned, into);
            if full(shared, into) {
                return;
            }
        }
        for &class in order {
            let unserved = self.unassigned_groups.get(&class).map_or(0, VecDeque::len);
            for _ in 0..unserved {
                let before = into.len();
                self.assign_next_group(class, endpoint);
                self.take_from_assigned(rack, endpoint, shared, wanted, shunned, into);
                if into.len() == before {
                    self.unassign_front_group(class, endpoint);
                    break;
                }
                if full(shared, into) {
                    return;
                }
            }
            if let Some(shelf) = self.length_buckets.get_mut(&class) {
                shelf.take_tasks(rack, BucketId::LengthClass(class), shared, wanted, shunned, into);
                if full(shared, into) {
                    return;
                }
            }
        }
        if into.is_empty() && self.steal_half_group(rack, endpoint) {
            self.take_from_assigned(rack, endpoint, shared, wanted, shunned, into);
        }
    }

    /// Takes from the family this endpoint is at.
    fn take_from_assigned(
        &mut self,
        rack: &mut TaskSlotMap,
        endpoint: usize,
        shared: &mut Option<Arc<BatchParams>>,
        wanted: impl Fn(&BatchParams) -> usize,
        shunned: impl Fn(&PromptTask) -> bool,
        into: &mut Vec<PromptTask>,
    ) {
        let Some(list) = self.assigned_groups.get_mut(&endpoint) else { return };
        let Some(&family) = list.front() else { return };
        let Some(kin) = self.prefix_groups.get_mut(&family) else {
            list.pop_front();
            return;
        };
        let before = into.len();
        kin.bucket.take_tasks(rack, BucketId::PrefixGroup(family), shared, wanted, shunned, into);
        if kin.bucket.live_count() == 0 {
            list.pop_front();
            kin.is_listed = false;
        } else if into.len() == before {
            list.rotate_left(1);
        }
    }

    fn assign_next_group(&mut self, class: LengthClass, endpoint: usize) {
        let Some(list) = self.unassigned_groups.get_mut(&class) else { return };
        let next = list.pop_front();
        if list.is_empty() {
            self.unassigned_groups.remove(&class);
        }
        let Some(family) = next else { return };
        if let Some(kin) = self.prefix_groups.get_mut(&family) {
            kin.endpoint = Some(endpoint);
            self.assigned_groups.entry(endpoint).or_default().push_front(family);
        }
    }

    /// It had nothing to give: whoever comes next may have it.
    fn unassign_front_group(&mut self, class: LengthClass, endpoint: usize) {
        let Some(family) = self.assigned_groups.get_mut(&endpoint).and_then(VecDeque::pop_front)
        else {
            return;
        };
        if let Some(kin) = self.prefix_groups.get_mut(&family) {
            kin.endpoint = None;
            self.unassigned_groups.entry(class).or_default().push_front(family);
        }
    }

    /// Half of the largest family that another endpoint serves now belongs to this one.
    fn steal_half_group(&mut self, rack: &mut TaskSlotMap, endpoint: usize) -> bool {
        let others = self.prefix_groups.iter_mut().filter(|(_, kin)| {
            kin.bucket.live_count() > 0 && kin.endpoint.is_some_and(|its| its != endpoint)
        });
        let Some((&family, kin)) = others.max_by_key(|(_, kin)| kin.bucket.live_count()) else {
            return false;
        };
        let class = kin.length_class;
        let slots = kin.bucket.split_queues(rack, BucketId::PrefixGroup(family), false);
        self.last_split_id = self.last_split_id.wrapping_sub(1);
        let part = BucketId::PrefixGroup(self.last_split_id);
        for slot in slots {
            let Some(held) = rack.get_mut(slot) else { continue };
            held.bucket = part;
            let shared = Arc::clone(&held.params);
            self.insert_task(&shared, slot, part, class, false);
        }
        // It was listed as served by nobody: it is this endpoint's.
        let Some(list) = self.unassigned_groups.get_mut(&class) else { return false };
        let splits = self.last_split_id;
        list.retain(|&it| it != splits);
        if list.is_empty() {
            self.unassigned_groups.remove(&class);
        }
        let Some(kin) = self.prefix_groups.get_mut(&splits) else { return false };
        kin.endpoint = Some(endpoint);
        self.assigned_groups.entry(endpoint).or_default().push_front(splits);
        true
    }

    /// Sees to it that a family with tasks stands in somebody's list.
    fn list_group(&mut self, family: PrefixGroupKey) {
        let Some(kin) = self.prefix_groups.get_mut(&family) else { return };
        if kin.is_listed || kin.bucket.live_count() == 0 {
            return;
        }
        kin.is_listed = true;
        match kin.endpoint {
            Some(endpoint) => self.assigned_groups.entry(endpoint).or_default().push_back(family),
            None => self.unassigned_groups.entry(kin.length_class).or_default().push_back(family),
        }
    }
}
