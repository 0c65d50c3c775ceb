//! What it means that two answers match: same keys, same types, same errors, adding up.

use serde_json::Value;

/// Fields whose text is part of the protocol and not of what the model says.
const LITERAL: [&str; 6] = ["object", "model", "type", "param", "role", "finish_reason"];
/// Objects whose keys are tokens.
const BY_TOKEN: [&str; 2] = ["top_logprobs", "prompt_logprobs"];

/// Compares a recorded value with one that was got; `noise` lets finish reasons differ.
pub(crate) fn same(path: &str, recorded: &Value, got: &Value, noise: bool) -> Result<(), String> {
    let fail = |why: String| Err(format!("at {path}: {why}"));
    let name = path.rsplit('.').next().unwrap_or_default();
    match (recorded, got) {
        (Value::Null, Value::Null) | (Value::Bool(_), Value::Bool(_)) => Ok(()),
        (Value::Number(a), Value::Number(b)) => {
            let exact = ["code", "index", "max_model_len", "prompt_index"].contains(&name);
            if exact && a != b { fail(format!("recorded {a}, got {b}")) } else { Ok(()) }
        }
        (Value::String(a), Value::String(b)) if name == "message" => message(a, b),
        (Value::String(a), Value::String(b)) => {
            let free = !LITERAL.contains(&name) || (noise && name == "finish_reason");
            if a == b || free { Ok(()) } else { fail(format!("recorded {a:?}, got {b:?}")) }
        }
        (Value::Array(a), Value::Array(b)) => arrays(path, a, b, noise),
        (Value::Object(a), Value::Object(b)) if BY_TOKEN.contains(&name.trim_end_matches("[]")) => {
            match (a.values().next(), b.values().next()) {
                (Some(a), Some(b)) => same(&format!("{path}.*"), a, b, noise),
                _ => fail("no token".to_owned()),
            }
        }
        (Value::Object(a), Value::Object(b)) => {
            let keys = |o: &serde_json::Map<String, Value>| o.keys().cloned().collect::<Vec<_>>();
            if keys(a) != keys(b) {
                return fail(format!("recorded keys {:?}, got {:?}", keys(a), keys(b)));
            }
            a.iter().try_for_each(|(key, a)| same(&format!("{path}.{key}"), a, &b[key], noise))
        }
        _ => fail(format!("recorded {recorded}, got {got}")),
    }
}

fn arrays(path: &str, a: &[Value], b: &[Value], noise: bool) -> Result<(), String> {
    let item = format!("{path}[]");
    if path.ends_with(".choices") || path.ends_with("choices[]") {
        if a.len() != b.len() {
            return Err(format!("at {path}: recorded {} choices, got {}", a.len(), b.len()));
        }
        return a.iter().zip(b).try_for_each(|(a, b)| same(&item, a, b, noise));
    }
    match (a.last(), b.last()) {
        (None, None) => Ok(()),
        // The first of a list may be null where nothing comes before it; the last stands for all.
        (Some(last), Some(got)) => {
            if a[0].is_null() != b[0].is_null() {
                return Err(format!("at {path}: recorded {}, got {}", a[0], b[0]));
            }
            same(&item, last, got, noise)
        }
        _ => Err(format!("at {path}: recorded {} items, got {}", a.len(), b.len())),
    }
}

/// Compares error messages but for their numbers.
pub(crate) fn message(recorded: &str, got: &str) -> Result<(), String> {
    let (a, b) = (pattern(recorded), pattern(got));
    if a == b {
        return Ok(());
    }
    let at = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count().saturating_sub(20);
    let show = |text: &str| text.chars().skip(at).take(160).collect::<String>();
    Err(format!("message: recorded {:?}, got {:?}", show(&a), show(&b)))
}

/// A message with every number as N.
pub(crate) fn pattern(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '0'..='9' if out.ends_with('N') => {}
            '0'..='9' => out.push('N'),
            c => out.push(c),
        }
    }
    out
}

/// Checks that an answer's usage adds up, and is the recorded one where the length was asked for.
pub(crate) fn usage(recorded: &Value, got: &Value) -> Result<(), String> {
    let Some(usage) = got.get("usage").filter(|u| u.is_object()) else { return Ok(()) };
    let count = |of: &Value, name: &str| of[name].as_u64().unwrap_or(0);
    if usage.get("prompt_tokens").is_none() {
        return Ok(());
    }
    let sum = count(usage, "prompt_tokens") + count(usage, "completion_tokens");
    if sum != count(usage, "total_tokens") {
        return Err(format!("usage does not add up: {usage}"));
    }
    let asked = |of: &Value| {
        of["choices"].as_array().is_some_and(|c| c.iter().all(|c| c["finish_reason"] == "length"))
    };
    let (wanted, found) =
        (count(&recorded["usage"], "completion_tokens"), count(usage, "completion_tokens"));
    // An answer that runs to the context's end is as long as the prompt lets it.
    if asked(recorded) && asked(got) && wanted < 1000 && wanted != found {
        return Err(format!("recorded {wanted} completion tokens, got {found}"));
    }
    Ok(())
}

/// Compares two streams: the same choices, each with the same first and last chunk, and the same
/// end.
pub(crate) fn streams(recorded: &[Value], got: &[Value]) -> Result<(), String> {
    let last = |events: &[Value]| events.last().cloned().unwrap_or_default();
    if last(recorded) != last(got) {
        return Err(format!("recorded end {}, got {}", last(recorded), last(got)));
    }
    if recorded.len() != got.len() {
        return Err(format!("recorded {} events, got {}", recorded.len(), got.len()));
    }
    for index in 0..16 {
        let (a, b) = (of_choice(recorded, index), of_choice(got, index));
        if a.len() != b.len() {
            return Err(format!("choice {index}: recorded {} chunks, got {}", a.len(), b.len()));
        }
        for (a, b) in a.iter().zip(&b) {
            same(&format!("stream[{index}]"), a, b, false)?;
        }
    }
    let tail = |events: &[Value]| {
        events
            .iter()
            .filter(|e| e["choices"].as_array().is_some_and(Vec::is_empty))
            .cloned()
            .collect()
    };
    let (a, b): (Vec<Value>, Vec<Value>) = (tail(recorded), tail(got));
    a.iter().zip(&b).try_for_each(|(a, b)| {
        same("stream end", a, b, false)?;
        usage(a, b)
    })?;
    if a.len() == b.len() { Ok(()) } else { Err("the usage chunk is missing".to_owned()) }
}

fn of_choice(events: &[Value], index: u64) -> Vec<&Value> {
    events.iter().filter(|event| event["choices"][0]["index"] == index).collect()
}

/// The events of a stream's body.
pub(crate) fn events(body: &str) -> Vec<Value> {
    body.split("\n\n")
        .filter(|event| !event.is_empty())
        .map(|event| {
            let data = event.trim_start_matches("data: ");
            serde_json::from_str(data).unwrap_or_else(|_| Value::from(event))
        })
        .collect()
}
