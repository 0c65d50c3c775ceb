//! Counts and displacements of MPI's variable-count collectives, which are C ints: pure arithmetic.
//!
//! The calls that take them are in `mpi.rs`; the limit of a round that keeps them small is the callers'.

const LIMIT_KEPT: &str = "callers keep a round below 2 GiB, as Comm::gather_bytes asks";

pub(super) fn mpi_count(bytes: usize) -> i32 {
    i32::try_from(bytes).expect(LIMIT_KEPT)
}

/// Returns the start of each part in a buffer that holds the parts without gaps.
pub(super) fn displacements_of(counts: &[i32]) -> Vec<i32> {
    let mut next = 0_i32;
    let mut start = |count: i32| {
        let this = next;
        next = next.checked_add(count).expect(LIMIT_KEPT);
        this
    };
    counts.iter().map(|&count| start(count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_each_other_without_gaps() {
        assert_eq!(displacements_of(&[3, 0, 2]), [0, 3, 3]);
        assert!(displacements_of(&[]).is_empty());
    }
}
