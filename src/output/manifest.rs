//! The manifest of a run: its settings, state, counts and sessions. `RUN/manifest.json`, replaced atomically by rank 0.
//!
//! Its final counts are written after everything else, so they prove that a run is finished, which a launcher's exit code
//! does not. `submitted = answered + failed + open`, always. The records of sessions are in `output/history.rs`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{
    AnswerFormat, OutputError, RunIdentity, StartRecord,
    atomic_file::replace_file,
    counts::{LostRank, PromptCounts},
};
use crate::{domain::Tally, settings::SettingOrigin};

/// Version of the format that this build writes. It reads all versions from 1 on: version 1 named some fields differently
/// and stored origins as tagged values.
const MANIFEST_VERSION: u32 = 2;

/// Content of `manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    #[serde(alias = "version")]
    pub schema_version: u32,
    /// Name and version of the program that wrote it.
    pub program: String,
    pub state: RunState,
    /// Counts of prompts by outcome; exact unless the state is `running`.
    pub counts: PromptCounts,
    /// Paths of the input files, as given.
    pub input: Vec<String>,
    /// Working directory of the latest session, in which relative paths of the input are resolved.
    #[serde(default)]
    pub directory: Option<PathBuf>,
    /// Hash of the input's bytes.
    pub fingerprint: String,
    /// Path of the gathered answers.
    pub output: String,
    /// Format of the gathered answers.
    #[serde(default)]
    pub format: AnswerFormat,
    /// Number of failed prompts of earlier sessions that the latest session sends again; 0 once it has ended.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub resent: u64,
    pub rows: u64,
    /// Settings that affect answers. A run resumes only with the same values, or with `--accept-changes`.
    #[serde(alias = "deciding")]
    pub answer_settings: BTreeMap<String, Value>,
    /// The job's own model, once it is selected.
    pub model: Option<String>,
    /// All models of the job, if rows name others than its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// Route of text prompts, once it is selected.
    pub api: Option<String>,
    pub settings: Value,
    /// Origins of the settings that differ from their defaults, as text.
    #[serde(deserialize_with = "read_origins")]
    pub origins: BTreeMap<String, String>,
    /// Number of the latest session. A changed input takes a number of its own, for the answers that are carried over to it.
    pub starts: u32,
    /// Ranks of the latest session.
    pub ranks: usize,
    /// Host of rank 0 in the latest session.
    pub host: String,
    /// Process id of rank 0 in the latest session.
    pub pid: u32,
    /// Batch job of the latest session, if any.
    pub job: Option<String>,
    /// Start of the latest session, in seconds since 1970.
    pub began: u64,
    /// Time of writing, in seconds since 1970.
    #[serde(default)]
    pub written: u64,
    /// Seconds of all sessions that ended in order.
    pub seconds: f64,
    /// HTTP requests of all sessions that ended in order.
    pub requests: u64,
    /// Unique id of the run, also among runs of the same output.
    #[serde(default = "new_id")]
    pub id: String,
    /// Node-local folder (`--local-shards`, with `{host}` and the like not expanded) that may hold answers not yet collected
    /// into this run folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away: Option<String>,
    /// Ranks lost during the latest session.
    #[serde(default)]
    pub lost: Vec<LostRank>,
    /// Accepted changes of input or settings, in order.
    #[serde(default)]
    pub changes: Vec<RunChange>,
    /// Records of the sessions; older formats kept none.
    #[serde(default)]
    pub history: Vec<StartRecord>,
    /// Names of the aggregate files beside the answers that sessions of this run have written or started to write.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aggregates: Vec<String>,
    /// Progress of the tree above these prompts, which are its leaves, for a reduce.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reduce: Option<ReduceProgress>,
}

