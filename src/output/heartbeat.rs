//! Who is at work on a run, and at what: `RUN/heartbeat.json`, replaced every few seconds for as long as somebody is.
//!
//! A file of its own, and not a line of the manifest: a long step (reading a long input over, gathering) keeps the
//! manifest's writer busy, and the sign of life must go on meanwhile; two writers of one file would undo each other. It is
//! there before a run's first manifest, and gone once nobody works. It holds nothing that is needed afterwards, so it is
//! never waited for to be on the disk.

use std::{fmt, path::Path};

use serde::{Deserialize, Serialize};

use super::{
    OutputError,
    atomic_file::{part_path, replace_without_sync},
    unix_seconds,
};

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Where rank 0 runs.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// The batch job it belongs to.
    pub job: Option<String>,
    /// Which start of the run.
    pub start: u32,
    /// When that start began, in seconds since 1970.
    pub began: u64,
    /// What it does.
    pub doing: RunActivity,
    /// When this was written, in seconds since 1970.
    pub beat: u64,
}

/// The steps of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunActivity {
    /// The input is read over.
    ReadingInput,
    /// The shard files of earlier starts are read.
    ReadingAnswers,
    /// Servers are not ready yet.
    AwaitingEndpoints,
    /// Prompts are asked.
    Asking,
    /// Answers are put together.
    Gathering,
}

impl fmt::Display for RunActivity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadingInput => "reading the input over",
            Self::ReadingAnswers => "reading what is done",
            Self::AwaitingEndpoints => "waiting for endpoints",
            Self::Asking => "asking",
            Self::Gathering => "gathering the answers",
        })
    }
}

impl Heartbeat {
    /// The run folder's; none where it is not there, or cannot be read as one.
    #[must_use]
    pub fn read(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(folder.join(Self::FILE_NAME)).ok()?).ok()
    }

    /// Replaces the run folder's, as of now.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&mut self, folder: &Path) -> Result<(), OutputError> {
        self.beat = unix_seconds();
        let mut text = serde_json::to_vec(self).unwrap_or_default();
        text.push(b'\n');
        replace_without_sync(&folder.join(Self::FILE_NAME), &text)
    }

    /// Takes it away: nobody is at work any more.
    pub fn remove_from(folder: &Path) {
        let place = folder.join(Self::FILE_NAME);
        let _ = std::fs::remove_file(part_path(&place));
        let _ = std::fs::remove_file(place);
    }

    /// Seconds since it was written; none for a clock that is ahead of ours.
    #[must_use]
    pub fn age_s(&self) -> u64 {
        unix_seconds().saturating_sub(self.beat)
    }

    /// Its name in the run folder.
    pub const FILE_NAME: &str = "heartbeat.json";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_was_written_until_it_is_taken_away() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(Heartbeat::read(folder.path()), None);
        let mut beat = Heartbeat {
            host: "n1".into(),
            pid: 7,
            job: Some("12.pbs".into()),
            start: 2,
            began: 5,
            doing: RunActivity::ReadingAnswers,
            beat: 0,
        };
        beat.write(folder.path()).expect("written");
        assert_eq!(Heartbeat::read(folder.path()), Some(beat.clone()));
        assert!(beat.age_s() < 60);
        std::fs::write(folder.path().join(Heartbeat::FILE_NAME), "{\"host\":").expect("torn");
        assert_eq!(Heartbeat::read(folder.path()), None);
        Heartbeat::remove_from(folder.path());
        assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 0);
    }
}
