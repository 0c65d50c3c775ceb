//! Communication between ranks. The only module that uses MPI, and only in `mpi.rs`.
//!
//! Owns how bytes and values travel between ranks, how a rank waits (it sleeps between polls and never blocks inside
//! MPI, because a blocking MPI call burns a core that the node's servers need) and how the job ends when a rank does
//! not answer. It does not know prompts, endpoints or files; what the job's messages say is in
//! `job/dispatch/protocol.rs`. It is single-threaded by contract: MPI is called from the main thread only.
//!
//! [`Comm`] carries bytes and has two real implementations: [`SoloComm`] for a single process without MPI, and the
//! one over MPI. [`TypedComm`] adds serde values. Doc comments say *collective* where every rank must make the call,
//! and *local* where a single rank may.

mod all_to_all;
mod codec;
mod drain_messages;
mod gather;
mod launcher;
mod liveness;
mod mailbox;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "mpi")]
mod mpi_counts;
mod panic;
mod poll_backoff;
mod solo;
mod start;
mod tree;
mod typed;

pub use all_to_all::all_to_all_in_rounds;
pub(crate) use codec::decode_message;
pub use drain_messages::drain_messages;
pub use gather::gather_in_rounds;
pub use launcher::LauncherInfo;
pub use liveness::{LivenessResult, check_liveness};
pub use mailbox::{Mailbox, MailboxEvent};
pub use panic::abort_job_on_panic;
pub(crate) use poll_backoff::PollBackoff;
pub use solo::SoloComm;
pub use start::start_comm;
pub use typed::TypedComm;

use std::fmt;

/// Byte transport between ranks: collectives, and messages from one rank to another.
///
/// Every implementation guarantees: a waiting call does not burn a core; messages of one sender and tag arrive in the
/// order they were sent; a collective returns when this rank's part in it is done. A collective has no deadline: call
/// [`check_liveness`] first to find out whether all ranks are alive.
pub trait Comm {
    /// Local. Returns this process's rank, from 0.
    fn rank(&self) -> usize;

    /// Local. Returns the number of ranks, at least 1.
    fn size(&self) -> usize;

    /// Local. Returns the name of the library that carries the bytes, for display.
    fn library_info(&self) -> CommLibrary;

    /// Collective. Returns when every rank has called it.
    fn barrier(&mut self);

    /// Collective. Replaces every rank's `bytes` with those of rank 0, of any length.
    fn broadcast_bytes(&mut self, bytes: &mut Vec<u8>);

    /// Collective. Distributes rank 0's parts, one per rank in rank order and of any length, and returns this rank's
    /// own.
    ///
    /// # Errors
    /// Returns [`CommError::WrongPartCount`] on all ranks if rank 0 passes no parts or a wrong number of them.
    fn scatter_bytes(&mut self, parts: Option<Vec<Vec<u8>>>) -> Result<Vec<u8>, CommError>;

    /// Collective. Gathers all ranks' bytes in rank order in rank 0's `into`; elsewhere `into` is emptied. The next
    /// call reuses its buffers. The caller keeps the sum below 2 GiB: [`gather_in_rounds`] does.
    fn gather_bytes(&mut self, mine: &[u8], into: &mut RankParts);

    /// Collective. Exchanges parts between all ranks: those of `mine`, one per rank in rank order, go to their ranks,
    /// and `into` receives the parts that each rank sent to this one. The next call reuses its buffers. The caller
    /// keeps the sums that a rank sends and receives below 2 GiB: [`all_to_all_in_rounds`] does.
    fn all_to_all_bytes(&mut self, mine: &RankParts, into: &mut RankParts);

    /// Collective. Replaces each of `values` with the combination of all ranks' values at that position.
    fn all_reduce(&mut self, values: &mut [u64], op: ReduceOp);

    /// Local. Starts sending a message and returns at once.
    ///
    /// # Errors
    /// Returns [`CommError::NoSuchRank`] for a rank outside the job and [`CommError::TooLarge`] for a message of 2 GiB
    /// or more.
    fn send_bytes(&mut self, to: usize, tag: MessageTag, bytes: Vec<u8>) -> Result<(), CommError>;

