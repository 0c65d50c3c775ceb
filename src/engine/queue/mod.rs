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

use super::Policy;
use crate::{
    domain::{Beginnings, Class, Prompt, Route},
    endpoint::Shared,
};
use length_estimates::Lengths;
use prefix_groups::Level;
use prefixes::{Belongs, Prefixes};
use slots::{Held, Home, Rack, Slot};

/// A prompt that has no outcome yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) prompt: Prompt,
    /// Requests that held it.
    pub(super) attempts: u32,
    /// Tries that count against it: faults of servers that are well.
    pub(super) tried: u32,
    /// The endpoint that failed it last: another one is preferred.
    pub(super) avoid: Option<usize>,
    /// It was asked a second time while the first request was under way. Never twice: it would go on for ever.
    pub(super) copied: bool,
    /// How long its answer is expected to be.
    pub(super) class: Class,
    /// The number by which its beginning is known; none for short ones.
    number: u64,
}

/// The prompts of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) shared: Arc<Shared>,
    pub(super) tasks: Vec<Task>,
}

impl Batch {
    /// Permits it takes: one a sequence.
    pub(super) fn permits(&self) -> usize {
        self.tasks.len() * self.shared.n
    }

    /// Two halves of it.
    pub(super) fn halves(mut self) -> [Self; 2] {
        let second = self.tasks.split_off(self.tasks.len() / 2);
        let shared = Arc::clone(&self.shared);
        [self, Self { shared, tasks: second }]
    }
}

/// What an endpoint has room for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) endpoint: usize,
    /// Permits that are free.
    pub(super) free: usize,
    /// The longest list.
    pub(super) most: usize,
    /// May conversations ride in lists, rendered here?
    pub(super) renders: bool,
    /// It has nothing to do: then it takes what no window could hold.
    pub(super) idle: bool,
    /// There are other endpoints, which tasks that failed here may wait for.
    pub(super) others: bool,
}

/// What waits to be sent.
#[derive(Default)]
pub(super) struct Stock {
    rack: Rack,
    levels: BTreeMap<Reverse<i64>, Level>,
    lengths: Lengths,
    prefixes: Prefixes,
    /// Where tasks stand that nobody else begins like, by their number.
    alone: HashMap<u64, Slot>,
    /// Halves of a refused list: sent as they are, and first.
    cuts: VecDeque<Batch>,
    later: BinaryHeap<Later>,
    count: usize,
    /// Of these: never sent.
    fresh: usize,
    bytes: usize,
    numbers: u64,
    /// Of prompts without parameters of their own, by route.
    usual: [Option<Arc<Shared>>; 2],
}

/// Tasks that wait for their time.
struct Later {
    due: Instant,
    batch: Batch,
}

impl Stock {
    /// Tasks here, waiting ones included.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Tasks here that were never sent.
    pub(super) fn fresh(&self) -> usize {
        self.fresh
    }

    /// The length of their texts.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a prompt in.
    pub(super) fn add(&mut self, prompt: Prompt, policy: &Policy) {
        let shared = self.shared_of(&prompt, policy);
        self.numbers += 1;
        let text = prompt.input.as_str();
        let class = Class::of(text.len(), |name| shared.params.get(name));
        let number = self.numbers;
        let long = Beginnings::of(text).levels() > 0;
        let belongs = self.prefixes.add(number, text);
        let task =
            Task { prompt, attempts: 0, tried: 0, avoid: None, copied: false, class, number };
        match belongs {
            Belongs::Alone => {
                let slot = self.put(&shared, task, Home::Class(class), false);
                if long {
                    self.alone.insert(number, slot);
                }
            }
            Belongs::To(family) => {
                self.put(&shared, task, Home::Family(family), false);
            }
            Belongs::Founds(family, first) => {
                if let Some(slot) = self.alone.remove(&first) {
                    self.move_to(slot, Home::Family(family));
                }
                self.put(&shared, task, Home::Family(family), false);
            }
            Belongs::Dissolves(family) => {
                for level in self.levels.values_mut() {
                    level.dissolve(&mut self.rack, family);
                }
                self.put(&shared, task, Home::Class(class), false);
            }
        }
    }

    /// Takes tasks back, to be sent before others of their kind.
    pub(super) fn back(&mut self, batch: Batch) {
        for task in batch.tasks.into_iter().rev() {
            let home = Home::Class(task.class);
            self.put(&batch.shared, task, home, true);
        }
    }

    /// Takes a half that must stay whole, to be sent before everything else.
    pub(super) fn whole(&mut self, half: Batch) {
        if half.tasks.is_empty() {
            return;
        }
        self.count_in(&half);
        self.cuts.push_back(half);
    }

    /// Takes tasks that are not to be sent before `due`.
    pub(super) fn later(&mut self, due: Instant, batch: Batch) {
        if batch.tasks.is_empty() {
            return;
        }
        self.count_in(&batch);
        self.later.push(Later { due, batch });
    }

