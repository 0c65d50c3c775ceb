//! What endpoints did over time, in a bounded number of pieces, of a rank and of the job.
//!
//! Owns how time and endpoints are binned. A piece of time is a quarter of a second at first; whenever a run outgrows
//! [`Timeline::COLUMNS`] pieces, they are put together two by two. So pieces of any two timelines fit into each other, and
//! merging them gives the same whatever came first. Endpoints share [`Timeline::ROWS`] rows by their number in the job,
//! neighbours together. A row that is full has 120 pieces of 56 bytes, 7 KB (3 KB as a letter): a rank has as many rows as
//! endpoints at most, and all of a job of 12,000 endpoints are 1.3 MB.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::Merge;

/// Of one rank, and then of all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    /// How often pieces were put together two by two.
    doublings: u32,
    /// By number, from 0.
    rows: BTreeMap<u32, Row>,
    /// Endpoints that were away for a while.
    pub away: DowntimeSummary,
}

/// One endpoint over time, or several neighbours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Who, by their number in the job; the first and the last where there are more than two.
    names: BTreeMap<u32, String>,
    /// How many.
    pub endpoints: u64,
    /// One after the other, from the beginning of the work.
    pub pieces: Vec<Piece>,
}

/// What happened in a piece of time. Written as its seven numbers in this order: there are many of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[u64; 7]", into = "[u64; 7]")]
pub struct Piece {
    /// Milliseconds in which somebody drove the endpoint; endpoints of a row add up, here and below.
    pub watched: u64,
    /// Of those, how many it was up.
    pub up: u64,
    /// Of those, how many its window was used up.
    pub full: u64,
    /// Sequences in flight times milliseconds.
    pub in_flight: u64,
    /// Room in the window times milliseconds, while it was up.
    pub window: u64,
    /// Prompts settled by it.
    pub settled: u64,
    /// Tokens of its answers.
    pub tokens: u64,
}

/// Who was away, by name, and for how long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DowntimeSummary {
    /// The first [`Away::NAMED`] of them by name.
    pub named: BTreeMap<String, DowntimeRecord>,
    /// How often any endpoint went away that had been up, in all.
    pub times: u64,
}

/// How one endpoint was away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DowntimeRecord {
    /// How often it went away; 0 for one that was not ready at first.
    pub times: u64,
    /// For how many milliseconds in all.
    pub millis: u64,
    /// It was away when its rank's work ended.
    pub at_end: bool,
}

/// An endpoint's place in the job's timeline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TimelineSlot {
    /// Its row.
    pub row: u32,
    /// Its number in the job, from 0.
    pub number: u32,
    /// What people call it: its host and its URL.
    pub name: String,
}

/// How an endpoint stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Sequences.
    pub in_flight: u64,
    /// Sequences that it may have.
    pub window: u64,
    /// Does it answer?
    pub is_up: bool,
    /// Is its window used up?
    pub is_full: bool,
}

impl TimelineSlot {
    /// Of the endpoint with this number among `all` of the job's.
    #[must_use]
    pub fn of(number: u64, all: u64, name: String) -> Self {
        let rows = all.clamp(1, Timeline::ROWS);
        let row = number.min(all.saturating_sub(1)) * rows / all.max(1);
        let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Self { row: small(row), number: small(number), name }
    }
}

impl Timeline {
    /// Pieces of time, at most.
    pub const MAX_BUCKETS: usize = 120;
    /// Rows, at most.
    pub const ROWS: u64 = 200;
    /// Milliseconds of the finest pieces.
    const MIN_BUCKET_MILLIS: u64 = 250;

    /// How long a piece is, in milliseconds.
    #[must_use]
    pub fn bucket_millis(&self) -> u64 {
        Self::MIN_BUCKET_MILLIS << self.doublings.min(40)
    }

    /// By number, in order.
    pub fn rows(&self) -> impl Iterator<Item = (u32, &Row)> {
        self.rows.iter().map(|(number, row)| (*number, row))
    }

