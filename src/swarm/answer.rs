//! An answer as a program has it: the line of a run's output, read.

use std::sync::mpsc;

use serde::Deserialize;
use serde_json::Value;

use crate::domain::{Failure, TokenUsage};

/// What became of a prompt.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Answer {
    /// What its row calls it; its place as a text where the row does not.
    pub id: Value,
    /// Its place among the rows, from 0.
    pub index: u64,
    /// What was asked, where that was a text.
    #[serde(default)]
    pub prompt: Option<String>,
    /// What was answered: the first sequence.
    pub response: Option<String>,
    /// All of them, where several were asked for.
    #[serde(default)]
    pub responses: Vec<String>,
    /// A reasoning model's thinking.
    #[serde(default)]
    pub reasoning: Option<String>,
    /// The model that was asked.
    pub model: String,
    /// Why there is no answer.
    pub error: Option<Failure>,
    /// Why it ended: `stop`, `length`, …
    pub finish_reason: Option<String>,
    /// Tokens, where they are counted.
    pub usage: Option<TokenUsage>,
    /// By whom.
    pub served: Served,
    /// The row's other fields, with the setting `keep-row`.
    #[serde(default)]
    pub row: Option<Value>,
}

/// Who answered.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Served {
    /// The server's URL; none where no server was asked.
    pub endpoint: Option<String>,
    /// The rank that asked.
    pub rank: usize,
    /// Its host.
    pub host: String,
    /// From sending the last request to its answer, in seconds.
    pub latency_s: f64,
    /// Requests that held the prompt.
    pub attempts: u32,
}

impl Answer {
    /// What was answered.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn text(&self) -> Result<&str, &Failure> {
        match &self.error {
            Some(failure) => Err(failure),
            None => Ok(self.response.as_deref().unwrap_or_default()),
        }
    }
}

/// A rank's answers in the order in which they come; see [`Swarm::answers`](super::Swarm::answers).
#[derive(Debug)]
pub struct Answers(mpsc::Receiver<Option<Vec<u8>>>);

impl Answers {
    pub(super) fn of(lines: mpsc::Receiver<Option<Vec<u8>>>) -> Self {
        Self(lines)
    }
}

impl Iterator for Answers {
    type Item = Answer;

    /// Waits for the next one; none where the work is over.
    fn next(&mut self) -> Option<Answer> {
        loop {
            let line = self.0.recv().ok()??;
            // (what was written can be read, so nothing is passed over)
            if let Ok(answer) = serde_json::from_slice(&line) {
                return Some(answer);
            }
        }
    }
}
