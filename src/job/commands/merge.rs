//! The command `merge`: writes the ordered output and aggregates again from a run's shard files, also while the run is
//! active.
//!
//! Owns the choice of the file and the rule that it replaces nothing but the run's own output, unless told to. Opening a
//! run folder by name is in [`run_folder`](crate::job::resume::run_folder).

use std::path::{Path, PathBuf};

use crate::job::{
    JobError, JobVerdict, PreconditionError,
    collect::{
        aggregate::{aggregate_file_names, aggregate_paths, read_aggregate_specs},
        completion::CompletionState,
        gather::gather_solo,
    },
    resume::{
        existing_run::live_heartbeat,
        run_folder::{log_uncollected_answers, open_run},
    },
    root::open::check_format_writable,
    setup::{
        output_place::{
            check_output_name, check_outside_runs, find_run_input, is_same_file, probe_output,
        },
        run_plan::RequestedOutputs,
    },
};
use crate::{
    console,
    output::{AnswerFormat, Manifest, OutputError, PromptCounts, RunState, partial_answers_path},
    report::format::{format_flaws, pluralize},
    settings::{AggregateSpec, SettingsError},
    site::NodeInfo,
};

/// What the command line of `merge` asks for.
pub(crate) struct MergeRequest {
    /// The run: its output or its folder.
    pub run: String,
    /// Merge although prompts remain.
    pub partial: bool,
    /// Replace an existing file that is not the run's own.
    pub overwrite: bool,
    /// Output file; default: the run's own, or the one beside it for the answers so far.
    pub output: Option<String>,
    pub format: Option<AnswerFormat>,
    /// Aggregates to compute; default: the run's.
    pub aggregate: Vec<AggregateSpec>,
}

/// The files that a merge writes.
struct MergeTarget {
    output: PathBuf,
    /// Format of the output; `None` if only aggregates are written.
    format: Option<AnswerFormat>,
    /// Those requested, and those that an earlier merge has written beside this output.
    aggregate: Vec<AggregateSpec>,
    /// True for the output that the run itself writes.
    is_run_output: bool,
    /// True if the name was not given and so belongs to the run.
    is_default: bool,
}

/// Local. Writes the ordered output again from the run's shard files.
///
/// # Errors
/// Prompts are open and `partial` is not set, the output must not be replaced, its format is not available, or a file
/// cannot be read or written.
pub(crate) fn merge_shards(request: &MergeRequest) -> Result<JobVerdict, JobError> {
    let (folder, mut manifest) = open_run(&request.run)?;
    let heartbeat = live_heartbeat(&folder, &NodeInfo::this_node().host);
    let is_active = heartbeat.is_some();
    log_uncollected_answers(manifest.away.as_deref(), is_active);
    let (completion, lines) =
        CompletionState::from_folder_with_index(&folder, manifest.rows, &manifest.fingerprint)?;
    let counts = completion.outcome_counts(manifest.rows);
    if counts.open > 0 && !request.partial {
        return Err(prompts_remain(&counts, is_active));
    }
    let target = MergeTarget::choose(request, &folder, &manifest, &counts)?;
    if let (true, Some(heartbeat)) = (target.is_run_output, heartbeat) {
        // The run is about to write this file itself.
        let (output, heartbeat) = (target.output, Box::new(heartbeat));
        return Err(PreconditionError::RunActive { output, heartbeat, folder }.into());
    }
    target.check_files(request, &manifest)?;
    let outputs = RequestedOutputs {
        format: target.format,
        aggregate: &target.aggregate,
        report: false,
        identity: manifest.identity(),
    };
    gather_solo(lines, &counts, &target.output, &outputs)?;
    if counts.open == 0 && target.is_run_output && !is_active {
        // The run was killed during its gather, which was the last step: the merge completes it.
        manifest.state = RunState::Finished;
        manifest.counts = counts.clone();
        manifest.add_aggregates(&aggregate_file_names(&target.aggregate, &target.output));
        manifest.write_to(&folder)?;
    }
    console::print_stdout(&target.describe(&counts));
    Ok(JobVerdict::Done)
}

fn prompts_remain(counts: &PromptCounts, is_active: bool) -> JobError {
    let remedy = if is_active {
        "wait until the run ends"
    } else {
        "run the same command again to finish them"
    };
    PreconditionError::PromptsRemain {
        remaining: counts.open,
        submitted: pluralize(counts.submitted, "prompt"),
        remedy,
    }
    .into()
}

