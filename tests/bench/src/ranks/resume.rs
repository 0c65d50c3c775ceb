//! A run that goes on: how long it takes to learn what is answered already, in how much memory, and what is asked again.
//!
//! It owns how an ended run becomes one that was interrupted: the last lines of its shard files are cut off in the middle
//! of a line, and its output is gone.

use super::RANKS;
use super::memory::{arguments, prompt, room, servers};
use crate::case::first_request;
use crate::check;
use crate::product::{Launch, Start};
use crate::scenario::{Bar, Bench, Broken, Figures, Row, Scenario, Size};
use crate::work::{self, Coster};
use serde_json::json;
use std::fs::{OpenOptions, read_dir, remove_file};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Cut off each shard file: some hundred answers, and the last of those that are left is torn.
const CUT: u64 = 100_003;

pub fn scenarios(size: Size) -> Vec<Scenario> {
    let prompts = size.pick(1_000_000, 20_000);
    vec![
        scenario(
            "resume-1m",
            "1 million answered prompts are gone on with by 1 rank",
            "The design's number is a second for a million answered prompts and rank: here one rank reads all of what \
             four have written.",
            prompts,
            1,
        ),
        scenario(
            "resume-1m-ranks",
            "1 million answered prompts are gone on with by 3 ranks",
            "Another number of ranks than before: each reads a part of the shard files, on two cores.",
            prompts,
            3,
        ),
    ]
}

fn scenario(
    name: &'static str,
    title: &'static str,
    why: &'static str,
    prompts: usize,
    ranks: usize,
) -> Scenario {
    Scenario {
        name,
        title,
        why,
        rows: vec![
            Row::of("read_s", "what is there is read", "s").bar(Bar::AtMost(prompts as f64 / 1e6)),
            Row::of("to_first_request_s", "mpiexec to the first request", "s"),
            Row::of("asked_again", "asked again / what was cut off", "").bar(Bar::AtMost(1.0)),
            Row::of("rank0_rss_mb", "peak memory of rank 0", "MB"),
            Row::of("scan_s", "scan", "s"),
            Row::of("gather_s", "gather", "s"),
            Row::of("process_s", "mpiexec to its end", "s"),
        ],
        once: false,
        parameters: json!({
            "servers": servers().args(), "prompts": prompts, "ranks_before": RANKS, "ranks": ranks,
            "product": arguments(), "cut_off_each_shard_file": CUT,
        }),
        measure: Box::new(move |bench| measure(bench, prompts, ranks)),
    }
}

fn measure(bench: &Bench, prompts: usize, ranks: usize) -> Result<Figures, Broken> {
    let folder = tempfile::tempdir().map_err(Broken::at("a folder for the run"))?;
    room(folder.path(), prompts)?;
    let (input, answers) = (folder.path().join("input.jsonl"), folder.path().join("answers.jsonl"));
    work::write((0..prompts as u64).map(prompt), &input)
        .map_err(Broken::at("writing the input"))?;
    let servers = servers();
    let coster = Coster::new(servers.policy(), 1);
    let start = |launch| {
        let running = servers.start(bench)?;
        let urls: Vec<&str> = running.urls.iter().map(String::as_str).collect();
        let ran = Start {
            command: "run",
            folder: folder.path(),
            input: &input,
            answers: &answers,
            urls: &urls,
            arguments: &arguments(),
            launch,
            deadline: Duration::from_secs(120 + prompts as u64 / 2_000),
        }
        .run(bench, || ())?;
        Ok((ran, running.finish()?))
    };
    start(Launch::Watched(RANKS))?;
    let lost = interrupt(&answers).map_err(Broken::at("the run's files"))?;
    let (ran, seen) = start(Launch::Watched(ranks))?;
    check::all_answered(&answers, prompts, |at| prompt(at as u64), &coster)?;

    let first = first_request(&seen);
    let served: u64 = seen.iter().map(|s| s.served).sum();
    let mut figures = ran.costs();
    figures.extend(ran.stations(first));
    let more = [
        ("cut_off", lost as f64),
        ("asked_again", served as f64 / lost as f64),
        ("to_first_request_s", first - ran.began),
        ("process_s", ran.ended.wall.as_secs_f64()),
    ];
    figures.extend(more.map(|(name, figure)| (name.to_owned(), figure)));
    Ok(figures)
}

/// As if everything had been killed: returns how many answers that has cost.
fn interrupt(answers: &Path) -> std::io::Result<u64> {
    remove_file(answers)?;
    let shards = PathBuf::from(format!("{}.run/shards", answers.display()));
    read_dir(shards)?.map(|entry| cut(&entry?.path())).sum()
}

/// Cuts a file, and returns how many of its lines are not whole any more.
fn cut(path: &Path) -> std::io::Result<u64> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let whole = file.metadata()?.len();
    // A small file keeps its half.
    let left = whole - CUT.min(whole / 2);
    file.seek(SeekFrom::Start(left))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    file.set_len(left)?;
    Ok(end.iter().filter(|&&byte| byte == b'\n').count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_cut_are_counted_and_so_is_a_torn_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("some.jsonl");
        std::fs::write(&path, "head\naa\nbb\ncc\ndd\n").expect("written");
        // Half of 17 bytes are gone: from the middle of bb on.
        assert_eq!(cut(&path).expect("cut"), 3);
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "head\naa\nb");
    }
}
