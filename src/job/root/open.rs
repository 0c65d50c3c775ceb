//! The opening of a session on rank 0, up to the scan: the existing run, the input files, the answer format.
//!
//! Owns the rule that a session which cannot start leaves the run folder as it was. Whether the existing run may be resumed
//! is decided in `resume`; the scan is in `setup::scan`.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use super::{RootRun, heartbeat::HeartbeatThread};
use crate::job::{
    JobError, PreconditionError,
    collect::aggregate::aggregate_paths,
    context::JobContext,
    resume::{existing_run, run_lock::lock_run_folder},
    root,
    setup::{
        output_place::{CreatedFolders, check_inputs_kept, check_outside_runs, probe_output},
        run_plan::{RunPlan, SHARDS_FOLDER, TOKEN_FILE, run_folder, spool_folder_name},
        scan::prepare_input_files,
    },
};
use crate::{
    input::{self, FileFormat, FileRules, InputRules, InputSource, ScannedInput},
    output::{AnswerFormat, Heartbeat, Manifest, RunActivity, RunIdentity, unix_seconds},
    settings::{self, ApiMode, CsvDelimiter, HeaderMode, SettingsError, SourceFormat},
};

/// A session whose input is not scanned yet.
pub(crate) struct PendingStart {
    pub(crate) output: PathBuf,
    pub(crate) folder: PathBuf,
    folder_existed: bool,
    pub(crate) earlier_manifest: Option<Manifest>,
    pub(crate) start_number: u32,
    pub(crate) started_at: Instant,
    pub(crate) heartbeat: HeartbeatThread,
    pub(crate) input_files: Vec<input::InputFile>,
    /// Folders that are removed again if the session cannot start.
    created: CreatedFolders,
}

impl PendingStart {
    /// Checks the output and the existing run, starts the heartbeat and prepares the input files. On an error the run folder
    /// is left as it was.
    pub(crate) fn new(
        context: &JobContext,
        inputs: &[String],
        is_tree_level: bool,
    ) -> Result<Self, JobError> {
        let (settings, started_at) = (&context.settings, Instant::now());
        let output = existing_run::output_path(settings)?;
        // The levels of a reduce lie in the run folder of its leaves.
        if !is_tree_level {
            check_outside_runs(&output)?;
        }
        let folder = run_folder(&output);
        let folder_existed = folder.exists();
        let earlier = existing_run::find_existing_run(settings, &output, &folder)?;
        check_command(settings, earlier.as_ref(), &folder)?;
        check_format_name(settings)?;
        check_own_files(
            settings,
            &aggregate_paths(&settings.aggregate, &output),
            earlier.as_ref(),
        )?;
        let mut created = CreatedFolders::default();
        let start = earlier.as_ref().map_or(0, |manifest| manifest.starts) + 1;
        let mut beat = Heartbeat {
            host: context.placement.node.host.clone(),
            pid: std::process::id(),
            job: context.batch_job_id.clone(),
            start,
            began: unix_seconds(),
            doing: RunActivity::ReadingInput,
            beat: 0,
        };
        created.create_all(&folder).map_err(|error| {
            let (output, path) = (output.clone(), folder.clone());
            PreconditionError::OutputUnwritable { output, path, error }
        })?;
        lock_run_folder(&output, &folder, &mut beat)?;
        let heartbeat = HeartbeatThread::start(folder.clone(), beat);
        match prepare_start(settings, inputs, &output, &folder) {
            Ok((earlier_manifest, start_number, input_files)) => Ok(Self {
                output,
                folder,
                folder_existed,
                earlier_manifest,
                start_number,
                started_at,
                heartbeat,
                input_files,
                created,
            }),
            Err(error) => {
                drop(heartbeat);
                undo_start(&folder, folder_existed, start);
                Err(error)
            }
        }
    }

    /// Returns the plan of the existing run if its input may be exchanged (`--accept-changes`) and some of its answers may
    /// still be on the nodes: they must be collected before the input is matched.
    pub(crate) fn plan_left_on_nodes(&self, context: &JobContext) -> Option<RunPlan> {
        let settings = &context.settings;
        let earlier = self
            .earlier_manifest
            .as_ref()
            .filter(|_| settings.accept_changes && !settings.overwrite)?;
        let local = Some(earlier.away.clone()?);
        Some(RunPlan {
            source: InputSource::without_files(earlier.rows, &earlier.fingerprint),
            rules: row_rules(settings),
            folder: self.folder.clone(),
            output: self.output.clone(),
            format: None,
            identity: RunIdentity::default(),
            keep_bodies: false,
            aggregate: Vec::new(),
            report: false,
            start: earlier.starts,
            local_shards: local,
            folder_token: String::new(),
        })
    }

