//! Commands that need no ranks and no endpoints besides `status`: `plan` and `merge`. They read files, also while a run
//! works.

use std::path::{Path, PathBuf};

use crate::job::{
    Given, JobError, Verdict,
    collect::{aggregate::names, completion::Standing, gather::gather_alone},
    context::settled,
    resume::preview::outlook,
    root::open::{can_be_written, format, rules},
    setup::{
        run_plan::{Wanted, at_work, run_folder},
        scan::read_over,
    },
};
use crate::{
    console::{self, Outlook, PlanView},
    output::{Format, Heartbeat, Manifest, State},
    settings::{AggregateWanted, Resolved, SettingsError},
    site::Node,
};

/// Local. The ordered output again, from the run's shard files.
///
/// # Errors
/// Where prompts are open, unless what there is was asked for.
pub fn merge(
    run: &str,
    partial: bool,
    to: Option<&str>,
    format: Option<Format>,
    aggregate: Vec<AggregateWanted>,
) -> Result<Verdict, JobError> {
    let (folder, mut manifest) = open(run)?;
    let alive = at_work(&folder, &Node::here().host).is_some();
    tell_of_what_is_away(manifest.away.as_deref(), alive);
    let (standing, lines) =
        Standing::of_folder_with_lines(&folder, manifest.rows, &manifest.fingerprint)?;
    let counts = standing.counts(manifest.rows);
    if counts.open > 0 && !partial {
        return Err(JobError::Standing(format!(
            "{} of {} prompts are open: run the same command again, or take what there is with --partial",
            counts.open, counts.submitted
        )));
    }
    let named = |file| manifest.format.unless_named(Path::new(file));
    let format = format.unwrap_or_else(|| to.map_or(manifest.format, named));
    can_be_written(format)?;
    // Beside the folder, wherever it is seen from: the manifest's own name may be relative to another place.
    let own = folder.to_string_lossy();
    let own = own.strip_suffix(".run").unwrap_or(&own).to_owned();
    let place = match to {
        Some(place) => place.to_owned(),
        None if counts.open > 0 => format!("{own}.partial"),
        None => own.clone(),
    };
    if manifest.reduce.is_some() && place == own {
        return Err(JobError::Standing(format!(
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
    AggregateWanted::check(&aggregate).map_err(SettingsError::Contradiction)?;
    let wanted = Wanted { format: Some(format), aggregate: &aggregate, report: false };
    gather_alone(lines, &counts, Path::new(&place), &wanted)?;
    if counts.open == 0 && place == own && !alive {
        // A run that was killed while it gathered: this was the last step.
        manifest.state = State::Finished;
        manifest.counts = counts.clone();
        manifest.makes(&names(&aggregate, Path::new(&place)));
        manifest.write(&folder)?;
    }
    console::print(&format!(
        "{} answers, {} failures, {} open: {place}\n",
        counts.answered, counts.failed, counts.open
    ));
    Ok(Verdict::Done)
}

/// Local. What a run would do: the first prompt as it would be asked, counts, settings with origins, what `run` would
/// do with what is there. Changes nothing.
///
/// # Errors
/// As a run's beginning.
pub fn plan(given: Given, inputs: &[String]) -> Result<Verdict, JobError> {
    let Given { config, flags, environment, .. } = given;
    let Resolved { settings, origins } = settled(config, flags, &environment)?;
    let scratch = Path::new(environment.get("TMPDIR").unwrap_or("/tmp"))
        .join(format!("aurora-swarm-plan-{}", std::process::id()));
    let output = settings.output.as_deref().map(Path::new);
    let scanned = read_over(inputs, &rules(&settings), &scratch, output);
    let _ = std::fs::remove_dir_all(&scratch);
    let scanned = scanned?;
    let outlook = outlook(&settings, &scanned)?;
    let view = PlanView {
        rows: scanned.source.rows,
        files: scanned.source.files.len(),
        bytes: scanned.source.files.iter().map(|file| file.size).sum(),
        bad: scanned.bad.len(),
        data: &scanned.data,
        notes: &scanned.notes,
        first: scanned.first.as_ref(),
        format: format(&settings, &scanned.source),
        sampling: settings.sampling().json(),
        settings: serde_json::to_value(&settings).unwrap_or_default(),
        origins: &origins,
        outlook: &outlook,
    };
    console::print(&view.to_string());
    Ok(if matches!(outlook, Outlook::Refused(_)) { Verdict::Refused } else { Verdict::Done })
}

/// Answers may lie where this process does not see them.
pub(crate) fn tell_of_what_is_away(away: Option<&str>, alive: bool) {
    match away {
        Some(away) if alive => tracing::info!("answers of this start are in {away} of its nodes"),
        Some(away) => tracing::warn!(
            "more answers may be in {away} of the nodes of the last start: the same command on the same nodes brings them home"
        ),
        None => {}
    }
}

/// A run by its output's name or its folder's.
pub(crate) fn open(run: &str) -> Result<(PathBuf, Manifest), JobError> {
    let folder = folder_of(run);
    match Manifest::read(&folder)? {
        Some(manifest) => Ok((folder, manifest)),
        None => Err(no_run(&folder)),
    }
}

/// The folder of a run that is named by its output or by its folder.
pub(crate) fn folder_of(run: &str) -> PathBuf {
    let given = PathBuf::from(run.trim_end_matches('/'));
    let is_one = |file: &str| given.join(file).is_file();
    if is_one("manifest.json") || is_one(Heartbeat::FILE) { given } else { run_folder(&given) }
}

pub(crate) fn no_run(folder: &Path) -> JobError {
    JobError::Standing(format!(
        "there is no run in {}: give the --output FILE of a run, or its folder FILE.run",
        folder.display()
    ))
}
