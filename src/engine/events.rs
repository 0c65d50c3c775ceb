//! The events that a running engine reports to the thread that started it.
//!
//! Owns their types: progress, backlog, exit. When each is sent is decided in `scheduler`; on every rank the lease
//! client (`job/dispatch/lease_client.rs`) receives them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    domain::{ModelSet, Tally},
    metrics::timeline::Timeline,
};

/// The progress of an engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EngineProgress {
    /// Outcomes, tokens and requests so far.
    pub(crate) tally: Tally,
    /// Sequences in flight.
    pub(crate) in_flight: u64,
    /// Endpoints that are not suspended.
    pub(crate) endpoints_up: u64,
    /// The job's models that these endpoints serve.
    pub(crate) models_up: ModelSet,
}

/// The reason for which an engine ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum EngineExit {
    /// Every prompt that the engine was given has its outcome.
    Finished,
    /// No prompt was settled for the no-progress timeout; prompts are open.
    Stalled,
    /// The engine was stopped; prompts are open.
    Stopped,
    /// Results could not be written; the sink's error is in the log.
    WriteFailed,
    /// The input could not be read to its end, for this reason.
    ReadFailed(String),
    /// The runtime or the HTTP client could not be created, for this reason.
    StartFailed(String),
}

/// The work that the engine has and could take, for the side that grants prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct EngineBacklog {
    /// Prompts received since the start.
    pub(crate) received_count: u64,
    /// Prompts that wait to be sent.
    pub(crate) queued_count: u64,
    /// Sequences that may be in flight at all endpoints that are up.
    pub(crate) window_total: u64,
    /// Prompts answered per second.
    pub(crate) answer_rate: f64,
    /// Free permits for which no prompt waits.
    pub(crate) idle_permits: u64,
    /// Median latency of a single prompt at the endpoint where it is lowest.
    pub(crate) p50_latency: Option<Duration>,
}

/// An event that the engine reports to the thread that started it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum EngineEvent {
    /// Sent every second, and at once when a model goes out of service or comes back, and when a drain is over.
    Progress(EngineProgress),
    /// Sent when few prompts or none are left to send.
    Backlog(EngineBacklog),
    /// The engine will not work on these prompts (by index) any more: they were revoked, it drains, or all endpoints
    /// are down or refuse everything.
    PromptsReturned(Vec<u64>),
    /// Fail-fast has tripped: the first outcomes, this many, are the same failure with this message. Nothing is sent
    /// and none of them is written until [`EngineCommand::Proceed`](super::EngineCommand::Proceed),
    /// [`EngineCommand::ReturnHeld`](super::EngineCommand::ReturnHeld),
    /// [`EngineCommand::KeepHolding`](super::EngineCommand::KeepHolding) or
    /// [`EngineCommand::Stop`](super::EngineCommand::Stop).
    FailFastTripped(u64, String),
    /// Sent once, before the last event: the load of the endpoints over time.
    TimelineRecorded(Timeline),
    /// Sent once, as the last event.
    Ended(EngineExit, Tally),
}
