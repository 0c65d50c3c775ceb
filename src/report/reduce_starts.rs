//! What the starts of a reduce did above its leaves. A level's run counts its own starts: they are told apart by when they
//! began. Part of the summary. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    reduce_levels::{LevelRun, ReduceLevelSource},
    throughput::ThroughputHistory,
};
use crate::output::{StartRecord, StartTimeline};

/// Of all starts and levels.
#[derive(Debug, Default)]
pub(crate) struct ReduceStarts {
    /// By start.
    pub(crate) work_by_start: BTreeMap<u32, ReduceStartWork>,
    /// With the numbers of the reduce's starts.
    pub(crate) timelines: Vec<StartTimeline>,
    /// Start, level, and how it went.
    pub(crate) throughputs: Vec<(u32, u32, ThroughputHistory)>,
}

/// What a start did above the leaves.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ReduceStartWork {
    /// Groups that got their text.
    pub answered: u64,
    /// Groups whose prompt failed.
    pub failed: u64,
    /// Working seconds.
    pub seconds: f64,
    /// HTTP requests.
    pub requests: u64,
    /// The highest level it worked on.
    pub level: u32,
}

impl ReduceStarts {
    pub(crate) fn of(leaves: &[StartRecord], levels: &[ReduceLevelSource]) -> Self {
        let mut above = Self::default();
        for ReduceLevelSource { level, run: ran, .. } in levels {
            let Some(LevelRun { manifest, samples, timelines, .. }) = ran else { continue };
            for record in &manifest.history {
                let Some(start) = find_start_at(leaves, record.began) else { continue };
                let course =
                    ThroughputHistory::of(std::slice::from_ref(record), samples, timelines);
                above.throughputs.push((start, *level, course));
                let mine = timelines.iter().filter(|it| it.start == record.start);
                above.timelines.extend(mine.map(|it| StartTimeline { start, ..it.clone() }));
                if record.did.settled() == 0 {
                    continue; // it was there already
                }
                let did = above.work_by_start.entry(start).or_default();
                did.answered += record.did.answered;
                did.failed += record.did.failed();
                did.seconds += record.seconds;
                did.requests += record.did.requests;
                did.level = did.level.max(*level);
            }
        }
        above
    }
}

/// The start that something belongs to which began then: the last that had begun.
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
