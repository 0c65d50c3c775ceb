//! `run --accept-changes`: the input or what decides answers has changed, and what is there is kept.

use std::io::Write;

use serde_json::{Value, json};
use vllm_sim::{CostModel, Death, Profile};

use crate::support::{
    Job,
    work::{Work, assert_equal, by_chat, made_up},
};

const ACCEPT: &str = "--accept-changes";

/// The answers are those of a run that was never disturbed, on the input as it is now.
#[track_caller]
fn is_as_undisturbed(work: &Work, input: &str, args: &[&str]) {
    let job = work.run_to(input, "undisturbed.jsonl").args(args.iter().copied());
    job.arg("--overwrite").run().with_code(0);
    assert_equal(&work.answers("undisturbed.jsonl"), &work.answers("answers.jsonl"));
}

/// How many prompts the servers answered meanwhile.
fn asked<T>(work: &Work, act: impl FnOnce() -> T) -> u64 {
    let before = work.served();
    act();
    work.served() - before
}

/// Kept, new and gone, of the last change.
#[track_caller]
fn told(work: &Work) -> [u64; 3] {
    let manifest = work.manifest("answers.jsonl");
    let change = manifest["changes"].as_array().and_then(|all| all.last()).expect("a change");
    ["kept", "new", "gone"].map(|name| change["input"][name].as_u64().expect(name))
}

#[test]
fn rows_that_are_appended_are_all_that_is_asked() {
    let work = Work::instant(2);
    let prompts = made_up(350);
    let input = work.prompts(&prompts[..300]);
    work.run(&input).run().with_code(0);
    let finished = std::fs::read(work.path("answers.jsonl")).unwrap();

    work.prompts(&prompts);
    let refused = || {
        let ended = work.run(&input).ranks(2).run().with_code(5);
        ended
            .complains("the input has changed since this run began: 300 rows before, 350 now")
            .complains("keeps 300 answers, sends 50 new prompts and drops 0 answers")
            .complains(ACCEPT);
    };
    assert_eq!(asked(&work, refused), 0);
    assert_eq!(std::fs::read(work.path("answers.jsonl")).unwrap(), finished);
    assert_eq!(work.manifest("answers.jsonl")["starts"], 1, "it was left as it was");

    let output = work.path("answers.jsonl").to_string_lossy().into_owned();
    let plan = || Job::of("plan").args([&*input, "--output", &output, "--temperature", "0"]);
    plan().run().with_code(5).says("keeps 300 answers, sends 50 new prompts", 1);
    plan().arg(ACCEPT).run().with_code(0).says("50 prompts would be sent", 1);
    assert_eq!(work.manifest("answers.jsonl")["starts"], 1, "a plan changes nothing");

    let accepted = || work.run(&input).arg(ACCEPT).ranks(3).run().with_code(0);
    assert_eq!(asked(&work, accepted), 50);
    assert_eq!(told(&work), [300, 50, 0]);
    assert_eq!(work.counts("answers.jsonl"), [350, 350, 0, 0]);
    let answers = work.answers("answers.jsonl");
    assert_eq!(answers[349]["response"], by_chat(&prompts[349], 512));
    assert!(work.has("answers.jsonl.run/before-0002/0001-00000.jsonl"), "nothing is removed");

    // It is an ordinary run again: nothing to accept, nothing to ask.
    let again = || work.run(&input).ranks(2).run().with_code(0);
    assert_eq!(asked(&work, again), 0);
    assert_eq!(work.answers("answers.jsonl"), answers);
    let status = Job::of("status").arg(&work.path("answers.jsonl").to_string_lossy());
    status.args(["--verify", "--exit-code"]).run().with_code(0).says("350 answered", 1);
    is_as_undisturbed(&work, &input, &[]);

    // And it may change again, by the hashes that were carried over.
    work.prompts(&prompts[25..]);
    assert_eq!(asked(&work, || work.run(&input).arg(ACCEPT).ranks(2).run().with_code(0)), 0);
    assert_eq!(told(&work), [325, 0, 25]);
    is_as_undisturbed(&work, &input, &[]);
}

