//! Resuming a run whose input or answer-affecting settings have changed: reports what the change means for the answers,
//! and migrates them to the new input if the change is accepted (`--accept-changes`).
//!
//! Answers are matched to rows by the hash of the row's content ([`super::row_matching`]). A changed setting never
//! alters existing answers. Whether a run may be resumed at all is decided in [`super::existing_run`].
//!
//! # The migration steps, and why nothing is lost wherever they stop
//!
//! 1. The kept answers are written under their new indices to `RUN/carried-PID.part` and synced to disk.
//! 2. That file becomes a shard file of its own session, `RUN/shards/NNNN-00000.jsonl`. Its header names the new input.
//! 3. The manifest is replaced atomically. The new one names the new input and says that answers count from session
//!    NNNN on.
//! 4. The earlier input's shard files move to `RUN/before-NNNN`. They are kept: only the user knows whether they are
//!    needed.
//!
//! Before step 3 the run belongs to the earlier input, and all of its files are in place. The output of steps 1 and 2
//! is ignored, because a shard file counts only if its header names the manifest's input. The next start, with either
//! input, removes it and begins again. From step 3 on the run belongs to the new input, and the kept answers are on
//! disk. Shard files that step 4 has not moved are ignored, and the next start moves them. Each step is synced before
//! the next begins.

