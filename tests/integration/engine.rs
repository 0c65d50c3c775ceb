//! What a rank's engine does with its endpoints: conversations in lists, order of work, limits, and the last minute.

use std::{fs, time::Duration};

use serde_json::{Value, json};
use vllm_sim::{CostModel, Death, Fault, Lengths, Profile, Rule, Script, Turn};

use crate::support::work::{CHATML, Work, by_chat, by_turns, made_up};

const LISTS: [&str; 4] = ["--batch-size", "16", "--max-tokens", "24"];

fn assert_by_chat(answers: &[Value], prompts: &[String]) {
    assert_eq!(answers.len(), prompts.len());
    for (answer, prompt) in answers.iter().zip(prompts) {
        assert_eq!(answer["response"], by_chat(prompt, 24), "{prompt}");
        assert_eq!(answer["served"]["api"], "chat");
    }
}

#[test]
fn conversations_ride_in_lists_with_the_models_own_template() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("chat_template.jinja"), CHATML).expect("written");
    let root = folder.path().to_string_lossy().into_owned();
    let work = Work::with(vec![Profile { root, ..Profile::instant() }; 2]);
    let prompts = made_up(1_000);
    let input = work.prompts(&prompts);
    let job = work.run(&input).args(LISTS).ranks(2);
    job.run().with_code(0).complains("chat batching on");
    assert_by_chat(&work.answers("answers.jsonl"), &prompts);
    // (a slow machine fills some lists with few)
    assert!(work.requests() < 500, "{} requests for 1,000 prompts", work.requests());
    let before = work.requests();
    let alone = work.run_to(&input, "alone.jsonl").args(LISTS).args(["--chat-template", "none"]);
    alone.run().with_code(0);
    assert_by_chat(&work.answers("alone.jsonl"), &prompts);
    assert_eq!(work.requests() - before, 1_000);
}

#[test]
fn a_template_that_is_not_the_models_is_found_out() {
    let work = Work::instant(1);
    let wrong = work.file("wrong.jinja", CHATML.replace("assistant", "bot"));
    let prompts = made_up(200);
    let input = work.prompts(&prompts);
    let job = work.run(&input).args(LISTS).args(["--chat-template", &wrong]);
    job.run().with_code(0).complains("chat batching off");
    assert_by_chat(&work.answers("answers.jsonl"), &prompts);
    let bad = work.file("bad.jinja", "{% if %}");
    let job = work.run_to(&input, "no.jsonl").args(["--chat-template", &bad]);
    job.run().with_code(5).complains("bad.jinja");
}

#[test]
fn thinking_never_lands_in_an_answer() {
    let mut profile = Profile::instant();
    profile.policy.thinking = Some(Lengths::Fixed(6));
    let work = Work::with(vec![profile]);
    let template = work.file("chat_template.jinja", CHATML);
    let input = work.prompts(&made_up(120));
    let job = work.run(&input).args(LISTS).args(["--chat-template", &template]);
    job.run().with_code(0).complains("reasoning");
    for answer in work.answers("answers.jsonl") {
        let response = answer["response"].as_str().expect("a text");
        assert!(!response.contains("think>"), "{answer}");
        assert!(answer["reasoning"].as_str().is_some_and(|it| !it.is_empty()), "{answer}");
    }
}

#[test]
fn conversations_that_need_the_servers_route_go_alone_among_the_others() {
    let work = Work::instant(1);
    let template = work.file("chat_template.jinja", CHATML);
    let row = |n: usize| match n % 5 {
        0 => {
            json!({"messages": [{"role": "user", "content": [{"type": "text", "text": format!("part {n}")}]}]})
        }
        _ => {
            json!({"messages": [{"role": "system", "content": "brief"}, {"role": "user", "content": format!("whole {n}")}]})
        }
    };
    let input = work.rows(&(0..200).map(row).collect::<Vec<_>>());
    let job = work.run(&input).args(LISTS).args(["--chat-template", &template]);
    job.run().with_code(0);
    for (n, answer) in work.answers("answers.jsonl").iter().enumerate() {
        let (part, whole) = (format!("part {n}"), format!("whole {n}"));
        let turns = match n % 5 {
            0 => vec![Turn { role: "user", content: &part }],
            _ => vec![
                Turn { role: "system", content: "brief" },
                Turn { role: "user", content: &whole },
            ],
        };
        assert_eq!(answer["response"], by_turns(&turns, 24), "row {n}");
    }
    assert!((40..150).contains(&work.requests()), "{}", work.requests());
}

#[test]
fn token_counts_are_exact_where_they_are_asked_for() {
    let work = Work::instant(1);
    let prompts = made_up(60);
    let input = work.prompts(&prompts);
    let args = ["--api", "completions", "--batch-size", "16", "--max-tokens", "24"];
    work.run(&input).args(args).args(["--usage", "exact"]).run().with_code(0);
    for (answer, prompt) in work.answers("answers.jsonl").iter().zip(&prompts) {
        let usage = &answer["usage"];
        assert_eq!(usage["prompt_tokens"], vllm_sim::tokens::encode(prompt).len(), "{answer}");
        assert_eq!(usage["estimated"], false);
        assert_eq!(answer["params"], json!({}), "what is asked for that is no parameter of theirs");
    }
    let sum = |name: &str, output: &str| -> u64 {
        work.answers(output).iter().filter_map(|it| it["usage"][name].as_u64()).sum()
    };
    work.run_to(&input, "shared.jsonl").args(args).run().with_code(0);
    for name in ["prompt_tokens", "completion_tokens"] {
        assert_eq!(sum(name, "answers.jsonl"), sum(name, "shared.jsonl"), "{name}");
    }
}

