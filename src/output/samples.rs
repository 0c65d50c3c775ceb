//! Throughput over time: `RUN/samples.jsonl`, a line every few seconds, appended by rank 0 while the work goes on.

use std::{fs::OpenOptions, io::Write, path::Path};

use serde::Serialize;

use super::OutputError;

/// How things stood at a moment. Counts of prompts are the whole run's, tokens and requests this start's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// Which start of the run.
    pub start: u32,
    /// Since that start began.
    pub seconds: f64,
    /// Prompts answered.
    pub answered: u64,
    /// Prompts failed.
    pub failed: u64,
    /// Tokens read.
    pub prompt_tokens: u64,
    /// Tokens made.
    pub completion_tokens: u64,
    /// HTTP requests.
    pub requests: u64,
    /// Sequences in flight.
    pub in_flight: u64,
    /// Endpoints that answer.
    pub endpoints_up: u64,
    /// Ranks that are taken to be lost.
    pub ranks_lost: u64,
}

/// Appends it.
///
/// # Errors
/// Where it cannot be written.
pub fn write_sample(folder: &Path, sample: &Sample) -> Result<(), OutputError> {
    let path = folder.join("samples.jsonl");
    let io = || OutputError::io("cannot write", &path);
    let mut line = serde_json::to_vec(sample).unwrap_or_default();
    line.push(b'\n');
    let mut file = OpenOptions::new().append(true).create(true).open(&path).map_err(io())?;
    let before = file.metadata().map_err(io())?.len();
    file.write_all(&line).map_err(|error| {
        // The next line must not stand behind half of this one.
        let _ = file.set_len(before);
        io()(error)
    })
}
