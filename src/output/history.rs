//! The history of a run: a record of each session, kept in the manifest.
//!
//! Owns what is recorded of a session that was killed: its latest progress, and no end.

use serde::{Deserialize, Serialize};

use super::{LostRank, Manifest, PromptCounts, RunState, unix_seconds};
use crate::domain::Tally;

/// Record of one session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StartRecord {
    /// Number of the session, from 1.
    pub start: u32,
    /// Start, in seconds since 1970.
    pub began: u64,
    /// Orderly end, in seconds since 1970; `None` if the session was killed or is active.
    pub ended: Option<u64>,
    /// Seconds that it worked; of a killed session, until its latest progress.
    pub seconds: f64,
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

impl Manifest {
    /// Adds the record of the session that this manifest describes.
    pub fn record_start(&mut self) {
        // A session that was killed before its first manifest may have left a record under the same number.
        self.history.retain(|it| it.start < self.starts);
        self.history.push(StartRecord {
            start: self.starts,
            began: self.began,
            ranks: self.ranks,
            host: self.host.clone(),
            job: self.job.clone(),
            before: self.counts.clone(),
            ..StartRecord::default()
        });
    }

    /// Sets the counts of the run before the latest session.
    pub fn set_start_counts(&mut self, counts: &PromptCounts) {
        self.counts = counts.clone();
        if let Some(last) = self.history.last_mut() {
            last.before = counts.clone();
        }
    }

    /// Updates the work of the latest session.
    pub fn record_progress(&mut self, tally: &Tally, seconds: f64) {
        if let Some(last) = self.history.last_mut() {
            (last.did, last.seconds) = (tally.clone(), seconds);
        }
    }

    /// Records the end of the latest session before the manifest is written, if that session is this process.
    pub(super) fn close_last_start(&mut self) {
        let (lost, state) = (self.lost.clone(), self.state);
        // `merge` and `report` also write manifests; they must not close a session that they have not run.
        let ours = self.pid == std::process::id();
        if let Some(last) = self.history.last_mut().filter(|it| ours && it.start == self.starts) {
            last.lost = lost;
            last.ended = (state != RunState::Running).then(unix_seconds);
            last.finished = state == RunState::Finished;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_killed_session_has_no_end_and_keeps_its_latest_progress() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut manifest = Manifest::for_new_run("answers.jsonl", 10, "abc");
        (manifest.starts, manifest.pid) = (1, std::process::id());
        manifest.record_start();
        let did = Tally { answered: 4, ..Tally::default() };
        manifest.record_progress(&did, 2.5);
        manifest.write_to(folder.path()).expect("written");
        // killed
        let mut manifest = Manifest::read_from(folder.path()).expect("read").expect("there");
        (manifest.starts, manifest.state) = (2, RunState::Running);
        manifest.record_start();
        manifest.set_start_counts(&PromptCounts::new(10, 5, 0));
        manifest.record_progress(&Tally { answered: 5, ..Tally::default() }, 1.0);
        manifest.state = RunState::Finished;
        manifest.write_to(folder.path()).expect("written");
        let [first, second] = &manifest.history[..] else { panic!("{:?}", manifest.history) };
        assert_eq!((first.ended, first.seconds, &first.did), (None, 2.5, &did));
        assert!(second.ended.is_some() && second.finished && !first.finished);
        assert_eq!((second.before.answered, second.did.answered), (5, 5));
        // Who only looks, or merges, ends nothing.
        let mut other = Manifest::read_from(folder.path()).expect("read").expect("there");
        (other.pid, other.state) = (0, RunState::Stopped);
        other.write_to(folder.path()).expect("written");
        assert!(other.history[1].finished);
    }
}
