//! What a job's answers come to together: votes, texts one after the other, numbers, the best, a list, failures.
//!
//! Each aggregate is a value that takes answers one by one ([`Aggregate::add`]) and merges with another of its kind
//! ([`Merge`]), so that every rank makes one of its own answers and a reduction along the tree of ranks makes one of all.
//! The laws, which the tests hold every aggregate to: any parts, merged in any order and grouping, come to the same as one
//! pass over everything; an empty part changes nothing. Where something depends on an order (a tie, which are the first)
//! it is the input's. So the result is the same, digit for digit, on any number of ranks.
//!
//! What an aggregate holds is bounded, and said in its file. Two are not, since they are as long as the answers: texts and
//! lists. They are written in the input's order as the answers are gathered, piece by piece ([`Aggregate::is_ordered`]).
//!
//! Every sequence of a prompt with n > 1 is an answer here. Failed prompts and blank answers are counted, and take no part.
//!
//! # Beside Aurora-Swarm's aggregators (Python)
//!
//! | there | here | what differs, and why | shown by |
//! |---|---|---|---|
//! | `majority_vote` | [`Majority`] | the same (white space around and case make no difference, ties to the first), but the winner is shown as it was written and not in small letters | `the_winner_is_shown_as_it_was_first_written_and_not_in_small_letters` |
//! | | | blank answers have no vote: they win nothing | `blank_and_failed_answers_have_no_vote` |
//! | | | nobody wins where all failed: null, and not an empty text | `where_all_answers_failed_nobody_wins` |
//! | `concat` | [`Joined::texts`] | the same separator; blank answers are left out; one file, and nothing held in memory | `texts_stand_in_the_inputs_order_without_blank_and_failed_ones` |
//! | `best_of`, `top_k` | [`TopK`] | ties by the input; an answer without a score is named and the others count | `answers_without_a_score_are_named_and_none_are_lost_for_them` |
//! | `structured_merge` | [`Joined::list`] | the same list (arrays taken apart once); JSON in code fences is read, numbers keep their digits | `arrays_are_taken_apart_once_and_code_fences_are_read_through` |
//! | `statistics` | [`Statistics`] | there, one answer that is no number is an error for all | `one_answer_that_is_no_number_does_not_cost_the_others` |
//! | | | there, no numbers have a mean of 0: null here | `where_all_answers_failed_there_are_no_zeros` |
//! | | | sums are exact, so that a small spread far from zero is not lost | `a_small_spread_far_from_zero_is_not_lost` |
//! | `failure_report` | [`Failures`] | by kind, with counts and the first of each instead of all: a million failures are no report | `failures_are_counted_by_kind_and_the_first_are_named` |
//! | choices taken by position | matched by `index` before they come here | reversed choices there went to the wrong prompts, a missing one lost all answers | `reversed_and_missing_choices_change_no_aggregate` (whole runs) |

mod concat;
mod exact_sum;
mod extract;
mod failures;
mod majority;
mod observed;
mod statistics;
mod summary_statistics;
mod top_k;

pub use concat::AnswerConcat;
pub use failures::FailureReport;
pub use majority::MajorityVote;
pub use observed::{Failed, Line, Place, Seen};
pub use statistics::NumericStatistics;
pub use top_k::TopK;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{domain::Merge, settings::AggregateSpec};

/// How many are named of those that could not be counted.
const FIRST: usize = 10;

/// Any of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Aggregate {
    /// Which answer was given most often.
    Majority(MajorityVote),
    /// All answers one after the other.
    Concat(AnswerConcat),
    /// Numbers and lengths.
    Statistics(NumericStatistics),
    /// The highest scores.
    TopK(TopK),
    /// What failed.
    Failures(FailureReport),
}

impl Aggregate {
    /// An empty one of what is wanted.
    #[must_use]
    pub fn of(wanted: &AggregateSpec) -> Self {
        match wanted {
            AggregateSpec::Majority { at } => Self::Majority(MajorityVote::new(at.clone())),
            AggregateSpec::Concat { separator } => Self::Concat(AnswerConcat::texts(separator)),
            AggregateSpec::Json => Self::Concat(AnswerConcat::list()),
            AggregateSpec::Stats { at } => Self::Statistics(NumericStatistics::new(at.clone())),
            AggregateSpec::TopK { k, at } => Self::TopK(TopK::new(*k, at.clone())),
            AggregateSpec::Failures { named } => Self::Failures(FailureReport::new(*named)),
        }
    }

