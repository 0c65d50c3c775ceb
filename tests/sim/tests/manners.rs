//! What no recording shows: other kinds of servers, scripted faults, the pure answers, time.

#[path = "replay/http.rs"]
mod http;

use http::{Response, connect, drain, exchange, parse, post, request};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use vllm_sim::{
    AnswerPolicy, CostModel, Death, Fault, Flavor, Fleet, Lengths, Params, Profile, Rendering,
    Rule, Script, Simulator, Turn, answer, render, tokens,
};

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

fn start(profile: Profile) -> Simulator {
    Simulator::start(profile).expect("a free port")
}

fn ask(server: &Simulator, path: &str, body: &Value) -> Response {
    exchange(server.address(), &post(path, body, true)).expect("an answer")
}

fn get(server: &Simulator, path: &str) -> Response {
    let bytes = request("GET", path, &[("Connection", "close")], None);
    exchange(server.address(), &bytes).expect("an answer")
}

fn three() -> Value {
    json!({"prompt": ["one", "two", "three"], "max_tokens": 5, "temperature": 0})
}

fn with(fault: Fault) -> Simulator {
    let script = Script { seed: 0, rules: vec![Rule::times(fault, 1)] };
    start(Profile { script, ..Profile::instant() })
}

/// What a faulty server sends to one request.
fn raw(server: &Simulator, body: &Value, patience: Duration) -> (Vec<u8>, &'static str) {
    let mut stream = connect(server.address());
    stream.write_all(&post(COMPLETIONS, body, true)).expect("sent");
    drain(&mut stream, patience)
}

fn indices(response: &Response) -> Vec<u64> {
    let json = response.json().expect("JSON");
    let choices = json["choices"].as_array().cloned().unwrap_or_default();
    choices.iter().filter_map(|choice| choice["index"].as_u64()).collect()
}

#[test]
fn a_test_can_work_out_every_answer() {
    let server = start(Profile::instant());
    let got = ask(&server, COMPLETIONS, &three()).json().expect("JSON");
    let params = Params { max_tokens: Some(5), ..Params::default() };
    for (at, prompt) in ["one", "two", "three"].iter().enumerate() {
        let expected = answer(&AnswerPolicy::default(), &tokens::encode(prompt), &params);
        assert_eq!(got["choices"][at]["text"], expected.text.as_str());
    }
}

#[test]
fn a_chat_rendered_by_the_client_gets_the_chat_routes_answer() {
    for thinking in [None, Some(true), Some(false)] {
        let server = start(Profile::instant());
        let turns = [
            Turn { role: "system", content: "Be brief." },
            Turn { role: "user", content: "Why <|im_end|> here?" },
        ];
        let rendering = Rendering { enable_thinking: thinking, ..Rendering::default() };
        let text = render(&turns, rendering);
        let own = json!({"prompt": text, "max_tokens": 20, "return_token_ids": true});
        let mut chat = json!({"messages": [{"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Why <|im_end|> here?"}], "max_tokens": 20,
            "return_token_ids": true});
        if let Some(on) = thinking {
            chat["chat_template_kwargs"] = json!({"enable_thinking": on});
        }
        let (own, chat) = (ask(&server, COMPLETIONS, &own), ask(&server, CHAT, &chat));
        let (own, chat) = (own.json().expect("JSON"), chat.json().expect("JSON"));
        assert_eq!(own["choices"][0]["text"], chat["choices"][0]["message"]["content"]);
        assert_eq!(own["choices"][0]["prompt_token_ids"], chat["prompt_token_ids"]);
        assert_eq!(own["choices"][0]["token_ids"], chat["choices"][0]["token_ids"]);
    }
}

#[test]
fn a_reasoning_model_thinks_apart_in_chat_and_aloud_in_completions() {
    let policy = AnswerPolicy { thinking: Some(Lengths::Fixed(6)), ..AnswerPolicy::default() };
    let server = start(Profile { policy, ..Profile::instant() });
    let mut body = json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 200});
    let whole = ask(&server, CHAT, &body).json().expect("JSON");
    let message = &whole["choices"][0]["message"];
    let (reasoning, content) = (message["reasoning"].as_str(), message["content"].as_str());
    assert!(reasoning.is_some_and(|r| !r.is_empty()) && content.is_some_and(|c| !c.is_empty()));
    body["stream"] = json!(true);
    let stream = ask(&server, CHAT, &body).text();
    let field = |name: &str| {
        let events = stream.split("\n\n").filter_map(|e| e.strip_prefix("data: "));
        let events = events.filter_map(|e| serde_json::from_str::<Value>(e).ok());
        events.filter_map(|e| Some(e["choices"][0]["delta"][name].as_str()?.to_owned())).collect()
    };
    let (thought, said): (String, String) = (field("reasoning"), field("content"));
    assert_eq!((Some(&*thought), Some(&*said)), (reasoning, content));
    body["stream"] = json!(false);
    body["max_tokens"] = json!(4);
    let short = ask(&server, CHAT, &body).json().expect("JSON");
    assert_eq!(short["choices"][0]["message"]["content"], Value::Null);
    assert_eq!(short["choices"][0]["finish_reason"], "length");
    let aloud = ask(&server, COMPLETIONS, &json!({"prompt": "hi", "max_tokens": 100}));
    assert!(aloud.text().contains("<think>") && aloud.text().contains("</think>"));
}

