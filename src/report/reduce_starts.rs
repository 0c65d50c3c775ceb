//! Work of a reduce's sessions above the leaves. Part of the summary. Pure.
//!
//! The run of a level counts its own sessions from 1, so they are matched to the sessions of the reduce by start time.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    reduce_levels::{LevelRun, ReduceLevelSource},
    throughput::ThroughputHistory,
};
use crate::output::{StartRecord, StartTimeline};

/// Work above the leaves, of all sessions and levels.
#[derive(Debug, Default)]
pub(crate) struct ReduceStarts {
    /// Work by session.
    pub(crate) work_by_start: BTreeMap<u32, ReduceStartWork>,
    /// Timelines of the levels, renumbered to the sessions of the reduce.
    pub(crate) timelines: Vec<StartTimeline>,
    /// Session, level, and its throughput.
    pub(crate) throughputs: Vec<(u32, u32, ThroughputHistory)>,
}

/// Work of one session above the leaves.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ReduceStartWork {
    /// Groups whose text was generated.
    pub answered: u64,
    /// Groups whose prompt failed.
    pub failed: u64,
    /// Seconds that it worked.
    pub seconds: f64,
    /// HTTP requests sent.
    pub requests: u64,
    /// Highest level that it worked on.
    pub level: u32,
}

impl ReduceStarts {
    pub(crate) fn from_levels(leaves: &[StartRecord], levels: &[ReduceLevelSource]) -> Self {
        let mut above = Self::default();
        for ReduceLevelSource { level, run: ran, .. } in levels {
            let Some(LevelRun { manifest, samples, timelines, .. }) = ran else { continue };
            for record in &manifest.history {
                let Some(start) = find_start_at(leaves, record.began) else { continue };
                let course = ThroughputHistory::from_records(
                    std::slice::from_ref(record),
                    samples,
                    timelines,
                );
                above.throughputs.push((start, *level, course));
                let mine = timelines.iter().filter(|it| it.start == record.start);
                above.timelines.extend(mine.map(|it| StartTimeline { start, ..it.clone() }));
                if record.did.settled_count() == 0 {
                    continue; // it was there already
                }
                let did = above.work_by_start.entry(start).or_default();
                did.answered += record.did.answered;
                did.failed += record.did.failed_count();
                did.seconds += record.seconds;
                did.requests += record.did.requests;
                did.level = did.level.max(*level);
            }
        }
        above
    }
}

/// Returns the session that a level's session belongs to: the last one that had started by then.
fn find_start_at(starts: &[StartRecord], began: u64) -> Option<u32> {
    starts.iter().rev().find(|it| it.began <= began).map(|it| it.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_above_belongs_to_the_start_that_had_begun() {
        let begun = |start, began| StartRecord { start, began, ..StartRecord::default() };
        let starts = [begun(1, 100), begun(3, 200), begun(4, 200)];
        let told = [99, 100, 199, 200, 999].map(|began| find_start_at(&starts, began));
        assert_eq!(told, [None, Some(1), Some(1), Some(4), Some(4)]);
    }
}
