//! Commands that need no ranks and no endpoints: `plan`, `status`, `merge`. They read files, also while a run works.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{
    Given, JobError, Verdict,
    agree::settled,
    brief::{is_alive, run_folder},
    gather::gather_alone,
    level::Place,
    root::{format, rules},
    scan::read_over,
    standing::Standing,
};
use crate::{
    output::{Format, Manifest, OutputFile, State, TreeStands, now},
    report::{self, PlanView},
    settings::Resolved,
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
    /// Of a reduce: the tree above these prompts.
    #[serde(skip_serializing_if = "Option::is_none")]
    reduce: Option<TreeStands>,
    /// Seconds since the manifest was written.
    written_s_ago: u64,
}

/// Local. Prints how the run stands; its verdict is the run's, so that scripts can ask for it as an exit code.
///
/// # Errors
/// Where there is no run.
pub fn status(run: &str, json: bool, verify: bool) -> Result<Verdict, JobError> {
    let (folder, mut manifest) = open(run)?;
    let alive = is_worked_on(&folder, &manifest);
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
        reduce: manifest.reduce,
        written_s_ago: now().saturating_sub(manifest.heartbeat),
    };
    report::print(&if json {
        serde_json::to_string_pretty(&status).unwrap_or_default() + "\n"
    } else {
        report::status_line(state, counts, &manifest) + &levels(&folder, &manifest)
    });
    let is_whole = manifest.reduce.is_none_or(|tree| tree.text && tree.missing == 0);
    Ok(match counts {
        // Everything answered and not yet gathered is not the end: the same command finishes it.
        it if it.open > 0 || manifest.state != State::Finished => Verdict::Open,
        it if it.failed > 0 || !is_whole => Verdict::SomeFailed,
        _ => Verdict::Done,
    })
}

/// Of a reduce: how each level stands, a line each, and what came of them.
fn levels(folder: &Path, manifest: &Manifest) -> String {
    let Some(tree) = manifest.reduce else { return String::new() };
    let mut lines = match manifest.state {
        State::Finished => report::tree_line(&tree, &manifest.output),
        _ => format!(
            "these are the leaves; the tree is at level {} of {}\n",
            tree.level, tree.levels
        ),
    };
    for level in 1..=tree.levels {
        let place = run_folder(&Place::of(folder, level).output);
        // A level without prompts has no run; one that cannot be read is told by its own status.
        if let Ok(Some(its)) = Manifest::read(&place) {
            let state = match its.state {
                State::Running if is_alive(&its, &Node::here().host) => "running",
                State::Running => "lost",
                State::Stopped => "stopped",
                State::Finished => "finished",
            };
            lines += &format!("level {level}: {}", report::status_line(state, &its.counts, &its));
        }
    }
    lines
}

/// Is anybody working on it, of a reduce on any of its levels?
fn is_worked_on(folder: &Path, manifest: &Manifest) -> bool {
    let host = Node::here().host;
    let level = manifest.reduce.map_or(0, |tree| tree.level);
    let its = || Manifest::read(&run_folder(&Place::of(folder, level).output)).ok().flatten();
    is_alive(manifest, &host) || (level > 0 && its().is_some_and(|it| is_alive(&it, &host)))
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
    if manifest.reduce.is_some() && place == own {
        return Err(JobError::Standing(format!(
            "{own} is the text of a reduce, which the same reduce command writes: name another file with --output, and it \
             gets the answers of the leaves"
        )));
    }
    let mut output = OutputFile::create(Path::new(&place), format)?;
    gather_alone(lines, manifest.rows, &mut output)?;
    output.finish()?;
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
