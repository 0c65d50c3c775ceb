//! The `status` command: derives the state of a run from its files alone, also while it is active, from another host, and after
//! a kill.
//!
//! Owns the interpretation of heartbeat (liveness), manifest and shard files taken together, and when `--follow` ends. Writes
//! nothing. The heartbeat is written by [`root::heartbeat`](crate::job::root::heartbeat), and lines and tables are formatted
//! in [`console`].

use std::{
    path::Path,
    time::{Duration, Instant},
};

use super::offline::{log_uncollected_answers, no_run_error, resolve_run_folder};
use crate::job::{
    JobError, JobVerdict, collect::completion::CompletionState,
    resume::existing_run::live_heartbeat, setup::run_plan::run_folder,
    tree_reduce::level::LevelFiles,
};
use crate::{
    console::{self, StatusView},
    output::{
        Heartbeat, Manifest, PromptCounts, RecentThroughput, RunActivity, RunPhase, RunState,
        unix_seconds,
    },
    site::NodeInfo,
};

/// Intervals of `status --follow`.
#[derive(Clone, Copy, Debug)]
pub struct FollowOptions {
    /// Time between two reads of the run's files; at least 100 ms.
    pub interval: Duration,
    /// Longest wait for a run that has not started yet.
    pub start_timeout: Duration,
}

/// Number of consecutive failed reads that are taken for a transient condition, such as a file being replaced.
const MAX_READ_FAILURES: u32 = 3;
/// Lower limit of the follow interval: the files are on a shared file system.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// Prints the state of a run and returns the run's verdict, which scripts can request as an exit code. Local.
///
/// # Errors
/// There is no run, its files cannot be read, or, with `verify`, its shard files do not match the counts of the manifest.
pub fn show_status(run: &str, json: bool, verify: bool) -> Result<JobVerdict, JobError> {
    let folder = resolve_run_folder(run);
    let view = read_status(&folder)?.ok_or_else(|| no_run_error(&folder))?;
    let view = verify_counts(&folder, view, verify)?;
    log_uncollected_answers(view.away.as_deref(), view.state.is_active());
    let lines = || view.status_line() + "\n" + &describe_levels(&folder, &view);
    console::print_stdout(&if json { view.to_json(false) + "\n" } else { lines() });
    Ok(status_verdict(&view))
}

/// Prints the state of a run at an interval until the run has ended. Local.
///
/// # Errors
/// As [`show_status`]; a missing run is an error only after `pursuit.start_timeout`.
pub fn follow_status(
    run: &str,
    json: bool,
    verify: bool,
    pursuit: FollowOptions,
) -> Result<JobVerdict, JobError> {
    let every = pursuit.interval.max(MIN_INTERVAL);
    let mut screen = console::StatusFollower::new(json);
    let begun = wait_for_run(run, every, pursuit.start_timeout)?;
    let folder = resolve_run_folder(run);
    let (mut view, mut failures, mut ended) = (begun, 0, 0);
    loop {
        // A run counts as lost only if it is read so twice: one read may fall between the replacement of two files, or see
        // a stale copy of one.
        ended = if view.state.is_active() { 0 } else { ended + 1 };
        if ended > 0 && (view.state != RunPhase::Lost || ended > 1) {
            break;
        }
        if ended == 0 && !screen.show_update(&view) {
            return Ok(status_verdict(&view));
        }
        std::thread::sleep(every);
        match read_status(&folder) {
            Ok(Some(seen)) => (view, failures) = (seen, 0),
            Ok(None) | Err(_) if failures < MAX_READ_FAILURES => failures += 1,
            Ok(None) => return Err(no_run_error(&folder)),
            Err(error) => return Err(error),
        }
    }
    let view = verify_counts(&folder, view, verify)?;
    log_uncollected_answers(view.away.as_deref(), view.state.is_active());
    screen.show_update(&view);
    screen.finish_line(&view);
    Ok(status_verdict(&view))
}

/// Returns the first view of the run, waiting for the run to appear if necessary.
fn wait_for_run(run: &str, every: Duration, wait: Duration) -> Result<StatusView, JobError> {
    let began = Instant::now();
    let mut told = false;
    loop {
        let folder = resolve_run_folder(run);
        if let Some(view) = read_status(&folder)? {
            return Ok(view);
        }
        if began.elapsed() >= wait {
            return Err(no_run_error(&folder));
        }
        if !std::mem::replace(&mut told, true) {
            console::print_notice(&format!(
                "there is no run in {} yet: it is waited for, for {}",
                folder.display(),
                crate::settings::HumanDuration::from_millis(wait.as_millis() as u64)
            ));
        }
        std::thread::sleep(every.min(wait));
    }
}

/// Reads the state of the run from its files; `None` if there is no run.
fn read_status(folder: &Path) -> Result<Option<StatusView>, JobError> {
    let host = NodeInfo::this_node().host;
    // The heartbeat is read first: at the end of a run it is removed only after the manifest has its final state, so a read
    // in between shows the run as active and not as lost.
    let look = || {
        let beat = live_heartbeat(folder, &host);
        Ok::<_, JobError>(Manifest::read_from(folder)?.map_or_else(
            || beat.as_ref().map(|beat| starting_view(folder, beat)),
            |manifest| Some(status_view(folder, manifest, beat.as_ref())),
        ))
    };
    match look()? {
        // A new session may have begun between the two reads.
        Some(it) if it.state == RunPhase::Lost => look(),
        seen => Ok(seen),
    }
}

