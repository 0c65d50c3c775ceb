//! Assignments: rank 0's ledger in terms of rows.
//!
//! Owns the mapping from places to rows, the first grants, the load balancing between ranks and the use of speculation:
//! near the end, idle ranks get copies of prompts that other ranks have held for long. If endpoints serve different
//! models, the work is divided into pools, each with a ledger of its own, and a rank gets prompts only of pools whose
//! models its endpoints serve. Pure but for the clock it starts with. The policies (guided self-scheduling, which leases are stuck) are the ledger's; messages are the
//! coordinator's.

use std::time::{Duration, Instant};

use super::protocol::{LeaseGrant, PlaceRuns, WorkLease};
use crate::{
    domain::ModelSet,
    input::{RowRange, RowTable},
    ledger::{Ledger, PlaceRange, RedundantPlace, WorkOrder},
};

/// The pools of work and the location of rows.
pub(crate) struct Assignments {
    /// One pool, unless endpoints serve different models.
    pools: Vec<WorkPool>,
    /// Whether the job has one model: then every endpoint that is up serves it.
    has_one_model: bool,
    table: RowTable,
    started_at: Instant,
    rank_demand: Vec<RankDemand>,
    /// The models that the endpoints of each rank serve, by its last report.
    rank_models: Vec<ModelSet>,
    /// Time of the next scan for speculative copies.
    next_speculation: Duration,
}

/// Prompts whose models are served by the same endpoints. In messages, places count over all pools.
struct WorkPool {
    models: ModelSet,
    ledger: Ledger,
    order: WorkOrder,
    /// Number of places in the pools before it.
    first_place: u64,
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
/// A lease from several pools is cut into this many pieces of each, which alternate: the rank reads them in order, and its
/// endpoints of one model must not wait until all prompts of another are read.
const PIECES_PER_POOL: u64 = 8;
/// Scans for copies take at most one part in this many of rank 0's time.
const SPECULATION_COST_DIVISOR: u32 = 20;

impl WorkPool {
    /// Returns the runs of places that lie in the pool, as its ledger counts them.
    fn own_spans<'p>(&self, places: &'p PlaceRuns) -> impl Iterator<Item = PlaceRange> + 'p {
        let (first, end) = (self.first_place, self.first_place + self.order.place_count());
        let clip = move |&(from, count): &(u64, u64)| {
            let (from, to) = (from.max(first), from.saturating_add(count).min(end));
            (from < to).then(|| from - first..to - first)
        };
        places.iter().filter_map(clip)
    }

    /// Returns the prompts that are free for each rank that could send them.
    fn free_per_rank(&self, serving: u64) -> f64 {
        self.ledger.free_count() as f64 / serving.max(1) as f64
    }
}

/// Creates the pools of these orders of work.
fn pools_of(orders: Vec<(ModelSet, WorkOrder)>, ranks: usize) -> Vec<WorkPool> {
    let mut first_place = 0;
    let pool = |(models, order): (ModelSet, WorkOrder)| {
        let ledger = Ledger::new(order.place_count(), ranks);
        let pool = WorkPool { models, ledger, order, first_place };
        first_place += pool.order.place_count();
        pool
    };
    orders.into_iter().map(pool).collect()
}

/// Places of one pool.
type PoolSpans = (usize, Vec<PlaceRange>);

impl Assignments {
    /// Creates the assignments of these orders of work, one for each group of models. `rank_models` are the models that
    /// the endpoints of each rank serve; `has_one_model` is whether the job has no other models.
    pub(crate) fn new(
        orders: Vec<(ModelSet, WorkOrder)>,
        table: RowTable,
        rank_models: &[ModelSet],
        has_one_model: bool,
    ) -> Self {
        let ranks = rank_models.len();
        let mut assignments = Self {
            has_one_model,
            pools: pools_of(orders, ranks),
            table,
            started_at: Instant::now(),
            rank_demand: vec![RankDemand::default(); ranks],
            rank_models: rank_models.to_vec(),
            next_speculation: Duration::ZERO,
        };
        // A rank counts for the distribution of a pool only once it serves it.
        for (rank, pool) in assignments.pairs(|serves| !serves) {
            assignments.pools[pool].ledger.deregister_rank(rank, Duration::ZERO);
        }
        assignments
    }

