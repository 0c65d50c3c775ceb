//! Ranks beside each other: whatever one of them meets, the others go on, and nobody's prompts wait for it.

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use vllm_sim::{CostModel, Fault, Profile, Rule, Script};

use crate::support::{
    job::process_of,
    processes_with,
    work::{Work, assert_right, made_up, slow},
};

/// Milliseconds of a step at which a server answers some hundred short prompts a second.
const STEP: f64 = 8.0;

fn with_rule(rule: Rule) -> Profile {
    Profile { script: Script { seed: 1, rules: vec![rule] }, ..slow(STEP) }
}

#[track_caller]
fn all_are_right(work: &Work, prompts: &[String]) {
    assert_right(&work.answers("answers.jsonl"), prompts);
    let all = prompts.len() as u64;
    assert_eq!(work.counts("answers.jsonl"), [all, all, 0, 0]);
}

/// Waits until this server has answered so many.
fn until_served(work: &Work, server: usize, served: u64) {
    let end = Instant::now() + Duration::from_secs(30);
    while work.fleet.seen(server).served < served {
        assert!(Instant::now() < end, "no answers come");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_endpoint_that_hangs_for_ever_keeps_nobody_waiting() {
    let hangs = Rule { from: 60, ..Rule::always(Fault::Stall) };
    let work = Work::with(vec![slow(STEP), with_rule(hangs), slow(STEP)]);
    let prompts = made_up(1_200);
    let input = work.prompts(&prompts);
    let job = work.run(&input).args(["--max-tokens", "8", "--timeout", "6s"]);
    let ended = job.ranks(3).run().with_code(0);
    assert!(ended.took < Duration::from_secs(18), "{:?}", ended.took);
    all_are_right(&work, &prompts);
}

#[test]
fn a_rank_whose_server_dies_gives_its_prompts_to_others() {
    let dies = Rule { from: 40, ..Rule::always(Fault::EngineDeath) };
    let work = Work::with(vec![with_rule(dies), slow(STEP), slow(STEP)]);
    let prompts = made_up(1_200);
    let input = work.prompts(&prompts);
    let ended = work.run(&input).args(["--max-tokens", "8"]).ranks(3).run().with_code(0);
    assert!(ended.took < Duration::from_secs(30), "{:?}", ended.took);
    all_are_right(&work, &prompts);
}

#[test]
fn a_stopped_ranks_prompts_are_answered_by_others_and_the_manifest_names_it() {
    let work = Work::with(vec![slow(STEP); 3]);
    let prompts = made_up(1_500);
    let input = work.prompts(&prompts);
    let all = ["--max-tokens", "8", "--aggregate", "majority", "--aggregate", "concat"];
    let job = work.run(&input).args(all).args(["--rank-silence", "3s"]);
    let started = job.ranks(3).start();
    until_served(&work, 2, 40);
    kill_process(process_of(&work.marker(), 2), Signal::STOP).expect("it is there");
    let ended = started.wait().in_time();
    // What a launcher makes of the code of a job that is ended from inside is its own affair.
    assert!(ended.err.contains("finishes the run without the lost ranks: 2"), "{}", ended.err);
    all_are_right(&work, &prompts);
    let manifest = work.manifest("answers.jsonl");
    assert_eq!(manifest["state"], "finished");
    let lost: Vec<&Value> = manifest["lost"].as_array().expect("a list").iter().collect();
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0]["rank"], 2);
    let gone = Instant::now() + Duration::from_secs(10);
    while !processes_with(&work.marker()).is_empty() {
        assert!(Instant::now() < gone, "a rank is left behind");
        thread::sleep(Duration::from_millis(20));
    }
    // The same command finds it finished, asks nobody, and comes to what rank 0 came to alone.
    let before = work.requests();
    let aggregates = || {
        let read = |name| std::fs::read_to_string(work.path(name)).expect(name);
        ["answers.aggregate.json", "answers.concat.txt"].map(read)
    };
    let alone = aggregates();
    assert!(alone[0].contains("\"of\": 1500"), "{}", alone[0]);
    work.run(&input).args(all).ranks(2).run().with_code(0);
    assert_eq!(work.requests(), before);
    assert_eq!(aggregates(), alone);
    assert_eq!(work.manifest("answers.jsonl")["lost"], json!([]));
}

#[test]
fn a_rank_that_was_taken_to_be_lost_may_come_back() {
    let work = Work::with(vec![slow(STEP); 3]);
    let prompts = made_up(3_000);
    let input = work.prompts(&prompts);
    let job = work.run(&input).args(["--max-tokens", "8", "--rank-silence", "2s"]);
    let started = job.ranks(3).start();
    until_served(&work, 1, 40);
    let process = process_of(&work.marker(), 1);
    kill_process(process, Signal::STOP).expect("it is there");
    thread::sleep(Duration::from_secs(3));
    kill_process(process, Signal::CONT).expect("it is there");
    let ended = started.wait().with_code(0);
    assert!(ended.err.contains("responsive again"), "{}", ended.err);
    all_are_right(&work, &prompts);
    assert_eq!(work.manifest("answers.jsonl")["lost"], json!([]));
}

#[test]
fn few_prompts_are_answered_whoever_has_endpoints() {
    // Two of the five ranks have nobody to ask.
    let work = Work::with(vec![slow(STEP); 3]);
    let prompts = made_up(7);
    let input = work.prompts(&prompts);
    let ended = work.run(&input).args(["--max-tokens", "8"]).ranks(5).run().with_code(0);
    assert!(ended.took < Duration::from_secs(15), "{:?}", ended.took);
    all_are_right(&work, &prompts);
}

#[test]
fn a_wrong_job_stops_though_some_ranks_cannot_tell() {
    // Three servers refuse everything, the fourth rank has none that lives.
    let work = Work::with(vec![slow(STEP); 3]);
    for (rows, ranks) in [(3_000, 4), (105, 4), (105, 2)] {
        let input = work.prompts(&made_up(rows));
        let before = work.requests();
        let name = format!("{rows}-{ranks}.jsonl");
        let job = work.run_to(&input, &name).args(["--endpoint", "http://127.0.0.1:9"]);
        let job = job.args(["--ready-timeout", "2s", "--extra-body", "{\"top_p\": 0}"]);
        job.ranks(ranks).run().with_code(5).complains("all failed with the same error");
        assert_eq!(work.counts(&name)[3], rows as u64, "all are open");
        assert!(work.requests() - before < 400, "{} requests", work.requests() - before);
    }
    let input = work.prompts(&made_up(30));
    let job = work.run_to(&input, "few.jsonl").args(["--extra-body", "{\"top_p\": 0}"]);
    job.ranks(3).run().with_code(3);
    assert_eq!(work.counts("few.jsonl"), [30, 0, 30, 0]);
}

#[test]
fn long_answers_are_not_asked_twice_before_anybody_knows_how_long_they_are() {
    let cost = CostModel { step_base_us: 1_200_000.0, max_num_seqs: 32, ..CostModel::default() };
    let work = Work::with(vec![Profile { cost, ..Profile::default() }; 2]);
    let prompts = made_up(20);
    let input = work.prompts(&prompts);
    work.run(&input).args(["--max-tokens", "8", "--no-batch"]).ranks(3).run().with_code(0);
    // Once some are answered, the last of a rank that began late may be worth a copy; all 20 never are.
    assert!(work.requests() < 30, "{} requests for 20 prompts", work.requests());
    all_are_right(&work, &prompts);
}
