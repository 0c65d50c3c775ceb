//! A batch as a request: the bodies of vLLM's two routes, and sending them.
//!
//! Owns the JSON that goes out, written once, straight into its buffer. What comes back is `reply`'s, what a refusal means
//! is `fault`'s.

use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{Fault, HttpClient, ServerReply, fault, reply};
use crate::domain::{Prompt, PromptInput, RequestParams, Route, Url};

/// What all prompts of a request share.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BatchParams {
    /// The route.
    pub route: Route,
    /// The served model's name.
    pub model: String,
    /// Everything but model and prompt.
    pub params: RequestParams,
    /// Sequences a prompt.
    pub n: usize,
    /// May several prompts go in one request?
    pub allow_lists: bool,
}

/// A request, ready to be sent.
#[derive(Clone, Debug)]
pub struct InferenceRequest {
    route: Route,
    body: Vec<u8>,
    /// Bytes of each prompt, by which a list's tokens are shared out.
    lengths: Vec<u64>,
    n: usize,
}

impl InferenceRequest {
    /// Prompts as they are: raw texts in a list, or one conversation.
    #[must_use]
    pub fn new<'p>(
        shared: &BatchParams,
        prompts: impl Iterator<Item = &'p Prompt> + Clone,
        system: Option<&str>,
    ) -> Self {
        match shared.route {
            Route::Completions => {
                Self::from_texts(shared, prompts.map(|prompt| prompt.input.as_str()))
            }
            Route::Chat => {
                let lengths = prompts.clone().map(|it| it.input.as_str().len() as u64).collect();
                let conversation =
                    prompts.into_iter().next().map(|it| messages_json(&it.input, system));
                let body = chat_body(shared, &conversation.unwrap_or_default());
                Self { route: Route::Chat, body, lengths, n: shared.n }
            }
        }
    }

    /// Texts for the completions route, whatever they were made from.
    #[must_use]
    pub fn from_texts<'t>(
        shared: &BatchParams,
        texts: impl Iterator<Item = &'t str> + Clone,
    ) -> Self {
        let lengths = texts.clone().map(|text| text.len() as u64).collect();
        let body = completions_body(shared, texts);
        Self { route: Route::Completions, body, lengths, n: shared.n }
    }
}

/// Sends a request and waits for the whole reply.
///
/// # Errors
/// Where there is no reply, or one that is a refusal or no answer at all.
pub async fn ask(
    client: &HttpClient,
    url: &Url,
    question: InferenceRequest,
    limit: Duration,
) -> Result<ServerReply, Fault> {
    let sent = Instant::now();
    let InferenceRequest { route, body, lengths, n } = question;
    let body = post(client, url, route, body, limit).await?;
    let answers = reply::read(&body, &lengths, n)?;
    Ok(ServerReply { answers, elapsed: sent.elapsed() })
}

/// The body of an answer with status 200.
pub(super) async fn post(
    client: &HttpClient,
    url: &Url,
    route: Route,
    body: Vec<u8>,
    limit: Duration,
) -> Result<Vec<u8>, Fault> {
    let path = match route {
        Route::Completions => "/v1/completions",
        Route::Chat => "/v1/chat/completions",
    };
    let answer = client.post(url, path, body, limit).await.map_err(Fault::from)?;
    if answer.status == 200 {
        Ok(answer.body)
    } else {
        Err(fault::classify_response(answer.status, answer.retry_after, &answer.body))
    }
}

impl InferenceRequest {
    /// For those who read the reply another way.
    pub(super) fn parts(self) -> (Route, Vec<u8>, Vec<u64>, usize) {
        (self.route, self.body, self.lengths, self.n)
    }
}

fn body_prefix(shared: &BatchParams, room: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(room + 256);
    body.extend_from_slice(b"{\"model\":");
    write_json_string(&mut body, &shared.model);
    for (name, json) in shared.params.iter() {
        body.push(b',');
        write_json_string(&mut body, name);
        body.push(b':');
        body.extend_from_slice(json.as_bytes());
    }
    body
}

