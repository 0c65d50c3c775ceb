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

use guided::{RankThroughput, guided_share};
pub use guided::{apart, target_backlog};
pub use order::WorkOrder;
use place_set::PlaceSet;

use crate::domain::PeerSpeed;

/// Consecutive places.
pub type PlaceRange = Range<u64>;

/// A place that a rank need not work on any more: somebody else has settled it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RedundantPlace {
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
    total_places: u64,
    settled: PlaceSet,
    /// Granted once and free again: where each begins, and its end.
    returned: BTreeMap<u64, u64>,
    /// How many these are.
    returned_count: u64,
    leases: BTreeMap<u64, LeaseEntry>,
    /// Places that a second rank works on, and which rank that is.
    copies: BTreeMap<u64, usize>,
    ranks: Vec<RankEntry>,
    /// The paces of all ranks at work, together.
    total_rate: f64,
    /// Ranks at work whose pace was not looked at yet.
    unmeasured_ranks: usize,
    active_ranks: usize,
    /// The shortest time that a prompt usually takes anywhere.
    min_p50_latency: Option<Duration>,
    slowest: Option<Duration>,
    /// When something was settled last.
    last_progress: Duration,
}

#[derive(Clone, Debug)]
struct LeaseEntry {
    end: u64,
    rank: usize,
    since: Duration,
    /// Places that are not settled.
    left: u64,
}

#[derive(Clone, Debug)]
struct RankEntry {
    heard: Duration,
    is_lost: bool,
    /// It has ended its work.
    has_finished: bool,
    throughput: RankThroughput,
    /// What a prompt usually takes there.
    p50_latency: Option<Duration>,
    /// Where its leases begin.
    lease_starts: BTreeSet<u64>,
}

impl Ledger {
    /// Of so many places and ranks, all of whom were heard of just now.
    #[must_use]
    pub fn new(places: u64, ranks: usize) -> Self {
        let worker = RankEntry {
            heard: Duration::ZERO,
            is_lost: false,
            has_finished: false,
            throughput: RankThroughput::default(),
            p50_latency: None,
            lease_starts: BTreeSet::new(),
        };
        Self {
            next: 0,
            total_places: places,
            settled: PlaceSet::new(places),
            returned: BTreeMap::new(),
            returned_count: 0,
            leases: BTreeMap::new(),
            copies: BTreeMap::new(),
            ranks: vec![worker; ranks],
            total_rate: 0.0,
            unmeasured_ranks: ranks,
            active_ranks: ranks,
            min_p50_latency: None,
            slowest: None,
            last_progress: Duration::ZERO,
        }
    }

    /// Places without an outcome.
    #[must_use]
    pub fn open_count(&self) -> u64 {
        self.total_places - self.settled.count()
    }

