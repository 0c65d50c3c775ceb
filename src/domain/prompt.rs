//! A prompt: one row of the input, as the rest of the program knows it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::RowHash;

/// One row: what to ask, with what parameters, and what to call the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Its place in the whole input, from 0; counted over all files.
    pub index: u64,
    /// What the user calls it.
    pub id: PromptId,
    /// What is asked.
    pub input: PromptInput,
    /// Its own request parameters, which win over the job's.
    pub params: RequestParams,
    /// The route its row names (OpenAI batch rows do).
    pub route: Option<Route>,
    /// What goes first in the order of work: higher is sooner.
    pub priority: i64,
    /// The whole row as a JSON object, where the answer is to carry it.
    pub row: Option<String>,
    /// What its row says, as a number.
    pub row_hash: RowHash,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PromptInput {
    /// A text.
    Text(String),
    /// A conversation: a JSON array of messages, as the row has it.
    Messages(String),
}

impl PromptInput {
    /// The text, or the conversation's JSON.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Text(text) | Self::Messages(text) => text,
        }
    }

    /// Is nothing asked?
    #[must_use]
    pub fn is_blank(&self) -> bool {
        matches!(self, Self::Text(text) if text.trim().is_empty())
    }
}

/// Which of a server's routes answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Route {
    /// `/v1/completions`: raw text, many prompts a request.
    Completions,
    /// `/v1/chat/completions`: one conversation a request.
    Chat,
}

/// What the user calls a prompt: JSON, a string or a number. Where the row has none, its index as a string.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PromptId(String);

impl PromptId {
    /// From JSON: a string or a number, as it stands in the row.
    #[must_use]
    pub fn from_json(json: String) -> Self {
        Self(json)
    }

    /// The id of a row that has none.
    #[must_use]
    pub fn from_index(index: u64) -> Self {
        Self(format!("\"{index}\""))
    }

    /// As JSON.
    #[must_use]
    pub fn json(&self) -> &str {
        &self.0
    }
}

/// Request parameters by name, each as JSON; sorted, so that equal parameters are equal texts.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestParams(BTreeMap<String, String>);

impl RequestParams {
    /// Sets a parameter to a JSON value.
    pub fn set(&mut self, name: &str, json: impl Into<String>) {
        self.0.insert(name.to_owned(), json.into());
    }

    /// A parameter's JSON.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A parameter as a whole number, where it is one.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    /// Takes a parameter out.
    pub fn remove(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// These over `defaults`.
    #[must_use]
    pub fn over(&self, defaults: &Self) -> Self {
        let mut both = defaults.0.clone();
        both.extend(self.0.iter().map(|(name, json)| (name.clone(), json.clone())));
        Self(both)
    }

    /// Name and JSON of each, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, json)| (name.as_str(), json.as_str()))
    }

    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As a JSON object. Names are identifiers by construction of the request, so only quotes need care.
    #[must_use]
    pub fn json(&self) -> String {
        let field = |(name, json): (&str, &str)| {
            let name = name.replace('\\', "\\\\").replace('"', "\\\"");
            format!("\"{name}\":{json}")
        };
        format!("{{{}}}", self.iter().map(field).collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rows_parameters_win_and_equal_ones_are_equal_texts() {
        let mut job = RequestParams::default();
        job.set("temperature", "0");
        job.set("max_tokens", "512");
        let mut row = RequestParams::default();
        row.set("max_tokens", "7");
        assert_eq!(row.over(&job).json(), r#"{"max_tokens":7,"temperature":0}"#);
        assert_eq!(row.over(&job).number("max_tokens"), Some(7));
        assert_eq!(RequestParams::default().json(), "{}");
    }
}