    /// Opens the run folder once the input is scanned. On an error the run folder is left as it was.
    pub(crate) fn open_run(
        mut self,
        context: &JobContext,
        inputs: &[String],
        ranks: usize,
        scanned: Result<ScannedInput, JobError>,
    ) -> Result<RootRun, JobError> {
        let (folder, folder_existed, start_number) =
            (self.folder.clone(), self.folder_existed, self.start_number);
        let created = std::mem::take(&mut self.created);
        // On any error in here the heartbeat thread is dropped before the folder is removed.
        let begun =
            scanned.and_then(|scanned| root::open_root_run(context, inputs, ranks, self, scanned));
        match begun {
            Ok(begun) => {
                created.keep();
                Ok(begun)
            }
            Err(error) => {
                undo_start(&folder, folder_existed, start_number);
                Err(error)
            }
        }
    }
}

/// Looks at the existing run again, now that no other session can change it, and prepares the input files. Returns them
/// with the manifest and the number of this session.
fn prepare_start(
    settings: &settings::Settings,
    inputs: &[String],
    output: &Path,
    folder: &Path,
) -> Result<(Option<Manifest>, u32, Vec<input::InputFile>), JobError> {
    let earlier = existing_run::find_existing_run(settings, output, folder)?;
    check_command(settings, earlier.as_ref(), folder)?;
    let beside = aggregate_paths(&settings.aggregate, output);
    check_own_files(settings, &beside, earlier.as_ref())?;
    probe_output(output, Some(folder), &beside)?;
    let start = earlier.as_ref().map_or(0, |manifest| manifest.starts) + 1;
    let files = prepare_input_files(inputs, &row_rules(settings), folder, start, Some(output))?;
    let written = beside.into_iter().chain([output.to_owned()]).collect();
    check_inputs_kept(&files, written)?;
    Ok((earlier, start, files))
}

/// Checks that the existing run is of the same command, `run` or `reduce`.
fn check_command(
    settings: &settings::Settings,
    earlier: Option<&Manifest>,
    folder: &Path,
) -> Result<(), JobError> {
    let is_other_command =
        |it: &&Manifest| it.reduce.is_some() != settings.reduce_template.is_some();
    let Some(other) = earlier.filter(|_| !settings.overwrite).filter(is_other_command) else {
        return Ok(());
    };
    let (existing, requested) = match other.reduce {
        Some(_) => ("reduce", "run"),
        None => ("run", "reduce"),
    };
    Err(PreconditionError::OtherCommand { folder: folder.to_owned(), existing, requested }.into())
}

/// Removes what this session has created and nothing else, since the folder may have existed with other files.
fn undo_start(folder: &Path, folder_existed: bool, start: u32) {
    let _ = std::fs::remove_dir_all(folder.join(spool_folder_name(start)));
    if !folder_existed {
        let _ = std::fs::remove_file(folder.join(TOKEN_FILE));
        let shards = folder.join(SHARDS_FOLDER);
        // A run of many ranks has a level of empty folders in here.
        for below in std::fs::read_dir(&shards).into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir(below.path());
        }
        let _ = std::fs::remove_dir(shards);
        let _ = std::fs::remove_dir(folder);
    }
}

/// Checks that files which this session would write beside the output are its own or do not exist.
fn check_own_files(
    settings: &settings::Settings,
    files: &[PathBuf],
    earlier: Option<&Manifest>,
) -> Result<(), JobError> {
    let is_own = |file: &Path| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        earlier.is_some_and(|manifest| manifest.aggregates.iter().any(|it| *it == name))
    };
    match files.iter().find(|file| file.exists() && !is_own(file) && !settings.overwrite) {
        Some(file) => Err(PreconditionError::FileNotOwn(file.clone()).into()),
        None => Ok(()),
    }
}

