//! Classification of failed requests: the prompt's fault, the request's, or the endpoint's, and so how to react. Pure.
//!
//! Owns the rules that map HTTP statuses and error messages to a fault. They come from recorded exchanges with a real
//! vLLM (`tests/data/vllm-wire`); the messages it uses are matched here and nowhere else. The reaction (retry, split
//! the batch, lower the concurrency limit, suspend the endpoint) is the scheduler's, `engine/scheduler`.

use std::time::Duration;

use super::{TransportError, wire};

/// Reason why a request brought no answers, by what is at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RequestFault {
    /// One of the prompts is at fault and the server does not say which: the batch is split in halves until it is
    /// alone.
    Prompt {
        /// The prompt does not fit into the model's context.
        too_long: bool,
        /// Error message of the server.
        message: String,
        /// HTTP status of the response.
        status: u16,
    },
    /// The request would be refused with any prompt: a parameter, the model or the grammar is wrong.
    Request {
        /// Error message of the server.
        message: String,
        /// HTTP status of the response; 0 if the request could not be built.
        status: u16,
    },
    /// The batch has more prompts than the server accepts in one request.
    ListTooLong,
    /// The reply to a list does not have one answer for each prompt, so that none of them is believed.
    UnusableList {
        /// Description of what is wrong with the reply, for messages.
        message: String,
    },
    /// `max_tokens` exceeds what the prompt leaves of the context.
    TooManyTokens {
        /// Tokens left for the answer, by the server's own count.
        tokens_left: u64,
        /// Error message of the server.
        message: String,
    },
    /// Back-pressure: the server has too much to do (429, 503).
    Busy {
        /// HTTP status of the response.
        status: u16,
        /// Error message of the server.
        message: String,
        /// Delay that the server asks for (`Retry-After`).
        retry_after: Option<Duration>,
    },
    /// A retry may succeed: an internal server error, a truncated or unreadable reply, a timeout.
    Transient {
        /// Description of the failure, for messages.
        message: String,
        /// HTTP status, if a response arrived.
        status: Option<u16>,
    },
    /// Access is denied, or something is not found (403, 404): to this prompt, if the endpoint answers others, such as by
    /// a content filter or for an attachment, or to all.
    Denied {
        /// Error message of the server.
        message: String,
        /// HTTP status of the response.
        status: u16,
    },
    /// The endpoint is shutting down, unreachable, or serves something else now.
    EndpointDown {
        /// Description of the failure, for messages.
        message: String,
    },
}

/// Words by which a server's refusal speaks of the JSON schema that was sent along.
const SCHEMA_WORDS: [&str; 6] =
    ["response_format", "structured_output", "grammar", "schema", "guided", "json_object"];

impl RequestFault {
    /// Returns the HTTP status and the server's message if it refuses the prompts or the request for good.
    #[must_use]
    pub(crate) fn refusal(&self) -> Option<(u16, &str)> {
        match self {
            Self::Prompt { message, status, .. } | Self::Request { message, status } => {
                Some((*status, message.as_str())).filter(|&(status, _)| status > 0)
            }
            _ => None,
        }
    }

    /// Returns whether the refusal is the endpoint's own fault, whatever was asked: it redirects, or does not take the
    /// route's requests.
    #[must_use]
    pub(crate) fn is_endpoints_own(&self) -> bool {
        self.refusal().is_some_and(|(status, _)| matches!(status, 300..400 | 405))
    }

    /// Decides whose fault a denial is: the prompt's if the endpoint answers others, otherwise the endpoint's.
    #[must_use]
    pub(crate) fn judge_denial(self, endpoint_answers: bool) -> Self {
        match self {
            Self::Denied { message, status } if endpoint_answers => {
                Self::Transient { message, status: Some(status) }
            }
            Self::Denied { message, .. } => Self::EndpointDown { message },
            fault => fault,
        }
    }

