//! Requests as typed fields, read straight from the body without copying text.
//!
//! One struct serves the completions and the chat routes: each ignores the other's fields, as it
//! ignores unknown ones. It is strict; a body that does not fit goes the slow way through
//! `fields`, which forgives what the real server forgives and explains the rest.

use super::images::image_text;
use crate::tokens::Id;
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::borrow::Cow;
use std::fmt;

/// The fields that the simulator looks at.
#[derive(Deserialize, Default, Debug)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are the API's, documented there")]
pub struct Request<'a> {
    #[serde(borrow)]
    pub model: Option<Text<'a>>,
    #[serde(borrow)]
    pub prompt: Option<Prompts<'a>>,
    #[serde(borrow)]
    pub messages: Option<Vec<Item<'a>>>,
    pub max_tokens: Option<i64>,
    pub max_completion_tokens: Option<i64>,
    pub min_tokens: Option<i64>,
    pub n: Option<i64>,
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub seed: Option<i64>,
    pub stop: Option<Stop>,
    pub stop_token_ids: Option<Vec<Id>>,
    pub include_stop_str_in_output: Option<bool>,
    pub ignore_eos: Option<bool>,
    pub skip_special_tokens: Option<bool>,
    pub stream: Option<bool>,
    pub stream_options: Option<StreamOptions>,
    pub echo: Option<bool>,
    pub suffix: Option<String>,
    pub logprobs: Option<Logprobs>,
    pub top_logprobs: Option<i64>,
    pub prompt_logprobs: Option<i64>,
    pub return_tokens_as_token_ids: Option<bool>,
    pub return_token_ids: Option<bool>,
    pub truncate_prompt_tokens: Option<i64>,
    pub cache_salt: Option<String>,
    pub request_id: Option<String>,
    pub logit_bias: Option<Value>,
    pub response_format: Option<Value>,
    pub structured_outputs: Option<Value>,
    pub repetition_detection: Option<Repetition>,
    pub tools: Option<Value>,
    pub tool_choice: Option<Value>,
    pub chat_template: Option<String>,
    pub chat_template_kwargs: Option<Value>,
    pub add_generation_prompt: Option<bool>,
    pub continue_final_message: Option<bool>,
}

/// What a stream is to carry beside text.
#[derive(Deserialize, Default, Debug, Clone, Copy)]
#[serde(default)]
pub struct StreamOptions {
    /// A last chunk with the usage.
    pub include_usage: Option<bool>,
    /// The usage so far in every chunk.
    pub continuous_usage_stats: Option<bool>,
}

/// When saying the same again and again ends an answer.
#[derive(Deserialize, Default, Debug, Clone, Copy)]
#[serde(default)]
pub struct Repetition {
    /// The longest pattern looked for.
    pub max_pattern_size: usize,
    /// The shortest.
    pub min_pattern_size: usize,
    /// How many times it has to come.
    pub min_count: usize,
}

/// Text that is borrowed from the body where it has no escapes.
#[derive(Debug, Default, Clone)]
pub struct Text<'a>(pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        from.deserialize_str(Read)
    }
}

/// The prompts of a completions request.
#[derive(Debug)]
pub enum Prompts<'a> {
    /// One text, not in a list.
    One(Text<'a>),
    /// A list of texts.
    Texts(Vec<Text<'a>>),
    /// Token ids of one prompt.
    Ids(Vec<Id>),
    /// A list of prompts as token ids.
    IdLists(Vec<Vec<Id>>),
}

impl<'de: 'a, 'a> Deserialize<'de> for Prompts<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Prompts<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a prompt or a list of prompts")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Prompts::One(Text(Cow::Borrowed(text))))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Prompts::One(Text(Cow::Owned(text.to_owned()))))
            }
            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Self::Value, S::Error> {
                match seq.next_element::<Element<'de>>()? {
                    None => Ok(Prompts::Texts(Vec::new())),
                    Some(Element::Text(first)) => rest(first, seq).map(Prompts::Texts),
                    Some(Element::Id(first)) => rest(first, seq).map(Prompts::Ids),
                    Some(Element::Ids(first)) => rest(first, seq).map(Prompts::IdLists),
                }
            }
        }
        from.deserialize_any(Read)
    }
}

