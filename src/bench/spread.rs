//! Figures of repeated measurements: rates, latencies, their medians and their spread.

use serde::Serialize;

use super::BenchMeasurement;

/// Median and range of a figure over all repeats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct RepeatSpread {
    /// Median; for an even number of repeats the mean of the two middle values.
    pub median: f64,
    /// Smallest value of all repeats.
    pub least: f64,
    /// Largest value of all repeats.
    pub most: f64,
}

impl RepeatSpread {
    /// Computes median and range; `None` without values.
    #[must_use]
    pub(crate) fn from_values(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut all: Vec<f64> = figures.into_iter().collect();
        all.sort_by(f64::total_cmp);
        let (least, most) = (*all.first()?, *all.last()?);
        let upper = all[all.len() / 2];
        let lower = all[(all.len() - 1) / 2];
        Some(Self { median: f64::midpoint(lower, upper), least, most })
    }
}

/// Figures of a single measurement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct BenchRun {
    /// Number of prompts that were sent.
    pub asked: u64,
    /// Number of prompts that were answered.
    pub answered: u64,
    /// Time from the first prompt to the last outcome, in seconds.
    pub seconds: f64,
    /// HTTP requests that were sent.
    pub requests: u64,
    /// Tokens of the answered prompts.
    pub prompt_tokens: u64,
    /// Tokens of all answers together.
    pub completion_tokens: u64,
    /// Throughput in answered prompts per second.
    pub prompts_per_s: f64,
    /// Throughput in answer tokens per second.
    pub tokens_per_s: f64,
    /// Median latency of an answer, in seconds.
    pub p50_s: f64,
    /// 99th percentile of the latency, in seconds.
    pub p99_s: f64,
    /// Reason why prompts are unanswered, if any are.
    pub failed: Option<String>,
}

impl BenchRun {
    /// Computes the figures of a measurement.
    #[must_use]
    pub(crate) fn from_measurement(measured: &BenchMeasurement) -> Self {
        let per_second = |count: u64| {
            if measured.seconds > 0.0 { count as f64 / measured.seconds } else { 0.0 }
        };
        Self {
            asked: measured.asked,
            answered: measured.answered,
            seconds: measured.seconds,
            requests: measured.requests,
            prompt_tokens: measured.prompt_tokens,
            completion_tokens: measured.completion_tokens,
            prompts_per_s: per_second(measured.answered),
            tokens_per_s: per_second(measured.completion_tokens),
            p50_s: measured.latency_quantile_s(0.5).unwrap_or_default(),
            p99_s: measured.latency_quantile_s(0.99).unwrap_or_default(),
            failed: measured.incomplete_reason(),
        }
    }
}

/// Figures over several runs of the same cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct RunFigures {
    /// Throughput in answered prompts per second.
    pub prompts_per_s: RepeatSpread,
    /// Throughput in answer tokens per second.
    pub tokens_per_s: RepeatSpread,
    /// Median latency of an answer, in seconds.
    pub p50_s: RepeatSpread,
    /// 99th percentile of the latency, in seconds.
    pub p99_s: RepeatSpread,
    /// Prompts per request, over all runs.
    pub prompts_per_request: f64,
    /// Tokens per prompt, as counted by the servers.
    pub prompt_tokens: f64,
    /// Tokens per answer, as counted by the servers.
    pub answer_tokens: f64,
}

impl RunFigures {
    /// Computes the figures over the runs that answered something; `None` if none did.
    #[must_use]
    pub(crate) fn from_runs<'r>(runs: impl IntoIterator<Item = &'r BenchRun>) -> Option<Self> {
        // A run without answers has neither rate nor latency.
        let runs: Vec<&BenchRun> = runs.into_iter().filter(|run| run.answered > 0).collect();
        let spread = |figure_of: fn(&BenchRun) -> f64| {
            RepeatSpread::from_values(runs.iter().map(|run| figure_of(run)))
        };
        let sum =
            |count: fn(&BenchRun) -> u64| runs.iter().map(|run| count(run)).sum::<u64>() as f64;
        let answered = sum(|run| run.answered);
        Some(Self {
            prompts_per_s: spread(|run| run.prompts_per_s)?,
            tokens_per_s: spread(|run| run.tokens_per_s)?,
            p50_s: spread(|run| run.p50_s)?,
            p99_s: spread(|run| run.p99_s)?,
            prompts_per_request: answered / sum(|run| run.requests).max(1.0),
            prompt_tokens: sum(|run| run.prompt_tokens) / answered,
            answer_tokens: sum(|run| run.completion_tokens) / answered,
        })
    }

    /// Returns the throughput by which cells are compared: tokens per second, since answers differ in length, or
    /// prompts per second if no tokens are counted.
    #[must_use]
    pub(crate) fn compared_throughput(&self) -> RepeatSpread {
        if self.tokens_per_s.most > 0.0 { self.tokens_per_s } else { self.prompts_per_s }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::measurement::tests::any_measurement;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_median_has_at_most_half_of_the_values_on_each_side(all in prop::collection::vec(0.0..1e6f64, 1..20)) {
            let spread = RepeatSpread::from_values(all.iter().copied()).expect("some");
            prop_assert!(spread.least <= spread.median && spread.median <= spread.most);
            let below = all.iter().filter(|&&x| x < spread.median).count();
            let above = all.iter().filter(|&&x| x > spread.median).count();
            prop_assert!(below <= all.len() / 2 && above <= all.len() / 2);
        }

        #[test]
        fn figures_are_those_of_runs_that_answered(all in prop::collection::vec(any_measurement(), 0..6)) {
            let runs: Vec<BenchRun> = all.iter().map(BenchRun::from_measurement).collect();
            let figures = RunFigures::from_runs(&runs);
            prop_assert_eq!(figures.is_some(), runs.iter().any(|run| run.answered > 0));
            if let Some(figures) = figures {
                let rates = runs.iter().map(|run| run.prompts_per_s);
                prop_assert_eq!(figures.prompts_per_s.most, rates.fold(0.0, f64::max));
            }
        }
    }

    #[test]
    fn the_median_of_an_even_count_is_the_mean_of_the_middle_two() {
        assert_eq!(
            RepeatSpread::from_values([4.0, 1.0, 2.0, 3.0]).map(|spread| spread.median),
            Some(2.5)
        );
        assert_eq!(RepeatSpread::from_values([]), None);
    }
}
