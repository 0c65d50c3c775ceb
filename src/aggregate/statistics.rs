//! Statistics of numeric answers and of answer lengths.
//!
//! The number is the whole answer or the value at a JSON pointer. Non-numeric answers are counted, with the first as
//! examples, and do not affect the others. Lengths are in Unicode characters, over all answers that are not blank. The
//! summary itself (mean, deviation, median) is in `summary_statistics.rs`.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    EXAMPLE_LIMIT, extract,
    observed::{FirstExamples, ObservedAnswer, ObservedCounts},
    summary_statistics::SummaryStatistics,
};
use crate::domain::Merge;

/// Statistics of the numbers in answers and of the answers' lengths.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NumericStatistics {
    pointer: Option<String>,
    counts: ObservedCounts,
    numbers: SummaryStatistics,
    non_numeric: FirstExamples,
    lengths: SummaryStatistics,
}

impl NumericStatistics {
    /// Creates empty statistics; with a JSON pointer, the number is the value at that place.
    #[must_use]
    pub fn new(at: Option<String>) -> Self {
        let (counted, numbers, lengths) = Default::default();
        Self {
            pointer: at,
            counts: counted,
            numbers,
            non_numeric: FirstExamples::with_limit(EXAMPLE_LIMIT),
            lengths,
        }
    }

    /// Adds an answer or a failure.
    pub fn add_answer(&mut self, answer: &ObservedAnswer<'_>) {
        let Some(text) = self.counts.count_and_trim(answer) else { return };
        self.lengths.add_number(text.chars().count() as f64);
        match extract::number_at_pointer(text, self.pointer.as_deref()) {
            Ok(number) => self.numbers.add_number(number),
            Err(reason) => self.non_numeric.add_example(answer, || reason),
        }
    }

    /// Returns count, mean, sample standard deviation (0 for a single number), median, minimum and maximum as JSON;
    /// null without numbers.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut finished = self.counts.to_json();
        finished["no_numbers"] = self.non_numeric.to_json();
        finished["numbers"] = json!(self.numbers.to_json());
        finished["characters"] = json!(self.lengths.to_json());
        finished
    }
}

impl Merge for NumericStatistics {
    fn merge(&mut self, other: Self) {
        self.counts.merge(other.counts);
        self.numbers.merge(other.numbers);
        self.non_numeric.merge(other.non_numeric);
        self.lengths.merge(other.lengths);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::tests::{test_answer, test_failure};

    #[test]
    fn a_non_numeric_answer_leaves_the_others_counted() {
        let mut all = NumericStatistics::new(None);
        for (index, text) in [(0, "1"), (1, "about five"), (2, " 3\n"), (3, ""), (4, "inf")] {
            all.add_answer(&test_answer(index, text));
        }
        let result = all.to_json();
        assert_eq!(
            (&result["numbers"]["count"], &result["numbers"]["mean"]),
            (&2.into(), &2.0.into())
        );
        assert_eq!(result["no_numbers"]["count"], 2);
        assert_eq!(
            result["no_numbers"]["first"][0],
            json!({"id": "1", "index": 1, "why": "\"about five\" is not a number"})
        );
        assert_eq!((&result["blank"], &result["characters"]["max"]), (&1.into(), &10.0.into()));
    }

    #[test]
    fn statistics_without_numbers_are_null() {
        let mut all = NumericStatistics::new(None);
        all.add_answer(&test_failure(0, "refused"));
        let result = all.to_json();
        assert_eq!((&result["failed"], &result["numbers"]["count"]), (&1.into(), &0.into()));
        assert!(result["numbers"]["mean"].is_null() && result["characters"]["max"].is_null());
    }
}
