//! Oddities of other servers, put upon a vLLM: shapes of requests that they refuse and of answers that they give.
//!
//! It owns what differs from the recorded manners, as transformations of bodies, so that whatever else the simulator does
//! stays as it is. Each oddity is named after what it does, and known from a real server or a report.

use crate::wire::fields::Shape;
use crate::wire::refusal::Refusal;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// One thing that a server does otherwise than vLLM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Oddity {
    /// A list is answered as if it were one text.
    ListJoined,
    /// A list is refused with this status; 0 cuts the connection.
    ListRefused(u16),
    /// All choices have index 0.
    IndexZero,
    /// Choices have no index.
    IndexMissing,
    /// The index is null.
    IndexNull,
    /// One sequence is made whatever `n` is.
    OneSequence,
    /// More than one sequence is refused.
    SequencesRefused,
    /// The usage of a list is that of its first sequence.
    UsageOfFirst,
    /// Another model has answered.
    OtherModel(String),
    /// Texts begin with thinking in tags, of which the first may be the template's.
    Thinking {
        /// Whether the opening tag is in the text.
        opened: bool,
    },
    /// A prompt with this text is denied with this status.
    Denied(u16, String),
    /// The answer to a prompt with this text cannot be read.
    Garbled(String),
    /// This field is refused.
    FieldRefused(String),
}

/// What becomes of a request.
pub enum Bent {
    /// It goes on, with its body.
    On(Option<Vec<u8>>),
    /// It ends here.
    Refused(Refusal),
    /// The connection is cut.
    Cut,
}

impl Oddity {
    /// Reads `NAME` or `NAME=VALUE`, as flags have it.
    ///
    /// # Errors
    /// Fails with a sentence if there is no such oddity.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let status = || value.parse().map_err(|_| format!("`{value}` is no status"));
        Ok(match name {
            "list-joined" => Self::ListJoined,
            "list-refused" => Self::ListRefused(status()?),
            "index-zero" => Self::IndexZero,
            "index-missing" => Self::IndexMissing,
            "index-null" => Self::IndexNull,
            "one-sequence" => Self::OneSequence,
            "sequences-refused" => Self::SequencesRefused,
            "usage-of-first" => Self::UsageOfFirst,
            "other-model" => Self::OtherModel(value.to_owned()),
            "thinking" => Self::Thinking { opened: value != "closed" },
            "denied" => {
                let (status, text) = value.split_once(':').ok_or("wanted is STATUS:TEXT")?;
                let status = status.parse().map_err(|_| format!("`{status}` is no status"))?;
                Self::Denied(status, text.to_owned())
            }
            "garbled" => Self::Garbled(value.to_owned()),
            "field-refused" => Self::FieldRefused(value.to_owned()),
            _ => return Err(format!("there is no oddity `{name}`")),
        })
    }
}

/// Bends a request before it is read.
#[must_use]
pub fn bend_request(oddities: &[Oddity], shape: Shape, body: &[u8]) -> Bent {
    if oddities.is_empty() {
        return Bent::On(None);
    }
    let Ok(mut ask) = serde_json::from_slice::<Value>(body) else { return Bent::On(None) };
    let text = ask.to_string();
    let refusal = |status, message: &str| {
        Bent::Refused(Refusal::new(status, "invalid_request_error", message, None))
    };
    for oddity in oddities {
        match oddity {
            Oddity::Denied(status, word) if text.contains(word.as_str()) => {
                return refusal(*status, "Your request was blocked by our content policy");
            }
            Oddity::FieldRefused(name) if ask.get(name).is_some() => {
                return refusal(422, &format!("Unexpected fields in the request: {{'{name}'}}"));
            }
            Oddity::SequencesRefused if ask["n"].as_u64().is_some_and(|n| n > 1) => {
                return refusal(400, "Only n=1 is supported.");
            }
            Oddity::ListRefused(status) if is_list(shape, &ask) => {
                return match status {
                    0 => Bent::Cut,
                    // vLLM's Rust front end of 0.32.0 says so.
                    400 => refusal(
                        400,
                        "Failed to deserialize the JSON body into the target type: prompt: data did not match any variant of untagged enum Prompt at line 1 column 34",
                    ),
                    _ => refusal(*status, "Internal Server Error"),
                };
            }
            Oddity::ListJoined if is_list(shape, &ask) => {
                let all = ask["prompt"].as_array().into_iter().flatten();
                let joined: String = all.filter_map(Value::as_str).collect();
                ask["prompt"] = joined.into();
            }
            Oddity::OneSequence => {
                ask.as_object_mut().map(|fields| fields.remove("n"));
            }
            _ => {}
        }
    }
    Bent::On(serde_json::to_vec(&ask).ok())
}

