//! The ledger: rank 0's record of which prompts are free, leased, settled or speculatively given to a second rank.
//!
//! Owns the states of the *places* of the order of work and the size of grants, which is load balancing by guided
//! self-scheduling; also which ranks are lost (liveness by the age of their last message) and which places are worth
//! speculation. A place is a position in that order and not a row: the mapping is [`WorkOrder`]'s. Pure: it has no
//! messages, no files, and no clock but the times it is given, counted from the start. It needs one bit per prompt
//! and a few words per lease. Messages and rows are in `job/dispatch`.

mod guided;
mod order;
mod returned_places;
#[cfg(test)]
mod simulation;
mod speculation;
#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "spans are ranges")]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use guided::{RankThroughput, guided_share};
pub use guided::{min_report_interval, target_backlog};
pub use order::PlaceRange;
pub(crate) use order::WorkOrder;
use returned_places::ReturnedPlaces;

use crate::domain::{BitSet, PeerSpeed};

/// A place that a rank need not work on any more, since another rank has settled it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RedundantPlace {
    /// Rank that still holds the place.
    pub rank: usize,
    /// The place.
    pub place: u64,
}

/// Record of all places. A place is settled, or free, or leased to exactly one rank that is considered alive; besides
/// that at most one other rank may have a speculative copy of it.
#[derive(Debug)]
pub struct Ledger {
    /// Places from here on were never granted.
    next_ungranted: u64,
    total_places: u64,
    settled: BitSet,
    /// Places that were granted once and are free again.
    returned: ReturnedPlaces,
    leases: BTreeMap<u64, LeaseEntry>,
    /// Places that a second rank works on too, and that rank.
    speculative_copies: BTreeMap<u64, usize>,
    ranks: Vec<RankEntry>,
    /// Sum of the throughputs of all active ranks, in prompts per second.
    total_rate: f64,
    /// Active ranks without a measured throughput.
    unmeasured_ranks: usize,
    active_ranks: usize,
    /// Lowest median latency of a rank, as of the last [`Ledger::refresh_latency_range`].
    min_p50_latency: Option<Duration>,
    max_p50_latency: Option<Duration>,
    /// Time of the last settled place.
    last_progress: Duration,
}

#[derive(Clone, Debug)]
struct LeaseEntry {
    end: u64,
    rank: usize,
    granted_at: Duration,
    /// Places of the lease that are not settled.
    unsettled_count: u64,
}

#[derive(Clone, Debug)]
struct RankEntry {
    last_heard: Duration,
    is_lost: bool,
    has_finished: bool,
    throughput: RankThroughput,
    p50_latency: Option<Duration>,
    /// First places of its leases.
    lease_starts: BTreeSet<u64>,
}

impl Ledger {
    /// Creates the ledger of this number of places and ranks; all ranks count as heard at time 0.
    #[must_use]
    pub fn new(places: u64, ranks: usize) -> Self {
        let entry = RankEntry {
            last_heard: Duration::ZERO,
            is_lost: false,
            has_finished: false,
            throughput: RankThroughput::default(),
            p50_latency: None,
            lease_starts: BTreeSet::new(),
        };
        Self {
            next_ungranted: 0,
            total_places: places,
            settled: BitSet::new(places),
            returned: ReturnedPlaces::default(),
            leases: BTreeMap::new(),
            speculative_copies: BTreeMap::new(),
            ranks: vec![entry; ranks],
            total_rate: 0.0,
            unmeasured_ranks: ranks,
            active_ranks: ranks,
            min_p50_latency: None,
            max_p50_latency: None,
            last_progress: Duration::ZERO,
        }
    }

    /// Returns the number of places without an outcome.
    #[must_use]
    pub fn open_count(&self) -> u64 {
        self.total_places - self.settled.member_count()
    }

    /// Returns the number of free places.
    #[must_use]
    pub fn free_count(&self) -> u64 {
        self.total_places - self.next_ungranted + self.returned.place_count()
    }

    /// Returns the time that all ranks together need for the free places, in seconds; `None` while a throughput is
    /// unknown.
    #[must_use]
    pub fn free_work_seconds(&self) -> Option<f64> {
        (self.total_rate > 0.0 && self.unmeasured_ranks == 0)
            .then(|| self.free_count() as f64 / self.total_rate)
    }

    /// Leases up to `want` places to a rank. Returned places go first, since they are the oldest; then the order of
    /// work. Grants shrink with the free work, so that ranks end together. A rank that would finish a prompt only after
    /// the others are through with all free places gets nothing.
    pub fn grant_leases(&mut self, rank: usize, want: u64, now: Duration) -> Vec<PlaceRange> {
        self.touch_rank(rank, now);
        if self.should_withhold_from(rank, now) {
            return Vec::new();
        }
        let Some(entry) = self.ranks.get(rank) else { return Vec::new() };
        let measured = self.active_ranks - self.unmeasured_ranks;
        let mean_rate = if measured > 0 { self.total_rate / measured as f64 } else { 1.0 };
        let own_rate = entry.throughput.rate_or(mean_rate);
        // Ranks without a measured throughput count with the mean of the others.
        let total_rate = self.total_rate + mean_rate * self.unmeasured_ranks as f64;
        let count = guided_share(self.free_count(), want, own_rate, total_rate.max(own_rate));
        self.lease_places(rank, count, now)
    }

