//! Events that a process's other threads send to its main thread while it works.
//!
//! Owns the event types, so that the worker loop never sees an event that only rank 0 can have. Messages between ranks
//! are in `protocol.rs`.

use std::sync::{Arc, mpsc};

use super::protocol::WorkLease;
use crate::{engine::EngineEvent, site::ShutdownRequest};

/// An event on any rank.
pub(crate) enum LocalEvent {
    Engine(EngineEvent),
    /// The outcomes of these rows are in the shard file.
    RowsWritten(Vec<u64>),
    /// A signal asks this process to shut down.
    ShutdownRequested(ShutdownRequest),
}

/// An event on rank 0.
pub(crate) enum RootEvent {
    /// An event of rank 0's own work.
    Local(LocalEvent),
    /// A lease for this rank, with the text of its rows.
    TextFetched(usize, Result<WorkLease, String>),
}

impl From<LocalEvent> for RootEvent {
    fn from(event: LocalEvent) -> Self {
        Self::Local(event)
    }
}

/// Sender of local events, for any thread.
#[derive(Clone)]
pub(crate) struct EventSender(Arc<dyn Fn(LocalEvent) + Send + Sync>);

impl EventSender {
    pub(crate) fn new<E: From<LocalEvent> + Send + 'static>(events: mpsc::Sender<E>) -> Self {
        Self(Arc::new(move |event| {
            // The receiver is gone only while the job ends: the event is of no use then.
            let _ = events.send(event.into());
        }))
    }

    pub(crate) fn send(&self, event: LocalEvent) {
        (self.0)(event);
    }
}
