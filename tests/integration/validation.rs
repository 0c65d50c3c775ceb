//! Valid answers: JSON of a schema, texts that match, and what becomes of answers that are neither.

use std::fs;

use serde_json::{Value, json};
use vllm_sim::{
    AnswerPolicy, Constraint, Params, Profile, Rendering, Structure, Turn, answer, prompt_hash,
    render, tokens,
};

use crate::support::work::{Work, assert_equal, by_chat, by_completions, made_up};

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {"verdict": {"enum": ["yes", "no"]}, "score": {"type": "integer", "minimum": 0}},
        "required": ["verdict", "score"],
        "additionalProperties": false,
    })
}

fn servers(structure: Structure, count: usize) -> Work {
    let mut profile = Profile::instant();
    profile.policy.structure = structure;
    Work::with(vec![profile; count])
}

/// Writes the schema as people do, over several lines.
fn schema_file(work: &Work, schema: &Value) -> String {
    work.file("schema.json", serde_json::to_string_pretty(schema).expect("JSON"))
}

fn parsed(answer: &Value) -> Value {
    let text = answer["response"].as_str().unwrap_or_else(|| panic!("no text: {answer}"));
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[track_caller]
fn assert_valid(answers: &[Value], prompts: usize) {
    assert_eq!(answers.len(), prompts);
    for answer in answers {
        let value = parsed(answer);
        assert!(["yes", "no"].contains(&value["verdict"].as_str().expect("a text")), "{answer}");
        assert!(value["score"].as_u64().is_some(), "{answer}");
    }
}

/// What the simulated model says to these turns if it keeps to a schema.
fn structured(turns: &[Turn<'_>], schema: &Value, max_tokens: usize) -> String {
    let constraint = Some(Constraint::schema(schema.clone()).expect("a schema"));
    let params = Params { max_tokens: Some(max_tokens), constraint, ..Params::default() };
    let prompt = tokens::encode(&render(turns, Rendering::default()));
    answer(&AnswerPolicy::default(), &prompt, &params).text
}

fn summary(work: &Work) -> Value {
    let path = work.path("answers.jsonl.run/summary.json");
    serde_json::from_str(&fs::read_to_string(path).expect("a summary")).expect("JSON")
}

#[test]
fn a_server_that_follows_the_schema_is_asked_once() {
    for api in ["chat", "completions"] {
        let work = servers(Structure::Enforced, 2);
        let file = schema_file(&work, &schema());
        let input = work.prompts(&made_up(60));
        let job = work.run(&input).args(["--schema", &file, "--api", api]).ranks(2);
        job.run().with_code(0).says("invalid", 0);
        let answers = work.answers("answers.jsonl");
        assert_valid(&answers, 60);
        assert!(answers.iter().all(|it| it["served"].get("invalid").is_none()), "{api}");
        assert!(answers.iter().all(|it| it["params"] == json!({})), "{api}");
        assert_eq!(work.served(), 60, "{api}");
        assert_eq!(summary(&work)["invalid_answers"]["answers"], 0);
    }
}

#[test]
fn an_invalid_answer_is_asked_again_with_the_reason_in_the_conversation() {
    let work = servers(Structure::WhenTold, 2);
    let file = schema_file(&work, &schema());
    let prompts = made_up(40);
    let input = work.prompts(&prompts);
    let job =
        work.run(&input).args(["--schema", &file, "--max-tokens", "100", "--system", "brief"]);
    let ended = job.ranks(2).run().with_code(0);
    assert!(ended.out.contains("invalid: 40 answers with "), "{}", ended.out);
    assert!(ended.out.contains("first reason (id 0): it is not JSON"), "{}", ended.out);
    let answers = work.answers("answers.jsonl");
    assert_valid(&answers, 40);
    let mut spent = 0;
    for (answer, prompt) in answers.iter().zip(&prompts) {
        let invalid = &answer["served"]["invalid"];
        assert_eq!((&answer["served"]["attempts"], &invalid["answers"]), (&json!(2), &json!(1)));
        spent += invalid["completion_tokens"].as_u64().expect("a count");
        let turns =
            [Turn { role: "system", content: "brief" }, Turn { role: "user", content: prompt }];
        let first = crate::support::work::by_turns(&turns, 100);
        let reason = invalid["reason"].as_str().expect("a text");
        let complaint = format!(
            "Your answer is not valid: {reason}.\nAnswer again with one JSON value that is valid by this JSON schema, and \
             nothing else: {}",
            schema_as_written(&file)
        );
        let [system, user] = turns;
        let turns = [
            system,
            user,
            Turn { role: "assistant", content: &first },
            Turn { role: "user", content: &complaint },
        ];
        assert_eq!(answer["response"], structured(&turns, &schema(), 100), "{prompt}");
    }
    let told = &summary(&work)["invalid_answers"];
    assert_eq!((&told["answers"], &told["prompts"]), (&json!(40), &json!(40)));
    assert_eq!(told["completion_tokens"], spent);
    assert_eq!(told["examples"][0]["index"], 0);
    let page = fs::read_to_string(work.path("answers.jsonl.run/report.html")).expect("a page");
    assert!(page.contains(r#"id="invalid-answers" data-value="40""#));
}

/// The schema's file without its white space; none of its texts has any.
fn schema_as_written(file: &str) -> String {
    fs::read_to_string(file).expect("the schema").split_whitespace().collect()
}

#[test]
fn a_prompt_without_a_valid_answer_fails_as_invalid_and_keeps_the_raw_text() {
    let work = servers(Structure::Ignored, 1);
    let file = schema_file(&work, &schema());
    let prompts = made_up(20);
    let input = work.prompts(&prompts);
    let run = || work.run(&input).args(["--schema", &file, "--max-tokens", "70", "--retries", "2"]);
    let ended = run().run().with_code(3);
    assert!(
        ended.out.contains("failed: 20 without a valid answer after all attempts"),
        "{}",
        ended.out
    );
    assert!(ended.out.contains("--retry-failed"), "{}", ended.out);
    assert_eq!(work.counts("answers.jsonl"), [20, 0, 20, 0]);
    for answer in work.answers("answers.jsonl") {
        let error = &answer["error"];
        assert_eq!((&error["kind"], &error["status"]), (&json!("invalid"), &json!(200)));
        let message = error["message"].as_str().expect("a text");
        assert!(
            message.starts_with("no valid answer in 2 attempts; the last one: it is not JSON"),
            "{message}"
        );
        assert_eq!((&answer["success"], &answer["response"]), (&json!(false), &Value::Null));
        assert!(answer["raw_response"].as_str().is_some_and(|it| it.len() > 8), "{answer}");
        assert_eq!(answer["finish_reason"], "stop");
        assert!(answer["usage"]["completion_tokens"].as_u64() > Some(8), "{answer}");
        assert_eq!(
            (&answer["served"]["attempts"], &answer["served"]["invalid"]["answers"]),
            (&json!(2), &json!(2))
        );
    }
    assert_eq!(work.requests(), 40);
    run().run().with_code(3);
    assert_eq!(work.requests(), 40, "the plain command does not ask again");
    run().arg("--retry-failed").run().with_code(3);
    assert_eq!(work.requests(), 80);
}

#[test]
fn a_cut_answer_is_asked_again_with_more_room() {
    let long = json!({"type": "object", "properties": {"text": {"type": "string", "minLength": 150}}, "required": ["text"]});
    for api in ["chat", "completions"] {
        let work = servers(Structure::Enforced, 1);
        let file = schema_file(&work, &long);
        let prompts = made_up(12);
        let input = work.prompts(&prompts);
        let run = |output: &str, max_tokens: &str, retries: &str| {
            let job = work.run_to(&input, output).args(["--schema", &file, "--api", api]);
            job.args(["--max-tokens", max_tokens, "--retries", retries])
        };
        run("whole.jsonl", "400", "1").run().with_code(0);
        let whole = work.answers("whole.jsonl");
        let longest = whole.iter().filter_map(|it| it["usage"]["completion_tokens"].as_u64()).max();
        let enough = longest.expect("counted").div_ceil(4) + 1; // doubled twice it is enough
        run("answers.jsonl", &enough.to_string(), "3").run().with_code(0);
        let answers = work.answers("answers.jsonl");
        for (answer, whole) in answers.iter().zip(&whole) {
            assert_eq!(answer["response"], whole["response"], "{api}");
            assert_eq!(answer["served"]["invalid"]["answers"], 2, "{api}");
            let reason = answer["served"]["invalid"]["reason"].as_str().expect("a text");
            assert!(reason.starts_with("it was cut by max_tokens"), "{reason}");
        }
        run("few.jsonl", &enough.to_string(), "2").run().with_code(3);
        let failed = &work.answers("few.jsonl")[0];
        assert_eq!(
            (&failed["error"]["kind"], &failed["finish_reason"]),
            (&json!("invalid"), &json!("length"))
        );
        assert_eq!(failed["usage"]["completion_tokens"], 2 * enough, "{api}");
    }
}

#[test]
fn a_cut_answer_fails_where_the_context_has_no_more_room() {
    let mut profile = Profile::instant();
    profile.policy.max_model_len = 64;
    let work = Work::with(vec![profile]);
    let long = json!({"type": "string", "minLength": 3000});
    let file = schema_file(&work, &long);
    let input = work.prompts(&["Why?".to_owned()]);
    let job = work.run(&input).args(["--schema", &file, "--max-tokens", "60", "--buffer", "0"]);
    job.args(["--retries", "9"]).run().with_code(3);
    let answer = &work.answers("answers.jsonl")[0];
    let message = answer["error"]["message"].as_str().expect("a text");
    assert!(message.contains("no room for a longer one"), "{message}");
    assert!(work.requests() <= 2, "{}", work.requests());
}

#[test]
fn answers_match_the_expression_on_both_routes() {
    let prompts = made_up(60);
    let check = ["--check", "^[a-m]", "--max-tokens", "100"];
    let matches = |text: &str| text.trim().starts_with(|it| ('a'..='m').contains(&it));
    // A conversation goes on with the reason, so another answer may come at any temperature.
    let work = Work::instant(1);
    let input = work.prompts(&prompts);
    let code = work.run(&input).args(check).args(["--retries", "8"]).run().in_time().code;
    let answers = work.answers("answers.jsonl");
    for (answer, prompt) in answers.iter().zip(&prompts) {
        let first = by_chat(prompt, 100);
        let text = answer["response"].as_str().or(answer["raw_response"].as_str()).expect("a text");
        assert_eq!(answer["success"], matches(text), "{answer}");
        assert_eq!(answer["served"]["attempts"] == 1, matches(&first), "{answer}");
    }
    let failed = answers.iter().filter(|it| it["success"] == false).count();
    assert!(failed < 20, "{failed}");
    assert_eq!(code, Some(if failed == 0 { 0 } else { 3 }));
    // A text that is sent again at temperature 0 gives the same answer: it is not sent again.
    let work = Work::instant(1);
    let input = work.prompts(&prompts);
    work.run(&input).args(check).args(["--api", "completions"]).run().with_code(3);
    for (answer, prompt) in work.answers("answers.jsonl").iter().zip(&prompts) {
        let first = by_completions(prompt, 100);
        assert_eq!(answer["success"], matches(&first), "{answer}");
        assert_eq!(answer["served"]["attempts"], 1);
        if !matches(&first) {
            assert_eq!(answer["raw_response"], first);
            let message = answer["error"]["message"].as_str().expect("a text");
            assert!(message.contains("temperature 0"), "{message}");
        }
    }
    // Above it the seed changes, and so does the answer.
    let work = Work::instant(1);
    let input = work.prompts(&prompts);
    let job = work.run(&input).args(check).args(["--api", "completions", "--retries", "20"]);
    job.args(["--temperature", "1", "--seed", "5"]).run().with_code(0);
    let answers = work.answers("answers.jsonl");
    assert!(answers.iter().all(|it| matches(it["response"].as_str().expect("a text"))));
    assert!(answers.iter().any(|it| it["served"]["attempts"].as_u64() > Some(2)));
}

#[test]
fn of_several_sequences_the_valid_ones_are_kept_and_the_others_drawn_again() {
    let work = Work::instant(1);
    let prompts = made_up(30);
    let input = work.prompts(&prompts);
    let job = work.run(&input).args(["--check", "^[a-m]", "--n", "4", "--max-tokens", "100"]);
    job.args(["--temperature", "1", "--seed", "3", "--retries", "20"]).run().with_code(0);
    for (answer, prompt) in work.answers("answers.jsonl").iter().zip(&prompts) {
        let texts = answer["responses"].as_array().expect("texts");
        assert_eq!(texts.len(), 4, "{answer}");
        let valid = |text: &str| text.starts_with(|it| ('a'..='m').contains(&it));
        assert!(texts.iter().all(|it| valid(it.as_str().expect("a text"))), "{answer}");
        let turns = [Turn { role: "user", content: prompt }];
        let ids = tokens::encode(&render(&turns, Rendering::default()));
        let first = |sample| {
            let params = Params {
                max_tokens: Some(100),
                temperature: 1.0,
                seed: 3,
                sample,
                ..Params::default()
            };
            self::answer(&AnswerPolicy::default(), &ids, &params).text
        };
        let kept: Vec<String> = (0..4).map(first).filter(|it| valid(it)).collect();
        assert!(
            texts.iter().zip(&kept).all(|(text, kept)| text == kept),
            "hash {}",
            prompt_hash(&ids)
        );
        assert_eq!(answer["served"]["attempts"] == 1, kept.len() == 4);
    }
}

#[test]
fn a_server_that_refuses_the_schema_gets_the_prompts_without_it() {
    let work = servers(Structure::Refused, 1);
    let file = schema_file(&work, &schema());
    let input = work.prompts(&made_up(30));
    let job =
        work.run(&input).args(["--schema", &file, "--concurrency", "4", "--max-tokens", "24"]);
    job.args(["--retries", "1"]).run().with_code(3).complains("schema not taken by");
    assert!(work.answers("answers.jsonl").iter().all(|it| it["error"]["kind"] == "invalid"));
    assert!((31..=34).contains(&work.requests()), "{}", work.requests());
    // A request that says itself how answers look is sent as it is.
    let row = json!({"prompt": "Why?", "params": {"response_format": {"type": "json_object"}}});
    let work = Work::instant(1);
    let file = schema_file(&work, &json!({"type": "object", "required": ["answer"]}));
    let input = work.rows(&[row]);
    work.run(&input).args(["--schema", &file]).run().with_code(0);
    assert!(parsed(&work.answers("answers.jsonl")[0])["answer"].is_string());
}

#[test]
fn another_schema_is_another_job_and_accepted_answers_stay() {
    let work = servers(Structure::Enforced, 1);
    let file = schema_file(&work, &schema());
    let prompts = made_up(20);
    let input = work.prompts(&prompts[..12]);
    work.run(&input).args(["--schema", &file]).run().with_code(0);
    let before = work.answers("answers.jsonl");
    // The same schema in another file, written otherwise, is no change.
    let same = work.file("same.json", schema_as_written(&file));
    work.run(&input).args(["--schema", &same]).run().with_code(0);
    let other = json!({"type": "array", "items": {"type": "integer"}});
    let other = work.file("other.json", other.to_string());
    let input = work.prompts(&prompts);
    let refused = work.run(&input).args(["--schema", &other]).run().with_code(5);
    refused.complains("--schema was").complains("--accept-changes");
    let job = work.run(&input).args(["--schema", &other, "--accept-changes"]).ranks(2);
    job.run().with_code(0);
    let answers = work.answers("answers.jsonl");
    assert_equal(&before, &answers[..12]);
    assert!(answers[12..].iter().all(|it| parsed(it).is_array()));
}

#[test]
fn rules_that_cannot_be_used_are_refused_before_anything_is_sent() {
    let work = Work::instant(1);
    let input = work.prompts(&made_up(3));
    let missing = work.path("none.json").to_string_lossy().into_owned();
    work.run(&input).args(["--schema", &missing]).run().with_code(5).complains("none.json");
    for (schema, words) in [
        ("{", "not a usable JSON schema"),
        (r#"{"type": "objct"}"#, "at /type"),
        (r#"{"$ref": "https://example.com/a.json"}"#, "https://example.com/a.json"),
    ] {
        let file = work.file("bad.json", schema);
        let ended = work.run(&input).args(["--schema", &file]).run().with_code(2);
        ended.complains("--schema").complains("bad.json").complains(words);
        let job = work.run(&input).env("AURORA_SWARM_SCHEMA", &file);
        job.run().with_code(5).complains("AURORA_SWARM_SCHEMA");
    }
    work.run(&input).args(["--check", "(a"]).run().with_code(2).complains("unclosed group");
    let config = work.file("job.toml", "check = '(?=a)'\n");
    work.run(&input).args(["--config", &config]).run().with_code(5).complains("look-around");
    assert_eq!(work.requests(), 0);
}
