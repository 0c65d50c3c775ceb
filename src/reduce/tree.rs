//! The shape of the tree: levels, groups and leaves, and the assignment of groups to ranks.

use std::ops::Range;

/// Shape of a tree over some number of leaves, up to one root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReduceTree {
    leaf_count: u64,
    fan_in: u64,
}

impl ReduceTree {
    /// Creates a tree over `leaves` leaves with `fan_in` texts per group; a fan-in below two counts as two.
    #[must_use]
    pub(crate) fn new(leaves: u64, fan_in: u64) -> Self {
        Self { leaf_count: leaves, fan_in: fan_in.max(2) }
    }

    /// Returns the number of levels above the leaves, at least one, so that even a single leaf has a root.
    #[must_use]
    pub(crate) fn level_count(self) -> u32 {
        (1..).find(|&level| self.node_count(level) <= 1).unwrap_or(1)
    }

    /// Returns the number of nodes of a level; the nodes of level 0 are the leaves.
    #[must_use]
    pub(crate) fn node_count(self, level: u32) -> u64 {
        self.leaf_count.div_ceil(self.leaves_per_node(level))
    }

    /// Returns the nodes of the level below that a group merges.
    #[must_use]
    pub(crate) fn child_range(self, level: u32, group: u64) -> Range<u64> {
        let below = self.node_count(level.saturating_sub(1));
        let from = group.saturating_mul(self.fan_in).min(below);
        from..from.saturating_add(self.fan_in).min(below)
    }

    /// Returns the leaves under a node.
    #[must_use]
    pub(crate) fn leaf_range(self, level: u32, node: u64) -> Range<u64> {
        let from = node.saturating_mul(self.leaves_per_node(level)).min(self.leaf_count);
        from..from.saturating_add(self.leaves_per_node(level)).min(self.leaf_count)
    }

    /// Leaves under a full node of a level.
    fn leaves_per_node(self, level: u32) -> u64 {
        self.fan_in.saturating_pow(level)
    }
}

/// Returns the range of `all` items that belongs to share `number` of `shares`: contiguous, in order and as even as
/// possible. With fewer items than shares the first share is not empty.
#[must_use]
pub(crate) fn block_range(all: u64, shares: u64, number: u64) -> Range<u64> {
    let shares = u128::from(shares.max(1));
    let end = |number: u128| {
        let end = (u128::from(all) * number).div_ceil(shares);
        u64::try_from(end).unwrap_or(u64::MAX).min(all)
    };
    end(u128::from(number))..end(u128::from(number) + 1)
}

/// Returns the part of a range that belongs to round `round` of `rounds`.
#[must_use]
pub(crate) fn round_range(of: &Range<u64>, rounds: u64, round: u64) -> Range<u64> {
    let part = block_range(of.end - of.start, rounds, round);
    of.start + part.start..of.start + part.end
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_leaf_is_under_one_node_of_each_level(leaves in 1u64..3_000, fan_in in 2u64..40) {
            let tree = ReduceTree::new(leaves, fan_in);
            prop_assert_eq!(tree.node_count(tree.level_count()), 1);
            prop_assert!(tree.level_count() == 1 || tree.node_count(tree.level_count() - 1) > 1, "no superfluous level");
            for level in 1..=tree.level_count() {
                let (mut leaf, mut child) = (0, 0);
                for group in 0..tree.node_count(level) {
                    let (its, below) = (tree.leaf_range(level, group), tree.child_range(level, group));
                    prop_assert_eq!((its.start, below.start), (leaf, child));
                    prop_assert!(!below.is_empty() && below.end - below.start <= fan_in);
                    prop_assert_eq!(its.start, tree.leaf_range(level - 1, below.start).start);
                    prop_assert_eq!(its.end, tree.leaf_range(level - 1, below.end - 1).end);
                    prop_assert_eq!(its.start, group * fan_in.pow(level));
                    (leaf, child) = (its.end, below.end);
                }
                prop_assert_eq!((leaf, child), (leaves, tree.node_count(level - 1)));
            }
        }

        #[test]
        fn shares_and_rounds_cover_everything_once_and_in_order(all in 0u64..500, shares in 1u64..40, rounds in 1u64..9) {
            let mut next = 0;
            for share in 0..shares {
                let share = block_range(all, shares, share);
                prop_assert!(share.end - share.start <= all.div_ceil(shares));
                for round in 0..rounds {
                    let part = round_range(&share, rounds, round);
                    prop_assert_eq!(part.start, next);
                    next = part.end;
                }
            }
            prop_assert_eq!(next, all);
            prop_assert!(all == 0 || !block_range(all, shares, 0).is_empty());
        }
    }

    #[test]
    fn the_smallest_trees_have_a_root() {
        for (leaves, fan_in, levels) in
            [(0, 50, 1), (1, 50, 1), (2, 2, 1), (3, 2, 2), (50, 50, 1), (51, 50, 2), (5_000, 16, 4)]
        {
            assert_eq!(
                ReduceTree::new(leaves, fan_in).level_count(),
                levels,
                "{leaves} by {fan_in}"
            );
        }
        assert_eq!(ReduceTree::new(5, 1), ReduceTree::new(5, 2), "a fan-in of 1 never ends");
        let huge = ReduceTree::new(u64::MAX, 2);
        assert_eq!(huge.node_count(huge.level_count()), 1);
    }
}