use std::{
    fs::File,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use tracing::info;

use super::row_matching::{AnsweredRows, MatchCounts, MigrationPlan};
use crate::job::{JobError, PreconditionError, setup::run_plan::SHARDS_FOLDER};
use crate::{
    input::{self, InputSource},
    output::{AnswerFormat, InputChange, Manifest, OutputError, PromptCounts, RunChange, RunState},
    report::format::pluralize,
    settings::{Settings, TokenLimit},
    shards::{self, MigratedFile, ShardFile, ShardHeader},
    site::NodeInfo,
};

/// Changes of settings and input since the run began that the user accepts.
pub(crate) struct AcceptedChanges {
    /// One sentence per changed setting, as it goes into the manifest.
    settings: Vec<String>,
    /// Target rows of the answers, if the input has changed.
    migration: Option<MigrationPlan>,
}

impl AcceptedChanges {
    /// Compares settings and input with the earlier run's, without writing anything.
    ///
    /// # Errors
    /// Changes were found and `--accept-changes` is not set.
    pub(crate) fn check_accepted(
        settings: &Settings,
        earlier: &Manifest,
        source: &InputSource,
        folder: &Path,
    ) -> Result<Self, JobError> {
        let differing = changed_settings(settings, earlier);
        let is_same_input = earlier.fingerprint == source.fingerprint;
        let migration =
            (!is_same_input).then(|| match_answers(earlier, source, folder)).transpose()?;
        let unaccepted: Vec<String> = differing
            .iter()
            .filter(|change| !(settings.retry_cut && change.key == MAX_TOKENS_KEY))
            .map(|change| change.sentence.clone())
            .collect();
        if (migration.is_some() || !unaccepted.is_empty()) && !settings.accept_changes {
            let rows = (earlier.rows, source.rows);
            let input = migration.as_ref().map(|plan| (rows, plan.counts));
            // Uncollected answers matter only for a changed input: otherwise the next session collects them anyway.
            let away = earlier.away.as_deref().filter(|_| migration.is_some());
            return Err(
                PreconditionError::RunChanged(refusal_message(input, away, &unaccepted)).into()
            );
        }
        let settings = differing.into_iter().map(|change| change.sentence).collect();
        Ok(Self { settings, migration })
    }

    /// Returns how many answers are kept and how many rows are new, if the input has changed.
    pub(crate) fn input_match_counts(&self) -> Option<MatchCounts> {
        self.migration.as_ref().map(|plan| plan.counts)
    }

    /// Updates the manifest and the answers to the current input and settings.
    pub(crate) fn apply_changes(
        self,
        settings: &Settings,
        manifest: &mut Manifest,
        source: &InputSource,
        folder: &Path,
    ) -> Result<(), JobError> {
        if let Some(MatchCounts { kept, new, gone, .. }) = self.input_match_counts() {
            info!(
                event = "input_change_accepted",
                kept,
                new,
                gone,
                "input change accepted: {} kept, {new} new, {gone} dropped",
                pluralize(kept, "answer")
            );
        }
        for change in &self.settings {
            info!(
                event = "setting_change_accepted",
                "setting change accepted: --{change}; existing answers stay as they are"
            );
        }
        manifest.answer_settings = settings.answer_settings();
        if let Some(plan) = self.migration {
            let mut migration = AnswerMigration::new(manifest, source, folder, plan, self.settings);
            return MIGRATION_STEPS.iter().try_for_each(|step| step(&mut migration));
        }
        if !self.settings.is_empty() {
            let start = manifest.starts + 1;
            manifest.changes.push(RunChange { start, settings: self.settings, input: None });
        }
        Ok(())
    }
}

/// Change of a setting that affects answers.
struct SettingChange {
    key: String,
    /// The change as it goes into messages and the manifest.
    sentence: String,
}

/// Setting that may change without `--accept-changes` if cut answers are asked again for that reason.
const MAX_TOKENS_KEY: &str = "max-tokens";

/// Returns one sentence for each answer-affecting setting that differs from the earlier run's. A setting that the
/// earlier version of the program did not have yet does not differ.
fn changed_settings(settings: &Settings, earlier: &Manifest) -> Vec<SettingChange> {
    let current = settings.answer_settings();
    let is_changed = |(key, value): &(&String, &serde_json::Value)| {
        earlier.answer_settings.get(*key).is_some_and(|before| before != *value)
    };
    let describe = |(key, value): (&String, &serde_json::Value)| SettingChange {
        key: key.clone(),
        sentence: format!("{key} was {} and is {value}", earlier.answer_settings[key]),
    };
    let mut changed: Vec<SettingChange> = current.iter().filter(is_changed).map(describe).collect();
    if changed.is_empty() {
        changed.extend(changed_batch_limit(settings, earlier));
    }
    changed
}

/// Returns a sentence if OpenAI batch rows without a limit would get another one than in the earlier run.
fn changed_batch_limit(settings: &Settings, earlier: &Manifest) -> Option<SettingChange> {
    if earlier.format != AnswerFormat::OpenaiBatch {
        return None;
    }
    let before = earlier.settings.get("max-tokens")?;
    let before: TokenLimit = serde_json::from_value(before.clone()).ok()?;
    let now = settings.max_tokens;
    (before.of_batch_rows() != now.of_batch_rows()).then(|| SettingChange {
        key: MAX_TOKENS_KEY.into(),
        sentence: format!("max-tokens was {before} and is {now} for batch rows"),
    })
}

/// Returns the part of a hint that says what `--accept-changes` does with the answers.
fn describe_migration(counts: &MatchCounts) -> String {
    let MatchCounts { kept, new, gone, unknown } = *counts;
    let unknown = match unknown {
        0 => String::new(),
        _ => format!(
            " ({unknown} of them without a row hash, from an earlier version of this program)"
        ),
    };
    format!(
        "keeps {}, sends {} and drops {} whose rows are gone{unknown}",
        pluralize(kept, "answer"),
        pluralize(new, "new prompt"),
        pluralize(gone, "answer")
    )
}

/// Builds the error text for changes that are not accepted, with a hint on how to proceed. `input` has the rows before
/// and now, and the counts of the migration; `away` is the folder of answers that are still on the nodes.
fn refusal_message(
    input: Option<((u64, u64), MatchCounts)>,
    away: Option<&str>,
    differing: &[String],
) -> String {
    let input_change = input.map(|((before, now), _)| {
        format!("the input has changed since this run began: {before} rows before, {now} now")
    });
    let uncollected = away.map(|away| {
        format!(
            "answers that the nodes of its last session may still have in {away} are not counted"
        )
    });
    let settings_change = (!differing.is_empty()).then(|| {
        let options: Vec<String> = differing.iter().map(|change| format!("--{change}")).collect();
        format!("settings that affect answers differ from this run's: {}", options.join(", "))
    });
    let effect = match input {
        Some((_, counts)) if away.is_some() => {
            format!("collects the answers on the nodes, then {}", describe_migration(&counts))
        }
        Some((_, counts)) => describe_migration(&counts),
        None => "keeps the existing answers as they are".to_owned(),
    };
    let original = match (&input_change, &settings_change) {
        (Some(_), None) => "the original input",
        (None, _) => "the original settings",
        (Some(_), Some(_)) => "the original input and settings",
    };
    let changes: Vec<String> =
        [input_change, uncollected, settings_change].into_iter().flatten().collect();
    format!(
        "{}\nhint: --accept-changes {effect}; otherwise use {original}, or begin a new run with --overwrite or another \
         --output",
        changes.join("; ")
    )
}

/// Matches the answers of the earlier input to the rows of the new one. Reads all shard files and scans the new input.
fn match_answers(
    earlier: &Manifest,
    source: &InputSource,
    folder: &Path,
) -> Result<MigrationPlan, JobError> {
    let mut answered = AnsweredRows::default();
    let files = shards::list_shard_files(&folder.join(SHARDS_FOLDER))?;
    shards::read_answers(&files, &earlier.fingerprint, earlier.rows, |index, row, _| {
        if row.is_unknown() {
            answered.add_unknown();
        } else {
            answered.add_answer(index, row.bytes_hash());
        }
        Ok(())
    })?;
    let mut matcher = answered.start_matching();
    input::hash_rows(source, |hash| matcher.match_row(hash))?;
    Ok(matcher.into_plan())
}

/// State of a migration, shared by its steps.
struct AnswerMigration<'c> {
    /// Describes the earlier input until the third step, the new one afterwards.
    manifest: &'c mut Manifest,
    source: &'c InputSource,
    folder: &'c Path,
    plan: MigrationPlan,
    settings: Vec<String>,
    /// Session number of the migrated answers.
    start: u32,
    part_file: PathBuf,
}

