//! The communicator over MPI. The only file that calls MPI.
//!
//! Owns the [`Comm`] over MPI_COMM_WORLD and rules that were learnt the hard way: every wait is a test-and-sleep loop
//! over an immediate operation, buffers of messages in transit are kept until MPI releases them, errors stay fatal
//! (rsmpi drops return codes, so an error handler would learn nothing), and a sleeping barrier precedes finalisation,
//! which spins.
//!
//! `SimpleCommunicator` is `Send` on MPICH by accident and not on Open MPI; [`MpiComm`] is `Send` on neither.
#![expect(clippy::disallowed_types, clippy::disallowed_methods, reason = "the owner of mpi")]

use std::{collections::VecDeque, marker::PhantomData};

use mpi::{
    Count, Tag as MpiTag, Threading,
    collective::SystemOperation,
    datatype::{Partition, PartitionMut},
    environment::Universe,
    request::{Request, Scope, StaticScope},
    topology::SimpleCommunicator,
    traits::{Communicator, CommunicatorCollectives, Destination, Equivalence, Root, Source},
};

use super::{
    Comm, CommError, CommLibrary, LauncherInfo, MessageTag, PollBackoff, RankMessage, RankParts,
    ReduceOp,
    mpi_counts::{displacements_of, mpi_count},
};

/// Communicator over MPI_COMM_WORLD.
pub(super) struct MpiComm {
    // Fields drop in this order: the world before the universe, whose drop finalises MPI.
    outgoing: Vec<PendingBuffer>,
    incoming: VecDeque<IncomingMessage>,
    world: SimpleCommunicator,
    library: CommLibrary,
    universe: Universe,
    main_thread_only: PhantomData<*mut ()>,
}

/// A buffer that MPI reads or writes until its request is done.
struct PendingBuffer {
    /// `None` only while the request is being tested.
    request: Option<Request<'static, [u8], StaticScope>>,
    buffer: *mut [u8],
}

struct IncomingMessage {
    from: usize,
    tag: MpiTag,
    pending: PendingBuffer,
    /// The message, once it has been received completely.
    bytes: Option<Vec<u8>>,
}

impl MpiComm {
    /// Starts MPI and checks that its world is the job that was launched.
    pub(super) fn start_mpi(launcher: &LauncherInfo) -> Result<Self, CommError> {
        let name = library_name();
        launcher.check_library(&name).map_err(CommError::LauncherMismatch)?;
        let Some((universe, thread_level)) = mpi::initialize_with_threading(Threading::Funneled)
        else {
            return Err(CommError::MpiStart("it was already started in this process".into()));
        };
        let world = universe.world();
        let library = CommLibrary { name, threads: format!("{thread_level:?}").to_lowercase() };
        let mut comm = Self {
            outgoing: Vec::new(),
            incoming: VecDeque::new(),
            world,
            library,
            universe,
            main_thread_only: PhantomData,
        };
        if let Err(reason) = launcher.check_world_size(comm.size(), &comm.library.name) {
            // Finalisation, which follows the error, spins: the ranks sleep here until all have arrived.
            comm.barrier();
            return Err(CommError::LauncherMismatch(reason));
        }
        if thread_level < Threading::Funneled {
            return Err(CommError::MpiStart(format!(
                "{} does not support threads beside its own (MPI_THREAD_FUNNELED)",
                comm.library.name
            )));
        }
        Ok(comm)
    }

    /// Waits for an operation whose other ranks may arrive much later.
    fn wait_for_ranks<'a, D: ?Sized, S: Scope<'a>>(request: Request<'a, D, S>) {
        Self::wait_with(PollBackoff::for_long_wait(), request);
    }

    /// Waits for a transfer that all ranks are ready for.
    fn wait_for_transfer<'a, D: ?Sized, S: Scope<'a>>(request: Request<'a, D, S>) {
        Self::wait_with(PollBackoff::for_transfer(), request);
    }

    fn wait_with<'a, D: ?Sized, S: Scope<'a>>(
        mut backoff: PollBackoff,
        mut request: Request<'a, D, S>,
    ) {
        loop {
            for poll in 0..backoff.polls_per_sleep() {
                match request.test() {
                    Ok(_) => return,
                    Err(pending) => request = pending,
                }
                if poll > 0 {
                    std::thread::yield_now();
                }
            }
            backoff.sleep_next();
        }
    }

