//! Shard files: the journal and the result in one.
//!
//! # The format, version 1
//!
//! `RUN/shards/SSSS-RRRRR.jsonl`: session SSSS of the run (from 1), rank RRRRR. JSON lines, append-only. The files of a
//! session with more than a thousand ranks are in folders of a thousand each: `RUN/shards/SSSS-BBB/SSSS-RRRRR.jsonl`.
//!
//! * The first line is the header: `{"aurora_swarm_shard": 1, "start": S, "rank": R, "host": …, "fingerprint": …}`.
//! * Every other line is an answer exactly as in the gathered output (`answer_line.rs`), ended by a newline.
//!
//! The outcomes of a batch are one `write` of whole lines to a file opened for appending, so a process that is killed
//! loses at most what was in flight: the page cache is the kernel's, not the process's. `fdatasync` every 15 to 30 s is
//! for nodes that die. A torn last line is normal: a line counts if its newline is there and it is JSON.
//!
//! A prompt may have lines in several files (a hedged request, a retry). One rule decides everywhere which of them
//! counts ([`LinePrecedence`]): success beats failure and a whole answer beats a flawed one, then the lowest (session,
//! rank), then the first in its file. Of several cut answers the latest session's counts.
//!
//! `served.row` tells which row a line answers whatever its index: 16 hex digits ([`RowHash`](crate::domain::RowHash)).
//! Answers are migrated by it (`migrate.rs`) when the input has changed.
//!
//! Owns the bytes in the run folder's `shards`, the checkpoint of a run. Knows nothing of MPI or servers; answers are
//! collected and put in input order in `job/collect`, and the output file and the manifest are written in `output/`.

mod answer_line;
mod error;
mod file_cache;
mod header;
mod layout;
mod line_grade;
mod line_key;
mod line_location;
mod migrate;
mod passed_fields;
mod reader;
mod storage;
mod writer;

pub(crate) use answer_line::{AnswerLineStyle, write_answer_line};
pub(crate) use error::ShardError;
pub(crate) use file_cache::FileCache;
pub(crate) use header::ShardHeader;
pub(crate) use layout::{rank_folder, rank_folders};
pub(crate) use line_grade::{LineGrade, LinePrecedence};
pub(crate) use line_location::LineLocation;
pub(crate) use migrate::{MigratedFile, read_answers, read_fingerprint};
pub use reader::list_shard_files;
#[cfg(test)]
pub(crate) use reader::read_entries;
pub(crate) use reader::{LineEntry, ShardFile, read_all_entries};
pub(crate) use writer::ShardWriter;
