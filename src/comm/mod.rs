//! Ranks talking to ranks: the only place that knows MPI, and in one file of it at that (`mpi.rs`).
//!
//! Owns how bytes and values travel between ranks, how a rank waits (by naps, never inside a blocking call, because a
//! waiting MPI call burns a core that the node's servers need) and how a job ends when a rank does not come. Knows
//! nothing of prompts, endpoints or files. It is single-threaded by contract: MPI is called from the main thread only.
//!
//! [`Comm`] carries bytes and has two real implementations, [`Solo`] for one process without MPI and the MPI one;
//! [`Typed`] puts serde values over it. Doc comments say *collective* where every rank must make the call, and
//! *local* where one rank may.

mod all_to_all;
mod codec;
mod drain_messages;
mod gather;
mod launcher;
mod liveness;
mod mailbox;
#[cfg(feature = "mpi")]
mod mpi;
mod panic;
mod poll_backoff;
mod solo;
mod start;
mod tree;
mod typed;

pub use all_to_all::all_to_all_in_rounds;
pub use codec::decode_message;
pub use drain_messages::drain_messages;
pub use gather::gather_in_rounds;
pub use launcher::LauncherInfo;
pub use liveness::{LivenessResult, check_liveness};
pub use mailbox::{Mailbox, MailboxEvent};
pub use panic::abort_job_on_panic;
pub use poll_backoff::PollBackoff;
pub use solo::SoloComm;
pub use start::start;
pub use typed::TypedComm;

use std::fmt;

/// Bytes between ranks: collectives, and letters from one rank to another.
///
/// Every implementation promises: no call burns a core while it waits; letters of one sender and one tag arrive in the
/// order they were sent; a collective returns when this rank's part in it is done.
/// A collective has no deadline of its own: before one, ranks find out whether all are there by [`roll_call`].
pub trait Comm {
    /// Local. This process's place, from 0.
    fn rank(&self) -> usize;

    /// Local. How many ranks there are, at least 1.
    fn size(&self) -> usize;

    /// Local. Which library carries the bytes, for people to read.
    fn library_info(&self) -> CommLibrary;

    /// Collective. Returns when every rank has called it.
    fn barrier(&mut self);

    /// Collective. Every rank's `bytes` become rank 0's; of any length.
    fn broadcast_bytes(&mut self, bytes: &mut Vec<u8>);

    /// Collective. Rank 0 gives one part a rank, in rank order; each rank gets its own. Parts may be of any
    /// length.
    ///
    /// # Errors
    /// On every rank alike, where rank 0 gives no parts or a wrong number of them.
    fn scatter_bytes(&mut self, parts: Option<Vec<Vec<u8>>>) -> Result<Vec<u8>, CommError>;

    /// Collective. Rank 0's `into` becomes all ranks' bytes in rank order; elsewhere it is emptied. Its buffers are used
    /// again by the next call. The sum must stay below 2 GiB, which is the caller's to see to: [`gather_in_rounds`] does.
    fn gather(&mut self, mine: &[u8], into: &mut RankParts);

    /// Collective. Everybody sends everybody its part: those of `mine`, one a rank in rank order, go to the ranks, and
    /// `into` becomes what each rank sent to this one. Its buffers are used again by the next call. The sums of what a rank
    /// sends and gets must stay below 2 GiB, which is the caller's to see to: [`exchange_in_rounds`] does.
    fn all_to_all_bytes(&mut self, mine: &RankParts, into: &mut RankParts);

    /// Collective. Each of `values` becomes the combination of all ranks' value at that place.
    fn all_reduce(&mut self, values: &mut [u64], how: ReduceOp);

    /// Local. Starts a letter on its way and returns at once.
    ///
    /// # Errors
    /// Where there is no such rank, or the letter is 2 GiB or larger.
    fn send_bytes(&mut self, to: usize, tag: MessageTag, bytes: Vec<u8>) -> Result<(), CommError>;