    /// Returns whether the server has refused the request for what it is, and neither for its length nor for a state of
    /// the server's own.
    #[must_use]
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Prompt { too_long: false, .. } | Self::Request { .. })
    }

    /// Returns the description of the failure.
    #[must_use]
    pub(crate) fn message(&self) -> &str {
        match self {
            Self::Prompt { message, .. }
            | Self::Request { message, .. }
            | Self::UnusableList { message }
            | Self::TooManyTokens { message, .. }
            | Self::Transient { message, .. }
            | Self::Denied { message, .. }
            | Self::EndpointDown { message } => message,
            Self::ListTooLong => "the list is too long",
            Self::Busy { .. } => "the server has too much to do",
        }
    }

    /// Returns the server's message if it refuses the JSON schema of the request, or the parameter that carries it.
    #[must_use]
    pub(crate) fn schema_refusal(&self) -> Option<&str> {
        let (Self::Prompt { too_long: false, message, .. } | Self::Request { message, .. }) = self
        else {
            return None;
        };
        let lower = message.to_ascii_lowercase();
        SCHEMA_WORDS.iter().any(|word| lower.contains(word)).then_some(message)
    }
}

impl From<TransportError> for RequestFault {
    fn from(error: TransportError) -> Self {
        let message = error.to_string();
        match error {
            TransportError::Connect(_) => Self::EndpointDown { message },
            TransportError::Timeout(_)
            | TransportError::ConnectionLost(_)
            | TransportError::ResponseTooLarge(_) => Self::Transient { message, status: None },
            TransportError::InvalidRequest(_) => Self::Request { message, status: 0 },
        }
    }
}

/// Classifies a response whose status is not 200.
pub(super) fn classify_response(
    status: u16,
    retry_after: Option<Duration>,
    body: &[u8],
) -> RequestFault {
    let error = wire::parse_error_body(body);
    let message = error.message;
    let param = error.param.unwrap_or_default();
    match status {
        400 | 413 | 422 => classify_bad_request(status, message, &param, &error.code),
        408 | 425 | 500 | 502 | 504 if !is_engine_dead(&message) => {
            RequestFault::Transient { message, status: Some(status) }
        }
        // A wrong key or model: the probe saw another server at this URL, and that one may come back.
        401 => RequestFault::EndpointDown { message },
        404 if param == "model" => RequestFault::EndpointDown { message },
        403 | 404 => RequestFault::Denied { message, status },
        // Not a failure of the prompt: it costs no attempt, only a lower concurrency limit.
        429 | 503 => RequestFault::Busy { status, message, retry_after },
        500..600 => RequestFault::EndpointDown { message },
        300..400 => {
            let message = format!("HTTP {status}: the server redirects, which is not followed");
            RequestFault::Request { message, status }
        }
        _ => {
            let message = if message.is_empty() {
                format!("HTTP {status}, without a message")
            } else {
                message
            };
            RequestFault::Request { message, status }
        }
    }
}

/// A vLLM that drains or whose engine has died answers 500, while its `/health` may still answer 200.
fn is_engine_dead(message: &str) -> bool {
    ["cannot schedule new futures", "EngineCore encountered", "EngineDeadError", "engine is dead"]
        .iter()
        .any(|pattern| message.contains(pattern))
}

fn classify_bad_request(status: u16, message: String, param: &str, code: &str) -> RequestFault {
    if message.contains("prompt list length") {
        return RequestFault::ListTooLong;
    }
    if let Some(tokens_left) = parse_tokens_left(&message) {
        return RequestFault::TooManyTokens { tokens_left, message };
    }
    let too_long = param.starts_with("input_") || is_too_long(&message, code);
    let is_prompts = too_long
        || param == "prompt"
        || param.starts_with("body.prompt")
        || param.starts_with("body.messages");
    let is_requests = !param.is_empty()
        || [
            "Grammar error",
            "n must be",
            "min_tokens must",
            "tool choice",
            "tool_choice",
            "chat template",
        ]
        .iter()
        .any(|pattern| message.contains(pattern));
    if is_prompts || !is_requests {
        // An unknown message may be about a single prompt: splitting the batch finds out, at the price of a few
        // requests.
        return RequestFault::Prompt { too_long, message, status };
    }
    RequestFault::Request { message, status }
}

/// Returns whether a refusal says that the prompt is longer than the model's context, in the words of vLLM, SGLang,
/// llama-server, TGI and OpenAI: of the context, the prompt or its tokens, and that there are too many.
fn is_too_long(message: &str, code: &str) -> bool {
    if ["context_length_exceeded", "exceed_context_size_error"].contains(&code) {
        return true;
    }
    let lower = message.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let is_excess = has(&[
        "exceed",
        "longer than",
        "too long",
        "larger than",
        "too large",
        "maximum",
        "must have less",
    ]);
    let is_length = has(&[
        "context length",
        "context size",
        "context window",
        "prompt is too long",
        "input is too long",
    ]);
    is_excess && (is_length || (has(&["input", "prompt"]) && has(&["must have less than"])))
}

