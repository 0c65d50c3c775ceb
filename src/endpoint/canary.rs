//! One conversation both ways: by the server's chat route, and rendered here. Are the tokens the same?
//!
//! Owns what has to hold before conversations may ride in lists: the server makes the same tokens of our text as of the
//! messages, and its chat route does nothing to the answer that the completions route would not do (a reasoning parser,
//! tool calls). The chat route's answer is a real one and is kept.

use std::time::{Duration, Instant};

use serde::{Deserialize, de::IgnoredAny};

use super::{BatchParams, Fault, HttpClient, InferenceRequest, ServerReply, reply, request::post};
use crate::domain::{Prompt, RequestParams, Route, Url};

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CanaryResult {
    /// The same tokens, and a plain answer.
    Match,
    /// Not the same, or not only text: why.
    Mismatch(String),
    /// Nothing was learnt this time.
    Inconclusive,
}

/// Only what is compared.
#[derive(Deserialize)]
struct CanaryResponse {
    prompt_token_ids: Option<Vec<u64>>,
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    prompt_token_ids: Option<Vec<u64>>,
    message: Option<Message>,
}

#[derive(Deserialize)]
struct Message {
    reasoning: Option<String>,
    reasoning_content: Option<String>,
    tool_calls: Option<Vec<IgnoredAny>>,
}

/// Asks the chat route, and at the same time the completions route for one token of `rendered`: until it is decided the
/// engine sends conversations one by one.
pub async fn send_canary(
    client: &HttpClient,
    url: &Url,
    shared: &BatchParams,
    prompt: &Prompt,
    system: Option<&str>,
    rendered: String,
    limit: Duration,
) -> (Result<ServerReply, Fault>, CanaryResult) {
    let sent = Instant::now();
    let mut asked = shared.clone();
    asked.params.set("return_token_ids", "true");
    let (route, body, lengths, n) =
        InferenceRequest::new(&asked, std::iter::once(prompt), system).parts();
    let chat = async {
        let body = post(client, url, route, body, limit).await;
        (body, sent.elapsed())
    };
    let text = request_one_token(client, url, &asked.model, &rendered, limit);
    let ((body, took), text) = tokio::join!(chat, text);
    let body = match body {
        Ok(body) => body,
        Err(fault) => return (Err(fault), CanaryResult::Inconclusive),
    };
    let result =
        reply::read(&body, &lengths, n).map(|answers| ServerReply { answers, elapsed: took });
    (result, compare(&body, text.ok().as_deref()))
}

/// The answer to a text that is rendered already, as short as can be.
async fn request_one_token(
    client: &HttpClient,
    url: &Url,
    model: &str,
    rendered: &str,
    limit: Duration,
) -> Result<Vec<u8>, Fault> {
    let mut params = RequestParams::default();
    params.set("max_tokens", "1");
    params.set("return_token_ids", "true");
    params.set("add_special_tokens", "false");
    let one = BatchParams {
        route: Route::Completions,
        model: model.into(),
        params,
        n: 1,
        allow_lists: true,
    };
    let question = InferenceRequest::from_texts(&one, std::iter::once(rendered));
    let (route, body, ..) = question.parts();
    post(client, url, route, body, limit).await
}

/// Both answers beside each other.
fn compare(chat: &[u8], text: Option<&[u8]>) -> CanaryResult {
    let Ok(chat) = serde_json::from_slice::<CanaryResponse>(chat) else {
        return CanaryResult::Inconclusive;
    };
    if let Some(why) =
        chat.choices.iter().filter_map(|it| it.message.as_ref()).find_map(non_text_content)
    {
        return CanaryResult::Mismatch(why.into());
    }
    let Some(theirs) = chat.prompt_token_ids else {
        return CanaryResult::Mismatch("the server does not tell token ids".into());
    };
    let Some(text) = text else { return CanaryResult::Inconclusive };
    let ours = serde_json::from_slice::<CanaryResponse>(text).ok();
    let ours = ours.and_then(|it| it.choices.into_iter().next()?.prompt_token_ids);
    match ours {
        Some(ours) if ours == theirs => CanaryResult::Match,
        Some(ours) => CanaryResult::Mismatch(format!(
            "the server makes {} tokens of the conversation and {} of its text",
            theirs.len(),
            ours.len()
        )),
        None => CanaryResult::Mismatch("the server does not tell token ids".into()),
    }
}

fn non_text_content(message: &Message) -> Option<&'static str> {
    let thinks = [&message.reasoning, &message.reasoning_content].into_iter().flatten();
    if thinks.into_iter().any(|text| !text.is_empty()) {
        return Some("the model's thinking is told apart only on the chat route");
    }
    let calls = message.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty());
    calls.then_some("the model calls tools")
}