#[test]
fn an_older_server_refuses_what_does_not_fit() {
    let server = start(Profile { flavor: Flavor::Older, ..Profile::instant() });
    let got = ask(&server, COMPLETIONS, &json!({"prompt": "one two", "max_tokens": 2047}));
    assert_eq!(got.status, 400);
    assert!(got.text().contains("is too large: 2047. This model's maximum context length is 2048"));
    let batch = json!({"messages": [[{"role": "user", "content": "hi"}]]});
    assert_eq!(ask(&server, "/v1/chat/completions/batch", &batch).status, 404);
    let list = json!({"prompt": vec!["a"; 1500], "max_tokens": 1});
    assert_eq!(ask(&server, COMPLETIONS, &list).status, 200);
}

#[test]
fn a_bare_server_has_single_prompts_and_little_else() {
    let server = start(Profile { flavor: Flavor::Bare, ..Profile::instant() });
    let list = ask(&server, COMPLETIONS, &three());
    assert!(list.status == 400 && list.text().contains("json: cannot unmarshal array into Go"));
    for path in ["/metrics", "/version", "/openapi.json", "/health"] {
        assert_eq!(get(&server, path).status, 404, "{path}");
    }
    assert_eq!(ask(&server, "/tokenize", &json!({"prompt": "a"})).status, 404);
    assert!(!get(&server, "/v1/models").text().contains("max_model_len"));
    assert_eq!(ask(&server, COMPLETIONS, &json!({"prompt": "one"})).status, 200);
}

#[test]
fn a_key_is_asked_for_on_the_api_only() {
    let server = start(Profile { api_key: Some("secret".into()), ..Profile::instant() });
    assert_eq!(ask(&server, COMPLETIONS, &three()).status, 401);
    assert_eq!(get(&server, "/health").status, 200);
    let headers = [("Authorization", "Bearer secret"), ("Connection", "close")];
    let bytes = request("GET", "/v1/models", &headers, None);
    assert_eq!(exchange(server.address(), &bytes).expect("an answer").status, 200);
}

#[test]
fn one_poisoned_prompt_fails_its_list() {
    let server = start(Profile { poison: Some("POISON".into()), ..Profile::instant() });
    let list = json!({"prompt": ["fine", "a POISON here"], "max_tokens": 2});
    assert_eq!(ask(&server, COMPLETIONS, &list).status, 400);
    assert_eq!(ask(&server, COMPLETIONS, &three()).status, 200);
}

#[test]
fn choices_come_wrong_as_scripted() {
    assert_eq!(indices(&ask(&with(Fault::ReverseChoices), COMPLETIONS, &three())), [2, 1, 0]);
    assert_eq!(indices(&ask(&with(Fault::MissingChoice), COMPLETIONS, &three())), [0, 1]);
    assert_eq!(indices(&ask(&with(Fault::DoubledIndex), COMPLETIONS, &three())), [0, 1, 0]);
}

#[test]
fn statuses_come_as_scripted_and_then_all_is_well_again() {
    for status in [503, 500] {
        let server = with(Fault::Status(status));
        assert_eq!(ask(&server, COMPLETIONS, &three()).status, status);
        assert_eq!(ask(&server, COMPLETIONS, &three()).status, 200);
        assert_eq!((server.seen().faults, server.seen().failed_5xx), (1, 1));
    }
    let wrong = ask(&with(Fault::ErrorUnder200), COMPLETIONS, &three());
    assert!(wrong.status == 200 && wrong.text().starts_with("{\"error\""));
}

#[test]
fn connections_end_or_hang_as_scripted() {
    let patience = Duration::from_millis(400);
    assert_eq!(raw(&with(Fault::Eof), &three(), patience), (Vec::new(), "EOF"));
    let hanging = with(Fault::Hang);
    assert_eq!(raw(&hanging, &three(), patience), (Vec::new(), "TimeoutError"));
    assert_eq!(get(&hanging, "/health").status, 200);
    let (cut, ended) = raw(&with(Fault::CutBody), &three(), patience);
    let (response, _) = parse(&cut).expect("a head");
    let claimed = response.header("content-length").and_then(|l| l.parse::<usize>().ok());
    assert!(
        claimed.is_some_and(|claimed| claimed > response.body.len()) && ended != "TimeoutError"
    );
    let late = Instant::now();
    assert_eq!(ask(&with(Fault::SlowFirstByte(150)), COMPLETIONS, &three()).status, 200);
    assert!(late.elapsed() >= Duration::from_millis(150));
}

