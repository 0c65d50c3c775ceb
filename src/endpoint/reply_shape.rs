//! Shapes of replies to inference requests: fields with a meaning here, and all others, which pass through.
//!
//! Owns which fields have a meaning. serde's own `flatten` cannot collect the others as raw JSON, so each object has a
//! hand-written reader. An ordinary reply has no others except nulls, and its reading allocates nothing for them.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::thinking::split_thinking;
use crate::domain::{
    AnswerChoice, ReplyFields, THINKING_MARKS,
    raw_json::{JsonMembers, encode_string},
};

/// Facts about a request with which its reply is parsed.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExpectedReply<'a> {
    /// Length of each prompt in bytes; the token counts of a batch are split in proportion to it.
    pub(super) prompt_lengths: &'a [u64],
    /// Number of sequences per prompt.
    pub(super) n: usize,
    /// Name of the requested model.
    pub(super) model: &'a str,
    /// Whether conversations were rendered here and sent to the completions route.
    pub(super) is_rendered: bool,
    /// Whether token ids in the reply belong to the answer; they do not if this program requested them to count them.
    pub(super) keep_token_ids: bool,
    /// Whether each answer keeps the reply as the server sent it.
    pub(super) keep_body: bool,
    /// Whether thinking at the start of a text is taken out of it.
    pub(super) split_thinking: bool,
}

/// An object of a reply.
trait ReplyObject<'de>: Default {
    /// Reads the field's value if the field has a meaning here; otherwise returns false.
    fn read_field<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error>;

    /// Returns the list of the other fields.
    fn other_fields(&mut self) -> &mut RawFields<'de>;
}

/// Fields that pass through, borrowed from the reply.
#[derive(Debug, Default)]
pub(super) struct RawFields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl RawFields<'_> {
    pub(super) fn copy_to(&self, fields: &mut ReplyFields) {
        self.0.iter().for_each(|(name, json)| fields.push(name, json));
    }

    /// Copies the fields of a message. Some servers write empty lists there where others write nothing.
    fn copy_nonempty_to(&self, fields: &mut ReplyFields) {
        let nonempty = self.0.iter().filter(|(_, json)| json.get() != "[]");
        nonempty.for_each(|(name, json)| fields.push(name, json));
    }
}

/// Name of a field: borrowed unless it has escapes, which serde's own `Cow` would not be.
#[derive(Deserialize)]
struct FieldName<'a>(#[serde(borrow)] Cow<'a, str>);

struct ReplyObjectVisitor<T>(PhantomData<T>);

impl<'de, T: ReplyObject<'de>> Visitor<'de> for ReplyObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let mut object = T::default();
        while let Some(FieldName(name)) = map.next_key()? {
            if object.read_field(&name, &mut map)? {
                continue;
            }
            // A null means that the field is absent.
            if let Some(json) = map.next_value::<Option<&RawValue>>()? {
                object.other_fields().0.push((name, json));
            }
        }
        Ok(object)
    }
}

fn read_object<'de, T: ReplyObject<'de>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    from.deserialize_map(ReplyObjectVisitor(PhantomData))
}

/// A reply with status 200.
#[derive(Debug, Default)]
pub(super) struct ReplyBody<'a> {
    /// `None` only beside an error.
    pub(super) choices: Option<Vec<ReplyChoice<'a>>>,
    /// Read by [`ReplyUsage::parse`], so that invalid counts cost no answer.
    pub(super) usage: Option<&'a RawValue>,
    pub(super) model: Option<Cow<'a, str>>,
    pub(super) error: Option<&'a RawValue>,
    /// Present for a conversation if `return_token_ids` was set.
    pub(super) prompt_token_ids: Option<&'a RawValue>,
    pub(super) other: RawFields<'a>,
}

