//! A start of a run before its input is read over: what is there, where the input lies, and what it is read as.
//!
//! Owns that a start which cannot be leaves everything as it was. What becomes of one that can be is `root`'s.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use super::{RootRun, heartbeat::HeartbeatThread};
use crate::job::{
    JobError,
    context::JobContext,
    resume::existing_run,
    root,
    setup::{
        run_plan::{RunPlan, SHARDS_FOLDER, TOKEN_FILE, run_folder, spool_folder_name},
        scan::prepare_input_files,
    },
};
use crate::{
    input::{self, InputRules, InputSource, ScannedInput},
    output::{AnswerFormat, Heartbeat, Manifest, RunActivity, unix_seconds},
    settings::{self, ApiMode, OutputFormat},
};

/// A start of the run, before its input is read over.
pub(crate) struct PendingStart {
    pub(crate) output: PathBuf,
    pub(crate) folder: PathBuf,
    folder_existed: bool,
    pub(crate) earlier_manifest: Option<Manifest>,
    pub(crate) start_number: u32,
    pub(crate) started_at: Instant,
    pub(crate) heartbeat: HeartbeatThread,
    /// The input.
    pub(crate) input_files: Vec<input::InputFile>,
}

impl PendingStart {
    /// Looks at what is there and lays the input out. Where that cannot be, everything is left as it was.
    pub(crate) fn new(common: &JobContext, inputs: &[String]) -> Result<Self, JobError> {
        let (settings, began) = (&common.settings, Instant::now());
        let output = existing_run::output_path(settings)?;
        let folder = run_folder(&output);
        let existed = folder.exists();
        let earlier = existing_run::look(settings, &output, &folder)?;
        let is_other = |it: &&Manifest| it.reduce.is_some() != settings.reduce_template.is_some();
        if let Some(other) = earlier.as_ref().filter(|_| !settings.overwrite).filter(is_other) {
            let (its, mine) = match other.reduce {
                Some(_) => ("reduce", "run"),
                None => ("run", "reduce"),
            };
            return Err(JobError::PreconditionFailed(format!(
                "{} is the folder of a {its}, and a {mine} cannot go on with it: choose another --output, or --overwrite it",
                folder.display()
            )));
        }
        let number = earlier.as_ref().map_or(0, |it| it.starts) + 1;
        // Where more than the folder is missing, it is made once the input is known to be good.
        let _ = std::fs::create_dir(&folder);
        let beat = Heartbeat {
            host: common.placement.node.host.clone(),
            pid: std::process::id(),
            job: common.batch_job_id.clone(),
            start: number,
            began: unix_seconds(),
            doing: RunActivity::ReadingInput,
            beat: 0,
        };
        let heart = HeartbeatThread::start(folder.clone(), beat);
        match prepare_input_files(inputs, &row_rules(settings), &folder, number, Some(&output)) {
            Ok(files) => Ok(Self {
                output,
                folder,
                folder_existed: existed,
                earlier_manifest: earlier,
                start_number: number,
                started_at: began,
                heartbeat: heart,
                input_files: files,
            }),
            Err(error) => {
                drop(heart);
                undo_start(&folder, existed, number);
                Err(error)
            }
        }
    }

    /// The run as it was, where another input may follow on it and its answers may still lie on nodes.
    pub(crate) fn plan_left_on_nodes(&self, common: &JobContext) -> Option<RunPlan> {
        let settings = &common.settings;
        let earlier = self
            .earlier_manifest
            .as_ref()
            .filter(|_| settings.accept_changes && !settings.overwrite)?;
        let local = Some(earlier.away.clone()?);
        Some(RunPlan {
            source: InputSource::gone(earlier.rows, &earlier.fingerprint),
            rules: row_rules(settings),
            folder: self.folder.clone(),
            output: self.output.clone(),
            format: None,
            aggregate: Vec::new(),
            report: false,
            start: earlier.starts,
            local_shards: local,
            folder_token: String::new(),
        })
    }

    /// Opens the run folder, once the input is read over. Where that cannot be, everything is left as it was.
    pub(crate) fn begin(
        self,
        common: &JobContext,
        inputs: &[String],
        ranks: usize,
        scanned: Result<ScannedInput, JobError>,
    ) -> Result<RootRun, JobError> {
        let (folder, existed, number) =
            (self.folder.clone(), self.folder_existed, self.start_number);
        // (whatever goes wrong in here, the heartbeat is gone before the folder is)
        let begun =
            scanned.and_then(|scanned| root::open_root_run(common, inputs, ranks, self, scanned));
        begun.inspect_err(|_| undo_start(&folder, existed, number))
    }
}

/// Takes away what this start has made and nothing else: the folder may be somebody's.
fn undo_start(folder: &Path, existed: bool, start: u32) {
    let _ = std::fs::remove_dir_all(folder.join(spool_folder_name(start)));
    if !existed {
        let _ = std::fs::remove_file(folder.join(TOKEN_FILE));
        let shards = folder.join(SHARDS_FOLDER);
        // (of many ranks: empty folders in it)
        for below in std::fs::read_dir(&shards).into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir(below.path());
        }
        let _ = std::fs::remove_dir(shards);
        let _ = std::fs::remove_dir(folder);
    }
}

/// Can this input be asked by the route that was asked for, and its answers be written as they are wanted?
pub(crate) fn check_input_fits(
    settings: &settings::Settings,
    source: &InputSource,
) -> Result<(), JobError> {
    if source.any_messages && settings.api == ApiMode::Completions {
        return Err(JobError::PreconditionFailed(
            "the input has rows with messages, and --api completions takes raw texts only: leave --api out, or give \
             the rows a prompt"
                .into(),
        ));
    }
    check_format_writable(answer_format(settings, source))
}

/// Can this program write that format?
pub(crate) fn check_format_writable(format: AnswerFormat) -> Result<(), JobError> {
    match format.unsupported_reason() {
        Some(why) => {
            Err(JobError::PreconditionFailed(format!("the output would be Parquet, and {why}")))
        }
        None => Ok(()),
    }
}

/// The answers' format: what was asked for, else what the output's ending names, else what the input is in.
pub(crate) fn answer_format(settings: &settings::Settings, source: &InputSource) -> AnswerFormat {
    let output = settings.output.as_ref().filter(|_| settings.reduce_template.is_none());
    let own = if source.openai_batch { AnswerFormat::OpenaiBatch } else { AnswerFormat::Jsonl };
    match settings.output_format {
        Some(OutputFormat::Jsonl) => AnswerFormat::Jsonl,
        Some(OutputFormat::OpenaiBatch) => AnswerFormat::OpenaiBatch,
        Some(OutputFormat::Csv) => AnswerFormat::Csv,
        Some(OutputFormat::Parquet) => AnswerFormat::Parquet,
        None => output.map_or(own, |output| own.infer_from_path(Path::new(output))),
    }
}

/// The rows' rules, from the settings.
pub(crate) fn row_rules(settings: &settings::Settings) -> InputRules {
    InputRules {
        template: settings.template.clone(),
        keep_row: settings.keep_row,
        model: settings.model.clone(),
        ignore_row_model: settings.ignore_row_model,
        bad_rows: match settings.bad_rows {
            settings::BadRowPolicy::Stop => input::BadRowAction::Stop,
            settings::BadRowPolicy::Fail => input::BadRowAction::Fail,
        },
        duplicate_ids: match settings.duplicate_ids {
            settings::DuplicateIdPolicy::Refuse => input::DuplicateIdAction::Refuse,
            settings::DuplicateIdPolicy::Keep => input::DuplicateIdAction::Keep,
        },
        defaults: settings.sampling_params(),
    }
}
