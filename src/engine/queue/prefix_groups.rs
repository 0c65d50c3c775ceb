//! The shelves of one priority and whose turn it is: pure.
//!
//! Owns which family goes to which endpoint. A family is served whole by the endpoint that began it; at the end, when
//! nothing else is left, an idle endpoint takes half of what another has before it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::{
    Task,
    prefixes::Family,
    slots::{Home, Rack, Shelf, Slot},
};
use crate::{domain::Class, endpoint::Shared};

/// Families kept although nobody of them is here: more may come, and should go where the others went.
const KEPT: usize = 4096;

/// The tasks of one priority.
#[derive(Debug, Default)]
pub(crate) struct Level {
    classes: BTreeMap<Class, Shelf>,
    families: BTreeMap<Family, Kin>,
    /// Families that nobody serves yet, by the class they are expected to be of.
    unserved: BTreeMap<Class, VecDeque<Family>>,
    /// Families that an endpoint serves and that have tasks here.
    served: BTreeMap<usize, VecDeque<Family>>,
    /// Counts down: numbers of split families, from the other end.
    splits: Family,
    /// So many families before the empty ones are looked for again.
    sweep: usize,
}

#[derive(Debug)]
struct Kin {
    shelf: Shelf,
    class: Class,
    endpoint: Option<usize>,
    /// Does it stand in `unserved` or `served`?
    listed: bool,
}

impl Level {
    pub(crate) fn put(
        &mut self,
        shared: &Arc<Shared>,
        slot: Slot,
        home: Home,
        class: Class,
        first: bool,
    ) {
        match home {
            Home::Class(class) => {
                self.classes.entry(class).or_default().put(shared, slot, first);
            }
            Home::Family(family) => {
                if self.families.len() >= self.sweep.max(KEPT) {
                    self.families.retain(|_, kin| kin.shelf.live() > 0 || kin.listed);
                    self.sweep = self.families.len() * 2;
                }
                let kin = self.families.entry(family).or_insert_with(|| Kin {
                    shelf: Shelf::default(),
                    class,
                    endpoint: None,
                    listed: false,
                });
                kin.shelf.put(shared, slot, first);
                self.list(family);
            }
        }
    }

    /// A task has left this home for another.
    pub(crate) fn left(&mut self, home: Home) {
        let shelf = match home {
            Home::Class(class) => self.classes.get_mut(&class),
            Home::Family(family) => self.families.get_mut(&family).map(|kin| &mut kin.shelf),
        };
        if let Some(shelf) = shelf {
            shelf.left();
        }
        if let Home::Family(family) = home {
            self.unlist(family);
        }
    }

    /// A family without tasks stands in nobody's list.
    fn unlist(&mut self, family: Family) {
        let Some(kin) = self.families.get_mut(&family) else { return };
        if kin.shelf.live() > 0 || !std::mem::take(&mut kin.listed) {
            return;
        }
        let list = match kin.endpoint {
            Some(endpoint) => self.served.get_mut(&endpoint),
            None => self.unserved.get_mut(&kin.class),
        };
        if let Some(list) = list {
            list.retain(|&it| it != family);
        }
    }

    /// The family's tasks go with those of their length.
    pub(crate) fn dissolve(&mut self, rack: &mut Rack, family: Family) {
        let Some(mut kin) = self.families.remove(&family) else { return };
        for slot in kin.shelf.split(rack, Home::Family(family), true) {
            let Some(held) = rack.get_mut(slot) else { continue };
            let class = held.task.class;
            held.home = Home::Class(class);
            let shared = Arc::clone(&held.shared);
            self.put(&shared, slot, Home::Class(class), class, false);
        }
    }

    /// Nobody serves what this endpoint served.
    pub(crate) fn release(&mut self, endpoint: usize) {
        self.served.remove(&endpoint);
        let its: Vec<Family> = self
            .families
            .iter_mut()
            .filter(|(_, kin)| kin.endpoint == Some(endpoint))
            .map(|(&family, kin)| {
                (kin.endpoint, kin.listed) = (None, false);
                family
            })
            .collect();
        for family in its {
            self.list(family);
        }
    }

