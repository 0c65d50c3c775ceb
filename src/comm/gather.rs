//! Gathering more than one MPI message can carry: in rounds, through one buffer.

use super::{Comm, RankParts, ReduceOp};

/// Collective. Every rank's bytes go to rank 0's `sink` in pieces, each with the rank it is from; a rank's pieces come in
/// order. No more than about `round` bytes are at rank 0 at a time, however large the whole.
pub fn gather_in_rounds<C: Comm + ?Sized>(
    comm: &mut C,
    mine: &[u8],
    round: usize,
    mut sink: impl FnMut(usize, &[u8]),
) {
    let quota = (round / comm.size()).max(1);
    let mut rounds = [mine.len().div_ceil(quota) as u64];
    comm.all_reduce(&mut rounds, ReduceOp::Max);
    let mut gathered = RankParts::default();
    let mut rest = mine;
    for _ in 0..rounds[0] {
        let (piece, tail) = rest.split_at(quota.min(rest.len()));
        rest = tail;
        comm.gather(piece, &mut gathered);
        for (rank, part) in gathered.parts().enumerate() {
            if !part.is_empty() {
                sink(rank, part);
            }
        }
    }
}