    /// Returns the pairs of a rank and a pool which it serves, or does not serve.
    fn pairs(&self, selects: impl Fn(bool) -> bool) -> Vec<(usize, usize)> {
        let ranks = 0..self.rank_models.len();
        let all = ranks.flat_map(|rank| (0..self.pools.len()).map(move |pool| (rank, pool)));
        all.filter(|&(rank, pool)| selects(self.serves(rank, pool))).collect()
    }

    /// Whether the endpoints of a rank can answer the prompts of a pool. With a single model that is left to the rank,
    /// which asks for none while its endpoints are down.
    fn serves(&self, rank: usize, pool: usize) -> bool {
        self.has_one_model
            || self
                .rank_models
                .get(rank)
                .is_some_and(|own| own.is_superset(&self.pools[pool].models))
    }

    /// Records the models that the endpoints of a rank serve now.
    pub(crate) fn set_rank_models(&mut self, rank: usize, models: ModelSet) {
        if self.has_one_model || self.rank_models[rank] == models {
            return;
        }
        self.rank_models[rank] = models;
        for pool in 0..self.pools.len() {
            // A rank that has ceased to serve a pool keeps its leases: it returns those that it cannot send.
            if self.serves(rank, pool) {
                self.pools[pool].ledger.register_rank(rank);
            }
        }
    }

    /// Whether a rank that `is_active` selects can answer prompts that have no outcome.
    pub(crate) fn has_served_work(&self, is_active: impl Fn(usize) -> bool) -> bool {
        let is_open = |pool: usize| self.pools[pool].ledger.open_count() > 0;
        let active = (0..self.rank_models.len()).filter(|&rank| is_active(rank));
        active
            .into_iter()
            .any(|rank| (0..self.pools.len()).any(|pool| is_open(pool) && self.serves(rank, pool)))
    }

    /// Returns the number of prompts without an outcome.
    pub(crate) fn open_count(&self) -> u64 {
        self.pools.iter().map(|pool| pool.ledger.open_count()).sum()
    }

    pub(crate) fn leased_count(&self) -> u64 {
        self.open_count() - self.pools.iter().map(|pool| pool.ledger.free_count()).sum::<u64>()
    }

    /// Returns the median latency of a prompt at the slowest rank, or zero while it is unknown.
    pub(crate) fn slowest_typical_latency(&self) -> Duration {
        let slowest = self.pools.iter().filter_map(|pool| pool.ledger.max_p50_latency()).max();
        slowest.unwrap_or_default()
    }

    pub(crate) fn has_work(&self, rank: usize) -> bool {
        self.pools.iter().any(|pool| pool.ledger.has_leases(rank))
    }

    /// Returns the first grants. `weights` is the number of endpoints of each rank. A grant is half of the rank's fair
    /// share, so that no rank holds prompts that others would have finished sooner, and at most two windows. A rank
    /// that cannot open the input gets nothing yet, since its rows have to be read first.
    pub(crate) fn first_grants(
        &mut self,
        weights: &[u64],
        lacks_input: &[bool],
    ) -> Vec<LeaseGrant> {
        let now = self.started_at.elapsed();
        let mut granted: Vec<Vec<PoolSpans>> = vec![Vec::new(); weights.len()];
        for pool in 0..self.pools.len() {
            let serving: Vec<u64> = weights
                .iter()
                .enumerate()
                .map(|(rank, &weight)| if self.serves(rank, pool) { weight } else { 0 })
                .collect();
            let all = serving.iter().sum::<u64>().max(1);
            let open = self.pools[pool].ledger.open_count();
            let is_single = serving.iter().filter(|&&weight| weight > 0).count() == 1;
            for (rank, &weight) in serving.iter().enumerate() {
                let fair = open.saturating_mul(weight).div_ceil(all);
                let fair = if is_single { fair } else { fair.div_ceil(2) };
                let limit = weight * FIRST_GRANT_PER_ENDPOINT;
                // The limit of a rank that serves several pools is shared out by their sizes.
                let its_open: u64 = (0..self.pools.len())
                    .filter(|&other| self.serves(rank, other))
                    .map(|other| self.pools[other].ledger.open_count())
                    .sum();
                let limit = limit.saturating_mul(open).div_ceil(its_open.max(1));
                let count = if lacks_input[rank] { 0 } else { fair.min(limit) };
                let spans = self.pools[pool].ledger.lease_places(rank, count, now);
                granted[rank].push((pool, spans));
            }
        }
        let grant = |(rank, spans)| LeaseGrant {
            lease: self.lease_for_pools(spans),
            ..self.grant_status(rank)
        };
        granted.into_iter().enumerate().map(grant).collect()
    }

