//! Serde shapes of vLLM's JSON, as far as it is read here; all other fields are skipped.
//!
//! Replies to inference requests have their shapes in `reply.rs`.

use std::collections::BTreeMap;

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, value::RawValue};

use crate::domain::{ServedModel, clean_line};

/// Bytes of a body that is not JSON in which its message is looked for.
const MAX_PLAIN_BODY: usize = 64 * 1024;

/// Names by which servers tell a model's context length in `/v1/models`, as paths into its entry: vLLM, llama-server,
/// LiteLLM, OpenRouter, Groq, LM Studio and Mistral.
const CONTEXT_LENGTHS: [&[&str]; 9] = [
    &["max_model_len"],
    &["meta", "n_ctx"],
    &["n_ctx"],
    &["max_input_tokens"],
    &["model_info", "max_input_tokens"],
    &["context_length"],
    &["top_provider", "context_length"],
    &["context_window"],
    &["max_context_length"],
];

/// Response body of `GET /version`.
#[derive(Deserialize)]
pub(super) struct VersionResponse {
    pub(super) version: String,
}

/// Response body of `GET /openapi.json`: the paths are the server's routes.
#[derive(Deserialize)]
pub(super) struct OpenApi {
    pub(super) paths: BTreeMap<String, Box<RawValue>>,
}

/// Message and parameter of an error body.
pub(super) struct ErrorDetails {
    /// Error message on one line, truncated to 300 characters.
    pub(super) message: String,
    /// Request parameter that the error names, if any.
    pub(super) param: Option<String>,
    /// Code or kind of the error, if it is a word; empty otherwise.
    pub(super) code: String,
}

/// Parses the response body of `GET /v1/models`: `{"data": […]}`, or the list alone. An odd field costs no model.
pub(super) fn parse_model_list(body: &[u8]) -> serde_json::Result<Vec<ServedModel>> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum ModelList {
        Wrapped { data: Option<Vec<Value>> },
        Bare(Vec<Value>),
    }
    let entries = match serde_json::from_slice(body)? {
        ModelList::Wrapped { data } => data.unwrap_or_default(),
        ModelList::Bare(entries) => entries,
    };
    let model = |entry: &Value| {
        let text = |name: &str| entry[name].as_str().map(str::to_owned);
        Some(ServedModel {
            id: text("id")?,
            max_model_len: CONTEXT_LENGTHS.iter().find_map(|path| {
                let value = path.iter().fold(entry, |value, name| &value[*name]);
                positive_count(value)
            }),
            root: text("root"),
            parent: text("parent"),
        })
    };
    Ok(entries.iter().filter_map(model).collect())
}

/// Returns a count of at least 1, which some servers write as a text or with a decimal point.
fn positive_count(value: &Value) -> Option<u64> {
    let count = match value {
        Value::String(text) => text.trim().parse().ok(),
        number => number.as_u64().or_else(|| {
            let float = number.as_f64().filter(|it| it.fract() == 0.0 && (1.0..1e15).contains(it));
            float.map(|it| it as u64)
        }),
    };
    count.filter(|&count| count > 0)
}

/// Returns whether a body is a JSON object.
pub(super) fn is_json_object(body: &[u8]) -> bool {
    serde_json::from_slice::<BTreeMap<String, IgnoredAny>>(body).is_ok()
}

/// Returns whether a JSON object has an error, whatever the status of its response.
pub(super) fn has_error(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct ErrorField {
        error: Option<IgnoredAny>,
    }
    serde_json::from_slice::<ErrorField>(body).is_ok_and(|body| body.error.is_some())
}

/// Returns the message of an error body.
pub(super) fn error_message(body: &[u8]) -> String {
    parse_error_body(body).message
}

