//! Rank 0's ledger in terms of rows: who works on which, from the order of work and the table of where rows lie.
//!
//! Owns the bridge from places to rows, the first shares, and how the end is hurried: who is idle gets copies of what others
//! have had for long. Pure but for the clock it is made with; letters are the listener's.

use std::time::{Duration, Instant};

use super::protocol::{LeaseGrant, PlaceRuns, WorkLease};
use crate::{
    input::{self, RowRange, RowTable},
    ledger::{Ledger, PlaceRange, WorkOrder},
};

/// The book.
pub(crate) struct Assignments {
    ledger: Ledger,
    order: WorkOrder,
    table: RowTable,
    started_at: Instant,
    rank_demand: Vec<RankDemand>,
    next_speculation: Duration,
}

/// What a rank could do.
#[derive(Clone, Copy, Default)]
struct RankDemand {
    /// Prompts that it has asked for and not got.
    unmet_demand: u64,
    /// Sequences that it has room for and nothing to send.
    idle_capacity: u64,
}

/// The first share is what two windows hold where nothing is known of them, by endpoint.
const FIRST_GRANT_PER_ENDPOINT: u64 = 128;
/// So many copies a rank and look: what they bring is seen before there are more.
const MAX_SPECULATIVE_COPIES: u64 = 16;
/// Looking for copies takes at most one part of so many of rank 0's time.
const SPECULATION_COST_DIVISOR: u32 = 20;

impl Assignments {
    /// Of the rows that this order names, for so many ranks.
    pub(crate) fn new(order: WorkOrder, table: RowTable, ranks: usize) -> Self {
        let ledger = Ledger::new(order.place_count(), ranks);
        let stand = vec![RankDemand::default(); ranks];
        let (began, next_copies) = (Instant::now(), Duration::ZERO);
        Self {
            ledger,
            order,
            table,
            started_at: began,
            rank_demand: stand,
            next_speculation: next_copies,
        }
    }

    /// Prompts without an outcome.
    pub(crate) fn open_count(&self) -> u64 {
        self.ledger.open_count()
    }

    /// Prompts that somebody has.
    pub(crate) fn leased_count(&self) -> u64 {
        self.ledger.open_count() - self.ledger.free_count()
    }

    /// What a prompt usually takes at the slowest rank.
    pub(crate) fn slowest_typical_latency(&self) -> Duration {
        self.ledger.max_p50_latency().unwrap_or_default()
    }

    /// Does it have anything to work on?
    pub(crate) fn has_work(&self, rank: usize) -> bool {
        self.ledger.has_leases(rank)
    }

    /// The first shares, by how many endpoints each rank has: half of what would be fair, so that nobody is given what
    /// others would have done sooner, and at most what windows hold twice. Who is blind gets nothing yet: its rows have to be
    /// read first.
    pub(crate) fn first_grants(&mut self, weights: &[u64], blind: &[bool]) -> Vec<LeaseGrant> {
        let all = weights.iter().sum::<u64>().max(1);
        let (open, now) = (self.open_count(), self.started_at.elapsed());
        let alone = weights.iter().filter(|&&weight| weight > 0).count() == 1;
        let share = |&weight: &u64| {
            let fair = open.saturating_mul(weight).div_ceil(all);
            let fair = if alone { fair } else { fair.div_ceil(2) };
            fair.min(weight * FIRST_GRANT_PER_ENDPOINT)
        };
        let share = |(weight, &blind): (&u64, &bool)| if blind { 0 } else { share(weight) };
        let shares: Vec<u64> = weights.iter().zip(blind).map(share).collect();
        let leases: Vec<Option<WorkLease>> = (0..shares.len())
            .map(|rank| {
                let spans = self.ledger.lease_places(rank, shares[rank], now);
                self.lease_for_spans(&spans)
            })
            .collect();
        leases.into_iter().map(|lease| LeaseGrant { lease, ..self.grant_status() }).collect()
    }

    /// What a rank is told besides its lease.
    pub(crate) fn grant_status(&self) -> LeaseGrant {
        LeaseGrant {
            lease: None,
            exhausted: self.ledger.free_count() == 0,
            seconds_left: self.ledger.free_work_seconds(),
        }
    }

