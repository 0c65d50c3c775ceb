//! Whole answers: everything that a server sends is in the answers, and bodies of the batch format are the server's.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use vllm_sim::{AnswerPolicy, Fault, Lengths, Profile, Rule, Script};

use crate::support::{
    Job,
    work::{CHATML, Work, ask_server, by_completions},
};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// A server that thinks, calls tools, refuses, and ends its answers at different lengths.
fn versatile() -> Profile {
    let policy = AnswerPolicy {
        lengths: Lengths::LogNormal { median: 20.0, sigma: 1.0 },
        thinking: Some(Lengths::Fixed(3)),
        ..AnswerPolicy::default()
    };
    let refuse = Some("FORBIDDEN".to_owned());
    Profile { policy, refuse, calls_tools: true, ..Profile::instant() }
}

fn tool(name: &str) -> Value {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}, "n": {"type": "integer"}}});
    json!({"type": "function", "function": {"name": name, "parameters": parameters}})
}

fn messages(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

/// Requests that each ask for something that an ordinary reply does not have.
fn requests() -> Vec<(&'static str, &'static str, Value)> {
    let tools = json!([tool("weather"), tool("clock")]);
    let call = json!({"id": "call_1", "type": "function", "function": {"name": "clock", "arguments": "{}"}});
    let after_a_call = json!([
        {"role": "user", "content": "What time is it?"},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
    ]);
    let sampled = |more: Value| {
        let mut body = json!({"temperature": 1, "seed": 7, "max_tokens": 40});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let greedy = |more: Value| {
        let mut body = json!({"temperature": 0, "max_tokens": 40});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    vec![
        ("plain", CHAT, greedy(json!({"messages": messages("plain")}))),
        ("tools", CHAT, greedy(json!({"messages": messages("tools"), "tools": tools}))),
        (
            "named-tool",
            CHAT,
            greedy(json!({"messages": messages("named"), "tools": tools, "logprobs": true,
                "tool_choice": {"type": "function", "function": {"name": "clock"}}})),
        ),
        (
            "cut-tool",
            CHAT,
            greedy(json!({"messages": messages("cut"), "tools": tools, "max_tokens": 12})),
        ),
        (
            "after-a-call",
            CHAT,
            greedy(json!({"messages": after_a_call, "tools": tools, "tool_choice": "none"})),
        ),
        (
            "logprobs",
            CHAT,
            greedy(json!({"messages": messages("logprobs"), "logprobs": true, "top_logprobs": 2})),
        ),
        (
            "four",
            CHAT,
            sampled(json!({"messages": messages("four"), "n": 4, "logprobs": true, "stop": ["e"]})),
        ),
        ("four-tools", CHAT, sampled(json!({"messages": messages("x"), "n": 4, "tools": tools}))),
        ("refusal", CHAT, greedy(json!({"messages": messages("a FORBIDDEN text")}))),
        ("cut-thinking", CHAT, greedy(json!({"messages": messages("thinks"), "max_tokens": 3}))),
        (
            "chat-ids",
            CHAT,
            greedy(
                json!({"messages": messages("ids"), "return_token_ids": true, "prompt_logprobs": 1}),
            ),
        ),
        ("text-logprobs", COMPLETIONS, greedy(json!({"prompt": "a text", "logprobs": 2}))),
        (
            "text-three",
            COMPLETIONS,
            sampled(json!({"prompt": "three", "n": 3, "stop": ["a", "o"]})),
        ),
        (
            "text-ids",
            COMPLETIONS,
            greedy(
                json!({"prompt": "ids", "return_token_ids": true, "prompt_logprobs": 0, "echo": true}),
            ),
        ),
    ]
}

fn with_model(body: &Value) -> Value {
    let mut body = body.clone();
    body["model"] = json!("tiny");
    body
}

fn batch_file(requests: &[(&str, &str, Value)]) -> String {
    let line = |(id, url, body): &(&str, &str, Value)| {
        let row = json!({"custom_id": id, "method": "POST", "url": url, "body": with_model(body)});
        format!("{row}\n")
    };
    requests.iter().map(line).collect()
}

/// A reply without what differs each time it is asked for.
fn lasting(reply: &Value) -> Value {
    let mut reply = reply.clone();
    let fields = reply.as_object_mut().expect("an object");
    for name in ["id", "created"] {
        assert!(fields.remove(name).is_some_and(|it| !it.is_null()), "{name} is missing");
    }
    reply
}

/// A value without its nulls, which mean absent.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(_, value)| !value.is_null());
            fields.map(|(name, value)| (name.clone(), without_nulls(value))).collect()
        }
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

#[test]
fn bodies_of_the_batch_format_are_what_the_server_sent() {
    let work = Work::with(vec![versatile()]);
    let (url, requests) = (work.fleet.url(0), requests());
    let input = work.file("batch.jsonl", batch_file(&requests));
    for (output, more) in [("plain.jsonl", "share"), ("exact.jsonl", "exact")] {
        work.run_to(&input, output).args(["--usage", more]).run().with_code(0);
        let answers = work.answers(output);
        assert_eq!(answers.len(), requests.len());
        for (answer, (id, path, body)) in answers.iter().zip(&requests) {
            let sent = ask_server(&url, path, &with_model(body));
            assert_eq!(answer["custom_id"], *id);
            assert_eq!(
                (&answer["response"]["status_code"], &answer["error"]),
                (&json!(200), &Value::Null)
            );
            assert_eq!(lasting(&answer["response"]["body"]), lasting(&sent), "{id}, usage {more}");
        }
        let ids: BTreeSet<&str> =
            answers.iter().filter_map(|answer| answer["response"]["body"]["id"].as_str()).collect();
        assert_eq!(ids.len(), requests.len());
    }
    let ids = |output: &str, field: &str| -> BTreeSet<String> {
        work.answers(output).iter().map(|answer| answer[field].to_string()).collect()
    };
    assert!(ids("plain.jsonl", "id").is_disjoint(&ids("exact.jsonl", "id")), "unique across runs");
}

/// The text as the model wrote it: with thinking that was moved to `reasoning`.
fn text_of(kept: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match kept["thinking_marks"].as_array().map(Vec::as_slice) {
        Some([before, between, after]) => {
            [before, &kept["reasoning"], between, &kept["response"], after].map(text).concat()
        }
        _ => text(&kept["response"]),
    }
}

#[test]
fn json_lines_keep_every_field_and_the_batch_format_can_be_made_of_them() {
    let work = Work::with(vec![versatile()]);
    let (url, requests) = (work.fleet.url(0), requests());
    let input = work.file("batch.jsonl", batch_file(&requests));
    work.run(&input).args(["--output-format", "jsonl"]).run().with_code(0);
    let answers = work.answers("answers.jsonl");
    for (answer, (id, path, body)) in answers.iter().zip(&requests) {
        let sent = ask_server(&url, path, &with_model(body));
        let sequences = sent["choices"].as_array().unwrap();
        assert_eq!(answer.get("body"), None, "{id}: only the batch format needs it");
        assert_eq!(answer["usage"]["completion_tokens"], sent["usage"]["completion_tokens"]);
        for (number, choice) in sequences.iter().enumerate() {
            let kept = if sequences.len() > 1 { &answer["choices"][number] } else { answer };
            let message = choice["message"].as_object().cloned().unwrap_or_default();
            let mut fields: Map<String, Value> = choice.as_object().unwrap().clone();
            fields.extend(message);
            for (name, value) in &fields {
                match name.as_str() {
                    "index" | "message" | "role" => {}
                    "content" | "text" if value.is_string() => {
                        let text = Value::String(text_of(kept));
                        assert_eq!((&text, kept.get("content")), (value, None), "{id}");
                    }
                    "content" => {
                        assert_eq!(
                            (&kept["response"], &kept["content"]),
                            (&json!(""), value),
                            "{id}"
                        );
                    }
                    _ => assert_eq!(&kept[name], value, "{name} of {id}"),
                }
            }
        }
        for name in ["prompt_logprobs", "prompt_token_ids"].into_iter().filter(|_| *path == CHAT) {
            assert_eq!(answer[name], sent[name], "{name} of {id}");
        }
    }
    let run = work.path("answers.jsonl").to_string_lossy().into_owned();
    let merged = work.path("merged.jsonl").to_string_lossy().into_owned();
    let format = ["--output-format", "openai-batch"];
    Job::of("merge").args([run.as_str(), "--output", &merged]).args(format).run().with_code(0);
    for (answer, (id, path, body)) in work.answers("merged.jsonl").iter().zip(&requests) {
        let mut sent = without_nulls(&lasting(&ask_server(&url, path, &with_model(body))));
        // It says which server has answered, and not what was asked for.
        sent.as_object_mut().unwrap().remove("system_fingerprint");
        assert_eq!(without_nulls(&lasting(&answer["response"]["body"])), sent, "{id}");
    }
}

#[test]
fn prompts_that_share_a_request_have_bodies_of_their_own() {
    let work = Work::instant(1);
    let url = work.fleet.url(0);
    let requests: Vec<_> = (0..40)
        .map(|number| {
            let prompt = format!("prompt {number}");
            (
                "c",
                COMPLETIONS,
                json!({"prompt": prompt, "max_tokens": 6, "temperature": 0, "logprobs": 1}),
            )
        })
        .collect();
    let input = work.file("batch.jsonl", batch_file(&requests));
    work.run(&input).args(["--batch-size", "8", "--duplicate-ids", "keep"]).run().with_code(0);
    assert!(work.requests() < 40);
    let (mut ids, mut tokens) = (BTreeSet::new(), 0);
    for (answer, (_, path, body)) in work.answers("answers.jsonl").iter().zip(&requests) {
        let sent = ask_server(&url, path, &with_model(body));
        let body = &answer["response"]["body"];
        for name in ["choices", "object", "model", "system_fingerprint"] {
            assert_eq!(body[name], sent[name]);
        }
        assert!(body["created"].is_u64());
        tokens += body["usage"]["completion_tokens"].as_u64().unwrap();
        ids.insert(body["id"].to_string());
    }
    assert_eq!((ids.len(), tokens), (40, 240));
}

#[test]
fn conversations_that_were_rendered_here_have_bodies_of_the_chat_route() {
    let work = Work::instant(1);
    let (url, template) = (work.fleet.url(0), work.file("chat_template.jinja", CHATML));
    let requests: Vec<_> = (0..400)
        .map(|number| {
            let messages = messages(&format!("conversation {number}"));
            ("c", CHAT, json!({"messages": messages, "max_tokens": 6, "temperature": 0}))
        })
        .collect();
    let input = work.file("batch.jsonl", batch_file(&requests));
    let job = work.run(&input).args(["--batch-size", "16", "--duplicate-ids", "keep"]);
    job.args(["--chat-template", &template]).run().with_code(0).complains("chat batching on");
    assert!(work.requests() < 300, "{} requests for 400 conversations", work.requests());
    let mut ids = BTreeSet::new();
    for (answer, (_, path, body)) in work.answers("answers.jsonl").iter().zip(&requests) {
        let sent = ask_server(&url, path, &with_model(body));
        let body = &answer["response"]["body"];
        assert_eq!(body["object"], "chat.completion");
        assert_eq!(without_nulls(&body["choices"]), without_nulls(&sent["choices"]));
        let id = body["id"].as_str().unwrap();
        assert!(id.starts_with("chatcmpl-"), "{id}");
        ids.insert(id.to_owned());
    }
    assert_eq!(ids.len(), 400);
}

#[test]
fn a_failed_row_of_a_batch_has_an_error_and_no_response() {
    let work = Work::instant(1);
    let long = "x ".repeat(9_000);
    let requests = [
        ("good", CHAT, json!({"messages": messages("a"), "max_tokens": 4})),
        ("long", CHAT, json!({"messages": messages(&long), "max_tokens": 4})),
    ];
    let input = work.file("batch.jsonl", batch_file(&requests));
    work.run(&input).run().with_code(3);
    let answers = work.answers("answers.jsonl");
    assert_eq!(answers[0]["error"], Value::Null);
    assert_eq!((&answers[1]["custom_id"], &answers[1]["response"]), (&json!("long"), &Value::Null));
    assert_eq!(answers[1]["error"]["code"], "too_long");
    assert!(answers[1]["error"]["message"].as_str().unwrap().contains("maximum context length"));
    let text = std::fs::read_to_string(work.path("answers.jsonl")).unwrap();
    assert!(text.lines().all(|line| line.starts_with("{\"id\":\"batch_req_")), "{text}");
}

#[test]
fn sequences_that_the_server_gave_up_are_asked_for_again() {
    let rules = vec![Rule::times(Fault::Abort, 12)];
    let aborting = Profile { script: Script { seed: 1, rules }, ..Profile::instant() };
    let work = Work::with(vec![aborting]);
    let prompts: Vec<String> = (0..60).map(|number| format!("prompt {number}")).collect();
    let input = work.prompts(&prompts);
    let job =
        work.run(&input).args(["--api", "completions", "--batch-size", "4", "--max-tokens", "8"]);
    job.args(["--retries", "20"]).run().with_code(0);
    assert_eq!(work.counts("answers.jsonl"), [60, 60, 0, 0]);
    assert!(work.fleet.seen(0).faults >= 12);
    for (answer, prompt) in work.answers("answers.jsonl").iter().zip(&prompts) {
        assert_eq!(answer["finish_reason"], "length");
        assert_eq!(answer["response"], by_completions(prompt, 8));
    }
}
