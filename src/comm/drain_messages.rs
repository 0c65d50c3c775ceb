//! Draining of leftover messages between two phases that use the same tag: a fence.
//!
//! Owns that fence. The tags, one per protocol, are in `mod.rs`.

use super::{Comm, CommError, MessageTag, PollBackoff};

/// Collective in effect, by point-to-point messages. Receives and drops every message of this tag that rank 0 and the
/// other ranks sent each other before the call; a late one would otherwise be taken for part of the next phase.
/// Messages of one sender and tag arrive in the order they were sent, so an empty message, which no protocol uses
/// otherwise, marks the end of the old ones.
///
/// # Errors
/// See [`Comm::send_bytes`].
pub fn drain_messages(comm: &mut dyn Comm, tag: MessageTag) -> Result<(), CommError> {
    let others = if comm.rank() == 0 { 1..comm.size() } else { 0..1 };
    for rank in others.clone() {
        comm.send_bytes(rank, tag, Vec::new())?;
    }
    for rank in others {
        let mut backoff = PollBackoff::for_transfer();
        loop {
            match comm.try_receive(Some(rank), tag) {
                Some(message) if message.bytes.is_empty() => break,
                Some(_) => backoff.reset(),
                None => backoff.sleep_next(),
            }
        }
    }
    let mut backoff = PollBackoff::for_transfer();
    while comm.pending_messages() > 0 {
        backoff.sleep_next();
    }
    Ok(())
}