/// Parses an error body in any of the shapes in use: `{"error": {"message": …}}`, `{"error": "…"}`, `{"detail": …}`,
/// `{"message": …}`. The message of an HTML page, which proxies send, is its title; otherwise it is the beginning of the
/// body itself.
pub(super) fn parse_error_body(body: &[u8]) -> ErrorDetails {
    #[derive(Deserialize)]
    struct ErrorBody<'a> {
        #[serde(borrow)]
        error: Option<&'a RawValue>,
        #[serde(borrow)]
        detail: Option<&'a RawValue>,
        message: Option<String>,
    }
    #[derive(Deserialize)]
    struct ErrorObject<'a> {
        message: String,
        #[serde(borrow)]
        param: Option<&'a RawValue>,
        #[serde(borrow)]
        code: Option<&'a RawValue>,
        #[serde(borrow, rename = "type")]
        kind: Option<&'a RawValue>,
    }
    let word = |json: Option<&RawValue>| serde_json::from_str::<String>(json?.get()).ok();
    let body_read = serde_json::from_slice::<ErrorBody<'_>>(body).ok();
    let inner = body_read.as_ref().and_then(|body| body.error.or(body.detail)).map(RawValue::get);
    if let Some(error) = inner.and_then(|raw| serde_json::from_str::<ErrorObject<'_>>(raw).ok()) {
        return ErrorDetails {
            message: truncate_message(&error.message),
            param: word(error.param),
            code: word(error.code).or_else(|| word(error.kind)).unwrap_or_default(),
        };
    }
    let text = inner.map(|raw| serde_json::from_str(raw).unwrap_or_else(|_| raw.to_owned()));
    let text = text.or(body_read.and_then(|body| body.message));
    let text = text.unwrap_or_else(|| {
        let start = &body[..body.len().min(MAX_PLAIN_BODY)];
        let text = String::from_utf8_lossy(start);
        html_title(&text).unwrap_or_else(|| text.trim().to_owned())
    });
    ErrorDetails { message: truncate_message(&text), param: None, code: String::new() }
}

/// Returns the title of an HTML page.
fn html_title(text: &str) -> Option<String> {
    if !text.trim_start().starts_with('<') {
        return None;
    }
    // ASCII letters only, so that offsets are the same in both.
    let lower = text.to_ascii_lowercase();
    let from = lower.find("<title>")? + "<title>".len();
    let length = lower[from..].find("</title>")?;
    let title = text[from..from + length].split_whitespace().collect::<Vec<_>>().join(" ");
    (!title.is_empty()).then_some(title)
}

/// Truncates a server's message and replaces what would end the line or control a terminal.
fn truncate_message(text: &str) -> String {
    match text.char_indices().nth(300) {
        Some((cut, _)) => format!("{}…", clean_line(&text[..cut])),
        None => clean_line(text).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_found_under_all_their_names() {
        let context = |entry: &str| {
            let models = parse_model_list(format!("[{entry}]").as_bytes()).expect("a list");
            assert_eq!(models[0].id, "m", "{entry}");
            models[0].max_model_len
        };
        for field in [
            r#""max_model_len":4096"#,
            r#""max_model_len":null,"meta":{"n_ctx_train":131072,"n_ctx":4096}"#,
            r#""max_input_tokens":4096"#,
            r#""model_info":{"max_input_tokens":4096}"#,
            r#""context_length":4096.0"#,
            r#""context_window":"4096""#,
            r#""max_context_length":4096,"root":7,"parent":null"#,
        ] {
            assert_eq!(context(&format!(r#"{{"id":"m",{field}}}"#)), Some(4096), "{field}");
        }
        for field in
            [r#""max_model_len":0"#, r#""max_model_len":-1"#, r#""meta":{"n_ctx_train":9}"#]
        {
            assert_eq!(context(&format!(r#"{{"id":"m",{field}}}"#)), None, "{field}");
        }
    }

    #[test]
    fn a_list_of_models_has_one_of_several_shapes() {
        let ids = |body: &str| {
            let models = parse_model_list(body.as_bytes());
            models.map(|all| all.into_iter().map(|it| it.id).collect::<Vec<_>>()).ok()
        };
        let two = Some(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(ids(r#"{"object":"list","data":[{"id":"a"},{"id":"b"}]}"#), two);
        assert_eq!(ids(r#"[{"id":"a"},{"name":"odd"},7,{"id":"b"}]"#), two);
        for empty in [r#"{"data":[]}"#, r#"{"data":null}"#, "{}", "[]"] {
            assert_eq!(ids(empty), Some(Vec::new()), "{empty}");
        }
        assert_eq!(ids("<html></html>"), None);
    }

    #[test]
    fn every_shape_of_error_body_gives_its_message() {
        for (body, message) in [
            (r#"{"error":{"message":"no such model","type":"x","code":404}}"#, "no such model"),
            (r#"{"error":"unsupported"}"#, "unsupported"),
            (r#"{"detail":"Not Found"}"#, "Not Found"),
            (r#"{"message":"old"}"#, "old"),
            ("404 page not found", "404 page not found"),
            (r#"{"detail":[{"loc":1}]}"#, r#"[{"loc":1}]"#),
            ("<html>\n<head><TITLE>502 Bad\n Gateway</title></head>…", "502 Bad Gateway"),
            ("<p>no title</p>", "<p>no title</p>"),
            (r#"{"error":"a\u001b[2J\nb"}"#, "a\u{fffd}[2J b"),
        ] {
            assert_eq!(error_message(body.as_bytes()), message);
        }
        assert_eq!(error_message("é".repeat(400).as_bytes()).chars().count(), 301);
    }
}
