//! Failure report: counts of failed prompts by kind, with the first examples of each in the input's order.
//!
//! The kinds themselves and the rules that assign them are in `domain` and `endpoint/fault.rs`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::observed::{FirstExamples, ObservedAnswer, ObservedCounts};
use crate::domain::Merge;

/// Counts of failed prompts by kind. Memory: the examples of each kind, and there are a handful of kinds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FailureReport {
    example_limit: usize,
    counts: ObservedCounts,
    kinds: BTreeMap<String, FirstExamples>,
    /// Answered prompts, each counted once however many sequences it has.
    answered: u64,
}

impl FailureReport {
    /// Creates an empty report that lists the first `example_limit` failures of each kind.
    #[must_use]
    pub fn new(named: usize) -> Self {
        let (counted, kinds) = Default::default();
        Self { example_limit: named, counts: counted, kinds, answered: 0 }
    }

    /// Adds an answer or a failure.
    pub fn add_answer(&mut self, answer: &ObservedAnswer<'_>) {
        let _ = self.counts.count_and_trim(answer);
        match answer.outcome {
            Ok(_) => self.answered += u64::from(answer.position.sequence == 0),
            Err(failed) => {
                let kind = self.kinds.entry(failed.kind.into());
                kind.or_insert_with(|| FirstExamples::with_limit(self.example_limit))
                    .add_example(answer, || failed.message.into());
            }
        }
    }

    /// Returns the counts and the failures by kind as JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let kinds: BTreeMap<&str, Value> =
            self.kinds.iter().map(|(kind, its)| (kind.as_str(), its.to_json())).collect();
        let failed: u64 = self.kinds.values().map(FirstExamples::total_count).sum();
        json!({
            "total": self.answered + failed, "answered": self.answered, "failed": failed, "blank": self.counts.blank,
            "kinds": kinds
        })
    }
}

impl Merge for FailureReport {
    fn merge(&mut self, other: Self) {
        self.counts.merge(other.counts);
        self.answered += other.answered;
        for (kind, its) in other.kinds {
            self.kinds
                .entry(kind)
                .or_insert_with(|| FirstExamples::with_limit(self.example_limit))
                .merge(its);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::tests::{test_answer, test_failure};

    #[test]
    fn failures_are_counted_by_kind_and_the_first_are_listed() {
        let mut all = FailureReport::new(2);
        for index in [9, 7, 5, 3] {
            all.add_answer(&test_failure(index, "too_long"));
        }
        all.add_answer(&test_failure(1, "refused"));
        all.add_answer(&test_answer(0, ""));
        let report = all.to_json();
        assert_eq!(
            (&report["total"], &report["answered"], &report["failed"], &report["blank"]),
            (&6.into(), &1.into(), &5.into(), &1.into())
        );
        assert_eq!(report["kinds"]["too_long"]["count"], 4);
        let first = json!([
            {"id": "3", "index": 3, "why": "no", "status": 400}, {"id": "5", "index": 5, "why": "no", "status": 400}
        ]);
        assert_eq!(report["kinds"]["too_long"]["first"], first);
    }
}
