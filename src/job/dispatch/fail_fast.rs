//! Is the job itself wrong? What rank 0 makes of ranks whose first outcomes are all the same failure.
//!
//! Owns that decision. What is held back meanwhile, and that nothing is sent, is the engines' affair.

use super::{
    coordinator::{Heard, Listener},
    protocol::Message,
};

/// So many first outcomes of all ranks that are the same failure mean that the job is wrong.
pub(crate) const ALIKE: usize = 100;

impl Listener<'_, '_> {
    /// Ranks whose first outcomes are all the same failure wait for a word. Once anybody has answered anything, or nothing
    /// else is left to be asked, failures are the prompts' own; if all who have work say the same, and there are enough of
    /// them, the job is wrong; if there are too few, they go further.
    pub(crate) fn decide_on_alike(&mut self) {
        if self.ranks.iter().all(|rank| rank.alike.is_none()) {
            return;
        }
        self.answered |= self.ranks.iter().any(|rank| rank.progress.tally.answered > 0);
        let decided = |(place, rank): (usize, &Heard)| {
            rank.ended || rank.lost || rank.alike.is_some() || !self.book.has_work(place)
        };
        if !self.answered && !self.ranks.iter().enumerate().all(decided) {
            return;
        }
        let count: u64 = self.ranks.iter().filter_map(|rank| Some(rank.alike.as_ref()?.0)).sum();
        let wrong = !self.answered && count >= ALIKE as u64;
        let further = !self.answered && count < self.book.open();
        for rank in 0..self.ranks.len() {
            let Some((count, words, told)) = self.ranks[rank].alike.take() else { continue };
            if wrong {
                self.root.wrong.get_or_insert(words);
            } else if further {
                self.ranks[rank].alike = Some((count, words, true));
                if !told {
                    self.tell(rank, Message::Further);
                }
            } else {
                self.tell(rank, Message::GoOn);
            }
        }
        if wrong {
            self.stop("all first outcomes are the same failure");
        }
    }
}
