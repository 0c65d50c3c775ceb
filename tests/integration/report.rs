//! The report of a run: summary.json and report.html, whose counts are the manifest's.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use vllm_sim::{Fault, Profile, Rule, Script};

use crate::support::{
    Job,
    job::process_of,
    work::{Work, made_up, slow},
};

const STEP: f64 = 4.0;

fn summary(work: &Work) -> Value {
    let text = fs::read(work.path("answers.jsonl.run/summary.json")).expect("a summary");
    serde_json::from_slice(&text).expect("JSON")
}

fn page(work: &Work) -> String {
    fs::read_to_string(work.path("answers.jsonl.run/report.html")).expect("a page")
}

/// The report again, from the files.
fn again(work: &Work) -> Value {
    let run = work.path("answers.jsonl").to_string_lossy().into_owned();
    Job::of("report").arg(&run).run().with_code(0).says("report.html", 1).says("summary.json", 1);
    summary(work)
}

/// All that does not depend on when it was written.
fn timeless(mut summary: Value) -> Value {
    assert!(summary["written"].take().as_u64() > Some(1_000_000_000));
    summary
}

fn sum<'a>(values: impl IntoIterator<Item = &'a Value>, field: &str) -> u64 {
    values.into_iter().map(|it| it[field].as_u64().expect(field)).sum()
}

/// What the page and the summary say is what the manifest says.
#[track_caller]
fn assert_told(work: &Work) -> Value {
    let (summary, page, manifest) = (summary(work), page(work), work.manifest("answers.jsonl"));
    let [submitted, answered, failed, open] = work.counts("answers.jsonl");
    assert_eq!(summary["counts"], manifest["counts"]);
    for (id, value) in [("answered", answered), ("failed", failed), ("open", open)] {
        assert!(page.contains(&format!("id=\"{id}\" data-value=\"{value}\"")), "{id} {value}");
    }
    assert_eq!(summary["state"], manifest["state"]);
    assert_eq!(summary["latency_s"]["count"], answered);
    let bars = summary["latency_s"]["histogram"].as_array().expect("bars");
    assert_eq!(sum(bars, "count"), answered);
    let kinds = summary["failures"].as_object().expect("an object");
    assert_eq!(sum(kinds.values(), "count"), failed);
    let ends = summary["finish_reasons"].as_object().expect("an object").values();
    assert_eq!(ends.map(|it| it.as_u64().expect("a count")).sum::<u64>(), answered);
    assert_eq!(
        summary["sessions"].as_array().expect("a list").len() as u64,
        manifest["starts"].as_u64().unwrap()
    );
    assert_eq!(submitted, answered + failed + open);
    for forbidden in ["<script", "http-equiv=\"refresh\"", "src=", "href="] {
        assert!(!page.contains(forbidden), "{forbidden} is on the page");
    }
    summary
}

