//! The history of a run: a record of each of its starts, kept in the manifest.
//!
//! Owns what is known of a start that was killed: what was noted last, and no end.

use serde::{Deserialize, Serialize};

use super::{LostRank, Manifest, PromptCounts, RunState, unix_seconds};
use crate::domain::Tally;

/// One start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StartRecord {
    /// Its number, from 1.
    pub start: u32,
    /// When it began its work folder, in seconds since 1970.
    pub began: u64,
    /// When it ended in order; none where it was killed, or is at work.
    pub ended: Option<u64>,
    /// How long it worked, or had worked when that was noted last.
    pub seconds: f64,
    /// How many ranks it had.
    pub ranks: usize,
    /// Where its rank 0 ran.
    pub host: String,
    /// The batch job it belonged to.
    pub job: Option<String>,
    /// How the run stood before it.
    pub before: PromptCounts,
    /// What it did itself; of a start that was killed, as far as that was noted.
    pub did: Tally,
    /// Its ranks that were not there at its end.
    pub lost: Vec<LostRank>,
    /// Everything had its outcome when it ended.
    pub finished: bool,
}

impl Manifest {
    /// A start begins, as this manifest has it.
    pub fn record_start(&mut self) {
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

    /// So much was done before the last start.
    pub fn set_start_counts(&mut self, counts: &PromptCounts) {
        self.counts = counts.clone();
        if let Some(last) = self.history.last_mut() {
            last.before = counts.clone();
        }
    }

    /// The last start has done so much so far.
    pub fn record_progress(&mut self, tally: &Tally, seconds: f64) {
        if let Some(last) = self.history.last_mut() {
            (last.did, last.seconds) = (tally.clone(), seconds);
        }
    }

    /// Before it is written: an end is the end of the start that this process is.
    pub(super) fn close_last_start(&mut self) {
        let (lost, state) = (self.lost.clone(), self.state);
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
    fn a_start_that_was_killed_has_no_end_and_what_was_noted_last() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut manifest = Manifest::begin("answers.jsonl", 10, "abc");
        (manifest.starts, manifest.pid) = (1, std::process::id());
        manifest.record_start();
        let did = Tally { answered: 4, ..Tally::default() };
        manifest.record_progress(&did, 2.5);
        manifest.write(folder.path()).expect("written");
        // killed
        let mut manifest = Manifest::read(folder.path()).expect("read").expect("there");
        (manifest.starts, manifest.state) = (2, RunState::Running);
        manifest.record_start();
        manifest.set_start_counts(&PromptCounts::new(10, 5, 0));
        manifest.record_progress(&Tally { answered: 5, ..Tally::default() }, 1.0);
        manifest.state = RunState::Finished;
        manifest.write(folder.path()).expect("written");
        let [first, second] = &manifest.history[..] else { panic!("{:?}", manifest.history) };
        assert_eq!((first.ended, first.seconds, &first.did), (None, 2.5, &did));
        assert!(second.ended.is_some() && second.finished && !first.finished);
        assert_eq!((second.before.answered, second.did.answered), (5, 5));
        // Who only looks, or merges, ends nothing.
        let mut other = Manifest::read(folder.path()).expect("read").expect("there");
        (other.pid, other.state) = (0, RunState::Stopped);
        other.write(folder.path()).expect("written");
        assert!(other.history[1].finished);
    }
}