    /// Returns a grant without a lease: what a rank is told about the work that is left for it.
    pub(crate) fn grant_status(&self, rank: usize) -> LeaseGrant {
        let served = (0..self.pools.len()).filter(|&pool| self.serves(rank, pool));
        let ledgers = served.map(|pool| &self.pools[pool].ledger);
        let mut status = LeaseGrant { lease: None, exhausted: true, seconds_left: Some(0.0) };
        for ledger in ledgers {
            status.exhausted &= ledger.free_count() == 0;
            let seconds = status.seconds_left.zip(ledger.free_work_seconds());
            status.seconds_left = seconds.map(|(one, other)| one.max(other));
        }
        status
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
        let mut rows = Vec::new();
        for pool in &mut self.pools {
            let redundant = pool.ledger.settle_places(rank, pool.own_spans(settled), now);
            pool.ledger.return_places(rank, pool.own_spans(returned), now);
            pool.ledger.set_p50_latency(rank, typical_latency);
            rows.extend(redundant_rows(&pool.order, redundant));
        }
        rows
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
        let now = self.started_at.elapsed();
        for pool in &mut self.pools {
            pool.ledger.return_places(rank, pool.own_spans(places), now);
        }
    }

    pub(crate) fn deregister_rank(&mut self, rank: usize) {
        self.rank_demand[rank] = RankDemand::default();
        self.rank_models[rank] = ModelSet::default();
        let now = self.started_at.elapsed();
        self.pools.iter_mut().for_each(|pool| pool.ledger.deregister_rank(rank, now));
    }

    /// Records a sign of life of a rank.
    pub(crate) fn touch_rank(&mut self, rank: usize) {
        let now = self.started_at.elapsed();
        self.pools.iter_mut().for_each(|pool| pool.ledger.touch_rank(rank, now));
    }

    /// Frees the places of ranks that have been silent for this long. Returns each lost rank once.
    pub(crate) fn expire_silent(&mut self, silence: Duration) -> Vec<usize> {
        let now = self.started_at.elapsed();
        let mut lost = Vec::new();
        for pool in &mut self.pools {
            lost.extend(pool.ledger.expire_silent_ranks(silence, now));
        }
        lost.sort_unstable();
        lost.dedup();
        for &rank in &lost {
            self.rank_demand[rank] = RankDemand::default();
        }
        lost
    }

