//! Who works on which prompts: rank 0's book.
//!
//! Owns which places of the order of work are open, leased, settled, and how much a rank is granted at a time. A place is
//! a position in that order, not a row: what stands there is for others to know. Pure: no messages, no files, and no clock
//! but the times it is given, counted from the start. A bit a prompt and some words a lease is all its memory.

mod guided;
mod places;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    time::Duration,
};

use guided::{Pace, share};
use places::Places;

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
    /// The paces of all ranks that are alive, together.
    pace: f64,
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
    pace: Pace,
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
            pace: Pace::default(),
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

    /// A rank asks for up to `want` places. What was given back goes first, since it is the oldest; then the order of
    /// work. What is granted shrinks with what is left, so that ranks end together.
    pub fn grant(&mut self, rank: usize, want: u64, now: Duration) -> Vec<Span> {
        self.heard(rank, now);
        let Some(worker) = self.ranks.get(rank) else { return Vec::new() };
        let mine = worker.pace.of(want);
        let mut left = share(self.free(), want, mine, self.pace.max(mine));
        let mut granted = Vec::new();
        while left > 0 {
            let Some(span) = self.take_free(left) else { break };
            left -= span.end - span.start;
            self.lease(rank, span.clone(), now);
            granted.push(span);
        }
        granted
    }

    /// Places that `rank` may work on besides those who have them: what others have had for longest and at least for
    /// `age`, at most `want`.
    pub fn copy(&mut self, rank: usize, want: usize, age: Duration, now: Duration) -> Vec<u64> {
        self.heard(rank, now);
        let old = |lease: &&Lease| lease.rank != rank && now.saturating_sub(lease.since) >= age;
        let mut oldest: Vec<(&u64, &Lease)> =
            self.leases.iter().filter(|(_, lease)| old(lease)).collect();
        oldest.sort_by_key(|(from, lease)| (lease.since, **from));
        let open = oldest.into_iter().flat_map(|(&from, lease)| from..lease.to);
        let open = open
            .filter(|&place| !self.settled.has(place) && !self.copies.contains_key(&place))
            .take(want);
        let places: Vec<u64> = open.collect();
        self.copies.extend(places.iter().map(|&place| (place, rank)));
        places
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
        if let Some(worker) = self.ranks.get_mut(rank) {
            let before = worker.pace.known();
            worker.pace.settled(count, now);
            self.pace += worker.pace.known() - before;
        }
        needless
    }

    /// A rank will not work on these any more.
    pub fn give_back(&mut self, rank: usize, spans: impl IntoIterator<Item = Span>, now: Duration) {
        self.heard(rank, now);
        for span in spans {
            self.take_from(rank, span, now);
        }
    }

    /// A rank lives.
    pub fn heard(&mut self, rank: usize, now: Duration) {
        if let Some(worker) = self.ranks.get_mut(rank) {
            worker.heard = now;
            if worker.lost {
                worker.lost = false;
                self.pace += worker.pace.known();
            }
        }
    }

    /// Ranks that were not heard of for this long: what they have is free again. Each is named once.
    pub fn silent(&mut self, patience: Duration, now: Duration) -> Vec<usize> {
        let silent = |worker: &Worker| !worker.lost && now.saturating_sub(worker.heard) >= patience;
        let lost: Vec<usize> =
            (0..self.ranks.len()).filter(|&rank| silent(&self.ranks[rank])).collect();
        for &rank in &lost {
            let leases: Vec<Span> = self.leases_of(rank);
            for span in leases {
                self.take_from(rank, span, now);
            }
            self.copies.retain(|_, copier| *copier != rank);
            self.ranks[rank].lost = true;
            self.pace -= self.ranks[rank].pace.known();
        }
        lost
    }

    /// What a rank has.
    #[must_use]
    pub fn leases_of(&self, rank: usize) -> Vec<Span> {
        let Some(worker) = self.ranks.get(rank) else { return Vec::new() };
        let lease = |from: &u64| Some(*from..self.leases.get(from)?.to);
        worker.leases.iter().filter_map(lease).collect()
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

#[cfg(test)]
mod simulation;
#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "spans are ranges")]
mod tests;
