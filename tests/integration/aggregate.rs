//! `--aggregate`: what all answers come to together, on any number of ranks.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use vllm_sim::{Fault, Profile, Rule, Script};

use crate::support::{
    Job,
    work::{Work, made_up},
};

const ALL: [&str; 9] = [
    "majority",
    "majority:/kind",
    "stats",
    "stats:/score",
    "top-k=5:/score",
    "best:/score",
    "concat",
    "json",
    "failures",
];

/// Rows whose answers are words, numbers and JSON objects in turn; two fail, and one of them has all words for an answer.
fn rows(count: usize) -> Vec<Value> {
    let schema = json!({"type": "object", "required": ["score", "kind"], "properties": {
        "score": {"type": "integer"}, "kind": {"enum": ["Good", "bad"]}}});
    let row = |number: usize| {
        let outputs = match number % 3 {
            0 => json!({"choice": ["Yes", "no", "maybe"]}),
            1 => json!({"regex": "-?[1-9][0-9]{0,3}\\.[0-9]"}),
            _ => json!({"json": schema}),
        };
        json!({"id": format!("row {number}"), "prompt": format!("question {number}"), "structured_outputs": outputs})
    };
    let mut rows: Vec<Value> = (0..count).map(row).collect();
    rows[7] = json!({"id": "blank", "prompt": ""});
    rows[11] = json!({"id": "long", "prompt": "word ".repeat(3_000)});
    rows
}

fn wanted(job: Job, all: &[&str]) -> Job {
    all.iter().fold(job, |job, it| job.args(["--aggregate", it]))
}

/// The report beside these answers.
fn report(work: &Work, name: &str) -> Value {
    let text = std::fs::read_to_string(work.path(&format!("{name}.aggregate.json")));
    serde_json::from_str(&text.expect("a report")).expect("JSON")
}

fn text(work: &Work, name: &str) -> String {
    std::fs::read_to_string(work.path(name)).expect(name)
}

/// A report without the names of files, which differ where outputs do.
fn nameless(mut report: Value) -> Value {
    for it in report["aggregates"].as_object_mut().expect("an object").values_mut() {
        it.as_object_mut().expect("an object").remove("file");
    }
    report
}

fn responses(answers: &[Value]) -> Vec<&str> {
    answers.iter().filter_map(|it| it["response"].as_str()).collect()
}

#[test]
fn aggregates_are_right_and_the_same_on_any_number_of_ranks() {
    let work = Work::instant(2);
    let input = work.rows(&rows(600));
    let mut seen = Vec::new();
    for (name, ranks, gather) in
        [("one", 1, "root"), ("three", 3, "root"), ("four", 4, "root"), ("left", 3, "none")]
    {
        let job = work.run_to(&input, &format!("{name}.jsonl")).args(["--gather", gather]);
        let ended = wanted(job, &ALL).ranks(ranks).run().with_code(3);
        ended.says(
            &format!("aggregates: {}", work.path(&format!("{name}.aggregate.json")).display()),
            1,
        );
        assert_eq!(work.has(&format!("{name}.jsonl")), gather == "root");
        let files = ["concat.txt", "merged.json"].map(|it| text(&work, &format!("{name}.{it}")));
        seen.push((nameless(report(&work, name)), files));
    }
    assert!(seen.iter().all(|it| *it == seen[0]), "{seen:?}");

    // And right, by the answers themselves.
    let answers = work.answers("one.jsonl");
    let (report, [concat, list]) = &seen[0];
    assert_eq!(
        report["prompts"],
        json!({"submitted": 600, "answered": 598, "failed": 2, "open": 0, "cut": 0, "blank": 0, "refused": 0})
    );
    let all = &report["aggregates"];
    let responses = responses(&answers);
    assert_eq!(*concat, responses.join("\n") + "\n");

    let mut votes = BTreeMap::new();
    responses.iter().for_each(|it| *votes.entry(it.to_lowercase()).or_insert(0u64) += 1);
    let most = votes.values().max().expect("there are votes");
    assert_eq!(all["majority"]["votes"], *most);
    assert_eq!(votes[&all["majority"]["winner"].as_str().expect("one wins").to_lowercase()], *most);
    assert_eq!(all["majority"]["different"], votes.len());

    let numbers: Vec<f64> = responses.iter().filter_map(|it| it.parse().ok()).collect();
    let mean = numbers.iter().sum::<f64>() / numbers.len() as f64;
    assert_eq!(all["stats"]["numbers"]["count"], numbers.len());
    assert!((all["stats"]["numbers"]["mean"].as_f64().expect("a mean") - mean).abs() < 1e-9);
    assert_eq!(all["stats"]["no_numbers"]["count"], 598 - numbers.len());

    let object = |it: &&str| serde_json::from_str::<Value>(it).ok().filter(Value::is_object);
    let mut scores: Vec<i64> =
        responses.iter().filter_map(object).filter_map(|it| it["score"].as_i64()).collect();
    assert!(scores.len() > 150);
    scores.sort_unstable_by_key(|it| -it);
    let best = all["top-k=5:/score"]["best"].as_array().expect("a list");
    let top: Vec<i64> =
        best.iter().map(|it| it["score"].as_f64().expect("a score") as i64).collect();
    assert_eq!(top, scores[..5]);
    assert_eq!(all["best:/score"]["best"][0], best[0]);
    assert_eq!(responses_at(&answers, &best[0]), best[0]["response"]);

    let merged: Vec<Value> = serde_json::from_str(list).expect("a JSON list");
    let json: Vec<Value> =
        responses.iter().filter_map(|it| serde_json::from_str(it).ok()).collect();
    assert_eq!(merged, json);

    let kinds = &all["failures"]["kinds"];
    assert_eq!(kinds["empty_prompt"]["first"][0]["id"], "blank");
    assert_eq!(kinds["too_long"]["first"][0]["index"], 11);
    assert_eq!(all["failures"]["failed"], 2);
}

