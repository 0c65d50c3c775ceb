//! Servers of other kinds than vLLM, and gateways before them: what a probe asks, which route it finds, and what it says of
//! servers that cannot be used.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    Job,
    job::Ended,
    stand_in::{Heard, Said, StandIn, models, moved, plain, refused, said},
    work::{Work, made_up},
};

/// The run of twenty prompts by this server, with further options.
fn run(work: &Work, server: &StandIn, args: &[&str]) -> Ended {
    let input = work.prompts(&made_up(20));
    let job = work.run(&input).args(["--endpoint", &server.url()]).args(args.iter().copied());
    job.deadline(Duration::from_secs(60)).run()
}

fn check(server: &StandIn, args: &[&str]) -> Ended {
    let job = Job::of("check").args(["--endpoint", &server.url(), "--ready-timeout", "3s"]);
    job.args(args.iter().copied()).run()
}

#[track_caller]
fn all_came_by(work: &Work, words: &str) {
    let answers = work.answers("answers.jsonl");
    assert_eq!(answers.len(), 20);
    for answer in answers {
        assert_eq!(answer["response"], words, "{answer}");
    }
}

/// A plain server that answers this way where the function has an answer.
fn other(special: impl Fn(&Heard) -> Option<Said> + Send + Sync + 'static) -> StandIn {
    StandIn::start(move |heard| special(heard).unwrap_or_else(|| plain(heard)))
}

fn is_ping(heard: &Heard) -> bool {
    heard.what == "POST /v1/chat/completions" && heard.body["max_tokens"] == 1
}

#[test]
fn the_route_is_that_of_the_jobs_model_and_not_of_the_first_one_listed() {
    let work = Work::with(Vec::new());
    let server = other(|heard| match heard.what.as_str() {
        "GET /v1/models" => Some(models(&["bge-m3", "tiny"])),
        _ if heard.body["model"] == "bge-m3" => {
            Some(refused(400, "this model does not have a chat template"))
        }
        _ => None,
    });
    run(&work, &server, &["--model", "tiny"]).with_code(0);
    all_came_by(&work, "by chat");
    let ended = check(&server, &["--model", "tiny"]).with_code(0);
    assert!(ended.out.contains("tiny gets texts by /v1/chat/completions"), "{}", ended.out);
    assert!(!ended.out.contains("choose one with --model"), "{}", ended.out);
    let ended = check(&server, &["--model", "bge-m3"]).with_code(0);
    assert!(ended.out.contains("bge-m3 gets texts by /v1/completions"), "{}", ended.out);
    let ended = check(&server, &[]).with_code(0);
    assert!(ended.out.contains("(bge-m3, tiny): choose one with --model"), "{}", ended.out);
}

#[test]
fn texts_are_sent_raw_only_if_the_server_says_that_it_has_no_template() {
    for status in [408, 429, 500, 502, 503, 504, 529] {
        let work = Work::with(Vec::new());
        let server = other(move |heard| {
            (is_ping(heard) && heard.number <= 3).then(|| refused(status, "not now"))
        });
        run(&work, &server, &[]).with_code(0);
        all_came_by(&work, "by chat");
    }
    let work = Work::with(Vec::new());
    let server = other(|heard| {
        let words =
            "default chat template is no longer allowed, so you must provide a chat template";
        (heard.what == "POST /v1/chat/completions").then(|| refused(400, words))
    });
    run(&work, &server, &[]).with_code(0);
    all_came_by(&work, "raw");
}

#[test]
fn a_server_that_only_fails_is_asked_seldom_and_named_with_its_words() {
    let work = Work::with(Vec::new());
    let server = other(|heard| {
        let is_model = heard.body.get("messages").is_some() || heard.body.get("prompt").is_some();
        is_model.then(|| refused(500, "upstream connection error"))
    });
    for api in ["auto", "chat", "completions"] {
        let input = work.prompts(&made_up(20));
        let job = work.run(&input).args(["--endpoint", &server.url(), "--api", api]);
        let ended = job.run().with_code(6);
        ended.complains("0 of 1 ready").complains("answered 500: upstream connection error");
    }
    let asked = server.seen("POST /v1/chat/completions") + server.seen("POST /v1/completions");
    assert!(asked < 60, "{asked} requests in three times five seconds");
}

