//! Which answer was given most often.
//!
//! Answers are one where they are without white space around and with letters of one case; what is shown is how the first
//! of them in the input was written. Ties go to the answer that was first.
//!
//! Memory: a vote's answers are few and short. Of a million different ones, the shortest are counted ([`Room`]: 100,000 of
//! them, 16 MB in all) and the votes for all longer ones are told as `others`. What is counted is counted exactly, on any
//! number of ranks: an answer that one rank leaves out, because it has too many shorter ones, all of them together have to
//! leave out as well. `certain` says whether one of the others could have won.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, btree_map::Entry},
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    FIRST, extract,
    observed::{FirstExamples, ObservedCounts, Place, Seen, id},
};
use crate::domain::Merge;

/// The answers with the most votes that are listed.
const MAX_LISTED_ANSWERS: usize = 100;

/// Votes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MajorityVote {
    at: Option<String>,
    counted: ObservedCounts,
    unreadable: FirstExamples,
    /// All of them, also those for answers that are not kept.
    votes: u64,
    /// Shortest first.
    candidates: BTreeMap<(usize, String), CandidateVotes>,
    /// Of what is kept.
    bytes: usize,
    capacity: VoteCapacity,
}

/// How many different answers are kept.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct VoteCapacity {
    answers: usize,
    bytes: usize,
}

const VOTE_CAPACITY: VoteCapacity = VoteCapacity { answers: 100_000, bytes: 16 << 20 };

#[derive(Clone, Debug, Serialize, Deserialize)]
struct CandidateVotes {
    votes: u64,
    first: Place,
    id: String,
    /// As the first of them wrote it.
    written: String,
}

impl MajorityVote {
    /// No votes yet. With a JSON pointer, what stands there in an answer is what it votes for.
    #[must_use]
    pub fn new(at: Option<String>) -> Self {
        Self {
            at,
            counted: ObservedCounts::default(),
            unreadable: FirstExamples::of(FIRST),
            votes: 0,
            candidates: BTreeMap::new(),
            bytes: 0,
            capacity: VOTE_CAPACITY,
        }
    }

    /// One answer's vote. Failed and blank ones have none.
    pub fn add_answer(&mut self, seen: &Seen<'_>) {
        let Some(text) = self.counted.text(seen) else { return };
        let written = match extract::text_at_pointer(text, self.at.as_deref()) {
            Ok(written) => written,
            Err(why) => return self.unreadable.add(seen, || why),
        };
        self.votes += 1;
        let same = written.to_lowercase();
        let its = CandidateVotes { votes: 1, first: seen.place, id: seen.id.into(), written };
        self.put((same.len(), same), its);
        self.cut();
    }

    fn put(&mut self, key: (usize, String), votes: CandidateVotes) {
        match self.candidates.entry(key) {
            Entry::Occupied(mut mine) => {
                let mine = mine.get_mut();
                mine.votes += votes.votes;
                if votes.first < mine.first {
                    *mine = CandidateVotes { votes: mine.votes, ..votes };
                }
            }
            Entry::Vacant(place) => {
                self.bytes += place.key().0;
                place.insert(votes);
            }
        }
    }

    fn cut(&mut self) {
        while self.candidates.len() > self.capacity.answers || self.bytes > self.capacity.bytes {
            let Some(((length, _), _)) = self.candidates.pop_last() else { return };
            self.bytes -= length;
        }
    }

    /// The winner, the shares, and what had no vote.
    #[must_use]
    pub fn finish(&self) -> Value {
        let mut by_votes: Vec<&CandidateVotes> = self.candidates.values().collect();
        by_votes.sort_by_key(|it| (Reverse(it.votes), it.first));
        let others = self.votes - by_votes.iter().map(|it| it.votes).sum::<u64>();
        let share = |votes: u64| votes as f64 / self.votes.max(1) as f64;
        let shown = |it: &&CandidateVotes| {
            json!({
                "answer": it.written, "votes": it.votes, "fraction": share(it.votes),
                "first": {"id": id(&it.id), "index": it.first.index}
            })
        };
        let winner = by_votes.first();
        let most = winner.map_or(0, |it| it.votes);
        let tied = by_votes.iter().skip(1).take_while(|it| it.votes == most);
        let mut finished = self.counted.finish();
        finished["winner"] = winner.map(|it| it.written.as_str()).into();
        finished["votes"] = most.into();
        finished["fraction"] = share(most).into();
        finished["of"] = self.votes.into();
        finished["tied"] = tied.count().into();
        finished["certain"] = (others < most || others == 0).into();
        finished["different"] = by_votes.len().into();
        finished["others"] = others.into();
        if self.at.is_some() {
            finished["unreadable"] = self.unreadable.finish();
        }
        finished["answers"] =
            by_votes.iter().take(MAX_LISTED_ANSWERS).map(shown).collect::<Vec<_>>().into();
        finished
    }
}

