//! Conversations: lists of messages with `role` and `content`, or `from` and `value` as in ShareGPT's data sets.
//!
//! Owns their validation and the conversion of the second form to the first. Other members of a message pass unchanged.

use std::borrow::Cow;

use crate::domain::raw_json::{
    JsonMembers, check_escapes, compact_json, decode_string, encode_string, json_kind,
    list_elements, to_one_line,
};

/// A validated conversation.
#[derive(Debug, PartialEq)]
pub(crate) struct Conversation<'a> {
    /// The list of messages on one line.
    pub json: Cow<'a, str>,
    /// Whether the last message is the assistant's.
    pub ends_with_answer: bool,
}

/// Form of a message.
enum MessageForm<'a> {
    Chat { role: &'a str },
    ShareGpt,
}

impl Conversation<'_> {
    pub(crate) fn into_owned(self) -> Conversation<'static> {
        let Self { json, ends_with_answer } = self;
        Conversation { json: Cow::Owned(json.into_owned()), ends_with_answer }
    }
}

/// Validates a conversation, which messages call `name`.
pub(crate) fn parse_messages<'a>(json: &'a str, name: &str) -> Result<Conversation<'a>, String> {
    if json_kind(json) != "a list" {
        return Err(format!("`{name}` must be a list, found {}", json_kind(json)));
    }
    let all = list_elements(json).map_err(|reason| format!("`{name}`: {reason}"))?;
    if all.is_empty() {
        return Err(format!("`{name}` is empty"));
    }
    let mut last_role = "";
    let mut needs_conversion = false;
    for (at, message) in all.iter().enumerate() {
        match message_form(message).map_err(|reason| format!("`{name}[{at}]` {reason}"))? {
            MessageForm::Chat { role } => last_role = role,
            MessageForm::ShareGpt => needs_conversion = true,
        }
    }
    check_escapes(json).map_err(|reason| format!("`{name}`: {reason}"))?;
    if needs_conversion {
        return convert_messages(&all).map_err(|(at, reason)| format!("`{name}[{at}]` {reason}"));
    }
    Ok(Conversation { json: to_one_line(json), ends_with_answer: last_role == "\"assistant\"" })
}

fn message_form(message: &str) -> Result<MessageForm<'_>, String> {
    if json_kind(message) != "an object" {
        return Err(format!("must be an object with a role, found {}", json_kind(message)));
    }
    let members = JsonMembers::parse(message)?;
    match (members.value("role"), members.value("from")) {
        (Some(role), _) if json_kind(role) == "a string" => Ok(MessageForm::Chat { role }),
        (Some(other), _) => {
            Err(format!("has a role that must be a string, found {}", json_kind(other)))
        }
        (None, Some(_)) => Ok(MessageForm::ShareGpt),
        (None, None) => Err("has no role".into()),
    }
}

/// Converts messages with `from` and `value`; others stay. An error names the message by its position.
fn convert_messages(all: &[&str]) -> Result<Conversation<'static>, (usize, String)> {
    let mut json = String::from("[");
    let mut ends_with_answer = false;
    for (at, message) in all.iter().enumerate() {
        if at > 0 {
            json.push(',');
        }
        let role = convert_message(message, &mut json).map_err(|reason| (at, reason))?;
        ends_with_answer = role == "assistant";
    }
    json.push(']');
    Ok(Conversation { json: Cow::Owned(json), ends_with_answer })
}

fn convert_message<'a>(message: &'a str, into: &mut String) -> Result<Cow<'a, str>, String> {
    let members = JsonMembers::parse(message)?;
    if let Some(role) = members.value("role") {
        into.push_str(&compact_json(message));
        return decode_string(role);
    }
    let from = decode_string(members.value("from").unwrap_or_default())
        .map_err(|_| "has a `from` that is not a string".to_owned())?;
    let role = match from.as_ref() {
        "human" | "user" => "user",
        "gpt" | "assistant" | "chatgpt" | "bing" | "bard" | "model" => "assistant",
        "system" => "system",
        "tool" | "observation" => "tool",
        other => {
            return Err(format!(
                "has the unknown `from` {other:?}; known are human, gpt, system and tool"
            ));
        }
    };
    let value = members.value("value").ok_or("has `from` and no `value`")?;
    into.push_str(&format!("{{\"role\":\"{role}\",\"content\":{}", compact_json(value)));
    for (name, json) in members.iter().filter(|(name, _)| !matches!(*name, "from" | "value")) {
        into.push_str(&format!(",{}:{}", encode_string(name), compact_json(json)));
    }
    into.push('}');
    Ok(Cow::Borrowed(role))
}

/// Returns the conversation without its last message.
pub(crate) fn without_last_message(messages: &str) -> Result<String, String> {
    let mut all = list_elements(messages)?;
    all.pop();
    if all.is_empty() {
        return Err("the conversation has no message but the final answer".into());
    }
    Ok(format!("[{}]", all.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_both_forms_become_one_and_the_end_is_told() {
        let chat = r#"[{"role": "user", "content": "a"}, {"role": "assistant", "content": null}]"#;
        let parsed = parse_messages(chat, "messages").unwrap();
        assert_eq!((parsed.json.as_ref(), parsed.ends_with_answer), (chat, true));
        let shared = r#"[{"from": "system", "value": "s"}, {"from": "human", "value": "a \" b"},
            {"from": "gpt", "value": "c", "weight": 0.5}, {"role": "user", "content": "d e"}]"#;
        let parsed = parse_messages(shared, "conversations").unwrap();
        assert_eq!(
            parsed.json,
            r#"[{"role":"system","content":"s"},{"role":"user","content":"a \" b"},{"role":"assistant","content":"c","weight":0.5},{"role":"user","content":"d e"}]"#
        );
        assert!(!parsed.ends_with_answer);
        let asked = without_last_message(chat).unwrap();
        assert_eq!(asked, r#"[{"role": "user", "content": "a"}]"#);
        assert!(without_last_message(&asked).is_err());
    }

    #[test]
    fn a_message_of_neither_form_is_named() {
        for (json, reason) in [
            ("{}", "`turns` must be a list, found an object"),
            ("[]", "`turns` is empty"),
            ("[1]", "`turns[0]` must be an object with a role, found a number"),
            (r#"[{"role": "user"}, {"content": "x"}]"#, "`turns[1]` has no role"),
            (r#"[{"role": null}]"#, "`turns[0]` has no role"),
            (r#"[{"role": 1}]"#, "`turns[0]` has a role that must be a string, found a number"),
            (r#"[{"from": "alien", "value": "x"}]"#, "`turns[0]` has the unknown `from` \"alien\""),
            (r#"[{"from": "human"}]"#, "`turns[0]` has `from` and no `value`"),
        ] {
            let error = parse_messages(json, "turns").unwrap_err();
            assert!(error.starts_with(reason), "{json}: {error}");
        }
    }
}
