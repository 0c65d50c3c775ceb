//! Inference requests: the bodies for vLLM's completions and chat routes, and sending them.
//!
//! Owns the JSON that goes out, written once, straight into its buffer. Replies are parsed in `reply.rs`, refusals are
//! classified in `fault.rs`; which prompts form a batch is decided in `engine/queue`.

use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{
    HttpClient, RequestFault, ServerReply, fault,
    http::ResponseBounds,
    probe_reply::{describe_refusal, redirect_hint},
    reply,
    reply_shape::ExpectedReply,
};
use crate::domain::{
    ModelNumber, Prompt, PromptImage, PromptInput, RequestParams, Route, Url,
    image::{messages_with_images, text_with_images},
};

/// Size of a reply with answers. A list of 64 answers of 8,192 tokens with twenty log-probabilities each comes to
/// hundreds of megabytes, but such jobs are run with single requests; plain answers take a few bytes per token.
const MAX_REPLY_BYTES: usize = 64 << 20;

/// Parameters that all prompts of a request have in common; only prompts with equal ones can form a batch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct BatchParams {
    /// Route the request is sent to.
    pub route: Route,
    /// Name of the served model.
    pub model: String,
    /// The job's number of the model.
    pub model_number: ModelNumber,
    /// All fields of the body except model and prompt.
    pub params: RequestParams,
    /// Number of sequences generated per prompt.
    pub n: usize,
    /// Whether several prompts may go into one request.
    pub allow_lists: bool,
    /// Whether token ids in the reply belong to the answer, or were only requested to count them.
    pub keep_token_ids: bool,
    /// Whether answers keep the reply as the server sent it.
    pub keep_body: bool,
    /// Whether thinking at the start of a text is taken out of it.
    pub split_thinking: bool,
    /// Whether the prompts are token ids, which servers refuse beside texts in one list.
    pub token_ids: bool,
}

impl BatchParams {
    /// Returns the facts with which the reply to prompts of these lengths is parsed. `route` is the route of the request,
    /// which is another one than that of the prompts if they were rendered here.
    pub(super) fn expected_reply<'a>(
        &'a self,
        route: Route,
        prompt_lengths: &'a [u64],
    ) -> ExpectedReply<'a> {
        ExpectedReply {
            prompt_lengths,
            n: self.n,
            model: &self.model,
            is_rendered: route != self.route,
            keep_token_ids: self.keep_token_ids,
            keep_body: self.keep_body,
            split_thinking: self.split_thinking,
        }
    }
}

/// Inference request with its encoded body, ready to be sent.
#[derive(Clone, Debug)]
pub(crate) struct InferenceRequest {
    route: Route,
    body: Vec<u8>,
    /// Length of each prompt in bytes; the token counts of a batch are split in proportion to it.
    prompt_lengths: Vec<u64>,
}

impl InferenceRequest {
    /// Encodes prompts as they are: a list of raw texts for the completions route, or one conversation for the chat
    /// route.
    #[must_use]
    pub(crate) fn new<'p>(
        params: &BatchParams,
        prompts: impl Iterator<Item = &'p Prompt> + Clone,
        system: Option<&str>,
    ) -> Self {
        match params.route {
            Route::Completions => {
                Self::from_texts(params, prompts.map(|prompt| prompt.input.as_str()))
            }
            Route::Chat => {
                let lengths =
                    prompts.clone().map(|prompt| prompt.input.as_str().len() as u64).collect();
                let conversation =
                    prompts.into_iter().next().map(|prompt| messages_json(prompt, system));
                let body = chat_body(params, &conversation.unwrap_or_default());
                Self { route: Route::Chat, body, prompt_lengths: lengths }
            }
        }
    }

    /// Encodes a conversation, a JSON array of messages, for the chat route.
    #[must_use]
    pub(crate) fn from_conversation(params: &BatchParams, conversation: &str) -> Self {
        let body = chat_body(params, conversation);
        let prompt_lengths = vec![conversation.len() as u64];
        Self { route: Route::Chat, body, prompt_lengths }
    }

    /// Encodes texts for the completions route; conversations that were rendered here are sent this way too.
    #[must_use]
    pub(crate) fn from_texts<'t>(
        params: &BatchParams,
        texts: impl Iterator<Item = &'t str> + Clone,
    ) -> Self {
        let lengths = texts.clone().map(|text| text.len() as u64).collect();
        let body = completions_body(params, texts);
        Self { route: Route::Completions, body, prompt_lengths: lengths }
    }
}