impl<'de> ReplyObject<'de> for ReplyBody<'de> {
    fn read_field<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        match name {
            "choices" => self.choices = map.next_value()?,
            "usage" => self.usage = map.next_value()?,
            "model" => self.model = read_lenient::<FieldName<'_>, A>(map)?.map(|name| name.0),
            "error" => self.error = map.next_value::<Option<&RawValue>>()?.filter(is_error),
            "prompt_token_ids" => self.prompt_token_ids = map.next_value()?,
            // These describe the reply and not the answer; a job that keeps whole bodies has them.
            "id" | "object" | "created" | "system_fingerprint" => {
                map.next_value::<IgnoredAny>()?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn other_fields(&mut self) -> &mut RawFields<'de> {
        &mut self.other
    }
}

impl<'de> Deserialize<'de> for ReplyBody<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let body: Self = read_object(from)?;
        if body.choices.is_none() && body.error.is_none() {
            return Err(D::Error::missing_field("choices"));
        }
        Ok(body)
    }
}

/// Reads a field that is not worth an answer: a value of another type counts as absent.
fn read_lenient<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
    map: &mut A,
) -> Result<Option<T>, A::Error> {
    let json = map.next_value::<&'de RawValue>()?;
    Ok(serde_json::from_str(json.get()).ok())
}

/// Gateways that always write the field have one of these values in it where there is no error.
fn is_error(json: &&RawValue) -> bool {
    !matches!(json.get(), "false" | "0" | "\"\"" | "{}" | "[]")
}

/// A generated sequence.
#[derive(Debug, Default)]
pub(super) struct ReplyChoice<'a> {
    pub(super) index: Option<usize>,
    text: MessageText,
    message: Option<ReplyMessage<'a>>,
    pub(super) finish_reason: Option<String>,
    pub(super) error: Option<&'a RawValue>,
    pub(super) token_ids: Option<&'a RawValue>,
    pub(super) prompt_token_ids: Option<&'a RawValue>,
    other: RawFields<'a>,
}

impl<'de> ReplyObject<'de> for ReplyChoice<'de> {
    fn read_field<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        match name {
            "index" => self.index = read_lenient(map)?,
            "text" => self.text = map.next_value()?,
            "message" => self.message = map.next_value()?,
            "finish_reason" => self.finish_reason = read_lenient(map)?,
            "error" => self.error = map.next_value::<Option<&RawValue>>()?.filter(is_error),
            "token_ids" => self.token_ids = map.next_value()?,
            "prompt_token_ids" => self.prompt_token_ids = map.next_value()?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn other_fields(&mut self) -> &mut RawFields<'de> {
        &mut self.other
    }
}

impl<'de> Deserialize<'de> for ReplyChoice<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        read_object(from)
    }
}

impl ReplyChoice<'_> {
    /// Returns the choice as it is stored. Token ids that this program requested only to count them are left out.
    pub(super) fn into_choice(self, keep_token_ids: bool, split_thinking: bool) -> AnswerChoice {
        let finish_reason = self.finish_reason;
        let mut choice = match self.message {
            Some(message) => AnswerChoice { finish_reason, ..message.into_choice() },
            None => {
                let (text, fields) = self.text.into_text_and_json("text");
                AnswerChoice { text, finish_reason, fields, ..AnswerChoice::default() }
            }
        };
        if split_thinking && choice.reasoning.as_deref().is_none_or(str::is_empty) {
            take_thinking(&mut choice);
        }
        self.other.copy_to(&mut choice.fields);
        if keep_token_ids {
            let ids = [("token_ids", self.token_ids), ("prompt_token_ids", self.prompt_token_ids)];
            for (name, ids) in ids {
                ids.into_iter().for_each(|ids| choice.fields.push(name, ids));
            }
        }
        choice
    }
}

/// Moves thinking at the start of the text to `reasoning`. What stood around both is kept beside them, so that the text can
/// be put together again.
fn take_thinking(choice: &mut AnswerChoice) {
    let was_cut = choice.finish_reason.as_deref() == Some("length");
    let Some(split) = split_thinking(&choice.text, was_cut) else { return };
    if let Ok(marks) = serde_json::value::to_raw_value(&split.marks) {
        choice.fields.push(THINKING_MARKS, &marks);
    }
    choice.reasoning = Some(split.reasoning.to_owned());
    choice.text = split.answer.to_owned();
}

