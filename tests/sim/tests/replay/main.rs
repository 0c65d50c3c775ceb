//! The recorded exchanges of a real server, replayed against the simulator.
//!
//! Every file of the recordings is either replayed here and has to match, or stands in
//! `LEFT_OUT` with its reason: a file in neither fails the test.

mod connections;
mod faults;
mod http;
mod queues;
mod shape;

use http::{Response, exchange, request};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use vllm_sim::{AnswerPolicy, CostModel, Lengths, Profile, Simulator};

/// What is not replayed, and why.
const LEFT_OUT: [(&str, &str); 3] = [
    ("request-fields", "a list of field names, not an exchange"),
    ("responses-simple", "/v1/responses is not simulated: no client of ours speaks it"),
    ("messages-simple", "/v1/messages is not simulated: no client of ours speaks it"),
];

/// Where the random model's noise decides how an answer ends: a real one may run on where ours
/// closes its JSON, and the other way round.
const NOISE: [&str; 5] = [
    "chat-batch-response-format",
    "chat-response-format-json-schema",
    "completions-response-format-json-object",
    "completions-response-format-json-schema",
    "completions-structured-outputs-json",
];

/// Whether an answer's length is the model's free choice, too.
fn is_noise(case: &str) -> bool {
    NOISE.contains(&case)
}

fn recordings() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/vllm-wire")
}

/// A server as the recordings' was: it never stops by itself, and a step takes a millisecond.
pub(crate) fn profile() -> Profile {
    Profile {
        policy: AnswerPolicy { lengths: Lengths::Fixed(1_000_000), ..AnswerPolicy::default() },
        cost: CostModel {
            step_base_us: 300.0,
            per_seq_us: 1.0,
            per_prefill_token_us: 0.1,
            ..CostModel::default()
        },
        ..Profile::default()
    }
}

#[test]
fn the_simulator_answers_as_the_recorded_server_did() {
    let server = Simulator::start(profile()).expect("a free port");
    let calls_tools = Profile { calls_tools: true, ..profile() };
    let calls_tools = Simulator::start(calls_tools).expect("a free port");
    let limited = Simulator::start(Profile { max_queued: Some(64), ..profile() }).expect("a port");
    let (mut matched, mut failures) = (0, Vec::new());
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut files: Vec<PathBuf> = std::fs::read_dir(recordings())
        .expect("the recordings are there")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    files.sort();
    let total = files.len();
    for file in files {
        let case = file.file_stem().expect("a name").to_string_lossy().into_owned();
        if let Some((_, reason)) = LEFT_OUT.iter().find(|(name, _)| *name == case) {
            groups.entry((*reason).to_owned()).or_default().push(case);
            continue;
        }
        let text = std::fs::read_to_string(&file).expect("readable");
        let recorded: Value = serde_json::from_str(&text).expect("JSON");
        let outcome = match case.split('-').next().unwrap_or_default() {
            "conn" => connections::replay(&case, &server, &recorded),
            "fault" => faults::replay(&case, &recorded),
            "queue" | "big" => queues::replay(&case, &server, &limited, &recorded),
            "toolcall" => plain(&case, &calls_tools, &recorded),
            _ if case == "request-id-same-twice-at-once" => queues::twice_at_once(&server),
            _ if case == "get-metrics" => metrics(&server, &recorded),
            _ => plain(&case, &server, &recorded),
        };
        match outcome {
            Ok(()) => matched += 1,
            Err(why) => failures.push(format!("{case}: {why}")),
        }
    }
    let left: Vec<String> =
        groups.iter().map(|(reason, cases)| format!("{}: {reason}", cases.join(", "))).collect();
    // Past the capture: how much was compared is worth a line in every log.
    let _ = writeln!(
        std::io::stderr(),
        "replayed {} of {total} recordings, {matched} match; left out: {}",
        matched + failures.len(),
        left.join("; ")
    );
    assert!(failures.is_empty(), "{} do not match:\n{}", failures.len(), failures.join("\n"));
    assert!(matched >= 130, "only {matched} were replayed");
}

/// One request on a connection of its own, compared with the record.
fn plain(case: &str, server: &Simulator, recorded: &Value) -> Result<(), String> {
    let bytes = rebuilt(&recorded["request"]);
    let got = exchange(server.address(), &bytes)?;
    compare(case, &recorded["response"], &got)
}

/// The request as it was sent: strings and lists that the record cuts are made anew.
fn rebuilt(record: &Value) -> Vec<u8> {
    let mut headers: Vec<(&str, &str)> = vec![("Connection", "close")];
    for (name, value) in record["headers"].as_object().into_iter().flatten() {
        headers.push((name, value.as_str().unwrap_or_default()));
    }
    let body = match (record.get("body"), record.get("body_raw").and_then(Value::as_str)) {
        (_, Some(raw)) => Some(raw.to_owned()),
        (Some(body), None) => Some(whole(body).to_string()),
        (None, None) => None,
    };
    let (method, path) = (record["method"].as_str(), record["path"].as_str());
    let body = body.as_deref().map(str::as_bytes);
    request(method.unwrap_or("GET"), path.unwrap_or("/"), &headers, body)
}