    /// A rank has reported; rows that others need not work on any more, by rank.
    pub(crate) fn record_report(
        &mut self,
        rank: usize,
        settled: &PlaceRuns,
        back: &PlaceRuns,
        usual: Option<Duration>,
    ) -> Vec<(usize, Vec<u64>)> {
        let now = self.started_at.elapsed();
        let needless = self.ledger.settle_places(rank, place_spans(settled), now);
        self.ledger.return_places(rank, place_spans(back), now);
        self.ledger.set_p50_latency(rank, usual);
        let mut by_rank: Vec<(usize, Vec<u64>)> = Vec::new();
        let mut needless: Vec<_> = needless.into_iter().collect();
        needless.sort_unstable();
        for it in needless {
            let rows = self.order.rows_at(it.place..it.place + 1).into_iter().flatten();
            match by_rank.last_mut() {
                Some((rank, its)) if *rank == it.rank => its.extend(rows),
                _ => by_rank.push((it.rank, rows.collect())),
            }
        }
        by_rank
    }

    /// A rank could use so many prompts, and has room for so many sequences that it cannot fill. What it gets.
    pub(crate) fn handle_demand(&mut self, rank: usize, want: u64, idle: u64) -> Option<WorkLease> {
        self.rank_demand[rank] = RankDemand { unmet_demand: want, idle_capacity: idle };
        self.grant_to(rank)
    }

    /// A rank did not get these after all.
    pub(crate) fn return_places(&mut self, rank: usize, places: &PlaceRuns) {
        self.ledger.return_places(rank, place_spans(places), self.started_at.elapsed());
    }

    /// A rank's work has ended.
    pub(crate) fn deregister_rank(&mut self, rank: usize) {
        self.rank_demand[rank] = RankDemand::default();
        self.ledger.deregister_rank(rank, self.started_at.elapsed());
    }

    /// A rank lives, whatever it says.
    pub(crate) fn touch_rank(&mut self, rank: usize) {
        self.ledger.touch_rank(rank, self.started_at.elapsed());
    }

    /// Ranks that nobody has heard of for so long; what they had is for others.
    pub(crate) fn expire_silent(&mut self, silence: Duration) -> Vec<usize> {
        let lost = self.ledger.expire_silent_ranks(silence, self.started_at.elapsed());
        for &rank in &lost {
            self.rank_demand[rank] = RankDemand::default();
        }
        lost
    }

    /// Now and then: what ranks get that nobody asked for just now, because it has come back, or others have had it for
    /// long.
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
            let began = Instant::now();
            leases.extend(self.grant_speculative_copies());
            // All that is leased is looked at: with very many ranks that takes a while.
            self.next_speculation =
                self.started_at.elapsed() + began.elapsed() * SPECULATION_COST_DIVISOR;
        }
        leases
    }

    fn grant_to(&mut self, rank: usize) -> Option<WorkLease> {
        let want = self.rank_demand[rank].unmet_demand;
        if want == 0 {
            return None;
        }
        let spans = self.ledger.grant_leases(rank, want, self.started_at.elapsed());
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
        let mut copied = self.ledger.grant_speculative_copies(&idle, self.started_at.elapsed());
        copied.sort_unstable();
        let mut leases = Vec::new();
        for its in copied.chunk_by(|one, other| one.0 == other.0) {
            let rank = its[0].0;
            let spans: Vec<PlaceRange> = its.iter().map(|&(_, place)| place..place + 1).collect();
            self.rank_demand[rank].idle_capacity =
                self.rank_demand[rank].idle_capacity.saturating_sub(spans.len() as u64);
            leases.extend(self.lease_for_spans(&spans).map(|lease| (rank, lease)));
        }
        leases
    }

    fn lease_for_spans(&self, spans: &[PlaceRange]) -> Option<WorkLease> {
        let rows = spans.iter().flat_map(|span| self.order.rows_at(span.clone()));
        let stretches: Vec<_> =
            rows.flat_map(|rows| split_stretches(&self.table, rows.start, rows.end)).collect();
        let places = spans.iter().map(|span| (span.start, span.end - span.start)).collect();
        let lease = WorkLease { places, rows: input::RowLease { ranges: stretches, text: None } };
        (lease.prompt_count() > 0).then_some(lease)
    }
}

/// Stretches that may travel as text: none of more bytes than this but single rows, so that a lease can be cut between them.
const MAX_TEXT_PIECE_BYTES: u64 = 8 << 20;

fn split_stretches(table: &RowTable, from: u64, to: u64) -> Vec<RowRange> {
    let mut fitting = Vec::new();
    for stretch in table.row_ranges(from, to) {
        if stretch.bytes <= MAX_TEXT_PIECE_BYTES || stretch.rows == 1 {
            fitting.push(stretch);
        } else {
            let middle = stretch.first + stretch.rows / 2;
            fitting.extend(split_stretches(table, stretch.first, middle));
            fitting.extend(split_stretches(table, middle, stretch.first + stretch.rows));
        }
    }
    fitting
}

fn place_spans(places: &PlaceRuns) -> impl Iterator<Item = PlaceRange> + '_ {
    places.iter().map(|&(from, count)| from..from.saturating_add(count))
}
