//! What the reply to a probe says: whether the model takes conversations, is to be asked again, or can never be used. Pure.
//!
//! Owns the rule that texts are sent raw only if the server says clearly that it has no chat template: a refusal for any
//! other reason (a rate limit, a backend that is down, a time-out) says nothing about templates, and the route of a whole
//! run depends on it. Faults of the requests of a job are classified in `fault.rs`.

use super::{TransportError, http::HttpResponse, wire};

/// Why a server is not ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ProbeFailure {
    /// It may be ready later.
    Pending(String),
    /// It will not be ready unless something is changed; the reason has a hint.
    Permanent(String),
}

/// The reply of a model that works, or is taken to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ModelReply {
    Accepted,
    /// The server has no chat template for the model.
    NoTemplate,
    /// Refused for a reason that concerns this request alone, such as a parameter.
    Refused,
    /// The server does not have the route.
    NoRoute,
}

/// Parts of messages by which servers say that a model has no chat template: all words of a line must occur.
const NO_TEMPLATE: [&[&str]; 8] = [
    // vLLM, with the words of transformers 4.44 and later
    &["chat template", "no longer allowed"],
    &["must provide a chat template"],
    // transformers
    &["chat_template is not set"],
    &["does not have a chat template"],
    &["no chat template"],
    &["chat template", "not found"],
    &["chat template", "not defined"],
    // TGI
    &["template error", "template not found"],
];

impl ProbeFailure {
    pub(super) fn of_transport(method: &str, path: &str, error: &TransportError) -> Self {
        match error {
            // A server that is not there does not answer any route.
            TransportError::Connect(_) => Self::Pending(error.to_string()),
            _ => Self::Pending(format!("{method} {path}: {error}")),
        }
    }
}

/// Judges the reply to a request that a model should answer.
pub(super) fn judge_model_reply(
    reply: &HttpResponse,
    path: &str,
) -> Result<ModelReply, ProbeFailure> {
    let message = wire::error_message(&reply.body).to_ascii_lowercase();
    let says = |words: &&[&str]| words.iter().all(|word| message.contains(word));
    match reply.status {
        200 => match wire::is_json_object(&reply.body) {
            true if wire::has_error(&reply.body) => Err(refusal_of(reply, "POST", path)),
            true => Ok(ModelReply::Accepted),
            false => Err(ProbeFailure::Pending(format!(
                "POST {path} answered 200 without JSON: {}",
                wire::error_message(&reply.body)
            ))),
        },
        400.. if NO_TEMPLATE.iter().any(says) => Ok(ModelReply::NoTemplate),
        // A model that is listed and not there is expected to come.
        404 if message.contains("model") => Err(refusal_of(reply, "POST", path)),
        404 | 405 | 501 => Ok(ModelReply::NoRoute),
        400 | 413 | 422 => Ok(ModelReply::Refused),
        _ => Err(refusal_of(reply, "POST", path)),
    }
}

/// Returns the failure that a refusal means for a probe.
pub(super) fn refusal_of(reply: &HttpResponse, method: &str, path: &str) -> ProbeFailure {
    let refusal = describe_refusal(reply, method, path);
    match reply.status {
        300..=399 => ProbeFailure::Permanent(match &reply.redirect {
            Some(target) => format!("{refusal}\nhint: {}", redirect_hint(target, path)),
            None => {
                format!("{refusal}\nhint: redirects are not followed; name the server's own URL")
            }
        }),
        401 | 403 => ProbeFailure::Permanent(format!(
            "{refusal}\nhint: set AURORA_SWARM_API_KEY to a key that this server and model accept"
        )),
        _ => ProbeFailure::Pending(refusal),
    }
}

/// Returns a sentence about a refusal, which always has words.
pub(super) fn describe_refusal(reply: &HttpResponse, method: &str, path: &str) -> String {
    let message = match &reply.redirect {
        Some(target) => format!("redirect to {target}"),
        None => wire::error_message(&reply.body),
    };
    match message.is_empty() {
        true => format!("{method} {path} answered {}", reply.status),
        false => format!("{method} {path} answered {}: {message}", reply.status),
    }
}