#[test]
fn a_limit_of_the_rate_does_not_keep_a_run_from_starting_whose_route_is_chosen() {
    let work = Work::with(Vec::new());
    let server = other(|heard| is_ping(heard).then(|| refused(429, "Rate limit reached")));
    run(&work, &server, &["--api", "chat"]).with_code(0);
    all_came_by(&work, "by chat");
    assert_eq!(server.seen("POST /v1/chat/completions"), 22, "20 prompts, a ping, an empty body");
}

#[test]
fn a_server_of_embeddings_ends_the_job_at_once() {
    let with_paths = StandIn::start(|heard| match heard.what.as_str() {
        "GET /v1/models" => models(&["embedder"]),
        "GET /version" => said(200, &json!({"version": "0.32.0"})),
        "GET /health" => said(200, &Value::Null),
        "GET /openapi.json" => {
            said(200, &json!({"paths": {"/v1/embeddings": {}, "/pooling": {}, "/v1/models": {}}}))
        }
        _ => said(404, &json!({"detail": "Not Found"})),
    });
    let without = StandIn::start(|heard| match heard.what.as_str() {
        "GET /v1/models" => models(&["embedder"]),
        _ => said(404, &json!({"detail": "Not Found"})),
    });
    for server in [with_paths, without] {
        let ended = check(&server, &["--ready-timeout", "50s"]).with_code(5);
        assert!(ended.out.contains("it generates no text"), "{}", ended.out);
        let work = Work::with(Vec::new());
        let ended = run(&work, &server, &["--ready-timeout", "50s"]).with_code(5);
        assert!(ended.took < Duration::from_secs(30), "{:?}", ended.took);
        ended.complains("it generates no text").complains("hint: a server of embeddings");
    }
}

#[test]
fn a_model_that_is_named_needs_no_list() {
    for (status, body) in [(200, json!({"data": []})), (404, json!({"error": "Not Found"}))] {
        let server =
            other(move |heard| (heard.what == "GET /v1/models").then(|| said(status, &body)));
        let work = Work::with(Vec::new());
        run(&work, &server, &["--model", "tiny"]).with_code(0);
        all_came_by(&work, "by chat");
        let ended = check(&server, &[]).with_code(6);
        assert!(ended.out.contains("name the model with --model"), "{}", ended.out);
    }
}

#[test]
fn a_redirect_is_named_with_the_url_that_it_leads_to() {
    let server = other(|heard| {
        let (method, path) = heard.what.split_once(' ')?;
        (method == "POST" && !path.ends_with('/')).then(|| moved(&format!("{path}/")))
    });
    let work = Work::with(Vec::new());
    let ended = run(&work, &server, &[]).with_code(5);
    let target = format!("{}/v1/chat/completions/", server.url());
    ended.complains("answered 307: redirect to").complains(&format!("takes requests at {target}"));
    let server = other(|heard| {
        (heard.what == "GET /v1/models").then(|| moved("https://gate.example/v1/models"))
    });
    let ended = run(&work, &server, &[]).with_code(5);
    ended.complains("hint: redirects are not followed: pass --endpoint https://gate.example");
}

#[test]
fn a_key_that_is_not_accepted_ends_the_job_at_once() {
    let by_list =
        other(|heard| (heard.what == "GET /v1/models").then(|| refused(401, "no such key")));
    let by_model = other(|heard| {
        heard.body.get("messages").map(|_| refused(403, "key not allowed to access model tiny"))
    });
    for (server, words) in [(by_list, "401: no such key"), (by_model, "403: key not allowed")] {
        let work = Work::with(Vec::new());
        let ended = run(&work, &server, &["--ready-timeout", "50s", "--api", "chat"]).with_code(5);
        assert!(ended.took < Duration::from_secs(30), "{:?}", ended.took);
        ended.complains(words).complains("hint: set AURORA_SWARM_API_KEY");
    }
}

#[test]
fn costly_routes_of_a_gateway_are_asked_once() {
    // The first requests of a model fail, so that the server is probed several times.
    let server = other(|heard| match heard.what.as_str() {
        "GET /health" => Some(said(200, &json!({"healthy_count": 1}))),
        _ if is_ping(heard) && heard.number <= 4 => Some(refused(503, "cold start")),
        _ => None,
    });
    let work = Work::with(Vec::new());
    run(&work, &server, &["--ready-timeout", "20s"]).with_code(0);
    all_came_by(&work, "by chat");
    assert!(server.seen("GET /v1/models") > 1, "it was probed again");
    assert_eq!((server.seen("GET /health"), server.seen("GET /openapi.json")), (1, 1));
}

