//! One run of the product: its command line, alone or on ranks, its log, and what it has cost.
//!
//! It owns how the product is started and what its log says; what it is given to do, and whether it did it, is the
//! cases' part.

use crate::child::{self, Ended};
use crate::launch;
use crate::scenario::{Bench, Broken, Figures};
use crate::watch::{self, Usage};
use serde_json::Value;
use std::fs::{File, read_to_string};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How the product is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launch {
    /// As one process without MPI, watched.
    Alone,
    /// By mpiexec on so many ranks, each of them watched.
    Watched(usize),
    /// By mpiexec, and nothing is known of what the ranks have cost.
    Unwatched(usize),
}

/// A start, described.
pub struct Start<'a> {
    /// What it is to do: `run`, or another command that takes the same.
    pub command: &'static str,
    /// For the log and the like; its owner removes it.
    pub folder: &'a Path,
    pub input: &'a Path,
    pub answers: &'a Path,
    pub urls: &'a [&'a str],
    pub arguments: &'a [String],
    pub launch: Launch,
    /// The run is killed after so long.
    pub deadline: Duration,
}

/// A run that ended well.
pub struct Ran {
    /// When it was started, in seconds since 1970.
    pub began: f64,
    /// How it, or its launcher, ended. (What that has cost is not what the product has.)
    pub ended: Ended,
    /// What each rank has cost, where they were watched.
    pub ranks: Vec<Usage>,
    log: String,
}

impl Start<'_> {
    /// The run; `tick` is called about every second meanwhile.
    pub fn run(&self, bench: &Bench, tick: impl FnMut()) -> Result<Ran, Broken> {
        let mut command = self.command(bench);
        let log = self.folder.join("log.txt");
        let file = File::create(&log).map_err(Broken::at("the log"))?;
        // One file with one end for both streams, or one would be written over the other.
        command.stdout(file.try_clone().map_err(Broken::at("the log"))?).stderr(file);
        let began = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
        let ended = child::run(&mut command, self.deadline, Duration::from_secs(1), tick)
            .map_err(Broken::at("aurora-swarm cannot be started"))?;
        let log = read_to_string(&log).unwrap_or_default();
        if ended.late {
            let after = self.deadline;
            return Err(Broken(format!("killed after {after:.0?}{}", last_words(&log))));
        }
        if ended.code != Some(0) {
            return Err(Broken(format!("exit code {:?}{}", ended.code, last_words(&log))));
        }
        let ranks = match self.launch {
            Launch::Alone => watch::read(self.folder, 1)?,
            Launch::Watched(ranks) => watch::read(self.folder, ranks)?,
            Launch::Unwatched(_) => Vec::new(),
        };
        Ok(Ran { began, ended, ranks, log })
    }

    fn command(&self, bench: &Bench) -> Command {
        let product = bench.programs.join("aurora-swarm");
        let bench_itself = bench.own.join("bench");
        let mut command = match self.launch {
            Launch::Alone => launch::alone(&bench_itself),
            Launch::Watched(ranks) => launch::on_ranks(ranks, &bench_itself),
            Launch::Unwatched(ranks) => launch::on_ranks(ranks, &product),
        };
        if !matches!(self.launch, Launch::Unwatched(_)) {
            command.arg(watch::NAME).arg(self.folder).arg(&product);
        }
        command
            .arg(self.command)
            .arg(self.input)
            .arg("--output")
            .arg(self.answers)
            .args(self.arguments);
        command.args(self.urls.iter().flat_map(|url| ["--endpoint", url]));
        command
    }
}

impl Ran {
    #[cfg(test)]
    pub fn of(ended: Ended, log: &str, ranks: Vec<Usage>) -> Self {
        Self { began: 0.0, ended, ranks, log: log.to_owned() }
    }