    /// Broadcasts from rank 0. `backoff` depends on whether the other ranks may arrive later or are known to have
    /// arrived.
    fn broadcast_from_0<T: Equivalence>(&self, backoff: PollBackoff, values: &mut [T]) {
        let root = self.world.process_at_rank(0);
        mpi::request::scope(|scope| {
            Self::wait_with(backoff, root.immediate_broadcast_into(scope, values));
        });
    }

    /// Receives arrived messages and releases the buffers of sent ones.
    fn poll_messages(&mut self) {
        self.outgoing.retain_mut(|pending| pending.take_if_done().is_none());
        while let Some((message, status)) = self.world.any_process().immediate_matched_probe() {
            let count = status.count(u8::equivalent_datatype());
            let buffer =
                Box::into_raw(vec![0; usize::try_from(count).unwrap_or(0)].into_boxed_slice());
            // SAFETY: the box was leaked just now and is taken back only when the request is done.
            let bytes: &'static mut [u8] = unsafe { &mut *buffer };
            let request = message.immediate_matched_receive_into(StaticScope, bytes);
            self.incoming.push_back(IncomingMessage {
                from: usize::try_from(status.source_rank()).unwrap_or(0),
                tag: status.tag(),
                pending: PendingBuffer { request: Some(request), buffer },
                bytes: None,
            });
        }
        for message in &mut self.incoming {
            if message.bytes.is_none() {
                message.bytes = message.pending.take_if_done();
            }
        }
    }
}

impl PendingBuffer {
    /// Returns the buffer once MPI is done with it.
    fn take_if_done(&mut self) -> Option<Vec<u8>> {
        match self.request.take()?.test() {
            // SAFETY: leaked by Box::into_raw when the request was made, which is over; `request` stays None, so this
            // happens once.
            Ok(_) => Some(unsafe { Box::from_raw(self.buffer) }.into_vec()),
            Err(request) => {
                self.request = Some(request);
                None
            }
        }
    }
}

impl Drop for PendingBuffer {
    fn drop(&mut self) {
        // An unfinished request panics when dropped, and its buffer still belongs to MPI: both are leaked until the
        // process ends.
        std::mem::forget(self.request.take());
    }
}

impl Comm for MpiComm {
    fn rank(&self) -> usize {
        usize::try_from(self.world.rank()).unwrap_or(0)
    }

    fn size(&self) -> usize {
        usize::try_from(self.world.size()).unwrap_or(1)
    }

    fn library_info(&self) -> CommLibrary {
        self.library.clone()
    }

    fn barrier(&mut self) {
        Self::wait_for_ranks(self.world.immediate_barrier());
    }

    fn broadcast_bytes(&mut self, bytes: &mut Vec<u8>) {
        let mut length = [bytes.len() as u64];
        self.broadcast_from_0(PollBackoff::for_long_wait(), &mut length[..]);
        bytes.resize(usize::try_from(length[0]).unwrap_or(usize::MAX), 0);
        for piece in bytes.chunks_mut(MAX_CHUNK_BYTES) {
            self.broadcast_from_0(PollBackoff::for_transfer(), piece);
        }
    }

    fn scatter_bytes(&mut self, parts: Option<Vec<Vec<u8>>>) -> Result<Vec<u8>, CommError> {
        let (rank, size) = (self.rank(), self.size());
        let given = parts.as_ref().map_or(0, Vec::len);
        let mut plan = [given as u64, 0];
        if let Some(parts) = &parts {
            plan[1] = parts.iter().map(Vec::len).max().unwrap_or(0) as u64;
        }
        self.broadcast_from_0(PollBackoff::for_long_wait(), &mut plan[..]);
        if plan[0] != size as u64 {
            return Err(CommError::WrongPartCount {
                parts: usize::try_from(plan[0]).unwrap_or(0),
                size,
            });
        }
        let quota = (MAX_CHUNK_BYTES / size).max(1);
        let parts = parts.unwrap_or_default();
        let mut mine = Vec::new();
        for round in 0..usize::try_from(plan[1]).unwrap_or(0).div_ceil(quota) {
            let piece = |part: &[u8]| {
                let from = (round * quota).min(part.len());
                part[from..part.len().min(from + quota)].to_vec()
            };
            let pieces: Vec<_> = parts.iter().map(|part| piece(part)).collect();
            self.scatter_round(&pieces, rank == 0, &mut mine);
        }
        Ok(mine)
    }

