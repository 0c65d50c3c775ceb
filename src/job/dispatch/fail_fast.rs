//! Is the job itself wrong? What rank 0 makes of ranks whose first outcomes are all the same failure.
//!
//! Owns that decision. What is held back meanwhile, and that nothing is sent, is the engines' affair.

use super::{
    coordinator::{Coordinator, RankState},
    protocol::DispatchMessage,
};

/// So many first outcomes of all ranks that are the same failure mean that the job is wrong.
pub(crate) const FAIL_FAST_SAMPLE: usize = 100;

impl Coordinator<'_, '_> {
    /// Ranks whose first outcomes are all the same failure wait for a word. Once anybody has answered anything, or nothing
    /// else is left to be asked, failures are the prompts' own; if all who have work say the same, and there are enough of
    /// them, the job is wrong; if there are too few, they go further.
    pub(crate) fn decide_fail_fast(&mut self) {
        if self.ranks.iter().all(|rank| rank.uniform_failures.is_none()) {
            return;
        }
        self.any_answered |= self.ranks.iter().any(|rank| rank.progress.tally.answered > 0);
        let decided = |(place, rank): (usize, &RankState)| {
            rank.ended
                || rank.lost
                || rank.uniform_failures.is_some()
                || !self.assignments.has_work(place)
        };
        if !self.any_answered && !self.ranks.iter().enumerate().all(decided) {
            return;
        }
        let count: u64 =
            self.ranks.iter().filter_map(|rank| Some(rank.uniform_failures.as_ref()?.0)).sum();
        let wrong = !self.any_answered && count >= FAIL_FAST_SAMPLE as u64;
        let further = !self.any_answered && count < self.assignments.open_count();
        for rank in 0..self.ranks.len() {
            let Some((count, words, told)) = self.ranks[rank].uniform_failures.take() else {
                continue;
            };
            if wrong {
                self.root.fail_fast_reason.get_or_insert(words);
            } else if further {
                self.ranks[rank].uniform_failures = Some((count, words, true));
                if !told {
                    self.send_to(rank, DispatchMessage::KeepHolding);
                }
            } else {
                self.send_to(rank, DispatchMessage::Proceed);
            }
        }
        if wrong {
            self.stop_all_ranks("all first outcomes are the same failure");
        }
    }
}
