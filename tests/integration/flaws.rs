//! Answers that are cut, blank or refused: they are told wherever counts are, and `--retry-cut` asks cut ones again.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use vllm_sim::{AnswerPolicy, Fault, Fleet, Lengths, Profile, Rule, Script};

use crate::support::{
    Job,
    work::{Work, by_chat, made_up, slow},
};

fn thinking() -> Profile {
    let policy = AnswerPolicy { thinking: Some(Lengths::Fixed(24)), ..AnswerPolicy::default() };
    Profile { policy, ..Profile::instant() }
}

fn status(work: &Work) -> Job {
    Job::of("status").arg(&work.path("answers.jsonl").to_string_lossy())
}

fn file_json(work: &Work, name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(work.path(name)).expect("it exists")).expect("JSON")
}

/// cut, blank and refused, as the manifest counts them.
#[track_caller]
fn flaws(counts: &Value) -> [u64; 3] {
    ["cut", "blank", "refused"].map(|name| counts[name].as_u64().expect(name))
}

#[test]
fn cut_and_blank_answers_are_told_wherever_counts_are() {
    let work = Work::with(vec![thinking(), thinking()]);
    let rows: Vec<Value> = made_up(20)
        .iter()
        .enumerate()
        // The model thinks for 24 tokens and answers with 64: blank, cut in the answer, and whole.
        .map(|(at, prompt)| {
            let limit = [20, 20, 40, 200][at % 4];
            json!({"prompt": prompt, "max_tokens": limit})
        })
        .collect();
    let input = work.rows(&rows);
    let run = || work.run(&input).args(["--no-batch"]).ranks(2).run().with_code(0);
    run().says("20  (100 %): 15 cut, 10 blank", 1);
    assert_eq!(flaws(&work.manifest("answers.jsonl")["counts"]), [15, 10, 0]);
    assert_eq!(flaws(&file_json(&work, "answers.jsonl.run/summary.json")["counts"]), [15, 10, 0]);
    let page = fs::read_to_string(work.path("answers.jsonl.run/report.html")).expect("a report");
    assert!(page.contains("100 % of 20; 15 cut, 10 blank"));
    status(&work).run().with_code(0).says("20 answered (15 cut, 10 blank), 0 failed", 1);
    let told = status(&work).args(["--json", "--verify"]).run().with_code(0);
    assert_eq!(flaws(&serde_json::from_str(&told.out).expect("JSON")), [15, 10, 0]);
    Job::of("merge")
        .arg(&work.path("answers.jsonl").to_string_lossy())
        .run()
        .with_code(0)
        .says("20 answers (15 cut, 10 blank), 0 failures", 1);
    // Nothing is sent, and the counts come from the shard files of the earlier session.
    let served = work.served();
    run().says("20  (100 %): 15 cut, 10 blank", 1).says("already complete", 1);
    assert_eq!(work.served(), served);
}