/// An accepted change of the input or of settings that affect answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunChange {
    /// Session that it came with. For a changed input, the number under which carried answers are stored; answers of earlier
    /// sessions do not count any more.
    pub start: u32,
    /// Changed settings, each as a sentence.
    pub settings: Vec<String>,
    /// Change of the input, if any.
    pub input: Option<InputChange>,
}

/// A change of the input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InputChange {
    pub rows_before: u64,
    pub fingerprint_before: String,
    /// Answers kept, whose rows are still in the input.
    pub kept: u64,
    /// New rows, to be sent.
    pub new: u64,
    /// Answers dropped, whose rows were removed.
    pub gone: u64,
}

/// Progress of a reduce's tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReduceProgress {
    /// Number of levels above the leaves; 0 until the leaves are counted.
    pub levels: u32,
    /// Current or latest level; 0 for the leaves.
    pub level: u32,
    /// True at the end if the root has a text.
    pub text: bool,
    /// What of the leaves is missing in the text, at the end.
    #[serde(flatten)]
    pub loss: TreeLoss,
    /// True if truncated leaves do not count as a failure (`--allow-truncation`).
    #[serde(default)]
    pub allows_truncation: bool,
}

/// What of the leaves a reduced text does not cover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TreeLoss {
    /// Leaves missing in the text.
    pub missing: u64,
    /// Leaves of which a part was left out, because their text or one above it was truncated.
    #[serde(default)]
    pub cut: u64,
    /// Length of the texts of all groups, in bytes.
    #[serde(default)]
    pub text_bytes: u64,
    /// Bytes of them that were left out.
    #[serde(default)]
    pub left_out_bytes: u64,
}

impl ReduceProgress {
    /// Returns whether the text is there and covers all leaves.
    #[must_use]
    pub(crate) fn is_complete(&self) -> bool {
        self.text && self.loss.missing == 0 && (self.loss.cut == 0 || self.allows_truncation)
    }
}

impl TreeLoss {
    /// Returns the share of the texts that was left out, from 0 to 1.
    #[must_use]
    pub(crate) fn left_out_share(&self) -> f64 {
        self.left_out_bytes as f64 / self.text_bytes.max(1) as f64
    }
}

/// State of a run as written by its latest session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RunState {
    /// A session is active, or was killed; the heartbeat tells them apart.
    Running,
    /// The session stopped early; prompts are open.
    Stopped,
    /// Every prompt has its outcome.
    Finished,
}

/// Phase of a run, from its manifest and its heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RunPhase {
    /// A session is active and has not counted the prompts yet.
    Begins,
    Running,
    /// The manifest says running, but there is no heartbeat: the session was killed.
    Lost,
    /// The latest session stopped early.
    Stopped,
    /// Every prompt has its outcome, and the answers are in place.
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

    /// Returns true while a session is active.
    #[must_use]
    pub(crate) fn is_active(self) -> bool {
        matches!(self, Self::Begins | Self::Running)
    }
}

impl Manifest {
    /// Returns the id and time by which outputs name the run.
    #[must_use]
    pub(crate) fn identity(&self) -> RunIdentity {
        RunIdentity { id: self.id.clone(), began: self.began }
    }