type MigrationStep = fn(&mut AnswerMigration<'_>) -> Result<(), JobError>;

const MIGRATION_STEPS: [MigrationStep; 4] = [
    |migration| migration.write_carried_answers(),
    |migration| migration.install_shard(),
    |migration| migration.update_manifest(),
    |migration| migration.archive_old_shards(),
];

impl<'c> AnswerMigration<'c> {
    fn new(
        manifest: &'c mut Manifest,
        source: &'c InputSource,
        folder: &'c Path,
        plan: MigrationPlan,
        settings: Vec<String>,
    ) -> Self {
        let start = manifest.starts + 1;
        let part_file = folder.join(format!("{CARRIED_PREFIX}{}.part", std::process::id()));
        Self { manifest, source, folder, plan, settings, start, part_file }
    }

    fn shard_header(&self) -> ShardHeader {
        ShardHeader::new(self.start, 0, &NodeInfo::this_node().host, &self.source.fingerprint)
    }

    fn write_carried_answers(&self) -> Result<(), JobError> {
        let files = shards::list_shard_files(&self.folder.join(SHARDS_FOLDER))?;
        let mut carried = MigratedFile::create(&self.part_file, &self.shard_header())?;
        let Manifest { fingerprint, rows, .. } = &*self.manifest;
        shards::read_answers(&files, fingerprint, *rows, |index, row, line| {
            let new_index = self.plan.new_index(index);
            new_index.map_or(Ok(()), |new| carried.append_line(line, new, row.has_own_id()))
        })?;
        Ok(carried.sync_and_close()?)
    }

    fn install_shard(&self) -> Result<(), JobError> {
        // From here on the file is visible to others. A second process may have begun a session since the manifest was
        // read, although the heartbeat makes that unlikely; then this session number is taken.
        let on_disk = Manifest::read_from(self.folder)?;
        if on_disk.is_none_or(|manifest| manifest.starts != self.manifest.starts) {
            return Err(PreconditionError::RunTaken(self.folder.to_owned()).into());
        }
        let shards = self.folder.join(SHARDS_FOLDER);
        rename_file(&self.part_file, &shards.join(self.shard_header().file_name()))?;
        sync_folder(&shards)
    }

    fn update_manifest(&mut self) -> Result<(), JobError> {
        let MatchCounts { kept, new, gone, .. } = self.plan.counts;
        let Manifest { rows, fingerprint, .. } = &*self.manifest;
        let (rows_before, fingerprint_before) = (*rows, fingerprint.clone());
        let input = InputChange { rows_before, fingerprint_before, kept, new, gone };
        let settings = std::mem::take(&mut self.settings);
        self.manifest.changes.push(RunChange { start: self.start, settings, input: Some(input) });
        self.manifest.fingerprint.clone_from(&self.source.fingerprint);
        self.manifest.rows = self.source.rows;
        self.manifest.starts = self.start;
        self.manifest.state = RunState::Stopped;
        self.manifest.counts = PromptCounts::new(self.source.rows, kept, 0);
        self.manifest.write_to(self.folder)?;
        sync_folder(self.folder)
    }

    fn archive_old_shards(&self) -> Result<(), JobError> {
        archive_old_shards(self.folder, self.manifest)
    }
}

const CARRIED_PREFIX: &str = "carried-";

/// Removes what an interrupted migration has left behind (see the steps above). `manifest` must be the run's own.
pub(crate) fn clean_interrupted_migration(
    folder: &Path,
    manifest: &Manifest,
) -> Result<(), JobError> {
    let entries =
        std::fs::read_dir(folder).map_err(OutputError::io_error("cannot list", folder))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(CARRIED_PREFIX) && name.ends_with(".part") {
            std::fs::remove_file(&path).map_err(OutputError::io_error("cannot remove", &path))?;
        }
    }
    for file in shards::list_shard_files(&folder.join(SHARDS_FOLDER))? {
        // The manifest does not count this session yet, so the next start reuses its number and the file is in the way.
        if file.start > manifest.starts
            && shards::read_fingerprint(&file)?.is_none_or(|its| its != manifest.fingerprint)
        {
            archive_shard(folder, file.start, &file)?;
        }
    }
    archive_old_shards(folder, manifest)
}