/// Message of a chat choice.
#[derive(Debug, Default)]
struct ReplyMessage<'a> {
    role: Option<Cow<'a, str>>,
    content: MessageText,
    reasoning: MessageText,
    /// Name of `reasoning` before vLLM 0.12 and at other servers.
    reasoning_content: MessageText,
    other: RawFields<'a>,
}

impl<'de> ReplyObject<'de> for ReplyMessage<'de> {
    fn read_field<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        match name {
            "role" => self.role = read_lenient::<FieldName<'_>, A>(map)?.map(|role| role.0),
            "content" => self.content = map.next_value()?,
            "reasoning" => self.reasoning = map.next_value()?,
            "reasoning_content" => self.reasoning_content = map.next_value()?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn other_fields(&mut self) -> &mut RawFields<'de> {
        &mut self.other
    }
}

impl<'de> Deserialize<'de> for ReplyMessage<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        read_object(from)
    }
}

impl ReplyMessage<'_> {
    fn into_choice(self) -> AnswerChoice {
        let mut fields = ReplyFields::default();
        let role = self.role.filter(|role| role != "assistant");
        if let Some(role) = role.and_then(|role| serde_json::value::to_raw_value(&role).ok()) {
            fields.push("role", &role);
        }
        let text = match self.content {
            MessageText::Text(text) => text,
            // Tool calls and a thinking that fills the answer have no content, which is not the same as an empty text.
            MessageText::Absent => {
                fields.push("content", RawValue::NULL);
                String::new()
            }
            MessageText::Parts { text, json } => {
                fields.push("content", &json);
                text
            }
        };
        let reasoning = match (self.reasoning, self.reasoning_content) {
            (MessageText::Absent, old_name) => old_name.into_text(),
            (new_name, MessageText::Absent) => new_name.into_text(),
            (new_name, old_name) => {
                let (reasoning, other) = (new_name.into_text(), old_name.into_text());
                if reasoning != other
                    && let Ok(json) = serde_json::value::to_raw_value(&other)
                {
                    fields.push("reasoning_content", &json);
                }
                reasoning
            }
        };
        self.other.copy_nonempty_to(&mut fields);
        AnswerChoice { text, reasoning, fields, ..AnswerChoice::default() }
    }
}

/// Text of a message, which some servers send in parts.
#[derive(Debug, Default)]
enum MessageText {
    #[default]
    Absent,
    Text(String),
    /// A list of parts, with their texts joined, or a value that is no text.
    Parts {
        text: String,
        json: Box<RawValue>,
    },
}

impl MessageText {
    /// Returns the text, and as a field of this name the JSON that it was taken from if that is not a plain string.
    fn into_text_and_json(self, name: &str) -> (String, ReplyFields) {
        let mut fields = ReplyFields::default();
        let text = match self {
            Self::Absent => String::new(),
            Self::Text(text) => text,
            Self::Parts { text, json } => {
                fields.push(name, &json);
                text
            }
        };
        (text, fields)
    }

    fn into_text(self) -> Option<String> {
        match self {
            Self::Absent => None,
            Self::Text(text) | Self::Parts { text, .. } => Some(text),
        }
    }
}

