//! Throughput over time: the points of all sessions in sequence, and which of them are ramp, steady phase and tail.
//!
//! Owns the choice of the source. The ranks' timelines are finer, so they are preferred; if a rank was lost or the session
//! was killed, rank 0's samples know more. Pure; the chart is in `report/html/throughput.rs`.

use serde::Serialize;

use super::endpoint_load::checked_ratio;
use crate::{
    domain::Merge,
    metrics::timeline::TimeBucket,
    output::{RunSample, StartRecord, StartTimeline},
};

/// Throughput of a run over time.
#[derive(Clone, Debug, Default)]
pub(crate) struct ThroughputHistory {
    /// Points in order of time.
    pub(crate) points: Vec<ThroughputPoint>,
    /// Fraction of the steady phase in which concurrency limits were full.
    pub(crate) fraction_full_steady: Option<f64>,
}

/// Measurements over an interval of time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct ThroughputPoint {
    pub session: u32,
    /// Level of a reduce; 0 for the leaves and for a plain run.
    pub level: u32,
    /// Begin, in seconds since the session started.
    pub from_s: f64,
    /// End, in seconds since the session started.
    pub to_s: f64,
    /// Outcomes in the interval.
    pub prompts: f64,
    /// Completion tokens in the interval.
    pub tokens: f64,
    /// Mean number of sequences in flight.
    pub in_flight: f64,
    /// Mean sum of concurrency limits; null without a timeline.
    pub window: Option<f64>,
    /// Mean number of endpoints that were up.
    pub endpoints_up: f64,
    pub phase: ThroughputPhase,
}

/// Phases of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ThroughputPhase {
    /// Filling up: until endpoints have about their typical load.
    Ramp,
    /// Ample work for all endpoints.
    Steady,
    /// Running out: concurrency limits are not filled to 70 % any more.
    Tail,
}

/// Sums over several points.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ThroughputTotals {
    pub(crate) seconds: f64,
    prompts: f64,
    tokens: f64,
}

/// Upper limit of points; a chart has no room for more.
const MAX_POINTS: usize = 240;
/// Shortest interval between two samples of rank 0 that is used, a little less than the five seconds between two reports of
/// a rank.
const MIN_SAMPLE_INTERVAL_S: f64 = 4.5;
/// Quantile of the in-flight counts that is taken as a session's typical load.
const TYPICAL_QUANTILE: f64 = 0.9;
/// Share of the typical load below which a session is ramping up, and share of the concurrency limits below which it is
/// running out.
const BUSY_SHARE: f64 = 0.7;

impl ThroughputHistory {
    pub(crate) fn from_records(
        records: &[StartRecord],
        samples: &[RunSample],
        timelines: &[StartTimeline],
    ) -> Self {
        let mut history = Self::default();
        let mut steady = TimeBucket::default();
        for record in records {
            let own: Vec<&StartTimeline> =
                timelines.iter().filter(|it| it.start == record.start).collect();
            let mut points: Vec<ThroughputPoint> = if own.is_empty() || !record.lost.is_empty() {
                points_from_samples(record.start, samples)
            } else {
                own.iter().flat_map(|it| points_from_timeline(it)).collect()
            };
            // Phases are per session: each one fills its servers again.
            assign_phases(&mut points);
            for (bucket, timeline) in
                own.iter().flat_map(|it| (0..it.timeline.bucket_count()).map(move |at| (at, *it)))
            {
                let middle = timeline.offset
                    + (bucket as f64 + 0.5) * millis_to_seconds(timeline.timeline.bucket_millis());
                let is_steady = |it: &ThroughputPoint| {
                    it.phase == ThroughputPhase::Steady && it.from_s <= middle && middle < it.to_s
                };
                if points.iter().any(is_steady) {
                    steady.merge(timeline.timeline.bucket_total(bucket));
                }
            }
            history.points.append(&mut points);
        }
        history.points = limit_points(history.points);
        history.fraction_full_steady = checked_ratio(steady.full, steady.up);
        history
    }