    fn gather_bytes(&mut self, mine: &[u8], into: &mut RankParts) {
        let mine = non_dangling(mine);
        into.bytes.clear();
        into.bytes.reserve(1); // a real address, see `non_dangling`
        into.counts.clear();
        let count = [mpi_count(mine.len())];
        let root = self.world.process_at_rank(0);
        if self.rank() != 0 {
            mpi::request::scope(|scope| {
                Self::wait_for_ranks(root.immediate_gather_into(scope, &count[..]));
                Self::wait_for_transfer(root.immediate_gather_varcount_into(scope, mine));
            });
            return;
        }
        let mut counts = vec![0; self.size()];
        mpi::request::scope(|scope| {
            Self::wait_for_ranks(root.immediate_gather_into_root(
                scope,
                &count[..],
                &mut counts[..],
            ));
        });
        into.counts.extend(counts.iter().map(|&count| usize::try_from(count).unwrap_or(0)));
        into.bytes.resize(into.counts.iter().sum(), 0);
        let starts = displacements_of(&counts);
        let mut partition = PartitionMut::new(&mut into.bytes[..], counts, starts);
        mpi::request::scope(|scope| {
            Self::wait_for_transfer(root.immediate_gather_varcount_into_root(
                scope,
                mine,
                &mut partition,
            ));
        });
    }

    fn all_to_all_bytes(&mut self, mine: &RankParts, into: &mut RankParts) {
        let sent_counts: Vec<Count> = mine.counts.iter().map(|&count| mpi_count(count)).collect();
        let mut received = vec![0; self.size()];
        mpi::request::scope(|scope| {
            Self::wait_for_ranks(self.world.immediate_all_to_all_into(
                scope,
                &sent_counts[..],
                &mut received[..],
            ));
        });
        into.clear();
        into.bytes.reserve(1); // a real address, see `non_dangling`
        into.counts.extend(received.iter().map(|&count| usize::try_from(count).unwrap_or(0)));
        into.bytes.resize(into.counts.iter().sum(), 0);
        let bytes = non_dangling(&mine.bytes);
        let (from, to) = (displacements_of(&sent_counts), displacements_of(&received));
        let mine = Partition::new(bytes, sent_counts, from);
        let mut partition = PartitionMut::new(&mut into.bytes[..], received, to);
        mpi::request::scope(|scope| {
            let request =
                self.world.immediate_all_to_all_varcount_into(scope, &mine, &mut partition);
            Self::wait_for_transfer(request);
        });
    }

    fn all_reduce(&mut self, values: &mut [u64], op: ReduceOp) {
        let operation = match op {
            ReduceOp::Sum => SystemOperation::sum(),
            ReduceOp::Max => SystemOperation::max(),
            ReduceOp::Min => SystemOperation::min(),
            ReduceOp::Or => SystemOperation::bitwise_or(),
        };
        // The first value waits for the ranks to arrive. The rest transfers at once, in many small steps of MPI's own,
        // and a long sleep for each of those took seconds per megabyte.
        let (first, rest) = values.split_at_mut(values.len().min(1));
        let first = first.chunks_mut(1).map(|piece| (piece, PollBackoff::for_long_wait()));
        let rest = rest
            .chunks_mut(MAX_CHUNK_BYTES / size_of::<u64>())
            .map(|piece| (piece, PollBackoff::for_transfer()));
        for (piece, backoff) in first.chain(rest) {
            let mine = piece.to_vec();
            mpi::request::scope(|scope| {
                let request =
                    self.world.immediate_all_reduce_into(scope, &mine[..], piece, operation);
                Self::wait_with(backoff, request);
            });
        }
    }

    fn send_bytes(&mut self, to: usize, tag: MessageTag, bytes: Vec<u8>) -> Result<(), CommError> {
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(CommError::TooLarge { what: "a message", bytes: bytes.len() });
        }
        let size = self.size();
        let Some(process) = i32::try_from(to).ok().filter(|_| to < size) else {
            return Err(CommError::NoSuchRank { rank: to, size });
        };
        let buffer = Box::into_raw(bytes.into_boxed_slice());
        // SAFETY: the box was leaked just now and is taken back only when the request is done.
        let kept: &'static [u8] = unsafe { &*buffer };
        let request = self.world.process_at_rank(process).immediate_send_with_tag(
            StaticScope,
            kept,
            mpi_tag(tag),
        );
        self.outgoing.push(PendingBuffer { request: Some(request), buffer });
        self.poll_messages();
        Ok(())
    }

    fn try_receive(&mut self, from: Option<usize>, tag: MessageTag) -> Option<RankMessage> {
        self.poll_messages();
        let tag = mpi_tag(tag);
        let wanted =
            |it: &IncomingMessage| it.tag == tag && from.is_none_or(|from| it.from == from);
        // Large messages are slower than small ones: a complete message must not overtake an earlier one of its sender.
        let position = self.incoming.iter().enumerate().position(|(position, it)| {
            let earlier = |other: &IncomingMessage| other.from == it.from && other.tag == tag;
            wanted(it) && it.bytes.is_some() && !self.incoming.iter().take(position).any(earlier)
        })?;
        let mut message = self.incoming.remove(position)?;
        Some(RankMessage { from: message.from, bytes: message.bytes.take()? })
    }

    fn pending_messages(&mut self) -> usize {
        self.poll_messages();
        self.outgoing.len() + self.incoming.iter().filter(|it| it.bytes.is_none()).count()
    }

    fn abort(&self, code: u8) -> ! {
        std::thread::sleep(ABORT_FLUSH_DELAY);
        self.world.abort(i32::from(code))
    }

    fn finalize(mut self: Box<Self>) {
        let mut backoff = PollBackoff::for_long_wait();
        while self.pending_messages() > 0 {
            backoff.sleep_next();
        }
        self.barrier();
        let Self { world, universe, .. } = *self;
        drop(world);
        drop(universe);
    }
}

