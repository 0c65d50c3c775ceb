//! Serde shapes of vLLM's JSON, as far as it is read here; all other fields are skipped.
//!
//! Replies to inference requests have their shapes in `reply.rs`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::domain::clean_line;

/// Bytes of a body that is not JSON in which its message is looked for.
const MAX_PLAIN_BODY: usize = 64 * 1024;

/// Response body of `GET /v1/models`.
#[derive(Deserialize)]
pub(super) struct ModelList {
    #[serde(default)]
    pub(super) data: Vec<ModelEntry>,
}

#[derive(Deserialize)]
pub(super) struct ModelEntry {
    pub(super) id: String,
    /// Context length in tokens; set by vLLM only.
    #[serde(default)]
    pub(super) max_model_len: Option<u64>,
    /// Model folder or hub name; set by vLLM only.
    #[serde(default)]
    pub(super) root: Option<String>,
    /// Name of the base model, for an adapter; set by vLLM only.
    #[serde(default)]
    pub(super) parent: Option<String>,
}

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