/// Sends a request for prompts with these parameters, waits for the whole reply and parses it.
///
/// # Errors
/// Fails if no reply arrives within `limit`, if the server refuses the request, or if the reply cannot be parsed.
pub(crate) async fn send_request(
    client: &HttpClient,
    url: &Url,
    request: InferenceRequest,
    params: &BatchParams,
    limit: Duration,
) -> Result<ServerReply, RequestFault> {
    let started = Instant::now();
    let InferenceRequest { route, body, prompt_lengths } = request;
    let body = post_request(client, url, route, body, limit).await?;
    let answers = reply::parse_reply(&body, params.expected_reply(route, &prompt_lengths))?;
    Ok(ServerReply { answers, elapsed: started.elapsed() })
}

/// Sends a body and returns the reply's body; any status other than 200 is classified as a fault.
pub(super) async fn post_request(
    client: &HttpClient,
    url: &Url,
    route: Route,
    body: Vec<u8>,
    limit: Duration,
) -> Result<Vec<u8>, RequestFault> {
    let path = match route {
        Route::Completions => "/v1/completions",
        Route::Chat => "/v1/chat/completions",
    };
    let bounds = ResponseBounds { time: limit, bytes: MAX_REPLY_BYTES };
    let answer = client.post_json(url, path, body, bounds).await.map_err(RequestFault::from)?;
    match (answer.status, &answer.redirect) {
        (200, _) => Ok(answer.body),
        (_, Some(target)) => {
            let refusal = describe_refusal(&answer, "POST", path);
            let message = format!("{refusal}\nhint: {}", redirect_hint(target, path));
            Err(RequestFault::EndpointDown { message })
        }
        _ => Err(fault::classify_response(answer.status, answer.retry_after, &answer.body)),
    }
}

impl InferenceRequest {
    /// Takes the request apart for callers that parse the reply themselves, as the canary does.
    pub(super) fn into_parts(self) -> (Route, Vec<u8>, Vec<u64>) {
        (self.route, self.body, self.prompt_lengths)
    }
}

fn body_prefix(params: &BatchParams, capacity: usize) -> Vec<u8> {
    // 256 bytes for model and parameters, which are short.
    let mut body = Vec::with_capacity(capacity + 256);
    body.extend_from_slice(b"{\"model\":");
    write_json_string(&mut body, &params.model);
    for (name, json) in params.params.iter() {
        body.push(b',');
        write_json_string(&mut body, name);
        body.push(b':');
        body.extend_from_slice(json.as_bytes());
    }
    body
}

fn completions_body<'t>(
    params: &BatchParams,
    texts: impl Iterator<Item = &'t str> + Clone,
) -> Vec<u8> {
    // Escapes lengthen most texts by a few percent; quotes and comma are three bytes.
    let capacity = texts.clone().map(|text| text.len() + text.len() / 16 + 8).sum();
    let mut body = body_prefix(params, capacity);
    body.extend_from_slice(b",\"prompt\":");
    let count = texts.clone().take(2).count();
    // A single prompt is sent as a plain string, which servers without lists accept too.
    if count != 1 {
        body.push(b'[');
    }
    for (position, text) in texts.enumerate() {
        if position > 0 {
            body.push(b',');
        }
        if params.token_ids {
            body.extend_from_slice(text.as_bytes());
        } else {
            write_json_string(&mut body, text);
        }
    }
    if count != 1 {
        body.push(b']');
    }
    body.push(b'}');
    body
}

fn chat_body(params: &BatchParams, conversation: &str) -> Vec<u8> {
    let mut body = body_prefix(params, conversation.len());
    body.extend_from_slice(b",\"messages\":");
    body.extend_from_slice(conversation.as_bytes());
    body.push(b'}');
    body
}

/// Returns the conversation as JSON: the row's messages, or its text as one user message, with the row's images. The
/// job's system message comes first, unless the row's messages begin with one of their own.
#[must_use]
pub(crate) fn messages_json(prompt: &Prompt, system: Option<&str>) -> String {
    let urls: Vec<&str> = prompt.images.iter().map(PromptImage::url).collect();
    let system =
        system.map(|text| format!("{{\"role\":\"system\",\"content\":{}}}", json_string(text)));
    match &prompt.input {
        PromptInput::Text(text) => {
            // The places for images were checked when the row was read.
            let content = match urls[..] {
                [] => json_string(text),
                _ => text_with_images(text, &urls).unwrap_or_else(|_| json_string(text)),
            };
            let user = format!("{{\"role\":\"user\",\"content\":{content}}}");
            let all: Vec<String> = system.into_iter().chain([user]).collect();
            format!("[{}]", all.join(","))
        }
        // Token ids go to the completions route, which has no messages.
        PromptInput::Messages(own) | PromptInput::TokenIds(own) => {
            let placed = match urls[..] {
                [] => None,
                _ => messages_with_images(own, &urls).ok(),
            };
            let own = placed.as_ref().unwrap_or(own);
            match system {
                Some(system) if !has_leading_system_message(own) => {
                    // The messages were validated when the input was read, so they begin with a bracket.
                    let rest = own.trim_start().trim_start_matches('[');
                    format!("[{system},{rest}")
                }
                _ => own.clone(),
            }
        }
    }
}

