//! Measurements of a run: latency and length histograms, failures, load per endpoint, and the timeline. Pure.
//!
//! Owns the statistics that are kept of each answer line while answers are gathered. They merge like a tally: every rank
//! measures its own lines and an MPI reduction adds them up. All are whole numbers, so the result is the same on any number
//! of ranks. Knows the lines of shard files, but no files, ranks or charts; the summary is computed in
//! [`report`](crate::report).
//!
//! Memory, on each rank: three histograms of at most some 1,200 numbers, the first ten failures of each kind, the ten
//! slowest prompts, some thirty finish reasons, and about 120 bytes per endpoint, 1.5 MB for 12,000.

mod finish_reasons;
mod histogram;
mod measured_line;
pub(crate) mod timeline;

pub(crate) use histogram::{HistogramBin, LogHistogram};
pub(crate) use measured_line::FailureExample;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use serde::{Deserialize, Serialize};

use crate::domain::Merge;
use finish_reasons::FinishReasons;
use measured_line::MeasuredLine;

/// Statistics of answer lines: of one rank, and after the reduction of the whole run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AnswerStats {
    pub answered: u64,
    pub failed: u64,
    /// Number of lines that could not be parsed.
    pub damaged: u64,
    /// Number of prompts that took more than one request.
    pub retried: u64,
    /// Milliseconds from sending the successful request to its answer, of answered prompts.
    pub latency: LogHistogram,
    /// Prompt tokens of answered prompts, if the server reported them.
    pub prompt_tokens: LogHistogram,
    /// Completion tokens of answers, if the server reported them.
    pub completion_tokens: LogHistogram,
    /// Number of answers whose tokens are estimated from the total of their batch.
    pub estimated: u64,
    /// Number of answers by finish reason.
    pub finish_reasons: FinishReasons,
    pub failures: BTreeMap<String, FailureStats>,
    /// Answers that were not valid.
    pub invalid: InvalidStats,
    /// Load of each endpoint, by host and URL.
    pub endpoints: BTreeMap<String, EndpointStats>,
    /// Answered prompts with the longest latency.
    pub slowest: SlowestAnswers,
}

/// Number and examples of failures of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FailureStats {
    pub count: u64,
    /// First failed prompts in input order, by index.
    pub examples: BTreeMap<u64, FailureExample>,
}

/// Answers that were not valid (`--schema`, `--check`), of answered and failed prompts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InvalidStats {
    pub answers: u64,
    /// Tokens that were generated for them.
    pub completion_tokens: u64,
    /// The prompts, with the reasons of the first.
    pub prompts: FailureStats,
}

/// Load of one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EndpointStats {
    /// Number of prompts that it answered.
    pub answered: u64,
    /// Number of prompts that failed there.
    pub failed: u64,
    /// Sum of its answers' latencies in milliseconds.
    pub latency_sum_ms: u64,
    pub max_latency_ms: u64,
    /// Completion tokens of its answers.
    pub tokens: u64,
}

/// Answers with the longest latency, at most ten, the longest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SlowestAnswers(BTreeSet<(Reverse<u64>, u64, String, String)>);

/// Number of examples kept per failure kind, and of slowest answers.
const MAX_EXAMPLES: usize = 10;

impl AnswerStats {
    /// Adds a line of a shard file.
    pub(crate) fn add_line(&mut self, line: &[u8]) {
        let Ok(line) = serde_json::from_slice::<MeasuredLine<'_>>(line) else {
            self.damaged += 1;
            return;
        };
        let served = &line.served;
        let latency = served.latency_millis();
        self.retried += u64::from(served.attempts > 1);
        if let Some(invalid) = &served.invalid {
            self.invalid.answers += invalid.answers;
            self.invalid.completion_tokens += invalid.completion_tokens;
            self.invalid.prompts.count += 1;
            self.invalid.prompts.add_example(line.index, || line.invalid_example(invalid));
        }
        let name = served.endpoint.as_ref().map(|url| format!("{} {url}", served.host));
        if line.success {
            self.answered += 1;
            self.latency.record(latency);
            if let Some(usage) = &line.usage {
                self.prompt_tokens.record(usage.prompt_tokens);
                self.completion_tokens.record(usage.completion_tokens);
                self.estimated += u64::from(usage.estimated);
            }
            let finish = line.finish_reason.as_deref().unwrap_or("not reported");
            self.finish_reasons.add_reason(finish);
            let name = name.as_deref().unwrap_or_default();
            self.slowest.add_answer(latency, line.index, line.id.get(), name);
        } else {
            self.failed += 1;
            let (kind, first) = line.failure_example();
            let kind = self.failures.entry(kind.to_owned()).or_default();
            kind.count += 1;
            kind.add_example(line.index, || first);
        }
        if let Some(name) = name {
            let endpoint = self.endpoints.entry(name).or_default();
            if line.success {
                endpoint.answered += 1;
                endpoint.latency_sum_ms += latency;
                endpoint.max_latency_ms = endpoint.max_latency_ms.max(latency);
                endpoint.tokens += line.usage.as_ref().map_or(0, |it| it.completion_tokens);
            } else {
                endpoint.failed += 1;
            }
        }
    }
}