    /// Adds the points of a reduce's upper levels, in order of time.
    pub(crate) fn merge_levels(mut self, above: Vec<(u32, u32, Self)>) -> Vec<ThroughputPoint> {
        for (start, level, history) in above {
            self.points.extend(history.points.into_iter().map(|it| ThroughputPoint {
                session: start,
                level,
                ..it
            }));
        }
        // The sort is stable, so the points of a level stay in order of time.
        self.points.sort_by_key(|it| (it.session, it.level));
        limit_points(self.points)
    }

    pub(crate) fn phase_totals(&self, phase: ThroughputPhase) -> ThroughputTotals {
        let mut sum = ThroughputTotals::default();
        for it in self.points.iter().filter(|it| it.phase == phase) {
            sum.seconds += it.duration_s();
            sum.prompts += it.prompts;
            sum.tokens += it.tokens;
        }
        sum
    }
}

impl ThroughputTotals {
    pub(crate) fn prompts_per_s(self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.prompts / self.seconds)
    }

    pub(crate) fn tokens_per_s(self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.tokens / self.seconds)
    }
}

impl ThroughputPoint {
    /// Returns the length of the interval.
    #[must_use]
    pub(crate) fn duration_s(&self) -> f64 {
        self.to_s - self.from_s
    }

    /// Merges the point with the next one of the same session.
    fn merge_next(&self, next: &Self) -> Self {
        let (own_s, next_s) = (self.duration_s(), next.duration_s());
        let mean = |one: f64, other: f64| {
            (one * own_s + other * next_s) / (own_s + next_s).max(f64::MIN_POSITIVE)
        };
        Self {
            to_s: next.to_s,
            prompts: self.prompts + next.prompts,
            tokens: self.tokens + next.tokens,
            in_flight: mean(self.in_flight, next.in_flight),
            window: self.window.zip(next.window).map(|(one, other)| mean(one, other)),
            endpoints_up: mean(self.endpoints_up, next.endpoints_up),
            ..*self
        }
    }
}

fn millis_to_seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

/// Returns the points between rank 0's samples. Ranks report every five seconds, so finer samples carry no information.
fn points_from_samples(start: u32, samples: &[RunSample]) -> Vec<ThroughputPoint> {
    let mut used: Vec<&RunSample> = Vec::new();
    let all: Vec<&RunSample> = samples.iter().filter(|it| it.start == start).collect();
    for sample in &all {
        if used.last().is_none_or(|last| sample.seconds - last.seconds >= MIN_SAMPLE_INTERVAL_S) {
            used.push(sample);
        }
    }
    // The remainder belongs to the last point, and forms one if there is no other.
    if let Some(last) = all.last().filter(|last| used.last() != Some(*last)) {
        if used.len() > 1 {
            used.pop();
        }
        used.push(last);
    }
    // Samples are cumulative counts, so a point is the difference of two.
    let between = |pair: &[&RunSample]| {
        let (one, other) = (pair[0], pair[1]);
        let done = |it: &RunSample| it.answered + it.failed;
        ThroughputPoint {
            session: start,
            level: 0,
            from_s: one.seconds,
            to_s: other.seconds,
            prompts: done(other).saturating_sub(done(one)) as f64,
            tokens: other.completion_tokens.saturating_sub(one.completion_tokens) as f64,
            in_flight: other.in_flight as f64,
            window: None,
            endpoints_up: other.endpoints_up as f64,
            phase: ThroughputPhase::Steady,
        }
    };
    used.windows(2).map(between).filter(|it| it.duration_s() > 0.0).collect()
}

/// Returns a point per bucket of the ranks' timeline. The last bucket ends with the rank that worked longest in it.
fn points_from_timeline(
    StartTimeline { start, offset, timeline }: &StartTimeline,
) -> Vec<ThroughputPoint> {
    let width = timeline.bucket_millis();
    let longest = |column: usize| {
        let watched = timeline.iter_rows().filter_map(|(_, row)| {
            let piece = row.pieces.get(column)?;
            piece.watched.checked_div(row.endpoints)
        });
        watched.max().unwrap_or(width).clamp(1, width)
    };
    let point = |column: usize| {
        let piece = timeline.bucket_total(column);
        let last = column + 1 == timeline.bucket_count();
        let millis = if last { longest(column) } else { width };
        let from = offset + millis_to_seconds(width) * column as f64;
        let mean = |sum: u64| sum as f64 / millis as f64;
        ThroughputPoint {
            session: *start,
            level: 0,
            from_s: from,
            to_s: from + millis_to_seconds(millis),
            prompts: piece.settled as f64,
            tokens: piece.tokens as f64,
            in_flight: mean(piece.in_flight),
            window: Some(mean(piece.window)),
            // Ranks that end a little before the last one are not down.
            endpoints_up: match last {
                true => {
                    checked_ratio(piece.up, piece.watched).unwrap_or(0.0)
                        * timeline.endpoint_count() as f64
                }
                false => mean(piece.up),
            },
            phase: ThroughputPhase::Steady,
        }
    };
    (0..timeline.bucket_count()).map(point).collect()
}

