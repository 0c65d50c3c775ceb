//! Commands that need no ranks and no endpoints besides `status`: `plan` and `merge`. They read files, also while a run
//! works.

use std::path::{Path, PathBuf};

use crate::job::{
    Invocation, JobError, JobVerdict,
    collect::{aggregate::aggregate_file_names, completion::CompletionState, gather::gather_solo},
    context::resolve_settings,
    resume::preview::preview_run,
    root::open::{answer_format, check_format_writable, row_rules},
    setup::{
        run_plan::{RequestedOutputs, live_heartbeat, run_folder},
        scan::scan_alone,
    },
};
use crate::{
    console::{self, PlanView, PlannedAction},
    output::{AnswerFormat, Heartbeat, Manifest, RunState},
    settings::{AggregateSpec, ResolvedSettings, SettingsError},
    site::NodeInfo,
};

/// Local. The ordered output again, from the run's shard files.
///
/// # Errors
/// Where prompts are open, unless what there is was asked for.
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
    let counts = standing.counts(manifest.rows);
    if counts.open > 0 && !partial {
        return Err(JobError::PreconditionFailed(format!(
            "{} of {} prompts are open: run the same command again, or take what there is with --partial",
            counts.open, counts.submitted
        )));
    }
    let named = |file| manifest.format.infer_from_path(Path::new(file));
    let format = format.unwrap_or_else(|| to.map_or(manifest.format, named));
    check_format_writable(format)?;
    // Beside the folder, wherever it is seen from: the manifest's own name may be relative to another place.
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
    AggregateSpec::check(&aggregate).map_err(SettingsError::Conflict)?;
    let wanted = RequestedOutputs { format: Some(format), aggregate: &aggregate, report: false };
    gather_solo(lines, &counts, Path::new(&place), &wanted)?;
    if counts.open == 0 && place == own && !alive {
        // A run that was killed while it gathered: this was the last step.
        manifest.state = RunState::Finished;
        manifest.counts = counts.clone();
        manifest.add_aggregates(&aggregate_file_names(&aggregate, Path::new(&place)));
        manifest.write(&folder)?;
    }
    console::print_stdout(&format!(
        "{} answers, {} failures, {} open: {place}\n",
        counts.answered, counts.failed, counts.open
    ));
    Ok(JobVerdict::Done)
}

/// Local. What a run would do: the first prompt as it would be asked, counts, settings with origins, what `run` would
/// do with what is there. Changes nothing.
///
/// # Errors
/// As a run's beginning.
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
        data: &scanned.data_columns,
        notes: &scanned.notes,
        first: scanned.first.as_ref(),
        format: answer_format(&settings, &scanned.source),
        sampling: settings.sampling_params().json(),
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

/// Answers may lie where this process does not see them.
pub(crate) fn log_uncollected_answers(away: Option<&str>, alive: bool) {
    match away {
        Some(away) if alive => tracing::info!("answers of this start are in {away} of its nodes"),
        Some(away) => tracing::warn!(
            "more answers may be in {away} of the nodes of the last start: the same command on the same nodes brings them home"
        ),
        None => {}
    }
}

/// A run by its output's name or its folder's.
pub(crate) fn open_run(run: &str) -> Result<(PathBuf, Manifest), JobError> {
    let folder = resolve_run_folder(run);
    match Manifest::read(&folder)? {
        Some(manifest) => Ok((folder, manifest)),
        None => Err(no_run_error(&folder)),
    }
}

/// The folder of a run that is named by its output or by its folder.
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