#[test]
fn rows_that_are_removed_and_shuffled_keep_their_answers_and_ids() {
    let work = Work::instant(3);
    let texts = made_up(200);
    // Every third row has its own id, some of which are numbers that other rows are called by; every tenth stands three
    // times, with its id where it has one.
    let mut rows: Vec<Value> = Vec::new();
    for (at, text) in texts.iter().enumerate() {
        let row = match at % 3 {
            0 => json!({"id": format!("own-{at}"), "prompt": text}),
            1 if at % 2 == 0 => json!({"id": at.to_string(), "prompt": text}),
            _ => json!({"prompt": text}),
        };
        let times = if at % 10 == 0 { 3 } else { 1 };
        rows.extend(vec![row; times]);
    }
    let keep = ["--duplicate-ids", "keep"];
    let input = work.rows(&rows);
    work.run(&input).args(keep).ranks(2).run().with_code(0);

    // Another order, without some of them, with one more of others, and with rows that nobody has seen.
    let before = rows.len() as u64;
    let mut shuffled: Vec<Value> =
        (0..rows.len()).map(|at| rows[at * 97 % rows.len()].clone()).collect();
    shuffled.drain(20..60);
    let gone: Vec<Value> = shuffled.drain(100..105).collect();
    shuffled.insert(3, json!({"prompt": "nobody has seen it"}));
    shuffled.push(json!({"id": "late", "prompt": texts[1]}));
    let kept = before - 40 - gone.len() as u64;
    work.rows(&shuffled);
    let accepted = || work.run(&input).args(keep).arg(ACCEPT).ranks(5).run().with_code(0);
    assert_eq!(asked(&work, accepted), 2);
    assert_eq!(told(&work), [kept, 2, before - kept]);
    is_as_undisturbed(&work, &input, &keep);
}

#[test]
fn a_run_that_was_stopped_goes_on_with_another_input_and_asks_failures_again() {
    let slow = CostModel { step_base_us: 4_000.0, max_num_seqs: 16, ..CostModel::default() };
    let dying = Profile { die: Some(Death::Prompts(100)), cost: slow, ..Profile::default() };
    let work = Work::with(vec![dying; 2]);
    let mut prompts = made_up(600);
    prompts[5] = " ".into(); // no prompt: a failure
    let args = ["--max-tokens", "8", "--ready-timeout", "2s"];
    let input = work.prompts(&prompts);
    work.run(&input).args(args).ranks(2).run().with_code(75);
    let [_, answered, failed, _] = work.counts("answers.jsonl");
    assert!(answered >= 200 && failed <= 1, "{answered} answered, {failed} failed");

    prompts.reverse();
    let empty = prompts.iter().position(|text| text == " ").unwrap();
    prompts[empty] = "now it is one".into();
    work.prompts(&prompts);
    let alive = Work::instant(2);
    let output = work.path("answers.jsonl").to_string_lossy().into_owned();
    let job = |ranks, output: &str| {
        let job = alive.run_to(&input, output).args(["--max-tokens", "8"]);
        job.ranks(ranks)
    };
    job(1, &output).run().with_code(5).complains(&format!("keeps {answered} answers"));
    assert_eq!(asked(&alive, || job(3, &output).arg(ACCEPT).run().with_code(0)), 600 - answered);
    assert_eq!(told(&work), [answered, 600 - answered, 0]);
    job(1, "undisturbed.jsonl").run().with_code(0);
    assert_equal(&alive.answers("undisturbed.jsonl"), &work.answers("answers.jsonl"));
}

#[test]
fn settings_that_decide_answers_can_be_accepted_too() {
    let work = Work::instant(1);
    let prompts = made_up(40);
    let input = work.prompts(&prompts[..30]);
    let job = |tokens: &str| work.run(&input).args(["--max-tokens", tokens]);
    job("16").run().with_code(0);
    job("8").run().with_code(5).complains("max-tokens was 16 and is 8").complains(ACCEPT);
    let accepted = || {
        let job = job("8").env("AURORA_SWARM_ACCEPT_CHANGES", "true").ranks(2);
        job.run().with_code(0).complains("max-tokens was 16 and is 8");
    };
    assert_eq!(asked(&work, accepted), 0, "answers that are there stay");
    let change = &work.manifest("answers.jsonl")["changes"][0];
    assert_eq!(change["settings"], json!(["max-tokens was 16 and is 8"]));
    assert_eq!(change["input"], Value::Null);
    // Told once: it is the run's now.
    job("8").run().with_code(0);
    job("16").run().with_code(5).complains("max-tokens was 8 and is 16");

    work.prompts(&prompts);
    let both = job("4").run().with_code(5);
    both.complains("30 rows before, 40 now").complains("max-tokens was 8 and is 4");
    assert_eq!(asked(&work, || job("4").arg(ACCEPT).ranks(2).run().with_code(0)), 10);
    for (at, (answer, prompt)) in work.answers("answers.jsonl").iter().zip(&prompts).enumerate() {
        let tokens = if at < 30 { 16 } else { 4 };
        assert_eq!(answer["response"], by_chat(prompt, tokens), "prompt {at}");
    }
}

