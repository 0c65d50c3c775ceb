//! Servers that are not quite vLLM: which replies are believed, and whose fault a refusal is.

use serde_json::{Value, json};
use vllm_sim::{AnswerPolicy, Oddity, Params, Profile, Rendering, Turn, render, tokens};

use crate::support::work::{Work, by_chat, by_completions, made_up};

fn odd(oddity: Oddity) -> Profile {
    Profile { oddities: vec![oddity], ..Profile::instant() }
}

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("Say something about number {n}.")).collect()
}

#[test]
fn lists_that_a_server_does_not_answer_are_asked_one_by_one() {
    let prompts = made_up(400);
    for oddity in [
        Oddity::ListJoined,
        Oddity::ListRefused(400),
        Oddity::ListRefused(404),
        Oddity::ListRefused(422),
        Oddity::ListRefused(500),
        Oddity::ListRefused(0),
        Oddity::IndexZero,
        Oddity::IndexMissing,
        Oddity::IndexNull,
    ] {
        let work = Work::with(vec![odd(oddity.clone())]);
        let input = work.prompts(&prompts);
        let args = ["--api", "completions", "--batch-size", "8", "--concurrency", "64"];
        let job = work.run(&input).args(args).args(["--max-tokens", "12", "--retries", "2"]);
        let ended = job.run().with_code(0).complains("lists not taken");
        assert_eq!(ended.err.matches("lists not taken").count(), 1, "{oddity:?}\n{}", ended.err);
        for (answer, prompt) in work.answers("answers.jsonl").iter().zip(&prompts) {
            assert_eq!(answer["response"], by_completions(prompt, 12), "{oddity:?}");
        }
        // Besides the single requests, the lists of a few windows; a list whose connection is cut may be sent twice.
        assert!(work.requests() <= 500, "{oddity:?}: {} requests", work.requests());
    }
}

#[test]
fn a_prompt_that_spoils_its_list_does_not_end_lists() {
    let profile = Profile { poison: Some("number 7.".into()), ..Profile::instant() };
    let work = Work::with(vec![profile]);
    let input = work.prompts(&numbered(400));
    let args = ["--api", "completions", "--batch-size", "8", "--concurrency", "32"];
    let ended = work.run(&input).args(args).run().with_code(3);
    assert!(!ended.err.contains("lists not taken"), "{}", ended.err);
    assert_eq!(work.counts("answers.jsonl"), [400, 399, 1, 0]);
    assert!(work.requests() < 150, "{} requests", work.requests());
}

#[test]
fn sequences_that_a_server_does_not_make_are_requests_of_their_own() {
    let prompts = numbered(20);
    for oddity in [Oddity::OneSequence, Oddity::SequencesRefused] {
        for args in [&["--api", "chat"][..], &["--api", "completions", "--batch-size", "4"]] {
            let work = Work::with(vec![odd(oddity.clone())]);
            let input = work.prompts(&prompts);
            let job = work.run(&input).args(args.iter().copied()).args(["--n", "3"]);
            let ended = job.args(["--temperature", "0.5", "--seed", "5"]).run().with_code(0);
            let told = ended.err.matches("n not taken").count();
            let lists = ended.err.matches("lists not taken").count();
            assert!(told == 1 || lists == 1, "{oddity:?} {args:?}\n{}", ended.err);
            for (answer, prompt) in work.answers("answers.jsonl").iter().zip(&prompts) {
                let text = match args[1] {
                    "chat" => {
                        render(&[Turn { role: "user", content: prompt }], Rendering::default())
                    }
                    _ => prompt.clone(),
                };
                let drawn = |seed| {
                    let params = Params {
                        max_tokens: Some(512),
                        temperature: 0.5,
                        seed,
                        ..Params::default()
                    };
                    vllm_sim::answer(&AnswerPolicy::default(), &tokens::encode(&text), &params).text
                };
                assert_eq!(answer["responses"], json!([drawn(5), drawn(6), drawn(7)]));
                assert!(answer["served"].get("invalid").is_none(), "{answer}");
            }
        }
    }
}

