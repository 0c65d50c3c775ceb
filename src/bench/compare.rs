//! The report of a comparison: the same prompts batched and single, their speed-up, and whether the answers agree.

use serde::{Deserialize, Serialize};

use super::{BenchCell, BenchConditions, BenchRun, RepeatSpread, RunFigures};
use crate::domain::Merge;

/// Agreement between the batched and the single answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AnswerAgreement {
    /// Prompts whose two answers are equal.
    pub equal: u64,
    /// Prompts whose two answers differ.
    pub different: u64,
    /// Prompts that lack one or both answers.
    pub unknown: u64,
    /// First difference: the prompt, its batched answer and its single answer.
    pub example: Option<[String; 3]>,
}

impl AnswerAgreement {
    /// Counts a prompt with its batched and its single answer.
    pub(crate) fn count_pair(&mut self, prompt: &str, batched: Option<&str>, single: Option<&str>) {
        match (batched, single) {
            (Some(batched), Some(single)) if batched == single => self.equal += 1,
            (Some(batched), Some(single)) => {
                self.different += 1;
                let example = || [prompt, batched, single].map(str::to_owned);
                self.example.get_or_insert_with(example);
            }
            _ => self.unknown += 1,
        }
    }
}

impl Merge for AnswerAgreement {
    fn merge(&mut self, other: Self) {
        self.equal += other.equal;
        self.different += other.different;
        self.unknown += other.unknown;
        self.example = self.example.take().or(other.example);
    }
}

/// Result of one side of the comparison, batched or single.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct CompareSide {
    /// Batch size and concurrency limit of this side.
    #[serde(flatten)]
    pub cell: BenchCell,
    /// Prompts sent in all runs.
    pub asked: u64,
    /// Prompts answered in all runs.
    pub answered: u64,
    /// Fraction of the prompts that were answered, from 0 to 1.
    pub completion: f64,
    /// Duration of all runs together, in seconds.
    pub seconds: f64,
    /// HTTP requests in all runs.
    pub requests: u64,
    /// Figures over all runs; `None` if nothing was answered.
    pub figures: Option<RunFigures>,
    /// Measured runs in the order of repeats.
    pub runs: Vec<BenchRun>,
    /// Reason why prompts are unanswered, if any are.
    pub failed: Option<String>,
}

impl CompareSide {
    /// Sums up the runs of one side.
    #[must_use]
    pub(crate) fn new(cell: BenchCell, runs: Vec<BenchRun>) -> Self {
        let sum = |count: fn(&BenchRun) -> u64| runs.iter().map(count).sum::<u64>();
        let (asked, answered) = (sum(|run| run.asked), sum(|run| run.answered));
        Self {
            cell,
            asked,
            answered,
            completion: if asked > 0 { answered as f64 / asked as f64 } else { 0.0 },
            seconds: runs.iter().map(|run| run.seconds).sum(),
            requests: sum(|run| run.requests),
            figures: RunFigures::from_runs(&runs),
            failed: runs.iter().find_map(|run| run.failed.clone()),
            runs,
        }
    }
}

/// Report of `bench compare`, serialized as its JSON output.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct CompareReport {
    /// Conditions that hold for both sides.
    pub conditions: BenchConditions,
    /// Result with several prompts per request.
    pub batched: CompareSide,
    /// Result with one prompt per request.
    pub single: CompareSide,
    /// Ratio of batched to single prompts per second, over the repeats.
    pub speed_up: Option<RepeatSpread>,
    /// Agreement between the answers of both sides.
    pub answers: AnswerAgreement,
    /// Remarks for the reader of the report.
    pub notes: Vec<String>,
}

