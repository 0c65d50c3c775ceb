//! What became of a prompt: answered, or failed by its own fault. A prompt without an outcome is open.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Prompt;

/// Exactly one a prompt.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// A server answered.
    Answered(PromptAnswer),
    /// It cannot be answered, by its own fault or after every try.
    Failed(Failure),
}

impl Outcome {
    /// Tokens of the answer, as far as they are counted.
    #[must_use]
    pub fn completion_tokens(&self) -> u64 {
        match self {
            Self::Answered(answer) => answer.usage.map_or(0, |usage| usage.completion_tokens),
            Self::Failed(_) => 0,
        }
    }
}

/// A server's answer to one prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PromptAnswer {
    /// One a sequence asked for, at least one.
    pub choices: Vec<AnswerChoice>,
    /// Tokens, where they are counted.
    pub usage: Option<TokenUsage>,
}

/// One sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswerChoice {
    /// The answer.
    pub text: String,
    /// A reasoning model's thinking; never part of `text`.
    pub reasoning: Option<String>,
    /// Why it ended: `stop`, `length`, …
    pub finish_reason: Option<String>,
}

/// Tokens of one prompt and its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUsage {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens of the answer, all sequences together.
    pub completion_tokens: u64,
    /// A share of a list's sum rather than a count.
    pub estimated: bool,
}

/// Why a prompt cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which kind.
    pub kind: FailureKind,
    /// The server's words, or ours.
    pub message: String,
    /// The HTTP status, where there was one.
    pub status: Option<u16>,
}

/// The kinds of failure, as they stand in answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Nothing to ask.
    EmptyPrompt,
    /// Prompt and answer do not fit the model's context.
    TooLong,
    /// The row cannot be read as a prompt.
    BadRow,
    /// The server refuses this prompt.
    Refused,
    /// The server refuses the request whatever the prompt: a parameter is wrong.
    BadRequest,
    /// Servers that are well gave no whole answer, in every try there is.
    Exhausted,
}

impl FailureKind {
    /// May another try, another day, end otherwise? Then a resumed run asks again.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Exhausted)
    }
}

/// A prompt with its outcome, and who served it: what goes into a shard file.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptResult {
    /// What was asked.
    pub prompt: Prompt,
    /// What became of it.
    pub outcome: Outcome,
    /// The server's URL; none where no server was asked.
    pub endpoint: Option<Arc<str>>,
    /// From sending the last request to its answer, in seconds.
    pub latency: f64,
    /// Requests that held this prompt.
    pub attempts: u32,
}