/// Returns the conversation, a JSON array of messages, with the model's answer and the user's reply to it at its end.
#[must_use]
pub(crate) fn continue_conversation(messages: &str, answer: &str, reply: &str) -> String {
    let messages = messages.trim_end();
    let begun = messages.strip_suffix(']').unwrap_or(messages);
    let (answer, reply) = (json_string(answer), json_string(reply));
    format!(
        "{begun},{{\"role\":\"assistant\",\"content\":{answer}}},{{\"role\":\"user\",\"content\":{reply}}}]"
    )
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

    fn text_prompt(text: &str) -> Prompt {
        Prompt {
            index: 0,
            id: PromptId::from_index(0),
            input: PromptInput::Text(text.into()),
            images: Vec::new(),
            params: RequestParams::default(),
            model: None,
            route: None,
            priority: 0,
            row: None,
            row_hash: RowHash::UNKNOWN,
        }
    }

    fn request_body(route: Route, prompts: &[Prompt], system: Option<&str>) -> String {
        let mut params = RequestParams::default();
        params.set("max_tokens", "5");
        let params = BatchParams {
            route,
            model: "m".into(),
            model_number: 0,
            params,
            n: 1,
            allow_lists: true,
            keep_token_ids: true,
            keep_body: false,
            split_thinking: true,
            token_ids: false,
        };
        String::from_utf8(InferenceRequest::new(&params, prompts.iter(), system).body)
            .expect("JSON")
    }

    #[test]
    fn bodies_have_the_shape_that_vllm_accepts() {
        let (a, b) = (text_prompt("say \"hi\""), text_prompt("ho"));
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
    fn a_conversation_goes_on_after_its_last_message() {
        let own = r#"[{"role":"user","content":[{"type":"text","text":"]"}]}] "#;
        assert_eq!(
            continue_conversation(own, "no\n", "why?"),
            concat!(
                r#"[{"role":"user","content":[{"type":"text","text":"]"}]},{"role":"assistant","content":"no\n"},"#,
                r#"{"role":"user","content":"why?"}]"#
            )
        );
    }

    #[test]
    fn images_are_parts_of_a_user_message() {
        let image = |url: &str| PromptImage { label: String::new(), url: Ok(url.into()) };
        let images = vec![image("data:image/gif;base64,QQ=="), image("file:///x.png")];
        let prompt = Prompt { images, ..text_prompt("see \"it\"") };
        let parts = concat!(
            r#"[{"type":"image_url","image_url":{"url":"data:image/gif;base64,QQ=="}},"#,
            r#"{"type":"image_url","image_url":{"url":"file:///x.png"}},{"type":"text","text":"see \"it\""}]"#
        );
        let user = format!(r#"{{"role":"user","content":{parts}}}"#);
        assert_eq!(messages_json(&prompt, None), format!("[{user}]"));
        let system = r#"{"role":"system","content":"s"}"#;
        assert_eq!(messages_json(&prompt, Some("s")), format!("[{system},{user}]"));
        let own = r#"[{"role":"user","content":"see \"it\""}]"#;
        let prompt = Prompt { input: PromptInput::Messages(own.into()), ..prompt };
        assert_eq!(messages_json(&prompt, Some("s")), format!("[{system},{user}]"));
    }

    #[test]
    fn the_jobs_system_message_is_left_out_if_the_row_has_its_own() {
        let own = |text: &str| {
            let input = PromptInput::Messages(text.into());
            messages_json(&Prompt { input, ..text_prompt("") }, Some("s"))
        };
        let with = r#"[{"role":"system","content":"mine"},{"role":"user","content":"x"}]"#;
        assert_eq!(own(with), with);
        assert_eq!(
            own(r#" [{"role":"user","content":"x"}]"#),
            r#"[{"role":"system","content":"s"},{"role":"user","content":"x"}]"#
        );
    }
}
