//! What a fault means: whose it is, and so what is to be done. Pure.
//!
//! The rules come from recorded exchanges with a real vLLM; the words it uses are matched here and nowhere else.

use std::time::Duration;

use super::{TransportError, wire};

/// Why a request has no answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// One of its prompts is at fault, and the server does not say which: halve the list until it stands alone.
    Prompt {
        /// It does not fit the context.
        too_long: bool,
        /// The server's words.
        what: String,
        /// The status.
        status: u16,
    },
    /// The request would be refused whatever its prompts: a parameter, the model, the grammar.
    Request {
        /// The server's words.
        what: String,
        /// The status.
        status: u16,
    },
    /// More prompts than the server takes in one list, or a list where it takes none.
    ListTooLong,
    /// The answer asked for is longer than what the context leaves; at most so many tokens are left.
    TooManyTokens {
        /// What is left for the answer, by the server's own count.
        left: u64,
        /// The server's words.
        what: String,
    },
    /// The server has too much to do.
    Busy {
        /// When it wants to be asked again.
        after: Option<Duration>,
    },
    /// It may go well next time: an error of the server's, a cut or garbled reply, silence.
    Transient {
        /// What happened.
        what: String,
        /// The status, where there was one.
        status: Option<u16>,
    },
    /// The server is going or gone.
    Gone {
        /// What happened.
        what: String,
    },
}

impl From<TransportError> for Fault {
    fn from(trouble: TransportError) -> Self {
        let what = trouble.to_string();
        match trouble {
            TransportError::Connect(_) => Self::Gone { what },
            TransportError::Timeout(_) | TransportError::ConnectionLost(_) => {
                Self::Transient { what, status: None }
            }
            TransportError::InvalidRequest(_) => Self::Request { what, status: 0 },
        }
    }
}

/// What a status other than 200 means.
pub(super) fn classify_response(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Fault {
    let error = wire::error(body);
    let what = error.message;
    let param = error.param.unwrap_or_default();
    match status {
        400 | 413 | 422 => classify_bad_request(status, what, &param),
        408 | 425 | 500 | 502 | 504 if !is_engine_dead(&what) => {
            Fault::Transient { what, status: Some(status) }
        }
        // The wrong key or model: it was another server when the work began, and may be that again.
        401 | 403 | 404 => Fault::Gone { what },
        429 | 503 => Fault::Busy { after: retry_after },
        500..600 => Fault::Gone { what },
        _ => Fault::Request { what, status },
    }
}

/// A vLLM that drains, or whose engine has died, says so with a 500 while `/health` may still be well.
fn is_engine_dead(what: &str) -> bool {
    ["cannot schedule new futures", "EngineCore encountered", "EngineDeadError", "engine is dead"]
        .iter()
        .any(|sign| what.contains(sign))
}

fn classify_bad_request(status: u16, what: String, param: &str) -> Fault {
    // vLLM's cap, and the words of servers written in Go that take no lists at all.
    if what.contains("prompt list length") || what.contains("cannot unmarshal array") {
        return Fault::ListTooLong;
    }
    if let Some(left) = parse_tokens_left(&what) {
        return Fault::TooManyTokens { left, what };
    }
    let too_long = param.starts_with("input_") || what.contains("maximum context length");
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
        .any(|sign| what.contains(sign));
    if is_prompts || !is_requests {
        // Words that nobody has met yet may be about one prompt: halving finds out, at the price of a few requests.
        return Fault::Prompt { too_long, what, status };
    }
    Fault::Request { what, status }
}

/// Older versions refuse a `max_tokens` over what prompt and context leave, and say both numbers.
fn parse_tokens_left(what: &str) -> Option<u64> {
    if !what.contains("max_tokens") && !what.contains("max_completion_tokens") {
        return None;
    }
    let context = number_after(what, "maximum context length is ")?;
    let prompt = number_after(what, "your request has ")
        .or_else(|| number_after(what, "your prompt contains "))
        .or_else(|| number_after(what, "tokens (").filter(|_| what.contains("in the messages")))?;
    context.checked_sub(prompt).filter(|&left| left > 0)
}

fn number_after(text: &str, words: &str) -> Option<u64> {
    let rest = text.split_once(words)?.1.trim_start_matches("at least ");
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The recorded refusals of a real vLLM, by name of their file.
    fn recorded_fault(case: &str) -> Fault {
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
            assert!(matches!(recorded_fault(case), Fault::Prompt { too_long: true, .. }), "{case}");
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
            let expected = matches!(fault, Fault::Prompt { too_long: false, .. })
                || (case == "chat-messages-empty" && matches!(fault, Fault::Request { .. }));
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
                matches!(recorded_fault(case), Fault::Request { .. }),
                "{case}: {:?}",
                recorded_fault(case)
            );
        }
        for case in ["completions-model-bad", "chat-model-bad"] {
            assert!(
                matches!(recorded_fault(case), Fault::Gone { .. }),
                "{case}: another model is served there now"
            );
        }
        assert_eq!(recorded_fault("completions-list-1025"), Fault::ListTooLong);
        assert_eq!(recorded_fault("queue-limit-64-busy-single"), Fault::Busy { after: None });
    }

    #[test]
    fn an_older_servers_count_says_how_much_is_left() {
        let body = br#"{"error":{"message":"'max_tokens' or 'max_completion_tokens' is too large: 2000. This model's maximum context length is 2048 tokens and your request has 100 input tokens (2000 > 2048 - 100).","type":"BadRequestError","param":null,"code":400}}"#;
        let fault = classify_response(400, None, body);
        assert!(matches!(fault, Fault::TooManyTokens { left: 1948, .. }), "{fault:?}");
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
            Fault::Gone { .. }
        ));
        assert!(matches!(of(500, "EngineCore encountered an issue."), Fault::Gone { .. }));
        assert!(matches!(
            of(500, "list index out of range"),
            Fault::Transient { status: Some(500), .. }
        ));
        assert!(matches!(of(502, "bad gateway"), Fault::Transient { .. }));
    }
}