impl MpiComm {
    fn scatter_round(&self, pieces: &[Vec<u8>], root: bool, mine: &mut Vec<u8>) {
        let process = self.world.process_at_rank(0);
        let counts: Vec<Count> = pieces.iter().map(|piece| mpi_count(piece.len())).collect();
        let mut count = [0 as Count];
        mpi::request::scope(|scope| {
            Self::wait_for_ranks(if root {
                process.immediate_scatter_into_root(scope, &counts[..], &mut count[..])
            } else {
                process.immediate_scatter_into(scope, &mut count[..])
            });
        });
        let old = mine.len();
        mine.resize(old + usize::try_from(count[0]).unwrap_or(0), 0);
        mine.reserve(1); // a real address, see `non_dangling`
        let mut bytes = pieces.concat();
        bytes.reserve(1);
        let starts = displacements_of(&counts);
        let partition = Partition::new(&bytes[..], counts, starts);
        mpi::request::scope(|scope| {
            Self::wait_for_transfer(if root {
                process.immediate_scatter_varcount_into_root(scope, &partition, &mut mine[old..])
            } else {
                process.immediate_scatter_varcount_into(scope, &mut mine[old..])
            });
        });
    }
}

/// MPI_Abort may overtake output printed just before it: the launcher gets a moment to forward that.
const ABORT_FLUSH_DELAY: std::time::Duration = std::time::Duration::from_millis(200);
/// Size limit of a message: MPI counts are C ints.
const MAX_MESSAGE_BYTES: usize = i32::MAX as usize;
/// Size limit of a chunk of a collective: below MPI's 2 GiB, and acceptable as one buffer.
const MAX_CHUNK_BYTES: usize = 64 << 20;

/// Local. Ends the whole job if MPI is running in this process; called from any thread, by the panic hook.
pub(super) fn abort_if_running(code: u8) {
    if mpi::is_initialized() && !mpi::is_finalized() {
        std::thread::sleep(ABORT_FLUSH_DELAY);
        // SAFETY: MPI is initialised. A call from a thread other than MPI's own is outside the standard and the last
        // resort: it works on MPICH and Open MPI, and the alternative is a job that hangs.
        unsafe { mpi::ffi::MPI_Abort(mpi::ffi::RSMPI_COMM_WORLD, i32::from(code)) };
    }
}

/// Returns the first line of the library's version string, which is available before MPI starts.
fn library_name() -> String {
    let version = mpi::environment::library_version().unwrap_or_default();
    let line = version.trim_matches('\0').lines().next().unwrap_or_default();
    let words: Vec<_> = line.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
    // MPICH says "MPICH Version:      4.3.2", Open MPI "Open MPI v5.0.11, package: …".
    let name = words.join(" ").replace("Version: ", "");
    name.split(',').next().unwrap_or_default().to_owned()
}

fn mpi_tag(tag: MessageTag) -> MpiTag {
    match tag {
        MessageTag::Liveness => 1,
        MessageTag::TreeReduce => 2,
        MessageTag::Job => 3,
        MessageTag::Scan => 4,
        MessageTag::LocalShards => 5,
    }
}

/// Returns an empty slice at a real address: Rust points empty slices at 1, which is Open MPI's MPI_IN_PLACE.
fn non_dangling(bytes: &[u8]) -> &[u8] {
    static NOWHERE: [u8; 1] = [0];
    if bytes.is_empty() { &NOWHERE[..0] } else { bytes }
}
