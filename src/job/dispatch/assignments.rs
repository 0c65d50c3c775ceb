//! Assignments: rank 0's ledger in terms of rows.
//!
//! Owns the mapping from places to rows, the first grants, the load balancing between ranks and the use of speculation:
//! near the end, idle ranks get copies of prompts that other ranks have held for long. Pure but for the clock it starts
//! with. The policies (guided self-scheduling, which leases are stuck) are the ledger's; messages are the
//! coordinator's.

use std::time::{Duration, Instant};

use super::protocol::{LeaseGrant, PlaceRuns, WorkLease};
use crate::{
    input::{RowLease, RowRange, RowTable},
    ledger::{Ledger, PlaceRange, RedundantPlace, WorkOrder},
};

/// The ledger, the order of work and the location of rows.
pub(crate) struct Assignments {
    ledger: Ledger,
    order: WorkOrder,
    table: RowTable,
    started_at: Instant,
    rank_demand: Vec<RankDemand>,
    /// Time of the next scan for speculative copies.
    next_speculation: Duration,
}

/// Work that a rank could do.
#[derive(Clone, Copy, Default)]
struct RankDemand {
    /// Prompts that the rank has asked for and not received.
    unmet_demand: u64,
    /// Free sequences of the rank for which it has no prompts.
    idle_capacity: u64,
}

/// Limit of a first grant per endpoint: two windows of an endpoint of which nothing is known yet.
const FIRST_GRANT_PER_ENDPOINT: u64 = 128;
/// Limit of the copies per rank and scan: their effect is seen before there are more.
const MAX_SPECULATIVE_COPIES: u64 = 16;
/// Scans for copies take at most one part in this many of rank 0's time.
const SPECULATION_COST_DIVISOR: u32 = 20;

impl Assignments {
    pub(crate) fn new(order: WorkOrder, table: RowTable, ranks: usize) -> Self {
        Self {
            ledger: Ledger::new(order.place_count(), ranks),
            order,
            table,
            started_at: Instant::now(),
            rank_demand: vec![RankDemand::default(); ranks],
            next_speculation: Duration::ZERO,
        }
    }

    /// Returns the number of prompts without an outcome.
    pub(crate) fn open_count(&self) -> u64 {
        self.ledger.open_count()
    }

    pub(crate) fn leased_count(&self) -> u64 {
        self.ledger.open_count() - self.ledger.free_count()
    }

    /// Returns the median latency of a prompt at the slowest rank, or zero while it is unknown.
    pub(crate) fn slowest_typical_latency(&self) -> Duration {
        self.ledger.max_p50_latency().unwrap_or_default()
    }

    pub(crate) fn has_work(&self, rank: usize) -> bool {
        self.ledger.has_leases(rank)
    }

    /// Returns the first grants. `weights` is the number of endpoints of each rank. A grant is half of the rank's fair
    /// share, so that no rank holds prompts that others would have finished sooner, and at most two windows. A rank
    /// that cannot open the input gets nothing yet, since its rows have to be read first.
    pub(crate) fn first_grants(
        &mut self,
        weights: &[u64],
        lacks_input: &[bool],
    ) -> Vec<LeaseGrant> {
        let all = weights.iter().sum::<u64>().max(1);
        let (open, now) = (self.open_count(), self.started_at.elapsed());
        let is_single = weights.iter().filter(|&&weight| weight > 0).count() == 1;
        let share = |weight: u64| {
            let fair = open.saturating_mul(weight).div_ceil(all);
            let fair = if is_single { fair } else { fair.div_ceil(2) };
            fair.min(weight * FIRST_GRANT_PER_ENDPOINT)
        };
        let shares = weights.iter().zip(lacks_input);
        let leases: Vec<Option<WorkLease>> = shares
            .enumerate()
            .map(|(rank, (&weight, &lacks_input))| {
                let count = if lacks_input { 0 } else { share(weight) };
                let spans = self.ledger.lease_places(rank, count, now);
                self.lease_for_spans(&spans)
            })
            .collect();
        leases.into_iter().map(|lease| LeaseGrant { lease, ..self.grant_status() }).collect()
    }

    /// Returns a grant without a lease: what a rank is told about the work that is left.
    pub(crate) fn grant_status(&self) -> LeaseGrant {
        LeaseGrant {
            lease: None,
            exhausted: self.ledger.free_count() == 0,
            seconds_left: self.ledger.free_work_seconds(),
        }
    }

    /// Records a rank's report. Returns the rows that other ranks need not work on any more, by rank.
    pub(crate) fn record_report(
        &mut self,
        rank: usize,
        settled: &PlaceRuns,
        returned: &PlaceRuns,
        typical_latency: Option<Duration>,
    ) -> Vec<(usize, Vec<u64>)> {
        let now = self.started_at.elapsed();
        let redundant = self.ledger.settle_places(rank, place_spans(settled), now);
        self.ledger.return_places(rank, place_spans(returned), now);
        self.ledger.set_p50_latency(rank, typical_latency);
        self.redundant_rows(redundant)
    }

    fn redundant_rows(&self, mut redundant: Vec<RedundantPlace>) -> Vec<(usize, Vec<u64>)> {
        redundant.sort_unstable();
        let mut by_rank: Vec<(usize, Vec<u64>)> = Vec::new();
        for RedundantPlace { rank, place } in redundant {
            let rows = self.order.rows_at(place..place + 1).into_iter().flatten();
            match by_rank.last_mut() {
                Some((last, its_rows)) if *last == rank => its_rows.extend(rows),
                _ => by_rank.push((rank, rows.collect())),
            }
        }
        by_rank
    }

