//! The fields of an answer line that are measured; all others are skipped while parsing.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Length of a kept error message in characters: some servers send whole pages.
const MAX_MESSAGE_CHARS: usize = 300;

/// A failed prompt, as an example of its kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FailureExample {
    /// Id of the prompt as JSON text.
    pub id: String,
    /// Error message, cut to 300 characters.
    pub message: String,
    /// HTTP status, if the server answered.
    pub status: Option<u16>,
}

#[derive(Deserialize)]
pub(super) struct MeasuredLine<'a> {
    #[serde(borrow)]
    pub(super) id: &'a RawValue,
    pub(super) index: u64,
    pub(super) success: bool,
    #[serde(default, borrow)]
    error: Option<MeasuredError<'a>>,
    #[serde(default, borrow)]
    pub(super) finish_reason: Option<Cow<'a, str>>,
    #[serde(default)]
    pub(super) usage: Option<MeasuredUsage>,
    #[serde(default, borrow)]
    pub(super) served: MeasuredServed<'a>,
}

#[derive(Deserialize)]
struct MeasuredError<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(default, borrow)]
    message: Cow<'a, str>,
    #[serde(default)]
    status: Option<u16>,
}

#[derive(Deserialize)]
pub(super) struct MeasuredUsage {
    pub(super) prompt_tokens: u64,
    pub(super) completion_tokens: u64,
    #[serde(default)]
    pub(super) estimated: bool,
}

#[derive(Default, Deserialize)]
pub(super) struct MeasuredServed<'a> {
    #[serde(default, borrow)]
    pub(super) endpoint: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    pub(super) host: Cow<'a, str>,
    #[serde(default)]
    latency_s: f64,
    #[serde(default)]
    pub(super) attempts: u32,
    #[serde(default, borrow)]
    pub(super) invalid: Option<MeasuredInvalid<'a>>,
}

#[derive(Deserialize)]
pub(super) struct MeasuredInvalid<'a> {
    pub(super) answers: u64,
    pub(super) completion_tokens: u64,
    #[serde(borrow)]
    reason: Cow<'a, str>,
}

/// Milliseconds of a year: no request takes longer, and sums of such values fit into 64 bits.
const MAX_LATENCY_MS: f64 = 31_536_000_000.0;

impl MeasuredServed<'_> {
    /// Returns the latency in milliseconds, at most [`MAX_LATENCY_MS`].
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to what fits"
    )]
    pub(super) fn latency_millis(&self) -> u64 {
        (self.latency_s * 1000.0).round().clamp(0.0, MAX_LATENCY_MS) as u64
    }
}

impl MeasuredLine<'_> {
    /// Returns the kind of the failure and its example.
    pub(super) fn failure_example(&self) -> (&str, FailureExample) {
        let error = self.error.as_ref();
        let status = error.and_then(|it| it.status);
        let first = self.example(error.map_or("", |it| &*it.message), status);
        (error.map_or("unknown", |it| &*it.kind), first)
    }

    /// Returns the prompt as an example of those with invalid answers.
    pub(super) fn invalid_example(&self, invalid: &MeasuredInvalid<'_>) -> FailureExample {
        self.example(&invalid.reason, None)
    }

    fn example(&self, message: &str, status: Option<u16>) -> FailureExample {
        let message = message.chars().take(MAX_MESSAGE_CHARS).collect();
        FailureExample { id: self.id.get().to_owned(), message, status }
    }
}