#[test]
fn another_model_can_be_accepted() {
    let models = |names: &[&str]| {
        let models = names.iter().map(|&name| name.to_owned()).collect();
        Work::with(vec![Profile { models, ..Profile::instant() }])
    };
    let work = models(&["one"]);
    let prompts = made_up(20);
    let input = work.prompts(&prompts[..15]);
    work.run(&input).run().with_code(0);
    work.prompts(&prompts);

    // Found, not named: what is served is another now.
    let other = models(&["two"]);
    let output = work.path("answers.jsonl").to_string_lossy().into_owned();
    let job = || other.run_to(&input, &output);
    assert_eq!(asked(&other, || job().arg(ACCEPT).ranks(2).run().with_code(0)), 5);
    let answers = work.answers("answers.jsonl");
    let of = |answers: &[Value], model: &str| {
        answers.iter().filter(|answer| answer["model"] == model).count()
    };
    assert_eq!((of(&answers, "one"), of(&answers, "two")), (15, 5));
    let changes = &work.manifest("answers.jsonl")["changes"];
    assert_eq!(changes[1]["settings"], json!(["the model was one and is two"]));

    // Named.
    work.prompts(&made_up(22));
    let third = models(&["two", "three"]);
    let job = || third.run_to(&input, &output).args(["--model", "three"]);
    job().run().with_code(5).complains("model was null and is \"three\"");
    assert_eq!(asked(&third, || job().arg(ACCEPT).run().with_code(0)), 2);
    assert_eq!(of(&work.answers("answers.jsonl"), "three"), 2);
}

#[test]
fn a_model_that_was_not_accepted_is_refused() {
    let work = Work::with(vec![Profile { models: vec!["one".into()], ..Profile::instant() }]);
    let prompts = made_up(20);
    let input = work.prompts(&prompts[..15]);
    work.run(&input).run().with_code(0);
    work.prompts(&prompts);
    // The input is accepted, and nobody is there to be asked.
    let output = work.path("answers.jsonl").to_string_lossy().into_owned();
    let job = Job::of("run").args([&*input, "--output", &output, "--temperature", "0", ACCEPT]);
    let job = job.args(["--endpoint", "http://127.0.0.1:9", "--ready-timeout", "1s"]);
    job.run().with_code(6);
    assert_eq!(work.counts("answers.jsonl"), [20, 15, 0, 5]);
    let other = Work::with(vec![Profile { models: vec!["two".into()], ..Profile::instant() }]);
    let job = || other.run_to(&input, &output);
    job().run().with_code(5).complains("answers are from model one").complains(ACCEPT);
    assert_eq!(asked(&other, || job().arg(ACCEPT).run().with_code(0)), 5);
}

#[test]
fn a_table_under_another_header_is_another_input() {
    let work = Work::instant(1);
    let rows: String = made_up(30).iter().map(|text| format!("{text},x\n")).collect();
    let input = work.file("rows.csv", format!("prompt,note\n{rows}"));
    let job = || work.run(&input);
    job().run().with_code(0);
    work.file("rows.csv", format!("note,prompt\n{rows}"));
    let ended = job().ranks(2).run().with_code(5);
    ended.complains("keeps 0 answers, sends 30 new prompts and drops 30 answers");
    assert_eq!(asked(&work, || job().arg(ACCEPT).ranks(2).run().with_code(0)), 30);
    assert_eq!(told(&work), [0, 30, 30]);
    // With rows between the others, under the same header.
    work.file("rows.csv", format!("note,prompt\r\nx,first\r\n{rows}x,\"last,\r\nand least\"\r\n"));
    assert_eq!(asked(&work, || job().arg(ACCEPT).run().with_code(0)), 2);
    work.run_to(&input, "u.jsonl").ranks(2).run().with_code(0);
    assert_equal(&work.answers("answers.jsonl"), &work.answers("u.jsonl"));
}

