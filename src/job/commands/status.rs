//! The `status` command: derives the state of a run from its files alone, also while it is active, from another host,
//! and after a kill.
//!
//! Owns the interpretation of heartbeat (liveness), manifest and shard files taken together, and when `--follow` ends.
//! Writes nothing. The heartbeat is written by [`root::heartbeat`](crate::job::root::heartbeat), and lines and tables
//! are formatted in [`console`].

use std::{
    path::Path,
    time::{Duration, Instant},
};

use crate::job::{
    JobError, JobVerdict, PreconditionError,
    collect::completion::CompletionState,
    collect::level_files::LevelFiles,
    resume::{
        existing_run::live_heartbeat,
        run_folder::{log_uncollected_answers, no_run_error, resolve_run_folder},
    },
    setup::run_plan::run_folder,
};
use crate::{
    console::{self, StatusView},
    output::{
        Heartbeat, Manifest, PromptCounts, RecentThroughput, RunActivity, RunPhase, RunState,
        unix_seconds,
    },
    settings::HumanDuration,
    site::NodeInfo,
};

/// Intervals of `status --follow`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FollowOptions {
    /// Time between two reads of the run's files; at least 100 ms.
    pub interval: Duration,
    /// Longest wait for a run that has not started yet.
    pub start_timeout: Duration,
}

/// Number of consecutive failed reads that are taken for a transient condition, such as a file being replaced.
const MAX_READ_FAILURES: u32 = 3;
/// Lower limit of the follow interval: the files are on a shared file system.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// Local. Prints the state of a run and returns the run's verdict, which scripts can request as an exit code.
///
/// # Errors
/// There is no run, its files cannot be read, or, with `verify`, its shard files do not match the counts of the
/// manifest.
pub(crate) fn show_status(run: &str, json: bool, verify: bool) -> Result<JobVerdict, JobError> {
    let folder = resolve_run_folder(run);
    let view = read_status(&folder)?.ok_or_else(|| no_run_error(&folder))?;
    let view = verify_counts(&folder, view, verify)?;
    log_uncollected_answers(view.away.as_deref(), view.state.is_active());
    let text = || view.status_line() + "\n" + &describe_levels(&folder, &view);
    console::print_stdout(&if json { view.to_json(false) + "\n" } else { text() });
    Ok(status_verdict(&view))
}

