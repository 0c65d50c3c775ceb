//! Rank 0's ledger in terms of rows: who works on which, from the order of work and the table of where rows lie.
//!
//! Owns the bridge from places to rows, the first shares, and how the end is hurried: who is idle gets copies of what others
//! have had for long. Pure but for the clock it is made with; letters are the listener's.

use std::time::{Duration, Instant};

use super::protocol::{Grant, Lease, Places};
use crate::{
    input::{self, RowTable, Stretch},
    ledger::{Ledger, Order, Span},
};

/// The book.
pub(crate) struct Book {
    ledger: Ledger,
    order: Order,
    table: RowTable,
    began: Instant,
    ranks: Vec<Stand>,
    next_copies: Duration,
}

/// What a rank could do.
#[derive(Clone, Copy, Default)]
struct Stand {
    /// Prompts that it has asked for and not got.
    hungry: u64,
    /// Sequences that it has room for and nothing to send.
    idle: u64,
}

/// The first share is what two windows hold where nothing is known of them, by endpoint.
const FIRST: u64 = 128;
/// So many copies a rank and look: what they bring is seen before there are more.
const COPIES: u64 = 16;
/// Looking for copies takes at most one part of so many of rank 0's time.
const COPIES_COST: u32 = 20;

impl Book {
    /// Of the rows that this order names, for so many ranks.
    pub(crate) fn new(order: Order, table: RowTable, ranks: usize) -> Self {
        let ledger = Ledger::new(order.places(), ranks);
        let stand = vec![Stand::default(); ranks];
        let (began, next_copies) = (Instant::now(), Duration::ZERO);
        Self { ledger, order, table, began, ranks: stand, next_copies }
    }

    /// Prompts without an outcome.
    pub(crate) fn open(&self) -> u64 {
        self.ledger.open()
    }

    /// Prompts that somebody has.
    pub(crate) fn leased(&self) -> u64 {
        self.ledger.open() - self.ledger.free()
    }

    /// What a prompt usually takes at the slowest rank.
    pub(crate) fn slowest(&self) -> Duration {
        self.ledger.slowest().unwrap_or_default()
    }

    /// Does it have anything to work on?
    pub(crate) fn has_work(&self, rank: usize) -> bool {
        self.ledger.has_leases(rank)
    }

    /// The first shares, by how many endpoints each rank has: half of what would be fair, so that nobody is given what
    /// others would have done sooner, and at most what windows hold twice. Who is blind gets nothing yet: its rows have to be
    /// read first.
    pub(crate) fn first(&mut self, weights: &[u64], blind: &[bool]) -> Vec<Grant> {
        let all = weights.iter().sum::<u64>().max(1);
        let (open, now) = (self.open(), self.began.elapsed());
        let alone = weights.iter().filter(|&&weight| weight > 0).count() == 1;
        let share = |&weight: &u64| {
            let fair = open.saturating_mul(weight).div_ceil(all);
            let fair = if alone { fair } else { fair.div_ceil(2) };
            fair.min(weight * FIRST)
        };
        let share = |(weight, &blind): (&u64, &bool)| if blind { 0 } else { share(weight) };
        let shares: Vec<u64> = weights.iter().zip(blind).map(share).collect();
        let leases: Vec<Option<Lease>> = (0..shares.len())
            .map(|rank| {
                let spans = self.ledger.take(rank, shares[rank], now);
                self.lease_of(&spans)
            })
            .collect();
        leases.into_iter().map(|lease| Grant { lease, ..self.word() }).collect()
    }

    /// What a rank is told besides its lease.
    pub(crate) fn word(&self) -> Grant {
        Grant { lease: None, ending: self.ledger.free() == 0, left: self.ledger.seconds_free() }
    }

    /// A rank has reported; rows that others need not work on any more, by rank.
    pub(crate) fn reported(
        &mut self,
        rank: usize,
        settled: &Places,
        back: &Places,
        usual: Option<Duration>,
    ) -> Vec<(usize, Vec<u64>)> {
        let now = self.began.elapsed();
        let needless = self.ledger.settle(rank, spans(settled), now);
        self.ledger.give_back(rank, spans(back), now);
        self.ledger.usual(rank, usual);
        let mut by_rank: Vec<(usize, Vec<u64>)> = Vec::new();
        let mut needless: Vec<_> = needless.into_iter().collect();
        needless.sort_unstable();
        for it in needless {
            let rows = self.order.rows(it.place..it.place + 1).into_iter().flatten();
            match by_rank.last_mut() {
                Some((rank, its)) if *rank == it.rank => its.extend(rows),
                _ => by_rank.push((it.rank, rows.collect())),
            }
        }
        by_rank
    }

