//! The record of a session, which the manifest keeps for each one.
//!
//! A session that was killed has its latest progress and no end. Records are added and closed in `output/manifest.rs`.

use serde::{Deserialize, Serialize};

use super::counts::{LostRank, PromptCounts};
use crate::domain::Tally;

/// Record of one session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct StartRecord {
    /// Number of the session, from 1.
    pub start: u32,
    /// Start, in seconds since 1970.
    pub began: u64,
    /// Orderly end, in seconds since 1970; `None` if the session was killed or is active.
    pub ended: Option<u64>,
    /// Seconds that it worked; of a killed session, until its latest progress.
    pub seconds: f64,
    /// Seconds of these in which it waited for servers.
    #[serde(default)]
    pub waited: f64,
    pub ranks: usize,
    pub host: String,
    pub job: Option<String>,
    /// Counts of the run before the session.
    pub before: PromptCounts,
    /// Work of the session itself; of a killed session, until its latest progress.
    pub did: Tally,
    /// Ranks that were lost before it ended.
    pub lost: Vec<LostRank>,
    /// True if every prompt had its outcome when the session ended.
    pub finished: bool,
}