fn rest<'de, T, S>(first: T, mut seq: S) -> Result<Vec<T>, S::Error>
where
    T: Deserialize<'de>,
    S: SeqAccess<'de>,
{
    let mut all = vec![first];
    while let Some(next) = seq.next_element()? {
        all.push(next);
    }
    Ok(all)
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Element<'a> {
    #[serde(borrow)]
    Text(Text<'a>),
    Id(Id),
    Ids(Vec<Id>),
}

/// An element of `messages`: a message, or a conversation on the batch route.
#[derive(Debug)]
pub enum Item<'a> {
    /// A message.
    Message(Message<'a>),
    /// A conversation.
    Conversation(Vec<Message<'a>>),
}

impl<'de: 'a, 'a> Deserialize<'de> for Item<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Item<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a message")
            }
            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Self::Value, M::Error> {
                let message = de::value::MapAccessDeserializer::new(map);
                Message::deserialize(message).map(Item::Message)
            }
            fn visit_seq<S: SeqAccess<'de>>(self, seq: S) -> Result<Self::Value, S::Error> {
                let messages = de::value::SeqAccessDeserializer::new(seq);
                Vec::deserialize(messages).map(Item::Conversation)
            }
        }
        from.deserialize_any(Read)
    }
}

/// A message of a chat; other fields than these change nothing here.
#[derive(Deserialize, Debug)]
pub struct Message<'a> {
    /// Who says it.
    #[serde(borrow)]
    pub role: Text<'a>,
    /// What is said; may be missing, but null in an assistant's message only.
    #[serde(borrow, default = "Content::nothing")]
    pub content: Content<'a>,
}

impl Message<'_> {
    /// Whether its content may be what it is: an assistant may have called tools and said nothing.
    #[must_use]
    pub fn may_be_null(&self) -> bool {
        !matches!(self.content, Content::Null) || self.role.0 == "assistant"
    }
}

/// The content of a message.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Content<'a> {
    /// Plain text.
    #[serde(borrow)]
    Text(Text<'a>),
    /// Text in parts.
    #[serde(borrow)]
    Parts(Vec<Part<'a>>),
    /// Null.
    Null,
}

impl Content<'_> {
    fn nothing() -> Self {
        Self::Text(Text(Cow::Borrowed("")))
    }

    /// The text, parts joined, with texts that stand for images; nothing when a part is neither.
    ///
    /// # Errors
    /// An image that cannot be loaded.
    pub fn text_with_images(&self) -> Result<Option<Cow<'_, str>>, String> {
        let Self::Parts(parts) = self else { return Ok(self.text()) };
        let mut joined = String::new();
        for part in parts {
            match (&part.text, &part.image_url) {
                (Some(text), None) => joined.push_str(&text.0),
                (None, Some(image)) => joined.push_str(&image_text(&image.url.0)?),
                _ => return Ok(None),
            }
        }
        Ok(Some(Cow::Owned(joined)))
    }

    /// The text, parts joined; nothing when a part is not text.
    #[must_use]
    pub fn text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Text(text) => Some(Cow::Borrowed(&text.0)),
            Self::Null => Some(Cow::Borrowed("")),
            Self::Parts(parts) => {
                let texts = parts.iter().map(|part| part.text.as_ref().map(|t| &*t.0));
                texts.collect::<Option<Vec<&str>>>().map(|texts| Cow::Owned(texts.concat()))
            }
        }
    }
}

/// One part of a content.
#[derive(Debug, Deserialize)]
pub struct Part<'a> {
    /// Its text, if it is text.
    #[serde(borrow, default)]
    pub text: Option<Text<'a>>,
    /// Its image, if it is one.
    #[serde(borrow, default)]
    pub image_url: Option<ImageUrl<'a>>,
}

/// Where an image is, or the image itself.
#[derive(Debug, Deserialize)]
pub struct ImageUrl<'a> {
    /// A URL of any kind.
    #[serde(borrow)]
    pub url: Text<'a>,
}

/// One stop string or up to four.
#[derive(Debug, Deserialize, Clone)]
#[serde(untagged)]
pub enum Stop {
    /// One.
    One(String),
    /// A list.
    Many(Vec<String>),
}

/// `logprobs`: a number on the completions route, a flag on chat.
#[derive(Debug, Deserialize, Clone, Copy, PartialEq)]
#[serde(untagged)]
pub enum Logprobs {
    /// Chat.
    Flag(bool),
    /// Completions.
    Number(i64),
}
