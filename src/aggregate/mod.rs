//! Aggregates: values computed from all answers of a job, such as a majority vote, statistics, the top k or a failure
//! report.
//!
//! An aggregate takes answers one by one ([`Aggregate::add_answer`]) and merges with another of its kind ([`Merge`]).
//! Each rank aggregates its own answers, and an MPI reduction merges the partial aggregates of all ranks. Two laws hold
//! for every aggregate, and the tests check them: parts that are merged in any order and grouping give the same result
//! as one pass over all answers, and an empty part changes nothing. Ties and lists of examples follow the input's
//! order, never the order of arrival. The result is therefore the same, digit for digit, on any number of ranks.
//!
//! Memory is bounded, and each file states its bound. The exceptions are concatenated texts and JSON lists, which are
//! as long as the answers: they are streamed to a file in the input's order while the answers are gathered.
//!
//! Each sequence of a prompt with n > 1 counts as an answer. Failed prompts and blank answers are counted but
//! contribute nothing else. The names on the command line (`top-k=10:/score`) are parsed in `settings`; the reduction
//! over MPI and the files are in `job/collect`.
//!
//! # Beside Aurora-Swarm's aggregators (Python)
//!
//! | there | here | what differs, and why | shown by |
//! |---|---|---|---|
//! | `majority_vote` | [`MajorityVote`] | the same (case and surrounding whitespace are ignored, ties go to the earlier row), but the winner keeps its original spelling | `the_winner_keeps_the_spelling_of_its_first_occurrence` |
//! | | | blank answers have no vote | `blank_and_failed_answers_have_no_vote` |
//! | | | no winner if all prompts failed: null instead of an empty text | `there_is_no_winner_if_all_answers_failed` |
//! | `concat` | [`AnswerConcat::new_text`] | the same separator; blank answers are skipped; streamed to one file | `texts_are_in_input_order_without_blank_and_failed_ones` |
//! | `best_of`, `top_k` | [`TopK`] | ties go to the earlier row; an answer without a score is listed and the others count | `answers_without_a_score_are_listed_and_the_others_count` |
//! | `structured_merge` | [`AnswerConcat::new_json_list`] | the same list (arrays are flattened once); JSON in code fences is parsed, numbers keep their digits | `arrays_are_flattened_once_and_code_fences_are_parsed` |
//! | `statistics` | [`NumericStatistics`] | non-numeric answers are listed; there, one of them fails the whole call | `a_non_numeric_answer_leaves_the_others_counted` |
//! | | | the mean of no numbers is null; there it is 0 | `statistics_without_numbers_are_null` |
//! | | | sums are exact, so a small spread far from zero is not lost | `a_small_spread_far_from_zero_is_not_lost` |
//! | `failure_report` | [`FailureReport`] | counts by kind with the first examples of each, since a list of a million failures cannot be read | `failures_are_counted_by_kind_and_the_first_are_listed` |
//! | choices by position | choices are matched by `index` in `endpoint` | there, reversed choices went to the wrong prompts and a missing choice lost all answers | `reversed_and_missing_choices_change_no_aggregate` (whole runs) |

mod concat;
mod exact_sum;
mod extract;
mod failures;
mod majority;
mod observed;
mod statistics;
mod summary_statistics;
mod top_k;

pub(crate) use concat::AnswerConcat;
pub use failures::FailureReport;
pub use majority::MajorityVote;
pub(crate) use observed::ObservedLine;
pub use observed::{AnswerPosition, ObservedAnswer, ObservedFailure};
pub use statistics::NumericStatistics;
pub use top_k::TopK;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{domain::Merge, settings::AggregateSpec};

/// Number of examples that are listed of answers that could not be evaluated.
const EXAMPLE_LIMIT: usize = 10;

/// An aggregate of any kind, as the setting `aggregate` selects it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Aggregate {
    /// Votes for each distinct answer.
    Majority(MajorityVote),
    /// Answers as one text or one JSON list.
    Concat(AnswerConcat),
    /// Statistics of numeric answers and of answer lengths.
    Statistics(NumericStatistics),
    /// Answers with the highest scores.
    TopK(TopK),
    /// Failures by kind.
    Failures(FailureReport),
}

impl Aggregate {
    /// Creates the empty aggregate that `spec` describes.
    #[must_use]
    pub(crate) fn from_spec(spec: &AggregateSpec) -> Self {
        match spec {
            AggregateSpec::Majority { pointer: at } => {
                Self::Majority(MajorityVote::new(at.clone()))
            }
            AggregateSpec::Concat { separator } => Self::Concat(AnswerConcat::new_text(separator)),
            AggregateSpec::Json => Self::Concat(AnswerConcat::new_json_list()),
            AggregateSpec::Stats { pointer: at } => {
                Self::Statistics(NumericStatistics::new(at.clone()))
            }
            AggregateSpec::TopK { k, pointer: at } => Self::TopK(TopK::new(*k, at.clone())),
            AggregateSpec::Failures { example_limit: named } => {
                Self::Failures(FailureReport::new(*named))
            }
        }
    }

    /// Adds an answer or a failure.
    pub(crate) fn add_answer(&mut self, answer: &ObservedAnswer<'_>) {
        match self {
            Self::Majority(it) => it.add_answer(answer),
            Self::Concat(it) => it.add_answer(answer),
            Self::Statistics(it) => it.add_answer(answer),
            Self::TopK(it) => it.add_answer(answer),
            Self::Failures(it) => it.add_answer(answer),
        }
    }

