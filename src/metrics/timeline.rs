//! Load of endpoints over time, in a bounded number of buckets, of one rank and of the whole job.
//!
//! Owns the binning of time and endpoints. A bucket is 250 ms at first; whenever a run outgrows the limit of 120 buckets,
//! pairs are merged. So the buckets of any two timelines nest, and merging them gives the same result in any order.
//! Endpoints share at most 200 rows by their number in the job, neighbours together. A full row has 120 buckets of 56 bytes,
//! 7 KB (3 KB as a message); a rank has at most one row per endpoint, and a job of 12,000 endpoints has 1.3 MB. The file
//! `timelines.jsonl` is in `output/timelines.rs`; the heat map is in `report/html/heatmap.rs`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::Merge;

/// Load of endpoints over time: of one rank, and after the reduction of the whole job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Timeline {
    /// Number of times that pairs of buckets were merged.
    doublings: u32,
    /// Rows by number, from 0.
    rows: BTreeMap<u32, TimelineRow>,
    pub away: DowntimeSummary,
}

/// Load over time of one endpoint, or of several neighbours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TimelineRow {
    /// Names by number in the job; only the first and the last of more than two.
    names: BTreeMap<u32, String>,
    /// Number of endpoints that share the row.
    pub endpoints: u64,
    /// Buckets in order of time, from the start of the work.
    pub pieces: Vec<TimeBucket>,
}

/// Load in one bucket of time. Serialized as an array of its seven numbers, since a file holds many of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[u64; 7]", into = "[u64; 7]")]
pub struct TimeBucket {
    /// Milliseconds in which a rank drove the endpoint; the endpoints of a row add up, here and below.
    pub watched: u64,
    /// Milliseconds of those in which it was up.
    pub up: u64,
    /// Milliseconds of those in which its concurrency limit was full.
    pub full: u64,
    /// Sequences in flight times milliseconds.
    pub in_flight: u64,
    /// Concurrency limit times milliseconds, while it was up.
    pub window: u64,
    /// Outcomes from this endpoint.
    pub settled: u64,
    /// Completion tokens of its answers.
    pub tokens: u64,
}

/// Outages of all endpoints, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DowntimeSummary {
    /// Outages of the first 200 endpoints by name.
    pub named: BTreeMap<String, DowntimeRecord>,
    /// Number of outages of all endpoints that had been up.
    pub times: u64,
}

/// Outages of one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DowntimeRecord {
    /// Number of outages; 0 for an endpoint that only became ready late.
    pub times: u64,
    pub millis: u64,
    /// True if the endpoint was down when its rank's work ended.
    pub at_end: bool,
}

/// Position of an endpoint in the job's timeline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TimelineSlot {
    pub row: u32,
    /// Number of the endpoint in the job, from 0.
    pub endpoint_number: u32,
    /// Host and URL of the endpoint.
    pub name: String,
}

/// Load of an endpoint during an interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EndpointSnapshot {
    pub in_flight: u64,
    /// Concurrency limit, in sequences.
    pub window: u64,
    /// True if the endpoint answers.
    pub is_up: bool,
    /// True if the concurrency limit is reached.
    pub is_full: bool,
}

impl TimelineSlot {
    /// Returns the slot of an endpoint by its number among `all` endpoints of the job.
    #[must_use]
    pub(crate) fn for_endpoint(number: u64, all: u64, name: String) -> Self {
        // Rows depend only on the number in the job, so every rank bins alike without communication.
        let rows = all.clamp(1, Timeline::MAX_ROWS);
        let row = number.min(all.saturating_sub(1)) * rows / all.max(1);
        let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Self { row: small(row), endpoint_number: small(number), name }
    }
}

impl Timeline {
    /// Upper limit of buckets per row.
    pub(crate) const MAX_BUCKETS: usize = 120;
    /// Upper limit of rows.
    pub(crate) const MAX_ROWS: u64 = 200;
    /// Width of a bucket in milliseconds before any merge.
    const MIN_BUCKET_MILLIS: u64 = 250;

    /// Returns the width of a bucket in milliseconds.
    #[must_use]
    pub(crate) fn bucket_millis(&self) -> u64 {
        Self::MIN_BUCKET_MILLIS << self.doublings.min(40)
    }

    /// Iterates over the rows by number.
    pub(crate) fn iter_rows(&self) -> impl Iterator<Item = (u32, &TimelineRow)> {
        self.rows.iter().map(|(number, row)| (*number, row))
    }

    /// Returns the number of buckets from the beginning to the last one with data.
    #[must_use]
    pub(crate) fn bucket_count(&self) -> usize {
        self.rows.values().map(|row| row.pieces.len()).max().unwrap_or(0)
    }

    /// Returns the sum of all rows in one bucket.
    #[must_use]
    pub(crate) fn bucket_total(&self, number: usize) -> TimeBucket {
        let mut sum = TimeBucket::default();
        self.rows.values().filter_map(|row| row.pieces.get(number)).for_each(|it| sum.merge(*it));
        sum
    }

