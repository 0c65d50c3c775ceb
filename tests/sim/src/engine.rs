//! Continuous batching: which sequence runs in which step, and when each of them ends.
//!
//! It owns the slots, the waiting queue, the prefix cache and a clock that others move; it knows
//! nothing of HTTP, tasks or texts. Sequences come in with a payload of the caller's and go out
//! as events. Steps in which nothing changes are taken together as one span, so that a step
//! costs no work of ours; time is what `CostModel` says, and is never taken from a real clock.

use crate::cache::PrefixCache;
use crate::cost::CostModel;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::Range;

/// A point of time, in nanoseconds since the engine was made.
pub type Nanos = u64;

/// What the engine has to know of a sequence.
pub struct Sequence {
    /// The length of its prompt.
    pub prompt_tokens: usize,
    /// The length of its answer, at least 1.
    pub output_tokens: usize,
    /// Its prompt's block hashes, from `PrefixCache::chain`.
    pub chain: Box<[u64]>,
    /// Not to be admitted before.
    pub arrived: Nanos,
    /// Whether each token is to be told of.
    pub streams: bool,
}

/// What came of a step.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<T> {
    /// A sequence that streams has so many tokens now, and will have more.
    Tokens(T, usize),
    /// A sequence has all its tokens.
    Finished(T),
}

/// What the engine has done so far.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Tokens of admitted prompts.
    pub prompt_tokens: u64,
    /// Tokens of finished answers.
    pub generation_tokens: u64,
    /// Prompt tokens asked of the prefix cache.
    pub cache_queries: u64,
    /// Prompt tokens found in it.
    pub cache_hits: u64,
    /// Steps done.
    pub steps: u64,
    /// Sequences that lost their place because the memory was full, and are computed again.
    pub preemptions: u64,
}

struct Waiting<T> {
    id: u64,
    sequence: Sequence,
    payload: T,
}

struct Running<T> {
    id: u64,
    prompt_tokens: usize,
    output_tokens: usize,
    streams: bool,
    /// The number of the step that gives the first token; none while the prompt is computed.
    first_step: Option<u64>,
    /// The number of its admission: the latest is preempted first.
    admission: u64,
    payload: T,
}

impl<T> Running<T> {
    /// The tokens it has after so many steps of the engine.
    fn generated(&self, steps: u64) -> usize {
        self.first_step.map_or(0, |first| (steps + 1).saturating_sub(first) as usize)
    }
}

/// Steps of one cost with nothing to decide between them.
struct Span {
    start: Nanos,
    step: Nanos,
    steps: u64,
}

impl Span {
    fn end(&self) -> Nanos {
        self.start + self.step * self.steps
    }

    /// Lets the span end with the first step that ends at or after `at`.
    fn cut(&mut self, at: Nanos) -> bool {
        let steps = at.saturating_sub(self.start).div_ceil(self.step.max(1)).clamp(1, self.steps);
        let shorter = steps < self.steps;
        self.steps = steps;
        shorter
    }
}

/// The engine of one endpoint.
pub struct Engine<T> {
    cost: CostModel,
    cache: PrefixCache,
    waiting: VecDeque<Waiting<T>>,
    slots: Vec<Option<Running<T>>>,
    free: Vec<usize>,
    /// (step, slot, id); an entry whose slot has another id by now is of an aborted sequence.
    ends: BinaryHeap<Reverse<(u64, usize, u64)>>,
    prefilling: Option<(usize, usize)>,
    streaming: usize,
    span: Option<Span>,
    clock: Nanos,
    next_id: u64,
    admissions: u64,
    /// How late a span may be looked at and the next still start where it ended.
    catch_up: Nanos,
    counters: Counters,
}

impl<T: Clone> Engine<T> {
    /// An idle engine.
    #[must_use]
    pub fn new(cost: CostModel, cache: PrefixCache) -> Self {
        let slots = cost.max_num_seqs.max(1);
        Self {
            cost,
            cache,
            waiting: VecDeque::new(),
            slots: (0..slots).map(|_| None).collect(),
            free: (0..slots).rev().collect(),
            ends: BinaryHeap::new(),
            prefilling: None,
            streaming: 0,
            span: None,
            clock: 0,
            next_id: 0,
            admissions: 0,
            catch_up: 250_000_000,
            counters: Counters::default(),
        }
    }