    /// Returns leases that no report of this moment asked for: returned places for ranks with unmet demand and, if no
    /// place is free, speculative copies for idle ranks.
    pub(crate) fn rebalance_leases(&mut self) -> Vec<(usize, WorkLease)> {
        self.pools.iter_mut().for_each(|pool| pool.ledger.refresh_latency_range());
        let mut leases = Vec::new();
        for rank in 0..self.rank_demand.len() {
            if self.pools.iter().all(|pool| pool.ledger.free_count() == 0) {
                break;
            }
            if self.rank_demand[rank].unmet_demand > 0 {
                leases.extend(self.grant_to(rank).map(|lease| (rank, lease)));
            }
        }
        if self.started_at.elapsed() >= self.next_speculation {
            let scan_started = Instant::now();
            for pool in 0..self.pools.len() {
                let ledger = &self.pools[pool].ledger;
                if ledger.free_count() == 0 && ledger.open_count() > 0 {
                    leases.extend(self.grant_speculative_copies(pool));
                }
            }
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
        let now = self.started_at.elapsed();
        let shares = self.share_demand(rank, wanted);
        let mut spans = Vec::new();
        for (pool, share) in shares {
            spans.push((pool, self.pools[pool].ledger.grant_leases(rank, share, now)));
        }
        let lease = self.lease_for_pools(spans)?;
        self.rank_demand[rank] = RankDemand::default();
        Some(lease)
    }

    /// Shares out the prompts that a rank wants over the pools that it serves: by the prompts that are free, and less from
    /// pools that more ranks serve.
    fn share_demand(&self, rank: usize, wanted: u64) -> Vec<(usize, u64)> {
        if self.has_one_model {
            return vec![(0, wanted)];
        }
        let serving =
            |pool| (0..self.rank_models.len()).filter(|&it| self.serves(it, pool)).count();
        let served = (0..self.pools.len()).filter(|&pool| self.serves(rank, pool));
        let weights: Vec<(usize, f64)> = served
            .map(|pool| (pool, self.pools[pool].free_per_rank(serving(pool) as u64)))
            .filter(|&(_, weight)| weight > 0.0)
            .collect();
        let all: f64 = weights.iter().map(|(_, weight)| weight).sum();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a count"
        )]
        let share = |weight: f64| ((wanted as f64 * weight / all).ceil() as u64).clamp(1, wanted);
        weights.into_iter().map(|(pool, weight)| (pool, share(weight))).collect()
    }

    fn grant_speculative_copies(&mut self, pool: usize) -> Vec<(usize, WorkLease)> {
        let room = |idle: u64| usize::try_from(idle.min(MAX_SPECULATIVE_COPIES)).unwrap_or(0);
        let idle: Vec<(usize, usize)> = (0..self.rank_demand.len())
            .map(|rank| (rank, room(self.rank_demand[rank].idle_capacity)))
            .filter(|&(rank, room)| room > 0 && self.serves(rank, pool))
            .collect();
        if idle.is_empty() {
            return Vec::new();
        }
        let now = self.started_at.elapsed();
        let mut copies = self.pools[pool].ledger.grant_speculative_copies(&idle, now);
        copies.sort_unstable();
        let mut leases = Vec::new();
        for of_rank in copies.chunk_by(|one, other| one.0 == other.0) {
            let rank = of_rank[0].0;
            let spans: Vec<PlaceRange> =
                of_rank.iter().map(|&(_, place)| place..place + 1).collect();
            self.rank_demand[rank].idle_capacity =
                self.rank_demand[rank].idle_capacity.saturating_sub(spans.len() as u64);
            let lease = self.lease_for_pools(vec![(pool, spans)]);
            leases.extend(lease.map(|lease| (rank, lease)));
        }
        leases
    }

    /// Returns the lease of these places; those of several pools alternate.
    fn lease_for_pools(&self, mut granted: Vec<PoolSpans>) -> Option<WorkLease> {
        granted.retain(|(_, spans)| !spans.is_empty());
        let of_pool = |(pool, spans): PoolSpans| {
            spans.into_iter().map(move |span| (pool, span)).collect::<Vec<_>>()
        };
        let ordered = match granted.len() {
            0 | 1 => granted.into_iter().flat_map(of_pool).collect(),
            _ => alternate_pools(granted),
        };
        let mut lease = WorkLease::default();
        for (pool, span) in ordered {
            let WorkPool { order, first_place, .. } = &self.pools[pool];
            lease.places.push((first_place + span.start, span.end - span.start));
            for rows in order.rows_at(span) {
                lease.rows.ranges.extend(split_ranges(&self.table, rows.start, rows.end));
            }
        }
        (lease.prompt_count() > 0).then_some(lease)
    }
}

fn redundant_rows(order: &WorkOrder, mut redundant: Vec<RedundantPlace>) -> Vec<(usize, Vec<u64>)> {
    redundant.sort_unstable();
    let mut by_rank: Vec<(usize, Vec<u64>)> = Vec::new();
    for RedundantPlace { rank, place } in redundant {
        let rows = order.rows_at(place..place + 1).into_iter().flatten();
        match by_rank.last_mut() {
            Some((last, its_rows)) if *last == rank => its_rows.extend(rows),
            _ => by_rank.push((rank, rows.collect())),
        }
    }
    by_rank
}

