//! The prompts a rank has in hand, and how lists are cut from them: pure.
//!
//! Owns grouping (a request's prompts share route, model, parameters and number of sequences), halves that must stay
//! whole, and prompts that wait for another try. Knows nothing of endpoints or time but instants it is given.

use std::{
    collections::{BinaryHeap, HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use super::Policy;
use crate::{domain::Prompt, endpoint::Shared};

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

/// What waits to be sent.
#[derive(Default)]
pub(super) struct Stock {
    groups: HashMap<Arc<Shared>, VecDeque<Task>>,
    /// Groups that have tasks, in turn.
    turns: VecDeque<Arc<Shared>>,
    /// Halves of a refused list: sent as they are, and first.
    cuts: VecDeque<Batch>,
    later: BinaryHeap<Later>,
    count: usize,
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

    /// Takes a prompt in.
    pub(super) fn add(&mut self, prompt: Prompt, policy: &Policy) {
        let shared = Arc::new(shared_of(&prompt, policy));
        let task = Task { prompt, attempts: 0, tried: 0, avoid: None };
        self.put(shared, task, false);
    }

    /// Takes tasks back, to be sent before others of their kind.
    pub(super) fn back(&mut self, batch: Batch) {
        for task in batch.tasks.into_iter().rev() {
            self.put(Arc::clone(&batch.shared), task, true);
        }
    }

    /// Takes a half that must stay whole, to be sent before everything else.
    pub(super) fn whole(&mut self, half: Batch) {
        self.count += half.tasks.len();
        self.cuts.push_back(half);
    }

    /// Takes tasks that are not to be sent before `due`.
    pub(super) fn later(&mut self, due: Instant, batch: Batch) {
        self.count += batch.tasks.len();
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
                self.count -= batch.tasks.len();
                self.back(batch);
            }
        }
    }

    /// The next request for an endpoint with `free` of its permits, at most `most` prompts. Nothing where no task is for
    /// this endpoint (tasks that failed here wait for another, if there is one), or the permits do not suffice; an
    /// `idle` endpoint takes what no window could hold.
    pub(super) fn cut(
        &mut self,
        endpoint: usize,
        free: usize,
        most: usize,
        idle: bool,
        others: bool,
    ) -> Option<Batch> {
        let shunned = |task: &Task| others && task.avoid == Some(endpoint);
        let fits = |half: &Batch| half.permits() <= free || idle;
        let place = self.cuts.iter().position(|half| fits(half) && !half.tasks.iter().any(shunned));
        if let Some(half) = place.and_then(|place| self.cuts.remove(place)) {
            self.count -= half.tasks.len();
            return Some(half);
        }
        for _ in 0..self.turns.len() {
            let shared = self.turns.pop_front()?;
            let batch = self.cut_group(&shared, free, most, idle, shunned);
            if self.groups.get(&shared).is_some_and(|tasks| !tasks.is_empty()) {
                // A group that gave nothing lets the others go first.
                match &batch {
                    Some(_) => self.turns.push_front(shared),
                    None => self.turns.push_back(shared),
                }
            } else {
                self.groups.remove(&shared);
            }
            if batch.is_some() {
                return batch;
            }
        }
        None
    }

    fn cut_group(
        &mut self,
        shared: &Arc<Shared>,
        free: usize,
        most: usize,
        idle: bool,
        shunned: impl Fn(&Task) -> bool,
    ) -> Option<Batch> {
        let tasks = self.groups.get_mut(shared)?;
        let room = (free / shared.n).max(usize::from(idle));
        let list = match shared.route {
            crate::domain::Route::Completions => most,
            crate::domain::Route::Chat => 1,
        };
        let wanted = room.min(list);
        let mut batch = Vec::with_capacity(wanted.min(tasks.len()));
        let mut left = VecDeque::new();
        while batch.len() < wanted
            && let Some(task) = tasks.pop_front()
        {
            if shunned(&task) { left.push_back(task) } else { batch.push(task) }
        }
        while let Some(task) = left.pop_back() {
            tasks.push_front(task);
        }
        self.count -= batch.len();
        (!batch.is_empty()).then(|| Batch { shared: Arc::clone(shared), tasks: batch })
    }

    fn put(&mut self, shared: Arc<Shared>, task: Task, first: bool) {
        self.count += 1;
        let tasks = self.groups.entry(Arc::clone(&shared)).or_default();
        if tasks.is_empty() {
            self.turns.push_back(shared);
        }
        if first { tasks.push_front(task) } else { tasks.push_back(task) }
    }
}

