//! From mpiexec to the first request: what the product adds to MPI's own start, by the number of ranks.
//!
//! It owns that subtraction. Both times begin when the launcher is started: one ends with the first request at any
//! server, the other when the last rank of a program of nothing but MPI is through MPI_Init.

use super::RANKS;
use crate::case::first_request;
use crate::flags::{ALWAYS, owned};
use crate::launch;
use crate::lengths::text;
use crate::product::{Launch, Start};
use crate::scenario::{Bar, Bench, Broken, Figures, Row, Scenario, Size};
use crate::servers::Servers;
use crate::stats;
use crate::work::{self, Prompt};
use serde_json::json;
use std::time::Duration;
use vllm_sim::Lengths;

/// Ranks, and what the scenario is called.
const STARTS: [(usize, &str, &str); 6] = [
    (1, "start-1", "from mpiexec to the first request: 1 rank"),
    (2, "start-2", "from mpiexec to the first request: 2 ranks"),
    (4, "start-4", "from mpiexec to the first request: 4 ranks"),
    (8, "start-8", "from mpiexec to the first request: 8 ranks"),
    (16, "start-16", "from mpiexec to the first request: 16 ranks"),
    (64, "start-64", "from mpiexec to the first request: 64 ranks"),
];

/// Prompts for each rank.
const PROMPTS: usize = 16;

pub fn scenarios(size: Size) -> Vec<Scenario> {
    let most = size.pick(64, 4);
    let starts = STARTS.into_iter().filter(|(ranks, ..)| *ranks <= most);
    starts.map(|(ranks, name, title)| scenario(size, ranks, name, title)).collect()
}

fn scenario(size: Size, ranks: usize, name: &'static str, title: &'static str) -> Scenario {
    // Many ranks on few cores take so long that one pair says it.
    let pairs = if ranks > 16 { 1 } else { size.pick(5, 1) };
    let mut beyond = Row::of("beyond_ms", "first request beyond MPI's own start", "ms");
    if ranks == RANKS {
        beyond = beyond.bar(Bar::AtMost(100.0));
    }
    Scenario {
        name,
        title,
        why: "Each rank has one endpoint and 16 prompts: a small input, read over in no time, and \
              every rank has something to ask. Starts of the product and of bare MPI take turns, \
              five each where cores are few but not hopeless, and medians count: a single start is \
              as much luck as program. The bar is for four ranks.",
        rows: vec![
            beyond,
            Row::of("first_request_ms", "mpiexec to the first request", "ms"),
            Row::of("mpi_ms", "mpiexec to the end of bare MPI_Init", "ms"),
        ],
        once: false,
        parameters: json!({"ranks": ranks, "prompts": PROMPTS * ranks, "pairs": pairs}),
        measure: Box::new(move |bench| measure(bench, ranks, pairs)),
    }
}

fn measure(bench: &Bench, ranks: usize, pairs: usize) -> Result<Figures, Broken> {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..pairs {
        without.push(launch::bare_start(bench, ranks)? * 1e3);
        with.push(to_first_request(bench, ranks)? * 1e3);
    }
    let nothing = || Broken("nothing was started".to_owned());
    let with = stats::median(&with).ok_or_else(nothing)?;
    let without = stats::median(&without).ok_or_else(nothing)?;
    let figures = [("beyond_ms", with - without), ("first_request_ms", with), ("mpi_ms", without)];
    Ok(figures.map(|(name, figure)| (name.to_owned(), figure)).into())
}

fn to_first_request(bench: &Bench, ranks: usize) -> Result<f64, Broken> {
    let mut servers = Servers::even(ranks, Lengths::Fixed(8));
    servers.instant = true;
    let servers = servers.start(bench)?;
    let folder = tempfile::tempdir().map_err(Broken::at("a folder for the run"))?;
    let (input, answers) = (folder.path().join("input.jsonl"), folder.path().join("answers.jsonl"));
    let prompts: Vec<Prompt> =
        (0..PROMPTS * ranks).map(|at| Prompt::plain(text(at as u64, 20))).collect();
    work::write(&prompts, &input).map_err(Broken::at("writing the input"))?;
    let urls: Vec<&str> = servers.urls.iter().map(String::as_str).collect();
    let ran = Start {
        command: "run",
        folder: folder.path(),
        input: &input,
        answers: &answers,
        urls: &urls,
        arguments: &owned(ALWAYS),
        // Nothing between the launcher and its ranks: a further process would be measured too.
        launch: Launch::Unwatched(ranks),
        deadline: Duration::from_secs(120),
    }
    .run(bench, || ())?;
    let seen = servers.finish()?;
    let served: u64 = seen.iter().map(|s| s.served).sum();
    if served < prompts.len() as u64 {
        return Err(Broken(format!("{served} of {} prompts were served", prompts.len())));
    }
    Ok(first_request(&seen) - ran.began)
}
