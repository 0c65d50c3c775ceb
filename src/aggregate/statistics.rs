//! Numbers in answers, and how long answers are.
//!
//! An answer is a number, or holds one at a JSON pointer; those that are none are counted and the first are named, and the
//! others count all the same. Lengths are in characters (of Unicode), of all answers that are not blank.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    FIRST, extract,
    observed::{FirstExamples, ObservedCounts, Seen},
    summary_statistics::SummaryStatistics,
};
use crate::domain::Merge;

/// Of all answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NumericStatistics {
    at: Option<String>,
    counted: ObservedCounts,
    numbers: SummaryStatistics,
    non_numeric: FirstExamples,
    lengths: SummaryStatistics,
}

impl NumericStatistics {
    /// None yet.
    #[must_use]
    pub fn new(at: Option<String>) -> Self {
        let (counted, numbers, lengths) = Default::default();
        Self { at, counted, numbers, non_numeric: FirstExamples::of(FIRST), lengths }
    }

    /// One answer.
    pub fn add_answer(&mut self, seen: &Seen<'_>) {
        let Some(text) = self.counted.text(seen) else { return };
        self.lengths.add(text.chars().count() as f64);
        match extract::number_at_pointer(text, self.at.as_deref()) {
            Ok(number) => self.numbers.add(number),
            Err(why) => self.non_numeric.add(seen, || why),
        }
    }

    /// Mean, standard deviation (of a sample; 0 for a single number), median, least and greatest; null where there are none.
    #[must_use]
    pub fn finish(&self) -> Value {
        let mut finished = self.counted.finish();
        finished["no_numbers"] = self.non_numeric.finish();
        finished["numbers"] = json!(self.numbers.finish());
        finished["characters"] = json!(self.lengths.finish());
        finished
    }
}

impl Merge for NumericStatistics {
    fn merge(&mut self, other: Self) {
        self.counted.merge(other.counted);
        self.numbers.merge(other.numbers);
        self.non_numeric.merge(other.non_numeric);
        self.lengths.merge(other.lengths);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::tests::{answer, failure};

    #[test]
    fn one_answer_that_is_no_number_does_not_cost_the_others() {
        let mut all = NumericStatistics::new(None);
        for (index, text) in [(0, "1"), (1, "about five"), (2, " 3\n"), (3, ""), (4, "inf")] {
            all.add_answer(&answer(index, text));
        }
        let it = all.finish();
        assert_eq!((&it["numbers"]["count"], &it["numbers"]["mean"]), (&2.into(), &2.0.into()));
        assert_eq!(it["no_numbers"]["count"], 2);
        assert_eq!(
            it["no_numbers"]["first"][0],
            json!({"id": "1", "index": 1, "why": "\"about five\" is no number"})
        );
        assert_eq!((&it["blank"], &it["characters"]["max"]), (&1.into(), &10.0.into()));
    }

    #[test]
    fn where_all_answers_failed_there_are_no_zeros() {
        let mut all = NumericStatistics::new(None);
        all.add_answer(&failure(0, "refused"));
        let it = all.finish();
        assert_eq!((&it["failed"], &it["numbers"]["count"]), (&1.into(), &0.into()));
        assert!(it["numbers"]["mean"].is_null() && it["characters"]["max"].is_null());
    }
}