#[test]
fn a_slow_endpoint_a_death_a_kill_and_a_resume_are_all_told() {
    let dies = Script {
        rules: vec![Rule { from: 120, ..Rule::always(Fault::EngineDeath) }],
        ..Script::default()
    };
    let dying = Profile { script: dies, ..slow(STEP) };
    let work = Work::with(vec![slow(STEP), dying, slow(6.0 * STEP)]);
    let prompts = made_up(900);
    let mut rows: Vec<Value> = prompts.iter().map(|it| json!({"prompt": it})).collect();
    rows[3] = json!({"id": "<script>alert(1)</script>", "prompt": " "});
    rows[700] = json!({"id": "a&b", "prompt": ""});
    let input = work.rows(&rows);
    let job = || work.run(&input).args(["--max-tokens", "8", "--concurrency", "16", "--no-batch"]);
    let started = job().ranks(2).start();
    let end = Instant::now() + Duration::from_secs(30);
    while work.lines_on_disk("answers.jsonl") < 40 {
        assert!(Instant::now() < end, "no answers come");
        thread::sleep(Duration::from_millis(5));
    }
    started.kill_everything(&work.marker());
    job().ranks(2).run().with_code(3).says("report.html", 1);

    let summary = assert_told(&work);
    assert_eq!(work.counts("answers.jsonl"), [900, 898, 2, 0]);
    let sessions = summary["sessions"].as_array().expect("a list");
    assert_eq!(
        [&sessions[0]["outcome"], &sessions[1]["outcome"]],
        ["killed", "finished"],
        "{sessions:?}"
    );
    let before = sessions[1]["done_before"].as_u64().expect("a count");
    assert!((40..900).contains(&before), "{before}");
    let asked = sessions[1]["answered"].as_u64().unwrap() + sessions[1]["failed"].as_u64().unwrap();
    assert!(before + asked >= 900, "{before} and {asked}");
    let endpoints = &summary["endpoints"];
    let slow = endpoints["stragglers"].as_array().expect("a list");
    assert_eq!(slow.len(), 1, "{slow:?}");
    let name = |it: &Value| it["endpoint"].as_str().expect("a name").to_owned();
    assert!(name(&slow[0]).ends_with(work.fleet.url(2).trim_end_matches('/')), "{slow:?}");
    assert!(slow[0]["ratio_to_median"].as_f64() >= Some(1.5), "{slow:?}"); // six times, on a machine with nothing else to do
    assert_eq!(endpoints["n_outages"], 1);
    let outage = &endpoints["outages"][0];
    assert!(name(outage).ends_with(work.fleet.url(1).trim_end_matches('/')), "{outage:?}");
    assert_eq!(
        (&outage["session"], &outage["n_outages"], &outage["down_at_end"]),
        (&json!(2), &json!(1), &json!(true))
    );
    let full = endpoints["fraction_full"].as_f64().expect("a share");
    assert!((0.3..=1.0).contains(&full), "{full}");
    let first = &summary["failures"]["empty_prompt"]["examples"];
    assert_eq!([&first[0]["id"], &first[1]["id"]], ["<script>alert(1)</script>", "a&b"]);
    assert_eq!([&first[0]["index"], &first[1]["index"]], [3, 700]);
    // What the ranks saw over time is what they answered.
    let timeline = summary["timeline"].as_array().expect("a list");
    let seen: f64 = timeline
        .iter()
        .filter(|it| it["session"] == 2)
        .map(|it| it["prompts"].as_f64().unwrap())
        .sum();
    assert_eq!(seen as u64 + 2, asked, "all but what was asked of nobody");
    assert!(timeline.iter().any(|it| it["phase"] == "tail"), "{timeline:?}");
    let page = page(&work);
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;") && page.contains("a&amp;b"));
    assert!(page.contains("class=\"hd\""), "the heat map shows who was down");
    assert_eq!(timeless(again(&work)), timeless(summary), "one process, from the files alone");
}

#[test]
fn a_run_that_stops_early_tells_how_far_it_came_and_goes_on_telling() {
    let work = Work::with(vec![slow(STEP), slow(STEP)]);
    let input = work.prompts(&made_up(3_000));
    let job = || work.run(&input).args(["--max-tokens", "8", "--concurrency", "8", "--no-batch"]);
    job().args(["--walltime", "4s", "--margin", "1s"]).ranks(3).run().with_code(75);
    let summary = assert_told(&work);
    assert_eq!(
        (&summary["state"], &summary["sessions"][0]["outcome"]),
        (&json!("stopped"), &json!("stopped"))
    );
    assert!(summary["counts"]["open"].as_u64() > Some(0));
    assert_eq!(summary["settings"]["walltime"]["origin"], "flag --walltime");
    assert_eq!(timeless(again(&work)), timeless(summary));
    job().args(["--concurrency", "16", "--gather", "none"]).ranks(2).run().with_code(0);
    let summary = assert_told(&work);
    assert_eq!(
        [&summary["sessions"][0]["outcome"], &summary["sessions"][1]["outcome"]],
        ["stopped", "finished"]
    );
    assert_eq!(sum(summary["sessions"].as_array().unwrap(), "answered"), 3_000);
    assert_eq!(summary["requests"], sum(summary["sessions"].as_array().unwrap(), "requests"));
    assert_eq!(summary["requests"], work.manifest("answers.jsonl")["requests"]);
    // Finished, it is told again by whoever looks, on any number of ranks.
    for ranks in [1, 3] {
        job().ranks(ranks).run().with_code(0);
        let later = assert_told(&work);
        for same in
            ["counts", "latency_s", "completion_tokens", "slowest_answers", "failures", "timeline"]
        {
            assert_eq!(later[same], summary[same], "{same} on {ranks} ranks");
        }
    }
}

