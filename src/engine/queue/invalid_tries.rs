//! What is remembered of a prompt's answers that were not valid or lacked sequences, until it has an outcome: pure.
//!
//! Owns the counts, the sequences that were valid all the same, and the messages that ask the model again. What follows
//! from an invalid answer is decided in `scheduler::invalid_answer`, what from a missing sequence in
//! `scheduler::sequences`.

use crate::domain::{AnswerChoice, InvalidAnswers, PromptAnswer};

/// The answers to a prompt so far, none of them valid as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct InvalidTries {
    answers: InvalidAnswers,
    /// Valid sequences, of a prompt with several: they are kept, and only the others are asked for again.
    valid_choices: Vec<AnswerChoice>,
    valid_tokens: u64,
    /// Whether the prompt's sequences are asked for one by one.
    is_collecting: bool,
    follow_up: Option<FollowUp>,
}

/// The two messages that continue a conversation after an invalid answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FollowUp {
    /// The answer as it was, or its beginning.
    pub(crate) answer: String,
    /// The reason, and what is asked for.
    pub(crate) message: String,
}

impl InvalidTries {
    /// Records an answer; `is_valid` says of each sequence whether it is valid.
    pub(crate) fn record_answer(
        &mut self,
        answer: PromptAnswer,
        is_valid: &[bool],
        first_reason: &str,
    ) {
        let invalid_count = is_valid.iter().filter(|&&is_valid| !is_valid).count() as u64;
        let tokens = answer.usage.map_or(0, |usage| usage.completion_tokens);
        let invalid_tokens = tokens * invalid_count / (is_valid.len() as u64).max(1);
        if self.answers.count == 0 {
            self.answers.first_reason = first_reason.to_owned();
        }
        self.answers.count += 1;
        self.answers.completion_tokens += invalid_tokens;
        let before = self.valid_choices.clone();
        let before_is_empty = before.is_empty();
        let choices = answer.choices.iter().zip(is_valid);
        let valid = choices.filter(|(_, is_valid)| **is_valid).map(|(choice, _)| choice.clone());
        self.valid_choices.extend(valid);
        self.valid_tokens += tokens - invalid_tokens;
        let choices = before.into_iter().chain(answer.choices).collect();
        let body = answer.body.filter(|_| before_is_empty);
        self.answers.last = Some(PromptAnswer { choices, body, ..answer });
    }

    /// Keeps the sequences of an answer that has fewer than were asked for.
    pub(crate) fn record_sequences(&mut self, answer: PromptAnswer) {
        self.valid_tokens += answer.usage.map_or(0, |usage| usage.completion_tokens);
        self.valid_choices.extend(answer.choices);
        self.is_collecting = true;
    }

    /// Returns whether the prompt's sequences are asked for one by one.
    pub(crate) fn is_collecting(&self) -> bool {
        self.is_collecting
    }

    /// Returns the number of answers that were not valid so far.
    pub(crate) fn count(&self) -> u32 {
        self.answers.count
    }

    /// Returns the number of sequences that are valid.
    pub(crate) fn valid_count(&self) -> usize {
        self.valid_choices.len()
    }

    pub(crate) fn follow_up(&self) -> Option<&FollowUp> {
        self.follow_up.as_ref()
    }

    pub(crate) fn set_follow_up(&mut self, follow_up: Option<FollowUp>) {
        self.follow_up = follow_up;
    }

    /// Adds the sequences that were valid before to the answer that completes them, and returns the counts.
    pub(crate) fn complete(mut self, answer: &mut PromptAnswer) -> InvalidAnswers {
        if !self.valid_choices.is_empty() {
            self.valid_choices.append(&mut answer.choices);
            answer.choices = self.valid_choices;
            answer.body = None; // no reply of the server has all of them
        }
        if let Some(usage) = &mut answer.usage {
            usage.completion_tokens += self.valid_tokens;
        }
        self.answers.last = None;
        self.answers
    }

    /// Returns the counts and the last answer of a prompt that has failed.
    pub(crate) fn into_failed(self) -> InvalidAnswers {
        self.answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::TokenUsage;

    fn answer_of(texts: &[&str], tokens: u64) -> PromptAnswer {
        let choice = |text: &&str| AnswerChoice { text: (*text).into(), ..AnswerChoice::default() };
        let usage =
            TokenUsage { prompt_tokens: 1, completion_tokens: tokens, ..TokenUsage::default() };
        PromptAnswer {
            choices: texts.iter().map(choice).collect(),
            usage: Some(usage),
            ..PromptAnswer::default()
        }
    }

    fn texts(answer: &PromptAnswer) -> Vec<&str> {
        answer.choices.iter().map(|choice| choice.text.as_str()).collect()
    }

    #[test]
    fn valid_sequences_are_kept_and_their_tokens_are_not_lost() {
        let mut tries = InvalidTries::default();
        let is_valid = [true, false, true, false];
        tries.record_answer(answer_of(&["a", "x", "b", "y"], 40), &is_valid, "bad");
        assert_eq!((tries.count(), tries.valid_count()), (1, 2));
        tries.record_answer(answer_of(&["c", "z"], 20), &[true, false], "no");
        assert_eq!((tries.count(), tries.valid_count()), (2, 3));
        let last = tries.clone().into_failed().last.expect("the last answer");
        assert_eq!(texts(&last), ["a", "b", "c", "z"], "valid ones before, then the last reply's");
        let mut answer = answer_of(&["d"], 10);
        let counts = tries.complete(&mut answer);
        assert_eq!(texts(&answer), ["a", "b", "c", "d"]);
        assert_eq!(answer.usage.expect("counted").completion_tokens, 40);
        assert_eq!((counts.count, counts.completion_tokens), (2, 30));
        assert_eq!((counts.first_reason.as_str(), counts.last), ("bad", None));
    }
}