/// Returns the advice for a redirect of `path` to the URL `target`.
pub(super) fn redirect_hint(target: &str, path: &str) -> String {
    match target.strip_suffix(path) {
        Some(base) => format!("redirects are not followed: pass --endpoint {base}"),
        None => format!(
            "redirects are not followed: the server, or a proxy before it, takes requests at {target} only"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, body: &str) -> HttpResponse {
        HttpResponse { status, retry_after: None, redirect: None, body: body.as_bytes().to_vec() }
    }

    #[test]
    fn only_clear_words_mean_that_there_is_no_template() {
        for (status, body) in [
            (
                400,
                r#"{"error":{"message":"As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template if the tokenizer does not define one."}}"#,
            ),
            (
                400,
                r#"{"message":"Cannot use chat template functions because tokenizer.chat_template is not set and no template argument was passed!"}"#,
            ),
            (
                422,
                r#"{"error":"Template error: template not found","error_type":"template_error"}"#,
            ),
            (500, r#"{"detail":"This model does not have a chat template"}"#),
        ] {
            assert_eq!(judge_model_reply(&reply(status, body), "/p"), Ok(ModelReply::NoTemplate));
        }
        for (status, body) in [
            (400, r#"{"error":{"message":"this model does not support generation"}}"#),
            (400, r#"{"error":{"message":"Unsupported parameter: 'max_tokens'"}}"#),
            (422, r#"{"detail":[{"loc":["body","messages"]}]}"#),
        ] {
            assert_eq!(judge_model_reply(&reply(status, body), "/p"), Ok(ModelReply::Refused));
        }
        assert_eq!(
            judge_model_reply(&reply(404, r#"{"detail":"Not Found"}"#), "/p"),
            Ok(ModelReply::NoRoute)
        );
        assert_eq!(
            judge_model_reply(&reply(200, r#"{"choices":[]}"#), "/p"),
            Ok(ModelReply::Accepted)
        );
    }

    #[test]
    fn any_other_answer_is_asked_again() {
        for (status, body) in [
            (408, ""),
            (429, r#"{"error":{"message":"Rate limit reached"}}"#),
            (500, r#"{"error":{"message":"Internal Server Error"}}"#),
            (503, ""),
            (529, "overloaded"),
            (404, r#"{"error":{"message":"The model `x` does not exist."}}"#),
            (200, "<html><title>Sign in</title></html>"),
            (200, r#"{"error":{"message":"model overloaded"}}"#),
        ] {
            let judged = judge_model_reply(&reply(status, body), "/p");
            let Err(ProbeFailure::Pending(reason)) = judged else { panic!("{status}: {judged:?}") };
            assert!(reason.contains(&format!("POST /p answered {status}")), "{reason}");
        }
    }

    #[test]
    fn a_wrong_key_and_a_redirect_are_told_with_what_to_do() {
        let judged = judge_model_reply(&reply(401, r#"{"error":{"message":"no key"}}"#), "/p");
        assert!(
            matches!(&judged, Err(ProbeFailure::Permanent(it)) if it.contains("401: no key\nhint: set AURORA_SWARM_API_KEY")),
            "{judged:?}"
        );
        let of = |target: &str| {
            let redirect = Some(target.to_owned());
            refusal_of(&HttpResponse { redirect, ..reply(307, "") }, "GET", "/v1/models")
        };
        for (target, hint) in [
            ("https://h/v1/models", "pass --endpoint https://h"),
            ("http://h/v1/models/", "takes requests at http://h/v1/models/ only"),
        ] {
            let ProbeFailure::Permanent(reason) = of(target) else { panic!("{target}") };
            assert!(reason.contains(&format!("redirect to {target}\nhint: ")), "{reason}");
            assert!(reason.contains(hint), "{reason}");
        }
    }
}
