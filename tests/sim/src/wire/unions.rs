//! What the schema validation says about fields that may be of several types.
//!
//! It owns the complaints of a union: every alternative is tried and each says why it did not
//! fit. `prompt` and `messages` are such fields.

use super::fields::{Complaint, shown};
use serde_json::Value;

/// Why a value is none of: ids, lists of ids, a text, a list of texts.
#[must_use]
pub fn prompt(value: &Value) -> Vec<Complaint> {
    if fits_prompt(value) {
        return Vec::new();
    }
    let mut all = Vec::new();
    let whole = "body.prompt";
    let Some(items) = value.as_array() else {
        let list = || Complaint::new("list_type", whole, "Input should be a valid list", value);
        all.push(list());
        all.push(list());
        all.push(Complaint::new("string_type", whole, "Input should be a valid string", value));
        all.push(list());
        return all;
    };
    let place = |at: usize| format!("{whole}.{at}");
    all.extend(items.iter().enumerate().filter_map(|(at, item)| id(&place(at), item)));
    for (at, item) in items.iter().enumerate() {
        match item.as_array() {
            Some(ids) => {
                let ids = ids.iter().enumerate();
                all.extend(ids.filter_map(|(n, item)| id(&format!("{}.{n}", place(at)), item)));
            }
            None => all.push(Complaint::new(
                "list_type",
                &place(at),
                "Input should be a valid list",
                item,
            )),
        }
    }
    all.push(Complaint::new("string_type", whole, "Input should be a valid string", value));
    for (at, item) in items.iter().enumerate().filter(|(_, item)| !item.is_string()) {
        let message = "Input should be a valid string";
        all.push(Complaint::new("string_type", &place(at), message, item));
    }
    all
}

fn fits_prompt(value: &Value) -> bool {
    let ids = |v: &Value| v.as_array().is_some_and(|a| a.iter().all(|x| id("", x).is_none()));
    match value {
        Value::Null | Value::String(_) => true,
        Value::Array(items) => {
            items.iter().all(Value::is_string) || ids(value) || items.iter().all(ids)
        }
        _ => false,
    }
}

fn id(place: &str, item: &Value) -> Option<Complaint> {
    match item {
        Value::Number(n) if n.as_u64().is_some() => None,
        Value::Number(n) if n.as_i64().is_some() => Some(
            Complaint::new(
                "greater_than_equal",
                place,
                "Input should be greater than or equal to 0",
                item,
            )
            .with("{'ge': 0}"),
        ),
        Value::String(_) => Some(Complaint::new(
            "int_parsing",
            place,
            "Input should be a valid integer, unable to parse string as an integer",
            item,
        )),
        _ => Some(Complaint::new("int_type", place, "Input should be a valid integer", item)),
    }
}

/// The kinds of message that are tried, with the role each insists on.
const MESSAGES: [(&str, Option<&str>); 7] = [
    ("ChatCompletionDeveloperMessageParam", Some("developer")),
    ("ChatCompletionSystemMessageParam", Some("system")),
    ("ChatCompletionUserMessageParam", Some("user")),
    ("ChatCompletionAssistantMessageParam", Some("assistant")),
    ("ChatCompletionToolMessageParam", Some("tool")),
    ("ChatCompletionFunctionMessageParam", Some("function")),
    ("CustomChatCompletionMessageParam", None),
];

/// Why a value is no list of messages; a conversation in it is none either.
#[must_use]
pub fn messages(value: Option<&Value>, body: &Value) -> Vec<Complaint> {
    let place = "body.messages";
    match value {
        None => vec![Complaint::new("missing", place, "Field required", body)],
        Some(Value::Array(items)) => {
            let items = items.iter().enumerate();
            items.flat_map(|(at, item)| message(&format!("{place}.{at}"), item)).collect()
        }
        Some(other) => {
            vec![Complaint::new("list_type", place, "Input should be a valid list", other)]
        }
    }
}