/// Checks that the name of the output and the requested format agree. A reduce writes text, whatever its name.
pub(crate) fn check_format_name(settings: &settings::Settings) -> Result<(), JobError> {
    let Some(output) = settings.output.as_ref().filter(|_| settings.reduce_template.is_none())
    else {
        return Ok(());
    };
    let requested = settings.output_format.map(AnswerFormat::from);
    let format = AnswerFormat::for_file(Path::new(output), requested, AnswerFormat::Jsonl);
    check_format_writable(format.map_err(SettingsError::usage)?)
}

/// Checks that the requested route can carry this input and that the answer format can be written.
pub(crate) fn check_input_fits(
    settings: &settings::Settings,
    source: &InputSource,
) -> Result<(), JobError> {
    if source.any_messages && settings.api == ApiMode::Completions {
        return Err(PreconditionError::MessagesNeedChat.into());
    }
    if source.any_token_ids && settings.api == ApiMode::Chat {
        return Err(PreconditionError::TokenIdsNeedCompletions.into());
    }
    check_format_writable(answer_format(settings, source))
}

/// Checks that this build of the program can write the format.
pub(crate) fn check_format_writable(format: AnswerFormat) -> Result<(), JobError> {
    match format.unsupported_reason() {
        Some(reason) => Err(PreconditionError::FormatUnsupported(reason).into()),
        None => Ok(()),
    }
}

/// Returns the answer format: `--output-format`, else by the extension of the output, else that of the input.
pub(crate) fn answer_format(settings: &settings::Settings, source: &InputSource) -> AnswerFormat {
    let output = settings.output.as_ref().filter(|_| settings.reduce_template.is_none());
    let own = if source.openai_batch { AnswerFormat::OpenaiBatch } else { AnswerFormat::Jsonl };
    let requested = settings.output_format.map(AnswerFormat::from);
    let by_name = |output: &String| AnswerFormat::for_file(Path::new(output), requested, own).ok();
    output.and_then(by_name).unwrap_or(own)
}

/// Returns the rules for reading files that the settings demand.
fn file_rules(settings: &settings::Settings) -> FileRules {
    FileRules {
        format: settings.input_format.map(|format| match format {
            SourceFormat::Jsonl => FileFormat::Jsonl,
            SourceFormat::Json => FileFormat::Json,
            SourceFormat::Txt => FileFormat::Text,
            SourceFormat::Csv => FileFormat::Csv,
            SourceFormat::Tsv => FileFormat::Tsv,
            SourceFormat::Parquet => FileFormat::Parquet,
        }),
        delimiter: match settings.csv_delimiter {
            CsvDelimiter::Auto => None,
            CsvDelimiter::Byte(byte) => Some(byte),
        },
        has_no_header: settings.csv_header == HeaderMode::No,
        encoding: Some(settings.encoding.clone()).filter(|name| name != "auto"),
    }
}

/// Returns the rules for reading rows that the settings demand.
pub(crate) fn row_rules(settings: &settings::Settings) -> InputRules {
    let mut rules = InputRules {
        files: file_rules(settings),
        template: settings.template.clone(),
        prompt_column: settings.prompt_column.clone(),
        messages_column: settings.messages_column.clone(),
        drop_final_answer: settings.drop_final_answer,
        image_columns: settings.image_column.clone(),
        keep_row: settings.keep_row,
        ignore_row_model: settings.ignore_row_model,
        bad_rows: match settings.bad_rows {
            settings::BadRowPolicy::Stop => input::BadRowAction::Stop,
            settings::BadRowPolicy::Fail => input::BadRowAction::Fail,
        },
        duplicate_ids: match settings.duplicate_ids {
            settings::DuplicateIdPolicy::Refuse => input::DuplicateIdAction::Refuse,
            settings::DuplicateIdPolicy::Keep => input::DuplicateIdAction::Keep,
        },
        unknown_fields: match settings.unknown_fields {
            settings::UnknownFieldPolicy::Warn => input::UnknownFieldAction::Warn,
            settings::UnknownFieldPolicy::Refuse => input::UnknownFieldAction::Refuse,
            settings::UnknownFieldPolicy::Ignore => input::UnknownFieldAction::Ignore,
        },
        defaults: settings.sampling_params(),
        batch_row_defaults: settings.batch_row_params(),
    };
    rules.sort_image_columns();
    rules
}
