//! Which conversations are rendered here: those whose messages are a role and a text.
//!
//! Owns the rule. For anything else the server does more than render (it parses tool calls, fetches images, wraps
//! contents), and its chat route is the one that knows.

use super::ChatRenderError;
use crate::domain::raw_json::{JsonMembers, decode_string, json_kind, list_elements};

/// What `apply_chat_template` takes for itself: given as a template's variable, each would mean something else.
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

/// May this conversation, a list of messages as JSON, be rendered with these `chat_template_kwargs`?
///
/// # Errors
/// [`Unrendered::NotPlain`] with what stands in the way; the server's chat route should be asked then.
pub fn check_text_only(messages: &str, extra: Option<&str>) -> Result<(), ChatRenderError> {
    map_messages(messages, |_| ())?;
    template_variables(extra).map(|_| ())
}

/// Calls for each message with its members, in their order.
pub(super) fn map_messages<T>(
    messages: &str,
    mut take: impl FnMut(Vec<(String, String)>) -> T,
) -> Result<Vec<T>, ChatRenderError> {
    let all = list_elements(messages).map_err(ChatRenderError::NotTextOnly)?;
    let taken = all.into_iter().enumerate().map(|(at, message)| {
        let message = parse_message(message).map_err(|why| format!("messages[{at}]: {why}"));
        message.map(&mut take).map_err(ChatRenderError::NotTextOnly)
    });
    taken.collect()
}

fn parse_message(message: &str) -> Result<Vec<(String, String)>, String> {
    let members = JsonMembers::parse(message)?;
    for name in ["role", "content"] {
        match members.get(name).map(json_kind) {
            Some("a string") => {}
            Some(other) => return Err(format!("its {name} is {other}, not a string")),
            None => return Err(format!("it has no {name}")),
        }
    }
    let mut plain: Vec<(String, String)> = Vec::with_capacity(2);
    for (name, json) in members.iter() {
        if !matches!(name, "role" | "content") {
            return Err(format!("it has {name} besides a role and a content"));
        }
        let text = decode_string(json).map_err(|why| format!("{name}: {why}"))?.into_owned();
        // Of two of the same name the last counts, in the place of the first, as in a Python dict.
        match plain.iter_mut().find(|(its, _)| its == name) {
            Some(first) => first.1 = text,
            None => plain.push((name.to_owned(), text)),
        }
    }
    Ok(plain)
}

/// The template's variables that a row asks for, as raw JSON.
pub(super) fn template_variables(
    extra: Option<&str>,
) -> Result<Vec<(String, &str)>, ChatRenderError> {
    let Some(extra) = extra else { return Ok(Vec::new()) };
    let complaint =
        |why: String| ChatRenderError::NotTextOnly(format!("chat_template_kwargs: {why}"));
    let members = JsonMembers::parse(extra).map_err(complaint)?;
    if let Some((name, _)) = members.iter().find(|(name, _)| RESERVED_VARIABLES.contains(name)) {
        return Err(complaint(format!("{name} is not the template's to know")));
    }
    Ok(members.iter().map(|(name, json)| (name.to_owned(), json)).collect())
}