    /// When the next waiting tasks are due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.later.peek().map(|it| it.due)
    }

    /// What waited until `now` may be sent from here on.
    pub(super) fn ripen(&mut self, now: Instant) {
        while self.due().is_some_and(|due| due <= now) {
            if let Some(Later { batch, .. }) = self.later.pop() {
                self.count_out(&batch.tasks);
                self.back(batch);
            }
        }
    }

    /// An answer of so many tokens: what it shows of lengths.
    pub(super) fn saw(&mut self, class: Class, tokens: u64) {
        self.lengths.saw(class, tokens);
    }

    /// The endpoint is down: others may have what was kept for it.
    pub(super) fn release(&mut self, endpoint: usize) {
        self.levels.values_mut().for_each(|level| level.release(endpoint));
    }

    /// The next request for an endpoint. Nothing where no task is for this endpoint (tasks that failed here wait for
    /// another, if there is one), or its permits do not suffice.
    pub(super) fn cut(&mut self, room: Room) -> Option<Batch> {
        let shunned = |task: &Task| room.others && task.avoid == Some(room.endpoint);
        let fits = |half: &Batch| half.permits() <= room.free || room.idle;
        let place = self.cuts.iter().position(|half| fits(half) && !half.tasks.iter().all(shunned));
        if let Some(half) = place.and_then(|place| self.cuts.remove(place)) {
            self.count_out(&half.tasks);
            return Some(half);
        }
        let wanted = |shared: &Shared| {
            let rides = shared.lists && (shared.route == Route::Completions || room.renders);
            let permits = (room.free / shared.n).max(usize::from(room.idle));
            permits.min(if rides { room.most } else { 1 })
        };
        let (mut tasks, mut shared) = (Vec::new(), None);
        for level in self.levels.values_mut() {
            level.cut(
                &mut self.rack,
                self.lengths.order(),
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
        self.count_out(&tasks);
        for task in &tasks {
            self.alone.remove(&task.number);
        }
        Some(Batch { shared: shared?, tasks }).filter(|batch| !batch.tasks.is_empty())
    }

    /// Takes out the tasks that `which` names by their index; their indexes.
    pub(super) fn give_up(&mut self, which: impl Fn(u64) -> bool) -> Vec<u64> {
        let named = |task: &Task| which(task.prompt.index);
        let mut out = Vec::new();
        for held in self.rack.take_all(|held| named(&held.task)) {
            if let Some(level) = self.levels.get_mut(&Reverse(held.task.prompt.priority)) {
                level.left(held.home);
            }
            self.alone.remove(&held.task.number);
            out.push(held.task);
        }
        for batch in &mut self.cuts {
            out.extend(batch.tasks.extract_if(.., |task| named(task)));
        }
        self.cuts.retain(|batch| !batch.tasks.is_empty());
        let mut later = std::mem::take(&mut self.later).into_vec();
        for it in &mut later {
            out.extend(it.batch.tasks.extract_if(.., |task| named(task)));
        }
        later.retain(|it| !it.batch.tasks.is_empty());
        self.later = later.into();
        self.count_out(&out);
        out.iter().map(|task| task.prompt.index).collect()
    }

    fn put(&mut self, shared: &Arc<Shared>, task: Task, home: Home, first: bool) -> Slot {
        self.count += 1;
        self.fresh += usize::from(task.attempts == 0);
        self.bytes += task.prompt.input.as_str().len();
        let level = self.levels.entry(Reverse(task.prompt.priority)).or_default();
        let class = task.class;
        let slot = self.rack.put(Held { task, shared: Arc::clone(shared), home });
        level.put(shared, slot, home, class, first);
        slot
    }

    fn move_to(&mut self, slot: Slot, home: Home) {
        let Some(held) = self.rack.get_mut(slot) else { return };
        let (class, shared) = (held.task.class, Arc::clone(&held.shared));
        let level = self.levels.entry(Reverse(held.task.prompt.priority)).or_default();
        level.left(held.home);
        held.home = home;
        level.put(&shared, slot, home, class, false);
    }

    fn count_in(&mut self, batch: &Batch) {
        self.count += batch.tasks.len();
        self.fresh += fresh(&batch.tasks);
        self.bytes += batch.tasks.iter().map(|it| it.prompt.input.as_str().len()).sum::<usize>();
    }

    fn count_out(&mut self, tasks: &[Task]) {
        self.count -= tasks.len();
        self.fresh -= fresh(tasks);
        self.bytes -= tasks.iter().map(|it| it.prompt.input.as_str().len()).sum::<usize>();
    }

    /// What a prompt's request must share with the others in it.
    fn shared_of(&mut self, prompt: &Prompt, policy: &Policy) -> Arc<Shared> {
        let route = policy.route(prompt);
        let asked = prompt.params.number("max_tokens").or(policy.max_tokens());
        let fitted = policy.fitted(asked, &prompt.input);
        if !prompt.params.is_empty() || fitted.is_some() {
            return Arc::new(policy.shared(&prompt.params, route, fitted));
        }
        // Most prompts have nothing of their own: what they share is made once.
        let usual = &mut self.usual[usize::from(route == Route::Chat)];
        let usual =
            usual.get_or_insert_with(|| Arc::new(policy.shared(&prompt.params, route, None)));
        Arc::clone(usual)
    }
}

fn fresh(tasks: &[Task]) -> usize {
    tasks.iter().filter(|task| task.attempts == 0).count()
}

impl Ord for Later {
    /// The heap's top is the earliest.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.due.cmp(&self.due)
    }
}

impl PartialOrd for Later {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Later {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Later {}