#[test]
fn packed_batches_can_grow_and_be_cut_into_files() {
    let work = Work::instant(2);
    let texts = made_up(60);
    let pack = |name: &str, texts: &[String], first: usize| {
        let row = |(at, text): (usize, &String)| {
            let body = json!({"messages": [{"role": "user", "content": text}]});
            let row = json!({"custom_id": format!("r{}", first + at), "method": "POST",
                "url": "/v1/chat/completions", "body": body});
            format!("{row}\n")
        };
        let rows: String = texts.iter().enumerate().map(row).collect();
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(rows.as_bytes()).unwrap();
        work.file(name, packed.finish().unwrap())
    };
    std::fs::create_dir(work.path("rows")).unwrap();
    let input = work.path("rows").to_string_lossy().into_owned();
    pack("rows/b.jsonl.gz", &texts[20..50], 20);
    work.run(&input).ranks(2).run().with_code(0);
    pack("rows/a.jsonl.gz", &texts[..20], 0);
    pack("rows/b.jsonl.gz", &texts[20..40], 20);
    pack("rows/c.jsonl.gz", &texts[40..], 40);
    assert_eq!(asked(&work, || work.run(&input).arg(ACCEPT).ranks(3).run().with_code(0)), 30);
    assert_eq!(told(&work), [30, 30, 0]);
    work.run_to(&input, "undisturbed.jsonl").run().with_code(0);
    for (one, other) in work.answers("answers.jsonl").iter().zip(&work.answers("undisturbed.jsonl"))
    {
        assert_eq!(one["custom_id"], other["custom_id"]);
        assert_eq!(one["response"]["body"]["choices"], other["response"]["body"]["choices"]);
    }
    assert_eq!(work.answers("answers.jsonl").len(), 60);
    // What was unpacked is not kept, neither by a start that asked nor by one that found all done.
    work.run(&input).run().with_code(0);
    let folder = std::fs::read_dir(work.path("answers.jsonl.run")).unwrap().flatten();
    let names = folder.map(|entry| entry.file_name().to_string_lossy().into_owned());
    assert_eq!(names.filter(|name| name.starts_with("input-")).count(), 0);
}

#[test]
fn answers_of_an_earlier_version_cannot_be_matched_and_that_is_said() {
    let work = Work::instant(1);
    let prompts = made_up(12);
    let input = work.prompts(&prompts[..10]);
    work.run(&input).run().with_code(0);
    let shard = work.path("answers.jsonl.run/shards/0001-00000.jsonl");
    let text = std::fs::read_to_string(&shard).unwrap();
    let cut = |line: &str| match line.split_once(",\"row\":\"") {
        Some((before, after)) => format!("{before}{}\n", &after[17..]),
        None => format!("{line}\n"),
    };
    let older: String = text.lines().map(cut).collect();
    assert_eq!(text.len() - older.len(), 10 * 25);
    std::fs::write(&shard, older).unwrap();
    work.run(&input).run().with_code(0);
    work.prompts(&prompts);
    let ended = work.run(&input).run().with_code(5);
    ended.complains("10 of them without a row hash, from an earlier version");
    assert_eq!(asked(&work, || work.run(&input).arg(ACCEPT).run().with_code(0)), 12);
    is_as_undisturbed(&work, &input, &[]);
}

#[test]
fn a_changed_input_is_one_start_more_and_no_record_is_missing() {
    let work = Work::instant(1);
    let prompts = made_up(30);
    let input = work.prompts(&prompts[..20]);
    let output = work.path("answers.jsonl").to_string_lossy().into_owned();
    let starts = || -> (u64, u64, u64) {
        let seen = Job::of("status").args([&*output, "--json"]).run().with_code(0);
        let seen: Value = serde_json::from_str(&seen.out).expect("JSON");
        let summary = std::fs::read_to_string(work.path("answers.jsonl.run/summary.json"));
        let summary: Value = serde_json::from_str(&summary.expect("a summary")).expect("JSON");
        let recorded = summary["sessions"].as_array().expect("sessions").len() as u64;
        (
            seen["starts"].as_u64().unwrap(),
            recorded,
            summary["unrecorded_sessions"].as_u64().unwrap(),
        )
    };
    work.run(&input).run().with_code(0);
    assert_eq!(starts(), (1, 1, 0));
    for (count, rows) in [(2, 25), (3, 30)] {
        work.prompts(&prompts[..rows]);
        work.run(&input).run().with_code(5).complains(ACCEPT);
        work.run(&input).arg(ACCEPT).run().with_code(0);
        assert_eq!(starts(), (count, count, 0));
    }
    work.run(&input).run().with_code(0);
    assert_eq!(starts(), (4, 4, 0), "one that had nothing to do is one, too");
}
