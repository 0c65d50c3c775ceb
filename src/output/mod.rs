//! Files of a run except its shards: the gathered answers in their formats, the manifest, the heartbeat, samples and
//! timelines.
//!
//! Owns the formats and the atomic replacement: a file is written beside its destination and renamed, so that it is absent
//! or complete. Knows nothing of ranks. Shard files are in [`shards`](crate::shards), the report in
//! [`report`](crate::report), and the gathering itself in `job/collect`.

mod atomic_file;
mod counts;
mod delimited;
mod format;
mod heartbeat;
mod history;
mod json_lines_log;
mod manifest;
mod openai_batch;
mod output_file;
mod samples;
mod timelines;

pub(crate) use atomic_file::{
    AtomicFile, answers_sibling_path, part_path, partial_answers_path, replace_file, replaced_path,
    write_json, write_text,
};
pub(crate) use counts::{LostRank, PromptCounts};
pub(crate) use format::AnswerFormat;
pub(crate) use heartbeat::{Heartbeat, RunActivity};
pub(crate) use history::StartRecord;
pub(crate) use manifest::{
    InputChange, Manifest, ReduceProgress, RunChange, RunPhase, RunState, TreeLoss, unix_seconds,
};
pub(crate) use openai_batch::RunIdentity;
pub(crate) use output_file::OutputFile;
pub(crate) use samples::{RecentThroughput, RunSample, append_sample, read_samples};
pub(crate) use timelines::{StartTimeline, append_timeline, read_timelines};

use std::path::{Path, PathBuf};

/// Errors of reading and writing a run's files.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// An operation on a file failed.
    #[error("{what} {}: {error}", path.display())]
    Io {
        /// Operation, such as "cannot write".
        what: &'static str,
        path: PathBuf,
        /// Error of the operating system.
        error: std::io::Error,
    },
    /// An answer cannot be written in the output's format.
    #[error(
        "cannot write the answer of prompt {index}, a line of shard file {shard_file}, to {}: {error}\nhint: damage of \
         the run folder is found by `aurora-swarm status --verify`", path.display()
    )]
    Answer { index: u64, shard_file: String, path: PathBuf, error: std::io::Error },
    /// The manifest is damaged or of a newer version.
    #[error("{} is not a valid manifest: {detail}", path.display())]
    Manifest { path: PathBuf, detail: String },
}

impl OutputError {
    /// Returns whether the same operation would fail again until files or permissions are changed.
    pub(crate) fn is_lasting(&self) -> bool {
        use std::io::ErrorKind::{
            InvalidFilename, IsADirectory, NotADirectory, PermissionDenied, ReadOnlyFilesystem,
        };
        match self {
            Self::Io { error, .. } => matches!(
                error.kind(),
                InvalidFilename
                    | IsADirectory
                    | NotADirectory
                    | PermissionDenied
                    | ReadOnlyFilesystem
            ),
            Self::Answer { .. } | Self::Manifest { .. } => true,
        }
    }

    /// Names the line that cannot be converted, if that is the error: its prompt and its shard file.
    pub(crate) fn naming_answer(self, index: u64, shard_file: impl FnOnce() -> String) -> Self {
        match self {
            Self::Io { path, error, .. } if error.kind() == std::io::ErrorKind::InvalidData => {
                Self::Answer { index, shard_file: shard_file(), path, error }
            }
            other => other,
        }
    }

    pub(crate) fn io_error(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { what, path, error }
    }
}