    /// Renders the aggregate for `FILE.aggregate.json`.
    #[must_use]
    pub(crate) fn to_json(&self) -> Value {
        match self {
            Self::Majority(it) => it.to_json(),
            Self::Concat(it) => it.to_json(),
            Self::Statistics(it) => it.to_json(),
            Self::TopK(it) => it.to_json(),
            Self::Failures(it) => it.to_json(),
        }
    }
}

impl Merge for Aggregate {
    /// Merges two aggregates of one kind; all ranks create theirs from the same settings, so the kinds agree.
    fn merge(&mut self, other: Self) {
        match (self, other) {
            (Self::Majority(own), Self::Majority(other)) => own.merge(other),
            (Self::Concat(own), Self::Concat(other)) => own.merge(other),
            (Self::Statistics(own), Self::Statistics(other)) => own.merge(other),
            (Self::TopK(own), Self::TopK(other)) => own.merge(other),
            (Self::Failures(own), Self::Failures(other)) => own.merge(other),
            (own, other) => debug_assert!(false, "{own:?} does not merge with {other:?}"),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn test_answer(index: u64, text: &str) -> ObservedAnswer<'_> {
        ObservedAnswer {
            position: AnswerPosition { index, sequence: 0 },
            id: id_of(index),
            outcome: Ok(text),
        }
    }

    pub(crate) fn test_failure(index: u64, kind: &str) -> ObservedAnswer<'_> {
        let failed = ObservedFailure { kind, message: "no", status: Some(400) };
        ObservedAnswer { outcome: Err(failed), ..test_answer(index, "") }
    }

    fn id_of(index: u64) -> &'static str {
        ["\"0\"", "\"1\"", "\"2\"", "\"3\"", "\"4\"", "\"5\"", "6"][index.min(6) as usize]
    }

    type TestOutcome = Result<&'static str, &'static str>;

    fn observe_outcome((index, outcome): (u64, TestOutcome)) -> ObservedAnswer<'static> {
        match outcome {
            Ok(text) => test_answer(index, text),
            Err(kind) => test_failure(index, kind),
        }
    }

    fn all_specs() -> Vec<AggregateSpec> {
        [
            "majority",
            "majority:/s",
            "concat",
            "json",
            "stats",
            "stats:/s",
            "top-k=3",
            "best:/s",
            "failures=2",
        ]
        .map(|text| text.parse().expect(text))
        .to_vec()
    }

    fn aggregate_part(spec: &AggregateSpec, part: &[(u64, TestOutcome)]) -> Aggregate {
        let mut all = Aggregate::from_spec(spec);
        part.iter().for_each(|it| all.add_answer(&observe_outcome(*it)));
        all
    }

    /// The JSON result and, for a concatenation, the text.
    fn full_result(it: &Aggregate) -> (Value, Option<String>) {
        let text = match it {
            Aggregate::Concat(joined) => Some(joined.render_text()),
            _ => None,
        };
        (it.to_json(), text)
    }

    fn merge_pair(mut one: Aggregate, other: Aggregate) -> Aggregate {
        one.merge(other);
        one
    }

    fn any_outcome() -> impl Strategy<Value = TestOutcome> {
        let texts = [
            "",
            " ",
            "yes",
            "Yes ",
            "NO",
            "1",
            "2.5",
            "-3e5",
            "1e9",
            "nan",
            "{\"s\": 4}",
            "```\n{\"s\": \"4\"}\n```",
            "[1,2]",
            "[]",
            "{\"s\":\"x\"}",
        ];
        prop_oneof![
            9 => prop::sample::select(texts.to_vec()).prop_map(Ok),
            2 => prop::sample::select(vec!["refused", "too_long"]).prop_map(Err),
        ]
    }

    proptest! {
        #[test]
        fn parts_merged_in_any_order_and_grouping_equal_one_pass(
            outcome in prop::collection::vec(any_outcome(), 0..50), assignment in prop::collection::vec(0usize..5, 50), order in Just([0usize, 1, 2, 3, 4]).prop_shuffle(), from_left in any::<bool>(),
        ) {
            let all: Vec<(u64, TestOutcome)> = (0..).zip(outcome).collect();
            for spec in all_specs() {
                let part = |rank: usize| {
                    let part_of_rank: Vec<_> = all.iter().zip(&assignment).filter(|(_, to)| **to == rank).map(|(it, _)| *it).collect();
                    aggregate_part(&spec, &part_of_rank)
                };
                let parts: Vec<Aggregate> = order.iter().map(|rank| part(*rank)).collect();
                let merged = if from_left {
                    parts.into_iter().reduce(merge_pair)
                } else {
                    parts.into_iter().rev().reduce(|after, before| merge_pair(before, after))
                };
                prop_assert_eq!(merged.as_ref().map(full_result), Some(full_result(&aggregate_part(&spec, &all))), "{}", spec);
            }
        }

        #[test]
        fn an_empty_part_changes_nothing(outcome in prop::collection::vec(any_outcome(), 0..20)) {
            let all: Vec<(u64, TestOutcome)> = (0..).zip(outcome).collect();
            for spec in all_specs() {
                let some = || aggregate_part(&spec, &all);
                prop_assert_eq!(full_result(&merge_pair(some(), Aggregate::from_spec(&spec))), full_result(&some()));
                prop_assert_eq!(full_result(&merge_pair(Aggregate::from_spec(&spec), some())), full_result(&some()));
            }
        }
    }
}
