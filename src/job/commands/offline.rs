//! The commands `plan` and `merge`, which need neither MPI ranks nor servers. They read files only, also while a run is
//! active.
//!
//! `status` and `report` are files of their own ([`super::status`], [`super::report`]). Opening a run folder by name is
//! in [`run_folder`](crate::job::resume::run_folder).

use std::path::Path;

use super::preview::preview_run;
use crate::job::{
    Invocation, JobError, JobVerdict, PreconditionError,
    collect::{aggregate::aggregate_file_names, completion::CompletionState, gather::gather_solo},
    context::resolve_settings,
    resume::{
        existing_run::live_heartbeat,
        run_folder::{log_uncollected_answers, open_run},
    },
    root::open::{answer_format, check_format_writable, row_rules},
    setup::{run_plan::RequestedOutputs, scan::scan_alone},
};
use crate::{
    console::{self, PlanView, PlannedAction},
    output::{AnswerFormat, RunState},
    report::format::{format_flaws, pluralize},
    settings::{AggregateSpec, ResolvedSettings, SettingsError},
    site::NodeInfo,
};

/// Local. Writes the ordered output again from the run's shard files.
///
/// # Errors
/// Prompts are open and `partial` is not set, the format is not available, or a file cannot be read or written.
pub(crate) fn merge_shards(
    run: &str,
    partial: bool,
    to: Option<&str>,
    format: Option<AnswerFormat>,
    aggregate: Vec<AggregateSpec>,
) -> Result<JobVerdict, JobError> {
    let (folder, mut manifest) = open_run(run)?;
    let is_active = live_heartbeat(&folder, &NodeInfo::this_node().host).is_some();
    log_uncollected_answers(manifest.away.as_deref(), is_active);
    let (completion, lines) =
        CompletionState::from_folder_with_index(&folder, manifest.rows, &manifest.fingerprint)?;
    let counts = completion.outcome_counts(manifest.rows);
    if counts.open > 0 && !partial {
        let remedy = if is_active {
            "wait until the run ends"
        } else {
            "run the same command again to finish them"
        };
        return Err(PreconditionError::PromptsRemain {
            remaining: counts.open,
            submitted: pluralize(counts.submitted, "prompt"),
            remedy,
        }
        .into());
    }
    let format_of = |file| manifest.format.infer_from_path(Path::new(file));
    let format = format.unwrap_or_else(|| to.map_or(manifest.format, format_of));
    check_format_writable(format)?;
    // The output goes beside the run folder as it was named here: the path in the manifest may be relative to another
    // working directory.
    let run_output = folder.to_string_lossy();
    let run_output = run_output.strip_suffix(".run").unwrap_or(&run_output).to_owned();
    let output = match to {
        Some(output) => output.to_owned(),
        None if counts.open > 0 => format!("{run_output}.partial"),
        None => run_output.clone(),
    };
    if manifest.reduce.is_some() && output == run_output {
        return Err(PreconditionError::OutputIsReduceText(run_output).into());
    }
    let aggregate = if aggregate.is_empty() {
        serde_json::from_value(manifest.settings["aggregate"].clone()).unwrap_or_default()
    } else {
        aggregate
    };
    AggregateSpec::check_duplicates(&aggregate).map_err(SettingsError::usage)?;
    let outputs = RequestedOutputs {
        format: Some(format),
        aggregate: &aggregate,
        report: false,
        identity: manifest.identity(),
    };
    gather_solo(lines, &counts, Path::new(&output), &outputs)?;
    if counts.open == 0 && output == run_output && !is_active {
        // The run was killed during its gather, which was the last step: the merge completes it.
        manifest.state = RunState::Finished;
        manifest.counts = counts.clone();
        manifest.add_aggregates(&aggregate_file_names(&aggregate, Path::new(&output)));
        manifest.write_to(&folder)?;
    }
    let flaws = match format_flaws(counts.flaws) {
        none if none.is_empty() => none,
        flaws => format!(" ({flaws})"),
    };
    console::print_stdout(&format!(
        "{}{flaws}, {}, {} open: {output}\n",
        pluralize(counts.answered, "answer"),
        pluralize(counts.failed, "failure"),
        counts.open
    ));
    Ok(JobVerdict::Done)
}

/// Local. Prints what a run would do: the first prompt as it would be sent, counts, settings with their origins, and
/// the handling of an existing run. Writes nothing.
///
/// # Errors
/// The settings or the input are invalid, or an existing run cannot be read.
pub(crate) fn plan_run(invocation: Invocation, inputs: &[String]) -> Result<JobVerdict, JobError> {
    let Invocation { config, flags, environment, .. } = invocation;
    let ResolvedSettings { settings, origins } = resolve_settings(config, flags, &environment)?;
    let scratch = Path::new(environment.get("TMPDIR").unwrap_or("/tmp"))
        .join(format!("aurora-swarm-plan-{}", std::process::id()));
    let output = settings.output.as_deref().map(Path::new);
    let scanned = scan_alone(inputs, &row_rules(&settings), &scratch, output);
    // Removed before errors of the scan are returned.
    let _ = std::fs::remove_dir_all(&scratch);
    let scanned = scanned?;
    let action = preview_run(&settings, &scanned)?;
    let view = PlanView {
        rows: scanned.source.rows,
        files: scanned.source.files.len(),
        bytes: scanned.source.files.iter().map(|file| file.size).sum(),
        bad_rows: scanned.bad_rows.len(),
        data_fields: &scanned.data_columns,
        row_params: &scanned.row_params,
        answer_tokens: scanned.answer_tokens,
        unlimited_rows: scanned.unlimited_rows,
        notes: &scanned.notes,
        first_prompt: scanned.first_prompt.as_ref(),
        format: answer_format(&settings, &scanned.source),
        sampling: settings.sampling_params().to_json(),
        settings: serde_json::to_value(&settings).unwrap_or_default(),
        origins: &origins,
        action: &action,
    };
    console::print_stdout(&view.to_string());
    Ok(if matches!(action, PlannedAction::Refused(_)) {
        JobVerdict::Refused
    } else {
        JobVerdict::Done
    })
}
