//! Messages between rank 0 and the ranks while they work: one enum per direction.
//!
//! Owns the messages and nothing of what follows from them: rank 0 reacts in `coordinator.rs`, a rank in
//! `lease_client.rs`. Ranks exchange messages with rank 0 only, never with each other. A control word for the engines
//! alone is an [`EngineCommand`] and travels in [`ToWorker::Engine`]: a new one changes the engine's command file and
//! its sender.

use std::time::Duration;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tracing::warn;

use crate::{
    comm::RankMessage,
    domain::Tally,
    engine::{EngineCommand, EngineExit, EngineProgress},
    input,
    metrics::timeline::Timeline,
    site::ShutdownRequest,
};

/// Message from a rank to rank 0.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum ToRoot {
    /// State of the rank. Rank 0 answers it with a grant, if only as an acknowledgement.
    Report(WorkerReport),
    /// Load of the rank's endpoints over time, sent once before [`ToRoot::EngineEnded`]. At most 3 KB per endpoint.
    EndpointTimeline(Timeline),
    /// The rank's work has ended.
    EngineEnded(EngineExit, Tally),
    /// The rank's first outcomes, this many, are the same failure with this message. The rank sends no prompts until it
    /// receives [`EngineCommand::Proceed`] or [`EngineCommand::KeepHolding`].
    UniformFailures(u64, String),
    /// A signal asks the rank's process to shut down.
    ShutdownRequested(ShutdownRequest),
}

/// Message from rank 0 to a rank.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum ToWorker {
    /// Work, or the acknowledgement of a report.
    Grant(LeaseGrant),
    /// Other ranks have settled these rows.
    Redundant(Vec<u64>),
    /// The rank was considered lost and its prompts were given to others: it returns those that it has not sent.
    Revoke,
    /// The rank sends nothing more and waits for the requests in flight.
    Drain,
    /// A command for the rank's engine, which the lease client forwards.
    Engine(EngineCommand),
    /// The last message: the work phase has ended.
    WorkEnd(WorkEnd),
}

/// The way in which the work phase ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum WorkEnd {
    /// All ranks have ended their work.
    AllRanksEnded,
    /// Some ranks are lost: no collective may follow.
    RanksLost,
}

/// Runs of places in the order of work: the first place and the number of places of each.
pub(crate) type PlaceRuns = Vec<(u64, u64)>;

/// State of a rank since its last report.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct WorkerReport {
    pub(crate) progress: EngineProgress,
    /// Places whose outcomes are written.
    pub(crate) settled: PlaceRuns,
    /// Places that the rank will not work on any more.
    pub(crate) returned: PlaceRuns,
    /// Prompts that the rank could use.
    pub(crate) prompts_wanted: u64,
    /// Free sequences of the concurrency limits for which the rank has no prompts.
    pub(crate) idle_capacity: u64,
    /// Median latency of a prompt at the rank's fastest endpoint.
    pub(crate) typical_latency: Option<Duration>,
}

/// Work for a rank, and how much of it is left.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct LeaseGrant {
    pub(crate) lease: Option<WorkLease>,
    /// No prompt is free at the moment.
    pub(crate) exhausted: bool,
    /// Time that all ranks together need for the free prompts, in seconds; `None` while it is unknown.
    pub(crate) seconds_left: Option<f64>,
}

/// Prompts leased to a rank.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WorkLease {
    /// Places of the prompts in the order of work.
    pub(crate) places: PlaceRuns,
    /// Rows of the prompts, in the same order.
    pub(crate) rows: input::RowLease,
}

impl WorkLease {
    pub(crate) fn prompt_count(&self) -> u64 {
        self.places.iter().map(|&(_, count)| count).sum()
    }

    /// Splits the lease: its first ranges, of about `bytes` but at least one range, and the places of the rest.
    pub(crate) fn split_at_bytes(mut self, bytes: u64) -> (Self, PlaceRuns) {
        let (mut sum, mut rows, mut kept) = (0, 0, 0);
        for range in &self.rows.ranges {
            if kept > 0 && sum + range.bytes > bytes {
                break;
            }
            (sum, rows, kept) = (sum + range.bytes, rows + range.rows, kept + 1);
        }
        self.rows.ranges.truncate(kept);
        let mut rest = PlaceRuns::new();
        let mut left = rows;
        for (first, count) in std::mem::take(&mut self.places) {
            let here = left.min(count);
            left -= here;
            if here > 0 {
                self.places.push((first, here));
            }
            if here < count {
                rest.push((first + here, count - here));
            }
        }
        (self, rest)
    }

    /// Returns the row and the place of each prompt.
    pub(crate) fn row_places(&self) -> impl Iterator<Item = (u64, u64)> {
        let rows = self.rows.ranges.iter().flat_map(|range| range.first..range.first + range.rows);
        rows.zip(self.places.iter().flat_map(|&(first, count)| first..first + count))
    }
}

/// Sorts places and combines consecutive ones, so that a report stays small.
pub(crate) fn compress_runs(mut places: Vec<u64>) -> PlaceRuns {
    places.sort_unstable();
    let mut runs: PlaceRuns = Vec::new();
    for place in places {
        match runs.last_mut() {
            Some((first, count)) if *first + *count == place => *count += 1,
            _ => runs.push((place, 1)),
        }
    }
    runs
}

/// Decodes a message. One that cannot be decoded is logged and dropped: its sender repeats what matters in its next
/// report.
pub(crate) fn decode_or_log<T: DeserializeOwned>(message: &RankMessage) -> Option<T> {
    let decoded = crate::comm::decode_message(message);
    decoded
        .inspect_err(|error| {
            warn!(event = "message_undecodable", from = message.from, "message dropped: {error}");
        })
        .ok()
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
    fn a_lease_maps_rows_to_places_and_splits_between_ranges() {
        let range = |first, rows| RowRange { file: 0, first, rows, offset: 0, bytes: 0 };
        let rows = input::RowLease { ranges: vec![range(10, 2), range(3, 1)], text: None };
        let lease = WorkLease { places: vec![(0, 1), (5, 2)], rows };
        assert_eq!(lease.prompt_count(), 3);
        assert_eq!(lease.row_places().collect::<Vec<_>>(), [(10, 0), (11, 5), (3, 6)]);
        let (whole, rest) = lease.clone().split_at_bytes(u64::MAX);
        assert_eq!((whole, rest), (lease.clone(), vec![]));
        let long = |range| RowRange { bytes: 100, ..range };
        let ranges = lease.rows.ranges.iter().copied().map(long).collect();
        let lease = WorkLease { rows: input::RowLease { ranges, text: None }, ..lease };
        let (first, rest) = lease.split_at_bytes(150);
        assert_eq!(first.row_places().collect::<Vec<_>>(), [(10, 0), (11, 5)]);
        assert_eq!(rest, [(6, 1)]);
    }
}