fn responses_at(answers: &[Value], place: &Value) -> Value {
    answers[place["index"].as_u64().expect("an index") as usize]["response"].clone()
}

#[test]
fn a_finished_run_makes_missing_and_other_aggregates_again_without_an_endpoint() {
    let work = Work::instant(1);
    let input = work.rows(&rows(90));
    wanted(work.run(&input), &["stats", "concat"]).ranks(2).run().with_code(3);
    let (first, concat) = (report(&work, "answers"), text(&work, "answers.concat.txt"));
    std::fs::remove_file(work.path("answers.aggregate.json")).expect("removed");
    std::fs::remove_file(work.path("answers.concat.txt")).expect("removed");
    let requests = work.requests();
    let again = |all: &[&str]| {
        wanted(work.run(&input), all).args(["--ready-timeout", "0"]).ranks(3).run().with_code(3);
        report(&work, "answers")
    };
    assert_eq!(again(&["stats", "concat"]), first);
    assert_eq!(text(&work, "answers.concat.txt"), concat);
    let other = again(&["majority", "concat=; "]);
    assert_eq!(other["aggregates"].as_object().expect("an object").len(), 2);
    assert_eq!(text(&work, "answers.concat.txt"), concat.trim_end().replace('\n', "; ") + "\n");
    assert_eq!(work.requests(), requests);
}

#[test]
fn prompts_that_failed_first_and_were_answered_later_count_once() {
    let refused = Script {
        seed: 1,
        rules: vec![Rule { containing: Some("poison".into()), ..Rule::always(Fault::Status(400)) }],
    };
    let bad = Work::with(vec![Profile { script: refused, ..Profile::instant() }]);
    let good = Work::instant(1);
    let mut prompts = made_up(200);
    (0..200).step_by(10).for_each(|at| prompts[at] = format!("poison {at}"));
    let input = bad.prompts(&prompts);
    let all = ["majority", "stats", "failures", "concat", "json"];
    wanted(bad.run(&input), &all).ranks(3).run().with_code(3);
    assert_eq!(report(&bad, "answers")["aggregates"]["failures"]["failed"], 20);
    assert_eq!(report(&bad, "answers")["aggregates"]["majority"]["of"], 180);

    let output = bad.path("answers.jsonl").to_string_lossy().into_owned();
    let url = good.fleet.urls()[0].to_string();
    let job = || {
        Job::of("run").args([
            &*input,
            "--output",
            &*output,
            "--endpoint",
            &*url,
            "--temperature",
            "0",
        ])
    };
    wanted(job().arg("--retry-failed"), &all).ranks(2).run().with_code(0);
    assert_eq!(bad.lines_on_disk("answers.jsonl"), 220, "twenty stand in two files");
    let after = report(&bad, "answers");
    assert_eq!(after["aggregates"]["failures"]["failed"], 0);
    assert_eq!(after["aggregates"]["majority"]["of"], 200);
    for ranks in [1, 4] {
        wanted(job(), &all).ranks(ranks).run().with_code(0);
        assert_eq!(report(&bad, "answers"), after, "{ranks} ranks");
    }
    wanted(job().args(["--gather", "none"]), &all).ranks(3).run().with_code(0);
    assert_eq!(report(&bad, "answers"), after);
    let answers = bad.answers("answers.jsonl");
    assert_eq!(text(&bad, "answers.concat.txt"), responses(&answers).join("\n") + "\n");
}

#[test]
fn merge_makes_aggregates_of_what_there_is() {
    let work = Work::instant(1);
    let input = work.rows(&rows(90));
    wanted(work.run(&input), &["stats", "concat"]).ranks(3).run().with_code(3);
    let (whole, concat) = (report(&work, "answers"), text(&work, "answers.concat.txt"));
    let run = work.path("answers.jsonl").to_string_lossy().into_owned();
    std::fs::remove_file(work.path("answers.aggregate.json")).expect("removed");
    Job::of("merge").arg(&run).run().with_code(0);
    assert_eq!(report(&work, "answers"), whole, "those of the run");
    assert_eq!(text(&work, "answers.concat.txt"), concat);
    wanted(Job::of("merge").arg(&run), &["majority"]).run().with_code(0);
    assert!(report(&work, "answers")["aggregates"]["majority"]["winner"].is_string());

    // As a kill leaves it: a shard file is short of its last lines.
    let shard = work.path("answers.jsonl.run/shards/0001-00000.jsonl");
    let lines = std::fs::read_to_string(&shard).expect("a shard file");
    let cut: Vec<&str> = lines.split_inclusive('\n').collect();
    std::fs::write(&shard, cut[..cut.len() - 4].concat()).expect("written");
    wanted(Job::of("merge").arg(&run), &["stats"]).run().with_code(5).complains("--partial");
    wanted(Job::of("merge").args([&*run, "--partial"]), &["stats"]).run().with_code(0);
    let partial = report(&work, "answers.partial");
    assert_eq!(partial["prompts"]["open"], 4);
    let answered = partial["prompts"]["answered"].as_u64().expect("a count");
    assert_eq!(partial["aggregates"]["stats"]["answered"], answered);
}

