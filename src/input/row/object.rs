//! Rows that are JSON objects, without a template: a prompt or messages, at the top level or in the body of an OpenAI
//! batch row.
//!
//! Owns both forms and their errors. Ids are parsed in `row/mod.rs`, parameters in `row/params.rs`.

use std::borrow::Cow;

use super::{
    column_path::find_in_members,
    conversation::{Conversation, parse_messages, without_last_message},
    fields::{FieldPlace, FieldSink, FieldUse, row_field_use},
    params::RowOptions,
    rules::{InputColumns, InputRules},
};
use crate::domain::Route;
use crate::domain::raw_json::{JsonMembers, compact_json, decode_string, json_kind, list_elements};

const ROW_CONTAINER: &str = "the row";

/// Whether a row is invalid for this reason because it has no prompt.
pub(crate) fn lacks_prompt(reason: &str) -> bool {
    let rest = reason.strip_prefix(ROW_CONTAINER).unwrap_or_default();
    rest.starts_with(" has neither `") || rest.starts_with(" has no `")
}

/// The prompt of a row: a text, a conversation, or token ids as JSON.
#[derive(Debug, PartialEq)]
pub(crate) enum RowInput<'a> {
    Text(Cow<'a, str>),
    Messages(Conversation<'a>),
    TokenIds(Cow<'a, str>),
}

impl RowInput<'_> {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Text(text) | Self::TokenIds(text) => text,
            Self::Messages(conversation) => &conversation.json,
        }
    }

    pub(super) fn into_owned(self) -> RowInput<'static> {
        match self {
            Self::Text(text) => RowInput::Text(Cow::Owned(text.into_owned())),
            Self::Messages(conversation) => RowInput::Messages(conversation.into_owned()),
            Self::TokenIds(ids) => RowInput::TokenIds(Cow::Owned(ids.into_owned())),
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
    let has = |name| members.value(name).is_some();
    !has("prompt") && !has("messages") && (has("custom_id") || has("body"))
}

/// Whether a record is an OpenAI batch row; `None` if it is no object.
pub(crate) fn is_batch_record(record: &[u8]) -> Option<bool> {
    let members = JsonMembers::parse(std::str::from_utf8(record).ok()?).ok()?;
    Some(is_openai_batch(&members))
}

/// Parses a row with its prompt and its parameters at the top level.
pub(crate) fn parse_object_row<'a>(
    members: &JsonMembers<'a>,
    rules: &InputRules,
    sink: &mut impl FieldSink,
) -> Result<RowRequest<'a>, String> {
    let columns = rules.input_columns();
    let mut options = RowOptions::default();
    for (name, json) in members.iter() {
        if matches!(name, "id" | "params") || json == "null" || rules.uses_column(name) {
            continue;
        }
        if let Some(field_use) = row_field_use(members, name, json, sink) {
            sink.note_field(FieldPlace::Row, name, field_use);
            if field_use == FieldUse::Parameter {
                options.put_field(name, json)?;
            }
        }
    }
    if let Some(params) = members.value("params") {
        options.put_params(params, sink)?;
    }
    options.check_consistency()?;
    let input = parse_input(members, columns, ROW_CONTAINER)?;
    Ok(RowRequest { input: drop_final_answer(input, &options, rules)?, options, route: None })
}

/// Parses an OpenAI batch row, whose body is a request.
pub(crate) fn parse_batch_row<'a>(
    members: &JsonMembers<'a>,
    rules: &InputRules,
    sink: &mut impl FieldSink,
) -> Result<RowRequest<'a>, String> {
    let route = parse_batch_route(members)?;
    let body = JsonMembers::parse(require_batch_field(members, "body", "an object")?)
        .map_err(|reason| format!("`body`: {reason}"))?;
    for (name, json) in members.iter().filter(|(name, _)| !BATCH_FIELDS.contains(name)) {
        sink.note_data(FieldPlace::BatchRow, name, json);
    }
    let input = parse_input(&body, InputColumns::DEFAULT, "the body")?;
    match (route, &input) {
        (Route::Completions, RowInput::Messages(_)) => {
            return Err("`url` is for prompts, but `body` has messages".into());
        }
        (Route::Chat, RowInput::Text(_) | RowInput::TokenIds(_)) => {
            return Err("`url` is for messages, but `body` has a prompt".into());
        }
        _ => {}
    }
    let mut options = RowOptions::default();
    for (name, json) in body.iter().filter(|(name, _)| !matches!(*name, "prompt" | "messages")) {
        sink.note_sent(FieldPlace::Body, name, json, Some(route));
        options.put_field(name, json)?;
    }
    options.check_consistency()?;
    let input = drop_final_answer(input, &options, rules)?;
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
    match members.value(name) {
        Some(json) if json_kind(json) == expected => Ok(json),
        Some(json) => Err(format!("`{name}` must be {expected}, found {}", json_kind(json))),
        None => Err(format!(
            "an OpenAI batch row has the fields {}; `{name}` is missing",
            BATCH_FIELDS.join(", ")
        )),
    }
}

