//! What ranks write to each other while they work.
//!
//! Owns the letters and nothing of what follows from them. Ranks write to rank 0 and rank 0 to each of them; no rank writes
//! to another.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::{
    comm::RankMessage,
    domain::{Tally, Timeline},
    engine::{EngineExit, EngineProgress},
    input,
    site::ShutdownRequest,
};

/// A letter.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum DispatchMessage {
    /// To rank 0: how it goes. Answered by a grant, if only to say that it was heard.
    Report(WorkerReport),
    /// To rank 0: what this rank's endpoints did over time, once, before the end. At most 3 KB an endpoint.
    EndpointTimeline(Timeline),
    /// To rank 0: this rank's work has ended.
    EngineEnded(EngineExit, Tally),
    /// To rank 0: so many first outcomes are all the same failure, with these words; nothing is sent meanwhile.
    UniformFailures(u64, String),
    /// To rank 0: somebody asks this rank to end.
    ShutdownRequested(ShutdownRequest),
    /// From rank 0.
    Grant(LeaseGrant),
    /// From rank 0: others have settled these rows.
    Redundant(Vec<u64>),
    /// From rank 0: it was taken to be lost, and what it had is others' by now.
    Revoke,
    /// From rank 0: those failures are the prompts' own.
    Proceed,
    /// From rank 0: send nothing more, and wait for what is under way.
    Drain,
    /// From rank 0: those failures are too few to tell what they are: as many again.
    KeepHolding,
    /// From rank 0: stop.
    Stop,
    /// From rank 0, its last letter.
    WorkEnd(WorkEnd),
}

/// How the middle of a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum WorkEnd {
    /// All ranks have ended their work.
    AllRanksEnded,
    /// Some have not, and were not heard of: no collective may follow.
    RanksLost,
}

/// Of places: where they begin, and how many.
pub(crate) type PlaceRuns = Vec<(u64, u64)>;

/// How a rank stands.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct WorkerReport {
    pub(crate) progress: EngineProgress,
    /// Places whose outcomes are written.
    pub(crate) settled: PlaceRuns,
    /// Places that it will not work on any more.
    pub(crate) returned: PlaceRuns,
    /// Prompts that it could use.
    pub(crate) prompts_wanted: u64,
    /// Sequences for which it has room and nothing to send.
    pub(crate) idle_capacity: u64,
    /// What a prompt usually takes at its fastest endpoint.
    pub(crate) typical_latency: Option<Duration>,
}

/// Work for a rank, and whether there is more of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct LeaseGrant {
    pub(crate) lease: Option<WorkLease>,
    /// Nobody has more for now.
    pub(crate) exhausted: bool,
    /// How long all ranks together would work on what is free, in seconds; nothing while that is unknown.
    pub(crate) seconds_left: Option<f64>,
}

/// Prompts given to a rank.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WorkLease {
    /// Their places in the order of work.
    pub(crate) places: PlaceRuns,
    /// Their rows, in the same order.
    pub(crate) rows: input::RowLease,
}

impl WorkLease {
    /// How many prompts.
    pub(crate) fn prompt_count(&self) -> u64 {
        self.places.iter().map(|&(_, count)| count).sum()
    }

    /// Its first rows, of about `bytes` and at least one, and the places of the others.
    pub(crate) fn split_at_bytes(mut self, bytes: u64) -> (Self, PlaceRuns) {
        let (mut sum, mut rows, mut kept) = (0, 0, 0);
        for stretch in &self.rows.ranges {
            if kept > 0 && sum + stretch.bytes > bytes {
                break;
            }
            (sum, rows, kept) = (sum + stretch.bytes, rows + stretch.rows, kept + 1);
        }
        self.rows.ranges.truncate(kept);
        let mut rest = PlaceRuns::new();
        let mut left = rows;
        for (from, count) in std::mem::take(&mut self.places) {
            let here = left.min(count);
            left -= here;
            if here > 0 {
                self.places.push((from, here));
            }
            if here < count {
                rest.push((from + here, count - here));
            }
        }
        (self, rest)
    }

    /// Each prompt's row and place.
    pub(crate) fn row_places(&self) -> impl Iterator<Item = (u64, u64)> {
        let rows = self.rows.ranges.iter().flat_map(|it| it.first..it.first + it.rows);
        rows.zip(self.places.iter().flat_map(|&(from, count)| from..from + count))
    }
}

/// Places as few runs as they make.
pub(crate) fn compress_runs(mut places: Vec<u64>) -> PlaceRuns {
    places.sort_unstable();
    let mut runs: PlaceRuns = Vec::new();
    for place in places {
        match runs.last_mut() {
            Some((from, count)) if *from + *count == place => *count += 1,
            _ => runs.push((place, 1)),
        }
    }
    runs
}

/// What a letter says; nothing where it cannot be read.
pub(crate) fn decode_message(letter: &RankMessage) -> Option<DispatchMessage> {
    let message = crate::comm::decode_message(letter);
    message.inspect_err(|error| warn!("{error}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::RowRange;

    #[test]
    fn places_are_reported_as_runs() {
        assert_eq!(compress_runs(vec![7, 3, 4, 5, 9]), [(3, 3), (7, 1), (9, 1)]);
        assert!(compress_runs(Vec::new()).is_empty());
    }

    #[test]
    fn a_lease_maps_rows_to_places() {
        let stretch = |first, rows| RowRange { file: 0, first, rows, offset: 0, bytes: 0 };
        let rows = input::RowLease { ranges: vec![stretch(10, 2), stretch(3, 1)], text: None };
        let lease = WorkLease { places: vec![(0, 1), (5, 2)], rows };
        assert_eq!(lease.prompt_count(), 3);
        assert_eq!(lease.row_places().collect::<Vec<_>>(), [(10, 0), (11, 5), (3, 6)]);
        let (whole, rest) = lease.clone().split_at_bytes(u64::MAX);
        assert_eq!((whole, rest), (lease.clone(), vec![]));
        let long = |stretch| RowRange { bytes: 100, ..stretch };
        let stretches = lease.rows.ranges.iter().copied().map(long).collect();
        let lease = WorkLease { rows: input::RowLease { ranges: stretches, text: None }, ..lease };
        let (first, rest) = lease.split_at_bytes(150);
        assert_eq!(first.row_places().collect::<Vec<_>>(), [(10, 0), (11, 5)]);
        assert_eq!(rest, [(6, 1)]);
    }
}