#[test]
fn a_prompt_that_alone_is_denied_or_unreadable_fails_and_the_endpoint_is_well() {
    for (oddity, status, words) in [
        (Oddity::Denied(403, "number 7.".into()), 403, "content policy"),
        (Oddity::Denied(404, "number 7.".into()), 404, "content policy"),
        (Oddity::Garbled("number 7.".into()), 200, "invalid reply"),
    ] {
        let prompts = numbered(20);
        let work = Work::with(vec![odd(oddity)]);
        let input = work.prompts(&prompts);
        let ended = work.run(&input).args(["--retries", "2"]).run().with_code(3);
        for word in ["suspended", "unreachable"] {
            assert!(!ended.err.contains(word), "{}", ended.err);
        }
        assert_eq!(work.counts("answers.jsonl"), [20, 19, 1, 0]);
        let answers = work.answers("answers.jsonl");
        let error = &answers[7]["error"];
        assert_eq!(error["status"], status, "{error}");
        assert!(error["message"].as_str().is_some_and(|it| it.contains(words)), "{error}");
        assert_eq!(answers[7]["served"]["attempts"], 2);
        for (answer, prompt) in answers.iter().zip(&prompts).filter(|(it, _)| it["index"] != 7) {
            assert_eq!(answer["response"], by_chat(prompt, 512));
        }
    }
}

#[test]
fn thinking_that_the_server_leaves_in_the_text_is_reasoning() {
    let prompts = numbered(8);
    for (opened, api) in [(true, "chat"), (false, "chat"), (true, "completions")] {
        let work = Work::with(vec![odd(Oddity::Thinking { opened })]);
        let input = work.prompts(&prompts);
        work.run(&input).args(["--api", api]).run().with_code(0);
        let raw = work.run_to(&input, "raw.jsonl").args(["--api", api, "--think-tags", "off"]);
        raw.run().with_code(0);
        let raw = work.answers("raw.jsonl");
        for (at, answer) in work.answers("answers.jsonl").iter().enumerate() {
            let expected = match api {
                "chat" => by_chat(&prompts[at], 512),
                _ => by_completions(&prompts[at], 512),
            };
            assert_eq!(
                (&answer["response"], &answer["reasoning"]),
                (&json!(expected), &json!("let me think"))
            );
            let part = |value: &Value| value.as_str().expect("a text").to_owned();
            let marks = &answer["thinking_marks"];
            let whole = [
                part(&marks[0]),
                part(&answer["reasoning"]),
                part(&marks[1]),
                expected,
                part(&marks[2]),
            ];
            assert_eq!(raw[at]["response"], whole.concat());
            assert_eq!(raw[at]["reasoning"], Value::Null);
        }
    }
}

#[test]
fn a_limit_by_another_name_replaces_the_default_and_null_leaves_a_field_out() {
    let work = Work::with(vec![odd(Oddity::FieldRefused("max_tokens".into()))]);
    let prompts = numbered(6);
    let input = work.prompts(&prompts);
    let other = work.run(&input).args(["--extra-body", r#"{"max_completion_tokens":20}"#]);
    other.run().with_code(0);
    for (answer, prompt) in work.answers("answers.jsonl").iter().zip(&prompts) {
        assert_eq!(answer["response"], by_chat(prompt, 20));
    }
    let none = work.run_to(&input, "none.jsonl").args(["--extra-body", r#"{"max_tokens":null}"#]);
    none.run().with_code(0);
    work.run_to(&input, "refused.jsonl").run().with_code(3);
}

#[test]
fn fields_that_only_this_program_adds_are_dropped_if_they_are_refused() {
    let work = Work::with(vec![odd(Oddity::FieldRefused("return_token_ids".into()))]);
    let prompts = made_up(60);
    let input = work.prompts(&prompts);
    let args = ["--api", "completions", "--usage", "exact", "--batch-size", "4"];
    let ended = work.run(&input).args(args).run().with_code(0);
    assert_eq!(ended.err.matches("token ids not returned").count(), 1, "{}", ended.err);
    for (answer, prompt) in work.answers("answers.jsonl").iter().zip(&prompts) {
        assert_eq!(answer["response"], by_completions(prompt, 512));
    }
    let own =
        work.run_to(&input, "own.jsonl").args(["--extra-body", r#"{"return_token_ids":true}"#]);
    own.run().with_code(3);
}
