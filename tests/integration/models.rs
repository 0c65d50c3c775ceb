//! Rows that name their model: each prompt goes to an endpoint that serves it, on any number of ranks.

use std::time::Duration;

use serde_json::{Value, json};
use vllm_sim::{Death, Fault, Fleet, Profile, Rule, Script};

use crate::support::{
    Job,
    work::{Work, made_up, slow},
};

/// A server that answers at once under these names.
fn serving(names: &[&str]) -> Profile {
    Profile { models: names.iter().map(|&name| name.to_owned()).collect(), ..Profile::instant() }
}

/// Rows that name these models in turn; null names none.
fn rows_naming(models: &[Value], count: usize) -> Vec<Value> {
    let row = |(number, prompt): (usize, &String)| match &models[number % models.len()] {
        Value::Null => json!({"prompt": prompt, "max_tokens": 8}),
        model => json!({"prompt": prompt, "max_tokens": 8, "model": model}),
    };
    made_up(count).iter().enumerate().map(row).collect()
}

/// Every answer names the model of its row and an endpoint that serves it.
#[track_caller]
fn assert_routed(work: &Work, rows: &[Value], own: &str, served: &[&[&str]]) {
    let (urls, answers) = (work.fleet.urls(), work.answers("answers.jsonl"));
    assert_eq!(answers.len(), rows.len());
    for (answer, row) in answers.iter().zip(rows) {
        let model = row["model"].as_str().unwrap_or(own);
        assert_eq!((&answer["model"], &answer["success"]), (&json!(model), &json!(true)));
        let endpoint = answer["served"]["endpoint"].as_str().unwrap();
        let at =
            urls.iter().position(|url| url.trim_end_matches('/') == endpoint.trim_end_matches('/'));
        let at = at.unwrap_or_else(|| panic!("{endpoint} is none of {urls:?}"));
        assert!(served[at].contains(&model), "{model} was asked at endpoint {at}");
    }
}

#[test]
fn prompts_go_to_endpoints_that_serve_their_model_on_any_number_of_ranks() {
    let served: [&[&str]; 5] = [&["a"], &["b"], &["a"], &["b", "c"], &["a"]];
    let work = Work::with(served.map(serving).to_vec());
    let rows = rows_naming(&[json!("a"), json!("b"), json!("a"), json!("c"), json!("a")], 900);
    let input = work.rows(&rows);
    for ranks in [1, 3, 5] {
        let job = work.run(&input).arg("--overwrite").ranks(ranks);
        job.run().with_code(0).complains("models a, b, c");
        assert_eq!(work.counts("answers.jsonl"), [900, 900, 0, 0]);
        assert_routed(&work, &rows, "", &served);
        assert_eq!(work.manifest("answers.jsonl")["models"], json!(["a", "b", "c"]));
    }
    let refused: u64 = (0..served.len()).map(|it| work.fleet.seen(it).refused_4xx).sum();
    assert_eq!(refused, 0, "no endpoint was asked for a model that it does not serve");
}

#[test]
fn adapters_of_one_server_need_no_model_of_the_job_unless_rows_name_none() {
    let names = ["base", "lora-sql", "lora-chat"];
    let work = Work::with(vec![serving(&names); 2]);
    let rows = rows_naming(&[json!("lora-sql"), json!("lora-chat"), json!("base")], 300);
    let input = work.rows(&rows);
    for ranks in [1, 3] {
        work.run(&input).arg("--overwrite").ranks(ranks).run().with_code(0);
        assert_routed(&work, &rows, "", &[&names, &names]);
    }
    let rows = rows_naming(&[json!("lora-sql"), Value::Null, json!("lora-chat")], 300);
    let input = work.rows(&rows);
    let before = work.requests();
    let refused = work.run(&input).args(["--overwrite"]).run().with_code(5);
    refused
        .complains("some rows name no model, and several models are served")
        .complains("--model");
    assert_eq!(work.requests(), before);
    let job = || work.run(&input).args(["--overwrite", "--model", "base"]);
    job().run().with_code(0);
    assert_routed(&work, &rows, "base", &[&names, &names]);
    job().arg("--ignore-row-model").run().with_code(0);
    let answers = work.answers("answers.jsonl");
    assert!(answers.iter().all(|answer| answer["model"] == "base"));
}

#[test]
fn a_model_of_rows_that_no_endpoint_serves_is_refused_before_any_work() {
    let work = Work::with(vec![serving(&["llama-8b"]), serving(&["qwen-7b"])]);
    let rows = rows_naming(&[json!("llama-8b"), json!("qwen-7B"), json!("gpt-4o")], 30);
    let input = work.rows(&rows);
    for ranks in [1, 3] {
        let ended = work.run(&input).ranks(ranks).run().with_code(5);
        ended
            .complains("rows name the models \"qwen-7B\" (10 rows, first: ")
            .complains("prompts.jsonl line 2), \"gpt-4o\" (10 rows, ")
            .complains("which no endpoint serves; served models: llama-8b, qwen-7b")
            .complains("did you mean \"qwen-7b\"? --ignore-row-model");
    }
    assert_eq!(work.requests(), 0);
    let one = work.rows(&rows_naming(&[json!("gpt-4o-mini")], 3));
    work.run(&one).run().with_code(5).complains("rows name the model \"gpt-4o-mini\" (3 rows, ");
    let job = work.run(&one).args(["--ignore-row-model", "--model", "qwen-7b"]);
    job.run().with_code(0);
    assert_eq!(work.fleet.seen(0).requests, 0, "it serves another model");
}