impl Merge for MajorityVote {
    fn merge(&mut self, other: Self) {
        self.counted.merge(other.counted);
        self.unreadable.merge(other.unreadable);
        self.votes += other.votes;
        other.candidates.into_iter().for_each(|(key, votes)| self.put(key, votes));
        self.cut();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::aggregate::tests::{answer, failure};

    fn of<'a>(texts: impl IntoIterator<Item = (u64, &'a str)>, room: VoteCapacity) -> MajorityVote {
        let mut all = MajorityVote { capacity: room, ..MajorityVote::new(None) };
        texts.into_iter().for_each(|(index, text)| all.add_answer(&answer(index, text)));
        all
    }

    #[test]
    fn the_winner_is_shown_as_it_was_first_written_and_not_in_small_letters() {
        let it = of([(3, "no"), (1, " Yes\n"), (2, "YES"), (0, "No way")], VOTE_CAPACITY).finish();
        assert_eq!((&it["winner"], &it["votes"], &it["of"]), (&"Yes".into(), &2.into(), &4.into()));
        assert_eq!(it["fraction"], 0.5);
    }

    #[test]
    fn ties_go_to_the_first_in_the_input_and_are_told() {
        let it = of([(2, "b"), (1, "a"), (3, "b"), (4, "a"), (0, "c")], VOTE_CAPACITY).finish();
        assert_eq!((&it["winner"], &it["tied"]), (&"a".into(), &1.into()));
    }

    #[test]
    fn blank_and_failed_answers_have_no_vote() {
        let mut all = of([(0, ""), (1, " \n"), (2, ""), (3, "x")], VOTE_CAPACITY);
        all.add_answer(&failure(4, "too_long"));
        let it = all.finish();
        assert_eq!((&it["winner"], &it["fraction"]), (&"x".into(), &1.0.into()));
        assert_eq!((&it["blank"], &it["failed"]), (&3.into(), &1.into()));
    }

    #[test]
    fn where_all_answers_failed_nobody_wins() {
        let mut all = MajorityVote::new(None);
        all.add_answer(&failure(0, "refused"));
        let it = all.finish();
        assert!(it["winner"].is_null());
        assert_eq!((&it["votes"], &it["fraction"]), (&0.into(), &0.0.into()));
    }

    #[test]
    fn a_vote_may_stand_in_json() {
        let mut all = MajorityVote::new(Some("/answer".into()));
        for (index, text) in
            [(0, "{\"answer\": \"A\"}"), (1, "```json\n{\"answer\":\"a \"}\n```"), (2, "A")]
        {
            all.add_answer(&answer(index, text));
        }
        let it = all.finish();
        assert_eq!((&it["winner"], &it["votes"]), (&"A".into(), &2.into()));
        assert_eq!(it["unreadable"]["first"][0]["index"], 2);
    }

    #[test]
    fn among_too_many_different_answers_the_short_ones_are_counted() {
        let room = VoteCapacity { answers: 2, bytes: 100 };
        let it =
            of([(0, "a long one"), (1, "no"), (2, "no"), (3, "yes"), (4, "longer")], room).finish();
        assert_eq!(
            (&it["winner"], &it["votes"], &it["others"]),
            (&"no".into(), &2.into(), &2.into())
        );
        assert_eq!(it["certain"], false);
        let long = "x".repeat(101);
        let it = of([(0, long.as_str()), (1, "no"), (2, "no")], room).finish();
        assert_eq!(
            (&it["winner"], &it["others"], &it["certain"]),
            (&"no".into(), &1.into(), &true.into())
        );
    }

    proptest! {
        #[test]
        fn merged_parts_equal_one_pass_at_any_capacity(
            texts in prop::collection::vec("[a-cA-C]{0,4}", 0..60), answers in 0usize..12, bytes in 0usize..40, cuts in prop::collection::vec(0usize..60, 0..4),
        ) {
            let room = VoteCapacity { answers, bytes };
            let all: Vec<(u64, &str)> = (0..).zip(texts.iter().map(String::as_str)).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|it| it.min(all.len())).chain([0, all.len()]).collect();
            cuts.sort_unstable();
            let merged = cuts.windows(2).rev().map(|cut| of(all[cut[0]..cut[1]].iter().copied(), room)).reduce(|mut one, other| {
                one.merge(other);
                one
            });
            prop_assert_eq!(merged.map(|it| it.finish()), Some(of(all, room).finish()));
        }
    }
}
