//! An answer as aggregates see it, and what is common to all of them: how many there were, and the first of a kind.
//!
//! Knows how an answer's line is read. Whatever depends on an order depends on [`Place`], an answer's place in the input:
//! never on which rank has it or when it came.

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use crate::domain::Merge;

/// Where an answer stands: its prompt's index in the input, and its number among the prompt's sequences, from 0.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Place {
    /// The prompt's index.
    pub index: u64,
    /// Which of its sequences.
    pub sequence: u32,
}

/// One answer, or one prompt that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen<'a> {
    /// Where it stands.
    pub place: Place,
    /// The prompt's id, as JSON.
    pub id: &'a str,
    /// What was answered, or why nothing was.
    pub said: Result<&'a str, Failed<'a>>,
}

/// Why a prompt has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed<'a> {
    /// Which kind, as it stands in answers.
    pub kind: &'a str,
    /// The reason in words.
    pub message: &'a str,
    /// The HTTP status, where there was one.
    pub status: Option<u16>,
}

/// An answer's line, read.
#[derive(Debug, Deserialize)]
pub struct Line<'a> {
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

impl<'a> Line<'a> {
    /// Reads a line as it stands in a shard file.
    ///
    /// # Errors
    /// Where it is no answer.
    pub fn read(line: &'a [u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(line)
    }

    /// Its answers, one a sequence, or its failure.
    pub fn seen(&self) -> impl Iterator<Item = Seen<'_>> {
        let failed = |error: &'_ ObservedLineError<'a>| error.status;
        let said: Vec<Result<&str, Failed<'_>>> = match (self.success, &self.responses) {
            (true, Some(all)) => all.iter().map(|text| Ok(&**text)).collect(),
            (true, None) => vec![Ok(self.response.as_deref().unwrap_or_default())],
            (false, _) => vec![Err(Failed {
                kind: self.error.as_ref().map_or("unknown", |it| &*it.kind),
                message: self.error.as_ref().map_or("", |it| &*it.message),
                status: self.error.as_ref().and_then(failed),
            })],
        };
        (0..).zip(said).map(|(sequence, said)| {
            let place = Place { index: self.index, sequence };
            Seen { place, id: self.id.get(), said }
        })
    }
}

/// How many answers there were, and prompts without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ObservedCounts {
    /// Answers, blank ones too.
    pub(super) answered: u64,
    /// Those that are empty, or white space.
    pub(super) blank: u64,
    /// Prompts that failed.
    pub(super) failed: u64,
}

impl ObservedCounts {
    /// Counts it; its text if there is any, without white space around.
    pub(super) fn text<'a>(&mut self, seen: &Seen<'a>) -> Option<&'a str> {
        let Ok(text) = seen.said else {
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

    pub(super) fn finish(self) -> Value {
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

/// How many there are of something, and which are the first of them in the input's order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FirstExamples {
    count: u64,
    /// How many are named.
    room: usize,
    first: BTreeMap<Place, NamedExample>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct NamedExample {
    id: String,
    reason: String,
    status: Option<u16>,
}

/// A reason's length, in characters; servers send whole pages.
const MAX_REASON_CHARS: usize = 300;

impl FirstExamples {
    /// None yet; so many will be named.
    pub(super) fn of(room: usize) -> Self {
        Self { count: 0, room, first: BTreeMap::new() }
    }

    /// One more, and why.
    pub(super) fn add(&mut self, seen: &Seen<'_>, why: impl FnOnce() -> String) {
        self.count += 1;
        let beyond = self.first.len() >= self.room
            && self.first.last_key_value().is_none_or(|(last, _)| seen.place > *last);
        if beyond {
            return;
        }
        let why = why().chars().take(MAX_REASON_CHARS).collect();
        let status = seen.said.err().and_then(|it| it.status);
        self.first.insert(seen.place, NamedExample { id: seen.id.into(), reason: why, status });
        self.cut();
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    fn cut(&mut self) {
        while self.first.len() > self.room {
            self.first.pop_last();
        }
    }

    pub(super) fn finish(&self) -> Value {
        let named = |(place, first): (&Place, &NamedExample)| {
            let mut it = json!({"id": id(&first.id), "index": place.index});
            if !first.reason.is_empty() {
                it["why"] = first.reason.clone().into();
            }
            if let Some(status) = first.status {
                it["status"] = status.into();
            }
            it
        };
        json!({"count": self.count, "first": self.first.iter().map(named).collect::<Vec<_>>()})
    }
}

impl Merge for FirstExamples {
    fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.first.extend(other.first);
        self.cut();
    }
}

/// An id as the value it is.
pub(super) fn id(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_else(|_| json.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_an_answer_a_sequence_or_a_failure() {
        let line =
            br#"{"id":"a","index":3,"response":"x\ny","success":true,"error":null,"served":{}}"#;
        let line = Line::read(line).expect("a line");
        let place = Place { index: 3, sequence: 0 };
        assert_eq!(
            line.seen().collect::<Vec<_>>(),
            [Seen { place, id: "\"a\"", said: Ok("x\ny") }]
        );
        let two = br#"{"id":7,"index":0,"response":"a","responses":["a","b"],"success":true,"error":null}"#;
        let two = Line::read(two).expect("a line");
        assert_eq!(two.seen().map(|it| it.said).collect::<Vec<_>>(), [Ok("a"), Ok("b")]);
        assert_eq!(two.seen().last().map(|it| it.place.sequence), Some(1));
        let bad = br#"{"id":"7","index":1,"response":null,"success":false,"error":{"kind":"too_long","message":"no","status":400}}"#;
        let bad = Line::read(bad).expect("a line");
        let failed = Failed { kind: "too_long", message: "no", status: Some(400) };
        assert_eq!(bad.seen().map(|it| it.said).collect::<Vec<_>>(), [Err(failed)]);
        assert!(Line::read(b"{}").is_err());
    }
}