/// Parses the prompt or the conversation, of which exactly one must be given.
pub(crate) fn parse_input<'a>(
    members: &JsonMembers<'a>,
    columns: InputColumns<'_>,
    container: &str,
) -> Result<RowInput<'a>, String> {
    let find = |path: Option<&str>| match path {
        Some(path) => {
            find_in_members(members, path).map_err(|reason| format!("`{path}`: {reason}"))
        }
        None => Ok(None),
    };
    match (find(columns.prompt)?, find(columns.messages)?) {
        (Some(json), None) => parse_prompt(json, columns.prompt.unwrap_or_default()),
        (None, Some(json)) => parse_conversation(json, columns.messages.unwrap_or_default()),
        (Some(_), Some(_)) => Err(format!(
            "{container} has both {}, but must have one of them",
            columns.either().replace(" or ", " and ")
        )),
        (None, None) => Err(match (columns.prompt, columns.messages) {
            (Some(prompt), Some(messages)) => {
                format!("{container} has neither `{prompt}` nor `{messages}`")
            }
            _ => format!("{container} has no {}", columns.either()),
        }),
    }
}

/// Parses a conversation, or its JSON as a text, which tables have.
fn parse_conversation<'a>(json: &'a str, name: &str) -> Result<RowInput<'a>, String> {
    if json_kind(json) != "a string" {
        return Ok(RowInput::Messages(parse_messages(json, name)?));
    }
    let text = decode_string(json).map_err(|reason| format!("`{name}`: {reason}"))?;
    match json_kind(&text) {
        "a list" => Ok(RowInput::Messages(parse_messages(text.trim(), name)?.into_owned())),
        _ => Err(format!("`{name}` must be a list, found a string")),
    }
}

/// Parses a prompt: a text, token ids, or a conversation as in conversational data sets.
fn parse_prompt<'a>(json: &'a str, name: &str) -> Result<RowInput<'a>, String> {
    match json_kind(json) {
        "a string" => {
            Ok(RowInput::Text(decode_string(json).map_err(|reason| format!("`{name}`: {reason}"))?))
        }
        "a list" => parse_prompt_list(json, name),
        other => Err(format!(
            "`{name}` must be a text, a list of messages or a list of token ids, found {other}"
        )),
    }
}

fn parse_prompt_list<'a>(json: &'a str, name: &str) -> Result<RowInput<'a>, String> {
    match json_kind(json[1..].trim_start()) {
        "an object" => Ok(RowInput::Messages(parse_messages(json, name)?)),
        "a number" => {
            let ids = list_elements(json).map_err(|reason| format!("`{name}`: {reason}"))?;
            match ids.iter().enumerate().find(|(_, id)| id.parse::<u32>().is_err()) {
                Some((at, other)) => Err(format!("`{name}[{at}]` is not a token id: {other}")),
                None => Ok(RowInput::TokenIds(compact_json(json))),
            }
        }
        "invalid JSON" => Err(format!("`{name}` is an empty list")),
        other => Err(format!(
            "`{name}` must be a text, a list of messages or a list of token ids, found a list with {other}"
        )),
    }
}

/// Leaves out the assistant's message at the end of a conversation, if the rules say so and the row does not ask to
/// continue it.
pub(super) fn drop_final_answer<'a>(
    input: RowInput<'a>,
    options: &RowOptions<'_>,
    rules: &InputRules,
) -> Result<RowInput<'a>, String> {
    match input {
        RowInput::Messages(conversation)
            if rules.drop_final_answer
                && conversation.ends_with_answer
                && !options.continues_answer() =>
        {
            let json = Cow::Owned(without_last_message(&conversation.json)?);
            Ok(RowInput::Messages(Conversation { json, ends_with_answer: false }))
        }
        input => Ok(input),
    }
}
