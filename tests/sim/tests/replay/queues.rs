//! The `queue-limit-` and `big-` recordings: full queues, long lists, large bodies.

use crate::http::{Response, connect, drain, exchange, parse, post, request};
use serde_json::{Value, json};
use std::io::Write;
use std::time::{Duration, Instant};
use vllm_sim::Simulator;

type Checked = Result<(), String>;

/// Replays one of them.
pub(crate) fn replay(
    case: &str,
    server: &Simulator,
    limited: &Simulator,
    recorded: &Value,
) -> Checked {
    if case.starts_with("big-list-") {
        return big_list(case, server, recorded);
    }
    if case.starts_with("big-body-") {
        return big_body(case, server, recorded);
    }
    if case.contains("-busy-") {
        return busy(case, limited, recorded);
    }
    let response = &recorded["response"];
    let body = with_prompts(&recorded["request"]["body"]);
    let got = exchange(limited.address(), &post("/v1/completions", &body, true))?;
    if response["status"] == 200 {
        return in_order(&got, response["body"]["choices"].as_u64(), &response["body"]["usage"]);
    }
    crate::compare(case, response, &without_close(got))
}

fn without_close(got: Response) -> Response {
    Response {
        headers: got.headers.into_iter().filter(|(n, _)| n != "connection").collect(),
        ..got
    }
}

/// A record says "200 prompts" where there were as many.
fn with_prompts(body: &Value) -> Value {
    let mut body = body.clone();
    let count = body["prompt"].as_str().and_then(|text| text.strip_suffix(" prompts"));
    if let Some(count) = count.and_then(|n| n.parse::<usize>().ok()) {
        body["prompt"] = (0..count).map(|n| format!("The launcher {n}")).collect();
    }
    body
}

fn in_order(got: &Response, count: Option<u64>, usage: &Value) -> Checked {
    let json = got.json().ok_or_else(|| got.text())?;
    let choices = json["choices"].as_array().cloned().unwrap_or_default();
    let ordered = choices.iter().enumerate().all(|(at, c)| c["index"].as_u64() == Some(at as u64));
    if Some(choices.len() as u64) != count || !ordered {
        return Err(format!("{} choices, in order: {ordered}", choices.len()));
    }
    crate::shape::same("usage", usage, &json["usage"], false)?;
    if usage["completion_tokens"] == json["usage"]["completion_tokens"] {
        Ok(())
    } else {
        Err(format!("usage {}", json["usage"]))
    }
}

fn busy(case: &str, limited: &Simulator, recorded: &Value) -> Checked {
    let mut list = with_prompts(&json!({"prompt": "64 prompts"}));
    list["max_tokens"] = json!(2000);
    list["ignore_eos"] = json!(true);
    let mut holder = connect(limited.address());
    holder.write_all(&post("/v1/completions", &list, true)).map_err(|e| e.to_string())?;
    wait_for("the list is under way", || limited.seen().in_flight >= 64)?;
    let body = &recorded["request"]["body"];
    let got = exchange(limited.address(), &post("/v1/completions", body, true))?;
    drop(holder);
    wait_for("the list is gone", || limited.seen().in_flight == 0)?;
    crate::compare(case, &recorded["response"], &without_close(got))
}

pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) -> Checked {
    let start = Instant::now();
    while !holds() {
        if start.elapsed() > Duration::from_secs(5) {
            return Err(format!("waited in vain: {what}"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn big_list(case: &str, server: &Simulator, recorded: &Value) -> Checked {
    let count = case.trim_start_matches("big-list-").parse().unwrap_or(0);
    let prompts: Vec<String> = (0..count).map(|n| format!("The launcher {n}")).collect();
    let body = json!({"model": "tiny", "prompt": prompts, "max_tokens": 2, "temperature": 0});
    let got = exchange(server.address(), &post("/v1/completions", &body, true))?;
    if recorded["status"] == 200 {
        return in_order(&got, recorded["choices"].as_u64(), &recorded["usage"]);
    }
    let json = got.json().ok_or_else(|| got.text())?;
    crate::shape::same("error", &recorded["error"], &json["error"], false)
}

fn big_body(case: &str, server: &Simulator, recorded: &Value) -> Checked {
    let mebibytes = case.split('-').nth(2).and_then(|n| n.strip_suffix("mib")?.parse().ok());
    let filler = "a".repeat(mebibytes.unwrap_or(1) << 20);
    let body = if case.ends_with("padding") {
        format!("{{\"prompt\":\"a\",\"max_tokens\":1,\"padding\":\"{filler}\"}}")
    } else {
        format!("{{\"max_tokens\":1,\"prompt\":\"{filler}\"}}")
    };
    let headers = [("Content-Type", "application/json"), ("Connection", "close")];
    let bytes = request("POST", "/v1/completions", &headers, Some(body.as_bytes()));
    let got = exchange(server.address(), &bytes)?;
    if recorded["status"] != u64::from(got.status) {
        return Err(format!("status {}: {}", got.status, got.text()));
    }
    let text = recorded["body"].as_str().unwrap_or_default();
    match serde_json::from_str::<Value>(text) {
        Ok(wanted) => crate::shape::same("body", &wanted, &got.json().unwrap_or_default(), false),
        Err(_) => crate::shape::usage(&Value::Null, &got.json().ok_or("no JSON")?),
    }
}

/// Two requests with one id at once: both are served under it.
pub(crate) fn twice_at_once(server: &Simulator) -> Checked {
    let body = json!({"prompt": "A rank", "max_tokens": 600, "ignore_eos": true}).to_string();
    let headers = [
        ("Content-Type", "application/json"),
        ("X-Request-Id", "same-id"),
        ("Connection", "close"),
    ];
    let bytes = request("POST", "/v1/completions", &headers, Some(body.as_bytes()));
    let mut both = [connect(server.address()), connect(server.address())];
    for stream in &mut both {
        stream.write_all(&bytes).map_err(|e| e.to_string())?;
    }
    for stream in &mut both {
        let (got, _) = drain(stream, crate::http::PATIENCE);
        let (response, _) = parse(&got).ok_or("no answer")?;
        let json = response.json().ok_or("no JSON")?;
        if json["id"] != "cmpl-same-id" || json["usage"]["completion_tokens"] != 600 {
            return Err(response.text());
        }
    }
    Ok(())
}
