//! Who works on which prompts: rank 0's book.
//!
//! Owns which places of the order of work are open, leased, settled, and how much a rank is granted at a time. A place is
//! a position in that order, not a row: what stands there is [`Order`]'s to know. Pure: no messages, no files, and no clock
//! but the times it is given, counted from the start. A bit a prompt and some words a lease is all its memory.

mod guided;
mod order;
mod place_set;
#[cfg(test)]
mod simulation;
mod speculation;
#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "spans are ranges")]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    time::Duration,
};

use guided::{Pace, share};
pub use guided::{apart, enough};
pub use order::Order;
use place_set::Places;

use crate::domain::Others;

/// Consecutive places.
pub type Span = Range<u64>;

/// A place that a rank need not work on any more: somebody else has settled it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Needless {
    /// Who has it.
    pub rank: usize,
    /// Which.
    pub place: u64,
}

/// The book. Every place is settled, or free, or leased to exactly one rank that is taken to be alive; besides that at
/// most one other rank may have a copy of it.
#[derive(Debug)]
pub struct Ledger {
    /// Places below are known to have been granted at least once.
    next: u64,
    total: u64,
    settled: Places,
    /// Granted once and free again: where each begins, and its end.
    back: BTreeMap<u64, u64>,
    /// How many these are.
    given_back: u64,
    leases: BTreeMap<u64, Lease>,
    /// Places that a second rank works on, and which rank that is.
    copies: BTreeMap<u64, usize>,
    ranks: Vec<Worker>,
    /// The paces of all ranks at work, together.
    pace: f64,
    /// Ranks at work whose pace was not looked at yet.
    unknown: usize,
    at_work: usize,
    /// The shortest time that a prompt usually takes anywhere.
    fastest: Option<Duration>,
    slowest: Option<Duration>,
    /// When something was settled last.
    moved: Duration,
}

#[derive(Clone, Debug)]
struct Lease {
    to: u64,
    rank: usize,
    since: Duration,
    /// Places that are not settled.
    left: u64,
}

#[derive(Clone, Debug)]
struct Worker {
    heard: Duration,
    lost: bool,
    /// It has ended its work.
    out: bool,
    pace: Pace,
    /// What a prompt usually takes there.
    usual: Option<Duration>,
    /// Where its leases begin.
    leases: BTreeSet<u64>,
}

impl Ledger {
    /// Of so many places and ranks, all of whom were heard of just now.
    #[must_use]
    pub fn new(places: u64, ranks: usize) -> Self {
        let worker = Worker {
            heard: Duration::ZERO,
            lost: false,
            out: false,
            pace: Pace::default(),
            usual: None,
            leases: BTreeSet::new(),
        };
        Self {
            next: 0,
            total: places,
            settled: Places::new(places),
            back: BTreeMap::new(),
            given_back: 0,
            leases: BTreeMap::new(),
            copies: BTreeMap::new(),
            ranks: vec![worker; ranks],
            pace: 0.0,
            unknown: ranks,
            at_work: ranks,
            fastest: None,
            slowest: None,
            moved: Duration::ZERO,
        }
    }