/// Moves the shard files of earlier inputs out of the way.
fn archive_old_shards(folder: &Path, manifest: &Manifest) -> Result<(), JobError> {
    let first = manifest.first_valid_start();
    let files = shards::list_shard_files(&folder.join(SHARDS_FOLDER))?;
    files
        .iter()
        .filter(|file| file.start < first)
        .try_for_each(|file| archive_shard(folder, first, file))
}

fn archive_shard(folder: &Path, start: u32, file: &ShardFile) -> Result<(), JobError> {
    let archive = folder.join(format!("before-{start:04}"));
    let shards = folder.join(SHARDS_FOLDER);
    // The path below the shards folder is kept: large jobs have their files in subfolders.
    let target = archive.join(file.path.strip_prefix(&shards).unwrap_or(&file.path));
    let parent = target.parent().unwrap_or(&archive);
    std::fs::create_dir_all(parent).map_err(OutputError::io_error("cannot create", parent))?;
    rename_file(&file.path, &target)?;
    // The file may have been the last one of its subfolder; a folder that is not empty refuses to be removed.
    let _ = file.path.parent().filter(|folder| *folder != shards).map(std::fs::remove_dir);
    Ok(())
}

fn rename_file(from: &Path, to: &Path) -> Result<(), JobError> {
    Ok(std::fs::rename(from, to).map_err(OutputError::io_error("cannot rename a file to", to))?)
}

