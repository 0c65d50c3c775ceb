//! Rows that are JSON objects, without a template: a prompt or messages, at the top level or in the body of an OpenAI
//! batch row.
//!
//! Owns both forms and their errors. Ids are parsed in `row/mod.rs`, parameters in `row/params.rs`.

use std::borrow::Cow;

use super::params::{RowOptions, is_request_field};
use crate::domain::Route;
use crate::domain::raw_json::{
    JsonMembers, check_escapes, decode_string, json_kind, list_elements, to_one_line,
};

/// The prompt of a row: a text or a conversation's JSON.
#[derive(Debug, PartialEq)]
pub(crate) enum RowInput<'a> {
    Text(Cow<'a, str>),
    Messages(Cow<'a, str>),
}

impl RowInput<'_> {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Text(text) | Self::Messages(text) => text,
        }
    }
}

/// The request that an object describes.
pub(crate) struct RowRequest<'a> {
    pub input: RowInput<'a>,
    pub options: RowOptions<'a>,
    pub route: Option<Route>,
}

/// Fields of a row in an OpenAI batch file.
pub(crate) const BATCH_FIELDS: [&str; 4] = ["custom_id", "method", "url", "body"];

/// Whether a row has the form of OpenAI's batch files. A `prompt` or `messages` beside those fields makes it an
/// ordinary row whose data happens to have such names.
pub(crate) fn is_openai_batch(members: &JsonMembers<'_>) -> bool {
    let has = |name| members.get(name).is_some();
    !has("prompt") && !has("messages") && (has("custom_id") || has("body"))
}

/// Parses a row with `prompt` or `messages` at the top level.
pub(crate) fn parse_object_row<'a>(members: &JsonMembers<'a>) -> Result<RowRequest<'a>, String> {
    let mut options = RowOptions::default();
    for (name, json) in members.iter().filter(|(name, _)| is_request_field(name)) {
        options.put_field(name, json)?;
    }
    if let Some(params) = members.get("params") {
        options.put_params(params)?;
    }
    options.check_consistency()?;
    let input = parse_input(members, "the row")?;
    Ok(RowRequest { input, options, route: None })
}

/// Parses an OpenAI batch row, whose body is a request.
pub(crate) fn parse_batch_row<'a>(members: &JsonMembers<'a>) -> Result<RowRequest<'a>, String> {
    let route = parse_batch_route(members)?;
    let body = JsonMembers::parse(require_batch_field(members, "body", "an object")?)
        .map_err(|reason| format!("`body`: {reason}"))?;
    let input = parse_input(&body, "the body")?;
    match (route, &input) {
        (Route::Completions, RowInput::Messages(_)) => {
            return Err("`url` is for prompts, but `body` has messages".into());
        }
        (Route::Chat, RowInput::Text(_)) => {
            return Err("`url` is for messages, but `body` has a prompt".into());
        }
        _ => {}
    }
    let mut options = RowOptions::default();
    for (name, json) in body.iter().filter(|(name, _)| !matches!(*name, "prompt" | "messages")) {
        options.put_field(name, json)?;
    }
    options.check_consistency()?;
    Ok(RowRequest { input, options, route: Some(route) })
}

fn parse_batch_route(members: &JsonMembers<'_>) -> Result<Route, String> {
    require_batch_field(members, "custom_id", "a string")?;
    let method = decode_string(require_batch_field(members, "method", "a string")?)?;
    if method != "POST" {
        return Err(format!("`method` must be \"POST\", found {method:?}"));
    }
    match decode_string(require_batch_field(members, "url", "a string")?)?.as_ref() {
        "/v1/completions" => Ok(Route::Completions),
        "/v1/chat/completions" => Ok(Route::Chat),
        url => Err(format!("`url` must be /v1/completions or /v1/chat/completions, found {url:?}")),
    }
}

fn require_batch_field<'a>(
    members: &JsonMembers<'a>,
    name: &str,
    expected: &str,
) -> Result<&'a str, String> {
    match members.get(name) {
        Some(json) if json_kind(json) == expected => Ok(json),
        Some(json) => Err(format!("`{name}` must be {expected}, found {}", json_kind(json))),
        None => Err(format!(
            "an OpenAI batch row has the fields {}; `{name}` is missing",
            BATCH_FIELDS.join(", ")
        )),
    }
}

/// Parses `prompt` or `messages`, of which exactly one must be given.
pub(crate) fn parse_input<'a>(
    members: &JsonMembers<'a>,
    container: &str,
) -> Result<RowInput<'a>, String> {
    match (members.get("prompt"), members.get("messages")) {
        (Some(json), None) if json_kind(json) == "a string" => {
            Ok(RowInput::Text(decode_string(json).map_err(|reason| format!("`prompt`: {reason}"))?))
        }
        (Some(json), None) => Err(format!("`prompt` must be a string, found {}", json_kind(json))),
        (None, Some(json)) => Ok(RowInput::Messages(parse_messages(json)?)),
        (Some(_), Some(_)) => {
            Err(format!("{container} has both `prompt` and `messages`, but must have one of them"))
        }
        (None, None) => Err(format!("{container} has neither `prompt` nor `messages`")),
    }
}

/// Validates a conversation and returns its JSON on one line.
pub(crate) fn parse_messages(json: &str) -> Result<Cow<'_, str>, String> {
    if json_kind(json) != "a list" {
        return Err(format!("`messages` must be a list, found {}", json_kind(json)));
    }
    let all = list_elements(json).map_err(|reason| format!("`messages`: {reason}"))?;
    if all.is_empty() {
        return Err("`messages` is empty".into());
    }
    for (at, message) in all.into_iter().enumerate() {
        if json_kind(message) != "an object" {
            return Err(format!(
                "`messages[{at}]` must be an object with a role, found {}",
                json_kind(message)
            ));
        }
        let role = JsonMembers::parse(message)
            .map_err(|reason| format!("`messages[{at}]`: {reason}"))?
            .get("role");
        match role.map(json_kind) {
            Some("a string") => {}
            Some(other) => {
                return Err(format!("`messages[{at}].role` must be a string, found {other}"));
            }
            None => return Err(format!("`messages[{at}]` has no role")),
        }
    }
    check_escapes(json).map_err(|reason| format!("`messages`: {reason}"))?;
    Ok(to_one_line(json))
}