impl FailureStats {
    fn add_example(&mut self, index: u64, first: impl FnOnce() -> FailureExample) {
        let beyond = self.examples.last_key_value().is_some_and(|(last, _)| index > *last);
        if self.examples.len() < MAX_EXAMPLES || !beyond {
            self.examples.insert(index, first());
            self.drop_excess();
        }
    }

    fn drop_excess(&mut self) {
        while self.examples.len() > MAX_EXAMPLES {
            self.examples.pop_last();
        }
    }
}

impl SlowestAnswers {
    fn add_answer(&mut self, millis: u64, index: u64, id: &str, endpoint: &str) {
        let fast = self.0.last().is_some_and(|last| (Reverse(millis), index) > (last.0, last.1));
        if self.0.len() < MAX_EXAMPLES || !fast {
            self.0.insert((Reverse(millis), index, id.into(), endpoint.into()));
            self.drop_excess();
        }
    }

    fn drop_excess(&mut self) {
        while self.0.len() > MAX_EXAMPLES {
            self.0.pop_last();
        }
    }

    /// Iterates over latency in milliseconds, index, id as JSON, and endpoint.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64, &str, &str)> {
        self.0.iter().map(|(Reverse(millis), index, id, at)| (*millis, *index, &**id, &**at))
    }
}

impl EndpointStats {
    /// Returns the mean latency in milliseconds, `None` without answers.
    #[must_use]
    pub(crate) fn mean_latency_ms(&self) -> Option<f64> {
        (self.answered > 0).then(|| self.latency_sum_ms as f64 / self.answered as f64)
    }
}

impl Merge for AnswerStats {
    fn merge(&mut self, other: Self) {
        self.answered += other.answered;
        self.failed += other.failed;
        self.damaged += other.damaged;
        self.retried += other.retried;
        self.latency.merge(other.latency);
        self.prompt_tokens.merge(other.prompt_tokens);
        self.completion_tokens.merge(other.completion_tokens);
        self.estimated += other.estimated;
        Merge::merge(&mut self.finish_reasons, other.finish_reasons);
        Merge::merge(&mut self.failures, other.failures);
        self.invalid.merge(other.invalid);
        Merge::merge(&mut self.endpoints, other.endpoints);
        // The slowest of a union are among the slowest of its parts, so dropping the excess on each rank loses nothing.
        self.slowest.0.extend(other.slowest.0);
        self.slowest.drop_excess();
    }
}

impl Merge for FailureStats {
    fn merge(&mut self, other: Self) {
        self.count += other.count;
        // Ordered by index, so the examples are the first of the whole input on any number of ranks.
        self.examples.extend(other.examples);
        self.drop_excess();
    }
}

impl Merge for InvalidStats {
    fn merge(&mut self, other: Self) {
        self.answers += other.answers;
        self.completion_tokens += other.completion_tokens;
        self.prompts.merge(other.prompts);
    }
}