    /// Fills `into` for an endpoint, in the order of work, with tasks that share the same.
    #[expect(clippy::too_many_arguments, reason = "the stock's parts, borrowed one by one")]
    pub(crate) fn cut(
        &mut self,
        rack: &mut Rack,
        order: &[Class],
        endpoint: usize,
        shared: &mut Option<Arc<Shared>>,
        wanted: impl Fn(&Shared) -> usize + Copy,
        shunned: impl Fn(&Task) -> bool + Copy,
        into: &mut Vec<Task>,
    ) {
        let full = |shared: &Option<Arc<Shared>>, into: &Vec<Task>| {
            shared.as_ref().is_some_and(|shared| into.len() >= wanted(shared))
        };
        for _ in 0..self.served.get(&endpoint).map_or(0, VecDeque::len) {
            self.take_served(rack, endpoint, shared, wanted, shunned, into);
            if full(shared, into) {
                return;
            }
        }
        for &class in order {
            let unserved = self.unserved.get(&class).map_or(0, VecDeque::len);
            for _ in 0..unserved {
                let before = into.len();
                self.serve_next(class, endpoint);
                self.take_served(rack, endpoint, shared, wanted, shunned, into);
                if into.len() == before {
                    self.serve_not(class, endpoint);
                    break;
                }
                if full(shared, into) {
                    return;
                }
            }
            if let Some(shelf) = self.classes.get_mut(&class) {
                shelf.take(rack, Home::Class(class), shared, wanted, shunned, into);
                if full(shared, into) {
                    return;
                }
            }
        }
        if into.is_empty() && self.split_another(rack, endpoint) {
            self.take_served(rack, endpoint, shared, wanted, shunned, into);
        }
    }

    /// Takes from the family this endpoint is at.
    fn take_served(
        &mut self,
        rack: &mut Rack,
        endpoint: usize,
        shared: &mut Option<Arc<Shared>>,
        wanted: impl Fn(&Shared) -> usize,
        shunned: impl Fn(&Task) -> bool,
        into: &mut Vec<Task>,
    ) {
        let Some(list) = self.served.get_mut(&endpoint) else { return };
        let Some(&family) = list.front() else { return };
        let Some(kin) = self.families.get_mut(&family) else {
            list.pop_front();
            return;
        };
        let before = into.len();
        kin.shelf.take(rack, Home::Family(family), shared, wanted, shunned, into);
        if kin.shelf.live() == 0 {
            list.pop_front();
            kin.listed = false;
        } else if into.len() == before {
            list.rotate_left(1);
        }
    }

    fn serve_next(&mut self, class: Class, endpoint: usize) {
        let Some(list) = self.unserved.get_mut(&class) else { return };
        let next = list.pop_front();
        if list.is_empty() {
            self.unserved.remove(&class);
        }
        let Some(family) = next else { return };
        if let Some(kin) = self.families.get_mut(&family) {
            kin.endpoint = Some(endpoint);
            self.served.entry(endpoint).or_default().push_front(family);
        }
    }

    /// It had nothing to give: whoever comes next may have it.
    fn serve_not(&mut self, class: Class, endpoint: usize) {
        let Some(family) = self.served.get_mut(&endpoint).and_then(VecDeque::pop_front) else {
            return;
        };
        if let Some(kin) = self.families.get_mut(&family) {
            kin.endpoint = None;
            self.unserved.entry(class).or_default().push_front(family);
        }
    }

    /// Half of the largest family that another endpoint serves now belongs to this one.
    fn split_another(&mut self, rack: &mut Rack, endpoint: usize) -> bool {
        let others = self.families.iter_mut().filter(|(_, kin)| {
            kin.shelf.live() > 0 && kin.endpoint.is_some_and(|its| its != endpoint)
        });
        let Some((&family, kin)) = others.max_by_key(|(_, kin)| kin.shelf.live()) else {
            return false;
        };
        let class = kin.class;
        let slots = kin.shelf.split(rack, Home::Family(family), false);
        self.splits = self.splits.wrapping_sub(1);
        let part = Home::Family(self.splits);
        for slot in slots {
            let Some(held) = rack.get_mut(slot) else { continue };
            held.home = part;
            let shared = Arc::clone(&held.shared);
            self.put(&shared, slot, part, class, false);
        }
        // It was listed as served by nobody: it is this endpoint's.
        let Some(list) = self.unserved.get_mut(&class) else { return false };
        let splits = self.splits;
        list.retain(|&it| it != splits);
        if list.is_empty() {
            self.unserved.remove(&class);
        }
        let Some(kin) = self.families.get_mut(&splits) else { return false };
        kin.endpoint = Some(endpoint);
        self.served.entry(endpoint).or_default().push_front(splits);
        true
    }

    /// Sees to it that a family with tasks stands in somebody's list.
    fn list(&mut self, family: Family) {
        let Some(kin) = self.families.get_mut(&family) else { return };
        if kin.listed || kin.shelf.live() == 0 {
            return;
        }
        kin.listed = true;
        match kin.endpoint {
            Some(endpoint) => self.served.entry(endpoint).or_default().push_back(family),
            None => self.unserved.entry(kin.class).or_default().push_back(family),
        }
    }
}
