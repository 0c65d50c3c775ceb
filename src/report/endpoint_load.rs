//! Load of the endpoints: utilisation, stragglers and outages. Part of the summary. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use super::throughput::ThroughputHistory;
use crate::{
    domain::{DowntimeRecord, Merge, TimeBucket},
    metrics::EndpointStats,
    output::StartTimeline,
};

/// Load of all endpoints. Fractions are of the time in which an endpoint was up.
#[derive(Clone, Debug, Default, Serialize)]
pub struct EndpointLoad {
    /// Endpoints that answered at least one prompt.
    pub answered: u64,
    /// Endpoints in the latest session with a timeline.
    pub watched: u64,
    /// Fraction of time in which concurrency limits were full.
    pub full_share: Option<f64>,
    /// Fraction of the steady phase in which concurrency limits were full.
    pub full_share_steady: Option<f64>,
    /// Fraction of time in which endpoints were up, of that in which a rank drove them.
    pub up_share: Option<f64>,
    /// Sequences in flight over the concurrency limits. Exceeds 1 for moments after a limit was lowered.
    pub fill: Option<f64>,
    /// Median of the endpoints' mean latencies, in seconds.
    pub usual_latency_s: Option<f64>,
    /// Endpoints whose mean latency is at least 1.5 times that median, the slowest first; at most fifty.
    pub stragglers: Vec<Straggler>,
    /// Number of such endpoints.
    pub straggling: u64,
    /// Endpoints with outages, the longest first; at most fifty.
    pub away: Vec<EndpointDowntime>,
    /// Number of outages of endpoints that had been up.
    pub times_away: u64,
}

/// An endpoint that is much slower than the median.
#[derive(Clone, Debug, Serialize)]
pub struct Straggler {
    /// Host and URL of the endpoint.
    pub endpoint: String,
    /// Prompts that it answered.
    pub answered: u64,
    /// Mean latency in seconds.
    pub latency_s: f64,
    /// Mean latency over the median endpoint's.
    pub times_usual: f64,
}

/// An endpoint that was away.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointDowntime {
    /// Host and URL of the endpoint.
    pub endpoint: String,
    /// Number of the session.
    pub start: u32,
    /// Number of outages; 0 for an endpoint that only became ready late.
    pub times: u64,
    /// Total downtime in seconds.
    pub seconds: f64,
    /// True if the endpoint was down when the session ended.
    pub at_end: bool,
}

/// Upper limit of endpoints in a list.
const MAX_LISTED: usize = 50;
/// Ratio to the median latency from which an endpoint counts as slow; smaller ratios occur by chance.
const STRAGGLER_FACTOR: f64 = 1.5;
/// Answers needed before an endpoint's mean latency is compared.
const MIN_ANSWERS: u64 = 5;

impl EndpointLoad {
    /// Computes the load from the endpoints' answers and the ranks' timelines.
    pub(crate) fn from_stats(
        served: &BTreeMap<String, EndpointStats>,
        timelines: &[StartTimeline],
        course: &ThroughputHistory,
    ) -> Self {
        let mut whole = TimeBucket::default();
        timelines.iter().for_each(|it| whole.merge(it.timeline.grand_total()));
        let means = || served.iter().filter(|(_, it)| it.answered >= MIN_ANSWERS);
        let mut sorted: Vec<f64> = means().filter_map(|(_, it)| it.mean_latency_ms()).collect();
        sorted.sort_by(f64::total_cmp);
        // The lower median: with two endpoints, the slower one is the straggler.
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
                it.timeline
                    .away
                    .named
                    .iter()
                    .map(move |(name, its)| endpoint_downtime(name, it.start, *its))
            })
            .collect();
        away.sort_by(|one, other| other.seconds.total_cmp(&one.seconds));
        away.truncate(MAX_LISTED);
        Self {
            answered: served.values().filter(|it| it.answered > 0).count() as u64,
            watched: timelines.last().map_or(0, |it| it.timeline.endpoint_count()),
            full_share: checked_ratio(whole.full, whole.up),
            full_share_steady: course.full_share_steady,
            up_share: checked_ratio(whole.up, whole.watched),
            fill: checked_ratio(whole.in_flight, whole.window),
            usual_latency_s: usual.map(|it| it / 1000.0),
            stragglers,
            straggling,
            away,
            times_away: timelines.iter().map(|it| it.timeline.away.times).sum(),
        }
    }
}

fn endpoint_downtime(
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

/// Returns the ratio, `None` if the denominator is 0.
pub(crate) fn checked_ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}