/// Computes the tokens left for the answer from a message that refuses a `max_tokens` which does not fit: those of older
/// vLLM versions, SGLang, TGI and OpenAI state the context length and the prompt's length.
fn parse_tokens_left(message: &str) -> Option<u64> {
    let is_sum = ["max_tokens", "max_completion_tokens", "max_new_tokens", "completion"]
        .iter()
        .any(|word| message.contains(word));
    if !is_sum {
        return None;
    }
    let context = number_after(message, "maximum context length is ")
        .or_else(|| number_after(message, "maximum context length of "))
        .or_else(|| number_after(message, "`max_new_tokens` must be <= "))?;
    let prompt = number_after(message, "your request has ")
        .or_else(|| number_after(message, "your prompt contains "))
        .or_else(|| number_before(message, " tokens from the input"))
        .or_else(|| number_before(message, " in the messages"))
        .or_else(|| number_before(message, " in your prompt"))
        .or_else(|| number_after(message, "Given: "))?;
    context.checked_sub(prompt).filter(|&tokens_left| tokens_left > 0)
}

fn number_before(text: &str, suffix: &str) -> Option<u64> {
    let before = text.split_once(suffix)?.0;
    let before = before.strip_suffix(" tokens").unwrap_or(before);
    let digits = before.rsplit(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

fn number_after(text: &str, prefix: &str) -> Option<u64> {
    let rest = text.split_once(prefix)?.1.trim_start_matches("at least ");
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Classifies a recorded response of a real vLLM, named by its file.
    fn recorded_fault(case: &str) -> RequestFault {
        let path = format!("{}/tests/data/vllm-wire/{case}.json", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let response = &value["response"];
        let status = u16::try_from(response["status"].as_u64().expect("a status")).expect("small");
        classify_response(status, None, response["body"].to_string().as_bytes())
    }

    #[test]
    fn a_prompts_fault_is_told_from_the_requests() {
        for case in ["completions-too-long", "completions-list-one-too-long", "chat-too-long"] {
            assert!(
                matches!(recorded_fault(case), RequestFault::Prompt { too_long: true, .. }),
                "{case}"
            );
        }
        for case in [
            "completions-list-with-empty-string",
            "completions-empty-string",
            "completions-token-id-out-of-vocab",
            "chat-content-null",
            "chat-role-missing",
            "chat-messages-empty",
        ] {
            let fault = recorded_fault(case);
            let expected = matches!(fault, RequestFault::Prompt { too_long: false, .. })
                || (case == "chat-messages-empty" && matches!(fault, RequestFault::Request { .. }));
            assert!(expected, "{case}: {fault:?}");
        }
        for case in [
            "completions-temperature-huge",
            "completions-logprobs-21",
            "completions-structured-outputs-bad-regex",
            "completions-n2-temperature0",
            "completions-stop-five",
            "completions-top-p-0",
            "completions-max-tokens-zero",
            "chat-tools-default",
        ] {
            assert!(
                matches!(recorded_fault(case), RequestFault::Request { .. }),
                "{case}: {:?}",
                recorded_fault(case)
            );
        }
        for case in ["completions-model-bad", "chat-model-bad"] {
            assert!(
                matches!(recorded_fault(case), RequestFault::EndpointDown { .. }),
                "{case}: the server serves another model now"
            );
        }
        assert_eq!(recorded_fault("completions-list-1025"), RequestFault::ListTooLong);
        let busy = recorded_fault("queue-limit-64-busy-single");
        assert!(
            matches!(busy, RequestFault::Busy { status: 503, retry_after: None, .. }),
            "{busy:?}"
        );
    }

    #[test]
    fn a_refused_schema_is_told_from_other_refusals() {
        for case in
            ["completions-structured-outputs-bad-schema", "completions-structured-outputs-two"]
        {
            assert!(recorded_fault(case).schema_refusal().is_some(), "{case}");
        }
        for case in [
            "completions-temperature-huge",
            "chat-tools-default",
            "chat-too-long",
            "chat-model-bad",
        ] {
            assert!(recorded_fault(case).schema_refusal().is_none(), "{case}");
        }
        let body =
            br#"{"error":{"message":"Unrecognized request argument supplied: response_format"}}"#;
        assert!(classify_response(400, None, body).schema_refusal().is_some());
    }

    #[test]
    fn an_older_servers_count_says_how_much_is_left() {
        let body = br#"{"error":{"message":"'max_tokens' or 'max_completion_tokens' is too large: 2000. This model's maximum context length is 2048 tokens and your request has 100 input tokens (2000 > 2048 - 100).","type":"BadRequestError","param":null,"code":400}}"#;
        let fault = classify_response(400, None, body);
        assert!(
            matches!(fault, RequestFault::TooManyTokens { tokens_left: 1948, .. }),
            "{fault:?}"
        );
    }

    #[test]
    fn too_long_prompts_and_answers_are_known_in_the_words_of_other_servers() {
        let of =
            |error: &str| classify_response(400, None, format!("{{\"error\":{error}}}").as_bytes());
        for error in [
            r#"{"code":400,"message":"the request exceeds the available context size (2048 tokens), try increasing it","type":"exceed_context_size_error"}"#,
            r#"{"message":"request (3000 tokens) exceeds the available context size (2048 tokens)"}"#,
            r#"{"message":"The input (3001 tokens) is longer than the model's context length (2048 tokens)."}"#,
            r#"{"message":"Your messages are too much","code":"context_length_exceeded"}"#,
            r#"{"message":"Input validation error: `inputs` must have less than 2048 tokens. Given: 3000"}"#,
            r#"{"message":"prompt is too long: 210000 tokens > 200000 maximum"}"#,
            r#"{"message":"Requested tokens (3000) exceed context window of 2048"}"#,
        ] {
            let fault = of(error);
            assert!(
                matches!(fault, RequestFault::Prompt { too_long: true, .. }),
                "{error}: {fault:?}"
            );
        }
        for error in [
            r#"{"message":"Requested token count exceeds the model's maximum context length of 2048 tokens. You requested a total of 2108 tokens: 1608 tokens from the input messages and 500 tokens for the completion."}"#,
            r#"{"message":"This model's maximum context length is 2048 tokens. However, you requested 2108 tokens (1608 in the messages, 500 in the completion)."}"#,
            r#"{"message":"Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. Given: 1608 `inputs` tokens and 500 `max_new_tokens`"}"#,
        ] {
            let fault = of(error);
            assert!(
                matches!(fault, RequestFault::TooManyTokens { tokens_left: 440, .. }),
                "{error}: {fault:?}"
            );
        }
        for error in [
            r#"{"message":"temperature is too large"}"#,
            r#"{"message":"the context of this request is not allowed"}"#,
        ] {
            assert!(matches!(of(error), RequestFault::Prompt { too_long: false, .. }), "{error}");
        }
    }

    #[test]
    fn a_denial_is_the_prompts_if_the_endpoint_answers_others() {
        for status in [403, 404] {
            let fault = classify_response(status, None, br#"{"error":{"message":"blocked"}}"#);
            assert!(matches!(&fault, RequestFault::Denied { .. }), "{fault:?}");
            let of_prompt = fault.clone().judge_denial(true);
            let expected =
                RequestFault::Transient { message: "blocked".into(), status: Some(status) };
            assert_eq!(of_prompt, expected);
            let of_endpoint = fault.judge_denial(false);
            assert_eq!(of_endpoint, RequestFault::EndpointDown { message: "blocked".into() });
        }
        let key = classify_response(401, None, b"").judge_denial(true);
        assert!(matches!(key, RequestFault::EndpointDown { .. }), "a key is no matter of prompts");
    }

    #[test]
    fn a_server_that_goes_is_told_from_one_that_stumbles() {
        let of = |status, text: &str| {
            classify_response(
                status,
                None,
                format!("{{\"error\":{{\"message\":\"{text}\"}}}}").as_bytes(),
            )
        };
        assert!(matches!(
            of(500, "cannot schedule new futures after shutdown"),
            RequestFault::EndpointDown { .. }
        ));
        assert!(matches!(
            of(500, "EngineCore encountered an issue."),
            RequestFault::EndpointDown { .. }
        ));
        assert!(matches!(
            of(500, "list index out of range"),
            RequestFault::Transient { status: Some(500), .. }
        ));
        assert!(matches!(of(502, "bad gateway"), RequestFault::Transient { .. }));
    }
}
