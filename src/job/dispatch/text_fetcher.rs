//! The text fetcher: a thread on rank 0 that reads rows for ranks that cannot open the input.
//!
//! Owns that thread. Which ranks need it, and what is done with the text, is decided by the coordinator.

use std::sync::mpsc;

use tracing::error;

use super::{local_events::RootEvent, protocol::WorkLease};
use crate::input::InputSource;

/// Starts the thread, which ends when the returned sender is dropped. It receives a rank and its lease, and sends
/// [`RootEvent::TextFetched`] for each. Returns `None` if the thread cannot be started.
pub(crate) fn spawn_text_fetcher(
    source: InputSource,
    events: mpsc::Sender<RootEvent>,
) -> Option<mpsc::Sender<(usize, WorkLease)>> {
    let (requests, requested) = mpsc::channel::<(usize, WorkLease)>();
    let fetch = move || {
        for (rank, lease) in requested {
            let rows = lease.rows.with_text(&source).map_err(|error| error.to_string());
            let lease = rows.map(|rows| WorkLease { places: lease.places, rows });
            if events.send(RootEvent::TextFetched(rank, lease)).is_err() {
                return; // the job is ending
            }
        }
    };
    let thread = std::thread::Builder::new().name("fetcher".into()).spawn(fetch);
    thread
        .map(|_| requests)
        .inspect_err(|error| {
            error!(event = "thread_start_failed", "cannot start the text fetcher: {error}");
        })
        .ok()
}
