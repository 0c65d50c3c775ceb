//! All-to-all exchange of more bytes than one MPI message can carry: in rounds, through one reused buffer.

use super::{Comm, RankParts, ReduceOp};

/// Collective. Sends each of `parts` (one per rank, in rank order) to its rank, and passes the bytes received from
/// every rank to `sink` in pieces, with the rank they came from. The pieces of one rank arrive in order. No rank
/// sends or receives more than about `round` bytes at a time, however large the whole.
pub fn all_to_all_in_rounds<C: Comm + ?Sized>(
    comm: &mut C,
    parts: &[Vec<u8>],
    round: usize,
    mut sink: impl FnMut(usize, &[u8]),
) {
    let size = comm.size();
    let quota = (round / size).max(1);
    // All ranks must make the same number of collective calls, so the largest part decides.
    let mut rounds =
        [parts.iter().map(|part| part.len().div_ceil(quota) as u64).max().unwrap_or(0)];
    comm.all_reduce(&mut rounds, ReduceOp::Max);
    let (mut outgoing, mut received) = (RankParts::default(), RankParts::default());
    for round_number in 0..usize::try_from(rounds[0]).unwrap_or(usize::MAX) {
        outgoing.clear();
        for rank in 0..size {
            let part = parts.get(rank).map_or(&[][..], Vec::as_slice);
            let from = round_number.saturating_mul(quota).min(part.len());
            outgoing.push_part(&part[from..part.len().min(from + quota)]);
        }
        comm.all_to_all_bytes(&outgoing, &mut received);
        for (rank, piece) in received.parts().enumerate().filter(|(_, piece)| !piece.is_empty()) {
            sink(rank, piece);
        }
    }
}
