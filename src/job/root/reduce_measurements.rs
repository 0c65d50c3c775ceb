//! The report's data on a reduce: statistics of its passes, combined with the level files.
//!
//! Owns the source of each number of a tree. A level's run is an ordinary run with a manifest and counts. The
//! composition of its groups is recorded in the level's own files, and whether a group has a text in those of the level
//! above. How the numbers are shown is the business of [`report`](crate::report).

use std::path::Path;

use crate::job::{
    JobError,
    collect::{
        gather::remeasure_run,
        level_files::{LevelFileKind, LevelFiles, read_groups},
    },
    setup::run_plan::run_folder,
};
use crate::{
    metrics::AnswerStats,
    output::{Manifest, ReduceProgress, read_samples, read_timelines},
    reduce::ReduceTree,
    report::{GroupCounts, LevelRun, ReduceLevelSource, ReduceSource},
};

/// Answer statistics of the passes of a reduce, on rank 0. `None` stands for statistics still to be read from the
/// files.
#[derive(Debug, Default)]
pub(crate) struct PassMeasurements {
    pub(crate) leaves: Option<AnswerStats>,
    /// One entry per level, beginning with level 1.
    pub(crate) levels: Vec<Option<AnswerStats>>,
}

/// Local. Returns the report's data on the tree above the leaves of this run; `None` if the run is not a reduce.
pub(crate) fn tree_source(
    folder: &Path,
    leaves: &Manifest,
    statistics: Vec<Option<AnswerStats>>,
) -> Result<Option<ReduceSource>, JobError> {
    let Some(progress) = leaves.reduce else { return Ok(None) };
    let fan_in = leaves.settings.get("fan-in").and_then(serde_json::Value::as_u64).unwrap_or(2);
    let tree = ReduceTree::new(leaves.rows, fan_in);
    let mut statistics = statistics.into_iter();
    let level_count = if leaves.rows == 0 { 0 } else { tree.level_count() };
    let levels = (1..=level_count)
        .map(|level| level_source(folder, tree, &progress, level, statistics.next().flatten()))
        .collect::<Result<_, _>>()?;
    let leaves_failed = count_missing_nodes(folder, &progress, 1)?;
    Ok(Some(ReduceSource { fan_in, progress, leaves_failed, levels }))
}

fn level_source(
    folder: &Path,
    tree: ReduceTree,
    progress: &ReduceProgress,
    level: u32,
    statistics: Option<AnswerStats>,
) -> Result<ReduceLevelSource, JobError> {
    let files = LevelFiles::for_level(folder, level);
    let mut source =
        ReduceLevelSource { level, nodes: tree.node_count(level), ..ReduceLevelSource::default() };
    // Files of a level that has not been reached are left over from an earlier build.
    let Some(build_s) = files.build_seconds().filter(|_| level <= progress.level) else {
        return Ok(source);
    };
    let mut groups = GroupCounts { build_s, ..GroupCounts::default() };
    read_groups(&files.list_files(LevelFileKind::Groups)?, |group| {
        match group.texts {
            0 => groups.empty += 1,
            1 => groups.passed_up += 1,
            _ => groups.prompted += 1,
        }
        groups.cut += u64::from(group.cut > 0);
        Ok(())
    })?;
    let without_text = if level == tree.level_count() {
        is_tree_finished(progress).then(|| u64::from(!progress.text))
    } else {
        count_missing_nodes(folder, progress, level + 1)?
    };
    // Empty groups have no text either, but they never had a prompt that could fail.
    groups.failed = without_text.map(|count| count.saturating_sub(groups.empty));
    source.groups = Some(groups);
    let run = run_folder(&files.run_output);
    if let Some(mut manifest) = Manifest::read_from(&run)? {
        let stats = match statistics {
            Some(stats) => stats,
            None => remeasure_run(&run, &mut manifest)?,
        };
        let (samples, timelines) = (read_samples(&run), read_timelines(&run));
        source.run = Some(LevelRun { manifest, samples, timelines, stats });
    }
    Ok(source)
}

/// Returns the number of nodes without a text below a level; `None` before the level is built.
fn count_missing_nodes(
    folder: &Path,
    progress: &ReduceProgress,
    level: u32,
) -> Result<Option<u64>, JobError> {
    let files = LevelFiles::for_level(folder, level);
    if level > progress.level || files.build_seconds().is_none() {
        return Ok(None);
    }
    let mut absent = 0;
    read_groups(&files.list_files(LevelFileKind::Groups)?, |group| {
        absent += group.absent.iter().map(|(from, to)| to - from).sum::<u64>();
        Ok(())
    })?;
    Ok(Some(absent))
}

/// Returns whether the result of the last level is known.
fn is_tree_finished(progress: &ReduceProgress) -> bool {
    progress.text || progress.loss.missing > 0
}
