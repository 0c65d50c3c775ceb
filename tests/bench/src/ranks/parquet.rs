//! Parquet out and in: a million answers written as columns, and their prompts read from there again by a second run.
//!
//! It owns the comparison: the second run's lines have to say what the first one's columns do, row for row, so that what
//! either way loses or changes is seen. Neither file is ever held here.

use super::RANKS;
use super::memory::{arguments, prompt, room, servers};
use crate::case::first_request;
use crate::check;
use crate::product::{Launch, Start};
use crate::scenario::{Bar, Bench, Broken, Figures, Row, Scenario, Size};
use crate::work::{self, Coster};
use aurora_swarm::internals::ParquetReader;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

pub fn scenarios(size: Size) -> Vec<Scenario> {
    let prompts = size.pick(1_000_000, 20_000);
    let memory = Bar::AtMost(128.0 + 24e-6 * prompts as f64);
    vec![Scenario {
        name: "parquet-1m",
        title: "1 million prompts: lines in and Parquet out, then Parquet in and lines out",
        why: "Memory has the bar of a run of lines: a row group and a page of every column are all that Parquet may add.",
        rows: vec![
            Row::of("out_rank0_rss_mb", "out: peak memory of rank 0", "MB").bar(memory),
            Row::of("in_rank0_rss_mb", "in: peak memory of rank 0", "MB").bar(memory),
            Row::of("out_gather_s", "out: gather", "s"),
            Row::of("in_gather_s", "in: gather, as lines", "s"),
            Row::of("in_to_first_request_s", "in: mpiexec to the first request", "s"),
            Row::of("out_process_s", "out: mpiexec to its end", "s"),
            Row::of("in_process_s", "in: mpiexec to its end", "s"),
            Row::of("parquet_mb", "the Parquet file", "MB"),
            Row::of("lines_mb", "the file of lines", "MB"),
        ],
        once: true,
        parameters: json!({
            "servers": servers().args(), "prompts": prompts, "ranks": RANKS, "product": arguments(),
        }),
        measure: Box::new(move |bench| measure(bench, prompts)),
    }]
}

fn measure(bench: &Bench, prompts: usize) -> Result<Figures, Broken> {
    let folder = tempfile::tempdir().map_err(Broken::at("a folder for the runs"))?;
    room(folder.path(), 2 * prompts)?;
    let file = |name: &str| folder.path().join(name);
    let (input, table, lines) = (file("input.jsonl"), file("answers.parquet"), file("again.jsonl"));
    work::write((0..prompts as u64).map(prompt), &input)
        .map_err(Broken::at("writing the input"))?;
    let servers = servers();
    let mut figures = Figures::new();
    for (way, from, to) in [("out", &input, &table), ("in", &table, &lines)] {
        let running = servers.start(bench)?;
        let urls: Vec<&str> = running.urls.iter().map(String::as_str).collect();
        let ran = Start {
            command: "run",
            folder: folder.path(),
            input: from,
            answers: to,
            urls: &urls,
            arguments: &arguments(),
            launch: Launch::Watched(RANKS),
            deadline: Duration::from_secs(120 + prompts as u64 / 2_000),
        }
        .run(bench, || ())?;
        let first = first_request(&running.finish()?);
        let size = to.metadata().map_err(Broken::at("the answers"))?.len() as f64 / 1e6;
        let more = [
            ("to_first_request_s", first - ran.began),
            ("process_s", ran.ended.wall.as_secs_f64()),
            ("mb", size),
        ];
        let more = more.map(|(name, figure)| (name.to_owned(), figure));
        let all = ran.costs().into_iter().chain(ran.stations(first)).chain(more);
        figures.extend(all.map(|(name, figure)| (format!("{way}_{name}"), figure)));
    }
    for (name, way) in [("parquet_mb", "out_mb"), ("lines_mb", "in_mb")] {
        let size = figures.remove(way).map(|figure| (name.to_owned(), figure));
        figures.extend(size);
    }
    let coster = Coster::new(servers.policy(), 1);
    check::all_answered(&lines, prompts, |at| prompt(at as u64), &coster)?;
    let rows = same(&table, &lines)?;
    (rows == prompts).then_some(figures).ok_or(Broken(format!("{rows} rows of {prompts}")))
}

/// How many rows there are, if both files say the same.
fn same(table: &Path, lines: &Path) -> Result<usize, Broken> {
    let columns =
        ParquetReader::open(table, |_| true, &[]).map_err(Broken::at("the Parquet file"))?;
    let lines = File::open(lines).map_err(Broken::at("the lines"))?;
    let mut lines = BufReader::with_capacity(1 << 20, lines).lines();
    let mut rows = 0;
    for column in BufReader::with_capacity(1 << 20, columns).lines() {
        let column = column.map_err(Broken::at("the Parquet file"))?;
        let line = lines.next().transpose().map_err(Broken::at("the lines"))?.unwrap_or_default();
        let parse = |text: &str| serde_json::from_str::<Value>(text).map_err(Broken::at("a row"));
        let (column, line) = (parse(&column)?, parse(&line)?);
        let differs = |name: &str| column[name] != line[name] || column[name].is_null();
        let names = ["id", "index", "prompt", "response", "model", "success", "finish_reason"];
        if let Some(name) = names.into_iter().find(|name| differs(name)) {
            return Err(Broken(format!("{name} is not the same in {column} and {line}")));
        }
        rows += 1;
    }
    match lines.next() {
        None => Ok(rows),
        Some(_) => {
            Err(Broken(format!("the Parquet file ends after {rows} rows, the lines do not")))
        }
    }
}