/// Returns the view of a run that has a heartbeat and no manifest yet.
fn starting_view(folder: &Path, beat: &Heartbeat) -> StatusView {
    let mut manifest = Manifest::for_new_run("", 0, "");
    manifest.starts = beat.start;
    manifest.written = unix_seconds();
    StatusView { state: RunPhase::Begins, ..status_view(folder, manifest, Some(beat)) }
}

fn status_view(folder: &Path, manifest: Manifest, beat: Option<&Heartbeat>) -> StatusView {
    let state = match (beat, manifest.state) {
        (Some(_), _) => RunPhase::Running,
        (None, RunState::Running) => RunPhase::Lost,
        (None, RunState::Stopped) => RunPhase::Stopped,
        (None, RunState::Finished) => RunPhase::Finished,
    };
    let start = beat.map_or(manifest.starts, |beat| beat.start.max(manifest.starts));
    // After a migration and before the session begins, the heartbeat still has the number of the migrated answers.
    let carries = beat.is_some() && start > 1 && start == manifest.first_valid_start();
    let starts = manifest.count_starts_until(if carries { start + 1 } else { start });
    let asks = beat.is_some_and(|beat| beat.doing == RunActivity::Asking);
    let pace = asks.then(|| RecentThroughput::over_last_minute(folder, start)).flatten();
    let rate = pace.map(|pace| pace.prompts_per_s);
    let left = rate.filter(|rate| *rate > 0.0).map(|rate| manifest.counts.open as f64 / rate);
    StatusView {
        state,
        doing: beat.map(|beat| beat.doing),
        prompts_per_s: rate,
        tokens_per_s: pace.map(|pace| pace.tokens_per_s),
        left_s: left,
        in_flight: pace.map(|pace| pace.in_flight),
        endpoints_up: pace.map(|pace| pace.endpoints_up),
        counts: manifest.counts,
        starts,
        ranks: manifest.ranks,
        lost: manifest.lost,
        away: manifest.away,
        reduce: manifest.reduce,
        host: beat.map_or(manifest.host, |beat| beat.host.clone()),
        pid: beat.map_or(manifest.pid, |beat| beat.pid),
        job: beat.map_or(manifest.job, |beat| beat.job.clone()),
        model: manifest.model,
        api: manifest.api,
        output: manifest.output,
        folder: std::path::absolute(folder).unwrap_or_default().to_string_lossy().into_owned(),
        began: beat.map_or(manifest.began, |beat| beat.began),
        seconds: manifest.seconds,
        requests: manifest.requests,
        written_s_ago: unix_seconds().saturating_sub(manifest.written),
        heartbeat_s_ago: beat.map(Heartbeat::age_s),
    }
}

/// Replaces the counts by those of the shard files, if the manifest's may be outdated (the run is lost) or `verify` is set.
fn verify_counts(
    folder: &Path,
    mut view: StatusView,
    verify: bool,
) -> Result<StatusView, JobError> {
    let behind = matches!(view.state, RunPhase::Running | RunPhase::Lost);
    if view.state == RunPhase::Begins || !(verify || view.state == RunPhase::Lost) {
        return Ok(view);
    }
    let Some(manifest) = Manifest::read_from(folder)? else { return Ok(view) };
    let standing = CompletionState::from_folder(folder, manifest.rows, &manifest.fingerprint)?;
    let counts = standing.outcome_counts(manifest.rows);
    if !behind && manifest.away.is_none() && counts != manifest.counts {
        return Err(JobError::PreconditionFailed(format!(
            "the manifest of {} counts {}, and its shard files hold {}: a file is damaged or missing. The same run command \
             asks again what is missing",
            folder.display(),
            describe_counts(&manifest.counts),
            describe_counts(&counts)
        )));
    }
    view.counts = counts;
    Ok(view)
}

fn describe_counts(counts: &PromptCounts) -> String {
    format!("{} answered and {} failed", counts.answered, counts.failed)
}

fn status_verdict(view: &StatusView) -> JobVerdict {
    match &view.counts {
        // With every prompt done but the output not gathered, the same command still has something to do.
        it if it.open > 0 || view.state != RunPhase::Finished => JobVerdict::PromptsOpen,
        it if it.failed > 0 => JobVerdict::SomeFailed,
        _ if view.reduce.is_some_and(|tree| !tree.text || tree.missing > 0) => {
            JobVerdict::SomeFailed
        }
        _ => JobVerdict::Done,
    }
}

/// Returns, for a reduce, its result or progress and one line per level that has a run.
fn describe_levels(folder: &Path, leaves: &StatusView) -> String {
    let Some(tree) = &leaves.reduce else { return String::new() };
    let mut lines = match leaves.state {
        RunPhase::Finished => console::reduce_summary_line(tree, &leaves.output),
        _ => format!(
            "these are the leaves; the tree is at level {} of {}\n",
            tree.level, tree.levels
        ),
    };
    for level in 1..=tree.levels {
        // A level without prompts has no run. An unreadable one is left out here and reported by its own `status`.
        if let Ok(Some(view)) =
            read_status(&run_folder(&LevelFiles::for_level(folder, level).run_output))
        {
            lines += &format!("level {level}: {}\n", view.status_line());
        }
    }
    lines
}
