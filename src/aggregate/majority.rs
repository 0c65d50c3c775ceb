//! Majority vote: the answer that was given most often.
//!
//! Answers are compared trimmed and case-folded; the first of them in the input gives the spelling that is shown. Ties
//! go to the answer whose first occurrence is earlier in the input.
//!
//! Memory: bounded, since the answers of a vote are usually few and short. Beyond the capacity ([`VoteCapacity`]:
//! 100,000 answers, 16 MB in all) the longest distinct answers are evicted, and their votes are pooled as `others`. The
//! counts of the remaining answers are exact on any number of ranks: an answer that one rank evicts, because it has too
//! many shorter ones, is also evicted from the merged vote. `certain` is false if an evicted answer could have won.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, btree_map::Entry},
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    EXAMPLE_LIMIT, extract,
    observed::{AnswerPosition, FirstExamples, ObservedAnswer, ObservedCounts, id_to_json},
};
use crate::domain::Merge;

/// Number of answers in the result, those with the most votes.
const MAX_LISTED_ANSWERS: usize = 100;

/// Votes for each distinct answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MajorityVote {
    pointer: Option<String>,
    counts: ObservedCounts,
    unreadable: FirstExamples,
    /// All votes, including those for evicted answers.
    votes: u64,
    /// Candidates by the length and text of the folded answer, shortest first.
    candidates: BTreeMap<(usize, String), CandidateVotes>,
    /// Total length of the candidates' keys, in bytes.
    candidate_bytes: usize,
    capacity: VoteCapacity,
}

/// Limits on the distinct answers that are kept.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct VoteCapacity {
    answers: usize,
    bytes: usize,
}

const VOTE_CAPACITY: VoteCapacity = VoteCapacity { answers: 100_000, bytes: 16 << 20 };

#[derive(Clone, Debug, Serialize, Deserialize)]
struct CandidateVotes {
    votes: u64,
    first_position: AnswerPosition,
    id: String,
    /// Spelling of the candidate's first occurrence in the input.
    original_text: String,
}

impl MajorityVote {
    /// Creates a vote without answers. With a JSON pointer, an answer votes for the value at that place.
    #[must_use]
    pub fn new(at: Option<String>) -> Self {
        Self {
            pointer: at,
            counts: ObservedCounts::default(),
            unreadable: FirstExamples::with_limit(EXAMPLE_LIMIT),
            votes: 0,
            candidates: BTreeMap::new(),
            candidate_bytes: 0,
            capacity: VOTE_CAPACITY,
        }
    }

    /// Adds an answer's vote; failed and blank answers have none.
    pub fn add_answer(&mut self, answer: &ObservedAnswer<'_>) {
        let Some(text) = self.counts.count_and_trim(answer) else { return };
        let written = match extract::text_at_pointer(text, self.pointer.as_deref()) {
            Ok(written) => written,
            Err(reason) => return self.unreadable.add_example(answer, || reason),
        };
        self.votes += 1;
        let folded = written.to_lowercase();
        let vote = CandidateVotes {
            votes: 1,
            first_position: answer.position,
            id: answer.id.into(),
            original_text: written,
        };
        self.add_votes((folded.len(), folded), vote);
        self.evict_longest();
    }

    fn add_votes(&mut self, key: (usize, String), votes: CandidateVotes) {
        match self.candidates.entry(key) {
            Entry::Occupied(mut kept) => {
                let kept = kept.get_mut();
                kept.votes += votes.votes;
                if votes.first_position < kept.first_position {
                    *kept = CandidateVotes { votes: kept.votes, ..votes };
                }
            }
            Entry::Vacant(entry) => {
                self.candidate_bytes += entry.key().0;
                entry.insert(votes);
            }
        }
    }

    fn evict_longest(&mut self) {
        while self.candidates.len() > self.capacity.answers
            || self.candidate_bytes > self.capacity.bytes
        {
            let Some(((length, _), _)) = self.candidates.pop_last() else { return };
            self.candidate_bytes -= length;
        }
    }