    /// Local. The next letter with this tag that is wholly here, from `from` or from anyone; `None` at once if none is.
    fn try_receive(&mut self, from: Option<usize>, tag: MessageTag) -> Option<RankMessage>;

    /// Local. How many letters are on their way: not wholly out of this rank's buffers, or not wholly in them. Bytes move
    /// only when this or [`Comm::receive`] is called, so naps should be short while it is above 0.
    fn pending_messages(&mut self) -> usize;

    /// Local. Ends every rank of the job at once with `code`; for the cases in which an orderly end is not possible.
    fn abort(&self, code: u8) -> !;

    /// Collective. The orderly end: sleeps until all ranks are here, then leaves.
    fn finish(self: Box<Self>);
}

/// What carries the bytes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CommLibrary {
    /// Name and version, one line.
    pub name: String,
    /// The thread level that MPI granted.
    pub threads: String,
}

/// A letter that has arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankMessage {
    /// The rank that sent it.
    pub from: usize,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// What a letter is about: one tag a protocol, so that protocols can be received apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MessageTag {
    /// Who is still here ([`roll_call`]).
    Liveness,
    /// A value on its way to the root ([`Typed::reduce`]).
    TreeReduce,
    /// Parts of the input that were read over, on their way to the root.
    Scan,
    /// The job's own messages.
    Job,
    /// What a rank has written on its own node, on its way to the root where no collective can be had any more.
    LocalShards,
}

/// How [`Comm::all_reduce`] combines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReduceOp {
    /// The sum, wrapping.
    Sum,
    /// The largest.
    Max,
    /// The smallest.
    Min,
    /// Bit by bit, set where it is set in any.
    Or,
}

/// What a gather brought to rank 0, or an exchange takes and brings: a part a rank. One buffer, used again and again.
#[derive(Debug, Default)]
pub struct RankParts {
    /// All ranks' bytes, one after the other in rank order.
    pub bytes: Vec<u8>,
    /// How many of them are each rank's; after a gather empty on ranks other than 0.
    pub counts: Vec<usize>,
}

impl RankParts {
    /// Adds the next rank's part.
    pub fn push_part(&mut self, part: &[u8]) {
        self.bytes.extend_from_slice(part);
        self.counts.push(part.len());
    }

    /// Takes all parts out, and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.counts.clear();
    }

    /// Each rank's bytes in rank order.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.bytes.as_slice();
        self.counts.iter().map(move |&count| {
            let (part, tail) = rest.split_at(count);
            rest = tail;
            part
        })
    }
}

/// What can go wrong between ranks. MPI's own errors are not among them: they end the job, since what they leave behind
/// cannot be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommError {
    /// The launcher and the MPI library do not belong together.
    #[error("{0}")]
    LauncherMismatch(String),
    /// MPI would not start.
    #[error("MPI did not start: {0}")]
    Start(String),
    /// A message that MPI's counts cannot express.
    #[error("{what} of {bytes} bytes is more than one MPI message can carry (2 GiB)")]
    TooLarge {
        /// What was to be sent.
        what: &'static str,
        /// Its size.
        bytes: usize,
    },
    /// A rank that does not exist.
    #[error("there is no rank {rank}: the job has {size}")]
    NoSuchRank {
        /// The rank asked for.
        rank: usize,
        /// How many there are.
        size: usize,
    },
    /// Rank 0 called a scatter with something else than one part a rank.
    #[error("a scatter over {size} ranks was given {parts} parts")]
    WrongPartCount {
        /// How many parts were given.
        parts: usize,
        /// How many ranks there are.
        size: usize,
    },
    /// Bytes that are no value of the type asked for: ranks of different builds in one job.
    #[error("a message from rank {from} cannot be read ({detail}): are all ranks the same build?")]
    Decode {
        /// Where it came from.
        from: usize,
        /// What the decoder says.
        detail: String,
    },
    /// A value that cannot be encoded.
    #[error("a value cannot be sent to other ranks: {0}")]
    Encode(String),
}

impl fmt::Display for CommLibrary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.threads)
    }
}
