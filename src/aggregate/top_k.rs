//! Top k: the answers with the highest scores.
//!
//! The score is the whole answer as a number, or the number at a JSON pointer in it; library callers may pass any
//! scoring function ([`TopK::add_scored`]). Equal scores are ordered by input position. Memory: the texts of k answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    EXAMPLE_LIMIT, exact_sum, extract,
    observed::{AnswerPosition, FirstExamples, ObservedAnswer, ObservedCounts, id_to_json},
};
use crate::domain::Merge;

/// The answers with the highest scores so far.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TopK {
    k: usize,
    pointer: Option<String>,
    counts: ObservedCounts,
    without_score: FirstExamples,
    /// Answers by descending score, then by input position.
    best: BTreeMap<(i64, AnswerPosition), ScoredAnswer>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct ScoredAnswer {
    id: String,
    score: f64,
    text: String,
}

impl TopK {
    /// Creates an empty list for `k` answers; with a JSON pointer, the score is the value at that place.
    #[must_use]
    pub fn new(k: usize, at: Option<String>) -> Self {
        let (counted, best) = (ObservedCounts::default(), BTreeMap::new());
        Self {
            k,
            pointer: at,
            counts: counted,
            without_score: FirstExamples::with_limit(EXAMPLE_LIMIT),
            best,
        }
    }

    /// Adds an answer with the score that its text contains.
    pub fn add_answer(&mut self, answer: &ObservedAnswer<'_>) {
        let at = self.pointer.take();
        self.add_scored(answer, |text| extract::number_at_pointer(text, at.as_deref()));
        self.pointer = at;
    }

    /// Adds an answer with the score that `score` computes; it is not called for failed and blank answers.
    pub fn add_scored(
        &mut self,
        answer: &ObservedAnswer<'_>,
        score: impl FnOnce(&str) -> Result<f64, String>,
    ) {
        let Some(text) = self.counts.count_and_trim(answer) else { return };
        match score(text) {
            Ok(score) if !score.is_nan() => self.insert_scored(answer, score, text),
            Ok(_) => self.without_score.add_example(answer, || "its score is not a number".into()),
            Err(reason) => self.without_score.add_example(answer, || reason),
        }
    }

    fn insert_scored(&mut self, answer: &ObservedAnswer<'_>, score: f64, text: &str) {
        let key = (!exact_sum::order_key(score), answer.position); // `!` reverses the order
        let full = self.best.len() >= self.k;
        if full && self.best.last_key_value().is_none_or(|(last, _)| key > *last) {
            return;
        }
        self.best.insert(key, ScoredAnswer { id: answer.id.into(), score, text: text.into() });
        self.drop_lowest();
    }

    fn drop_lowest(&mut self) {
        while self.best.len() > self.k {
            self.best.pop_last();
        }
    }

    /// Returns the scores and texts of the answers, highest score first.
    pub fn best_scored(&self) -> impl Iterator<Item = (f64, &str)> {
        self.best.values().map(|it| (it.score, it.text.as_str()))
    }

    /// Returns the answers and their scores as JSON, highest score first.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let to_entry = |(&(_, place), it): (&(i64, AnswerPosition), &ScoredAnswer)| {
            json!({
                "score": it.score, "id": id_to_json(&it.id), "index": place.index, "sequence": place.sequence,
                "response": it.text
            })
        };
        let mut finished = self.counts.to_json();
        finished["without_score"] = self.without_score.to_json();
        finished["best"] = self.best.iter().map(to_entry).collect::<Vec<_>>().into();
        finished
    }
}

impl Merge for TopK {
    fn merge(&mut self, other: Self) {
        self.counts.merge(other.counts);
        self.without_score.merge(other.without_score);
        self.best.extend(other.best);
        self.drop_lowest();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::tests::{test_answer, test_failure};

    fn best_indices(it: &TopK) -> Vec<u64> {
        let all = it.to_json()["best"].as_array().cloned().unwrap_or_default();
        all.iter().filter_map(|it| it["index"].as_u64()).collect()
    }

    #[test]
    fn the_highest_scores_come_first_and_ties_follow_the_input() {
        let mut top = TopK::new(3, Some("/s".into()));
        for (index, score) in [(5, "1"), (4, "2.5"), (3, "2.5"), (2, "-7"), (1, "\"9\""), (0, "1")]
        {
            top.add_answer(&test_answer(index, &format!("{{\"s\": {score}}}")));
        }
        assert_eq!(best_indices(&top), [1, 3, 4]);
    }

    #[test]
    fn answers_without_a_score_are_listed_and_the_others_count() {
        let mut top = TopK::new(2, None);
        for (index, text) in [(0, "good"), (1, "8"), (2, ""), (3, "nan"), (4, "9")] {
            top.add_answer(&test_answer(index, text));
        }
        top.add_answer(&test_failure(5, "refused"));
        let result = top.to_json();
        assert_eq!(best_indices(&top), [4, 1]);
        assert_eq!(
            (&result["without_score"]["count"], &result["blank"], &result["failed"]),
            (&2.into(), &1.into(), &1.into())
        );
        assert_eq!(result["without_score"]["first"][0]["index"], 0);
    }

    #[test]
    fn the_list_is_empty_if_all_answers_failed() {
        let mut top = TopK::new(1, None);
        top.add_answer(&test_failure(0, "refused"));
        assert_eq!(top.to_json()["best"], json!([]));
    }

    #[test]
    fn any_scoring_function_can_be_used() {
        let mut top = TopK::new(1, None);
        for (index, text) in [(0, "long"), (1, "longest"), (2, "x")] {
            top.add_scored(&test_answer(index, text), |text| Ok(text.len() as f64));
        }
        assert_eq!(best_indices(&top), [1]);
        top.add_scored(&test_answer(3, "y"), |_| Ok(f64::NAN));
        assert_eq!(best_indices(&top), [1]);
    }
}
