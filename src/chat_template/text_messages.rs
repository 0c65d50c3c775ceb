//! Text-only conversations: those whose messages have a role and a text, which are rendered here.
//!
//! Owns this rule. For any other conversation the server does more than render (it parses tool calls, fetches images,
//! wraps contents), so it goes to the server's chat route.

use super::ChatRenderError;
use crate::domain::raw_json::{JsonMembers, decode_string, json_kind, list_elements};

/// Parameters of `apply_chat_template` itself. A template variable of such a name would mean something else.
const RESERVED_VARIABLES: [&str; 17] = [
    "add_generation_prompt",
    "chat_template",
    "continue_final_message",
    "conversation",
    "documents",
    "max_length",
    "messages",
    "padding",
    "processor_kwargs",
    "return_assistant_tokens_mask",
    "return_dict",
    "return_tensors",
    "sanitize_control_tokens",
    "tokenize",
    "tokenizer_kwargs",
    "tools",
    "truncation",
];

/// Checks that a conversation, a JSON list of messages, may be rendered here with these `chat_template_kwargs`.
///
/// # Errors
/// [`ChatRenderError::NotTextOnly`] with the obstacle. Such a conversation needs the server's chat route.
#[cfg(test)]
pub(super) fn check_text_only(messages: &str, extra: Option<&str>) -> Result<(), ChatRenderError> {
    map_messages(messages, |_| ())?;
    template_variables(extra).map(|_| ())
}

/// Calls `take` with the members of each message, in order.
pub(super) fn map_messages<T>(
    messages: &str,
    mut take: impl FnMut(Vec<(String, String)>) -> T,
) -> Result<Vec<T>, ChatRenderError> {
    let all = list_elements(messages).map_err(ChatRenderError::NotTextOnly)?;
    let results = all.into_iter().enumerate().map(|(at, message)| {
        let message = parse_message(message).map_err(|reason| format!("messages[{at}]: {reason}"));
        message.map(&mut take).map_err(ChatRenderError::NotTextOnly)
    });
    results.collect()
}

fn parse_message(message: &str) -> Result<Vec<(String, String)>, String> {
    let members = JsonMembers::parse(message)?;
    for name in ["role", "content"] {
        match members.get(name).map(json_kind) {
            Some("a string") => {}
            Some(other) => return Err(format!("`{name}` must be a string, found {other}")),
            None => return Err(format!("`{name}` is missing")),
        }
    }
    let mut decoded: Vec<(String, String)> = Vec::with_capacity(2);
    for (name, json) in members.iter() {
        if !matches!(name, "role" | "content") {
            return Err(format!("it has `{name}` besides `role` and `content`"));
        }
        let text =
            decode_string(json).map_err(|reason| format!("`{name}`: {reason}"))?.into_owned();
        // Of two members with the same name the last value counts, at the position of the first, as in a Python dict.
        match decoded.iter_mut().find(|(its, _)| its == name) {
            Some(first) => first.1 = text,
            None => decoded.push((name.to_owned(), text)),
        }
    }
    Ok(decoded)
}

/// Returns the template variables that a row sets, as raw JSON.
pub(super) fn template_variables(
    extra: Option<&str>,
) -> Result<Vec<(String, &str)>, ChatRenderError> {
    let Some(extra) = extra else { return Ok(Vec::new()) };
    let to_error =
        |reason: String| ChatRenderError::NotTextOnly(format!("chat_template_kwargs: {reason}"));
    let members = JsonMembers::parse(extra).map_err(to_error)?;
    if let Some((name, _)) = members.iter().find(|(name, _)| RESERVED_VARIABLES.contains(name)) {
        return Err(to_error(format!("`{name}` is reserved")));
    }
    Ok(members.iter().map(|(name, json)| (name.to_owned(), json)).collect())
}
