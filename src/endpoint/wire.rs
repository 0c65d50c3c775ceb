//! The shapes of vLLM's JSON, as far as they are read here. Everything else in an answer is skipped unread.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

/// `GET /v1/models`.
#[derive(Deserialize)]
pub(super) struct ModelList {
    #[serde(default)]
    pub(super) data: Vec<ModelEntry>,
}

/// One of them.
#[derive(Deserialize)]
pub(super) struct ModelEntry {
    pub(super) id: String,
    /// vLLM has it, other servers do not.
    #[serde(default)]
    pub(super) max_model_len: Option<u64>,
    /// vLLM: the model's folder or name on its hub.
    #[serde(default)]
    pub(super) root: Option<String>,
}

/// `GET /version`.
#[derive(Deserialize)]
pub(super) struct VersionResponse {
    pub(super) version: String,
}

/// `GET /openapi.json`: which paths there are.
#[derive(Deserialize)]
pub(super) struct OpenApi {
    pub(super) paths: BTreeMap<String, Box<RawValue>>,
}

/// What an error body says.
pub(super) struct Said {
    /// Its words, at most some 300 characters of them.
    pub(super) message: String,
    /// The parameter it is about, where it names one.
    pub(super) param: Option<String>,
}

/// The words of an error body.
pub(super) fn error_message(body: &[u8]) -> String {
    error(body).message
}

/// An error body in any of the shapes in use: `{"error": {"message": …}}`, `{"error": "…"}`, `{"detail": …}`,
/// `{"message": …}`; else the body's own first words.
pub(super) fn error(body: &[u8]) -> Said {
    #[derive(Deserialize)]
    struct ErrorBody<'a> {
        #[serde(borrow)]
        error: Option<&'a RawValue>,
        #[serde(borrow)]
        detail: Option<&'a RawValue>,
        message: Option<String>,
    }
    #[derive(Deserialize)]
    struct ErrorObject {
        message: String,
        #[serde(default)]
        param: Option<String>,
    }
    let body_read = serde_json::from_slice::<ErrorBody<'_>>(body).ok();
    let inner = body_read.as_ref().and_then(|it| it.error.or(it.detail)).map(RawValue::get);
    if let Some(error) = inner.and_then(|raw| serde_json::from_str::<ErrorObject>(raw).ok()) {
        return Said { message: truncate_message(&error.message), param: error.param };
    }
    let text = inner.map(|raw| serde_json::from_str(raw).unwrap_or_else(|_| raw.to_owned()));
    let text = text.or(body_read.and_then(|it| it.message));
    let text = text.unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned());
    Said { message: truncate_message(&text), param: None }
}

fn truncate_message(text: &str) -> String {
    match text.char_indices().nth(300) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_of_error_gives_its_message() {
        for (body, says) in [
            (r#"{"error":{"message":"no such model","type":"x","code":404}}"#, "no such model"),
            (r#"{"error":"unsupported"}"#, "unsupported"),
            (r#"{"detail":"Not Found"}"#, "Not Found"),
            (r#"{"message":"old"}"#, "old"),
            ("404 page not found", "404 page not found"),
            (r#"{"detail":[{"loc":1}]}"#, r#"[{"loc":1}]"#),
        ] {
            assert_eq!(error_message(body.as_bytes()), says);
        }
        assert_eq!(error_message("é".repeat(400).as_bytes()).chars().count(), 301);
    }
}
