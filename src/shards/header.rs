//! The header of a shard file and its name: the run, session and rank that the file belongs to.

use serde::{Deserialize, Serialize};

/// Version that this build writes, and the only one it reads.
const FORMAT_VERSION: u32 = 1;

/// First line of a shard file: the run, session and rank it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShardHeader {
    /// Format version of the file.
    pub aurora_swarm_shard: u32,
    /// Session of the run, from 1.
    pub start: u32,
    /// Rank that writes the file.
    pub rank: usize,
    /// Host name of that rank.
    pub host: String,
    /// Fingerprint of the input, by which files of another run are recognized.
    pub fingerprint: String,
}

impl ShardHeader {
    /// Creates a header with this build's format version.
    #[must_use]
    pub(crate) fn new(start: u32, rank: usize, host: &str, fingerprint: &str) -> Self {
        Self {
            aurora_swarm_shard: FORMAT_VERSION,
            start,
            rank,
            host: host.into(),
            fingerprint: fingerprint.into(),
        }
    }

    /// Returns the name of the file with this header, `SSSS-RRRRR.jsonl`.
    #[must_use]
    pub(crate) fn file_name(&self) -> String {
        shard_file_name(self.start, self.rank)
    }

    /// Returns whether the file has this build's format and belongs to the run with this fingerprint.
    pub(super) fn belongs_to(&self, fingerprint: &str) -> bool {
        self.aurora_swarm_shard == FORMAT_VERSION && self.fingerprint == fingerprint
    }
}

pub(super) fn shard_file_name(start: u32, rank: usize) -> String {
    format!("{start:04}-{rank:05}.jsonl")
}

/// Parses the session and rank from the name of a shard file; `None` for the name of any other file.
pub(super) fn parse_file_name(name: &str) -> Option<(u32, u32)> {
    let (start, rank) = name.strip_suffix(".jsonl")?.split_once('-')?;
    Some((start.parse().ok()?, rank.parse().ok()?))
}