/// Why a value is no list of conversations.
#[must_use]
pub fn conversations(value: Option<&Value>, body: &Value) -> Vec<Complaint> {
    let place = "body.messages";
    let Some(Value::Array(items)) = value else { return messages(value, body) };
    if items.is_empty() {
        return vec![empty(place, items)];
    }
    let items = items.iter().enumerate().map(|(at, item)| (format!("{place}.{at}"), item));
    items
        .flat_map(|(place, item)| match item {
            Value::Array(turns) if turns.is_empty() => vec![empty(&place, turns)],
            Value::Array(turns) => {
                let turns = turns.iter().enumerate();
                turns.flat_map(|(at, turn)| message(&format!("{place}.{at}"), turn)).collect()
            }
            _ => vec![Complaint::new("list_type", &place, "Input should be a valid list", item)],
        })
        .collect()
}

fn empty(place: &str, items: &[Value]) -> Complaint {
    let message = "List should have at least 1 item after validation, not 0";
    Complaint::new("too_short", place, message, &Value::Array(items.to_vec()))
        .with("{'field_type': 'List', 'min_length': 1, 'actual_length': 0}")
}

fn message(place: &str, item: &Value) -> Vec<Complaint> {
    let Some(fields) = item.as_object() else {
        return no_dictionary(place, item);
    };
    let role = fields.get("role");
    let content = fields.get("content");
    let is_silent = content.is_some_and(Value::is_null) && role.is_some_and(|r| r == "assistant");
    let content_fits =
        is_silent || matches!(content, None | Some(Value::String(_) | Value::Array(_)));
    if role.is_some_and(Value::is_string) && content_fits {
        return Vec::new();
    }
    let mut all = Vec::new();
    for (kind, wanted) in MESSAGES {
        let place = format!("{place}.{kind}");
        let of_content = content.filter(|_| !content_fits);
        let of_content = of_content.map(|content| bad_content(&place, wanted, content));
        let of_role = match (role, wanted) {
            (None, _) => no_role(&place, wanted, item),
            (Some(role), Some(wanted)) if role != wanted => vec![bad_role(&place, wanted, role)],
            _ => Vec::new(),
        };
        // Complaints follow the order in which a kind declares its fields.
        if wanted == Some("assistant") {
            all.extend(of_role);
            all.extend(of_content.into_iter().flatten());
        } else {
            all.extend(of_content.into_iter().flatten());
            all.extend(of_role);
        }
    }
    all.push(Complaint::new("missing", &format!("{place}.Message.author"), "Field required", item));
    if let Some(text) = content.filter(|content| content.is_string()) {
        let place = format!("{place}.Message.content");
        all.push(Complaint::new("list_type", &place, "Input should be a valid list", text));
    }
    all
}

fn no_dictionary(place: &str, item: &Value) -> Vec<Complaint> {
    let kinds = MESSAGES.iter().map(|(kind, _)| {
        let message = "Input should be a valid dictionary";
        Complaint::new("dict_type", &format!("{place}.{kind}"), message, item)
    });
    let message = "Input should be a valid dictionary or object to extract fields from";
    let last = Complaint::new("model_attributes_type", &format!("{place}.Message"), message, item);
    kinds.chain([last]).collect()
}

fn bad_content(place: &str, wanted: Option<&str>, content: &Value) -> Vec<Complaint> {
    // An assistant may have said nothing: null is fine there.
    if wanted == Some("assistant") && content.is_null() {
        return Vec::new();
    }
    let place = format!("{place}.content");
    vec![
        Complaint::new("string_type", &place, "Input should be a valid string", content),
        Complaint::new("iterable_type", &place, "Input should be iterable", content),
    ]
}

fn bad_role(place: &str, wanted: &str, role: &Value) -> Complaint {
    let message = format!("Input should be '{wanted}'");
    Complaint::new("literal_error", &format!("{place}.role"), &message, role)
        .with(&format!("{{'expected': {}}}", shown(&format!("'{wanted}'"))))
}

fn no_role(place: &str, wanted: Option<&str>, item: &Value) -> Vec<Complaint> {
    let missing = |field: &str| {
        Complaint::new("missing", &format!("{place}.{field}"), "Field required", item)
    };
    match wanted {
        Some("tool") => vec![missing("role"), missing("tool_call_id")],
        Some("function") => vec![missing("name"), missing("role")],
        _ => vec![missing("role")],
    }
}