fn whole(value: &Value) -> Value {
    match value {
        Value::String(text) => match cut(text, " characters cut]…") {
            Some((kept, missing)) => {
                let sentence = "The launcher reads a prompt. ";
                let length = kept + missing;
                Value::from(sentence.repeat(length / sentence.len() + 1)[..length].to_owned())
            }
            None => value.clone(),
        },
        Value::Array(items) => {
            let gap = items.iter().find_map(|i| cut(i.as_str()?, " items cut]…"));
            match gap {
                Some((_, missing)) if items[0].is_number() => {
                    (0..items.len() + missing - 1).collect::<Vec<usize>>().into()
                }
                Some((_, missing)) => vec![items[0].clone(); items.len() + missing - 1].into(),
                None => items.iter().map(whole).collect(),
            }
        }
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(k, v)| (k.clone(), whole(v))).collect())
        }
        other => other.clone(),
    }
}

/// How much of a cut text was kept and how much is missing.
fn cut(text: &str, mark: &str) -> Option<(usize, usize)> {
    let end = text.find(mark)?;
    let start = text[..end].rfind("…[")?;
    let missing = text[start + "…[".len()..end].parse().ok()?;
    let kept = text[..start].trim_end().len() + text[end + mark.len()..].trim_start().len();
    Some((kept, missing))
}

/// Compares status, headers and body with the record.
pub(crate) fn compare(case: &str, recorded: &Value, got: &Response) -> Result<(), String> {
    let status = recorded["status"].as_u64().unwrap_or(0);
    if status != u64::from(got.status) {
        return Err(format!("recorded status {status}, got {}: {}", got.status, got.text()));
    }
    headers(recorded, got)?;
    if let Some(events) = recorded["sse_events"].as_array() {
        return shape::streams(events, &shape::events(&got.text()));
    }
    let body = match (recorded.get("body"), recorded["body_text"].as_str()) {
        (Some(body), _) if !body.is_null() => body.clone(),
        (_, Some("")) if got.body.is_empty() => return Ok(()),
        (_, Some(text)) => match serde_json::from_str(text) {
            Ok(body) => body,
            // The record cut the text where the answer is long: only its end can be compared.
            Err(_) => return long_answer(text, got),
        },
        _ => return Ok(()),
    };
    let json = got.json().ok_or_else(|| format!("no JSON: {}", got.text()))?;
    shape::same("body", &body, &json, is_noise(case))?;
    own_id(recorded, case, &json)?;
    if is_noise(case) { Ok(()) } else { shape::usage(&body, &json) }
}

fn headers(recorded: &Value, got: &Response) -> Result<(), String> {
    for header in recorded["headers"].as_array().into_iter().flatten() {
        let (name, value) = (header[0].as_str().unwrap_or(""), header[1].as_str().unwrap_or(""));
        let found = got.header(name);
        let same = match name {
            "date" | "content-length" => found.is_some() || name == "date",
            _ => found == Some(value),
        };
        if !same {
            return Err(format!("recorded header {name}: {value}, got {found:?}"));
        }
    }
    match got.header("retry-after") {
        Some(value) => Err(format!("nothing says Retry-After there, got {value}")),
        None => Ok(()),
    }
}

/// An id that the client chose is the answer's.
fn own_id(recorded: &Value, case: &str, got: &Value) -> Result<(), String> {
    let wanted = &recorded["body"]["id"];
    if case.contains("request-id") && *wanted != got["id"] {
        return Err(format!("recorded id {wanted}, got {}", got["id"]));
    }
    Ok(())
}

fn long_answer(recorded: &str, got: &Response) -> Result<(), String> {
    let tail = |text: &str| {
        let start = text.rfind("\"logprobs\":null").unwrap_or(0);
        shape::pattern(text[start..].split("\"system_fingerprint\"").next().unwrap_or_default())
    };
    let text = got.text();
    if tail(recorded) != tail(&text) {
        return Err(format!("recorded tail {}, got {}", tail(recorded), tail(&text)));
    }
    let total =
        |text: &str| text.split("\"total_tokens\":").nth(1)?.split(',').next()?.parse().ok();
    let (a, b): (Option<u64>, Option<u64>) = (total(recorded), total(&text));
    if a == b { Ok(()) } else { Err(format!("recorded {a:?} tokens in all, got {b:?}")) }
}

/// Every metric that the simulator has must be one of the real server's, labels and all.
fn metrics(server: &Simulator, recorded: &Value) -> Result<(), String> {
    let got = exchange(server.address(), &rebuilt(&recorded["request"]))?;
    headers(&recorded["response"], &got)?;
    let text = recorded["response"]["body_text"].as_str().unwrap_or_default();
    let text = text.to_owned();
    let known = |line: &str| {
        let name = line.rsplit_once(' ').map_or(line, |(name, _)| name);
        text.lines().any(|l| l == line || l.rsplit_once(' ').is_some_and(|(n, _)| n == name))
    };
    match got.text().lines().find(|line| !known(line)) {
        Some(line) => Err(format!("the real server has no such line: {line}")),
        None if got.text().lines().count() > 30 => Ok(()),
        None => Err("there are hardly any metrics".to_owned()),
    }
}