fn is_list(shape: Shape, ask: &Value) -> bool {
    let is_text = |all: &Vec<Value>| all.iter().any(Value::is_string);
    shape == Shape::Completion && ask["prompt"].as_array().is_some_and(is_text)
}

/// Bends an answer before it is sent; `asked` is the request's body.
#[must_use]
pub fn bend_reply(oddities: &[Oddity], asked: &[u8], reply: Vec<u8>) -> Vec<u8> {
    if oddities.is_empty() {
        return reply;
    }
    let Ok(mut body) = serde_json::from_slice::<Value>(&reply) else { return reply };
    let mut garbled = false;
    for oddity in oddities {
        match oddity {
            Oddity::IndexZero => choices(&mut body).for_each(|it| it["index"] = 0.into()),
            Oddity::IndexNull => choices(&mut body).for_each(|it| it["index"] = Value::Null),
            Oddity::IndexMissing => choices(&mut body).for_each(|it| {
                it.as_object_mut().map(|fields| fields.remove("index"));
            }),
            Oddity::UsageOfFirst => {
                let count = choices(&mut body).count().max(1) as u64;
                for name in ["prompt_tokens", "completion_tokens"] {
                    let sum = body["usage"][name].as_u64().unwrap_or_default();
                    body["usage"][name] = (sum / count).max(1).into();
                }
            }
            Oddity::OtherModel(name) => body["model"] = name.as_str().into(),
            Oddity::Thinking { opened } => {
                let open = if *opened { "<think>\n" } else { "" };
                choices(&mut body).for_each(|it| think(it, open));
            }
            Oddity::Garbled(word) => {
                garbled |= String::from_utf8_lossy(asked).contains(word.as_str());
            }
            _ => {}
        }
    }
    if garbled { b"{\"choices\": [oops".to_vec() } else { body.to_string().into_bytes() }
}

fn choices(body: &mut Value) -> impl Iterator<Item = &mut Value> {
    body["choices"].as_array_mut().into_iter().flatten()
}

fn think(choice: &mut Value, open: &str) {
    let text = match choice.get_mut("text") {
        Some(text) => text,
        None => &mut choice["message"]["content"],
    };
    if let Some(said) = text.as_str() {
        *text = json!(format!("{open}let me think\n</think>\n\n{said}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_name_every_oddity() {
        for (text, oddity) in [
            ("list-joined", Oddity::ListJoined),
            ("list-refused=500", Oddity::ListRefused(500)),
            ("other-model=small", Oddity::OtherModel("small".into())),
            ("thinking=closed", Oddity::Thinking { opened: false }),
            ("denied=403:number 7", Oddity::Denied(403, "number 7".into())),
        ] {
            assert_eq!(Oddity::parse(text), Ok(oddity));
        }
        assert!(Oddity::parse("list").is_err() && Oddity::parse("denied=403").is_err());
    }

    #[test]
    fn only_lists_of_texts_are_lists() {
        let ask = |prompt: Value| json!({ "prompt": prompt });
        assert!(is_list(Shape::Completion, &ask(json!(["a", "b"]))));
        assert!(!is_list(Shape::Completion, &ask(json!("a"))));
        assert!(!is_list(Shape::Completion, &ask(json!([1, 2]))));
    }
}
