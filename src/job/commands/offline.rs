//! The commands `plan` and `merge`, which need neither MPI ranks nor servers. They read files only, also while a run is active.
//!
//! `status` and `report` are files of their own ([`super::status`], [`super::report`]). Opening a run folder by name is in
//! [`run_folder`](crate::job::resume::run_folder).

use std::path::{Path, PathBuf};

use crate::job::{
    Invocation, JobError, JobVerdict,
    collect::{aggregate::aggregate_file_names, completion::CompletionState, gather::gather_solo},
    context::resolve_settings,
    resume::existing_run::live_heartbeat,
    resume::preview::preview_run,
    root::open::{answer_format, check_format_writable, row_rules},
    setup::{
        run_plan::{RequestedOutputs, run_folder},
        scan::scan_alone,
    },
};
use crate::{
    console::{self, PlanView, PlannedAction},
    output::{AnswerFormat, Heartbeat, Manifest, RunState},
    settings::{AggregateSpec, ResolvedSettings, SettingsError},
    site::NodeInfo,
};

/// Writes the ordered output again from the run's shard files. Local.
///
/// # Errors
/// Prompts are open and `partial` is not set, the format is not available, or a file cannot be read or written.
pub fn merge_shards(
    run: &str,
    partial: bool,
    to: Option<&str>,
    format: Option<AnswerFormat>,
    aggregate: Vec<AggregateSpec>,
) -> Result<JobVerdict, JobError> {
    let (folder, mut manifest) = open_run(run)?;
    let alive = live_heartbeat(&folder, &NodeInfo::this_node().host).is_some();
    log_uncollected_answers(manifest.away.as_deref(), alive);
    let (standing, lines) =
        CompletionState::from_folder_with_index(&folder, manifest.rows, &manifest.fingerprint)?;
    let counts = standing.outcome_counts(manifest.rows);
    if counts.open > 0 && !partial {
        return Err(JobError::PreconditionFailed(format!(
            "{} of {} prompts are open: run the same command again, or take what there is with --partial",
            counts.open, counts.submitted
        )));
    }
    let named = |file| manifest.format.infer_from_path(Path::new(file));
    let format = format.unwrap_or_else(|| to.map_or(manifest.format, named));
    check_format_writable(format)?;
    // The output goes beside the run folder as it was named here: the path in the manifest may be relative to another
    // working directory.
    let own = folder.to_string_lossy();
    let own = own.strip_suffix(".run").unwrap_or(&own).to_owned();
    let place = match to {
        Some(place) => place.to_owned(),
        None if counts.open > 0 => format!("{own}.partial"),
        None => own.clone(),
    };
    if manifest.reduce.is_some() && place == own {
        return Err(JobError::PreconditionFailed(format!(
            "{own} is the text of a reduce, which the same reduce command writes: name another file with --output, and it \
             gets the answers of the leaves"
        )));
    }
    let aggregate = match aggregate {
        none if none.is_empty() => {
            serde_json::from_value(manifest.settings["aggregate"].clone()).unwrap_or_default()
        }
        wanted => wanted,
    };
    AggregateSpec::check_duplicates(&aggregate).map_err(SettingsError::usage)?;
    let wanted = RequestedOutputs { format: Some(format), aggregate: &aggregate, report: false };
    gather_solo(lines, &counts, Path::new(&place), &wanted)?;
    if counts.open == 0 && place == own && !alive {
        // The run was killed during its gather, which was the last step: the merge completes it.
        manifest.state = RunState::Finished;
        manifest.counts = counts.clone();
        manifest.add_aggregates(&aggregate_file_names(&aggregate, Path::new(&place)));
        manifest.write_to(&folder)?;
    }
    console::print_stdout(&format!(
        "{} answers, {} failures, {} open: {place}\n",
        counts.answered, counts.failed, counts.open
    ));
    Ok(JobVerdict::Done)
}

/// Prints what a run would do: the first prompt as it would be sent, counts, settings with their origins, and the handling of
/// an existing run. Writes nothing. Local.
///
/// # Errors
/// The settings or the input are invalid, or an existing run cannot be read.
pub fn plan_run(given: Invocation, inputs: &[String]) -> Result<JobVerdict, JobError> {
    let Invocation { config, flags, environment, .. } = given;
    let ResolvedSettings { settings, origins } = resolve_settings(config, flags, &environment)?;
    let scratch = Path::new(environment.get("TMPDIR").unwrap_or("/tmp"))
        .join(format!("aurora-swarm-plan-{}", std::process::id()));
    let output = settings.output.as_deref().map(Path::new);
    let scanned = scan_alone(inputs, &row_rules(&settings), &scratch, output);
    let _ = std::fs::remove_dir_all(&scratch);
    let scanned = scanned?;
    let outlook = preview_run(&settings, &scanned)?;
    let view = PlanView {
        rows: scanned.source.rows,
        files: scanned.source.files.len(),
        bytes: scanned.source.files.iter().map(|file| file.size).sum(),
        bad_rows: scanned.bad_rows.len(),
        data_fields: &scanned.data_columns,
        notes: &scanned.notes,
        first_prompt: scanned.first_prompt.as_ref(),
        format: answer_format(&settings, &scanned.source),
        sampling: settings.sampling_params().to_json(),
        settings: serde_json::to_value(&settings).unwrap_or_default(),
        origins: &origins,
        action: &outlook,
    };
    console::print_stdout(&view.to_string());
    Ok(if matches!(outlook, PlannedAction::Refused(_)) {
        JobVerdict::Refused
    } else {
        JobVerdict::Done
    })
}

/// Logs that answers may be on nodes, where this process does not see them.
pub(crate) fn log_uncollected_answers(away: Option<&str>, alive: bool) {
    match away {
        Some(away) if alive => tracing::info!("answers of this start are in {away} of its nodes"),
        Some(away) => tracing::warn!(
            "more answers may be in {away} of the nodes of the last start: the same command on the same nodes brings them home"
        ),
        None => {}
    }
}

/// Opens a run that is named by its output file or by its folder.
///
/// # Errors
/// There is no manifest, or it cannot be read.
pub(crate) fn open_run(run: &str) -> Result<(PathBuf, Manifest), JobError> {
    let folder = resolve_run_folder(run);
    match Manifest::read_from(&folder)? {
        Some(manifest) => Ok((folder, manifest)),
        None => Err(no_run_error(&folder)),
    }
}

/// Returns the run folder for the name of an output file or of the folder itself.
pub(crate) fn resolve_run_folder(run: &str) -> PathBuf {
    let given = PathBuf::from(run.trim_end_matches('/'));
    let is_one = |file: &str| given.join(file).is_file();
    if is_one("manifest.json") || is_one(Heartbeat::FILE_NAME) { given } else { run_folder(&given) }
}

pub(crate) fn no_run_error(folder: &Path) -> JobError {
    JobError::PreconditionFailed(format!(
        "there is no run in {}: give the --output FILE of a run, or its folder FILE.run",
        folder.display()
    ))
}