#[test]
fn a_rate_limit_is_kept() {
    let work = Work::instant(2);
    let input = work.prompts(&made_up(40));
    let job = work.run(&input).args(["--rate-limit", "10", "--no-batch"]);
    let ended = job.run().with_code(0);
    assert!(ended.took > Duration::from_millis(1_800), "20 each at 10 a second: {:?}", ended.took);
    work.run_to(&input, "none.jsonl").args(["--rate-limit", "0"]).run().with_code(2);
}

#[test]
fn priority_is_the_first_thing_the_order_of_work_goes_by() {
    let work = Work::instant(1);
    let row = |n: usize| json!({"prompt": format!("p{n}"), "priority": n % 3});
    let input = work.rows(&(0..30).map(row).collect::<Vec<_>>());
    let args = ["--concurrency", "1", "--api", "completions", "--max-wait", "200ms"];
    work.run(&input).args(args).run().with_code(0);
    let shards = work.path("answers.jsonl.run/shards");
    let file = fs::read_dir(shards).expect("a folder").flatten().next().expect("a shard file");
    let text = fs::read_to_string(file.path()).expect("text");
    let rows = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let order: Vec<u64> = rows.filter_map(|row| Some(row["index"].as_u64()? % 3)).collect();
    assert_eq!(order.len(), 30);
    assert!(order.is_sorted_by(|a, b| a >= b), "{order:?}");
    let indices: Vec<Value> =
        work.answers("answers.jsonl").iter().map(|it| it["index"].clone()).collect();
    assert_eq!(indices, (0..30).map(Value::from).collect::<Vec<_>>(), "never the output's order");
}

#[test]
fn a_connection_that_went_stale_costs_nothing() {
    let profile = Profile { keep_alive: Duration::from_millis(300), ..Profile::instant() };
    let work = Work::with(vec![profile]);
    let input = work.prompts(&made_up(5));
    work.run(&input).args(["--rate-limit", "2", "--no-batch"]).run().with_code(0);
    for answer in work.answers("answers.jsonl") {
        assert_eq!(answer["served"]["attempts"], 1, "{answer}");
    }
}

#[test]
fn two_of_three_endpoints_are_lost_and_nothing_else() {
    let cost = CostModel { max_num_seqs: 16, ..CostModel::default() };
    let well = Profile { cost, ..Profile::default() };
    let dies = Profile { die: Some(Death::Prompts(60)), ..well.clone() };
    let rule = Rule { after: 0.5, ..Rule::always(Fault::Stall) };
    let hangs = Profile { script: Script { seed: 1, rules: vec![rule] }, ..well.clone() };
    let work = Work::with(vec![well, dies, hangs]);
    let prompts = made_up(500);
    let input = work.prompts(&prompts);
    let job = work.run(&input).args(["--max-tokens", "24", "--timeout", "6s", "--no-batch"]);
    let ended = job.run().with_code(0);
    assert_by_chat(&work.answers("answers.jsonl"), &prompts);
    assert!(ended.took < Duration::from_secs(18), "three times the time-out: {:?}", ended.took);
}

#[test]
fn what_hangs_at_the_end_is_asked_again_before_its_time_is_over() {
    let rule = Rule { p: 0.01, ..Rule::always(Fault::Hang) };
    let script = Script { seed: 3, rules: vec![rule] };
    let work = Work::with(vec![Profile { script, ..Profile::instant() }; 2]);
    let prompts = made_up(1_000);
    let input = work.prompts(&prompts);
    let args = ["--max-tokens", "24", "--timeout", "120s", "--concurrency", "32", "--no-batch"];
    let ended = work.run(&input).args(args).run().with_code(0);
    assert_by_chat(&work.answers("answers.jsonl"), &prompts);
    assert!(ended.took < Duration::from_secs(30), "copies are enough: {:?}", ended.took);
    let served = work.served();
    assert!((1_000..=1_030).contains(&served), "{served}");
}

#[test]
fn prompts_that_a_server_cannot_take_fail_also_when_nothing_else_is_left() {
    let rule = Rule { containing: Some("venom".into()), ..Rule::always(Fault::Status(500)) };
    let script = Script { seed: 1, rules: vec![rule] };
    let work = Work::with(vec![Profile { script, ..Profile::instant() }]);
    let mut prompts = made_up(300);
    (0..5).for_each(|n| prompts[n * 50] = format!("venom {n}"));
    let input = work.prompts(&prompts);
    let job = work.run(&input).args(["--ready-timeout", "60s", "--no-batch"]);
    job.deadline(Duration::from_secs(120)).run().with_code(3);
    assert_eq!(work.counts("answers.jsonl"), [300, 295, 5, 0]);
    for answer in work.answers("answers.jsonl").iter().filter(|it| it["success"] == false) {
        assert_eq!(answer["error"]["kind"], "exhausted");
        assert_eq!(answer["error"]["status"], 500);
    }
}