    /// The number of sequences that have a slot.
    #[must_use]
    pub fn running(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The number of sequences that wait for a slot.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The number of those that have arrived by then. The others are still with the API server, and as in vLLM no gauge
    /// of the engine's counts them.
    #[must_use]
    pub fn waiting_at(&self, now: Nanos) -> usize {
        self.waiting.partition_point(|it| it.sequence.arrived <= now)
    }

    /// The tokens that the running sequences need room for.
    #[must_use]
    pub fn held_tokens(&self) -> usize {
        self.slots.iter().flatten().map(|r| r.prompt_tokens + r.output_tokens).sum()
    }

    /// The share of the memory that the running sequences hold now; none where memory has no limit.
    #[must_use]
    pub fn memory_usage(&self) -> Option<f64> {
        let limit = self.cost.memory_tokens;
        (limit > 0).then(|| self.memory_used() as f64 / limit as f64)
    }

    fn memory_used(&self) -> usize {
        let done = self.counters.steps;
        self.slots.iter().flatten().map(|r| r.prompt_tokens + r.generated(done)).sum()
    }

    /// What was done so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Queues sequences in their order. The ids are for `abort`; the flag says that the time
    /// returned by the last `advance` holds no longer.
    pub fn submit<I>(&mut self, sequences: I) -> (Range<u64>, bool)
    where
        I: IntoIterator<Item = (Sequence, T)>,
    {
        let first = self.next_id;
        for (sequence, payload) in sequences {
            self.waiting.push_back(Waiting { id: self.next_id, sequence, payload });
            self.next_id += 1;
        }
        let arrived = self.waiting.front().map(|w| w.sequence.arrived);
        let sooner = match (&mut self.span, arrived) {
            (Some(span), Some(arrived)) if !self.free.is_empty() => span.cut(arrived),
            (Some(_), _) => false,
            (None, _) => true,
        };
        (first..self.next_id, sooner)
    }

    /// Forgets sequences whose client has gone; their slots are free at once. Returns how many
    /// there were.
    pub fn abort(&mut self, ids: &Range<u64>, now: Nanos) -> usize {
        let before = self.waiting.len() + self.running();
        self.waiting.retain(|w| !ids.contains(&w.id));
        for slot in 0..self.slots.len() {
            if self.slots[slot].as_ref().is_some_and(|r| ids.contains(&r.id)) {
                self.release(slot);
            }
        }
        if let Some(span) = &mut self.span {
            span.cut(now);
        }
        before - self.waiting.len() - self.running()
    }

    /// Forgets everything and returns the payloads: the engine has died.
    pub fn clear(&mut self) -> Vec<T> {
        let mut payloads: Vec<T> = self.waiting.drain(..).map(|w| w.payload).collect();
        for slot in 0..self.slots.len() {
            payloads.extend(self.release(slot).map(|r| r.payload));
        }
        self.span = None;
        payloads
    }

    /// Does every step that ends by `now`, and returns when the next one ends (or the next
    /// sequence arrives); nothing when there is nothing to do.
    pub fn advance(&mut self, now: Nanos, events: &mut Vec<Event<T>>) -> Option<Nanos> {
        loop {
            match self.span.take() {
                Some(span) if span.end() <= now => {
                    self.clock = span.end();
                    self.counters.steps += span.steps;
                    self.end_steps(events);
                }
                Some(span) => {
                    let end = span.end();
                    self.span = Some(span);
                    return Some(end);
                }
                None => {
                    if self.running() == 0 {
                        let arrived = self.waiting.front()?.sequence.arrived;
                        if arrived > now {
                            return Some(arrived);
                        }
                        self.clock = self.clock.max(arrived);
                    }
                    self.clock = self.clock.max(now.saturating_sub(self.catch_up));
                    self.begin_span();
                }
            }
        }
    }

    fn begin_span(&mut self) {
        // As in vLLM a step that had to preempt admits nothing.
        let preempted = self.preempt();
        let prefill = if preempted { 0 } else { self.prefill() };
        let step = self.cost.step_us(self.running(), prefill) * 1e3;
        let mut span = Span { start: self.clock, step: (step as Nanos).max(1), steps: 1 };
        if prefill == 0 && self.streaming == 0 {
            span.steps = self.next_end().map_or(1, |end| end - self.counters.steps);
            if let Some(next) = self.waiting.front().filter(|_| !self.free.is_empty()) {
                span.cut(next.sequence.arrived);
            }
            if self.cost.memory_tokens > 0 {
                let left = self.cost.memory_tokens.saturating_sub(self.memory_used());
                span.steps = span.steps.min((left / self.running().max(1)) as u64).max(1);
            }
        }
        self.span = Some(span);
    }

    /// Takes the latest sequences out until the memory has room for the step's tokens, and puts them first in the queue
    /// with their tokens so far as a part of their prompts. Says whether there were any.
    fn preempt(&mut self) -> bool {
        let limit = self.cost.memory_tokens;
        let mut any = false;
        while limit > 0 && self.running() > 1 && self.memory_used() + self.running() > limit {
            let done = self.counters.steps;
            let latest = (0..self.slots.len())
                .filter(|slot| self.slots[*slot].is_some())
                .max_by_key(|slot| self.slots[*slot].as_ref().map(|running| running.admission));
            let Some(running) = latest.and_then(|slot| self.release(slot)) else { break };
            let generated = running.generated(done);
            let sequence = Sequence {
                prompt_tokens: running.prompt_tokens + generated,
                output_tokens: running.output_tokens - generated.min(running.output_tokens - 1),
                chain: Box::default(),
                arrived: 0,
                streams: running.streams,
            };
            self.counters.generation_tokens += generated as u64;
            self.counters.preemptions += 1;
            let payload = running.payload;
            self.waiting.push_front(Waiting { id: running.id, sequence, payload });
            any = true;
        }
        any
    }

    /// Takes prompts into the step that begins, oldest first, and returns how many of their
    /// tokens it has to compute.
    fn prefill(&mut self) -> usize {
        let decoding = self.running() - usize::from(self.prefilling.is_some());
        let budget = self.cost.max_batched_tokens.saturating_sub(decoding).max(1);
        let mut left = budget;
        while left > 0 {
            let Some((slot, tokens)) = self.prefilling.take().or_else(|| self.admit()) else {
                break;
            };
            let taken = tokens.min(left);
            left -= taken;
            if taken < tokens {
                self.prefilling = Some((slot, tokens - taken));
            } else {
                self.start_decoding(slot);
            }
        }
        budget - left
    }

    fn admit(&mut self) -> Option<(usize, usize)> {
        let next = self.waiting.front()?;
        if next.sequence.arrived > self.clock {
            return None;
        }
        let (limit, needed) = (self.cost.memory_tokens, next.sequence.prompt_tokens);
        // A sequence that alone is larger than the memory runs alone.
        let has_room = limit == 0
            || self.running() == 0
            || self.memory_used() + self.running() + needed < limit;
        if !has_room {
            return None;
        }
        let slot = self.free.pop()?;
        let Waiting { id, sequence, payload } = self.waiting.pop_front()?;
        let cached = self.cache.admit(&sequence.chain, sequence.prompt_tokens);
        self.counters.prompt_tokens += sequence.prompt_tokens as u64;
        self.counters.cache_queries += sequence.prompt_tokens as u64;
        self.counters.cache_hits += cached as u64;
        self.streaming += usize::from(sequence.streams);
        self.slots[slot] = Some(Running {
            id,
            prompt_tokens: sequence.prompt_tokens,
            output_tokens: sequence.output_tokens.max(1),
            streams: sequence.streams,
            first_step: None,
            admission: self.admissions,
            payload,
        });
        self.admissions += 1;
        Some((slot, sequence.prompt_tokens.saturating_sub(cached).max(1)))
    }

    fn start_decoding(&mut self, slot: usize) {
        let step = self.counters.steps + 1;
        if let Some(running) = &mut self.slots[slot] {
            running.first_step = Some(step);
            let end = step + running.output_tokens as u64 - 1;
            self.ends.push(Reverse((end, slot, running.id)));
        }
    }

    fn holds(&self, slot: usize, id: u64) -> bool {
        self.slots[slot].as_ref().is_some_and(|r| r.id == id)
    }

    /// The step in which the next sequence ends.
    fn next_end(&mut self) -> Option<u64> {
        while let Some(Reverse((end, slot, id))) = self.ends.peek() {
            if self.holds(*slot, *id) {
                return Some(*end);
            }
            self.ends.pop();
        }
        None
    }

    fn end_steps(&mut self, events: &mut Vec<Event<T>>) {
        let done = self.counters.steps;
        while let Some(Reverse((end, slot, id))) = self.ends.peek().copied() {
            if end > done && self.holds(slot, id) {
                break;
            }
            self.ends.pop();
            if self.holds(slot, id) {
                let Some(running) = self.release(slot) else { continue };
                self.counters.generation_tokens += running.output_tokens as u64;
                events.push(Event::Finished(running.payload));
            }
        }
        if self.streaming > 0 {
            for running in self.slots.iter().flatten().filter(|r| r.streams) {
                if let Some(first) = running.first_step.filter(|first| *first <= done) {
                    let tokens = (done - first + 1) as usize;
                    events.push(Event::Tokens(running.payload.clone(), tokens));
                }
            }
        }
    }

    fn release(&mut self, slot: usize) -> Option<Running<T>> {
        let running = self.slots[slot].take()?;
        self.free.push(slot);
        self.streaming -= usize::from(running.streams);
        if self.prefilling.is_some_and(|(at, _)| at == slot) {
            self.prefilling = None;
        }
        Some(running)
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