    /// One more answer.
    pub fn add_answer(&mut self, seen: &Seen<'_>) {
        match self {
            Self::Majority(it) => it.add_answer(seen),
            Self::Concat(it) => it.add_answer(seen),
            Self::Statistics(it) => it.add_answer(seen),
            Self::TopK(it) => it.add_answer(seen),
            Self::Failures(it) => it.add_answer(seen),
        }
    }

    /// Is it as long as the answers, and better written in their order than held?
    #[must_use]
    pub fn is_ordered(&self) -> bool {
        matches!(self, Self::Concat(_))
    }

    /// What it comes to.
    #[must_use]
    pub fn finish(&self) -> Value {
        match self {
            Self::Majority(it) => it.finish(),
            Self::Concat(it) => it.finish(),
            Self::Statistics(it) => it.finish(),
            Self::TopK(it) => it.finish(),
            Self::Failures(it) => it.finish(),
        }
    }
}

impl Merge for Aggregate {
    /// Of one kind with another of it: ranks make theirs from the same settings.
    fn merge(&mut self, other: Self) {
        match (self, other) {
            (Self::Majority(mine), Self::Majority(other)) => mine.merge(other),
            (Self::Concat(mine), Self::Concat(other)) => mine.merge(other),
            (Self::Statistics(mine), Self::Statistics(other)) => mine.merge(other),
            (Self::TopK(mine), Self::TopK(other)) => mine.merge(other),
            (Self::Failures(mine), Self::Failures(other)) => mine.merge(other),
            (mine, other) => debug_assert!(false, "{mine:?} does not merge with {other:?}"),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn answer(index: u64, text: &str) -> Seen<'_> {
        Seen { place: Place { index, sequence: 0 }, id: id_of(index), said: Ok(text) }
    }

    pub(crate) fn failure(index: u64, kind: &str) -> Seen<'_> {
        let failed = Failed { kind, message: "no", status: Some(400) };
        Seen { said: Err(failed), ..answer(index, "") }
    }

    fn id_of(index: u64) -> &'static str {
        ["\"0\"", "\"1\"", "\"2\"", "\"3\"", "\"4\"", "\"5\"", "6"][index.min(6) as usize]
    }

    type Said = Result<&'static str, &'static str>;

    fn seen((index, said): (u64, Said)) -> Seen<'static> {
        match said {
            Ok(text) => answer(index, text),
            Err(kind) => failure(index, kind),
        }
    }

    fn wanted() -> Vec<AggregateSpec> {
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

    fn of(wanted: &AggregateSpec, part: &[(u64, Said)]) -> Aggregate {
        let mut all = Aggregate::of(wanted);
        part.iter().for_each(|it| all.add_answer(&seen(*it)));
        all
    }

    /// All there is to see of it.
    fn whole(it: &Aggregate) -> (Value, Option<String>) {
        let text = match it {
            Aggregate::Concat(joined) => Some(joined.text()),
            _ => None,
        };
        (it.finish(), text)
    }

    fn merge_pair(mut one: Aggregate, other: Aggregate) -> Aggregate {
        one.merge(other);
        one
    }

    fn said() -> impl Strategy<Value = Said> {
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
        fn any_parts_in_any_order_and_grouping_come_to_the_same_as_one_pass(
            said in prop::collection::vec(said(), 0..50), dealt in prop::collection::vec(0usize..5, 50), order in Just([0usize, 1, 2, 3, 4]).prop_shuffle(), left in any::<bool>(),
        ) {
            let all: Vec<(u64, Said)> = (0..).zip(said).collect();
            for wanted in wanted() {
                let part = |rank: usize| {
                    let its: Vec<_> = all.iter().zip(&dealt).filter(|(_, to)| **to == rank).map(|(it, _)| *it).collect();
                    of(&wanted, &its)
                };
                let parts: Vec<Aggregate> = order.iter().map(|rank| part(*rank)).collect();
                let together = if left {
                    parts.into_iter().reduce(merge_pair)
                } else {
                    parts.into_iter().rev().reduce(|after, before| merge_pair(before, after))
                };
                prop_assert_eq!(together.as_ref().map(whole), Some(whole(&of(&wanted, &all))), "{}", wanted);
            }
        }

        #[test]
        fn an_empty_part_changes_nothing(said in prop::collection::vec(said(), 0..20)) {
            let all: Vec<(u64, Said)> = (0..).zip(said).collect();
            for wanted in wanted() {
                let some = || of(&wanted, &all);
                prop_assert_eq!(whole(&merge_pair(some(), Aggregate::of(&wanted))), whole(&some()));
                prop_assert_eq!(whole(&merge_pair(Aggregate::of(&wanted), some())), whole(&some()));
            }
        }
    }
}