    /// Returns the manifest of a new run.
    #[must_use]
    pub(crate) fn for_new_run(output: &str, rows: u64, fingerprint: &str) -> Self {
        Self {
            schema_version: MANIFEST_VERSION,
            program: concat!("aurora-swarm ", env!("CARGO_PKG_VERSION")).into(),
            state: RunState::Running,
            counts: PromptCounts::new(rows, 0, 0),
            input: Vec::new(),
            directory: None,
            fingerprint: fingerprint.into(),
            output: output.into(),
            format: AnswerFormat::Jsonl,
            models: Vec::new(),
            resent: 0,
            rows,
            answer_settings: BTreeMap::new(),
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

    /// Reads the manifest of a run folder, of this version or an older one; `None` if there is none.
    ///
    /// # Errors
    /// Fails if the file cannot be read or parsed, or is of a newer version.
    pub(crate) fn read_from(folder: &Path) -> Result<Option<Self>, OutputError> {
        let path = folder.join(MANIFEST_FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(OutputError::io_error("cannot read", &path)(error)),
        };
        let mut manifest: Self = serde_json::from_str(&text).map_err(|error| {
            OutputError::Manifest { path: path.clone(), detail: error.to_string() }
        })?;
        if !(1..=MANIFEST_VERSION).contains(&manifest.schema_version) {
            let detail = format!(
                "its schema version is {}, and this program reads up to {MANIFEST_VERSION}\n\
                 hint: use the program that wrote it, {}",
                manifest.schema_version, manifest.program
            );
            return Err(OutputError::Manifest { path, detail });
        }
        // What is written next has the current field names, so it must not claim to be of version 1.
        manifest.schema_version = MANIFEST_VERSION;
        Ok(Some(manifest))
    }

    /// Replaces the manifest of a run folder, with the current time.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub(crate) fn write_to(&mut self, folder: &Path) -> Result<(), OutputError> {
        self.written = unix_seconds();
        self.close_last_start();
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        replace_file(&folder.join(MANIFEST_FILE), &text)
    }

    /// Returns the number of sessions up to this one. A changed input takes a number for carried answers, which is not a
    /// session.
    #[must_use]
    pub(crate) fn count_starts_until(&self, number: u32) -> u32 {
        let carried = self.changes.iter().filter(|it| it.input.is_some() && it.start <= number);
        number.saturating_sub(u32::try_from(carried.count()).unwrap_or(u32::MAX))
    }

    /// Adds the record of the session that this manifest describes.
    pub(crate) fn record_start(&mut self) {
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
    pub(crate) fn set_start_counts(&mut self, counts: &PromptCounts) {
        self.counts = counts.clone();
        if let Some(last) = self.history.last_mut() {
            last.before = counts.clone();
        }
    }

    /// Records how long the latest session has waited for servers, in seconds.
    pub(crate) fn record_wait(&mut self, waited: f64) {
        if let Some(last) = self.history.last_mut() {
            last.waited = waited;
        }
    }

    /// Updates the work of the latest session.
    pub(crate) fn record_progress(&mut self, tally: &Tally, seconds: f64) {
        if let Some(last) = self.history.last_mut() {
            (last.did, last.seconds) = (tally.clone(), seconds);
        }
    }

    /// Records the end of the latest session before the manifest is written, if that session is this process.
    fn close_last_start(&mut self) {
        let (lost, state) = (self.lost.clone(), self.state);
        // `merge` and `report` also write manifests; they must not close a session that they have not run.
        let ours = self.pid == std::process::id();
        if let Some(last) = self.history.last_mut().filter(|it| ours && it.start == self.starts) {
            last.lost = lost;
            last.ended = (state != RunState::Running).then(unix_seconds);
            last.finished = state == RunState::Finished;
        }
    }

    /// Adds the names of aggregate files that are about to be written.
    pub(crate) fn add_aggregates(&mut self, names: &[String]) {
        let new =
            names.iter().filter(|it| !self.aggregates.contains(it)).cloned().collect::<Vec<_>>();
        self.aggregates.extend(new);
    }

    /// Returns the number of the first session whose answers belong to the current input.
    #[must_use]
    pub(crate) fn first_valid_start(&self) -> u32 {
        let change = self.changes.iter().rev().find(|change| change.input.is_some());
        change.map_or(1, |change| change.start)
    }
}

const MANIFEST_FILE: &str = "manifest.json";

/// Reads the origins of settings, which version 1 stored as tagged values such as `{"Flag": "--model"}`.
fn read_origins<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum StoredOrigin {
        Text(String),
        Tagged(SettingOrigin),
    }
    let stored = BTreeMap::<String, StoredOrigin>::deserialize(deserializer)?;
    let text = |origin| match origin {
        StoredOrigin::Text(text) => text,
        StoredOrigin::Tagged(origin) => origin.to_string(),
    };
    Ok(stored.into_iter().map(|(key, origin)| (key, text(origin))).collect())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn new_id() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{:x}{:05x}", since.as_micros(), std::process::id() & 0xf_ffff)
}

/// Returns the current time in seconds since 1970.
#[must_use]
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_of_version_1_is_read_and_rewritten_as_the_current_version() {
        let version_1 = r#"{
            "version": 1, "program": "aurora-swarm 0.1.0", "state": "stopped",
            "counts": {"submitted": 3, "answered": 1, "failed": 0, "open": 2},
            "input": ["p.jsonl"], "fingerprint": "abc", "output": "answers.jsonl", "format": "jsonl", "rows": 3,
            "deciding": {"max-tokens": 16}, "model": "m", "api": "chat", "settings": {"model": "m"},
            "origins": {"model": {"Flag": "--model"}, "max-tokens": {"Environment": "AURORA_SWARM_MAX_TOKENS"}},
            "starts": 1, "ranks": 2, "host": "n1", "pid": 7, "job": null, "began": 5, "written": 6,
            "seconds": 1.5, "requests": 2, "id": "x", "lost": [], "changes": [], "history": []
        }"#;
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join(MANIFEST_FILE), version_1).expect("written");
        let read = || Manifest::read_from(folder.path()).expect("read").expect("it exists");
        let mut manifest = read();
        assert_eq!(manifest.answer_settings["max-tokens"], 16);
        assert_eq!(manifest.origins["model"], SettingOrigin::Flag("--model".into()).to_string());
        assert_eq!((manifest.counts.open, manifest.schema_version), (2, MANIFEST_VERSION));
        manifest.write_to(folder.path()).expect("written");
        assert_eq!(read(), manifest);
        let text = std::fs::read_to_string(folder.path().join(MANIFEST_FILE)).expect("text");
        assert!(text.contains("\"schema_version\": 2") && !text.contains("deciding"), "{text}");
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(Manifest::read_from(folder.path()).expect("none"), None);
        let mut manifest = Manifest::for_new_run("answers.jsonl", 10, "abc");
        manifest.counts = PromptCounts::new(10, 7, 1);
        manifest.write_to(folder.path()).expect("written");
        assert_eq!(Manifest::read_from(folder.path()).expect("read"), Some(manifest.clone()));
        assert_eq!(manifest.counts.open, 2);
        let other = std::fs::read_to_string(folder.path().join(MANIFEST_FILE)).expect("text");
        let older = other.replace(",\n  \"changes\": []", "");
        assert_ne!(older, other);
        std::fs::write(folder.path().join(MANIFEST_FILE), older).expect("of an earlier version");
        assert_eq!(Manifest::read_from(folder.path()).expect("read"), Some(manifest.clone()));
        std::fs::write(
            folder.path().join(MANIFEST_FILE),
            other.replace("\"schema_version\": 2", "\"schema_version\": 9"),
        )
        .expect("changed");
        assert!(matches!(Manifest::read_from(folder.path()), Err(OutputError::Manifest { .. })));
    }

    #[test]
    fn a_killed_session_has_no_end_and_keeps_its_latest_progress() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut manifest = Manifest::for_new_run("answers.jsonl", 10, "abc");
        (manifest.starts, manifest.pid) = (1, std::process::id());
        manifest.record_start();
        let did = Tally { answered: 4, ..Tally::default() };
        manifest.record_progress(&did, 2.5);
        manifest.write_to(folder.path()).expect("written");
        // The session is killed here.
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
        // A process that only reads or merges does not end the session.
        let mut other = Manifest::read_from(folder.path()).expect("read").expect("there");
        (other.pid, other.state) = (0, RunState::Stopped);
        other.write_to(folder.path()).expect("written");
        assert!(other.history[1].finished);
    }
}