/// Syncs a folder, so that renames in it survive a crash of the node.
fn sync_folder(folder: &Path) -> Result<(), JobError> {
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // Some file systems do not support fsync on a folder; they order metadata operations on their own.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
            Ok(())
        }
        result => Ok(result.map_err(OutputError::io_error("cannot sync", folder))?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{
            AnswerChoice, FailureKind, Outcome, Prompt, PromptAnswer, PromptFailure, PromptId,
            PromptInput, PromptResult, RequestParams, Route, RowHash,
        },
        shards::{AnswerLineStyle, ShardWriter},
    };
    use std::collections::BTreeMap;

    /// A run folder over [`INPUT_BEFORE`], some rows of which were answered in two sessions.
    struct MigrationFixture {
        folder: tempfile::TempDir,
        files: Vec<input::InputFile>,
    }

    const INPUT_BEFORE: &str = "a\nb\nsame\nc\nsame\nd\n";
    const INPUT_AFTER: &str = "new\nsame\nd\nsame\nsame\nb\n";

    impl MigrationFixture {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let input = folder.path().join("rows.txt");
            let run = Self {
                files: vec![input::InputFile::new(
                    input,
                    input::RowLayout::of_format(input::InputFormat::Text),
                )],
                folder,
            };
            let source = run.write_input(INPUT_BEFORE);
            let mut hashes = Vec::new();
            input::hash_rows(&source, |hash| hashes.push(hash)).expect("hashed");
            std::fs::create_dir(run.shards_folder()).expect("made");
            for (start, rows) in [(1, &[0, 5][..]), (2, &[2, 1, 4][..])] {
                let header = ShardHeader::new(start, 0, "n1", &source.fingerprint);
                let mut writer = ShardWriter::create(&run.shards_folder(), &header, line_style())
                    .expect("a file");
                let answers: Vec<PromptResult> = rows
                    .iter()
                    .map(|&row| prompt_result(row, hashes[row as usize], true))
                    .collect();
                writer.append_results(&answers).expect("written");
                writer.append_results(&[prompt_result(3, hashes[3], false)]).expect("written");
            }
            let mut manifest =
                Manifest::for_new_run("answers.jsonl", source.rows, &source.fingerprint);
            manifest.starts = 2;
            manifest.write_to(run.run_folder()).expect("written");
            run
        }

        fn run_folder(&self) -> &Path {
            self.folder.path()
        }

        fn shards_folder(&self) -> PathBuf {
            self.run_folder().join(SHARDS_FOLDER)
        }

        fn write_input(&self, text: &str) -> InputSource {
            std::fs::write(&self.files[0].path, text).expect("written");
            input::scan_files(&self.files, &input::InputRules::default()).expect("good rows").source
        }

        fn read_manifest(&self) -> Manifest {
            Manifest::read_from(self.run_folder()).expect("read").expect("there")
        }

        /// Does what a start does, but only the first `steps` steps of a migration.
        fn run_start(&self, source: &InputSource, steps: usize) -> Manifest {
            let mut manifest = self.read_manifest();
            clean_interrupted_migration(self.run_folder(), &manifest).expect("tidied");
            if manifest.fingerprint != source.fingerprint {
                let plan = match_answers(&manifest, source, self.run_folder()).expect("matched");
                let mut migration = AnswerMigration::new(
                    &mut manifest,
                    source,
                    self.run_folder(),
                    plan,
                    Vec::new(),
                );
                MIGRATION_STEPS
                    .iter()
                    .take(steps)
                    .for_each(|step| step(&mut migration).expect("done"));
            }
            manifest
        }

        /// Returns the answers by index, as every reader of the run sees them.
        fn read_answers(&self, source: &InputSource) -> BTreeMap<u64, String> {
            let files = shards::list_shard_files(&self.shards_folder()).expect("listed");
            let mut answers = BTreeMap::new();
            let rows = source.rows;
            shards::read_answers(&files, &source.fingerprint, rows, |index, _, line| {
                let line: serde_json::Value = serde_json::from_slice(line).expect("JSON");
                assert_eq!(line["id"], index.to_string());
                answers.insert(index, line["response"].as_str().expect("text").to_owned());
                Ok(())
            })
            .expect("read");
            answers
        }
    }

    fn line_style() -> AnswerLineStyle {
        AnswerLineStyle {
            echo_prompt: false,
            model: "m".into(),
            text_route: Route::Chat,
            rank: 0,
            host: "n1".into(),
        }
    }

    fn prompt_result(index: u64, hash: u64, success: bool) -> PromptResult {
        let text = index.to_string();
        let outcome = if success {
            let choices = vec![AnswerChoice { text, ..AnswerChoice::default() }];
            Outcome::Answered(PromptAnswer { choices, ..PromptAnswer::default() })
        } else {
            let kind = FailureKind::TooLong;
            Outcome::Failed(PromptFailure { kind, message: "no".into(), status: None })
        };
        let prompt = Prompt {
            index,
            id: PromptId::from_index(index),
            input: PromptInput::Text(String::new()),
            images: Vec::new(),
            params: RequestParams::default(),
            model: None,
            route: None,
            priority: 0,
            row: None,
            row_hash: RowHash::new(hash, false),
        };
        PromptResult { prompt, outcome, endpoint: None, latency: 0.0, attempts: 1, invalid: None }
    }

    /// The answers to `same d same b` of [`INPUT_AFTER`]; each answer's text is the index of its old row.
    fn expected_answers() -> BTreeMap<u64, String> {
        [(1, "2"), (2, "5"), (3, "4"), (5, "1")].map(|(row, old)| (row, old.to_owned())).into()
    }

    #[test]
    fn a_migration_interrupted_after_any_step_is_completed_by_the_next_start_without_loss() {
        for stopped in 0..=MIGRATION_STEPS.len() {
            let run = MigrationFixture::new();
            let after = run.write_input(INPUT_AFTER);
            run.run_start(&after, stopped);
            // Left by a process that was killed while it wrote.
            std::fs::write(run.run_folder().join("carried-1.part"), "{").expect("written");
            let manifest = run.run_start(&after, MIGRATION_STEPS.len());
            assert_eq!(
                run.read_answers(&after),
                expected_answers(),
                "stopped after {stopped} steps"
            );
            assert_eq!(manifest, run.read_manifest());
            let [change] = manifest.changes.as_slice() else { panic!("one change") };
            assert_eq!((manifest.starts, manifest.first_valid_start(), manifest.rows), (3, 3, 6));
            let InputChange { rows_before, kept, new, gone, .. } =
                change.input.clone().expect("of the input");
            assert_eq!((rows_before, kept, new, gone), (6, 4, 2, 1));
            let starts = |folder: PathBuf| {
                shards::list_shard_files(&folder)
                    .expect("listed")
                    .iter()
                    .map(|file| file.start)
                    .collect::<Vec<_>>()
            };
            assert_eq!(starts(run.shards_folder()), [3], "stopped after {stopped} steps");
            let archived = starts(run.run_folder().join("before-0003"));
            assert_eq!(archived[..2], [1, 2], "the earlier answers are all there");
            let parts = std::fs::read_dir(run.run_folder()).expect("listed").flatten();
            assert!(
                !parts
                    .into_iter()
                    .any(|entry| entry.file_name().to_string_lossy().contains("part"))
            );
        }
    }

    #[test]
    fn the_earlier_input_can_be_resumed_until_the_manifest_is_replaced() {
        for stopped in 0..=2 {
            let run = MigrationFixture::new();
            run.run_start(&run.write_input(INPUT_AFTER), stopped);
            let before = run.write_input(INPUT_BEFORE);
            let manifest = run.run_start(&before, MIGRATION_STEPS.len());
            assert_eq!((manifest.starts, manifest.changes.len()), (2, 0));
            assert_eq!(run.read_answers(&before).into_keys().collect::<Vec<_>>(), [0, 1, 2, 4, 5]);
            // The next session's shard file does not collide with the abandoned one.
            let header = ShardHeader::new(3, 0, "n1", &before.fingerprint);
            ShardWriter::create(&run.shards_folder(), &header, line_style()).expect("a file");
        }
    }

    #[test]
    fn an_input_that_changes_back_keeps_the_answers_that_were_never_dropped() {
        for stopped in 0..=MIGRATION_STEPS.len() {
            let run = MigrationFixture::new();
            let after = run.write_input(INPUT_AFTER);
            run.run_start(&after, MIGRATION_STEPS.len());
            let before = run.write_input(INPUT_BEFORE);
            run.run_start(&before, stopped);
            let manifest = run.run_start(&before, MIGRATION_STEPS.len());
            assert_eq!((manifest.starts, manifest.first_valid_start()), (4, 4));
            let answers = [(1, "1"), (2, "2"), (4, "4"), (5, "5")];
            assert_eq!(
                run.read_answers(&before),
                answers.map(|(row, old)| (row, old.to_owned())).into(),
                "stopped after {stopped} steps"
            );
        }
    }

    #[test]
    fn a_run_that_another_process_has_started_meanwhile_is_left_alone() {
        let run = MigrationFixture::new();
        let after = run.write_input(INPUT_AFTER);
        let mut manifest = run.read_manifest();
        let plan = match_answers(&manifest, &after, run.run_folder()).expect("matched");
        let migration =
            AnswerMigration::new(&mut manifest, &after, run.run_folder(), plan, Vec::new());
        migration.write_carried_answers().expect("done");
        let mut theirs = run.read_manifest();
        theirs.starts += 1;
        theirs.write_to(run.run_folder()).expect("written");
        assert!(migration.install_shard().is_err());
    }

    #[test]
    fn a_refusal_names_the_changes_and_gives_a_hint() {
        let counts = MatchCounts { kept: 4, new: 2, gone: 1, unknown: 0 };
        let input = Some(((6, 7), counts));
        assert_eq!(
            refusal_message(input, None, &[]),
            "the input has changed since this run began: 6 rows before, 7 now\n\
             hint: --accept-changes keeps 4 answers, sends 2 new prompts and drops 1 answer whose rows are gone; otherwise \
             use the original input, or begin a new run with --overwrite or another --output"
        );
        let settings = ["n was 1 and is 2".to_owned()];
        let both = refusal_message(input, None, &settings);
        assert!(both.starts_with("the input has changed") && both.contains("; settings"), "{both}");
        assert!(both.contains("--n was 1 and is 2"), "{both}");
        let away = refusal_message(input, Some("/tmp/x"), &[]);
        assert!(away.contains("may still have in /tmp/x are not counted"), "{away}");
        assert!(away.contains("--accept-changes collects the answers on the nodes, then keeps"));
        for text in [both, away, refusal_message(None, None, &settings)] {
            let (_, hint) = text.split_once("\nhint: ").expect("a hint");
            assert!(hint.contains("--accept-changes") && hint.contains("--overwrite"), "{text}");
        }
        assert!(
            describe_migration(&MatchCounts { unknown: 1, ..counts }).contains("earlier version")
        );
    }
}
