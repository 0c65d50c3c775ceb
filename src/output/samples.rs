//! Samples of a run's progress: `RUN/samples.jsonl`, a line every few seconds, appended by rank 0 while prompts are sent.
//!
//! Also owns the throughput of the last minute that `status` shows. The finer timelines of all ranks, written at the end of a
//! session, are in `output/timelines.rs`.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{
    OutputError,
    json_lines_log::{append_json_line, read_json_lines},
};

/// Progress at one point in time. Counts of prompts are the whole run's; tokens and requests are this session's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunSample {
    pub start: u32,
    /// Seconds since the session started.
    pub seconds: f64,
    pub answered: u64,
    pub failed: u64,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    pub requests: u64,
    pub in_flight: u64,
    pub endpoints_up: u64,
    /// Ranks that count as lost.
    pub ranks_lost: u64,
}

/// Appends a sample to the file of a run folder.
///
/// # Errors
/// Fails if the file cannot be written.
pub(crate) fn append_sample(folder: &Path, sample: &RunSample) -> Result<(), OutputError> {
    append_json_line(&folder.join("samples.jsonl"), sample)
}

/// Reads all samples of a run in order; a missing file has none, and torn lines are skipped.
#[must_use]
pub(crate) fn read_samples(folder: &Path) -> Vec<RunSample> {
    read_json_lines(&folder.join("samples.jsonl"))
}

/// Throughput of the last minute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RecentThroughput {
    /// Outcomes per second.
    pub prompts_per_s: f64,
    pub tokens_per_s: f64,
    pub in_flight: u64,
    pub endpoints_up: u64,
}

impl RecentThroughput {
    /// Returns the throughput of this session from its latest samples; `None` with fewer than two.
    #[must_use]
    pub(crate) fn over_last_minute(folder: &Path, start: u32) -> Option<Self> {
        Self::from_samples(&read_last_samples(folder).ok()?, start)
    }

    fn from_samples(samples: &[RunSample], start: u32) -> Option<Self> {
        let last = samples.last().filter(|last| last.start == start)?;
        let recent =
            |it: &&RunSample| it.start == start && it.seconds >= last.seconds - THROUGHPUT_WINDOW_S;
        let first = samples.iter().find(recent)?;
        let done = |it: &RunSample| it.answered + it.failed;
        // Ranks report every few seconds. Samples between two reports show no progress, and would make the rate sink and leap.
        let latest_report = samples.iter().filter(recent).find(|it| done(it) == done(last))?;
        let end = if last.seconds - latest_report.seconds < STALL_TIMEOUT_S {
            latest_report
        } else {
            last
        };
        let seconds = end.seconds - first.seconds;
        let rate = |from: u64, to: u64| to.saturating_sub(from) as f64 / seconds;
        (seconds >= MIN_SPAN_S).then(|| Self {
            prompts_per_s: rate(done(first), done(end)),
            tokens_per_s: rate(first.completion_tokens, end.completion_tokens),
            in_flight: last.in_flight,
            endpoints_up: last.endpoints_up,
        })
    }
}

/// Seconds over which throughput is measured.
const THROUGHPUT_WINDOW_S: f64 = 60.0;
/// Seconds without an outcome after which the throughput falls to zero.
const STALL_TIMEOUT_S: f64 = 12.0;
/// Shortest span in seconds that gives a throughput.
const MIN_SPAN_S: f64 = 2.0;
/// Bytes at the end of the file that hold more samples than needed.
const TAIL_BYTES: u64 = 16 << 10;

/// Reads the latest samples in order, and skips torn lines.
fn read_last_samples(folder: &Path) -> std::io::Result<Vec<RunSample>> {
    let mut file = File::open(folder.join("samples.jsonl"))?;
    let from = file.metadata()?.len().saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut end = Vec::new();
    // The file grows while it is read; the limit keeps `status` cheap whatever a run writes meanwhile.
    file.take(2 * TAIL_BYTES).read_to_end(&mut end)?;
    Ok(end.split(|&byte| byte == b'\n').filter_map(|it| serde_json::from_slice(it).ok()).collect())
}

#[cfg(test)]
mod tests {
    use std::{fs::OpenOptions, io::Write};

    use super::*;

    fn run_sample(start: u32, seconds: f64, answered: u64) -> RunSample {
        RunSample {
            start,
            seconds,
            answered,
            failed: 1,
            prompt_tokens: 0,
            completion_tokens: 10 * answered,
            requests: 0,
            in_flight: 7,
            endpoints_up: 2,
            ranks_lost: 0,
        }
    }

    #[test]
    fn throughput_is_of_this_session_and_the_last_minute() {
        let all = [
            run_sample(1, 50.0, 900),
            run_sample(2, 0.0, 900),
            run_sample(2, 100.0, 1000),
            run_sample(2, 130.0, 1030),
            run_sample(2, 160.0, 1120),
        ];
        let pace = RecentThroughput::from_samples(&all, 2).expect("a pace");
        assert_eq!((pace.prompts_per_s, pace.tokens_per_s), (2.0, 20.0));
        assert_eq!((pace.in_flight, pace.endpoints_up), (7, 2));
        // What ranks report every five seconds is sampled every second: no pace sinks between.
        let halting: Vec<RunSample> =
            (0..=60).map(|at: u64| run_sample(1, at as f64, at / 5 * 10)).collect();
        for until in 6..60 {
            let pace = RecentThroughput::from_samples(&halting[..until], 1).expect("a pace");
            assert_eq!(pace.prompts_per_s, 2.0, "at {until}");
        }
        let mut dead = halting;
        dead.extend((61..=140).map(|at: u64| run_sample(1, at as f64, 120)));
        assert_eq!(RecentThroughput::from_samples(&dead, 1).map(|it| it.prompts_per_s), Some(0.0));
        assert_eq!(RecentThroughput::from_samples(&all, 3), None, "nothing of this start yet");
        assert_eq!(RecentThroughput::from_samples(&all[..2], 2), None, "once is no pace");
        assert_eq!(RecentThroughput::from_samples(&[], 1), None);
    }

    #[test]
    fn throughput_needs_only_the_end_of_a_long_file() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(RecentThroughput::over_last_minute(folder.path(), 1), None);
        for second in 0..1_000 {
            append_sample(folder.path(), &run_sample(1, f64::from(second), 3 * second as u64))
                .expect("written");
        }
        let torn = b"{\"start\":1,\"seco";
        let mut file = OpenOptions::new().append(true).open(folder.path().join("samples.jsonl"));
        file.as_mut().expect("there").write_all(torn).expect("written");
        let pace = RecentThroughput::over_last_minute(folder.path(), 1).expect("a pace");
        assert_eq!(pace.prompts_per_s, 3.0);
    }
}
