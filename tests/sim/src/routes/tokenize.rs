//! The tokenizer's routes.

use super::{json, refused};
use crate::body::Reply;
use crate::endpoint::Endpoint;
use crate::template::{self, Rendering, Turn};
use crate::tokens::{self, Id};
use crate::wire::fields::{Complaint, refuse};
use crate::wire::refusal::Refusal;
use hyper::Response;
use serde_json::{Value, json as value};

/// `/tokenize`: a text or a conversation as ids.
pub fn tokenize(endpoint: &Endpoint, body: &[u8]) -> Response<Reply> {
    let request: Value = match serde_json::from_slice(body) {
        Ok(request) => request,
        Err(error) => return refused(&Refusal::schema(&error.to_string(), Some("body"))),
    };
    let text = match (request["prompt"].as_str(), request["messages"].as_array()) {
        (Some(text), _) => text.to_owned(),
        (None, Some(messages)) => conversation(&request, messages),
        (None, None) => return refused(&refuse(&neither(&request))),
    };
    let ids = tokens::encode(&text);
    let pieces = (request["return_token_strs"] == true).then(|| {
        ids.iter().map(|id| tokens::decode(&[*id], false).replace(' ', "Ġ").replace('\n', "Ċ"))
    });
    let body = value!({
        "count": ids.len(),
        "max_model_len": endpoint.profile.policy.max_model_len,
        "tokens": ids,
        "token_strs": pieces.map(Iterator::collect::<Vec<String>>),
    });
    json(200, body.to_string())
}

fn conversation(request: &Value, messages: &[Value]) -> String {
    let text =
        |message: &Value, field: &str| message[field].as_str().unwrap_or_default().to_owned();
    let turns: Vec<(String, String)> =
        messages.iter().map(|m| (text(m, "role"), text(m, "content"))).collect();
    let turns: Vec<Turn<'_>> = turns.iter().map(|(role, content)| Turn { role, content }).collect();
    let rendering = Rendering {
        add_generation_prompt: request["add_generation_prompt"] != false,
        continue_final_message: request["continue_final_message"] == true,
        enable_thinking: request["chat_template_kwargs"]["enable_thinking"].as_bool(),
    };
    template::render(&turns, rendering)
}

fn neither(request: &Value) -> Vec<Complaint> {
    let prompt = match request.get("prompt") {
        None => Complaint::new("missing", "body.prompt", "Field required", request),
        Some(prompt) => {
            let message = "Input should be a valid string";
            Complaint::new("string_type", "body.prompt", message, prompt)
        }
    };
    vec![prompt, Complaint::new("missing", "body.messages", "Field required", request)]
}

/// `/detokenize`: ids as a text; unknown ones are nothing.
pub fn detokenize(body: &[u8]) -> Response<Reply> {
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    let Some(ids) = request["tokens"].as_array() else {
        let missing = Complaint::new("missing", "body.tokens", "Field required", &request);
        return refused(&refuse(&[missing]));
    };
    let ids: Vec<Id> = ids.iter().filter_map(|id| Id::try_from(id.as_u64()?).ok()).collect();
    json(200, value!({"prompt": tokens::decode(&ids, false)}).to_string())
}