/// Local. Prints the state of a run at an interval until the run has ended.
///
/// # Errors
/// As [`show_status`]; a missing run is an error only after `options.start_timeout`.
pub(crate) fn follow_status(
    run: &str,
    json: bool,
    verify: bool,
    options: FollowOptions,
) -> Result<JobVerdict, JobError> {
    let interval = options.interval.max(MIN_INTERVAL);
    let mut screen = console::StatusFollower::new(json);
    let first_view = wait_for_run(run, interval, options.start_timeout)?;
    let folder = resolve_run_folder(run);
    let (mut view, mut failures, mut ended_reads) = (first_view, 0, 0);
    loop {
        // A run counts as lost only if it is read so twice: one read may fall between the replacement of two files, or
        // see a stale copy of one.
        ended_reads = if view.state.is_active() { 0 } else { ended_reads + 1 };
        if ended_reads > 0 && (view.state != RunPhase::Lost || ended_reads > 1) {
            break;
        }
        if ended_reads == 0 && !screen.show_update(&view) {
            return Ok(status_verdict(&view));
        }
        std::thread::sleep(interval);
        match read_status(&folder) {
            Ok(Some(new_view)) => (view, failures) = (new_view, 0),
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

/// Returns the first view of the run, waiting up to `timeout` for the run to appear.
fn wait_for_run(run: &str, interval: Duration, timeout: Duration) -> Result<StatusView, JobError> {
    let began = Instant::now();
    let mut is_announced = false;
    loop {
        // Resolved in every round: whether `run` names the output or the folder may show only once the run exists.
        let folder = resolve_run_folder(run);
        if let Some(view) = read_status(&folder)? {
            return Ok(view);
        }
        if began.elapsed() >= timeout {
            return Err(no_run_error(&folder));
        }
        if !std::mem::replace(&mut is_announced, true) {
            console::print_progress(&format!(
                "waiting up to {} for a run in {}",
                HumanDuration::from_millis(timeout.as_millis() as u64),
                folder.display()
            ));
        }
        std::thread::sleep(interval.min(timeout));
    }
}

/// Reads the state of the run from its files; `None` if there is no run.
fn read_status(folder: &Path) -> Result<Option<StatusView>, JobError> {
    let host = NodeInfo::this_node().host;
    // The heartbeat is read first: at the end of a run it is removed only after the manifest has its final state, so a
    // read in between shows the run as active and not as lost.
    let read_files = || {
        let heartbeat = live_heartbeat(folder, &host);
        Ok::<_, JobError>(Manifest::read_from(folder)?.map_or_else(
            || heartbeat.as_ref().map(|heartbeat| starting_view(folder, heartbeat)),
            |manifest| Some(status_view(folder, manifest, heartbeat.as_ref())),
        ))
    };
    match read_files()? {
        // A new session may have begun between the two reads.
        Some(view) if view.state == RunPhase::Lost => read_files(),
        view => Ok(view),
    }
}

/// Returns the view of a run that has a heartbeat and no manifest yet.
fn starting_view(folder: &Path, heartbeat: &Heartbeat) -> StatusView {
    let mut manifest = Manifest::for_new_run("", 0, "");
    manifest.starts = heartbeat.start;
    manifest.written = unix_seconds();
    StatusView { state: RunPhase::Begins, ..status_view(folder, manifest, Some(heartbeat)) }
}

fn status_view(folder: &Path, manifest: Manifest, heartbeat: Option<&Heartbeat>) -> StatusView {
    let state = match (heartbeat, manifest.state) {
        (Some(_), _) => RunPhase::Running,
        (None, RunState::Running) => RunPhase::Lost,
        (None, RunState::Stopped) => RunPhase::Stopped,
        (None, RunState::Finished) => RunPhase::Finished,
    };
    let start = heartbeat.map_or(manifest.starts, |heartbeat| heartbeat.start.max(manifest.starts));
    // After a migration and before the session begins, the heartbeat still has the number of the migrated answers.
    let is_migrating = heartbeat.is_some() && start > 1 && start == manifest.first_valid_start();
    let starts = manifest.count_starts_until(if is_migrating { start + 1 } else { start });
    let is_asking = heartbeat.is_some_and(|heartbeat| heartbeat.doing == RunActivity::Asking);
    let throughput = is_asking.then(|| RecentThroughput::over_last_minute(folder, start)).flatten();
    let prompts_per_s = throughput.map(|throughput| throughput.prompts_per_s);
    let left_s = prompts_per_s
        .filter(|prompts_per_s| *prompts_per_s > 0.0)
        .map(|prompts_per_s| manifest.counts.open as f64 / prompts_per_s);
    StatusView {
        state,
        doing: heartbeat.map(|heartbeat| heartbeat.doing),
        prompts_per_s,
        tokens_per_s: throughput.map(|throughput| throughput.tokens_per_s),
        left_s,
        in_flight: throughput.map(|throughput| throughput.in_flight),
        endpoints_up: throughput.map(|throughput| throughput.endpoints_up),
        // While the servers are awaited, the manifest still has the counts of the earlier sessions.
        counts: if heartbeat.is_some_and(|it| it.doing == RunActivity::AwaitingEndpoints) {
            manifest.counts.with_resent(manifest.resent)
        } else {
            manifest.counts
        },
        resent: heartbeat.map_or(0, |_| manifest.resent),
        starts,
        ranks: manifest.ranks,
        lost: manifest.lost,
        away: manifest.away,
        reduce: manifest.reduce,
        host: heartbeat.map_or(manifest.host, |heartbeat| heartbeat.host.clone()),
        pid: heartbeat.map_or(manifest.pid, |heartbeat| heartbeat.pid),
        job: heartbeat.map_or(manifest.job, |heartbeat| heartbeat.job.clone()),
        model: manifest.model,
        api: manifest.api,
        output: manifest.output,
        folder: std::path::absolute(folder).unwrap_or_default().to_string_lossy().into_owned(),
        began: heartbeat.map_or(manifest.began, |heartbeat| heartbeat.began),
        seconds: manifest.seconds,
        requests: manifest.requests,
        written_s_ago: unix_seconds().saturating_sub(manifest.written),
        heartbeat_s_ago: heartbeat.map(Heartbeat::age_s),
    }
}

/// Replaces the counts by those of the shard files, if the manifest's may be outdated (the run is lost) or `verify` is
/// set.
fn verify_counts(
    folder: &Path,
    mut view: StatusView,
    verify: bool,
) -> Result<StatusView, JobError> {
    let is_outdated = matches!(view.state, RunPhase::Running | RunPhase::Lost);
    if view.state == RunPhase::Begins || !(verify || view.state == RunPhase::Lost) {
        return Ok(view);
    }
    let Some(manifest) = Manifest::read_from(folder)? else { return Ok(view) };
    let completion = CompletionState::from_folder(folder, manifest.rows, &manifest.fingerprint)?;
    let counts = completion.outcome_counts(manifest.rows);
    // Answers that are still on the nodes would explain a difference.
    // Manifests of earlier versions do not count flaws.
    let flaws = manifest.counts.flaws;
    let recounted = PromptCounts { flaws, ..counts };
    if !is_outdated && manifest.away.is_none() && recounted != manifest.counts {
        return Err(PreconditionError::CountsDiffer {
            folder: folder.to_owned(),
            manifest: describe_counts(&manifest.counts),
            shards: describe_counts(&counts),
        }
        .into());
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
        counts if counts.open > 0 || view.state != RunPhase::Finished => JobVerdict::PromptsOpen,
        counts if counts.failed > 0 => JobVerdict::SomeFailed,
        _ if view.reduce.is_some_and(|tree| !tree.is_complete()) => JobVerdict::SomeFailed,
        _ => JobVerdict::Done,
    }
}

/// Returns, for a reduce, its result or progress and one line per level that has a run.
fn describe_levels(folder: &Path, leaves: &StatusView) -> String {
    let Some(tree) = &leaves.reduce else { return String::new() };
    let mut lines = match leaves.state {
        RunPhase::Finished => console::reduce_summary_line(tree, &leaves.output),
        _ => format!(
            "reduce: at level {} of {} (the line above counts the leaves)\n",
            tree.level, tree.levels
        ),
    };
    for level in 1..=tree.levels {
        // A level without prompts has no run. An unreadable one is left out here and reported by its own `status`.
        let level_folder = run_folder(&LevelFiles::for_level(folder, level).run_output);
        if let Ok(Some(view)) = read_status(&level_folder) {
            lines += &format!("level {level}: {}\n", view.status_line());
        }
    }
    lines
}
