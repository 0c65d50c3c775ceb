//! The view of an answer that aggregates take, and their shared parts: counts and the first examples of a kind.
//!
//! Owns the parsing of answer lines for aggregation; `shards` owns the files that hold them. Every order is that of
//! [`AnswerPosition`], the position in the input, never the rank or the time of arrival.

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use crate::domain::Merge;

/// Position of an answer in the input: the prompt's index and the sequence's number, both from 0.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct AnswerPosition {
    /// Index of the prompt.
    pub index: u64,
    /// Number of the sequence among those of the prompt.
    pub sequence: u32,
}

/// An answer, or a prompt that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObservedAnswer<'a> {
    /// Position in the input.
    pub position: AnswerPosition,
    /// The prompt's id as JSON text.
    pub id: &'a str,
    /// The answer's text, or the reason for the failure.
    pub outcome: Result<&'a str, ObservedFailure<'a>>,
}

/// The reason why a prompt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObservedFailure<'a> {
    /// Failure kind, as in `error.kind` of an answer.
    pub kind: &'a str,
    /// Message for people.
    pub message: &'a str,
    /// HTTP status of the reply, if there was one.
    pub status: Option<u16>,
}

/// A parsed answer line of a shard file.
#[derive(Debug, Deserialize)]
pub(crate) struct ObservedLine<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    index: u64,
    success: bool,
    #[serde(default)]
    response: Option<Cow<'a, str>>,
    #[serde(default)]
    responses: Option<Vec<Cow<'a, str>>>,
    #[serde(default)]
    error: Option<ObservedLineError<'a>>,
}

#[derive(Debug, Deserialize)]
struct ObservedLineError<'a> {
    kind: Cow<'a, str>,
    #[serde(default)]
    message: Cow<'a, str>,
    #[serde(default)]
    status: Option<u16>,
}

impl<'a> ObservedLine<'a> {
    /// Parses a line of a shard file.
    ///
    /// # Errors
    /// If the line is not an answer.
    pub(crate) fn parse_line(line: &'a [u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(line)
    }

    /// Returns the line's answers, one per sequence, or its failure.
    pub(crate) fn observed_answers(&self) -> impl Iterator<Item = ObservedAnswer<'_>> {
        let outcomes: Vec<Result<&str, ObservedFailure<'_>>> = match (self.success, &self.responses)
        {
            (true, Some(all)) => all.iter().map(|text| Ok(&**text)).collect(),
            (true, None) => vec![Ok(self.response.as_deref().unwrap_or_default())],
            (false, _) => vec![Err(ObservedFailure {
                kind: self.error.as_ref().map_or("unknown", |error| &*error.kind),
                message: self.error.as_ref().map_or("", |error| &*error.message),
                status: self.error.as_ref().and_then(|error| error.status),
            })],
        };
        (0..).zip(outcomes).map(|(sequence, outcome)| {
            let position = AnswerPosition { index: self.index, sequence };
            ObservedAnswer { position, id: self.id.get(), outcome }
        })
    }
}

/// Counts of answers and failed prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ObservedCounts {
    /// Answers, including blank ones.
    pub(super) answered: u64,
    /// Answers that are empty or whitespace.
    pub(super) blank: u64,
    pub(super) failed: u64,
}

impl ObservedCounts {
    /// Counts an answer and returns its trimmed text; `None` if it failed or is blank.
    pub(super) fn count_and_trim<'a>(&mut self, answer: &ObservedAnswer<'a>) -> Option<&'a str> {
        let Ok(text) = answer.outcome else {
            self.failed += 1;
            return None;
        };
        self.answered += 1;
        let text = text.trim();
        if text.is_empty() {
            self.blank += 1;
            return None;
        }
        Some(text)
    }

    pub(super) fn to_json(self) -> Value {
        json!({"answered": self.answered, "blank": self.blank, "failed": self.failed})
    }
}

impl Merge for ObservedCounts {
    fn merge(&mut self, other: Self) {
        self.answered += other.answered;
        self.blank += other.blank;
        self.failed += other.failed;
    }
}

/// Count of answers with some property, and the first of them in the input's order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FirstExamples {
    count: u64,
    /// Maximum number of examples.
    limit: usize,
    examples: BTreeMap<AnswerPosition, NamedExample>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct NamedExample {
    id: String,
    reason: String,
    status: Option<u16>,
}

/// Maximum length of a reason in characters; servers may send whole pages.
const MAX_REASON_CHARS: usize = 300;

impl FirstExamples {
    pub(super) fn with_limit(limit: usize) -> Self {
        Self { count: 0, limit, examples: BTreeMap::new() }
    }

    /// Counts an answer; `reason` is called only if it becomes an example.
    pub(super) fn add_example(
        &mut self,
        answer: &ObservedAnswer<'_>,
        reason: impl FnOnce() -> String,
    ) {
        self.count += 1;
        let is_later = self.examples.len() >= self.limit
            && self.examples.last_key_value().is_none_or(|(last, _)| answer.position > *last);
        if is_later {
            return;
        }
        let reason = reason().chars().take(MAX_REASON_CHARS).collect();
        let status = answer.outcome.err().and_then(|it| it.status);
        self.examples
            .insert(answer.position, NamedExample { id: answer.id.into(), reason, status });
        self.drop_excess();
    }

    pub(super) fn total_count(&self) -> u64 {
        self.count
    }

    fn drop_excess(&mut self) {
        while self.examples.len() > self.limit {
            self.examples.pop_last();
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let to_entry = |(position, example): (&AnswerPosition, &NamedExample)| {
            let mut entry = json!({"id": id_to_json(&example.id), "index": position.index});
            if !example.reason.is_empty() {
                entry["why"] = example.reason.clone().into();
            }
            if let Some(status) = example.status {
                entry["status"] = status.into();
            }
            entry
        };
        json!({"count": self.count, "first": self.examples.iter().map(to_entry).collect::<Vec<_>>()})
    }
}

impl Merge for FirstExamples {
    fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.examples.extend(other.examples);
        self.drop_excess();
    }
}

/// Parses an id's JSON text; invalid JSON becomes a string.
pub(super) fn id_to_json(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_else(|_| json.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_one_answer_per_sequence_or_a_failure() {
        let line =
            br#"{"id":"a","index":3,"response":"x\ny","success":true,"error":null,"served":{}}"#;
        let line = ObservedLine::parse_line(line).expect("a line");
        let place = AnswerPosition { index: 3, sequence: 0 };
        assert_eq!(
            line.observed_answers().collect::<Vec<_>>(),
            [ObservedAnswer { position: place, id: "\"a\"", outcome: Ok("x\ny") }]
        );
        let two = br#"{"id":7,"index":0,"response":"a","responses":["a","b"],"success":true,"error":null}"#;
        let two = ObservedLine::parse_line(two).expect("a line");
        assert_eq!(
            two.observed_answers().map(|it| it.outcome).collect::<Vec<_>>(),
            [Ok("a"), Ok("b")]
        );
        assert_eq!(two.observed_answers().last().map(|it| it.position.sequence), Some(1));
        let bad = br#"{"id":"7","index":1,"response":null,"success":false,"error":{"kind":"too_long","message":"no","status":400}}"#;
        let bad = ObservedLine::parse_line(bad).expect("a line");
        let failed = ObservedFailure { kind: "too_long", message: "no", status: Some(400) };
        assert_eq!(bad.observed_answers().map(|it| it.outcome).collect::<Vec<_>>(), [Err(failed)]);
        assert!(ObservedLine::parse_line(b"{}").is_err());
    }
}