    /// Pieces from the beginning to the last in which anything was seen.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.rows.values().map(|row| row.pieces.len()).max().unwrap_or(0)
    }

    /// All rows together, at one piece of time.
    #[must_use]
    pub fn bucket_total(&self, number: usize) -> Piece {
        let mut sum = Piece::default();
        self.rows.values().filter_map(|row| row.pieces.get(number)).for_each(|it| sum.merge(*it));
        sum
    }

    /// All there is, in one.
    #[must_use]
    pub fn whole(&self) -> Piece {
        let mut sum = Piece::default();
        self.rows.values().flat_map(|row| &row.pieces).for_each(|it| sum.merge(*it));
        sum
    }

    /// Endpoints of all rows.
    #[must_use]
    pub fn endpoints(&self) -> u64 {
        self.rows.values().map(|row| row.endpoints).sum()
    }

    /// Somebody drives this endpoint from now on.
    pub fn register_endpoint(&mut self, seat: &TimelineSlot) {
        let row = self.rows.entry(seat.row).or_default();
        row.names.insert(seat.number, seat.name.clone());
        row.endpoints += 1;
        row.keep_outer_names();
    }

    /// It stood like this between these milliseconds since the beginning.
    pub fn saw(&mut self, seat: &TimelineSlot, from: u64, to: u64, stood: Standing) {
        if to <= from {
            return;
        }
        self.extend_to(to - 1);
        let width = self.bucket_millis();
        let pieces = &mut self.rows.entry(seat.row).or_default().pieces;
        let last = usize::try_from((to - 1) / width).unwrap_or(Self::MAX_BUCKETS - 1);
        if pieces.len() <= last {
            pieces.resize(last + 1, Piece::default());
        }
        for (begin, piece) in (0..).map(|it| it * width).zip(pieces.iter_mut()) {
            let millis = to.min(begin + width).saturating_sub(from.max(begin));
            piece.watched += millis;
            piece.in_flight += stood.in_flight * millis;
            if stood.is_up {
                piece.up += millis;
                piece.full += if stood.is_full { millis } else { 0 };
                piece.window += stood.window * millis;
            }
        }
    }

    /// It settled a prompt at this millisecond, with so many tokens.
    pub fn settled(&mut self, seat: &TimelineSlot, at: u64, tokens: u64) {
        self.extend_to(at);
        let place = usize::try_from(at / self.bucket_millis()).unwrap_or(Self::MAX_BUCKETS - 1);
        let pieces = &mut self.rows.entry(seat.row).or_default().pieces;
        if pieces.len() <= place {
            pieces.resize(place + 1, Piece::default());
        }
        pieces[place].settled += 1;
        pieces[place].tokens += tokens;
    }

    /// Pieces as long as it takes for this millisecond to be in one of them.
    fn extend_to(&mut self, millisecond: u64) {
        while millisecond / self.bucket_millis() >= Self::MAX_BUCKETS as u64 && self.doublings < 40
        {
            self.double_buckets();
        }
    }

    fn double_buckets(&mut self) {
        self.doublings += 1;
        for row in self.rows.values_mut() {
            let two = |pair: &[Piece]| {
                let mut sum = Piece::default();
                pair.iter().for_each(|it| sum.merge(*it));
                sum
            };
            row.pieces = row.pieces.chunks(2).map(two).collect();
        }
    }
}

impl Row {
    /// Who: one, or the first and the last of several.
    #[must_use]
    pub fn name(&self) -> String {
        let (first, last) = (self.names.values().next(), self.names.values().next_back());
        match (first, last) {
            (Some(first), Some(last)) if self.endpoints > 1 => {
                format!("{first} … {last} ({} endpoints)", self.endpoints)
            }
            (Some(first), _) => first.clone(),
            _ => String::new(),
        }
    }

    /// All its pieces in one.
    #[must_use]
    pub fn whole(&self) -> Piece {
        let mut sum = Piece::default();
        self.pieces.iter().for_each(|it| sum.merge(*it));
        sum
    }

    fn keep_outer_names(&mut self) {
        while self.names.len() > 2 {
            let middle = self.names.keys().nth(1).copied().unwrap_or_default();
            self.names.remove(&middle);
        }
    }
}

impl DowntimeSummary {
    /// Endpoints that are named, at most.
    pub const NAMED: usize = 200;

    /// This endpoint is away for so many milliseconds more; `news` where it was there before.
    pub fn add(&mut self, name: &str, millis: u64, news: bool) {
        self.times += u64::from(news);
        let its = self.named.entry(name.to_owned()).or_default();
        its.times += u64::from(news);
        its.millis += millis;
        its.at_end = true;
        self.cut();
    }

    /// It is there again.
    pub fn mark_recovered(&mut self, name: &str) {
        if let Some(its) = self.named.get_mut(name) {
            its.at_end = false;
        }
    }

    fn cut(&mut self) {
        while self.named.len() > Self::NAMED {
            self.named.pop_last();
        }
    }
}

impl From<[u64; 7]> for Piece {
    fn from([watched, up, full, in_flight, window, settled, tokens]: [u64; 7]) -> Self {
        Self { watched, up, full, in_flight, window, settled, tokens }
    }
}

impl From<Piece> for [u64; 7] {
    fn from(it: Piece) -> Self {
        [it.watched, it.up, it.full, it.in_flight, it.window, it.settled, it.tokens]
    }
}

impl Merge for Piece {
    fn merge(&mut self, other: Self) {
        self.watched += other.watched;
        self.up += other.up;
        self.full += other.full;
        self.in_flight += other.in_flight;
        self.window += other.window;
        self.settled += other.settled;
        self.tokens += other.tokens;
    }
}

impl Merge for Row {
    fn merge(&mut self, other: Self) {
        self.names.extend(other.names);
        self.keep_outer_names();
        self.endpoints += other.endpoints;
        if self.pieces.len() < other.pieces.len() {
            self.pieces.resize(other.pieces.len(), Piece::default());
        }
        self.pieces.iter_mut().zip(other.pieces).for_each(|(mine, other)| mine.merge(other));
    }
}

