//! Who was asked: how full endpoints were, who was slow, who was away. Part of the summary.

use std::collections::BTreeMap;

use serde::Serialize;

use super::throughput::ThroughputHistory;
use crate::{
    domain::{DowntimeRecord, Merge, Piece},
    metrics::Served,
    output::StartTimeline,
};

/// Who was asked. Shares are of the time in which an endpoint was up.
#[derive(Clone, Debug, Default, Serialize)]
pub struct EndpointLoad {
    /// That have answers in the shard files.
    pub answered: u64,
    /// In the last start that was watched.
    pub watched: u64,
    /// Share of the time that their windows were full.
    pub full_share: Option<f64>,
    /// The same while they had ample work.
    pub full_share_steady: Option<f64>,
    /// Share of the time that they were up, of that in which somebody drove them.
    pub up_share: Option<f64>,
    /// Sequences in flight over room in windows.
    pub fill: Option<f64>,
    /// Mean latencies: the middle endpoint's.
    pub usual_latency_s: Option<f64>,
    /// Those whose mean latency is at least one and a half times that, the slowest first; at most fifty.
    pub stragglers: Vec<Straggler>,
    /// How many there are of them.
    pub straggling: u64,
    /// Those that were away for a while, the longest first; at most fifty.
    pub away: Vec<EndpointDowntime>,
    /// How often an endpoint that had been up went away.
    pub times_away: u64,
}

/// An endpoint that is slower than others.
#[derive(Clone, Debug, Serialize)]
pub struct Straggler {
    /// Host and URL.
    pub endpoint: String,
    /// What it answered.
    pub answered: u64,
    /// Its mean.
    pub latency_s: f64,
    /// Over that of the middle endpoint.
    pub times_usual: f64,
}

/// An endpoint that was away.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointDowntime {
    /// Host and URL.
    pub endpoint: String,
    /// In which start.
    pub start: u32,
    /// How often; 0 for one that was not ready at first.
    pub times: u64,
    /// For how long in all.
    pub seconds: f64,
    /// It was away at the end.
    pub at_end: bool,
}

/// Endpoints that are named, at most.
const MAX_LISTED: usize = 50;
/// So many times as slow as the middle one is slow; below it is chance.
const STRAGGLER_FACTOR: f64 = 1.5;
/// Answers before an endpoint's mean means something.
const ENOUGH: u64 = 5;

impl EndpointLoad {
    /// By what they answered, and by what ranks saw of them.
    pub(crate) fn of(
        served: &BTreeMap<String, Served>,
        timelines: &[StartTimeline],
        course: &ThroughputHistory,
    ) -> Self {
        let mut whole = Piece::default();
        timelines.iter().for_each(|it| whole.merge(it.timeline.whole()));
        let means = || served.iter().filter(|(_, it)| it.answered >= ENOUGH);
        let mut sorted: Vec<f64> = means().filter_map(|(_, it)| it.mean_latency_ms()).collect();
        sorted.sort_by(f64::total_cmp);
        // The lower of two middle ones: of two endpoints the slower one is the straggler.
        let usual = sorted.get(sorted.len().saturating_sub(1) / 2).copied();
        let mut stragglers: Vec<Straggler> = means()
            .filter_map(|(name, it)| {
                let (mean, usual) = (it.mean_latency_ms()?, usual.filter(|it| *it > 0.0)?);
                let times_usual = mean / usual;
                let endpoint = name.clone();
                (times_usual >= STRAGGLER_FACTOR).then_some(Straggler {
                    endpoint,
                    answered: it.answered,
                    latency_s: mean / 1000.0,
                    times_usual,
                })
            })
            .collect();
        stragglers.sort_by(|one, other| other.times_usual.total_cmp(&one.times_usual));
        let straggling = stragglers.len() as u64;
        stragglers.truncate(MAX_LISTED);
        let mut away: Vec<EndpointDowntime> = timelines
            .iter()
            .flat_map(|it| {
                it.timeline.away.named.iter().map(move |(name, its)| gone(name, it.start, *its))
            })
            .collect();
        away.sort_by(|one, other| other.seconds.total_cmp(&one.seconds));
        away.truncate(MAX_LISTED);
        Self {
            answered: served.values().filter(|it| it.answered > 0).count() as u64,
            watched: timelines.last().map_or(0, |it| it.timeline.endpoints()),
            full_share: share(whole.full, whole.up),
            full_share_steady: course.full_share_steady,
            up_share: share(whole.up, whole.watched),
            fill: share(whole.in_flight, whole.window),
            usual_latency_s: usual.map(|it| it / 1000.0),
            stragglers,
            straggling,
            away,
            times_away: timelines.iter().map(|it| it.timeline.away.times).sum(),
        }
    }
}

fn gone(
    name: &str,
    start: u32,
    DowntimeRecord { times, millis, at_end }: DowntimeRecord,
) -> EndpointDowntime {
    EndpointDowntime {
        endpoint: name.into(),
        start,
        times,
        seconds: millis as f64 / 1000.0,
        at_end,
    }
}

/// One over the other, where there is another.
pub(crate) fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}