impl Merge for EndpointStats {
    fn merge(&mut self, other: Self) {
        self.answered += other.answered;
        self.failed += other.failed;
        self.latency_sum_ms += other.latency_sum_ms;
        self.max_latency_ms = self.max_latency_ms.max(other.max_latency_ms);
        self.tokens += other.tokens;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer_line(index: u64, millis: u64, server: u64) -> String {
        let invalid = match index % 3 {
            0 => r#","invalid":{"answers":2,"completion_tokens":9,"reason":"it is \"empty\""}"#,
            _ => "",
        };
        let served = format!(
            r#""served":{{"endpoint":"http://h:{server}","host":"n{}","rank":0,"latency_s":{},"attempts":{}{invalid}}}"#,
            server % 2,
            millis as f64 / 1000.0,
            1 + index % 2
        );
        match index % 5 {
            0 => format!(
                r#"{{"id":"a\"{index}","index":{index},"success":false,"error":{{"kind":"too_long","message":"<b>long</b>","status":400}},{served}}}"#
            ),
            1 => format!(
                r#"{{"id":{index},"index":{index},"success":true,"finish_reason":null,{served}}}"#
            ),
            2 => "{\"index\":7".to_owned(),
            _ => format!(
                r#"{{"id":{index},"index":{index},"prompt":"x","response":"y\n","success":true,"finish_reason":"stop",
                "usage":{{"prompt_tokens":3,"completion_tokens":{index},"estimated":true}},{served}}}"#
            ),
        }
    }

    fn stats_of<'a>(lines: impl IntoIterator<Item = &'a String>) -> AnswerStats {
        let mut measured = AnswerStats::default();
        lines.into_iter().for_each(|line| measured.add_line(line.as_bytes()));
        measured
    }

    proptest! {
        #[test]
        fn merged_statistics_equal_those_of_a_single_rank(
            all in prop::collection::vec((0..500_000u64, 0..4u64), 0..120), first in 0..60usize, second in 60..120usize,
        ) {
            let lines: Vec<String> = (0..).zip(&all).map(|(index, (millis, server))| answer_line(index, *millis, *server)).collect();
            let cut = |at: usize| at.min(lines.len());
            let [a, b, c] = [&lines[..cut(first)], &lines[cut(first)..cut(second)], &lines[cut(second)..]].map(stats_of);
            let sum = |mut one: AnswerStats, other: AnswerStats| { one.merge(other); one };
            let whole = stats_of(&lines);
            prop_assert_eq!(&sum(sum(a.clone(), b.clone()), c.clone()), &whole);
            prop_assert_eq!(&sum(a.clone(), sum(b.clone(), c.clone())), &whole);
            prop_assert_eq!(&sum(c, sum(b, a)), &whole, "in any order");
            prop_assert_eq!(&sum(AnswerStats::default(), whole.clone()), &whole);
            prop_assert_eq!(whole.answered + whole.failed + whole.damaged, lines.len() as u64);
            prop_assert_eq!(whole.latency.count(), whole.answered);
            prop_assert_eq!(whole.endpoints.values().map(|it| it.answered).sum::<u64>(), whole.answered);
            let invalid = (0..lines.len()).filter(|index| index % 3 == 0 && index % 5 != 2).count() as u64;
            prop_assert_eq!((whole.invalid.prompts.count, whole.invalid.answers), (invalid, 2 * invalid));
            prop_assert_eq!(whole.invalid.completion_tokens, 9 * invalid);
            prop_assert_eq!(whole.failures.values().map(|it| it.count).sum::<u64>(), whole.failed);
            let mut longest: Vec<u64> = (0..).zip(&all).filter(|(index, _)| !matches!(index % 5, 0 | 2)).map(|(_, it)| it.0).collect();
            longest.sort_unstable_by_key(|&it| Reverse(it));
            longest.truncate(MAX_EXAMPLES);
            prop_assert_eq!(whole.slowest.iter().map(|it| it.0).collect::<Vec<_>>(), longest);
        }
    }

    #[test]
    fn the_first_failures_of_a_kind_are_kept_as_examples() {
        let lines: Vec<String> = (0..100).rev().map(|it| answer_line(it, 5, 1)).collect();
        let failed = &stats_of(&lines).failures["too_long"];
        assert_eq!((failed.count, failed.examples.len()), (20, MAX_EXAMPLES));
        assert_eq!(failed.examples.keys().copied().collect::<Vec<_>>()[..3], [0, 5, 10]);
        assert_eq!(
            (&*failed.examples[&5].id, failed.examples[&5].status),
            (r#""a\"5""#, Some(400))
        );
    }
}
