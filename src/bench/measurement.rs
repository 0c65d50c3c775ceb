//! Counts and latencies of one measurement, of a single rank or merged over all.

use serde::{Deserialize, Serialize};

use crate::{
    domain::{Merge, Outcome, PromptResult},
    metrics::LogHistogram,
};

/// Result of sending some prompts once. The default, without prompts, is the neutral element of merging; ranks without
/// endpoints contribute it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct BenchMeasurement {
    /// Prompts that were to be sent.
    pub asked: u64,
    /// Number of prompts with an answer.
    pub answered: u64,
    /// Number of prompts that failed.
    pub failed: u64,
    /// Tokens of the answered prompts.
    pub prompt_tokens: u64,
    /// Tokens of all answers together.
    pub completion_tokens: u64,
    /// HTTP requests sent for these prompts.
    pub requests: u64,
    /// Time from the first prompt to the last outcome in seconds; merged, that of the slowest rank.
    pub seconds: f64,
    /// Latencies of the answered prompts.
    pub latencies: LogHistogram,
    /// Message of the first failure.
    pub first_failure: Option<String>,
    /// Reason why it ended before all prompts had an outcome, if it did.
    pub end_reason: Option<String>,
}

impl BenchMeasurement {
    /// Returns a quantile of the latencies in seconds, to about 1 %; `None` if nothing was answered.
    #[must_use]
    pub(crate) fn latency_quantile_s(&self, quantile: f64) -> Option<f64> {
        self.latencies.value_at_quantile(quantile).map(|micros| micros as f64 / 1e6)
    }

    /// Counts the outcome of a prompt.
    pub(crate) fn count_outcome(&mut self, result: &PromptResult) {
        match &result.outcome {
            Outcome::Answered(answer) => {
                self.answered += 1;
                let usage = answer.usage.unwrap_or_default();
                self.prompt_tokens += usage.prompt_tokens;
                self.completion_tokens += usage.completion_tokens;
                self.latencies.record(seconds_to_micros(result.latency));
            }
            Outcome::Failed(failure) => {
                self.failed += 1;
                self.first_failure.get_or_insert_with(|| failure.message.clone());
            }
        }
    }

    /// Returns the number of prompts with an outcome.
    #[must_use]
    pub(crate) fn outcome_count(&self) -> u64 {
        self.answered + self.failed
    }

    /// Returns why the figures do not cover all prompts, if they do not.
    #[must_use]
    pub(crate) fn incomplete_reason(&self) -> Option<String> {
        let Self { asked, answered, failed, .. } = self;
        let failures = || {
            let message = self.first_failure.as_deref().unwrap_or_default();
            format!("{failed} of {asked} prompts failed: {message}")
        };
        match &self.end_reason {
            Some(reason) => Some(format!("{reason}: {answered} of {asked} prompts were answered")),
            None if *failed > 0 => Some(failures()),
            None if self.outcome_count() < *asked => {
                Some(format!("{answered} of {asked} prompts were answered"))
            }
            None if *asked == 0 => Some("no prompts were sent".into()),
            None => None,
        }
    }
}

/// Converts a latency to whole microseconds; negative and undefined values count as 0.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
fn seconds_to_micros(seconds: f64) -> u64 {
    (seconds * 1e6).round().clamp(0.0, 1e15) as u64
}

impl Merge for BenchMeasurement {
    fn merge(&mut self, other: Self) {
        self.asked += other.asked;
        self.answered += other.answered;
        self.failed += other.failed;
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
        self.requests += other.requests;
        self.seconds = self.seconds.max(other.seconds);
        self.latencies.merge(other.latencies);
        self.first_failure = self.first_failure.take().or(other.first_failure);
        self.end_reason = self.end_reason.take().or(other.end_reason);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Zero in eight of nine cases.
    fn mostly_zero() -> impl Strategy<Value = u64> {
        prop_oneof![8 => Just(0), 1 => 1..3u64]
    }

    prop_compose! {
        pub(in crate::bench) fn any_measurement()(
            answered in 0..50u64, failed in mostly_zero(), open in mostly_zero(), tokens in 1..90u64, seconds in 0.1..9.0f64,
        ) -> BenchMeasurement {
            let mut latencies = LogHistogram::default();
            (0..answered).for_each(|at| latencies.record(seconds_to_micros(seconds / (at + 1) as f64)));
            BenchMeasurement {
                asked: answered + failed + open,
                answered,
                failed,
                completion_tokens: answered * tokens,
                seconds,
                latencies,
                requests: answered,
                first_failure: (failed > 0).then(|| "refused".into()),
                end_reason: (open > 0).then(|| "not over in time".into()),
                ..BenchMeasurement::default()
            }
        }
    }

    proptest! {
        #[test]
        fn ranks_add_up_in_any_grouping(a in any_measurement(), b in any_measurement(), c in any_measurement()) {
            let sum = |mut x: BenchMeasurement, y: BenchMeasurement| { x.merge(y); x };
            let left = sum(sum(a.clone(), b.clone()), c.clone());
            prop_assert_eq!(&left, &sum(a.clone(), sum(b, c)));
            prop_assert_eq!(sum(BenchMeasurement::default(), a.clone()), a);
        }

        #[test]
        fn only_what_is_whole_has_nothing_to_explain(it in any_measurement()) {
            prop_assert_eq!(it.incomplete_reason().is_none(), it.asked > 0 && it.answered == it.asked);
        }
    }
}
