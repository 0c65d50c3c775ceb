//! Shard files: the journal and the result in one.
//!
//! # The format, version 1
//!
//! `RUN/shards/SSSS-RRRRR.jsonl`: start SSSS of the run (from 1), rank RRRRR. JSON, a line each, appended only. The files of a
//! start with more than a thousand ranks lie in folders below it, a thousand each: `RUN/shards/SSSS-BBB/SSSS-RRRRR.jsonl`.
//!
//! * The first line is the header: `{"aurora_swarm_shard": 1, "start": S, "rank": R, "host": …, "fingerprint": …}`.
//! * Every other line is an answer as it stands in the gathered output (`line.rs`), newline at its end.
//!
//! A batch's outcomes are one `write` of whole lines to a file opened for appending, so a process that is killed loses at
//! most what was in flight: the page cache is the kernel's, not the process's. `fdatasync` every 15 to 30 s is for nodes
//! that die. A torn last line is normal: a line counts when its newline is there and it is JSON.
//!
//! A prompt may stand in more than one file (a copy, a retry). One rule everywhere ([`Rank`]): success beats failure, then
//! the lowest (start, rank), then what stands first.
//!
//! `served.row` says which row a line answers whatever its index: 16 hex digits ([`RowHash`](crate::domain::RowHash)). By it
//! answers are carried over (`carried.rs`) when the input has changed.
//!
//! Owns bytes in the run folder's `shards`; knows nothing of MPI, servers, or how answers are put in order.

mod answer_line;
mod file_cache;
mod index_set;
mod layout;
mod line_location;
mod migrate;
mod reader;
mod storage;
mod writer;

pub use answer_line::{AnswerLineStyle, write_answer_line};
pub use file_cache::FileCache;
pub use index_set::IndexSet;
pub use layout::{rank_folder, rank_folders};
pub use line_location::LineLocation;
pub use migrate::{MigratedFile, read_answers, read_fingerprint};
pub use reader::{
    LineEntry, LinePrecedence, ShardFile, ShardScanReport, list, read, read_all_entries,
};
pub use writer::{ShardHeader, ShardWriter};

use std::path::{Path, PathBuf};

/// What goes wrong with shard files.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}: {error}", path.display())]
pub struct ShardError {
    /// What was tried.
    pub what: &'static str,
    /// With which file.
    pub path: PathBuf,
    /// What the system says.
    pub error: std::io::Error,
}

impl ShardError {
    fn of(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self { what, path, error }
    }
}
