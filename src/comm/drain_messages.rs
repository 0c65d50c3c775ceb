//! A line drawn under a conversation by letters, so that another of the same tag can begin.

use super::{Comm, CommError, Nap, Tag};

/// In effect collective. Takes in and drops every letter of this tag between rank 0 and the others that was sent before,
/// in either direction: a late one would otherwise be taken for a part of what is talked of next. Letters of one sender
/// and tag come in the order they were sent, so an empty one, which nobody writes otherwise, is the last of the old ones.
///
/// # Errors
/// As [`Comm::send`].
pub fn fence(comm: &mut dyn Comm, tag: Tag) -> Result<(), CommError> {
    let others = if comm.rank() == 0 { 1..comm.size() } else { 0..1 };
    for rank in others.clone() {
        comm.send(rank, tag, Vec::new())?;
    }
    for rank in others {
        let mut nap = Nap::brisk();
        loop {
            match comm.receive(Some(rank), tag) {
                Some(letter) if letter.bytes.is_empty() => break,
                Some(_) => nap.wake(),
                None => nap.sleep(),
            }
        }
    }
    let mut nap = Nap::brisk();
    while comm.under_way() > 0 {
        nap.sleep();
    }
    Ok(())
}