/// Assigns the phases of one session. The ramp ends at the first point with about the typical load. The tail begins after
/// the last point whose concurrency limits are well filled; if limits are unknown or were never filled, after the last
/// point with about the typical load.
fn assign_phases(points: &mut [ThroughputPoint]) {
    let mut levels: Vec<f64> = points.iter().map(|it| it.in_flight).collect();
    levels.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a length"
    )]
    let typical = (levels.len().saturating_sub(1) as f64 * TYPICAL_QUANTILE) as usize;
    let ample = levels.get(typical).copied().unwrap_or_default() * BUSY_SHARE;
    let is_ample = |it: &ThroughputPoint| it.in_flight >= ample;
    // The sum of limits shrinks when endpoints die; the remaining ones are busy all the same.
    let fills = |it: &ThroughputPoint| {
        it.window.is_some_and(|room| room > 0.0 && it.in_flight >= room * BUSY_SHARE)
    };
    let last = points.iter().rposition(fills).or_else(|| points.iter().rposition(is_ample));
    let (Some(first), Some(last)) = (points.iter().position(is_ample), last) else { return };
    for (index, point) in points.iter_mut().enumerate() {
        point.phase = match index {
            _ if index < first => ThroughputPhase::Ramp,
            _ if index > last => ThroughputPhase::Tail,
            _ => ThroughputPhase::Steady,
        };
    }
}

/// Merges neighbours until at most [`MAX_POINTS`] are left.
fn limit_points(mut points: Vec<ThroughputPoint>) -> Vec<ThroughputPoint> {
    while points.len() > MAX_POINTS {
        points = merge_pairs(&points);
    }
    points
}

