//! What a run leaves behind: the gathered file and its formats, and the manifest.
//!
//! Owns how answers look in a file and how a file comes to be: written beside and renamed into place, so that it is absent
//! or whole. Knows nothing of ranks or of where answers come from.

mod atomic_file;
mod format;
mod heartbeat;
mod history;
mod json_lines_log;
mod manifest;
mod samples;
mod timelines;

pub use atomic_file::{
    AtomicFile, OutputFile, answers_sibling_path, part_path, replace_file, write_json, write_text,
};
pub use format::AnswerFormat;
pub use heartbeat::{Heartbeat, RunActivity};
pub use history::StartRecord;
pub use manifest::{
    InputChange, LostRank, Manifest, PromptCounts, ReduceProgress, RunChange, RunPhase, RunState,
    unix_seconds,
};
pub use samples::{RecentThroughput, RunSample, append_sample, read_samples};
pub use timelines::{StartTimeline, append_timeline, read_timelines};

use std::path::{Path, PathBuf};

/// What goes wrong with a run's files.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The system refuses.
    #[error("{what} {}: {error}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The manifest is not one, or is of a later version.
    #[error("{} cannot be read as a manifest of this version: {detail}", path.display())]
    Manifest {
        /// Which.
        path: PathBuf,
        /// Why.
        detail: String,
    },
}

impl OutputError {
    pub(crate) fn io_error(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { what, path, error }
    }
}
