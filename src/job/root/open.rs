//! A start of a run before its input is read over: what is there, where the input lies, and what it is read as.
//!
//! Owns that a start which cannot be leaves everything as it was. What becomes of one that can be is `root`'s.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use super::{Root, heartbeat::Heart};
use crate::job::{
    JobError,
    context::Common,
    resume::existing_run,
    root,
    setup::{
        run_plan::{Brief, SHARDS, TOKEN, run_folder, spool_name},
        scan::lay_out,
    },
};
use crate::{
    input::{self, Rules, Scanned, Source},
    output::{Doing, Format, Heartbeat, Manifest, now},
    settings::{self, Api, OutputFormat},
};

/// A start of the run, before its input is read over.
pub(crate) struct Start {
    pub(crate) output: PathBuf,
    pub(crate) folder: PathBuf,
    existed: bool,
    pub(crate) earlier: Option<Manifest>,
    pub(crate) number: u32,
    pub(crate) began: Instant,
    pub(crate) heart: Heart,
    /// The input.
    pub(crate) files: Vec<input::InputFile>,
}

impl Start {
    /// Looks at what is there and lays the input out. Where that cannot be, everything is left as it was.
    pub(crate) fn new(common: &Common, inputs: &[String]) -> Result<Self, JobError> {
        let (settings, began) = (&common.settings, Instant::now());
        let output = existing_run::output(settings)?;
        let folder = run_folder(&output);
        let existed = folder.exists();
        let earlier = existing_run::look(settings, &output, &folder)?;
        let is_other = |it: &&Manifest| it.reduce.is_some() != settings.reduce_template.is_some();
        if let Some(other) = earlier.as_ref().filter(|_| !settings.overwrite).filter(is_other) {
            let (its, mine) = match other.reduce {
                Some(_) => ("reduce", "run"),
                None => ("run", "reduce"),
            };
            return Err(JobError::Standing(format!(
                "{} is the folder of a {its}, and a {mine} cannot go on with it: choose another --output, or --overwrite it",
                folder.display()
            )));
        }
        let number = earlier.as_ref().map_or(0, |it| it.starts) + 1;
        // Where more than the folder is missing, it is made once the input is known to be good.
        let _ = std::fs::create_dir(&folder);
        let beat = Heartbeat {
            host: common.place.node.host.clone(),
            pid: std::process::id(),
            job: common.job.clone(),
            start: number,
            began: now(),
            doing: Doing::ReadingInput,
            beat: 0,
        };
        let heart = Heart::start(folder.clone(), beat);
        match lay_out(inputs, &rules(settings), &folder, number, Some(&output)) {
            Ok(files) => Ok(Self { output, folder, existed, earlier, number, began, heart, files }),
            Err(error) => {
                drop(heart);
                undo(&folder, existed, number);
                Err(error)
            }
        }
    }

    /// The run as it was, where another input may follow on it and its answers may still lie on nodes.
    pub(crate) fn left_on_nodes(&self, common: &Common) -> Option<Brief> {
        let settings = &common.settings;
        let earlier =
            self.earlier.as_ref().filter(|_| settings.accept_changes && !settings.overwrite)?;
        let local = Some(earlier.away.clone()?);
        Some(Brief {
            source: Source::gone(earlier.rows, &earlier.fingerprint),
            rules: rules(settings),
            folder: self.folder.clone(),
            output: self.output.clone(),
            format: None,
            aggregate: Vec::new(),
            report: false,
            start: earlier.starts,
            local,
            token: String::new(),
        })
    }

    /// Opens the run folder, once the input is read over. Where that cannot be, everything is left as it was.
    pub(crate) fn begin(
        self,
        common: &Common,
        inputs: &[String],
        ranks: usize,
        scanned: Result<Scanned, JobError>,
    ) -> Result<Root, JobError> {
        let (folder, existed, number) = (self.folder.clone(), self.existed, self.number);
        // (whatever goes wrong in here, the heartbeat is gone before the folder is)
        let begun = scanned.and_then(|scanned| root::begin(common, inputs, ranks, self, scanned));
        begun.inspect_err(|_| undo(&folder, existed, number))
    }
}

/// Takes away what this start has made and nothing else: the folder may be somebody's.
fn undo(folder: &Path, existed: bool, start: u32) {
    let _ = std::fs::remove_dir_all(folder.join(spool_name(start)));
    if !existed {
        let _ = std::fs::remove_file(folder.join(TOKEN));
        let shards = folder.join(SHARDS);
        // (of many ranks: empty folders in it)
        for below in std::fs::read_dir(&shards).into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir(below.path());
        }
        let _ = std::fs::remove_dir(shards);
        let _ = std::fs::remove_dir(folder);
    }
}

/// Can this input be asked by the route that was asked for, and its answers be written as they are wanted?
pub(crate) fn fits(settings: &settings::Settings, source: &Source) -> Result<(), JobError> {
    if source.any_messages && settings.api == Api::Completions {
        return Err(JobError::Standing(
            "the input has rows with messages, and --api completions takes raw texts only: leave --api out, or give \
             the rows a prompt"
                .into(),
        ));
    }
    can_be_written(format(settings, source))
}

/// Can this program write that format?
pub(crate) fn can_be_written(format: Format) -> Result<(), JobError> {
    match format.lacks() {
        Some(why) => Err(JobError::Standing(format!("the output would be Parquet, and {why}"))),
        None => Ok(()),
    }
}

/// The answers' format: what was asked for, else what the output's ending names, else what the input is in.
pub(crate) fn format(settings: &settings::Settings, source: &Source) -> Format {
    let output = settings.output.as_ref().filter(|_| settings.reduce_template.is_none());
    let own = if source.openai_batch { Format::OpenaiBatch } else { Format::Jsonl };
    match settings.output_format {
        Some(OutputFormat::Jsonl) => Format::Jsonl,
        Some(OutputFormat::OpenaiBatch) => Format::OpenaiBatch,
        Some(OutputFormat::Csv) => Format::Csv,
        Some(OutputFormat::Parquet) => Format::Parquet,
        None => output.map_or(own, |output| own.unless_named(Path::new(output))),
    }
}

/// The rows' rules, from the settings.
pub(crate) fn rules(settings: &settings::Settings) -> Rules {
    Rules {
        template: settings.template.clone(),
        keep_row: settings.keep_row,
        model: settings.model.clone(),
        ignore_row_model: settings.ignore_row_model,
        bad_rows: match settings.bad_rows {
            settings::BadRows::Stop => input::BadRows::Stop,
            settings::BadRows::Fail => input::BadRows::Fail,
        },
        duplicate_ids: match settings.duplicate_ids {
            settings::DuplicateIds::Refuse => input::DuplicateIds::Refuse,
            settings::DuplicateIds::Keep => input::DuplicateIds::Keep,
        },
        defaults: settings.sampling(),
    }
}
