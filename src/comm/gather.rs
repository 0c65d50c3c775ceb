//! Gather of more bytes than one MPI message can carry: in rounds, through one reused buffer.

use super::{Comm, RankParts, ReduceOp};

/// Collective. Passes every rank's bytes to rank 0's `sink` in pieces, with the rank they came from. The pieces of
/// one rank arrive in order. Rank 0 holds no more than about `round` bytes at a time, however large the whole.
pub fn gather_in_rounds<C: Comm + ?Sized>(
    comm: &mut C,
    mine: &[u8],
    round: usize,
    mut sink: impl FnMut(usize, &[u8]),
) {
    let quota = (round / comm.size()).max(1);
    // All ranks must make the same number of collective calls, so the largest part decides.
    let mut rounds = [mine.len().div_ceil(quota) as u64];
    comm.all_reduce(&mut rounds, ReduceOp::Max);
    let mut gathered = RankParts::default();
    let mut rest = mine;
    for _ in 0..rounds[0] {
        let (piece, tail) = rest.split_at(quota.min(rest.len()));
        rest = tail;
        comm.gather_bytes(piece, &mut gathered);
        for (rank, part) in gathered.parts().enumerate() {
            if !part.is_empty() {
                sink(rank, part);
            }
        }
    }
}
