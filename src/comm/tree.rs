//! The reduction tree: pure arithmetic over rank and size.
//!
//! A binomial tree: its depth is log2(size), and the subtree of each rank is a contiguous range of ranks, so that
//! merging child after child merges in rank order.

/// Returns the ranks whose values `rank` merges, in the order of merging.
pub(super) fn child_ranks(rank: usize, size: usize) -> impl Iterator<Item = usize> {
    let bits = if rank == 0 { usize::BITS } else { rank.trailing_zeros() };
    (0..bits).map_while(move |bit| {
        let child = rank.checked_add(1usize.checked_shl(bit)?)?;
        (child < size).then_some(child)
    })
}

/// Returns the rank that merges the value of `rank`; `None` for rank 0.
pub(super) fn parent_rank(rank: usize) -> Option<usize> {
    (rank != 0).then(|| rank & (rank - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn preorder_ranks(rank: usize, size: usize) -> Vec<usize> {
        let mut ranks = vec![rank];
        for child in child_ranks(rank, size) {
            ranks.extend(preorder_ranks(child, size));
        }
        ranks
    }

    proptest! {
        #[test]
        fn every_rank_is_merged_once_and_in_order(size in 1usize..300) {
            prop_assert_eq!(preorder_ranks(0, size), (0..size).collect::<Vec<_>>());
        }

        #[test]
        fn parents_and_children_agree(size in 1usize..300) {
            for rank in 0..size {
                for child in child_ranks(rank, size) {
                    prop_assert_eq!(parent_rank(child), Some(rank));
                }
            }
        }

        #[test]
        fn the_depth_of_the_tree_is_logarithmic(size in 1usize..5000) {
            for rank in 0..size {
                let depth = std::iter::successors(Some(rank), |&r| parent_rank(r)).count() - 1;
                prop_assert!(depth <= (usize::BITS - size.leading_zeros()) as usize);
            }
        }
    }
}
