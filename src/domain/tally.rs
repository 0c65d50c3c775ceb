//! Tallies: mergeable counts of a rank, a node or the job.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{FailureKind, FlawCounts, Merge, Outcome, PromptResult};

/// Counts of the work that is done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// Number of prompts that were answered.
    pub answered: u64,
    /// Flaws among the answered prompts.
    #[serde(default)]
    pub flaws: FlawCounts,
    /// Number of failed prompts by kind.
    pub failed: BTreeMap<FailureKind, u64>,
    /// Number of tokens in answered prompts.
    pub prompt_tokens: u64,
    /// Number of tokens in answers.
    pub completion_tokens: u64,
    /// Number of HTTP requests sent.
    pub requests: u64,
    /// Number of prompts sent again after a fault.
    pub retried: u64,
    /// Number of answers that were not valid, of prompts that have an outcome.
    #[serde(default)]
    pub invalid_answers: u64,
    /// Number of tokens that were generated for them.
    #[serde(default)]
    pub invalid_tokens: u64,
}

impl Tally {
    /// Adds one outcome to the counts.
    pub(crate) fn record_result(&mut self, settled: &PromptResult) {
        if let Some(invalid) = &settled.invalid {
            self.invalid_answers += u64::from(invalid.count);
            self.invalid_tokens += invalid.completion_tokens;
        }
        match &settled.outcome {
            Outcome::Answered(answer) => {
                self.answered += 1;
                self.flaws.add(answer.flaws(), 1);
                let usage = answer.usage.unwrap_or_default();
                self.prompt_tokens += usage.prompt_tokens;
                self.completion_tokens += usage.completion_tokens;
            }
            Outcome::Failed(failure) => *self.failed.entry(failure.kind).or_default() += 1,
        }
    }

    /// Returns the number of prompts with an outcome.
    #[must_use]
    pub(crate) fn settled_count(&self) -> u64 {
        self.answered + self.failed_count()
    }

    /// Returns the number of failed prompts of all kinds.
    #[must_use]
    pub(crate) fn failed_count(&self) -> u64 {
        self.failed.values().sum()
    }
}

impl Merge for Tally {
    fn merge(&mut self, other: Self) {
        self.answered += other.answered;
        self.flaws.merge(other.flaws);
        Merge::merge(&mut self.failed, other.failed);
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
        self.requests += other.requests;
        self.retried += other.retried;
        self.invalid_answers += other.invalid_answers;
        self.invalid_tokens += other.invalid_tokens;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn any_tally()(answered in 0..9u64, cut in 0..9u64, requests in 0..9u64, long in 0..9u64, empty in 0..9u64, invalid in 0..9u64) -> Tally {
            let failed = BTreeMap::from([(FailureKind::TooLong, long), (FailureKind::EmptyPrompt, empty)]);
            let flaws = FlawCounts { cut, blank: 2 * cut, refused: 3 * cut };
            Tally { answered, failed, requests, flaws, invalid_answers: invalid, invalid_tokens: 7 * invalid, ..Tally::default() }
        }
    }

    proptest! {
        #[test]
        fn tallies_add_up_in_any_grouping(a in any_tally(), b in any_tally(), c in any_tally()) {
            let sum = |mut x: Tally, y: Tally| { x.merge(y); x };
            let left = sum(sum(a.clone(), b.clone()), c.clone());
            prop_assert_eq!(&left, &sum(a.clone(), sum(b.clone(), c.clone())));
            prop_assert_eq!(left.settled_count(), a.settled_count() + b.settled_count() + c.settled_count());
            prop_assert_eq!(sum(Tally::default(), a.clone()), a);
        }
    }
}
