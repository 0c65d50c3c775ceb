//! The canary: one conversation sent through the chat route and, rendered here, through the completions route.
//!
//! Owns the two conditions for sending conversations in batches: the server tokenizes our rendered text exactly like
//! the messages, and its chat route does nothing to the answer that the completions route would not do (a reasoning
//! parser, tool calls). The chat route's answer is a real answer and is kept. Rendering itself is
//! [`crate::chat_template`]; how many canaries an endpoint needs is decided in `engine/endpoint_state/render_check.rs`.

use std::time::{Duration, Instant};

use serde::{Deserialize, de::IgnoredAny};

use super::{
    BatchParams, HttpClient, InferenceRequest, RequestFault, ServerReply, reply,
    request::post_request,
};
use crate::domain::{Prompt, RequestParams, Route, Url};

/// Outcome of comparing the chat route with the locally rendered text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CanaryResult {
    /// The token ids are equal and the answer is plain text.
    Match,
    /// The token ids differ, or the answer is more than text; with the reason.
    Mismatch(String),
    /// A request failed or could not be read, so the canary has to be sent again.
    Inconclusive,
}

/// The fields of a reply that are compared; all others are skipped.
#[derive(Deserialize)]
struct CanaryResponse {
    prompt_token_ids: Option<Vec<u64>>,
    choices: Vec<CanaryChoice>,
}

#[derive(Deserialize)]
struct CanaryChoice {
    prompt_token_ids: Option<Vec<u64>>,
    message: Option<CanaryMessage>,
}

#[derive(Deserialize)]
struct CanaryMessage {
    reasoning: Option<String>,
    reasoning_content: Option<String>,
    tool_calls: Option<Vec<IgnoredAny>>,
}

/// Sends the prompt to the chat route and, concurrently, requests one token for `rendered` from the completions route.
///
/// Until the result is known the engine sends conversations one per request.
pub(crate) async fn send_canary(
    client: &HttpClient,
    url: &Url,
    params: &BatchParams,
    prompt: &Prompt,
    system: Option<&str>,
    rendered: String,
    limit: Duration,
) -> (Result<ServerReply, RequestFault>, CanaryResult) {
    let started = Instant::now();
    let mut chat_params = params.clone();
    chat_params.params.set("return_token_ids", "true");
    // The ids are compared and belong to the answer only if the prompt asks for them.
    chat_params.keep_token_ids =
        params.keep_token_ids && params.params.get("return_token_ids") == Some("true");
    let (route, body, lengths) =
        InferenceRequest::new(&chat_params, std::iter::once(prompt), system).into_parts();
    let chat = async {
        let body = post_request(client, url, route, body, limit).await;
        (body, started.elapsed())
    };
    let text = request_one_token(client, url, &chat_params.model, &rendered, limit);
    let ((body, elapsed), text) = tokio::join!(chat, text);
    let body = match body {
        Ok(body) => body,
        Err(fault) => return (Err(fault), CanaryResult::Inconclusive),
    };
    let answers = reply::parse_reply(&body, chat_params.expected_reply(route, &lengths));
    let result = answers.map(|answers| ServerReply { answers, elapsed });
    (result, compare_token_ids(&body, text.ok().as_deref()))
}

/// Requests a single token for an already rendered text: only the prompt's token ids matter.
async fn request_one_token(
    client: &HttpClient,
    url: &Url,
    model: &str,
    rendered: &str,
    limit: Duration,
) -> Result<Vec<u8>, RequestFault> {
    let mut params = RequestParams::default();
    params.set("max_tokens", "1");
    params.set("return_token_ids", "true");
    params.set("add_special_tokens", "false");
    let text_params = BatchParams {
        route: Route::Completions,
        model: model.into(),
        model_number: 0, // only the job's own model is rendered here
        params,
        n: 1,
        allow_lists: true,
        keep_token_ids: false,
        keep_body: false,
        split_thinking: false,
        token_ids: false,
    };
    let request = InferenceRequest::from_texts(&text_params, std::iter::once(rendered));
    let (route, body, ..) = request.into_parts();
    post_request(client, url, route, body, limit).await
}

/// Compares the prompt token ids of both replies. Reasoning or tool calls in the chat reply are a mismatch whatever the
/// tokens are, since the completions route would return them inside the text.
fn compare_token_ids(chat: &[u8], text: Option<&[u8]>) -> CanaryResult {
    let Ok(chat) = serde_json::from_slice::<CanaryResponse>(chat) else {
        return CanaryResult::Inconclusive;
    };
    if let Some(reason) =
        chat.choices.iter().filter_map(|choice| choice.message.as_ref()).find_map(non_text_content)
    {
        return CanaryResult::Mismatch(reason.into());
    }
    let Some(chat_ids) = chat.prompt_token_ids else {
        return CanaryResult::Mismatch("the server returned no token ids".into());
    };
    let Some(text) = text else { return CanaryResult::Inconclusive };
    let text_ids = serde_json::from_slice::<CanaryResponse>(text).ok();
    let text_ids =
        text_ids.and_then(|response| response.choices.into_iter().next()?.prompt_token_ids);
    match text_ids {
        Some(text_ids) if text_ids == chat_ids => CanaryResult::Match,
        Some(text_ids) => CanaryResult::Mismatch(format!(
            "the server tokenizes the chat messages to {} tokens and the rendered text to {}",
            chat_ids.len(),
            text_ids.len()
        )),
        None => CanaryResult::Mismatch("the server returned no token ids".into()),
    }
}

fn non_text_content(message: &CanaryMessage) -> Option<&'static str> {
    let reasoning = [&message.reasoning, &message.reasoning_content].into_iter().flatten();
    if reasoning.into_iter().any(|text| !text.is_empty()) {
        return Some("the model's reasoning is separated only on the chat route");
    }
    let has_tool_calls = message.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty());
    has_tool_calls.then_some("the model returned tool calls")
}
