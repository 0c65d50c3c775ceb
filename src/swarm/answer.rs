//! Answers as library callers see them: parsed lines of a run's output, and the iterator over a rank's answers.
//!
//! The format of these lines is written in `output` and `shards`.

use std::sync::mpsc;

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value};

use crate::domain::{PromptFailure, TokenUsage};

/// The outcome of a prompt: its answer, or the reason why it failed.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct SwarmAnswer {
    /// The row's id; its index as a string if the row has none.
    pub id: Value,
    /// Position of the row in the input, from 0.
    pub index: u64,
    /// The prompt, if it was a plain text.
    #[serde(default)]
    pub prompt: Option<String>,
    /// The prompt, if it was a conversation.
    #[serde(default)]
    pub messages: Option<Value>,
    /// Text of the first sequence; `None` if the prompt failed.
    pub response: Option<String>,
    /// Text of the last answer, if the prompt failed because none was valid (`schema`, `check`).
    #[serde(default)]
    pub raw_response: Option<String>,
    /// Texts of all sequences, for `n` above 1.
    #[serde(default)]
    pub responses: Vec<String>,
    /// Thinking of a reasoning model, for the first sequence.
    #[serde(default)]
    pub reasoning: Option<String>,
    /// All sequences with their own ends and thinking, for `n` above 1.
    #[serde(default)]
    pub choices: Vec<SwarmChoice>,
    /// Model that answered, as the server names it.
    pub model: String,
    #[serde(default, rename = "success")]
    _success: IgnoredAny,
    /// Reason of the failure; `None` if the prompt was answered.
    pub error: Option<PromptFailure>,
    /// Reason for the end of the text: `stop`, `length`, …
    pub finish_reason: Option<String>,
    /// Token counts, unless they are switched off.
    pub usage: Option<TokenUsage>,
    /// The row's own request parameters.
    #[serde(default)]
    pub params: Map<String, Value>,
    /// Server, rank and latency.
    pub served: AnswerOrigin,
    /// Other fields of the row, with the setting `keep-row`.
    #[serde(default)]
    pub row: Option<Value>,
    /// Other fields of the server's reply, such as `tool_calls`, `refusal`, `logprobs` and `stop_reason`. For `n` above 1
    /// those of a sequence are in [`choices`](Self::choices).
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

/// One of several sequences of an answer.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct SwarmChoice {
    /// Text of the sequence.
    pub response: String,
    /// Thinking of a reasoning model.
    #[serde(default)]
    pub reasoning: Option<String>,
    /// Reason for the end of the text: `stop`, `length`, …
    pub finish_reason: Option<String>,
    /// Other fields of the sequence in the server's reply, such as `tool_calls` and `logprobs`.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

/// Server and rank that an answer came from.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct AnswerOrigin {
    /// URL of the server; `None` if the prompt was never sent.
    pub endpoint: Option<String>,
    /// Rank that sent the prompt.
    pub rank: usize,
    /// Host of that rank.
    pub host: String,
    /// Duration of the last request, in seconds.
    pub latency_s: f64,
    /// Number of requests that contained the prompt.
    pub attempts: u32,
}

impl SwarmAnswer {
    /// Returns the text of the first sequence.
    ///
    /// # Errors
    /// The failure, if the prompt failed.
    pub fn text(&self) -> Result<&str, &PromptFailure> {
        match &self.error {
            Some(failure) => Err(failure),
            None => Ok(self.response.as_deref().unwrap_or_default()),
        }
    }
}

/// Iterator over a rank's answers in order of arrival; see [`Swarm::answers`](super::Swarm::answers).
#[derive(Debug)]
pub struct AnswerIter(mpsc::Receiver<Option<Vec<u8>>>);

impl AnswerIter {
    pub(super) fn from_receiver(lines: mpsc::Receiver<Option<Vec<u8>>>) -> Self {
        Self(lines)
    }
}

impl Iterator for AnswerIter {
    type Item = SwarmAnswer;

    /// Waits for the next answer; `None` at the end of the call.
    fn next(&mut self) -> Option<SwarmAnswer> {
        loop {
            let line = self.0.recv().ok()??;
            // Lines come from this process's own writer, so they parse; a damaged one would only be skipped.
            if let Ok(answer) = serde_json::from_slice(&line) {
                return Some(answer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_of_the_server_are_apart_from_those_of_the_line() {
        let line = json!({"id": "a", "index": 0, "messages": [], "response": "x", "responses": ["x", "y"],
            "choices": [{"response": "x", "finish_reason": "stop"},
                {"response": "y", "finish_reason": "length", "reasoning": "r", "logprobs": {}}],
            "model": "m", "success": true, "error": null, "finish_reason": "stop", "prompt_logprobs": [null],
            "usage": {"prompt_tokens": 1, "completion_tokens": 2, "estimated": false, "cached_tokens": 1, "cost": 1},
            "params": {"n": 2}, "served": {"endpoint": null, "rank": 0, "host": "h", "latency_s": 0.5, "attempts": 1}});
        let answer: SwarmAnswer = serde_json::from_value(line).expect("an answer");
        assert_eq!(Value::Object(answer.fields), json!({"prompt_logprobs": [null]}));
        let second = &answer.choices[1];
        assert_eq!((second.response.as_str(), second.reasoning.as_deref()), ("y", Some("r")));
        assert_eq!(second.finish_reason.as_deref(), Some("length"));
        assert_eq!(Value::Object(second.fields.clone()), json!({"logprobs": {}}));
        assert_eq!(answer.usage.and_then(|usage| usage.cached_tokens), Some(1));
    }
}
