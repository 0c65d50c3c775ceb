//! Commands that need no ranks and no endpoints: `plan`, `status`, `merge`. They read files, also while a run works.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{
    Given, JobError, Verdict,
    agree::settled,
    brief::{is_alive, run_folder},
    gather::gather_alone,
    root::{format, rules},
    scan::read_over,
    standing::Standing,
};
use crate::{
    output::{Format, Manifest, State, now},
    report::{self, PlanView},
    settings::{AggregateWanted, Resolved, SettingsError},
    site::Node,
};

/// How a run stands, for people and for scripts.
#[derive(Debug, Serialize)]
struct Status<'a> {
    /// `running`, `stopped`, `finished`, or `lost`: it says running and nobody works on it.
    state: &'a str,
    #[serde(flatten)]
    counts: &'a crate::output::Counts,
    starts: u32,
    ranks: usize,
    host: &'a str,
    job: Option<&'a str>,
    model: Option<&'a str>,
    output: &'a str,
    /// Seconds since the manifest was written.
    written_s_ago: u64,
}

/// Local. Prints how the run stands; its verdict is the run's, so that scripts can ask for it as an exit code.
///
/// # Errors
/// Where there is no run.
pub fn status(run: &str, json: bool, verify: bool) -> Result<Verdict, JobError> {
    let (folder, mut manifest) = open(run)?;
    let alive = is_alive(&manifest, &Node::here().host);
    if verify || (manifest.state == State::Running && !alive) {
        let counted = Standing::of_folder(&folder, manifest.rows, &manifest.fingerprint)?;
        let counts = counted.counts(manifest.rows);
        if verify && manifest.state != State::Running && counts != manifest.counts {
            return Err(JobError::Standing(format!(
                "the manifest counts {:?} and the shard files hold {counts:?}: a file is damaged or missing; the same run \
                 command mends it",
                manifest.counts
            )));
        }
        manifest.counts = counts;
    }
    let counts = &manifest.counts;
    let state = match (manifest.state, alive) {
        (State::Running, true) => "running",
        (State::Running, false) => "lost",
        (State::Stopped, _) => "stopped",
        (State::Finished, _) => "finished",
    };
    let status = Status {
        state,
        counts,
        starts: manifest.starts,
        ranks: manifest.ranks,
        host: &manifest.host,
        job: manifest.job.as_deref(),
        model: manifest.model.as_deref(),
        output: &manifest.output,
        written_s_ago: now().saturating_sub(manifest.heartbeat),
    };
    report::print(&if json {
        serde_json::to_string_pretty(&status).unwrap_or_default() + "\n"
    } else {
        report::status_line(state, counts, &manifest)
    });
    Ok(match counts {
        // Everything answered and not yet gathered is not the end: the same command finishes it.
        it if it.open > 0 || manifest.state != State::Finished => Verdict::Open,
        it if it.failed > 0 => Verdict::SomeFailed,
        _ => Verdict::Done,
    })
}

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
    let (standing, lines) =
        Standing::of_folder_with_lines(&folder, manifest.rows, &manifest.fingerprint)?;
    let counts = standing.counts(manifest.rows);
    if counts.open > 0 && !partial {
        return Err(JobError::Standing(format!(
            "{} of {} prompts are open: run the same command again, or take what there is with --partial",
            counts.open, counts.submitted
        )));
    }
    let format = format.unwrap_or(manifest.format);
    // Beside the folder, wherever it is seen from: the manifest's own name may be relative to another place.
    let own = folder.to_string_lossy();
    let own = own.strip_suffix(".run").unwrap_or(&own).to_owned();
    let place = match to {
        Some(place) => place.to_owned(),
        None if counts.open > 0 => format!("{own}.partial"),
        None => own.clone(),
    };
    let aggregate = match aggregate {
        none if none.is_empty() => {
            serde_json::from_value(manifest.settings["aggregate"].clone()).unwrap_or_default()
        }
        wanted => wanted,
    };
    AggregateWanted::check(&aggregate).map_err(SettingsError::Contradiction)?;
    gather_alone(lines, &counts, Path::new(&place), Some(format), &aggregate)?;
    if counts.open == 0 && place == own && !is_alive(&manifest, &Node::here().host) {
        // A run that was killed while it gathered: this was the last step.
        manifest.state = State::Finished;
        manifest.counts = counts.clone();
        manifest.write(&folder)?;
    }
    report::print(&format!(
        "{} answers, {} failures, {} open: {place}\n",
        counts.answered, counts.failed, counts.open
    ));
    Ok(Verdict::Done)
}

/// Local. What a run would do: the first prompt as it would be asked, counts, settings with origins, what is done.
///
/// # Errors
/// As a run's beginning.
pub fn plan(given: Given, inputs: &[String]) -> Result<Verdict, JobError> {
    let Given { config, flags, environment, .. } = given;
    let Resolved { settings, origins } = settled(config, flags, &environment)?;
    let scratch = Path::new(environment.get("TMPDIR").unwrap_or("/tmp"))
        .join(format!("aurora-swarm-plan-{}", std::process::id()));
    let scanned = read_over(inputs, &rules(&settings), &scratch, 1);
    let _ = std::fs::remove_dir_all(&scratch);
    let scanned = scanned?;
    let done = match &settings.output {
        Some(output) => Manifest::read(&run_folder(Path::new(output)))?.map(|it| it.counts),
        None => None,
    };
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
        done: done.as_ref(),
    };
    report::print(&view.to_string());
    Ok(Verdict::Done)
}

/// A run by its output's name or its folder's.
fn open(run: &str) -> Result<(PathBuf, Manifest), JobError> {
    let given = PathBuf::from(run.trim_end_matches('/'));
    let folder = if given.join("manifest.json").is_file() { given } else { run_folder(&given) };
    match Manifest::read(&folder)? {
        Some(manifest) => Ok((folder, manifest)),
        None => Err(JobError::Standing(format!(
            "there is no run in {}: give the --output FILE of a run, or its folder FILE.run",
            folder.display()
        ))),
    }
}
