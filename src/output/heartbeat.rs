//! Liveness of a run: `RUN/heartbeat.json`, replaced every five seconds while a session is active.
//!
//! It is a file of its own, not a field of the manifest: a long step (scanning a long input, gathering) keeps the manifest's
//! writer busy while the heartbeat must go on, and two writers of one file would overwrite each other. It exists before the
//! first manifest and is removed when the session ends. Nothing in it is needed afterwards, so it is not synced to disk.
//! The thread that writes it is in `job/root/heartbeat.rs`.

use std::{
    fmt,
    io::{self, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{
    OutputError,
    atomic_file::{part_path, replace_without_sync},
    unix_seconds,
};
use crate::new_file::open_exclusively;

/// Content of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    pub host: String,
    /// Process id of rank 0.
    pub pid: u32,
    pub job: Option<String>,
    pub start: u32,
    /// Start of the session, in seconds since 1970.
    pub began: u64,
    /// Current step of the session.
    pub doing: RunActivity,
    /// Time of writing, in seconds since 1970.
    pub beat: u64,
}

/// Steps of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunActivity {
    ReadingInput,
    /// The shard files of earlier sessions are read.
    ReadingAnswers,
    /// The session waits for servers to become ready.
    AwaitingEndpoints,
    Asking,
    Gathering,
}

impl fmt::Display for RunActivity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadingInput => "scanning the input",
            Self::ReadingAnswers => "loading earlier answers",
            Self::AwaitingEndpoints => "waiting for servers",
            Self::Asking => "sending prompts",
            Self::Gathering => "gathering answers",
        })
    }
}

impl Heartbeat {
    /// Reads the heartbeat of a run folder; `None` if there is none or it is not valid.
    #[must_use]
    pub fn read_from(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(folder.join(Self::FILE_NAME)).ok()?).ok()
    }

    /// Creates the heartbeat of a run folder that has none, with the current time. Of several processes one succeeds.
    ///
    /// # Errors
    /// `AlreadyExists` if there is one, or the file cannot be written; it is removed again then.
    pub fn create_in(&mut self, folder: &Path) -> io::Result<()> {
        let path = folder.join(Self::FILE_NAME);
        let mut file = open_exclusively(&path)?;
        self.beat = unix_seconds();
        file.write_all(&self.to_line()).inspect_err(|_| _ = std::fs::remove_file(&path))
    }

    fn to_line(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec(self).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// Returns whether both are of the same session.
    #[must_use]
    pub fn is_same_session(&self, other: &Self) -> bool {
        let session = |it: &Self| (it.host.clone(), it.pid, it.began);
        session(self) == session(other)
    }

    /// Replaces the heartbeat of a run folder, with the current time.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn write_to(&mut self, folder: &Path) -> Result<(), OutputError> {
        self.beat = unix_seconds();
        replace_without_sync(&folder.join(Self::FILE_NAME), &self.to_line())
    }

    /// Removes the heartbeat of a run folder at the end of a session.
    pub fn remove_from(folder: &Path) {
        let path = folder.join(Self::FILE_NAME);
        let _ = std::fs::remove_file(part_path(&path));
        let _ = std::fs::remove_file(path);
    }

    /// Returns its age in seconds, by the clocks of its writer and of this host. A time ahead of ours counts like one as
    /// far behind: it says as little.
    #[must_use]
    pub fn age_s(&self) -> u64 {
        unix_seconds().abs_diff(self.beat)
    }

    /// Name of the file in the run folder.
    pub const FILE_NAME: &str = "heartbeat.json";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_read_as_written_until_it_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(Heartbeat::read_from(folder.path()), None);
        let mut beat = Heartbeat {
            host: "n1".into(),
            pid: 7,
            job: Some("12.pbs".into()),
            start: 2,
            began: 5,
            doing: RunActivity::ReadingAnswers,
            beat: 0,
        };
        beat.write_to(folder.path()).expect("written");
        assert_eq!(Heartbeat::read_from(folder.path()), Some(beat.clone()));
        assert!(beat.age_s() < 60);
        std::fs::write(folder.path().join(Heartbeat::FILE_NAME), "{\"host\":").expect("torn");
        assert_eq!(Heartbeat::read_from(folder.path()), None);
        Heartbeat::remove_from(folder.path());
        assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 0);
    }
}