#[test]
fn health_of_a_gateway_that_fails_or_needs_a_key_is_no_reason_to_wait() {
    for status in [401, 403, 404, 500] {
        let server = other(move |heard| {
            (heard.what == "GET /health").then(|| refused(status, "not for you"))
        });
        check(&server, &[]).with_code(0);
    }
    let server = other(|heard| (heard.what == "GET /health").then(|| refused(503, "loading")));
    let ended = check(&server, &[]).with_code(6);
    assert!(ended.out.contains("GET /health answered 503: loading"), "{}", ended.out);
}

#[test]
fn impossible_endpoints_are_refused_before_anything_is_awaited() {
    let work = Work::instant(1);
    let input = work.prompts(&made_up(1));
    let long = ["--ready-timeout", "50s"];
    let job = work.run(&input).args(long).args(["--min-endpoints", "2"]);
    let ended = job.run().with_code(5).complains("--min-endpoints 2, but 1 endpoint is configured");
    assert!(ended.took < Duration::from_secs(30), "{:?}", ended.took);
    if cfg!(not(feature = "tls")) {
        let job = work.run(&input).args(long).args(["--endpoint", "https://127.0.0.1:9"]);
        let ended = job.run().with_code(5).complains("hint: build it with --features tls");
        assert!(ended.took < Duration::from_secs(30), "{:?}", ended.took);
    }
}

#[test]
fn long_lists_of_models_are_cut_with_a_count() {
    let server = other(|heard| {
        let names: Vec<String> = (0..300).map(|n| format!("org{n}/model-{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        (heard.what == "GET /v1/models").then(|| models(&names))
    });
    let work = Work::with(Vec::new());
    for args in [&[][..], &["--model", "tiny"]] {
        let ended = run(&work, &server, args).with_code(5).complains("and 295 more");
        assert!(ended.err.len() < 2_000, "{}", ended.err);
        let ended = check(&server, args).with_code(0);
        assert!(ended.out.len() < 6_000 && ended.out.contains("and 295 more"), "{}", ended.out);
    }
}

#[test]
fn contexts_are_told_under_any_name_and_an_adapter_has_that_of_its_parent() {
    let list = json!({"data": [
        {"id": "llama", "meta": {"n_ctx": 4097}},
        {"id": "gate", "max_input_tokens": 4098},
        {"id": "base", "max_model_len": 4099, "parent": null},
        {"id": "lora", "max_model_len": null, "parent": "base"},
    ]});
    let server = other(move |heard| (heard.what == "GET /v1/models").then(|| said(200, &list)));
    let ended = check(&server, &[]).with_code(0);
    for context in ["4097", "4098"] {
        assert_eq!(ended.out.matches(context).count(), 1, "{}", ended.out);
    }
    assert_eq!(ended.out.matches("4099").count(), 2, "{}", ended.out);
    let work = Work::with(Vec::new());
    run(&work, &server, &["--model", "lora"]).with_code(0).complains("context 4099");
}

#[test]
fn a_rank_without_servers_does_not_hold_up_the_others() {
    let work = Work::instant(2);
    let input = work.prompts(&made_up(40));
    let job = work.run(&input).args(["--ready-timeout", "50s"]);
    let ended = job.args(["--endpoint", "http://127.0.0.1:9"]).ranks(3).run().with_code(0);
    assert!(ended.took < Duration::from_secs(30), "{:?}", ended.took);
    ended.complains("2 of 3 servers").complains("waiting for endpoints: 2 of 3 ready");
}

#[test]
fn the_wait_is_told_at_once_with_the_reasons_grouped() {
    let work = Work::instant(0);
    let input = work.prompts(&made_up(1));
    let mut job = work.run(&input).args(["--ready-timeout", "1s"]);
    for port in 1..=12 {
        job = job.args(["--endpoint", &format!("http://127.0.0.1:{port}")]);
    }
    let ended = job.run().with_code(6);
    let told =
        "waiting for endpoints: 0 of 12 ready; http://127.0.0.1:1 and 11 more: cannot connect";
    assert_eq!(ended.err.matches(told).count(), 1, "{}", ended.err);
}
