//! The engine in real time: one task that sleeps from step to step.
//!
//! It owns the lock around the engine and the way from a finished sequence to the request that
//! waits for it. Steps end at times that follow from each other, not from when the task woke up,
//! so that late wake-ups do not add up.

use crate::cache::PrefixCache;
use crate::engine::{Counters, Engine, Event, Nanos, Sequence};
use crate::profile::Profile;
use crate::sync::lock;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

/// How a request's sequences ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All have their tokens.
    Done,
    /// The engine died under them.
    EngineDead,
}

/// What a stream is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A sequence has so many tokens.
    Tokens(usize, usize),
    /// A sequence has all its tokens.
    Finished(usize),
    /// The engine died.
    Broken,
}

/// Whom to tell about a request's sequences.
#[derive(Clone)]
pub enum Listener {
    /// A request that answers when its last sequence is done.
    Whole(Arc<Whole>),
    /// A stream.
    Stream(mpsc::UnboundedSender<Progress>),
}

/// A request that waits for all of its sequences.
pub struct Whole {
    left: AtomicUsize,
    done: Mutex<Option<oneshot::Sender<Outcome>>>,
}

impl Listener {
    /// For a request of so many sequences.
    #[must_use]
    pub fn whole(sequences: usize) -> (Self, oneshot::Receiver<Outcome>) {
        let (sender, receiver) = oneshot::channel();
        let left = AtomicUsize::new(sequences);
        (Self::Whole(Arc::new(Whole { left, done: Mutex::new(Some(sender)) })), receiver)
    }

    /// For a stream.
    #[must_use]
    pub fn stream() -> (Self, mpsc::UnboundedReceiver<Progress>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self::Stream(sender), receiver)
    }

    // Nobody may be listening any more: then the client has gone, which is told elsewhere.
    fn tell(&self, progress: Progress) {
        match self {
            Self::Stream(sender) => drop(sender.send(progress)),
            Self::Whole(whole) => match progress {
                Progress::Tokens(..) => {}
                Progress::Finished(_) => {
                    if whole.left.fetch_sub(1, Ordering::Relaxed) == 1 {
                        whole.end(Outcome::Done);
                    }
                }
                Progress::Broken => whole.end(Outcome::EngineDead),
            },
        }
    }
}

impl Whole {
    fn end(&self, outcome: Outcome) {
        if let Some(sender) = lock(&self.done).take() {
            let _ = sender.send(outcome);
        }
    }
}

#[derive(Clone)]
struct Ticket {
    listener: Listener,
    index: usize,
}

struct State {
    engine: Engine<Ticket>,
    /// When the API server is through with what came before.
    api_free: Nanos,
    stalled: bool,
}

/// The engine of an endpoint and its clock.
pub struct Pace {
    state: Mutex<State>,
    wake: Notify,
    origin: Instant,
}

/// What the engine shows from outside.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    /// Sequences with a slot.
    pub running: usize,
    /// Sequences without.
    pub waiting: usize,
    /// Tokens that the running ones hold.
    pub held_tokens: usize,
    /// The share of the memory that they hold, where it has a limit.
    pub memory_usage: Option<f64>,
    /// What was done so far.
    pub counters: Counters,
}

/// One sequence to submit: the prompt's length and block hashes, and the answer's length.
pub type Order = (usize, Box<[u64]>, usize);

impl Pace {
    /// An idle engine; its clock starts now.
    #[must_use]
    pub fn new(profile: &Profile) -> Self {
        let cache = PrefixCache::new(profile.block_size, profile.cache_blocks);
        let engine = Engine::new(profile.cost.clone(), cache);
        Self {
            state: Mutex::new(State { engine, api_free: 0, stalled: false }),
            wake: Notify::new(),
            origin: Instant::now(),
        }
    }

    fn now(&self) -> Nanos {
        self.origin.elapsed().as_nanos() as Nanos
    }

    /// Queues the sequences of one request unless there would be more than `most` in the engine:
    /// all of them or none.
    pub fn submit(
        self: &Arc<Self>,
        orders: Vec<Order>,
        listener: &Listener,
        api: Duration,
        most: Option<usize>,
    ) -> Option<Ticking> {
        let streams = matches!(listener, Listener::Stream(_));
        let mut state = lock(&self.state);
        let inside = state.engine.running() + state.engine.waiting();
        if most.is_some_and(|most| inside + orders.len() > most) {
            return None;
        }
        // The API server takes requests one after another: the engine sees this one when all
        // before it are through.
        let arrived = state.api_free.max(self.now()) + api.as_nanos() as Nanos;
        state.api_free = arrived;
        let sequences = orders.into_iter().enumerate();
        let (ids, sooner) =
            state.engine.submit(sequences.map(|(index, (prompt_tokens, chain, output_tokens))| {
                let sequence = Sequence { prompt_tokens, output_tokens, chain, arrived, streams };
                (sequence, Ticket { listener: listener.clone(), index })
            }));
        drop(state);
        if sooner {
            self.wake.notify_one();
        }
        Some(Ticking { pace: Arc::clone(self), ids: Some(ids) })
    }

    /// When a request that does not go through the engine is through the API server.
    pub fn api_only(&self, api: Duration) -> Instant {
        let mut state = lock(&self.state);
        state.api_free = state.api_free.max(self.now()) + api.as_nanos() as Nanos;
        self.origin + Duration::from_nanos(state.api_free)
    }

    /// Lets the engine stand still for ever.
    pub fn stall(&self) {
        lock(&self.state).stalled = true;
        self.wake.notify_one();
    }

    /// Kills the engine: everything under way is told so.
    pub fn die(&self) {
        let mut state = lock(&self.state);
        state.stalled = true;
        let tickets = state.engine.clear();
        drop(state);
        for ticket in tickets {
            ticket.listener.tell(Progress::Broken);
        }
    }

    /// What there is to see.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        let state = lock(&self.state);
        Gauges {
            running: state.engine.running(),
            waiting: state.engine.waiting_at(self.now()),
            held_tokens: state.engine.held_tokens(),
            memory_usage: state.engine.memory_usage(),
            counters: state.engine.counters().clone(),
        }
    }

    /// Drives the engine; ends never.
    pub async fn drive(&self) {
        let mut events = Vec::new();
        loop {
            let next = {
                let mut state = lock(&self.state);
                let now = self.now();
                if state.stalled { None } else { state.engine.advance(now, &mut events) }
            };
            for event in events.drain(..) {
                match event {
                    Event::Tokens(ticket, n) => {
                        ticket.listener.tell(Progress::Tokens(ticket.index, n));
                    }
                    Event::Finished(ticket) => {
                        ticket.listener.tell(Progress::Finished(ticket.index));
                    }
                }
            }
            match next {
                None => self.wake.notified().await,
                Some(next) => {
                    let due = self.origin + Duration::from_nanos(next);
                    tokio::select! {
                        () = sleep_until(due) => {}
                        () = self.wake.notified() => {}
                    }
                }
            }
        }
    }
}

/// Sequences in the engine; dropped before its time it aborts them, as a client that goes does.
pub struct Ticking {
    pace: Arc<Pace>,
    ids: Option<Range<u64>>,
}

impl Ticking {
    /// They have ended by themselves: nothing is left to abort.
    pub fn ended(&mut self) {
        self.ids = None;
    }
}

impl Drop for Ticking {
    fn drop(&mut self) {
        if let Some(ids) = self.ids.take() {
            let now = self.pace.now();
            lock(&self.pace.state).engine.abort(&ids, now);
            self.pace.wake.notify_one();
        }
    }
}