    /// Places that nobody has.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.total_places - self.next + self.returned_count
    }

    /// Seconds of work that nobody has yet, as fast as ranks are; nothing while that is unknown.
    #[must_use]
    pub fn free_work_seconds(&self) -> Option<f64> {
        (self.total_rate > 0.0 && self.unmeasured_ranks == 0)
            .then(|| self.free() as f64 / self.total_rate)
    }

    /// A rank asks for up to `want` places. What was given back goes first, since it is the oldest; then the order of
    /// work. What is granted shrinks with what is left, so that ranks end together; a rank that would be done with it only
    /// after all others are through with everything gets nothing.
    pub fn grant_leases(&mut self, rank: usize, want: u64, now: Duration) -> Vec<PlaceRange> {
        self.touch_rank(rank, now);
        if self.withholds(rank, now) {
            return Vec::new();
        }
        let Some(worker) = self.ranks.get(rank) else { return Vec::new() };
        let known = self.active_ranks - self.unmeasured_ranks;
        let usual = if known > 0 { self.total_rate / known as f64 } else { 1.0 };
        let mine = worker.throughput.rate_or(usual);
        let all = self.total_rate + usual * self.unmeasured_ranks as f64;
        let count = guided_share(self.free(), want, mine, all.max(mine));
        self.take(rank, count, now)
    }

    /// Leases so many places to a rank, or as many as are free.
    pub fn take(&mut self, rank: usize, count: u64, now: Duration) -> Vec<PlaceRange> {
        if rank >= self.ranks.len() {
            return Vec::new();
        }
        let mut left = count;
        let mut granted = Vec::new();
        while left > 0 {
            let Some(span) = self.take_free_places(left) else { break };
            left -= span.end - span.start;
            self.insert_lease(rank, span.clone(), now);
            granted.push(span);
        }
        granted
    }

    /// What a prompt usually takes at a rank.
    pub fn usual(&mut self, rank: usize, usual: Option<Duration>) {
        if let Some(worker) = self.ranks.get_mut(rank) {
            worker.p50_latency = usual;
        }
    }

    /// Finds the shortest of these, which is to be done now and then: it takes a look at every rank.
    pub fn look(&mut self) {
        let at_work = self.ranks.iter().filter(|it| !it.has_finished && !it.is_lost);
        (self.min_p50_latency, self.slowest) = at_work.filter_map(|it| it.p50_latency).fold(
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
    pub fn deregister_rank(&mut self, rank: usize, now: Duration) {
        self.free_rank_leases(rank, now);
        self.update_rank(rank, |worker| worker.has_finished = true);
    }

    /// A rank has outcomes for these places, its own or not. What others have of them is needless.
    pub fn settle(
        &mut self,
        rank: usize,
        spans: impl IntoIterator<Item = PlaceRange>,
        now: Duration,
    ) -> Vec<RedundantPlace> {
        self.touch_rank(rank, now);
        let mut needless = Vec::new();
        let mut count = 0;
        for span in spans {
            for place in span.start..span.end.min(self.total_places) {
                if !self.settled.insert(place) {
                    continue; // it was: a copy, or a rank that was given up and is not dead
                }
                count += 1;
                self.remove_from_returned(place);
                needless.extend(self.remove_from_lease(place, rank));
                if let Some(copier) = self.copies.remove(&place)
                    && copier != rank
                {
                    needless.push(RedundantPlace { rank: copier, place });
                }
            }
        }
        if count > 0 {
            self.last_progress = now;
        }
        self.update_rank(rank, |worker| worker.throughput.settled(count, now));
        needless
    }

    /// A rank will not work on these any more.
    pub fn give_back(
        &mut self,
        rank: usize,
        spans: impl IntoIterator<Item = PlaceRange>,
        now: Duration,
    ) {
        self.touch_rank(rank, now);
        for span in spans {
            self.revoke_places(rank, span.clone(), now);
            // A copy that is given back is nobody's: else its place would become the lease of a rank that has it no more.
            let copies = self.copies.range(span).filter(|&(_, &copier)| copier == rank);
            let its: Vec<u64> = copies.map(|(&place, _)| place).collect();
            for place in its {
                self.copies.remove(&place);
            }
        }
    }

    /// A rank lives.
    pub fn touch_rank(&mut self, rank: usize, now: Duration) {
        let Some(worker) = self.ranks.get_mut(rank) else { return };
        worker.heard = now;
        if worker.is_lost {
            self.update_rank(rank, |worker| worker.is_lost = false);
        }
    }

    /// Ranks that were not heard of for this long: what they have is free again. Each is named once.
    pub fn expire_silent_ranks(&mut self, patience: Duration, now: Duration) -> Vec<usize> {
        let silent =
            |worker: &RankEntry| !worker.is_lost && now.saturating_sub(worker.heard) >= patience;
        let lost: Vec<usize> =
            (0..self.ranks.len()).filter(|&rank| silent(&self.ranks[rank])).collect();
        for &rank in &lost {
            self.free_rank_leases(rank, now);
            self.update_rank(rank, |worker| worker.is_lost = true);
        }
        lost
    }

    /// Has it anything to work on?
    #[must_use]
    pub fn has_leases(&self, rank: usize) -> bool {
        self.ranks.get(rank).is_some_and(|worker| !worker.lease_starts.is_empty())
    }

    /// What a rank has.
    #[must_use]
    pub fn rank_leases(&self, rank: usize) -> Vec<PlaceRange> {
        let Some(worker) = self.ranks.get(rank) else { return Vec::new() };
        let lease = |from: &u64| Some(*from..self.leases.get(from)?.end);
        worker.lease_starts.iter().filter_map(lease).collect()
    }

    /// Would this rank be done with a prompt only after all others are through with what is free? For no longer than they
    /// go on: they may have come to a standstill.
    fn withholds(&self, rank: usize, now: Duration) -> bool {
        let Some(worker) = self.ranks.get(rank) else { return false };
        let (Some(usual), Some(fastest)) = (worker.p50_latency, self.min_p50_latency) else {
            return false;
        };
        let others = PeerSpeed {
            fastest_latency: fastest,
            prompts_per_second: self.total_rate - worker.throughput.measured_rate(),
        };
        others.would_finish_first(usual, self.free())
            && now.saturating_sub(self.last_progress) < usual
    }

    /// Changes what is known of a rank, and what of it counts in the sums.
    fn update_rank(&mut self, rank: usize, how: impl FnOnce(&mut RankEntry)) {
        let Some(worker) = self.ranks.get_mut(rank) else { return };
        let counts = |worker: &RankEntry| {
            let at_work = !worker.is_lost && !worker.has_finished;
            let pace = if at_work { worker.throughput.measured_rate() } else { 0.0 };
            (at_work, pace)
        };
        let (was_at_work, before) = counts(worker);
        how(worker);
        let (is_at_work, after) = counts(worker);
        let unknown = |at_work: bool, pace: f64| usize::from(at_work && pace <= 0.0);
        self.total_rate = (self.total_rate + after - before).max(0.0);
        self.unmeasured_ranks += unknown(is_at_work, after);
        self.unmeasured_ranks -= unknown(was_at_work, before);
        self.active_ranks += usize::from(is_at_work);
        self.active_ranks -= usize::from(was_at_work);
    }

    fn free_rank_leases(&mut self, rank: usize, now: Duration) {
        for span in self.rank_leases(rank) {
            self.revoke_places(rank, span, now);
        }
        self.copies.retain(|_, copier| *copier != rank);
    }

    fn take_free_places(&mut self, most: u64) -> Option<PlaceRange> {
        if let Some((from, to)) = self.returned.pop_first() {
            let end = to.min(from + most);
            if end < to {
                self.returned.insert(end, to);
            }
            self.returned_count -= end - from;
            return Some(from..end);
        }
        // A rank may have settled what it was never granted: that is not asked again.
        while self.next < self.total_places && self.settled.contains(self.next) {
            self.next += 1;
        }
        let from = self.next;
        let mut to = from;
        while to < self.total_places && to - from < most && !self.settled.contains(to) {
            to += 1;
        }
        self.next = to;
        (from < to).then_some(from..to)
    }

    fn insert_lease(&mut self, rank: usize, span: PlaceRange, since: Duration) {
        let left =
            (span.start..span.end).filter(|&place| !self.settled.contains(place)).count() as u64;
        if left > 0 {
            self.leases.insert(span.start, LeaseEntry { end: span.end, rank, since, left });
            self.ranks[rank].lease_starts.insert(span.start);
        }
    }

    fn remove_lease(&mut self, from: u64) -> Option<LeaseEntry> {
        let lease = self.leases.remove(&from)?;
        self.ranks[lease.rank].lease_starts.remove(&from);
        Some(lease)
    }

    /// The lease that holds a place.
    fn find_lease(&self, place: u64) -> Option<u64> {
        let (&from, lease) = self.leases.range(..=place).next_back()?;
        (place < lease.end).then_some(from)
    }

    fn remove_from_lease(&mut self, place: u64, by: usize) -> Option<RedundantPlace> {
        let from = self.find_lease(place)?;
        let lease = self.leases.get_mut(&from)?;
        lease.left -= 1;
        let rank = lease.rank;
        if lease.left == 0 {
            self.remove_lease(from);
        }
        (rank != by).then_some(RedundantPlace { rank, place })
    }

    fn remove_from_returned(&mut self, place: u64) {
        let Some((&from, &to)) = self.returned.range(..=place).next_back() else { return };
        if place >= to {
            return;
        }
        self.returned.remove(&from);
        self.returned_count -= 1;
        if from < place {
            self.returned.insert(from, place);
        }
        if place + 1 < to {
            self.returned.insert(place + 1, to);
        }
    }

    /// Takes places that a rank has from it. What another has a copy of is that one's from now on; the rest is free.
    fn revoke_places(&mut self, rank: usize, span: PlaceRange, now: Duration) {
        let mut at = span.start;
        while at < span.end.min(self.total_places) {
            let Some(from) = self.find_lease(at).or_else(|| self.next_lease_start(at, span.end))
            else {
                return;
            };
            let Some(lease) = self.leases.get(&from) else { return };
            let end = lease.end;
            if lease.rank != rank {
                at = end;
                continue;
            }
            let Some(lease) = self.remove_lease(from) else { return };
            let taken = at.max(from)..end.min(span.end);
            for kept in [from..taken.start, taken.end..end] {
                self.insert_lease(rank, kept, lease.since);
            }
            for place in taken.clone() {
                if self.settled.contains(place) {
                    continue;
                }
                match self.copies.remove(&place) {
                    Some(copier) if copier != rank => {
                        self.insert_lease(copier, place..place + 1, now)
                    }
                    _ => self.add_to_returned(place),
                }
            }
            at = end;
        }
    }

    fn next_lease_start(&self, from: u64, to: u64) -> Option<u64> {
        self.leases.range(from..to).next().map(|(&from, _)| from)
    }

    fn add_to_returned(&mut self, place: u64) {
        let before = self.returned.range(..place).next_back().map(|(&from, &to)| (from, to));
        let from = match before {
            Some((from, to)) if to == place => from,
            _ => place,
        };
        let to = self.returned.remove(&(place + 1)).unwrap_or(place + 1);
        self.returned.insert(from, to);
        self.returned_count += 1;
    }
}