/// Cuts the places of each pool into pieces and returns the first piece of each, then the second of each, and so on.
fn alternate_pools(granted: Vec<PoolSpans>) -> Vec<(usize, PlaceRange)> {
    let mut pieces: Vec<(u64, (usize, PlaceRange))> = Vec::new();
    for (pool, spans) in granted {
        let count: u64 = spans.iter().map(|span| span.end - span.start).sum();
        let size = count.div_ceil(PIECES_PER_POOL).max(1);
        let mut taken = 0;
        for PlaceRange { mut start, end } in spans {
            while start < end {
                let piece_end = end.min(start + size - taken % size);
                pieces.push((taken / size, (pool, start..piece_end)));
                taken += piece_end - start;
                start = piece_end;
            }
        }
    }
    pieces.sort_by_key(|(number, _)| *number);
    pieces.into_iter().map(|(_, spans)| spans).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn set(numbers: &[u8]) -> ModelSet {
        numbers.iter().copied().collect()
    }

    /// Returns the assignments of places 0..a of model 0 and a..a+b of model 1, without rows.
    fn two_pools(a: u64, b: u64, rank_models: &[ModelSet]) -> Assignments {
        let order =
            |from: u64, count: u64| WorkOrder::from_runs(std::iter::once(from..from + count));
        let orders = vec![(set(&[0]), order(0, a)), (set(&[1]), order(a, b))];
        Assignments::new(orders, RowTable::default(), rank_models, false)
    }

    /// Asks until nothing is granted, and returns the places granted to the rank.
    fn drain_rank(assignments: &mut Assignments, rank: usize) -> Vec<u64> {
        let mut places = Vec::new();
        while let Some(lease) = assignments.handle_demand(rank, 10, 0) {
            places.extend(lease.places.iter().flat_map(|&(first, count)| first..first + count));
        }
        places
    }

    #[test]
    fn a_rank_gets_only_prompts_of_models_that_its_endpoints_serve() {
        let mut work = two_pools(40, 30, &[set(&[0]), set(&[1]), set(&[])]);
        assert!(drain_rank(&mut work, 2).is_empty() && work.grant_status(2).exhausted);
        let firsts = work.first_grants(&[1, 1, 0], &[false; 3]);
        let places = |grant: &LeaseGrant| grant.lease.as_ref().map(|lease| lease.places.clone());
        assert_eq!(
            firsts.iter().map(places).collect::<Vec<_>>(),
            [Some(vec![(0, 40)]), Some(vec![(40, 30)]), None]
        );
        // Runs of places may reach from one pool into the next.
        work.record_report(0, &vec![(0, 10)], &vec![(35, 5)], None);
        work.record_report(1, &vec![(60, 10)], &vec![(40, 2)], None);
        assert_eq!((work.open_count(), work.leased_count()), (50, 43));
        assert_eq!(drain_rank(&mut work, 1), [40, 41]);
        assert!(work.grant_status(1).exhausted && !work.grant_status(0).exhausted);
        assert_eq!(drain_rank(&mut work, 0), [35, 36, 37, 38, 39]);
    }

    #[test]
    fn a_rank_that_serves_several_models_gets_all_of_them_in_turn() {
        let mut work = two_pools(100, 50, &[set(&[0, 1])]);
        let firsts = work.first_grants(&[1], &[false]);
        let lease = firsts[0].lease.clone().expect("a lease");
        assert_eq!(lease.prompt_count(), 86 + 43, "128 by the sizes of the pools, rounded up");
        assert_eq!(lease.places[..4], [(0, 11), (100, 6), (11, 11), (106, 6)]);
        let mut rest = drain_rank(&mut work, 0);
        rest.sort_unstable();
        assert_eq!(rest, (86..100).chain(143..150).collect::<Vec<_>>());
    }

    #[test]
    fn work_without_a_rank_that_serves_it_is_told_and_goes_to_one_that_joins() {
        let mut work = two_pools(4, 4, &[set(&[0]), set(&[1])]);
        work.deregister_rank(1);
        assert!(work.has_served_work(|_| true));
        work.record_report(0, &vec![(0, 4)], &vec![], None);
        assert!(!work.has_served_work(|_| true), "model 1 is left");
        assert!(drain_rank(&mut work, 0).is_empty());
        work.set_rank_models(0, set(&[0, 1]));
        assert!(work.has_served_work(|rank| rank == 0) && !work.has_served_work(|_| false));
        assert_eq!(drain_rank(&mut work, 0), [4, 5, 6, 7]);
    }

    #[test]
    fn the_last_prompts_of_one_model_do_not_go_to_ranks_of_another() {
        let order = WorkOrder::from_runs(std::iter::once(0..3));
        let ranks = [set(&[1]), set(&[0])];
        let mut work =
            Assignments::new(vec![(set(&[0]), order)], RowTable::default(), &ranks, false);
        assert!(drain_rank(&mut work, 0).is_empty());
        assert_eq!(drain_rank(&mut work, 1), [0, 1, 2]);
    }
}