#[test]
fn a_stream_breaks_in_band_or_in_the_middle() {
    let mut body = three();
    body["stream"] = json!(true);
    let broken = ask(&with(Fault::StreamError), COMPLETIONS, &body);
    assert!(broken.status == 200 && broken.text().contains("data: {\"error\""));
    assert!(broken.text().ends_with("data: [DONE]\n\n"));
    let (cut, ended) = raw(&with(Fault::CutBody), &body, Duration::from_secs(1));
    assert!(ended != "TimeoutError" && !String::from_utf8_lossy(&cut).contains("[DONE]"));
}

#[test]
fn a_script_can_be_changed_while_running() {
    let server = start(Profile::instant());
    let script = json!({"rules": [{"fault": {"status": 503}, "count": 1}]});
    assert_eq!(ask(&server, "/sim/script", &script).status, 200);
    assert_eq!(ask(&server, COMPLETIONS, &three()).status, 503);
    assert_eq!(ask(&server, COMPLETIONS, &three()).status, 200);
    let bad = ask(&server, "/sim/script", &json!({"rules": [{"fault": "sing"}]}));
    assert_eq!(bad.status, 400);
}

#[test]
fn an_endpoint_dies_after_so_many_prompts_and_the_others_live() {
    let dying = Profile { die: Some(Death::Prompts(3)), ..Profile::instant() };
    let fleet = Fleet::start(vec![dying, Profile::instant()]).expect("two ports");
    let send = |at: usize| {
        let address = fleet.url(at).trim_start_matches("http://").parse().expect("an address");
        std::net::TcpStream::connect(address).ok()?;
        exchange(address, &post(COMPLETIONS, &three(), true)).ok()
    };
    let _ = send(0);
    std::thread::sleep(Duration::from_millis(100));
    assert!(send(0).is_none());
    assert_eq!(send(1).map(|r| r.status), Some(200));
}

#[test]
fn what_was_seen_is_told() {
    let server = start(Profile::instant());
    ask(&server, COMPLETIONS, &three());
    ask(&server, COMPLETIONS, &json!({"prompt": "one", "max_tokens": 5}));
    ask(&server, COMPLETIONS, &json!({"prompt": ""}));
    let seen: vllm_sim::Seen =
        serde_json::from_slice(&get(&server, "/sim/seen").body).expect("what was seen");
    assert_eq!((seen.requests, seen.served, seen.distinct_served), (3, 4, 3));
    assert_eq!((seen.served_again, seen.largest_list, seen.refused_4xx), (1, 3, 1));
    assert_eq!(seen.most_served.first().map(|(_, times)| *times), Some(2));
}

#[test]
fn a_shared_prefix_is_cached_and_told_of() {
    let server = start(Profile::default());
    let prefix = "the launcher reads a prompt and each worker waits for it ".repeat(20);
    for n in 0..3 {
        let body = json!({"prompt": format!("{prefix}{n}"), "max_tokens": 1});
        assert_eq!(ask(&server, COMPLETIONS, &body).status, 200);
    }
    let text = get(&server, "/metrics").text();
    let count = |name: &str| {
        let line = text.lines().find(|l| l.starts_with(&format!("vllm:{name}_total{{")));
        line.and_then(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).expect("a number")
    };
    assert!(count("prefix_cache_hits") > 0.6 * count("prefix_cache_queries"), "{text}");
}

/// In real time the engine is no faster than its bound and, with all prompts there from the
/// start, hardly slower.
#[test]
fn a_full_engine_takes_about_the_time_of_the_cost_model() {
    let cost = CostModel { max_num_seqs: 16, step_base_us: 2000.0, ..CostModel::default() };
    let server = start(Profile { cost: cost.clone(), ..Profile::default() });
    let prompts: Vec<String> = (0..160).map(|n| format!("prompt {n}")).collect();
    let lengths: Vec<usize> = prompts.iter().map(|p| tokens::encode(p).len()).collect();
    let body = json!({"prompt": prompts, "max_tokens": 20, "ignore_eos": true});
    let start = Instant::now();
    assert_eq!(ask(&server, COMPLETIONS, &body).status, 200);
    let measured = start.elapsed();
    let bound = cost.bound(lengths.iter().map(|tokens| (*tokens, 20)), &[1.0]);
    assert!(measured >= bound, "{measured:?} is less than {bound:?}");
    let share = bound.as_secs_f64() / measured.as_secs_f64();
    println!("share of the bound: {share:.3}");
    assert!(share > 0.7, "{measured:?} against {bound:?}");
}

#[test]
fn the_program_says_ready_and_ends_on_sigterm() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_vllm-sim"))
        .args(["--port", "0", "--endpoints", "2", "--instant"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let out = BufReader::new(program.stdout.take().expect("piped"));
    let urls: Vec<String> = out.lines().take(2).map(|l| l.expect("a line")).collect();
    assert!(urls.iter().all(|url| url.starts_with("ready http://127.0.0.1:")), "{urls:?}");
    let address = urls[1].trim_start_matches("ready http://").parse().expect("an address");
    let bytes = request("GET", "/health", &[("Connection", "close")], None);
    assert_eq!(exchange(address, &bytes).expect("an answer").status, 200);
    let id = rustix::process::Pid::from_child(&program);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("it is there");
    assert!(program.wait().expect("it ends").success());
}
