//! Logarithms of probabilities: made-up numbers in the recorded shapes.
//!
//! It owns those shapes; the numbers are a function of the token and mean nothing.

use crate::tokens::{self, Id};
use serde_json::{Map, Value, json};

fn logprob(id: Id) -> f64 {
    -0.125 - f64::from(id % 97) / 16.0
}

fn piece(id: Id) -> String {
    tokens::decode(&[id], false)
}

fn name(id: Id, as_ids: bool) -> String {
    if as_ids { format!("token_id:{id}") } else { piece(id) }
}

/// The token itself and the alternatives next to it.
fn candidates(id: Id, count: usize) -> impl Iterator<Item = Id> {
    (0..count.max(1) as Id).map(move |n| if n == 0 { id } else { 300 + (id + n) % 600 })
}

/// A completions choice's `logprobs`; `prompt` holds the echoed tokens, if any.
#[must_use]
pub fn completion(prompt: &[Id], ids: &[Id], top: usize, as_ids: bool) -> Value {
    let (mut offsets, mut numbers) = (Vec::new(), Vec::new());
    let (mut names, mut tops) = (Vec::new(), Vec::new());
    let mut offset = 0;
    for (at, id) in prompt.iter().chain(ids).enumerate() {
        let text = name(*id, as_ids);
        offsets.push(offset);
        offset += text.chars().count();
        names.push(text);
        // Nothing comes before a prompt's first token that it could be likely after.
        if at == 0 && !prompt.is_empty() {
            numbers.push(Value::Null);
            tops.push(Value::Null);
            continue;
        }
        numbers.push(json!(logprob(*id)));
        let top = candidates(*id, top).map(|c| (name(c, as_ids), json!(logprob(c))));
        tops.push(Value::Object(top.collect::<Map<_, _>>()));
    }
    json!({"text_offset": offsets, "token_logprobs": numbers, "tokens": names,
        "top_logprobs": tops})
}

/// A chat choice's `logprobs`.
#[must_use]
pub fn chat(ids: &[Id], top: usize, as_ids: bool) -> Value {
    let entry = |id: Id| {
        let token = name(id, as_ids);
        json!({"token": token, "logprob": logprob(id), "bytes": piece(id).as_bytes()})
    };
    let content: Vec<Value> = ids
        .iter()
        .map(|id| {
            let mut one = entry(*id);
            let top: Vec<Value> =
                if top == 0 { Vec::new() } else { candidates(*id, top).map(entry).collect() };
            one["top_logprobs"] = Value::Array(top);
            one
        })
        .collect();
    json!({ "content": content })
}

/// `prompt_logprobs`: one entry a token, none for the first.
#[must_use]
pub fn prompt(prompt: &[Id], top: usize) -> Value {
    let entries = prompt.iter().skip(1).map(|id| {
        let ranked = candidates(*id, top + 1).enumerate().map(|(at, c)| {
            let one = json!({"logprob": logprob(c), "rank": at + 1, "decoded_token": piece(c)});
            (c.to_string(), one)
        });
        Value::Object(ranked.collect::<Map<_, _>>())
    });
    Value::Array(std::iter::once(Value::Null).chain(entries).collect())
}