#[test]
fn reversed_and_missing_choices_change_no_aggregate() {
    let rule = |fault, p| Rule { p, ..Rule::always(fault) };
    let rules = vec![rule(Fault::ReverseChoices, 0.4), rule(Fault::MissingChoice, 0.1)];
    let work =
        Work::with(vec![Profile { script: Script { seed: 3, rules }, ..Profile::instant() }]);
    let well = Work::instant(1);
    let all = ["majority", "concat", "stats"];
    let run = |work: &Work| {
        let job = work.run(&work.prompts(&made_up(400)));
        let job = job.args(["--api", "completions", "--batch-size", "8", "--retries", "9"]);
        wanted(job, &all).ranks(2).run().with_code(0);
        (report(work, "answers"), text(work, "answers.concat.txt"))
    };
    assert_eq!(run(&work), run(&well));
    assert!(work.fleet.seen(0).faults > 5);
}

#[test]
fn every_sequence_of_a_prompt_has_a_vote() {
    let work = Work::instant(1);
    let input = work.prompts(&made_up(20));
    let job = work.run(&input).args([
        "--n",
        "3",
        "--temperature",
        "1",
        "--seed",
        "5",
        "--max-tokens",
        "8",
    ]);
    wanted(job, &["majority", "concat", "failures"]).ranks(2).run().with_code(0);
    let all = report(&work, "answers")["aggregates"].clone();
    assert_eq!(
        (&all["majority"]["of"], &all["concat"]["texts"], &all["failures"]["total"]),
        (&60.into(), &60.into(), &20.into())
    );
    let answers = work.answers("answers.jsonl");
    let every: Vec<&str> = answers
        .iter()
        .flat_map(|it| it["responses"].as_array().expect("three"))
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(text(&work, "answers.concat.txt"), every.join("\n") + "\n");
}

#[test]
fn unknown_aggregates_are_refused_before_any_work() {
    let work = Work::instant(1);
    let input = work.prompts(&made_up(3));
    wanted(work.run(&input), &["mean"]).run().with_code(2).complains("top-k=10:/score");
    wanted(work.run(&input), &["concat", "concat=-"]).run().with_code(2).complains("twice");
    assert_eq!(work.requests(), 0);
    work.run(&input).run().with_code(0);
    let run = work.path("answers.jsonl").to_string_lossy().into_owned();
    wanted(Job::of("merge").arg(&run), &["best:score"])
        .run()
        .with_code(2)
        .complains("JSON pointer");
    assert!(!work.has("answers.aggregate.json"));
}

#[test]
fn files_that_earlier_starts_made_of_other_answers_do_not_stay() {
    let work = Work::instant(1);
    let prompts = made_up(30);
    let input = work.prompts(&prompts[..20]);
    // Somebody's own, of a name that no start has made.
    work.file("answers.merged.json", "mine");
    wanted(work.run(&input), &["concat", "stats"]).run().with_code(0);
    let concat = text(&work, "answers.concat.txt");
    // The same again: nothing is made anew, and what is there is of these answers.
    work.run(&input).run().with_code(0);
    assert_eq!(text(&work, "answers.concat.txt"), concat);
    assert_eq!(report(&work, "answers")["aggregates"]["stats"]["answered"], 20);

    // Other answers, and another aggregate of them; a start that was killed has left half of one.
    work.prompts(&prompts);
    work.file("answers.concat.txt.part", "half");
    let changed = || work.run(&input).arg("--accept-changes");
    wanted(changed(), &["majority"]).run().with_code(0);
    assert!(!work.has("answers.concat.txt") && !work.has("answers.concat.txt.part"));
    assert_eq!(report(&work, "answers")["prompts"]["answered"], 30);

    // None is wanted any more, of answers to yet another input or to all anew.
    work.prompts(&prompts[..25]);
    changed().run().with_code(0);
    assert!(!work.has("answers.aggregate.json"));
    wanted(work.run(&input), &["concat"]).arg("--overwrite").run().with_code(0);
    assert_eq!(text(&work, "answers.concat.txt").lines().count(), 25);
    work.run(&input).arg("--overwrite").run().with_code(0);
    assert!(!work.has("answers.concat.txt") && !work.has("answers.aggregate.json"));
    assert_eq!(text(&work, "answers.merged.json"), "mine");
}
