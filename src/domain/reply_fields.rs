//! Fields of a server's reply that pass through to the answer: names and raw JSON in the server's order.
//!
//! Owns the form in which they are stored. Which fields pass through is decided in `endpoint/reply_shape.rs`, and their
//! place in an answer line in `shards/answer_line.rs`.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::raw_json::{replace_lone_surrogates, to_one_line};

/// Names that need no allocation: the fields that vLLM adds to an answer on request.
const COMMON_NAMES: [&str; 10] = [
    "annotations",
    "audio",
    "content",
    "function_call",
    "logprobs",
    "prompt_logprobs",
    "prompt_token_ids",
    "stop_reason",
    "token_ids",
    "tool_calls",
];

/// Names of an answer line's own fields. A server's field of such a name gets a prefix there.
pub(crate) const LINE_NAMES: [&str; 18] = [
    "body",
    "choices",
    "error",
    "finish_reason",
    "id",
    "index",
    "messages",
    "model",
    "params",
    "prompt",
    "raw_response",
    "reasoning",
    "response",
    "responses",
    "row",
    "served",
    "success",
    "usage",
];

/// Name of the field with the three strings that stood around thinking which was moved out of a text: before it, between
/// it and the answer, and after the answer.
pub(crate) const THINKING_MARKS: &str = "thinking_marks";

/// Prefix of a server's field whose name an answer line uses itself.
pub(crate) const RENAMED_PREFIX: &str = "reply_";

/// Fields of a reply with a value other than null. Empty, and then without an allocation, for an ordinary answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReplyFields(Vec<(Cow<'static, str>, Box<RawValue>)>);

impl ReplyFields {
    /// Appends a field. Its JSON is put on one line, since an answer is one line, and halves of surrogate pairs, which
    /// stand for no character, become U+FFFD.
    pub(crate) fn push(&mut self, name: &str, json: &RawValue) {
        let name = match COMMON_NAMES.binary_search(&name) {
            Ok(known) => Cow::Borrowed(COMMON_NAMES[known]),
            Err(_) => Cow::Owned(name.to_owned()),
        };
        self.0.push((name, to_stored_json(json)));
    }

    /// Iterates over the fields in the server's order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        self.0.iter().map(|(name, json)| (name.as_ref(), json.as_ref()))
    }

    /// Returns whether no field passes through.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Copies JSON as it is stored in an answer line: on one line, and without halves of surrogate pairs.
pub(crate) fn to_stored_json(json: &RawValue) -> Box<RawValue> {
    match replace_lone_surrogates(json.get()) {
        Cow::Borrowed(text) => match to_one_line(text) {
            Cow::Borrowed(_) => json.to_owned(),
            Cow::Owned(text) => RawValue::from_string(text).unwrap_or_else(|_| json.to_owned()),
        },
        Cow::Owned(text) => {
            let text = to_one_line(&text).into_owned();
            RawValue::from_string(text).unwrap_or_else(|_| json.to_owned())
        }
    }
}

impl PartialEq for ReplyFields {
    fn eq(&self, other: &Self) -> bool {
        let fields = self.iter().map(|(name, json)| (name, json.get()));
        fields.eq(other.iter().map(|(name, json)| (name, json.get())))
    }
}

impl Eq for ReplyFields {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_stored_on_one_line_and_without_halves_of_surrogate_pairs() {
        let mut fields = ReplyFields::default();
        for (name, json) in [
            ("tool_calls", "[ ]"),
            ("x-new", "{\n  \"a b\": 1.50\r\n}"),
            ("logprobs", r#"["\ud83d\ude00", "\ud83d", "\\ud83d"]"#),
        ] {
            fields.push(name, serde_json::from_str(json).expect("JSON"));
        }
        let stored: Vec<_> = fields.iter().map(|(name, json)| (name, json.get())).collect();
        assert_eq!(
            stored,
            [
                ("tool_calls", "[ ]"),
                ("x-new", r#"{"a b":1.50}"#),
                ("logprobs", r#"["\ud83d\ude00", "\ufffd", "\\ud83d"]"#),
            ]
        );
        assert!(COMMON_NAMES.is_sorted() && LINE_NAMES.is_sorted() && !fields.is_empty());
    }
}