#[test]
fn retry_cut_sends_only_cut_answers_and_needs_no_accepted_change_of_max_tokens() {
    let prompts = made_up(24);
    let work = Work::instant(2);
    let own_limit = |at: usize| at.is_multiple_of(4);
    let row = |(at, prompt): (usize, &String)| {
        if own_limit(at) {
            json!({"prompt": prompt, "max_tokens": 100})
        } else {
            json!({"prompt": prompt})
        }
    };
    let input = work.rows(&prompts.iter().enumerate().map(row).collect::<Vec<_>>());
    work.run(&input).args(["--max-tokens", "8"]).ranks(2).run().with_code(0).says(": 18 cut", 1);
    let longer = || work.run(&input).args(["--max-tokens", "16"]);
    longer().run().with_code(5).complains("--max-tokens was 8 and is 16");
    longer()
        .args(["--retry-cut", "--temperature", "1"])
        .run()
        .with_code(5)
        .complains("temperature");
    let served = work.served();
    longer().args(["--retry-cut"]).ranks(3).run().with_code(0).says(": 18 cut", 1);
    assert_eq!(work.served() - served, 18);
    for (at, answer) in work.answers("answers.jsonl").iter().enumerate() {
        let limit = if own_limit(at) { 100 } else { 16 };
        assert_eq!(
            answer["response"],
            by_chat(&prompts[at], limit),
            "the latest of two cut answers"
        );
    }
    let served = work.served();
    let job = work.run(&input).args(["--max-tokens", "200", "--retry-cut"]);
    let ended = job.ranks(2).run().with_code(0);
    assert!(!ended.out.contains(" cut"), "{}", ended.out);
    assert_eq!(work.served() - served, 18);
    for (at, answer) in work.answers("answers.jsonl").iter().enumerate() {
        assert_eq!(answer["response"], by_chat(&prompts[at], 200));
        assert_eq!(answer["finish_reason"], "stop");
    }
    assert_eq!(flaws(&work.manifest("answers.jsonl")["counts"]), [0, 0, 0]);
    let changes = &work.manifest("answers.jsonl")["changes"];
    assert_eq!(changes[1]["settings"][0], "max-tokens was 16 and is 200");
    let served = work.served();
    let job = work.run(&input).args(["--max-tokens", "200", "--retry-cut"]);
    job.run().with_code(0).says("already complete", 1);
    assert_eq!(work.served(), served);
}

#[test]
fn a_cut_answer_is_kept_where_a_retry_fails() {
    let prompts = made_up(12);
    let work = Work::instant(1);
    let input = work.prompts(&prompts);
    work.run(&input).args(["--max-tokens", "8"]).run().with_code(0).says(": 12 cut", 1);
    let script = Script { seed: 1, rules: vec![Rule::always(Fault::Status(400))] };
    let refusing = Fleet::start(vec![Profile { script, ..Profile::instant() }]).expect("ports");
    let output = work.path("answers.jsonl").to_string_lossy().into_owned();
    let job =
        Job::of("run").args([&*input, "--output", &output, "--endpoint", &refusing.urls()[0]]);
    let job = job.args(["--temperature", "0", "--max-tokens", "100", "--retry-cut"]);
    job.run().with_code(0).says(": 12 cut", 1);
    for (answer, prompt) in work.answers("answers.jsonl").iter().zip(&prompts) {
        assert_eq!(answer["response"], by_chat(prompt, 8));
    }
}

#[test]
fn a_retry_of_cut_answers_survives_a_kill() {
    let prompts = made_up(80);
    let work = Work::with(vec![slow(3.0)]);
    let input = work.prompts(&prompts);
    work.run(&input).args(["--max-tokens", "4"]).ranks(2).run().with_code(0).says(": 80 cut", 1);
    let retry = || work.run(&input).args(["--max-tokens", "100", "--retry-cut"]).ranks(2);
    let killed = retry().start();
    let end = Instant::now() + Duration::from_secs(40);
    while work.lines_on_disk("answers.jsonl") < 90 {
        assert!(Instant::now() < end, "no answers in time");
        thread::sleep(Duration::from_millis(5));
    }
    killed.kill_everything(&work.marker());
    let told = status(&work).args(["--json"]).run().with_code(0);
    let told: Value = serde_json::from_str(&told.out).expect("JSON");
    assert_eq!((&told["answered"], &told["open"]), (&80.into(), &0.into()));
    let [cut, ..] = flaws(&told);
    assert!((1..=70).contains(&cut), "{cut}");
    let served = work.served();
    retry().run().with_code(0);
    // Requests in flight at the kill may be counted by the server afterwards.
    assert!(work.served() - served <= 80);
    assert_eq!(flaws(&work.manifest("answers.jsonl")["counts"]), [0, 0, 0]);
    for (answer, prompt) in work.answers("answers.jsonl").iter().zip(&prompts) {
        assert_eq!(answer["response"], by_chat(prompt, 100));
    }
}