/// Merges pairs of neighbours of the same session and level. Sums stay the same.
fn merge_pairs(points: &[ThroughputPoint]) -> Vec<ThroughputPoint> {
    let mut half: Vec<ThroughputPoint> = Vec::with_capacity(points.len() / 2 + 1);
    let mut open = false;
    for point in points {
        match half
            .last_mut()
            .filter(|last| open && (last.session, last.level) == (point.session, point.level))
        {
            Some(last) => {
                // A pair across two phases gets the phase of the longer point.
                let phase =
                    if point.duration_s() > last.duration_s() { point.phase } else { last.phase };
                *last = ThroughputPoint { phase, ..last.merge_next(point) };
                open = false;
            }
            None => {
                half.push(*point);
                open = true;
            }
        }
    }
    // Sessions of a single point each cannot be merged: the oldest are dropped then.
    if half.len() == points.len() { half.split_off(points.len() / 2) } else { half }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::metrics::timeline::{EndpointSnapshot, Timeline, TimelineSlot};

    fn example_timeline(seconds: u64, level: impl Fn(u64) -> u64) -> StartTimeline {
        let (mut timeline, seat) =
            (Timeline::default(), TimelineSlot::for_endpoint(0, 1, "n".into()));
        timeline.register_endpoint(&seat);
        for at in 0..seconds * 4 {
            let stood = EndpointSnapshot {
                in_flight: level(at / 4),
                window: 10,
                is_up: true,
                is_full: level(at / 4) > 8,
            };
            timeline.record_interval(&seat, at * 250, (at + 1) * 250, stood);
            timeline.record_settled(&seat, at * 250, 5);
        }
        StartTimeline { start: 1, offset: 2.0, timeline }
    }

    fn start_record(start: u32) -> StartRecord {
        StartRecord { start, ..StartRecord::default() }
    }

    #[test]
    fn ramp_steady_phase_and_tail_are_distinguished() {
        let all = example_timeline(20, |second| {
            if second < 3 {
                second
            } else if second < 16 {
                10
            } else {
                2
            }
        });
        let history = ThroughputHistory::from_records(&[start_record(1)], &[], &[all]);
        let [ramp, steady, tail] =
            [ThroughputPhase::Ramp, ThroughputPhase::Steady, ThroughputPhase::Tail]
                .map(|it| history.phase_totals(it));
        assert_eq!((ramp.seconds, steady.seconds, tail.seconds), (3.0, 13.0, 4.0));
        assert_eq!((steady.prompts_per_s(), steady.tokens_per_s()), (Some(4.0), Some(20.0)));
        assert_eq!(history.fraction_full_steady, Some(1.0));
        assert_eq!(history.points[0].from_s, 2.0);
    }

    #[test]
    fn endpoints_that_survive_a_failure_count_as_steady() {
        let (mut all, seat) = (Timeline::default(), TimelineSlot::for_endpoint(0, 1, "n".into()));
        all.register_endpoint(&seat);
        for second in 0..20 {
            let many = if second < 5 { 100 } else { 25 };
            let in_flight = if second < 16 { many } else { 3 };
            let stood = EndpointSnapshot { in_flight, window: many, is_up: true, is_full: false };
            all.record_interval(&seat, second * 1000, (second + 1) * 1000, stood);
        }
        let all = StartTimeline { start: 1, offset: 0.0, timeline: all };
        let history = ThroughputHistory::from_records(&[start_record(1)], &[], &[all]);
        assert_eq!(history.phase_totals(ThroughputPhase::Steady).seconds, 16.0);
        assert_eq!(history.phase_totals(ThroughputPhase::Tail).seconds, 4.0);
    }

    #[test]
    fn samples_replace_the_timeline_of_a_session_with_a_lost_rank() {
        let sample = |seconds: f64, answered: u64| RunSample {
            start: 1,
            seconds,
            answered,
            failed: 0,
            prompt_tokens: 0,
            completion_tokens: 3 * answered,
            requests: 0,
            in_flight: 7,
            endpoints_up: 2,
            ranks_lost: 0,
        };
        let samples = [1.0, 2.0, 6.0, 6.0, 11.0, 12.0]
            .map(|at| sample(at, if at < 6.0 { 0 } else { 50 + 2 * (at as u64 - 6) }));
        let history = ThroughputHistory::from_records(&[start_record(1)], &samples, &[]);
        let prompts: Vec<f64> = history.points.iter().map(|it| it.prompts).collect();
        assert_eq!(prompts, [50.0, 12.0]);
        assert_eq!(
            ThroughputHistory::from_records(&[start_record(1)], &samples[..2], &[]).points.len(),
            1,
            "a short one"
        );
        let lost = StartRecord {
            lost: vec![crate::output::LostRank { rank: 1, host: "n".into() }],
            ..start_record(1)
        };
        assert_eq!(
            ThroughputHistory::from_records(&[lost], &samples, &[example_timeline(9, |_| 1)])
                .points,
            history.points
        );
    }

    proptest! {
        #[test]
        fn the_number_of_points_is_bounded_and_their_sums_are_kept(starts in prop::collection::vec(1u64..90, 1..12)) {
            let records: Vec<StartRecord> = (1..).zip(&starts).map(|(it, _)| start_record(it)).collect();
            let timelines: Vec<StartTimeline> = (1..).zip(&starts)
                .map(|(start, &seconds)| StartTimeline { start, ..example_timeline(seconds, |it| it % 11) }).collect();
            let history = ThroughputHistory::from_records(&records, &[], &timelines);
            prop_assert!(history.points.len() <= MAX_POINTS);
            let prompts: f64 = history.points.iter().map(|it| it.prompts).sum();
            prop_assert_eq!(prompts as u64, 4 * starts.iter().sum::<u64>());
            let length: f64 = history.points.iter().map(ThroughputPoint::duration_s).sum();
            prop_assert!((length - starts.iter().sum::<u64>() as f64).abs() < 0.01);
            prop_assert!(history.points.iter().all(|it| it.in_flight <= 10.0));
        }
    }
}
