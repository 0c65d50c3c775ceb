//! The manifest: what a run is, and how it stands. `RUN/manifest.json`, written by rank 0, replaced whole.
//!
//! Its final counts are written last of all: whoever wants to know whether a run is done reads them, since a launcher's
//! exit code proves nothing. `submitted = answered + failed + open`, always.

use std::{collections::BTreeMap, path::Path, time::SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{AnswerFormat, OutputError, StartRecord, atomic_file::replace_file};
use crate::settings::SettingOrigin;

/// The format this build writes and reads.
const MANIFEST_VERSION: u32 = 1;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The format's version.
    pub version: u32,
    /// The program that wrote it.
    pub program: String,
    /// How the run stands.
    pub state: RunState,
    /// What became of its prompts so far; exact when the state is not `running`.
    pub counts: PromptCounts,
    /// The input: its files as they were given, and what they hold.
    pub input: Vec<String>,
    /// Of the input's bytes.
    pub fingerprint: String,
    /// Where the answers go.
    pub output: String,
    /// The answers' format.
    #[serde(default)]
    pub format: AnswerFormat,
    /// Rows of the input.
    pub rows: u64,
    /// What decides an answer; a run goes on only with the same, or where changes are accepted.
    pub deciding: BTreeMap<String, Value>,
    /// The model that was asked, once it was known.
    pub model: Option<String>,
    /// The route that texts took, once it was known.
    pub api: Option<String>,
    /// Every setting.
    pub settings: Value,
    /// Where each setting came from that is not a default.
    pub origins: BTreeMap<String, SettingOrigin>,
    /// The last start's number. A changed input takes one for the answers that are carried over to it.
    pub starts: u32,
    /// Ranks of the last start.
    pub ranks: usize,
    /// Where rank 0 of the last start runs.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// The batch job it belongs to.
    pub job: Option<String>,
    /// When the last start began, in seconds since 1970.
    pub began: u64,
    /// When rank 0 last wrote this, in seconds since 1970.
    #[serde(default)]
    pub written: u64,
    /// Working seconds of all starts that ended in order.
    pub seconds: f64,
    /// HTTP requests of all starts that ended in order.
    pub requests: u64,
    /// What this run is called apart from all others, also of the same output.
    #[serde(default = "new_id")]
    pub id: String,
    /// A folder of nodes (`{host}` and the like not filled in) that may hold answers which this run folder does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away: Option<String>,
    /// Ranks of the last start that were not there at its end.
    #[serde(default)]
    pub lost: Vec<LostRank>,
    /// What was changed and accepted since the run began, in order.
    #[serde(default)]
    pub changes: Vec<RunChange>,
    /// Each start; none of those before this was kept.
    #[serde(default)]
    pub history: Vec<StartRecord>,
    /// Files of aggregates beside the answers, by name, that starts of this run have made or begun to make.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aggregates: Vec<String>,
    /// Of a reduce: how the tree above these prompts stands, which are its leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reduce: Option<ReduceProgress>,
}

/// A change of the input or of settings that decide answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunChange {
    /// The start that it came with. Where the input has changed: the one that the carried answers are of, and no answers of
    /// earlier ones count.
    pub start: u32,
    /// Settings, each as a sentence.
    pub settings: Vec<String>,
    /// The input, where it has changed.
    pub input: Option<InputChange>,
}

/// How an input has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputChange {
    /// How many rows it had.
    pub rows_before: u64,
    /// Its fingerprint then.
    pub fingerprint_before: String,
    /// Answers whose rows were still there.
    pub kept: u64,
    /// Rows to be asked.
    pub new: u64,
    /// Answers whose rows were not there any more.
    pub gone: u64,
}

/// How the tree of a reduce stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReduceProgress {
    /// Levels above the leaves; 0 until the leaves are counted.
    pub levels: u32,
    /// The level that is worked on, or was last; 0 are the leaves.
    pub level: u32,
    /// At the end: is there a text at the root?
    pub text: bool,
    /// At the end: leaves that are not in it.
    pub missing: u64,
}

/// A rank that was lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostRank {
    /// Which.
    pub rank: usize,
    /// Where it ran.
    pub host: String,
}

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// Somebody works on it, or did and was killed: the heartbeat knows.
    Running,
    /// It stopped early; prompts are open.
    Stopped,
    /// Every prompt has its outcome.
    Finished,
}

/// Where a run is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunPhase {
    /// Somebody works on it, and has not counted its prompts yet.
    Begins,
    /// Somebody works on it.
    Running,
    /// It says that it runs, and nobody works on it.
    Lost,
    /// It stopped early.
    Stopped,
    /// Every prompt has its outcome, and the answers are where they should be.
    Finished,
}

impl RunPhase {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Begins => "begins",
            Self::Running => "running",
            Self::Lost => "lost",
            Self::Stopped => "stopped",
            Self::Finished => "finished",
        }
    }

    /// Is anything still to come?
    #[must_use]
    pub fn is_active(self) -> bool {
        matches!(self, Self::Begins | Self::Running)
    }
}