impl MergeTarget {
    fn choose(
        request: &MergeRequest,
        folder: &Path,
        manifest: &Manifest,
        counts: &PromptCounts,
    ) -> Result<Self, JobError> {
        // The output goes beside the run folder as it was named here: the path in the manifest may be relative to another
        // working directory.
        let is_named_run = folder.extension().is_some_and(|it| it == "run");
        let run_output = if is_named_run { folder.with_extension("") } else { folder.to_owned() };
        let output = match &request.output {
            Some(output) => {
                check_output_name(output)?;
                check_outside_runs(Path::new(output))?;
                PathBuf::from(output)
            }
            None if counts.open > 0 => partial_answers_path(&run_output),
            None => run_output.clone(),
        };
        if output.is_dir() {
            return Err(PreconditionError::OutputIsFolder(output).into());
        }
        let is_run_output = is_same_file(&output, &run_output);
        if manifest.reduce.is_some() && is_run_output {
            let output = run_output.to_string_lossy().into_owned();
            return Err(PreconditionError::OutputIsReduceText(output).into());
        }
        // A run whose output was named otherwise than its format keeps its format.
        let requested = request.format.or(request.output.is_none().then_some(manifest.format));
        let format = match AnswerFormat::for_file(&output, requested, manifest.format) {
            Err(_) if request.output.is_none() && request.format.is_none() => Ok(manifest.format),
            chosen => chosen.map_err(SettingsError::usage),
        }?;
        check_format_writable(format)?;
        let only_aggregates = !request.aggregate.is_empty()
            && (request.output.is_none() && request.format.is_none())
            && (is_run_output && output.exists() && manifest.state == RunState::Finished);
        AggregateSpec::check_duplicates(&request.aggregate).map_err(SettingsError::usage)?;
        Ok(Self {
            aggregate: wanted_aggregates(request, manifest, &output),
            format: (!only_aggregates).then_some(format),
            is_default: request.output.is_none(),
            is_run_output,
            output,
        })
    }

    /// Checks that nothing is lost by writing the files, and that they can be written.
    fn check_files(&self, request: &MergeRequest, manifest: &Manifest) -> Result<(), JobError> {
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(OutputError::io_error("cannot resolve", path))
        };
        let aggregates = aggregate_paths(&self.aggregate, &self.output);
        for path in [&self.output].into_iter().chain(&aggregates).filter(|path| path.exists()) {
            let is_own = self.is_run_output || self.is_default;
            if let Some(input) = find_run_input(manifest, &absolute(path)?, is_own) {
                return Err(PreconditionError::OutputIsInput(input).into());
            }
        }
        let is_foreign = |path: &Path| !request.overwrite && path.exists();
        if is_foreign(&self.output) && !self.is_run_output && !self.is_default {
            return Err(PreconditionError::FileNotOwn(self.output.clone()).into());
        }
        // Aggregates belong to the answers beside which they are.
        let own_aggregates = read_aggregate_specs(&self.output);
        let own_paths = aggregate_paths(&own_aggregates, &self.output);
        let is_own = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            own_paths.contains(path)
                || (self.is_run_output && manifest.aggregates.iter().any(|it| *it == name))
        };
        if let Some(path) = aggregates.iter().find(|path| is_foreign(path) && !is_own(path)) {
            return Err(PreconditionError::FileNotOwn(path.clone()).into());
        }
        probe_output(&self.output, None, &aggregates)?;
        if let Some(parent) = self.output.parent().filter(|it| !it.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent)
                .map_err(OutputError::io_error("cannot create", parent))?;
        }
        Ok(())
    }

    fn describe(&self, counts: &PromptCounts) -> String {
        let answers = pluralize(counts.answered, "answer");
        let failures = pluralize(counts.failed, "failure");
        let flaws = match format_flaws(counts.flaws) {
            none if none.is_empty() => none,
            flaws => format!(" ({flaws})"),
        };
        let place = match self.format {
            Some(_) => format!(": {}", self.output.display()),
            None => String::new(),
        };
        let paths = aggregate_paths(&self.aggregate, &self.output);
        let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        let aggregates = match paths.is_empty() {
            true => String::new(),
            false => format!("aggregates: {}\n", paths.join(", ")),
        };
        format!("{answers}{flaws}, {failures}, {} open{place}\n{aggregates}", counts.open)
    }
}

/// Returns the aggregates to compute: those requested, else the run's, and those in the file that is replaced, which
/// would be lost otherwise. All are computed from the answers as they are now.
fn wanted_aggregates(
    request: &MergeRequest,
    manifest: &Manifest,
    output: &Path,
) -> Vec<AggregateSpec> {
    let mut wanted = request.aggregate.clone();
    if wanted.is_empty() {
        wanted = serde_json::from_value(manifest.settings["aggregate"].clone()).unwrap_or_default();
    }
    for earlier in read_aggregate_specs(output) {
        wanted.push(earlier);
        if AggregateSpec::check_duplicates(&wanted).is_err() {
            wanted.pop();
        }
    }
    wanted
}
