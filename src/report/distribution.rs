//! Parts of a summary that runs and levels of a reduce share: distributions, failures by kind, and the time spent sending.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::{
    domain::FailureKind,
    metrics::{AnswerStats, FailureExample, FailureStats, HistogramBin, LogHistogram},
    output::StartRecord,
};

/// Upper limit of bins in a histogram.
const HISTOGRAM_BINS: usize = 40;

/// Distribution of a measurement. Percentiles are accurate to 1 %.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct DistributionSummary {
    pub count: u64,
    /// Smallest value, exact; null if there are no values, as all below.
    pub min: Option<f64>,
    /// Mean, exact.
    pub mean: Option<f64>,
    pub p50: Option<f64>,
    pub p90: Option<f64>,
    pub p99: Option<f64>,
    /// Largest value, exact.
    pub max: Option<f64>,
    /// Adjacent bins from the smallest to the largest value.
    pub histogram: Vec<DistributionBin>,
}

/// Number of values in the half-open range `from..to`.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct DistributionBin {
    /// Inclusive lower bound.
    pub from: f64,
    /// Exclusive upper bound.
    pub to: f64,
    /// Number of values in the bin.
    pub count: u64,
}

/// Failures of one kind.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FailureSummary {
    pub count: u64,
    /// True if the next session retries them without `--retry-failed`.
    pub retryable: bool,
    /// First failed prompts, in input order.
    pub examples: Vec<FailedPrompt>,
}

/// A failed prompt.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FailedPrompt {
    pub id: Value,
    /// Index of its row in the input.
    pub index: u64,
    pub message: String,
    /// HTTP status, if the server answered.
    pub status: Option<u16>,
}

pub(super) fn failure_summaries(stats: &AnswerStats) -> BTreeMap<String, FailureSummary> {
    stats
        .failures
        .iter()
        .map(|(kind, stats)| (kind.clone(), failure_summary(kind, stats)))
        .collect()
}

/// Answers that were not valid (`--schema`, `--check`).
#[derive(Clone, Debug, Serialize)]
pub(crate) struct InvalidSummary {
    /// Answers that were not valid.
    pub answers: u64,
    /// Tokens that were generated for them.
    pub completion_tokens: u64,
    /// Prompts with such an answer, whether a valid one followed or not.
    pub prompts: u64,
    /// The first of these prompts, each with its first reason.
    pub examples: Vec<FailedPrompt>,
}

pub(super) fn invalid_summary(stats: &AnswerStats) -> InvalidSummary {
    let invalid = &stats.invalid;
    InvalidSummary {
        answers: invalid.answers,
        completion_tokens: invalid.completion_tokens,
        prompts: invalid.prompts.count,
        examples: example_prompts(&invalid.prompts),
    }
}

pub(super) fn summarize_distribution(histogram: &LogHistogram, unit: f64) -> DistributionSummary {
    let scaled = |number: u64| number as f64 * unit;
    let bar = |HistogramBin { from, to, count }| DistributionBin {
        from: scaled(from),
        to: scaled(to),
        count,
    };
    DistributionSummary {
        count: histogram.count(),
        min: histogram.min_max().map(|range| scaled(range.0)),
        mean: histogram.mean().map(|mean| mean * unit),
        p50: histogram.value_at_quantile(0.5).map(scaled),
        p90: histogram.value_at_quantile(0.9).map(scaled),
        p99: histogram.value_at_quantile(0.99).map(scaled),
        max: histogram.min_max().map(|range| scaled(range.1)),
        histogram: histogram.to_bins(HISTOGRAM_BINS).into_iter().map(bar).collect(),
    }
}

fn failure_summary(kind: &str, stats: &FailureStats) -> FailureSummary {
    let known = serde_json::from_value::<FailureKind>(kind.into());
    FailureSummary {
        count: stats.count,
        retryable: known.is_ok_and(FailureKind::is_retryable),
        examples: example_prompts(stats),
    }
}

fn example_prompts(stats: &FailureStats) -> Vec<FailedPrompt> {
    let example = |(&index, it): (&u64, &FailureExample)| FailedPrompt {
        id: parse_id(&it.id),
        index,
        message: it.message.clone(),
        status: it.status,
    };
    stats.examples.iter().map(example).collect()
}

/// Parses an id that is stored as JSON text.
pub(super) fn parse_id(id: &str) -> Value {
    serde_json::from_str(id).unwrap_or_else(|_| id.into())
}

/// Returns the seconds of all sessions that sent prompts, without those in which they waited for servers: neither these nor
/// a session that only found the run finished must lower the rate. Rounded to milliseconds, since a number read back from JSON may differ in its last bit.
pub(super) fn active_seconds(history: &[StartRecord]) -> f64 {
    let asked = history.iter().filter(|it| it.did.settled_count() > 0);
    (asked.map(|it| (it.seconds - it.waited).max(0.0)).sum::<f64>() * 1000.0).round() / 1000.0
}