/// What a prompt's request must share with the others in it.
fn shared_of(prompt: &Prompt, policy: &Policy) -> Shared {
    let mut params = prompt.params.over(&policy.defaults);
    if let Some(fitted) = policy.fitted(params.number("max_tokens"), &prompt.input) {
        params.set("max_tokens", fitted.to_string());
    }
    let n = params.number("n").and_then(|n| usize::try_from(n).ok()).unwrap_or(1).max(1);
    Shared { route: policy.route(prompt), model: policy.model.clone(), params, n }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{Id, Input, Params},
        engine::policy::for_tests,
    };
    use proptest::prelude::*;
    use std::time::Duration;

    fn prompt(index: u64, max_tokens: u64, n: u64) -> Prompt {
        let mut params = Params::default();
        params.set("max_tokens", max_tokens.to_string());
        params.set("n", n.to_string());
        Prompt {
            index,
            id: Id::of_index(index),
            input: Input::Text("x".into()),
            params,
            route: None,
            priority: 0,
            row: None,
        }
    }

    fn indices(batch: &Batch) -> Vec<u64> {
        batch.tasks.iter().map(|task| task.prompt.index).collect()
    }

    #[test]
    fn a_refused_lists_halves_stay_whole_and_go_first() {
        let mut stock = Stock::default();
        (0..6).for_each(|index| stock.add(prompt(index, 5, 1), &for_tests()));
        let list = stock.cut(0, 8, 4, true, false).expect("a list");
        assert_eq!(indices(&list), [0, 1, 2, 3]);
        list.halves().into_iter().for_each(|half| stock.whole(half));
        assert_eq!(stock.len(), 6);
        let cut = |stock: &mut Stock| indices(&stock.cut(0, 8, 4, false, false).expect("a list"));
        assert_eq!(cut(&mut stock), [0, 1]);
        assert_eq!(cut(&mut stock), [2, 3]);
        assert_eq!(cut(&mut stock), [4, 5]);
        assert_eq!(stock.len(), 0);
    }

    #[test]
    fn what_failed_here_waits_for_another_endpoint_if_there_is_one() {
        let mut stock = Stock::default();
        stock.add(prompt(0, 5, 1), &for_tests());
        let mut batch = stock.cut(3, 8, 4, true, false).expect("a list");
        batch.tasks[0].avoid = Some(3);
        stock.back(batch);
        assert_eq!(stock.cut(3, 8, 4, true, true), None);
        assert!(stock.cut(4, 8, 4, true, true).is_some());
    }

    #[test]
    fn tasks_ripen() {
        let (mut stock, now) = (Stock::default(), Instant::now());
        stock.add(prompt(0, 5, 1), &for_tests());
        let batch = stock.cut(0, 1, 1, true, false).expect("a list");
        stock.later(now + Duration::from_secs(1), batch);
        stock.ripen(now);
        assert_eq!((stock.cut(0, 1, 1, true, false), stock.len()), (None, 1));
        stock.ripen(now + Duration::from_secs(1));
        assert!(stock.cut(0, 1, 1, true, false).is_some());
    }

    proptest! {
        #[test]
        fn every_prompt_comes_out_once_and_lists_keep_their_limits(
            given in prop::collection::vec((1u64..4, 1u64..4), 0..60), free in 0usize..10, most in 1usize..6,
        ) {
            let mut stock = Stock::default();
            for (index, &(max_tokens, n)) in (0..).zip(&given) {
                stock.add(prompt(index, max_tokens, n), &for_tests());
            }
            let mut seen = Vec::new();
            while let Some(batch) = stock.cut(0, free, most, true, false) {
                prop_assert!(batch.tasks.len() <= most);
                prop_assert!(batch.permits() <= free || batch.tasks.len() == 1);
                let shared = |task: &Task| task.prompt.params == batch.tasks[0].prompt.params;
                prop_assert!(batch.tasks.iter().all(shared), "a list shares its parameters");
                seen.extend(indices(&batch));
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..given.len() as u64).collect::<Vec<_>>());
            prop_assert_eq!(stock.len(), 0);
        }
    }
}
