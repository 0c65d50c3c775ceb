//! What a rank's engine has in hand: what it says of it, and how prompts are taken from it again.
//!
//! Owns when a word is due. Whoever gives prompts decides how many to give; where they come from, and who else works on
//! them, is unknown here.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::Driver;
use crate::engine::{Word, endpoint_state::Server};

/// What the engine could use, for whoever gives it prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InHand {
    /// Prompts taken in since it began.
    pub taken: u64,
    /// Prompts that wait to be sent.
    pub waiting: u64,
    /// Sequences that the windows of its endpoints hold.
    pub windows: u64,
    /// Prompts answered a second.
    pub rate: f64,
    /// Permits for which it has nothing to send.
    pub idle: u64,
    /// What a prompt usually takes at its fastest endpoint.
    pub usual: Option<Duration>,
}

/// Work for so long is ample, in seconds.
pub(crate) const AMPLE: f64 = 4.0;
/// The loop goes round every second at least.
const AWAY: Duration = Duration::from_secs(4);
/// Words of this kind are no closer together.
const APART: Duration = Duration::from_millis(5);
/// Endpoints that are all down for so long may stay so: others take the work.
const DOWN: Duration = Duration::from_secs(2);

/// What was said last.
#[derive(Debug)]
pub(crate) struct Telling {
    in_hand: InHand,
    down: bool,
    drained: bool,
    next: Instant,
}

impl Telling {
    pub(crate) fn new(now: Instant) -> Self {
        Self { in_hand: InHand::default(), down: false, drained: false, next: now }
    }

    /// When there may be something to say that was held back.
    pub(crate) fn due(&self, driver: &Driver) -> Option<Instant> {
        let changed =
            (driver.taken, driver.stock.len() as u64) != (self.in_hand.taken, self.in_hand.waiting);
        changed.then_some(self.next)
    }
}

impl Driver {
    /// A process that was stopped, or swapped out, was away itself: what stood still meanwhile was not the endpoints.
    pub(crate) fn was_away(&mut self, now: Instant) {
        if now - self.round > AWAY {
            self.moved = now;
            self.down_since = self.down_since.map(|_| now);
        }
        self.round = now;
    }

    /// Are no more prompts to be expected for now?
    pub(crate) fn is_ending(&self) -> bool {
        !self.more || (self.ending && self.taken >= self.given)
    }

    /// Are prompts on their way that would make a full list of what is a short one now? Waited for a moment only.
    pub(crate) fn is_filling(&mut self, now: Instant) -> bool {
        let list = self.servers.iter().map(Server::most).max().unwrap_or(1);
        if self.taken >= self.given || self.stock.len() >= list {
            self.filling = None;
            return false;
        }
        now - *self.filling.get_or_insert(now) < self.policy.max_wait
    }

    /// Says what there is to say: that prompts are needed, that nobody is up or somebody is again.
    pub(crate) fn say_what_is_in_hand(&mut self, now: Instant, tell: &impl Fn(Word)) {
        if self.down_since.is_some() != self.telling.down {
            self.telling.down = self.down_since.is_some();
            tell(Word::Progress(self.progress()));
        }
        if self.draining
            || !self.unwanted.is_empty()
            || self.gives_back_at().is_some_and(|at| at <= now)
        {
            self.give_back(tell);
        }
        if self.draining
            && self.in_flight == 0
            && !std::mem::replace(&mut self.telling.drained, true)
        {
            tell(Word::Progress(self.progress()));
        }
        if now < self.telling.next {
            return;
        }
        let in_hand = self.in_hand(now);
        let before = &self.telling.in_hand;
        let same = (in_hand.taken, in_hand.waiting, in_hand.windows, in_hand.idle)
            == (before.taken, before.waiting, before.windows, before.idle);
        let ample = (in_hand.windows as f64 * 2.0).max(in_hand.rate * AMPLE);
        let idles = (in_hand.idle > 0) != (before.idle > 0);
        if same || (in_hand.waiting as f64 * 2.0 > ample && !idles) {
            return;
        }
        self.telling.in_hand = in_hand;
        self.telling.next = now + APART;
        tell(Word::InHand(in_hand));
    }

    fn in_hand(&self, now: Instant) -> InHand {
        let up = || self.servers.iter().filter(|it| it.is_up());
        let idle = if self.stock.len() == 0 && !self.paused {
            up().filter(|it| it.is_well()).map(|it| it.free(now)).sum::<usize>()
        } else {
            0
        };
        InHand {
            taken: self.taken,
            waiting: self.stock.len() as u64,
            windows: up().map(|it| it.window.size() as u64).sum(),
            rate: up().map(|it| it.lists.rate()).sum(),
            idle: idle as u64,
            usual: up().filter_map(|it| it.patience.usual(1)).min(),
        }
    }

    /// When others should have what waits here, if nobody comes up before.
    pub(crate) fn gives_back_at(&self) -> Option<Instant> {
        let wait = DOWN.min(self.policy.patience / 2);
        self.down_since.filter(|_| self.stock.len() > 0).map(|since| since + wait)
    }

    /// Gives back what is not under way.
    pub(crate) fn give_back(&mut self, tell: &impl Fn(Word)) {
        let mut indexes = self.stock.give_up(|_| true);
        indexes.append(&mut self.unwanted);
        if !indexes.is_empty() {
            tell(Word::GivesBack(indexes));
        }
    }

    /// Others have settled these: they are not sent, and what is under way for them alone is ended.
    pub(crate) fn forget(&mut self, indexes: &[u64]) {
        let indexes: HashSet<u64> = indexes.iter().copied().collect();
        self.stock.give_up(|index| indexes.contains(&index));
        let concerned: Vec<u64> = self
            .under_way
            .iter()
            .filter(|(_, it)| it.batch.tasks.iter().any(|it| indexes.contains(&it.prompt.index)))
            .map(|(&id, _)| id)
            .collect();
        self.forgotten.extend(indexes);
        for id in concerned {
            self.cancel_if_nobody_waits(Some(id));
        }
    }
}
