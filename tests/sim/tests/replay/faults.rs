//! The `fault-` recordings: what requests under way and later ones see when clients go, servers
//! are overrun, or processes die.

use crate::http::{connect, drain, exchange, parse, post, request};
use crate::profile;
use crate::queues::wait_for;
use serde_json::{Value, json};
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;
use vllm_sim::{CostModel, OnTerm, Profile, Simulator};

type Checked = Result<(), String>;

/// Replays one of them.
pub(crate) fn replay(case: &str, recorded: &Value) -> Checked {
    match case {
        _ if case.starts_with("fault-disconnect-") => disconnect(case, recorded),
        "fault-overload" => overload(None),
        "fault-overload-queue-limit-64" => overload(Some(recorded)),
        "fault-while-loading" => loading(),
        "fault-kill9-api" => death(recorded, OnTerm::Exit, |s| s.endpoint().terminate()),
        "fault-kill9-engine" => death(recorded, OnTerm::Exit, |s| s.endpoint().kill_engine()),
        "fault-sigterm" => death(recorded, OnTerm::Hang, |s| s.endpoint().terminate()),
        "fault-sigterm-drain30" => death(recorded, OnTerm::Drain, |s| s.endpoint().terminate()),
        _ => Err("there is no replay for it".to_owned()),
    }
}

fn started(on_term: OnTerm) -> Result<Simulator, String> {
    // 1500 tokens at 1 ms each: long enough to be in the middle of, short enough to drain.
    let cost = CostModel { step_base_us: 1000.0, ..profile().cost };
    Simulator::start(Profile { cost, on_term, ..profile() }).map_err(|e| e.to_string())
}

fn long(prompt: Value, stream: bool) -> Value {
    json!({"model": "tiny", "prompt": prompt, "max_tokens": 1500, "temperature": 0,
        "ignore_eos": true, "stream": stream})
}

fn send(address: SocketAddr, bytes: &[u8]) -> Result<TcpStream, String> {
    let mut stream = connect(address);
    stream.write_all(bytes).map_err(|e| e.to_string())?;
    Ok(stream)
}

fn running(server: &Simulator) -> usize {
    server.endpoint().pace.gauges().running
}

fn disconnect(case: &str, recorded: &Value) -> Checked {
    let server = started(OnTerm::Exit)?;
    let prompts: Vec<String> = (0..20).map(|n| format!("The launcher {n}")).collect();
    let list = case.ends_with("list20");
    let prompt = if list { json!(prompts) } else { json!("The launcher reads") };
    let body = long(prompt, case.ends_with("stream"));
    let mut stream = send(server.address(), &post("/v1/completions", &body, false))?;
    let wanted = recorded["running_before_disconnect"].as_f64().unwrap_or(1.0) as usize;
    wait_for("the prompts run", || running(&server) == wanted)?;
    if case.ends_with("halfclose") {
        stream.shutdown(Shutdown::Write).map_err(|e| e.to_string())?;
        let (got, ended) = drain(&mut stream, Duration::from_secs(2));
        if !got.is_empty() || ended != recorded["client_ended"].as_str().unwrap_or("EOF") {
            return Err(format!("{ended} after {} bytes", got.len()));
        }
    } else {
        drop(stream);
    }
    wait_for("nothing runs", || running(&server) == 0 && server.seen().in_flight == 0)?;
    let aborted = server.seen().aborted;
    if aborted == wanted as u64 { Ok(()) } else { Err(format!("{aborted} aborted")) }
}

fn overload(refusing: Option<&Value>) -> Checked {
    let limit = refusing.map(|_| 64);
    let server = Simulator::start(Profile { max_queued: limit, ..profile() });
    let server = server.map_err(|e| e.to_string())?;
    let body = json!({"prompt": "x", "max_tokens": 32, "ignore_eos": true});
    let streams: Vec<TcpStream> = (0..300)
        .map(|_| send(server.address(), &post("/v1/completions", &body, true)))
        .collect::<Result<_, _>>()?;
    let (mut served, mut refused) = (0, 0);
    for mut stream in streams {
        let (got, _) = drain(&mut stream, crate::http::PATIENCE);
        let (response, _) = parse(&got).ok_or("no answer")?;
        match (response.status, refusing) {
            (200, _) => served += 1,
            (503, Some(recorded)) => {
                refused += 1;
                if recorded["first_refusal_body"] != response.text().as_str() {
                    return Err(response.text());
                }
            }
            _ => return Err(format!("status {}", response.status)),
        }
    }
    let fits = match refusing {
        None => served == 300,
        Some(_) => served >= 64 && refused > 0 && server.seen().rejected == refused,
    };
    if fits { Ok(()) } else { Err(format!("{served} served, {refused} refused")) }
}

