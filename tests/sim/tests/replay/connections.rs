//! The `conn-` recordings: how connections are kept, reused, misused and ended.

use crate::http::{Response, connect, drain, exchange, parse, post, request};
use crate::profile;
use serde_json::{Value, json};
use std::io::Write;
use std::time::{Duration, Instant};
use vllm_sim::{Profile, Simulator};

type Checked = Result<(), String>;

/// Replays one of them.
pub(crate) fn replay(case: &str, server: &Simulator, recorded: &Value) -> Checked {
    match case {
        "conn-300-headers" => headers(server, recorded, 300, 10),
        "conn-header-32kib" => headers(server, recorded, 1, 32 << 10),
        "conn-header-128kib" => headers(server, recorded, 1, 128 << 10),
        "conn-header-1024kib" => headers(server, recorded, 1, 1 << 20),
        "conn-header-5120kib" => headers(server, recorded, 1, 5 << 20),
        "conn-accept-gzip" => plain_text(server, recorded),
        "conn-body-never-comes" => body_never_comes(server),
        "conn-chunked-request" => chunked(server, recorded),
        "conn-expect-100" => expect_100(server, recorded),
        "conn-garbage" => raw(server, recorded, b"what is this\r\n\r\n"),
        "conn-http2-prior-knowledge" => {
            raw(server, recorded, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        }
        "conn-http10" => http10(server),
        "conn-http2-upgrade" => upgrade(server),
        "conn-keepalive-idle" => keep_alive_idle(),
        "conn-many-on-one" => many_on_one(server),
        "conn-pipelining" => pipelining(server, recorded),
        "conn-reuse-after-idle" => reuse_after_idle(),
        _ => Err("there is no replay for it".to_owned()),
    }
}

fn want(holds: bool, what: &str) -> Checked {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

fn short() -> Value {
    json!({"model": "tiny", "prompt": "The launcher reads", "max_tokens": 1, "temperature": 0})
}

/// The recorded text of a response against one that was got, head and body.
fn matches(recorded: &str, got: &Response) -> Checked {
    let (wanted, _) = parse(recorded.as_bytes()).ok_or("the record is no response")?;
    want(wanted.status == got.status, &format!("status {} {}", wanted.status, got.status))?;
    for (name, value) in &wanted.headers {
        let free = name == "date" || name == "content-length";
        let same = free || got.header(name) == Some(value.as_str());
        want(same, &format!("header {name}: {value}, got {:?}", got.header(name)))?;
    }
    match (wanted.json(), got.json()) {
        (Some(a), Some(b)) => crate::shape::same("body", &a, &b, false),
        (None, None) => want(wanted.body == got.body, &format!("body {}", got.text())),
        _ => Err(format!("body {}", got.text())),
    }
}

fn got(recorded: &Value) -> &str {
    recorded["got"].as_str().unwrap_or_default()
}

fn headers(server: &Simulator, recorded: &Value, count: usize, length: usize) -> Checked {
    let value = "x".repeat(length);
    let names: Vec<String> = (0..count).map(|n| format!("X-Filler-{n}")).collect();
    let mut all: Vec<(&str, &str)> = vec![("Connection", "close")];
    all.extend(names.iter().map(|name| (name.as_str(), value.as_str())));
    matches(got(recorded), &exchange(server.address(), &request("GET", "/health", &all, None))?)
}

fn plain_text(server: &Simulator, recorded: &Value) -> Checked {
    let body = short().to_string();
    let headers = [
        ("Content-Type", "application/json"),
        ("Accept-Encoding", "gzip"),
        ("Connection", "close"),
    ];
    let bytes = request("POST", "/v1/completions", &headers, Some(body.as_bytes()));
    let got = exchange(server.address(), &bytes)?;
    want(got.header("content-encoding").is_none() && got.json().is_some(), "not compressed")?;
    let head = recorded["response_head"].as_str().unwrap_or_default();
    want(head.contains("connection: close") && got.header("connection") == Some("close"), "close")
}

fn body_never_comes(server: &Simulator) -> Checked {
    let mut stream = connect(server.address());
    let head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
                Content-Length: 1000\r\n\r\n{";
    stream.write_all(head.as_bytes()).map_err(|e| e.to_string())?;
    // The record watched for 15 s; longer than the keep-alive time is long enough.
    let (got, ended) = drain(&mut stream, Duration::from_millis(6500));
    want(got.is_empty() && ended == "TimeoutError", &format!("{ended} after {} bytes", got.len()))
}

fn chunked(server: &Simulator, recorded: &Value) -> Checked {
    let body = short().to_string();
    let (first, second) = body.split_at(20);
    let text = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{first}\r\n{:x}\r\n\
         {second}\r\n0\r\n\r\n",
        first.len(),
        second.len()
    );
    matches(got(recorded), &exchange(server.address(), text.as_bytes())?)
}

fn expect_100(server: &Simulator, recorded: &Value) -> Checked {
    let body = short().to_string();
    let mut stream = connect(server.address());
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Connection: close\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).map_err(|e| e.to_string())?;
    let (interim, _) = drain(&mut stream, Duration::from_millis(300));
    let wanted = recorded["interim"].as_str().unwrap_or_default();
    want(interim == wanted.as_bytes(), &String::from_utf8_lossy(&interim))?;
    stream.write_all(body.as_bytes()).map_err(|e| e.to_string())?;
    let (rest, ended) = drain(&mut stream, crate::http::PATIENCE);
    let (response, _) = parse(&rest).ok_or("no answer")?;
    want(ended == "EOF", ended)?;
    matches(got(recorded), &response)
}

fn raw(server: &Simulator, recorded: &Value, bytes: &[u8]) -> Checked {
    let response = exchange(server.address(), bytes)?;
    matches(got(recorded), &response)
}

fn http10(server: &Simulator) -> Checked {
    let body = short().to_string();
    let text = format!(
        "POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let got = exchange(server.address(), text.as_bytes())?;
    want(got.status == 200 && got.json().is_some(), "200 and the end of the connection")
}

fn upgrade(server: &Simulator) -> Checked {
    let headers = [
        ("Connection", "Upgrade, HTTP2-Settings"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAMAAABkAAQAAP__"),
    ];
    let mut stream = connect(server.address());
    let bytes = request("GET", "/health", &headers, None);
    stream.write_all(&bytes).map_err(|e| e.to_string())?;
    let (got, ended) = drain(&mut stream, Duration::from_millis(500));
    want(got.starts_with(b"HTTP/1.1 200 OK"), &String::from_utf8_lossy(&got))?;
    want(ended == "TimeoutError", ended)
}

fn keep_alive_idle() -> Checked {
    let server = Simulator::start(profile()).map_err(|e| e.to_string())?;
    let mut stream = connect(server.address());
    let bytes = post("/v1/completions", &short(), false);
    stream.write_all(&bytes).map_err(|e| e.to_string())?;
    let start = Instant::now();
    let (got, ended) = drain(&mut stream, Duration::from_secs(9));
    let seconds = start.elapsed().as_secs_f64();
    want(parse(&got).is_some_and(|(r, _)| r.status == 200) && ended == "EOF", ended)?;
    want((4.8..5.6).contains(&seconds), &format!("closed after {seconds} s"))
}

fn many_on_one(server: &Simulator) -> Checked {
    let mut stream = connect(server.address());
    for n in 0..200 {
        let bytes = request("GET", "/version", &[], None);
        stream.write_all(&bytes).map_err(|e| format!("request {n}: {e}"))?;
        let mut got = Vec::new();
        while parse(&got).is_none_or(|(r, _)| r.json().is_none()) {
            let (more, ended) = drain(&mut stream, Duration::from_millis(5));
            want(ended == "TimeoutError" || !more.is_empty(), "the connection ended")?;
            got.extend(more);
        }
    }
    Ok(())
}

fn pipelining(server: &Simulator, recorded: &Value) -> Checked {
    let long = json!({"model": "tiny", "prompt": "The launcher reads", "max_tokens": 20,
        "temperature": 0});
    let mut bytes = post("/v1/completions", &long, false);
    bytes.extend(request("GET", "/health", &[], None));
    bytes.extend(request("GET", "/version", &[], None));
    let mut stream = connect(server.address());
    stream.write_all(&bytes).map_err(|e| e.to_string())?;
    let (all, ended) = drain(&mut stream, Duration::from_secs(1));
    want(ended == "TimeoutError", ended)?;
    let (mut wanted, mut found) = (got(recorded).as_bytes(), all.as_slice());
    for _ in 0..3 {
        let (response, rest) = parse(found).ok_or("an answer is missing")?;
        let (_, next) = parse(wanted).ok_or("the record ended")?;
        matches(&String::from_utf8_lossy(&wanted[..wanted.len() - next.len()]), &response)?;
        (wanted, found) = (next, rest);
    }
    Ok(())
}

fn reuse_after_idle() -> Checked {
    let quick = Profile { keep_alive: Duration::from_millis(400), ..profile() };
    let server = Simulator::start(quick).map_err(|e| e.to_string())?;
    let mut stream = connect(server.address());
    let bytes = request("GET", "/health", &[], None);
    stream.write_all(&bytes).map_err(|e| e.to_string())?;
    let (first, _) = drain(&mut stream, Duration::from_millis(200));
    want(parse(&first).is_some(), "the first answer")?;
    std::thread::sleep(Duration::from_millis(500));
    let sent = stream.write_all(&post("/v1/completions", &short(), false));
    let (got, ended) = drain(&mut stream, Duration::from_secs(2));
    want(sent.is_ok() && got.is_empty() && ended == "EOF", ended)
}
