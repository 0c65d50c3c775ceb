//! Tool calls: what the model says to call a tool, and how a text becomes calls.
//!
//! It owns the tags of the Hermes format, which the recorded server was told to read
//! (`--tool-call-parser hermes`). Streams send the text as it is.

use super::request::Request;
use crate::cache::mix;
use crate::grammar::{Constraint, TOOL_CALL, TOOL_CALL_END};
use serde_json::Value;

/// One call of a tool.
#[derive(Debug, PartialEq)]
pub struct Call {
    /// The tool's name.
    pub name: String,
    /// The arguments as JSON text.
    pub arguments: String,
}

/// Whether a request lets the model call tools.
#[must_use]
pub fn wanted(request: &Request<'_>) -> bool {
    let some = request.tools.as_ref().and_then(Value::as_array).is_some_and(|all| !all.is_empty());
    some && request.tool_choice.as_ref().is_none_or(|choice| choice != "none")
}

/// What the model says when it calls one of the tools; with a choice by name that one.
#[must_use]
pub fn constraint(request: &Request<'_>) -> Constraint {
    let named = request.tool_choice.as_ref().and_then(|choice| choice["function"]["name"].as_str());
    let tools = request.tools.as_ref().and_then(Value::as_array).into_iter().flatten();
    let tools = tools.filter_map(|tool| {
        let function = &tool["function"];
        Some((function["name"].as_str()?.to_owned(), function["parameters"].clone()))
    });
    Constraint::Call(tools.filter(|(name, _)| named.is_none_or(|n| n == name)).collect())
}

/// The text in front of the calls, if any, and the calls; none when the text holds none that can
/// be read.
#[must_use]
pub fn read(text: &str) -> Option<(Option<&str>, Vec<Call>)> {
    let (before, rest) = text.split_once(TOOL_CALL)?;
    let call = |part: &str| {
        let json = part.split(TOOL_CALL_END).next().unwrap_or(part);
        let call: Value = serde_json::from_str(json).ok()?;
        let arguments = call.get("arguments")?.to_string();
        Some(Call { name: call["name"].as_str()?.to_owned(), arguments })
    };
    let calls: Option<Vec<Call>> = rest.split(TOOL_CALL).map(call).collect();
    Some(((!before.is_empty()).then_some(before), calls?))
}

/// The id of a call: random at a real server, here a function of the prompt and the answer.
#[must_use]
pub fn id(prompt_hash: u64, answer_hash: u64, call: usize) -> String {
    format!("chatcmpl-tool-{:016x}", mix(mix(prompt_hash, answer_hash), call as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_from_the_text_between_the_tags() {
        let one = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"n\": 1}}\n</tool_call>";
        let call = || Call { name: "f".into(), arguments: "{\"n\":1}".into() };
        assert_eq!(read(one), Some((None, vec![call()])));
        let two = format!("So. {one}\n{one}");
        assert_eq!(read(&two), Some((Some("So. "), vec![call(), call()])));
        assert_eq!(read("no call"), None);
        assert_eq!(read(&one[..30]), None, "cut");
    }
}