fn loading() -> Checked {
    let profile = Profile { loading: Duration::from_millis(300), ..profile() };
    let server = Simulator::start(profile).map_err(|e| e.to_string())?;
    let refused = TcpStream::connect(server.address()).err().map(|e| e.kind());
    if refused != Some(std::io::ErrorKind::ConnectionRefused) {
        return Err(format!("while loading: {refused:?}"));
    }
    wait_for("it listens", || TcpStream::connect(server.address()).is_ok())?;
    let got = exchange(server.address(), &health())?;
    if got.status == 200 { Ok(()) } else { Err(format!("health {}", got.status)) }
}

fn health() -> Vec<u8> {
    request("GET", "/health", &[("Connection", "close")], None)
}

/// Ends a server in some way with requests under way, and compares what each of them sees.
fn death(recorded: &Value, on_term: OnTerm, end: impl Fn(&Simulator)) -> Checked {
    let server = started(on_term)?;
    let address = server.address();
    let completions = |body: &Value| send(address, &post("/v1/completions", body, true));
    let prompts: Vec<String> = (0..10).map(|n| format!("The launcher {n}")).collect();
    let chat = json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1500,
        "ignore_eos": true});
    let idle = send(address, &request("GET", "/health", &[], None))?;
    let mut under_way = vec![
        ("single", completions(&long(json!("The launcher reads"), false))?),
        ("list10", completions(&long(json!(prompts), false))?),
        ("chat", send(address, &post("/v1/chat/completions", &chat, true))?),
        ("stream", completions(&long(json!("The launcher reads"), true))?),
        ("idle-keepalive", idle),
    ];
    let at_signal = recorded["metrics_at_signal"]["running"].as_f64().unwrap_or(13.0) as usize;
    wait_for("all run", || running(&server) == at_signal)?;
    std::thread::sleep(Duration::from_millis(100));
    end(&server);
    later(recorded, address, 0)?;
    for (name, stream) in &mut under_way {
        let record = &recorded["in_flight"][*name];
        // A hang was watched for 38 s; a second shows it as well.
        let hangs = record["ended"].as_str().is_some_and(|e| e.starts_with("TimeoutError"));
        let patience = Duration::from_secs(if hangs { 1 } else { 8 });
        let (got, ended) = drain(stream, patience);
        seen(record, &got, ended).map_err(|why| format!("{name}: {why}"))?;
    }
    wait_for("it refuses", || TcpStream::connect(address).is_err())?;
    later(recorded, address, 1)
}

/// A request made after the end: the first at once, the second when all is over.
fn later(recorded: &Value, address: SocketAddr, which: usize) -> Checked {
    let record = recorded["later_requests"][which]["new_request"].as_str().unwrap_or_default();
    let (completions, health_record) = record.split_once(" | ").unwrap_or((record, ""));
    let short = post("/v1/completions", &json!({"prompt": "x", "max_tokens": 1}), true);
    let outcome = |bytes: &[u8]| {
        TcpStream::connect(address).ok()?;
        exchange(address, bytes).ok()
    };
    // Where the record has a status, ours must have it; an error of the connection may be a
    // refusal, a reset or an end without a byte, as the moment has it.
    let wanted = completions.split(' ').nth(1).and_then(|s| s.parse::<u16>().ok());
    let got = outcome(&short);
    if wanted != got.as_ref().map(|r| r.status) {
        return Err(format!("recorded {completions}, got {:?}", got.map(|r| r.status)));
    }
    if let (Some(_), Some(got)) = (wanted, &got) {
        let body = completions.splitn(3, ' ').nth(2).unwrap_or_default();
        if body != got.text() {
            return Err(format!("recorded {body}, got {}", got.text()));
        }
    }
    let wanted = health_record.split(' ').nth(1).and_then(|s| s.parse::<u16>().ok());
    let got = outcome(&health()).map(|r| r.status);
    if wanted == got { Ok(()) } else { Err(format!("recorded {health_record}, got {got:?}")) }
}

/// What a request under way got, against the record.
fn seen(record: &Value, got: &[u8], ended: &str) -> Checked {
    let wanted = record["ended"].as_str().unwrap_or_default();
    if !wanted.starts_with(ended) {
        return Err(format!("recorded {wanted}, got {ended} after {} bytes", got.len()));
    }
    let head = record["head"].as_str().unwrap_or_default();
    if head.is_empty() != got.is_empty() {
        return Err(format!("recorded {} bytes, got {}", record["bytes"], got.len()));
    }
    let status = |text: &str| text.split("\r\n").next().map(str::to_owned);
    let text = String::from_utf8_lossy(got);
    if status(head) != status(&text) {
        return Err(format!("recorded {:?}, got {:?}", status(head), status(&text)));
    }
    // How a body ends tells whole ones, broken ones and cut ones apart.
    for mark in
        ["data: [DONE]", "\r\n0\r\n\r\n", "EngineCore encountered", "completion_tokens\":1500"]
    {
        if head.contains(mark) != text.contains(mark) {
            return Err(format!("{mark:?} is in the record: {}", head.contains(mark)));
        }
    }
    Ok(())
}