#[test]
fn a_rank_that_is_lost_is_told_of_and_what_rank_0_has_heard_is_drawn() {
    let work = Work::with(vec![slow(STEP); 3]);
    let input = work.prompts(&made_up(1_500));
    let job = work.run(&input).args(["--max-tokens", "8", "--rank-silence", "3s"]);
    let started = job.ranks(3).start();
    let end = Instant::now() + Duration::from_secs(30);
    while work.fleet.seen(2).served < 40 {
        assert!(Instant::now() < end, "no answers come");
        thread::sleep(Duration::from_millis(5));
    }
    kill_process(process_of(&work.marker(), 2), Signal::STOP).expect("it is there");
    started.wait().in_time();
    let summary = assert_told(&work);
    assert_eq!(summary["sessions"][0]["lost"][0]["rank"], 2);
    assert!(page(&work).contains("lost rank 2 on "));
    assert_eq!(summary["counts"]["answered"], 1_500);
}

#[test]
fn a_report_is_left_out_on_request_and_never_fails_a_run() {
    let work = Work::instant(1);
    let input = work.prompts(&made_up(30));
    let ended = work.run(&input).arg("--no-report").run().with_code(0).says("report.html", 0);
    assert!(!work.has("answers.jsonl.run/report.html"), "{}", ended.err);
    assert!(!work.has("answers.jsonl.run/summary.json"));
    // Something is in the way.
    fs::create_dir_all(work.path("answers.jsonl.run/summary.json/x")).unwrap();
    work.run(&input).run().with_code(0).complains("report not written");
    let run = work.path("answers.jsonl").to_string_lossy().into_owned();
    Job::of("report").arg(&run).run().with_code(5).complains("summary.json");
    fs::remove_dir_all(work.path("answers.jsonl.run/summary.json")).unwrap();
    again(&work);
    assert_told(&work);
    Job::of("report").arg(&work.path("nothing").to_string_lossy()).run().with_code(5);
}

#[test]
fn a_json_log_is_json_to_the_last_line_and_a_quiet_one_says_nothing() {
    let work = Work::with(vec![slow(2.0 * STEP), slow(2.0 * STEP)]);
    let input = work.prompts(&made_up(2_600));
    let job = || work.run(&input).args(["--max-tokens", "8", "--concurrency", "6", "--no-batch"]);
    let ended = job().args(["--log-format", "json", "--progress", "lines"]).ranks(2).run();
    // All answers end at their limit of tokens, which is the only thing to do about them.
    let ended = ended.with_code(0).says("next:", 1).says("next: --retry-cut", 1);
    let lines: Vec<Value> = ended
        .err
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect();
    let progress: Vec<&Value> = lines.iter().filter(|it| it["target"] == "progress").collect();
    assert!(!progress.is_empty(), "it takes twice the time to the first line: {}", ended.err);
    for it in progress {
        assert_eq!((&it["submitted"], &it["endpoints_up"]), (&json!(2_600), &json!(2)));
        let (pace, left) = (it["prompts_per_s"].as_f64(), it["left_s"].as_f64());
        assert!(pace > Some(0.0) && left.is_some(), "{it}");
    }
    let ended = job().args(["--quiet", "--overwrite"]).ranks(2).run().with_code(0);
    assert_eq!(ended.err, "");
    let nobody = Job::of("run").args([&*input, "--output", &work.path("n").to_string_lossy()]);
    let nobody = nobody.args(["--endpoint", "http://127.0.0.1:9", "--ready-timeout", "100ms"]);
    let ended = nobody.args(["--log-format", "json"]).run().with_code(6);
    let last = ended.err.lines().last().expect("a complaint");
    let last: Value = serde_json::from_str(last).expect("JSON as well");
    let words = last["message"].as_str().unwrap_or_default();
    assert!(last["level"] == "error" && words.contains("0 of 1 endpoints are ready"), "{last}");
}