    /// What the ranks have cost, where that is known: `cpu_s` of all, `peak_rss_mb` of the largest, `rank0_rss_mb`,
    /// `others_rss_mb` of the largest other.
    pub fn costs(&self) -> Figures {
        let Some((root, others)) = self.ranks.split_first() else { return Figures::new() };
        let others = others.iter().map(|rank| rank.peak_rss_mb).reduce(f64::max);
        let costs = [
            ("cpu_s", Some(self.ranks.iter().map(|rank| rank.cpu_s).sum())),
            ("peak_rss_mb", Some(root.peak_rss_mb.max(others.unwrap_or_default()))),
            ("rank0_rss_mb", Some(root.peak_rss_mb)),
            ("others_rss_mb", others),
        ];
        costs.into_iter().filter_map(|(name, figure)| Some((name.to_owned(), figure?))).collect()
    }

    /// How long the run's stations took, as far as its log (`--log-format json`) says: `scan_s`, `read_s` (of
    /// what is there already), `gather_s`, and `scatter_s` from the event `run_started` to the first request.
    pub fn stations(&self, first_request: f64) -> Figures {
        let said = |event: &str| {
            let lines = self.log.lines().filter_map(|line| serde_json::from_str(line).ok());
            lines.into_iter().find(|line: &Value| line["event"] == event)
        };
        let begins = said("run_started").and_then(|line| time(line["time"].as_str()?));
        let seconds = |event| said(event).and_then(|line| line["elapsed_s"].as_f64());
        let stations = [
            ("scan_s", seconds("input_scanned")),
            ("read_s", seconds("earlier_answers_loaded")),
            ("scatter_s", begins.map(|begins| first_request - begins)),
            ("gather_s", seconds("output_written")),
        ];
        let known = stations.into_iter().filter_map(|(name, s)| Some((name.to_owned(), s?)));
        known.collect()
    }
}

/// Seconds since 1970 of a time as logs have it.
fn time(text: &str) -> Option<f64> {
    let time = humantime::parse_rfc3339(text).ok()?;
    time.duration_since(UNIX_EPOCH).ok().map(|d| d.as_secs_f64())
}

/// The end of a log, for who has to find out what went wrong.
fn last_words(log: &str) -> String {
    let lines: Vec<&str> = log.lines().rev().take(12).collect();
    lines.into_iter().rev().map(|line| format!("\n      {line}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(log: &str, ranks: Vec<Usage>) -> Ran {
        let ended = Ended {
            code: Some(0),
            cpu: Duration::ZERO,
            peak_rss_bytes: 0,
            wall: Duration::from_secs(3),
            late: false,
        };
        Ran::of(ended, log, ranks)
    }

    #[test]
    fn stations_are_read_from_a_log_with_other_things_in_it() {
        let log = "a table\n\
            {\"time\":\"1970-01-01T00:00:01.500Z\",\"event\":\"run_started\"}\n\
            {\"event\":\"output_written\",\"elapsed_s\":0.25}\n";
        let stations = ran(log, Vec::new()).stations(1.75);
        assert_eq!(stations.get("gather_s"), Some(&0.25));
        assert_eq!(stations.get("scatter_s"), Some(&0.25));
        assert_eq!(stations.get("scan_s"), None);
    }

    #[test]
    fn costs_are_all_ranks_and_memory_is_told_apart() {
        let rank = |peak_rss_mb| Usage { cpu_s: 0.5, peak_rss_mb };
        let costs = ran("", vec![rank(100.0), rank(30.0), rank(40.0)]).costs();
        assert_eq!((costs["cpu_s"], costs["rank0_rss_mb"]), (1.5, 100.0));
        assert_eq!((costs["others_rss_mb"], costs["peak_rss_mb"]), (40.0, 100.0));
        assert!(ran("", Vec::new()).costs().is_empty());
    }

    #[test]
    fn the_last_words_are_the_last_lines() {
        let log: String = (0..20).map(|at| format!("line {at}\n")).collect();
        let words = last_words(&log);
        assert!(words.starts_with("\n      line 8\n") && words.ends_with("line 19"), "{words}");
    }
}
