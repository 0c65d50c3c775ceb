//! The time a job has: walltimes, deadlines and signals end it in order, and the same command goes on.

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Signal, kill_process};
use vllm_sim::{CostModel, Profile};

use crate::support::{
    processes_with,
    work::{Work, assert_right, made_up, slow},
};

/// Milliseconds of a step at which an answer of 8 tokens takes a fifth of a second.
const STEP: f64 = 25.0;

#[track_caller]
fn the_rest_is_answered(work: &Work, input: &str, prompts: &[String], open: u64) {
    let before = work.served();
    let job = work.run(input).args(["--max-tokens", "8", "--concurrency", "64"]);
    job.ranks(2).run().with_code(0);
    let asked = work.served() - before;
    assert!(asked <= open + 2, "{asked} asked, {open} were open");
    assert_right(&work.answers("answers.jsonl"), prompts);
}

#[test]
fn a_walltime_ends_the_work_within_its_margin_and_the_same_command_goes_on() {
    let work = Work::with(vec![slow(STEP); 3]);
    let prompts = made_up(1_200);
    let input = work.prompts(&prompts);
    let job = work.run(&input).args(["--max-tokens", "8", "--walltime", "5s"]);
    let ended = job.ranks(3).run().with_code(75);
    // (launchers need a second or two of their own)
    assert!(ended.took < Duration::from_secs(7), "{:?}", ended.took);
    assert!(ended.out.contains("run the same command again"), "{}", ended.out);
    let [_, answered, failed, open] = work.counts("answers.jsonl");
    assert!(answered > 100 && failed == 0 && open > 0, "{answered} answered");
    // Windows were let run empty: nobody was asked in vain.
    assert!(work.served() <= answered + 2, "{} served, {answered} answered", work.served());
    assert!(!work.has("answers.jsonl"), "an output is whole or absent");
    the_rest_is_answered(&work, &input, &prompts, open);
}

#[test]
fn a_deadline_that_is_past_asks_nobody() {
    let work = Work::with(vec![slow(STEP)]);
    let input = work.prompts(&made_up(50));
    let job = work.run(&input).args(["--deadline", "2001-01-01T00:00:00Z", "--max-tokens", "8"]);
    job.run().with_code(75).complains("deadline passed");
    assert!(work.served() <= 1, "{}", work.served());
    assert_eq!(work.counts("answers.jsonl"), [50, 0, 0, 50]);
}

/// Starts a job, waits until it works, sends the signal to mpiexec, or to the ranks where it keeps signals for itself.
#[track_caller]
fn ended_by(work: &Work, input: &str, signal: Signal, more: &[&str]) -> (Option<i32>, Duration) {
    let job = work.run(input).args(["--max-tokens", "8"]).args(more.iter().copied());
    let started = job.ranks(2).start();
    let end = Instant::now() + Duration::from_secs(30);
    while work.served() < 60 {
        assert!(Instant::now() < end, "no answers come");
        thread::sleep(Duration::from_millis(5));
    }
    let began = Instant::now();
    kill_process(started.pid(), signal).expect("mpiexec is there");
    let ended = started.wait().in_time();
    let gone = Instant::now() + Duration::from_secs(10);
    while !processes_with(&work.marker()).is_empty() {
        assert!(Instant::now() < gone, "a rank is left behind");
        thread::sleep(Duration::from_millis(20));
    }
    (ended.code, began.elapsed())
}

#[test]
fn sigterm_to_mpiexec_loses_nothing_that_was_answered() {
    let work = Work::with(vec![slow(STEP); 2]);
    let prompts = made_up(700);
    let input = work.prompts(&prompts);
    let (code, took) = ended_by(&work, &input, Signal::TERM, &[]);
    assert!(took < Duration::from_secs(10), "{took:?}");
    if crate::support::job::is_open_mpi() {
        // It kills ranks a second after the signal: what counts is the journal.
        work.run(&input).args(["--max-tokens", "8"]).ranks(2).run().with_code(0);
        assert_eq!(work.counts("answers.jsonl"), [700, 700, 0, 0]);
        return;
    }
    assert_eq!(code, Some(75));
    let [_, answered, failed, open] = work.counts("answers.jsonl");
    assert!(answered >= 60 && failed == 0 && open > 0, "{answered} answered");
    assert_eq!(work.manifest("answers.jsonl")["state"], "stopped");
    assert_eq!(work.lines_on_disk("answers.jsonl") as u64, answered);
    the_rest_is_answered(&work, &input, &prompts, open);
}

#[test]
fn sigusr1_drains_too_and_a_second_sigterm_ends_at_once() {
    if crate::support::job::is_open_mpi() {
        return; // its launcher is the one that acts on these
    }
    let work = Work::with(vec![slow(STEP); 2]);
    let prompts = made_up(700);
    let input = work.prompts(&prompts);
    let (code, _) = ended_by(&work, &input, Signal::USR1, &[]);
    assert_eq!(code, Some(75));
    let [_, answered, _, open] = work.counts("answers.jsonl");
    // Servers that take minutes, and somebody who cannot wait.
    let cost = CostModel { step_base_us: 2_000_000.0, max_num_seqs: 16, ..CostModel::default() };
    let stubborn = Work::with(vec![Profile { cost, ..Profile::default() }]);
    let hanging = stubborn.prompts(&made_up(40));
    let started = stubborn.run(&hanging).args(["--max-tokens", "400"]).ranks(1).start();
    let end = Instant::now() + Duration::from_secs(20);
    while stubborn.requests() == 0 {
        assert!(Instant::now() < end, "nothing is asked");
        thread::sleep(Duration::from_millis(5));
    }
    let began = Instant::now();
    let rank = processes_with(&stubborn.marker()).into_iter().find(|pid| *pid != started.pid());
    let rank = rank.expect("a rank");
    for _ in 0..2 {
        kill_process(rank, Signal::TERM).expect("it is there");
        thread::sleep(Duration::from_millis(300));
    }
    started.wait().in_time();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(answered > 0);
    the_rest_is_answered(&work, &input, &prompts, open);
}
