//! Load of the endpoints: utilisation, stragglers and outages. Part of the summary. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    domain::Merge,
    metrics::EndpointStats,
    metrics::timeline::{DowntimeRecord, TimeBucket},
    output::StartTimeline,
};

/// Load of all endpoints. Fractions are of the time in which an endpoint was up.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct EndpointLoad {
    /// Endpoints that answered at least one prompt.
    pub n_used: u64,
    /// Endpoints in the latest session with a timeline.
    pub n_observed: u64,
    /// Fraction of time in which concurrency limits were full.
    pub fraction_full: Option<f64>,
    /// Fraction of the steady phase in which concurrency limits were full.
    pub fraction_full_steady: Option<f64>,
    /// Fraction of time in which endpoints were up, of that in which a rank drove them.
    pub fraction_up: Option<f64>,
    /// Sequences in flight over the concurrency limits. Exceeds 1 for moments after a limit was lowered.
    pub utilisation: Option<f64>,
    /// Median of the endpoints' mean latencies, in seconds.
    pub median_latency_s: Option<f64>,
    /// Endpoints whose mean latency is at least 1.5 times that median, the slowest first; at most fifty.
    pub stragglers: Vec<Straggler>,
    pub n_slow: u64,
    /// Endpoints with outages, the longest first; at most fifty.
    pub outages: Vec<EndpointDowntime>,
    /// Number of outages of endpoints that had been up.
    pub n_outages: u64,
}

/// An endpoint that is much slower than the median.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Straggler {
    /// Host and URL of the endpoint.
    pub endpoint: String,
    pub answered: u64,
    pub latency_s: f64,
    /// Mean latency over the median endpoint's.
    pub ratio_to_median: f64,
}

/// An endpoint that was away.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct EndpointDowntime {
    /// Host and URL of the endpoint.
    pub endpoint: String,
    pub session: u32,
    /// Number of outages; 0 for an endpoint that only became ready late.
    pub n_outages: u64,
    pub downtime_s: f64,
    /// True if the endpoint was down when the session ended.
    pub down_at_end: bool,
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
        endpoints: &BTreeMap<String, EndpointStats>,
        timelines: &[StartTimeline],
        fraction_full_steady: Option<f64>,
    ) -> Self {
        let mut whole = TimeBucket::default();
        timelines.iter().for_each(|it| whole.merge(it.timeline.grand_total()));
        let compared = || endpoints.iter().filter(|(_, it)| it.answered >= MIN_ANSWERS);
        let mut sorted: Vec<f64> = compared().filter_map(|(_, it)| it.mean_latency_ms()).collect();
        sorted.sort_by(f64::total_cmp);
        // The lower median: with two endpoints, the slower one is the straggler.
        let median = sorted.get(sorted.len().saturating_sub(1) / 2).copied();
        let mut stragglers: Vec<Straggler> = compared()
            .filter_map(|(name, it)| {
                let (mean, median) = (it.mean_latency_ms()?, median.filter(|it| *it > 0.0)?);
                let ratio_to_median = mean / median;
                (ratio_to_median >= STRAGGLER_FACTOR).then(|| Straggler {
                    endpoint: name.clone(),
                    answered: it.answered,
                    latency_s: mean / 1000.0,
                    ratio_to_median,
                })
            })
            .collect();
        stragglers.sort_by(|one, other| other.ratio_to_median.total_cmp(&one.ratio_to_median));
        let n_slow = stragglers.len() as u64;
        // The count above stays exact; only the list is bounded, since a job may have 12,000 endpoints.
        stragglers.truncate(MAX_LISTED);
        let mut outages: Vec<EndpointDowntime> = timelines
            .iter()
            .flat_map(|it| {
                it.timeline
                    .away
                    .named
                    .iter()
                    .map(move |(name, record)| endpoint_downtime(name, it.start, *record))
            })
            .collect();
        outages.sort_by(|one, other| other.downtime_s.total_cmp(&one.downtime_s));
        outages.truncate(MAX_LISTED);
        Self {
            n_used: endpoints.values().filter(|it| it.answered > 0).count() as u64,
            n_observed: timelines.last().map_or(0, |it| it.timeline.endpoint_count()),
            fraction_full: checked_ratio(whole.full, whole.up),
            fraction_full_steady,
            fraction_up: checked_ratio(whole.up, whole.watched),
            utilisation: checked_ratio(whole.in_flight, whole.window),
            median_latency_s: median.map(|it| it / 1000.0),
            stragglers,
            n_slow,
            outages,
            n_outages: timelines.iter().map(|it| it.timeline.away.times).sum(),
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
        session: start,
        n_outages: times,
        downtime_s: millis as f64 / 1000.0,
        down_at_end: at_end,
    }
}

/// Returns the ratio, `None` if the denominator is 0.
pub(crate) fn checked_ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}