/// What became of the prompts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptCounts {
    /// All of them.
    pub submitted: u64,
    /// Answered.
    pub answered: u64,
    /// Failed by their own fault.
    pub failed: u64,
    /// Without an outcome.
    pub open: u64,
}

impl PromptCounts {
    /// Of so many prompts, so many answered and failed; the rest is open.
    #[must_use]
    pub fn new(submitted: u64, answered: u64, failed: u64) -> Self {
        Self { submitted, answered, failed, open: submitted.saturating_sub(answered + failed) }
    }
}

impl Manifest {
    /// An empty one of this version, for a run that begins.
    #[must_use]
    pub fn begin(output: &str, rows: u64, fingerprint: &str) -> Self {
        Self {
            version: MANIFEST_VERSION,
            program: concat!("aurora-swarm ", env!("CARGO_PKG_VERSION")).into(),
            state: RunState::Running,
            counts: PromptCounts::new(rows, 0, 0),
            input: Vec::new(),
            fingerprint: fingerprint.into(),
            output: output.into(),
            format: AnswerFormat::Jsonl,
            rows,
            deciding: BTreeMap::new(),
            model: None,
            api: None,
            settings: Value::Null,
            origins: BTreeMap::new(),
            starts: 0,
            ranks: 0,
            host: String::new(),
            pid: 0,
            job: None,
            began: 0,
            written: 0,
            seconds: 0.0,
            requests: 0,
            id: new_id(),
            away: None,
            lost: Vec::new(),
            changes: Vec::new(),
            history: Vec::new(),
            aggregates: Vec::new(),
            reduce: None,
        }
    }

    /// The run folder's, if it has one.
    ///
    /// # Errors
    /// Where it is there and cannot be read, or is of another version.
    pub fn read(folder: &Path) -> Result<Option<Self>, OutputError> {
        let path = folder.join(MANIFEST_FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(OutputError::io_error("cannot read", &path)(error)),
        };
        let manifest: Self = serde_json::from_str(&text).map_err(|error| {
            OutputError::Manifest { path: path.clone(), detail: error.to_string() }
        })?;
        if manifest.version != MANIFEST_VERSION {
            let detail = format!(
                "it has version {}, this program reads {MANIFEST_VERSION}",
                manifest.version
            );
            return Err(OutputError::Manifest { path, detail });
        }
        Ok(Some(manifest))
    }

    /// Replaces the run folder's, as of now.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&mut self, folder: &Path) -> Result<(), OutputError> {
        self.written = unix_seconds();
        self.close_last_start();
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        replace_file(&folder.join(MANIFEST_FILE), &text)
    }

    /// How many starts there were up to that with this number: a changed input has taken a number for the answers that are
    /// carried over, under which nobody worked.
    #[must_use]
    pub fn count_starts_until(&self, number: u32) -> u32 {
        let carried = self.changes.iter().filter(|it| it.input.is_some() && it.start <= number);
        number.saturating_sub(u32::try_from(carried.count()).unwrap_or(u32::MAX))
    }

    /// These files of aggregates are made, too.
    pub fn add_aggregates(&mut self, names: &[String]) {
        let new =
            names.iter().filter(|it| !self.aggregates.contains(it)).cloned().collect::<Vec<_>>();
        self.aggregates.extend(new);
    }

    /// The first start whose answers are of this input.
    #[must_use]
    pub fn first_valid_start(&self) -> u32 {
        let change = self.changes.iter().rev().find(|change| change.input.is_some());
        change.map_or(1, |change| change.start)
    }
}

const MANIFEST_FILE: &str = "manifest.json";

fn new_id() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{:x}{:05x}", since.as_micros(), std::process::id() & 0xf_ffff)
}

/// Seconds since 1970.
#[must_use]
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(Manifest::read(folder.path()).expect("none"), None);
        let mut manifest = Manifest::begin("answers.jsonl", 10, "abc");
        manifest.counts = PromptCounts::new(10, 7, 1);
        manifest.write(folder.path()).expect("written");
        assert_eq!(Manifest::read(folder.path()).expect("read"), Some(manifest.clone()));
        assert_eq!(manifest.counts.open, 2);
        let other = std::fs::read_to_string(folder.path().join(MANIFEST_FILE)).expect("text");
        let older = other.replace(",\n  \"changes\": []", "");
        assert_ne!(older, other);
        std::fs::write(folder.path().join(MANIFEST_FILE), older).expect("of an earlier version");
        assert_eq!(Manifest::read(folder.path()).expect("read"), Some(manifest.clone()));
        std::fs::write(
            folder.path().join(MANIFEST_FILE),
            other.replace("\"version\": 1", "\"version\": 9"),
        )
        .expect("changed");
        assert!(matches!(Manifest::read(folder.path()), Err(OutputError::Manifest { .. })));
    }
}