    /// Returns the winner, the vote counts and the answers without a vote as JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut by_votes: Vec<&CandidateVotes> = self.candidates.values().collect();
        by_votes.sort_by_key(|it| (Reverse(it.votes), it.first_position));
        let others = self.votes - by_votes.iter().map(|it| it.votes).sum::<u64>();
        let share = |votes: u64| votes as f64 / self.votes.max(1) as f64;
        let to_entry = |it: &&CandidateVotes| {
            json!({
                "answer": it.original_text, "votes": it.votes, "fraction": share(it.votes),
                "first": {"id": id_to_json(&it.id), "index": it.first_position.index}
            })
        };
        let winner = by_votes.first();
        let most = winner.map_or(0, |it| it.votes);
        let tied = by_votes.iter().skip(1).take_while(|it| it.votes == most);
        let mut finished = self.counts.to_json();
        finished["winner"] = winner.map(|it| it.original_text.as_str()).into();
        finished["votes"] = most.into();
        finished["fraction"] = share(most).into();
        finished["of"] = self.votes.into();
        finished["tied"] = tied.count().into();
        finished["certain"] = (others < most || others == 0).into();
        finished["different"] = by_votes.len().into();
        finished["others"] = others.into();
        if self.pointer.is_some() {
            finished["unreadable"] = self.unreadable.to_json();
        }
        finished["answers"] =
            by_votes.iter().take(MAX_LISTED_ANSWERS).map(to_entry).collect::<Vec<_>>().into();
        finished
    }
}

impl Merge for MajorityVote {
    fn merge(&mut self, other: Self) {
        self.counts.merge(other.counts);
        self.unreadable.merge(other.unreadable);
        self.votes += other.votes;
        other.candidates.into_iter().for_each(|(key, votes)| self.add_votes(key, votes));
        self.evict_longest();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::aggregate::tests::{test_answer, test_failure};

    fn vote_on<'a>(
        texts: impl IntoIterator<Item = (u64, &'a str)>,
        room: VoteCapacity,
    ) -> MajorityVote {
        let mut all = MajorityVote { capacity: room, ..MajorityVote::new(None) };
        texts.into_iter().for_each(|(index, text)| all.add_answer(&test_answer(index, text)));
        all
    }

    #[test]
    fn the_winner_keeps_the_spelling_of_its_first_occurrence() {
        let result =
            vote_on([(3, "no"), (1, " Yes\n"), (2, "YES"), (0, "No way")], VOTE_CAPACITY).to_json();
        assert_eq!(
            (&result["winner"], &result["votes"], &result["of"]),
            (&"Yes".into(), &2.into(), &4.into())
        );
        assert_eq!(result["fraction"], 0.5);
    }

    #[test]
    fn ties_go_to_the_earlier_row_and_are_counted() {
        let result =
            vote_on([(2, "b"), (1, "a"), (3, "b"), (4, "a"), (0, "c")], VOTE_CAPACITY).to_json();
        assert_eq!((&result["winner"], &result["tied"]), (&"a".into(), &1.into()));
    }

    #[test]
    fn blank_and_failed_answers_have_no_vote() {
        let mut all = vote_on([(0, ""), (1, " \n"), (2, ""), (3, "x")], VOTE_CAPACITY);
        all.add_answer(&test_failure(4, "too_long"));
        let result = all.to_json();
        assert_eq!((&result["winner"], &result["fraction"]), (&"x".into(), &1.0.into()));
        assert_eq!((&result["blank"], &result["failed"]), (&3.into(), &1.into()));
    }

    #[test]
    fn there_is_no_winner_if_all_answers_failed() {
        let mut all = MajorityVote::new(None);
        all.add_answer(&test_failure(0, "refused"));
        let result = all.to_json();
        assert!(result["winner"].is_null());
        assert_eq!((&result["votes"], &result["fraction"]), (&0.into(), &0.0.into()));
    }

    #[test]
    fn a_vote_may_stand_in_json() {
        let mut all = MajorityVote::new(Some("/answer".into()));
        for (index, text) in
            [(0, "{\"answer\": \"A\"}"), (1, "```json\n{\"answer\":\"a \"}\n```"), (2, "A")]
        {
            all.add_answer(&test_answer(index, text));
        }
        let result = all.to_json();
        assert_eq!((&result["winner"], &result["votes"]), (&"A".into(), &2.into()));
        assert_eq!(result["unreadable"]["first"][0]["index"], 2);
    }

    #[test]
    fn beyond_the_capacity_the_shortest_answers_are_counted() {
        let room = VoteCapacity { answers: 2, bytes: 100 };
        let result =
            vote_on([(0, "a long one"), (1, "no"), (2, "no"), (3, "yes"), (4, "longer")], room)
                .to_json();
        assert_eq!(
            (&result["winner"], &result["votes"], &result["others"]),
            (&"no".into(), &2.into(), &2.into())
        );
        assert_eq!(result["certain"], false);
        let long = "x".repeat(101);
        let result = vote_on([(0, long.as_str()), (1, "no"), (2, "no")], room).to_json();
        assert_eq!(
            (&result["winner"], &result["others"], &result["certain"]),
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
            let merged = cuts.windows(2).rev().map(|cut| vote_on(all[cut[0]..cut[1]].iter().copied(), room)).reduce(|mut one, other| {
                one.merge(other);
                one
            });
            prop_assert_eq!(merged.map(|it| it.to_json()), Some(vote_on(all, room).to_json()));
        }
    }
}