    /// A rank could use so many prompts, and has room for so many sequences that it cannot fill. What it gets.
    pub(crate) fn asked(&mut self, rank: usize, want: u64, idle: u64) -> Option<Lease> {
        self.ranks[rank] = Stand { hungry: want, idle };
        self.feed(rank)
    }

    /// A rank did not get these after all.
    pub(crate) fn back(&mut self, rank: usize, places: &Places) {
        self.ledger.give_back(rank, spans(places), self.began.elapsed());
    }

    /// A rank's work has ended.
    pub(crate) fn gone(&mut self, rank: usize) {
        self.ranks[rank] = Stand::default();
        self.ledger.gone(rank, self.began.elapsed());
    }

    /// A rank lives, whatever it says.
    pub(crate) fn heard(&mut self, rank: usize) {
        self.ledger.heard(rank, self.began.elapsed());
    }

    /// Ranks that nobody has heard of for so long; what they had is for others.
    pub(crate) fn silent(&mut self, silence: Duration) -> Vec<usize> {
        let lost = self.ledger.silent(silence, self.began.elapsed());
        for &rank in &lost {
            self.ranks[rank] = Stand::default();
        }
        lost
    }

    /// Now and then: what ranks get that nobody asked for just now, because it has come back, or others have had it for
    /// long.
    pub(crate) fn look(&mut self) -> Vec<(usize, Lease)> {
        self.ledger.look();
        let mut leases = Vec::new();
        for rank in 0..self.ranks.len() {
            if self.ledger.free() == 0 {
                break;
            }
            if self.ranks[rank].hungry > 0 {
                leases.extend(self.feed(rank).map(|lease| (rank, lease)));
            }
        }
        if self.ledger.free() == 0 && self.open() > 0 && self.began.elapsed() >= self.next_copies {
            let began = Instant::now();
            leases.extend(self.copies());
            // All that is leased is looked at: with very many ranks that takes a while.
            self.next_copies = self.began.elapsed() + began.elapsed() * COPIES_COST;
        }
        leases
    }

    fn feed(&mut self, rank: usize) -> Option<Lease> {
        let want = self.ranks[rank].hungry;
        if want == 0 {
            return None;
        }
        let spans = self.ledger.grant(rank, want, self.began.elapsed());
        let lease = self.lease_of(&spans)?;
        self.ranks[rank] = Stand::default();
        Some(lease)
    }

    fn copies(&mut self) -> Vec<(usize, Lease)> {
        let room = |idle: u64| usize::try_from(idle.min(COPIES)).unwrap_or(0);
        let idle: Vec<(usize, usize)> = (0..self.ranks.len())
            .map(|rank| (rank, room(self.ranks[rank].idle)))
            .filter(|&(_, room)| room > 0)
            .collect();
        if idle.is_empty() {
            return Vec::new();
        }
        let mut copied = self.ledger.copy(&idle, self.began.elapsed());
        copied.sort_unstable();
        let mut leases = Vec::new();
        for its in copied.chunk_by(|one, other| one.0 == other.0) {
            let rank = its[0].0;
            let spans: Vec<Span> = its.iter().map(|&(_, place)| place..place + 1).collect();
            self.ranks[rank].idle = self.ranks[rank].idle.saturating_sub(spans.len() as u64);
            leases.extend(self.lease_of(&spans).map(|lease| (rank, lease)));
        }
        leases
    }

    fn lease_of(&self, spans: &[Span]) -> Option<Lease> {
        let rows = spans.iter().flat_map(|span| self.order.rows(span.clone()));
        let stretches: Vec<_> =
            rows.flat_map(|rows| pieces(&self.table, rows.start, rows.end)).collect();
        let places = spans.iter().map(|span| (span.start, span.end - span.start)).collect();
        let lease = Lease { places, rows: input::Lease { stretches, text: None } };
        (lease.count() > 0).then_some(lease)
    }
}

/// Stretches that may travel as text: none of more bytes than this but single rows, so that a lease can be cut between them.
const PIECE: u64 = 8 << 20;

fn pieces(table: &RowTable, from: u64, to: u64) -> Vec<Stretch> {
    let mut fitting = Vec::new();
    for stretch in table.stretches(from, to) {
        if stretch.bytes <= PIECE || stretch.rows == 1 {
            fitting.push(stretch);
        } else {
            let middle = stretch.first + stretch.rows / 2;
            fitting.extend(pieces(table, stretch.first, middle));
            fitting.extend(pieces(table, middle, stretch.first + stretch.rows));
        }
    }
    fitting
}

fn spans(places: &Places) -> impl Iterator<Item = Span> + '_ {
    places.iter().map(|&(from, count)| from..from.saturating_add(count))
}
