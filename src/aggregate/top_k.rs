//! The answers with the highest scores; the best is the first of them.
//!
//! A score is the number that an answer is, or that stands at a JSON pointer in it; the library may give any other
//! ([`TopK::add_scored`]). Equal scores go by the place in the input. Memory: the texts of k answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    FIRST, exact_sum, extract,
    observed::{FirstExamples, ObservedCounts, Place, Seen, id},
};
use crate::domain::Merge;

/// The best so far.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TopK {
    k: usize,
    at: Option<String>,
    counted: ObservedCounts,
    without_score: FirstExamples,
    /// Highest score first, then by place.
    best: BTreeMap<(i64, Place), ScoredAnswer>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct ScoredAnswer {
    id: String,
    score: f64,
    text: String,
}

impl TopK {
    /// None yet, `k` at most.
    #[must_use]
    pub fn new(k: usize, at: Option<String>) -> Self {
        let (counted, best) = (ObservedCounts::default(), BTreeMap::new());
        Self { k, at, counted, without_score: FirstExamples::of(FIRST), best }
    }

    /// One answer, by the score that it names.
    pub fn add_answer(&mut self, seen: &Seen<'_>) {
        let at = self.at.take();
        self.add_scored(seen, |text| extract::number_at_pointer(text, at.as_deref()));
        self.at = at;
    }

    /// One answer, by this function's score of it. Failed and blank ones are not asked about.
    pub fn add_scored(&mut self, seen: &Seen<'_>, score: impl FnOnce(&str) -> Result<f64, String>) {
        let Some(text) = self.counted.text(seen) else { return };
        match score(text) {
            Ok(score) if !score.is_nan() => self.put(seen, score, text),
            Ok(_) => self.without_score.add(seen, || "its score is not a number".into()),
            Err(why) => self.without_score.add(seen, || why),
        }
    }

    fn put(&mut self, seen: &Seen<'_>, score: f64, text: &str) {
        let key = (!exact_sum::order(score), seen.place); // `!` turns the order round
        let full = self.best.len() >= self.k;
        if full && self.best.last_key_value().is_none_or(|(last, _)| key > *last) {
            return;
        }
        self.best.insert(key, ScoredAnswer { id: seen.id.into(), score, text: text.into() });
        self.cut();
    }

    fn cut(&mut self) {
        while self.best.len() > self.k {
            self.best.pop_last();
        }
    }

    /// The best with their scores, highest first.
    pub fn best(&self) -> impl Iterator<Item = (f64, &str)> {
        self.best.values().map(|it| (it.score, it.text.as_str()))
    }

    /// All of it, highest score first.
    #[must_use]
    pub fn finish(&self) -> Value {
        let shown = |(&(_, place), it): (&(i64, Place), &ScoredAnswer)| {
            json!({
                "score": it.score, "id": id(&it.id), "index": place.index, "sequence": place.sequence,
                "response": it.text
            })
        };
        let mut finished = self.counted.finish();
        finished["without_score"] = self.without_score.finish();
        finished["best"] = self.best.iter().map(shown).collect::<Vec<_>>().into();
        finished
    }
}

impl Merge for TopK {
    fn merge(&mut self, other: Self) {
        self.counted.merge(other.counted);
        self.without_score.merge(other.without_score);
        self.best.extend(other.best);
        self.cut();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::tests::{answer, failure};

    fn best(it: &TopK) -> Vec<u64> {
        let all = it.finish()["best"].as_array().cloned().unwrap_or_default();
        all.iter().filter_map(|it| it["index"].as_u64()).collect()
    }

    #[test]
    fn the_highest_come_first_and_ties_by_the_input() {
        let mut top = TopK::new(3, Some("/s".into()));
        for (index, score) in [(5, "1"), (4, "2.5"), (3, "2.5"), (2, "-7"), (1, "\"9\""), (0, "1")]
        {
            top.add_answer(&answer(index, &format!("{{\"s\": {score}}}")));
        }
        assert_eq!(best(&top), [1, 3, 4]);
    }

    #[test]
    fn answers_without_a_score_are_named_and_none_are_lost_for_them() {
        let mut top = TopK::new(2, None);
        for (index, text) in [(0, "good"), (1, "8"), (2, ""), (3, "nan"), (4, "9")] {
            top.add_answer(&answer(index, text));
        }
        top.add_answer(&failure(5, "refused"));
        let it = top.finish();
        assert_eq!(best(&top), [4, 1]);
        assert_eq!(
            (&it["without_score"]["count"], &it["blank"], &it["failed"]),
            (&2.into(), &1.into(), &1.into())
        );
        assert_eq!(it["without_score"]["first"][0]["index"], 0);
    }

    #[test]
    fn where_all_answers_failed_nothing_is_best() {
        let mut top = TopK::new(1, None);
        top.add_answer(&failure(0, "refused"));
        assert_eq!(top.finish()["best"], json!([]));
    }

    #[test]
    fn any_function_may_score() {
        let mut top = TopK::new(1, None);
        for (index, text) in [(0, "long"), (1, "longest"), (2, "x")] {
            top.add_scored(&answer(index, text), |text| Ok(text.len() as f64));
        }
        assert_eq!(best(&top), [1]);
        top.add_scored(&answer(3, "y"), |_| Ok(f64::NAN));
        assert_eq!(best(&top), [1]);
    }
}
