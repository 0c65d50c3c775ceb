//! A communicator of one rank: no MPI, no launcher.
//!
//! This is an implementation and not a special case in the callers: a collective over one rank works as documented,
//! and messages to oneself arrive.

use std::collections::VecDeque;

use super::{Comm, CommError, CommLibrary, MessageTag, RankMessage, RankParts, ReduceOp};

/// Communicator of a job with a single rank.
#[derive(Debug, Default)]
pub struct SoloComm {
    messages: VecDeque<(MessageTag, Vec<u8>)>,
}

impl SoloComm {
    /// Creates a job with a single rank.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Comm for SoloComm {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn library_info(&self) -> CommLibrary {
        CommLibrary { name: "no MPI".into(), threads: "one process".into() }
    }

    fn barrier(&mut self) {}

    fn broadcast_bytes(&mut self, _bytes: &mut Vec<u8>) {}

    fn scatter_bytes(&mut self, parts: Option<Vec<Vec<u8>>>) -> Result<Vec<u8>, CommError> {
        let mut parts = parts.unwrap_or_default();
        match (parts.pop(), parts.len()) {
            (Some(mine), 0) => Ok(mine),
            (last, rest) => Err(CommError::WrongPartCount {
                parts: rest + usize::from(last.is_some()),
                size: 1,
            }),
        }
    }

    fn gather_bytes(&mut self, mine: &[u8], into: &mut RankParts) {
        into.bytes.clear();
        into.bytes.extend_from_slice(mine);
        into.counts.clear();
        into.counts.push(mine.len());
    }

    fn all_to_all_bytes(&mut self, mine: &RankParts, into: &mut RankParts) {
        into.clear();
        into.push_part(&mine.bytes);
    }

    fn all_reduce(&mut self, _values: &mut [u64], _how: ReduceOp) {}

    fn send_bytes(&mut self, to: usize, tag: MessageTag, bytes: Vec<u8>) -> Result<(), CommError> {
        if to != 0 {
            return Err(CommError::NoSuchRank { rank: to, size: 1 });
        }
        self.messages.push_back((tag, bytes));
        Ok(())
    }

    fn try_receive(&mut self, from: Option<usize>, tag: MessageTag) -> Option<RankMessage> {
        if from.is_some_and(|from| from != 0) {
            return None;
        }
        let position = self.messages.iter().position(|(its, _)| *its == tag)?;
        self.messages.remove(position).map(|(_, bytes)| RankMessage { from: 0, bytes })
    }

    fn pending_messages(&mut self) -> usize {
        0
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "an abort is the only exit that cannot return to main"
    )]
    fn abort(&self, code: u8) -> ! {
        std::process::exit(i32::from(code))
    }

    fn finalize(self: Box<Self>) {}
}