    /// Records a rank's demand (the prompts it wants and its idle capacity) and returns a lease for it.
    pub(crate) fn handle_demand(
        &mut self,
        rank: usize,
        prompts_wanted: u64,
        idle_capacity: u64,
    ) -> Option<WorkLease> {
        self.rank_demand[rank] = RankDemand { unmet_demand: prompts_wanted, idle_capacity };
        self.grant_to(rank)
    }

    /// Frees leased places that were not sent to the rank after all.
    pub(crate) fn return_places(&mut self, rank: usize, places: &PlaceRuns) {
        self.ledger.return_places(rank, place_spans(places), self.started_at.elapsed());
    }

    pub(crate) fn deregister_rank(&mut self, rank: usize) {
        self.rank_demand[rank] = RankDemand::default();
        self.ledger.deregister_rank(rank, self.started_at.elapsed());
    }

    /// Records a sign of life of a rank.
    pub(crate) fn touch_rank(&mut self, rank: usize) {
        self.ledger.touch_rank(rank, self.started_at.elapsed());
    }

    /// Frees the places of ranks that have been silent for this long. Returns each lost rank once.
    pub(crate) fn expire_silent(&mut self, silence: Duration) -> Vec<usize> {
        let lost = self.ledger.expire_silent_ranks(silence, self.started_at.elapsed());
        for &rank in &lost {
            self.rank_demand[rank] = RankDemand::default();
        }
        lost
    }

    /// Returns leases that no report of this moment asked for: returned places for ranks with unmet demand and, if no
    /// place is free, speculative copies for idle ranks.
    pub(crate) fn rebalance_leases(&mut self) -> Vec<(usize, WorkLease)> {
        self.ledger.refresh_latency_range();
        let mut leases = Vec::new();
        for rank in 0..self.rank_demand.len() {
            if self.ledger.free_count() == 0 {
                break;
            }
            if self.rank_demand[rank].unmet_demand > 0 {
                leases.extend(self.grant_to(rank).map(|lease| (rank, lease)));
            }
        }
        if self.ledger.free_count() == 0
            && self.open_count() > 0
            && self.started_at.elapsed() >= self.next_speculation
        {
            let scan_started = Instant::now();
            leases.extend(self.grant_speculative_copies());
            // The scan visits all leases: with thousands of ranks it takes a while.
            self.next_speculation =
                self.started_at.elapsed() + scan_started.elapsed() * SPECULATION_COST_DIVISOR;
        }
        leases
    }

    fn grant_to(&mut self, rank: usize) -> Option<WorkLease> {
        let wanted = self.rank_demand[rank].unmet_demand;
        if wanted == 0 {
            return None;
        }
        let spans = self.ledger.grant_leases(rank, wanted, self.started_at.elapsed());
        let lease = self.lease_for_spans(&spans)?;
        self.rank_demand[rank] = RankDemand::default();
        Some(lease)
    }

    fn grant_speculative_copies(&mut self) -> Vec<(usize, WorkLease)> {
        let room = |idle: u64| usize::try_from(idle.min(MAX_SPECULATIVE_COPIES)).unwrap_or(0);
        let idle: Vec<(usize, usize)> = (0..self.rank_demand.len())
            .map(|rank| (rank, room(self.rank_demand[rank].idle_capacity)))
            .filter(|&(_, room)| room > 0)
            .collect();
        if idle.is_empty() {
            return Vec::new();
        }
        let mut copies = self.ledger.grant_speculative_copies(&idle, self.started_at.elapsed());
        copies.sort_unstable();
        let mut leases = Vec::new();
        for of_rank in copies.chunk_by(|one, other| one.0 == other.0) {
            let rank = of_rank[0].0;
            let spans: Vec<PlaceRange> =
                of_rank.iter().map(|&(_, place)| place..place + 1).collect();
            self.rank_demand[rank].idle_capacity =
                self.rank_demand[rank].idle_capacity.saturating_sub(spans.len() as u64);
            leases.extend(self.lease_for_spans(&spans).map(|lease| (rank, lease)));
        }
        leases
    }

    fn lease_for_spans(&self, spans: &[PlaceRange]) -> Option<WorkLease> {
        let rows = spans.iter().flat_map(|span| self.order.rows_at(span.clone()));
        let ranges: Vec<RowRange> =
            rows.flat_map(|rows| split_ranges(&self.table, rows.start, rows.end)).collect();
        let places = spans.iter().map(|span| (span.start, span.end - span.start)).collect();
        let lease = WorkLease { places, rows: RowLease { ranges, text: None } };
        (lease.prompt_count() > 0).then_some(lease)
    }
}

/// Limit of a range of rows in bytes, except for single rows: a lease that travels as text is split between ranges.
const MAX_TEXT_PIECE_BYTES: u64 = 8 << 20;

fn split_ranges(table: &RowTable, from: u64, to: u64) -> Vec<RowRange> {
    let mut fitting = Vec::new();
    for range in table.row_ranges(from, to) {
        if range.bytes <= MAX_TEXT_PIECE_BYTES || range.rows == 1 {
            fitting.push(range);
        } else {
            let middle = range.first + range.rows / 2;
            fitting.extend(split_ranges(table, range.first, middle));
            fitting.extend(split_ranges(table, middle, range.first + range.rows));
        }
    }
    fitting
}

fn place_spans(places: &PlaceRuns) -> impl Iterator<Item = PlaceRange> + '_ {
    places.iter().map(|&(first, count)| first..first.saturating_add(count))
}