impl CompareReport {
    /// Compares both sides. Runs at the same position belong to the same repeat; `greedy` tells whether the temperature
    /// was 0.
    #[must_use]
    pub(crate) fn new(
        conditions: BenchConditions,
        batched: CompareSide,
        single: CompareSide,
        answers: AnswerAgreement,
        greedy: bool,
    ) -> Self {
        // Runs are paired by repeat, since servers and machines vary over time.
        let pairs = batched.runs.iter().zip(&single.runs);
        let ratios = pairs
            .filter(|(_, single)| single.prompts_per_s > 0.0)
            .map(|(batched, single)| batched.prompts_per_s / single.prompts_per_s);
        let speed_up = RepeatSpread::from_values(ratios);
        let mut notes = Vec::new();
        if answers.different > 0 {
            notes.push(if greedy {
                "at temperature 0, different answers come from numerics: batches sum in a different order".into()
            } else {
                "answers were sampled randomly: pass --temperature 0 to compare them".into()
            });
        }
        notes.extend(conditions.report_notes());
        if !conditions.caches_apart {
            let even = conditions.repeats.is_multiple_of(2);
            let advice =
                if even { "" } else { " (an even number of --repeats gives both equal weight)" };
            notes.push(format!(
                "the side measured second in a repeat may hit prefix caches, which only vLLM 0.11 or later isolates, \
                and only without a cache_salt of your own: both sides go first in turn{advice}"
            ));
        }
        if batched.figures.is_some_and(|figures| figures.prompts_per_request < 1.05) {
            notes.push(
                "no batches were formed: prompts are conversations that the server renders (--api completions sends \
                raw texts; --chat-template renders here)"
                    .into(),
            );
        }
        Self { conditions, batched, single, speed_up, answers, notes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bench::BenchMeasurement, settings::AutoOrCount};

    fn measured_run(answered: u64, seconds: f64) -> BenchRun {
        let asked = answered.max(10);
        let requests = answered / 5;
        BenchRun::from_measurement(&BenchMeasurement {
            asked,
            answered,
            seconds,
            requests,
            ..BenchMeasurement::default()
        })
    }

    fn compare_side(runs: Vec<BenchRun>) -> CompareSide {
        CompareSide::new(
            BenchCell { batch: AutoOrCount::Count(5), window: AutoOrCount::Auto },
            runs,
        )
    }

    #[test]
    fn the_speed_up_is_taken_per_repeat_and_completion_over_all_prompts() {
        let batched = compare_side(vec![measured_run(10, 1.0), measured_run(10, 2.0)]);
        let single = compare_side(vec![measured_run(10, 4.0), measured_run(8, 4.0)]);
        assert_eq!((batched.completion, single.completion), (1.0, 0.9));
        let report = CompareReport::new(
            isolated_conditions(),
            batched,
            single,
            AnswerAgreement::default(),
            true,
        );
        assert_eq!(report.speed_up, Some(RepeatSpread { median: 3.25, least: 2.5, most: 4.0 }));
        assert!(report.single.failed.is_some() && report.batched.failed.is_none());
        assert!(report.notes.is_empty(), "{:?}", report.notes);
    }

    #[test]
    fn every_prompt_counts_as_equal_different_or_unknown_and_the_first_difference_is_kept() {
        let mut first = AnswerAgreement::default();
        first.count_pair("p", Some("x"), Some("x"));
        first.count_pair("q", Some("x"), None);
        let mut second = AnswerAgreement::default();
        second.count_pair("r", Some("x"), Some("y"));
        second.count_pair("s", Some("x"), Some("z"));
        first.merge(second);
        assert_eq!((first.equal, first.different, first.unknown), (1, 2, 1));
        assert_eq!(first.example, Some(["r", "x", "y"].map(str::to_owned)));
        let none = || compare_side(Vec::new());
        let notes = |greedy| {
            CompareReport::new(isolated_conditions(), none(), none(), first.clone(), greedy).notes
        };
        assert!(notes(true)[0].contains("numerics") && notes(false)[0].contains("--temperature 0"));
    }

    #[test]
    fn possible_prefix_cache_hits_are_noted() {
        let notes = |repeats, caches_apart, rows_came_again| {
            let conditions =
                BenchConditions { repeats, caches_apart, rows_came_again, ..isolated_conditions() };
            let none = || compare_side(Vec::new());
            let report =
                CompareReport::new(conditions, none(), none(), AnswerAgreement::default(), true);
            report.notes.join(" ")
        };
        assert!(notes(2, true, false).is_empty() && notes(2, true, true).contains("were repeated"));
        assert!(
            notes(3, false, false).contains("even number")
                && notes(2, false, false).contains("in turn")
        );
        assert!(!notes(2, false, false).contains("even number"));
    }

    fn isolated_conditions() -> BenchConditions {
        BenchConditions { caches_apart: true, ..BenchConditions::default() }
    }
}
