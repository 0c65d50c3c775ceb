//! Refusals: every error the server answers with, in its recorded words.
//!
//! It owns status, type, param and message; when each is due is decided elsewhere.

use serde::Serialize;
use serde_json::{Value, json};

/// A request that is not served: the status and the JSON body.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// An error as it is written; the order of its keys is the recorded one.
#[derive(Serialize)]
struct Error<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    param: Option<&'a str>,
    code: u16,
}

/// What an engine that has died says.
pub const ENGINE_DEAD: &str =
    "EngineCore encountered an issue. See stack trace (above) for the root cause.";
/// What a server that shuts down says to new requests.
pub const SHUTTING_DOWN: &str = "cannot schedule new futures after shutdown";

impl Refusal {
    /// An error of vLLM's usual shape.
    #[must_use]
    pub fn new(status: u16, kind: &str, message: &str, param: Option<&str>) -> Self {
        let error = Error { message, kind, param, code: status };
        let error = serde_json::to_string(&error).unwrap_or_default();
        Self { status, body: format!("{{\"error\":{error}}}") }
    }

    /// An error of the web framework: `{"detail": …}`.
    #[must_use]
    pub fn detail(status: u16, detail: &str) -> Self {
        Self { status, body: json!({ "detail": detail }).to_string() }
    }

    /// One of vLLM's own checks failed.
    #[must_use]
    pub fn bad(message: &str) -> Self {
        Self::new(400, "BadRequestError", message, None)
    }

    /// One of vLLM's own checks of a parameter failed; the message names it, with its value.
    #[must_use]
    pub fn bad_param(message: &str, param: &str, value: Option<&str>) -> Self {
        let value = value.map_or(String::new(), |v| format!(", value={v}"));
        let message = format!("{message} (parameter={param}{value})");
        Self::new(400, "BadRequestError", &message, Some(param))
    }

    /// The body does not fit the schema.
    #[must_use]
    pub fn schema(message: &str, param: Option<&str>) -> Self {
        Self::new(400, "Bad Request", message, param)
    }

    /// The content type is not JSON.
    #[must_use]
    pub fn media_type() -> Self {
        let message =
            "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed";
        Self::schema(message, None)
    }

    /// The server's queue is full.
    #[must_use]
    pub fn busy() -> Self {
        let message = "The engine is currently busy and cannot accept new requests. \
                       Please try again later or on a different instance.";
        Self::new(503, "Service Unavailable", message, None)
    }

    /// Something broke inside.
    #[must_use]
    pub fn internal(message: &str) -> Self {
        Self::new(500, "InternalServerError", message, None)
    }

    /// The key is missing or wrong.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self { status: 401, body: json!({"error": "Unauthorized"}).to_string() }
    }

    /// A route that this server does not offer.
    #[must_use]
    pub fn scale_out() -> Self {
        let message = "Scale-out endpoints are disabled. \
                       Restart vllm serve with --enable-scale-out to enable them.";
        Self::new(403, "PermissionDeniedError", message, None)
    }

    /// No such model.
    #[must_use]
    pub fn no_model(asked: &str, served: &[String]) -> Self {
        let served = served.join(", ");
        let message = format!("The model `{asked}` does not exist. Valid aliases: {served}.");
        Self::new(404, "NotFoundError", &message, Some("model"))
    }

    /// The prompt has more tokens than the context; they were counted no further.
    #[must_use]
    pub fn too_many_tokens(limit: usize) -> Self {
        let found = limit + 1;
        let message = format!(
            "This model's maximum context length is {limit} tokens. However, your prompt \
             contains at least {found} input tokens, which exceeds this limit even without any \
             output tokens. Please reduce the length of the input prompt."
        );
        Self::bad_param(&message, "input_tokens", Some(&found.to_string()))
    }

    /// The prompt has too many characters even to be tokenized.
    #[must_use]
    pub fn too_many_characters(limit: usize, bound: usize, found: usize) -> Self {
        let message = format!(
            "This model's maximum context length is {limit} tokens. However, your prompt \
             contains {found} characters (more than {bound} characters, which is the upper bound \
             for {limit} input tokens). Please reduce the length of the input prompt."
        );
        Self::bad_param(&message, "input_text", Some(&found.to_string()))
    }

    /// An older server on a prompt that fills the context by itself.
    #[must_use]
    pub fn older_too_long(limit: usize, found: usize) -> Self {
        Self::bad(&format!(
            "This model's maximum context length is {limit} tokens. However, your request has \
             {found} input tokens. Please reduce the length of the input messages."
        ))
    }

    /// An older server on a prompt that leaves too little room for its answer.
    #[must_use]
    pub fn older_no_room(limit: usize, prompt: usize, max_tokens: usize) -> Self {
        Self::bad(&format!(
            "'max_tokens' or 'max_completion_tokens' is too large: {max_tokens}. This model's \
             maximum context length is {limit} tokens and your request has {prompt} input tokens \
             ({max_tokens} > {limit} - {prompt})."
        ))
    }

    /// A server in Go on a prompt that is a list.
    #[must_use]
    pub fn go_no_lists() -> Self {
        let message = "json: cannot unmarshal array into Go struct field \
                       CompletionRequest.prompt of type string";
        let error = json!({"message": message, "type": "invalid_request_error",
            "param": Value::Null, "code": Value::Null});
        Self { status: 400, body: json!({ "error": error }).to_string() }
    }
}