    /// Places without an outcome.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.total - self.settled.count()
    }

    /// Places that nobody has.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.total - self.next + self.given_back
    }

    /// Seconds of work that nobody has yet, as fast as ranks are; nothing while that is unknown.
    #[must_use]
    pub fn seconds_free(&self) -> Option<f64> {
        (self.pace > 0.0 && self.unknown == 0).then(|| self.free() as f64 / self.pace)
    }

    /// A rank asks for up to `want` places. What was given back goes first, since it is the oldest; then the order of
    /// work. What is granted shrinks with what is left, so that ranks end together; a rank that would be done with it only
    /// after all others are through with everything gets nothing.
    pub fn grant(&mut self, rank: usize, want: u64, now: Duration) -> Vec<Span> {
        self.heard(rank, now);
        if self.withholds(rank, now) {
            return Vec::new();
        }
        let Some(worker) = self.ranks.get(rank) else { return Vec::new() };
        let known = self.at_work - self.unknown;
        let usual = if known > 0 { self.pace / known as f64 } else { 1.0 };
        let mine = worker.pace.or(usual);
        let all = self.pace + usual * self.unknown as f64;
        let count = share(self.free(), want, mine, all.max(mine));
        self.take(rank, count, now)
    }

    /// Leases so many places to a rank, or as many as are free.
    pub fn take(&mut self, rank: usize, count: u64, now: Duration) -> Vec<Span> {
        if rank >= self.ranks.len() {
            return Vec::new();
        }
        let mut left = count;
        let mut granted = Vec::new();
        while left > 0 {
            let Some(span) = self.take_free(left) else { break };
            left -= span.end - span.start;
            self.lease(rank, span.clone(), now);
            granted.push(span);
        }
        granted
    }

    /// What a prompt usually takes at a rank.
    pub fn usual(&mut self, rank: usize, usual: Option<Duration>) {
        if let Some(worker) = self.ranks.get_mut(rank) {
            worker.usual = usual;
        }
    }

    /// Finds the shortest of these, which is to be done now and then: it takes a look at every rank.
    pub fn look(&mut self) {
        let at_work = self.ranks.iter().filter(|it| !it.out && !it.lost);
        (self.fastest, self.slowest) = at_work.filter_map(|it| it.usual).fold(
            (None, None),
            |(least, most): (Option<Duration>, Option<Duration>), it| {
                (Some(least.map_or(it, |least| least.min(it))), most.max(Some(it)))
            },
        );
    }

    /// The longest time that a prompt usually takes at a rank, as it was looked for last.
    #[must_use]
    pub fn slowest(&self) -> Option<Duration> {
        self.slowest
    }

    /// A rank's work has ended. What it had and has not settled is free again.
    pub fn gone(&mut self, rank: usize, now: Duration) {
        self.free_all_of(rank, now);
        self.change(rank, |worker| worker.out = true);
    }

    /// A rank has outcomes for these places, its own or not. What others have of them is needless.
    pub fn settle(
        &mut self,
        rank: usize,
        spans: impl IntoIterator<Item = Span>,
        now: Duration,
    ) -> Vec<Needless> {
        self.heard(rank, now);
        let mut needless = Vec::new();
        let mut count = 0;
        for span in spans {
            for place in span.start..span.end.min(self.total) {
                if !self.settled.insert(place) {
                    continue; // it was: a copy, or a rank that was given up and is not dead
                }
                count += 1;
                self.no_longer_free(place);
                needless.extend(self.no_longer_leased(place, rank));
                if let Some(copier) = self.copies.remove(&place)
                    && copier != rank
                {
                    needless.push(Needless { rank: copier, place });
                }
            }
        }
        if count > 0 {
            self.moved = now;
        }
        self.change(rank, |worker| worker.pace.settled(count, now));
        needless
    }

    /// A rank will not work on these any more.
    pub fn give_back(&mut self, rank: usize, spans: impl IntoIterator<Item = Span>, now: Duration) {
        self.heard(rank, now);
        for span in spans {
            self.take_from(rank, span.clone(), now);
            // A copy that is given back is nobody's: else its place would become the lease of a rank that has it no more.
            let copies = self.copies.range(span).filter(|&(_, &copier)| copier == rank);
            let its: Vec<u64> = copies.map(|(&place, _)| place).collect();
            for place in its {
                self.copies.remove(&place);
            }
        }
    }

    /// A rank lives.
    pub fn heard(&mut self, rank: usize, now: Duration) {
        let Some(worker) = self.ranks.get_mut(rank) else { return };
        worker.heard = now;
        if worker.lost {
            self.change(rank, |worker| worker.lost = false);
        }
    }

    /// Ranks that were not heard of for this long: what they have is free again. Each is named once.
    pub fn silent(&mut self, patience: Duration, now: Duration) -> Vec<usize> {
        let silent = |worker: &Worker| !worker.lost && now.saturating_sub(worker.heard) >= patience;
        let lost: Vec<usize> =
            (0..self.ranks.len()).filter(|&rank| silent(&self.ranks[rank])).collect();
        for &rank in &lost {
            self.free_all_of(rank, now);
            self.change(rank, |worker| worker.lost = true);
        }
        lost
    }

    /// Has it anything to work on?
    #[must_use]
    pub fn has_leases(&self, rank: usize) -> bool {
        self.ranks.get(rank).is_some_and(|worker| !worker.leases.is_empty())
    }

    /// What a rank has.
    #[must_use]
    pub fn leases_of(&self, rank: usize) -> Vec<Span> {
        let Some(worker) = self.ranks.get(rank) else { return Vec::new() };
        let lease = |from: &u64| Some(*from..self.leases.get(from)?.to);
        worker.leases.iter().filter_map(lease).collect()
    }

    /// Would this rank be done with a prompt only after all others are through with what is free? For no longer than they
    /// go on: they may have come to a standstill.
    fn withholds(&self, rank: usize, now: Duration) -> bool {
        let Some(worker) = self.ranks.get(rank) else { return false };
        let (Some(usual), Some(fastest)) = (worker.usual, self.fastest) else { return false };
        let others = Others { fastest, rate: self.pace - worker.pace.known() };
        others.would_end_before(usual, self.free()) && now.saturating_sub(self.moved) < usual
    }

    /// Changes what is known of a rank, and what of it counts in the sums.
    fn change(&mut self, rank: usize, how: impl FnOnce(&mut Worker)) {
        let Some(worker) = self.ranks.get_mut(rank) else { return };
        let counts = |worker: &Worker| {
            let at_work = !worker.lost && !worker.out;
            let pace = if at_work { worker.pace.known() } else { 0.0 };
            (at_work, pace)
        };
        let (was_at_work, before) = counts(worker);
        how(worker);
        let (is_at_work, after) = counts(worker);
        let unknown = |at_work: bool, pace: f64| usize::from(at_work && pace <= 0.0);
        self.pace = (self.pace + after - before).max(0.0);
        self.unknown += unknown(is_at_work, after);
        self.unknown -= unknown(was_at_work, before);
        self.at_work += usize::from(is_at_work);
        self.at_work -= usize::from(was_at_work);
    }

    fn free_all_of(&mut self, rank: usize, now: Duration) {
        for span in self.leases_of(rank) {
            self.take_from(rank, span, now);
        }
        self.copies.retain(|_, copier| *copier != rank);
    }

    fn take_free(&mut self, most: u64) -> Option<Span> {
        if let Some((from, to)) = self.back.pop_first() {
            let end = to.min(from + most);
            if end < to {
                self.back.insert(end, to);
            }
            self.given_back -= end - from;
            return Some(from..end);
        }
        // A rank may have settled what it was never granted: that is not asked again.
        while self.next < self.total && self.settled.has(self.next) {
            self.next += 1;
        }
        let from = self.next;
        let mut to = from;
        while to < self.total && to - from < most && !self.settled.has(to) {
            to += 1;
        }
        self.next = to;
        (from < to).then_some(from..to)
    }

    fn lease(&mut self, rank: usize, span: Span, since: Duration) {
        let left = (span.start..span.end).filter(|&place| !self.settled.has(place)).count() as u64;
        if left > 0 {
            self.leases.insert(span.start, Lease { to: span.end, rank, since, left });
            self.ranks[rank].leases.insert(span.start);
        }
    }

    fn drop_lease(&mut self, from: u64) -> Option<Lease> {
        let lease = self.leases.remove(&from)?;
        self.ranks[lease.rank].leases.remove(&from);
        Some(lease)
    }

    /// The lease that holds a place.
    fn holder(&self, place: u64) -> Option<u64> {
        let (&from, lease) = self.leases.range(..=place).next_back()?;
        (place < lease.to).then_some(from)
    }

    fn no_longer_leased(&mut self, place: u64, by: usize) -> Option<Needless> {
        let from = self.holder(place)?;
        let lease = self.leases.get_mut(&from)?;
        lease.left -= 1;
        let rank = lease.rank;
        if lease.left == 0 {
            self.drop_lease(from);
        }
        (rank != by).then_some(Needless { rank, place })
    }

    fn no_longer_free(&mut self, place: u64) {
        let Some((&from, &to)) = self.back.range(..=place).next_back() else { return };
        if place >= to {
            return;
        }
        self.back.remove(&from);
        self.given_back -= 1;
        if from < place {
            self.back.insert(from, place);
        }
        if place + 1 < to {
            self.back.insert(place + 1, to);
        }
    }

    /// Takes places that a rank has from it. What another has a copy of is that one's from now on; the rest is free.
    fn take_from(&mut self, rank: usize, span: Span, now: Duration) {
        let mut at = span.start;
        while at < span.end.min(self.total) {
            let Some(from) = self.holder(at).or_else(|| self.next_lease(at, span.end)) else {
                return;
            };
            let Some(lease) = self.leases.get(&from) else { return };
            let end = lease.to;
            if lease.rank != rank {
                at = end;
                continue;
            }
            let Some(lease) = self.drop_lease(from) else { return };
            let taken = at.max(from)..end.min(span.end);
            for kept in [from..taken.start, taken.end..end] {
                self.lease(rank, kept, lease.since);
            }
            for place in taken.clone() {
                if self.settled.has(place) {
                    continue;
                }
                match self.copies.remove(&place) {
                    Some(copier) if copier != rank => self.lease(copier, place..place + 1, now),
                    _ => self.free_again(place),
                }
            }
            at = end;
        }
    }

    fn next_lease(&self, from: u64, to: u64) -> Option<u64> {
        self.leases.range(from..to).next().map(|(&from, _)| from)
    }

    fn free_again(&mut self, place: u64) {
        let before = self.back.range(..place).next_back().map(|(&from, &to)| (from, to));
        let from = match before {
            Some((from, to)) if to == place => from,
            _ => place,
        };
        let to = self.back.remove(&(place + 1)).unwrap_or(place + 1);
        self.back.insert(from, to);
        self.given_back += 1;
    }
}