    /// Returns the sum of all rows and buckets.
    #[must_use]
    pub(crate) fn grand_total(&self) -> TimeBucket {
        let mut sum = TimeBucket::default();
        self.rows.values().flat_map(|row| &row.pieces).for_each(|it| sum.merge(*it));
        sum
    }

    /// Returns the number of endpoints in all rows.
    #[must_use]
    pub(crate) fn endpoint_count(&self) -> u64 {
        self.rows.values().map(|row| row.endpoints).sum()
    }

    /// Adds an endpoint that a rank drives from now on.
    pub(crate) fn register_endpoint(&mut self, slot: &TimelineSlot) {
        let row = self.rows.entry(slot.row).or_default();
        row.names.insert(slot.endpoint_number, slot.name.clone());
        row.endpoints += 1;
        row.keep_outer_names();
    }

    /// Records an endpoint's load from one time to another, in milliseconds since the start of the work.
    pub(crate) fn record_interval(
        &mut self,
        slot: &TimelineSlot,
        from: u64,
        to: u64,
        snapshot: EndpointSnapshot,
    ) {
        if to <= from {
            return;
        }
        self.extend_to(to - 1);
        let width = self.bucket_millis();
        let buckets = &mut self.rows.entry(slot.row).or_default().pieces;
        let last = usize::try_from((to - 1) / width).unwrap_or(Self::MAX_BUCKETS - 1);
        if buckets.len() <= last {
            buckets.resize(last + 1, TimeBucket::default());
        }
        for (begin, bucket) in (0..).map(|it| it * width).zip(buckets.iter_mut()) {
            let millis = to.min(begin + width).saturating_sub(from.max(begin));
            bucket.watched += millis;
            bucket.in_flight += snapshot.in_flight * millis;
            if snapshot.is_up {
                bucket.up += millis;
                bucket.full += if snapshot.is_full { millis } else { 0 };
                bucket.window += snapshot.window * millis;
            }
        }
    }

    /// Records an outcome at this millisecond, with its completion tokens.
    pub(crate) fn record_settled(&mut self, slot: &TimelineSlot, at: u64, tokens: u64) {
        self.extend_to(at);
        let index = usize::try_from(at / self.bucket_millis()).unwrap_or(Self::MAX_BUCKETS - 1);
        let buckets = &mut self.rows.entry(slot.row).or_default().pieces;
        if buckets.len() <= index {
            buckets.resize(index + 1, TimeBucket::default());
        }
        buckets[index].settled += 1;
        buckets[index].tokens += tokens;
    }

    /// Merges buckets until this millisecond falls into one of them.
    fn extend_to(&mut self, at_millis: u64) {
        while at_millis / self.bucket_millis() >= Self::MAX_BUCKETS as u64 && self.doublings < 40 {
            self.double_buckets();
        }
    }

    fn double_buckets(&mut self) {
        self.doublings += 1;
        for row in self.rows.values_mut() {
            let two = |pair: &[TimeBucket]| {
                let mut sum = TimeBucket::default();
                pair.iter().for_each(|it| sum.merge(*it));
                sum
            };
            row.pieces = row.pieces.chunks(2).map(two).collect();
        }
    }
}

impl TimelineRow {
    /// Returns the name of its endpoint, or of the first and the last of several.
    #[must_use]
    pub(crate) fn display_name(&self) -> String {
        let (first, last) = (self.names.values().next(), self.names.values().next_back());
        match (first, last) {
            (Some(first), Some(last)) if self.endpoints > 1 => {
                format!("{first} … {last} ({} endpoints)", self.endpoints)
            }
            (Some(first), _) => first.clone(),
            _ => String::new(),
        }
    }

