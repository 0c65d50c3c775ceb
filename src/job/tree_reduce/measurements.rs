//! How a reduce went: what its passes measured and its levels' files say, put together for the report.
//!
//! Owns where each number of a tree comes from. A level's run is a run like any other, whose manifest counts it; what its
//! groups are made of stands in its own files, and whether a group has a text, in those of the level above.

use std::path::Path;

use super::level::{LevelFileKind, LevelFiles, read_groups};
use crate::job::{JobError, root::report::remeasure_run, setup::run_plan::run_folder};
use crate::{
    metrics::AnswerStats,
    output::{Manifest, ReduceProgress, read_samples, read_timelines},
    reduce::ReduceTree,
    report::{GroupCounts, LevelRun, ReduceLevelSource, ReduceSource},
};

/// What the passes of a reduce measured, on rank 0: none where that is still to be read from the files.
#[derive(Debug, Default)]
pub(crate) struct PassMeasurements {
    pub(crate) leaves: Option<AnswerStats>,
    /// From the first level on.
    pub(crate) levels: Vec<Option<AnswerStats>>,
}

/// Local. The tree above the leaves of this run, if it is a reduce's.
pub(crate) fn tree_source(
    folder: &Path,
    leaves: &Manifest,
    levels: Vec<Option<AnswerStats>>,
) -> Result<Option<ReduceSource>, JobError> {
    let Some(stands) = leaves.reduce else { return Ok(None) };
    let fan_in = leaves.settings.get("fan-in").and_then(serde_json::Value::as_u64).unwrap_or(2);
    let tree = ReduceTree::new(leaves.rows, fan_in);
    let mut levels = levels.into_iter();
    let source = |level| level_source(folder, tree, &stands, level, levels.next().flatten());
    let all = if leaves.rows == 0 { 0 } else { tree.levels() };
    let levels = (1..=all).map(source).collect::<Result<_, _>>()?;
    let leaves_failed = count_missing_nodes(folder, &stands, 1)?;
    Ok(Some(ReduceSource { fan_in, progress: stands, leaves_failed, levels }))
}

fn level_source(
    folder: &Path,
    tree: ReduceTree,
    stands: &ReduceProgress,
    level: u32,
    measured: Option<AnswerStats>,
) -> Result<ReduceLevelSource, JobError> {
    let place = LevelFiles::of(folder, level);
    let mut source =
        ReduceLevelSource { level, nodes: tree.node_count(level), ..ReduceLevelSource::default() };
    // What lies there of a level that is not reached is of another making.
    let Some(made_s) = place.build_seconds().filter(|_| level <= stands.level) else {
        return Ok(source);
    };
    let mut groups = GroupCounts { build_s: made_s, ..GroupCounts::default() };
    read_groups(&place.files(LevelFileKind::Groups)?, |group| {
        match group.texts {
            0 => groups.empty += 1,
            1 => groups.passed_up += 1,
            _ => groups.asked += 1,
        }
        groups.cut += u64::from(group.cut > 0);
        Ok(())
    })?;
    let without = if level == tree.levels() {
        is_tree_finished(stands).then(|| u64::from(!stands.text))
    } else {
        count_missing_nodes(folder, stands, level + 1)?
    };
    groups.failed = without.map(|absent| absent.saturating_sub(groups.empty));
    source.groups = Some(groups);
    let run = run_folder(&place.output);
    if let Some(mut manifest) = Manifest::read(&run)? {
        let measured = match measured {
            Some(measured) => measured,
            None => remeasure_run(&run, &mut manifest)?,
        };
        let (samples, timelines) = (read_samples(&run), read_timelines(&run));
        source.run = Some(LevelRun { manifest, samples, timelines, measured });
    }
    Ok(source)
}

/// Nodes without a text below a level, once its groups are made.
fn count_missing_nodes(
    folder: &Path,
    stands: &ReduceProgress,
    level: u32,
) -> Result<Option<u64>, JobError> {
    let place = LevelFiles::of(folder, level);
    if level > stands.level || place.build_seconds().is_none() {
        return Ok(None);
    }
    let mut absent = 0;
    read_groups(&place.files(LevelFileKind::Groups)?, |group| {
        absent += group.absent.iter().map(|(from, to)| to - from).sum::<u64>();
        Ok(())
    })?;
    Ok(Some(absent))
}

/// The last level is reached, and it is known what came of it.
fn is_tree_finished(stands: &ReduceProgress) -> bool {
    stands.text || stands.missing > 0
}
