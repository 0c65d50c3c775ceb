//! Outcomes: the final state of a prompt, answered or failed by its own fault. A prompt without an outcome is open.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{AnswerFlaws, Prompt, ReplyFields};

/// Final state of a prompt. There is exactly one per prompt.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// A server answered the prompt.
    Answered(PromptAnswer),
    /// The prompt cannot be answered, by its own fault or after all attempts.
    Failed(PromptFailure),
}

impl Outcome {
    /// Returns the number of tokens in the answer; 0 if they are not counted.
    #[must_use]
    pub(crate) fn completion_tokens(&self) -> u64 {
        match self {
            Self::Answered(answer) => answer.usage.map_or(0, |usage| usage.completion_tokens),
            Self::Failed(_) => 0,
        }
    }
}

/// A server's answer to one prompt.
#[derive(Clone, Debug, Default)]
pub(crate) struct PromptAnswer {
    /// One choice per requested sequence, at least one.
    pub choices: Vec<AnswerChoice>,
    /// Token counts, if the server reports them.
    pub usage: Option<TokenUsage>,
    /// Counts and other facts that the server reports beside the token counts.
    pub usage_fields: ReplyFields,
    /// Model that the reply names, if it is not the one that was asked for.
    pub model: Option<Box<str>>,
    /// Other fields of the reply as a whole, such as a conversation's `prompt_logprobs`.
    pub fields: ReplyFields,
    /// The whole reply as the server sent it, if the job keeps it for its output.
    pub body: Option<Box<RawValue>>,
}

impl PartialEq for PromptAnswer {
    fn eq(&self, other: &Self) -> bool {
        let body = |answer: &Self| answer.body.as_ref().map(|body| body.get().to_owned());
        self.choices == other.choices
            && self.usage == other.usage
            && self.usage_fields == other.usage_fields
            && self.model == other.model
            && self.fields == other.fields
            && body(self) == body(other)
    }
}

impl PromptAnswer {
    /// Returns the flaws of all sequences.
    #[must_use]
    pub(crate) fn flaws(&self) -> AnswerFlaws {
        self.choices.iter().fold(AnswerFlaws::NONE, |flaws, choice| flaws.union(choice.flaws()))
    }
}

impl AnswerChoice {
    fn flaws(&self) -> AnswerFlaws {
        let has = |names: &[&str]| {
            let mut named = self.fields.iter().filter(|(name, _)| names.contains(name));
            named.any(|(_, json)| AnswerFlaws::is_json_content(json.get()))
        };
        let is_empty = self.text.trim().is_empty() && !has(&["tool_calls", "function_call"]);
        AnswerFlaws::of_sequence(self.finish_reason.as_deref(), is_empty, has(&["refusal"]))
    }
}

/// One generated sequence of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AnswerChoice {
    /// Text of the answer, without reasoning.
    pub text: String,
    /// A reasoning model's thoughts, which are never part of `text`.
    pub reasoning: Option<String>,
    /// Reason why generation ended: `stop`, `length`, …
    pub finish_reason: Option<String>,
    /// Other fields of the choice and its message, such as `tool_calls` and `logprobs`.
    pub fields: ReplyFields,
}

/// Token counts of one prompt and its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TokenUsage {
    /// Number of tokens in the prompt.
    pub prompt_tokens: u64,
    /// Number of tokens in the answer, over all sequences.
    pub completion_tokens: u64,
    /// Whether the counts are a share of a batch's sum rather than exact.
    pub estimated: bool,
    /// Number of prompt tokens that came from the server's prefix cache, if it reports that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_tokens: Option<u64>,
    /// Number of tokens in the answer that are reasoning, if the server reports that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_tokens: Option<u64>,
}

/// Reason why a prompt failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PromptFailure {
    /// Kind of the failure, by which it is counted.
    pub kind: FailureKind,
    /// Message of the server, or of this program.
    pub message: String,
    /// HTTP status of the response, if there was one.
    pub status: Option<u16>,
}

/// Kinds of failure, as they are written into answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailureKind {
    /// The prompt has no text.
    EmptyPrompt,
    /// Prompt and answer exceed the model's context.
    TooLong,
    /// The row cannot be parsed as a prompt.
    BadRow,
    /// The server rejects this prompt.
    Refused,
    /// The server rejects the request whatever the prompt: a parameter is wrong.
    BadRequest,
    /// Healthy servers gave no complete answer in any of the allowed attempts.
    Exhausted,
    /// None of the allowed answers was valid (`--schema`, `--check`).
    Invalid,
}

impl FailureKind {
    /// Whether another attempt may end differently. A resumed run sends such prompts again.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Exhausted)
    }
}

/// A prompt with its outcome and the server that answered: the content of a shard file's line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PromptResult {
    /// The prompt that was sent.
    pub prompt: Prompt,
    /// Final state of the prompt.
    pub outcome: Outcome,
    /// URL of the server; `None` if the prompt was not sent.
    pub endpoint: Option<Arc<str>>,
    /// Seconds from sending the last request to its answer.
    pub latency: f64,
    /// Number of requests that contained this prompt.
    pub attempts: u32,
    /// The answers that were not valid, if there were any.
    pub invalid: Option<Box<InvalidAnswers>>,
}

/// Answers to a prompt that were not valid (`--schema`, `--check`).
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct InvalidAnswers {
    /// Number of answers that were not valid.
    pub count: u32,
    /// Number of tokens that were generated for them.
    pub completion_tokens: u64,
    /// Reason for which the first was not valid.
    pub first_reason: String,
    /// The last one, if no valid one followed: the raw text of a failed prompt.
    pub last: Option<PromptAnswer>,
}
