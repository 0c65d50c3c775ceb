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
    pub(crate) work_by_start: BTreeMap<u32, ReduceStartWork>,
    /// Timelines of the levels, renumbered to the sessions of the reduce.
    pub(crate) timelines: Vec<StartTimeline>,
    /// Session, level, and its throughput.
    pub(crate) throughputs: Vec<(u32, u32, ThroughputHistory)>,
}

/// Work of one session above the leaves.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct ReduceStartWork {
    /// Groups whose text was generated.
    pub answered: u64,
    pub failed: u64,
    pub seconds: f64,
    pub requests: u64,
    /// Highest level that it worked on.
    pub level: u32,
}

impl ReduceStarts {
    pub(crate) fn from_levels(leaves: &[StartRecord], levels: &[ReduceLevelSource]) -> Self {
        let mut above = Self::default();
        for ReduceLevelSource { level, run, .. } in levels {
            let Some(LevelRun { manifest, samples, timelines, .. }) = run else { continue };
            for record in &manifest.history {
                let Some(start) = find_start_at(leaves, record.began) else { continue };
                let history = ThroughputHistory::from_records(
                    std::slice::from_ref(record),
                    samples,
                    timelines,
                );
                above.throughputs.push((start, *level, history));
                let own_timelines = timelines.iter().filter(|it| it.start == record.start);
                above
                    .timelines
                    .extend(own_timelines.map(|it| StartTimeline { start, ..it.clone() }));
                if record.did.settled_count() == 0 {
                    continue; // it was there already
                }
                let work = above.work_by_start.entry(start).or_default();
                work.answered += record.did.answered;
                work.failed += record.did.failed_count();
                work.seconds += record.seconds;
                work.requests += record.did.requests;
                work.level = work.level.max(*level);
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
    fn work_above_the_leaves_belongs_to_the_latest_session_that_had_started() {
        let begun = |start, began| StartRecord { start, began, ..StartRecord::default() };
        let starts = [begun(1, 100), begun(3, 200), begun(4, 200)];
        let found = [99, 100, 199, 200, 999].map(|began| find_start_at(&starts, began));
        assert_eq!(found, [None, Some(1), Some(1), Some(4), Some(4)]);
    }
}