impl<'de> Deserialize<'de> for MessageText {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = MessageText;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a text or a list of parts")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<MessageText, E> {
                Ok(MessageText::Text(text.to_owned()))
            }

            fn visit_string<E: Error>(self, text: String) -> Result<MessageText, E> {
                Ok(MessageText::Text(text))
            }

            fn visit_unit<E: Error>(self) -> Result<MessageText, E> {
                Ok(MessageText::Absent)
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<MessageText, E> {
                other_value(&value)
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<MessageText, E> {
                other_value(&value)
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<MessageText, E> {
                other_value(&value)
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<MessageText, E> {
                other_value(&value)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<MessageText, A::Error> {
                let mut members = Vec::new();
                while let Some(FieldName(name)) = map.next_key()? {
                    let json = map.next_value::<&RawValue>()?;
                    members.push(format!("{}:{json}", encode_string(&name)));
                }
                let json = RawValue::from_string(format!("{{{}}}", members.join(",")))
                    .map_err(A::Error::custom)?;
                // A single part that is not in a list.
                Ok(MessageText::Parts { text: part_text(&json), json })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<MessageText, A::Error> {
                let (mut text, mut all) = (String::new(), Vec::new());
                while let Some(part) = parts.next_element::<&RawValue>()? {
                    text.push_str(&part_text(part));
                    all.push(part.get());
                }
                let json = RawValue::from_string(format!("[{}]", all.join(",")));
                Ok(MessageText::Parts { text, json: json.map_err(A::Error::custom)? })
            }
        }
        from.deserialize_any(TextVisitor)
    }
}

/// Returns a value that is no text, which is kept beside an empty one.
fn other_value<E: Error>(value: &impl serde::Serialize) -> Result<MessageText, E> {
    let json = serde_json::value::to_raw_value(value).map_err(E::custom)?;
    Ok(MessageText::Parts { text: String::new(), json })
}

/// Returns the text of a part of a message: a string, or an object with a text. A part of another kind has none.
fn part_text(part: &RawValue) -> String {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum TextPart {
        Plain(String),
        Object { text: String },
    }
    match serde_json::from_str(part.get()) {
        Ok(TextPart::Plain(text) | TextPart::Object { text }) => text,
        Err(_) => String::new(),
    }
}

/// Token counts of a reply, and what else is in its `usage`.
#[derive(Debug, Default)]
pub(super) struct ReplyUsage<'a> {
    pub(super) prompt_tokens: u64,
    pub(super) completion_tokens: u64,
    pub(super) cached_tokens: Option<u64>,
    pub(super) reasoning_tokens: Option<u64>,
    pub(super) other: RawFields<'a>,
}

impl<'de> ReplyObject<'de> for ReplyUsage<'de> {
    fn read_field<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        match name {
            "prompt_tokens" => self.prompt_tokens = map.next_value()?,
            "completion_tokens" => self.completion_tokens = map.next_value()?,
            // It is the sum of the other two.
            "total_tokens" => {
                map.next_value::<IgnoredAny>()?;
            }
            "prompt_tokens_details" | "completion_tokens_details" => {
                if let Some(details) = map.next_value::<Option<&RawValue>>()? {
                    self.read_details(name == "prompt_tokens_details", details);
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn other_fields(&mut self) -> &mut RawFields<'de> {
        &mut self.other
    }
}

impl<'de> Deserialize<'de> for ReplyUsage<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        read_object(from)
    }
}

impl<'a> ReplyUsage<'a> {
    /// Parses the `usage` of a reply; `None` if its counts are no counts. More tokens than any reply can have are a bug
    /// of the server, and sums of such counts would overflow.
    pub(super) fn parse(json: &'a RawValue) -> Option<Self> {
        let usage: Self = serde_json::from_str(json.get()).ok()?;
        (usage.prompt_tokens.max(usage.completion_tokens) < 1 << 40).then_some(usage)
    }

    /// Reads the one detail that has a name in an answer. Details with others pass through as a whole.
    fn read_details(&mut self, are_prompts: bool, details: &'a RawValue) {
        let (name, known) = if are_prompts {
            ("prompt_tokens_details", "cached_tokens")
        } else {
            ("completion_tokens_details", "reasoning_tokens")
        };
        let members = JsonMembers::parse(details.get()).ok();
        let count = members.as_ref().and_then(|members| members.get(known)?.parse().ok());
        if are_prompts {
            self.cached_tokens = count;
        } else {
            self.reasoning_tokens = count;
        }
        let has_others = members.is_none_or(|members| {
            members.iter().any(|(name, json)| json != "null" && (name != known || count.is_none()))
        });
        if has_others {
            self.other.0.push((Cow::Borrowed(name), details));
        }
    }
}

/// Returns the number of ids in a list.
pub(super) fn count_ids(ids: &RawValue) -> u64 {
    let inner = ids.get().trim_start_matches('[').trim_end_matches(']');
    if inner.trim_ascii().is_empty() {
        return 0;
    }
    inner.bytes().filter(|&byte| byte == b',').count() as u64 + 1
}
