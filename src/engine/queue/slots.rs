//! Tasks in hand and the queues they stand in: pure.
//!
//! Owns two containers that belong together: the rack holds the tasks, shelves hold the order. A task can change its shelf
//! without being looked for in the old one: a shelf's entry counts only while the rack says that the task stands there.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::{Task, prefixes::Family};
use crate::{domain::Class, endpoint::Shared};

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Home {
    /// With those of about its length.
    Class(Class),
    /// With those that begin as it does.
    Family(Family),
}

/// A task's place in the rack, and which of those that stood there it is: an entry in a queue outlives its task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    place: usize,
    number: u64,
}

/// A task that waits.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) task: Task,
    pub(crate) shared: Arc<Shared>,
    pub(crate) home: Home,
}

/// All tasks that stand on shelves.
#[derive(Debug, Default)]
pub(crate) struct Rack {
    slots: Vec<Option<(u64, Held)>>,
    free: Vec<usize>,
    numbers: u64,
}

impl Rack {
    pub(crate) fn put(&mut self, held: Held) -> Slot {
        self.numbers += 1;
        let number = self.numbers;
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[place] = Some((number, held));
        Slot { place, number }
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut Held> {
        let (number, held) = self.slots.get_mut(slot.place)?.as_mut()?;
        (*number == slot.number).then_some(held)
    }

    /// Takes out all that are `wanted`: their entries in queues count no more, and their shelves are to be told.
    pub(crate) fn take_all(&mut self, wanted: impl Fn(&Held) -> bool) -> Vec<Held> {
        let mut out = Vec::new();
        for (place, slot) in self.slots.iter_mut().enumerate() {
            if let Some((_, held)) = slot.take_if(|(_, held)| wanted(held)) {
                self.free.push(place);
                out.push(held);
            }
        }
        out
    }

    fn at(&self, slot: Slot, home: Home) -> Option<&Held> {
        let (number, held) = self.slots.get(slot.place)?.as_ref()?;
        (*number == slot.number && held.home == home).then_some(held)
    }

    fn take(&mut self, slot: Slot) -> Option<Held> {
        let place = self.slots.get_mut(slot.place)?;
        let (_, held) = place.take_if(|(number, _)| *number == slot.number)?;
        self.free.push(slot.place);
        Some(held)
    }
}

/// Tasks of one home, by what their requests share.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    queues: HashMap<Arc<Shared>, VecDeque<Slot>>,
    turns: VecDeque<Arc<Shared>>,
    live: usize,
}

impl Shelf {
    /// How many stand here.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    pub(crate) fn put(&mut self, shared: &Arc<Shared>, slot: Slot, first: bool) {
        self.live += 1;
        let queue = match self.queues.get_mut(shared) {
            Some(queue) => queue,
            None => {
                self.turns.push_back(Arc::clone(shared));
                self.queues.entry(Arc::clone(shared)).or_default()
            }
        };
        if first { queue.push_front(slot) } else { queue.push_back(slot) }
    }

    /// A task that stood here now stands elsewhere: the rack was told.
    pub(crate) fn left(&mut self) {
        self.live -= 1;
    }

    /// Takes all of them out of their queues, or the later half of each; what they share is kept in the rack.
    pub(crate) fn split(&mut self, rack: &Rack, home: Home, all: bool) -> Vec<Slot> {
        let mut out = Vec::new();
        for queue in self.queues.values_mut() {
            queue.retain(|&slot| rack.at(slot, home).is_some());
            let from = if all { 0 } else { queue.len() / 2 };
            out.extend(queue.split_off(from));
        }
        self.live -= out.len().min(self.live);
        out
    }

    /// Up to as many tasks as `wanted` says of what they share, all sharing the same: `shared` where something is in it,
    /// else the first group that gives any. `shunned` tasks stay where they are.
    pub(crate) fn take(
        &mut self,
        rack: &mut Rack,
        home: Home,
        shared: &mut Option<Arc<Shared>>,
        wanted: impl Fn(&Shared) -> usize,
        shunned: impl Fn(&Task) -> bool,
        into: &mut Vec<Task>,
    ) {
        if self.live == 0 {
            return;
        }
        if let Some(shared) = shared {
            let most = wanted(shared);
            self.take_of(rack, home, shared, most, &shunned, into);
            return;
        }
        for _ in 0..self.turns.len() {
            let Some(next) = self.turns.front().cloned() else { return };
            let before = into.len();
            let most = wanted(&next);
            if most == 0 {
                self.turns.rotate_left(1);
                continue; // its permits do not suffice now
            }
            let left = self.take_of(rack, home, &next, most, &shunned, into);
            if left == 0 {
                self.turns.pop_front();
                self.queues.remove(&next);
            }
            if into.len() > before {
                *shared = Some(next);
                return;
            }
            // A group that gave nothing lets the others go first.
            if left > 0 {
                self.turns.rotate_left(1);
            }
        }
    }

    /// How many entries its queue has left.
    fn take_of(
        &mut self,
        rack: &mut Rack,
        home: Home,
        shared: &Arc<Shared>,
        most: usize,
        shunned: &impl Fn(&Task) -> bool,
        into: &mut Vec<Task>,
    ) -> usize {
        let Some(queue) = self.queues.get_mut(shared) else { return 0 };
        let mut stay = Vec::new();
        let mut wanted = most.saturating_sub(into.len());
        while wanted > 0
            && let Some(slot) = queue.pop_front()
        {
            match rack.at(slot, home) {
                Some(held) if shunned(&held.task) => stay.push(slot),
                Some(_) => {
                    into.extend(rack.take(slot).map(|held| held.task));
                    self.live -= 1;
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