    /// Local. Returns the next completely received message with this tag, from `from` or from any rank, or `None` at
    /// once if none has arrived.
    fn try_receive(&mut self, from: Option<usize>, tag: MessageTag) -> Option<RankMessage>;

    /// Local. Returns the number of messages in transit: not yet out of this rank's buffers, or not yet completely in
    /// them. Bytes move only during this call and [`Comm::try_receive`], so callers should sleep briefly while it is
    /// above 0.
    fn pending_messages(&mut self) -> usize;

    /// Local. Ends every rank of the job at once with exit code `code`, for cases in which an orderly end is
    /// impossible.
    fn abort(&self, code: u8) -> !;

    /// Collective. Ends communication in order: sleeps until all ranks have called it, then finalises.
    fn finalize(self: Box<Self>);
}

/// Name of the communication library.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CommLibrary {
    /// Name and version on one line.
    pub name: String,
    /// Thread level that MPI granted.
    pub threads: String,
}

/// A message that has arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankMessage {
    /// Rank of the sender.
    pub from: usize,
    /// Encoded content.
    pub bytes: Vec<u8>,
}

/// Subject of a message: one tag per protocol, so that protocols can be received apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MessageTag {
    /// Roll-call ([`check_liveness`]).
    Liveness,
    /// Values of a tree reduction ([`TypedComm::reduce_values`]).
    TreeReduce,
    /// Parts of the scanned input, sent to the root.
    Scan,
    /// Messages of the job's work phase.
    Job,
    /// Local shards of a rank, sent to the root when collectives are no longer possible.
    LocalShards,
}

/// Combination that [`Comm::all_reduce`] computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReduceOp {
    /// The wrapping sum.
    Sum,
    /// The maximum.
    Max,
    /// The minimum.
    Min,
    /// The bitwise or.
    Or,
}

/// The parts of a gather or an all-to-all exchange, one per rank, in one reusable buffer.
#[derive(Debug, Default)]
pub struct RankParts {
    /// All ranks' bytes, concatenated in rank order.
    pub bytes: Vec<u8>,
    /// Number of bytes of each rank; empty after a gather on ranks other than 0.
    pub counts: Vec<usize>,
}

impl RankParts {
    /// Appends the next rank's part.
    pub fn push_part(&mut self, part: &[u8]) {
        self.bytes.extend_from_slice(part);
        self.counts.push(part.len());
    }

    /// Removes all parts and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.counts.clear();
    }

    /// Returns each rank's bytes in rank order.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.bytes.as_slice();
        self.counts.iter().map(move |&count| {
            let (part, tail) = rest.split_at(count);
            rest = tail;
            part
        })
    }
}

/// Errors between ranks. MPI's own errors are not among them: they end the job, since the state they leave behind
/// cannot be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommError {
    /// The launcher and the MPI library do not belong together.
    #[error("{0}")]
    LauncherMismatch(String),
    /// MPI did not start.
    #[error("MPI did not start: {0}")]
    MpiStart(String),
    /// A message that MPI's counts cannot express.
    #[error("{what} of {bytes} bytes exceeds the size limit of an MPI message (2 GiB)")]
    TooLarge {
        /// Kind of the message.
        what: &'static str,
        /// Size of the message.
        bytes: usize,
    },
    /// A rank outside the job.
    #[error("rank {rank} does not exist: the job has {size} ranks")]
    NoSuchRank {
        /// The requested rank.
        rank: usize,
        /// Number of ranks.
        size: usize,
    },
    /// Rank 0 called a scatter with a number of parts other than one per rank.
    #[error("a scatter over {size} ranks received {parts} parts")]
    WrongPartCount {
        /// Number of parts given.
        parts: usize,
        /// Number of ranks.
        size: usize,
    },
    /// Bytes that are not a value of the requested type, as between ranks of different builds.
    #[error(
        "cannot decode a message from rank {from}: {detail}\nhint: start the same build of aurora-swarm on every rank"
    )]
    Decode {
        /// Rank of the sender.
        from: usize,
        /// Message of the decoder.
        detail: String,
    },
    /// A value that cannot be encoded.
    #[error("cannot encode a message to other ranks: {0}")]
    Encode(String),
}

impl fmt::Display for CommLibrary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.threads)
    }
}