fn completions_body<'t>(
    shared: &BatchParams,
    texts: impl Iterator<Item = &'t str> + Clone,
) -> Vec<u8> {
    let room = texts.clone().map(|text| text.len() + text.len() / 16 + 8).sum();
    let mut body = body_prefix(shared, room);
    body.extend_from_slice(b",\"prompt\":");
    let count = texts.clone().take(2).count();
    // A single prompt as a plain text: servers without lists take it too.
    if count != 1 {
        body.push(b'[');
    }
    for (place, text) in texts.enumerate() {
        if place > 0 {
            body.push(b',');
        }
        write_json_string(&mut body, text);
    }
    if count != 1 {
        body.push(b']');
    }
    body.push(b'}');
    body
}

fn chat_body(shared: &BatchParams, conversation: &str) -> Vec<u8> {
    let mut body = body_prefix(shared, conversation.len());
    body.extend_from_slice(b",\"messages\":");
    body.extend_from_slice(conversation.as_bytes());
    body.push(b'}');
    body
}

/// The conversation as JSON: a row's own, or its text as one user message; the job's system message first, unless the
/// row's own conversation begins with one.
#[must_use]
pub fn messages_json(input: &PromptInput, system: Option<&str>) -> String {
    let system =
        system.map(|text| format!("{{\"role\":\"system\",\"content\":{}}}", json_string(text)));
    match input {
        PromptInput::Text(text) => {
            let user = format!("{{\"role\":\"user\",\"content\":{}}}", json_string(text));
            let all: Vec<String> = system.into_iter().chain([user]).collect();
            format!("[{}]", all.join(","))
        }
        PromptInput::Messages(own) => match system {
            Some(system) if !has_leading_system_message(own) => {
                let rest = own.trim_start().trim_start_matches('[');
                format!("[{system},{rest}")
            }
            _ => own.clone(),
        },
    }
}

fn has_leading_system_message(messages: &str) -> bool {
    #[derive(Deserialize)]
    struct RoleMessage {
        role: Option<String>,
    }
    let messages: Vec<RoleMessage> = serde_json::from_str(messages).unwrap_or_default();
    let first = messages.first().and_then(|message| message.role.as_deref());
    matches!(first, Some("system" | "developer"))
}

fn json_string(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

fn write_json_string(body: &mut Vec<u8>, text: &str) {
    // Writing a str into memory cannot fail.
    let _ = serde_json::to_writer(body, text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{PromptId, RowHash};

    fn prompt(text: &str) -> Prompt {
        Prompt {
            index: 0,
            id: PromptId::from_index(0),
            input: PromptInput::Text(text.into()),
            params: RequestParams::default(),
            route: None,
            priority: 0,
            row: None,
            hash: RowHash::UNKNOWN,
        }
    }

    fn request_body(route: Route, prompts: &[Prompt], system: Option<&str>) -> String {
        let mut params = RequestParams::default();
        params.set("max_tokens", "5");
        let shared = BatchParams { route, model: "m".into(), params, n: 1, allow_lists: true };
        String::from_utf8(InferenceRequest::new(&shared, prompts.iter(), system).body)
            .expect("JSON")
    }

    #[test]
    fn bodies_are_what_vllm_takes() {
        let (a, b) = (prompt("say \"hi\""), prompt("ho"));
        let one = std::slice::from_ref(&a);
        assert_eq!(
            request_body(Route::Completions, one, None),
            r#"{"model":"m","max_tokens":5,"prompt":"say \"hi\""}"#
        );
        assert_eq!(
            request_body(Route::Completions, &[a, b.clone()], None),
            r#"{"model":"m","max_tokens":5,"prompt":["say \"hi\"","ho"]}"#
        );
        assert_eq!(
            request_body(Route::Chat, &[b], Some("be brief")),
            r#"{"model":"m","max_tokens":5,"messages":[{"role":"system","content":"be brief"},{"role":"user","content":"ho"}]}"#
        );
    }

    #[test]
    fn the_system_message_does_not_double_a_rows_own() {
        let own = |text: &str| messages_json(&PromptInput::Messages(text.into()), Some("s"));
        let with = r#"[{"role":"system","content":"mine"},{"role":"user","content":"x"}]"#;
        assert_eq!(own(with), with);
        assert_eq!(
            own(r#" [{"role":"user","content":"x"}]"#),
            r#"[{"role":"system","content":"s"},{"role":"user","content":"x"}]"#
        );
    }
}