    /// Leases `count` places to a rank, or fewer if fewer are free, without the limits of [`Ledger::grant_leases`].
    pub fn lease_places(&mut self, rank: usize, count: u64, now: Duration) -> Vec<PlaceRange> {
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

    /// Records the median latency of a prompt at a rank.
    pub fn set_p50_latency(&mut self, rank: usize, p50: Option<Duration>) {
        if let Some(entry) = self.ranks.get_mut(rank) {
            entry.p50_latency = p50;
        }
    }

    /// Recomputes the lowest and highest median latency over all active ranks. Costs a scan of the ranks, so callers do
    /// it at intervals.
    pub fn refresh_latency_range(&mut self) {
        let at_work = self.ranks.iter().filter(|it| !it.has_finished && !it.is_lost);
        (self.min_p50_latency, self.max_p50_latency) = at_work
            .filter_map(|it| it.p50_latency)
            .fold((None, None), |(lowest, highest): (Option<Duration>, Option<Duration>), it| {
                (Some(lowest.map_or(it, |lowest| lowest.min(it))), highest.max(Some(it)))
            });
    }

    /// Returns the highest median latency of a rank, as of the last [`Ledger::refresh_latency_range`].
    #[must_use]
    pub fn max_p50_latency(&self) -> Option<Duration> {
        self.max_p50_latency
    }

    /// Removes a rank that has ended its work. Its unsettled places are free again.
    pub fn deregister_rank(&mut self, rank: usize, now: Duration) {
        self.free_rank_leases(rank, now);
        self.update_rank(rank, |entry| entry.has_finished = true);
    }

    /// Counts a rank as one that works, which [`Ledger::deregister_rank`] has removed.
    pub fn register_rank(&mut self, rank: usize) {
        self.update_rank(rank, |entry| entry.has_finished = false);
    }

    /// Settles places for which a rank has written outcomes, whether they were leased to it or not. Returns the other
    /// ranks that hold one of them.
    pub fn settle_places(
        &mut self,
        rank: usize,
        spans: impl IntoIterator<Item = PlaceRange>,
        now: Duration,
    ) -> Vec<RedundantPlace> {
        self.touch_rank(rank, now);
        let mut redundant = Vec::new();
        let mut count = 0;
        for span in spans {
            for place in span.start..span.end.min(self.total_places) {
                if !self.settled.insert(place) {
                    continue; // a copy, or a rank that was declared lost and is alive
                }
                count += 1;
                self.returned.remove_place(place);
                redundant.extend(self.remove_from_lease(place, rank));
                if let Some(copier) = self.speculative_copies.remove(&place)
                    && copier != rank
                {
                    redundant.push(RedundantPlace { rank: copier, place });
                }
            }
        }
        if count > 0 {
            self.last_progress = now;
        }
        self.update_rank(rank, |entry| entry.throughput.record_settled(count, now));
        redundant
    }

    /// Frees places that a rank will not work on any more.
    pub fn return_places(
        &mut self,
        rank: usize,
        spans: impl IntoIterator<Item = PlaceRange>,
        now: Duration,
    ) {
        self.touch_rank(rank, now);
        for span in spans {
            self.revoke_places(rank, span.clone(), now);
            // The returned copy is dropped: otherwise its place could become the lease of a rank that no longer has it.
            let copies = self.speculative_copies.range(span).filter(|&(_, &copier)| copier == rank);
            let copied: Vec<u64> = copies.map(|(&place, _)| place).collect();
            for place in copied {
                self.speculative_copies.remove(&place);
            }
        }
    }

    /// Records a sign of life of a rank. A lost rank counts as alive again.
    pub fn touch_rank(&mut self, rank: usize, now: Duration) {
        let Some(entry) = self.ranks.get_mut(rank) else { return };
        entry.last_heard = now;
        if entry.is_lost {
            self.update_rank(rank, |entry| entry.is_lost = false);
        }
    }

    /// Marks ranks as lost that have been silent for `silence`, and frees their places. Returns each lost rank once.
    pub fn expire_silent_ranks(&mut self, silence: Duration, now: Duration) -> Vec<usize> {
        let silent =
            |entry: &RankEntry| !entry.is_lost && now.saturating_sub(entry.last_heard) >= silence;
        let lost: Vec<usize> =
            (0..self.ranks.len()).filter(|&rank| silent(&self.ranks[rank])).collect();
        for &rank in &lost {
            self.free_rank_leases(rank, now);
            self.update_rank(rank, |entry| entry.is_lost = true);
        }
        lost
    }

    /// Returns true if the rank holds a lease.
    #[must_use]
    pub fn has_leases(&self, rank: usize) -> bool {
        self.ranks.get(rank).is_some_and(|entry| !entry.lease_starts.is_empty())
    }

    /// Returns the leases of a rank.
    #[must_use]
    pub fn rank_leases(&self, rank: usize) -> Vec<PlaceRange> {
        let Some(entry) = self.ranks.get(rank) else { return Vec::new() };
        let lease = |from: &u64| Some(*from..self.leases.get(from)?.end);
        entry.lease_starts.iter().filter_map(lease).collect()
    }

    /// Returns true if this rank would finish a prompt only after the others are through with all free places. Only
    /// while the others make progress: they may have stalled.
    fn should_withhold_from(&self, rank: usize, now: Duration) -> bool {
        let Some(entry) = self.ranks.get(rank) else { return false };
        let (Some(p50), Some(fastest)) = (entry.p50_latency, self.min_p50_latency) else {
            return false;
        };
        let others = PeerSpeed {
            fastest_latency: fastest,
            prompts_per_second: self.total_rate - entry.throughput.measured_rate(),
        };
        others.would_finish_first(p50, self.free_count())
            && now.saturating_sub(self.last_progress) < p50
    }

    /// Changes a rank's entry and keeps the sums over active ranks consistent.
    fn update_rank(&mut self, rank: usize, change: impl FnOnce(&mut RankEntry)) {
        let Some(entry) = self.ranks.get_mut(rank) else { return };
        let counts = |entry: &RankEntry| {
            let at_work = !entry.is_lost && !entry.has_finished;
            let rate = if at_work { entry.throughput.measured_rate() } else { 0.0 };
            (at_work, rate)
        };
        let (was_at_work, before) = counts(entry);
        change(entry);
        let (is_at_work, after) = counts(entry);
        let unknown = |at_work: bool, rate: f64| usize::from(at_work && rate <= 0.0);
        // Rounding must not make the sum negative.
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
        self.speculative_copies.retain(|_, copier| *copier != rank);
    }

    fn take_free_places(&mut self, limit: u64) -> Option<PlaceRange> {
        if let Some(places) = self.returned.take_first(limit) {
            return Some(places);
        }
        // A rank may have settled places that were never granted to it: those are not sent again.
        while self.next_ungranted < self.total_places && self.settled.contains(self.next_ungranted)
        {
            self.next_ungranted += 1;
        }
        let from = self.next_ungranted;
        let mut to = from;
        while to < self.total_places && to - from < limit && !self.settled.contains(to) {
            to += 1;
        }
        self.next_ungranted = to;
        (from < to).then_some(from..to)
    }

    fn insert_lease(&mut self, rank: usize, span: PlaceRange, since: Duration) {
        let left =
            (span.start..span.end).filter(|&place| !self.settled.contains(place)).count() as u64;
        if left > 0 {
            self.leases.insert(
                span.start,
                LeaseEntry { end: span.end, rank, granted_at: since, unsettled_count: left },
            );
            self.ranks[rank].lease_starts.insert(span.start);
        }
    }

    fn remove_lease(&mut self, from: u64) -> Option<LeaseEntry> {
        let lease = self.leases.remove(&from)?;
        self.ranks[lease.rank].lease_starts.remove(&from);
        Some(lease)
    }

    /// Returns the first place of the lease that holds a place.
    fn find_lease(&self, place: u64) -> Option<u64> {
        let (&from, lease) = self.leases.range(..=place).next_back()?;
        (place < lease.end).then_some(from)
    }

    fn remove_from_lease(&mut self, place: u64, settled_by: usize) -> Option<RedundantPlace> {
        let from = self.find_lease(place)?;
        let lease = self.leases.get_mut(&from)?;
        lease.unsettled_count -= 1;
        let rank = lease.rank;
        if lease.unsettled_count == 0 {
            self.remove_lease(from);
        }
        (rank != settled_by).then_some(RedundantPlace { rank, place })
    }

    /// Takes places from a rank. Places of which another rank has a copy become that rank's leases; the rest is free.
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
                self.insert_lease(rank, kept, lease.granted_at);
            }
            for place in taken.clone() {
                if self.settled.contains(place) {
                    continue;
                }
                match self.speculative_copies.remove(&place) {
                    Some(copier) if copier != rank => {
                        self.insert_lease(copier, place..place + 1, now)
                    }
                    _ => self.returned.add_place(place),
                }
            }
            at = end;
        }
    }

    fn next_lease_start(&self, from: u64, to: u64) -> Option<u64> {
        self.leases.range(from..to).next().map(|(&from, _)| from)
    }
}
