//! Exchanging more than one MPI message can carry: in rounds, through one buffer.

use super::{Comm, RankParts, ReduceOp};

/// Collective. Each of `parts`, one a rank in rank order, goes to its rank; what each rank sent to this one is handed to
/// `sink` in pieces, each with the rank it is from; a rank's pieces come in order. No rank sends or gets more than about
/// `round` bytes at a time, however large the whole.
pub fn all_to_all_in_rounds<C: Comm + ?Sized>(
    comm: &mut C,
    parts: &[Vec<u8>],
    round: usize,
    mut sink: impl FnMut(usize, &[u8]),
) {
    let size = comm.size();
    let quota = (round / size).max(1);
    let mut rounds =
        [parts.iter().map(|part| part.len().div_ceil(quota) as u64).max().unwrap_or(0)];
    comm.all_reduce(&mut rounds, ReduceOp::Max);
    let (mut mine, mut got) = (RankParts::default(), RankParts::default());
    for number in 0..usize::try_from(rounds[0]).unwrap_or(usize::MAX) {
        mine.clear();
        for rank in 0..size {
            let part = parts.get(rank).map_or(&[][..], Vec::as_slice);
            let from = number.saturating_mul(quota).min(part.len());
            mine.push_part(&part[from..part.len().min(from + quota)]);
        }
        comm.all_to_all_bytes(&mine, &mut got);
        for (rank, piece) in got.parts().enumerate().filter(|(_, piece)| !piece.is_empty()) {
            sink(rank, piece);
        }
    }
}
