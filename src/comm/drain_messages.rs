//! A line drawn under a conversation by letters, so that another of the same tag can begin.

use super::{Comm, CommError, MessageTag, PollBackoff};

/// In effect collective. Takes in and drops every letter of this tag between rank 0 and the others that was sent before,
/// in either direction: a late one would otherwise be taken for a part of what is talked of next. Letters of one sender
/// and tag come in the order they were sent, so an empty one, which nobody writes otherwise, is the last of the old ones.
///
/// # Errors
/// As [`Comm::send`].
pub fn drain_messages(comm: &mut dyn Comm, tag: MessageTag) -> Result<(), CommError> {
    let others = if comm.rank() == 0 { 1..comm.size() } else { 0..1 };
    for rank in others.clone() {
        comm.send_bytes(rank, tag, Vec::new())?;
    }
    for rank in others {
        let mut nap = PollBackoff::for_transfer();
        loop {
            match comm.try_receive(Some(rank), tag) {
                Some(letter) if letter.bytes.is_empty() => break,
                Some(_) => nap.reset(),
                None => nap.sleep_next(),
            }
        }
    }
    let mut nap = PollBackoff::for_transfer();
    while comm.pending_messages() > 0 {
        nap.sleep_next();
    }
    Ok(())
}
