//! Prompts: a row of the input as the rest of the program uses it.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{PromptFailure, PromptImage, RowHash};

/// A row of the input: the text to send, its parameters and the id of its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prompt {
    /// Position in the whole input, from 0, counted over all files.
    pub index: u64,
    /// Id that the user gave, or the index.
    pub id: PromptId,
    /// Text, conversation or token ids to send.
    pub input: PromptInput,
    /// Images that are sent with it, in the order of their places.
    pub images: Vec<PromptImage>,
    /// The row's own request parameters, which take precedence over the run's.
    pub params: RequestParams,
    /// Model that the row names; the job's if none.
    pub model: Option<Arc<str>>,
    /// Route that the row names, as OpenAI batch rows do.
    pub route: Option<Route>,
    /// Priority in the order of work: higher goes first.
    pub priority: i64,
    /// The whole row as a JSON object, if the answer is to include it.
    pub row: Option<String>,
    /// Hash of the row's bytes.
    pub row_hash: RowHash,
}

impl Prompt {
    /// Returns the memory that the prompt's content takes, in bytes.
    #[must_use]
    pub(crate) fn content_bytes(&self) -> usize {
        self.input.as_str().len() + self.images.iter().map(|image| image.url().len()).sum::<usize>()
    }

    /// Whether there is nothing to send: no image, and a text without any visible character.
    #[must_use]
    pub(crate) fn is_blank(&self) -> bool {
        self.images.is_empty()
            && matches!(&self.input, PromptInput::Text(text) if text.trim().is_empty())
    }

    /// Returns the reason why an image of the prompt cannot be sent.
    #[must_use]
    pub(crate) fn image_failure(&self) -> Option<&PromptFailure> {
        self.images.iter().find_map(|image| image.url.as_ref().err())
    }

    /// Drops what only a request needs of the images. Their short texts remain.
    pub(crate) fn drop_image_data(&mut self) {
        self.images.iter_mut().for_each(|image| image.url = Ok(String::new()));
    }
}

/// Content of a prompt: a text, a conversation or token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PromptInput {
    /// A text, sent as it is.
    Text(String),
    /// A conversation: a JSON array of messages, as in the row.
    Messages(String),
    /// Token ids: a JSON array of whole numbers without white space. The completions route takes them as they are.
    TokenIds(String),
}

impl PromptInput {
    /// Returns the text, or the JSON of the conversation or of the token ids.
    #[must_use]
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Text(text) | Self::Messages(text) | Self::TokenIds(text) => text,
        }
    }
}

/// Route of a server that answers prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Route {
    /// `/v1/completions`: raw text, many prompts per request.
    Completions,
    /// `/v1/chat/completions`: one conversation per request.
    Chat,
}

/// Id of a prompt as JSON, a string or a number. A row without an id has its index, as a string.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct PromptId(String);

impl PromptId {
    /// Returns the id with this JSON, which must be a string or a number.
    #[must_use]
    pub(crate) fn from_json(json: String) -> Self {
        Self(json)
    }

    /// Returns the default id of the row with this index.
    #[must_use]
    pub(crate) fn from_index(index: u64) -> Self {
        Self(format!("\"{index}\""))
    }

    /// Returns the id as JSON.
    #[must_use]
    pub(crate) fn as_json(&self) -> &str {
        &self.0
    }
}

/// Names of the limit of the answer in tokens. Chat routes take both and prefer the first.
const LIMIT_NAMES: [&str; 2] = ["max_completion_tokens", "max_tokens"];

/// Largest number of sequences of a prompt (`n`): each takes memory here while the prompt is in flight.
pub(crate) const MAX_SEQUENCES: i64 = 65_536;

/// Request parameters by name, each as JSON. They are sorted, so that equal parameters have equal text.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct RequestParams(BTreeMap<String, String>);

impl RequestParams {
    /// Sets a parameter to a JSON value.
    pub(crate) fn set(&mut self, name: &str, json: impl Into<String>) {
        self.0.insert(name.to_owned(), json.into());
    }

    /// Returns the JSON value of a parameter.
    #[must_use]
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Returns a parameter that is a non-negative whole number.
    #[must_use]
    pub(crate) fn get_u64(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    /// Removes a parameter and returns its JSON.
    pub(crate) fn remove(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// Returns the limit of the answer in tokens, under either of its names.
    #[must_use]
    pub(crate) fn answer_limit(&self) -> Option<u64> {
        LIMIT_NAMES.iter().find_map(|name| self.get_u64(name))
    }

    /// Sets the limit of the answer, under the name that it has here.
    pub(crate) fn set_answer_limit(&mut self, tokens: u64) {
        let known = LIMIT_NAMES.iter().find(|name| self.get(name).is_some());
        self.set(known.unwrap_or(&"max_tokens"), tokens.to_string());
    }

    /// Returns `defaults` overridden by these parameters. A limit of the answer overrides one of the other name.
    #[must_use]
    pub(crate) fn merged_over(&self, defaults: &Self) -> Self {
        let mut both = defaults.0.clone();
        if LIMIT_NAMES.iter().any(|name| self.0.contains_key(*name)) {
            LIMIT_NAMES.iter().for_each(|name| drop(both.remove(*name)));
        }
        both.extend(self.0.iter().map(|(name, json)| (name.clone(), json.clone())));
        Self(both)
    }

    /// Returns the parameters whose value is not null.
    #[must_use]
    pub(crate) fn without_nulls(mut self) -> Self {
        self.0.retain(|_, json| json.trim() != "null");
        self
    }

    /// Iterates over name and JSON of each, sorted by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, json)| (name.as_str(), json.as_str()))
    }

    /// Whether there are no parameters.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the parameters as a JSON object. Names are free of control characters, so only backslashes and quotes
    /// need escapes.
    #[must_use]
    pub(crate) fn to_json(&self) -> String {
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
    fn row_parameters_take_precedence_and_equal_parameters_have_equal_text() {
        let mut job = RequestParams::default();
        job.set("temperature", "0");
        job.set("max_tokens", "512");
        let mut row = RequestParams::default();
        row.set("max_tokens", "7");
        assert_eq!(row.merged_over(&job).to_json(), r#"{"max_tokens":7,"temperature":0}"#);
        assert_eq!(row.merged_over(&job).get_u64("max_tokens"), Some(7));
        assert_eq!(RequestParams::default().to_json(), "{}");
        row.remove("max_tokens");
        row.set("max_completion_tokens", "9");
        let mut both = row.merged_over(&job);
        assert_eq!(both.to_json(), r#"{"max_completion_tokens":9,"temperature":0}"#);
        both.set_answer_limit(5);
        assert_eq!((both.answer_limit(), both.get("max_tokens")), (Some(5), None));
        let mut own = RequestParams::default();
        own.set("max_tokens", "3");
        assert_eq!(own.merged_over(&row).to_json(), r#"{"max_tokens":3}"#);
    }
}
