//! The part of an answer line that passes through from the server: fields under the server's names.
//!
//! Owns how a name is changed that the line itself uses.

use std::borrow::Cow;

use serde::{
    Serialize, Serializer,
    ser::{SerializeMap, SerializeSeq},
};
use serde_json::value::RawValue;

use crate::domain::{
    AnswerChoice, LINE_NAMES, PromptAnswer, RENAMED_PREFIX, ReplyFields, TokenUsage,
};

/// Names that one of several sequences uses.
const SEQUENCE_NAMES: [&str; 3] = ["finish_reason", "reasoning", "response"];
const USAGE_NAMES: [&str; 5] =
    ["cached_tokens", "completion_tokens", "estimated", "prompt_tokens", "reasoning_tokens"];

/// Fields of a reply as members of a JSON object.
#[derive(Clone, Copy)]
pub(super) struct PassedFields<'a> {
    fields: [Option<&'a ReplyFields>; 2],
    taken: &'static [&'static str],
}

impl<'a> PassedFields<'a> {
    /// Returns the fields at the top level of the line: with several sequences, only those of the reply as a whole.
    pub(super) fn of_answer(answer: Option<&'a PromptAnswer>) -> Self {
        let choice = answer.and_then(|answer| match answer.choices.as_slice() {
            [choice] => Some(&choice.fields),
            _ => None,
        });
        Self { fields: [choice, answer.map(|answer| &answer.fields)], taken: &LINE_NAMES }
    }

    fn of_sequence(choice: &'a AnswerChoice) -> Self {
        Self { fields: [Some(&choice.fields), None], taken: &SEQUENCE_NAMES }
    }

    fn of_usage(fields: &'a ReplyFields) -> Self {
        Self { fields: [Some(fields), None], taken: &USAGE_NAMES }
    }

    /// Returns the fields, each under a name that is neither the object's own nor that of an earlier field.
    fn named_fields(self) -> Vec<(Cow<'a, str>, &'a RawValue)> {
        let mut named: Vec<(Cow<'a, str>, &'a RawValue)> = Vec::new();
        for (name, json) in self.fields.into_iter().flatten().flat_map(ReplyFields::iter) {
            let mut name = Cow::Borrowed(name);
            while self.taken.contains(&name.as_ref())
                || named.iter().any(|(earlier, _)| *earlier == name)
            {
                name = Cow::Owned(format!("{RENAMED_PREFIX}{name}"));
            }
            named.push((name, json));
        }
        named
    }
}

impl Serialize for PassedFields<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        if self.fields.into_iter().flatten().any(|fields| !fields.is_empty()) {
            for (name, json) in self.named_fields() {
                map.serialize_entry(&name, json)?;
            }
        }
        map.end()
    }
}

/// All sequences of an answer, each with its own end, reasoning and other fields.
pub(super) struct ChoiceList<'a>(pub(super) &'a [AnswerChoice]);

#[derive(Serialize)]
struct SequenceLine<'a> {
    response: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<&'a str>,
    finish_reason: Option<&'a str>,
    #[serde(flatten)]
    fields: PassedFields<'a>,
}

impl Serialize for ChoiceList<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut list = to.serialize_seq(Some(self.0.len()))?;
        for choice in self.0 {
            list.serialize_element(&SequenceLine {
                response: &choice.text,
                reasoning: choice.reasoning.as_deref(),
                finish_reason: choice.finish_reason.as_deref(),
                fields: PassedFields::of_sequence(choice),
            })?;
        }
        list.end()
    }
}

/// Token counts with what else the server reports beside them.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum UsageLine<'a> {
    Counts(TokenUsage),
    WithFields {
        #[serde(flatten)]
        counts: TokenUsage,
        #[serde(flatten)]
        fields: PassedFields<'a>,
    },
}

impl<'a> UsageLine<'a> {
    pub(super) fn of_answer(answer: &'a PromptAnswer) -> Option<Self> {
        let counts = answer.usage?;
        Some(if answer.usage_fields.is_empty() {
            Self::Counts(counts)
        } else {
            let fields = PassedFields::of_usage(&answer.usage_fields);
            Self::WithFields { counts, fields }
        })
    }
}