    /// Returns the sum of its buckets.
    #[must_use]
    pub(crate) fn row_total(&self) -> TimeBucket {
        let mut sum = TimeBucket::default();
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
    /// Upper limit of endpoints listed by name.
    pub(crate) const MAX_NAMED: usize = 200;

    /// Adds downtime of an endpoint in milliseconds. `news` is true if the endpoint was up before, which makes it an outage.
    pub(crate) fn record_downtime(&mut self, name: &str, millis: u64, is_new_outage: bool) {
        self.times += u64::from(is_new_outage);
        let record = self.named.entry(name.to_owned()).or_default();
        record.times += u64::from(is_new_outage);
        record.millis += millis;
        record.at_end = true;
        self.truncate_named();
    }

    /// Marks an endpoint as up again.
    pub(crate) fn mark_recovered(&mut self, name: &str) {
        if let Some(record) = self.named.get_mut(name) {
            record.at_end = false;
        }
    }

    fn truncate_named(&mut self) {
        while self.named.len() > Self::MAX_NAMED {
            self.named.pop_last();
        }
    }
}

impl From<[u64; 7]> for TimeBucket {
    fn from([watched, up, full, in_flight, window, settled, tokens]: [u64; 7]) -> Self {
        Self { watched, up, full, in_flight, window, settled, tokens }
    }
}

impl From<TimeBucket> for [u64; 7] {
    fn from(it: TimeBucket) -> Self {
        [it.watched, it.up, it.full, it.in_flight, it.window, it.settled, it.tokens]
    }
}

impl Merge for TimeBucket {
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

impl Merge for TimelineRow {
    fn merge(&mut self, other: Self) {
        self.names.extend(other.names);
        self.keep_outer_names();
        self.endpoints += other.endpoints;
        if self.pieces.len() < other.pieces.len() {
            self.pieces.resize(other.pieces.len(), TimeBucket::default());
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
        self.truncate_named();
    }
}

impl Merge for Timeline {
    fn merge(&mut self, mut other: Self) {
        // Both sides are brought to the wider bucket; halves of a bucket are never split, so no rounding occurs.
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
    struct EndpointObservation {
        number: u64,
        from: u64,
        millis: u64,
        in_flight: u64,
        up: bool,
    }

    const ENDPOINTS: u64 = 450;

    prop_compose! {
        fn any_observation()(number in 0..ENDPOINTS, from in 0..200_000u64, millis in 0..60_000u64, in_flight in 0..9u64, up in any::<bool>()) -> EndpointObservation {
            EndpointObservation { number, from, millis, in_flight, up }
        }
    }

    fn slot_of(number: u64) -> TimelineSlot {
        TimelineSlot::for_endpoint(number, ENDPOINTS, format!("n{number:04}"))
    }

    fn build_timeline(all: &[EndpointObservation]) -> Timeline {
        let mut timeline = Timeline::default();
        for it in all {
            let EndpointObservation { number, from, millis, in_flight, up } = *it;
            timeline.register_endpoint(&slot_of(number));
            let snapshot =
                EndpointSnapshot { in_flight, window: 8, is_up: up, is_full: in_flight == 8 };
            timeline.record_interval(&slot_of(number), from, from + millis, snapshot);
            timeline.record_settled(&slot_of(number), from + millis, 10);
            if !up {
                timeline.away.record_downtime(&slot_of(number).name, millis, true);
            }
        }
        timeline
    }

    proptest! {
        #[test]
        fn timelines_merge_in_any_order_and_lose_nothing(
            a in prop::collection::vec(any_observation(), 0..12), b in prop::collection::vec(any_observation(), 0..12), c in prop::collection::vec(any_observation(), 0..12),
        ) {
            let sum = |mut one: Timeline, other: Timeline| { one.merge(other); one };
            let [x, y, z] = [&a, &b, &c].map(|it| build_timeline(it));
            let left = sum(sum(x.clone(), y.clone()), z.clone());
            prop_assert_eq!(&left, &sum(x.clone(), sum(y.clone(), z)));
            prop_assert_eq!(&sum(x.clone(), y.clone()), &sum(y, x.clone()));
            prop_assert_eq!(&sum(Timeline::default(), x.clone()), &x);
            let all: Vec<EndpointObservation> = [a, b, c].concat();
            prop_assert_eq!(&left, &build_timeline(&all), "as one rank would have seen it");
            let whole = left.grand_total();
            prop_assert_eq!(whole.watched, all.iter().map(|it| it.millis).sum::<u64>());
            prop_assert_eq!(whole.in_flight, all.iter().map(|it| it.millis * it.in_flight).sum::<u64>());
            prop_assert_eq!(whole.up, all.iter().filter(|it| it.up).map(|it| it.millis).sum::<u64>());
            prop_assert_eq!((whole.settled, whole.tokens), (all.len() as u64, 10 * all.len() as u64));
            prop_assert!(left.bucket_count() <= Timeline::MAX_BUCKETS && left.iter_rows().count() as u64 <= Timeline::MAX_ROWS);
            let columns: u64 = (0..left.bucket_count()).map(|it| left.bucket_total(it).watched).sum();
            prop_assert_eq!(columns, whole.watched);
            prop_assert_eq!(left.endpoint_count(), all.len() as u64);
        }
    }

    #[test]
    fn few_endpoints_have_a_row_each_and_many_share_all_rows_evenly() {
        for all in [1, 4, 200, 201, 12_000] {
            let mut sizes = BTreeMap::<u32, u64>::new();
            (0..all).for_each(|it| {
                *sizes.entry(TimelineSlot::for_endpoint(it, all, String::new()).row).or_default() +=
                    1
            });
            let (least, most) = (sizes.values().min().copied(), sizes.values().max().copied());
            assert_eq!(sizes.len() as u64, all.min(Timeline::MAX_ROWS));
            assert!(most.unwrap_or_default() - least.unwrap_or_default() <= 1, "{sizes:?}");
        }
    }

    #[test]
    fn a_shared_row_is_named_after_its_first_and_last_endpoint() {
        let mut timeline = Timeline::default();
        [3, 1, 2].iter().for_each(|&it| {
            timeline.register_endpoint(&TimelineSlot::for_endpoint(it, 12_000, format!("n{it}")))
        });
        let names: Vec<String> = timeline.iter_rows().map(|(_, row)| row.display_name()).collect();
        assert_eq!(names, ["n1 … n3 (3 endpoints)"]);
    }
}