impl Merge for DowntimeRecord {
    fn merge(&mut self, other: Self) {
        self.times += other.times;
        self.millis += other.millis;
        self.at_end |= other.at_end;
    }
}

impl Merge for DowntimeSummary {
    fn merge(&mut self, other: Self) {
        self.times += other.times;
        Merge::merge(&mut self.named, other.named);
        self.cut();
    }
}

impl Merge for Timeline {
    fn merge(&mut self, mut other: Self) {
        while self.doublings < other.doublings {
            self.double_buckets();
        }
        while other.doublings < self.doublings {
            other.double_buckets();
        }
        Merge::merge(&mut self.rows, other.rows);
        self.away.merge(other.away);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    struct Seen {
        number: u64,
        from: u64,
        millis: u64,
        in_flight: u64,
        up: bool,
    }

    const ENDPOINTS: u64 = 450;

    prop_compose! {
        fn seen()(number in 0..ENDPOINTS, from in 0..200_000u64, millis in 0..60_000u64, in_flight in 0..9u64, up in any::<bool>()) -> Seen {
            Seen { number, from, millis, in_flight, up }
        }
    }

    fn slot_of(number: u64) -> TimelineSlot {
        TimelineSlot::of(number, ENDPOINTS, format!("n{number:04}"))
    }

    fn build_timeline(all: &[Seen]) -> Timeline {
        let mut timeline = Timeline::default();
        for it in all {
            let Seen { number, from, millis, in_flight, up } = *it;
            timeline.register_endpoint(&slot_of(number));
            let stood = Standing { in_flight, window: 8, is_up: up, is_full: in_flight == 8 };
            timeline.saw(&slot_of(number), from, from + millis, stood);
            timeline.settled(&slot_of(number), from + millis, 10);
            if !up {
                timeline.away.add(&slot_of(number).name, millis, true);
            }
        }
        timeline
    }

    proptest! {
        #[test]
        fn timelines_add_up_in_any_grouping_and_lose_nothing(
            a in prop::collection::vec(seen(), 0..12), b in prop::collection::vec(seen(), 0..12), c in prop::collection::vec(seen(), 0..12),
        ) {
            let sum = |mut one: Timeline, other: Timeline| { one.merge(other); one };
            let [x, y, z] = [&a, &b, &c].map(|it| build_timeline(it));
            let left = sum(sum(x.clone(), y.clone()), z.clone());
            prop_assert_eq!(&left, &sum(x.clone(), sum(y.clone(), z)));
            prop_assert_eq!(&sum(x.clone(), y.clone()), &sum(y, x.clone()));
            prop_assert_eq!(&sum(Timeline::default(), x.clone()), &x);
            let all: Vec<Seen> = [a, b, c].concat();
            prop_assert_eq!(&left, &build_timeline(&all), "as one rank would have seen it");
            let whole = left.whole();
            prop_assert_eq!(whole.watched, all.iter().map(|it| it.millis).sum::<u64>());
            prop_assert_eq!(whole.in_flight, all.iter().map(|it| it.millis * it.in_flight).sum::<u64>());
            prop_assert_eq!(whole.up, all.iter().filter(|it| it.up).map(|it| it.millis).sum::<u64>());
            prop_assert_eq!((whole.settled, whole.tokens), (all.len() as u64, 10 * all.len() as u64));
            prop_assert!(left.columns() <= Timeline::MAX_BUCKETS && left.rows().count() as u64 <= Timeline::ROWS);
            let columns: u64 = (0..left.columns()).map(|it| left.bucket_total(it).watched).sum();
            prop_assert_eq!(columns, whole.watched);
            prop_assert_eq!(left.endpoints(), all.len() as u64);
        }
    }

    #[test]
    fn few_endpoints_have_a_row_each_and_many_share_all_rows_evenly() {
        for all in [1, 4, 200, 201, 12_000] {
            let mut sizes = BTreeMap::<u32, u64>::new();
            (0..all).for_each(|it| {
                *sizes.entry(TimelineSlot::of(it, all, String::new()).row).or_default() += 1
            });
            let (least, most) = (sizes.values().min().copied(), sizes.values().max().copied());
            assert_eq!(sizes.len() as u64, all.min(Timeline::ROWS));
            assert!(most.unwrap_or_default() - least.unwrap_or_default() <= 1, "{sizes:?}");
        }
    }

    #[test]
    fn rows_are_called_by_their_ends() {
        let mut timeline = Timeline::default();
        [3, 1, 2].iter().for_each(|&it| {
            timeline.register_endpoint(&TimelineSlot::of(it, 12_000, format!("n{it}")))
        });
        let names: Vec<String> = timeline.rows().map(|(_, row)| row.name()).collect();
        assert_eq!(names, ["n1 … n3 (3 endpoints)"]);
    }
}
