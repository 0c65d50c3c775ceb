//! Shard files in folders below `shards`, as starts with more than a thousand ranks leave them: a run whose files were moved to
//! where such a start would have put them is the same run to all who read it.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::{
    Job,
    work::{Work, assert_right, made_up, slow},
};

/// Moves the files of a start to where these ranks of many would have them.
fn spread(work: &Work, start: u32, folders: &[&str]) {
    let shards = work.path("answers.jsonl.run/shards");
    for (rank, folder) in folders.iter().enumerate() {
        let name = format!("{start:04}-{rank:05}.jsonl");
        fs::create_dir_all(shards.join(folder)).expect("made");
        fs::rename(shards.join(&name), shards.join(folder).join(&name)).expect("it is there");
    }
}

#[track_caller]
fn verified(work: &Work, code: i32) -> Value {
    let output = work.path("answers.jsonl").to_string_lossy().into_owned();
    let ended = Job::of("status").args([&output, "--json", "--verify", "--exit-code"]).run();
    let it: Value = serde_json::from_str(&ended.with_code(code).out).expect("JSON");
    let counts =
        ["submitted", "answered", "failed", "open"].map(|key| (key.to_owned(), it[key].clone()));
    Value::Object(counts.into_iter().collect())
}

fn merge(work: &Work, more: &[&str]) -> Job {
    let output = work.path("answers.jsonl").to_string_lossy().into_owned();
    Job::of("merge").arg(&output).args(more.iter().copied())
}

#[test]
fn files_of_many_ranks_are_found_by_all_who_read_a_run_and_mixed_with_those_of_few() {
    let work = Work::with(vec![slow(10.0); 3]);
    let mut prompts = made_up(400);
    let input = work.prompts(&prompts);
    let run = || work.run(&input).args(["--max-tokens", "8", "--concurrency", "8"]);
    let started = run().ranks(3).start();
    let end = Instant::now() + Duration::from_secs(30);
    while work.lines_on_disk("answers.jsonl") < 120 {
        assert!(Instant::now() < end, "no answers come");
        thread::sleep(Duration::from_millis(5));
    }
    started.kill_everything(&work.marker());
    let before = verified(&work, 75);
    assert!(
        before["answered"].as_u64() >= Some(120) && before["open"].as_u64() > Some(0),
        "{before}"
    );

    // Ranks 0 and 1 of a thousand, and one of another.
    spread(&work, 1, &["0001-000", "0001-000", "0001-017"]);
    assert_eq!(verified(&work, 75), before);
    merge(&work, &["--partial"]).run().with_code(0);
    let partial = work.answers("answers.partial.jsonl").len() as u64;
    assert_eq!(partial, before["answered"].as_u64().expect("a count"));

    // It goes on, on fewer ranks, and asks what is open.
    let served = work.served();
    run().ranks(2).run().with_code(0);
    assert_eq!(work.served() - served, before["open"].as_u64().expect("a count"));
    assert_right(&work.answers("answers.jsonl"), &prompts);
    assert_eq!(verified(&work, 0)["answered"], 400);
    spread(&work, 2, &["0002-000", "0002-000"]);
    fs::remove_file(work.path("answers.jsonl")).expect("it is there");
    merge(&work, &[]).run().with_code(0);
    assert_right(&work.answers("answers.jsonl"), &prompts);

    // Another input: answers are carried over, and what they came from lies aside as it lay.
    prompts.extend(made_up(420).split_off(400));
    work.prompts(&prompts);
    let served = work.served();
    run().arg("--accept-changes").ranks(2).run().with_code(0);
    assert_eq!(work.served() - served, 20);
    assert_right(&work.answers("answers.jsonl"), &prompts);
    assert!(work.has("answers.jsonl.run/before-0003/0001-017/0001-00002.jsonl"));
    assert!(!work.has("answers.jsonl.run/shards/0001-017"), "what is empty goes");
    assert_eq!(verified(&work, 0)["answered"], 420);
}