#[test]
fn models_of_openai_batch_bodies_are_routed_and_told_in_the_bodies() {
    let work = Work::with(vec![serving(&["a"]), serving(&["b"])]);
    let row = |number: usize| {
        let model = ["a", "b"][number % 2];
        let body =
            json!({"model": model, "messages": [{"role": "user", "content": number.to_string()}]});
        json!({"custom_id": number.to_string(), "method": "POST", "url": "/v1/chat/completions", "body": body})
    };
    let input = work.rows(&(0..40).map(row).collect::<Vec<_>>());
    work.run(&input).ranks(2).run().with_code(0);
    for (number, line) in work.answers("answers.jsonl").iter().enumerate() {
        assert_eq!(line["response"]["body"]["model"], ["a", "b"][number % 2]);
    }
}

#[test]
fn a_run_goes_on_with_servers_of_the_models_that_are_left_and_with_no_others() {
    let dying = Profile { die: Some(Death::Prompts(20)), models: vec!["b".into()], ..slow(1.0) };
    let mut work = Work::with(vec![serving(&["a"]), dying]);
    let rows = rows_naming(&[json!("a"), json!("b")], 200);
    let input = work.rows(&rows);
    work.run(&input).ranks(2).run().with_code(75).complains("prompts remaining");
    let [_, answered, failed, open] = work.counts("answers.jsonl");
    assert!(answered >= 100 && failed == 0 && open > 0, "{answered} answered, {failed} failed");
    work.fleet = Fleet::start(vec![serving(&["a"])]).expect("a port");
    work.run(&input).ranks(2).run().with_code(5).complains("\"b\" (100 rows, first: ");
    assert_eq!(work.requests(), 0);
    work.fleet = Fleet::start(vec![serving(&["b"]), serving(&["b"])]).expect("ports");
    work.run(&input).ranks(3).run().with_code(0);
    assert_eq!(work.counts("answers.jsonl"), [200, 200, 0, 0]);
    assert!(
        work.answers("answers.jsonl")
            .iter()
            .zip(&rows)
            .all(|(it, row)| it["model"] == row["model"])
    );
}

#[test]
fn prompts_of_an_endpoint_that_dies_go_to_another_rank_that_serves_their_model() {
    let dying = Profile { die: Some(Death::Prompts(30)), models: vec!["b".into()], ..slow(1.0) };
    let slow_b = Profile { models: vec!["b".into()], ..slow(1.0) };
    let work = Work::with(vec![dying, serving(&["a"]), slow_b]);
    let rows = rows_naming(&[json!("a"), json!("b"), json!("b")], 600);
    let input = work.rows(&rows);
    for ranks in [1, 3] {
        let job = work.run(&input).args(["--overwrite", "--ready-timeout", "20s"]).ranks(ranks);
        job.run().with_code(0);
        assert_eq!(work.counts("answers.jsonl"), [600, 600, 0, 0]);
    }
    assert_eq!(work.fleet.seen(1).refused_4xx + work.fleet.seen(2).refused_4xx, 0);
}

#[test]
fn a_request_that_hangs_is_not_sent_again_to_an_endpoint_of_another_model() {
    let hanging = Script { seed: 1, rules: vec![Rule { from: 40, ..Rule::times(Fault::Hang, 3) }] };
    let sick = Profile { script: hanging, ..serving(&["a"]) };
    let work = Work::with(vec![sick, serving(&["b"]), serving(&["b"])]);
    let rows = rows_naming(&[json!("a"), json!("b")], 200);
    let input = work.rows(&rows);
    let job = work.run(&input).args(["--timeout", "3s", "--ready-timeout", "20s"]).ranks(2);
    job.deadline(Duration::from_secs(90)).run().with_code(0);
    assert_routed(&work, &rows, "", &[&["a"], &["b"], &["b"]]);
    assert_eq!(work.fleet.seen(1).refused_4xx + work.fleet.seen(2).refused_4xx, 0);
}

#[test]
fn a_server_that_joins_late_brings_its_model() {
    let late = Profile { loading: Duration::from_secs(4), ..serving(&["b"]) };
    let work = Work::with(vec![serving(&["a"]), late]);
    let rows = rows_naming(&[json!("a"), json!("b")], 100);
    let input = work.rows(&rows);
    work.run(&input).args(["--ready-timeout", "40s"]).ranks(2).run().with_code(0);
    assert_routed(&work, &rows, "", &[&["a"], &["b"]]);
}

#[test]
fn plan_counts_the_models_that_rows_name() {
    let work = Work::instant(1);
    let input = work.rows(&rows_naming(&[json!("a"), json!("b"), json!("a"), Value::Null], 8));
    let plan = || Job::of("plan").arg(&input);
    plan().run().with_code(0).says(
        "models that rows name: a (4 rows), b (2 rows); 2 rows without one, for the job's model\n",
        1,
    );
    plan().arg("--ignore-row-model").run().with_code(0).says("models that rows name", 0);
}

#[test]
fn a_reduce_over_several_models_needs_one_for_its_summaries() {
    let work = Work::with(vec![serving(&["a"]), serving(&["b"])]);
    let input = work.rows(&rows_naming(&[json!("a"), json!("b")], 40));
    let output = work.path("text.txt").to_string_lossy().into_owned();
    let urls = work.fleet.urls();
    let job = || {
        let job = Job::of("reduce").args([&input, "--output", &output, "--ready-timeout", "5s"]);
        let job = job.args(["--reduce-template", "Sum up: {{responses}}", "--max-tokens", "8"]);
        urls.iter().fold(job, |job, url| job.args(["--endpoint", url])).ranks(2)
    };
    job().run().with_code(5).complains("none is chosen for the summaries").complains("--model");
    assert_eq!(work.requests(), 0);
    job().args(["--model", "b"]).run().with_code(0);
    assert!(work.fleet.seen(0).served == 20 && work.fleet.seen(1).served > 20);
}
